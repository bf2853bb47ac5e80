/* cuda/attention.cuh: what the kernels of attention share: their arguments, and a row's parts in scratch.
 *
 * A kernel leaves, for every part of every row it is given, the sum of values weighted by exponents, and what these are relative to; the
 * merge (attention.cu) makes one of them. Parts are cut from position 0 on, whatever the launch, so that bits are a row's own. */
#ifndef AIR_CUDA_ATTENTION_CUH
#define AIR_CUDA_ATTENTION_CUH

#include "backend/device.h"
#include "cuda/kernels.h"
#include "cuda/state.cuh"

/* Positions of a part: of rows, a quarter of the CPU's segments, because a sequence of a few thousand positions and few K/V heads has to
 * be spread over more than a hundred multiprocessors; of prompts more, as they have rows to spread and would write too much. */
enum { AIR_CUDA_ROWS_PART = AIR_DEVICE_ATTENTION_PART, AIR_CUDA_PROMPT_PART = 4096 };

enum { AIR_CUDA_GRID_MOST = 65535 /* in y and z */ };

/* Of a part: the greatest score, and the sum of exponents of what is below it. */
typedef struct air_cuda_total {
    float max, sum;
} air_cuda_total;

typedef struct air_cuda_attention_arguments {
    const uint8_t *const *blocks;
    int64_t stride;
    uint64_t shuttle; /* where blocks with odd entries would begin, if all of their layers were there */
    const int32_t *sequences, *positions, *ends;
    const float *q;
    float *out;
    air_cuda_total *totals; /* [row][head][slot]: slot 0 is the part with the row's first position */
    float *partial;         /* likewise, [value_dim] */
    size_t k_offset, v_offset;
    air_cuda_state_sizes sizes;
    const float *slopes, *sinks; /* [heads], or NULL */
    float scale, softcap;
    int rows, heads, kv_heads, key_dim, value_dim;
    int window, chunk, ahead, last; /* last: the greatest position there is */
    int part, slots;
    bool values_in_keys; /* and v_offset nothing */
} air_cuda_attention_arguments;

/* Where a block begins, to which k_offset and v_offset are added. */
static __device__ __forceinline__ const uint8_t *air_cuda_block(const air_cuda_attention_arguments &a, int row, int block)
{
    uint64_t entry = (uint64_t)a.blocks[a.sequences[row] * a.stride + block];
    return (const uint8_t *)(entry & 1 ? a.shuttle + (entry >> 1) : entry);
}

/* The positions that a row sees. */
typedef struct air_cuda_span {
    int lo, hi;
} air_cuda_span;

static __device__ __forceinline__ air_cuda_span air_cuda_seen_by(const air_cuda_attention_arguments &a, int row)
{
    int end = a.positions[row] + 1, lo = end > a.window ? end - a.window : 0;
    if (a.chunk) lo = max(lo, (end - 1) / a.chunk * a.chunk);
    return {lo, a.ahead ? min(a.ends[a.sequences[row]], end > INT32_MAX - a.ahead ? INT32_MAX : end + a.ahead) : end};
}

/* Positions that rows see at most. */
static inline int64_t air_cuda_most_seen(int64_t window, int64_t ahead) { return ahead < INT32_MAX && window < INT32_MAX ? window + ahead : INT32_MAX; }

/* Parts that the positions seen by rows may touch, if they see `window` of those up to max_position. */
static inline int64_t air_cuda_parts_seen(int64_t max_position, int64_t window, int64_t part)
{
    int64_t all = max_position / part + 1, seen = window > max_position ? all : (window + part - 2) / part + 1;
    return seen < all ? seen : all;
}

/* The kernels, for `rows` rows of the arguments. */
cudaError_t air_cuda_attend_rows(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream);
cudaError_t air_cuda_attend_decode(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream);
cudaError_t air_cuda_attend_prompt(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream);
/* Values in keys on tensor cores: of rows that are generated, and of prompts. They leave no parts where slots is 1, but what the merge would
 * make of them. Whether they take what is asked for, on this thread's device. */
cudaError_t air_cuda_attend_latent_decode(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream);
cudaError_t air_cuda_attend_latent_prompt(air_state_type type, const air_cuda_attention_arguments *a, cudaStream_t stream);
cudaError_t air_cuda_latent_takes(const air_cuda_attention *a, bool *takes);
/* Whether there is a kernel on tensor cores, for decoding or for prompts: for these dims, and in what was compiled for this thread's device,
 * which may be newer than that. That for decoding leaves no parts where slots is 1, but what the merge would make of them. */
cudaError_t air_cuda_decode_takes(air_state_type type, int64_t key_dim, int64_t value_dim, bool *takes);
cudaError_t air_cuda_prompt_takes(air_state_type type, int64_t key_dim, int64_t value_dim, bool *takes);

#endif
