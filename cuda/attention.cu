/* Attention: rows in turns, so that their parts fit in scratch, and the merge of a row's parts. */
#include "cuda/attention.cuh"

#include <climits>

namespace {

using arguments = air_cuda_attention_arguments;
using total = air_cuda_total;

enum {
    MERGE_WARPS = 8,
    MERGE_LANE = 4,  /* elements of a lane */
    MERGE_PARTS = 4, /* whose elements are on their way at once */
    MERGE_FEW = 256, /* heads of all rows */
};

/* --- the merge: a block of threads for each head of a row, or several, each for some of its elements --- */

__device__ __forceinline__ float greatest(const total *totals, int parts)
{
    AIR_SHARED(float, of_warp, [MERGE_WARPS]);
    float most = -INFINITY;
    for (int i = (int)threadIdx.x; i < parts; i += MERGE_WARPS * AIR_CUDA_WARP) most = fmaxf(most, totals[i].max);
    most = air_lanes_max(most);
    if (threadIdx.x % AIR_CUDA_WARP == 0) of_warp[threadIdx.x / AIR_CUDA_WARP] = most;
    __syncthreads();
    most = of_warp[0];
    for (int w = 1; w < MERGE_WARPS; w++) most = fmaxf(most, of_warp[w]);
    return most;
}

/* What a lane has of some parts, from one on, MERGE_WARPS apart: its elements, 32 apart, and their totals. */
template <int LANE, int PARTS> struct some_parts {
    float x[PARTS][LANE];
    total totals[PARTS];
};

template <int LANE, int PARTS>
__device__ __forceinline__ void load_parts(const arguments &a, const total *totals, const float *partial, int part, int parts, int first,
                                           some_parts<LANE, PARTS> &to)
{
    int lane = (int)threadIdx.x % AIR_CUDA_WARP;
    AIR_CUDA_UNROLL
    for (int i = 0; i < PARTS; i++) {
        int at = part + i * MERGE_WARPS;
        to.totals[i] = at < parts ? totals[at] : total{-INFINITY, 0.0f};
        AIR_CUDA_UNROLL
        for (int j = 0; j < LANE; j++) {
            int e = first + j * AIR_CUDA_WARP + lane;
            to.x[i][j] = at < parts && e < a.value_dim ? partial[(size_t)at * a.value_dim + e] : 0.0f;
        }
    }
}

/* Up to LANE elements for each lane: warp w adds up parts w, w + 8 …, then the warps' sums are added up in order. What comes first is
 * asked for before the greatest score is known. */
template <int LANE, int PARTS> __global__ void __launch_bounds__(MERGE_WARPS * AIR_CUDA_WARP) merge(arguments a)
{
    AIR_SHARED(float, sums, [MERGE_WARPS][AIR_CUDA_WARP * LANE]);
    AIR_SHARED(float, divisors, [MERGE_WARPS]);
    air_let_next_begin();
    air_await_previous();
    air_cuda_span seen = air_cuda_seen_by(a, (int)blockIdx.y);
    size_t head = (size_t)blockIdx.y * a.heads + blockIdx.x;
    int parts = (seen.hi - 1) / a.part - seen.lo / a.part + 1, warp = (int)threadIdx.x / AIR_CUDA_WARP;
    int lane = (int)threadIdx.x % AIR_CUDA_WARP, first = (int)blockIdx.z * AIR_CUDA_WARP * LANE;
    const total *totals = a.totals + head * a.slots;
    const float *partial = a.partial + head * a.slots * a.value_dim;
    some_parts<LANE, PARTS> some;
    load_parts<LANE, PARTS>(a, totals, partial, warp, parts, first, some);
    float most = greatest(totals, parts), sum[LANE] = {}, divisor = 0.0f;
    for (int part = warp; part < parts; part += PARTS * MERGE_WARPS) {
        if (part != warp) load_parts<LANE, PARTS>(a, totals, partial, part, parts, first, some);
        AIR_CUDA_UNROLL
        for (int i = 0; i < PARTS; i++) {
            if (part + i * MERGE_WARPS >= parts) break;
            float weight = expf(some.totals[i].max - most);
            divisor = fmaf(some.totals[i].sum, weight, divisor);
            AIR_CUDA_UNROLL
            for (int j = 0; j < LANE; j++) sum[j] = fmaf(some.x[i][j], weight, sum[j]);
        }
    }
    AIR_CUDA_UNROLL
    for (int j = 0; j < LANE; j++) sums[warp][j * AIR_CUDA_WARP + lane] = sum[j];
    if (lane == 0) divisors[warp] = divisor;
    __syncthreads();
    int at = (int)threadIdx.x;
    if (at >= AIR_CUDA_WARP * LANE || first + at >= a.value_dim) return;
    float all = 0.0f, by = a.sinks ? expf(a.sinks[blockIdx.x] - most) : 0.0f;
    for (int w = 0; w < MERGE_WARPS; w++) all += sums[w][at], by += divisors[w];
    a.out[head * a.value_dim + first + at] = by == 0.0f ? 0.0f : all / by;
}

/* Few rows leave multiprocessors idle unless each head has several blocks of threads. */
cudaError_t launch_merge(const arguments &a, cudaStream_t stream)
{
    bool few = (int64_t)a.rows * a.heads <= MERGE_FEW;
    unsigned elements = AIR_CUDA_WARP * (few ? 1 : MERGE_LANE), slices = ((unsigned)a.value_dim + elements - 1) / elements;
    dim3 grid((unsigned)a.heads, (unsigned)a.rows, slices), block(MERGE_WARPS * AIR_CUDA_WARP);
    return air_launch_early(few ? merge<1, 2 * MERGE_PARTS> : merge<MERGE_LANE, MERGE_PARTS>, grid, block, 0, stream, a);
}

/* --- turns --- */

/* The parts of rows: their totals, then what is summed up. */
size_t totals_bytes(int64_t rows, int64_t heads, int64_t slots)
{
    size_t bytes = (size_t)(rows * heads * slots) * sizeof(total);
    return (bytes + AIR_DEVICE_ALIGN - 1) / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN;
}

size_t row_bytes(int64_t heads, int64_t value_dim, int64_t slots)
{
    return (size_t)(heads * slots) * (sizeof(total) + (size_t)value_dim * sizeof(float));
}

int64_t rows_at_once(const air_cuda_attention *a, int64_t slots)
{
    int64_t most = (int64_t)(AIR_DEVICE_ATTENTION_MOST / row_bytes(a->state.heads, a->state.value_dim, slots));
    if (most > AIR_CUDA_GRID_MOST) most = AIR_CUDA_GRID_MOST;
    return most < 1 ? 1 : most < a->rows ? most : a->rows;
}

bool can_take(const air_cuda_attention *a)
{
    const air_cuda_state *s = &a->state;
    return s->type >= 0 && s->type < AIR_STATE_TYPES && s->kv_heads > 0 && s->heads > 0 && s->heads % s->kv_heads == 0 && s->key_dim > 0
        && s->value_dim > 0 && a->rows > 0 && a->window > 0 && a->chunk >= 0 && a->chunk < INT_MAX && a->max_position >= 0
        && a->max_position < INT_MAX && a->ahead >= 0 && (!a->ahead || a->ends)
        && (!s->values_in_keys || (s->value_dim <= s->key_dim && s->key_dim <= AIR_CUDA_LATENT_KEYS));
}

/* A kernel, and what it has of its own. */
struct way {
    cudaError_t (*attend)(air_state_type type, const arguments *a, cudaStream_t stream);
    int part;
    bool ends_alone; /* rows of one part need no merge */
};

cudaError_t find_latent_way(const air_cuda_attention *a, way *to)
{
    bool takes = false, prompt = a->role == AIR_CUDA_PROMPT;
    cudaError_t error = air_cuda_latent_takes(a, &takes);
    if (error || !takes) *to = {air_cuda_attend_rows, AIR_CUDA_ROWS_PART, false};
    else if (prompt) *to = {air_cuda_attend_latent_prompt, AIR_CUDA_PROMPT_PART, true};
    else *to = {air_cuda_attend_latent_decode, AIR_CUDA_ROWS_PART, true};
    return error;
}

cudaError_t find_way(const air_cuda_attention *a, way *to)
{
    const air_cuda_state *s = &a->state;
    bool takes = false;
    cudaError_t error = cudaSuccess;
    if (s->values_in_keys) return find_latent_way(a, to);
    *to = {air_cuda_attend_prompt, AIR_CUDA_PROMPT_PART, false};
    if (a->role == AIR_CUDA_PROMPT) error = air_cuda_prompt_takes(s->type, s->key_dim, s->value_dim, &takes);
    if (error || takes) return error;
    *to = {air_cuda_attend_decode, AIR_CUDA_ROWS_PART, true};
    error = air_cuda_decode_takes(s->type, s->key_dim, s->value_dim, &takes);
    if (error || takes) return error;
    *to = {air_cuda_attend_rows, AIR_CUDA_ROWS_PART, false};
    return cudaSuccess;
}

/* But for what depends on the turn. */
arguments arguments_of(const air_cuda_attention *a, int part)
{
    const air_cuda_state *s = &a->state;
    arguments to = {};
    to.blocks = s->blocks, to.stride = s->stride;
    to.k_offset = s->k_offset, to.v_offset = s->v_offset;
    to.shuttle = (uint64_t)s->shuttle - s->k_offset;
    to.sizes = air_cuda_state_sizes_of(s->type, s->key_dim, s->value_dim);
    to.scale = a->scale, to.softcap = a->softcap, to.slopes = a->slopes, to.sinks = a->sinks;
    to.heads = (int)s->heads, to.kv_heads = (int)s->kv_heads, to.key_dim = (int)s->key_dim, to.value_dim = (int)s->value_dim;
    int64_t seen = a->chunk && a->chunk < a->window ? a->chunk : a->window; /* at most */
    to.window = seen < INT_MAX ? (int)seen : INT_MAX, to.chunk = (int)a->chunk, to.last = (int)a->max_position;
    to.ahead = a->ahead < INT_MAX ? (int)a->ahead : INT_MAX, to.ends = a->ends;
    to.part = part;
    to.values_in_keys = s->values_in_keys;
    to.slots = (int)air_cuda_parts_seen(a->max_position, air_cuda_most_seen(to.window, to.ahead), to.part);
    return to;
}

/* Rows from `row` on. */
cudaError_t run_turn(const air_cuda_attention *a, arguments to, const way &by, int64_t row, int64_t rows, cudaStream_t stream)
{
    to.rows = (int)rows;
    to.sequences = a->state.sequences + row, to.positions = a->state.positions + row;
    to.q = a->q + row * to.heads * to.key_dim;
    to.out = a->out + row * to.heads * to.value_dim;
    to.totals = (total *)a->scratch;
    to.partial = (float *)((char *)a->scratch + totals_bytes(rows, to.heads, to.slots));
    cudaError_t error = by.attend(a->state.type, &to, stream);
    if (error || (by.ends_alone && to.slots == 1)) return error;
    return launch_merge(to, stream);
}

} // namespace

size_t air_cuda_attention_scratch(int64_t rows, int64_t heads, int64_t value_dim, int64_t max_position)
{
    return air_device_attention_bytes(rows, heads, value_dim, max_position + 1);
}

cudaError_t air_cuda_attention_run(const air_cuda_attention *a, cudaStream_t stream)
{
    if (!can_take(a)) return cudaErrorInvalidValue;
    way by;
    cudaError_t error = find_way(a, &by);
    if (error) return error;
    arguments to = arguments_of(a, by.part);
    int64_t most = rows_at_once(a, to.slots);
    for (int64_t row = 0; row < a->rows; row += most) {
        error = run_turn(a, to, by, row, most < a->rows - row ? most : a->rows - row, stream);
        if (error) return error;
    }
    return cudaSuccess;
}
