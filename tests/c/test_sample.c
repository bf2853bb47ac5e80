/* Sampling against plain restatements of what transformers and OpenAI's API define. */
#include <math.h>

#include "base/alloc.h"
#include "check.h"
#include "engine/sample.h"

enum { N = 50 };

static int32_t sample(const air_sampling *s, const float *logits, const int32_t *history, int64_t n, int64_t n_prompt, float *logprob)
{
    void *scratch = air_malloc(air_sample_scratch(N));
    air_sample_args args = {.sampling = s, .ops = air_ops_best(AIR_TIER_COUNT), .logits = logits, .n_vocab = N, .history = history,
                            .n = n, .n_prompt = n_prompt, .scratch = scratch};
    int32_t token = -1;
    float ignored;
    air_error err = {0};
    if (air_sample(&args, &token, logprob ? logprob : &ignored, &err)) token = -(int32_t)err.status;
    air_free(scratch);
    return token;
}

static void random_logits(float *x)
{
    for (int i = 0; i < N; i++) x[i] = (float)((double)(check_random() >> 40) / (1 << 24) * 8 - 4);
}

/* Probabilities at a temperature, in double. */
static void softmax(const float *x, double t, double *p)
{
    double sum = 0, max = -1e30;
    for (int i = 0; i < N; i++) max = x[i] / t > max ? x[i] / t : max;
    for (int i = 0; i < N; i++) sum += p[i] = exp(x[i] / t - max);
    for (int i = 0; i < N; i++) p[i] /= sum;
}

/* Frequencies over many draws: the draw number is the history's length. */
static void count_draws(const air_sampling *s, const float *logits, int draws, int *counts)
{
    static int32_t history[40000];
    memset(counts, 0, N * sizeof *counts);
    for (int i = 0; i < draws; i++) {
        int32_t t = sample(s, logits, history, i, i, NULL);
        if (t >= 0) counts[t]++;
    }
}

/* Pearson's chi-square over tokens expected at least 5 times stays below its mean plus six standard deviations. */
static int fits(const int *counts, const double *p, int draws)
{
    double chi = 0;
    int cells = 0;
    for (int i = 0; i < N; i++) {
        double expected = p[i] * draws;
        if (p[i] == 0 && counts[i]) return 0;
        if (expected < 5) continue;
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        cells++;
    }
    return chi < cells + 6 * sqrt(2.0 * cells);
}

TEST(greedy_takes_the_first_of_the_largest)
{
    float x[N] = {0};
    x[7] = x[9] = 3;
    air_sampling s = air_sampling_greedy();
    float logprob;
    CHECK_EQ(sample(&s, x, NULL, 0, 0, &logprob), 7);
    CHECK(fabs(logprob - (3 - log(48 + 2 * exp(3)))) < 1e-5);
}

TEST(any_place_may_hold_the_largest_or_what_is_no_number)
{
    air_sampling s = air_sampling_greedy();
    for (int i = 0; i < N; i++) {
        float x[N], wrong[] = {NAN, INFINITY, -INFINITY};
        for (int j = 0; j < N; j++) x[j] = -5;
        int other = (i + 17) % N;
        x[i] = x[other] = -1;
        CHECK_EQ(sample(&s, x, NULL, 0, 0, NULL), i < other ? i : other);
        for (size_t w = 0; w < sizeof wrong / sizeof *wrong; w++) {
            x[i] = wrong[w];
            CHECK_EQ(sample(&s, x, NULL, 0, 0, NULL), -AIR_E_NUMERIC);
        }
    }
}

TEST(draws_follow_the_softmax_at_the_temperature)
{
    float x[N];
    double p[N];
    int counts[N], draws = 20000;
    random_logits(x);
    air_sampling s = air_sampling_greedy();
    s.temperature = 1.7f;
    s.seed = 5;
    softmax(x, 1.7, p);
    count_draws(&s, x, draws, counts);
    CHECK(fits(counts, p, draws));
    p[0] += 0.05; /* the check can fail */
    CHECK(!fits(counts, p, draws));
}

/* Zeroes what top-k, top-p and min-p cut, in transformers' order, and renormalises. */
static void truncate_reference(double *p, int top_k, double top_p, double min_p)
{
    int order[N];
    for (int i = 0; i < N; i++) order[i] = i;
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++)
            if (p[order[j]] > p[order[i]]) {
                int t = order[i];
                order[i] = order[j];
                order[j] = t;
            }
    double mass = 0, before = 0, kept = 0, best = p[order[0]];
    int k = top_k ? top_k : N;
    for (int i = 0; i < k; i++) mass += p[order[i]];
    for (int i = 0; i < N; i++) {
        double q = p[order[i]];
        if (i >= k || (i && before / mass >= top_p) || q < min_p * best) p[order[i]] = 0;
        before += q;
        kept += p[order[i]];
    }
    for (int i = 0; i < N; i++) p[i] /= kept;
}

TEST(truncations_keep_what_transformers_keeps)
{
    static const struct { int k; float p, m; } cases[] = {{5, 1, 0}, {0, 0.7f, 0}, {0, 1, 0.2f}, {10, 0.8f, 0}, {20, 0.9f, 0.15f},
                                                          {1, 1, 0}, {0, 1e-6f, 0}, {N + 7, 1, 0}, {N / 2, 1, 0}, {N / 2 + 1, 1, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        float x[N];
        double p[N];
        int counts[N], draws = 6000;
        random_logits(x);
        air_sampling s = {.temperature = 1, .top_k = cases[c].k, .top_p = cases[c].p, .min_p = cases[c].m, .repetition_penalty = 1,
                          .seed = c};
        softmax(x, 1, p);
        truncate_reference(p, cases[c].k > N ? N : cases[c].k, cases[c].p, cases[c].m);
        count_draws(&s, x, draws, counts);
        CHECK(fits(counts, p, draws));
    }
}

/* The k largest, the largest first, of equals the one of the lower id: by walking the row k times. */
static void largest(const float *x, air_candidate *best, int k)
{
    uint8_t taken[N] = {0};
    for (int i = 0; i < k; i++) {
        int at = -1;
        for (int j = 0; j < N; j++)
            if (!taken[j] && (at < 0 || x[j] > x[at])) at = j;
        taken[at] = 1;
        best[i] = (air_candidate){.token = at, .logit = x[at]};
    }
}

static double log_sum_of(const float *x)
{
    double sum = 0;
    for (int i = 0; i < N; i++) sum += exp(x[i]);
    return log(sum);
}

/* As sample() does, from candidates alone: there are no logits and no history. */
static int32_t sample_candidates(const air_sampling *s, const air_candidate *best, float log_sum, int64_t n, float *logprob)
{
    void *scratch = air_malloc(air_sample_scratch(N));
    air_sample_args args = {.sampling = s, .ops = air_ops_best(AIR_TIER_COUNT), .candidates = best, .log_sum = log_sum, .n_vocab = N,
                            .n = n, .n_prompt = n, .scratch = scratch};
    int32_t token = -1;
    air_error err = {0};
    if (air_sample(&args, &token, logprob, &err)) token = -(int32_t)err.status;
    air_free(scratch);
    return token;
}

TEST(candidates_give_the_tokens_of_the_whole_row)
{
    static const struct { float t; int k; float p, m; } cases[] = {{0, 0, 1, 0}, {1, 1, 1, 0}, {0.7f, 5, 1, 0}, {1, 10, 0.8f, 0},
                                                                   {2, 40, 1, 0.1f}, {1.5f, N - 1, 0.9f, 0.02f}, {1e-30f, 7, 1, 0}};
    int32_t history[300] = {0};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        air_sampling s = {.temperature = cases[c].t, .top_k = cases[c].k, .top_p = cases[c].p, .min_p = cases[c].m, .repetition_penalty = 1,
                          .seed = c};
        int32_t k = cases[c].t > 0 ? cases[c].k : 1;
        CHECK_EQ(air_sampling_candidates(&s, N), k);
        for (int64_t n = 0; n < 300; n++) {
            air_candidate best[N];
            float x[N], whole, few;
            random_logits(x);
            if (n % 2) /* equals, at the k-th place too; a zero with a sign is one without */
                for (int i = 0; i < N; i++) x[i] = i % 3 ? roundf(x[i]) : -fabsf(roundf(x[i]));
            largest(x, best, n % 3 ? k : N); /* more than are needed do not matter */
            int32_t want = sample(&s, x, history, n, n, &whole);
            CHECK(want >= 0);
            CHECK_EQ(sample_candidates(&s, best, (float)log_sum_of(x), n, &few), want);
            CHECK(fabsf(whole - few) < 1e-5f);
            best[0].token = -1;
            CHECK_EQ(sample_candidates(&s, best, 0, n, &few), -AIR_E_NUMERIC);
        }
    }
}

TEST(what_the_largest_logits_do_not_tell_takes_the_whole_row)
{
    air_sampling drawn = {.temperature = 1, .top_k = 5, .top_p = 0.9f, .min_p = 0.1f, .repetition_penalty = 1}, s = drawn;
    CHECK_EQ(air_sampling_candidates(&s, N), 5);
    s.top_k = 0;
    CHECK_EQ(air_sampling_candidates(&s, N), 0);
    s.top_k = N;
    CHECK_EQ(air_sampling_candidates(&s, N), 0);
    for (int i = 0; i < 6; i++) {
        s = i < 3 ? drawn : air_sampling_greedy();
        if (i % 3 == 0) s.repetition_penalty = 1.1f;
        if (i % 3 == 1) s.frequency_penalty = -0.5f;
        if (i % 3 == 2) s.presence_penalty = 0.5f;
        CHECK_EQ(air_sampling_candidates(&s, N), 0);
    }
}

TEST(top_k_keeps_the_first_of_equals)
{
    float x[N] = {0};
    int counts[N], draws = 2000;
    double p[N] = {0};
    air_sampling s = {.temperature = 1, .top_k = 4, .top_p = 1, .repetition_penalty = 1};
    x[30] = 1;
    count_draws(&s, x, draws, counts); /* 30, 0, 1, 2 */
    p[30] = exp(1) / (exp(1) + 3);
    for (int i = 0; i < 3; i++) p[i] = 1 / (exp(1) + 3);
    CHECK(fits(counts, p, draws));
}

TEST(penalties_follow_their_definitions)
{
    float x[N] = {0};
    int32_t history[6] = {3, 3, 4, 5, 5, 5}; /* 3, 3 are the prompt */
    x[3] = 2.0f;
    x[4] = 1.9f;
    x[5] = 1.95f;
    x[6] = 0.5f;
    air_sampling s = air_sampling_greedy();
    CHECK_EQ(sample(&s, x, history, 6, 2, NULL), 3);
    s.repetition_penalty = 5; /* 3, 4, 5 fall to 0.4, 0.38, 0.39, once however often they occur */
    CHECK_EQ(sample(&s, x, history, 6, 2, NULL), 6);
    s.repetition_penalty = 1;
    s.presence_penalty = 0.5f; /* generated tokens only: 3 stays */
    CHECK_EQ(sample(&s, x, history, 6, 2, NULL), 3);
    CHECK_EQ(sample(&s, x, history, 6, 0, NULL), 3); /* 1.5, 1.4, 1.45 */
    s.presence_penalty = 0;
    s.frequency_penalty = 0.1f; /* from the start: 3: 1.8, 4: 1.8, 5: 1.65 */
    x[4] = 1.95f;
    CHECK_EQ(sample(&s, x, history, 6, 0, NULL), 4);
    for (int i = 0; i < N; i++) x[i] = -5;
    x[3] = -2;
    x[8] = -3;
    s = air_sampling_greedy();
    s.repetition_penalty = 2; /* a negative logit is multiplied */
    CHECK_EQ(sample(&s, x, history, 6, 2, NULL), 8);
}

TEST(the_same_seed_and_position_draw_the_same_token)
{
    float x[N];
    int32_t history[64] = {0};
    random_logits(x);
    air_sampling s = {.temperature = 3, .top_k = 40, .top_p = 0.99f, .repetition_penalty = 1, .seed = 11}, other = s;
    other.seed = 12;
    int differs = 0;
    for (int i = 0; i < 64; i++) {
        int32_t t = sample(&s, x, history, i, i, NULL);
        CHECK_EQ(sample(&s, x, history, i, 0, NULL), t);
        differs += sample(&other, x, history, i, i, NULL) != t;
    }
    CHECK(differs > 20);
}

TEST(the_smallest_temperatures_are_greedy)
{
    static const float temperatures[] = {1e-45f, 1e-38f, 1e-30f, 1e-6f};
    float x[N];
    for (int round = 0; round < 20; round++) {
        random_logits(x);
        int32_t best = (int32_t)(check_random() % N);
        x[best] = round & 1 ? 5e3f : 4.1f;
        for (size_t t = 0; t < sizeof temperatures / sizeof *temperatures; t++)
            for (int top_k = 0; top_k < 20; top_k += 10) {
                air_sampling s = {.temperature = temperatures[t], .top_k = top_k, .top_p = 1, .repetition_penalty = 1};
                CHECK_EQ(sample(&s, x, NULL, 0, 0, NULL), best);
            }
    }
}

TEST(bad_logits_and_parameters_are_refused)
{
    float x[N] = {0};
    air_sampling s = air_sampling_greedy();
    x[3] = NAN;
    CHECK_EQ(sample(&s, x, NULL, 0, 0, NULL), -(int32_t)AIR_E_NUMERIC);
    x[3] = INFINITY;
    CHECK_EQ(sample(&s, x, NULL, 0, 0, NULL), -(int32_t)AIR_E_NUMERIC);
    air_sampling good = air_sampling_greedy(), bad[] = {good, good, good, good, good, good, good, good};
    bad[0].temperature = -1;
    bad[1].temperature = NAN;
    bad[2].top_k = -1;
    bad[3].top_p = 0;
    bad[4].top_p = 1.5f;
    bad[5].min_p = -0.1f;
    bad[6].repetition_penalty = 0;
    bad[7].frequency_penalty = INFINITY;
    CHECK_EQ(air_sampling_check(&good, NULL), AIR_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_EQ(air_sampling_check(&bad[i], NULL), AIR_E_ARGUMENT);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(greedy_takes_the_first_of_the_largest);
    RUN(any_place_may_hold_the_largest_or_what_is_no_number);
    RUN(draws_follow_the_softmax_at_the_temperature);
    RUN(truncations_keep_what_transformers_keeps);
    RUN(candidates_give_the_tokens_of_the_whole_row);
    RUN(what_the_largest_logits_do_not_tell_takes_the_whole_row);
    RUN(top_k_keeps_the_first_of_equals);
    RUN(penalties_follow_their_definitions);
    RUN(the_same_seed_and_position_draw_the_same_token);
    RUN(the_smallest_temperatures_are_greedy);
    RUN(bad_logits_and_parameters_are_refused);
    return check_end();
}
