/* Opening GGUF files and split sets. argv[1] selects tests; argv[2], or AIRPY_MALFORMED, is a folder written by
 * tests/golden/make_malformed.py, whose table is then run too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <inttypes.h>
#include <regex.h>
#include <unistd.h>

#include "base/alloc.h"
#include "check.h"
#include "gguf/open.h"
#include "gguf_bytes.h"
#include "platform/clock.h"

static char folder[256]; /* for files of this run */
static const char *malformed;

static const char *path_of(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const bytes *b)
{
    FILE *f = fopen(path_of(name), "wb");
    CHECK(f && fwrite(b->data, 1, b->count, f) == b->count && fclose(f) == 0);
}

/* ---- files ----------------------------------------------------------------------------------------------------------------- */

static void put_part(bytes *b, uint16_t no, uint16_t count, uint32_t tensors)
{
    put_start(b, 3, tensors, no ? 3 : 4);
    put_key(b, "split.no", AIR_GGUF_U16); put(b, &no, 2);
    put_key(b, "split.count", AIR_GGUF_U16); put(b, &count, 2);
    put_key(b, "split.tensors.count", AIR_GGUF_I32); put_u32(b, tensors * count);
    if (!no) put_key(b, "general.architecture", AIR_GGUF_STRING), put_string(b, "llama");
    for (uint32_t i = 0; i < tensors; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "t%" PRIu32, no * tensors + i);
        put_tensor(b, name, 8, 1, AIR_TYPE_F32, 32 * (uint64_t)i);
    }
    pad(b, 32);
    put(b, NULL, 32 * (size_t)tensors);
}

enum { PARTS = 3 };
static const char *const part_names[PARTS] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};

static void write_set(uint32_t tensors) /* in each part */
{
    for (uint16_t i = 0; i < PARTS; i++) {
        bytes b = {0};
        put_part(&b, i, PARTS, tensors);
        write_file(part_names[i], &b);
        release(&b);
    }
}

TEST(any_part_opens_the_whole_set)
{
    write_set(2);
    for (int opened = 0; opened < PARTS; opened++) {
        air_gguf_set *set;
        air_error err;
        air_status st = air_gguf_open(&set, path_of(part_names[opened]), &err);
        if (st) printf("  %s\n", err.text);
        REQUIRE(!st && set->parts == PARTS);
        CHECK(air_gguf_find(set->gguf, "general.architecture"));
        CHECK_EQ(air_gguf_tensor_count(set->gguf), 2 * PARTS);
        for (uint32_t i = 0; i < 2 * PARTS; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "t%" PRIu32, i);
            const air_tensor *t = air_gguf_tensor(set->gguf, name);
            REQUIRE(t);
            CHECK_EQ(t->part, i / 2);
            CHECK_EQ(t->offset + t->bytes, set->bytes[t->part] - (i % 2 ? 0 : 32));
        }
        for (int i = 0; i < PARTS; i++) CHECK_STR_EQ(set->paths[i], path_of(part_names[i]));
        air_gguf_close(set);
    }
}

TEST(a_file_that_is_no_part_is_a_set_of_one)
{
    bytes b = {0};
    put_every_type(&b);
    write_file("one.gguf", &b);
    air_gguf_set *set;
    REQUIRE(air_gguf_open(&set, path_of("one.gguf"), NULL) == AIR_OK);
    CHECK_EQ(set->parts, 1);
    CHECK_EQ(set->bytes[0], b.count);
    CHECK_STR_EQ(set->paths[0], path_of("one.gguf"));
    air_gguf_close(set);
    release(&b);
}

TEST(a_long_header_without_data_opens)
{
    bytes b = {0};
    put_vocabulary(&b, 0);
    write_file("vocabulary.gguf", &b); /* several pieces, the last of which ends with the file */
    air_gguf_set *set;
    air_error err;
    air_status st = air_gguf_open(&set, path_of("vocabulary.gguf"), &err);
    if (st) printf("  %s\n", err.text);
    REQUIRE(!st);
    CHECK_EQ(air_gguf_find(set->gguf, "tokenizer.ggml.merges")->count, MERGES);
    air_gguf_close(set);
    release(&b);
}

/* Sets the n-th allocation to fail for each n, until nothing fails any more; returns how many failed. */
static uint64_t fail_each_allocation(const char *path)
{
    for (uint64_t n = 1;; n++) {
        air_gguf_set *set;
        air_error err = {0};
        int64_t live = air_alloc_live();
        air_alloc_fail_at(n);
        air_status st = air_gguf_open(&set, path, &err);
        int failed = air_alloc_failed();
        air_alloc_fail_at(0);
        CHECK_EQ(st, failed ? AIR_E_NOMEM : AIR_OK);
        if (failed) CHECK(!set && err.status == AIR_E_NOMEM && err.text[0]);
        air_gguf_close(set);
        CHECK_EQ(air_alloc_live(), live);
        if (!failed || n > 10000) return n - 1;
    }
}

TEST(every_allocation_that_fails_is_reported_and_leaks_nothing)
{
    bytes b = {0};
    put_every_type(&b);
    write_file("one.gguf", &b);
    CHECK(fail_each_allocation(path_of("one.gguf")) >= 6);
    write_set(2);
    CHECK(fail_each_allocation(path_of(part_names[1])) >= 20);
    write_set(1000); /* the merged directory takes more than what is left of the first part's memory */
    CHECK(fail_each_allocation(path_of(part_names[1])) >= 30);
    release(&b);

    uint32_t slots[MANY_TENSORS]; /* larger than the first piece, out of order: the buffer grows and offsets are sorted */
    put_shuffled(&b, -1, slots);
    write_file("many.gguf", &b);
    CHECK(fail_each_allocation(path_of("many.gguf")) >= 10);
    release(&b);

    put_vocabulary(&b, 0); /* arrays larger than what the arena holds in stock */
    write_file("vocabulary.gguf", &b);
    CHECK(fail_each_allocation(path_of("vocabulary.gguf")) >= 10);
    release(&b);
}

/* ---- large files ----------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_read_so_far(void)
{
    unsigned long long count = 0;
    FILE *f = fopen("/proc/self/io", "r");
    if (f && fscanf(f, "rchar: %llu", &count) != 1) count = 0;
    if (f) (void)fclose(f);
    return count;
}

TEST(a_file_of_40_GB_opens_by_its_header)
{
    enum { TENSORS = 40 };
    const uint64_t each = UINT64_C(1000000000) / 34 / 32 * 34 * 32; /* in Q8_0, a multiple of 32 bytes */
    bytes b = {0};
    put_vocabulary(&b, TENSORS);
    for (uint64_t i = 0; i < TENSORS; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%d.weight", (int)i);
        put_tensor(&b, name, 32, each / 34, AIR_TYPE_Q8_0, i * each);
    }
    pad(&b, 32);
    write_file("large.gguf", &b);
    const char *path = path_of("large.gguf");
    REQUIRE(truncate(path, (off_t)(b.count + TENSORS * each)) == 0);
    uint64_t best = UINT64_MAX, read = 0;
    for (int i = 0; i < 5; i++) {
        air_gguf_set *set;
        air_error err;
        uint64_t start = air_clock_ns(), before = bytes_read_so_far();
        REQUIRE(air_gguf_open(&set, path, &err) == AIR_OK);
        uint64_t took = air_clock_ns() - start;
        read = bytes_read_so_far() - before;
        if (took < best) best = took;
        CHECK_EQ(air_gguf_tensor_count(set->gguf), TENSORS);
        CHECK(set->bytes[0] > UINT64_C(39) * 1000 * 1000 * 1000);
        air_gguf_close(set);
    }
    printf("  %.1f ms, %" PRIu64 " bytes read for a header of %zu\n", (double)best * 1e-6, read, b.count);
    CHECK(best < UINT64_C(100000000) * SLOWER);
    CHECK(read <= 5 * (uint64_t)b.count);
    CHECK(unlink(path) == 0);
    release(&b);
}

/* ---- the table of malformed files ------------------------------------------------------------------------------------------ */

static air_status status_of(const char *exception)
{
    static const struct { const char *name; air_status status; } names[] = {
#define STATUS(code, text, exception, base) {exception, AIR_E_##code},
#include "base/status.def"
#undef STATUS
    };
    for (size_t i = 0; i < AIR_COUNT(names); i++)
        if (strcmp(names[i].name, exception) == 0) return names[i].status;
    return AIR_OK;
}

static void expect_refusal(const char *path, const char *exception, const char *pattern)
{
    air_gguf_set *set;
    air_error err = {0};
    regex_t regex;
    int64_t live = air_alloc_live();
    air_status st = air_gguf_open(&set, path, &err);
    REQUIRE(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    int ok = st && st == status_of(exception) && regexec(&regex, err.text, 0, NULL, 0) == 0;
    if (!ok) printf("  %s\n    wanted %s: %s\n    got    status %d: %s\n", path, exception, pattern, (int)st, err.text);
    CHECK(ok);
    regfree(&regex);
    air_gguf_close(set);
    CHECK_EQ(air_alloc_live(), live);
    CHECK_EQ(air_gguf_open(&set, path, NULL), st); /* without a place for the message */
    air_gguf_close(set);
}

TEST(malformed_files_are_refused_by_name)
{
    char name[512], line[2048];
    int count = 0;
    (void)snprintf(name, sizeof name, "%s/manifest.tsv", malformed);
    FILE *f = fopen(name, "r");
    REQUIRE(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *exception = strchr(line, '\t'), *pattern = exception ? strchr(exception + 1, '\t') : NULL;
        REQUIRE(pattern);
        *exception++ = *pattern++ = 0;
        expect_refusal(line, exception, pattern);
        count++;
    }
    (void)fclose(f);
    CHECK(count >= 70);
}

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.') (void)unlink(path_of(e->d_name));
    if (dir) (void)closedir(dir);
    (void)rmdir(folder);
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/air_test_gguf_XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return EXIT_FAILURE;
    malformed = argc > 2 ? argv[2] : getenv("AIRPY_MALFORMED");

    check_begin(argc, argv);
    RUN(any_part_opens_the_whole_set);
    RUN(a_file_that_is_no_part_is_a_set_of_one);
    RUN(a_long_header_without_data_opens);
    RUN(every_allocation_that_fails_is_reported_and_leaks_nothing);
    RUN(a_file_of_40_GB_opens_by_its_header);
    if (malformed) RUN(malformed_files_are_refused_by_name);
    else printf("skipped malformed_files_are_refused_by_name: no folder given (argv[2] or AIRPY_MALFORMED)\n");
    remove_folder();
    return check_end();
}
