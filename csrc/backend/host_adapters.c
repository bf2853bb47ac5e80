/* What adapters add to products on the CPU: first A x of each row and product of a stage, then B of that to each chunk of results. */
#include "backend/host.h"

enum { COLUMNS = 8 }; /* of one job */

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Of a column of an op's input: what its sequence has for the op's weight; NULL for nothing. */
static const air_adapter_part *part_of(const air_backend *h, const air_op *op, int64_t column, const air_adapted **adapted)
{
    int all = h->program->buffers[op->in].rows == AIR_ROWS_ALL;
    int64_t row = all ? column : h->pass->wanted[column];
    *adapted = &h->pass->adapted[h->pass->sequences[row]];
    if (!(*adapted)->adapter) return NULL;
    const air_adapter_part *part = &(*adapted)->adapter->parts[op->weight];
    return part->rank ? part : NULL;
}

/* Where A x of the column is: each op of a stage has a plane of its own. */
static float *place_of(const air_backend *h, const air_op *op, int64_t column, const air_adapter *a)
{
    int64_t plane = op - &h->program->ops[h->stage->first];
    return a->scratch + (plane * a->scratch_rows + column) * a->rank_most;
}

static void multiply(const air_backend *h, const float *w, int64_t rows, int64_t k, const float *x, float *y)
{
    air_columns columns = {.k = k, .n = 1, .f32 = x, .f32_stride = (size_t)k};
    h->ops->product[AIR_TYPE_F32].fn(w, (size_t)k * sizeof *w, rows, &columns, y, (size_t)rows);
}

void air__adapters_begin(air_backend *h)
{
    int64_t columns = air__host_rows(h, h->program->ops[h->stage->first].in);
    air_pool_job_reset(&h->adapting, h->pass->adapted ? h->stage->n_ops * ((columns + COLUMNS - 1) / COLUMNS) : 0);
}

/* Every thread comes to the barrier, also of a pass that has been cancelled. */
void air__adapters_run(air_backend *h)
{
    if (!h->pass->adapted) return;
    int64_t columns = air__host_rows(h, h->program->ops[h->stage->first].in), groups = (columns + COLUMNS - 1) / COLUMNS;
    for (int64_t i; (i = air_pool_job_take(&h->adapting)) >= 0;) {
        const air_op *op = &h->program->ops[h->stage->first + i / groups];
        int64_t first = i % groups * COLUMNS, k = h->program->buffers[op->in].width;
        for (int64_t c = first; c < min64(first + COLUMNS, columns) && !air__host_cancelled(h); c++) {
            const air_adapted *adapted;
            const air_adapter_part *part = part_of(h, op, c, &adapted);
            if (!part) continue;
            float *y = place_of(h, op, c, adapted->adapter);
            multiply(h, part->a, part->rank, k, air__host_buffer(h, op->in) + c * k, y);
            for (int64_t r = 0; r < part->rank; r++) y[r] *= adapted->scale;
        }
    }
    air_pool_barrier(h->pool);
}

void air__adapters_add(const air_backend *h, const air_op *op, int64_t row, int64_t rows, int64_t column, int64_t n, float *y,
                       size_t y_stride)
{
    float sum[AIR__CHUNK_ROWS];
    for (int64_t c = 0; c < n; c++) {
        const air_adapted *adapted;
        const air_adapter_part *part = part_of(h, op, column + c, &adapted);
        if (!part) continue;
        multiply(h, part->b + row * part->rank, rows, part->rank, place_of(h, op, column + c, adapted->adapter), sum);
        h->ops->add(y + (size_t)c * y_stride, sum, rows);
    }
}
