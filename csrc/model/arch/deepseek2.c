/* DeepSeek V2 (arXiv 2405.04434), V3 and R1 (2412.19437), and what files call so: Kimi K2, GLM-4.7-Flash …: latent attention, the first
 * layers dense, then experts, chosen within groups, and shared ones. How they are weighed is in the file, but in those of V2. */
#include "model/arch.h"

const air_arch air_arch_deepseek2 = {
    .name = "deepseek2",
    .latent = 1,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .temper = {.in_all = 1}, /* of Mistral Large 3, where the file says so */
    .experts = {.gating = AIR_GATING_SOFTMAX},
};
