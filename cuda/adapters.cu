/* Adapters in a pass: which rows have which goes up with its inputs; then around every product that one of them changes two launches more,
 * whoever computes how much of the product: A x before it, and in the place of its epilogue B of that and the epilogue (lora.cu).
 *
 * So a product whose output is written, not added to, leaves its results there as they are; another one in memory of their own, for as many
 * columns as it has room for, in turns. */
#include <algorithm>

#include "cuda/backend.h"

#define TRY(call) AIR_CUDA_TRY(call, "computing", err)

/* Of each product, the largest rank that one of the adapters has for it. */
static void add_ranks(air_backend *h, const air_adapter *adapter)
{
    const air_program *p = h->program;
    for (int32_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].kind != AIR_OP_PRODUCT) continue;
        int32_t *rank = &h->adapting.ranks[(size_t)i];
        *rank = std::max(*rank, (int32_t)adapter->parts[p->ops[i].weight].rank);
    }
}

air_status air_cuda_adapters_fill(air_backend *h, air_device_adapted *out, air_error *err)
{
    std::vector<const air_adapter *> seen;
    h->adapting.ranks.clear();
    for (int64_t s = 0; s < h->sequences && h->pass->adapted; s++) {
        const air_adapted *adapted = &h->pass->adapted[h->first_sequence + s];
        const air_adapter *adapter = adapted->adapter;
        out[s] = air_device_adapted{adapter ? adapter->on_device : nullptr, adapted->scale};
        if (!adapter || std::find(seen.begin(), seen.end(), adapter) != seen.end()) continue;
        if (adapter->rank_most > h->rank_cap)
            return air_fail(err, AIR_E_ARGUMENT, "cuda: an adapter of rank %lld, reserved for %lld", (long long)adapter->rank_most,
                            (long long)h->rank_cap);
        seen.push_back(adapter);
        if (h->adapting.ranks.empty()) h->adapting.ranks.assign((size_t)h->program->n_ops, 0);
        add_ranks(h, adapter);
    }
    return AIR_OK;
}

static int32_t rank_of(const air_backend *h, const air_op *op)
{
    return h->adapting.ranks.empty() ? 0 : h->adapting.ranks[(size_t)(op - h->program->ops)];
}

bool air_cuda_adapts(const air_backend *h, const air_op *op) { return rank_of(h, op) != 0; }

static air_cuda_adapted adapted_of(const air_backend *h, const air_op *op)
{
    const int32_t *tokens = (const int32_t *)(h->memory + h->layout.tokens);
    air_cuda_adapted a = {};
    a.of = (const air_device_adapted *)(h->memory + h->layout.adapted);
    a.sequences = tokens + h->pass->rows;
    if (h->program->buffers[op->in].rows != AIR_ROWS_ALL) a.wanted = tokens + 2 * h->pass->rows;
    a.weight = op->weight;
    a.rank = rank_of(h, op);
    a.reduced = (float *)(h->adapting.memory + h->adapting.layout.reduced);
    return a;
}

air_status air_cuda_adapters_begin(air_backend *h, const air_op *op, int64_t n, air_error *err)
{
    air_cuda_adapted a = adapted_of(h, op);
    if (a.rank) TRY(air_cuda_reduce(&a, air_cuda_buffer(h, op->in), h->program->weights[op->weight].cols, n, h->compute));
    return AIR_OK;
}

int64_t air_cuda_adapters_columns(const air_backend *h, const air_op *op, int64_t rows, int64_t n)
{
    if (!rank_of(h, op) || op->epilogue == AIR_EPILOGUE_SET) return n;
    return std::min(n, std::max<int64_t>(1, h->adapting.layout.raw_floats / rows));
}

void air_cuda_adapters_redirect(const air_backend *h, const air_op *op, air_cuda_product *p)
{
    p->bias = nullptr;
    p->epilogue = air_cuda_epilogue{};
    if (op->epilogue == AIR_EPILOGUE_SET) return;
    p->out = (float *)(h->adapting.memory + h->adapting.layout.raw);
    p->out_stride = p->rows;
}

air_status air_cuda_adapters_fold(air_backend *h, const air_op *op, const float *part, int64_t part_stride, const air_cuda_part *of,
                                  air_error *err)
{
    air_cuda_adapted a = adapted_of(h, op);
    air_cuda_adapted_part f = {};
    f.part = part, f.part_stride = part_stride;
    f.first_row = of->first_row, f.rows = of->rows, f.column = of->column, f.n = of->n;
    f.bias = op->bias == AIR_NONE ? nullptr : h->vector_of[(size_t)op->bias] + of->first_row;
    f.epilogue = air_cuda_epilogue_of(op);
    f.out_stride = h->program->buffers[op->out].width;
    f.out = air_cuda_buffer(h, op->out) + of->column * f.out_stride + of->first_row;
    TRY(air_cuda_fold_adapted(&a, &f, h->compute));
    return AIR_OK;
}
