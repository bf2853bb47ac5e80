/* backend/host_share.h: what the CPU computes of a device's products: those of tiles that lie in RAM and would take longer over the link.
 *
 * Made with a pool of its own; called by a device's run (backend.h, air_host_products), on the engine's thread, one product at a time.
 * Its bits are those of the CPU backend, whatever the columns beside one. */
#ifndef AIR_BACKEND_HOST_SHARE_H
#define AIR_BACKEND_HOST_SHARE_H

#include "backend/backend.h"

AIR_BEGIN_C

typedef struct air_host_share air_host_share;

/* Errors: AIR_E_NOMEM, AIR_E_THREAD. */
air_status air_host_share_open(air_host_share **out, const air_program *program, int threads, int cpu_tier, air_error *err);
void air_host_share_close(air_host_share *share); /* NULL is legal */
/* Memory that it takes. */
uint64_t air_host_share_bytes(const air_program *program, int threads);
air_host_products air_host_share_products(air_host_share *share);

AIR_END_C
#endif
