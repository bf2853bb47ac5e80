/* Attention on the device against the portable CPU: shapes, types of state, rows of several sequences, windows, soft caps, borders of
 * blocks, parts and segments; and that a row's bits are its own. */
#include "cuda/kernels.h"
#include "kernel_check.h"
#include "state_fixture.h"

static const air_ops *ops;

struct attention_case {
    state_shape shape;
    std::vector<state_row> rows;
    int64_t window;
    float softcap;
    int64_t chunk = 0;
    std::vector<float> slopes = {}, sinks = {}; /* [heads], or none */
    int64_t ahead = 0;
};

static const int64_t ALL = INT64_MAX;

static int64_t max_position(const std::vector<state_row> &rows)
{
    int32_t most = 0;
    for (state_row row : rows) most = row.position > most ? row.position : most;
    return most;
}

/* State up to the rows' positions, and their queries. */
struct scene {
    attention_case c;
    StateBlocks state;
    std::vector<float> q;
    std::vector<int32_t> ends = {0, 0, 0}; /* of the sequences: after their last rows */
    air_cuda_role role = AIR_CUDA_DECODE;

    scene(const attention_case &given, float keys, float values)
        : c(given), state(given.shape, 3, max_position(given.rows) + 1),
          q(random_floats((int64_t)given.rows.size() * given.shape.heads * given.shape.key_dim, 1))
    {
        for (state_row row : c.rows) {
            int32_t &end = ends[(size_t)row.sequence];
            end = row.position < end ? end : row.position + 1;
        }
        for (int32_t s = 0; s < 3; s++)
            for (int32_t p = 0; p < ends[(size_t)s]; p++) {
                std::vector<float> k = random_floats(c.shape.kv_heads * c.shape.key_dim, keys);
                std::vector<float> v = random_floats(c.shape.kv_heads * c.shape.value_dim, values);
                state.store(ops, {s, p}, k.data(), v.data());
            }
    }

    float scale() const { return 1.0f / sqrtf((float)c.shape.key_dim); }
};

/* One row's heads of one K/V head. */
static void head_on_cpu(scene &s, size_t row, int64_t kv_head, float *out)
{
    const state_shape &shape = s.c.shape;
    int64_t group = shape.heads / shape.kv_heads;
    std::vector<const void *> k_blocks, v_blocks;
    for (int64_t i = 0; i < s.state.blocks(); i++) {
        k_blocks.push_back(s.state.keys(s.c.rows[row].sequence, i));
        v_blocks.push_back(s.state.values(s.c.rows[row].sequence, i));
    }
    std::vector<float> scratch(air_attention_scratch(group, shape.key_dim, shape.value_dim, shape.values_in_keys));
    std::vector<air_attention_total> totals((size_t)group);
    air_attention_args a = {};
    a.q = &s.q[(row * (size_t)shape.heads + (size_t)(kv_head * group)) * (size_t)shape.key_dim];
    a.out = out, a.totals = totals.data(), a.scratch = scratch.data();
    a.k_blocks = k_blocks.data(), a.v_blocks = v_blocks.data();
    a.k_offset = (size_t)kv_head * air_state_head_bytes(shape.type, shape.key_dim);
    a.v_offset = (size_t)kv_head * air_state_head_bytes(shape.type, shape.value_dim);
    a.type = shape.type, a.rows = 1, a.q_stride = shape.heads * shape.key_dim, a.out_stride = shape.heads * shape.value_dim;
    a.positions = s.c.rows[row].position + 1, a.window = s.c.window;
    a.group = group, a.head_dim = shape.key_dim, a.value_dim = shape.value_dim, a.scale = s.scale(), a.softcap = s.c.softcap;
    a.chunk = s.c.chunk, a.values_in_keys = shape.values_in_keys;
    a.ahead = s.c.ahead, a.stored = s.ends[(size_t)s.c.rows[row].sequence];
    if (!s.c.slopes.empty()) a.slopes = &s.c.slopes[(size_t)(kv_head * group)];
    if (!s.c.sinks.empty()) a.sinks = &s.c.sinks[(size_t)(kv_head * group)];
    int64_t first = air_attention_first(&a, 0);
    for (a.segment = first / AIR_SEGMENT_POSITIONS; a.segment * AIR_SEGMENT_POSITIONS < air_attention_end(&a, 0); a.segment++) {
        ops->attention(&a);
        ops->attention_merge(&a);
    }
}

static std::vector<float> on_cpu(scene &s)
{
    const state_shape &shape = s.c.shape;
    int64_t group = shape.heads / shape.kv_heads;
    std::vector<float> out(s.c.rows.size() * (size_t)(shape.heads * shape.value_dim));
    for (size_t r = 0; r < s.c.rows.size(); r++)
        for (int64_t h = 0; h < shape.kv_heads; h++)
            head_on_cpu(s, r, h, &out[(r * (size_t)shape.heads + (size_t)(h * group)) * (size_t)shape.value_dim]);
    return out;
}

/* Rows first to first + n, told that positions may go up to `most`. */
static std::vector<float> on_device(scene &s, int64_t first, int64_t n, int64_t most)
{
    const state_shape &shape = s.c.shape;
    int64_t q_row = shape.heads * shape.key_dim, out_row = shape.heads * shape.value_dim;
    GuardedArray<float> q(part_of(s.q, first * q_row, n * q_row)), out((size_t)(n * out_row));
    GuardedArray<uint8_t> scratch(air_cuda_attention_scratch(n, shape.heads, shape.value_dim, most));
    GuardedArray<float> slopes(s.c.slopes), sinks(s.c.sinks);
    air_cuda_attention a = {};
    GuardedArray<int32_t> ends(s.ends);
    a.chunk = s.c.chunk, a.ahead = s.c.ahead, a.ends = ends.get();
    a.slopes = s.c.slopes.empty() ? nullptr : slopes.get(), a.sinks = s.c.sinks.empty() ? nullptr : sinks.get();
    a.state = s.state.upload(part_of(s.c.rows, first, n), true);
    a.q = q.get(), a.out = out.get(), a.rows = n, a.max_position = most, a.window = s.c.window;
    a.scale = s.scale(), a.softcap = s.c.softcap, a.scratch = scratch.get(), a.role = s.role;
    check_launch(air_cuda_attention_run(&a, 0));
    CHECK(out.guarded() && scratch.guarded());
    return out.read();
}

static std::vector<float> all_on_device(scene &s) { return on_device(s, 0, (int64_t)s.c.rows.size(), max_position(s.c.rows)); }

static void check_case(const attention_case &c, double most)
{
    scene s(c, 2, 1);
    std::vector<float> want = on_cpu(s);
    char what[160];
    snprintf(what, sizeof what, "type %d, heads %d of %d, dims %d and %d, window %lld, softcap %g", (int)c.shape.type, (int)c.shape.heads,
             (int)c.shape.kv_heads, (int)c.shape.key_dim, (int)c.shape.value_dim, (long long)c.window, (double)c.softcap);
    in_every_order([&] { check_near(all_on_device(s), want, most, what); });
    without_tensor_cores device; /* whose kernel is another one */
    check_near(all_on_device(s), want, most, what);
}

static const air_state_type types[] = {AIR_STATE_F16, AIR_STATE_F32, AIR_STATE_Q8_0, AIR_STATE_Q4_0};

/* --- shapes --- */

TEST(heads_of_every_size_attend_as_on_the_cpu)
{
    const int64_t dims[][2] = {{32, 32},   {64, 64},   {80, 80}, {96, 96}, {128, 128}, {192, 128},
                               {256, 256}, {576, 512}, {72, 40}, {1, 1},   {33, 17},   {40, 520}};
    for (air_state_type type : types)
        for (auto dim : dims) check_case({{type, 2, 1, dim[0], dim[1]}, {{0, 40}, {1, 130}, {0, 41}}, ALL, 0}, 1e-12);
}

TEST(groups_of_query_heads_share_a_head_of_keys_and_values)
{
    for (air_state_type type : types)
        for (int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17})
            check_case({{type, 2 * group, 2, 24, 16}, {{0, 70}, {2, 9}}, ALL, 0}, 1e-12);
}

TEST(rows_at_the_borders_of_blocks_and_parts_and_segments)
{
    const std::vector<state_row> rows = {{0, 0}, {1, 15}, {1, 16}, {0, 63}, {0, 64}, {2, 127}, {2, 255}, {2, 256}, {1, 511}, {1, 1023},
                                         {0, 1024}, {1, 1025}, {0, 1279}, {0, 1280}, {0, 1281}};
    for (air_state_type type : types) check_case({{type, 2, 1, 16, 16}, rows, ALL, 0}, 1e-12);
}

TEST(a_prompt_attends_row_by_row)
{
    std::vector<state_row> rows;
    for (int32_t i = 0; i < 37; i++) rows.push_back({1, 240 + i});
    rows.push_back({0, 3});
    for (air_state_type type : types) check_case({{type, 4, 2, 16, 16}, rows, ALL, 0}, 1e-12);
}

TEST(windows_hide_what_is_further_back)
{
    const std::vector<state_row> rows = {{0, 0}, {0, 5}, {1, 63}, {1, 64}, {1, 65}, {2, 300}, {2, 255}, {2, 256}, {0, 1030}};
    for (int64_t window : {1, 2, 16, 63, 64, 65, 256, 257, 1000, 1031}) check_case({{AIR_STATE_F16, 2, 2, 16, 16}, rows, window, 0}, 1e-12);
}

TEST(soft_caps_and_windows_together)
{
    for (air_state_type type : types)
        for (float softcap : {0.5f, 30.0f}) check_case({{type, 4, 1, 64, 32}, {{0, 300}, {1, 7}, {2, 299}}, 100, softcap}, 1e-11);
}

/* Of every kind alone, and all together. */
static std::vector<attention_case> with_extras(const state_shape &shape, const std::vector<state_row> &rows, int64_t chunk)
{
    std::vector<float> slopes, sinks;
    for (int64_t h = 0; h < shape.heads; h++) slopes.push_back(0.5f / (float)(h + 1)), sinks.push_back(2 - (float)h);
    return {{shape, rows, ALL, 0, chunk, {}, {}}, {shape, rows, ALL, 0, 0, slopes, {}}, {shape, rows, ALL, 0, 0, {}, sinks},
            {shape, rows, 200, 30, chunk, slopes, sinks}};
}

TEST(slopes_sinks_and_chunks_are_those_of_the_cpu)
{
    const std::vector<state_row> rows = {{0, 0}, {0, 5}, {1, 63}, {1, 64}, {1, 65}, {2, 300}, {2, 255}, {2, 256}, {0, 1030}};
    for (int64_t chunk : {1, 16, 64, 100, 512, 2000})
        for (const attention_case &c : with_extras({chunk == 64 ? AIR_STATE_F32 : AIR_STATE_F16, 6, 2, 16, 16}, rows, chunk)) check_case(c, 1e-12);
}

/* Rows of texts that are read from both ends, the last one of each among them. */
static std::vector<attention_case> with_sight(const state_shape &shape, const std::vector<state_row> &rows)
{
    std::vector<attention_case> cases;
    for (int64_t ahead : {(int64_t)1, (int64_t)31, (int64_t)64, (int64_t)300, ALL}) {
        cases.push_back({shape, rows, ahead == ALL ? ALL : ahead + 1, 0});
        cases.back().ahead = ahead;
    }
    cases.push_back(with_extras(shape, rows, 0)[1]);
    cases.back().ahead = 70;
    return cases;
}

TEST(rows_see_what_comes_later_in_their_own_sequence)
{
    const std::vector<state_row> rows = {{0, 0}, {0, 1}, {0, 4}, {1, 62}, {1, 64}, {1, 127}, {1, 128}, {2, 0}, {2, 190}, {2, 256}, {2, 520}, {2, 1030}};
    for (air_state_type type : types)
        for (const attention_case &c : with_sight({type, 4, 2, 16, 16}, rows)) check_case(c, 1e-12);
}

/* --- values in keys --- */

static attention_case latent(air_state_type type, int64_t heads, int64_t rank, int64_t rope, const std::vector<state_row> &rows)
{
    return {{type, heads, 1, rank + rope, rank, true}, rows, ALL, 0};
}

TEST(values_in_keys_are_attended_as_on_the_cpu)
{
    const int64_t dims[][2] = {{512, 64}, {256, 32}, {24, 8}, {40, 8}, {17, 6}, {96, 0}};
    for (air_state_type type : types)
        for (auto dim : dims) check_case(latent(type, 3, dim[0], dim[1], {{0, 40}, {1, 130}, {0, 41}}), 1e-12);
}

TEST(many_heads_share_a_compressed_state)
{
    for (air_state_type type : types)
        for (int64_t heads : {1, 8, 9, 16, 40, 128}) check_case(latent(type, heads, 48, 16, {{0, 70}, {2, 9}}), 1e-12);
}

TEST(values_in_keys_at_the_borders_of_blocks_and_parts)
{
    const std::vector<state_row> rows = {{0, 0}, {1, 15}, {1, 16}, {0, 31}, {0, 63}, {0, 64}, {2, 255}, {2, 256}, {1, 1023}, {0, 1024}, {0, 1281}};
    for (air_state_type type : types) check_case(latent(type, 5, 24, 8, rows), 1e-12);
}

TEST(values_in_keys_with_windows_and_all_else)
{
    const std::vector<state_row> rows = {{0, 0}, {1, 63}, {1, 65}, {2, 300}, {2, 256}, {0, 600}};
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0})
        for (const attention_case &c : with_extras(latent(type, 6, 24, 8, rows).shape, rows, 100)) check_case(c, 1e-11);
}

/* --- a row's bits are its own --- */

static void check_alone(const attention_case &c)
{
    scene s(c, 2, 1);
    int64_t n = (int64_t)c.rows.size(), width = c.shape.heads * c.shape.value_dim;
    std::vector<float> together = all_on_device(s);
    for (int64_t r = 0; r < n; r++) {
        std::vector<float> want = part_of(together, r * width, width);
        CHECK(same_bits(on_device(s, r, 1, c.rows[(size_t)r].position), want));
        CHECK(same_bits(on_device(s, r, 1, 5000), want));
        if (r + 1 < n) CHECK(same_bits(part_of(on_device(s, r, 2, 2000), 0, width), want));
    }
}

TEST(a_row_alone_has_the_bits_it_has_among_others_and_in_other_grids)
{
    for (air_state_type type : types) {
        check_alone({{type, 6, 2, 48, 40}, {{0, 200}, {1, 700}, {0, 201}, {2, 0}, {1, 701}}, ALL, 0});
        check_alone({{type, 2, 2, 16, 16}, {{0, 1025}, {1, 70}}, 300, 5});
        for (const attention_case &c : with_extras({type, 6, 2, 32, 24}, {{0, 255}, {1, 256}, {2, 3}, {0, 250}}, 0)) check_alone(c);
        check_alone(latent(type, 20, 24, 8, {{0, 200}, {1, 700}, {0, 201}, {2, 0}, {1, 701}}));
    }
}

/* Positions that might be there, but are not, take scratch too. */
TEST(rows_that_take_more_scratch_than_there_is_go_in_turns)
{
    enum { ROWS = 25, MOST = 100000, HEADS = 8, DIM = 256 };
    std::vector<state_row> rows;
    for (int32_t i = 0; i < ROWS; i++) rows.push_back({i % 3, 3 * i});
    scene s({{AIR_STATE_F16, HEADS, 1, 16, DIM}, rows, ALL, 0}, 1, 1);
    size_t whole = air_cuda_attention_scratch(ROWS, HEADS, DIM, MOST);
    CHECK(whole <= (size_t)65 << 20);
    CHECK(whole < air_cuda_attention_scratch(1, HEADS, DIM, MOST) * ROWS);
    std::vector<float> want = all_on_device(s);
    CHECK(same_bits(on_device(s, 0, ROWS, MOST), want));
    s.c.window = 3 * MOST; /* its rows take a quarter of the scratch of those that see all */
    CHECK(same_bits(on_device(s, 0, ROWS, 12 * MOST), want));
}

/* --- prompts --- */

static std::vector<state_row> prompt(int32_t sequence, int32_t first, int32_t rows)
{
    std::vector<state_row> all;
    for (int32_t i = 0; i < rows; i++) all.push_back({sequence, first + i});
    return all;
}

/* Queries, weights and of Q8_0 keys and values are halves, each off by up to 2^-11 of itself, at random: about 1e-7 all together. */
static void check_prompt(const attention_case &c)
{
    scene s(c, 2, 1);
    s.role = AIR_CUDA_PROMPT;
    check_near(all_on_device(s), on_cpu(s), 4e-7, "prompt");
}

TEST(prompts_attend_on_tensor_cores)
{
    const int64_t dims[][2] = {{16, 16}, {32, 32}, {64, 64}, {80, 80}, {96, 128}, {128, 72}, {192, 130}, {256, 256}};
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0, AIR_STATE_Q4_0})
        for (auto dim : dims) check_prompt({{type, 2, 1, dim[0], dim[1]}, prompt(1, 59, 40), ALL, 0});
}

TEST(prompts_attend_in_every_order_of_threads)
{
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0, AIR_STATE_Q4_0})
        in_every_order([&] { check_prompt({{type, 4, 2, 48, 40}, prompt(0, 100, 40), 70, 0}); });
}

TEST(prompts_of_groups_windows_and_soft_caps)
{
    for (int64_t group : {1, 3, 7, 8, 17}) check_prompt({{AIR_STATE_F16, 2 * group, 2, 32, 16}, prompt(0, 0, 21), ALL, 0});
    for (int64_t window : {1, 7, 64, 65, 100}) check_prompt({{AIR_STATE_F16, 2, 2, 32, 16}, prompt(0, 120, 90), window, 0});
    check_prompt({{AIR_STATE_Q8_0, 4, 2, 32, 16}, prompt(2, 30, 40), 50, 2});
}

TEST(prompts_with_slopes_sinks_and_chunks)
{
    for (int64_t chunk : {1, 7, 64, 100, 4096})
        for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0})
            for (const attention_case &c : with_extras({type, 6, 2, 32, 16}, prompt(0, chunk == 4096 ? 4060 : 90, 70), chunk)) check_prompt(c);
}

TEST(prompts_see_what_comes_later)
{
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0})
        for (const attention_case &c : with_sight({type, 6, 2, 32, 16}, prompt(1, 0, 90))) check_prompt(c);
    attention_case c = {{AIR_STATE_F16, 1, 1, 16, 16}, prompt(0, 4080, 40), 6, 0}; /* over the border of a part */
    c.ahead = 5;
    check_prompt(c);
}

/* Parts of prompts end at multiples of 4096; a window of a few positions lets rows of one block of threads see different ones. */
TEST(prompts_over_the_border_of_a_part)
{
    for (int64_t window : {ALL, (int64_t)1, (int64_t)5, (int64_t)4096})
        check_prompt({{AIR_STATE_F16, 1, 1, 16, 16}, prompt(0, 4088, 20), window, 0});
}

TEST(a_row_of_a_prompt_has_its_bits_however_the_prompt_is_cut)
{
    const attention_case cases[] = {{{AIR_STATE_F16, 6, 2, 32, 24}, prompt(1, 100, 40), ALL, 0},
                                    {{AIR_STATE_Q8_0, 2, 1, 48, 16}, prompt(1, 3, 70), 33, 5},
                                    {{AIR_STATE_F16, 1, 1, 16, 16}, prompt(0, 4090, 12), 9, 0},
                                    latent(AIR_STATE_F16, 5, 24, 8, prompt(1, 100, 20)),
                                    latent(AIR_STATE_Q8_0, 20, 24, 8, prompt(0, 4090, 12))};
    for (const attention_case &c : cases) {
        scene s(c, 2, 1);
        s.role = AIR_CUDA_PROMPT;
        int64_t n = (int64_t)c.rows.size(), width = c.shape.heads * c.shape.value_dim;
        std::vector<float> together = all_on_device(s);
        for (int64_t r = 0; r < n - 1; r += 1 + n / 9)
            for (int64_t rows : {(int64_t)1, (int64_t)2, n - r}) {
                std::vector<float> got = on_device(s, r, rows, c.rows[(size_t)(r + rows - 1)].position);
                CHECK(same_bits(got, part_of(together, r * width, rows * width)));
            }
    }
}

TEST(prompts_that_no_tensor_core_takes_go_row_by_row)
{
    const state_shape shapes[] = {{AIR_STATE_F32, 2, 1, 32, 32}, {AIR_STATE_F16, 2, 1, 24, 32}, {AIR_STATE_Q8_0, 2, 1, 32, 272}, {AIR_STATE_Q4_0, 2, 1, 24, 40}};
    for (const state_shape &shape : shapes) {
        scene s({shape, prompt(0, 60, 9), ALL, 0}, 2, 1);
        std::vector<float> want = all_on_device(s);
        s.role = AIR_CUDA_PROMPT;
        CHECK(same_bits(all_on_device(s), want));
    }
    if (!without_tensor_cores::WORKS) return;
    scene s({{AIR_STATE_F16, 2, 1, 32, 32}, prompt(0, 60, 9), ALL, 0}, 2, 1);
    std::vector<float> want = all_on_device(s);
    s.role = AIR_CUDA_PROMPT;
    CHECK(!same_bits(all_on_device(s), want));
    without_tensor_cores device;
    std::vector<float> got = all_on_device(s);
    s.role = AIR_CUDA_DECODE;
    CHECK(same_bits(got, all_on_device(s)));
}

TEST(what_is_not_finite_shows_in_a_prompt)
{
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0, AIR_STATE_Q4_0}) {
        scene s({{type, 2, 2, 32, 32}, prompt(0, 200, 3), ALL, 0}, 1, 1);
        s.role = AIR_CUDA_PROMPT;
        std::vector<float> k = random_floats(64, 1), v = random_floats(64, 1);
        k[3] = NAN; /* of the first K/V head */
        s.state.store(ops, {0, 20}, k.data(), v.data());
        std::vector<float> got = all_on_device(s);
        for (size_t i = 0; i < got.size(); i++) CHECK(std::isnan(got[i]) == (i % 64 < 32));
    }
}

/* --- values in keys, on tensor cores --- */

TEST(prompts_attend_a_compressed_state)
{
    const int64_t dims[][2] = {{512, 64}, {256, 32}, {24, 8}, {50, 14}};
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0, AIR_STATE_Q4_0})
        for (auto dim : dims) check_prompt(latent(type, 3, dim[0], dim[1], prompt(1, 59, 9)));
    for (int64_t heads : {1, 5, 20, 70}) check_prompt(latent(AIR_STATE_F16, heads, 24, 8, prompt(0, 0, 21)));
    in_every_order([&] { check_prompt(latent(AIR_STATE_Q8_0, 6, 24, 8, prompt(0, 100, 40))); });
    check_prompt(latent(AIR_STATE_F16, 1, 24, 8, prompt(0, 4088, 20))); /* over the border of a part */
}

TEST(prompts_over_a_compressed_state_with_windows_and_all_else)
{
    for (const attention_case &c : with_extras(latent(AIR_STATE_F16, 6, 24, 8, {}).shape, prompt(0, 90, 40), 64)) check_prompt(c);
    for (attention_case c : with_sight(latent(AIR_STATE_F16, 3, 24, 8, {}).shape, prompt(1, 0, 70))) check_prompt(c);
}

/* It says how many queries a block of threads takes. */
TEST(shared_memory_shows_in_no_bit_of_a_compressed_state)
{
    for (air_cuda_role role : {AIR_CUDA_DECODE, AIR_CUDA_PROMPT}) {
        scene s(latent(AIR_STATE_F16, 40, 512, 64, prompt(0, 60, 3)), 2, 1);
        s.role = role;
        std::vector<float> want = all_on_device(s);
        {
            larger_device device;
            CHECK(same_bits(all_on_device(s), want));
        }
        smaller_device device;
        CHECK(same_bits(all_on_device(s), want));
    }
}

TEST(a_compressed_state_of_any_size_loses_nothing)
{
    const float sizes[][2] = {{1, 2}, {1, 1e-4f}, {1e-20f, 2}, {1e8f, 1e-6f}, {1e-3f, 6e4f}, {3e38f, 1e-7f}};
    for (auto size : sizes) {
        scene s(latent(AIR_STATE_F16, 9, 24, 8, {{0, 90}, {1, 300}}), size[1], 0);
        for (float &x : s.q) x *= size[0];
        check_near(all_on_device(s), on_cpu(s), 1e-11, "sizes");
    }
    scene s(latent(AIR_STATE_F16, 9, 24, 8, {{0, 90}, {1, 300}}), 3000, 0);
    check_near(all_on_device(s), on_cpu(s), 1e-8, "huge"); /* scores of ten thousand, a thousandth off */
}

/* Rows: one that sees the bad position, one before it, one of another sequence; and one behind a window, which sees it no more. */
TEST(what_is_not_finite_in_a_compressed_state_shows_where_it_is_seen)
{
    for (air_state_type type : types)
        for (int64_t window : {ALL, (int64_t)50}) {
            attention_case c = latent(type, 4, 24, 8, {{0, 220}, {0, 199}, {1, 220}, {0, 255}});
            c.window = window;
            scene s(c, 1, 1);
            std::vector<float> k = random_floats(32, 1);
            k[3] = NAN;
            s.state.store(ops, {0, 200}, k.data(), nullptr);
            std::vector<float> got = all_on_device(s);
            for (size_t i = 0; i < got.size(); i++) CHECK(std::isfinite(got[i]) == (i / 96 != 0 && (i / 96 != 3 || window != ALL)));
        }
}

/* --- extremes --- */

TEST(huge_scores_leave_the_greatest_alone)
{
    for (air_state_type type : types) {
        attention_case c = {{type, 2, 1, 64, 32}, {{0, 200}, {1, 3}}, ALL, 0};
        scene s(c, 3000, 1);
        std::vector<float> want = on_cpu(s);
        in_every_order([&] { check_near(all_on_device(s), want, 1e-10, "huge scores"); });
    }
}

/* On tensor cores numbers are halves or sums of two, which have few exponents. */
TEST(numbers_of_every_size_lose_nothing)
{
    const float sizes[][3] = {{1, 2, 3e4f}, {1, 2, 1e-4f}, {1e-20f, 2, 1}, {1e8f, 1e-6f, 1}, {1e-3f, 6e4f, 6e4f}, {3e38f, 1e-7f, 1}};
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_Q8_0})
        for (auto size : sizes) {
            scene s({{type, 3, 1, 32, 32}, {{0, 90}, {1, 300}}, ALL, 0}, size[1], type == AIR_STATE_Q8_0 ? size[2] * 100 : size[2]);
            for (float &x : s.q) x *= size[0];
            check_near(all_on_device(s), on_cpu(s), 1e-11, "sizes");
        }
}

TEST(zeros_average_the_values)
{
    for (air_state_type type : types) {
        scene s({{type, 3, 1, 32, 32}, {{0, 90}, {1, 300}}, ALL, 0}, 0, 1);
        check_near(all_on_device(s), on_cpu(s), 1e-12, "zeros");
        scene none({{type, 3, 1, 32, 32}, {{0, 90}}, ALL, 0}, 1, 0);
        for (float x : all_on_device(none)) CHECK(x == 0);
    }
}

/* Rows: one that sees the bad position, one before it, one of another sequence. */
static void check_visible(air_state_type type, air_state_part part, float bad)
{
    attention_case c = {{type, 4, 2, 32, 32}, {{0, 300}, {0, 199}, {1, 300}}, ALL, 0};
    scene s(c, 1, 1);
    std::vector<float> k = random_floats(64, 1), v = random_floats(64, 1);
    (part == AIR_STATE_K ? k : v)[3] = bad; /* of the first K/V head */
    s.state.store(ops, {0, 200}, k.data(), v.data());
    std::vector<float> got = all_on_device(s);
    bool seen = false;
    for (size_t i = 0; i < got.size(); i++) {
        if (i >= 64) CHECK(std::isfinite(got[i]));
        else if (part == AIR_STATE_K) CHECK(std::isnan(got[i]));
        else seen = seen || !std::isfinite(got[i]);
    }
    CHECK(part == AIR_STATE_K || seen);
}

TEST(what_is_not_finite_shows_where_it_is_seen)
{
    for (air_state_type type : types) {
        check_visible(type, AIR_STATE_K, NAN);
        check_visible(type, AIR_STATE_V, NAN);
        check_visible(type, AIR_STATE_V, INFINITY);
    }
}

TEST(what_no_kernel_takes_is_refused)
{
    float x = 0;
    air_cuda_attention a = {};
    a.q = &x, a.out = &x, a.rows = 1, a.window = ALL, a.scratch = &x;
    a.state.heads = 3, a.state.kv_heads = 2, a.state.key_dim = a.state.value_dim = 8;
    CHECK_EQ(air_cuda_attention_run(&a, 0), cudaErrorInvalidValue);
    a.state.heads = 2, a.rows = 0;
    CHECK_EQ(air_cuda_attention_run(&a, 0), cudaErrorInvalidValue);
    a.rows = 1, a.ahead = 1; /* but no ends */
    CHECK_EQ(air_cuda_attention_run(&a, 0), cudaErrorInvalidValue);
    a.ahead = 0, a.state.type = AIR_STATE_TYPES;
    CHECK_EQ(air_cuda_attention_run(&a, 0), cudaErrorInvalidValue);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    ops = air_ops_tier(AIR_TIER_REF);
    RUN(heads_of_every_size_attend_as_on_the_cpu);
    RUN(groups_of_query_heads_share_a_head_of_keys_and_values);
    RUN(rows_at_the_borders_of_blocks_and_parts_and_segments);
    RUN(a_prompt_attends_row_by_row);
    RUN(windows_hide_what_is_further_back);
    RUN(soft_caps_and_windows_together);
    RUN(slopes_sinks_and_chunks_are_those_of_the_cpu);
    RUN(rows_see_what_comes_later_in_their_own_sequence);
    RUN(values_in_keys_are_attended_as_on_the_cpu);
    RUN(many_heads_share_a_compressed_state);
    RUN(values_in_keys_at_the_borders_of_blocks_and_parts);
    RUN(values_in_keys_with_windows_and_all_else);
    RUN(a_row_alone_has_the_bits_it_has_among_others_and_in_other_grids);
    RUN(rows_that_take_more_scratch_than_there_is_go_in_turns);
    RUN(prompts_attend_on_tensor_cores);
    RUN(prompts_attend_in_every_order_of_threads);
    RUN(prompts_of_groups_windows_and_soft_caps);
    RUN(prompts_with_slopes_sinks_and_chunks);
    RUN(prompts_see_what_comes_later);
    RUN(prompts_over_the_border_of_a_part);
    RUN(a_row_of_a_prompt_has_its_bits_however_the_prompt_is_cut);
    RUN(prompts_that_no_tensor_core_takes_go_row_by_row);
    RUN(what_is_not_finite_shows_in_a_prompt);
    RUN(prompts_attend_a_compressed_state);
    RUN(prompts_over_a_compressed_state_with_windows_and_all_else);
    RUN(shared_memory_shows_in_no_bit_of_a_compressed_state);
    RUN(a_compressed_state_of_any_size_loses_nothing);
    RUN(what_is_not_finite_in_a_compressed_state_shows_where_it_is_seen);
    RUN(huge_scores_leave_the_greatest_alone);
    RUN(numbers_of_every_size_lose_nothing);
    RUN(zeros_average_the_values);
    RUN(what_is_not_finite_shows_where_it_is_seen);
    RUN(what_no_kernel_takes_is_refused);
    return check_end();
}
