/* Qwen3 (arXiv 2505.09388): Llama's layer with RMS norms on the heads of q and k, head size apart from the embedding, rope over halves. */
#include "model/arch.h"

const air_arch air_arch_qwen3 = {
    .name = "qwen3",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
};
