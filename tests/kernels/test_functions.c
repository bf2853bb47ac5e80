/* Walks the tables of kernels: every function of every tier this CPU has, against a plain statement of it in double.
 *
 * A test names the entry it runs with FOR_EACH_TIER; an entry of a table that none named fails the last test. Gates are squared
 * errors over the squared norm of what is wanted. */
#include <math.h>

#include "check.h"
#include "guard.h"
#include "kernels/ops.h"
#include "quant/half.h"

enum { MAX_N = 5000 };

static int ran[AIR_TIER_COUNT][sizeof(air_ops)]; /* by the entry's offset */

/* NULL where this CPU lacks the tier, or the tier has the entry from one below, with which it was run. */
static const air_ops *begin(int tier, size_t entry)
{
    typedef void (*any_function)(void);
    const air_ops *ops = air_ops_tier((air_cpu_tier)tier);
    if (!ops) return NULL;
    ran[tier][entry] = 1;
    for (int below = 0; below < tier; below++) {
        const char *other = (const char *)air_ops_tier((air_cpu_tier)below);
        if (other && memcmp(other + entry, (const char *)ops + entry, sizeof(any_function)) == 0) return NULL;
    }
    return ops;
}

#define FOR_EACH_TIER(ops, entry)                          \
    for (int tier_ = 0; tier_ < AIR_TIER_COUNT; tier_++)   \
        for (const air_ops *ops = begin(tier_, offsetof(air_ops, entry)); ops; ops = NULL)

static double unit(void)
{
    return (double)(check_random() >> 11) * 0x1p-53;
}

static float gaussian(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += unit();
    return (float)sum;
}

static float *new_floats(int64_t n, float scale)
{
    float *x = guard_new((size_t)n * sizeof *x, 64);
    for (int64_t i = 0; i < n; i++) x[i] = gaussian() * scale;
    return x;
}

static float *copy_floats(const float *x, int64_t n)
{
    return memcpy(guard_new((size_t)n * sizeof *x, 64), x, (size_t)n * sizeof *x);
}

static void check_error(const char *tier, const char *what, const double *wanted, const float *got, int64_t n, double norm, double gate)
{
    double error = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - wanted[i];
        error += d * d;
    }
    if (error <= gate * norm) return;
    printf("  %s %s of %lld: NMSE %.3g > %.3g\n", tier, what, (long long)n, error / norm, gate);
    CHECK(error <= gate * norm);
}

static void check_close(const char *tier, const char *what, const double *wanted, const float *got, int64_t n, double gate)
{
    double norm = 0;
    for (int64_t i = 0; i < n; i++) norm += wanted[i] * wanted[i];
    check_error(tier, what, wanted, got, n, norm, gate);
}

static const int64_t lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 1000, 4096, 4099};

static double want[MAX_N];

/* ------------------------------------------------------------------ quantize */

static void check_turned(air_q8 q, int64_t k)
{
    int64_t tiles = air_q8_tiles(k), found = 0;
    for (int64_t i = 0; i < k; i++) {
        int64_t byte = i % 4, dword = i / 4 % 8, group = i / 32 % 8, tile = i / 256;
        found += q.turned[tile * 256 + dword * 32 + group * 4 + byte] == q.q[i];
    }
    CHECK_EQ(found, k);
    int64_t sum = 0;
    for (int64_t i = 0; i < tiles * AIR_Q8_TILE; i++) sum += q.turned[i] != 0;
    for (int64_t i = 0; i < k; i++) sum -= q.q[i] != 0;
    CHECK_EQ(sum, 0); /* the rest is zeros */
}

static void quantize_case(const air_ops *ops, int64_t k, float scale_of_input)
{
    float *x = new_floats(k, scale_of_input);
    air_q8 q[3] = {guard_q8(k, 1), guard_q8(k, 1), guard_q8(k, 1)};
    if (k > 32) memset(x + k - 32, 0, 32 * sizeof *x);
    memset(q[0].turned, 85, (size_t)air_q8_tiles(k) * AIR_Q8_TILE);
    ops->quantize(x, k, q[0]);
    air_ops_tier(AIR_TIER_REF)->quantize(x, k, q[1]);
    CHECK(memcmp(q[0].q, q[1].q, (size_t)k) == 0);
    CHECK(memcmp(q[0].sums, q[1].sums, (size_t)(k / AIR_Q8_SUM_GROUP) * sizeof(int16_t)) == 0);
    CHECK(memcmp(q[0].scale, q[1].scale, (size_t)(k / AIR_Q8_GROUP) * sizeof(float)) == 0);
    CHECK(memcmp(q[0].turned, q[1].turned, (size_t)air_q8_tiles(k) * AIR_Q8_TILE) == 0);
    check_turned(q[0], k);

    double error = 0, norm = 0;
    for (int64_t i = 0; i < k; i++) {
        double s = (double)q[0].scale[i / AIR_Q8_GROUP], d = (double)x[i] - s * q[0].q[i];
        CHECK(q[0].q[i] >= -127 && fabs(d) <= s * 0.50001);
        error += d * d, norm += (double)x[i] * (double)x[i];
    }
    CHECK(error <= 1e-4 * norm);
    for (int64_t i = 0; i < k; i += AIR_Q8_SUM_GROUP) {
        int sum = 0;
        for (int64_t j = i; j < i + AIR_Q8_SUM_GROUP; j++) sum += q[0].q[j];
        CHECK_EQ(sum, q[0].sums[i / AIR_Q8_SUM_GROUP]);
    }
    for (int64_t i = 0; i < k; i++) x[i] = -x[i];
    ops->quantize(x, k, q[2]);
    for (int64_t i = 0; i < k; i++) CHECK_EQ(q[2].q[i], -q[0].q[i]);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(quantizing_is_exact_to_half_a_step_and_the_same_everywhere)
{
    FOR_EACH_TIER (ops, quantize) {
        for (int64_t k = 32; k <= 4096; k += k < 256 ? 32 : 480) quantize_case(ops, k, 1.0f);
        quantize_case(ops, 256, 1e30f);
        quantize_case(ops, 256, 1e-30f);
    }
}

TEST(quantizing_zeros_ties_and_the_unquantizable)
{
    FOR_EACH_TIER (ops, quantize) {
        float *x = guard_new(6 * 32 * sizeof *x, 64);
        air_q8 q = guard_q8(6 * 32, 1);
        x[32] = 1e-40f;                                 /* too small for 127 / x */
        x[64 + 5] = INFINITY;
        x[96 + 31] = NAN;
        x[128] = 127, x[129] = 0.5f, x[130] = 1.5f, x[131] = -2.5f, x[132] = 3.5f;
        x[160] = -127;
        ops->quantize(x, 6 * 32, q);
        CHECK(q.scale[0] == 0 && q.scale[1] == 0 && q.scale[2] == INFINITY && isnan(q.scale[3]) && q.scale[4] == 1 && q.scale[5] == 1);
        for (int i = 0; i < 128; i++) CHECK_EQ(q.q[i], 0);
        const int8_t rounded[] = {127, 0, 2, -2, 4}; /* to even */
        CHECK(memcmp(q.q + 128, rounded, sizeof rounded) == 0);
        CHECK_EQ(q.q[160], -127);
        CHECK_EQ(q.sums[8], 131);
        guard_free_all();
    }
}

/* ------------------------------------------------------------------ element by element */

static void rms_norm_case(const air_ops *ops, int64_t n, float scale, int weighted, int in_place)
{
    float eps = 1e-5f, *x = new_floats(n, scale), *weight = weighted ? new_floats(n, 1) : NULL;
    float *y = in_place ? x : guard_new((size_t)n * sizeof *y, 64);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (int64_t i = 0; i < n; i++) want[i] = (double)x[i] / sqrt(sum / (double)n + (double)eps) * (weight ? (double)weight[i] : 1);
    ops->rms_norm(x, weight, y, n, eps);
    check_close(ops->name, "rms_norm", want, y, n, 2e-14);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(rms_norm_divides_by_the_root_of_the_mean_square)
{
    FOR_EACH_TIER (ops, rms_norm)
        for (size_t i = 0; i < AIR_COUNT(lengths); i++) {
            rms_norm_case(ops, lengths[i], 1, 1, 0);
            rms_norm_case(ops, lengths[i], 1e25f, 0, 0); /* squares beyond a float's range */
            rms_norm_case(ops, lengths[i], 1e-4f, 1, 1);
        }
}

static void layer_norm_case(const air_ops *ops, int64_t n, float scale, double shift, int weighted, int in_place)
{
    float eps = 1e-5f, *x = new_floats(n, scale), *weight = weighted ? new_floats(n, 1) : NULL, *bias = weighted > 1 ? new_floats(n, 1) : NULL;
    float *y = in_place ? x : guard_new((size_t)n * sizeof *y, 64);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)(x[i] = (float)((double)x[i] + shift));
    for (int64_t i = 0; i < n; i++) squares += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    for (int64_t i = 0; i < n; i++) {
        want[i] = ((double)x[i] - sum / (double)n) / sqrt(squares / (double)n + (double)eps);
        want[i] = want[i] * (weight ? (double)weight[i] : 1) + (bias ? (double)bias[i] : 0);
    }
    ops->layer_norm(x, weight, bias, y, n, eps);
    /* Rounding a difference from the mean is 2^-24 of what was subtracted from, which after scaling is shift / scale of its own size. */
    double rounding = (1 + fabs(shift) / (double)scale) * 0x1p-24;
    double norm = 1e-30;
    for (int64_t i = 0; i < n; i++) norm += fmax(want[i] * want[i], 1);
    check_error(ops->name, "layer_norm", want, y, n, norm, 2e-14 + 4 * rounding * rounding);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(layer_norm_subtracts_the_mean_and_divides_by_the_deviation)
{
    FOR_EACH_TIER (ops, layer_norm) {
        for (size_t i = 0; i < AIR_COUNT(lengths); i++) {
            layer_norm_case(ops, lengths[i], 1, 0, 2, 0);
            layer_norm_case(ops, lengths[i], 3, 40, 1, 1);
            layer_norm_case(ops, lengths[i], 1e25f, 0, 0, 0); /* squares beyond a float's range */
        }
        float x[9] = {[8] = NAN}, y[9], same[5] = {3, 3, 3, 3, 3};
        ops->layer_norm(x, NULL, NULL, y, 9, 1e-5f);
        CHECK(isnan(y[0]) && isnan(y[8]));
        ops->layer_norm(same, NULL, NULL, y, 5, 0); /* no deviation, no epsilon: 0 / 0 */
        CHECK(isnan(y[0]) || y[0] == 0);
    }
}

static void rope_case(const air_ops *ops, int64_t heads, int64_t head_dim, int64_t pairs, air_rope_pairs kind)
{
    int64_t n = heads * head_dim;
    float *x = new_floats(n, 1), *cosine = guard_new((size_t)pairs * sizeof *x, 64), *sine = guard_new((size_t)pairs * sizeof *x, 64);
    for (int64_t i = 0; i < pairs; i++) {
        double angle = unit() * 100;
        cosine[i] = (float)cos(angle), sine[i] = (float)sin(angle);
    }
    for (int64_t i = 0; i < n; i++) want[i] = (double)x[i];
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < pairs; i++) {
            int64_t a = h * head_dim + (kind == AIR_ROPE_NORMAL ? 2 * i : i), b = kind == AIR_ROPE_NORMAL ? a + 1 : a + pairs;
            want[a] = (double)x[a] * (double)cosine[i] - (double)x[b] * (double)sine[i];
            want[b] = (double)x[a] * (double)sine[i] + (double)x[b] * (double)cosine[i];
        }
    ops->rope(x, heads, head_dim, pairs, kind, cosine, sine);
    check_close(ops->name, kind == AIR_ROPE_NORMAL ? "rope normal" : "rope neox", want, x, n, 2e-14);
    for (int64_t i = 0; i < n; i++) /* what is not rotated stays, bit for bit */
        if (i % head_dim >= 2 * pairs) CHECK((double)x[i] == want[i]);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(rope_rotates_pairs)
{
    static const int64_t pairs[] = {1, 3, 4, 7, 8, 9, 16, 20, 32, 33, 64};
    FOR_EACH_TIER (ops, rope)
        for (size_t i = 0; i < AIR_COUNT(pairs); i++)
            for (int64_t rest = 0; rest < 40; rest += 19)
                for (int64_t heads = 1; heads <= 5; heads += 2) {
                    rope_case(ops, heads, 2 * pairs[i] + rest, pairs[i], AIR_ROPE_NORMAL);
                    rope_case(ops, heads, 2 * pairs[i] + rest, pairs[i], AIR_ROPE_NEOX);
                }
}

static double exact_activation(air_activation f, double x)
{
    switch (f) {
    case AIR_ACTIVATION_SILU: return x / (1 + exp(-x));
    case AIR_ACTIVATION_GELU: return x / (1 + exp(-2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case AIR_ACTIVATION_GELU_ERF: return x / 2 * erfc(-x / sqrt(2));
    case AIR_ACTIVATION_RELU2: return fmax(x, 0) * fmax(x, 0);
    case AIR_ACTIVATION_SWIGLU_OAI: return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7)));
    case AIR_ACTIVATION_SIGMOID: return 1 / (1 + exp(-x));
    default: return x;
    }
}

/* What the gate is multiplied with. */
static double exact_raised(air_activation f, double up) { return f == AIR_ACTIVATION_SWIGLU_OAI ? fmin(fmax(up, -7), 7) + 1 : up; }

static const char *const activation_names[AIR_ACTIVATION_COUNT] = {"none", "silu", "gelu", "gelu_erf", "relu2", "swiglu_oai",
                                                              "sigmoid"};

static void activation_case(const air_ops *ops, air_activation f, int64_t n, float scale, int gated, int in_place)
{
    float *x = new_floats(n, scale), *up = new_floats(n, f == AIR_ACTIVATION_SWIGLU_OAI ? 5 : 1), *y = in_place ? x : guard_new((size_t)n * sizeof *y, 64);
    double norm = 0; /* of inputs, but of squares: far below zero what is wanted is next to nothing, the rounding of a difference */
    for (int64_t i = 0; i < n; i++) {
        double by = gated ? exact_raised(f, (double)up[i]) : 1;
        want[i] = exact_activation(f, (double)x[i]) * by;
        double size = f == AIR_ACTIVATION_RELU2 || f == AIR_ACTIVATION_SIGMOID ? want[i] : (double)x[i] * by;
        norm += size * size;
    }
    if (gated) ops->gated[f](x, up, y, n);
    else ops->activate[f](x, y, n);
    check_error(ops->name, activation_names[f], want, y, n, norm, 5e-14);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(activations_and_gates_of_every_kind)
{
    for (int f = 0; f < AIR_ACTIVATION_COUNT; f++) {
        FOR_EACH_TIER (ops, gated[f])
            for (size_t i = 0; i < AIR_COUNT(lengths); i++)
                for (int in_place = 0; in_place < 2; in_place++)
                    activation_case(ops, (air_activation)f, lengths[i], in_place ? 1 : 10, 1, in_place);
        FOR_EACH_TIER (ops, activate[f])
            for (size_t i = 0; i < AIR_COUNT(lengths); i++)
                for (int in_place = 0; in_place < 2; in_place++)
                    activation_case(ops, (air_activation)f, lengths[i], in_place ? 1 : 10, 0, in_place);
    }
}

TEST(activations_reach_their_limits)
{
    for (int f = AIR_ACTIVATION_SILU; f < AIR_ACTIVATION_COUNT; f++)
        FOR_EACH_TIER (ops, activate[f]) {
            float x[] = {-200, 200, 0, -88, 88, NAN, -90}, ones[] = {1, 1, 1, 1, 1, 1, 1}, y[7], z[7];
            ops->activate[f](x, y, 7);
            ops->gated[f](x, ones, z, 7);
            int squares = f == AIR_ACTIVATION_RELU2, clamps = f == AIR_ACTIVATION_SWIGLU_OAI, ends = f == AIR_ACTIVATION_SIGMOID;
            float high = squares ? 40000 : clamps ? y[4] : ends ? 1 : 200, middle = ends ? 0.5f : 0;
            float less = squares ? 88 * 88 : clamps ? 7 / (1 + expf(-1.702f * 7)) : ends ? 1 : 88;
            CHECK(fabsf(y[0]) < 1e-30f && y[1] == high && y[2] == middle && fabsf(y[3]) < 1e-30f && isnan(y[5]));
            CHECK(fabsf(y[4] - less) <= (clamps ? 1e-6f : 0));
            for (int i = 0; i < 7; i++) CHECK(y[i] * (clamps ? 2 : 1) == z[i] || (isnan(y[i]) && isnan(z[i])));
        }
}

/* Near zero what is wanted is the difference of numbers near 1, so errors are of the cap. */
TEST(softcap_bounds)
{
    FOR_EACH_TIER (ops, softcap) {
        for (size_t i = 0; i < AIR_COUNT(lengths); i++)
            for (float scale = 1; scale < 1e6f; scale *= 40) {
                int64_t n = lengths[i];
                float *x = new_floats(n, scale), cap = 30;
                for (int64_t j = 0; j < n; j++) want[j] = (double)cap * tanh((double)x[j] / (double)cap);
                ops->softcap(x, n, cap);
                for (int64_t j = 0; j < n; j++) CHECK(fabs((double)x[j] - want[j]) <= 4e-7 * (double)cap);
                CHECK(guard_intact());
                guard_free_all();
            }
        float bad[3] = {NAN, INFINITY, -INFINITY};
        ops->softcap(bad, 3, 50);
        CHECK(isnan(bad[0]) && bad[1] == 50 && bad[2] == -50);
    }
}

TEST(add_adds)
{
    FOR_EACH_TIER (ops, add)
        for (size_t i = 0; i < AIR_COUNT(lengths); i++) {
            int64_t n = lengths[i];
            float *x = new_floats(n, 1), *y = new_floats(n, 1), *before = copy_floats(y, n);
            ops->add(y, x, n);
            for (int64_t j = 0; j < n; j++) CHECK(y[j] == before[j] + x[j]);
            CHECK(guard_intact());
            guard_free_all();
        }
}

TEST(f32_to_f16_rounds_as_the_portable_conversion)
{
    FOR_EACH_TIER (ops, f32_to_f16) {
        for (size_t i = 0; i < AIR_COUNT(lengths); i++) {
            int64_t n = lengths[i];
            float *x = guard_new((size_t)n * sizeof *x, 64);
            uint16_t *y = guard_new((size_t)n * sizeof *y, 64);
            for (int round = 0; round < 4; round++) {
                for (int64_t j = 0; j < n; j++) x[j] = round ? gaussian() * ldexpf(1, (int)(check_random() % 46) - 28)
                                                             : air_f32_from_bits((uint32_t)check_random());
                ops->f32_to_f16(x, y, n);
                for (int64_t j = 0; j < n; j++) CHECK_EQ(y[j], air_f32_to_f16(x[j]));
            }
            CHECK(guard_intact());
            guard_free_all();
        }
        for (uint32_t h = 0; h < 0x7bff; h++) { /* both sides of every tie, and the tie */
            float low = air_f16_to_f32((uint16_t)h), tie = low + (air_f16_to_f32((uint16_t)(h + 1)) - low) / 2;
            float x[3] = {nextafterf(tie, 0), tie, nextafterf(tie, INFINITY)};
            uint16_t y[3];
            ops->f32_to_f16(x, y, 3);
            CHECK(y[0] == h && y[1] == h + (h & 1) && y[2] == h + 1);
        }
    }
}

/* ------------------------------------------------------------------ softmax */

static void softmax_case(const air_ops *ops, int64_t n, float scale)
{
    float *x = new_floats(n, scale);
    if (n > 3) x[check_random() % (uint64_t)n] = -INFINITY;
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = (double)x[i] > max ? (double)x[i] : max;
    for (int64_t i = 0; i < n; i++) sum += want[i] = exp((double)x[i] - max);
    for (int64_t i = 0; i < n; i++) want[i] /= sum;
    float log_sum = ops->softmax(x, n);
    CHECK(fabs((double)log_sum - (max + log(sum))) <= 1.2e-7 * fmax(1, fabs(max + log(sum))));
    for (int64_t i = 0; i < n; i++) /* x - max is a float: its rounding moves the exponent by up to 2^-24 of itself */
        CHECK(fabs((double)x[i] - want[i]) <= want[i] * (3e-7 + 6e-8 * fabs(log(want[i] + 1e-45))) + 2e-45);
    CHECK(guard_intact());
    guard_free_all();
}

TEST(softmax_of_every_length_and_size)
{
    FOR_EACH_TIER (ops, softmax)
        for (size_t i = 0; i < AIR_COUNT(lengths); i++) {
            softmax_case(ops, lengths[i], 1);
            softmax_case(ops, lengths[i], 30);
            softmax_case(ops, lengths[i], 1e30f);
        }
}

TEST(softmax_sees_infinities_and_nans)
{
    FOR_EACH_TIER (ops, softmax) {
        float none[3] = {-INFINITY, -INFINITY, -INFINITY}, bad[20] = {[17] = NAN};
        CHECK(ops->softmax(none, 3) == -INFINITY);
        CHECK(none[0] == 0 && none[2] == 0);
        CHECK(isnan(ops->softmax(bad, 20)) && isnan(bad[17]) && isnan(bad[0]));
    }
}

/* The exponential itself, over its whole range: x[0] = 0 is the maximum and all others are so small that the sum stays near 1. */
TEST(softmax_has_an_exponential_right_to_one_and_a_half_units)
{
    FOR_EACH_TIER (ops, softmax) {
        double worst = 0;
        for (double at = -17.5; at > -103; at -= 0.013) {
            float x[2] = {0, (float)at}, in = (float)at;
            ops->softmax(x, 2);
            double exact = exp((double)in), ulp = ldexp(1, (int)fmax(floor(log2(exact)), -126) - 23);
            worst = fmax(worst, fabs((double)x[1] - exact) / ulp);
        }
        CHECK(worst <= 1.5);
        if (worst > 1.5) printf("  %s: %.2f units\n", ops->name, worst);
    }
}

/* ------------------------------------------------------------------ attention */

typedef struct shape {
    int64_t rows, group, head_dim, value_dim, first, positions; /* those the first row attends; each further row one more */
    int64_t window, chunk; /* none: 0 */
    int64_t ahead, stored; /* so many positions after its own, of stored ones; 0: none */
    int64_t own;           /* of the row that exact_attention computes */
    air_state_type type;
    float   softcap, score_scale;
    float   slope, sink; /* of head g: slope / (g + 1), sink - g; none: 0 */
    int     values_in_keys;
} shape;

enum { MAX_BLOCKS = 36 };

typedef struct state {
    char   *blocks[MAX_BLOCKS];
    size_t  offset; /* bytes: the head in a block */
    int64_t dim;
    air_state_part part;
} state;

/* With other heads before it; what no position has been stored to is full of NaNs, in the scales too. */
static state new_state(air_state_part part, int64_t dim, int64_t positions, air_state_type type)
{
    const air_ops *ops = air_ops_tier(AIR_TIER_REF);
    size_t head = air_state_head_bytes(type, dim);
    state s = {.offset = check_random() % 3 * head, .dim = dim, .part = part};
    float *x = new_floats(dim, 1), *scratch = guard_new(air_state_scratch(dim) * sizeof *scratch, 64);
    for (int64_t p = 0; p < positions; p++) {
        char **block = &s.blocks[p / AIR_BLOCK_POSITIONS];
        if (!*block) {
            *block = guard_new(s.offset + head, 64);
            memset(*block, 0xff, s.offset + head);
        }
        for (int64_t i = 0; i < dim; i++) x[i] = gaussian();
        air_state_store(ops, type, part, dim, *block + s.offset, p % AIR_BLOCK_POSITIONS, x, scratch);
    }
    return s;
}

static double state_at(const state *s, air_state_type type, int64_t position, int64_t i)
{
    const char *head = s->blocks[position / AIR_BLOCK_POSITIONS] + s->offset;
    int64_t p = position % 64, padded = (s->dim + 15) / 16 * 16;
    int64_t at = s->part == AIR_STATE_K ? p / 16 * 16 * s->dim + i * 16 + p % 16 : p * padded + i;
    if (type == AIR_STATE_F16) return (double)air_load_f16(head + 2 * at);
    if (type == AIR_STATE_F32) return (double)((const float *)(const void *)head)[at];
    if (type == AIR_STATE_Q4_0) {
        int64_t key = p / 16 * ((s->dim + 1) / 2) * 16 + i / 2 * 16 + p % 16, value = p * padded / 2 + i / 16 * 8 + i % 8;
        int64_t high = s->part == AIR_STATE_K ? i % 2 : i % 16 / 8;
        int byte = (uint8_t)head[s->part == AIR_STATE_K ? key : value];
        return (double)air_load_f16(head + 32 * padded + 2 * (i / 32 * 64 + p)) * (double)((byte >> 4 * high & 15) - 8);
    }
    return (double)air_load_f16(head + 64 * padded + 2 * (i / 32 * 64 + p)) * (double)((const int8_t *)head)[at];
}

TEST(a_stored_position_is_read_where_it_should_lie)
{
    static const double step[AIR_STATE_TYPES] = {[AIR_STATE_F16] = 0x1p-11, [AIR_STATE_F32] = 0, [AIR_STATE_Q8_0] = 1 / 254.0 + 0x1p-11,
                                                  [AIR_STATE_Q4_0] = 1 / 8.0 + 0x1p-11};
    /* Halves below 2^-14 are multiples of 2^-24: what they are off by, and a scale's times what it scales. */
    static const double tiny[AIR_STATE_TYPES] = {[AIR_STATE_F16] = 0x1p-25, [AIR_STATE_Q8_0] = 127 * 0x1p-25, [AIR_STATE_Q4_0] = 8 * 0x1p-25};
    FOR_EACH_TIER (ops, f32_to_f16)
        for (int type = 0; type < AIR_STATE_TYPES; type++)
            for (int64_t dim = 1; dim <= 200; dim += 1 + dim / 7)
                for (int part = 0; part < 2; part++) {
                    size_t bytes = air_state_head_bytes((air_state_type)type, dim);
                    state s = {.blocks = {guard_new(bytes, 64)}, .dim = dim, .part = (air_state_part)part};
                    float *x = new_floats(64 * dim, 1), *scratch = guard_new(air_state_scratch(dim) * sizeof *scratch, 64);
                    for (int64_t p = 63; p >= 0; p--)
                        air_state_store(ops, (air_state_type)type, s.part, dim, s.blocks[0], p, x + p * dim, scratch);
                    CHECK(guard_intact() && bytes % 64 == 0);
                    for (int64_t i = 0; i < 64 * dim; i++) {
                        double most = 0, got = state_at(&s, (air_state_type)type, i / dim, i % dim);
                        for (int64_t e = i % dim / 32 * 32; e < dim && e < i % dim / 32 * 32 + 32; e++)
                            most = fmax(most, fabs((double)x[i / dim * dim + e]));
                        CHECK(fabs(got - (double)x[i]) <= step[type] * most + tiny[type]);
                    }
                    guard_free_all();
                }
}

/* Of one row. Returns what errors are measured against: the sum of want^2, where a value counts at least the sum of its terms' squares,
 * for a lone one near zero is no error of the kernel. */
static double exact_attention(const shape *s, const float *q, const state *k, const state *v, double *out_row)
{
    double p[MAX_BLOCKS * AIR_BLOCK_POSITIONS], norm = 0;
    for (int64_t g = 0; g < s->group; g++) {
        double max = -INFINITY, sum = 0;
        for (int64_t t = s->first; t < s->positions; t++) {
            p[t] = 0;
            for (int64_t i = 0; i < s->head_dim; i++) p[t] += (double)q[g * s->head_dim + i] * state_at(k, s->type, t, i);
            p[t] *= (double)s->score_scale;
            p[t] -= (double)(s->slope / (float)(g + 1)) * fabs((double)(t - s->own));
            if (s->softcap != 0.0f) p[t] = (double)s->softcap * tanh(p[t] / (double)s->softcap);
            max = fmax(max, p[t]);
        }
        for (int64_t t = s->first; t < s->positions; t++) sum += p[t] = exp(p[t] - max);
        if (s->sink != 0.0f) sum += exp((double)(s->sink - (float)g) - max);
        for (int64_t i = 0; i < s->value_dim; i++) {
            double out = 0, squares = 0;
            for (int64_t t = s->first; t < s->positions; t++) {
                double term = p[t] / sum * state_at(v, s->type, t, i);
                out += term, squares += term * term;
            }
            out_row[g * s->value_dim + i] = out;
            norm += fmax(out * out, squares);
        }
    }
    return norm;
}

/* All segments, one after the other. */
static void attend(const air_ops *ops, air_attention_args *a)
{
    for (a->segment = 0; a->segment * AIR_SEGMENT_POSITIONS < air_attention_end(a, a->rows - 1); a->segment++) {
        ops->attention(a);
        ops->attention_merge(a);
    }
}

static void attention_case(const air_ops *ops, shape s)
{
    int64_t q_stride = s.group * s.head_dim + 3, out_stride = s.group * s.value_dim + 5;
    float *q = new_floats(s.rows * q_stride, 1), *out = new_floats(s.rows * out_stride, 1);
    int64_t longest = s.positions + s.rows - 1 > s.stored ? s.positions + s.rows - 1 : s.stored;
    state k = new_state(AIR_STATE_K, s.head_dim, longest, s.type);
    state v = s.values_in_keys ? k : new_state(AIR_STATE_V, s.value_dim, longest, s.type);
    float slopes[9], sinks[9];
    for (int g = 0; g < 9; g++) slopes[g] = s.slope / (float)(g + 1), sinks[g] = s.sink - (float)g;
    size_t scratch = air_attention_scratch(s.rows * s.group, s.head_dim, s.value_dim, s.values_in_keys);
    air_attention_args args = {
        .q = q, .out = out, .scratch = guard_new(scratch * sizeof(float), 64),
        .totals = guard_new((size_t)(s.rows * s.group) * sizeof(air_attention_total), 64),
        .k_blocks = (const void *const *)k.blocks, .v_blocks = s.values_in_keys ? NULL : (const void *const *)v.blocks, .type = s.type,
        .values_in_keys = s.values_in_keys,
        .rows = s.rows, .q_stride = q_stride, .out_stride = out_stride, .positions = s.positions,
        .window = s.window ? s.window : INT64_MAX, .group = s.group, .head_dim = s.head_dim, .value_dim = s.value_dim,
        .k_offset = k.offset, .v_offset = v.offset,
        .scale = s.score_scale, .softcap = s.softcap, .chunk = s.chunk, .ahead = s.ahead, .stored = s.stored,
        .slopes = s.slope != 0.0f ? slopes : NULL, .sinks = s.sink != 0.0f ? sinks : NULL,
    };
    memset(args.scratch, 0xff, scratch * sizeof(float)); /* NaNs: nothing may count on what was there */
    attend(ops, &args);
    CHECK(guard_intact());

    static const char *const names[] = {"attention over F16", "attention over F32", "attention over Q8_0", "attention over Q4_0"};
    /* What rounding moves a score by, absolutely, moves its exponent by relatively; of a lone head it may be all there is. A sum from the
     * first element to the last grows as a walk does, and each step is rounded by so much of it: sqrt(1/6) 2^-24 scale * head_dim, of
     * which as much as five times has been seen. A soft cap is right to some 1e-7 of itself. */
    double walk = (double)s.score_scale * (double)s.head_dim, cap = 2e-7 * (double)s.softcap;
    double gate = 2e-12 + 2e-14 * walk * walk + cap * cap;
    for (int64_t r = 0; r < s.rows; r++) {
        shape one = s;
        one.positions = s.positions + r;
        one.first = s.window && one.positions > s.window ? one.positions - s.window : 0;
        int64_t chunk = s.chunk ? (one.positions - 1) / s.chunk * s.chunk : 0;
        if (chunk > one.first) one.first = chunk;
        one.own = one.positions - 1;
        if (s.ahead) one.positions = one.positions + s.ahead < s.stored ? one.positions + s.ahead : s.stored;
        double norm = exact_attention(&one, q + r * q_stride, &k, &v, want);
        check_error(ops->name, names[s.type], want, out + r * out_stride,
                    s.group * s.value_dim, norm, gate);
    }

    float *alone = new_floats(s.value_dim, 1); /* a head's bits depend neither on the group nor on the rows beside it */
    int64_t g = (int64_t)(check_random() % (uint64_t)s.group), r = (int64_t)(check_random() % (uint64_t)s.rows);
    args.q = q + r * q_stride + g * s.head_dim, args.out = alone, args.group = args.rows = 1, args.positions += r;
    if (args.slopes) args.slopes += g;
    if (args.sinks) args.sinks += g;
    attend(ops, &args);
    CHECK(memcmp(alone, out + r * out_stride + g * s.value_dim, (size_t)s.value_dim * sizeof *alone) == 0);
    guard_free_all();
}

TEST(attention_of_every_shape)
{
    static const int64_t dims[][2] = {{64, 64}, {128, 128}, {1, 1}, {20, 13}, {80, 80}, {96, 50}, {192, 128}, {7, 200}};
    static const int64_t spans[][2] = {{1, 0}, {2, 0}, {17, 0}, {63, 0}, {64, 0}, {65, 0}, {130, 0}, {320, 0}, {6, 1}, {65, 2},
                                       {128, 64}, {200, 130}};
    FOR_EACH_TIER (ops, attention)
        for (size_t d = 0; d < AIR_COUNT(dims); d++)
            for (size_t p = 0; p < AIR_COUNT(spans); p++)
                for (int64_t group = 1; group <= 9; group += 1 + (group > 4))
                    for (int type = 0; type < AIR_STATE_TYPES; type++)
                        attention_case(ops, (shape){.rows = 1 + (int64_t)(d + p) % 5, .group = group, .head_dim = dims[d][0],
                                                    .value_dim = dims[d][1], .positions = spans[p][0], .window = spans[p][1], .type = (air_state_type)type,
                                                    .softcap = group == 3 ? 20.0f : 0, .score_scale = group == 5 ? 3.0f : 0.125f});
}

TEST(attention_merges_segments)
{
    static const int64_t spans[][2] = {{1021, 0}, {1024, 0}, {1025, 0}, {2048, 0}, {2190, 0}, {1100, 90}, {2100, 1030}, {2110, 64}};
    FOR_EACH_TIER (ops, attention_merge)
        for (size_t p = 0; p < AIR_COUNT(spans); p++)
            for (int type = 0; type < AIR_STATE_TYPES; type++)
                attention_case(ops, (shape){.rows = 5, .group = 3, .head_dim = 32, .value_dim = 48, .positions = spans[p][0],
                                            .window = spans[p][1], .type = (air_state_type)type, .score_scale = 0.3f});
}

TEST(attention_with_slopes_sinks_and_chunks)
{
    static const int64_t spans[][2] = {{1, 0}, {40, 16}, {63, 64}, {64, 64}, {65, 64}, {130, 100}, {1020, 200}, {1100, 1000}, {2100, 0}};
    FOR_EACH_TIER (ops, attention)
        for (size_t p = 0; p < AIR_COUNT(spans); p++)
            for (int which = 1; which < 8; which++)
                attention_case(ops, (shape){.rows = 5, .group = 1 + (int64_t)p, .head_dim = 32, .value_dim = 48, .positions = spans[p][0],
                                            .chunk = which & 1 ? spans[p][1] : 0, .slope = which & 2 ? 0.25f : 0,
                                            .sink = which & 4 ? 2.0f : 0, .type = p % 2 ? AIR_STATE_F16 : AIR_STATE_F32,
                                            .softcap = p == 4 ? 20.0f : 0, .score_scale = 0.3f});
}

TEST(attention_ahead)
{
    enum { ALL = INT32_MAX };
    static const int64_t spans[][4] = { /* positions, window, ahead, stored */
        {1, 0, ALL, 5}, {1, 0, ALL, 6}, {1, 0, ALL, 64}, {1, 0, ALL, 65}, {1, 0, ALL, 200}, {60, 0, ALL, 64}, {126, 0, ALL, 130},
        {1, 9, 8, 100}, {40, 9, 8, 100}, {60, 65, 64, 200}, {92, 9, 8, 98}, {120, 129, 128, 300}, {1, 0, ALL, 1025}, {1000, 0, ALL, 1024},
        {1020, 0, ALL, 2100}, {1020, 65, 64, 2100}, {2000, 1030, 1029, 2100},
    };
    FOR_EACH_TIER (ops, attention)
        for (size_t p = 0; p < AIR_COUNT(spans); p++)
            for (int type = 0; type < AIR_STATE_TYPES; type++)
                attention_case(ops, (shape){.rows = 5, .group = 1 + (int64_t)p % 3, .head_dim = 32, .value_dim = 48,
                                            .positions = spans[p][0], .window = spans[p][1], .ahead = spans[p][2], .stored = spans[p][3],
                                            .type = (air_state_type)type, .slope = p % 2 ? 0.25f : 0, .score_scale = 0.3f});
}

TEST(attention_whose_values_are_the_first_elements_of_its_keys)
{
    static const int64_t dims[][2] = {{576, 512}, {40, 32}, {24, 20}, {13, 13}, {7, 5}, {33, 1}};
    static const int64_t spans[][2] = {{1, 0}, {17, 0}, {64, 0}, {65, 0}, {130, 50}, {1030, 0}};
    FOR_EACH_TIER (ops, attention)
        for (size_t d = 0; d < AIR_COUNT(dims); d++)
            for (size_t p = 0; p < AIR_COUNT(spans); p++)
                for (int type = 0; type < AIR_STATE_TYPES; type++)
                    attention_case(ops, (shape){.rows = d ? 3 : 1, .group = d ? 1 + (int64_t)p : 9, .head_dim = dims[d][0], .value_dim = dims[d][1],
                                                .positions = spans[p][0], .window = spans[p][1], .type = (air_state_type)type,
                                                .values_in_keys = 1, .score_scale = d ? 0.3f : 0.06f});
}

/* ------------------------------------------------------------------ sequences */

#include "recurrence.h"

/* ------------------------------------------------------------------ tables */

/* The functions of a table are the words from quantize on: an entry added to ops.h is found here without being named. */
TEST(every_function_of_every_table_was_run)
{
    typedef void (*any_function)(void);
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        const air_ops *ops = air_ops_tier((air_cpu_tier)t);
        for (size_t at = offsetof(air_ops, quantize); ops && at < sizeof *ops; at += sizeof(any_function)) {
            any_function fn;
            memcpy(&fn, (const char *)ops + at, sizeof fn);
            CHECK(fn != NULL);
            if (!ran[t][at]) printf("  %s: the function at offset %zu has no test\n", ops->name, at);
            CHECK(ran[t][at]);
        }
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(quantizing_is_exact_to_half_a_step_and_the_same_everywhere);
    RUN(quantizing_zeros_ties_and_the_unquantizable);
    RUN(rms_norm_divides_by_the_root_of_the_mean_square);
    RUN(layer_norm_subtracts_the_mean_and_divides_by_the_deviation);
    RUN(rope_rotates_pairs);
    RUN(activations_and_gates_of_every_kind);
    RUN(activations_reach_their_limits);
    RUN(softcap_bounds);
    RUN(add_adds);
    RUN(f32_to_f16_rounds_as_the_portable_conversion);
    RUN(softmax_of_every_length_and_size);
    RUN(softmax_sees_infinities_and_nans);
    RUN(softmax_has_an_exponential_right_to_one_and_a_half_units);
    RUN(a_stored_position_is_read_where_it_should_lie);
    RUN(attention_of_every_shape);
    RUN(attention_merges_segments);
    RUN(attention_with_slopes_sinks_and_chunks);
    RUN(attention_ahead);
    RUN(attention_whose_values_are_the_first_elements_of_its_keys);
    RUN(a_convolution_goes_on_over_calls);
    RUN(a_recurrence_has_the_same_bits_however_it_is_cut);
    if (argc < 2) RUN(every_function_of_every_table_was_run);
    return check_end();
}
