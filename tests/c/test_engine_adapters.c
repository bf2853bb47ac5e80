/* Adapters: each sequence's rows alone have them, with the same bits whatever is kept and however many threads compute. */
#include "engine_fixture.h"

/* Of rank 3, for every matrix of the layers. NULL where there is no room. */
static air_engine_adapter *make_adapter(opened *o, air_error *err)
{
    enum { RANK = 3, MOST = 64, NUMBERS = 1024 };
    const air_program *p = air_model_program(air_engine_model(o->engine));
    air_adapter_matrix matrices[MOST];
    int32_t n = 0;
    air_adapter_room room;
    air_batch *held;
    air_engine_adapter *adapter = NULL;
    for (int32_t i = 0; i < p->n_weights && n < MOST; i++) {
        const air_weight *w = &p->weights[i];
        if (w->use == AIR_WEIGHT_MATRIX && !strncmp(w->name, "blk.", 4))
            matrices[n++] = (air_adapter_matrix){.name = w->name, .rank = RANK, .rows = w->rows, .cols = w->cols};
    }
    if (air_engine_adapter_room(o->engine, matrices, n, &room, err)) return NULL;
    if (air_batch_submit(&held, o->engine, &(air_batch_request){.hold = room}, err)) return NULL;
    if (!finish(held, err)) (void)air_engine_adapter_new(&adapter, o->engine, matrices, n, held, err);
    air_batch_free(held);
    for (int32_t i = 0; adapter && i < n; i++) {
        float a[RANK * NUMBERS], b[RANK * NUMBERS];
        for (int64_t j = 0; j < RANK * matrices[i].cols; j++) a[j] = (float)((j * 7 + i) % 11 - 5) / 50;
        for (int64_t j = 0; j < matrices[i].rows * RANK; j++) b[j] = (float)((j * 5 + i) % 13 - 6) / 40;
        CHECK_EQ(air_engine_adapter_fill(adapter, i, a, b, err), AIR_OK);
    }
    return adapter;
}

enum { ADAPTED = 3 }; /* sequences: with an adapter, with none, with half of it */

static int run_adapted(opened *o, air_engine_adapter *adapter, float got[ADAPTED][VOCAB], air_error *err)
{
    static const float scales[ADAPTED] = {1, 0, 0.5f};
    air_sequence *s[ADAPTED] = {NULL};
    air_batch_item items[ADAPTED];
    air_batch *b = NULL;
    air_status st = AIR_OK;
    for (int i = 0; i < ADAPTED && !st; i++) {
        st = air_sequence_new(&s[i], o->engine, err);
        if (!st && scales[i] != 0.0f) st = air_sequence_adapt(s[i], adapter, scales[i], err);
        items[i] = (air_batch_item){.sequence = s[i], .tokens = prompt, .n_tokens = PROMPT, .want = 1};
    }
    if (!st) st = air_batch_submit(&b, o->engine, &(air_batch_request){.items = items, .n_items = ADAPTED}, err);
    if (!st) st = finish(b, err);
    for (int i = 0; i < ADAPTED && !st; i++) memcpy(got[i], air_batch_logits(b) + i * o->n_vocab, logit_bytes);
    air_batch_free(b);
    for (int i = 0; i < ADAPTED; i++) air_sequence_free(s[i]);
    return !st;
}

TEST(adapters_are_their_own_rows_alone)
{
    static const struct { uint64_t pins; int threads; int64_t rows; } cases[] = {
        {UINT64_MAX, 1, 0}, {UINT64_MAX, 4, 0}, {0, 2, 7}, {60000, 3, 1},
    };
    static float got[4][ADAPTED][VOCAB];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        air_engine_config c = config_of(NULL);
        c.max_pins = cases[i].pins;
        c.threads = cases[i].threads;
        c.max_rows = cases[i].rows;
        opened o = open_with(&c);
        REQUIRE(o.engine);
        air_error err = {0};
        uint64_t before = air_engine_stats_get(o.engine).held_by[AIR_HOLD_ADAPTERS];
        air_engine_adapter *adapter = make_adapter(&o, &err);
        REQUIRE(adapter);
        CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_ADAPTERS] - before, air_engine_adapter_held(adapter).host);
        REQUIRE(run_adapted(&o, adapter, got[i], &err));
        CHECK_EQ(air_engine_adapter_fill(adapter, 0, NULL, NULL, &err), AIR_E_CLOSED); /* it is read from now on */
        CHECK(memcmp(got[i][1], want, logit_bytes) == 0);
        CHECK(memcmp(got[i][0], want, logit_bytes) != 0 && memcmp(got[i][0], got[i][2], logit_bytes) != 0);
        CHECK(memcmp(got[i], got[0], sizeof got[0]) == 0);
        air_engine_adapter_free(adapter);
        CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_ADAPTERS], before);
        close_all(&o);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    make_reference();
    RUN(adapters_are_their_own_rows_alone);
    return check_end();
}
