/* EmbeddingGemma (arXiv 2509.20354): Gemma 3's layers, read from both ends, and two matrices behind the last norm. */
#include "model/arch.h"

const air_arch air_arch_gemma_embedding = {
    .name = "gemma-embedding",
    .encoder = 1,
    .activation = AIR_ACTIVATION_GELU,
    .rope = AIR_ROPE_NEOX,
    .embed_scale = AIR_EMBED_SCALE_ROOT,
    .norm_place = AIR_NORM_AROUND,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .window_period = 6,
    .window_rope = AIR_WINDOW_ROPE_UNSCALED,
    .window_rope_base = 10000,
};
