/* The engine through its C interface: bits, sequences, threads, cancellation, budgets, faults. Golden logits are Python's to check. */
#define _GNU_SOURCE
#include <math.h>
#include <unistd.h>

#include "engine_fixture.h"
#include "platform/clock.h"
#include "platform/threads.h"

TEST(bits_do_not_depend_on_memory_threads_or_chunks)
{
    static const struct { uint64_t ram, pins, tile; air_io_mode io; int threads; int64_t rows; } cases[] = {
        {64 << 20, 0, 0, AIR_IO_DIRECT, 1, 0},       {64 << 20, 0, 4096, AIR_IO_DIRECT, 2, 7},
        {64 << 20, UINT64_MAX, 0, AIR_IO_MMAP, 2, 0}, {2 << 20, UINT64_MAX, 8192, AIR_IO_DIRECT, 3, 33},
        {64 << 20, 60000, 4096, AIR_IO_DIRECT, 2, 1}, {64 << 20, UINT64_MAX, 0, AIR_IO_AUTO, 4, 64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        air_engine_config c = config_of(NULL);
        c.max_ram = cases[i].ram;
        c.max_pins = cases[i].pins;
        c.tile_bytes = cases[i].tile;
        c.io = cases[i].io;
        c.threads = cases[i].threads;
        c.max_rows = cases[i].rows;
        opened o = open_with(&c);
        REQUIRE(o.engine);
        air_sequence *s;
        air_error err = {0};
        float got[VOCAB];
        REQUIRE(!air_sequence_new(&s, o.engine, &err));
        for (int pass = 0; pass < 3; pass++) { /* cold, then with what the first one left in ring and pins */
            CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
            CHECK_EQ(step(&o, s, prompt, PROMPT, got, &err), AIR_OK);
            CHECK(memcmp(got, want, logit_bytes) == 0);
            CHECK_EQ(step(&o, s, prompt, 1, got, &err), AIR_OK);
            CHECK(memcmp(got, want_next, logit_bytes) == 0);
        }
        air_sequence_free(s);
        close_all(&o);
    }
}

/* A copy of the model that says it was trained on 4096 positions. */
static int write_long(const char *path)
{
    static char bytes[1 << 20];
    static const char key[] = "llama.context_length";
    FILE *from = fopen(model_path, "rb"), *to = fopen(path, "wb");
    size_t n = from ? fread(bytes, 1, sizeof bytes, from) : 0;
    int done = 0;
    for (size_t i = 0; i + sizeof key + 8 < n && !done; i++) {
        if (memcmp(bytes + i, key, sizeof key - 1)) continue;
        memcpy(bytes + i + sizeof key - 1 + 4, &(uint32_t){4096}, 4); /* behind the value's type */
        done = to && fwrite(bytes, 1, n, to) == n;
    }
    if (from) fclose(from);
    return (to && fclose(to) == 0) && done;
}

/* Logits of a text of several segments, of rows after it, and of one beside a shorter text. */
static void run_long(const char *path, air_state_type type, int threads, float got[3][VOCAB])
{
    enum { LONG = 2047 };
    static int32_t text[LONG];
    for (int i = 0; i < LONG; i++) text[i] = (i * 7 + i * i % 11) % 200;
    air_engine_config c = config_of(NULL);
    c.state_type = type;
    c.threads = threads;
    c.n_ctx = 4096;
    opened o = open_file(path, &c);
    air_sequence *s, *other;
    air_error err = {0};
    REQUIRE(o.engine && !air_sequence_new(&s, o.engine, &err) && !air_sequence_new(&other, o.engine, &err));
    CHECK_EQ(step(&o, s, text, LONG, got[0], &err), AIR_OK);
    CHECK_EQ(step(&o, s, text, 3, got[1], &err), AIR_OK); /* across the end of a segment */
    air_batch_item items[] = {{.sequence = other, .tokens = text, .n_tokens = 2, .want = 1},
                              {.sequence = s, .tokens = text, .n_tokens = 1, .want = 1}};
    air_batch *b;
    REQUIRE(!air_batch_submit(&b, o.engine, &(air_batch_request){.items = items, .n_items = 2}, &err));
    CHECK_EQ(finish(b, &err), AIR_OK);
    memcpy(got[2], air_batch_logits(b) + o.n_vocab, logit_bytes);
    air_batch_free(b);
    air_sequence_free(s);
    air_sequence_free(other);
    close_all(&o);
}

TEST(long_texts_are_split_between_threads_and_keep_their_bits)
{
    static float one[3][VOCAB], more[3][VOCAB];
    char path[] = "/tmp/air-long-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0 && close(fd) == 0);
    REQUIRE(write_long(path));
    for (int type = 0; type < AIR_STATE_TYPES; type++) {
        run_long(path, (air_state_type)type, 1, one);
        for (int threads = 2; threads <= 7; threads++) {
            run_long(path, (air_state_type)type, threads, more);
            for (int i = 0; i < 3; i++) CHECK(memcmp(one[i], more[i], logit_bytes) == 0);
        }
    }
    remove(path);
}

TEST(a_row_does_not_depend_on_its_neighbours)
{
    opened o = open_with(NULL);
    air_sequence *s[3];
    air_error err = {0};
    air_batch_item items[3];
    for (int i = 0; i < 3; i++) {
        REQUIRE(!air_sequence_new(&s[i], o.engine, &err));
        items[i] = (air_batch_item){.sequence = s[i], .tokens = prompt + i, .n_tokens = PROMPT - 2 * i, .want = 1 + i};
    }
    air_batch *b;
    REQUIRE(!air_batch_submit(&b, o.engine, &(air_batch_request){.items = items, .n_items = 3}, &err));
    CHECK_EQ(finish(b, &err), AIR_OK);
    CHECK_EQ(air_batch_rows_kept(b), 6);
    CHECK(memcmp(air_batch_logits(b), want, logit_bytes) == 0);
    air_batch_free(b);
    for (int i = 0; i < 3; i++) air_sequence_free(s[i]);
    close_all(&o);
}

/* Rows beside each other at positions that follow each other, as if they were one sequence's. */
TEST(sequences_in_step_are_not_taken_for_one)
{
    enum { N = 8 };
    air_engine_config c = config_of(NULL);
    c.threads = 1;
    opened o = open_with(&c);
    air_sequence *s[N];
    air_error err = {0};
    air_batch_item items[N];
    static float alone[N][VOCAB];
    for (int i = 0; i < N; i++) {
        REQUIRE(!air_sequence_new(&s[i], o.engine, &err));
        CHECK_EQ(step(&o, s[i], prompt + 5 * i, 20 + i, NULL, &err), AIR_OK);
        CHECK_EQ(step(&o, s[i], prompt, 1, alone[i], &err), AIR_OK);
        CHECK_EQ(air_sequence_truncate(s[i], 20 + i, &err), AIR_OK);
        items[i] = (air_batch_item){.sequence = s[i], .tokens = prompt, .n_tokens = 1, .want = 1};
    }
    air_batch *b;
    REQUIRE(!air_batch_submit(&b, o.engine, &(air_batch_request){.items = items, .n_items = N}, &err));
    CHECK_EQ(finish(b, &err), AIR_OK);
    for (int i = 0; i < N; i++) CHECK(memcmp(air_batch_logits(b) + i * o.n_vocab, alone[i], logit_bytes) == 0);
    air_batch_free(b);
    for (int i = 0; i < N; i++) air_sequence_free(s[i]);
    close_all(&o);
}

TEST(a_fork_goes_its_own_way)
{
    opened o = open_with(NULL);
    air_sequence *s, *fork;
    air_error err = {0};
    float got[VOCAB];
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    CHECK_EQ(step(&o, s, prompt, PROMPT, got, &err), AIR_OK);
    REQUIRE(!air_sequence_fork(&fork, s, &err));
    CHECK_EQ(air_sequence_length(fork), PROMPT);
    CHECK_EQ(step(&o, fork, prompt + 5, 30, NULL, &err), AIR_OK); /* writes over the shared tail, and beyond it */
    CHECK_EQ(step(&o, s, prompt, 1, got, &err), AIR_OK);
    CHECK(memcmp(got, want_next, logit_bytes) == 0);

    air_sequence *alone; /* what the fork reads is what it wrote, not what the other wrote at the same positions since */
    float after[VOCAB];
    REQUIRE(!air_sequence_new(&alone, o.engine, &err));
    CHECK_EQ(step(&o, alone, prompt, PROMPT, NULL, &err), AIR_OK);
    CHECK_EQ(step(&o, alone, prompt + 5, 30, NULL, &err), AIR_OK);
    CHECK_EQ(step(&o, alone, prompt + 1, 1, after, &err), AIR_OK);
    CHECK_EQ(step(&o, fork, prompt + 1, 1, got, &err), AIR_OK);
    CHECK(memcmp(got, after, logit_bytes) == 0);
    air_sequence_free(alone);

    CHECK_EQ(air_sequence_truncate(fork, PROMPT, &err), AIR_OK);
    CHECK_EQ(step(&o, fork, prompt, 1, got, &err), AIR_OK);
    CHECK(memcmp(got, want_next, logit_bytes) == 0);
    CHECK_EQ(air_sequence_tokens(fork)[PROMPT], prompt[0]);
    air_sequence_free(s);
    air_sequence_free(fork);
    CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_STATE], 0);
    close_all(&o);
}

TEST(what_fits_is_read_once_and_the_rest_every_pass)
{
    static const uint64_t pins[] = {UINT64_MAX, 0, 100000};
    for (int i = 0; i < 3; i++) {
        air_engine_config c = config_of(NULL);
        c.max_pins = pins[i];
        c.tile_bytes = 8192;
        opened o = open_with(&c);
        REQUIRE(o.engine);
        air_sequence *s;
        air_error err = {0};
        REQUIRE(!air_sequence_new(&s, o.engine, &err));
        for (int pass = 0; pass < 4; pass++) CHECK_EQ(step(&o, s, prompt + pass, 1, NULL, &err), AIR_OK);
        air_engine_stats stats = air_engine_stats_get(o.engine);
        uint64_t weights = air_engine_plan(o.engine)->weight_bytes, gathered = 2 * 4096;
        if (i == 0) CHECK(stats.last_disk_bytes <= gathered && stats.last_ram_bytes == weights);
        if (i == 1) CHECK(stats.last_disk_bytes >= weights && stats.last_ram_bytes == 0);
        if (i == 2) CHECK(stats.last_disk_bytes > gathered && stats.last_ram_bytes > 0 && stats.last_ram_bytes <= pins[i]);
        air_sequence_free(s);
        close_all(&o);
    }
}

typedef struct caller {
    opened *o;
    int failures;
} caller;

static void call_often(void *context)
{
    caller *c = context;
    air_error err = {0};
    air_sequence *s;
    float got[VOCAB];
    if (air_sequence_new(&s, c->o->engine, &err)) {
        c->failures++;
        return;
    }
    for (int i = 0; i < 8; i++) {
        c->failures += air_sequence_truncate(s, 0, &err) != AIR_OK;
        c->failures += step(c->o, s, prompt, PROMPT, got, &err) != AIR_OK || memcmp(got, want, logit_bytes) != 0;
        c->failures += step(c->o, s, prompt, 1, got, &err) != AIR_OK || memcmp(got, want_next, logit_bytes) != 0;
        (void)air_engine_stats_get(c->o->engine);
    }
    air_sequence_free(s);
}

TEST(callers_in_threads_get_what_each_alone_would_get)
{
    opened o = open_with(NULL);
    caller callers[4];
    air_thread *threads[4];
    for (int i = 0; i < 4; i++) {
        callers[i] = (caller){.o = &o};
        REQUIRE(!air_thread_start(&threads[i], "caller", call_often, &callers[i], NULL));
    }
    for (int i = 0; i < 4; i++) {
        air_thread_join(threads[i]);
        CHECK_EQ(callers[i].failures, 0);
    }
    close_all(&o);
}

TEST(a_sequence_has_one_user_at_a_time)
{
    opened o = open_with(NULL);
    air_sequence *s;
    air_error err = {0};
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    air_batch_item twice[2] = {{.sequence = s, .tokens = prompt, .n_tokens = 3, .want = 1},
                               {.sequence = s, .tokens = prompt, .n_tokens = 3, .want = 1}};
    air_batch *b;
    CHECK_EQ(air_batch_submit(&b, o.engine, &(air_batch_request){.items = twice, .n_items = 2}, &err), AIR_E_CLOSED);
    CHECK_EQ(step(&o, s, prompt, 3, NULL, &err), AIR_OK); /* the refused call let go of it */
    air_sequence_free(s);
    close_all(&o);
}

TEST(bad_requests_are_refused_before_anything_happens)
{
    opened o = open_with(NULL);
    air_sequence *s;
    air_error err = {0};
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    int32_t outside = (int32_t)o.n_vocab, negative = -1, many[2000] = {0};
    air_batch_item bad[] = {
        {.sequence = s, .tokens = &outside, .n_tokens = 1}, {.sequence = s, .tokens = &negative, .n_tokens = 1},
        {.sequence = s, .tokens = prompt, .n_tokens = 0},   {.sequence = s, .tokens = prompt, .n_tokens = 2, .want = 3},
        {.sequence = s, .tokens = prompt, .n_tokens = 2, .n_prompt = 5},
    };
    air_batch *b;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_EQ(air_batch_submit(&b, o.engine, &(air_batch_request){.items = &bad[i], .n_items = 1}, &err), AIR_E_ARGUMENT);
    air_batch_item longer = {.sequence = s, .tokens = many, .n_tokens = 2000};
    CHECK_EQ(air_batch_submit(&b, o.engine, &(air_batch_request){.items = &longer, .n_items = 1}, &err), AIR_E_CONTEXT);
    CHECK(strstr(err.text, "2000") != NULL);
    CHECK_EQ(air_sequence_length(s), 0);
    CHECK_EQ(air_sequence_truncate(s, 1, &err), AIR_E_ARGUMENT);
    air_sequence_free(s);
    close_all(&o);
}

TEST(a_context_is_full_at_its_last_position_and_not_before)
{
    air_engine_config c = config_of(NULL);
    c.n_ctx = PROMPT + 3;
    opened o = open_with(&c);
    REQUIRE(o.engine);
    air_sequence *s;
    air_error err = {0};
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    CHECK_EQ(step(&o, s, prompt, PROMPT, NULL, &err), AIR_OK);
    CHECK_EQ(step(&o, s, prompt, 4, NULL, &err), AIR_E_CONTEXT);
    CHECK_EQ(step(&o, s, prompt, 3, NULL, &err), AIR_OK);
    CHECK_EQ(step(&o, s, prompt, 1, NULL, &err), AIR_E_CONTEXT);
    CHECK_EQ(air_sequence_length(s), PROMPT + 3);
    air_sequence_free(s);
    close_all(&o);
}

TEST(a_context_of_one_position_runs)
{
    air_engine_config c = config_of(NULL);
    c.n_ctx = 1;
    opened o = open_with(&c), usual = open_with(NULL);
    REQUIRE(o.engine && usual.engine);
    air_sequence *s, *other;
    air_error err = {0};
    float got[VOCAB], same[VOCAB];
    REQUIRE(!air_sequence_new(&s, o.engine, &err) && !air_sequence_new(&other, usual.engine, &err));
    CHECK_EQ(step(&o, s, prompt, 1, got, &err), AIR_OK);
    CHECK_EQ(step(&usual, other, prompt, 1, same, &err), AIR_OK);
    CHECK(memcmp(got, same, logit_bytes) == 0);
    CHECK_EQ(step(&o, s, prompt, 1, NULL, &err), AIR_E_CONTEXT);
    air_sequence_free(s);
    air_sequence_free(other);
    close_all(&o);
    close_all(&usual);
}

/* Logits after each token of the prompt, from passes of at most max_rows rows. */
static float *logits_of_all(int64_t max_rows, air_error *err)
{
    air_engine_config c = config_of(NULL);
    c.max_rows = max_rows;
    opened o = open_with(&c);
    air_sequence *s = NULL;
    air_batch *b = NULL;
    float *copy = malloc(PROMPT * logit_bytes);
    air_status st = o.engine ? air_sequence_new(&s, o.engine, err) : AIR_E_NOMEM;
    air_batch_item items[2] = {{.sequence = s, .tokens = prompt, .n_tokens = 50, .want = 20},
                               {.sequence = s, .tokens = prompt + 50, .n_tokens = PROMPT - 50, .want = PROMPT - 50}};
    for (int i = 0; i < 2 && !st; i++) {
        st = air_batch_submit(&b, o.engine, &(air_batch_request){.items = &items[i], .n_items = 1}, err);
        if (!st) st = finish(b, err);
        if (!st) memcpy(copy + (i ? 20 * o.n_vocab : 0), air_batch_logits(b), (size_t)items[i].want * logit_bytes);
        air_batch_free(b);
        b = NULL;
    }
    CHECK_EQ(st, AIR_OK);
    air_sequence_free(s);
    close_all(&o);
    return copy;
}

TEST(wants_in_several_passes_land_where_those_of_one_do)
{
    air_error err = {0};
    float *one = logits_of_all(0, &err);
    for (int64_t rows = 7; rows < 40; rows += 16) {
        float *several = logits_of_all(rows, &err);
        CHECK(memcmp(one, several, (20 + PROMPT - 50) * logit_bytes) == 0);
        free(several);
    }
    CHECK(memcmp(one + (20 + PROMPT - 51) * (int64_t)(logit_bytes / sizeof *one), want, logit_bytes) == 0);
    free(one);
}

TEST(activations_that_could_not_be_had_are_booked_anew)
{
    opened o = open_with(NULL);
    air_sequence *s;
    air_error err = {0};
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    CHECK_EQ(step(&o, s, prompt, PROMPT, NULL, &err), AIR_OK);
    uint64_t booked = air_engine_stats_get(o.engine).held_by[AIR_HOLD_ACTIVATIONS];
    int failures = 0;
    for (uint64_t n = 1; n < 64; n++) {
        CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
        air_alloc_fail_at(n);
        failures += step(&o, s, prompt, 5, NULL, &err) != AIR_OK;
        air_alloc_fail_at(0);
        CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
        CHECK_EQ(step(&o, s, prompt, PROMPT, NULL, &err), AIR_OK);
        CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_ACTIVATIONS], booked);
    }
    CHECK(failures > 3);
    air_sequence_free(s);
    close_all(&o);
}

/* Bits per token of "The king said to his son that he would go to the city in the morning, and the young man looked at his father for a
 * long time." under the demo model: English reads at 4.4, noise over its vocabulary at 12. */
TEST(eight_bit_products_predict_english)
{
    static const int32_t text[] = {374, 589, 438, 283, 341, 550, 310, 291, 523, 435, 283, 260, 1077, 290, 260, 1216, 12, 272, 260, 886,
                                   432, 1378, 391, 341, 677, 317, 259, 803, 652, 14};
    enum { TEXT = sizeof text / sizeof *text };
    for (int tier = AIR_TIER_REF; tier < AIR_TIER_COUNT; tier++) {
        opened o = {0};
        air_error err = {0};
        air_sequence *s;
        air_batch *b;
        REQUIRE(!air_gguf_open(&o.set, AIR_TEST_MODELS "/../../../airpy/assets/demo-q8_0.gguf", &err));
        air_engine_config c = config_of(o.set);
        c.cpu_tier = tier;
        REQUIRE(!air_engine_open(&o.engine, &c, &err) && !air_sequence_new(&s, o.engine, &err));
        int64_t n_vocab = air_model_program(air_engine_model(o.engine))->n_vocab;
        air_batch_item item = {.sequence = s, .tokens = text, .n_tokens = TEXT, .want = TEXT};
        REQUIRE(!air_batch_submit(&b, o.engine, &(air_batch_request){.items = &item, .n_items = 1}, &err));
        CHECK_EQ(finish(b, &err), AIR_OK);
        double bits = 0;
        for (int i = 0; i + 1 < TEXT; i++) {
            const float *x = air_batch_logits(b) + i * n_vocab;
            double sum = 0;
            for (int64_t v = 0; v < n_vocab; v++) sum += exp((double)x[v] - (double)x[text[i + 1]]);
            bits += log2(sum) / (TEXT - 1);
        }
        CHECK(bits < 4.9);
        air_batch_free(b);
        air_sequence_free(s);
        close_all(&o);
    }
}

TEST(cancelling_a_slow_read_is_quick_and_leaves_the_model_usable)
{
    air_engine_config c = config_of(NULL);
    c.source_spec = "rate=20000";
    c.max_pins = 0;
    opened o = open_with(&c);
    REQUIRE(o.engine);
    air_sequence *s;
    air_error err = {0};
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    air_batch_item item = {.sequence = s, .tokens = prompt, .n_tokens = 20, .want = 1};
    air_batch *b;
    for (int i = 0; i < 2; i++) { /* the second one finds the engine in order */
        REQUIRE(!air_batch_submit(&b, o.engine, &(air_batch_request){.items = &item, .n_items = 1}, &err));
        int done = 0;
        CHECK_EQ(air_batch_wait(b, 300000000, &done, NULL, &err), AIR_OK);
        CHECK(!done);
        uint64_t started = air_clock_ns();
        air_batch_cancel(b);
        CHECK_EQ(finish(b, &err), AIR_E_CANCELLED);
        CHECK(air_clock_ns() - started < 250000000);
        air_batch_free(b);
        CHECK_EQ(air_sequence_length(s), 0);
    }
    air_sequence_free(s);
    close_all(&o);
}

TEST(a_timeline_says_what_the_statistics_count)
{
    enum { MOST = 20000 };
    static air_event events[MOST];
    air_engine_config c = config_of(NULL);
    c.io = AIR_IO_DIRECT;
    c.max_pins = 0;
    opened o = open_with(&c);
    REQUIRE(o.engine);
    air_sequence *s;
    air_error err = {0};
    air_timeline_figures f;
    float got[VOCAB];
    int done;
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    CHECK_EQ(air_engine_timeline_stop(o.engine, 0, &done, &f, &err), AIR_E_CLOSED);
    for (int again = 0; again < 2; again++) {
        CHECK_EQ(air_engine_timeline_begin(o.engine, MOST, &err), AIR_OK);
        CHECK_EQ(air_engine_timeline_begin(o.engine, MOST, &err), AIR_E_CLOSED);
        CHECK_EQ(step(&o, s, prompt, PROMPT, got, &err), AIR_OK);
        CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
        do CHECK_EQ(air_engine_timeline_stop(o.engine, 100000000, &done, &f, &err), AIR_OK);
        while (!done);
        REQUIRE(f.events <= MOST);
        CHECK_EQ(f.dropped, 0);
        air_engine_timeline_read(o.engine, events, f.events);
        uint64_t bytes = 0, read_ns = 0, stall_ns = 0, passes = 0, layers = 0;
        for (uint64_t i = 0; i < f.events; i++) {
            const air_event *e = &events[i];
            int read = e->kind == AIR_EVENT_READ || e->kind == AIR_EVENT_ROW, stall = e->kind == AIR_EVENT_STALL;
            CHECK(e->kind > AIR_EVENT_NONE && e->kind < AIR_EVENT_COUNT && e->begin_ns <= e->end_ns);
            CHECK_EQ(e->lane >= AIR_LANE_READS && e->lane < AIR_LANE_LAYERS, read);
            bytes += read ? e->bytes : 0;
            read_ns += read ? e->end_ns - e->begin_ns : 0;
            stall_ns += stall ? e->end_ns - e->begin_ns : 0;
            passes += e->kind == AIR_EVENT_PASS;
            layers += e->kind == AIR_EVENT_LAYER;
        }
        CHECK_EQ(bytes, f.disk_bytes);
        CHECK_EQ(read_ns, f.read_ns);
        CHECK_EQ(stall_ns, f.stall_ns);
        CHECK_EQ(passes, 1);
        CHECK_EQ(layers, air_model_program(air_engine_model(o.engine))->n_layers + 2);
        CHECK(bytes > 0 && read_ns > 0);
        CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_TIMELINE], air_timeline_bytes(MOST));
        air_engine_timeline_end(o.engine);
        CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_TIMELINE], 0);
    }
    air_sequence_free(s);
    close_all(&o);
}

TEST(a_failed_read_fails_one_call)
{
    for (int n = 3; n < 40; n += 4) {
        char spec[32];
        (void)snprintf(spec, sizeof spec, n % 8 == 3 ? "fail_at=%d" : "short_at=%d", n);
        air_engine_config c = config_of(NULL);
        c.source_spec = spec;
        c.max_pins = 100000;
        opened o = {0};
        air_error err = {0};
        REQUIRE(!air_gguf_open(&o.set, model_path, &err));
        c.set = o.set;
        if (!air_engine_open(&o.engine, &c, &err)) { /* else it failed while the small weights were read: typed too */
            o.n_vocab = VOCAB;
            air_sequence *s;
            float got[VOCAB];
            REQUIRE(!air_sequence_new(&s, o.engine, &err));
            o.n_vocab = air_model_program(air_engine_model(o.engine))->n_vocab;
            air_status st = step(&o, s, prompt, PROMPT, got, &err);
            for (int more = 0; !st && more < 3; more++) { /* read on until the fault comes */
                CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
                st = step(&o, s, prompt, PROMPT, got, &err);
            }
            CHECK(st == AIR_E_IO || st == AIR_E_CHANGED);
            CHECK_EQ(air_sequence_truncate(s, 0, &err), AIR_OK);
            CHECK_EQ(step(&o, s, prompt, PROMPT, got, &err), AIR_OK);
            CHECK(memcmp(got, want, logit_bytes) == 0);
            air_sequence_free(s);
        } else {
            CHECK(err.status == AIR_E_IO || err.status == AIR_E_CHANGED);
        }
        close_all(&o);
    }
}

/* Opens, runs and closes; AIR_OK or how it failed. */
static air_status whole_life(void)
{
    air_error err = {0};
    opened o = {0};
    air_sequence *s = NULL, *fork = NULL;
    air_status st = air_gguf_open(&o.set, model_path, &err);
    air_engine_config c = config_of(o.set);
    c.tile_bytes = 16384;
    if (!st) st = air_engine_open(&o.engine, &c, &err);
    if (!st) o.n_vocab = air_model_program(air_engine_model(o.engine))->n_vocab;
    if (!st) st = air_sequence_new(&s, o.engine, &err);
    if (!st) st = step(&o, s, prompt, PROMPT, NULL, &err);
    if (!st) st = air_sequence_fork(&fork, s, &err);
    if (!st) st = step(&o, fork, prompt, 1, NULL, &err);
    air_sequence_free(fork);
    air_sequence_free(s);
    close_all(&o);
    return st;
}

TEST(every_allocation_may_fail_and_nothing_is_left)
{
    int64_t live = air_alloc_live();
    uint64_t n = 1;
    for (;; n++) {
        air_alloc_fail_at(n);
        air_status st = whole_life();
        int failed = air_alloc_failed();
        air_alloc_fail_at(0);
        CHECK_EQ(air_alloc_live(), live);
        if (!failed) {
            CHECK_EQ(st, AIR_OK);
            break;
        }
        /* A read ahead that finds no memory may be made good later; what is not, is typed. */
        CHECK(st == AIR_E_NOMEM || st == AIR_E_THREAD || st == AIR_OK);
    }
    CHECK(n > 50);
}

TEST(memory_is_refused_with_numbers_and_given_back)
{
    air_engine_config c = config_of(NULL);
    c.max_ram = 1 << 20;
    opened o = open_with(&c);
    REQUIRE(o.engine);
    air_sequence *s[64] = {0};
    air_error err = {0};
    air_status st = AIR_OK;
    int n = 0;
    for (; n < 64 && !st; n++) { /* sequences until the budget is full: pins give way first */
        REQUIRE(!air_sequence_new(&s[n], o.engine, &err));
        st = step(&o, s[n], prompt, PROMPT, NULL, &err);
        air_engine_stats stats = air_engine_stats_get(o.engine);
        CHECK(stats.held <= stats.budget);
    }
    CHECK_EQ(st, AIR_E_BUDGET);
    CHECK(n > 2);
    CHECK(strstr(err.text, "max_ram 1.0 MiB is too small by") != NULL && strstr(err.text, "by 0.0") == NULL);
    CHECK(air_engine_budget_for(o.engine, 1, n, PROMPT, 1) > air_engine_stats_get(o.engine).budget);
    CHECK_EQ(air_engine_budget_for(o.engine, 1, INT64_MAX, PROMPT, 1), 0);
    float got[VOCAB];
    air_sequence_free(s[0]);
    s[0] = NULL;
    CHECK_EQ(step(&o, s[n - 1], prompt, PROMPT, got, &err), AIR_OK);
    CHECK(memcmp(got, want, logit_bytes) == 0);
    for (int i = 0; i < n; i++) air_sequence_free(s[i]);
    close_all(&o);
}

TEST(weights_give_way_to_what_is_handed_out)
{
    air_engine_config c = config_of(NULL);
    c.max_ram = 1 << 20;
    opened o = open_with(&c);
    REQUIRE(o.engine);
    air_error err = {0};
    air_batch *b = NULL;
    uint64_t n = 10000;
    CHECK_EQ(air_batch_submit(&b, o.engine, &(air_batch_request){.floats = n}, &err), AIR_OK);
    CHECK_EQ(finish(b, &err), AIR_OK);
    float *floats = air_batch_logits(b), got[VOCAB];
    REQUIRE(floats);
    uint64_t other = 0;
    for (uint64_t i = 0; i < n; i++) other += floats[i] != 0.0f;
    CHECK_EQ(other, 0);
    CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_LOGITS], n * sizeof *floats);
    memset(floats, 1, n * sizeof *floats);
    air_sequence *s = NULL;
    REQUIRE(!air_sequence_new(&s, o.engine, &err));
    CHECK_EQ(step(&o, s, prompt, PROMPT, got, &err), AIR_OK);
    CHECK(memcmp(got, want, logit_bytes) == 0);
    CHECK(air_engine_stats_get(o.engine).held <= c.max_ram);
    for (int i = 0; i < 2; i++) {
        air_batch *more = NULL;
        CHECK_EQ(air_batch_submit(&more, o.engine, &(air_batch_request){.floats = i ? UINT64_MAX : 1 << 20}, &err), AIR_OK);
        CHECK_EQ(finish(more, &err), AIR_E_BUDGET);
        CHECK(strstr(err.text, "is too small for results of") != NULL);
        air_batch_free(more);
    }
    air_sequence_free(s);
    air_batch_free(b);
    CHECK_EQ(air_engine_stats_get(o.engine).held_by[AIR_HOLD_LOGITS], 0);
    close_all(&o);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    make_reference();
    RUN(bits_do_not_depend_on_memory_threads_or_chunks);
    RUN(long_texts_are_split_between_threads_and_keep_their_bits);
    RUN(a_row_does_not_depend_on_its_neighbours);
    RUN(sequences_in_step_are_not_taken_for_one);
    RUN(a_fork_goes_its_own_way);
    RUN(what_fits_is_read_once_and_the_rest_every_pass);
    RUN(callers_in_threads_get_what_each_alone_would_get);
    RUN(a_sequence_has_one_user_at_a_time);
    RUN(bad_requests_are_refused_before_anything_happens);
    RUN(a_context_is_full_at_its_last_position_and_not_before);
    RUN(a_context_of_one_position_runs);
    RUN(wants_in_several_passes_land_where_those_of_one_do);
    RUN(activations_that_could_not_be_had_are_booked_anew);
    RUN(eight_bit_products_predict_english);
    RUN(cancelling_a_slow_read_is_quick_and_leaves_the_model_usable);
    RUN(a_timeline_says_what_the_statistics_count);
    RUN(a_failed_read_fails_one_call);
    RUN(every_allocation_may_fail_and_nothing_is_left);
    RUN(memory_is_refused_with_numbers_and_given_back);
    RUN(weights_give_way_to_what_is_handed_out);
    return check_end();
}
