/* Convolutions and recurrences on the device against their definitions (backend/op.h): shapes, sequences of one span and of two, state that
 * comes and goes in place; and that bits are a row's own, however a prompt is cut. */
#include <memory>

#include "cuda/kernels.h"
#include "kernel_check.h"

/* Rows of a sequence: up to a position whose state is kept, and behind it. */
struct course {
    int64_t rows[2];  /* of the spans; the second may have none */
    bool begins;      /* nothing came before */
    bool in_place;    /* what comes after lies where the last came from */
};

/* The state of a layer of a few sequences, on the device. Each is [floats], between guards, before and after. */
class Courses {
public:
    Courses(const std::vector<course> &of, int64_t floats, const std::vector<std::vector<float>> &before) : given(of)
    {
        std::vector<air_device_course> courses;
        std::vector<int32_t> sequences;
        int64_t row = 0;
        for (size_t s = 0; s < of.size(); s++) {
            states.push_back(std::make_unique<GuardedArray<float>>(before[s]));
            kept.push_back(std::make_unique<GuardedArray<float>>((size_t)floats));
            if (of[s].begins || !of[s].in_place) after.push_back(std::make_unique<GuardedArray<float>>((size_t)floats));
            else after.push_back(nullptr);
            air_device_course c = {};
            c.first = (int32_t)row;
            c.before = of[s].begins ? nullptr : (const char *)states[s]->get();
            char *last = (char *)(after[s] ? after[s] : states[s])->get();
            for (int i = 0; i < 2 && of[s].rows[i]; i++) {
                row += of[s].rows[i];
                c.ends[c.spans] = (int32_t)row;
                bool is_last = i == 1 || !of[s].rows[1];
                c.after[c.spans++] = is_last ? last : (char *)kept[s]->get();
            }
            sequences.insert(sequences.end(), (size_t)(row - c.first), (int32_t)s);
            courses.push_back(c);
        }
        rows = row;
        on_device = std::make_unique<GuardedArray<air_device_course>>(courses);
        of_rows = std::make_unique<GuardedArray<int32_t>>(sequences);
    }

    air_cuda_recurrent at() const { return {on_device->get(), of_rows->get(), rows, (int64_t)given.size(), 0}; }
    std::vector<float> last(size_t s) const { return (after[s] ? after[s] : states[s])->read(); }
    std::vector<float> kept_of(size_t s) const { return kept[s]->read(); }
    bool guarded() const
    {
        bool all = true;
        for (size_t s = 0; s < given.size(); s++)
            all = all && states[s]->guarded() && kept[s]->guarded() && (!after[s] || after[s]->guarded());
        return all;
    }

    int64_t rows = 0;

private:
    std::vector<course> given;
    std::vector<std::unique_ptr<GuardedArray<float>>> states, kept, after;
    std::unique_ptr<GuardedArray<air_device_course>> on_device;
    std::unique_ptr<GuardedArray<int32_t>> of_rows;
};

static const std::vector<course> COURSES = {{{5, 0}, true, false}, {{1, 0}, false, true}, {{1, 3}, false, true}, {{40, 2}, true, false}, {{2, 1}, false, false}};

static int64_t rows_in(const std::vector<course> &courses)
{
    int64_t rows = 0;
    for (const course &c : courses) rows += c.rows[0] + c.rows[1];
    return rows;
}

/* --- convolutions --- */

static void check_convolution(int64_t channels, int64_t taps, bool biased, air_activation activation)
{
    int64_t rows = rows_in(COURSES), kept = taps - 1;
    std::vector<float> x = random_floats(rows * channels, 1), weight = random_floats(channels * taps, 1), bias = random_floats(channels, 1), want;
    std::vector<std::vector<float>> before, last, middle;
    int64_t first = 0;
    for (const course &c : COURSES) {
        before.push_back(random_floats(kept * channels, 1));
        std::vector<float> all = c.begins ? std::vector<float>((size_t)(kept * channels)) : before.back();
        int64_t n = c.rows[0] + c.rows[1];
        all.insert(all.end(), x.begin() + first * channels, x.begin() + (first + n) * channels);
        for (int64_t r = 0; r < n; r++)
            for (int64_t ch = 0; ch < channels; ch++) {
                double sum = biased ? bias[(size_t)ch] : 0;
                for (int64_t j = 0; j < taps; j++) sum += (double)weight[(size_t)(ch * taps + j)] * all[(size_t)((r + j) * channels + ch)];
                want.push_back((float)(activation == AIR_ACTIVATION_SILU ? sum / (1 + exp(-sum)) : sum));
            }
        middle.push_back(part_of(all, c.rows[0] * channels, kept * channels));
        last.push_back(part_of(all, n * channels, kept * channels));
        first += n;
    }
    in_every_order([&] {
        Courses courses(COURSES, kept * channels, before);
        GuardedArray<float> in(x), weights(weight), biases(bias), out((size_t)(rows * channels));
        air_cuda_convolution c = {courses.at(), in.get(), weights.get(), biased ? biases.get() : nullptr, out.get(), channels, taps, activation};
        check_launch(air_cuda_convolve(&c, 0));
        CHECK(out.guarded() && courses.guarded());
        check_near(out.read(), want, 1e-12, "convolution");
        for (size_t s = 0; s < COURSES.size(); s++) {
            CHECK(same_bits(courses.last(s), last[s]));
            CHECK(!COURSES[s].rows[1] || same_bits(courses.kept_of(s), middle[s]));
        }
    });
}

TEST(convolutions_see_their_own_sequence_alone)
{
    for (int64_t taps : {2, 3, 4, 8}) check_convolution(taps == 4 ? 300 : 7, taps, taps != 3, taps == 4 ? AIR_ACTIVATION_SILU : AIR_ACTIVATION_NONE);
}

/* --- recurrences --- */

struct scan_case {
    air_recurrence kind;
    int64_t heads, key_heads, key_dim, value_dim;
    int in_turn = 0;
};

static double softplus(double x) { return x > 20 ? x : log1p(exp(x)); }

/* What a scan reads and makes. */
struct scan_scene {
    scan_case c;
    std::vector<course> courses;
    int64_t rows, in_width, steps_width, matrix;
    std::vector<float> in, steps, rate, step_bias, skip;
    std::vector<std::vector<float>> before;

    scan_scene(const scan_case &of, const std::vector<course> &given) : c(of), courses(given), rows(rows_in(given))
    {
        in_width = 3 + 2 * c.key_heads * c.key_dim + c.heads * c.value_dim;
        steps_width = c.heads * (is_delta() ? 2 : 1);
        matrix = c.key_dim * air_state_padded(c.value_dim);
        in = random_floats(rows * in_width, 1), steps = random_floats(rows * steps_width, 2);
        rate = random_floats(c.heads, 1), step_bias = random_floats(c.heads, 1), skip = random_floats(c.heads, 1);
        for (float &x : rate) x = -1 - fabsf(x);
        for (size_t s = 0; s < courses.size(); s++) before.push_back(random_floats(c.heads * matrix, 1));
    }

    bool is_delta() const { return c.kind == AIR_RECURRENCE_DELTA; }
    int64_t q_at() const { return 3; }
    int64_t k_at() const { return 3 + c.key_heads * c.key_dim; }
    int64_t v_at() const { return 3 + 2 * c.key_heads * c.key_dim; }
    size_t at(int64_t head, int64_t key, int64_t column) const
    {
        int64_t tile = column / AIR_STATE_TILE;
        return (size_t)(head * matrix + (tile * c.key_dim + key) * AIR_STATE_TILE + column % AIR_STATE_TILE);
    }

    air_cuda_scan arguments(const Courses &of, const float *from, const float *step, const float *rates, const float *biases,
                            const float *skips, float *out) const
    {
        air_cuda_scan s = {};
        s.at = of.at(), s.kind = c.kind;
        s.heads = c.heads, s.key_heads = c.key_heads, s.key_dim = c.key_dim, s.value_dim = c.value_dim, s.in_turn = c.in_turn;
        s.in = from, s.steps = step, s.in_width = in_width, s.steps_width = steps_width;
        s.q = q_at(), s.k = k_at(), s.v = v_at();
        s.rate = rates, s.step_bias = biases, s.skip = is_delta() ? nullptr : skips;
        s.eps = 1e-6f, s.out = out;
        return s;
    }

    /* One row of a head, in double; state [key][column]. */
    void row_by_definition(int64_t row, int64_t head, std::vector<double> &state, float *out) const
    {
        int64_t shared = c.in_turn ? c.heads : c.heads / c.key_heads;
        int64_t key = (c.in_turn ? head % c.key_heads : head / shared) * c.key_dim;
        const float *x = &in[(size_t)(row * in_width)], *step = &steps[(size_t)(row * steps_width)];
        std::vector<double> q, k;
        for (int64_t i = 0; i < c.key_dim; i++) q.push_back(x[q_at() + key + i]), k.push_back(x[k_at() + key + i]);
        double decay, write;
        if (is_delta()) {
            double q2 = 0, k2 = 0;
            for (int64_t i = 0; i < c.key_dim; i++) q2 += q[(size_t)i] * q[(size_t)i], k2 += k[(size_t)i] * k[(size_t)i];
            for (double &each : q) each /= sqrt(q2 + 1e-6) * sqrt((double)c.key_dim);
            for (double &each : k) each /= sqrt(k2 + 1e-6);
            const float *own = step + head / shared * 2 * shared + head % shared;
            write = 1 / (1 + exp(-(double)own[0]));
            decay = exp(rate[(size_t)head] * softplus((double)own[shared] + step_bias[(size_t)head]));
        } else {
            write = softplus((double)step[head] + step_bias[(size_t)head]);
            decay = exp(rate[(size_t)head] * write);
        }
        for (int64_t v = 0; v < c.value_dim; v++) {
            double value = x[v_at() + head * c.value_dim + v], known = 0, found = 0;
            for (int64_t i = 0; i < c.key_dim; i++) {
                double &s = state[(size_t)(i * c.value_dim + v)];
                s *= decay;
                known += s * k[(size_t)i];
            }
            double more = write * (value - (is_delta() ? known : 0));
            for (int64_t i = 0; i < c.key_dim; i++) {
                double &s = state[(size_t)(i * c.value_dim + v)];
                s += k[(size_t)i] * more;
                found += s * q[(size_t)i];
            }
            out[v] = (float)(found + (is_delta() ? 0 : skip[(size_t)head] * value));
        }
    }

    /* All rows of a head of a sequence; *middle and *last: its matrices after the spans, as they lie. */
    void by_definition(size_t s, int64_t first, int64_t head, std::vector<float> &out, std::vector<float> &middle, std::vector<float> &last) const
    {
        std::vector<double> state((size_t)(c.key_dim * c.value_dim));
        int64_t n = courses[s].rows[0] + courses[s].rows[1];
        for (int64_t i = 0; i < c.key_dim && !courses[s].begins; i++)
            for (int64_t v = 0; v < c.value_dim; v++) state[(size_t)(i * c.value_dim + v)] = before[s][at(head, i, v)];
        for (int64_t r = 0; r < n; r++) {
            row_by_definition(first + r, head, state, &out[(size_t)(((first + r) * c.heads + head) * c.value_dim)]);
            std::vector<float> &to = r + 1 == n ? last : middle;
            for (int64_t i = 0; i < c.key_dim && (r + 1 == n || r + 1 == courses[s].rows[0]); i++)
                for (int64_t v = 0; v < c.value_dim; v++) to[at(head, i, v)] = (float)state[(size_t)(i * c.value_dim + v)];
        }
    }

    std::vector<float> on_device(Courses &of, int64_t first, int64_t n) const
    {
        GuardedArray<float> from(part_of(in, first * in_width, n * in_width)), step(part_of(steps, first * steps_width, n * steps_width));
        GuardedArray<float> rates(rate), biases(step_bias), skips(skip), out((size_t)(n * c.heads * c.value_dim));
        air_cuda_scan s = arguments(of, from.get(), step.get(), rates.get(), biases.get(), skips.get(), out.get());
        check_launch(air_cuda_scan_run(&s, 0));
        CHECK(out.guarded() && of.guarded());
        return out.read();
    }
};

/* Of matrices as they lie, what is no padding. */
static std::vector<float> columns_of(const scan_scene &s, const std::vector<float> &state)
{
    std::vector<float> all;
    for (int64_t h = 0; h < s.c.heads; h++)
        for (int64_t i = 0; i < s.c.key_dim; i++)
            for (int64_t v = 0; v < s.c.value_dim; v++) all.push_back(state[s.at(h, i, v)]);
    return all;
}

static void check_scan(const scan_case &c)
{
    scan_scene s(c, COURSES);
    std::vector<float> want((size_t)(s.rows * c.heads * c.value_dim));
    std::vector<std::vector<float>> middle, last;
    int64_t first = 0;
    for (size_t i = 0; i < COURSES.size(); i++) {
        middle.emplace_back((size_t)(c.heads * s.matrix)), last.emplace_back((size_t)(c.heads * s.matrix));
        for (int64_t h = 0; h < c.heads; h++) s.by_definition(i, first, h, want, middle[i], last[i]);
        first += COURSES[i].rows[0] + COURSES[i].rows[1];
    }
    Courses courses(COURSES, c.heads * s.matrix, s.before);
    check_near(s.on_device(courses, 0, s.rows), want, 1e-11, "scan");
    for (size_t i = 0; i < COURSES.size(); i++) {
        check_near(columns_of(s, courses.last(i)), columns_of(s, last[i]), 1e-11, "matrices");
        if (COURSES[i].rows[1]) check_near(columns_of(s, courses.kept_of(i)), columns_of(s, middle[i]), 1e-11, "kept matrices");
    }
}

TEST(recurrences_are_what_their_definition_says)
{
    for (air_recurrence kind : {AIR_RECURRENCE_STATE_SPACE, AIR_RECURRENCE_DELTA})
        for (const scan_case &c : {scan_case{kind, 4, 2, 16, 16}, scan_case{kind, 2, 1, 40, 24}, scan_case{kind, 2, 2, 128, 32},
                                   scan_case{kind, 1, 1, 250, 5}, scan_case{kind, 6, 2, 1, 1}})
            check_scan(c);
    check_scan({AIR_RECURRENCE_DELTA, 6, 2, 16, 16, 1});
}

TEST(a_sequence_cut_into_passes_has_the_bits_of_one)
{
    for (air_recurrence kind : {AIR_RECURRENCE_STATE_SPACE, AIR_RECURRENCE_DELTA}) {
        const std::vector<course> whole = {{{45, 0}, true, false}};
        scan_scene s({kind, 2, 1, 48, 20}, whole);
        int64_t floats = s.c.heads * s.matrix;
        Courses at_once(whole, floats, s.before);
        std::vector<float> want = s.on_device(at_once, 0, 45), got, state(s.before[0]);
        for (int64_t first = 0, n; first < 45; first += n) {
            n = first == 0 ? 1 : first < 33 ? 32 : 12;
            Courses part({{{n, 0}, first == 0, true}}, floats, {state});
            std::vector<float> more = s.on_device(part, first, n);
            got.insert(got.end(), more.begin(), more.end());
            state = part.last(0);
        }
        CHECK(same_bits(got, want));
        CHECK(same_bits(columns_of(s, state), columns_of(s, at_once.last(0))));
    }
}

TEST(recurrences_in_every_order_of_threads)
{
    for (air_recurrence kind : {AIR_RECURRENCE_STATE_SPACE, AIR_RECURRENCE_DELTA}) in_every_order([&] { check_scan({kind, 2, 1, 20, 18}); });
}

TEST(what_no_kernel_takes_is_refused)
{
    float x = 0;
    air_cuda_scan s = {};
    s.at.rows = s.at.n = 1, s.heads = 3, s.key_heads = 2, s.key_dim = s.value_dim = 8, s.out = &x;
    CHECK_EQ(air_cuda_scan_run(&s, 0), cudaErrorInvalidValue);
    s.key_heads = 3, s.key_dim = AIR_CUDA_SCAN_KEYS + 1;
    CHECK_EQ(air_cuda_scan_run(&s, 0), cudaErrorInvalidValue);
    CHECK(!air_cuda_scan_takes(AIR_CUDA_SCAN_KEYS + 1) && air_cuda_scan_takes(AIR_CUDA_SCAN_KEYS) && !air_cuda_scan_takes(0));
    air_cuda_convolution c = {};
    c.at = s.at, c.channels = 1, c.taps = AIR_CONVOLVE_TAPS + 1;
    CHECK_EQ(air_cuda_convolve(&c, 0), cudaErrorInvalidValue);
    c.taps = 1;
    CHECK_EQ(air_cuda_convolve(&c, 0), cudaErrorInvalidValue);
    CHECK_EQ(air_cuda_multiply(&x, &x, 0, AIR_ACTIVATION_SILU, 0), cudaErrorInvalidValue);
}

TEST(factors_are_activated)
{
    std::vector<float> y = random_floats(1000, 2), x = random_floats(1000, 2), want = y;
    for (size_t i = 0; i < want.size(); i++) want[i] = (float)(y[i] * ((double)x[i] / (1 + exp(-(double)x[i]))));
    GuardedArray<float> to(y), from(x);
    check_launch(air_cuda_multiply(to.get(), from.get(), 1000, AIR_ACTIVATION_SILU, 0));
    CHECK(to.guarded());
    check_near(to.read(), want, 1e-12, "factors");
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(convolutions_see_their_own_sequence_alone);
    RUN(recurrences_are_what_their_definition_says);
    RUN(a_sequence_cut_into_passes_has_the_bits_of_one);
    RUN(recurrences_in_every_order_of_threads);
    RUN(what_no_kernel_takes_is_refused);
    RUN(factors_are_activated);
    return check_end();
}
