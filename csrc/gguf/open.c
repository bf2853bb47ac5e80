/* From paths to a directory. A header's length is not written in it, so it is read in pieces that grow until parse has enough; the
 * file is then closed. The parts of a split set are whole GGUF files, each with its own header, alignment and offsets:
 *
 *     NAME-00001-of-00003.gguf   all metadata, split.no 0, split.count 3, split.tensors.count 291, tensors 0 …
 *     NAME-00002-of-00003.gguf   split.no 1, split.count 3, split.tensors.count 291, tensors …
 *
 * The part that was named says what to expect; the others must agree with it. */
#include "gguf/open.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "gguf/directory.h"
#include "platform/file.h"

enum {
    FIRST_PIECE = 256 * 1024, /* holds the headers of vocabulary-less files and split parts */
    PIECE_GROWTH = 4,         /* each try parses anew from the start, so all the tries together cost 4/3 of the last one */
    MAX_PARTS = 99999,        /* five digits in the name */
    SUFFIX_BYTES = 20,        /* -00002-of-00005.gguf, the form of llama.cpp's gguf-split and of gguf-py */
    SUFFIX_NO = 1, SUFFIX_OF = 6, SUFFIX_COUNT = 10, SUFFIX_EXT = 15, DIGITS = 5,
};

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Puts the file's name before a message that speaks of its contents. */
static air_status in_file(const char *path, const air_error *inner, air_error *err)
{
    return air_fail(err, inner->status, "%s: %s", file_name(path), inner->text);
}

/* ---- one file -------------------------------------------------------------------------------------------------------------- */

/* Lets the buffer hold bytes [0, want) of the file, of which it has *have. */
static air_status read_more(air_file *file, uint8_t **buffer, uint64_t *have, uint64_t want, air_error *err)
{
    uint8_t *larger = air_realloc(*buffer, want ? (size_t)want : 1);
    if (!larger) return air_fail(err, AIR_E_NOMEM, "%s: no memory for %" PRIu64 " bytes of header", air_file_path(file), want);
    *buffer = larger;
    if (want == *have) return AIR_OK;
    air_status st = air_file_read(file, *have, larger + *have, (size_t)(want - *have), err);
    if (!st) *have = want;
    return st;
}

static air_status read_header(const char *path, air_gguf **out, uint64_t *file_bytes, air_error *err)
{
    air_file *file;
    air_error inner;
    uint8_t *buffer = NULL;
    uint64_t have = 0, want = FIRST_PIECE;
    *out = NULL;
    air_status st = air_file_open(&file, path, AIR_FILE_CACHED, err);
    if (st) return st;
    uint64_t total = *file_bytes = air_file_bytes(file);
    for (;;) {
        st = read_more(file, &buffer, &have, air_min_u64(want, total), err);
        if (st) break;
        st = air_gguf_parse(out, buffer, (size_t)have, total, NULL, &want, &inner);
        if (st == AIR_E_IO) { /* cut off: want has grown beyond have */
            want = air_max_u64(want, have * PIECE_GROWTH);
            continue;
        }
        if (st) (void)in_file(path, &inner, err);
        break;
    }
    air_free(buffer);
    air_file_close(file);
    return st;
}

/* ---- split sets ------------------------------------------------------------------------------------------------------------ */

static int five_digits(const char *text, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return 1;
}

/* Whether the name is that of a part; *number counts from 1, as names do. */
static int split_name(const char *path, uint32_t *number, uint32_t *count)
{
    size_t length = strlen(path);
    if (length < SUFFIX_BYTES) return 0;
    const char *s = path + length - SUFFIX_BYTES;
    return s[0] == '-' && memcmp(s + SUFFIX_OF, "-of-", 4) == 0 && strcmp(s + SUFFIX_EXT, ".gguf") == 0 &&
           five_digits(s + SUFFIX_NO, number) && five_digits(s + SUFFIX_COUNT, count);
}

/* The path of part number, by the path of another part of the set. */
static char *part_path(const char *sibling, uint32_t number)
{
    char *path = air_strdup(sibling);
    if (!path) return NULL;
    char *end = path + strlen(path) - SUFFIX_BYTES + SUFFIX_NO + DIGITS;
    for (int i = 0; i < DIGITS; i++, number /= 10) *--end = (char)('0' + number % 10);
    return path;
}

/* What split.no, split.count and split.tensors.count say in one part. */
typedef struct split_keys {
    uint64_t no, count, tensors;
} split_keys;

static air_status read_split_keys(const air_gguf *gguf, const char *path, split_keys *keys, air_error *err)
{
    air_error inner;
    *keys = (split_keys){.no = UINT64_MAX, .tensors = UINT64_MAX};
    air_status st = air_gguf_get_u64(gguf, "split.count", 0, MAX_PARTS, &keys->count, &inner);
    if (st) return in_file(path, &inner, err);
    if (keys->count < 2) return AIR_OK;
    st = air_gguf_get_u64(gguf, "split.no", 0, keys->count - 1, &keys->no, &inner);
    if (!st) st = air_gguf_get_u64(gguf, "split.tensors.count", 0, air_gguf_default_limits.tensors, &keys->tensors, &inner);
    if (st) return in_file(path, &inner, err);
    if (keys->no == UINT64_MAX || keys->tensors == UINT64_MAX)
        return air_fail(err, AIR_E_FORMAT, "%s: split.count is %" PRIu64 ", but %s is missing", file_name(path), keys->count,
                        keys->no == UINT64_MAX ? "split.no" : "split.tensors.count");
    return AIR_OK;
}

/* Without the usual name the other parts cannot be found, and opening one part alone would look like a model with tensors missing. */
static air_status check_name(const char *path, const split_keys *keys, air_error *err)
{
    uint32_t number, count;
    if (split_name(path, &number, &count) && number == keys->no + 1 && count == keys->count) return AIR_OK;
    return air_fail(err, AIR_E_FORMAT, "%s: split.no is %" PRIu64 " and split.count %" PRIu64 ", so its name should end in "
                    "-%05" PRIu64 "-of-%05" PRIu64 ".gguf, or the other parts cannot be found", file_name(path), keys->no, keys->count,
                    keys->no + 1, keys->count);
}

static air_status check_part(const split_keys *part, const split_keys *opened, uint32_t no, const char *path, air_error *err)
{
    static const char *const names[] = {"split.count", "split.no", "split.tensors.count"};
    uint64_t is[] = {part->count, part->no, part->tensors}, should[] = {opened->count, no, opened->tensors};
    for (size_t i = 0; i < AIR_COUNT(names); i++)
        if (is[i] != should[i])
            return air_fail(err, AIR_E_FORMAT, "%s: %s is %" PRIu64 ", but the part opened asks for %" PRIu64, file_name(path), names[i],
                            is[i], should[i]);
    return AIR_OK;
}

static air_status read_part(air_gguf_set *set, air_gguf **part, uint32_t no, const split_keys *opened, air_error *err)
{
    air_error inner;
    split_keys keys;
    char *path = set->paths[no] = part_path(set->paths[opened->no], no + 1);
    if (!path) return air_fail(err, AIR_E_NOMEM, "no memory for the path of part %" PRIu32 " of %" PRIu32, no + 1, set->parts);
    air_status st = read_header(path, part, &set->bytes[no], &inner);
    if (st) return air_fail(err, st, "part %" PRIu32 " of %" PRIu32 ": %s", no + 1, set->parts, inner.text);
    st = read_split_keys(*part, path, &keys, err);
    return st ? st : check_part(&keys, opened, no, path, err);
}

/* Reads every part but the one that is there already. A path is made only when the parts before it were found: split.count
 * alone must not make us take memory. */
static air_status read_parts(air_gguf_set *set, air_gguf **parts, const split_keys *opened, air_error *err)
{
    uint64_t tensors = 0;
    for (uint32_t i = 0; i < set->parts; i++) {
        air_status st = parts[i] ? AIR_OK : read_part(set, &parts[i], i, opened, err);
        if (st) return st;
        tensors += air_gguf_tensor_count(parts[i]);
    }
    if (tensors != opened->tensors)
        return air_fail(err, AIR_E_FORMAT, "%s: split.tensors.count is %" PRIu64 ", but the %" PRIu32 " parts hold %" PRIu64,
                        file_name(set->paths[0]), opened->tensors, set->parts, tensors);
    return AIR_OK;
}

/* Puts the tensors of all parts into the first one's directory. Names are copied, because the other directories go; the first
 * part's old index and array stay behind in its arena, a few kilobytes that are not worth a second pass. */
static air_status merge_parts(const air_gguf_set *set, air_gguf *const *parts, uint64_t count, air_error *err)
{
    air_gguf *to = parts[0];
    air__name_index index;
    air_tensor *tensors = air_arena_alloc(&to->arena, (size_t)count, sizeof *tensors);
    if (!tensors || !air__name_index_init(&index, &to->arena, count, tensors, sizeof *tensors)) goto no_memory;
    uint64_t n = 0;
    for (uint32_t p = 0; p < set->parts; p++) {
        for (uint64_t i = 0; i < parts[p]->n_tensors; i++, n++) {
            air_tensor *t = &tensors[n];
            *t = parts[p]->tensors[i];
            t->part = p;
            t->name.data = air_arena_copy(&to->arena, t->name.data, (size_t)t->name.bytes);
            if (!t->name.data) goto no_memory;
            uint64_t other = air__name_index_add(&index, n);
            if (other == AIR__NOT_FOUND) continue;
            char name[AIR__QUOTED];
            return air_fail(err, AIR_E_FORMAT, "%s: tensor %s is there twice, in part %" PRIu32 " and part %" PRIu32,
                            file_name(set->paths[p]), air__quote(name, t->name), tensors[other].part + 1, p + 1);
        }
    }
    to->tensors = tensors;
    to->n_tensors = n;
    to->tensor_index = index;
    return AIR_OK;

no_memory:
    return air_fail(err, AIR_E_NOMEM, "%s: no memory for a directory of %" PRIu64 " tensors", file_name(set->paths[0]), count);
}

/* Room for count parts, with path as the path of number no. */
static air_status init_parts(air_gguf_set *set, const char *path, uint64_t no, uint64_t count, air_error *err)
{
    set->paths = air_calloc((size_t)count, sizeof *set->paths);
    set->bytes = air_calloc((size_t)count, sizeof *set->bytes);
    if (set->paths && set->bytes) {
        set->parts = (uint32_t)count;
        set->paths[no] = air_strdup(path);
        if (set->paths[no]) return AIR_OK;
    }
    return air_fail(err, AIR_E_NOMEM, "%s: no memory for the paths of %" PRIu64 " parts", file_name(path), count);
}

/* Takes over gguf, the part that was opened. */
static air_status open_split(air_gguf_set *set, const char *path, air_gguf *gguf, uint64_t bytes, const split_keys *keys, air_error *err)
{
    air_gguf **parts = NULL;
    air_status st = check_name(path, keys, err);
    if (!st) st = init_parts(set, path, keys->no, keys->count, err);
    if (!st) {
        parts = air_calloc((size_t)keys->count, sizeof *parts);
        if (!parts) st = air_fail(err, AIR_E_NOMEM, "%s: no memory for %" PRIu64 " parts", file_name(path), keys->count);
    }
    if (st) {
        air_gguf_free(gguf);
        return st;
    }
    parts[keys->no] = gguf;
    set->bytes[keys->no] = bytes;
    st = read_parts(set, parts, keys, err);
    if (!st) st = merge_parts(set, parts, keys->tensors, err);
    if (!st) {
        set->gguf = parts[0];
        parts[0] = NULL;
    }
    for (uint32_t i = 0; i < set->parts; i++) air_gguf_free(parts[i]);
    air_free(parts);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

air_status air_gguf_open(air_gguf_set **out, const char *path, air_error *err)
{
    *out = NULL;
    air_gguf *gguf = NULL;
    uint64_t bytes = 0;
    split_keys keys;
    air_gguf_set *set = air_calloc(1, sizeof *set);
    if (!set) return air_fail(err, AIR_E_NOMEM, "%s: no memory to open it", file_name(path));

    air_status st = read_header(path, &gguf, &bytes, err);
    if (!st) st = read_split_keys(gguf, path, &keys, err);
    if (st) goto fail;
    if (keys.count < 2) {
        st = init_parts(set, path, 0, 1, err);
        if (st) goto fail;
        set->gguf = gguf;
        set->bytes[0] = bytes;
    } else {
        st = open_split(set, path, gguf, bytes, &keys, err);
        gguf = NULL;
        if (st) goto fail;
    }
    *out = set;
    return AIR_OK;

fail:
    air_gguf_free(gguf);
    air_gguf_close(set);
    return st;
}

void air_gguf_close(air_gguf_set *set)
{
    if (!set) return;
    for (uint32_t i = 0; set->paths && i < set->parts; i++) air_free(set->paths[i]);
    air_free(set->paths);
    air_free(set->bytes);
    air_gguf_free(set->gguf);
    air_free(set);
}
