/* What goes on from one position of a sequence to the next: convolutions, and recurrences by their heads (kernels/ops.h, backend/op.h).
 *
 * A convolution's results are each its row's own, so rows and channels are spread over threads; a second kernel then keeps the windows. A
 * recurrence is walked row by row, by a block of threads for 16 columns of a head's matrix, which stay in registers meanwhile: no column
 * reads another one. A warp has two columns, and of each 16 lanes the elements: what they add up they add up among themselves, so nobody
 * waits for another warp. So bits depend neither on other rows nor on how a prompt is cut into passes.
 *
 *     matrix   [tile of 16 columns][element][column]      lane l of warp w: column 2 w + l / 16, elements l % 16, l % 16 + 16 …
 *
 * Bound: for a few rows the memory's bandwidth, a matrix being read and written once; for a prompt's the walk, a row's sums after another's. */
#include "cuda/epilogue.cuh"
#include "cuda/lanes.cuh"

namespace {

enum {
    THREADS = 256,
    SHARING = AIR_STATE_TILE,                    /* lanes that share a column */
    COLUMNS = AIR_CUDA_WARP / SHARING,           /* of a warp */
    ELEMENTS_MOST = AIR_CUDA_SCAN_KEYS / SHARING, /* of a lane */
    GRID_MOST = 65535,
};

/* --- convolution --- */

struct convolve_arguments {
    air_cuda_recurrent at;
    const float *x, *weight, *bias;
    float *y;
    int64_t channels;
    int taps;
    air_activation activation;
};

/* Row `row` of a channel, or what was there before the sequence's rows in this pass. */
__device__ __forceinline__ float input_at(const convolve_arguments &a, const air_device_course &course, const float *before, int64_t row,
                                          int64_t channel)
{
    if (row >= course.first) return a.x[row * a.channels + channel];
    return before ? before[(row - course.first + a.taps - 1) * a.channels + channel] : 0.0f;
}

__device__ __forceinline__ const float *window_of(const convolve_arguments &a, const char *state)
{
    return state ? (const float *)(state + a.at.offset) : nullptr;
}

__global__ void __launch_bounds__(THREADS) convolve(convolve_arguments a)
{
    int64_t row = blockIdx.x;
    air_device_course course = a.at.courses[a.at.sequences[row]];
    const float *before = window_of(a, course.before);
    for (int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x; c < a.channels; c += (int64_t)gridDim.y * THREADS) {
        float sum = a.bias ? a.bias[c] : 0.0f;
        for (int j = 0; j < a.taps; j++) sum = fmaf(a.weight[c * a.taps + j], input_at(a, course, before, row - a.taps + 1 + j, c), sum);
        a.y[row * a.channels + c] = air_cuda_activated(sum, a.activation);
    }
}

/* Both spans' windows are read before either is written: one may lie where the first came from. */
__global__ void __launch_bounds__(THREADS) keep_windows(convolve_arguments a)
{
    air_device_course course = a.at.courses[blockIdx.x];
    const float *before = window_of(a, course.before);
    int kept = a.taps - 1;
    for (int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x; c < a.channels; c += (int64_t)gridDim.y * THREADS) {
        float window[AIR_RECURRENT_SPANS][AIR_CONVOLVE_TAPS];
        AIR_CUDA_UNROLL
        for (int s = 0; s < AIR_RECURRENT_SPANS; s++) {
            AIR_CUDA_UNROLL
            for (int j = 0; j < AIR_CONVOLVE_TAPS; j++)
                if (s < course.spans && j < kept) window[s][j] = input_at(a, course, before, course.ends[s] - kept + j, c);
        }
        AIR_CUDA_UNROLL
        for (int s = 0; s < AIR_RECURRENT_SPANS; s++) {
            AIR_CUDA_UNROLL
            for (int j = 0; j < AIR_CONVOLVE_TAPS; j++)
                if (s < course.spans && j < kept) ((float *)(course.after[s] + a.at.offset))[j * a.channels + c] = window[s][j];
        }
    }
}

/* --- recurrence --- */

struct scan_arguments {
    air_cuda_scan of;
    int shared;      /* heads whose steps lie together: those of a key head, or all */
    int tiles;       /* of a head */
    float to_length; /* of a query: the root of key_dim, inverted */
};

__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* How much of the matrix stays in a row, and how much is written. */
struct step {
    float decay, write;
};

__device__ __forceinline__ step step_of(const scan_arguments &a, int64_t row, int head)
{
    const float *steps = a.of.steps + row * a.of.steps_width;
    float rate = a.of.rate[head], bias = a.of.step_bias[head];
    if (a.of.kind == AIR_RECURRENCE_STATE_SPACE) {
        float write = softplus(steps[head] + bias);
        return {expf(rate * write), write};
    }
    const float *own = steps + head / a.shared * 2 * a.shared + head % a.shared;
    return {expf(rate * softplus(own[a.shared] + bias)), 1.0f / (1.0f + expf(-own[0]))};
}

/* Over the lanes that share a column. */
__device__ __forceinline__ float column_sum(float x)
{
    AIR_CUDA_UNROLL
    for (int apart = SHARING / 2; apart; apart /= 2) x += __shfl_xor_sync(AIR_CUDA_ALL_LANES, x, apart);
    return x;
}

/* A lane's elements of a query or a key; zeros where there are none. */
template <int ELEMENTS> __device__ __forceinline__ void load_keys(const float *from, int mine, int key_dim, float to[ELEMENTS])
{
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) to[j] = mine + j * SHARING < key_dim ? from[mine + j * SHARING] : 0.0f;
}

/* scale x / sqrt(|x|^2 + eps) */
template <int ELEMENTS> __device__ __forceinline__ void to_length(float x[ELEMENTS], float eps, float scale)
{
    float sum = 0.0f;
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) sum = fmaf(x[j], x[j], sum);
    float by = scale / sqrtf(column_sum(sum) + eps);
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) x[j] *= by;
}

/* One row: the matrix's column changes, and gives what the query finds in it. */
template <int ELEMENTS, bool DELTA>
__device__ __forceinline__ float advance(step by, const float q[ELEMENTS], const float k[ELEMENTS], float v, float state[ELEMENTS])
{
    float known = 0.0f, found = 0.0f;
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) {
        state[j] *= by.decay;
        if constexpr (DELTA) known = fmaf(state[j], k[j], known);
    }
    if constexpr (DELTA) known = column_sum(known);
    float more = by.write * (v - known);
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) {
        state[j] = fmaf(k[j], more, state[j]);
        found = fmaf(state[j], q[j], found);
    }
    return column_sum(found);
}

/* What a thread is at. */
struct task {
    int head, column, mine; /* column of the head; first element of the lane */
    size_t at;              /* of that element in a sequence's state, bytes */
    const float *q, *k;     /* of row 0 */
};

template <int ELEMENTS> __device__ __forceinline__ task task_of(const scan_arguments &a)
{
    int lane = (int)threadIdx.x % AIR_CUDA_WARP, warp = (int)threadIdx.x / AIR_CUDA_WARP, tile = (int)blockIdx.x % a.tiles;
    int in_tile = warp * COLUMNS + lane / SHARING;
    task t;
    t.head = (int)blockIdx.x / a.tiles;
    t.column = tile * AIR_STATE_TILE + in_tile;
    t.mine = lane % SHARING;
    size_t matrix = (size_t)a.of.key_dim * AIR_STATE_TILE * sizeof(float);
    t.at = a.of.at.offset + (size_t)(t.head * a.tiles + tile) * matrix + (size_t)(t.mine * AIR_STATE_TILE + in_tile) * sizeof(float);
    int key_head = a.of.in_turn ? t.head % (int)a.of.key_heads : t.head / a.shared, key = key_head * (int)a.of.key_dim;
    t.q = a.of.in + a.of.q + key;
    t.k = a.of.in + a.of.k + key;
    return t;
}

template <int ELEMENTS, bool DELTA>
__device__ __forceinline__ void walk_rows(const scan_arguments &a, const task &t, int64_t first, int64_t end, float state[ELEMENTS])
{
    int lane = (int)threadIdx.x % AIR_CUDA_WARP, key_dim = (int)a.of.key_dim;
    bool there = t.column < a.of.value_dim;
    const float *values = a.of.in + a.of.v + t.head * a.of.value_dim + t.column;
    float skip = a.of.skip ? a.of.skip[t.head] : 0.0f;
    for (int64_t from = first; from < end; from += AIR_CUDA_WARP) {
        int rows = (int)min(end - from, (int64_t)AIR_CUDA_WARP);
        step mine = {0.0f, 0.0f};
        if (lane < rows) mine = step_of(a, from + lane, t.head);
        AIR_CUDA_UNROLL_BY(1)
        for (int r = 0; r < rows; r++) {
            int64_t row = (from + r) * a.of.in_width;
            step by = {__shfl_sync(AIR_CUDA_ALL_LANES, mine.decay, r), __shfl_sync(AIR_CUDA_ALL_LANES, mine.write, r)};
            float q[ELEMENTS], k[ELEMENTS], v = there ? values[row] : 0.0f;
            load_keys<ELEMENTS>(t.q + row, t.mine, key_dim, q);
            load_keys<ELEMENTS>(t.k + row, t.mine, key_dim, k);
            if constexpr (DELTA) to_length<ELEMENTS>(q, a.of.eps, a.to_length), to_length<ELEMENTS>(k, a.of.eps, 1.0f);
            float found = advance<ELEMENTS, DELTA>(by, q, k, v, state);
            if (there && t.mine == 0)
                a.of.out[((from + r) * a.of.heads + t.head) * a.of.value_dim + t.column] = fmaf(skip, v, found);
        }
    }
}

template <int ELEMENTS, bool DELTA> __global__ void __launch_bounds__(THREADS, 1 /* or it spills */) scan(scan_arguments a)
{
    air_device_course course = a.of.at.courses[blockIdx.y];
    task t = task_of<ELEMENTS>(a);
    float state[ELEMENTS];
    AIR_CUDA_UNROLL
    for (int j = 0; j < ELEMENTS; j++) {
        bool there = course.before && t.mine + j * SHARING < a.of.key_dim;
        state[j] = there ? ((const float *)(course.before + t.at))[j * SHARING * AIR_STATE_TILE] : 0.0f;
    }
    int64_t first = course.first;
    for (int s = 0; s < course.spans; s++) {
        int64_t end = s ? course.ends[1] : course.ends[0]; /* not by a number that registers do not have */
        char *after = (s ? course.after[1] : course.after[0]) + t.at;
        walk_rows<ELEMENTS, DELTA>(a, t, first, end, state);
        first = end;
        AIR_CUDA_UNROLL
        for (int j = 0; j < ELEMENTS; j++)
            if (t.mine + j * SHARING < a.of.key_dim) ((float *)after)[j * SHARING * AIR_STATE_TILE] = state[j];
    }
}

/* --- factors --- */

__global__ void __launch_bounds__(THREADS) multiply(float *y, const float *x, int64_t n, air_activation activation)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS)
        y[i] = air_cuda_activated(x[i], activation) * air_cuda_raised(y[i], activation);
}

unsigned blocks_for(int64_t n)
{
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return (unsigned)min(blocks, (int64_t)GRID_MOST);
}

} // namespace

cudaError_t air_cuda_convolve(const air_cuda_convolution *c, cudaStream_t stream)
{
    if (c->at.rows < 1 || c->at.n < 1 || c->channels < 1 || c->taps < 2 || c->taps > AIR_CONVOLVE_TAPS) return cudaErrorInvalidValue;
    convolve_arguments a = {c->at, c->x, c->weight, c->bias, c->y, c->channels, (int)c->taps, c->activation};
    unsigned across = blocks_for(c->channels);
    cudaError_t error = air_launch(convolve, dim3((unsigned)c->at.rows, across), dim3(THREADS), 0, stream, a);
    return error ? error : air_launch(keep_windows, dim3((unsigned)c->at.n, across), dim3(THREADS), 0, stream, a);
}

int air_cuda_scan_takes(int64_t key_dim) { return key_dim >= 1 && key_dim <= AIR_CUDA_SCAN_KEYS; }

cudaError_t air_cuda_scan_run(const air_cuda_scan *s, cudaStream_t stream)
{
    typedef void (*kernel)(scan_arguments);
    static const kernel kernels[][2] = {{scan<4, false>, scan<4, true>}, {scan<8, false>, scan<8, true>},
                                        {scan<ELEMENTS_MOST, false>, scan<ELEMENTS_MOST, true>}};
    bool heads = s->key_heads > 0 && s->heads > 0 && s->heads % s->key_heads == 0;
    if (!heads || s->at.rows < 1 || s->at.n < 1 || s->at.n > GRID_MOST || s->value_dim < 1 || !air_cuda_scan_takes(s->key_dim))
        return cudaErrorInvalidValue;
    scan_arguments a = {*s, (int)(s->in_turn ? s->heads : s->heads / s->key_heads), (int)(air_state_padded(s->value_dim) / AIR_STATE_TILE),
                        1.0f / sqrtf((float)s->key_dim)};
    int size = s->key_dim <= 4 * SHARING ? 0 : s->key_dim <= 8 * SHARING ? 1 : 2;
    dim3 grid((unsigned)(s->heads * a.tiles), (unsigned)s->at.n);
    return air_launch(kernels[size][s->kind == AIR_RECURRENCE_DELTA], grid, dim3(THREADS), 0, stream, a);
}

cudaError_t air_cuda_multiply(float *y, const float *x, int64_t n, air_activation activation, cudaStream_t stream)
{
    if (n < 1) return cudaErrorInvalidValue;
    return air_launch(multiply, dim3(blocks_for(n)), dim3(THREADS), 0, stream, y, x, n, activation);
}
