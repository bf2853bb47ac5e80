#include "engine/sample.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"

/* Scratch: changed logits or probabilities, token counts or a heap of candidates. */
typedef struct work {
    float *p;
    int32_t *ids; /* counts while penalties are applied, then the heap */
} work;

static size_t lane(int64_t n_vocab) { return (size_t)air_round_up((uint64_t)n_vocab * sizeof(float), AIR_CACHE_LINE); }

size_t air_sample_scratch(int64_t n_vocab) { return 2 * lane(n_vocab); }

air_sampling air_sampling_greedy(void)
{
    return (air_sampling){.top_p = 1, .repetition_penalty = 1};
}

static air_status out_of_range(const char *name, double value, const char *range, air_error *err)
{
    return air_fail(err, AIR_E_ARGUMENT, "%s is %g; it must be %s", name, value, range);
}

/* Comparisons are written so that NaN fails them. */
air_status air_sampling_check(const air_sampling *s, air_error *err)
{
    if (!(s->temperature >= 0 && s->temperature <= 1e6f)) return out_of_range("temperature", s->temperature, "0 to 1e6", err);
    if (s->top_k < 0) return out_of_range("top_k", s->top_k, "0 (off) or more", err);
    if (!(s->top_p > 0 && s->top_p <= 1)) return out_of_range("top_p", s->top_p, "above 0, at most 1", err);
    if (!(s->min_p >= 0 && s->min_p <= 1)) return out_of_range("min_p", s->min_p, "0 to 1", err);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 1e6f))
        return out_of_range("repetition_penalty", s->repetition_penalty, "above 0, at most 1e6", err);
    if (!(fabsf(s->frequency_penalty) <= 1e6f)) return out_of_range("frequency_penalty", s->frequency_penalty, "-1e6 to 1e6", err);
    if (!(fabsf(s->presence_penalty) <= 1e6f)) return out_of_range("presence_penalty", s->presence_penalty, "-1e6 to 1e6", err);
    return AIR_OK;
}

static int has_penalties(const air_sampling *s)
{
    return s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

int air_sampling_takes_largest(const air_sampling *s) { return s->temperature == 0 && !has_penalties(s); }

air_status air_sample_not_finite(int64_t n, air_error *err)
{
    return air_fail(err, AIR_E_NUMERIC, "a logit after %lld tokens is not a finite number: are the weights damaged?", (long long)n);
}

/* Index of the largest, the first of equals; -1 where one is not finite. */
static int64_t argmax(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return -1;
        if (x[i] > x[best]) best = i;
    }
    return best;
}

static void penalize(const air_sample_args *a, work w)
{
    const air_sampling *s = a->sampling;
    memset(w.ids, 0, (size_t)a->n_vocab * sizeof *w.ids);
    if (s->repetition_penalty != 1)
        for (int64_t i = 0; i < a->n; i++) {
            int32_t t = a->history[i];
            if (w.ids[t]++) continue; /* once for each token that occurs */
            w.p[t] = w.p[t] > 0 ? w.p[t] / s->repetition_penalty : w.p[t] * s->repetition_penalty;
        }
    memset(w.ids, 0, (size_t)a->n_vocab * sizeof *w.ids);
    if (s->frequency_penalty != 0 || s->presence_penalty != 0)
        for (int64_t i = a->n_prompt; i < a->n; i++) {
            int32_t t = a->history[i];
            w.p[t] -= s->frequency_penalty + (w.ids[t]++ ? 0 : s->presence_penalty);
        }
}

/* --- a heap of token ids, the most probable (then the lowest id) on top --- */

static int before(const float *p, int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void sift(const float *p, int32_t *heap, int64_t n, int64_t i)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, heap[child + 1], heap[child])) child++;
        if (!before(p, heap[child], heap[i])) return;
        int32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

/* The other way round: the worst on top. */
static void sift_worst(const float *p, int32_t *heap, int64_t n, int64_t i)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, heap[child], heap[child + 1])) child++;
        if (!before(p, heap[i], heap[child])) return;
        int32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

/* Few of many: the k best of n ids, into a heap of those found so far, in one walk. */
static void select_best(const float *p, int32_t *heap, int64_t k, int64_t n)
{
    for (int64_t i = 0; i < k; i++) heap[i] = (int32_t)i;
    for (int64_t i = k / 2; i-- > 0;) sift_worst(p, heap, k, i);
    for (int64_t i = k; i < n; i++) {
        if (p[i] <= p[heap[0]]) continue; /* of equals the lower id is better */
        heap[0] = (int32_t)i;
        sift_worst(p, heap, k, 0);
    }
}

/* Orders the kept candidates at the end of heap [n], the best last; returns how many and their mass. Truncations in transformers' order:
 * top-k, then top-p of what is left (the token that crosses the threshold stays), then min-p. */
static int64_t keep(const air_sampling *s, const float *p, int32_t *heap, int64_t n, double *mass)
{
    int64_t limit = s->top_k && s->top_k < n ? s->top_k : n, kept = 0;
    int all = limit == n;
    if (limit <= n / 2) {
        heap += n - limit;
        select_best(p, heap, limit, n);
        n = limit;
    } else {
        for (int64_t i = 0; i < n; i++) heap[i] = (int32_t)i;
    }
    for (int64_t i = n / 2; i-- > 0;) sift(p, heap, n, i);
    while (kept < limit) { /* heap sort, cut short where nothing further can be kept */
        int64_t left = n - kept - 1;
        int32_t top = heap[0];
        if (kept && p[top] <= 0) break;
        heap[0] = heap[left];
        heap[left] = top;
        sift(p, heap, left, 0);
        *mass += p[top];
        kept++;
        if (all && *mass >= s->top_p) break; /* all probabilities sum to 1, so the threshold is known already */
    }
    double total = *mass, sum = 0;
    if (all) total = 1;
    int64_t nucleus = 0;
    while (nucleus < kept && (nucleus == 0 || sum < s->top_p * total)) sum += p[heap[n - 1 - nucleus++]];
    double best = p[heap[n - 1]];
    while (nucleus > 1 && p[heap[n - nucleus]] < s->min_p * best) sum -= p[heap[n - nucleus--]];
    *mass = sum;
    return nucleus;
}

/* Without top-k and top-p no order is needed: candidates are walked by id. */
static int32_t draw_unordered(const air_sample_args *a, const float *p)
{
    float best = 0;
    double mass = 0;
    for (int64_t i = 0; i < a->n_vocab; i++) best = p[i] > best ? p[i] : best;
    float least = a->sampling->min_p * best;
    for (int64_t i = 0; i < a->n_vocab; i++) mass += p[i] >= least ? p[i] : 0;
    double left = air_random_unit(a->sampling->seed, (uint64_t)a->n) * mass;
    int32_t id = 0;
    for (int64_t i = 0; i < a->n_vocab && left >= 0; i++) {
        if (p[i] < least || p[i] <= 0) continue;
        id = (int32_t)i;
        left -= p[i];
    }
    return id;
}

static int32_t draw(const air_sample_args *a, work w, float best)
{
    const air_sampling *s = a->sampling;
    for (int64_t i = 0; i < a->n_vocab; i++) {
        /* Below the best one, so that no temperature, however small, makes an infinity of it; e^-1e4 is 0. */
        float x = (w.p[i] - best) / s->temperature;
        w.p[i] = x > -1e4f ? x : -1e4f;
    }
    (void)a->ops->softmax(w.p, a->n_vocab);
    if (s->top_k == 0 && s->top_p >= 1) return draw_unordered(a, w.p);
    double mass = 0;
    int64_t kept = keep(s, w.p, w.ids, a->n_vocab, &mass);
    double left = air_random_unit(s->seed, (uint64_t)a->n) * mass;
    int64_t i = 0;
    while (i + 1 < kept && (left -= w.p[w.ids[a->n_vocab - 1 - i]]) >= 0) i++;
    return w.ids[a->n_vocab - 1 - i];
}

air_status air_sample(const air_sample_args *a, int32_t *token, float *logprob, air_error *err)
{
    const air_sampling *s = a->sampling;
    work w = {a->scratch, (int32_t *)(void *)((char *)a->scratch + lane(a->n_vocab))};
    int64_t best = argmax(a->logits, a->n_vocab);
    if (best < 0) return air_sample_not_finite(a->n, err);
    memcpy(w.p, a->logits, (size_t)a->n_vocab * sizeof *w.p);
    float log_sum = a->ops->softmax(w.p, a->n_vocab);
    int penalties = has_penalties(s);
    if (penalties || s->temperature > 0) memcpy(w.p, a->logits, (size_t)a->n_vocab * sizeof *w.p);
    if (penalties) {
        penalize(a, w);
        best = argmax(w.p, a->n_vocab);
        if (best < 0) return air_fail(err, AIR_E_NUMERIC, "penalties made a logit infinite");
    }
    *token = s->temperature > 0 ? draw(a, w, w.p[best]) : (int32_t)best;
    *logprob = a->logits[*token] - log_sum;
    return AIR_OK;
}
