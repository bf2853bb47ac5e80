/* backend/host_share.h: what the CPU does for a device: it computes products of tiles that lie in RAM and would take longer over the link,
 * and copies what lies in mapped files to where the device copies from.
 *
 * Made with a pool of its own; called by a device's run (backend.h, air_host_help), on the engine's thread, one call at a time.
 * Its bits are those of the CPU backend, whatever the columns beside one. */
#ifndef AIR_BACKEND_HOST_SHARE_H
#define AIR_BACKEND_HOST_SHARE_H

#include "backend/backend.h"

AIR_BEGIN_C

typedef struct air_host_share air_host_share;

typedef enum air_host_duty { AIR_HOST_COPIES = 1, AIR_HOST_PRODUCTS = 2 } air_host_duty;

/* duties: which of them, added up. Errors: AIR_E_NOMEM, AIR_E_THREAD. */
air_status air_host_share_open(air_host_share **out, const air_program *program, int duties, int threads, int cpu_tier, air_error *err);
void air_host_share_close(air_host_share *share); /* NULL is legal */
/* Memory that products take. */
uint64_t air_host_share_bytes(const air_program *program, int threads);
air_host_help air_host_share_help(air_host_share *share);

AIR_END_C
#endif
