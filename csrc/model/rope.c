/* Frequencies of rotary positions and the ways files stretch them: none, linear (arXiv 2306.15595), yarn (arXiv 2309.00071), and per-pair
 * factors in a tensor (Llama 3) or two (longrope, arXiv 2402.13753). Conventions are ggml's, which equal transformers' where both have the
 * scaling. */
#include <math.h>
#include <string.h>

#include "model/arch.h"

typedef struct scaling {
    double base, factor, attention;
    double beta_fast, beta_slow; /* yarn */
    double log_multiplier;       /* yarn, likewise: of 0.1, what models that say mscale_all_dim leave out of magnitudes */
    uint64_t original_context;
    int yarn, between_pairs;
} scaling;

static const double two_pi = 6.283185307179586;

static void get_f64(air_builder *b, const char *suffix, double min, double max, double *out)
{
    air_key key = air__key(b->hp, suffix);
    if (!b->status) b->status = air_gguf_get_f64(b->gguf, key.text, min, max, out, b->err);
}

static void read_scaling(air_builder *b, scaling *s)
{
    air_string type = {"none", 4};
    air_key key = air__key(b->hp, "rope.scaling.type");
    if (!b->status) b->status = air_gguf_get_string(b->gguf, key.text, &type, b->err);
    get_f64(b, "rope.freq_base", 1e-3, 1e12, &s->base);
    get_f64(b, "rope.scaling.attn_factor", 1e-3, 1e3, &s->attention);
    air_key context = air__key(b->hp, "rope.scaling.original_context_length");
    if (!b->status) b->status = air_gguf_get_u64(b->gguf, context.text, 1, 1u << 30, &s->original_context, b->err);
    if (air_gguf_find(b->gguf, key.text) == NULL) { /* files from before the type was written */
        get_f64(b, "rope.scale_linear", 1e-3, 1e6, &s->factor);
        return;
    }
    /* longrope's factors are tensors, and all there is to it */
    if (b->status || strcmp(type.data, "none") == 0 || strcmp(type.data, "longrope") == 0) return;
    s->yarn = strcmp(type.data, "yarn") == 0;
    if (!s->yarn && strcmp(type.data, "linear") != 0) {
        b->status = air_fail(b->err, AIR_E_UNSUPPORTED, "%s is \"%.40s\"; supported are none, linear, yarn and longrope", key.text,
                             type.data);
        return;
    }
    get_f64(b, "rope.scaling.factor", 1e-3, 1e6, &s->factor);
    get_f64(b, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, &s->beta_fast);
    get_f64(b, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, &s->beta_slow);
    get_f64(b, "rope.scaling.yarn_log_multiplier", 0, 1e3, &s->log_multiplier);
}

/* Dimension at which a wave turns `turns` times within the original context. */
static double turning_dim(const scaling *s, double dims, double turns)
{
    return dims * log((double)s->original_context / (turns * two_pi)) / (2 * log(s->base));
}

static void fill(const scaling *s, double *frequency, int64_t pairs)
{
    double dims = 2.0 * (double)pairs;
    double low = turning_dim(s, dims, s->beta_fast), high = turning_dim(s, dims, s->beta_slow);
    if (!s->between_pairs) low = floor(low), high = ceil(high);
    low = fmax(0, low), high = fmin(dims - 1, high);
    for (int64_t i = 0; i < pairs; i++) {
        double f = pow(s->base, -2.0 * (double)i / dims);
        /* yarn leaves fast waves alone and interpolates slow ones, with a ramp between */
        double keep = s->yarn ? 1 - fmin(1, fmax(0, ((double)i - low) / fmax(0.001, high - low))) : 0;
        frequency[i] = f / s->factor * (1 - keep) + f * keep;
    }
}

/* What a file keeps in tensors: factors of each pair, or two sets of them, for sequences within and beyond the original context. */
static void read_factors(air_builder *b, const scaling *s, int64_t pairs, air_rope *rope)
{
    static const char why[] = "rope.dimension_count / 2", of_long[] = "rope_factors_long.weight";
    rope->factors = rope->long_factors = AIR_NONE;
    if (!air__has(b, of_long, AIR_NONE)) {
        rope->factors = air__vector(b, AIR_OPTIONAL, pairs, why, "rope_freqs.weight", AIR_NONE);
        return;
    }
    rope->factors = air__vector(b, AIR_REQUIRED, pairs, why, "rope_factors_short.weight", AIR_NONE);
    rope->long_factors = air__vector(b, AIR_REQUIRED, pairs, why, of_long, AIR_NONE);
    rope->long_beyond = (int64_t)s->original_context;
}

/* By how much cos and sin are larger. Where latent attention says a multiplier, scores have that instead (scale_latent, hparams.c). */
static double magnitude_of(const air_builder *b, const scaling *s)
{
    if (!s->yarn || s->factor <= 1 || (b->arch->latent && s->log_multiplier > 0)) return s->attention;
    return s->attention * (1 + 0.1 * log(s->factor)) / (1 + 0.1 * s->log_multiplier * log(s->factor));
}

static void make_rope(air_builder *b, air_arena *arena, const scaling *s, int factors, air_rope *rope)
{
    int64_t pairs = b->hp->rope_dims / 2;
    double *frequency = air_arena_alloc(arena, (size_t)pairs, sizeof *frequency);
    if (!frequency) {
        b->status = air_fail(b->err, AIR_E_NOMEM, "model: rotary frequencies");
        return;
    }
    fill(s, frequency, pairs);
    *rope = (air_rope){
        .kind = b->arch->rope, .pairs = pairs, .frequency = frequency, .factors = AIR_NONE, .long_factors = AIR_NONE,
        .magnitude = magnitude_of(b, s),
    };
    if (factors) read_factors(b, s, pairs, rope);
}

enum { GLOBAL, OF_WINDOWS, ROPES };

static int has_window_rope(const air_builder *b)
{
    return b->arch->window_rope == AIR_WINDOW_ROPE_UNSCALED && b->hp->window > 0;
}

int32_t air__rope_of(const air_builder *b, int32_t layer)
{
    return has_window_rope(b) && b->hp->layers[layer].windowed ? OF_WINDOWS : GLOBAL;
}

void air__ropes_read(air_builder *b, air_arena *arena, air_program *program)
{
    scaling s = {.base = 10000, .factor = 1, .attention = 1, .beta_fast = 32, .beta_slow = 1,
                 .original_context = (uint64_t)b->hp->n_ctx_trained, .between_pairs = b->arch->yarn_between_pairs};
    if (b->hp->positions != AIR_POSITIONS_ROPE || !b->hp->heads) return;
    read_scaling(b, &s);
    air_rope *ropes = b->status ? NULL : air_arena_alloc(arena, ROPES, sizeof *ropes);
    if (!b->status && !ropes) b->status = air_fail(b->err, AIR_E_NOMEM, "model: ropes");
    if (b->status) return;
    make_rope(b, arena, &s, 1, &ropes[GLOBAL]);
    program->n_ropes = 1;
    if (!b->status && has_window_rope(b)) {
        scaling plain = {.base = b->arch->window_rope_base > 0 ? b->arch->window_rope_base : s.base, .factor = 1, .attention = 1};
        get_f64(b, "rope.freq_base_swa", 1e-3, 1e12, &plain.base);
        if (!b->status) make_rope(b, arena, &plain, 0, &ropes[OF_WINDOWS]);
        program->n_ropes = ROPES;
    }
    for (int32_t i = 0; i < program->n_ropes; i++) {
        ropes[i].first = program->rope_pairs;
        program->rope_pairs += ropes[i].pairs;
    }
    program->ropes = ropes;
}
