/* backend/adapter.h: low-rank additions to products (LoRA, arXiv 2106.09685): W x + scale * B (A x), for some of a program's weights.
 *
 * Owned by the engine (engine/adapter.c) and read by a backend while it runs a pass, but for scratch, which is the pass's. Weights of the
 * model are not touched, so sequences with different adapters, and with none, share a pass. Where a device computes, A and B lie in its
 * memory, B the other way round, so that neighbouring threads, which have neighbouring rows, read neighbouring numbers. */
#ifndef AIR_BACKEND_ADAPTER_H
#define AIR_BACKEND_ADAPTER_H

#include <stdint.h>

#include "backend/op.h"

AIR_BEGIN_C

typedef struct air_adapter_part { /* of one weight */
    int64_t rank;   /* 0: none */
    const float *a; /* [rank][cols] */
    const float *b; /* [rows][rank], rows of this weight; of a device [rank], step from one to the next, and then rows */
    int64_t step;
} air_adapter_part;

typedef struct air_adapter {
    const air_adapter_part *parts; /* [n_weights] */
    const air_adapter_part *on_device; /* the same in the device's memory; NULL: the CPU computes */
    int64_t rank_most;
    float *scratch;                /* of the CPU: [air_adapter_products][rows of a pass][rank_most]: A x of products with one input */
    int64_t scratch_rows;
} air_adapter;

/* What a sequence's rows have. adapter NULL: nothing. */
typedef struct air_adapted {
    const air_adapter *adapter;
    float scale;
} air_adapted;

/* The most products that may be computed from one input together: those that follow each other in the program. */
static inline int64_t air_adapter_products(const air_program *program)
{
    int64_t most = 0, run = 0;
    for (int32_t i = 0; i < program->n_ops; i++) {
        run = program->ops[i].kind == AIR_OP_PRODUCT ? run + 1 : 0;
        if (run > most) most = run;
    }
    return most;
}

AIR_END_C
#endif
