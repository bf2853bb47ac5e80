/* The list of stages: neighbouring ops of the program become one stage where nothing that a job of one writes is touched by a job of
 * another. Decided by the memory they touch, not by what model they belong to. */
#include "backend/host.h"
#include "base/alloc.h"

static air__stage_kind kind_of(air_op_kind op)
{
    switch (op) {
    case AIR_OP_EMBED:
    case AIR_OP_EMBED_POSITION:
    case AIR_OP_SELECT: return AIR__STAGE_ALONE;
    case AIR_OP_RMS_NORM:
    case AIR_OP_LAYER_NORM:
    case AIR_OP_COPY:
    case AIR_OP_ADD:
    case AIR_OP_ADD_TYPE:
    case AIR_OP_MULTIPLY:
    case AIR_OP_ROUTE:
    case AIR_OP_ROPE:
    case AIR_OP_TEMPER:
    case AIR_OP_STORE: return AIR__STAGE_ROWS;
    case AIR_OP_ATTENTION: return AIR__STAGE_ATTENTION;
    case AIR_OP_CONVOLVE:
    case AIR_OP_SCAN: return AIR__STAGE_RECURRENT;
    case AIR_OP_PRODUCT: return AIR__STAGE_PRODUCTS;
    case AIR_OP_EXPERTS: return AIR__STAGE_EXPERTS;
    }
    return AIR__STAGE_ALONE;
}

/* Whether two buffers lie in the same memory without being the same: row r of one is then not row r of the other. */
static int overlap(const air_program *p, int32_t a, int32_t b)
{
    if (a == b || a == AIR_NONE || b == AIR_NONE || a == p->logits || b == p->logits) return 0;
    const air_buffer_desc *x = &p->buffers[a], *y = &p->buffers[b];
    return x->rows == y->rows && x->offset < y->offset + y->width && y->offset < x->offset + x->width;
}

static int rows_apart(const air_program *p, const air_op *a, const air_op *b)
{
    return p->buffers[a->in].rows == p->buffers[b->in].rows && !overlap(p, a->out, b->in) && !overlap(p, a->out, b->in2) &&
           !overlap(p, a->out, b->out) && !overlap(p, a->in, b->out) && !overlap(p, a->in2, b->out);
}

/* The later one may fold its result into what the earlier one wrote: it waits for that (earlier_done, host_products.c). */
static int products_apart(const air_program *p, const air_op *a, const air_op *b)
{
    int again = a->out == b->out && b->epilogue == AIR_EPILOGUE_SET;
    int alike = a->heads == b->heads && a->from.first == b->from.first && a->from.step == b->from.step; /* they read one 8-bit form */
    return a->in == b->in && alike && b->out != b->in && !again && !overlap(p, a->out, b->out) && !overlap(p, b->in, b->out);
}

static int joins(const air_program *p, const air__stage *stage, const air_op *op)
{
    if (stage->kind != kind_of(op->kind) || stage->layer != op->layer) return 0;
    for (int32_t i = stage->first; i < stage->first + stage->n_ops; i++) {
        if (stage->kind == AIR__STAGE_ROWS && rows_apart(p, &p->ops[i], op)) continue;
        if (stage->kind == AIR__STAGE_PRODUCTS && products_apart(p, &p->ops[i], op)) continue;
        return 0;
    }
    return 1;
}

/* The last stage's products read the 8-bit form of in as op does: it ends the stage of rows before them, or is one of its own there. */
static void quantize_before(air_backend *h, int32_t op)
{
    const air_program *p = h->program;
    air__stage *products = &h->stages[h->n_stages - 1], *before = products - 1;
    int rows = h->n_stages > 1 && before->kind == AIR__STAGE_ROWS &&
               (before->n_ops == 0 || p->buffers[p->ops[before->first].in].rows == p->buffers[p->ops[op].in].rows);
    if (!rows) {
        h->n_stages++;
        products[1] = products[0];
        before = products;
        *before = (air__stage){.kind = AIR__STAGE_ROWS, .first = products[1].first, .layer = products[1].layer};
    }
    before->quantize = op;
}

static uint64_t bytes_of(const air_program *p, const air__stage *s)
{
    uint64_t bytes = 0;
    for (int32_t i = s->first; i < s->first + s->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (s->kind == AIR__STAGE_PRODUCTS) bytes += (uint64_t)p->weights[op->weight].rows * p->weights[op->weight].row_bytes;
        if (s->kind == AIR__STAGE_ROWS && op->in != AIR_NONE) bytes += (uint64_t)p->buffers[op->in].width * sizeof(float);
    }
    return bytes;
}

air_status air__stages_make(air_backend *h, air_error *err)
{
    const air_program *p = h->program;
    size_t most = 2 * (size_t)p->n_ops; /* every product with a stage before it */
    h->stages = air_calloc(most, sizeof *h->stages);
    if (!h->stages) return air_fail(err, AIR_E_NOMEM, "cpu: %zu stages", most);
    for (int32_t i = 0; i < p->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (h->n_stages && joins(p, &h->stages[h->n_stages - 1], op))
            h->stages[h->n_stages - 1].n_ops++;
        else
            h->stages[h->n_stages++] =
                (air__stage){.kind = kind_of(op->kind), .first = i, .n_ops = 1, .layer = op->layer, .quantize = AIR_NONE};
        if (op->kind == AIR_OP_PRODUCT && air__product_reads_q8(h, op)) quantize_before(h, i);
        if (op->kind == AIR_OP_EXPERTS && air__experts_read_q8(h, op)) quantize_before(h, i);
    }
    for (int32_t i = 0; i < h->n_stages; i++) h->stages[i].bytes = bytes_of(p, &h->stages[i]);
    return AIR_OK;
}
