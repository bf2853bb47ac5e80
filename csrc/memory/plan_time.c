/* How long a pass takes: each resource by itself, and the slowest of them. */
#include "memory/plan_internal.h"
#include "memory/tiles.h"

const char *air_bound_name(air_bound bound)
{
    static const char *const names[AIR_BOUND_COUNT] = {
        [AIR_BOUND_COMPUTE] = "compute", [AIR_BOUND_DEVICE] = "device", [AIR_BOUND_LINK] = "link", [AIR_BOUND_DISK] = "disk"};
    return (unsigned)bound < AIR_BOUND_COUNT ? names[bound] : "unknown";
}

/* --- compute, on the CPU or on a device --- */

/* Of who computes: as in air_bandwidths. */
typedef struct rates { const double *product, *product_columns; double memory, op_s; } rates;

static rates rates_of(const air_plan_request *r)
{
    const air_bandwidths *b = &r->bandwidths;
    if (!r->device.budget) return (rates){b->product, b->product_columns, b->memory, b->op_s};
    return (rates){b->device_product, b->device_product_columns, b->device, b->device_op_s};
}

static double op_seconds(const air_program *program, const air_op *op, const rates *by, int64_t rows)
{
    const air_weight *weight = &program->weights[op->weight];
    int known = weight->type < AIR_TYPE_COUNT;
    double bytes = (double)weight->rows * (double)weight->row_bytes, rate = known ? by->product[weight->type] : 0;
    if (rate <= 0) rate = by->memory;
    double seconds = rate > 0 ? bytes / rate : 0;
    if (op->out >= 0 && op->out < program->n_buffers && program->buffers[op->out].rows == AIR_ROWS_WANTED) return seconds;
    double columns = known ? by->product_columns[weight->type] : 0;
    double many = columns > 0 && rows > 1 ? bytes * (double)rows / columns : 0;
    return many > seconds ? many : seconds;
}

/* Rows of a table come by small reads, depth of them at a time, which the first layer waits for. */
static double gather_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    return p->io == AIR_IO_DIRECT ? r->bandwidths.latency_s * (double)air_ceil_div((uint64_t)rows, (uint64_t)p->depth) : 0;
}

/* What a pass waits for between its parts on the host and on the device: one token's begins with what the last one ended with. */
static double handover_seconds(const air_plan_request *r)
{
    const air_bandwidths *b = &r->bandwidths;
    double logits = (double)r->program->n_vocab * sizeof(float);
    return b->handover_s + (b->link_back > 0 ? logits / b->link_back : 0);
}

static double compute_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    const rates by = rates_of(r);
    double seconds = by.op_s * r->program->n_ops + (r->device.budget ? handover_seconds(r) : 0);
    for (int32_t i = 0; i < r->program->n_ops; i++) {
        if (r->program->ops[i].kind == AIR_OP_PRODUCT) seconds += op_seconds(r->program, &r->program->ops[i], &by, rows);
        if (r->program->ops[i].kind == AIR_OP_EMBED) seconds += gather_seconds(r, p, rows);
    }
    return seconds;
}

/* --- the weights' way there --- */

/* Tiles from priority kept on, read in whole granules. B_disk has in it what reads cost beside their bytes, for reads of the probed
 * size; of smaller ones, each beyond as many as those would be costs its latency, shared by those in flight: the ring less a
 * tile that is computed with and one whose place is just being given to the next. */
static double read_seconds(const air_plan_request *r, const air_plan *p, int32_t kept)
{
    const air_bandwidths *b = &r->bandwidths;
    uint64_t reads = 0, bytes = 0, largest = 1;
    for (int32_t i = kept; i < p->n_tiles; i++) {
        uint64_t memory = air_tile_memory(&p->tiles[p->priority[i]], AIR_PLAN_GRANULE);
        reads += air_ceil_div(memory, p->block_bytes);
        bytes += memory;
        largest = air_max_u64(largest, memory);
    }
    double more = b->block_bytes ? (double)reads - (double)bytes / (double)b->block_bytes : 0;
    uint64_t in_flight = air__less(p->ring_bytes, 2 * largest) / air_min_u64(largest, p->block_bytes);
    double each = b->latency_s / (double)air_max_u64(1, air_min_u64(in_flight, (uint64_t)p->depth));
    return (double)bytes / b->disk + (more > 0 ? more * each : 0);
}

/* Rows of prompts take the CPU's share along. */
static double link_bytes(const air_plan *p, int64_t rows)
{
    return (double)(p->weight_bytes - p->device_weight_bytes - (rows > 1 ? 0 : p->host_weight_bytes));
}

double air__link_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    double rate = air__link_rate(r);
    return rate > 0 ? link_bytes(p, rows) / rate : 0;
}

static double disk_seconds(const air_plan_request *r, const air_plan *p, uint64_t pinned)
{
    uint64_t memory;
    if (r->bandwidths.disk <= 0) return 0;
    if (p->io == AIR_IO_MMAP) return r->file_bytes <= r->available ? 0 : link_bytes(p, 2) / r->bandwidths.disk;
    return read_seconds(r, p, air__plan_prefix(p, p->n_device_tiles, pinned, air__tile_in_ram, &memory));
}

/* --- together --- */

/* Of all weights, those of the device that has most of them. */
static double device_part(const air_plan *p)
{
    uint64_t helpers = 0, most = 0;
    for (int32_t i = 0; i < p->n_helpers; i++) {
        uint64_t bytes = p->helpers[i].weight_bytes + p->helpers[i].linked_bytes;
        helpers += bytes;
        most = air_max_u64(most, bytes);
    }
    most = air_max_u64(most, p->weight_bytes - p->host_weight_bytes - helpers);
    return p->weight_bytes ? (double)most / (double)p->weight_bytes : 1;
}

/* Fills seconds by resource and returns which bounds; state: bytes of it that cross the first device's link. */
static air_bound bounds_of(const air_plan_request *r, const air_plan *p, uint64_t pinned, int64_t rows, uint64_t state,
                           double seconds[AIR_BOUND_COUNT])
{
    int device = r->device.budget > 0;
    double compute = compute_seconds(r, p, rows), link = r->bandwidths.link;
    seconds[AIR_BOUND_COMPUTE] = !device ? compute : p->n_host_tiles && rows == 1 ? air__host_share_seconds(r, p) : 0;
    seconds[AIR_BOUND_DEVICE] = device ? compute * device_part(p) : 0;
    seconds[AIR_BOUND_LINK] = device ? air__link_seconds(r, p, rows) + (link > 0 ? (double)state / link : 0) : 0;
    seconds[AIR_BOUND_DISK] = disk_seconds(r, p, pinned);
    air_bound most = device ? AIR_BOUND_DEVICE : AIR_BOUND_COMPUTE;
    for (int i = 0; i < AIR_BOUND_COUNT; i++)
        if (seconds[i] > seconds[most]) most = (air_bound)i;
    return most;
}

double air_plan_predict(const air_plan_request *request, const air_plan *plan, uint64_t pinned, int64_t rows)
{
    double seconds[AIR_BOUND_COUNT];
    return seconds[bounds_of(request, plan, pinned, rows, 0, seconds)];
}

void air__plan_times(air_plan *p, const air_plan_request *r, uint64_t prompt_pins)
{
    double seconds[AIR_BOUND_COUNT], full[AIR_BOUND_COUNT];
    p->bound = bounds_of(r, p, p->pin_bytes, 1, 0, seconds);
    p->compute_s = seconds[AIR_BOUND_COMPUTE];
    p->device_s = seconds[AIR_BOUND_DEVICE];
    p->link_s = seconds[AIR_BOUND_LINK];
    p->disk_s = seconds[AIR_BOUND_DISK];
    p->pass_s = seconds[p->bound];
    p->full_s = full[bounds_of(r, p, p->pin_bytes_full, 1, (uint64_t)p->away_blocks * r->device.away_per_block, full)];
    p->prompt_s = air_plan_predict(r, p, prompt_pins, p->max_rows);
}
