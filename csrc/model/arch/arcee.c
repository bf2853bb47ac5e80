/* AFM-4.5B of Arcee: Llama's attention, a plain feed-forward of squared ReLUs. */
#include "model/arch.h"

const air_arch air_arch_arcee = {
    .name = "arcee",
    .rope = AIR_ROPE_NORMAL,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_RELU2,
};
