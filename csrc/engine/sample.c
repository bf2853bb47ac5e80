#include "engine/sample.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"

/* Scratch: logits, changed or not, then probabilities, by id or in the order of candidates; a heap of candidates. */
typedef struct work {
    float *p;
    air_candidate *heap; /* before, how often each token occurs */
} work;

static size_t lane(int64_t n_vocab, size_t each) { return (size_t)air_round_up((uint64_t)n_vocab * each, AIR_CACHE_LINE); }

size_t air_sample_scratch(int64_t n_vocab) { return lane(n_vocab, sizeof(float)) + lane(n_vocab, sizeof(air_candidate)); }

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

/* How many of the largest logits a token is drawn from, the largest first; 0: all, or what of them only their probabilities tell. */
static int64_t truncation(const air_sampling *s, int64_t n_vocab)
{
    if (s->temperature == 0) return 1;
    return s->top_k < n_vocab ? s->top_k : 0;
}

int64_t air_sampling_candidates(const air_sampling *s, int64_t n_vocab) { return has_penalties(s) ? 0 : truncation(s, n_vocab); }

static air_status not_finite(int64_t n, air_error *err)
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

/* counts [n_vocab] */
static void penalize(const air_sample_args *a, float *x, int32_t *counts)
{
    const air_sampling *s = a->sampling;
    memset(counts, 0, (size_t)a->n_vocab * sizeof *counts);
    if (s->repetition_penalty != 1)
        for (int64_t i = 0; i < a->n; i++) {
            int32_t t = a->history[i];
            if (counts[t]++) continue; /* once for each token that occurs */
            x[t] = x[t] > 0 ? x[t] / s->repetition_penalty : x[t] * s->repetition_penalty;
        }
    memset(counts, 0, (size_t)a->n_vocab * sizeof *counts);
    if (s->frequency_penalty != 0 || s->presence_penalty != 0)
        for (int64_t i = a->n_prompt; i < a->n; i++) {
            int32_t t = a->history[i];
            x[t] -= s->frequency_penalty + (counts[t]++ ? 0 : s->presence_penalty);
        }
}

/* --- heaps of candidates; of equals the lower id is better --- */

typedef enum on_top { BEST, WORST } on_top;

static int above(air_candidate a, air_candidate b, on_top which)
{
    if (a.logit != b.logit) return which == BEST ? a.logit > b.logit : a.logit < b.logit;
    return which == BEST ? a.token < b.token : a.token > b.token;
}

static void sift(air_candidate *heap, int64_t n, int64_t i, on_top which)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && above(heap[child + 1], heap[child], which)) child++;
        if (!above(heap[child], heap[i], which)) return;
        air_candidate c = heap[i];
        heap[i] = heap[child];
        heap[child] = c;
    }
}

static void make_heap(air_candidate *heap, int64_t n, on_top which)
{
    for (int64_t i = n / 2; i-- > 0;) sift(heap, n, i, which);
}

/* Takes the top of n away, to behind the others. */
static air_candidate pop(air_candidate *heap, int64_t n, on_top which)
{
    air_candidate top = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    sift(heap, n - 1, 0, which);
    return top;
}

/* The k best of n numbers, the best first, in one walk. */
static void select_best(const float *x, int64_t n, air_candidate *best, int64_t k)
{
    for (int64_t i = 0; i < k; i++) best[i] = (air_candidate){.token = (int32_t)i, .logit = x[i]};
    make_heap(best, k, WORST);
    for (int64_t i = k; i < n; i++) {
        if (x[i] <= best[0].logit) continue;
        best[0] = (air_candidate){.token = (int32_t)i, .logit = x[i]};
        sift(best, k, 0, WORST);
    }
    for (int64_t left = k; left > 1; left--) (void)pop(best, left, WORST);
}

/* --- draws --- */

/* Probabilities at the temperature, of n logits in p. */
static void probabilities(const air_sample_args *a, float *p, int64_t n, float best)
{
    float temperature = a->sampling->temperature;
    for (int64_t i = 0; i < n; i++) {
        /* Below the best one, so that no temperature, however small, makes an infinity of it; e^-1e4 is 0. */
        float x = (p[i] - best) / temperature;
        p[i] = x > -1e4f ? x : -1e4f;
    }
    (void)a->ops->softmax(p, n);
}

/* Draws one of n probabilities, the greatest first, of a mass of `total`: top-p (the one that crosses the threshold stays), then min-p. */
static int64_t draw(const air_sample_args *a, const float *p, int64_t n, double total)
{
    const air_sampling *s = a->sampling;
    double mass = 0;
    int64_t kept = 0, i = 0;
    while (kept < n && (kept == 0 || mass < s->top_p * total)) mass += p[kept++];
    while (kept > 1 && (p[kept - 1] < s->min_p * p[0] || p[kept - 1] <= 0)) mass -= p[--kept];
    double left = air_random_unit(s->seed, (uint64_t)a->n) * mass;
    while (i + 1 < kept && (left -= p[i]) >= 0) i++;
    return i;
}

/* Of the k best, the best first. p: room for as many. */
static int64_t draw_candidate(const air_sample_args *a, const air_candidate *best, int64_t k, float *p)
{
    double total = 0;
    if (a->sampling->temperature == 0) return 0;
    for (int64_t i = 0; i < k; i++) p[i] = best[i].logit;
    probabilities(a, p, k, best[0].logit);
    for (int64_t i = 0; i < k; i++) total += p[i];
    return draw(a, p, k, total);
}

/* Of all, but no more put in order than top-p keeps: their probabilities sum to 1, so the threshold is known. */
static int32_t draw_nucleus(const air_sample_args *a, work w)
{
    int64_t n = a->n_vocab, taken = 0;
    double mass = 0;
    for (int64_t i = 0; i < n; i++) w.heap[i] = (air_candidate){.token = (int32_t)i, .logit = w.p[i]};
    make_heap(w.heap, n, BEST);
    while (taken < n && mass < a->sampling->top_p) {
        float p = pop(w.heap, n - taken, BEST).logit;
        if (taken && p <= 0) break;
        w.p[taken++] = p;
        mass += p;
    }
    return w.heap[n - 1 - draw(a, w.p, taken, 1)].token;
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

/* From the whole row: `best` of its logits, as penalties left them in w.p, is the largest. */
static int32_t choose(const air_sample_args *a, work w, int64_t best)
{
    int64_t k = truncation(a->sampling, a->n_vocab);
    if (k == 1) return (int32_t)best;
    if (k) {
        select_best(w.p, a->n_vocab, w.heap, k);
        return w.heap[draw_candidate(a, w.heap, k, w.p)].token;
    }
    probabilities(a, w.p, a->n_vocab, w.p[best]);
    return a->sampling->top_p < 1 ? draw_nucleus(a, w) : draw_unordered(a, w.p);
}

static air_status sample_candidates(const air_sample_args *a, work w, int32_t *token, float *logprob, air_error *err)
{
    if (a->candidates[0].token < 0) return not_finite(a->n, err);
    air_candidate chosen = a->candidates[draw_candidate(a, a->candidates, air_sampling_candidates(a->sampling, a->n_vocab), w.p)];
    *token = chosen.token;
    *logprob = chosen.logit - a->log_sum;
    return AIR_OK;
}

air_status air_sample(const air_sample_args *a, int32_t *token, float *logprob, air_error *err)
{
    work w = {a->scratch, (air_candidate *)(void *)((char *)a->scratch + lane(a->n_vocab, sizeof(float)))};
    if (a->candidates) return sample_candidates(a, w, token, logprob, err);
    int64_t best = argmax(a->logits, a->n_vocab);
    if (best < 0) return not_finite(a->n, err);
    memcpy(w.p, a->logits, (size_t)a->n_vocab * sizeof *w.p);
    float log_sum = a->ops->softmax(w.p, a->n_vocab);
    memcpy(w.p, a->logits, (size_t)a->n_vocab * sizeof *w.p);
    if (has_penalties(a->sampling)) {
        penalize(a, w.p, (int32_t *)(void *)w.heap);
        best = argmax(w.p, a->n_vocab);
        if (best < 0) return air_fail(err, AIR_E_NUMERIC, "penalties made a logit infinite");
    }
    *token = choose(a, w, best);
    *logprob = a->logits[*token] - log_sum;
    return AIR_OK;
}
