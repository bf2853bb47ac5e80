/* Attention of a prompt's rows, many of which see the same positions: K and V are read once for 64 queries, and the products are tensor
 * cores' (m16n8k16 on halves, sums in float; from sm_80).
 *
 * A block of threads takes 64 queries of one K/V head, rows by the heads that share it, 16 for each of its four warps, and one part of
 * the positions, 64 at a time: S = Q K, online softmax, O += P V. What a lane holds of S is just what it has to bring of P.
 *
 *     shared memory   Q [query][element, padded by 8]   K [tile of 16][element][16 positions]   V [position][element, padded by 8]
 *
 * Both K and V lie with what the product sums over as rows, so both are read by transposing loads of 8 × 8; the padding, and for K an
 * exchange of its halves in every other four rows, keep the eight rows of such a load in different banks. V comes in while S is
 * computed, the next K during the softmax and P V.
 *
 * Positions that a row does not see leave what it has as it was, bit by bit (p = 0, correction = 1), so its bits do not depend on the
 * rows beside it. Scores are kept times log2(e). */
#include "cuda/attention.cuh"

namespace {

using arguments = air_cuda_attention_arguments;
using span = air_cuda_span;

enum {
    WARPS = 4,
    THREADS = WARPS * AIR_CUDA_WARP,
    ROWS = 16,                            /* queries of a warp */
    QUERIES = WARPS * ROWS,
    COLUMNS = 8,                          /* of an mma */
    TILES = AIR_BLOCK_POSITIONS / AIR_STATE_TILE,
    CHUNK = 8,                            /* halves that are moved at once */
    DIM_MOST = 256,
};
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

/* Shared memory. */
struct places {
    uint16_t *q, *k, *v;
    int q_row, v_row; /* halves */
};

__host__ __device__ __forceinline__ int halves_of_q(int key_dim) { return QUERIES * (key_dim + CHUNK); }
__host__ __device__ __forceinline__ int halves_of_k(int key_dim) { return AIR_BLOCK_POSITIONS * key_dim; }
__host__ __device__ __forceinline__ int halves_of_v(int value_row) { return AIR_BLOCK_POSITIONS * (value_row + CHUNK); }

__device__ __forceinline__ places places_of(const arguments &a, uint16_t *memory)
{
    uint16_t *k = memory + halves_of_q(a.key_dim);
    return {memory, k, k + halves_of_k(a.key_dim), a.key_dim + CHUNK, a.sizes.value_row + CHUNK};
}

/* Of K, where the 8 positions of a half of an element's 16 are; element counted over the tiles. */
__device__ __forceinline__ int place_of_keys(int element, int which)
{
    return element * AIR_STATE_TILE + (which ^ (element >> 2 & 1)) * CHUNK;
}

__device__ __forceinline__ unsigned pair_of(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* --- loads: all threads of the block, 16 bytes each --- */

__device__ __forceinline__ void put_halves(uint16_t *to, const float x[CHUNK])
{
    *(uint4 *)to = make_uint4(pair_of(x[0], x[1]), pair_of(x[2], x[3]), pair_of(x[4], x[5]), pair_of(x[6], x[7]));
}

__device__ __forceinline__ void load_queries(const arguments &a, int first, int kv_head, const places &s)
{
    int group = a.heads / a.kv_heads, chunks = a.key_dim / CHUNK;
    for (int c = (int)threadIdx.x; c < QUERIES * chunks; c += THREADS) {
        int i = c / chunks, e = c % chunks * CHUNK, row = (first + i) / group, head = kv_head * group + (first + i) % group;
        const float *from = a.q + ((size_t)row * a.heads + head) * a.key_dim + e;
        float x[CHUNK];
        AIR_CUDA_UNROLL
        for (int j = 0; j < CHUNK; j++) x[j] = row < a.rows ? from[j] : 0.0f;
        put_halves(s.q + i * s.q_row + e, x);
    }
}

template <air_state_type TYPE> __device__ __forceinline__ void load_keys(const arguments &a, const uint8_t *k, const places &s)
{
    for (int c = (int)threadIdx.x; c < TILES * a.key_dim * 2; c += THREADS) {
        uint16_t *to = s.k + place_of_keys(c / 2, c % 2);
        if constexpr (TYPE == AIR_STATE_F16) {
            air_cp_async16(to, k + (size_t)c * CHUNK * sizeof(uint16_t));
        } else {
            float x[CHUNK];
            int tile = c / 2 / a.key_dim;
            air_load_keys<TYPE>(k, a.sizes.k_scales, a.key_dim, tile * AIR_STATE_TILE + c % 2 * CHUNK, c / 2 % a.key_dim, x);
            put_halves(to, x);
        }
    }
    air_cp_async_commit();
}

/* Zeros from `there` on: nothing may have been stored there, and what there is may be NaN, which no weight of zero hides. */
template <air_state_type TYPE>
__device__ __forceinline__ void load_values(const arguments &a, const uint8_t *v, int there, const places &s)
{
    int row = a.sizes.value_row, chunks = row / CHUNK;
    for (int c = (int)threadIdx.x; c < AIR_BLOCK_POSITIONS * chunks; c += THREADS) {
        int position = c / chunks, e = c % chunks * CHUNK;
        uint16_t *to = s.v + position * s.v_row + e;
        if (position >= there) {
            *(uint4 *)to = make_uint4(0, 0, 0, 0);
        } else if constexpr (TYPE == AIR_STATE_F16) {
            air_cp_async16(to, v + (size_t)c * CHUNK * sizeof(uint16_t));
        } else {
            float x[CHUNK];
            air_load_values<TYPE>(v, a.sizes.v_scales, row, position, e, x);
            put_halves(to, x);
        }
    }
    air_cp_async_commit();
}

/* --- of a warp: 16 queries. A lane holds two of each 8 columns, of queries lane / 4 and lane / 4 + 8 --- */

/* One of a lane's two queries. */
struct query {
    int row, head, position; /* row a.rows or more: none */
    span seen;
    float slope;
    float max, sum; /* of this lane's columns */
};

__device__ __forceinline__ query query_of(const arguments &a, int i, int kv_head)
{
    int group = a.heads / a.kv_heads, row = i / group;
    query q = {row, kv_head * group + i % group, 0, {0, 0}, 0.0f, -INFINITY, 0.0f};
    if (row < a.rows) q.seen = air_cuda_seen_by(a, row), q.position = a.positions[row];
    if (a.slopes) q.slope = a.slopes[q.head];
    return q;
}

typedef float scores_of_lane[2 * TILES][4]; /* [8 positions][query 0: two positions, query 1: two] */

__device__ __forceinline__ void multiply_keys(const arguments &a, const places &s, int warp, int lane, scores_of_lane scores)
{
    const uint16_t *q = s.q + (warp * ROWS + lane % 16) * s.q_row + lane / 16 * CHUNK;
    AIR_CUDA_UNROLL_BY(2)
    for (int e = 0; e < a.key_dim; e += 16) {
        unsigned of_q[4];
        air_ldmatrix_x4(of_q, q + e);
        AIR_CUDA_UNROLL
        for (int tile = 0; tile < TILES; tile++) {
            unsigned of_k[4];
            air_ldmatrix_x4_trans(of_k, s.k + place_of_keys(tile * a.key_dim + e + lane % 16, lane / 16));
            air_mma_m16n8k16(scores[2 * tile], of_q, of_k);
            air_mma_m16n8k16(scores[2 * tile + 1], of_q, of_k + 2);
        }
    }
}

/* To the power of two that a score is an exponent of; what is not seen to minus infinity. */
__device__ __forceinline__ void scale_and_mask(const arguments &a, const query &q, int start, int which, int lane, scores_of_lane scores)
{
    AIR_CUDA_UNROLL
    for (int n = 0; n < 2 * TILES; n++) {
        AIR_CUDA_UNROLL
        for (int j = 0; j < 2; j++) {
            float *x = &scores[n][2 * which + j];
            int position = start + n * COLUMNS + lane % 4 * 2 + j;
            if (a.softcap != 0.0f || a.slopes) {
                float score = *x * a.scale;
                if (a.slopes) score = fmaf(-q.slope, (float)abs(position - q.position), score);
                *x = (a.softcap != 0.0f ? a.softcap * tanhf(score / a.softcap) : score) * LOG2_E;
            } else {
                *x *= a.scale * LOG2_E;
            }
            if (position < q.seen.lo || position >= q.seen.hi) *x = -INFINITY;
        }
    }
}

/* Scores of one query to weights, as halves; what it had so far is to be multiplied by what is returned. */
__device__ __forceinline__ float weights_of(query *q, int which, const scores_of_lane scores, unsigned weights[2 * TILES][2])
{
    float most = q->max;
    AIR_CUDA_UNROLL
    for (int n = 0; n < 2 * TILES; n++) most = fmaxf(most, fmaxf(scores[n][2 * which], scores[n][2 * which + 1]));
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 2));
    float from = most == -INFINITY ? 0.0f : most, correction = exp2f(q->max - from), sum = 0.0f;
    AIR_CUDA_UNROLL
    for (int n = 0; n < 2 * TILES; n++) {
        weights[n][which] = pair_of(exp2f(scores[n][2 * which] - from), exp2f(scores[n][2 * which + 1] - from));
        float2 rounded = air_half2_to_floats(weights[n][which]);
        sum += rounded.x + rounded.y;
    }
    q->sum = fmaf(q->sum, correction, sum);
    q->max = most;
    return correction;
}

template <int VALUES>
__device__ __forceinline__ void add_values(const arguments &a, const places &s, const unsigned weights[2 * TILES][2], int lane,
                                           float out[VALUES / COLUMNS][4])
{
    const uint16_t *v = s.v + lane % 16 * s.v_row + lane / 16 * CHUNK;
    AIR_CUDA_UNROLL
    for (int tile = 0; tile < TILES; tile++) {
        unsigned p[4] = {weights[2 * tile][0], weights[2 * tile][1], weights[2 * tile + 1][0], weights[2 * tile + 1][1]};
        AIR_CUDA_UNROLL
        for (int n = 0; n < VALUES / COLUMNS; n += 2) {
            if (n * COLUMNS >= a.sizes.value_row) break;
            unsigned of_v[4];
            air_ldmatrix_x4_trans(of_v, v + tile * AIR_STATE_TILE * s.v_row + n * COLUMNS);
            air_mma_m16n8k16(out[n], p, of_v);
            air_mma_m16n8k16(out[n + 1], p, of_v + 2);
        }
    }
}

/* One of a lane's queries to its part in scratch, if it has seen something of this one. All lanes come here. */
template <int VALUES>
__device__ __forceinline__ void write_query(const arguments &a, const query &q, int which, int part, int lane,
                                            const float out[VALUES / COLUMNS][4])
{
    float sum = q.sum + __shfl_xor_sync(AIR_CUDA_ALL_LANES, q.sum, 1);
    sum += __shfl_xor_sync(AIR_CUDA_ALL_LANES, sum, 2);
    int start = part * AIR_CUDA_PROMPT_PART;
    if (q.row >= a.rows || q.seen.hi <= start || q.seen.lo >= start + AIR_CUDA_PROMPT_PART) return;
    size_t at = ((size_t)q.row * a.heads + q.head) * a.slots + (part - q.seen.lo / AIR_CUDA_PROMPT_PART);
    if (lane % 4 == 0) a.totals[at] = {q.max * LN_2, sum};
    float *to = a.partial + at * a.value_dim;
    AIR_CUDA_UNROLL
    for (int n = 0; n < VALUES / COLUMNS; n++) {
        int e = n * COLUMNS + lane % 4 * 2;
        if (e < a.value_dim) to[e] = out[n][2 * which];
        if (e + 1 < a.value_dim) to[e + 1] = out[n][2 * which + 1];
    }
}

/* --- of a block of threads --- */

/* Which positions it has to look at: those that its first row's first to its last row's last, in a part. The last queries come first:
 * they see most and take longest. */
struct task {
    int first; /* query */
    int part, lo, hi;
    int seen; /* positions from there on are seen by none of its rows */
};

__device__ __forceinline__ task task_of(const arguments &a)
{
    int group = a.heads / a.kv_heads;
    task t;
    t.first = (int)(gridDim.x - 1 - blockIdx.x) * QUERIES;
    int last = min(t.first + QUERIES, a.rows * group) - 1;
    span begin = air_cuda_seen_by(a, t.first / group), end = air_cuda_seen_by(a, last / group);
    t.part = begin.lo / AIR_CUDA_PROMPT_PART + (int)blockIdx.z;
    t.lo = max(begin.lo, t.part * AIR_CUDA_PROMPT_PART);
    t.seen = end.hi;
    t.hi = min(end.hi, (t.part + 1) * AIR_CUDA_PROMPT_PART);
    return t;
}

/* Block `block` of one K/V head. */
__device__ __forceinline__ const uint8_t *keys_of(const arguments &a, int block)
{
    return air_cuda_block(a, 0, block) + a.k_offset + blockIdx.y * a.sizes.k_head;
}

__device__ __forceinline__ const uint8_t *values_of(const arguments &a, int block)
{
    return air_cuda_block(a, 0, block) + a.v_offset + blockIdx.y * a.sizes.v_head;
}

template <int VALUES> __device__ __forceinline__ void correct(const float by[2], float out[VALUES / COLUMNS][4])
{
    AIR_CUDA_UNROLL
    for (int n = 0; n < VALUES / COLUMNS; n++) {
        out[n][0] *= by[0], out[n][1] *= by[0];
        out[n][2] *= by[1], out[n][3] *= by[1];
    }
}

template <air_state_type TYPE, int VALUES> __global__ void __launch_bounds__(THREADS) attend(arguments a)
{
    AIR_DYN_SHARED(uint16_t, memory);
    places s = places_of(a, memory);
    task t = task_of(a);
    if (t.lo >= t.hi) return;
    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP, mine = t.first + warp * ROWS + lane / 4;
    query queries[2] = {query_of(a, mine, (int)blockIdx.y), query_of(a, mine + ROWS / 2, (int)blockIdx.y)};
    float out[VALUES / COLUMNS][4] = {};

    int block = t.lo / AIR_BLOCK_POSITIONS, end = (t.hi - 1) / AIR_BLOCK_POSITIONS + 1;
    load_keys<TYPE>(a, keys_of(a, block), s);
    load_queries(a, t.first, (int)blockIdx.y, s);
    for (; block < end; block++) {
        int start = block * AIR_BLOCK_POSITIONS;
        load_values<TYPE>(a, values_of(a, block), t.seen - start, s);
        air_cp_async_wait<1>();
        __syncthreads();
        scores_of_lane scores = {};
        multiply_keys(a, s, warp, lane, scores);
        __syncthreads();
        if (block + 1 < end) load_keys<TYPE>(a, keys_of(a, block + 1), s);
        else air_cp_async_commit();

        unsigned weights[2 * TILES][2];
        float corrections[2];
        AIR_CUDA_UNROLL
        for (int i = 0; i < 2; i++) {
            scale_and_mask(a, queries[i], start, i, lane, scores);
            corrections[i] = weights_of(&queries[i], i, scores, weights);
        }
        correct<VALUES>(corrections, out);
        air_cp_async_wait<1>();
        __syncthreads();
        add_values<VALUES>(a, s, weights, lane, out);
        __syncthreads();
    }
    AIR_CUDA_UNROLL
    for (int i = 0; i < 2; i++) write_query<VALUES>(a, queries[i], i, t.part, lane, out);
}

/* --- launching --- */

typedef void (*kernel)(arguments);

template <air_state_type TYPE> kernel kernel_for(int value_row)
{
    return value_row <= 64 ? attend<TYPE, 64> : value_row <= 128 ? attend<TYPE, 128> : attend<TYPE, DIM_MOST>;
}

kernel kernel_of(air_state_type type, int value_row)
{
    if (type == AIR_STATE_F16) return kernel_for<AIR_STATE_F16>(value_row);
    return type == AIR_STATE_Q8_0 ? kernel_for<AIR_STATE_Q8_0>(value_row) : kernel_for<AIR_STATE_Q4_0>(value_row);
}

} // namespace

cudaError_t air_cuda_prompt_takes(air_state_type type, int64_t key_dim, int64_t value_dim, bool *takes)
{
    *takes = type != AIR_STATE_F32 && key_dim % 16 == 0 && key_dim <= DIM_MOST && value_dim <= DIM_MOST;
    return *takes ? air_compiled_at_least((const void *)kernel_for<AIR_STATE_F16>(DIM_MOST), 80, takes) : cudaSuccess;
}

cudaError_t air_cuda_attend_prompt(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream)
{
    kernel attend = kernel_of(type, a->sizes.value_row);
    int shared = (halves_of_q(a->key_dim) + halves_of_k(a->key_dim) + halves_of_v(a->sizes.value_row)) * (int)sizeof(uint16_t);
    cudaError_t error = cudaFuncSetAttribute((const void *)attend, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error) return error;
    /* The rows of a block of threads see parts that one of them alone may not. */
    int64_t seen = air_cuda_most_seen(a->window, a->ahead) + QUERIES - 1;
    int64_t queries = (int64_t)a->rows * (a->heads / a->kv_heads), parts = air_cuda_parts_seen(a->last, seen, AIR_CUDA_PROMPT_PART);
    if (a->kv_heads > AIR_CUDA_GRID_MOST || parts > AIR_CUDA_GRID_MOST) return cudaErrorInvalidValue;
    dim3 grid((unsigned)((queries + QUERIES - 1) / QUERIES), (unsigned)a->kv_heads, (unsigned)parts);
    return air_launch(attend, grid, dim3(THREADS), (size_t)shared, stream, *a);
}
