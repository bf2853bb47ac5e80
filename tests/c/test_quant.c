/* quant/: the small floats against slow arithmetic in double, the table of formats, and every decoder on exact-size heap buffers of
 * random bytes at every alignment (of use under ASan and UBSan). That decoders give the right floats is shown by
 * tests/python/test_quant_formats.py, against the gguf package. */
#include <math.h>

#include "check.h"
#include "quant/blocks.h"
#include "quant/format.h"
#include "quant/iq_tables.h"

/* The value of a binary float of sign, e bits of exponent and f of fraction, from the definition in IEEE 754. */
static double small_float(uint32_t bits, int e, int f)
{
    uint32_t fraction = bits & ((1u << f) - 1), exponent = bits >> f & ((1u << e) - 1), all_ones = (1u << e) - 1;
    int bias = (1 << (e - 1)) - 1;
    double sign = bits >> (e + f) & 1 ? -1 : 1;
    if (exponent == all_ones) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - f);
    return sign * ldexp((1u << f) + fraction, (int)exponent - bias - f);
}

/* Sign and magnitude of the small float nearest to x, ties to even: x in units of the last place of its binade, rounded by rint. */
static uint32_t round_to_small(double x, int e, int f)
{
    int bias = (1 << (e - 1)) - 1, exponent;
    uint32_t sign = (signbit(x) ? 1u : 0u) << (e + f), infinity = ((1u << e) - 1) << f;
    if (isinf(x)) return sign | infinity;
    x = fabs(x);
    if (x == 0) return sign;
    frexp(x, &exponent);                                    /* x in [2^(exponent-1), 2^exponent) */
    int binade = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    double units = rint(ldexp(x, f - binade));
    uint32_t bits = ((uint32_t)(binade + bias - 1) << f) + (uint32_t)units;     /* the implicit bit adds one to the exponent */
    return sign | (bits > infinity ? infinity : bits);
}

static int same_float(float a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && !signbit(a) == !signbit(b));
}

TEST(every_half_widens_exactly)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        CHECK(same_float(air_f16_to_f32((uint16_t)h), small_float(h, 5, 10)));
        CHECK(same_float(air_bf16_to_f32((uint16_t)h), small_float(h, 8, 7)));
    }
}

TEST(every_half_survives_the_round_trip)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        int is_nan = (h & 0x7fff) > 0x7c00;
        CHECK_EQ(air_f32_to_f16(air_f16_to_f32((uint16_t)h)), is_nan ? h | 0x200 : h);
    }
}

static void check_narrowing(uint32_t bits)
{
    float f = air_f32_from_bits(bits);
    uint16_t half = air_f32_to_f16(f);
    if (isnan(f)) CHECK((half & 0x7e00) == 0x7e00 && half >> 15 == bits >> 31);
    else CHECK_EQ(half, round_to_small(f, 5, 10));
}

/* For each upper 18 bits (all that a half keeps but one): below, at and above a half's tie. */
TEST(floats_narrow_to_the_nearest_half_ties_to_even)
{
    static const uint32_t low[] = { 0, 1, 0x1fff, 0x2000, 0x2001, 0x3fff, 0xfff, 0x1000, 0x1001 };
    for (uint32_t high = 0; high < 1u << 18; high++)
        for (size_t i = 0; i < AIR_COUNT(low); i++) check_narrowing(high << 14 | low[i]);
    for (int i = 0; i < 1000000; i++) check_narrowing((uint32_t)check_random());
}

TEST(scales_of_four_bit_floats_are_halved_powers_and_e4m3)
{
    for (uint32_t e = 0; e < 256; e++) {
        CHECK(same_float(air_e8m0_half_to_f32((uint8_t)e), ldexp(1, (int)e - 128)));
        double want = (e & 0x78) == 0x78 ? ldexp(8 + (e & 7), 5) : small_float(e & 0x7f, 4, 3);     /* no infinities, no NaN */
        if (e == 0x7f) want = 0;
        CHECK(same_float(air_ue4m3_half_to_f32((uint8_t)e), want / 2));
    }
}

TEST(loads_are_little_endian_at_any_address)
{
    const uint8_t bytes[] = { 0xaa, 0x01, 0x3c, 0x56, 0x78 };
    CHECK_EQ(air_load_u16(bytes + 1), 0x3c01);
    CHECK_EQ(air_load_u32(bytes + 1), 0x78563c01);
    CHECK(air_load_f16(bytes + 1) == 1.0f + 0x1p-10f);
}

TEST(the_table_is_sorted_and_finds_every_format)
{
    uint32_t next_id = 0;
    REQUIRE(air_format_count() > 0);
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        REQUIRE(f);
        CHECK(f->id >= next_id);
        next_id = f->id + 1;
        CHECK(f->block > 0 && f->bytes > 0 && f->decode);
        CHECK(f->role == AIR_FORMAT_MATRIX || f->role == AIR_FORMAT_STORAGE);
        CHECK(air_format_by_id(f->id) == f);
        CHECK(air_format_by_name(f->name) == f);
    }
    CHECK_EQ(AIR_TYPE_COUNT, next_id);
    CHECK(air_format_at(air_format_count()) == NULL);
    CHECK(air_format_at(SIZE_MAX) == NULL);
}

TEST(withdrawn_and_unknown_types_are_unknown)
{
    static const uint32_t absent[] = { 4, 5, 31, 32, 33, 36, 37, 38, AIR_TYPE_COUNT, 1000, UINT32_MAX };
    for (size_t i = 0; i < AIR_COUNT(absent); i++) CHECK(air_format_by_id(absent[i]) == NULL);
    CHECK(air_format_by_name("Q4_2") == NULL);
    CHECK(air_format_by_name("q4_k") == NULL);
    CHECK(air_format_by_name("") == NULL);
}

TEST(names_and_sizes_are_those_of_the_enum)
{
    CHECK_STR_EQ(air_format_by_id(AIR_TYPE_Q4_K)->name, "Q4_K");
    CHECK_EQ(AIR_TYPE_Q4_K, 12);
    CHECK_EQ(air_format_by_id(AIR_TYPE_Q4_K)->bytes, sizeof(air_block_q4_k));
    CHECK_EQ(air_format_by_id(AIR_TYPE_Q8_0)->bytes, sizeof(air_block_q8_0));
    CHECK_EQ(air_format_by_id(AIR_TYPE_F32)->role, AIR_FORMAT_MATRIX);
    CHECK_EQ(air_format_by_id(AIR_TYPE_Q8_K)->role, AIR_FORMAT_STORAGE);
}

TEST(a_q4_0_block_decodes_as_drawn)
{
    uint8_t block[18] = { 0x00, 0xc0 };                     /* d = -2 */
    float got[32];
    for (int j = 0; j < 16; j++) block[2 + j] = (uint8_t)(j | (15 - j) << 4);
    air_decode_q4_0(block, got, 1);
    for (int j = 0; j < 16; j++) {
        CHECK(got[j] == -2.0f * (float)(j - 8));
        CHECK(got[16 + j] == -2.0f * (float)(7 - j));
    }
}

TEST(integers_round_to_the_nearest_float)
{
    const int64_t wide[] = { 0, -1, INT64_MIN, INT64_MAX, 16777217, 16777219 };
    const float want[] = { 0, -1, -0x1p63f, 0x1p63f, 16777216, 16777220 };
    float got[AIR_COUNT(wide)];
    air_decode_i64(wide, got, AIR_COUNT(wide));
    for (size_t i = 0; i < AIR_COUNT(wide); i++) CHECK(got[i] == want[i]);
}

TEST(seven_signs_are_completed_to_an_even_number)
{
    for (uint32_t seven = 0; seven < 128; seven++) {
        uint8_t eight = air_iq_eight_signs(seven);
        int negative = 0;
        for (int j = 0; j < 8; j++) negative += eight >> j & 1;
        CHECK_EQ(eight & 127, seven);
        CHECK_EQ(negative % 2, 0);
    }
}

/* Decodes n blocks that begin offset bytes into an allocation and end with it, into an allocation of exactly the result's size
 * prefilled with fill. The caller frees the result. */
static float *decode_exact(const air_format *f, const uint8_t *blocks, int64_t n, size_t offset, int fill)
{
    size_t bytes = (size_t)n * f->bytes, count = (size_t)n * f->block;
    uint8_t *src = malloc(offset + bytes);
    float *dst = malloc(count * sizeof *dst);
    if (!src || !dst) abort();
    memcpy(src + offset, blocks, bytes);
    memset(dst, fill, count * sizeof *dst);
    f->decode(src + offset, dst, n);
    CHECK(memcmp(src + offset, blocks, bytes) == 0);
    free(src);
    return dst;
}

static uint8_t *random_blocks(const air_format *f, int64_t n)
{
    size_t bytes = (size_t)n * f->bytes;
    uint8_t *blocks = malloc(bytes);
    if (!blocks) abort();
    for (size_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)check_random();
    return blocks;
}

TEST(every_decoder_reads_and_writes_its_blocks_exactly_at_any_alignment)
{
    enum { BLOCKS = 5 };
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        uint8_t *blocks = random_blocks(f, BLOCKS);
        size_t result = BLOCKS * f->block * sizeof(float);
        float *want = decode_exact(f, blocks, BLOCKS, 0, 0x55);
        for (size_t offset = 0; offset < 16; offset++) {
            float *got = decode_exact(f, blocks, BLOCKS, offset, 0xaa);     /* another fill: an element left out would differ */
            CHECK(memcmp(got, want, result) == 0);
            free(got);
        }
        free(want);
        free(blocks);
    }
}

TEST(a_block_decodes_alike_alone_and_among_others)
{
    enum { BLOCKS = 3 };
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        uint8_t *blocks = random_blocks(f, BLOCKS);
        float *all = decode_exact(f, blocks, BLOCKS, 0, 0x55);
        for (size_t b = 0; b < BLOCKS; b++) {
            float *one = decode_exact(f, blocks + b * f->bytes, 1, 0, 0x55);
            CHECK(memcmp(one, all + b * f->block, f->block * sizeof *one) == 0);
            free(one);
        }
        free(all);
        free(blocks);
    }
}

TEST(no_blocks_write_nothing)
{
    for (size_t i = 0; i < air_format_count(); i++) {
        uint8_t src = 0;
        float dst = 1234.0f;
        air_format_at(i)->decode(&src, &dst, 0);
        CHECK(dst == 1234.0f);
    }
}

/* Whatever the bytes, no decoder may read or write elsewhere or do what C leaves undefined. */
TEST(random_bytes_decode_without_harm)
{
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        for (int round = 0; round < 300; round++) {
            int64_t n = 1 + (int64_t)(check_random() % 7);
            uint8_t *blocks = random_blocks(f, n);
            if (round % 3) memset(blocks, round % 3 == 1 ? 0xff : 0, f->bytes);     /* extremes in the first block */
            free(decode_exact(f, blocks, n, check_random() % 4, 0));
            free(blocks);
        }
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(every_half_widens_exactly);
    RUN(every_half_survives_the_round_trip);
    RUN(floats_narrow_to_the_nearest_half_ties_to_even);
    RUN(scales_of_four_bit_floats_are_halved_powers_and_e4m3);
    RUN(loads_are_little_endian_at_any_address);
    RUN(the_table_is_sorted_and_finds_every_format);
    RUN(withdrawn_and_unknown_types_are_unknown);
    RUN(names_and_sizes_are_those_of_the_enum);
    RUN(a_q4_0_block_decodes_as_drawn);
    RUN(integers_round_to_the_nearest_float);
    RUN(seven_signs_are_completed_to_an_even_number);
    RUN(every_decoder_reads_and_writes_its_blocks_exactly_at_any_alignment);
    RUN(a_block_decodes_alike_alone_and_among_others);
    RUN(no_blocks_write_nothing);
    RUN(random_bytes_decode_without_harm);
    return check_end();
}
