/* The plan with several devices and the CPU: who computes what, what of it stays where, and how what streams is dealt. */
#include <math.h>

#include "base/alloc.h"
#include "plan_device.h"

static air_error err;

/* What of a share's tiles is kept, and where: every tile once, as the plan has dealt them, in no more memory than that says. */
static void check_places(const air_plan *p, int32_t device, uint64_t pin_bytes, const int8_t *who)
{
    air_kept_tile *kept;
    int32_t n;
    uint64_t end = 0;
    REQUIRE(air_plan_device_places(&kept, &n, p, device, &err) == AIR_OK);
    for (int32_t i = 0; i < n; i++) {
        const air_tile *tile = &p->tiles[kept[i].tile];
        CHECK(who[kept[i].tile] == device && kept[i].first_row == tile->first_row && kept[i].rows == tile->rows);
        CHECK(kept[i].place >= end && (!i || kept[i].tile > kept[i - 1].tile));
        end = kept[i].place + tile->bytes;
    }
    CHECK(end <= pin_bytes);
    air_free(kept);
}

static void check_shares(const air_plan_request *r, const air_plan *p)
{
    int8_t *who;
    int32_t tiles = 0, host = 0;
    uint64_t kept = 0, linked = 0, others = 0;
    REQUIRE(air_plan_who(&who, p, &err) == AIR_OK);
    for (int32_t i = 0; i < p->n_shares; i++) tiles += p->shares[i].n_tiles;
    for (int32_t i = 0; i < p->n_tiles; i++) host += who[i] == AIR_NONE;
    CHECK(tiles == p->n_tiles && host == p->n_host_tiles);
    check_places(p, 0, p->device_pin_bytes, who);
    for (int32_t i = 0; i < p->n_helpers; i++) {
        const air_plan_helper *h = &p->helpers[i];
        check_places(p, i + 1, h->pin_bytes, who);
        CHECK(h->fixed + h->buffer_bytes + p->part_bytes + h->ring_bytes + h->pin_bytes <= r->helpers[i].budget);
        kept += h->weight_bytes;
        linked += h->linked_bytes;
    }
    others = p->weight_bytes - p->device_weight_bytes - p->host_weight_bytes;
    CHECK(kept <= p->device_weight_bytes && linked <= others);
    CHECK(device_used(p) + p->device_part_bytes <= r->device.budget && host_used(p) + p->share_bytes <= r->budget);
    CHECK((p->n_host_tiles > 0) == (p->share_bytes > 0) && (!p->n_host_tiles || r->cpu_share < 0 || r->cpu_share > 0));
    air_free(who);
}

TEST(several_devices_and_the_cpu_share_all_tiles)
{
    int shared = 0, by_cpu = 0;
    for (int round = 0; round < 600; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(20), 600);
        uint64_t most = f.matrix_bytes + 900000;
        air_plan_request r = device_request(&f, 400000 + pick(2 * most), 150000 + pick(most));
        r.n_helpers = (int32_t)pick(4);
        for (int32_t i = 0; i < r.n_helpers; i++) r.helpers[i] = (air_device_request){.budget = 150000 + pick(most), .fixed = pick(50000)};
        r.cpu_share = pick(3) ? AIR_SHARE_AUTO : (double)pick(5) / 4;
        r.bandwidths.memory = pick(4) ? 2e10 : 0;
        r.max_rows = 1 + (int64_t)pick(20);
        r.n_ctx = 64;
        air_plan *p;
        if (air_plan_make(&p, &r, &err) == AIR_OK) {
            check_shares(&r, p);
            shared += p->n_helpers > 0;
            by_cpu += p->n_host_tiles > 0;
            CHECK(p->pass_s >= p->compute_s && p->pass_s >= p->link_s);
        } else {
            CHECK(strstr(err.text, "max_vram ") == err.text || strstr(err.text, "max_ram ") == err.text);
        }
        air_plan_free(p);
        fixture_free(&f);
    }
    printf("  %d plans with several devices, %d with a share of the CPU\n", shared, by_cpu);
    CHECK(shared > 100 && by_cpu > 40);
}

/* So many rows of each matrix, as a plan sees them, that all else is little. */
static void make_large(fixture *f)
{
    fixture_make(f, 20, 600);
    f->matrix_bytes = 0;
    for (int i = 0; i < 20; i++) {
        air_weight *w = &f->weights[f->ops[i].weight];
        w->rows = 5000;
        w->bytes = (uint64_t)w->rows * w->row_bytes;
        f->matrix_bytes += w->bytes;
    }
}

TEST(the_cpu_waits_for_hand_overs_and_for_what_it_has_no_part_of)
{
    fixture f;
    make_large(&f);
    air_plan_request r = device_request(&f, 64u << 20, 2000000 + f.matrix_bytes / 3);
    r.max_rows = 1, r.n_ctx = 64, r.tile_bytes = 1500000, r.cpu_share = AIR_SHARE_AUTO;
    r.bandwidths.disk = 0, r.bandwidths.memory = 6e9, r.bandwidths.op_s = 2e-5;
    r.bandwidths.devices[0].handover_s = 1e-4;
    air_plan *p;
    int8_t *who;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK && air_plan_who(&who, p, &err) == AIR_OK);
    CHECK(p->n_host_tiles > 10 && p->n_device_tiles > 10 && p->link_s > 0);
    int turns = 0;
    double others = 0, squares = 0;
    for (int32_t i = 0; i < p->n_tiles; i++) squares += (double)p->tiles[i].bytes * (double)f.weights[p->tiles[i].weight].bytes;
    for (int32_t i = 1, small = 1; i < p->n_tiles; i++) { /* smaller matrices are the device's before larger ones */
        int now = (double)f.weights[p->tiles[p->priority[i]].weight].bytes < squares / (double)p->weight_bytes / 2;
        CHECK(i >= p->n_device_tiles || now <= small);
        CHECK_EQ(p->rank[p->priority[i]], i);
        small = now;
    }
    for (int32_t i = 1, most = 0; i < p->n_host_tiles; i++) { /* and the CPU's are spread over the rest */
        int32_t now = p->priority[p->n_device_tiles + i];
        most = now > most ? now : most;
        CHECK(i < 8 || most > p->n_tiles / 2);
    }
    for (int32_t i = 0, next; i < p->n_tiles; i = next) {
        uint64_t bytes = 0;
        int mine = 0;
        for (next = i; next < p->n_tiles && p->tiles[next].op == p->tiles[i].op; next++) {
            bytes += p->tiles[next].bytes;
            mine += who[next] == AIR_NONE;
        }
        turns += mine > 0;
        others += mine ? 0 : (double)bytes;
    }
    CHECK(turns < f.program.n_ops);
    CHECK(near(p->compute_s, (double)p->host_weight_bytes / 2e9 + turns * 1.2e-4 + 1e-4 + others / 1e11));
    CHECK(p->compute_s > 0.9 * p->link_s && p->compute_s < 1.1 * p->link_s);
    double before = p->pass_s;
    air_free(who);
    air_plan_free(p);
    r.bandwidths.devices[0].handover_s = 1; /* costs more than is won */
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(!p->n_host_tiles && p->pass_s > before);
    air_plan_free(p);
    fixture_free(&f);
}

/* Three devices, of which two have budgets for a sixth of the weights each beside what else they need. */
static air_plan_request three_devices(const fixture *f)
{
    air_plan_request r = device_request(f, 64u << 20, 2000000 + f->matrix_bytes / 6);
    r.n_helpers = 2;
    r.helpers[0] = (air_device_request){.budget = 2000000 + f->matrix_bytes / 6, .fixed = 1000};
    r.helpers[1] = (air_device_request){.budget = 2000000, .fixed = 1000};
    r.max_rows = 1;
    r.n_ctx = 64;
    r.tile_bytes = 60000;
    r.cpu_share = 0;
    r.bandwidths.disk = 0;
    return r;
}

static void check_links(air_plan_request *r, double first, double second, double third)
{
    air_plan *p;
    REQUIRE(air_plan_make(&p, r, &err) == AIR_OK);
    REQUIRE(p->n_helpers == 2 && p->n_device_tiles > 0 && p->n_device_tiles < p->n_tiles);
    double all = (double)(p->weight_bytes - p->device_weight_bytes), sum = first + second + third;
    const double parts[3] = {first, second, third};
    uint64_t linked = 0, computed = 0;
    for (int i = 0; i < 3; i++) {
        double part = all * parts[i] / sum;
        CHECK(fabs((double)p->work[i].linked_bytes - part) <= 2 * (double)p->tile_bytes);
        linked += p->work[i].linked_bytes;
        computed += p->work[i].weight_bytes;
    }
    CHECK(linked == (uint64_t)all && computed == p->weight_bytes);
    check_shares(r, p);
    air_plan_free(p);
}

TEST(what_streams_is_dealt_so_that_links_are_done_at_the_same_time)
{
    fixture f;
    make_large(&f);
    air_plan_request r = three_devices(&f);
    check_links(&r, 1, 1, 1); /* nothing is known of the others: they are as the first */
    r.bandwidths.devices[1] = r.bandwidths.devices[2] = r.bandwidths.devices[0];
    r.bandwidths.devices[1].link = 2e9;
    r.bandwidths.devices[2].link = 1e9;
    check_links(&r, 4, 2, 1);
    r.bandwidths.devices[0].link_together = 1e9; /* of those that share a way, as it is while others use it */
    r.bandwidths.devices[1].link_together = 1e9;
    check_links(&r, 1, 1, 1);
    r.bandwidths.devices[0].link = r.bandwidths.devices[1].link = r.bandwidths.devices[2].link = 0;
    r.bandwidths.devices[0].link_together = r.bandwidths.devices[1].link_together = 0;
    check_links(&r, 1, 1, 1);
    fixture_free(&f);
}

TEST(a_device_that_computes_slowly_or_holds_much_is_sent_less)
{
    fixture f;
    make_large(&f);
    air_plan_request r = three_devices(&f);
    r.bandwidths.devices[1] = r.bandwidths.devices[2] = r.bandwidths.devices[0];
    r.bandwidths.devices[1].memory = 3e9; /* less than its link brings; and it holds a sixth */
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->work[1].linked_bytes > 0 && p->work[1].linked_bytes < p->work[0].linked_bytes / 2);
    double most = 0, least = 1e9, tile = (double)p->tile_bytes / 3e9;
    for (int i = 0; i < 3; i++) {
        double seconds = fmax(p->work[i].link_s, p->work[i].device_s);
        most = fmax(most, seconds);
        least = fmin(least, seconds);
    }
    CHECK(most - least <= 2 * tile && p->pass_s == most);
    CHECK(p->work[1].device_s > p->work[1].link_s && p->work[0].link_s > p->work[0].device_s);
    double before = p->pass_s;
    air_plan_free(p);
    r.bandwidths.devices[1].memory = 1e3; /* so slow that it is better left alone, but for what it holds */
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->helpers[0].linked_tiles == 0 && p->helpers[0].n_tiles > 0 && p->bound == AIR_BOUND_DEVICE && p->pass_s > before);
    air_plan_free(p);
    fixture_free(&f);
}

TEST(what_several_devices_hold_together_is_dealt_by_what_their_memories_give)
{
    fixture f;
    make_large(&f);
    air_plan_request r = device_request(&f, 64u << 20, 2000000 + f.matrix_bytes * 8 / 10);
    r.n_helpers = 1;
    r.helpers[0] = (air_device_request){.budget = 2000000 + f.matrix_bytes, .fixed = 1000};
    r.max_rows = 1;
    r.n_ctx = 64;
    r.tile_bytes = 60000;
    r.bandwidths.devices[1] = r.bandwidths.devices[0];
    for (double faster = 0.5; faster <= 4; faster *= 2) {
        r.bandwidths.devices[1].memory = 1e11 * faster;
        air_plan *p;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        REQUIRE(p->n_helpers == 1 && p->n_device_tiles == p->n_tiles && p->device_ring_bytes == 0);
        double part = (double)p->weight_bytes * faster / (1 + faster);
        CHECK(fabs((double)p->work[1].weight_bytes - part) <= 3 * (double)p->tile_bytes);
        CHECK(p->bound == AIR_BOUND_DEVICE && p->pass_s < 1.1 * (double)p->weight_bytes / (1e11 * (1 + faster)));
        air_plan_free(p);
    }
    r.bandwidths.devices[1].memory = 1e2; /* next to nothing is nothing; what the first cannot hold it must take */
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->device_pin_bytes > f.matrix_bytes / 2 && p->work[1].weight_bytes < f.matrix_bytes / 4);
    air_plan_free(p);
    fixture_free(&f);
}

static int same_map(const air_plan *p, const air_plan *q)
{
    int8_t *a, *b;
    CHECK(air_plan_who(&a, p, &err) == AIR_OK && air_plan_who(&b, q, &err) == AIR_OK);
    int same = p->n_tiles == q->n_tiles && !memcmp(a, b, (size_t)p->n_tiles);
    air_free(a);
    air_free(b);
    return same;
}

TEST(who_computes_what_stays_while_only_the_rates_of_predictions_move)
{
    fixture f;
    make_large(&f);
    air_plan_request r = three_devices(&f), moved;
    r.cpu_share = AIR_SHARE_AUTO;
    r.bandwidths.memory = 4e10;
    r.bandwidths.disk = 1e12;
    air_plan *p, *q;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    REQUIRE(p->n_host_tiles > 0);
    int others = 0, predicted = 0;
    for (int round = 0; round < 40; round++) {
        moved = r;
        moved.deciding = r.bandwidths;
        for (int i = 0; i < 3; i++) {
            moved.bandwidths.devices[i] = r.bandwidths.devices[0];
            moved.bandwidths.devices[i].link *= (double)(1 + pick(400)) / 100;
            moved.bandwidths.devices[i].memory *= (double)(1 + pick(400)) / 100;
        }
        moved.bandwidths.memory *= (double)(20 + pick(400)) / 100;
        moved.bandwidths.disk *= (double)(1 + pick(400)) / 100;
        REQUIRE(air_plan_make(&q, &moved, &err) == AIR_OK);
        CHECK(same_map(p, q) && q->pin_bytes == p->pin_bytes);
        predicted += q->pass_s != p->pass_s;
        air_plan_free(q);
        moved.deciding = (air_bandwidths){0};
        REQUIRE(air_plan_make(&q, &moved, &err) == AIR_OK);
        others += !same_map(p, q);
        air_plan_free(q);
    }
    CHECK(others > 30 && predicted > 30); /* which those rates would have made of it, and do of the time */
    air_plan_free(p);
    fixture_free(&f);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(several_devices_and_the_cpu_share_all_tiles);
    RUN(the_cpu_waits_for_hand_overs_and_for_what_it_has_no_part_of);
    RUN(what_streams_is_dealt_so_that_links_are_done_at_the_same_time);
    RUN(a_device_that_computes_slowly_or_holds_much_is_sent_less);
    RUN(what_several_devices_hold_together_is_dealt_by_what_their_memories_give);
    RUN(who_computes_what_stays_while_only_the_rates_of_predictions_move);
    return check_end();
}
