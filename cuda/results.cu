/* What a pass leaves: logits, the largest of them, hidden states. Copies down follow the kernels on the compute stream. */
#include <string.h>

#include "cuda/backend.h"

#define TRY(call) AIR_CUDA_TRY(call, "computing", err)

/* How many wanted rows from i on alike have their logits brought down, or not. */
static int64_t whole_alike(const air_pass *p, int64_t i)
{
    int64_t end = i + 1;
    while (end < p->n_wanted && (!p->whole || p->whole[end] == p->whole[i])) end++;
    return end - i;
}

static bool is_whole(const air_pass *p, int64_t i)
{
    return p->logits && (!p->whole || p->whole[i]);
}

static size_t whole_bytes(const air_backend *h)
{
    size_t rows = 0;
    for (int64_t i = 0; i < h->pass->n_wanted; i++) rows += is_whole(h->pass, i);
    return rows * (size_t)h->program->n_vocab * sizeof(float);
}

/* Neighbours at once; on the host they lie without gaps. */
static air_status download_logits(air_backend *h, air_error *err)
{
    const air_pass *p = h->pass;
    size_t row = (size_t)h->program->n_vocab * sizeof(float);
    if (!p->logits) return AIR_OK; /* of which a program may have none */
    const uint8_t *from = (const uint8_t *)air_cuda_buffer(h, h->program->logits);
    uint8_t *to = h->host + h->host_layout.logits;
    for (int64_t i = 0, n; i < p->n_wanted; i += n) {
        n = whole_alike(p, i);
        if (!is_whole(p, i)) continue;
        size_t logits = (size_t)n * row;
        TRY(cudaMemcpyAsync(to, from + (size_t)i * row, logits, cudaMemcpyDeviceToHost, h->compute));
        to += logits;
    }
    return AIR_OK;
}

static air_status download_candidates(air_backend *h, air_error *err)
{
    const air_pass *p = h->pass;
    uint8_t *made = h->memory + h->layout.candidates, *to = h->host + h->host_layout.candidates;
    size_t bytes = p->n_wanted ? (size_t)air_device_candidate_bytes(p->n_wanted, p->n_candidates) : 0;
    if (!bytes) return AIR_OK;
    float *log_sums = (float *)(made + bytes) - p->n_wanted;
    TRY(air_cuda_candidates(air_cuda_buffer(h, h->program->logits), p->n_wanted, h->program->n_vocab, p->n_candidates,
                            h->memory + h->layout.candidate_scratch, (air_candidate *)made, log_sums, h->compute));
    TRY(cudaMemcpyAsync(to, made, bytes, cudaMemcpyDeviceToHost, h->compute));
    return AIR_OK;
}

air_status air_cuda_results_bring(air_backend *h, air_error *err)
{
    const air_pass *pass = h->pass;
    size_t hidden = pass->hidden ? (size_t)(pass->n_wanted * h->program->n_embd) * sizeof(float) : 0;
    uint8_t *hidden_to = h->host + h->host_layout.hidden;
    air_status st = download_logits(h, err);
    if (!st) st = download_candidates(h, err);
    if (st) return st;
    if (hidden) TRY(cudaMemcpyAsync(hidden_to, air_cuda_buffer(h, h->program->hidden), hidden, cudaMemcpyDeviceToHost, h->compute));
    return AIR_OK;
}

void air_cuda_results_hand_out(const air_backend *h)
{
    const air_pass *pass = h->pass;
    size_t n = (size_t)pass->n_wanted;
    const uint8_t *few = h->host + h->host_layout.candidates;
    size_t candidates = n * (size_t)pass->n_candidates * sizeof *pass->candidates;
    if (pass->logits) memcpy(pass->logits, h->host + h->host_layout.logits, whole_bytes(h));
    if (pass->candidates) memcpy(pass->candidates, few, candidates);
    if (pass->candidates) memcpy(pass->log_sums, few + candidates, n * sizeof *pass->log_sums);
    if (pass->hidden) memcpy(pass->hidden, h->host + h->host_layout.hidden, n * (size_t)h->program->n_embd * sizeof(float));
}
