/* quant/encode.h: every encoder on exact-size heap buffers at every alignment (of use under ASan and UBSan), the errors they leave, and
 * what air_convert() refuses. That errors are no larger than other quantisers' is shown by tests/python/test_quantise_formats.py. */
#include <math.h>

#include "check.h"
#include "quant/encode.h"
#include "quant/half.h"

/* Sums of four uniform numbers, of variance 1. */
static float *random_floats(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    if (!x) abort();
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = check_random();
        int sum = (int)(r & 0xffff) + (int)(r >> 16 & 0xffff) + (int)(r >> 32 & 0xffff) + (int)(r >> 48);
        x[i] = ((float)sum - 131070.0f) / 37837.0f;
    }
    return x;
}

/* Encodes a heap copy of exactly the input's size to exactly the output's, offset bytes into one. The caller frees the result. */
static uint8_t *encode_exact(const air_format *f, const float *x, int64_t n, size_t offset, int fill)
{
    size_t count = (size_t)n * f->block, bytes = (size_t)n * f->bytes;
    float *src = malloc(count * sizeof *src);
    uint8_t *dst = malloc(offset + bytes);
    if (!src || !dst) abort();
    memcpy(src, x, count * sizeof *src);
    memset(dst, fill, offset + bytes);
    air_encoder(f->id)(src, dst + offset, n);
    for (size_t i = 0; i < offset; i++) CHECK(dst[i] == (uint8_t)fill);
    free(src);
    return dst;
}

static const air_format *written(size_t i) { return air_encoder(air_format_at(i)->id) ? air_format_at(i) : NULL; }

TEST(every_encoder_reads_and_writes_its_blocks_exactly_at_any_alignment)
{
    enum { BLOCKS = 5 };
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = written(i);
        if (!f) continue;
        float *x = random_floats(BLOCKS * f->block);
        uint8_t *want = encode_exact(f, x, BLOCKS, 0, 0x55);
        for (size_t offset = 0; offset < 16; offset++) {
            uint8_t *got = encode_exact(f, x, BLOCKS, offset, 0xaa); /* another fill: a byte left out would differ */
            CHECK(memcmp(got + offset, want, BLOCKS * f->bytes) == 0);
            free(got);
        }
        free(want);
        free(x);
    }
}

TEST(a_block_encodes_alike_alone_and_among_others)
{
    enum { BLOCKS = 7 };
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = written(i);
        if (!f) continue;
        float *x = random_floats(BLOCKS * f->block);
        for (int64_t b = 0; b < BLOCKS; b++) /* each of another size */
            for (int64_t j = 0; j < f->block; j++) x[b * f->block + j] *= (float)(b * b);
        uint8_t *all = encode_exact(f, x, BLOCKS, 0, 0x55);
        for (int64_t b = 0; b < BLOCKS; b++) {
            uint8_t *one = encode_exact(f, x + b * f->block, 1, 0, 0x55);
            CHECK(memcmp(one, all + b * f->bytes, f->bytes) == 0);
            free(one);
        }
        free(all);
        free(x);
    }
}

/* The error over the root mean square of bell-shaped weights that a search as good as ours leaves: measured, and up to half a per cent. */
TEST(errors_are_as_small_as_they_were)
{
    static const struct { const char *name; double error; } limits[] = {
        {"F32", 0},        {"F16", 0.00021},  {"BF16", 0.00167}, {"Q8_0", 0.00512}, {"Q6_K", 0.0169}, {"Q5_K", 0.03435},
        {"Q5_1", 0.0331},  {"Q5_0", 0.0385},  {"Q4_K", 0.0687},  {"Q4_1", 0.0688},  {"Q4_0", 0.0782}, {"Q3_K", 0.1434},
        {"Q2_K", 0.2817},
    };
    enum { N = 1 << 18 };
    float *x = random_floats(N), *y = malloc(N * sizeof *y);
    uint8_t *blocks = malloc(N * sizeof *x);
    if (!y || !blocks) abort();
    size_t tested = 0;
    for (size_t i = 0; i < AIR_COUNT(limits); i++) {
        const air_format *f = air_format_by_name(limits[i].name);
        double error = 0, all = 0;
        REQUIRE(f && air_encoder(f->id));
        air_encoder(f->id)(x, blocks, N / f->block);
        f->decode(blocks, y, N / f->block);
        for (int j = 0; j < N; j++) {
            error += ((double)y[j] - (double)x[j]) * ((double)y[j] - (double)x[j]);
            all += (double)x[j] * (double)x[j];
        }
        error = sqrt(error / all);
        printf("  %s: %.6f\n", f->name, error);
        CHECK(error <= limits[i].error);
        tested++;
    }
    for (size_t i = 0; i < air_format_count(); i++) tested -= written(i) != NULL;
    CHECK_EQ(tested, 0);
    free(x);
    free(y);
    free(blocks);
}

/* FNV-1a. */
static uint64_t hash(uint64_t h, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Sums in one order, no fused operations, square roots and quotients that are IEEE's: what is recorded here is what every CPU and every
 * compiler makes of these floats. */
TEST(blocks_have_the_same_bits_on_every_cpu)
{
    enum { N = 256 * 64 };
    float *x = malloc(N * sizeof *x);
    uint8_t *blocks = malloc(N * sizeof *x);
    if (!x || !blocks) abort();
    uint32_t r = 12345;
    for (int i = 0; i < N; i++) {
        r = r * 1664525u + 1013904223u;
        x[i] = ((float)(int32_t)r * 0x1p-31f) * (r & 0x3f00 ? 1.0f : 4.0f);
    }
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = written(i);
        if (!f) continue;
        air_encoder(f->id)(x, blocks, N / f->block);
        h = hash(h, blocks, N / f->block * f->bytes);
    }
    CHECK_EQ(h, UINT64_C(0x7910406168330669));
    free(x);
    free(blocks);
}

TEST(bfloat16_rounds_to_the_nearest_ties_to_even)
{
    static const struct { uint32_t bits; uint16_t want; } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},
        {0xbf818000, 0xbf82}, {0x7f7f8000, 0x7f80}, {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x00008001, 0x0001},
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffc12345, 0xffc1},
    };
    for (size_t i = 0; i < AIR_COUNT(cases); i++) CHECK_EQ(air_f32_to_bf16(air_f32_from_bits(cases[i].bits)), cases[i].want);
}

/* air_convert() from F32 to a type, of n elements that are 0 but for the one at `at`. */
static air_status convert(const char *to, int64_t n, int64_t at, float value, air_error *err)
{
    float *x = calloc((size_t)n, sizeof *x);
    uint8_t *out = malloc((size_t)n * 4);
    if (!x || !out) abort();
    if (n) x[at] = value;
    air_status st = air_convert(air_format_by_name("F32"), air_format_by_name(to), x, out, n, 1000000, err);
    free(x);
    free(out);
    return st;
}

TEST(what_is_no_number_or_too_large_is_refused_by_its_place)
{
    air_error err;
    CHECK_EQ(convert("Q4_K", 8192, 8191, NAN, &err), AIR_E_NUMERIC);
    CHECK(strstr(err.text, "element 1008191 is NaN"));
    CHECK_EQ(convert("F32", 8192, 4096, INFINITY, &err), AIR_OK); /* a copy */
    CHECK_EQ(convert("BF16", 8192, 4096, INFINITY, &err), AIR_E_NUMERIC);
    CHECK(strstr(err.text, "element 1004096 is infinite"));
    CHECK_EQ(convert("Q8_0", 64, 3, 65504, &err), AIR_OK);
    CHECK_EQ(convert("Q8_0", 64, 3, -65505, &err), AIR_E_NUMERIC);
    CHECK(strstr(err.text, "element 1000003 is -65505, but Q8_0 holds numbers up to 65504"));
    CHECK_EQ(convert("BF16", 64, 3, 3.4e38f, &err), AIR_E_NUMERIC);
}

TEST(parts_of_blocks_and_types_that_are_not_written_are_refused)
{
    air_error err;
    CHECK_EQ(convert("Q4_K", 128, 0, 0, &err), AIR_E_ARGUMENT);
    CHECK(strstr(err.text, "128 elements are not whole blocks"));
    CHECK_EQ(convert("IQ4_XS", 256, 0, 0, &err), AIR_E_UNSUPPORTED);
    CHECK(strstr(err.text, "IQ4_XS"));
    CHECK_EQ(convert("Q4_K", 0, 0, 0, &err), AIR_OK);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(every_encoder_reads_and_writes_its_blocks_exactly_at_any_alignment);
    RUN(a_block_encodes_alike_alone_and_among_others);
    RUN(errors_are_as_small_as_they_were);
    RUN(blocks_have_the_same_bits_on_every_cpu);
    RUN(bfloat16_rounds_to_the_nearest_ties_to_even);
    RUN(what_is_no_number_or_too_large_is_refused_by_its_place);
    RUN(parts_of_blocks_and_types_that_are_not_written_are_refused);
    return check_end();
}
