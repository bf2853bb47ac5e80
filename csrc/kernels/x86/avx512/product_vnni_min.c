/* AVX-512 VNNI products of Q4_K and Q5_K: how each becomes a tile; product_min.h has the rest. */
#include "product_min.h"

/* Low nibbles are an even group's weights, high ones the next group's: left where they are, times 16. */
AIR_INLINE void decode_q4_k(const uint8_t *w, __m512i out[4])
{
    const air_block_q4_k *b = (const air_block_q4_k *)w;
    __m512i a = _mm512_loadu_si512(b->qs), c = _mm512_loadu_si512(b->qs + 64);
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        __m512i v = i == 0 ? _mm512_shuffle_i64x2(a, c, 0x88) : _mm512_shuffle_i64x2(a, c, 0xdd);
        out[i] = _mm512_and_si512(v, _mm512_set1_epi8(15));
        out[2 + i] = _mm512_and_si512(v, _mm512_set1_epi8(-16));
    }
}

/* Bit g of qh[l] is bit 4 of weight l of group g: half i of the groups finds it in half i of qh. */
AIR_INLINE void decode_q5_k(const uint8_t *w, __m512i out[4])
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    __m512i a = _mm512_loadu_si512(b->qs), c = _mm512_loadu_si512(b->qs + 64), bits = _mm512_set1_epi8(15);
    __m512i even = _mm512_setr_epi64(0x0101010101010101, 0x0101010101010101, 0x0404040404040404, 0x0404040404040404,
                                     0x1010101010101010, 0x1010101010101010, 0x4040404040404040, 0x4040404040404040);
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        __m512i v = i == 0 ? _mm512_shuffle_i64x2(a, c, 0x88) : _mm512_shuffle_i64x2(a, c, 0xdd);
        __m512i qh = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(b->qh + 16 * i)));
        __m512i low = _mm512_and_si512(v, bits), high = _mm512_and_si512(_mm512_srli_epi16(v, 4), bits);
        out[i] = _mm512_mask_add_epi8(low, _mm512_test_epi8_mask(qh, even), low, _mm512_set1_epi8(16));
        out[2 + i] = _mm512_mask_add_epi8(high, _mm512_test_epi8_mask(qh, _mm512_add_epi8(even, even)), high, _mm512_set1_epi8(16));
    }
}

PRODUCT(q4_k, .odd_shift = 4, .bytes = sizeof(air_block_q4_k), .scales = offsetof(air_block_q4_k, scales))
PRODUCT(q5_k, .bytes = sizeof(air_block_q5_k), .scales = offsetof(air_block_q5_k, scales))

const air_ops air__avx512_vnni_min = {
    .product = {
        [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},
    },
};
