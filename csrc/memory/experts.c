#include "memory/experts.h"

#include <math.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "memory/guesses.h"
#include "memory/places.h"
#include "platform/clock.h"
#include "platform/pages.h"

enum {
    AIR__EXPERT_HALF_LIFE = 128,    /* rows */
    HUGE_PAGE = 2 << 20, HUGE_FROM = 32 * HUGE_PAGE, /* as pager_pins.c has them */
    COOL_AT = 256,                  /* half-lives after which all heats are made smaller, so that none overflows */
};

typedef struct expert_unit {
    int32_t layer, expert;
    int32_t slot;    /* AIR_NONE: not in memory */
} expert_unit;

typedef struct expert_slot {
    int32_t unit;    /* AIR_NONE: none */
    air__slot_state state;
    int held;        /* by the pass */
    int there;       /* its memory is in the budget */
    int locked;      /* by the backend */
    int guessed;     /* read for a guess, and not asked for since */
    int expected;    /* by a guess, and its layer not asked for since: gives way to what is asked for, last of all */
    int again;       /* what failed was read for a guess: once it is asked for, it is read anew */
    int queued_part; /* of its unit, that is read next; AIR__EXPERT_PARTS: all reads have begun */
    uint64_t queued_at; /* and bytes of it that are being read or have been */
    uint32_t in_flight; /* reads */
} expert_slot;

/* Slots of one size, one after the other in a region of address space. */
typedef struct expert_class {
    uint64_t memory;
    int32_t first, most, target; /* of slots: the first one's number, how many there may ever be, how many there may be now */
    uint8_t *region, *data;
    uint64_t bytes;              /* of the region */
} expert_class;

typedef struct expert_read {
    air_io_request request;
    air__experts *experts;
    uint32_t part;               /* file */
    int32_t weight;              /* of the program */
    int32_t slot;
    int busy;
    AIR_ATOMIC(int) cancel;
} expert_read;

typedef enum asked_state { ASKED, TAKEN, GIVEN } asked_state;
typedef struct asked_unit {
    int32_t unit;
    asked_state state;
    int placed;      /* in a device's memory before it was asked for: no slot is needed */
} asked_unit;

struct air__experts {
    air_pager *pager;
    expert_unit *units;
    double *heat;                /* [n_units], times 2^(half-lives since the clock was set) */
    air__places *places;         /* in a device's memory; NULL: there is none */
    int32_t n_units, n_slots;
    int32_t *first_unit;         /* [n_layers]: units of a layer follow each other */
    int32_t *class_of;           /* [n_layers] */
    expert_class *classes;
    int32_t n_classes;
    expert_slot *slots;
    uint64_t *rows;              /* [n_units] */
    asked_unit *asked;           /* [largest mixture] */
    int32_t n_asked, n_taken;
    uint64_t pass_at, pass_disk_bytes; /* the first ask of a pass, ns, and what had been read by then */
    int32_t *queue;              /* [n_slots]: slots whose reads are not all submitted */
    int32_t n_queue;
    expert_read *reads;
    int32_t n_reads, n_busy;
    air__guesses *guesses;
    int32_t *router_tile;        /* [n_layers]: the tile that is all of a layer's router, AIR_NONE */
    int lookahead;
    double clock;                /* half-lives */
    air_error error;             /* why the last slot failed that has */
    uint64_t held;
};

static expert_class *class_of(const air__experts *e, int32_t unit) { return &e->classes[e->class_of[e->units[unit].layer]]; }

static uint8_t *slot_data(const expert_class *c, int32_t slot)
{
    return c->data + (uint64_t)(slot - c->first) * c->memory;
}

/* --- reads --- */

static void submit_reads(air__experts *e);

static air_status read_block(void *self, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *closing, air_error *err)
{
    expert_read *read = self;
    air_source *source = read->experts->pager->sources[read->part];
    (void)closing; /* they are cancelled one by one before the threads end */
    if (atomic_load(&read->cancel)) return air_fail(err, AIR_E_CANCELLED, "read cancelled before it began");
    return source->read(source, offset, buffer, bytes, &read->cancel, err);
}

static void read_done(air_io_request *request)
{
    expert_read *read = request->context;
    air__experts *e = read->experts;
    air_pager *p = e->pager;
    air_mutex_lock(&p->lock);
    expert_slot *slot = &e->slots[read->slot];
    read->busy = 0;
    e->n_busy--;
    const expert_unit *u = &e->units[slot->unit]; /* that the slot has as long as it is read into */
    air__note_read(p, AIR_EVENT_EXPERT, request, u->layer, read->weight, u->expert);
    slot->in_flight--;
    if (request->error.status) {
        (void)air_error_copy(&e->error, &request->error);
        slot->state = AIR__SLOT_FAILED;
    } else if (!slot->in_flight && slot->queued_part == AIR__EXPERT_PARTS && slot->state == AIR__SLOT_PLACED) {
        slot->state = AIR__SLOT_READY;
    }
    int ended = !slot->in_flight || request->error.status;
    submit_reads(e);
    air_mutex_unlock(&p->lock);
    if (ended) air_cond_broadcast(&p->changed); /* nobody waits for a part of what is read into a slot */
}

/* A guess's are as many as there are threads for them, so that what is asked for then finds a short queue. */
static expert_read *free_read(air__experts *e, int asked)
{
    if (!asked && e->n_busy >= e->pager->plan->depth) return NULL;
    for (int32_t i = 0; i < e->n_reads; i++)
        if (!e->reads[i].busy) return &e->reads[i];
    return NULL;
}

static uint8_t *part_data(const air__experts *e, int32_t slot, int part)
{
    const expert_unit *u = &e->units[e->slots[slot].unit];
    const air_pager *p = e->pager;
    uint8_t *at = slot_data(class_of(e, e->slots[slot].unit), slot);
    for (int i = 0; i < part; i++) {
        air__extent x = air__expert_extent(p->program, u->layer, u->expert, i);
        at += air__extent_memory(&x, p->granule);
    }
    return at;
}

/* The next blocks of a slot; 0: some are left for want of a free request. */
static int submit_slot(air__experts *e, int32_t number)
{
    air_pager *p = e->pager;
    expert_slot *slot = &e->slots[number];
    const expert_unit *u = &e->units[slot->unit];
    for (; slot->queued_part < AIR__EXPERT_PARTS; slot->queued_part++, slot->queued_at = 0) {
        air__extent x = air__expert_extent(p->program, u->layer, u->expert, slot->queued_part);
        uint64_t memory = air__extent_memory(&x, p->granule);
        while (slot->queued_at < memory) {
            expert_read *read = free_read(e, slot->held);
            if (!read) return 0;
            uint64_t bytes = air_min_u64(air__block_of(p, memory), memory - slot->queued_at);
            read->busy = 1;
            e->n_busy++;
            read->part = x.part;
            read->weight = x.weight;
            read->slot = number;
            atomic_store(&read->cancel, 0);
            read->request.read = read_block;
            read->request.source = read;
            read->request.offset = air_round_down(x.offset, p->granule) + slot->queued_at;
            read->request.buffer = part_data(e, number, slot->queued_part) + slot->queued_at;
            read->request.bytes = (size_t)bytes;
            read->request.done = read_done;
            read->request.context = read;
            slot->queued_at += bytes;
            slot->in_flight++;
            air_async_io_submit(p->io, &read->request);
        }
    }
    return 1;
}

/* First what has been asked for, then what a guess has begun. Nonzero: all has been submitted. */
static int submit_queue(air__experts *e)
{
    int more = 0;
    for (int asked = 1; asked >= 0; asked--)
        for (int32_t i = 0; i < e->n_queue && !more; i++) {
            const expert_slot *slot = &e->slots[e->queue[i]];
            if (slot->held == asked && slot->state == AIR__SLOT_PLACED) more = !submit_slot(e, e->queue[i]);
        }
    int32_t left = 0;
    for (int32_t i = 0; i < e->n_queue; i++) {
        const expert_slot *slot = &e->slots[e->queue[i]];
        if (slot->state == AIR__SLOT_PLACED && slot->queued_part < AIR__EXPERT_PARTS) e->queue[left++] = e->queue[i];
    }
    e->n_queue = left;
    return !more;
}

/* --- places --- */

/* Forgets the unit of a slot that nothing reads into. */
static void empty_slot(air__experts *e, int32_t number)
{
    expert_slot *slot = &e->slots[number];
    if (slot->unit != AIR_NONE) e->units[slot->unit].slot = AIR_NONE;
    slot->unit = AIR_NONE;
    slot->state = AIR__SLOT_EMPTY;
    slot->held = slot->guessed = slot->again = slot->expected = 0;
}

static void start_reads(air__experts *e, int32_t number)
{
    expert_slot *slot = &e->slots[number];
    slot->state = AIR__SLOT_PLACED;
    slot->queued_part = 0;
    slot->queued_at = 0;
    for (int32_t i = 0; i < e->n_queue; i++)
        if (e->queue[i] == number) return; /* as what failed was in the queue still */
    e->queue[e->n_queue++] = number;
}

/* What a device's memory is likely to keep is of no use here: it is the first to give way, and what is expected the last. */
static double cold(const air__experts *e, int32_t unit)
{
    if (e->places && air__places_settled(e->places, e->units[unit].layer, unit)) return -1;
    return e->slots[e->units[unit].slot].expected ? HUGE_VAL : e->heat[unit];
}

/* Its memory is in the budget, and page-locked where the backend does that, from its first use on: that takes as long as touching it. */
static int make_there(air__experts *e, const expert_class *c, int32_t number)
{
    expert_slot *slot = &e->slots[number];
    if (slot->there) return 1;
    if (air_budget_reserve(e->pager->budget, AIR_HOLD_EXPERTS, c->memory, NULL)) return 0;
    e->held += c->memory;
    slot->there = 1;
    slot->locked = air__pages_lock(e->pager, slot_data(c, number), c->memory);
    return 1;
}

/* The slot to take for another unit: one without a unit, else the coldest's; AIR_NONE while all are held or being read. No new memory is
 * taken while there is some that is of no use. */
static int32_t choose_slot(air__experts *e, const expert_class *c)
{
    int32_t coldest = AIR_NONE, new_one = AIR_NONE;
    for (int32_t i = c->first; i < c->first + c->target; i++) {
        expert_slot *slot = &e->slots[i];
        if (slot->state == AIR__SLOT_FAILED && !slot->held && !slot->in_flight) empty_slot(e, i); /* of a guess */
        if (slot->state == AIR__SLOT_EMPTY && slot->there) return i;
        if (slot->state == AIR__SLOT_EMPTY && new_one == AIR_NONE) new_one = i;
        if (slot->held || slot->state != AIR__SLOT_READY) continue;
        if (coldest == AIR_NONE || cold(e, slot->unit) < cold(e, e->slots[coldest].unit)) coldest = i;
    }
    if (new_one == AIR_NONE || (coldest != AIR_NONE && cold(e, e->slots[coldest].unit) < 0)) return coldest;
    return make_there(e, c, new_one) ? new_one : coldest;
}

static int place(air__experts *e, int32_t unit, int asked)
{
    int32_t number = choose_slot(e, class_of(e, unit));
    if (number == AIR_NONE || (!asked && e->slots[number].expected)) return 0;
    empty_slot(e, number);
    expert_slot *slot = &e->slots[number];
    slot->unit = unit;
    e->units[unit].slot = number;
    start_reads(e, number);
    return 1;
}

/* What is asked for has this slot: it stays, and is read anew where a guess has failed to. */
static void hold(air__experts *e, int32_t number)
{
    expert_slot *slot = &e->slots[number];
    slot->held = 1;
    if (slot->state != AIR__SLOT_FAILED || !slot->again || slot->in_flight) return;
    slot->again = 0;
    start_reads(e, number);
}

static int needs_slot(const asked_unit *asked) { return asked->state == ASKED && !asked->placed; }

/* Holds what is asked for and has a slot, and gives slots to the rest as far as there are any. */
static void hold_asked(air__experts *e)
{
    for (int32_t i = 0; i < e->n_asked; i++)
        if (needs_slot(&e->asked[i]) && e->units[e->asked[i].unit].slot != AIR_NONE) hold(e, e->units[e->asked[i].unit].slot);
    for (int32_t i = 0; i < e->n_asked; i++) {
        int32_t unit = e->asked[i].unit;
        if (!needs_slot(&e->asked[i]) || e->units[unit].slot != AIR_NONE) continue;
        if (!place(e, unit, 1)) break;
        e->slots[e->units[unit].slot].held = 1;
    }
}

/* A guess's slot is one that is read again, should it fail, when it is asked for. */
static int place_guess(air__experts *e, int32_t unit)
{
    if (e->units[unit].slot != AIR_NONE || air__places_of(e->places, unit) != AIR_NONE || !place(e, unit, 0)) return 0;
    expert_slot *slot = &e->slots[e->units[unit].slot];
    slot->guessed = slot->again = slot->expected = 1;
    e->pager->stats.expert_guesses++;
    return 1;
}

/* While nothing that has been asked for is left to be read, guesses are, one after the other. */
static void submit_reads(air__experts *e)
{
    hold_asked(e);
    while (submit_queue(e) && e->n_busy < e->pager->plan->depth) {
        int32_t unit;
        while ((unit = air__guesses_next(e->guesses)) != AIR_NONE && !place_guess(e, unit)) continue;
        if (unit == AIR_NONE) return;
    }
}

/* --- the feed --- */

static void warm(air__experts *e, int32_t unit, int32_t rows)
{
    e->heat[unit] += rows * exp2(e->clock);
    e->rows[unit] += (uint64_t)rows;
}

/* The clock goes on with the rows of the first mixture. */
static void advance_clock(air__experts *e, int32_t layer, const int32_t *rows, int32_t n)
{
    int64_t sent = 0;
    for (int32_t i = 0; i < n; i++) sent += rows[i];
    if (layer != e->units[0].layer) return;
    e->clock += (double)sent / e->pager->program->mixtures[layer].n_used / AIR__EXPERT_HALF_LIFE;
    if (e->clock < COOL_AT) return;
    for (int32_t i = 0; i < e->n_units; i++) e->heat[i] = ldexp(e->heat[i], -COOL_AT);
    e->clock -= COOL_AT;
}

/* Of a layer. */
static void expect_no_more(air__experts *e, int32_t layer)
{
    const expert_unit *units = e->units + e->first_unit[layer];
    for (int32_t i = 0; i < e->pager->program->mixtures[layer].n_experts; i++)
        if (units[i].slot != AIR_NONE) e->slots[units[i].slot].expected = 0;
}

static void note_asked(air__experts *e, int32_t i, int32_t unit, int32_t rows)
{
    air_pager *p = e->pager;
    expert_slot *slot = e->units[unit].slot == AIR_NONE ? NULL : &e->slots[e->units[unit].slot];
    int placed = air__places_of(e->places, unit) != AIR_NONE;
    e->asked[i] = (asked_unit){unit, ASKED, placed};
    warm(e, unit, rows);
    if (placed) air__places_hold(e->places, unit, 1);
    p->stats.expert_guessed += slot && slot->guessed;
    if (slot) slot->guessed = 0;
    int there = p->mappings || placed || (slot && slot->state == AIR__SLOT_READY);
    p->stats.expert_hits += (uint64_t)there;
    p->stats.expert_misses += (uint64_t)!there;
    p->stats.expert_device_hits += (uint64_t)placed;
}

/* From the first ask of one pass to that of the next. */
static void note_pass(air__experts *e)
{
    const air_pager *p = e->pager;
    uint64_t now = air_clock_ns(), bytes = p->stats.disk_bytes;
    double seconds = (double)(now - e->pass_at) * 1e-9;
    double read = (double)(bytes - e->pass_disk_bytes);
    if (e->pass_at && p->plan->disk_rate > 0) air__guesses_pass(e->guesses, read / seconds / p->plan->disk_rate);
    e->pass_at = now;
    e->pass_disk_bytes = bytes;
}

static air_status ask(void *self, int32_t layer, const int32_t *experts, const int32_t *rows, int32_t n, air_error *err)
{
    air_pager *p = self;
    air__experts *e = p->experts;
    if (e->n_taken < e->n_asked)
        return air_fail(err, AIR_E_ARGUMENT, "experts of layer %d: some of another layer are not taken", (int)layer);
    air_mutex_lock(&p->lock);
    advance_clock(e, layer, rows, n);
    if (layer == e->units[0].layer) note_pass(e);
    e->n_asked = n;
    e->n_taken = 0;
    for (int32_t i = 0; i < n; i++) note_asked(e, i, e->first_unit[layer] + experts[i], rows[i]);
    air__places_heat_changed(e->places);
    expect_no_more(e, layer);
    air__guesses_asked(e->guesses, e->first_unit[layer], p->program->mixtures[layer].n_experts, experts, n);
    if (!p->mappings) submit_reads(e);
    air_mutex_unlock(&p->lock);
    return AIR_OK;
}

static air_expert expert_at(const air__experts *e, int32_t asked)
{
    const air_pager *p = e->pager;
    int32_t unit = e->asked[asked].unit, slot = e->units[unit].slot;
    air_expert out = {.layer = e->units[unit].layer, .expert = e->units[unit].expert, .place = air__places_of(e->places, unit),
                      .slot = (uint64_t)asked};
    const uint8_t **const parts[AIR__EXPERT_PARTS] = {&out.gate, &out.up, &out.down};
    if (out.place != AIR_NONE) out.at = air__places_offset(e->places, out.place);
    if (!p->mappings && slot != AIR_NONE) out.locked = e->slots[slot].locked;
    for (int i = 0; i < AIR__EXPERT_PARTS && !e->asked[asked].placed; i++) {
        air__extent x = air__expert_extent(p->program, out.layer, out.expert, i);
        if (!x.bytes) continue;
        *parts[i] = p->mappings ? air_mapping_data(p->mappings[x.part]) + x.offset : part_data(e, slot, i) + x.offset % p->granule;
    }
    return out;
}

static void hand_out(air__experts *e, int32_t asked, air_expert *out, int32_t *n)
{
    e->asked[asked].state = TAKEN;
    e->n_taken++;
    out[(*n)++] = expert_at(e, asked);
}

/* What a device has comes first: it computes with it while the rest is on its way. */
static air_status take_ready(air__experts *e, air_expert *out, int32_t most, int32_t *n, air_error *err)
{
    air_pager *p = e->pager;
    for (int32_t i = 0; i < e->n_asked && *n < most; i++)
        if (e->asked[i].state == ASKED && e->asked[i].placed) hand_out(e, i, out, n);
    for (int32_t i = 0; i < e->n_asked && *n < most; i++) {
        const expert_unit *u = &e->units[e->asked[i].unit];
        const expert_slot *slot = u->slot == AIR_NONE ? NULL : &e->slots[u->slot];
        if (!needs_slot(&e->asked[i]) || (!p->mappings && !slot)) continue;
        if (slot && slot->state == AIR__SLOT_FAILED && !slot->again) return air_error_copy(err, &e->error);
        if (slot && slot->state != AIR__SLOT_READY) continue;
        if (e->places && !air__places_take(e->places, u->layer, e->asked[i].unit)) continue;
        hand_out(e, i, out, n);
    }
    return AIR_OK;
}

/* Nothing that is asked for will come by itself: the caller holds all there is, or there is nothing. */
static air_status no_slot(const air__experts *e, air_error *err)
{
    const air_pager *p = e->pager;
    int32_t held = 0;
    for (int32_t i = 0; i < e->n_asked; i++) {
        int32_t slot = e->units[e->asked[i].unit].slot;
        /* One that is READY lacks a place in a device's memory. */
        if (needs_slot(&e->asked[i]) && slot != AIR_NONE && e->slots[slot].state != AIR__SLOT_READY) return AIR_OK;
        held += e->asked[i].state == TAKEN;
    }
    for (int32_t i = 0; i < e->n_reads; i++)
        if (e->reads[i].busy) return AIR_OK;
    if (held) return air_fail(err, AIR_E_ARGUMENT, "%d experts are held, there is no room for another", (int)held);
    return air_fail(err, AIR_E_BUDGET, "max_ram %.1f MiB has no room for an expert of %.1f MiB beside what is held",
                    air_mib(p->budget->limit), air_mib(class_of(e, e->asked[0].unit)->memory));
}

static air_status take(void *self, air_expert *out, int32_t most, int32_t *n, air_error *err)
{
    air_pager *p = self;
    air__experts *e = p->experts;
    *n = 0;
    air_mutex_lock(&p->lock);
    air_status st = take_ready(e, out, most, n, err);
    int waits = !st && !*n && e->n_taken < e->n_asked;
    uint64_t begin = waits ? air_clock_ns() : 0;
    while (!st && !*n && e->n_taken < e->n_asked) {
        if (air__pager_cancelled(p)) st = air_fail(err, AIR_E_CANCELLED, "pass cancelled");
        else st = no_slot(e, err);
        if (!st) (void)air_cond_wait_for(&p->changed, &p->lock, AIR__WAIT_SLICE_NS);
        if (!st) st = take_ready(e, out, most, n, err);
    }
    if (waits) air__note_stall(p, begin, e->units[e->asked[0].unit].layer, AIR_NONE, AIR_NONE);
    air_mutex_unlock(&p->lock);
    return st;
}

static void give(void *self, const air_expert *expert)
{
    air_pager *p = self;
    air__experts *e = p->experts;
    air_mutex_lock(&p->lock);
    int32_t unit = e->asked[expert->slot].unit;
    e->asked[expert->slot].state = GIVEN;
    if (e->places) air__places_hold(e->places, unit, 0);
    if (!p->mappings) {
        if (!e->asked[expert->slot].placed) e->slots[e->units[unit].slot].held = 0;
        submit_reads(e);
    }
    air_mutex_unlock(&p->lock);
}

/* --- guesses --- */

/* Nothing is to be guessed where all experts are in memory, or will be. */
static int guesses(void *self)
{
    const air_pager *p = self;
    const air__experts *e = p->experts;
    int32_t slots = 0;
    for (int32_t i = 0; i < e->n_classes; i++) slots += e->classes[i].target;
    return e->lookahead && !p->mappings && slots < e->n_units;
}

/* A pin, which stays between passes alone. */
static const uint8_t *router(void *self, int32_t layer)
{
    air_pager *p = self;
    int32_t tile = p->experts->router_tile[layer];
    if (tile == AIR_NONE) return NULL;
    air_mutex_lock(&p->lock);
    const air__slot *slot = &p->slots[tile];
    const uint8_t *data = slot->pin && slot->state == AIR__SLOT_READY && slot->memory == slot->pin
                        ? slot->pin + p->tiles[tile].offset % p->granule : NULL;
    air_mutex_unlock(&p->lock);
    return data;
}

/* What is there stays; the rest is read when the disk has nothing better to do. */
static void expect(void *self, int32_t layer, const int32_t *experts, int32_t n)
{
    air_pager *p = self;
    air__experts *e = p->experts;
    const expert_unit *units = e->units + e->first_unit[layer];
    air_mutex_lock(&p->lock);
    expect_no_more(e, layer);
    for (int32_t i = 0; i < n; i++)
        if (units[experts[i]].slot != AIR_NONE) e->slots[units[experts[i]].slot].expected = 1;
    air__guesses_expect(e->guesses, e->first_unit[layer], p->program->mixtures[layer].n_experts, experts, n);
    submit_reads(e);
    air_mutex_unlock(&p->lock);
}

const air_expert_feed air__experts_feed = {
    .ask = ask, .take = take, .give = give, .guesses = guesses, .router = router, .expect = expect,
};

/* --- between passes --- */

static int busy(const air__experts *e, int32_t first, int32_t end)
{
    for (int32_t i = 0; i < e->n_reads; i++)
        if (e->reads[i].busy && e->reads[i].slot >= first && e->reads[i].slot < end) return 1;
    return 0;
}

/* Ends the reads of slots first to end and forgets what they hold, but for those that are READY where keep is nonzero. */
static void empty_slots(air__experts *e, int32_t first, int32_t end, int keep)
{
    for (int32_t i = 0; i < e->n_reads; i++)
        if (e->reads[i].slot >= first && e->reads[i].slot < end) atomic_store(&e->reads[i].cancel, 1);
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_queue; i++)
        if (e->queue[i] < first || e->queue[i] >= end) e->queue[n++] = e->queue[i];
    e->n_queue = n;
    while (busy(e, first, end)) air_cond_wait(&e->pager->changed, &e->pager->lock);
    for (int32_t i = first; i < end; i++)
        if (!keep || e->slots[i].state != AIR__SLOT_READY) empty_slot(e, i);
}

static void unlock(air__experts *e, const expert_class *c, int32_t first, int32_t end)
{
    for (int32_t i = first; i < end; i++) {
        if (e->slots[i].locked) air__pages_unlock(e->pager, slot_data(c, i));
        e->slots[i].locked = 0;
    }
}

static void shrink(air__experts *e, expert_class *c, int32_t target)
{
    int32_t first = c->first + target, end = c->first + c->target;
    if (first >= end) return;
    empty_slots(e, first, end, 0);
    unlock(e, c, first, end);
    uint64_t freed = 0, from = (uint64_t)target * c->memory, to = (uint64_t)c->target * c->memory;
    for (int32_t i = first; i < end; i++) {
        freed += e->slots[i].there ? c->memory : 0;
        e->slots[i].there = 0;
    }
    /* As of pins: a huge page that is cut in two stays whole. */
    from = air_round_up(from, c->bytes < HUGE_FROM ? e->pager->granule : HUGE_PAGE);
    if (from < to) air_pages_decommit(c->data + from, (size_t)(to - from));
    air_budget_release(e->pager->budget, AIR_HOLD_EXPERTS, freed);
    e->held -= freed;
}

void air__experts_resize(air__experts *e, uint64_t bytes)
{
    const air_pager *p = e->pager;
    air__guesses_drop(e->guesses);
    for (int32_t i = 0; i < e->n_classes; i++) {
        expert_class *c = &e->classes[i];
        int32_t layer = 0;
        while (e->class_of[layer] != i) layer++;
        int64_t slots = air__expert_slots(p->program, layer, p->granule, bytes);
        int32_t target = slots < c->most ? (int32_t)slots : c->most;
        shrink(e, c, target);
        c->target = target;
    }
}

void air__experts_rewind(air__experts *e)
{
    for (int32_t i = 0; i < e->n_asked; i++) /* nobody says that they have come to where they were to be */
        if (e->asked[i].state == TAKEN && !e->asked[i].placed && e->places) air__places_forget(e->places, e->asked[i].unit);
    air__places_let_go(e->places);
    air__guesses_drop(e->guesses);
    e->n_asked = e->n_taken = 0;
    for (int32_t i = 0; i < e->n_slots; i++) {
        e->slots[i].held = e->slots[i].expected = 0;
        if (e->slots[i].state == AIR__SLOT_FAILED) empty_slots(e, i, i + 1, 0);
    }
    e->error.status = AIR_OK;
}

void air__experts_drain(air__experts *e)
{
    if (!e->n_reads) return; /* opening it failed before */
    air__guesses_drop(e->guesses);
    empty_slots(e, 0, e->n_slots, 1);
}


uint64_t air__experts_held(const air__experts *e) { return e->held; }
const uint64_t *air__experts_rows(const air__experts *e, int32_t layer) { return e->rows + e->first_unit[layer]; }

/* --- life --- */

static air_status check_layer(const air_program *program, int32_t layer, air_error *err)
{
    const air_mixture *m = &program->mixtures[layer];
    const int32_t weights[AIR__EXPERT_PARTS] = {m->gate, m->up, m->down};
    for (int i = 0; i < AIR__EXPERT_PARTS && m->n_experts; i++) {
        if (weights[i] == AIR_NONE) continue;
        const air_weight *w = &program->weights[weights[i]];
        if (w->bytes / w->row_bytes / (uint64_t)m->n_experts < (uint64_t)w->rows)
            return air_fail(err, AIR_E_ARGUMENT, "%s: %d experts of %lld rows do not lie in %llu bytes", w->name, (int)m->n_experts,
                            (long long)w->rows, (unsigned long long)w->bytes);
    }
    return AIR_OK;
}

static air_status open_class(air__experts *e, int32_t layer, air_error *err)
{
    const air_pager *p = e->pager;
    expert_class *c = &e->classes[e->n_classes];
    c->memory = air__expert_memory(p->program, layer, p->granule);
    c->first = e->n_slots;
    for (int32_t i = layer; i < p->program->n_layers; i++)
        if (air__expert_memory(p->program, i, p->granule) == c->memory) e->class_of[i] = e->n_classes;
    e->n_classes++;
    if (p->mappings) return AIR_OK;
    int64_t units = air__expert_units(p->program, layer, p->granule), fit = (int64_t)(p->budget->limit / c->memory) + 1;
    c->most = (int32_t)(units < fit ? units : fit);
    c->bytes = (uint64_t)c->most * c->memory;
    e->n_slots += c->most;
    c->region = air__region_alloc(p, c->bytes);
    if (!c->region)
        return air_fail(err, AIR_E_NOMEM, "no room for %llu bytes of address space, of the experts that may stay; raise the limit (ulimit "
                        "-v) or lower max_ram", (unsigned long long)c->bytes);
    if (c->bytes >= HUGE_FROM) air__region_huge(p, c->region, c->bytes);
    c->data = air__region_data(p, c->region);
    return AIR_OK;
}

static int number_units(air__experts *e)
{
    const air_program *program = e->pager->program;
    int32_t largest = 0;
    for (int32_t layer = 0; layer < program->n_layers; layer++) {
        int32_t n = program->mixtures[layer].n_experts;
        e->first_unit[layer] = e->n_units;
        e->n_units += n;
        largest = n > largest ? n : largest;
    }
    e->units = air_calloc((size_t)e->n_units, sizeof *e->units);
    e->heat = air_calloc((size_t)e->n_units, sizeof *e->heat);
    e->rows = air_calloc((size_t)e->n_units, sizeof *e->rows);
    e->asked = air_calloc((size_t)largest, sizeof *e->asked);
    if (!e->units || !e->heat || !e->rows || !e->asked) return 0;
    for (int32_t layer = 0, unit = 0; layer < program->n_layers; layer++)
        for (int32_t i = 0; i < program->mixtures[layer].n_experts; i++)
            e->units[unit++] = (expert_unit){.layer = layer, .expert = i, .slot = AIR_NONE};
    return 1;
}

static void find_routers(air__experts *e)
{
    const air_pager *p = e->pager;
    for (int32_t layer = 0; layer < p->program->n_layers; layer++) {
        const air_mixture *m = &p->program->mixtures[layer];
        e->router_tile[layer] = AIR_NONE;
        for (uint64_t i = 0; m->n_experts && m->router != AIR_NONE && i < p->n_tiles; i++)
            if (p->tiles[i].weight == m->router && p->tiles[i].rows == p->program->weights[m->router].rows)
                e->router_tile[layer] = (int32_t)i;
    }
}

static int make_slots(air__experts *e)
{
    int n_reads = 2 * e->pager->n_readers; /* as of the window: a thread that ends one finds the next */
    e->slots = air_calloc((size_t)e->n_slots, sizeof *e->slots);
    e->queue = air_calloc((size_t)e->n_slots, sizeof *e->queue);
    e->reads = air_calloc((size_t)n_reads, sizeof *e->reads);
    if (!e->slots || !e->queue || !e->reads) return 0;
    e->n_reads = n_reads;
    for (int32_t i = 0; i < e->n_slots; i++) e->slots[i].unit = AIR_NONE;
    for (int32_t i = 0; i < e->n_reads; i++) e->reads[i] = (expert_read){.experts = e, .slot = AIR_NONE};
    return 1;
}

air_status air__experts_open(air__experts **out, air_pager *pager, int lookahead, air_error *err)
{
    const air_program *program = pager->program;
    size_t layers = (size_t)program->n_layers;
    *out = NULL;
    if (!program->mixtures) return AIR_OK;
    air__experts *e = *out = air_calloc(1, sizeof *e); /* also after a failure: the pager closes it */
    if (e) {
        e->pager = pager;
        e->first_unit = air_calloc(layers, sizeof *e->first_unit);
        e->class_of = air_calloc(layers, sizeof *e->class_of);
        e->router_tile = air_calloc(layers, sizeof *e->router_tile);
        e->classes = air_calloc(layers, sizeof *e->classes);
    }
    if (!e || !e->first_unit || !e->class_of || !e->router_tile || !e->classes || !number_units(e))
        return air_fail(err, AIR_E_NOMEM, "pager: experts of %zu layers", layers);
    for (size_t i = 0; i < layers; i++) e->class_of[i] = AIR_NONE;
    e->lookahead = lookahead;
    find_routers(e);
    air_status st = AIR_OK;
    for (int32_t layer = 0; !st && layer < program->n_layers; layer++) st = check_layer(program, layer, err);
    int32_t first = air__expert_class(program, 0, pager->granule);
    for (; !st && first < program->n_layers; first = air__expert_class(program, first + 1, pager->granule))
        st = open_class(e, first, err);
    if (!st) st = air__places_open(&e->places, program, e->n_units, e->heat, pager->plan->device_expert_bytes, err);
    if (!st) st = air__guesses_open(&e->guesses, e->n_units, err);
    if (!st && !pager->mappings && !make_slots(e)) st = air_fail(err, AIR_E_NOMEM, "pager: %d slots for experts", (int)e->n_slots);
    if (!st && !pager->mappings) air__experts_resize(e, 0);
    return st;
}

void air__experts_close(air__experts *e)
{
    if (!e) return;
    for (int32_t i = 0; e->classes && i < e->n_classes; i++) {
        const expert_class *c = &e->classes[i];
        if (e->slots) unlock(e, c, c->first, c->first + c->most);
        air__region_free(e->pager, c->region, c->bytes);
    }
    air__places_close(e->places);
    air__guesses_close(e->guesses);
    air_budget_release(e->pager->budget, AIR_HOLD_EXPERTS, e->held);
    air_free(e->units);
    air_free(e->heat);
    air_free(e->rows);
    air_free(e->asked);
    air_free(e->first_unit);
    air_free(e->class_of);
    air_free(e->router_tile);
    air_free(e->classes);
    air_free(e->slots);
    air_free(e->queue);
    air_free(e->reads);
    air_free(e);
}
