/* memory/tiles.h: inside memory/: cuts a program's matrices into tiles and orders them for pinning. Pure. */
#ifndef AIR_MEMORY_TILES_H
#define AIR_MEMORY_TILES_H

#include "memory/plan.h"

/* Rows of one tile when a row takes row_bytes: balanced over the weight, a multiple of 16 (else 8) where tile_bytes allows that. */
int64_t air__tile_rows(const air_weight *weight, uint64_t tile_bytes);

/* Fills plan->tiles, n_tiles, weight_bytes, priority and rank. small_first: of smaller matrices before larger ones. Errors: AIR_E_NOMEM,
 * AIR_E_ARGUMENT (more than INT32_MAX tiles). */
air_status air__plan_tiles(air_plan *plan, const air_program *program, int small_first, air_error *err);

/* Orders the tiles at [first, end) of the priority order so that every number of them from first on is spread evenly over them all. */
void air__plan_spread(air_plan *plan, int32_t first, int32_t end);

/* The largest extent that is read in one small read, a row of a table or a vector, granules at both ends included; 0: none. */
uint64_t air__small_memory(const air_program *program, uint64_t granule);

/* Bytes that hold any row of a table and say which it is, 0: there is none; *rows: of the longest. */
uint64_t air__table_row(const air_program *program, uint64_t *rows);

/* Memory that a tile takes in host memory, as plans count. */
static inline uint64_t air__tile_in_ram(const air_tile *tile) { return air_tile_memory(tile, AIR_PLAN_GRANULE); }

/* The place in the priority order where tiles that bytes of memory hold end, from first on, when each takes what takes says; *memory
 * gets what they take together. */
int32_t air__plan_prefix(const air_plan *plan, int32_t first, uint64_t bytes, uint64_t (*takes)(const air_tile *tile), uint64_t *memory);

#endif
