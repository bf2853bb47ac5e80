/* Products that several devices and the CPU compute together: whatever order CUDA allows, the bits are those of one device where devices
 * share, and always the same where the CPU does. tests/mutations/cuda.py plants mistakes for these tests to find. */
#include <cstdlib>

#include "stream_fixture.h"

using namespace air::fake;

static const char MODEL[] = "llama-gqa";
enum { ROWS = 24 }; /* of a pass, whose memory has room for the logits of several rows: a batch is one pass */
static const Memory TWO = {0.3, 0.3, AIR_IO_DIRECT, 8, 0, 0.2, 0};

static int schedules(int most)
{
    const char *fewer = getenv("AIR_STREAM_SEEDS");
    int n = fewer ? atoi(fewer) : (most + SLOWER - 1) / SLOWER;
    return n < most ? n : most;
}

static std::vector<Logits> script_under(const air_engine_config &config, const std::string &words, int steps)
{
    emulate(words);
    int64_t live = air_alloc_live();
    std::vector<Logits> all;
    {
        Model m(MODEL, config);
        if (m.status) printf("  %s\n", m.error.text);
        for (int step = 0; step < steps && !m.status; step++) {
            Logits got;
            air_error err = {};
            if (script_step(m, step, &got, &err)) printf("  %s: step %d: %s\n", words.c_str(), step, err.text);
            all.push_back(got);
        }
    }
    CHECK(check_clean(live));
    CHECK(stats().device[0].vram_peak <= config.max_vram - AIR_DEVICE_CONTEXT);
    if (config.n_helpers) CHECK(stats().device[1].vram_peak <= config.helpers[0].max_vram - AIR_DEVICE_CONTEXT);
    return all;
}

static bool check_bits(const std::vector<Logits> &got, const std::vector<Logits> &want, const std::string &words)
{
    for (size_t step = 0; step < got.size(); step++) {
        if (same_bits(got[step], want[step])) continue;
        printf("  %s: step %zu: other bits\n", words.c_str(), step);
        CHECK(!"other bits");
        return false;
    }
    return !got.empty();
}

static void check_schedules(const air_engine_config &config, const std::string &devices, const std::vector<Logits> &want, int n)
{
    for (int seed = 0; seed < schedules(n); seed++) {
        std::string words = devices + ",mode=sched,seed=" + std::to_string(seed) + (seed % 2 ? ",order=random" : "");
        if (!check_bits(script_under(config, words, seed % 5 ? 2 : SCRIPT), want, words)) return;
    }
}

static std::vector<Logits> &one_device()
{
    static std::vector<Logits> want;
    if (want.empty()) want = script_under(config_for(MODEL, RESIDENT), "", SCRIPT);
    return want;
}

/* Its figures; the lists are gone with the model. */
static air_plan plan_of(const air_engine_config &config)
{
    emulate("devices=2");
    Model m(MODEL, config);
    CHECK(!m.status);
    return m.status ? air_plan{} : *air_engine_plan(m.engine);
}

TEST(devices_share_products_that_stay_and_that_stream)
{
    air_plan plan = plan_of(config_for(MODEL, TWO));
    const air_plan_helper *h = &plan.helpers[0];
    printf("  %d tiles: %d stay on the first, %d on the second, %d stream to the first, %d to the second\n", (int)plan.n_tiles,
           (int)(plan.n_device_tiles - h->n_tiles), (int)h->n_tiles,
           (int)(plan.n_tiles - plan.n_device_tiles - h->linked_tiles), (int)h->linked_tiles);
    CHECK(h->n_tiles > 5 && h->linked_tiles > 5 && plan.n_device_tiles - h->n_tiles > 5);
    check_schedules(config_for(MODEL, TWO), "devices=2", one_device(), 15);
}

TEST(nor_does_it_matter_how_they_reach_each_other)
{
    check_schedules(config_for(MODEL, TWO), "devices=2,peer=0,register=0", one_device(), 4);
    check_schedules(config_for(MODEL, {0.2, 1, AIR_IO_MMAP, 8, 0, 0.2, 0}), "devices=2", one_device(), 4);
}

static double apart(const Logits &a, const Logits &b)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < a.size() && i < b.size(); i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return all > 0 ? off / all : 1;
}

TEST(the_cpu_computes_generated_rows_and_no_others)
{
    for (double pinned : {1.0, 0.0}) { /* what lies in RAM can wait until devices are busy, what comes from disk cannot */
        air_engine_config config = config_for(MODEL, {0.3, pinned, AIR_IO_DIRECT, ROWS, 0, 0, 0.5});
        std::vector<Logits> want = script_under(config, "", SCRIPT);
        CHECK(same_bits(want[0], one_device()[0])); /* a prompt */
        for (int step = 1; step < SCRIPT; step++) CHECK(apart(want[(size_t)step], one_device()[(size_t)step]) < 1e-8);
        CHECK(!same_bits(want[1], one_device()[1]));
        check_schedules(config, "devices=1", want, 8);
    }
}

/* Whoever computes with few tiles sees the same buffer again before another one, layers later. */
TEST(columns_are_those_of_the_layer)
{
    for (double kept : {0.3, 0.8, 0.9})
        for (double share : {0.1, 0.3, 0.5}) {
            air_engine_config config = config_for(MODEL, {kept, 1, AIR_IO_DIRECT, 8, 0, 0, share});
            config.tile_bytes = 16 * TILE, config.ring_bytes = 8 * HOST_RING; /* a matrix is a tile, at most 6 of TILE */
            config.max_vram += 3 * 5 * TILE;
            CHECK(apart(script_under(config, "", 2)[1], one_device()[1]) < 1e-8);
        }
}

TEST(the_cpu_and_two_devices_together)
{
    air_engine_config config = config_for(MODEL, {0.2, 0.5, AIR_IO_DIRECT, ROWS, 0, 0.2, 0.4});
    std::vector<Logits> want = script_under(config, "devices=2", SCRIPT);
    for (int step = 0; step < SCRIPT; step++) CHECK(apart(want[(size_t)step], one_device()[(size_t)step]) < 1e-8);
    check_schedules(config, "devices=2", want, 10);
}

TEST(a_device_that_has_all_of_it_needs_no_other)
{
    air_engine_config config = config_for(MODEL, {1, 0, AIR_IO_DIRECT, 8, 0, 0.3, 0});
    CHECK_EQ(plan_of(config).n_helpers, 0);
    check_bits(script_under(config, "devices=2", SCRIPT), one_device(), "resident");
}

TEST(many_rows_for_the_cpu_go_in_turns)
{
    air_engine_config config = config_for(MODEL, {0.3, 0.7, AIR_IO_DIRECT, 40, 0, 0, 0.6});
    emulate("");
    Model m(MODEL, config);
    Logits together, alone;
    REQUIRE(!m.status);
    std::vector<int32_t> text = text_of(37, 3);
    CHECK_EQ(call(m, {{0, text, 37, 0}}, &together, nullptr), AIR_OK);
    size_t each = together.size() / 37;
    for (int i = 0; i < 37; i += 9) {
        air_sequence_free(m.sequences[1]);
        m.sequences[1] = nullptr;
        std::vector<int32_t> before(text.begin(), text.begin() + i), one(text.begin() + i, text.begin() + i + 1);
        if (i) CHECK_EQ(call(m, {{1, before, 1, 0}}, &alone, nullptr), AIR_OK);
        CHECK_EQ(call(m, {{1, one, 1, 0}}, &alone, nullptr), AIR_OK);
        CHECK(same_bits(alone, Logits(together.begin() + (long)(each * (size_t)i), together.begin() + (long)(each * (size_t)(i + 1)))));
    }
}

TEST(the_users_thread_stays_on_its_device)
{
    air_engine_config config = config_for(MODEL, {0.2, 0.5, AIR_IO_DIRECT, 8, 0, 0, 0});
    config.device = 1;
    emulate("devices=2");
    {
        Model m(MODEL, config);
        Logits logits;
        REQUIRE(!m.status);
        CHECK_EQ(call(m, {{0, {1}}}, &logits, nullptr), AIR_OK);
    }
    int current = -1;
    CHECK_EQ(cudaGetDevice(&current), cudaSuccess);
    CHECK_EQ(current, 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(devices_share_products_that_stay_and_that_stream);
    RUN(nor_does_it_matter_how_they_reach_each_other);
    RUN(the_cpu_computes_generated_rows_and_no_others);
    RUN(columns_are_those_of_the_layer);
    RUN(the_cpu_and_two_devices_together);
    RUN(a_device_that_has_all_of_it_needs_no_other);
    RUN(many_rows_for_the_cpu_go_in_turns);
    RUN(the_users_thread_stays_on_its_device);
    return check_end();
}
