/* How long a pass takes: each resource by itself, and the slowest of them. */
#include "memory/mixtures.h"
#include "memory/plan_internal.h"
#include "memory/tiles.h"

const char *air_bound_name(air_bound bound)
{
    static const char *const names[AIR_BOUND_COUNT] = {
        [AIR_BOUND_COMPUTE] = "compute", [AIR_BOUND_DEVICE] = "device", [AIR_BOUND_LINK] = "link", [AIR_BOUND_DISK] = "disk"};
    return (unsigned)bound < AIR_BOUND_COUNT ? names[bound] : "unknown";
}

static double larger(double a, double b) { return a > b ? a : b; }

/* --- compute, on the CPU or on a device --- */

/* Of who computes: as in air_bandwidths. */
typedef struct rates { const double *product, *product_columns; double memory, op_s; } rates;

static rates rates_of_cpu(const air_plan_request *r)
{
    const air_bandwidths *b = &r->bandwidths;
    return (rates){b->product, b->product_columns, b->memory, b->op_s};
}

const air_device_rates *air__rates_of_device(const air_plan_request *r, int32_t device)
{
    const air_device_rates *d = &r->bandwidths.devices[device];
    return d->memory > 0 ? d : &r->bandwidths.devices[0];
}

static rates rates_of_device(const air_plan_request *r, int32_t device)
{
    const air_device_rates *d = air__rates_of_device(r, device);
    return (rates){d->product, d->product_columns, d->memory, d->op_s};
}

/* bytes of weights of a type, with so many columns each. */
static double bytes_seconds(const rates *by, uint32_t type, double bytes, double columns)
{
    int known = type < AIR_TYPE_COUNT;
    double rate = known ? by->product[type] : 0, many = known ? by->product_columns[type] : 0;
    if (rate <= 0) rate = by->memory;
    double seconds = rate > 0 ? bytes / rate : 0, more = many > 0 && columns > 1 ? bytes * columns / many : 0;
    return more > seconds ? more : seconds;
}

static double op_seconds(const air_program *program, const air_op *op, const rates *by, int64_t rows)
{
    const air_weight *weight = &program->weights[op->weight];
    int wanted = op->out >= 0 && op->out < program->n_buffers && program->buffers[op->out].rows == AIR_ROWS_WANTED;
    return bytes_seconds(by, weight->type, (double)weight->rows * (double)weight->row_bytes, wanted ? 1 : (double)rows);
}

/* The types of its matrices hardly differ in what a byte takes: as if all were as down is. */
static double mixture_seconds(const air_program *program, int32_t layer, const rates *by, int64_t rows)
{
    const air_mixture *m = &program->mixtures[layer];
    double bytes = air__expert_pass_bytes(program, layer, rows), each = air__expert_pass_bytes(program, layer, 1);
    return bytes_seconds(by, program->weights[m->down].type, bytes, bytes > 0 ? each * (double)rows / bytes : 1);
}

/* Rows of a table come by small reads, depth of them at a time, which the first layer waits for. */
static double gather_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    return p->io == AIR_IO_DIRECT ? r->bandwidths.latency_s * (double)air_ceil_div((uint64_t)rows, (uint64_t)p->depth) : 0;
}

/* What a pass waits for between its parts on the host and on the device: one token's begins with what the last one ended with. */
static double handover_seconds(const air_plan_request *r)
{
    const air_device_rates *d = air__rates_of_device(r, 0);
    double logits = (double)r->program->n_vocab * sizeof(float);
    return d->handover_s + (d->link_back > 0 ? logits / d->link_back : 0);
}

/* The host asks for a mixture's experts when it has seen which a layer's rows go to; their products are launches of their own. */
static double routing_seconds(const air_plan_request *r)
{
    enum { LAUNCHES = 4 };
    const air_device_rates *d = air__rates_of_device(r, 0);
    double seconds = 0;
    for (int32_t i = 0; i < r->program->n_ops; i++)
        if (r->program->ops[i].kind == AIR_OP_EXPERTS)
            seconds += d->handover_s + LAUNCHES * d->op_s * r->program->mixtures[r->program->ops[i].layer].n_used;
    return seconds;
}

static double product_seconds(const air_plan_request *r, const rates *by, int64_t rows)
{
    double seconds = 0;
    for (int32_t i = 0; i < r->program->n_ops; i++)
        if (r->program->ops[i].kind == AIR_OP_PRODUCT) seconds += op_seconds(r->program, &r->program->ops[i], by, rows);
    return seconds;
}

/* Of a sequence, what layers keep of it in so many bytes whatever its length is read, and written elsewhere. */
static double recurrent_seconds(const air_program *program, const rates *by)
{
    return by->memory > 0 ? 2 * (double)program->recurrent_bytes / by->memory : 0;
}

/* Whoever walks the program: all but its products, which may be shared. */
static double beside_products(const air_plan_request *r, const air_plan *p, const rates *by, int64_t rows)
{
    double seconds = by->op_s * r->program->n_ops + recurrent_seconds(r->program, by);
    for (int32_t i = 0; i < r->program->n_ops; i++) {
        if (r->program->ops[i].kind == AIR_OP_EMBED) seconds += gather_seconds(r, p, rows);
        if (r->program->ops[i].kind == AIR_OP_EXPERTS) seconds += mixture_seconds(r->program, r->program->ops[i].layer, by, rows);
    }
    return seconds;
}

static double cpu_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    const rates by = rates_of_cpu(r);
    return beside_products(r, p, &by, rows) + product_seconds(r, &by, rows);
}

/* Others than the first launch the products that they have a part in. */
static double device_beside(const air_plan_request *r, const air_plan *p, int32_t device, int64_t rows)
{
    const rates by = rates_of_device(r, device);
    int32_t products = 0;
    if (!device) return beside_products(r, p, &by, rows) + handover_seconds(r) + routing_seconds(r);
    for (int32_t i = 0; i < r->program->n_ops; i++) products += r->program->ops[i].kind == AIR_OP_PRODUCT;
    return by.op_s * products;
}

double air__device_beside(const air_plan_request *r, const air_plan *p, int32_t device) { return device_beside(r, p, device, 1); }

double air__device_per_byte(const air_plan_request *r, const air_plan *p, int32_t device, int64_t rows)
{
    const rates by = rates_of_device(r, device);
    return p->weight_bytes ? product_seconds(r, &by, rows) / (double)p->weight_bytes : 0;
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

/* What lies in mapped files the CPU copies to where devices copy from: memory is read, written and read again. */
double air__link_rate(const air_plan_request *r, int32_t device)
{
    enum { TIMES = 3 };
    const air_device_rates *d = air__rates_of_device(r, device);
    double rate = r->n_helpers && d->link_together > 0 ? d->link_together : d->link, copies = r->bandwidths.memory / TIMES;
    return r->io == AIR_IO_MMAP && copies > 0 && copies < rate ? copies : rate;
}

/* Of a device's link. The first's has what is no helper's; rows of prompts take the CPU's share along. */
static uint64_t linked_bytes(const air_plan *p, int32_t device, int64_t rows)
{
    if (device) return p->helpers[device - 1].linked_bytes;
    uint64_t bytes = p->weight_bytes - p->device_weight_bytes - (rows > 1 ? 0 : p->host_weight_bytes);
    for (int32_t i = 0; i < p->n_helpers; i++) bytes -= p->helpers[i].linked_bytes;
    return bytes;
}

static double link_seconds(const air_plan_request *r, const air_plan *p, int32_t device, int64_t rows)
{
    double rate = air__link_rate(r, device), experts = device ? 0 : air__expert_link_bytes(r, p, rows);
    return rate > 0 ? ((double)linked_bytes(p, device, rows) + experts) / rate : 0;
}

double air__link_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    double most = 0;
    for (int32_t i = 0; i <= p->n_helpers; i++) most = larger(most, link_seconds(r, p, i, rows));
    return most;
}

/* Tiles are read ahead; a mixture's experts only when its router has spoken, which is when the products before it are through. */
static double with_experts(const air_plan_request *r, double tiles_s, double experts_s, int64_t rows)
{
    const rates by = rates_of_cpu(r);
    return experts_s > 0 && !r->device.budget ? larger(tiles_s, product_seconds(r, &by, rows)) + experts_s : tiles_s + experts_s;
}

static double disk_seconds(const air_plan_request *r, const air_plan *p, uint64_t pinned, int64_t rows)
{
    uint64_t memory, least = air_min_u64(pinned, air__experts_least(r->program, AIR_PLAN_GRANULE));
    if (r->bandwidths.disk <= 0) return 0;
    if (p->io == AIR_IO_MMAP && r->file_bytes <= r->available) return 0;
    if (p->io == AIR_IO_MMAP) {
        double tiles_s = (double)(p->weight_bytes - p->device_weight_bytes) / r->bandwidths.disk;
        return with_experts(r, tiles_s, air__expert_read_seconds(r, p, 0, rows), rows);
    }
    int32_t end = air__plan_prefix(p, p->n_device_tiles, pinned - least, air__tile_in_ram, &memory);
    return with_experts(r, read_seconds(r, p, end), air__expert_read_seconds(r, p, pinned - memory, rows), rows);
}

/* --- together --- */

/* Weights that a device computes with: the first with those that no other has. */
static uint64_t computed_bytes(const air_plan *p, int32_t device, int64_t rows)
{
    if (device) return p->helpers[device - 1].weight_bytes + p->helpers[device - 1].linked_bytes;
    uint64_t bytes = p->weight_bytes - (rows > 1 ? 0 : p->host_weight_bytes);
    for (int32_t i = 1; i <= p->n_helpers; i++) bytes -= computed_bytes(p, i, rows);
    return bytes;
}

/* state: bytes of it that cross the first device's link. */
static air_plan_work work_of(const air_plan_request *r, const air_plan *p, int32_t device, int64_t rows, uint64_t state)
{
    air_plan_work w = {.weight_bytes = computed_bytes(p, device, rows), .linked_bytes = linked_bytes(p, device, rows)};
    double rate = air__link_rate(r, device);
    w.link_s = link_seconds(r, p, device, rows) + (!device && rate > 0 ? (double)state / rate : 0);
    if (device && !w.weight_bytes) return w;
    w.device_s = device_beside(r, p, device, rows) + air__device_per_byte(r, p, device, rows) * (double)w.weight_bytes;
    return w;
}

/* Fills seconds by resource and returns which bounds; state: as in work_of. */
static air_bound bounds_of(const air_plan_request *r, const air_plan *p, uint64_t pinned, int64_t rows, uint64_t state,
                           double seconds[AIR_BOUND_COUNT])
{
    int device = r->device.budget > 0;
    seconds[AIR_BOUND_COMPUTE] = !device ? cpu_seconds(r, p, rows) : p->n_host_tiles && rows == 1 ? air__host_share_seconds(r, p) : 0;
    seconds[AIR_BOUND_DEVICE] = seconds[AIR_BOUND_LINK] = 0;
    for (int32_t i = 0; device && i <= p->n_helpers; i++) {
        air_plan_work work = work_of(r, p, i, rows, state);
        seconds[AIR_BOUND_DEVICE] = larger(seconds[AIR_BOUND_DEVICE], work.device_s);
        seconds[AIR_BOUND_LINK] = larger(seconds[AIR_BOUND_LINK], work.link_s);
    }
    seconds[AIR_BOUND_DISK] = disk_seconds(r, p, pinned, rows);
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
    p->bound = bounds_of(r, p, p->pin_bytes + p->expert_bytes, 1, 0, seconds);
    for (int32_t i = 0; r->device.budget && i <= p->n_helpers; i++) p->work[i] = work_of(r, p, i, 1, 0);
    p->compute_s = seconds[AIR_BOUND_COMPUTE];
    p->device_s = seconds[AIR_BOUND_DEVICE];
    p->link_s = seconds[AIR_BOUND_LINK];
    p->disk_s = seconds[AIR_BOUND_DISK];
    p->pass_s = seconds[p->bound];
    uint64_t away = (uint64_t)p->away_blocks * r->device.away_per_block;
    p->full_s = full[bounds_of(r, p, p->pin_bytes_full + p->expert_bytes_full, 1, away, full)];
    p->prompt_s = air_plan_predict(r, p, prompt_pins, p->max_rows);
}
