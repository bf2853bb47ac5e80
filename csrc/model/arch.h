/* model/arch.h: an architecture as data: what of the shared blocks it uses, and the few things it does its own way.
 *
 * The shared blocks (model/blocks) read these fields; no other place asks for an architecture by name. */
#ifndef AIR_MODEL_ARCH_H
#define AIR_MODEL_ARCH_H

#include "model/builder.h"

AIR_BEGIN_C

typedef enum air_qk_norm { AIR_QK_NORM_NONE, AIR_QK_NORM_PER_HEAD /* RMS norm of each head of q and k, before rope */ } air_qk_norm;
struct air_arch {
    const char *name;
    air_rope_pairs rope;
    air_qk_norm qk_norm;
    air_bias qkv_bias, attention_out_bias, ffn_bias;
};

/* Blocks: each appends its ops to the program and returns the buffer that holds the result. A failure is kept in the builder. */
int32_t air__block_embed(air_builder *b);
int32_t air__block_norm(air_builder *b, int32_t layer, int32_t in, const char *weight);
void air__block_attention(air_builder *b, int32_t layer, int32_t x);
void air__block_ffn(air_builder *b, int32_t layer, int32_t x);
void air__block_head(air_builder *b, int32_t x);

#define ARCH(name) extern const air_arch air_arch_##name;
#include "model/archs.def"
#undef ARCH

AIR_END_C
#endif
