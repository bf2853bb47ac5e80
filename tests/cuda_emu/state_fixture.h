/* state_fixture.h: blocks of K and V for one layer of a few sequences, on the host as the CPU stores them, and on the device. */
#ifndef AIR_TESTS_CUDA_STATE_FIXTURE_H
#define AIR_TESTS_CUDA_STATE_FIXTURE_H

#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "kernel_check.h"

struct state_shape {
    air_state_type type;
    int64_t heads, kv_heads, key_dim, value_dim;
    bool values_in_keys = false; /* what there would be of V stays as if nothing had been stored */
};

/* A row of a pass. */
struct state_row {
    int32_t sequence, position;
};

/* Blocks of a few sequences; bytes not stored are 0xff, NaN in every type. Something else lies before, between and behind K and V. */
class StateBlocks {
public:
    StateBlocks(const state_shape &of, int n, int64_t positions)
        : shape(of), sequences(n), stride((positions + AIR_BLOCK_POSITIONS - 1) / AIR_BLOCK_POSITIONS)
    {
        v_offset = K_OFFSET + 128 + (size_t)shape.kv_heads * air_state_head_bytes(shape.type, shape.key_dim);
        block_bytes = v_offset + 64 + (size_t)shape.kv_heads * air_state_head_bytes(shape.type, shape.value_dim);
        bytes.assign((size_t)(sequences * stride) * block_bytes, 0xff);
    }

    int64_t blocks() const { return stride; } /* of a sequence */
    const uint8_t *keys(int sequence, int64_t block) { return at(sequence, block) + K_OFFSET; }
    const uint8_t *values(int sequence, int64_t block) { return at(sequence, block) + v_offset; }

    /* One row's K and V, as the CPU does it. */
    void store(const air_ops *ops, state_row row, const float *k, const float *v)
    {
        uint8_t *to = at(row.sequence, row.position / AIR_BLOCK_POSITIONS);
        store_part(ops, AIR_STATE_K, to + K_OFFSET, row.position, k, shape.key_dim);
        if (!shape.values_in_keys) store_part(ops, AIR_STATE_V, to + v_offset, row.position, v, shape.value_dim);
    }

    /* A copy on the device. What it points to is this object's, until the next upload. away: every other block as if only this layer of
     * it had been brought, for kernels that only read. */
    air_cuda_state upload(const std::vector<state_row> &rows, bool away = false)
    {
        std::vector<int32_t> of_sequence, position;
        for (state_row row : rows) of_sequence.push_back(row.sequence), position.push_back(row.position);
        device = std::make_unique<GuardedArray<uint8_t>>(bytes);
        std::vector<const uint8_t *> starts;
        for (int64_t i = 0; i < sequences * stride; i++) {
            size_t at = (size_t)i * block_bytes;
            starts.push_back(away && i % 2 == 0 ? (const uint8_t *)(2 * at + 1) : device->get() + at);
        }
        device_blocks = std::make_unique<GuardedArray<const uint8_t *>>(starts);
        device_sequences = std::make_unique<GuardedArray<int32_t>>(of_sequence);
        device_positions = std::make_unique<GuardedArray<int32_t>>(position);
        return {device_blocks->get(), stride, device_sequences->get(), device_positions->get(), K_OFFSET, v_offset,
                device->get() + K_OFFSET, shape.type, shape.heads, shape.kv_heads, shape.key_dim, shape.value_dim, shape.values_in_keys};
    }

    /* Whether what was uploaded is now what `want` has on the host. */
    bool uploaded_equals(const StateBlocks &want) const { return device->guarded() && device->read() == want.bytes; }

private:
    enum : size_t { K_OFFSET = 192 };

    uint8_t *at(int sequence, int64_t block) { return &bytes[(size_t)(sequence * stride + block) * block_bytes]; }

    void store_part(const air_ops *ops, air_state_part part, uint8_t *to, int32_t position, const float *x, int64_t dim)
    {
        std::vector<float> scratch(air_state_scratch(dim) + 16);
        float *aligned = (float *)(((uintptr_t)scratch.data() + 63) / 64 * 64);
        for (int64_t i = 0; i < shape.kv_heads; i++)
            air_state_store(ops, shape.type, part, dim, to + (size_t)i * air_state_head_bytes(shape.type, dim),
                            position % AIR_BLOCK_POSITIONS, x + i * dim, aligned);
    }

    state_shape shape;
    int sequences;
    int64_t stride;
    size_t v_offset, block_bytes;
    std::vector<uint8_t> bytes;
    std::unique_ptr<GuardedArray<uint8_t>> device;
    std::unique_ptr<GuardedArray<const uint8_t *>> device_blocks;
    std::unique_ptr<GuardedArray<int32_t>> device_sequences, device_positions;
};

#endif
