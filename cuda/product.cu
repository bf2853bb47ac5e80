/* Which product a type has, and the tables that some of them look weights up in. */
#include "cuda/kernels.h"
#include "cuda/tables.cuh"
#include "quant/iq_tables.h"

/* formats.def brings the types; product_*.cu define these, of every one that is a MATRIX's. */
#define DECLARE_STORAGE(name)
#define DECLARE_MATRIX(name) cudaError_t air_cuda_product_##name(const air_cuda_product *p, cudaStream_t stream);
#define FORMAT(name, id, block, bytes, decode, role) DECLARE_##role(name)
#include "quant/formats.def"
#undef FORMAT

typedef cudaError_t (*product_fn)(const air_cuda_product *p, cudaStream_t stream);

static product_fn product_of(uint32_t type)
{
    switch (type) {
#define CASE_STORAGE(name)
#define CASE_MATRIX(name) case AIR_TYPE_##name: return air_cuda_product_##name;
#define FORMAT(name, id, block, bytes, decode, role) CASE_##role(name)
#include "quant/formats.def"
#undef FORMAT
    default: return nullptr;
    }
}

int air_cuda_product_supports(uint32_t type)
{
    return product_of(type) != nullptr;
}

cudaError_t air_cuda_product_run(const air_cuda_product *p, cudaStream_t stream)
{
    product_fn fn = product_of(p->type);
    if (!fn || p->rows < 1 || p->k < 1 || p->n < 1) return cudaErrorInvalidValue;
    return fn(p, stream);
}

/* --- tables --- */

/* Nibble j: which of 8, 25, 43. */
static uint32_t packed_iq2(const uint8_t *point)
{
    uint32_t packed = 0;
    for (int j = 0; j < 8; j++) packed |= (point[j] == 8 ? 0u : point[j] == 25 ? 1u : 2u) << 4 * j;
    return packed;
}

static uint32_t packed_iq3(const uint8_t *point)
{
    uint32_t packed = 0;
    for (int j = 0; j < 4; j++) packed |= (uint32_t)point[j] << 8 * j;
    return packed;
}

/* Two bits each. */
static uint16_t packed_iq1(const int8_t *point)
{
    static const int at[8] = {0, 8, 4, 12, 2, 10, 6, 14};
    uint32_t packed = 0;
    for (int j = 0; j < 8; j++) packed |= (uint32_t)(point[j] + 1) << at[j];
    return (uint16_t)packed;
}

size_t air_cuda_tables_bytes(void)
{
    return sizeof(air_cuda_tables);
}

void air_cuda_tables_fill(void *host)
{
    air_cuda_tables *t = static_cast<air_cuda_tables *>(host);
    for (int i = 0; i < 256; i++) t->iq2_xxs[i] = packed_iq2(air_grid_iq2_xxs[i]);
    for (int i = 0; i < 512; i++) t->iq2_xs[i] = packed_iq2(air_grid_iq2_xs[i]);
    for (int i = 0; i < 1024; i++) t->iq2_s[i] = packed_iq2(air_grid_iq2_s[i]);
    for (int i = 0; i < 256; i++) t->iq3_xxs[i] = packed_iq3(air_grid_iq3_xxs[i]);
    for (int i = 0; i < 512; i++) t->iq3_s[i] = packed_iq3(air_grid_iq3_s[i]);
    for (int i = 0; i < 2048; i++) t->iq1[i] = packed_iq1(air_grid_iq1[i]);
}
