/* Weights that lie in a mapping of their file: the page cache is their home, spans are pointers. */
#include "base/alloc.h"
#include "memory/pager_internal.h"

air_status air__mmap_open(air_pager *p, const char *const *paths, air_error *err)
{
    p->files = air_calloc(p->parts, sizeof *p->files);
    p->mappings = air_calloc(p->parts, sizeof *p->mappings);
    if (!p->files || !p->mappings) return air_fail(err, AIR_E_NOMEM, "pager: mappings of %u files", p->parts);
    for (uint32_t i = 0; i < p->parts; i++) {
        air_error refused;
        air_status st = air_file_open(&p->files[i], paths[i], AIR_FILE_CACHED, err);
        if (st) return st;
        st = air_mapping_open(&p->mappings[i], p->files[i], &refused);
        if (st) return air_fail(err, st, "%s; io \"direct\" reads without a mapping", refused.text);
    }
    return AIR_OK;
}

void air__mmap_close(air_pager *p)
{
    for (uint32_t i = 0; i < p->parts; i++) {
        if (p->mappings) air_mapping_close(p->mappings[i]);
        if (p->files) air_file_close(p->files[i]);
    }
    air_free(p->mappings);
    air_free(p->files);
}

air_status air__mmap_next(void *self, air_span *span, air_error *err)
{
    air_pager *p = self;
    *span = (air_span){0};
    if (air__pager_cancelled(p)) return air_fail(err, AIR_E_CANCELLED, "pass cancelled");
    if (!p->n_tiles) return air_fail(err, AIR_E_ARGUMENT, "the program has no matrices to walk");
    const air_tile *tile = &p->tiles[p->walk % p->n_tiles];
    *span = (air_span){
        .weight = tile->weight,
        .tile = (int32_t)(p->walk % p->n_tiles),
        .stays = 1,
        .first_row = tile->first_row,
        .rows = tile->rows,
        .data = air_mapping_data(p->mappings[tile->part]) + tile->offset,
        .left_out = air__left_out(p, p->walk),
        .slot = p->walk,
    };
    air_mutex_lock(&p->lock);
    p->walk++;
    p->stats.ram_bytes += span->left_out ? 0 : tile->bytes;
    air_mutex_unlock(&p->lock);
    return AIR_OK;
}

int air__mmap_read_ahead(air_pager *p)
{
    if (p->walk || p->touched >= p->n_tiles) return 0;
    const air_tile *tile = &p->tiles[p->touched++];
    air_mapping_touch(p->mappings[tile->part], tile->offset, tile->bytes);
    return 1;
}

air_status air__mmap_check(air_pager *p, air_error *err)
{
    for (uint32_t i = 0; i < p->parts; i++) {
        if (air_mapping_faulted(p->mappings[i]))
            return air_fail(err, AIR_E_CHANGED, "%s: a page of it could not be read; the file has shrunk or its disk fails",
                            air_file_path(p->files[i]));
        air_status st = air_file_check(p->files[i], err);
        if (st) return st;
    }
    return AIR_OK;
}
