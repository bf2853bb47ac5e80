/* What the device does by rows, against the portable CPU: norms with their 8-bit form, rotation, choice of rows, the largest logits,
 * storing. */
#include <algorithm>
#include <cfloat>

#include "cuda/kernels.h"
#include "kernel_check.h"
#include "state_fixture.h"

static const air_ops *ops;
static const air_cuda_q8 no_q8 = {nullptr, nullptr, nullptr};

/* --- RMS norm --- */

struct norm_shape {
    int64_t rows, width, group;
};

/* Odd ones, those of heads, those of a row that takes a block of threads, and more than one turn of it. */
static const norm_shape norm_shapes[] = {
    {1, 1, 1}, {3, 7, 7}, {5, 130, 65}, {2, 96, 32}, {7, 1024, 128}, {3, 80, 80}, {2, 1000, 1000}, {1, 4096, 4096}, {2, 9001, 9001},
};

static std::vector<float> norm_on_cpu(const std::vector<float> &x, const float *weight, int64_t group, float eps)
{
    std::vector<float> y(x.size());
    for (size_t at = 0; at < x.size(); at += (size_t)group) ops->rms_norm(&x[at], weight, &y[at], group, eps);
    return y;
}

static air_cuda_norm norm_of(const float *x, const float *weight, float *y, norm_shape s, float eps, air_cuda_q8 q8)
{
    air_cuda_norm n = {};
    n.x = x, n.weight = weight, n.y = y, n.rows = s.rows, n.width = s.width, n.group = n.weights = s.group, n.eps = eps, n.q8 = q8;
    return n;
}

static std::vector<float> norm_on_device(const std::vector<float> &x, const std::vector<float> &weight, norm_shape s, float eps,
                                         air_cuda_q8 q8)
{
    GuardedArray<float> in(x), w(weight), out(x.size());
    air_cuda_norm n = norm_of(in.get(), weight.empty() ? nullptr : w.get(), out.get(), s, eps, q8);
    check_launch(air_cuda_norm_run(&n, 0));
    CHECK(out.guarded());
    return out.read();
}

TEST(norms_are_those_of_the_cpu)
{
    for (norm_shape s : norm_shapes) {
        std::vector<float> x = random_floats(s.rows * s.width, 3), weight = random_floats(s.group, 2);
        in_every_order([&] {
            check_near(norm_on_device(x, weight, s, 1e-5f, no_q8), norm_on_cpu(x, weight.data(), s.group, 1e-5f), 1e-12, "rms_norm");
            check_near(norm_on_device(x, {}, s, 0, no_q8), norm_on_cpu(x, nullptr, s.group, 0), 1e-12, "rms_norm without weight");
        });
    }
}

TEST(a_norm_may_be_written_over_its_input_and_need_not_be_aligned)
{
    norm_shape s = {3, 128, 64};
    std::vector<float> all = random_floats(s.rows * s.width + 1, 1), weight = random_floats(s.group, 1);
    std::vector<float> x = part_of(all, 1, s.rows * s.width);
    GuardedArray<float> in(all), w(weight);
    air_cuda_norm n = norm_of(in.get() + 1, w.get(), in.get() + 1, s, 1e-6f, no_q8);
    check_launch(air_cuda_norm_run(&n, 0));
    CHECK(in.guarded());
    std::vector<float> got = in.read();
    CHECK(got[0] == all[0]);
    CHECK(same_bits(part_of(got, 1, s.rows * s.width), norm_on_device(x, weight, s, 1e-6f, no_q8)));
}

TEST(a_rows_norm_does_not_depend_on_other_rows)
{
    for (norm_shape s : norm_shapes) {
        std::vector<float> x = random_floats(s.rows * s.width, 3), weight = random_floats(s.group, 2);
        std::vector<float> together = norm_on_device(x, weight, s, 1e-5f, no_q8);
        for (int64_t r = 0; r < s.rows; r++) {
            std::vector<float> alone = norm_on_device(part_of(x, r * s.width, s.width), weight, {1, s.width, s.group}, 1e-5f, no_q8);
            CHECK(same_bits(alone, part_of(together, r * s.width, s.width)));
        }
    }
}

static void check_quantized(const std::vector<float> &y, int64_t k, const GuardedArray<uint8_t> &memory, air_cuda_q8 at)
{
    int64_t n = (int64_t)y.size() / k;
    std::vector<uint8_t> host(air_q8_bytes(k, n) + 64), got = memory.read();
    air_q8 want = air_q8_place((void *)(((uintptr_t)host.data() + 63) / 64 * 64), k, n);
    for (int64_t c = 0; c < n; c++) ops->quantize(&y[(size_t)(c * k)], k, air_q8_at(want, k, c, 0));
    const uint8_t *base = memory.get();
    CHECK(memcmp(&got[(size_t)((uint8_t *)at.q - base)], want.q, (size_t)(n * k)) == 0);
    CHECK(memcmp(&got[(size_t)((uint8_t *)at.sums - base)], want.sums, (size_t)(n * k / AIR_Q8_SUM_GROUP) * 2) == 0);
    CHECK(memcmp(&got[(size_t)((uint8_t *)at.scale - base)], want.scale, (size_t)(n * k / AIR_Q8_GROUP) * 4) == 0);
}

/* As heads have them. */
TEST(parts_of_rows_have_an_8_bit_form_part_by_part)
{
    const struct { air_cuda_parts from; int64_t k, parts, n; } shapes[] = {{{200, 3, 64}, 64, 3, 2}, {{96, 0, 96}, 32, 1, 5}, {{160, 32, 32}, 32, 4, 1}};
    for (auto s : shapes) {
        std::vector<float> x = random_floats(s.n * s.from.width, 3), parts;
        for (int64_t i = 0; i < s.parts * s.n; i++) {
            std::vector<float> part = part_of(x, i % s.n * s.from.width + s.from.first + i / s.n * s.from.step, s.k);
            parts.insert(parts.end(), part.begin(), part.end());
        }
        GuardedArray<float> in(x);
        GuardedArray<uint8_t> memory(air_cuda_q8_bytes(s.k, s.parts * s.n));
        air_cuda_q8 q8 = air_cuda_q8_place(memory.get(), s.k, s.parts * s.n);
        check_launch(air_cuda_quantize_parts(in.get(), s.from, s.k, s.parts, s.n, q8, 0));
        CHECK(memory.guarded());
        check_quantized(parts, s.k, memory, q8);
    }
    float x = 0;
    CHECK_EQ(air_cuda_quantize_parts(&x, {64, 32, 32}, 32, 2, 1, no_q8, 0), cudaErrorInvalidValue); /* behind the row's end */
}

TEST(a_norm_gives_its_8_bit_form_too)
{
    const norm_shape shapes[] = {{1, 32, 32}, {3, 96, 96}, {2, 256, 64}, {2, 5120, 5120}};
    for (norm_shape s : shapes) {
        std::vector<float> x = random_floats(s.rows * s.width, 3), weight = random_floats(s.group, 2);
        for (int64_t i = 0; i < 32; i++) x[(size_t)i] = 0; /* a group of zeros */
        in_every_order([&] {
            GuardedArray<uint8_t> memory(air_cuda_q8_bytes(s.width, s.rows));
            air_cuda_q8 q8 = air_cuda_q8_place(memory.get(), s.width, s.rows);
            std::vector<float> y = norm_on_device(x, weight, s, 1e-5f, q8);
            CHECK(memory.guarded());
            CHECK(same_bits(y, norm_on_device(x, weight, s, 1e-5f, no_q8)));
            check_quantized(y, s.width, memory, q8);
        });
    }
}

/* As the op reads them: where the first group begins, and from one to the next. */
TEST(groups_of_a_row_may_lie_apart)
{
    const struct { int64_t rows, width, group, first, step; } shapes[] = {{3, 576, 512, 0, 576}, {2, 96, 24, 8, 32}, {5, 33, 7, 1, 11}, {4, 32, 24, 0, 32}};
    for (auto s : shapes) {
        std::vector<float> x = random_floats(s.rows * s.width, 3), weight = random_floats(s.group, 2), want = x;
        for (int64_t r = 0; r < s.rows; r++)
            for (int64_t at = s.first; at < s.width; at += s.step)
                ops->rms_norm(&x[(size_t)(r * s.width + at)], weight.data(), &want[(size_t)(r * s.width + at)], s.group, 1e-5f);
        in_every_order([&] {
            GuardedArray<float> in(x), w(weight);
            air_cuda_norm n = norm_of(in.get(), w.get(), in.get(), {s.rows, s.width, s.group}, 1e-5f, no_q8);
            n.first = s.first, n.step = s.step;
            check_launch(air_cuda_norm_run(&n, 0));
            CHECK(in.guarded());
            check_near(in.read(), want, 1e-12, "norm of groups apart");
        });
    }
}

TEST(what_is_not_finite_shows_in_a_norm)
{
    norm_shape s = {2, 64, 64};
    std::vector<float> x = random_floats(128, 1), weight = random_floats(64, 1);
    x[70] = NAN;
    std::vector<float> y = norm_on_device(x, weight, s, 1e-5f, no_q8);
    for (int i = 0; i < 64; i++) CHECK(std::isfinite(y[(size_t)i]) && std::isnan(y[(size_t)i + 64]));
    for (float zero : norm_on_device(std::vector<float>(128), weight, s, 1e-5f, no_q8)) CHECK(zero == 0);
}

TEST(norms_that_no_kernel_takes_are_refused)
{
    float x = 0;
    int8_t q = 0;
    air_cuda_norm good = norm_of(&x, &x, &x, {1, 8, 4}, 0, no_q8), n = good;
    n.rows = 0;
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
    n = good, n.width = 6;
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
    n = good, n.weights = 5; /* neither a group's nor a row's */
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
    n = good, n.bias = &x; /* of an RMS norm */
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
    n = good, n.first = 2, n.step = 4; /* the last group would end behind the row */
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
    n = norm_of(&x, &x, &x, {1, 48, 48}, 0, {&q, nullptr, nullptr});
    CHECK_EQ(air_cuda_norm_run(&n, 0), cudaErrorInvalidValue);
}

/* --- layer norm, and weights of all groups --- */

static void check_layer_norm(norm_shape s, bool each, bool weighted, bool centers, float shift)
{
    int64_t weights = each ? s.width : s.group;
    std::vector<float> x = random_floats(s.rows * s.width, 3), weight = random_floats(weights, 2), bias = random_floats(weights, 1);
    for (float &v : x) v += shift;
    std::vector<float> want(x.size());
    for (int64_t at = 0; at < s.rows * s.width; at += s.group) {
        const float *w = weighted ? &weight[(size_t)(at % weights)] : nullptr, *b = weighted ? &bias[(size_t)(at % weights)] : nullptr;
        if (centers) ops->layer_norm(&x[(size_t)at], w, b, &want[(size_t)at], s.group, 1e-5f);
        else ops->rms_norm(&x[(size_t)at], w, &want[(size_t)at], s.group, 1e-5f);
    }
    in_every_order([&] {
        GuardedArray<float> in(x), w(weight), b(bias), out(x.size());
        air_cuda_norm n = norm_of(in.get(), weighted ? w.get() : nullptr, out.get(), s, 1e-5f, no_q8);
        n.centers = centers, n.weights = weights, n.bias = weighted && centers ? b.get() : nullptr;
        check_launch(air_cuda_norm_run(&n, 0));
        CHECK(out.guarded());
        check_near(out.read(), want, 1e-11, centers ? "layer norm" : "rms norm");
    });
}

TEST(layer_norms_and_weights_of_every_group_are_those_of_the_cpu)
{
    for (norm_shape s : norm_shapes)
        for (bool each : {false, true})
            for (bool weighted : {false, true}) {
                if (s.group > 1) check_layer_norm(s, each, weighted, true, each ? 2.0f : 0.0f); /* of one element only 0 / 0 is left */
                check_layer_norm(s, each, weighted, false, 0);
            }
}

TEST(a_layer_norm_gives_its_8_bit_form_too)
{
    norm_shape s = {3, 96, 96};
    std::vector<float> x = random_floats(s.rows * s.width, 3);
    GuardedArray<uint8_t> memory(air_cuda_q8_bytes(s.width, s.rows));
    GuardedArray<float> in(x), out(x.size());
    air_cuda_norm n = norm_of(in.get(), nullptr, out.get(), s, 1e-5f, air_cuda_q8_place(memory.get(), s.width, s.rows));
    n.centers = true;
    check_launch(air_cuda_norm_run(&n, 0));
    CHECK(memory.guarded() && out.guarded());
    check_quantized(out.read(), s.width, memory, n.q8);
}

TEST(rows_are_added)
{
    for (int64_t n : {1, 255, 257, 100000}) {
        std::vector<float> x = random_floats(n, 1), y = random_floats(n, 2), want = y;
        for (size_t i = 0; i < want.size(); i++) want[i] += x[i];
        GuardedArray<float> from(x), to(y);
        check_launch(air_cuda_add(to.get(), from.get(), n, 0));
        CHECK(to.guarded() && same_bits(to.read(), want));
    }
    float x = 0;
    CHECK_EQ(air_cuda_add(&x, &x, 0, 0), cudaErrorInvalidValue);
}

TEST(parts_of_rows_are_copied)
{
    const struct { air_cuda_parts to, from; int64_t parts, each; } shapes[] = {{{40, 3, 12}, {33, 1, 8}, 3, 5}, {{512, 0, 256}, {1024, 256, 512}, 2, 256},
                                                                               {{300, 0, 300}, {300, 0, 300}, 1, 300}};
    for (auto s : shapes) {
        const int64_t rows = 3;
        std::vector<float> x = random_floats(rows * s.from.width, 1), y = random_floats(rows * s.to.width, 1), want = y;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < s.parts * s.each; i++)
                want[(size_t)(r * s.to.width + s.to.first + i / s.each * s.to.step + i % s.each)] =
                    x[(size_t)(r * s.from.width + s.from.first + i / s.each * s.from.step + i % s.each)];
        GuardedArray<float> to(y), from(x);
        check_launch(air_cuda_copy(to.get(), s.to, from.get(), s.from, rows, s.parts, s.each, 0));
        CHECK(to.guarded() && same_bits(to.read(), want));
    }
    CHECK_EQ(air_cuda_copy(nullptr, {1, 0, 1}, nullptr, {1, 0, 1}, 1, 0, 1, 0), cudaErrorInvalidValue);
}

TEST(rows_get_the_vector_of_their_type)
{
    const std::vector<int32_t> types = {1, 0, 0, 1, 2};
    for (int64_t width : {1, 64, 777}) {
        int64_t rows = (int64_t)types.size();
        std::vector<float> y = random_floats(rows * width, 1), vectors = random_floats(3 * width, 1), want = y;
        for (size_t i = 0; i < want.size(); i++)
            want[i] += vectors[(size_t)types[i / (size_t)width] * (size_t)width + i % (size_t)width];
        GuardedArray<float> to(y), from(vectors);
        GuardedArray<int32_t> of(types);
        check_launch(air_cuda_add_type(to.get(), from.get(), of.get(), rows, width, 0));
        CHECK(to.guarded() && same_bits(to.read(), want));
    }
    CHECK_EQ(air_cuda_add_type(nullptr, nullptr, nullptr, 0, 1, 0), cudaErrorInvalidValue);
}

TEST(rows_are_tempered_by_their_positions)
{
    const std::vector<int32_t> positions = {0, 14, 15, 16, 31, 8191, 1000000};
    for (int32_t shift : {0, 1})
        for (int64_t width : {1, 255, 1000}) {
            int64_t rows = (int64_t)positions.size();
            std::vector<float> x = random_floats(rows * width, 1), want = x;
            for (size_t i = 0; i < want.size(); i++)
                want[i] *= (float)(1 + 0.1f * log1p(floor((positions[i / (size_t)width] + shift) / 16.0)));
            GuardedArray<float> at(x);
            GuardedArray<int32_t> of(positions);
            check_launch(air_cuda_temper(at.get(), of.get(), rows, width, shift, 16, 0.1f, 0));
            std::vector<float> got = at.read();
            double error = 0, size = 0;
            for (size_t i = 0; i < want.size(); i++)
                error += pow((double)got[i] - (double)want[i], 2), size += pow((double)want[i], 2);
            CHECK(at.guarded() && error <= 1e-13 * size);
            for (size_t i = 0; i < (size_t)width; i++) CHECK(got[i] == x[i]); /* position 0: nothing has grown */
        }
    float x = 0;
    int32_t position = 0;
    CHECK_EQ(air_cuda_temper(&x, &position, 1, 1, 0, 0, 1, 0), cudaErrorInvalidValue);
}

/* --- rotation --- */

TEST(rotation_is_that_of_the_cpu)
{
    const struct { int64_t rows, heads, head_dim, pairs; } shapes[] = {{1, 1, 2, 1}, {3, 5, 80, 32}, {2, 4, 128, 64}, {7, 3, 33, 15}};
    for (auto s : shapes)
        for (air_rope_pairs kind : {AIR_ROPE_NORMAL, AIR_ROPE_NEOX}) {
            int64_t width = s.heads * s.head_dim;
            std::vector<float> x = random_floats(s.rows * width, 2), cos = random_floats(s.rows * s.pairs, 1), want = x;
            std::vector<float> sin = random_floats(s.rows * s.pairs, 1);
            for (int64_t r = 0; r < s.rows; r++)
                ops->rope(&want[(size_t)(r * width)], s.heads, s.head_dim, s.pairs, kind, &cos[(size_t)(r * s.pairs)],
                          &sin[(size_t)(r * s.pairs)]);
            in_every_order([&] {
                GuardedArray<float> got(x), c(cos), n(sin);
                check_launch(air_cuda_rope(got.get(), {width, 0, s.head_dim}, s.rows, s.heads, s.pairs, kind, c.get(), n.get(), 0));
                CHECK(got.guarded());
                std::vector<float> rotated = got.read();
                check_near(rotated, want, 1e-12, "rope");
                for (int64_t i = 0; i < s.rows * width; i++)
                    if (i % s.head_dim >= 2 * s.pairs) CHECK(rotated[(size_t)i] == x[(size_t)i]);
            });
        }
}

TEST(parts_of_a_row_are_rotated_where_they_lie)
{
    const struct { int64_t rows, heads, pairs; air_cuda_parts at; } shapes[] = {{3, 1, 32, {576, 512, 576}}, {2, 4, 4, {4 * 32, 24, 32}}, {1, 3, 5, {40, 2, 13}}};
    for (auto s : shapes)
        for (air_rope_pairs kind : {AIR_ROPE_NORMAL, AIR_ROPE_NEOX}) {
            std::vector<float> x = random_floats(s.rows * s.at.width, 2), cos = random_floats(s.rows * s.pairs, 1), want = x;
            std::vector<float> sin = random_floats(s.rows * s.pairs, 1);
            for (int64_t i = 0; i < s.rows * s.heads; i++) {
                size_t row = (size_t)(i / s.heads), angle = row * (size_t)s.pairs;
                float *part = &want[row * (size_t)s.at.width + (size_t)(s.at.first + i % s.heads * s.at.step)];
                ops->rope(part, 1, 2 * s.pairs, s.pairs, kind, &cos[angle], &sin[angle]);
            }
            GuardedArray<float> got(x), c(cos), n(sin);
            check_launch(air_cuda_rope(got.get(), s.at, s.rows, s.heads, s.pairs, kind, c.get(), n.get(), 0));
            CHECK(got.guarded());
            check_near(got.read(), want, 1e-12, "rope of parts");
        }
    float x = 0;
    CHECK_EQ(air_cuda_rope(&x, {32, 24, 32}, 1, 1, 5, AIR_ROPE_NEOX, &x, &x, 0), cudaErrorInvalidValue); /* behind the row's end */
}

/* --- choice of rows --- */

TEST(chosen_rows_are_copied)
{
    for (int64_t width : {1, 3, 64, 1030, 2048}) {
        std::vector<float> in = random_floats(5 * width, 1);
        std::vector<int32_t> wanted = {4, 0, 0, 2};
        in_every_order([&] {
            GuardedArray<float> from(in), out((size_t)(4 * width));
            GuardedArray<int32_t> which(wanted);
            check_launch(air_cuda_select(from.get(), which.get(), 4, width, out.get(), 0));
            CHECK(out.guarded());
            std::vector<float> got = out.read();
            for (int64_t i = 0; i < 4; i++) CHECK(same_bits(part_of(got, i * width, width), part_of(in, wanted[(size_t)i] * width, width)));
        });
    }
}

/* --- the largest logits --- */

struct Candidates {
    std::vector<air_candidate> best; /* [rows][k] */
    std::vector<float> log_sums;
};

/* Of one row, by sorting it all. */
static Candidates candidates_on_cpu(std::vector<float> x, int64_t k)
{
    Candidates c;
    std::vector<int32_t> order(x.size());
    for (size_t i = 0; i < x.size(); i++) order[i] = (int32_t)i;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[(size_t)a] > x[(size_t)b]; });
    for (size_t i = 0; i < (size_t)k; i++)
        c.best.push_back(i < x.size() ? air_candidate{order[i], x[(size_t)order[i]]} : air_candidate{-1, 0});
    c.log_sums.push_back(ops->softmax(x.data(), (int64_t)x.size()));
    return c;
}

static Candidates candidates_on_device(const std::vector<float> &x, int64_t rows, int64_t k)
{
    const int64_t n = (int64_t)x.size() / rows, most = AIR_DEVICE_CANDIDATE_ROWS;
    GuardedArray<float> logits(x), log_sums((size_t)rows);
    GuardedArray<uint8_t> scratch(air_device_candidate_layout_of(rows < most ? rows : most, n).total);
    GuardedArray<air_candidate> best((size_t)(rows * k));
    check_launch(air_cuda_candidates(logits.get(), rows, n, k, scratch.get(), best.get(), log_sums.get(), 0));
    CHECK(scratch.guarded() && best.guarded() && log_sums.guarded());
    return {best.read(), log_sums.read()};
}

static bool same_candidates(const std::vector<air_candidate> &got, const std::vector<air_candidate> &want)
{
    for (size_t i = 0; i < want.size(); i++)
        if (got[i].token != want[i].token || !(got[i].logit == want[i].logit)) {
            printf("  place %zu: token %d, %g instead of %d, %g\n", i, (int)got[i].token, (double)got[i].logit, (int)want[i].token,
                   (double)want[i].logit);
            return false;
        }
    return got.size() == want.size();
}

/* Each row against the CPU, and the greedy one of k = 1, whose sum is the same to the bit. */
static void check_candidates(const std::vector<float> &x, int64_t rows)
{
    const int64_t n = (int64_t)x.size() / rows, k = AIR_DEVICE_CANDIDATES;
    in_every_order([&] {
        Candidates got = candidates_on_device(x, rows, k), one = candidates_on_device(x, rows, 1);
        CHECK(same_bits(got.log_sums, one.log_sums));
        for (int64_t r = 0; r < rows; r++) {
            Candidates want = candidates_on_cpu({x.begin() + r * n, x.begin() + (r + 1) * n}, k);
            CHECK(same_candidates(part_of(got.best, r * k, k), want.best));
            CHECK(same_candidates(part_of(one.best, r, 1), part_of(want.best, 0, 1)));
            CHECK(fabsf(got.log_sums[(size_t)r] - want.log_sums[0]) < 1e-4f);
        }
    });
}

TEST(candidates_are_the_largest_logits_in_order)
{
    for (int64_t n : {1, 2, 127, 128, 129, 1000, 2047, 2048, 2049, 4097, 40000}) {
        const int64_t rows = n > 2500 ? 1 : 3;
        check_candidates(random_floats(rows * n, 8), rows);
    }
}

TEST(candidates_of_many_parts_are_merged_again_and_again)
{
    const int64_t n = 257 * AIR_DEVICE_CANDIDATE_PART, k = AIR_DEVICE_CANDIDATES;
    std::vector<float> x = random_floats(n, 8);
    Candidates want = candidates_on_cpu(x, k), got = candidates_on_device(x, 1, k);
    CHECK(same_candidates(got.best, want.best) && fabsf(got.log_sums[0] - want.log_sums[0]) < 1e-4f);
}

TEST(of_equal_candidates_the_lower_token_comes_first)
{
    for (int64_t n : {5, 300, 5000}) {
        std::vector<float> x = random_floats(n, 8);
        for (float &each : x) /* few numbers; zeros of both signs */
            each = each > 4 ? roundf(each) : each > 3 ? 0.0f : fminf(roundf(each), -0.0f);
        check_candidates(x, 1);
        check_candidates(std::vector<float>((size_t)n, -3.5f), 1);
        x[(size_t)n / 2] = x[(size_t)n - 1] = 20;
        check_candidates(x, 1);
    }
}

/* All of the largest in one part, or one in each, or at the seams; numbers that nothing may be added to. */
TEST(candidates_may_lie_anywhere)
{
    const int64_t n = 3 * AIR_DEVICE_CANDIDATE_PART + 77;
    for (int64_t apart : {1, 31, 48, 2047, 2048}) {
        std::vector<float> x = random_floats(n, 1);
        for (int64_t i = 0, at = 11; i < 140; i++, at = (at + apart) % n) x[(size_t)at] = 3 + (float)(check_random() % 50);
        check_candidates(x, 1);
    }
    std::vector<float> x((size_t)n, -FLT_MAX);
    x[5] = 1e-45f, x[6000] = -1e-45f, x[4000] = -0.0f, x[4001] = 0;
    check_candidates(x, 1);
}

TEST(a_rows_candidates_do_not_depend_on_other_rows)
{
    const int64_t n = 300, rows = 2 * AIR_DEVICE_CANDIDATE_ROWS + 3, k = AIR_DEVICE_CANDIDATES; /* which take turns */
    std::vector<float> x = random_floats(rows * n, 8);
    Candidates all = candidates_on_device(x, rows, k);
    for (int64_t r = 0; r < rows; r++) {
        Candidates alone = candidates_on_device(part_of(x, r * n, n), 1, k);
        CHECK(same_bits(part_of(all.best, r * k, k), alone.best) && all.log_sums[(size_t)r] == alone.log_sums[0]);
    }
}

TEST(where_a_logit_is_not_finite_there_is_no_candidate)
{
    for (float wrong : {(float)NAN, -(float)NAN, (float)INFINITY, -(float)INFINITY})
        for (int64_t k : {1, (int)AIR_DEVICE_CANDIDATES})
            for (int64_t at : {0, 77, 2500, 2999}) {
                std::vector<float> x = random_floats(3 * 3000, 5);
                x[(size_t)(3000 + at)] = wrong;
                std::vector<air_candidate> got = candidates_on_device(x, 3, k).best;
                CHECK(got[0].token >= 0 && got[(size_t)k].token == -1 && got[(size_t)(2 * k)].token >= 0);
            }
    for (int64_t k : {0, 2, 129}) CHECK_EQ(air_cuda_candidates(nullptr, 1, 1, k, nullptr, nullptr, nullptr, 0), cudaErrorInvalidValue);
    CHECK_EQ(air_cuda_candidates(nullptr, 0, 1, 1, nullptr, nullptr, nullptr, 0), cudaErrorInvalidValue);
    CHECK_EQ(air_cuda_candidates(nullptr, 1, 0, 1, nullptr, nullptr, nullptr, 0), cudaErrorInvalidValue);
}

/* --- storing --- */

/* Numbers whose conversions have something to decide: ties, subnormals, infinities, NaNs with payloads and signs, zeros. */
static void set_extremes(std::vector<float> &x)
{
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc12345, 0xff812345, 0x80000000, 0x477ff000, 0x477fefff, 0x33000000,
                                    0x33000001, 0x387fffff, 0x3f801000, 0x3f803000, 0x00000001, 0x08000000, 0x7f7fffff};
    for (size_t i = 0; i < AIR_COUNT(bits) && i < x.size() / 64; i++) memcpy(&x[i * 64 + (size_t)(check_random() % 32)], &bits[i], 4);
    for (size_t i = x.size() / 2; i < x.size() / 2 + 40 && i < x.size(); i++) x[i] = 0;
}

static void check_store(const state_shape &shape, const std::vector<state_row> &rows)
{
    StateBlocks want(shape, 3, 2000), fresh(shape, 3, 2000);
    int64_t n = (int64_t)rows.size(), k_row = shape.kv_heads * shape.key_dim, v_row = shape.kv_heads * shape.value_dim;
    std::vector<float> k = random_floats(n * k_row, 4), v = random_floats(n * v_row, 4);
    set_extremes(k), set_extremes(v);
    for (int64_t r = 0; r < n; r++) want.store(ops, rows[(size_t)r], &k[(size_t)(r * k_row)], &v[(size_t)(r * v_row)]);
    in_every_order([&] {
        air_cuda_state state = fresh.upload(rows);
        GuardedArray<float> keys(k), values(v);
        check_launch(air_cuda_store(&state, keys.get(), shape.values_in_keys ? nullptr : values.get(), n, 0));
        CHECK(fresh.uploaded_equals(want));
    });
}

TEST(storing_leaves_the_bytes_that_the_cpu_leaves)
{
    const std::vector<state_row> rows = {{0, 0}, {0, 1}, {2, 63}, {2, 64}, {1, 15}, {1, 16}, {2, 1023}, {2, 1024}, {0, 1999}};
    for (air_state_type type : {AIR_STATE_F16, AIR_STATE_F32, AIR_STATE_Q8_0, AIR_STATE_Q4_0}) {
        check_store({type, 4, 4, 128, 128}, rows);
        check_store({type, 3, 3, 80, 64}, rows);
        check_store({type, 1, 1, 33, 7}, rows);
        check_store({type, 2, 2, 1, 250}, {{1, 77}});
        check_store({type, 16, 1, 576, 512, true}, rows);
        check_store({type, 6, 3, 33, 20, true}, rows);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    ops = air_ops_tier(AIR_TIER_REF);
    RUN(norms_are_those_of_the_cpu);
    RUN(a_norm_may_be_written_over_its_input_and_need_not_be_aligned);
    RUN(a_rows_norm_does_not_depend_on_other_rows);
    RUN(parts_of_rows_have_an_8_bit_form_part_by_part);
    RUN(a_norm_gives_its_8_bit_form_too);
    RUN(groups_of_a_row_may_lie_apart);
    RUN(what_is_not_finite_shows_in_a_norm);
    RUN(norms_that_no_kernel_takes_are_refused);
    RUN(layer_norms_and_weights_of_every_group_are_those_of_the_cpu);
    RUN(a_layer_norm_gives_its_8_bit_form_too);
    RUN(rows_are_added);
    RUN(parts_of_rows_are_copied);
    RUN(rows_get_the_vector_of_their_type);
    RUN(rows_are_tempered_by_their_positions);
    RUN(rotation_is_that_of_the_cpu);
    RUN(parts_of_a_row_are_rotated_where_they_lie);
    RUN(chosen_rows_are_copied);
    RUN(candidates_are_the_largest_logits_in_order);
    RUN(candidates_of_many_parts_are_merged_again_and_again);
    RUN(of_equal_candidates_the_lower_token_comes_first);
    RUN(candidates_may_lie_anywhere);
    RUN(a_rows_candidates_do_not_depend_on_other_rows);
    RUN(where_a_logit_is_not_finite_there_is_no_candidate);
    RUN(storing_leaves_the_bytes_that_the_cpu_leaves);
    return check_end();
}
