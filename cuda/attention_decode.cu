/* Attention of rows that are generated, on tensor cores (m16n8k16 on halves, from sm_75) without a loss: a row reads all of its sequence's
 * state once, and nothing but the memory's speed counts.
 *
 * A block of threads takes one part of one K/V head for up to eight query heads that share it. Each of its warps takes a tile of 16
 * positions at a time, all of whose K and V are on their way at once; the next tile's are asked for as soon as a register is free.
 *
 *     scores   A: the queries, scaled, as sums of two halves: a head's high one is row h, its low one row h + 8
 *              B: K as it lies; a lane loads two neighbouring positions of an element, 4 lanes' elements follow each other
 *     softmax  a lane holds four neighbouring positions of head lane / 4
 *     values   A: V as it lies, turned by exchanging halves of two positions' registers; B: the weights, as sums of two halves, which
 *              are where they were computed. A lane ends with eight neighbouring elements of each 64 for heads 2 * (lane % 4) and the next.
 *
 * The warps' results, each with its maximum m and sum l, are brought to one maximum, added up in order and left in scratch, not
 * yet divided by l, or, where rows have but one part, divided and left as the merge would leave it. Nothing depends on other rows: neither
 * do the bits. */
#include "cuda/attention.cuh"

namespace {

using arguments = air_cuda_attention_arguments;
using total = air_cuda_total;
using span = air_cuda_span;

enum {
    WARPS = 8,
    THREADS = WARPS * AIR_CUDA_WARP,
    PART_TILES = AIR_CUDA_ROWS_PART / AIR_STATE_TILE,
    BLOCK_TILES = AIR_BLOCK_POSITIONS / AIR_STATE_TILE,
    HEADS = 8,
    STEP = 16,        /* elements of K of an mma */
    SLICE = 64,       /* elements of V that the lanes have side by side */
    CHUNK_MOST = 128, /* elements that are in registers at once */
    DIM_MOST = 256,
};
constexpr int LOW_HALVES = 0x5410, HIGH_HALVES = 0x7632; /* of two registers, for __byte_perm */

/* What a kernel is compiled for: dims up to DIM, or just DIM, which takes fewer registers and instructions. */
template <air_state_type TYPE_, int DIM_, bool WHOLE> struct shape {
    static constexpr air_state_type TYPE = TYPE_;
    static constexpr int DIM = DIM_, SIZE = DIM < CHUNK_MOST ? DIM : CHUNK_MOST, CHUNKS = DIM / SIZE; /* what is in registers at once */
    static __device__ __forceinline__ int key_dim(const arguments &a) { return WHOLE ? DIM : a.key_dim; }
    static __device__ __forceinline__ int value_row(const arguments &a) { return WHOLE ? DIM : a.sizes.value_row; }
};

/* --- numbers as sums of two halves --- */

__device__ __forceinline__ unsigned pair_of(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

struct two_pairs {
    unsigned high, low;
};

__device__ __forceinline__ two_pairs split_pair(float x, float y)
{
    two_pairs to;
    to.high = pair_of(x, y);
    float2 rounded = air_half2_to_floats(to.high);
    to.low = pair_of(x - rounded.x, y - rounded.y);
    return to;
}

/* The power of two that brings the greatest of some numbers to 2^13 to 2^14, where halves are most exact; 1 where it is 0 or none. */
__device__ __forceinline__ int power_for(float most)
{
    int exponent = (int)(__float_as_uint(most) >> 23) - 127;
    if (!(most > 0.0f) || exponent == 128) return 0;
    return min(13 - exponent, 126);
}

__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

/* --- what a warp does --- */

struct task {
    int row, kv_head, head, heads, part;
    span seen;
};

__device__ __forceinline__ task task_of(const arguments &a)
{
    int group = a.heads / a.kv_heads, splits = (group + HEADS - 1) / HEADS, y = (int)blockIdx.y;
    task t;
    t.row = (int)blockIdx.z;
    t.kv_head = splits == 1 ? y : y / splits;
    int first = (y - t.kv_head * splits) * HEADS;
    t.head = t.kv_head * group + first;
    t.heads = min((int)HEADS, group - first);
    t.seen = air_cuda_seen_by(a, t.row);
    t.part = t.seen.lo / AIR_CUDA_ROWS_PART + (int)blockIdx.x;
    return t;
}

/* The K and the V of a tile's block, of one head. */
__device__ __forceinline__ const uint8_t *block_of(const arguments &a, const task &t, int tile)
{
    return air_cuda_block(a, t.row, tile / BLOCK_TILES);
}
__device__ __forceinline__ const uint8_t *keys_of(const arguments &a, const task &t, const uint8_t *block)
{
    return block + a.k_offset + t.kv_head * a.sizes.k_head;
}
__device__ __forceinline__ const uint8_t *values_of(const arguments &a, const task &t, const uint8_t *block)
{
    return block + a.v_offset + t.kv_head * a.sizes.v_head;
}

/* Some elements of a tile of K, as a lane loads them: elements 16 s + 4 i + lane % 4. */
template <air_state_type TYPE, int SIZE> struct keys {
    unsigned x[SIZE / STEP][4];
    uint2 scales[SIZE / AIR_STATE_GROUP]; /* of Q8_0, of this lane's four positions */
};

template <class S>
__device__ __forceinline__ void load_keys(const arguments &a, const uint8_t *k, int tile, int first, int lane, keys<S::TYPE, S::SIZE> &to)
{
    constexpr int BYTES = S::TYPE == AIR_STATE_F16 ? 2 : 1, STRIDE = AIR_STATE_TILE * BYTES; /* from an element to the next */
    int dim = S::key_dim(a), within = tile % BLOCK_TILES;
    const uint8_t *from = k + (within * dim + first + lane % 4) * STRIDE + (BYTES == 2 ? lane / 4 : lane / 8) * 4;
    AIR_CUDA_UNROLL
    for (int s = 0; s < S::SIZE / STEP; s++) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++)
            to.x[s][i] = first + s * STEP < dim ? __ldg((const unsigned *)(from + (s * STEP + 4 * i) * STRIDE)) : 0;
    }
    if constexpr (S::TYPE == AIR_STATE_Q8_0) {
        const uint8_t *scales = k + a.sizes.k_scales
            + (first / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + within * AIR_STATE_TILE + lane % 4 * 4) * (int)sizeof(uint16_t);
        AIR_CUDA_UNROLL
        for (int s = 0; s < S::SIZE / AIR_STATE_GROUP; s++)
            to.scales[s] = first + s * AIR_STATE_GROUP < dim
                ? __ldg((const uint2 *)(scales + s * AIR_BLOCK_POSITIONS * (int)sizeof(uint16_t))) : make_uint2(0, 0);
    }
}

/* Some elements of a tile of V, of positions 4 * (lane % 4) + i: of F16 eight of each 64, of Q8_0 four of each 32. */
template <air_state_type TYPE, int SIZE> struct values {
    uint4 x[SIZE / SLICE][4];
};
template <int SIZE> struct values<AIR_STATE_Q8_0, SIZE> {
    unsigned x[SIZE / AIR_STATE_GROUP][4];
    uint2 scales[SIZE / AIR_STATE_GROUP]; 
};

__device__ __forceinline__ bool sees(span seen, int position) { return position >= seen.lo && position < seen.hi; }

/* Zeros where a position is not seen: nothing may have been stored there, and what there is may be NaN, which no weight of zero hides. */
template <class S>
__device__ __forceinline__ void load_values(const arguments &a, const uint8_t *v, span seen, int tile, int first, int lane,
                                            values<S::TYPE, S::SIZE> &to)
{
    int row = S::value_row(a), position = tile * AIR_STATE_TILE + lane % 4 * 4, within = position % AIR_BLOCK_POSITIONS;
    if constexpr (S::TYPE == AIR_STATE_F16) {
        int e = first + lane / 4 * AIR_CUDA_EIGHT;
        const uint8_t *from = v + (within * row + e) * (int)sizeof(uint16_t);
        AIR_CUDA_UNROLL
        for (int s = 0; s < S::SIZE / SLICE; s++) {
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++)
                to.x[s][i] = e + s * SLICE < row && sees(seen, position + i)
                    ? __ldg((const uint4 *)(from + (i * row + s * SLICE) * (int)sizeof(uint16_t))) : make_uint4(0, 0, 0, 0);
        }
    } else {
        int e = first + lane / 4 * 4;
        const uint8_t *from = v + within * row + e;
        const uint8_t *scales = v + a.sizes.v_scales + (first / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + within) * (int)sizeof(uint16_t);
        AIR_CUDA_UNROLL
        for (int s = 0; s < S::SIZE / AIR_STATE_GROUP; s++) {
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++)
                to.x[s][i] = e + s * AIR_STATE_GROUP < row ? __ldg((const unsigned *)(from + i * row + s * AIR_STATE_GROUP)) : 0;
            to.scales[s] = first + s * AIR_STATE_GROUP < row
                ? __ldg((const uint2 *)(scales + s * AIR_BLOCK_POSITIONS * (int)sizeof(uint16_t))) : make_uint2(0, 0);
        }
    }
}

/* Bytes 0 and 1, or 2 and 3, of int8, each beside its like of another register, as two pairs of halves: 1152 + q, less 1152. */
__device__ __forceinline__ void bytes_to_pairs(unsigned x, unsigned y, int which, unsigned to[2])
{
    unsigned mixed = __byte_perm(x, y, (unsigned)which) ^ 0x80808080u;
    AIR_CUDA_UNROLL
    for (int i = 0; i < 2; i++) {
        unsigned bits = __byte_perm(mixed, 0x64646464u, i ? 0x4342u : 0x4140u), offset = 0x64806480u;
        __half2 large, less;
        memcpy((void *)&large, &bits, sizeof large);
        memcpy((void *)&less, &offset, sizeof less);
        large = __hsub2(large, less);
        memcpy(&to[i], &large, sizeof large);
    }
}
constexpr int LOW_BYTES = 0x5140, HIGH_BYTES = 0x7362; /* 0, 0, 1, 1 of two registers; 2, 2, 3, 3 */

/* Scores of the four positions of a lane += the products with those elements. query: their fragments. */
template <air_state_type TYPE, int SIZE>
__device__ __forceinline__ void multiply_keys(const keys<TYPE, SIZE> &k, const uint4 *query, int lane, float sum[4])
{
    float even[4] = {}, odd[4] = {}; /* positions 4t, 4t + 2; 4t + 1, 4t + 3 */
    AIR_CUDA_UNROLL
    for (int s = 0; s < SIZE / STEP; s++) {
        uint4 q = query[s * AIR_CUDA_WARP + lane];
        const unsigned of_q[4] = {q.x, q.y, q.z, q.w};
        unsigned of_k[2][2];
        AIR_CUDA_UNROLL
        for (int i = 0; i < 2; i++) {
            unsigned x = k.x[s][2 * i], y = k.x[s][2 * i + 1], pairs[2];
            if constexpr (TYPE == AIR_STATE_F16) pairs[0] = __byte_perm(x, y, LOW_HALVES), pairs[1] = __byte_perm(x, y, HIGH_HALVES);
            else bytes_to_pairs(x, y, lane & 4 ? HIGH_BYTES : LOW_BYTES, pairs);
            of_k[0][i] = pairs[0], of_k[1][i] = pairs[1];
        }
        air_mma_m16n8k16(even, of_q, of_k[0]);
        air_mma_m16n8k16(odd, of_q, of_k[1]);
        if constexpr (TYPE == AIR_STATE_Q8_0) {
            if (s % 2 == 0) continue;
            float2 p = air_half2_to_floats(k.scales[s / 2].x), r = air_half2_to_floats(k.scales[s / 2].y);
            sum[0] = fmaf(even[0] + even[2], p.x, sum[0]), sum[1] = fmaf(odd[0] + odd[2], p.y, sum[1]);
            sum[2] = fmaf(even[1] + even[3], r.x, sum[2]), sum[3] = fmaf(odd[1] + odd[3], r.y, sum[3]);
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) even[i] = odd[i] = 0.0f;
        }
    }
    if constexpr (TYPE == AIR_STATE_F16) {
        sum[0] += even[0] + even[2], sum[1] += odd[0] + odd[2];
        sum[2] += even[1] + even[3], sum[3] += odd[1] + odd[3];
    }
}

/* Scores to weights relative to a maximum that only grows; what there was is to be multiplied by what is returned. */
__device__ __forceinline__ float softmax(const arguments &a, const task &t, float slope, float inverse, int first, float x[4], total *all)
{
    float most = all->max;
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) {
        x[i] *= inverse;
        if (a.slopes) x[i] -= slope * (float)abs(first + i - a.positions[t.row]);
        if (a.softcap != 0.0f) x[i] = a.softcap * tanhf(x[i] / a.softcap);
        if (!sees(t.seen, first + i)) x[i] = -INFINITY;
        most = fmaxf(most, x[i]);
    }
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 2));
    float correction = expf(all->max - most), sum = 0.0f;
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) {
        x[i] = expf(x[i] - most);
        sum += x[i];
    }
    all->sum = fmaf(all->sum, correction, sum);
    all->max = most;
    return correction;
}

/* B of the products with V: four neighbouring positions' weights, as the positions of an mma go. */
struct weights_of_lane {
    unsigned high[2], low[2];
};

__device__ __forceinline__ weights_of_lane split_weights(const float x[4])
{
    two_pairs even = split_pair(x[0], x[2]), odd = split_pair(x[1], x[3]);
    return {{even.high, odd.high}, {even.low, odd.low}};
}

/* Of F16, weights are times 2^WEIGHTS. */
enum { WEIGHTS = 14 };

template <int SIZE>
__device__ __forceinline__ void add_values(const values<AIR_STATE_F16, SIZE> &v, span, int, const float p[4], const float corrections[2], float (*out)[4])
{
    float larger[4];
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) larger[i] = p[i] * (float)(1 << WEIGHTS);
    weights_of_lane w = split_weights(larger);
    AIR_CUDA_UNROLL
    for (int s = 0; s < SIZE / SLICE; s++) {
        AIR_CUDA_UNROLL
        for (int m = 0; m < 4; m++) {
            unsigned x[4];
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) x[i] = m == 0 ? v.x[s][i].x : m == 1 ? v.x[s][i].y : m == 2 ? v.x[s][i].z : v.x[s][i].w;
            const unsigned of_v[4] = {__byte_perm(x[0], x[2], LOW_HALVES), __byte_perm(x[0], x[2], HIGH_HALVES),
                                      __byte_perm(x[1], x[3], LOW_HALVES), __byte_perm(x[1], x[3], HIGH_HALVES)};
            float *to = out[s * 4 + m];
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to[i] *= corrections[i % 2];
            air_mma_m16n8k16(to, of_v, w.high);
            air_mma_m16n8k16(to, of_v, w.low);
        }
    }
}

/* Weights times a group's scales have a power of two of their own. */
template <int SIZE>
__device__ __forceinline__ void add_values(const values<AIR_STATE_Q8_0, SIZE> &v, span seen, int first, const float p[4], const float corrections[2], float (*out)[4])
{
    AIR_CUDA_UNROLL
    for (int s = 0; s < SIZE / AIR_STATE_GROUP; s++) {
        float2 even_scales = air_half2_to_floats(v.scales[s].x), odd_scales = air_half2_to_floats(v.scales[s].y);
        float most = 0.0f, scaled[4] = {even_scales.x, even_scales.y, odd_scales.x, odd_scales.y};
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            if (!sees(seen, first + i)) scaled[i] = 0.0f;
            most = fmaxf(most, fabsf(scaled[i]));
        }
        most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 2));
        int power = power_for(most);
        float up = power_of_two(power), down = power_of_two(-power);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) scaled[i] = scaled[i] * up * p[i];
        weights_of_lane w = split_weights(scaled);
        AIR_CUDA_UNROLL
        for (int m = 0; m < 2; m++) {
            unsigned even[2], odd[2];
            bytes_to_pairs(v.x[s][0], v.x[s][2], m ? HIGH_BYTES : LOW_BYTES, even);
            bytes_to_pairs(v.x[s][1], v.x[s][3], m ? HIGH_BYTES : LOW_BYTES, odd);
            const unsigned of_v[4] = {even[0], even[1], odd[0], odd[1]};
            float sum[4] = {}, *to = out[s * 2 + m];
            air_mma_m16n8k16(sum, of_v, w.high);
            air_mma_m16n8k16(sum, of_v, w.low);
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to[i] = fmaf(sum[i], down, to[i] * corrections[i % 2]);
        }
    }
}

/* --- what a block of threads does together --- */

/* A of the products with K: what lane 4h + t has of 16 elements, those of head h; inverse: what scores are to be multiplied by. */
template <int DIM> __device__ __forceinline__ void load_query(const arguments &a, const task &t, uint4 *query, float *inverse)
{
    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP;
    for (int h = warp; h < HEADS; h += WARPS) {
        const float *from = a.q + ((size_t)t.row * a.heads + t.head + h) * a.key_dim;
        float x[DIM / AIR_CUDA_WARP], most = 0.0f;
        AIR_CUDA_UNROLL
        for (int i = 0; i < DIM / AIR_CUDA_WARP; i++) {
            int e = i * AIR_CUDA_WARP + lane;
            x[i] = h < t.heads && e < a.key_dim ? from[e] * a.scale : 0.0f;
            most = fmaxf(most, fabsf(x[i]));
        }
        int power = power_for(air_lanes_max(most));
        float up = power_of_two(power);
        if (lane == 0) inverse[h] = power_of_two(-power);
        AIR_CUDA_UNROLL
        for (int i = 0; i < DIM / AIR_CUDA_WARP; i++) {
            int e = i * AIR_CUDA_WARP + lane, which = e % STEP / 4;
            uint16_t high = air_float_to_half(x[i] * up), low = air_float_to_half(x[i] * up - air_half_to_float(high));
            uint16_t *to = (uint16_t *)(query + e / STEP * AIR_CUDA_WARP + h * 4 + e % 4) + which / 2 * 4 + which % 2;
            to[0] = high, to[2] = low;
        }
    }
}

__device__ __forceinline__ float greatest(const total (*totals)[HEADS], int head)
{
    float most = -INFINITY;
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, totals[w][head].max);
    return most;
}

/* What a warp's sums of a head count: nothing where it has seen nothing. */
__device__ __forceinline__ float share_of(const total (*totals)[HEADS], int warp, int head)
{
    return expf(totals[warp][head].max - greatest(totals, head));
}

/* The warps' totals of a head as one. */

__device__ __forceinline__ total join_totals(const total (*totals)[HEADS], int head)
{
    total all = {greatest(totals, head), 0.0f};
    for (int w = 0; w < WARPS; w++) all.sum = fmaf(totals[w][head].sum, share_of(totals, w, head), all.sum);
    return all;
}

/* Of heads 2 * (lane % 4) and the next, what a lane has of some elements, by what this warp's share counts. */
template <air_state_type TYPE, int SIZE>
__device__ __forceinline__ void write_shares(const float (*out)[4], const float by[2], int heads, int lane, float (*shares)[SIZE])
{
    AIR_CUDA_UNROLL
    for (int i = 0; i < 2; i++) {
        int head = lane % 4 * 2 + i;
        if (head >= heads) continue;
        AIR_CUDA_UNROLL
        for (int n = 0; n < SIZE / 16; n++) {
            /* pairs of elements: of F16 four of a lane's eight, of Q8_0 two of its four */
            int e = TYPE == AIR_STATE_F16 ? n / 4 * SLICE + lane / 4 * 8 + n % 4 * 2 : n / 2 * AIR_STATE_GROUP + lane / 4 * 4 + n % 2 * 2;
            *(float2 *)(shares[head] + e) = make_float2(out[n][i] * by[i], out[n][2 + i] * by[i]);
        }
    }
}

/* What a warp has of its tiles: those elements of the next that are on their way, the sums so far, and what these are relative to. */
template <class S> struct work {
    keys<S::TYPE, S::SIZE> k;
    values<S::TYPE, S::SIZE> v;
    float out[S::DIM / 16][4];
    total all;
};

template <class S>
__device__ __forceinline__ void begin_tiles(const arguments &a, const task &t, int tile, int end, int lane, work<S> &w)
{
    if (tile >= end) return;
    const uint8_t *block = block_of(a, t, tile);
    load_keys<S>(a, keys_of(a, t, block), tile, 0, lane, w.k);
    load_values<S>(a, values_of(a, t, block), t.seen, tile, 0, lane, w.v);
}

template <class S>
__device__ __forceinline__ void add_tiles(const arguments &a, const task &t, int tile, int end, const uint4 *query, float inverse, int lane,
                                          work<S> &w)
{
    constexpr int SIZE = S::SIZE, CHUNKS = S::CHUNKS;
    float slope = a.slopes && lane / 4 < t.heads ? a.slopes[t.head + lane / 4] : 0.0f;
    w.all = {-INFINITY, 0.0f};
    AIR_CUDA_UNROLL
    for (int n = 0; n < S::DIM / 16; n++) w.out[n][0] = w.out[n][1] = w.out[n][2] = w.out[n][3] = 0.0f;
    for (; tile < end; tile += WARPS) {
        int first = tile * AIR_STATE_TILE + lane % 4 * 4, after = tile + WARPS;
        const uint8_t *next = after < end ? block_of(a, t, after) : nullptr;
        float p[4] = {}, corrections[2];
        AIR_CUDA_UNROLL
        for (int c = 0; c < CHUNKS; c++) {
            if (c) load_keys<S>(a, keys_of(a, t, block_of(a, t, tile)), tile, c * SIZE, lane, w.k);
            multiply_keys<S::TYPE>(w.k, query + c * SIZE / STEP * AIR_CUDA_WARP, lane, p);
        }
        if (after < end) load_keys<S>(a, keys_of(a, t, next), after, 0, lane, w.k);
        float correction = softmax(a, t, slope, inverse, first, p, &w.all);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 2; i++) corrections[i] = __shfl_sync(AIR_CUDA_ALL_LANES, correction, lane % 4 * 8 + i * 4);
        AIR_CUDA_UNROLL
        for (int c = 0; c < CHUNKS; c++) {
            if (c) load_values<S>(a, values_of(a, t, block_of(a, t, tile)), t.seen, tile, c * SIZE, lane, w.v);
            add_values(w.v, t.seen, first, p, corrections, w.out + c * SIZE / 16);
        }
        if (after < end) load_values<S>(a, values_of(a, t, next), t.seen, after, 0, lane, w.v);
    }
}

/* A head's total to scratch, or what its values are to be divided by. */
__device__ __forceinline__ void write_total(const arguments &a, const task &t, int head, total all, float *divisors)
{
    if (a.slots == 1) divisors[head] = (a.sinks ? expf(a.sinks[t.head + head] - all.max) : 0.0f) + all.sum;
    else a.totals[((size_t)t.row * a.heads + t.head + head) * a.slots + blockIdx.x] = all;
}

/* The warps' shares of some elements, added up in order. */
template <int SIZE>
__device__ __forceinline__ void write_sums(const arguments &a, const task &t, const float (*shares)[HEADS][SIZE], int first,
                                           const float *divisors)
{
    for (int i = (int)threadIdx.x; i < t.heads * SIZE; i += THREADS) {
        int head = i / SIZE, e = first + i % SIZE;
        if (e >= a.value_dim) continue;
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += shares[w][head][i % SIZE];
        size_t at = (size_t)t.row * a.heads + t.head + head;
        if (a.slots == 1) a.out[at * a.value_dim + e] = divisors[head] == 0.0f ? 0.0f : sum / divisors[head];
        else a.partial[(at * a.slots + blockIdx.x) * a.value_dim + e] = sum;
    }
}

/* Blocks of threads that registers must allow a multiprocessor. */
constexpr int blocks_least(int dim, bool whole) { return dim > CHUNK_MOST || !whole ? 1 : 2; }

template <air_state_type TYPE, int DIM, bool WHOLE> __global__ void __launch_bounds__(THREADS, blocks_least(DIM, WHOLE)) attend(arguments a)
{
    typedef shape<TYPE, DIM, WHOLE> S;
    constexpr int SIZE = S::SIZE, CHUNKS = S::CHUNKS;
    AIR_SHARED(uint4, query, [DIM / STEP * AIR_CUDA_WARP]);
    AIR_SHARED(float, inverse, [HEADS]);
    AIR_SHARED(float, divisors, [HEADS]);
    AIR_SHARED(total, totals, [WARPS][HEADS]);
    AIR_SHARED(float4, shares_memory, [WARPS * HEADS * SIZE / 4]);
    float(*shares)[HEADS][SIZE] = (float(*)[HEADS][SIZE])shares_memory;
    air_let_next_begin();
    air_await_previous();
    task t = task_of(a);
    int end = min((t.part + 1) * (int)PART_TILES, (t.seen.hi + AIR_STATE_TILE - 1) / AIR_STATE_TILE);
    if (t.part * PART_TILES >= end) return;
    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP;
    int tile = t.part * PART_TILES + warp, first = t.seen.lo / AIR_STATE_TILE;
    if (tile < first) tile += (first - tile + WARPS - 1) / WARPS * WARPS;

    work<S> w;
    begin_tiles<S>(a, t, tile, end, lane, w);
    load_query<DIM>(a, t, query, inverse);
    __syncthreads();
    add_tiles<S>(a, t, tile, end, query, inverse[lane / 4], lane, w);

    w.all.sum += __shfl_xor_sync(AIR_CUDA_ALL_LANES, w.all.sum, 1);
    w.all.sum += __shfl_xor_sync(AIR_CUDA_ALL_LANES, w.all.sum, 2);
    if (lane % 4 == 0) totals[warp][lane / 4] = w.all;
    __syncthreads();
    if ((int)threadIdx.x < t.heads) write_total(a, t, (int)threadIdx.x, join_totals(totals, (int)threadIdx.x), divisors);
    float by[2];
    AIR_CUDA_UNROLL
    for (int i = 0; i < 2; i++) by[i] = share_of(totals, warp, lane % 4 * 2 + i) * (TYPE == AIR_STATE_F16 ? 1.0f / (1 << WEIGHTS) : 1.0f);
    AIR_CUDA_UNROLL
    for (int c = 0; c < CHUNKS; c++) {
        if (c) __syncthreads();
        write_shares<TYPE, SIZE>(w.out + c * SIZE / 16, by, t.heads, lane, shares[warp]);
        __syncthreads();
        write_sums<SIZE>(a, t, shares, c * SIZE, divisors);
    }
}

/* --- launching --- */

typedef void (*kernel)(arguments);

template <air_state_type TYPE, int DIM> kernel kernel_of(int key_dim, int value_row)
{
    return key_dim == DIM && value_row == DIM ? attend<TYPE, DIM, true> : attend<TYPE, DIM, false>;
}

template <air_state_type TYPE> kernel kernel_for(int key_dim, int value_row)
{
    int dim = key_dim > value_row ? key_dim : value_row;
    return dim <= 64 ? kernel_of<TYPE, 64>(key_dim, value_row)
        : dim <= 128 ? kernel_of<TYPE, 128>(key_dim, value_row) : kernel_of<TYPE, DIM_MOST>(key_dim, value_row);
}

} // namespace

cudaError_t air_cuda_decode_takes(air_state_type type, int64_t key_dim, int64_t value_dim, bool *takes)
{
    *takes = (type == AIR_STATE_F16 || type == AIR_STATE_Q8_0) && key_dim % STEP == 0 && key_dim <= DIM_MOST && value_dim <= DIM_MOST;
    return *takes ? air_compiled_at_least((const void *)kernel_for<AIR_STATE_F16>(DIM_MOST, DIM_MOST), 75, takes) : cudaSuccess;
}

cudaError_t air_cuda_attend_decode(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream)
{
    int group = a->heads / a->kv_heads, row = a->sizes.value_row;
    int64_t y = (int64_t)a->kv_heads * ((group + HEADS - 1) / HEADS);
    if (y > AIR_CUDA_GRID_MOST) return cudaErrorInvalidValue;
    kernel attend = type == AIR_STATE_F16 ? kernel_for<AIR_STATE_F16>(a->key_dim, row) : kernel_for<AIR_STATE_Q8_0>(a->key_dim, row);
    return air_launch_early(attend, dim3((unsigned)a->slots, (unsigned)y, (unsigned)a->rows), dim3(THREADS), 0, stream, *a);
}
