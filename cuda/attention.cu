/* Attention: rows in turns, so that their parts fit in scratch, and the merge of a row's parts. */
#include "cuda/attention.cuh"

#include <climits>

namespace {

using arguments = air_cuda_attention_arguments;
using total = air_cuda_total;

enum {
    MERGE_WARPS = 8,
    MERGE_LANE = 4, /* elements of a lane at a time */
};

/* --- the merge: a block of threads for each head of a row --- */

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

/* Up to four elements for each lane: warp w adds up parts w, w + 8 …, then the warps' sums are added up in order. */
__device__ __forceinline__ void merge_elements(const arguments &a, const total *totals, const float *partial, int parts, float most,
                                               float sink, int first, float *out)
{
    AIR_SHARED(float, sums, [MERGE_WARPS][AIR_CUDA_WARP * MERGE_LANE]);
    AIR_SHARED(float, divisors, [MERGE_WARPS]);
    int warp = (int)threadIdx.x / AIR_CUDA_WARP, lane = (int)threadIdx.x % AIR_CUDA_WARP;
    float sum[MERGE_LANE] = {}, divisor = 0.0f;
    AIR_CUDA_UNROLL_BY(2)
    for (int i = warp; i < parts; i += MERGE_WARPS) {
        total t = totals[i];
        float weight = expf(t.max - most);
        const float *from = partial + (size_t)i * a.value_dim + first;
        divisor = fmaf(t.sum, weight, divisor);
        AIR_CUDA_UNROLL
        for (int j = 0; j < MERGE_LANE; j++) {
            int at = j * AIR_CUDA_WARP + lane;
            if (first + at < a.value_dim) sum[j] = fmaf(from[at], weight, sum[j]);
        }
    }
    __syncthreads();
    AIR_CUDA_UNROLL
    for (int j = 0; j < MERGE_LANE; j++) sums[warp][j * AIR_CUDA_WARP + lane] = sum[j];
    if (lane == 0) divisors[warp] = divisor;
    __syncthreads();
    int at = (int)threadIdx.x;
    if (at >= AIR_CUDA_WARP * MERGE_LANE || first + at >= a.value_dim) return;
    float all = 0.0f, by = sink;
    for (int w = 0; w < MERGE_WARPS; w++) all += sums[w][at], by += divisors[w];
    out[first + at] = by == 0.0f ? 0.0f : all / by;
}

__global__ void __launch_bounds__(MERGE_WARPS * AIR_CUDA_WARP) merge(arguments a)
{
    air_cuda_span seen = air_cuda_seen_by(a, (int)blockIdx.y);
    size_t head = (size_t)blockIdx.y * a.heads + blockIdx.x;
    int parts = (seen.hi - 1) / a.part - seen.lo / a.part + 1;
    const total *totals = a.totals + head * a.slots;
    float most = greatest(totals, parts), sink = a.sinks ? expf(a.sinks[blockIdx.x] - most) : 0.0f;
    for (int first = 0; first < a.value_dim; first += AIR_CUDA_WARP * MERGE_LANE)
        merge_elements(a, totals, a.partial + head * a.slots * a.value_dim, parts, most, sink, first, a.out + head * a.value_dim);
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
        && a->max_position < INT_MAX && a->ahead >= 0 && (!a->ahead || a->ends);
}

cudaError_t find_prompt(const air_cuda_attention *a, bool *is)
{
    *is = a->role == AIR_CUDA_PROMPT;
    return *is ? air_cuda_prompt_takes(a->state.type, a->state.key_dim, a->state.value_dim, is) : cudaSuccess;
}

/* But for what depends on the turn. */
arguments arguments_of(const air_cuda_attention *a, bool prompt)
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
    to.part = prompt ? AIR_CUDA_PROMPT_PART : AIR_CUDA_ROWS_PART;
    to.slots = (int)air_cuda_parts_seen(a->max_position, air_cuda_most_seen(to.window, to.ahead), to.part);
    return to;
}

/* Rows from `row` on. */
cudaError_t run_turn(const air_cuda_attention *a, arguments to, bool prompt, int64_t row, int64_t rows, cudaStream_t stream)
{
    to.rows = (int)rows;
    to.sequences = a->state.sequences + row, to.positions = a->state.positions + row;
    to.q = a->q + row * to.heads * to.key_dim;
    to.out = a->out + row * to.heads * to.value_dim;
    to.totals = (total *)a->scratch;
    to.partial = (float *)((char *)a->scratch + totals_bytes(rows, to.heads, to.slots));
    auto *attend = prompt ? air_cuda_attend_prompt : air_cuda_attend_rows;
    cudaError_t error = attend(a->state.type, &to, stream);
    if (error) return error;
    return air_launch(merge, dim3((unsigned)to.heads, (unsigned)rows), dim3(MERGE_WARPS * AIR_CUDA_WARP), 0, stream, to);
}

} // namespace

size_t air_cuda_attention_scratch(int64_t rows, int64_t heads, int64_t value_dim, int64_t max_position)
{
    return air_device_attention_bytes(rows, heads, value_dim, max_position + 1);
}

cudaError_t air_cuda_attention_run(const air_cuda_attention *a, cudaStream_t stream)
{
    if (!can_take(a)) return cudaErrorInvalidValue;
    bool prompt;
    cudaError_t error = find_prompt(a, &prompt);
    if (error) return error;
    arguments to = arguments_of(a, prompt);
    int64_t most = rows_at_once(a, to.slots);
    for (int64_t row = 0; row < a->rows; row += most) {
        error = run_turn(a, to, prompt, row, most < a->rows - row ? most : a->rows - row, stream);
        if (error) return error;
    }
    return cudaSuccess;
}
