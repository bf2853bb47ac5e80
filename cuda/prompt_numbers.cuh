/* cuda/prompt_numbers.cuh: the product of rows of plain numbers, F32, F16 and BF16, with many columns, by tensor cores; tiles and who has what
 * of them: tile.cuh.
 *
 * Both sides are written as sums of halves, in groups of 32 along k: what the power of two of a group's greatest magnitude is taken off, a
 * half has 11 bits of it, and a second one 11 more of the rest. Activations and F32 have two, F16 and BF16 have no more bits than one
 * holds. The rest is below 2^-22 of the greatest, as the rounding of float sums is, so results are float's, not half's:
 *
 *     sum over groups of scale_w * scale_x * (w0 . x1 [+ w1 . x0] + w0 . x0)
 *
 * Tensor cores truncate what they add, so they add no more than a group; groups are added as floats, in order.
 *
 * A slab is 64 numbers: w[1 or 2][64][36 words], x[2][columns][36 words], scale_w[2][64 + 8], scale_x[2][columns + 8]. Four threads side by
 * side make a group of either. Bound: the tensor cores' halves, at a half of their rate, F32 at a third. */
#ifndef AIR_CUDA_PROMPT_NUMBERS_CUH
#define AIR_CUDA_PROMPT_NUMBERS_CUH

#include "cuda/formats/numbers.cuh"
#include "cuda/tile.cuh"

enum {
    AIR_CUDA_HALVES = 64, /* numbers of a slab */
    AIR_CUDA_HALVES_CHUNKS = AIR_CUDA_HALVES / AIR_CUDA_NUMBERS,
    AIR_CUDA_HALVES_GROUP = 32,
    AIR_CUDA_HALVES_GROUPS = AIR_CUDA_HALVES / AIR_CUDA_HALVES_GROUP,
    AIR_CUDA_STEP_WORDS = 8, /* of 16 halves, an mma's k */
};

template <class T, int COLUMNS> struct alignas(16) air_cuda_halves {
    static constexpr int TERMS = T::BYTES == 4 ? 2 : 1;
    uint32_t w[TERMS][AIR_CUDA_TILE_ROWS][AIR_CUDA_PITCH_WORDS], x[2][COLUMNS][AIR_CUDA_PITCH_WORDS];
    float scale_w[AIR_CUDA_HALVES_GROUPS][AIR_CUDA_TILE_ROWS + AIR_CUDA_APART], scale_x[AIR_CUDA_HALVES_GROUPS][COLUMNS + AIR_CUDA_APART];
};

/* The power of two that a group's numbers are multiples of up to 2, and its inverse: both normal floats, whatever the numbers. */
struct air_cuda_power {
    float power, inverse;
    __device__ __forceinline__ explicit air_cuda_power(float greatest)
    {
        int exponent = min(max(__float_as_int(greatest) >> 23, 1), 253);
        power = __int_as_float(exponent << 23), inverse = __int_as_float((254 - exponent) << 23);
    }
};

/* Eight numbers of a row or column as halves, from number `chunk` * 8 of the slab on. All lanes of a warp come here. */
template <int TERMS, int LINES, int PITCH>
static __device__ __forceinline__ void air_cuda_put_numbers(uint32_t (&to)[TERMS][LINES][AIR_CUDA_PITCH_WORDS],
                                                            float (&scale)[AIR_CUDA_HALVES_GROUPS][PITCH], int line, int chunk,
                                                            const float (&v)[AIR_CUDA_NUMBERS])
{
    int greatest = 0; /* by its bits: NaN above all */
    AIR_CUDA_UNROLL
    for (int i = 0; i < AIR_CUDA_NUMBERS; i++) greatest = max(greatest, __float_as_int(v[i]) & 0x7fffffff);
    AIR_CUDA_UNROLL
    for (int apart = 1; apart < 4; apart *= 2) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, apart));
    air_cuda_power group(__int_as_float(greatest));
    uint32_t words[TERMS][AIR_CUDA_NUMBERS / 2] = {};
    AIR_CUDA_UNROLL
    for (int i = 0; i < AIR_CUDA_NUMBERS / 2; i++) {
        float low = __fmul_rn(v[2 * i], group.inverse), high = __fmul_rn(v[2 * i + 1], group.inverse);
        AIR_CUDA_UNROLL
        for (int term = 0; term < TERMS; term++) {
            __half2 pair = __floats2half2_rn(low, high);
            memcpy(&words[term][i], &pair, sizeof pair);
            float2 taken = __half22float2(pair);
            low = __fsub_rn(low, taken.x), high = __fsub_rn(high, taken.y);
        }
    }
    AIR_CUDA_UNROLL
    for (int term = 0; term < TERMS; term++)
        *reinterpret_cast<uint4 *>(&to[term][line][chunk * 4]) = make_uint4(words[term][0], words[term][1], words[term][2], words[term][3]);
    if (chunk % 4 == 0) scale[chunk / 4][line] = group.power;
}

template <class T, int COLUMNS, int ALIGNED> struct air_cuda_prompt_numbers {
    typedef air_cuda_halves<T, COLUMNS> slab_type;
    typedef air_cuda_numbers<T> numbers;
    static constexpr int TERMS = slab_type::TERMS, THREADS = air_cuda_tile<COLUMNS>::THREADS;

    const air_cuda_product &p;
    const air_cuda_corner<COLUMNS> corner;
    const air_cuda_place at;
    air_cuda_results sum = {};

    __device__ __forceinline__ explicit air_cuda_prompt_numbers(const air_cuda_product &product) : p(product), corner(product) {}

    __device__ __forceinline__ void put_rows(slab_type &slab, int first, int end) const
    {
        AIR_CUDA_UNROLL
        for (int i = (int)threadIdx.x; i < AIR_CUDA_TILE_ROWS * AIR_CUDA_HALVES_CHUNKS; i += THREADS) {
            int line = i / AIR_CUDA_HALVES_CHUNKS, chunk = i % AIR_CUDA_HALVES_CHUNKS;
            const uint8_t *row = p.w + (air_cuda_head_row(p) + min(corner.row + line, p.rows - 1)) * (int64_t)p.row_bytes;
            typename numbers::piece piece = {};
            if (first + chunk < end) numbers::template load<ALIGNED>(piece, p, row, first + chunk, nullptr);
            air_cuda_put_numbers(slab.w, slab.scale_w, line, chunk, piece.w);
        }
    }

    __device__ __forceinline__ void put_columns(slab_type &slab, int first, int end) const
    {
        AIR_CUDA_UNROLL
        for (int i = (int)threadIdx.x; i < COLUMNS * AIR_CUDA_HALVES_CHUNKS; i += THREADS) {
            int line = i / AIR_CUDA_HALVES_CHUNKS, chunk = i % AIR_CUDA_HALVES_CHUNKS;
            typename numbers::column column = {};
            float v[AIR_CUDA_NUMBERS];
            if (first + chunk < end) numbers::fetch(column, p, air_cuda_head_column(p) + min(corner.column + line, p.n - 1), first + chunk);
            memcpy(v, column.x, sizeof v);
            air_cuda_put_numbers(slab.x, slab.scale_x, line, chunk, v);
        }
    }

    /* Adds a group: first the products of what the first halves left over, which are small. */
    __device__ __forceinline__ void add(const slab_type &slab, int group)
    {
        AIR_CUDA_UNROLL
        for (int pair = 0; pair < AIR_CUDA_EACH_COLUMNS / 4; pair++) {
            float d[2][2][4] = {};
            AIR_CUDA_UNROLL
            for (int term = TERMS; term >= 0; term--) { /* w0 x0 last, w0 x1 before it, w1 x0 first */
                AIR_CUDA_UNROLL
                for (int step = 0; step < 2; step++) {
                    int word = (2 * group + step) * AIR_CUDA_STEP_WORDS;
                    unsigned x[4];
                    at.load_columns(x, slab.x[term == 1], pair, word);
                    AIR_CUDA_UNROLL
                    for (int m = 0; m < 2; m++) {
                        unsigned w[4];
                        at.load_rows(w, slab.w[term == 2], m, word);
                        AIR_CUDA_UNROLL
                        for (int n = 0; n < 2; n++) air_mma_m16n8k16(d[m][n], w, &x[2 * n]);
                    }
                }
            }
            AIR_CUDA_UNROLL
            for (int i = 0; i < 16; i++) {
                int r = i / 8 * 2 + i % 4 / 2, c = pair * 4 + i / 4 % 2 * 2 + i % 2;
                float scale = __fmul_rn(slab.scale_w[group][at.row_of(r)], slab.scale_x[group][at.column_of(c)]);
                sum[r][c] = __fmaf_rn(scale, d[i / 8][i / 4 % 2][i % 4], sum[r][c]);
            }
        }
    }

    /* end: chunks of a row. */
    __device__ __forceinline__ void run(slab_type &slab, int end)
    {
        const bool is_needed = corner.has(p, at);
        AIR_CUDA_UNROLL_BY(1)
        for (int first = 0; first < end; first += AIR_CUDA_HALVES_CHUNKS) {
            put_rows(slab, first, end);
            put_columns(slab, first, end);
            __syncthreads();
            AIR_CUDA_UNROLL_BY(1)
            for (int group = 0; group < AIR_CUDA_HALVES_GROUPS && is_needed; group++) add(slab, group);
            __syncthreads();
        }
        air_cuda_finish_tile<COLUMNS>(p, corner, at, sum);
    }
};

template <class T, int COLUMNS, int ALIGNED>
static __global__ void __launch_bounds__(air_cuda_tile<COLUMNS>::THREADS, air_cuda_tile<COLUMNS>::BLOCKS)
    air_cuda_prompt_numbers_kernel(const air_cuda_product p, int pieces)
{
    typedef air_cuda_halves<T, COLUMNS> slab_type;
    AIR_DYN_SHARED(slab_type, slab);
    if (!air_is_sm_75()) return; /* the host knows */
    air_cuda_prompt_numbers<T, COLUMNS, ALIGNED> walk(p);
    walk.run(*slab, pieces);
}

template <class T, int COLUMNS, int ALIGNED> static cudaError_t air_cuda_prompt_numbers_start(const air_cuda_product &p, cudaStream_t stream)
{
    void (*kernel)(const air_cuda_product, int) = air_cuda_prompt_numbers_kernel<T, COLUMNS, ALIGNED>;
    bool has_cores;
    cudaError_t error = air_compiled_at_least((const void *)kernel, 75, &has_cores);
    if (error != cudaSuccess) return error;
    if (!has_cores) return air_cuda_product_of<air_cuda_numbers<T>>(p, stream);
    return air_cuda_launch_tiles<COLUMNS>(kernel, p, sizeof(air_cuda_halves<T, COLUMNS>), stream, p, (int)air_cuda_numbers<T>::pieces(p.k));
}

/* Without tensor cores, as rows that are decoded. */
template <class T> static cudaError_t air_cuda_prompt_numbers_of(const air_cuda_product &p, cudaStream_t stream)
{
    if (air_cuda_numbers<T>::pieces(p.k) > INT32_MAX - AIR_CUDA_HALVES_CHUNKS) return cudaErrorInvalidValue;
    if (((uintptr_t)p.w | p.row_bytes) % air_cuda_numbers<T>::ALIGN) return air_cuda_prompt_numbers_start<T, 64, 1>(p, stream);
    bool wide;
    cudaError_t error = air_cuda_wants_wide_tiles((const void *)air_cuda_prompt_numbers_kernel<T, 128, air_cuda_numbers<T>::ALIGN>, p, &wide);
    if (error != cudaSuccess) return error;
    if (wide) return air_cuda_prompt_numbers_start<T, 128, air_cuda_numbers<T>::ALIGN>(p, stream);
    return air_cuda_prompt_numbers_start<T, 64, air_cuda_numbers<T>::ALIGN>(p, stream);
}

/* As AIR_CUDA_PACKED_PRODUCT, of plain numbers. */
#define AIR_CUDA_NUMBERS_PRODUCT(name, format)                                                \
    cudaError_t air_cuda_product_##name(const air_cuda_product *p, cudaStream_t stream)       \
    {                                                                                         \
        if (p->role == AIR_CUDA_PROMPT) return air_cuda_prompt_numbers_of<format>(*p, stream); \
        return air_cuda_product_of<air_cuda_numbers<format>>(*p, stream);                     \
    }

#endif
