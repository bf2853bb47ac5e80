/* What others compute of a product: its columns go to them, their results come back as parts, which the first device folds into the output
 * as if it had computed them.
 *
 *     first device:  record input ·  kernels of its own tiles ·           wait arrived[s] · fold part s · record folded[s]
 *     another one:   wait input · columns here · kernel · wait folded[s] · part s there · record arrived[s]
 *
 *     first device:  columns down · record columns_there · … ·                        fold part s, in the host's memory · record folded[s]
 *     the CPU:                               (host) wait columns_there, folded[s] · compute ·
 *
 * Nobody writes over columns that are being read: what the first device does after the product comes behind the folds, so behind all who
 * read them. */
#include "cuda/backend.h"

#define TRY(call) AIR_CUDA_TRY(call, "sharing a product", err)

/* --- life --- */

static air_status open_lane(air_backend *h, int32_t i, uint8_t *parts, air_error *err)
{
    air_cuda_lane *lane = &h->share.lanes[i];
    air_status st = AIR_OK;
    for (int s = 0; s < AIR_DEVICE_PARTS && !st; s++) {
        lane->parts[s] = parts + (size_t)s * h->share.part_bytes;
        st = air_cuda_use(h, i, err);
        if (!st) st = air_cuda_make_event(&lane->arrived[s], err);
        if (!st) st = air_cuda_use(h, 0, err);
        if (!st) st = air_cuda_make_event(&lane->folded[s], err);
    }
    return st;
}

/* Where devices can reach each other copies need no host memory between; where they cannot they do with it. */
static air_status enable_peers(air_backend *h, int32_t i, air_error *err)
{
    for (int32_t from : {0, i}) {
        int32_t to = from ? 0 : i;
        int can = 0;
        air_status st = air_cuda_use(h, from, err);
        if (st) return st;
        TRY(cudaDeviceCanAccessPeer(&can, h->devices[from].number, h->devices[to].number));
        /* What refuses it: it is enabled, or is for as many peers as can be. */
        if (can && cudaDeviceEnablePeerAccess(h->devices[to].number, 0) != cudaSuccess) (void)cudaGetLastError();
    }
    return AIR_OK;
}

static air_status open_helper(air_backend *h, int32_t i, const air_backend_config *c, air_error *err)
{
    air_cuda_device *d = &h->devices[i];
    air_status st = air_cuda_use(h, i, err);
    if (!st) st = air_cuda_vram((void **)&d->input, air_device_input_bytes(h->program, c->max_rows), "columns of products", err);
    if (!st) st = air_cuda_vram((void **)&d->part, h->share.part_bytes, "results of products", err);
    return st ? st : enable_peers(h, i, err);
}

static air_status open_host(air_backend *h, air_error *err)
{
    air_cuda_share *s = &h->share;
    uint64_t columns = air_device_column_bytes(h->program, AIR_SHARE_COLUMNS);
    air_status st = air_cuda_locked((void **)&s->columns, air_device_host_share_bytes(h->program, s->part_bytes), "the CPU's share", err);
    if (!st) st = air_cuda_make_event(&s->columns_there, err);
    for (int i = 0; i < AIR_DEVICE_PARTS && !st; i++) {
        s->host_parts[i] = s->columns + columns + (size_t)i * s->part_bytes;
        st = air_cuda_make_event(&s->folded[i], err);
    }
    return st;
}

air_status air_cuda_share_open(air_backend *h, const air_backend_config *c, air_error *err)
{
    air_cuda_share *s = &h->share;
    int lanes = h->n_devices - 1;
    air_status st = AIR_OK;
    if (!lanes && !c->host.product) return AIR_OK;
    s->part_bytes = c->part_bytes;
    s->later.reserve((size_t)c->n_tiles);
    s->takers.assign((size_t)h->program->n_ops, 0);
    for (int32_t i = 1; i < h->n_devices && !st; i++) st = open_helper(h, i, c, err);
    if (!st) st = air_cuda_use(h, 0, err);
    if (!st && lanes) st = air_cuda_vram((void **)&s->parts, (size_t)lanes * AIR_DEVICE_PARTS * s->part_bytes, "results from elsewhere", err);
    if (!st) st = air_cuda_make_event(&s->input, err);
    uint8_t *parts = s->parts;
    for (int32_t i = 1; i < h->n_devices && !st; i++, parts += AIR_DEVICE_PARTS * s->part_bytes)
        st = open_lane(h, i, parts, err);
    return !st && s->host.product ? open_host(h, err) : st;
}

void air_cuda_share_close(air_backend *h)
{
    air_cuda_share *s = &h->share;
    for (air_cuda_lane &lane : s->lanes)
        for (int i = 0; i < AIR_DEVICE_PARTS; i++)
            for (cudaEvent_t event : {lane.arrived[i], lane.folded[i]})
                if (event) (void)cudaEventDestroy(event);
    for (cudaEvent_t event : {s->input, s->columns_there})
        if (event) (void)cudaEventDestroy(event);
    for (cudaEvent_t event : s->folded)
        if (event) (void)cudaEventDestroy(event);
    for (int32_t i = 1; i < h->n_devices; i++) {
        (void)cudaFree(h->devices[i].input);
        (void)cudaFree(h->devices[i].part);
    }
    (void)cudaFree(s->parts);
    (void)cudaFreeHost(s->columns);
}

void air_cuda_share_forget(air_backend *h, int32_t buffer)
{
    air_cuda_share *s = &h->share;
    for (int32_t i = 1; i < h->n_devices; i++)
        for (int32_t *of : {&h->devices[i].floats_of, &h->devices[i].q8_of})
            if (*of == buffer) *of = AIR_NONE;
    if (s->columns_of == buffer) s->columns_of = AIR_NONE;
}

void air_cuda_share_reset(air_backend *h)
{
    air_cuda_share *s = &h->share;
    for (air_cuda_device &d : h->devices) d.floats_of = d.q8_of = AIR_NONE;
    for (air_cuda_lane &lane : s->lanes) lane.taken = lane.sent;
    s->columns_of = AIR_NONE;
    s->later.clear();
}

/* --- parts --- */

static air_status fold(air_backend *h, const air_op *op, const uint8_t *part, const air_cuda_part *of, cudaEvent_t folded, air_error *err)
{
    air_cuda_folding f = {};
    air_status st = AIR_OK;
    f.part = (const float *)part, f.rows = of->rows, f.n = of->n;
    f.bias = op->bias == AIR_NONE ? nullptr : h->vector_of[(size_t)op->bias] + of->first_row;
    f.epilogue = air_cuda_epilogue_of(op);
    f.out_stride = h->program->buffers[op->out].width;
    f.out = air_cuda_buffer(h, op->out) + of->column * f.out_stride + (op->heads ? op->to.first : of->first_row);
    if (op->heads) f.head_rows = h->program->weights[op->weight].rows / op->heads, f.first_row = of->first_row, f.head_out = op->to.step;
    if (air_cuda_adapts(h, op)) st = air_cuda_adapters_fold(h, op, f.part, of->rows, of, err);
    else TRY(air_cuda_fold(&f, h->compute));
    if (st) return st;
    TRY(cudaEventRecord(folded, h->compute));
    return AIR_OK;
}

static air_status fold_oldest(air_backend *h, const air_op *op, air_cuda_lane *lane, air_error *err)
{
    int slot = (int)(lane->taken % AIR_DEVICE_PARTS);
    TRY(cudaStreamWaitEvent(h->compute, lane->arrived[slot], 0));
    air_status st = fold(h, op, lane->parts[slot], &lane->of[slot], lane->folded[slot], err);
    lane->taken += !st;
    return st;
}

/* A place for the next part, which the sender's stream may write to behind this. */
static air_status next_part(air_backend *h, const air_op *op, air_cuda_lane *lane, cudaStream_t sender, int *slot, air_error *err)
{
    air_status st = lane->sent - lane->taken == AIR_DEVICE_PARTS ? fold_oldest(h, op, lane, err) : AIR_OK;
    if (st) return st;
    *slot = (int)(lane->sent % AIR_DEVICE_PARTS);
    if (lane->sent >= AIR_DEVICE_PARTS) TRY(cudaStreamWaitEvent(sender, lane->folded[*slot], 0));
    return AIR_OK;
}

/* The part in that place has been enqueued on the sender's stream. */
static air_status part_sent(air_cuda_lane *lane, cudaStream_t sender, int slot, const air_cuda_tile *tile, int64_t column, int64_t n,
                            air_error *err)
{
    TRY(cudaEventRecord(lane->arrived[slot], sender));
    lane->of[slot] = {tile->first_row, tile->rows, column, n};
    lane->sent++;
    return AIR_OK;
}

/* Columns of a tile of so many rows that a part holds. */
static int64_t columns_of_part(const air_backend *h, int64_t rows)
{
    int64_t n = (int64_t)(h->share.part_bytes / sizeof(float)) / rows;
    return n < 1 ? 1 : n;
}

/* --- another device --- */

/* Who computes some of an op is sent its columns before anything else of it is enqueued, from the second pass on. */
static void note_taker(air_backend *h, const air_op *op, int32_t who) { h->share.takers[(size_t)(op - h->program->ops)] |= (uint16_t)(1 << who); }

static int takes(const air_backend *h, const air_op *op, int32_t who)
{
    return !h->share.takers.empty() && h->share.takers[(size_t)(op - h->program->ops)] >> who & 1;
}

/* Of n rows: of a product by heads so many of each. */
static int64_t columns_of_input(const air_op *op, int64_t n) { return op->heads ? op->heads * n : n; }

/* The columns of an op, in the form that its product reads, on a device's own memory. */
static air_status send_columns(air_backend *h, air_cuda_device *d, const air_op *op, int q8, int64_t n, air_error *err)
{
    int64_t k = h->program->weights[op->weight].cols, columns = columns_of_input(op, n);
    const float *x = op->heads ? air_cuda_gathered(h) : air_cuda_buffer(h, op->in);
    int32_t *there = q8 ? &d->q8_of : &d->floats_of;
    if (*there == op->in) return AIR_OK;
    TRY(cudaEventRecord(h->share.input, h->compute));
    TRY(cudaStreamWaitEvent(d->compute, h->share.input, 0));
    uint64_t floats = air_device_column_bytes(h->program, n);
    if (q8) TRY(cudaMemcpyPeerAsync(d->input + floats, d->number, h->memory + h->layout.q8, h->device, air_cuda_q8_bytes(k, columns),
                                     d->compute));
    else TRY(cudaMemcpyPeerAsync(d->input, d->number, x, h->device, (size_t)(columns * k) * sizeof(float), d->compute));
    *there = op->in;
    return AIR_OK;
}

/* Launches are a thread's device's, the first one but for here. */
static air_status run_part(air_backend *h, const air_op *op, const air_cuda_tile *tile, const air_cuda_product *p, int slot, air_error *err)
{
    int32_t device = tile->device;
    const air_cuda_device *d = &h->devices[device];
    size_t bytes = (size_t)(p->rows * p->n) * sizeof(float);
    air_status st = air_cuda_use(h, device, err);
    if (st) return st;
    const air_weight *w = &h->program->weights[op->weight];
    cudaError_t launched = op->heads ? air_cuda_product_by_heads(op, w, tile->first_row, nullptr, *p, d->compute)
                                     : air_cuda_product_run(p, d->compute);
    st = air_cuda_use(h, 0, err);
    if (st) return st;
    TRY(launched);
    TRY(cudaMemcpyPeerAsync(h->share.lanes[device].parts[slot], h->device, d->part, d->number, bytes, d->compute));
    return AIR_OK;
}

air_status air_cuda_share_by_device(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err)
{
    air_cuda_device *d = &h->devices[tile->device];
    air_cuda_lane *lane = &h->share.lanes[tile->device];
    const air_weight *w = &h->program->weights[op->weight];
    int q8 = air_device_input(w->type) == AIR_INPUT_Q8;
    note_taker(h, op, tile->device);
    air_status st = send_columns(h, d, op, q8, n, err);
    air_cuda_product p = {};
    p.type = w->type;
    p.w = tile->data;
    p.row_bytes = (size_t)w->row_bytes;
    p.rows = p.out_stride = tile->rows;
    p.k = w->cols;
    p.out = (float *)d->part;
    p.head_columns = n;
    p.tables = d->tables;
    for (int64_t c = 0; c < n && !st; c += p.n) {
        air_row_role role;
        int slot;
        p.n = air_cuda_columns_alike(h, op, c, n, columns_of_part(h, tile->rows), &role);
        p.role = (air_cuda_role)role;
        p.x = (const float *)d->input + c * p.k;
        if (q8) p.q8 = air_cuda_q8_from(air_cuda_q8_place(d->input + air_device_column_bytes(h->program, n), p.k, columns_of_input(op, n)), p.k, c);
        st = next_part(h, op, lane, d->compute, &slot, err);
        if (!st) st = run_part(h, op, tile, &p, slot, err);
        if (!st) st = part_sent(lane, d->compute, slot, tile, c, p.n, err);
    }
    return st;
}

/* --- the CPU --- */

/* The next generated columns from c on, as many as it takes at a time; 0: none. */
static int64_t columns_for_host(const air_backend *h, const air_op *op, int64_t most, int64_t *c, int64_t n)
{
    air_row_role role;
    for (int64_t alike; *c < n; *c += alike) {
        alike = air_cuda_columns_alike(h, op, *c, n, n, &role);
        if (role == AIR_ROW_GENERATED) return alike < most ? alike : most;
    }
    return 0;
}

static air_status send_to_host(air_backend *h, const air_op *op, int64_t c, int64_t n, air_error *err)
{
    air_cuda_share *s = &h->share;
    int64_t k = op->heads ? h->program->buffers[op->in].width : h->program->weights[op->weight].cols; /* whole rows, for parts of heads */
    if (s->columns_of == op->in && s->columns_first == c && s->columns_n >= n) return AIR_OK;
    TRY(cudaMemcpyAsync(s->columns, air_cuda_buffer(h, op->in) + c * k, (size_t)(n * k) * sizeof(float), cudaMemcpyDeviceToHost, h->compute));
    TRY(cudaEventRecord(s->columns_there, h->compute));
    s->columns_of = op->in;
    s->columns_first = c;
    s->columns_n = n;
    return AIR_OK;
}

air_status air_cuda_share_begin(air_backend *h, const air_op *op, int64_t n, air_error *err)
{
    int q8 = air_device_input(h->program->weights[op->weight].type) == AIR_INPUT_Q8;
    air_status st = AIR_OK;
    for (int32_t i = 1; i < h->n_devices && !st; i++)
        if (takes(h, op, i)) st = send_columns(h, &h->devices[i], op, q8, n, err);
    int64_t c = 0, some = !st && takes(h, op, 0) ? columns_for_host(h, op, AIR_SHARE_COLUMNS, &c, n) : 0;
    return some ? send_to_host(h, op, c, some, err) : st;
}

/* Rows of one weight that follow each other, in one turn of the CPU's threads. The device reads the results where they are written, which
 * takes it less time than a copy of so little would. */
struct host_rows {
    const air_span *spans;
    int32_t n_spans;
    int64_t first_row, rows;
};

static air_status compute_on_host(air_backend *h, const air_op *op, const host_rows *rows, int64_t c, int64_t n, air_error *err)
{
    air_cuda_share *s = &h->share;
    int slot = (int)(s->computed % AIR_DEVICE_PARTS);
    air_cuda_part of = {rows->first_row, rows->rows, c, n};
    air_status st = send_to_host(h, op, c, n, err);
    if (st) return st;
    TRY(cudaEventSynchronize(s->columns_there));
    if (s->computed >= AIR_DEVICE_PARTS) TRY(cudaEventSynchronize(s->folded[slot])); /* the last results there have been read */
    s->host.product(s->host.self, op, rows->spans, rows->n_spans, (const float *)s->columns, n, (float *)s->host_parts[slot]);
    s->computed++;
    return fold(h, op, s->host_parts[slot], &of, s->folded[slot], err);
}

static air_status by_host(air_backend *h, const air_op *op, const host_rows *rows, int64_t n, air_error *err)
{
    note_taker(h, op, 0);
    int64_t part = columns_of_part(h, rows->rows), most = part < AIR_SHARE_COLUMNS ? part : (int64_t)AIR_SHARE_COLUMNS;
    air_status st = AIR_OK;
    for (int64_t c = 0, some; !st && (some = columns_for_host(h, op, most, &c, n)) != 0; c += some)
        st = compute_on_host(h, op, rows, c, some, err);
    return st;
}

/* Later, if its data is there until the pass ends: what devices can do by then is enqueued before. */
air_status air_cuda_share_by_host(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err)
{
    if (tile->span.stays) {
        h->share.later.push_back(tile->span);
        return AIR_OK;
    }
    host_rows rows = {&tile->span, 1, tile->first_row, tile->rows};
    return by_host(h, op, &rows, n, err);
}

/* Of those for later from i on, as many as follow each other and have room in a part. */
static host_rows together(const air_cuda_share *s, size_t i)
{
    const air_span *span = &s->later[i];
    host_rows rows = {span, 1, span->first_row, span->rows};
    for (i++; i < s->later.size() && s->later[i].first_row == rows.first_row + rows.rows; i++) {
        if ((uint64_t)(rows.rows + s->later[i].rows) * sizeof(float) > s->part_bytes) break;
        rows.rows += s->later[i].rows;
        rows.n_spans++;
    }
    return rows;
}

air_status air_cuda_share_end(air_backend *h, const air_op *op, int64_t n, air_error *err)
{
    air_cuda_share *s = &h->share;
    air_status st = s->later.empty() ? AIR_OK : air_cuda_weights_ahead(h, err);
    for (size_t i = 0; i < s->later.size() && !st;) {
        host_rows rows = together(s, i);
        st = by_host(h, op, &rows, n, err);
        i += (size_t)rows.n_spans;
    }
    s->later.clear();
    for (int32_t i = 0; i < h->n_devices; i++)
        while (!st && s->lanes[i].taken < s->lanes[i].sent) st = fold_oldest(h, op, &s->lanes[i], err);
    return st;
}
