/* Attention over a compressed state (multi-head latent attention, arXiv 2405.04434), on tensor cores (m16n8k16 on halves, sums in float; from
 * sm_75). Dozens of heads share one head of keys, whose first elements are their values: so for each number of the state there are two
 * hundred multiply-adds and more, and arithmetic counts as much as memory.
 *
 * A block of threads takes up to 64 queries of one K/V head, and one part of the positions, 32 at a time. Their keys come to shared memory
 * once, for scores and as values, and the next ones, if they are halves, to registers meanwhile.
 *
 *     shared memory   Q [query][element, padded by 8]   K [tile of 16][element][16 positions]   S [query][32 positions, padded by 8]
 *
 *     scores   a warp has 16 rows of Q, and 8 or 16 of the positions: S = Q K, K read by transposing loads
 *     softmax  the warps that share rows of Q each take all of their scores from S, and hold the weights just where P V wants them
 *     values   O += P V for a half or a quarter of the elements, V = K read as it lies
 *
 * DECODE: queries and weights are sums of two halves, so that nothing is lost to float: of a warp's 16 rows, 8 are heads' high halves and 8
 * their low ones, and results of both are added up. PROMPT: rows are 16 queries, rows of the prompt by the heads that share its keys.
 *
 * How many queries a block takes shows in no bit: each is added up on its own, positions in steps counted from 0 on. */
#include "cuda/attention.cuh"

namespace {

using arguments = air_cuda_attention_arguments;
using total = air_cuda_total;
using span = air_cuda_span;

enum {
    ROWS = 16,    /* of an mma */
    COLUMNS = 8,  /* likewise */
    CHUNK = 8,    /* halves that are moved at once: positions of an element */
    STEP = 32,    /* positions */
    TILES = STEP / AIR_STATE_TILE,
    BLOCK_STEPS = AIR_BLOCK_POSITIONS / STEP,
    SCORES = STEP + 8, /* floats of S from one query's to the next's */
    KEYS_MOST = 576,
    VALUES_MOST = 512,
    WEIGHTS = 14, /* weights are times 2^WEIGHTS */
};

/* What a kernel is compiled for: so many times 16 rows of Q, which as many warps share as there are parts of the values. */
template <int M_, bool SPLIT_> struct shape {
    static constexpr int M = M_, PARTS = M == 4 ? 2 : 4, THREADS = M * PARTS * AIR_CUDA_WARP;
    static constexpr bool SPLIT = SPLIT_;                              /* numbers are sums of two halves */
    static constexpr int EACH = SPLIT ? ROWS / 2 : ROWS, QUERIES = M * EACH; /* of a warp, of a block */
    static constexpr int OF_LANE = EACH / 8;                           /* queries: lane / 4, and 8 more */
    static constexpr int VALUES = VALUES_MOST / PARTS / COLUMNS;       /* groups of columns of a warp */
    static constexpr int CHUNKS = (STEP / CHUNK * KEYS_MOST + THREADS - 1) / THREADS;
};

struct places {
    uint16_t *q, *k;
    float *s;
    int q_row; /* halves */
};

/* Bytes; S has room for 16 queries to a warp. */
__host__ __device__ __forceinline__ int bytes_of_q(int m, int key_dim) { return m * ROWS * (key_dim + CHUNK) * (int)sizeof(uint16_t); }
__host__ __device__ __forceinline__ int bytes_of_k(int key_dim) { return STEP * key_dim * (int)sizeof(uint16_t); }
int shared_bytes(int m, int key_dim) { return bytes_of_q(m, key_dim) + bytes_of_k(key_dim) + m * ROWS * SCORES * (int)sizeof(float); }

__device__ __forceinline__ places places_of(const arguments &a, int m, uint8_t *memory)
{
    uint8_t *k = memory + bytes_of_q(m, a.key_dim);
    return {(uint16_t *)memory, (uint16_t *)k, (float *)(k + bytes_of_k(a.key_dim)), a.key_dim + CHUNK};
}

/* Of K, where the 8 positions of a half of an element's 16 are, element counted over the tiles: eight elements' in different banks. What is
 * a multiple of eight elements further on, as tiles are, is so many times AIR_STATE_TILE further on. */
__device__ __forceinline__ uint16_t *place_of_keys(const places &s, int element, int which)
{
    return s.k + element * AIR_STATE_TILE + (which ^ (element >> 2 & 1)) * CHUNK;
}

__device__ __forceinline__ unsigned pair_of(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* --- what a block of threads works on: queries counted over rows and the heads that share a K/V head --- */

struct task {
    int first, end; /* queries */
    int row;        /* of the first */
    int part, lo, hi;
    span seen;      /* by any of its rows */
};

template <class S> __device__ __forceinline__ task task_of(const arguments &a)
{
    int group = a.heads / a.kv_heads, x = (int)blockIdx.x;
    task t;
    if (S::SPLIT) { /* of one row alone */
        int blocks = (group + S::QUERIES - 1) / S::QUERIES, row = x / blocks;
        t.first = row * group + x % blocks * S::QUERIES;
        t.end = min(t.first + S::QUERIES, (row + 1) * group);
    } else { /* the last ones come first: they see most and take longest */
        t.first = (int)(gridDim.x - 1 - blockIdx.x) * S::QUERIES;
        t.end = min(t.first + S::QUERIES, a.rows * group);
    }
    t.row = t.first / group;
    t.seen = {air_cuda_seen_by(a, t.row).lo, air_cuda_seen_by(a, (t.end - 1) / group).hi};
    t.part = t.seen.lo / a.part + (int)blockIdx.z;
    t.lo = max(t.seen.lo, t.part * a.part);
    t.hi = min(t.seen.hi, (t.part + 1) * a.part);
    return t;
}

/* --- loads --- */

/* The power of two that brings the greatest of some numbers to 2^13 to 2^14, where halves are most exact; 1 where it is 0 or none. */
__device__ __forceinline__ int power_for(float most)
{
    int exponent = (int)(__float_as_uint(most) >> 23) - 127;
    if (!(most > 0.0f) || exponent == 128) return 0;
    return min(13 - exponent, 126);
}

__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

/* A warp for each query, scaled; inverse: what its scores are to be multiplied by. Zeros for queries there are not. */
template <class S> __device__ __forceinline__ void load_queries(const arguments &a, const task &t, const places &s, float *inverse)
{
    int group = a.heads / a.kv_heads, warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP;
    for (int i = warp; i < S::QUERIES; i += S::THREADS / AIR_CUDA_WARP) {
        int query = min(t.first + i, t.end - 1), head = (int)blockIdx.y * group + query % group;
        const float *from = a.q + ((size_t)(query / group) * a.heads + head) * a.key_dim;
        float x[KEYS_MOST / AIR_CUDA_WARP], most = 0.0f;
        AIR_CUDA_UNROLL
        for (int n = 0; n < KEYS_MOST / AIR_CUDA_WARP; n++) {
            int e = n * AIR_CUDA_WARP + lane;
            x[n] = e < a.key_dim && t.first + i < t.end ? from[e] * a.scale : 0.0f;
            most = fmaxf(most, fabsf(x[n]));
        }
        int power = power_for(air_lanes_max(most));
        float up = power_of_two(power);
        if (lane == 0) inverse[i] = power_of_two(-power);
        uint16_t *to = s.q + (i / S::EACH * ROWS + i % S::EACH) * s.q_row;
        AIR_CUDA_UNROLL
        for (int n = 0; n < KEYS_MOST / AIR_CUDA_WARP; n++) {
            int e = n * AIR_CUDA_WARP + lane;
            if (e >= a.key_dim) break;
            to[e] = air_float_to_half(x[n] * up);
            if (S::SPLIT) to[S::EACH * s.q_row + e] = air_float_to_half(x[n] * up - air_half_to_float(to[e]));
        }
    }
}

/* Zeros where none of the rows sees a position: nothing may have been stored there, and what there is may be NaN, which no weight of zero
 * hides. first: the first of eight. */
__device__ __forceinline__ uint4 only_seen(uint4 x, span seen, int first)
{
    if (first >= seen.lo && first + CHUNK <= seen.hi) return x;
    unsigned words[4] = {x.x, x.y, x.z, x.w};
    AIR_CUDA_UNROLL
    for (int i = 0; i < CHUNK; i++)
        if (first + i < seen.lo || first + i >= seen.hi) words[i / 2] &= i % 2 ? 0x0000ffffu : 0xffff0000u;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ const uint8_t *keys_of(const arguments &a, const task &t, int step)
{
    return air_cuda_block(a, t.row, step / BLOCK_STEPS) + a.k_offset + blockIdx.y * a.sizes.k_head;
}

/* Of a step, the first position of chunk c: chunks are eight positions of an element, counted over the tiles. */
__device__ __forceinline__ int position_of(const arguments &a, int step, int c)
{
    return step * STEP + (c >= 2 * a.key_dim) * AIR_STATE_TILE + c % 2 * CHUNK;
}

/* F16: on their way to registers, which nothing waits for yet; and from there. */
template <class S> __device__ __forceinline__ void fetch_keys(const arguments &a, const task &t, int step, uint4 keys[S::CHUNKS])
{
    const uint4 *from = (const uint4 *)keys_of(a, t, step) + step % BLOCK_STEPS * TILES * a.key_dim * 2;
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::CHUNKS; i++) {
        int c = (int)threadIdx.x + i * S::THREADS;
        if (c < STEP / CHUNK * a.key_dim) keys[i] = __ldg(from + c);
    }
}

template <class S> __device__ __forceinline__ void put_keys(const arguments &a, const task &t, int step, const uint4 keys[S::CHUNKS], const places &s)
{
    uint16_t *to = place_of_keys(s, (int)threadIdx.x / 2, (int)threadIdx.x % 2);
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::CHUNKS; i++) {
        int c = (int)threadIdx.x + i * S::THREADS;
        if (c < STEP / CHUNK * a.key_dim) *(uint4 *)(to + i * (S::THREADS * CHUNK)) = only_seen(keys[i], t.seen, position_of(a, step, c));
    }
}

/* Of other types, made halves on the way, some at a time. */
template <air_state_type TYPE, class S> __device__ __forceinline__ void convert_keys(const arguments &a, const task &t, int step, const places &s)
{
    const uint8_t *k = keys_of(a, t, step);
    AIR_CUDA_UNROLL_BY(2)
    for (int c = (int)threadIdx.x; c < STEP / CHUNK * a.key_dim; c += S::THREADS) {
        float x[CHUNK];
        int tile = c >= 2 * a.key_dim, position = (step % BLOCK_STEPS * TILES + tile) * AIR_STATE_TILE + c % 2 * CHUNK;
        air_load_keys<TYPE>(k, a.sizes.k_scales, a.key_dim, position, c / 2 - tile * a.key_dim, x);
        uint4 keys = make_uint4(pair_of(x[0], x[1]), pair_of(x[2], x[3]), pair_of(x[4], x[5]), pair_of(x[6], x[7]));
        *(uint4 *)place_of_keys(s, c / 2, c % 2) = only_seen(keys, t.seen, position_of(a, step, c));
    }
}

/* --- of a warp: rows 16 m to 16 m + 15 of Q, and part `part` of the positions, then of the values --- */

/* Scores to S. Even and odd steps along the elements have sums of their own, so that one need not wait for the other. */
template <class S> __device__ __forceinline__ void multiply_keys(const arguments &a, const places &s, int m, int part, int lane)
{
    constexpr int GROUPS = STEP / COLUMNS / S::PARTS;
    const uint16_t *q = s.q + (m * ROWS + lane % 16) * s.q_row + lane / 16 * CHUNK, *k[GROUPS];
    float sum[GROUPS][2][4] = {};
    AIR_CUDA_UNROLL
    for (int g = 0; g < GROUPS; g++)
        k[g] = place_of_keys(s, lane, (part * GROUPS + g) % 2) + (part * GROUPS + g) / 2 * a.key_dim * AIR_STATE_TILE;
    AIR_CUDA_UNROLL_BY(2)
    for (int e = 0; e < a.key_dim; e += 32) {
        unsigned of_q[2][4];
        air_ldmatrix_x4(of_q[0], q + e);
        air_ldmatrix_x4(of_q[1], q + e + 16);
        AIR_CUDA_UNROLL
        for (int g = 0; g < GROUPS; g++) {
            unsigned of_k[4];
            air_ldmatrix_x4_trans(of_k, k[g] + e * AIR_STATE_TILE);
            air_mma_m16n8k16(sum[g][0], of_q[0], of_k);
            air_mma_m16n8k16(sum[g][1], of_q[1], of_k + 2);
        }
    }
    AIR_CUDA_UNROLL
    for (int g = 0; g < GROUPS; g++) {
        float x[4], *to = s.s + (m * S::EACH + lane / 4) * SCORES + (part * GROUPS + g) * COLUMNS + lane % 4 * 2;
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) x[i] = sum[g][0][i] + sum[g][1][i];
        if (S::SPLIT) {
            *(float2 *)to = make_float2(x[0] + x[2], x[1] + x[3]);
        } else {
            *(float2 *)to = make_float2(x[0], x[1]);
            *(float2 *)(to + 8 * SCORES) = make_float2(x[2], x[3]);
        }
    }
}

/* One of a lane's queries: positions 2 * (lane % 4) and the next of each eight are its own. */
struct query {
    int number; /* t.end or more: there is none */
    span seen;
    float inverse;
    total all;     /* sum: of this lane's positions */
};

template <class S>
__device__ __forceinline__ query query_of(const arguments &a, const task &t, int i, const float *inverse)
{
    query q = {t.first + i, {0, 0}, inverse[i], {-INFINITY, 0.0f}};
    if (q.number < t.end) q.seen = air_cuda_seen_by(a, q.number / (a.heads / a.kv_heads));
    return q;
}

/* Scores of a query to weights; `high` gets them as halves, `low` what these leave over. What there was is to be multiplied by what is
 * returned. */
template <class S>
__device__ __forceinline__ float weights_of(const float *scores, int start, int lane, query *q, unsigned high[STEP / COLUMNS],
                                            unsigned low[STEP / COLUMNS])
{
    float x[STEP / COLUMNS][2], most = q->all.max, sum = 0.0f;
    AIR_CUDA_UNROLL
    for (int g = 0; g < STEP / COLUMNS; g++) {
        float2 two = *(const float2 *)(scores + g * COLUMNS + lane % 4 * 2);
        x[g][0] = two.x * q->inverse, x[g][1] = two.y * q->inverse;
        AIR_CUDA_UNROLL
        for (int j = 0; j < 2; j++) {
            int position = start + g * COLUMNS + lane % 4 * 2 + j;
            if (position < q->seen.lo || position >= q->seen.hi) x[g][j] = -INFINITY;
            most = fmaxf(most, x[g][j]);
        }
    }
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, 2));
    float from = most == -INFINITY ? 0.0f : most, correction = expf(q->all.max - from);
    AIR_CUDA_UNROLL
    for (int g = 0; g < STEP / COLUMNS; g++) {
        float p[2] = {expf(x[g][0] - from) * (float)(1 << WEIGHTS), expf(x[g][1] - from) * (float)(1 << WEIGHTS)};
        high[g] = pair_of(p[0], p[1]);
        float2 rounded = air_half2_to_floats(high[g]);
        if (S::SPLIT) low[g] = pair_of(p[0] - rounded.x, p[1] - rounded.y);
        sum += S::SPLIT ? p[0] + p[1] : rounded.x + rounded.y;
    }
    q->all = {most, fmaf(q->all.sum, correction, sum)};
    return correction;
}

/* Elements from 8 VALUES * part on, two groups of columns at a time. */
template <class S>
__device__ __forceinline__ void add_values(const arguments &a, const places &s, const unsigned weights[2][STEP / COLUMNS], int part, int lane,
                                           float out[S::VALUES][4])
{
    int first = part * S::VALUES * COLUMNS;
    const uint16_t *v = place_of_keys(s, first + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    AIR_CUDA_UNROLL
    for (int tile = 0; tile < TILES; tile++) {
        const unsigned p[4] = {weights[0][2 * tile], weights[1][2 * tile], weights[0][2 * tile + 1], weights[1][2 * tile + 1]};
        AIR_CUDA_UNROLL
        for (int n = 0; n < S::VALUES; n += 2) {
            if (first + n * COLUMNS >= a.value_dim) break;
            unsigned of_v[4];
            air_ldmatrix_x4(of_v, v + tile * a.key_dim * AIR_STATE_TILE + n * (COLUMNS * AIR_STATE_TILE));
            air_mma_m16n8k16(out[n], p, of_v);
            air_mma_m16n8k16(out[n + 1], p, of_v + 2);
        }
    }
}

template <class S> __device__ __forceinline__ void correct(const float by[2], float out[S::VALUES][4])
{
    if (!__ballot_sync(AIR_CUDA_ALL_LANES, by[0] != 1.0f || by[1] != 1.0f)) return; /* seldom after the first steps */
    AIR_CUDA_UNROLL
    for (int n = 0; n < S::VALUES; n++) {
        out[n][0] *= by[0], out[n][1] *= by[0];
        out[n][2] *= by[1], out[n][3] *= by[1];
    }
}

/* One of a lane's queries to its part in scratch, if it has seen something of this one, or, where rows have but one, to where the merge
 * would leave it. All lanes come here. */
template <class S>
__device__ __forceinline__ void write_query(const arguments &a, const task &t, const query &q, int which, int part, int lane,
                                            const float out[S::VALUES][4])
{
    constexpr float DOWN = 1.0f / (1 << WEIGHTS);
    float sum = q.all.sum + __shfl_xor_sync(AIR_CUDA_ALL_LANES, q.all.sum, 1);
    sum = (sum + __shfl_xor_sync(AIR_CUDA_ALL_LANES, sum, 2)) * DOWN;
    int start = t.part * a.part, group = a.heads / a.kv_heads, which_head = (int)blockIdx.y * group + q.number % group;
    if (q.number >= t.end || q.seen.hi <= start || q.seen.lo >= start + a.part) return;
    size_t head = (size_t)(q.number / group) * a.heads + which_head, at = head * a.slots + (t.part - q.seen.lo / a.part);
    bool ends = a.slots == 1;
    float by = ends ? (a.sinks ? expf(a.sinks[which_head] - q.all.max) : 0.0f) + sum : 1.0f;
    if (!ends && part == 0 && lane % 4 == 0) a.totals[at] = {q.all.max, sum};
    float *to = ends ? a.out + head * a.value_dim : a.partial + at * a.value_dim;
    AIR_CUDA_UNROLL
    for (int n = 0; n < S::VALUES; n++) {
        int e = (part * S::VALUES + n) * COLUMNS + lane % 4 * 2;
        AIR_CUDA_UNROLL
        for (int j = 0; j < 2; j++) {
            float x = (S::SPLIT ? out[n][j] + out[n][2 + j] : out[n][2 * which + j]) * DOWN;
            if (e + j < a.value_dim) to[e + j] = by == 0.0f ? 0.0f : x / by;
        }
    }
}

template <air_state_type TYPE, int M, bool SPLIT>
__global__ void __launch_bounds__(shape<M, SPLIT>::THREADS, 1) attend(arguments a)
{
    typedef shape<M, SPLIT> S;
    AIR_DYN_SHARED(uint8_t, memory);
    AIR_SHARED(float, inverse, [S::QUERIES]);
    air_let_next_begin();
    air_await_previous();
    places s = places_of(a, M, memory);
    task t = task_of<S>(a);
    if (t.lo >= t.hi) return;
    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP, m = warp / S::PARTS, part = warp % S::PARTS;
    constexpr bool FETCHES = TYPE == AIR_STATE_F16;
    int step = t.lo / STEP, end = (t.hi - 1) / STEP + 1;
    uint4 keys[FETCHES ? S::CHUNKS : 1];
    if constexpr (FETCHES) fetch_keys<S>(a, t, step, keys);
    load_queries<S>(a, t, s, inverse);
    __syncthreads();
    float out[S::VALUES][4] = {};
    query queries[S::OF_LANE];
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::OF_LANE; i++) queries[i] = query_of<S>(a, t, m * S::EACH + lane / 4 + i * 8, inverse);
    for (; step < end; step++) {
        if constexpr (FETCHES) put_keys<S>(a, t, step, keys, s);
        else convert_keys<TYPE, S>(a, t, step, s);
        __syncthreads();
        if constexpr (FETCHES)
            if (step + 1 < end) fetch_keys<S>(a, t, step + 1, keys);
        multiply_keys<S>(a, s, m, part, lane);
        __syncthreads();
        unsigned weights[2][STEP / COLUMNS];
        float corrections[2];
        AIR_CUDA_UNROLL
        for (int i = 0; i < S::OF_LANE; i++) {
            const float *scores = s.s + (m * S::EACH + lane / 4 + i * 8) * SCORES;
            corrections[i] = weights_of<S>(scores, step * STEP, lane, &queries[i], weights[i], weights[1]);
        }
        if (S::SPLIT) corrections[1] = corrections[0];
        correct<S>(corrections, out);
        add_values<S>(a, s, weights, part, lane, out);
        __syncthreads();
    }
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::OF_LANE; i++) write_query<S>(a, t, queries[i], i, part, lane, out);
}

/* --- launching --- */

typedef void (*kernel)(arguments);

template <air_state_type TYPE, bool SPLIT> kernel kernel_for(int m)
{
    return m == 1 ? attend<TYPE, 1, SPLIT> : m == 2 ? attend<TYPE, 2, SPLIT> : attend<TYPE, 4, SPLIT>;
}

kernel kernel_of(air_state_type type, bool split, int m)
{
    if (split) return kernel_for<AIR_STATE_F16, true>(m);
    if (type == AIR_STATE_F16) return kernel_for<AIR_STATE_F16, false>(m);
    return type == AIR_STATE_Q8_0 ? kernel_for<AIR_STATE_Q8_0, false>(m) : kernel_for<AIR_STATE_Q4_0, false>(m);
}

cudaError_t most_shared(int *bytes)
{
    int device;
    cudaError_t error = cudaGetDevice(&device);
    return error == cudaSuccess ? cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) : error;
}

cudaError_t attend_with(air_state_type type, const arguments *a, bool split, cudaStream_t stream)
{
    enum { LITTLE = 1024 /* static shared memory, and what CUDA keeps */ };
    int group = a->heads / a->kv_heads, each = split ? ROWS / 2 : ROWS, m = 1, most = 0;
    int64_t queries = split ? group : (int64_t)a->rows * group;
    cudaError_t error = most_shared(&most);
    if (error) return error;
    while (m < 4 && m * each < queries && shared_bytes(2 * m, a->key_dim) + LITTLE <= most) m *= 2;
    int64_t blocks = (queries + m * each - 1) / (m * each) * (split ? a->rows : 1);
    /* The rows of a block of threads see parts that one of them alone may not. */
    int64_t seen = air_cuda_most_seen(a->window, a->ahead) + (split ? 0 : m * each - 1), parts = air_cuda_parts_seen(a->last, seen, a->part);
    if (blocks > INT32_MAX || a->kv_heads > AIR_CUDA_GRID_MOST || parts > AIR_CUDA_GRID_MOST) return cudaErrorInvalidValue;
    kernel attend = kernel_of(type, split, m);
    int shared = shared_bytes(m, a->key_dim);
    error = cudaFuncSetAttribute((const void *)attend, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error) return error;
    dim3 grid((unsigned)blocks, (unsigned)a->kv_heads, (unsigned)parts), threads(m == 1 ? shape<1, true>::THREADS : shape<4, true>::THREADS);
    return air_launch_early(attend, grid, threads, (size_t)shared, stream, *a);
}

} // namespace

cudaError_t air_cuda_latent_takes(const air_cuda_attention *a, bool *takes)
{
    const air_cuda_state *s = &a->state;
    int most = 0;
    bool types = s->type == AIR_STATE_F16 || (a->role == AIR_CUDA_PROMPT && s->type != AIR_STATE_F32);
    *takes = types && s->key_dim % 32 == 0 && s->key_dim <= KEYS_MOST && s->value_dim <= VALUES_MOST && !a->slopes && a->softcap == 0.0f;
    cudaError_t error = *takes ? most_shared(&most) : cudaSuccess;
    if (error) return error;
    *takes = *takes && shared_bytes(1, (int)s->key_dim) + 1024 <= most;
    return *takes ? air_compiled_at_least((const void *)kernel_for<AIR_STATE_F16, true>(4), 75, takes) : cudaSuccess;
}

cudaError_t air_cuda_attend_latent_decode(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream)
{
    return attend_with(type, a, true, stream);
}

cudaError_t air_cuda_attend_latent_prompt(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream)
{
    return attend_with(type, a, false, stream);
}
