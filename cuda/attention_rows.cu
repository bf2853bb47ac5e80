/* Attention over blocks of state, one row at a time, in float: for decoding, where a row reads all of its sequence's state once, of what
 * attention_decode.cu does not take.
 *
 * A block of threads takes one part of one K/V head for up to eight query heads that share it, so that K and V are read once for all
 * of them; each of its four warps takes a block of 64 positions by itself, with a softmax of its own:
 *
 *     scores   a lane loads 16 bytes of K (F16): 8 positions of element e; lanes 2i and 2i + 1 have the 16 of a tile, the next lanes
 *              the next elements. A warp reads 512 bytes that follow each other, four times before it has to wait. What 16 lanes have
 *              summed up over their elements is then added across them.
 *     softmax  over the 64 positions, two for each lane
 *     values   a lane loads 8 elements of V of one position, the lanes after a row's last the next position, and so on; where values are in
 *              keys, 8 elements of 8 positions
 *
 * The four warps' results, each with its maximum m and sum l, are brought to one maximum, added up in order and left in scratch, not
 * yet divided by l. Nothing depends on other rows: neither do the bits. */
#include "cuda/attention.cuh"

namespace {

using arguments = air_cuda_attention_arguments;
using total = air_cuda_total;
using span = air_cuda_span;

enum {
    WARPS = AIR_CUDA_ROWS_PART / AIR_BLOCK_POSITIONS,
    THREADS = WARPS * AIR_CUDA_WARP,
    SLICE = AIR_CUDA_WARP * AIR_CUDA_EIGHT, /* elements of V that a warp can take; more take a block of threads each */
    STREAMS = AIR_CUDA_WARP / 2,            /* lanes that share positions of K */
    HEADS_MOST = 8,
};

/* Those of a block that are seen, counted from its start; none where lo >= hi. */
__device__ __forceinline__ span within_block(span seen, int block)
{
    int start = block * AIR_BLOCK_POSITIONS;
    return {max(seen.lo - start, 0), min(seen.hi - start, (int)AIR_BLOCK_POSITIONS)};
}

/* --- of a warp --- */

/* A number for each head from shared memory, which is aligned to so many. */
template <int HEADS> __device__ __forceinline__ void load_heads(const float *from, float to[HEADS])
{
    if constexpr (HEADS % 4 == 0) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < HEADS; i += 4) {
            float4 x = *(const float4 *)(from + i);
            to[i] = x.x, to[i + 1] = x.y, to[i + 2] = x.z, to[i + 3] = x.w;
        }
    } else {
        AIR_CUDA_UNROLL
        for (int i = 0; i < HEADS; i++) to[i] = from[i];
    }
}

template <int HEADS> __device__ __forceinline__ void store_heads(float *to, const float from[HEADS])
{
    if constexpr (HEADS % 4 == 0) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < HEADS; i += 4)
            *(float4 *)(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    } else {
        AIR_CUDA_UNROLL
        for (int i = 0; i < HEADS; i++) to[i] = from[i];
    }
}

/* Adds up what the 16 lanes of the same parity hold. Each time a lane gives half of its positions away and is given the other lane's
 * half of its own, so that sum[h][0] ends as the sum of one position: which_of_eight. */
template <int HEADS> __device__ __forceinline__ void add_across(float sum[HEADS][AIR_CUDA_EIGHT], int lane)
{
    AIR_CUDA_UNROLL
    for (int step = 0; step < 3; step++) {
        int apart = 16 >> step, kept = 4 >> step;
        bool upper = (lane & apart) != 0;
        AIR_CUDA_UNROLL
        for (int h = 0; h < HEADS; h++) {
            AIR_CUDA_UNROLL
            for (int i = 0; i < kept; i++) {
                float give = upper ? sum[h][i] : sum[h][i + kept], keep = upper ? sum[h][i + kept] : sum[h][i];
                sum[h][i] = keep + __shfl_xor_sync(AIR_CUDA_ALL_LANES, give, apart);
            }
        }
    }
    AIR_CUDA_UNROLL
    for (int h = 0; h < HEADS; h++) sum[h][0] += __shfl_xor_sync(AIR_CUDA_ALL_LANES, sum[h][0], 2);
}

__device__ __forceinline__ int which_of_eight(int lane) { return (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1); }

/* p[position][head] = q[head] . k[position], in the tiles that have a position in the span. q: [element][head], scaled. */
template <air_state_type TYPE, int HEADS>
__device__ __forceinline__ void scores(const arguments &a, const uint8_t *k, const float *q, span at, float *p, int lane)
{
    for (int tile = at.lo / AIR_STATE_TILE * AIR_STATE_TILE; tile < at.hi; tile += AIR_STATE_TILE) {
        int position = tile + lane % 2 * AIR_CUDA_EIGHT;
        float sum[HEADS][AIR_CUDA_EIGHT] = {};
        AIR_CUDA_UNROLL_BY(4)
        for (int e = lane / 2; e < a.key_dim; e += STREAMS) {
            float x[AIR_CUDA_EIGHT], w[HEADS];
            air_load_keys<TYPE>(k, a.sizes.k_scales, a.key_dim, position, e, x);
            load_heads<HEADS>(q + e * HEADS, w);
            AIR_CUDA_UNROLL
            for (int h = 0; h < HEADS; h++) {
                AIR_CUDA_UNROLL
                for (int i = 0; i < AIR_CUDA_EIGHT; i++) sum[h][i] = fmaf(w[h], x[i], sum[h][i]);
            }
        }
        add_across<HEADS>(sum, lane);
        float mine[HEADS];
        AIR_CUDA_UNROLL
        for (int h = 0; h < HEADS; h++) mine[h] = sum[h][0];
        if ((lane & 2) == 0) store_heads<HEADS>(p + (position + which_of_eight(lane)) * HEADS, mine);
    }
    __syncwarp();
}

/* Scores to exponents, where a position is seen, and the heads' totals. slopes: of the first head, or NULL; back: from the block's start to
 * the row's position. */
template <int HEADS>
__device__ __forceinline__ void softmax(const arguments &a, span at, const float *slopes, int heads, int back, float *p, total *totals,
                                        int lane)
{
    float low[HEADS], high[HEADS];
    int above = lane + AIR_CUDA_WARP;
    bool low_seen = lane >= at.lo && lane < at.hi, high_seen = above >= at.lo && above < at.hi;
    load_heads<HEADS>(p + lane * HEADS, low);
    load_heads<HEADS>(p + above * HEADS, high);
    AIR_CUDA_UNROLL
    for (int h = 0; h < HEADS; h++) {
        if (slopes && h < heads) low[h] -= slopes[h] * (float)abs(lane - back), high[h] -= slopes[h] * (float)abs(above - back);
        if (a.softcap != 0.0f) low[h] = a.softcap * tanhf(low[h] / a.softcap), high[h] = a.softcap * tanhf(high[h] / a.softcap);
        float most = air_lanes_max(fmaxf(low_seen ? low[h] : -INFINITY, high_seen ? high[h] : -INFINITY));
        low[h] = low_seen ? expf(low[h] - most) : 0.0f;
        high[h] = high_seen ? expf(high[h] - most) : 0.0f;
        float sum = air_lanes_sum(low[h] + high[h]);
        if (lane == 0) totals[h] = {most, sum};
    }
    store_heads<HEADS>(p + lane * HEADS, low);
    store_heads<HEADS>(p + above * HEADS, high);
    __syncwarp();
}

/* How the lanes of a warp take the elements of a slice of V: eight each, as many positions at a time as there is room for. */
struct value_lanes {
    int element; /* of the row of V */
    int first;   /* position */
    int at_once; /* positions; first is no less for a lane that has nothing to do */
};

__device__ __forceinline__ value_lanes lanes_of(int slice_width, int slice, int lane)
{
    int lanes = slice_width / AIR_CUDA_EIGHT;
    return {slice * SLICE + lane % lanes * AIR_CUDA_EIGHT, lane / lanes, AIR_CUDA_WARP / lanes};
}

/* out[head] += p[position][head] v[position], over the positions of this lane. */
template <air_state_type TYPE, int HEADS>
__device__ __forceinline__ void add_values(const arguments &a, const uint8_t *v, const float *p, span at, value_lanes mine,
                                           float out[HEADS][AIR_CUDA_EIGHT])
{
    if (mine.first >= mine.at_once) return;
    AIR_CUDA_UNROLL_BY(4)
    for (int position = at.lo + mine.first; position < at.hi; position += mine.at_once) {
        float x[AIR_CUDA_EIGHT], w[HEADS];
        air_load_values<TYPE>(v, a.sizes.v_scales, a.sizes.value_row, position, mine.element, x);
        load_heads<HEADS>(p + position * HEADS, w);
        AIR_CUDA_UNROLL
        for (int h = 0; h < HEADS; h++) {
            AIR_CUDA_UNROLL
            for (int i = 0; i < AIR_CUDA_EIGHT; i++) out[h][i] = fmaf(w[h], x[i], out[h][i]);
        }
    }
}

/* Of values in keys the same: a lane has eight positions of its elements at a time, those of a block dealt to the lanes that share elements. */
template <air_state_type TYPE, int HEADS>
__device__ __forceinline__ void add_keys(const arguments &a, const uint8_t *k, const float *p, span at, value_lanes mine,
                                         float out[HEADS][AIR_CUDA_EIGHT])
{
    if (mine.first >= mine.at_once) return;
    int begin = at.lo / AIR_CUDA_EIGHT + mine.first;
    for (int position = begin * AIR_CUDA_EIGHT; position < at.hi; position += mine.at_once * AIR_CUDA_EIGHT) {
        float x[AIR_CUDA_EIGHT][AIR_CUDA_EIGHT] = {}; /* [element][position] */
        AIR_CUDA_UNROLL
        for (int j = 0; j < AIR_CUDA_EIGHT; j++)
            if (mine.element + j < a.value_dim) air_load_keys<TYPE>(k, a.sizes.k_scales, a.key_dim, position, mine.element + j, x[j]);
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_EIGHT; i++) {
            float w[HEADS];
            bool seen = position + i >= at.lo && position + i < at.hi; /* else it may be NaN, which no weight of zero hides */
            load_heads<HEADS>(p + (position + i) * HEADS, w);
            AIR_CUDA_UNROLL
            for (int j = 0; j < AIR_CUDA_EIGHT; j++) {
                float value = seen ? x[j][i] : 0.0f;
                AIR_CUDA_UNROLL
                for (int h = 0; h < HEADS; h++) out[h][j] = fmaf(w[h], value, out[h][j]);
            }
        }
    }
}

/* --- of a block of threads --- */

/* What a block of threads works on. */
struct task {
    int row, kv_head, head, heads, slice, part;
    span seen;
};

__host__ __device__ __forceinline__ int slices_of(int value_row) { return (value_row + SLICE - 1) / SLICE; }

template <int HEADS> __device__ __forceinline__ task task_of(const arguments &a)
{
    int group = a.heads / a.kv_heads, splits = (group + HEADS - 1) / HEADS, slices = slices_of(a.sizes.value_row), y = (int)blockIdx.y;
    int split = y / slices % splits;
    task t;
    t.row = (int)blockIdx.z;
    t.kv_head = y / slices / splits;
    t.slice = y % slices;
    t.head = t.kv_head * group + split * HEADS;
    t.heads = min(HEADS, group - split * HEADS);
    t.seen = air_cuda_seen_by(a, t.row);
    t.part = t.seen.lo / AIR_CUDA_ROWS_PART + (int)blockIdx.x;
    return t;
}

/* q[element][head], scaled; zeros for heads there are not. */
template <int HEADS> __device__ __forceinline__ void load_query(const arguments &a, const task &t, float *q)
{
    const float *from = a.q + ((size_t)t.row * a.heads + t.head) * a.key_dim;
    for (int h = 0; h < HEADS; h++)
        for (int e = (int)threadIdx.x; e < a.key_dim; e += THREADS)
            q[e * HEADS + h] = h < t.heads ? from[(size_t)h * a.key_dim + e] * a.scale : 0.0f;
}

/* The warps' totals of a head as one; weight: what this warp's share counts. A warp that saw nothing counts nothing, though what there
 * is to see be infinite. */
__device__ __forceinline__ total join_totals(const total *totals, int apart, unsigned saw, int warp, float *weight)
{
    total all = {-INFINITY, 0.0f};
    for (int w = 0; w < WARPS; w++)
        if (saw >> w & 1u) all.max = fmaxf(all.max, totals[w * apart].max);
    for (int w = 0; w < WARPS; w++) {
        float each = saw >> w & 1u ? expf(totals[w * apart].max - all.max) : 0.0f;
        if (saw >> w & 1u) all.sum = fmaf(totals[w * apart].sum, each, all.sum);
        if (w == warp) *weight = each;
    }
    return all;
}

/* Which of the block's warps had positions to see, a bit each. */
__device__ __forceinline__ unsigned warps_that_saw(const task &t)
{
    unsigned saw = 0;
    for (int w = 0; w < WARPS; w++) {
        span at = within_block(t.seen, t.part * WARPS + w);
        if (at.lo < at.hi) saw |= 1u << w;
    }
    return saw;
}

/* The warps' shares of a head, added up in order: warp by warp, in it position by position of those taken at once. */
__device__ __forceinline__ void write_head(const arguments &a, const task &t, int head, total all, const float *shares, int width)
{
    size_t at = ((size_t)t.row * a.heads + head) * a.slots + blockIdx.x;
    int at_once = SLICE / width, end = min(width, a.value_dim - t.slice * SLICE);
    if (threadIdx.x == 0 && t.slice == 0) a.totals[at] = all;
    for (int i = (int)threadIdx.x; i < end; i += THREADS) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++)
            for (int p = 0; p < at_once; p++) sum += shares[w * SLICE + p * width + i];
        a.partial[at * a.value_dim + t.slice * SLICE + i] = sum;
    }
}

/* Blocks of threads that registers must allow a multiprocessor: as many as leave enough of them to spill nothing. */
constexpr int blocks_least(int heads) { return heads == 8 ? 2 : heads == 4 ? 3 : 6; }

template <air_state_type TYPE, int HEADS, bool IN_KEYS>
__global__ void __launch_bounds__(THREADS, IN_KEYS ? 1 : blocks_least(HEADS)) attend(arguments a)
{
    AIR_DYN_SHARED(float, q); /* [key_dim][HEADS] */
    AIR_SHARED(float4, p_memory, [WARPS * AIR_BLOCK_POSITIONS * HEADS / 4]);
    AIR_SHARED(float4, shares, [WARPS * SLICE / 4]);
    AIR_SHARED(total, totals, [WARPS * HEADS]);
    air_let_next_begin();
    air_await_previous();
    task t = task_of<HEADS>(a);
    if (t.part * AIR_CUDA_ROWS_PART >= t.seen.hi) return;
    load_query<HEADS>(a, t, q);
    __syncthreads();

    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP;
    int block = t.part * WARPS + warp, width = min((int)SLICE, a.sizes.value_row - t.slice * SLICE);
    span at = within_block(t.seen, block);
    float out[HEADS][AIR_CUDA_EIGHT] = {};
    if (at.lo < at.hi) {
        float *p = (float *)p_memory + warp * AIR_BLOCK_POSITIONS * HEADS;
        const uint8_t *base = air_cuda_block(a, t.row, block), *k = base + a.k_offset + t.kv_head * a.sizes.k_head;
        scores<TYPE, HEADS>(a, k, q, at, p, lane);
        const float *slopes = a.slopes ? a.slopes + t.head : nullptr;
        softmax<HEADS>(a, at, slopes, t.heads, a.positions[t.row] - block * AIR_BLOCK_POSITIONS, p, totals + warp * HEADS, lane);
        value_lanes mine = lanes_of(width, t.slice, lane);
        if constexpr (IN_KEYS) add_keys<TYPE, HEADS>(a, k, p, at, mine, out);
        else add_values<TYPE, HEADS>(a, base + a.v_offset + t.kv_head * a.sizes.v_head, p, at, mine, out);
    }

    unsigned saw = warps_that_saw(t);
    AIR_CUDA_UNROLL
    for (int h = 0; h < HEADS; h++) {
        __syncthreads();
        if (h >= t.heads) continue;
        float weight = 0.0f;
        total all = join_totals(totals + h, HEADS, saw, warp, &weight);
        float4 *mine = shares + threadIdx.x * 2;
        mine[0] = make_float4(out[h][0] * weight, out[h][1] * weight, out[h][2] * weight, out[h][3] * weight);
        mine[1] = make_float4(out[h][4] * weight, out[h][5] * weight, out[h][6] * weight, out[h][7] * weight);
        __syncthreads();
        write_head(a, t, t.head + h, all, (const float *)shares, width);
    }
}

/* --- launching --- */

typedef void (*kernel)(arguments);

/* Where values are in keys there are many heads to a group. */
template <air_state_type TYPE> kernel kernel_for(int heads, bool in_keys)
{
    if (in_keys) return attend<TYPE, HEADS_MOST, true>;
    return heads == 1 ? attend<TYPE, 1, false> : heads == 2 ? attend<TYPE, 2, false> : heads == 4 ? attend<TYPE, 4, false>
                                                                                                : attend<TYPE, HEADS_MOST, false>;
}

kernel kernel_of(air_state_type type, int heads, bool in_keys)
{
    if (type == AIR_STATE_F16) return kernel_for<AIR_STATE_F16>(heads, in_keys);
    if (type == AIR_STATE_F32) return kernel_for<AIR_STATE_F32>(heads, in_keys);
    return type == AIR_STATE_Q8_0 ? kernel_for<AIR_STATE_Q8_0>(heads, in_keys) : kernel_for<AIR_STATE_Q4_0>(heads, in_keys);
}

/* Of a group, how many heads a block of threads takes: a power of two. */
int heads_at_once(int group, bool in_keys)
{
    int heads = in_keys ? HEADS_MOST : 1;
    while (heads < group && heads < HEADS_MOST) heads *= 2;
    return heads;
}

} // namespace

cudaError_t air_cuda_attend_rows(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream)
{
    int group = a->heads / a->kv_heads, at_once = heads_at_once(group, a->values_in_keys);
    int64_t y = (int64_t)a->kv_heads * ((group + at_once - 1) / at_once) * slices_of(a->sizes.value_row);
    if (y > AIR_CUDA_GRID_MOST) return cudaErrorInvalidValue;
    size_t shared = (size_t)a->key_dim * (size_t)at_once * sizeof(float);
    dim3 grid((unsigned)a->slots, (unsigned)y, (unsigned)a->rows);
    return air_launch_early(kernel_of(type, at_once, a->values_in_keys), grid, dim3(THREADS), shared, stream, *a);
}
