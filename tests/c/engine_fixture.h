/* A small model, opened: what the engine's tests share. Golden logits are Python's to check; `want` is what this engine gives by itself. */
#ifndef AIR_TEST_ENGINE_FIXTURE_H
#define AIR_TEST_ENGINE_FIXTURE_H

#include "base/alloc.h"
#include "check.h"
#include "engine/engine.h"

enum { VOCAB = 512, PROMPT = 90 }; /* more than one block of 64 positions */

static const char *const model_path = AIR_TEST_MODELS "/llama-gqa.gguf";
static int32_t prompt[PROMPT];

typedef struct opened {
    air_gguf_set *set;
    air_engine *engine;
    int64_t n_vocab;
} opened;

static inline air_engine_config config_of(const air_gguf_set *set)
{
    return (air_engine_config){.set = set, .max_ram = 64 << 20, .io = AIR_IO_DIRECT, .threads = 2, .cpu_tier = AIR_TIER_COUNT,
                               .state_type = AIR_STATE_F16, .max_pins = UINT64_MAX};
}

static inline opened open_file(const char *path, const air_engine_config *changes)
{
    opened o = {0};
    air_error err = {0};
    if (air_gguf_open(&o.set, path, &err)) printf("  %s\n", err.text);
    if (!o.set) return o;
    air_engine_config c = changes ? *changes : config_of(o.set);
    c.set = o.set;
    if (air_engine_open(&o.engine, &c, &err)) printf("  %s\n", err.text);
    if (o.engine) o.n_vocab = air_model_program(air_engine_model(o.engine))->n_vocab;
    return o;
}

static inline opened open_with(const air_engine_config *changes) { return open_file(model_path, changes); }

static inline void close_all(opened *o)
{
    air_engine_close(o->engine);
    air_gguf_close(o->set);
}

static inline air_status finish(air_batch *b, air_error *err)
{
    air_status st = AIR_OK;
    for (int done = 0; !done;) st = air_batch_wait(b, 50000000, &done, NULL, err);
    return st;
}

/* Appends n tokens to s and copies the last token's logits. */
static inline air_status step(opened *o, air_sequence *s, const int32_t *tokens, int64_t n, float *logits, air_error *err)
{
    air_batch_item item = {.sequence = s, .tokens = tokens, .n_tokens = n, .want = 1};
    air_batch *b;
    air_status st = air_batch_submit(&b, o->engine, &(air_batch_request){.items = &item, .n_items = 1}, err);
    if (st) return st;
    st = finish(b, err);
    if (!st && logits) memcpy(logits, air_batch_logits(b), (size_t)o->n_vocab * sizeof *logits);
    air_batch_free(b);
    return st;
}

static float want[VOCAB], want_next[VOCAB]; /* after the prompt, and after one token more */
static size_t logit_bytes;

static inline void make_reference(void)
{
    opened o = open_with(NULL);
    air_sequence *s;
    air_error err = {0};
    logit_bytes = (size_t)o.n_vocab * sizeof(float);
    for (int i = 0; i < PROMPT; i++) prompt[i] = (int32_t)((i * 37 + 5) % o.n_vocab);
    if (air_sequence_new(&s, o.engine, &err) || step(&o, s, prompt, PROMPT, want, &err) || step(&o, s, prompt, 1, want_next, &err)) {
        printf("no reference: %s\n", err.text);
        exit(1);
    }
    air_sequence_free(s);
    close_all(&o);
}

#endif
