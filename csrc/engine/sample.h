/* engine/sample.h: from logits to the next token. Pure functions of (logits, parameters, history, draw number). */
#ifndef AIR_ENGINE_SAMPLE_H
#define AIR_ENGINE_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "backend/device.h"
#include "base/status.h"
#include "kernels/ops.h"

AIR_BEGIN_C

/* Applied in this order: penalties, then temperature 0 takes the largest (the first of equals); else temperature, top-k, top-p,
 * min-p, draw: the order and meaning of transformers' logits processors and warpers. Neutral values switch a step off. */
typedef struct air_sampling {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: all */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off; relative to the most probable */
    float repetition_penalty; /* 1: off; over prompt and generated tokens (Keskar et al. 2019, as transformers has it) */
    float frequency_penalty, presence_penalty; /* 0: off; over generated tokens alone, as OpenAI's API defines them */
    uint64_t seed;
} air_sampling;

air_sampling air_sampling_greedy(void);
/* AIR_E_ARGUMENT naming the parameter, its value and range. */
air_status air_sampling_check(const air_sampling *s, air_error *err);

/* How many of the largest logits, as they are, decide the token, the same as all would; 0: no number below n_vocab does. */
int64_t air_sampling_candidates(const air_sampling *s, int64_t n_vocab);

/* Scratch that a call needs, bytes. */
size_t air_sample_scratch(int64_t n_vocab);

/* Next token from logits [n_vocab]; or from candidates, the largest of them in order, of equals the one of the lower id first: as many as
 * air_sampling_candidates says, which is not 0, or more; then logits and history are not read. log_sum: beside candidates, the logarithm
 * of the sum of all exponents. history: all tokens of the sequence, n of them, the first n_prompt not generated. The draw is number n of
 * the stream seed, so it depends on nothing but the sequence itself. scratch: air_sample_scratch(n_vocab) bytes, aligned to a cache line.
 * *logprob is the token's log-probability under the unchanged logits. Errors: AIR_E_NUMERIC where a logit is not finite, which a first
 * candidate without token says. */
typedef struct air_sample_args {
    const air_sampling *sampling;
    const air_ops *ops;
    const float *logits;
    int64_t n_vocab;
    const air_candidate *candidates; /* NULL: there are logits */
    float log_sum;
    const int32_t *history;
    int64_t n, n_prompt;
    void *scratch;
} air_sample_args;
air_status air_sample(const air_sample_args *args, int32_t *token, float *logprob, air_error *err);

AIR_END_C
#endif
