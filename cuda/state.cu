/* Storing K and V: a warp for each head of a row, first those of K, then those of V; the bits and places are kernels/state.c's.
 *
 * An element of K lands in a sector of its own. Rows that follow each other write to the same ones, which the L2 cache joins. */
#include "cuda/lanes.cuh"
#include "cuda/quantize.cuh"
#include "cuda/state.cuh"

namespace {

enum { WARPS = 4, GRID_MOST = 65535 /* in y */ };

/* K or V. */
struct part {
    const float *x;      /* [rows][heads * dim] */
    size_t offset;       /* of the first head in a block */
    size_t head, scales; /* bytes of a head, and before its scales */
    int dim;
};

struct arguments {
    const uint8_t *const *blocks;
    int64_t stride;
    const int32_t *sequences, *positions;
    part k, v;
    int heads, units, value_row; /* units: heads of K, then those of V */
};

/* Element e of a position; all lanes of the warp come here, those beyond dim with x 0 and nothing to store. */
template <air_state_type TYPE>
__device__ __forceinline__ void put(uint8_t *head, const part &p, int position, int place, int e, float x)
{
    if constexpr (TYPE == AIR_STATE_F32) {
        if (e < p.dim) ((float *)head)[place] = x;
    } else if constexpr (TYPE == AIR_STATE_F16) {
        if (e < p.dim) ((uint16_t *)head)[place] = air_float_to_half(x);
    } else {
        int greatest = air_cuda_greatest_magnitude(x);
        if (e < p.dim) ((int8_t *)head)[place] = (int8_t)air_cuda_quantized(x, greatest);
        if (e % AIR_STATE_GROUP == 0)
            ((uint16_t *)(head + p.scales))[e / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position] =
                air_float_to_half(air_cuda_group_scale(greatest));
    }
}

/* The nibble of each lane's element of a group, and the group's scale: group_of_q4 of kernels/state.c. */
__device__ __forceinline__ unsigned nibble(float x, float *scale)
{
    unsigned magnitude = __float_as_uint(x) & 0x7fffffffu, most = magnitude;
    for (int apart = AIR_CUDA_WARP / 2; apart; apart /= 2) most = max(most, __shfl_xor_sync(AIR_CUDA_ALL_LANES, most, apart));
    int farthest = __ffs((int)__ballot_sync(AIR_CUDA_ALL_LANES, magnitude == most)) - 1;
    float of_farthest = __shfl_sync(AIR_CUDA_ALL_LANES, x, farthest);
    *scale = most > AIR_CUDA_INFINITY_BITS ? __int_as_float(__float_as_int(of_farthest) | AIR_CUDA_QUIET_BIT) : of_farthest / -8.0f;
    float inverse = most >= AIR_STATE_Q4_LEAST && most < 0x7f800000u ? 1.0f / *scale : 0.0f;
    float up = __fadd_rn(__fmul_rn(x, inverse), 8.5f);
    return up >= 15.0f ? 15u : up > 0.0f ? (unsigned)up : 0u;
}

/* As put; the lane of the first element of a byte stores it. */
__device__ __forceinline__ void put_nibbles(uint8_t *head, const part &p, bool values, int position, int value_row, int e, float x)
{
    float scale;
    unsigned q = nibble(x, &scale);
    int apart = values ? AIR_CUDA_EIGHT : 1, tile = position / AIR_STATE_TILE;
    unsigned both = q | __shfl_xor_sync(AIR_CUDA_ALL_LANES, q, apart) << 4;
    int keys = (tile * ((p.dim + 1) / 2) + e / 2) * AIR_STATE_TILE + position % AIR_STATE_TILE;
    int at = values ? position * value_row / 2 + e / AIR_STATE_TILE * AIR_CUDA_EIGHT + e % AIR_CUDA_EIGHT : keys;
    if ((e & apart) == 0 && e < (values ? value_row : p.dim)) head[at] = (uint8_t)both;
    if (e % AIR_STATE_GROUP == 0)
        ((uint16_t *)(head + p.scales))[e / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position] = air_float_to_half(scale);
}

template <air_state_type TYPE> __global__ void __launch_bounds__(WARPS * AIR_CUDA_WARP) store(arguments a)
{
    int unit = (int)(blockIdx.y * WARPS + threadIdx.x / AIR_CUDA_WARP), lane = (int)threadIdx.x % AIR_CUDA_WARP;
    air_let_next_begin();
    air_await_previous();
    if (unit >= a.units) return;
    bool values = unit >= a.heads;
    int row = (int)blockIdx.x, at = a.positions[row], position = at % AIR_BLOCK_POSITIONS, head = values ? unit - a.heads : unit;
    const part p = values ? a.v : a.k;

    const float *x = p.x + ((size_t)row * a.heads + head) * p.dim;
    uint8_t *to = (uint8_t *)a.blocks[a.sequences[row] * a.stride + at / AIR_BLOCK_POSITIONS] + p.offset + head * p.head;
    int first = values ? position * a.value_row : position / AIR_STATE_TILE * AIR_STATE_TILE * p.dim + position % AIR_STATE_TILE;
    int step = values ? 1 : AIR_STATE_TILE;
    for (int start = 0; start < p.dim; start += AIR_CUDA_WARP) {
        int e = start + lane;
        float of_lane = e < p.dim ? x[e] : 0.0f;
        if constexpr (TYPE == AIR_STATE_Q4_0) put_nibbles(to, p, values, position, a.value_row, e, of_lane);
        else put<TYPE>(to, p, position, first + e * step, e, of_lane);
    }
}

} // namespace

cudaError_t air_cuda_store(const air_cuda_state *state, const float *k, const float *v, int64_t rows, cudaStream_t stream)
{
    int64_t units = (v ? 2 : 1) * state->kv_heads, blocks = (units + WARPS - 1) / WARPS;
    bool known = state->type >= 0 && state->type < AIR_STATE_TYPES;
    if (rows < 1 || state->kv_heads < 1 || state->key_dim < 1 || state->value_dim < 1 || blocks > GRID_MOST || !known)
        return cudaErrorInvalidValue;
    air_cuda_state_sizes s = air_cuda_state_sizes_of(state->type, state->key_dim, state->value_dim);
    arguments a = {state->blocks, state->stride, state->sequences, state->positions,
                   {k, state->k_offset, s.k_head, s.k_scales, (int)state->key_dim},
                   {v, state->v_offset, s.v_head, s.v_scales, (int)state->value_dim},
                   (int)state->kv_heads, (int)units, s.value_row};
    void (*const of_type[AIR_STATE_TYPES])(arguments) = {store<AIR_STATE_F16>, store<AIR_STATE_F32>, store<AIR_STATE_Q8_0>,
                                                          store<AIR_STATE_Q4_0>};
    return air_launch_early(of_type[state->type], dim3((unsigned)rows, (unsigned)blocks), dim3(WARPS * AIR_CUDA_WARP), 0, stream, a);
}
