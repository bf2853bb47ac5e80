/* How state that lies in the host's memory comes to the device: a layer of it at a time, ahead of its attention, through two buffers that
 * layers take in turn. Weights do not wait for it: it has a stream of its own.
 *
 *     shuttle stream:  wait used[l % 2] · copy K and V of layer l, block by block · record copied[l % 2]
 *     compute stream:                      wait copied[l % 2] · attention of layer l · record used[l % 2]
 */
#include "cuda/backend.h"

air_status air_cuda_shuttle_open(air_backend *h, const air_backend_config *c, air_error *err)
{
    air_cuda_shuttle *s = &h->shuttle;
    s->most = c->away_most;
    s->block_bytes = air_device_shuttle_block(c->program, c->state_type);
    for (int32_t layer = 0; layer < c->program->n_layers; layer++) {
        s->turn_of.push_back((int32_t)s->layers.size());
        if (c->program->attention[layer].kv_heads) s->layers.push_back(layer);
    }
    if (!s->most) return AIR_OK;
    size_t bytes = AIR_DEVICE_SHUTTLE * (size_t)s->most * s->block_bytes;
    air_status st = air_cuda_vram((void **)&s->memory, bytes, "state on its way", err);
    if (st) return st;
    AIR_CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), "a stream", err);
    for (int i = 0; i < AIR_DEVICE_SHUTTLE; i++) {
        AIR_CUDA_TRY(cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming), "an event", err);
        AIR_CUDA_TRY(cudaEventCreateWithFlags(&s->used[i], cudaEventDisableTiming), "an event", err);
    }
    return AIR_OK;
}

void air_cuda_shuttle_close(air_backend *h)
{
    air_cuda_shuttle *s = &h->shuttle;
    if (s->stream) (void)cudaStreamSynchronize(s->stream);
    for (int i = 0; i < AIR_DEVICE_SHUTTLE; i++) {
        if (s->copied[i]) (void)cudaEventDestroy(s->copied[i]);
        if (s->used[i]) (void)cudaEventDestroy(s->used[i]);
    }
    if (s->stream) (void)cudaStreamDestroy(s->stream);
    (void)cudaFree(s->memory);
}

/* Layers without attention take no turn. */
static int buffer_of(const air_backend *h, int32_t layer) { return h->shuttle.turn_of[(size_t)layer] % AIR_DEVICE_SHUTTLE; }

const uint8_t *air_cuda_shuttle_layer(const air_backend *h, int32_t layer)
{
    return h->shuttle.memory + (size_t)buffer_of(h, layer) * (size_t)h->shuttle.most * h->shuttle.block_bytes;
}

/* Of a layer that sees but a window, only what rows see of it. */
static int is_seen(const air_backend *h, int32_t layer, const air_state_away *block)
{
    int64_t window = h->program->attention[layer].window;
    return !window || block->end > h->min_position + 1 - window;
}

static air_status copy_up(air_backend *h, uint8_t *to, const air_state_away *block, size_t at, size_t bytes, air_error *err)
{
    const uint8_t *from = (const uint8_t *)block->memory + at;
    cudaStream_t stream = h->shuttle.stream;
    if (block->home != AIR_STATE_LOCKED) return air_cuda_copy_staged(h, &h->devices[0], to, from, bytes, stream, err);
    AIR_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copying state", err);
    return AIR_OK;
}

/* The layer whose turn that is, if there is one. */
static air_status bring(air_backend *h, int32_t turn, air_error *err)
{
    air_cuda_shuttle *s = &h->shuttle;
    if ((size_t)turn >= s->layers.size()) return AIR_OK;
    int32_t layer = s->layers[(size_t)turn];
    const air_attention_shape *a = &h->program->attention[layer];
    air_state_type type = h->pass->state_type;
    size_t from = air_cuda_layer_offset(h, layer);
    size_t bytes = air_device_state_bytes(a, type);
    uint8_t *to = (uint8_t *)air_cuda_shuttle_layer(h, layer);
    int i = turn % AIR_DEVICE_SHUTTLE;
    if (turn >= AIR_DEVICE_SHUTTLE) AIR_CUDA_TRY(cudaStreamWaitEvent(s->stream, s->used[i], 0), "copying state", err);
    for (int64_t b = 0; b < h->pass->n_away; b++) {
        const air_state_away *block = &h->pass->away[b];
        if (!is_seen(h, layer, block)) continue;
        air_status st = copy_up(h, to + (size_t)b * s->block_bytes, block, from, bytes, err);
        if (st) return st;
    }
    AIR_CUDA_TRY(cudaEventRecord(s->copied[i], s->stream), "copying state", err);
    return AIR_OK;
}

air_status air_cuda_shuttle_begin(air_backend *h, air_error *err)
{
    air_status st = AIR_OK;
    if (h->pass->n_away > h->shuttle.most)
        return air_fail(err, AIR_E_ARGUMENT, "cuda: %lld blocks of state are away, %lld were to be", (long long)h->pass->n_away,
                        (long long)h->shuttle.most);
    for (int32_t turn = 0; turn < AIR_DEVICE_SHUTTLE && h->pass->n_away && !st; turn++) st = bring(h, turn, err);
    return st;
}

air_status air_cuda_shuttle_await(air_backend *h, int32_t layer, air_error *err)
{
    if (!h->pass->n_away) return AIR_OK;
    AIR_CUDA_TRY(cudaStreamWaitEvent(h->compute, h->shuttle.copied[buffer_of(h, layer)], 0), "copying state", err);
    return AIR_OK;
}

air_status air_cuda_shuttle_leave(air_backend *h, int32_t layer, air_error *err)
{
    if (!h->pass->n_away) return AIR_OK;
    AIR_CUDA_TRY(cudaEventRecord(h->shuttle.used[buffer_of(h, layer)], h->compute), "computing", err);
    return bring(h, h->shuttle.turn_of[(size_t)layer] + AIR_DEVICE_SHUTTLE, err);
}
