#include "model/builder.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "quant/format.h"

/* Makes room for one more item in a list that doubles. */
static int grow(air_builder *b, void **list, int32_t n, int32_t *capacity, size_t item)
{
    if (n < *capacity) return 1;
    int32_t larger = *capacity ? *capacity * 2 : 64;
    void *p = air_realloc(*list, (size_t)larger * item);
    if (!p) {
        b->status = air_fail(b->err, AIR_E_NOMEM, "model: %zu bytes for its program", (size_t)larger * item);
        return 0;
    }
    *list = p;
    *capacity = larger;
    return 1;
}

static void name_of(char *out, size_t size, const char *format, int32_t layer)
{
    const char *mark = strstr(format, "%d");
    if (!mark) (void)snprintf(out, size, "%s", format);
    else (void)snprintf(out, size, "%.*s%d%s", (int)(mark - format), format, (int)layer, mark + 2);
}

/* Rows of a tensor, which follow each other in the file. */
static int32_t add_weight(air_builder *b, const air_tensor *t, air_weight_use use, int64_t first, int64_t rows)
{
    if (!grow(b, (void **)&b->weights, b->n_weights, &b->cap_weights, sizeof *b->weights)) return AIR_NONE;
    const air_format *format = air_format_by_id(t->type);
    uint64_t row_bytes = t->shape[0] / format->block * format->bytes;
    b->weights[b->n_weights] = (air_weight){
        .name = t->name.data, .use = use, .type = t->type, .part = t->part, .offset = t->offset + (uint64_t)first * row_bytes,
        .bytes = (uint64_t)rows * row_bytes, .rows = rows, .cols = (int64_t)t->shape[0], .row_bytes = row_bytes,
    };
    return b->n_weights++;
}

static int32_t add_experts(air_builder *b, const air_tensor *t)
{
    int32_t i = add_weight(b, t, AIR_WEIGHT_EXPERTS, 0, (int64_t)t->shape[1]);
    if (i != AIR_NONE) b->weights[i].bytes = t->bytes;
    return i;
}

/* Elements of a tensor of whole blocks, as one row. */
static int32_t add_vector(air_builder *b, const air_tensor *t, int64_t first, int64_t elements)
{
    const air_format *format = air_format_by_id(t->type);
    if (first % format->block || elements % format->block) {
        b->status = air_fail(b->err, AIR_E_UNSUPPORTED, "%s is of type %s, whose blocks of %u span what it holds side by side; convert it "
                             "to F32", t->name.data, format->name, (unsigned)format->block);
        return AIR_NONE;
    }
    int32_t i = add_weight(b, t, AIR_WEIGHT_VECTOR, 0, 1);
    if (i == AIR_NONE) return AIR_NONE;
    air_weight *w = &b->weights[i];
    w->offset = t->offset + (uint64_t)(first / format->block) * format->bytes;
    w->bytes = w->row_bytes = (uint64_t)(elements / format->block) * format->bytes;
    w->cols = elements;
    return i;
}

static const air_tensor *find(air_builder *b, air_presence presence, const char *format, int32_t layer)
{
    char name[96];
    if (b->status) return NULL;
    name_of(name, sizeof name, format, layer);
    const air_tensor *t = air_gguf_tensor(b->gguf, name);
    if (!t && presence == AIR_REQUIRED)
        b->status = air_fail(b->err, AIR_E_MODEL, "the file has no tensor %s, which %s needs", name, b->hp->arch);
    return t;
}

static int check_shape(air_builder *b, const air_tensor *t, int64_t rows, int64_t cols, const char *why)
{
    if (t->shape[0] == (uint64_t)cols && t->shape[1] == (uint64_t)rows && t->shape[2] == 1 && t->shape[3] == 1) return 1;
    b->status = air_fail(b->err, AIR_E_MODEL, "%s is [%llu, %llu, %llu, %llu], but needs [%lld, %lld] (%s)", t->name.data,
                         (unsigned long long)t->shape[0], (unsigned long long)t->shape[1], (unsigned long long)t->shape[2],
                         (unsigned long long)t->shape[3], (long long)cols, (long long)rows, why);
    return 0;
}

static int check_matrix_type(air_builder *b, const air_tensor *t)
{
    const air_format *format = air_format_by_id(t->type);
    if (format->role == AIR_FORMAT_MATRIX) return 1;
    b->status = air_fail(b->err, AIR_E_UNSUPPORTED, "%s is of type %s, which cannot be a matrix; convert it to F16 or Q8_0",
                         t->name.data, format->name);
    return 0;
}

int air__has(air_builder *b, const char *format, int32_t layer) { return find(b, AIR_OPTIONAL, format, layer) != NULL; }

int32_t air__matrix_part(air_builder *b, air_part part, int64_t cols, const char *why, const char *format, int32_t layer)
{
    const air_tensor *t = find(b, AIR_REQUIRED, format, layer);
    if (!t || !check_shape(b, t, part.all, cols, why) || !check_matrix_type(b, t)) return AIR_NONE;
    return add_weight(b, t, AIR_WEIGHT_MATRIX, part.first, part.n);
}

int32_t air__matrix(air_builder *b, int64_t rows, int64_t cols, const char *why, const char *format, int32_t layer)
{
    return air__matrix_part(b, (air_part){0, rows, rows}, cols, why, format, layer);
}

int32_t air__vectors(air_builder *b, air_presence presence, int64_t n, int64_t elements, const char *why, const char *format,
                     int32_t layer)
{
    const air_tensor *t = find(b, presence, format, layer);
    if (!t || !check_shape(b, t, n, elements, why)) return AIR_NONE;
    return add_vector(b, t, 0, n * elements);
}

/* Whether a tensor is n matrices of rows × cols. */
static int check_stack(air_builder *b, const air_tensor *t, int64_t n, int64_t rows, int64_t cols, const char *why)
{
    if (t->shape[0] == (uint64_t)cols && t->shape[1] == (uint64_t)rows && t->shape[2] == (uint64_t)n && t->shape[3] == 1) return 1;
    b->status = air_fail(b->err, AIR_E_MODEL, "%s is [%llu, %llu, %llu, %llu], but needs [%lld, %lld, %lld] (%s)", t->name.data,
                         (unsigned long long)t->shape[0], (unsigned long long)t->shape[1], (unsigned long long)t->shape[2],
                         (unsigned long long)t->shape[3], (long long)cols, (long long)rows, (long long)n, why);
    return 0;
}

int32_t air__head_matrices(air_builder *b, int64_t heads, int64_t rows, int64_t cols, const char *why, const char *format, int32_t layer)
{
    const air_tensor *t = find(b, AIR_REQUIRED, format, layer);
    if (!t || !check_matrix_type(b, t) || !check_stack(b, t, heads, rows, cols, why)) return AIR_NONE;
    return add_weight(b, t, AIR_WEIGHT_MATRIX, 0, heads * rows);
}

int32_t air__expert_matrices(air_builder *b, int64_t n, int64_t rows, int64_t cols, const char *format, int32_t layer)
{
    const air_tensor *t = find(b, AIR_REQUIRED, format, layer);
    const char *why = "expert_feed_forward_length, embedding_length, expert_count";
    return t && check_matrix_type(b, t) && check_stack(b, t, n, rows, cols, why) ? add_experts(b, t) : AIR_NONE;
}

air_mixture *air__mixture(air_builder *b, int32_t layer)
{
    if (b->status) return NULL;
    if (!b->mixtures) b->mixtures = air_calloc((size_t)b->hp->n_layers, sizeof *b->mixtures);
    if (b->mixtures) return &b->mixtures[layer];
    b->status = air_fail(b->err, AIR_E_NOMEM, "model: mixtures of %lld layers", (long long)b->hp->n_layers);
    return NULL;
}

air_recurrent_shape *air__recurrent(air_builder *b, int32_t layer)
{
    if (b->status) return NULL;
    if (!b->recurrent) b->recurrent = air_calloc((size_t)b->hp->n_layers, sizeof *b->recurrent);
    if (b->recurrent) return &b->recurrent[layer];
    b->status = air_fail(b->err, AIR_E_NOMEM, "model: recurrent state of %lld layers", (long long)b->hp->n_layers);
    return NULL;
}

int32_t air__vector(air_builder *b, air_presence presence, int64_t elements, const char *why, const char *format, int32_t layer)
{
    return air__vectors(b, presence, 1, elements, why, format, layer);
}

int32_t air__bias_part(air_builder *b, air_bias kind, air_part part, const char *format, int32_t layer)
{
    if (kind == AIR_BIAS_NONE) return AIR_NONE;
    const air_tensor *t = find(b, kind == AIR_BIAS_REQUIRED ? AIR_REQUIRED : AIR_OPTIONAL, format, layer);
    if (!t || !check_shape(b, t, 1, part.all, "the rows of its weight")) return AIR_NONE;
    return add_vector(b, t, part.first, part.n);
}

int32_t air__bias(air_builder *b, air_bias kind, int64_t elements, const char *format, int32_t layer)
{
    return air__bias_part(b, kind, (air_part){0, elements, elements}, format, layer);
}

int32_t air__table(air_builder *b, int64_t rows, int64_t cols, const char *why, const char *name)
{
    const air_tensor *t = find(b, AIR_REQUIRED, name, AIR_NONE);
    if (!t || !check_shape(b, t, rows, cols, why) || !check_matrix_type(b, t)) return AIR_NONE;
    return add_weight(b, t, AIR_WEIGHT_TABLE, 0, rows);
}

int32_t air__buffer(air_builder *b, const char *name, int64_t width, air_rows rows)
{
    if (b->status) return AIR_NONE;
    int32_t lives = b->cap_buffers;
    if (!grow(b, (void **)&b->lives, b->n_buffers, &lives, sizeof *b->lives)) return AIR_NONE;
    if (!grow(b, (void **)&b->buffers, b->n_buffers, &b->cap_buffers, sizeof *b->buffers)) return AIR_NONE;
    b->buffers[b->n_buffers] = (air_buffer_desc){.name = name, .width = width, .rows = rows};
    b->lives[b->n_buffers] = (air_buffer_life){.first = INT32_MAX, .last = -1};
    return b->n_buffers++;
}

air_rows air__buffer_rows(const air_builder *b, int32_t buffer)
{
    return b->status ? AIR_ROWS_ALL : b->buffers[buffer].rows;
}

void air__emit(air_builder *b, air_op op)
{
    if (b->status || !grow(b, (void **)&b->ops, b->n_ops, &b->cap_ops, sizeof *b->ops)) return;
    int32_t used[3] = {op.in, op.in2, op.out};
    for (int i = 0; i < 3; i++) {
        if (used[i] == AIR_NONE) continue;
        air_buffer_life *life = &b->lives[used[i]];
        if (b->n_ops < life->first) life->first = b->n_ops;
        life->last = b->n_ops;
    }
    b->ops[b->n_ops++] = op;
}

/* Lowest offset at which buffer i overlaps no earlier placed buffer of the same rows whose life meets its own (first fit). */
static int64_t place(const air_builder *b, int32_t i)
{
    int64_t at = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int32_t j = 0; j < i; j++) {
            const air_buffer_desc *other = &b->buffers[j];
            int apart = b->lives[j].last < b->lives[i].first || b->lives[j].first > b->lives[i].last;
            if (apart || other->rows != b->buffers[i].rows || j == b->logits) continue;
            int64_t end = other->offset + (int64_t)air_round_up((uint64_t)other->width, 16);
            if (at < end && other->offset < at + b->buffers[i].width) {
                at = end;
                moved = 1;
            }
        }
    }
    return at;
}

static void lay_out(air_builder *b, air_program *program)
{
    for (int32_t i = 0; i < b->n_buffers; i++) {
        air_buffer_desc *buffer = &b->buffers[i];
        if (i == b->logits) continue; /* the caller's own memory */
        buffer->offset = place(b, i);
        int64_t end = buffer->offset + (int64_t)air_round_up((uint64_t)buffer->width, 16);
        int64_t *total = buffer->rows == AIR_ROWS_ALL ? &program->row_floats : &program->wanted_floats;
        if (end > *total) *total = end;
    }
}

static void *move(air_builder *b, air_arena *arena, const void *list, int32_t n, size_t item)
{
    void *p = air_arena_alloc(arena, (size_t)n, item);
    if (p) memcpy(p, list, (size_t)n * item);
    else b->status = air_fail(b->err, AIR_E_NOMEM, "model: %zu bytes for its program", (size_t)n * item);
    return p;
}

static void place_recurrent(air_builder *b, air_program *program)
{
    for (int32_t i = 0; i < program->n_layers; i++) {
        b->recurrent[i].offset = program->recurrent_bytes;
        program->recurrent_bytes += air_round_up((uint64_t)air_recurrent_floats(&b->recurrent[i]) * sizeof(float), AIR_CACHE_LINE);
    }
}

void air__builder_finish(air_builder *b, air_arena *arena, air_program *program)
{
    if (b->status) return;
    lay_out(b, program);
    for (int32_t i = 0; i < b->n_weights; i++) {
        const air_weight *w = &b->weights[i];
        if ((w->use == AIR_WEIGHT_MATRIX || w->use == AIR_WEIGHT_EXPERTS) && w->cols > program->max_cols) program->max_cols = w->cols;
    }
    if (b->recurrent) {
        place_recurrent(b, program);
        program->recurrent = move(b, arena, b->recurrent, program->n_layers, sizeof *b->recurrent);
    }
    if (b->mixtures) program->mixtures = move(b, arena, b->mixtures, program->n_layers, sizeof *b->mixtures);
    program->ops = move(b, arena, b->ops, b->n_ops, sizeof *b->ops);
    program->weights = move(b, arena, b->weights, b->n_weights, sizeof *b->weights);
    program->buffers = move(b, arena, b->buffers, b->n_buffers, sizeof *b->buffers);
    program->n_ops = b->n_ops;
    program->n_weights = b->n_weights;
    program->n_buffers = b->n_buffers;
    program->logits = b->logits;
    program->hidden = b->hidden;
}

void air__builder_deinit(air_builder *b)
{
    air_free(b->ops);
    air_free(b->weights);
    air_free(b->buffers);
    air_free(b->lives);
    air_free(b->mixtures);
    air_free(b->recurrent);
}
