/* Which experts rows go to, and the sums of what they make, on the device, against the definition in op.h written down plainly; and that a
 * row's bits are its own. */
#include <algorithm>

#include "cuda/kernels.h"
#include "kernel_check.h"

/* --- routing --- */

static air_mixture mixture_of(int32_t experts, int32_t used, air_gating gating)
{
    air_mixture m = {};
    m.n_experts = experts, m.n_used = used, m.gating = gating, m.scale = 1;
    return m;
}

static std::vector<double> softmax_of(std::vector<double> x)
{
    double most = *std::max_element(x.begin(), x.end()), sum = 0;
    for (double &v : x) sum += v = exp(v - most);
    for (double &v : x) v /= sum;
    return x;
}

/* The first n of those that are allowed, by value, of equals the lower first; ascending. */
static std::vector<int> largest(const std::vector<double> &x, const std::vector<bool> &allowed, int n)
{
    std::vector<int> order;
    for (int i = 0; i < (int)x.size(); i++)
        if (allowed[(size_t)i]) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[(size_t)a] > x[(size_t)b]; });
    order.resize((size_t)n);
    std::sort(order.begin(), order.end());
    return order;
}

static std::vector<bool> best_groups(const air_mixture &m, const std::vector<double> &x, bool biased)
{
    std::vector<bool> allowed(x.size(), m.n_groups <= 1);
    if (m.n_groups <= 1) return allowed;
    size_t each = x.size() / (size_t)m.n_groups;
    std::vector<double> scores;
    for (size_t g = 0; g < (size_t)m.n_groups; g++) {
        std::vector<double> of(x.begin() + (long)(g * each), x.begin() + (long)((g + 1) * each));
        std::sort(of.rbegin(), of.rend());
        scores.push_back(biased ? of[0] + of[1] : of[0]);
    }
    for (int g : largest(scores, std::vector<bool>(scores.size(), true), m.groups_used))
        std::fill_n(allowed.begin() + (long)((size_t)g * each), each, true);
    return allowed;
}

/* One after the other, each by its weight beside what is near it and not yet chosen. */
static std::vector<float> mix_sparsely(const air_mixture &m, const float *logits)
{
    std::vector<double> x(logits, logits + m.n_experts), weight(x.size());
    std::vector<bool> left(x.size(), true);
    for (int32_t n = 0; n < m.n_used; n++) {
        size_t best = (size_t)largest(x, left, 1)[0];
        double sum = 0;
        for (size_t i = 0; i < x.size(); i++)
            if (left[i] && (x[best] - x[i]) / std::max(fabs(x[i]), x[best]) <= (double)AIR_SPARSE_MIXER_NEAR) sum += exp(x[i] - x[best]);
        weight[best] = 1 / sum;
        left[best] = false;
    }
    std::vector<float> out, weights;
    for (size_t i = 0; i < x.size(); i++)
        if (!left[i]) out.push_back((float)i), weights.push_back((float)weight[i] * m.scale);
    out.insert(out.end(), weights.begin(), weights.end());
    return out;
}

/* [2 * n_used] of a row. */
static std::vector<float> route_plainly(const air_mixture &m, const float *logits, const float *bias)
{
    if (m.gating == AIR_GATING_SPARSE_MIXER) return mix_sparsely(m, logits);
    std::vector<double> x(logits, logits + m.n_experts), choice, weights;
    if (m.gating == AIR_GATING_SOFTMAX) x = softmax_of(x);
    if (m.gating == AIR_GATING_SIGMOID)
        for (double &v : x) v = 1 / (1 + exp(-v));
    choice = x;
    for (size_t i = 0; i < x.size(); i++) choice[i] += bias ? (double)bias[i] : 0;
    std::vector<int> chosen = largest(choice, best_groups(m, choice, bias != nullptr), m.n_used);
    std::vector<float> out;
    double sum = 0;
    for (int i : chosen) weights.push_back(x[(size_t)i]), out.push_back((float)i);
    if (m.gating == AIR_GATING_CHOSEN) weights = softmax_of(weights);
    for (double w : weights) sum += w;
    for (double w : weights) out.push_back((float)((m.normalise ? w / sum : w) * (double)m.scale));
    return out;
}

static std::vector<float> route_on_device(const air_mixture &m, const std::vector<float> &logits, const std::vector<float> &bias,
                                          int64_t rows)
{
    GuardedArray<float> in(logits), b(bias), out((size_t)(rows * 2 * m.n_used));
    check_launch(air_cuda_route(&m, in.get(), bias.empty() ? nullptr : b.get(), rows, out.get(), 0));
    CHECK(out.guarded());
    return out.read();
}

static void check_route(const air_mixture &m, const std::vector<float> &logits, const std::vector<float> &bias)
{
    int64_t rows = (int64_t)logits.size() / m.n_experts;
    std::vector<float> want;
    for (int64_t r = 0; r < rows; r++) {
        std::vector<float> row = route_plainly(m, &logits[(size_t)(r * m.n_experts)], bias.empty() ? nullptr : bias.data());
        want.insert(want.end(), row.begin(), row.end());
    }
    in_every_order([&] {
        std::vector<float> got = route_on_device(m, logits, bias, rows);
        for (int64_t r = 0; r < rows; r++)
            CHECK(same_bits(part_of(got, r * 2 * m.n_used, m.n_used), part_of(want, r * 2 * m.n_used, m.n_used)));
        check_near(got, want, 1e-12, "routing");
    });
    std::vector<float> together = route_on_device(m, logits, bias, rows);
    for (int64_t r = 0; r < rows; r++)
        CHECK(same_bits(route_on_device(m, part_of(logits, r * m.n_experts, m.n_experts), bias, 1),
                        part_of(together, r * 2 * m.n_used, 2 * m.n_used)));
}

TEST(rows_go_to_the_experts_that_the_definition_names)
{
    const struct { int32_t experts, used; } sizes[] = {{1, 1}, {4, 2}, {8, 8}, {60, 4}, {128, 8}, {129, 3}, {512, 10}, {1024, 16}};
    for (auto s : sizes)
        for (air_gating gating : {AIR_GATING_SOFTMAX, AIR_GATING_SIGMOID, AIR_GATING_CHOSEN}) {
            air_mixture m = mixture_of(s.experts, s.used, gating);
            check_route(m, random_floats(3 * s.experts, 4), {});
            m.normalise = 1, m.scale = 2.5f;
            check_route(m, random_floats(2 * s.experts, 4), random_floats(s.experts, 1));
        }
}

TEST(weights_are_those_among_logits_that_are_near)
{
    for (int32_t experts : {2, 16, 200}) {
        air_mixture m = mixture_of(experts, 2, AIR_GATING_SPARSE_MIXER);
        std::vector<float> logits = random_floats(4 * experts, 1);
        for (float &x : logits) x += 1.5f; /* so that many are within some hundredths of each other */
        check_route(m, logits, {});
        for (float &x : logits) x = -x;
        check_route(m, logits, {});
    }
}

TEST(rows_go_to_experts_of_the_best_groups_alone)
{
    const struct { int32_t experts, used, groups, used_groups; } sizes[] = {
        {8, 2, 4, 2}, {256, 8, 8, 4}, {160, 6, 8, 3}, {64, 5, 32, 31}, {12, 4, 3, 1}};
    for (auto s : sizes) {
        air_mixture m = mixture_of(s.experts, s.used, AIR_GATING_SIGMOID);
        m.n_groups = s.groups, m.groups_used = s.used_groups, m.normalise = 1;
        check_route(m, random_floats(3 * s.experts, 4), {});
        check_route(m, random_floats(3 * s.experts, 4), random_floats(s.experts, 1));
    }
}

TEST(of_equal_experts_and_groups_the_lower_ones_are_chosen)
{
    std::vector<float> logits(64, 1.5f);
    for (air_gating gating : {AIR_GATING_SOFTMAX, AIR_GATING_SIGMOID, AIR_GATING_CHOSEN}) {
        air_mixture m = mixture_of(64, 3, gating);
        CHECK(same_bits(part_of(route_on_device(m, logits, {}, 1), 0, 3), {0, 1, 2}));
        m.n_groups = 8, m.groups_used = 2, m.n_used = 10;
        CHECK(same_bits(part_of(route_on_device(m, logits, {}, 1), 0, 10), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    }
    air_mixture m = mixture_of(4, 2, AIR_GATING_CHOSEN);
    CHECK(same_bits(part_of(route_on_device(m, {-0.0f, 0.0f, -1, 0.0f}, {}, 1), 0, 2), {0, 1}));
}

/* Whatever comes, a row has n_used experts, each once: the host goes by them. */
TEST(numbers_that_are_none_choose_experts_too)
{
    for (float wrong : {(float)NAN, (float)INFINITY, -(float)INFINITY})
        for (air_gating gating : {AIR_GATING_SOFTMAX, AIR_GATING_SIGMOID, AIR_GATING_CHOSEN})
            for (int groups : {0, 4}) {
                air_mixture m = mixture_of(16, 5, gating);
                m.n_groups = groups, m.groups_used = groups / 2;
                std::vector<float> some = random_floats(16, 2), all(16, wrong);
                some[3] = some[9] = wrong;
                for (const std::vector<float> &logits : {some, all}) {
                    std::vector<float> got = route_on_device(m, logits, {}, 1);
                    for (size_t j = 0; j < 5; j++) CHECK(got[j] >= 0 && got[j] < 16 && (j == 0 || got[j] > got[j - 1]));
                }
            }
}

TEST(routings_that_no_kernel_takes_are_refused)
{
    float x = 0;
    for (air_mixture m : {mixture_of(0, 1, AIR_GATING_SOFTMAX), mixture_of(AIR_EXPERTS_MOST + 1, 1, AIR_GATING_SOFTMAX),
                          mixture_of(4, 5, AIR_GATING_SOFTMAX), mixture_of(4, 0, AIR_GATING_SOFTMAX)})
        CHECK_EQ(air_cuda_route(&m, &x, nullptr, 1, &x, 0), cudaErrorInvalidValue);
    air_mixture good = mixture_of(8, 2, AIR_GATING_SOFTMAX), m = good;
    CHECK_EQ(air_cuda_route(&m, &x, nullptr, 0, &x, 0), cudaErrorInvalidValue);
    m.n_groups = 3, m.groups_used = 1;
    CHECK_EQ(air_cuda_route(&m, &x, nullptr, 1, &x, 0), cudaErrorInvalidValue);
    m.n_groups = 4, m.groups_used = 5;
    CHECK_EQ(air_cuda_route(&m, &x, nullptr, 1, &x, 0), cudaErrorInvalidValue);
    m.groups_used = 1, m.n_used = 3; /* two are left */
    CHECK_EQ(air_cuda_route(&m, &x, nullptr, 1, &x, 0), cudaErrorInvalidValue);
}

/* --- sums --- */

static std::vector<float> mixed_on_device(const std::vector<float> &results, const std::vector<float> &routing,
                                          const std::vector<int32_t> &place, const std::vector<float> &held, int64_t rows, bool adds,
                                          bool weighed = false)
{
    int64_t width = (int64_t)held.size() / rows, used = (int64_t)place.size() / rows;
    GuardedArray<float> from(results), weights(routing), out(held);
    GuardedArray<int32_t> where(place);
    air_cuda_mixed m = {from.get(), weights.get(), where.get(), out.get(), rows, width, used, adds, weighed};
    check_launch(air_cuda_mix(&m, 0));
    CHECK(out.guarded());
    return out.read();
}

TEST(results_of_experts_are_added_in_the_order_of_a_rows_choice)
{
    const struct { int64_t rows, width, used; } shapes[] = {{1, 1, 1}, {3, 65, 2}, {2, 1000, 8}, {5, 257, 3}};
    for (auto s : shapes)
        for (bool adds : {false, true}) {
            std::vector<float> results = random_floats(s.rows * s.used * s.width, 2), held = random_floats(s.rows * s.width, 1);
            std::vector<float> want = held;
            std::vector<float> routing = random_floats(s.rows * 2 * s.used, 1);
            std::vector<int32_t> place;
            for (int64_t i = 0; i < s.rows * s.used; i++) place.push_back((int32_t)((i * 7 + 3) % (s.rows * s.used)));
            for (int64_t r = 0; r < s.rows; r++)
                for (int64_t i = 0; i < s.width; i++) {
                    float sum = 0;
                    for (int64_t j = 0; j < s.used; j++)
                        sum = fmaf(routing[(size_t)(r * 2 * s.used + s.used + j)],
                                   results[(size_t)(place[(size_t)(r * s.used + j)] * s.width + i)], sum);
                    float &to = want[(size_t)(r * s.width + i)];
                    to = adds ? to + sum : sum;
                }
            in_every_order([&] { CHECK(same_bits(mixed_on_device(results, routing, place, held, s.rows, adds), want)); });
        }
    std::vector<float> ones = {0, 1, 1, 1}, given = {0, 1, 0.5f, 4}, results = random_floats(2 * 3, 2), held = random_floats(3, 2);
    const std::vector<int32_t> place = {1, 0};
    CHECK(same_bits(mixed_on_device(results, given, place, held, 1, true, true), mixed_on_device(results, ones, place, held, 1, true)));
    air_cuda_mixed none = {nullptr, nullptr, nullptr, nullptr, 1, 1, 0, false, false};
    CHECK_EQ(air_cuda_mix(&none, 0), cudaErrorInvalidValue);
}

TEST(what_experts_make_is_weighed_by_the_row_it_is_of)
{
    const int64_t rows = 4, used = 3, times = rows * used;
    std::vector<float> routing = random_floats(rows * 2 * used, 1);
    std::vector<int32_t> place((size_t)times), sent((size_t)times), which((size_t)times);
    for (int32_t i = 0; i < times; i++) {
        int32_t at = (i * 7 + 3) % (int32_t)times;
        place[(size_t)i] = at, sent[(size_t)at] = i / (int32_t)used, which[(size_t)at] = i % (int32_t)used;
    }
    for (int64_t width : {1, 64, 700})
        for (int64_t first : {0, 5}) {
            int64_t n = times - first - 2;
            std::vector<float> x = random_floats(n * width, 2), want = x;
            for (size_t i = 0; i < want.size(); i++) {
                size_t time = (size_t)first + i / (size_t)width;
                want[i] *= routing[(size_t)(sent[time] * 2 * used + used + which[time])];
            }
            in_every_order([&] {
                GuardedArray<float> at(x), weights(routing);
                GuardedArray<int32_t> places(place), rows_of(sent);
                air_cuda_mixed m = {nullptr, weights.get(), places.get(), nullptr, rows, width, used, false, true};
                check_launch(air_cuda_weigh(at.get(), &m, rows_of.get(), first, n, 0));
                CHECK(at.guarded() && same_bits(at.read(), want));
            });
        }
    air_cuda_mixed none = {nullptr, nullptr, nullptr, nullptr, 1, 1, 1, false, true};
    CHECK_EQ(air_cuda_weigh(nullptr, &none, nullptr, 0, 0, 0), cudaErrorInvalidValue);
}

TEST(a_row_is_added_by_its_gate)
{
    for (int64_t width : {1, 64, 1000}) {
        const int64_t rows = 3;
        std::vector<float> x = random_floats(rows * width, 2), y = random_floats(rows * width, 2), gate = {-90, 0.5f, 3}, want = y;
        for (size_t i = 0; i < want.size(); i++)
            want[i] = (float)((double)y[i] + (double)x[i] / (1 + exp(-(double)gate[i / (size_t)width])));
        GuardedArray<float> from(x), to(y), by(gate);
        check_launch(air_cuda_add_gated(to.get(), from.get(), by.get(), rows, width, 0));
        CHECK(to.guarded());
        check_near(to.read(), want, 1e-13, "gated");
    }
    float x = 0;
    CHECK_EQ(air_cuda_add_gated(&x, &x, &x, 0, 1, 0), cudaErrorInvalidValue);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(rows_go_to_the_experts_that_the_definition_names);
    RUN(weights_are_those_among_logits_that_are_near);
    RUN(rows_go_to_experts_of_the_best_groups_alone);
    RUN(of_equal_experts_and_groups_the_lower_ones_are_chosen);
    RUN(numbers_that_are_none_choose_experts_too);
    RUN(routings_that_no_kernel_takes_are_refused);
    RUN(results_of_experts_are_added_in_the_order_of_a_rows_choice);
    RUN(what_experts_make_is_weighed_by_the_row_it_is_of);
    RUN(a_row_is_added_by_its_gate);
    return check_end();
}
