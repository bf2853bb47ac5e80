#include "backend/device.h"

#include "base/checked.h"
#include "quant/format.h"

static size_t cut(size_t *at, uint64_t bytes)
{
    size_t offset = *at;
    *at += (size_t)air_round_up(bytes, AIR_DEVICE_ALIGN);
    return offset;
}

/* Per row, head and part: the sums of values, the greatest score and the sum of exponentials. */
size_t air_device_attention_bytes(int64_t rows, int64_t heads, int64_t value_dim, int64_t n_ctx)
{
    uint64_t parts = air_ceil_div((uint64_t)n_ctx, AIR_DEVICE_ATTENTION_PART);
    uint64_t row = (uint64_t)heads * parts * (uint64_t)(value_dim + 2) * sizeof(float);
    return (size_t)air_min_u64((uint64_t)rows * row, air_max_u64(row, AIR_DEVICE_ATTENTION_MOST)) + AIR_DEVICE_ALIGN;
}

static size_t attention_bytes(const air_program *p, int64_t rows, int64_t n_ctx)
{
    size_t most = 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        size_t bytes = air_device_attention_bytes(rows, a->heads, a->value_dim, n_ctx);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static uint64_t block_table_bytes(int64_t rows, int64_t n_ctx)
{
    return (uint64_t)rows * air_ceil_div((uint64_t)n_ctx, AIR_BLOCK_POSITIONS) * sizeof(void *);
}

/* The widest input of a product: a row of what one by heads takes its parts of counts whole. */
static uint64_t widest_input(const air_program *p)
{
    int64_t most = p->max_cols;
    for (int32_t i = 0; i < p->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (op->kind == AIR_OP_PRODUCT && op->heads && p->buffers[op->in].width > most) most = p->buffers[op->in].width;
    }
    return (uint64_t)most;
}

/* What products by heads read of rows that are not in 8 bits, one head's after the other's. */
static uint64_t gathered_bytes(const air_program *p, uint64_t rows)
{
    uint64_t most = 0;
    for (int32_t i = 0; i < p->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (op->kind != AIR_OP_PRODUCT || !op->heads || air_device_input(p->weights[op->weight].type) != AIR_INPUT_F32) continue;
        most = air_max_u64(most, (uint64_t)op->heads * (uint64_t)p->weights[op->weight].cols * rows * sizeof(float));
    }
    return most;
}

static uint64_t course_bytes(const air_program *p, int64_t rows) { return p->recurrent ? (uint64_t)rows * sizeof(air_device_course) : 0; }

air_input air_device_input(uint32_t type)
{
    return type == AIR_TYPE_F32 || air_format_is_half(type) ? AIR_INPUT_F32 : AIR_INPUT_Q8;
}

/* --- mixtures --- */

uint64_t air_device_expert_part(const air_program *p, int32_t layer, int part)
{
    const air_mixture *m = &p->mixtures[layer];
    const int32_t before[] = {m->gate, m->up};
    uint64_t at = 0;
    for (int i = 0; i < part; i++) {
        const air_weight *w = before[i] == AIR_NONE ? NULL : &p->weights[before[i]];
        if (w) at += air_round_up((uint64_t)w->rows * w->row_bytes, AIR_DEVICE_ALIGN);
    }
    return at;
}

int64_t air_device_sent_most(const air_program *p)
{
    int64_t most = 0;
    for (int32_t i = 0; p->mixtures && i < p->n_layers; i++)
        if (p->mixtures[i].n_experts && p->mixtures[i].n_used > most) most = p->mixtures[i].n_used;
    return most;
}

static uint64_t q8_bytes(uint64_t k, uint64_t n)
{
    k = air_round_up(k, AIR_Q8_GROUP);
    return n * (k + k / AIR_Q8_SUM_GROUP * 2 + k / AIR_Q8_GROUP * 4) + 3 * AIR_DEVICE_ALIGN;
}

static int reads(const air_program *p, int32_t weight, air_input input)
{
    return weight != AIR_NONE && air_device_input(p->weights[weight].type) == input;
}

/* What one mixture takes, in the places of the layout. */
typedef struct mixture_bytes { uint64_t gathered, gathered_q8, hidden, hidden_q8, results; } mixture_bytes;

static mixture_bytes bytes_of(const air_program *p, const air_mixture *m, uint64_t rows)
{
    mixture_bytes b = {0};
    uint64_t sent = rows * (uint64_t)m->n_used, k = (uint64_t)p->weights[m->up].cols;
    if (reads(p, m->gate, AIR_INPUT_F32) || reads(p, m->up, AIR_INPUT_F32)) b.gathered = sent * k * sizeof(float);
    if (reads(p, m->gate, AIR_INPUT_Q8) || reads(p, m->up, AIR_INPUT_Q8)) b.gathered_q8 = q8_bytes(k, sent);
    b.hidden = sent * (uint64_t)m->n_ff * sizeof(float);
    if (reads(p, m->down, AIR_INPUT_Q8)) b.hidden_q8 = q8_bytes((uint64_t)m->n_ff, sent);
    b.results = sent * (uint64_t)p->weights[m->down].rows * sizeof(float);
    return b;
}

static void place_mixtures(const air_program *p, uint64_t rows, air_device_layout *l, size_t *at)
{
    mixture_bytes most = {0};
    for (int32_t i = 0; p->mixtures && i < p->n_layers; i++) {
        if (!p->mixtures[i].n_experts) continue;
        mixture_bytes b = bytes_of(p, &p->mixtures[i], rows);
        most.gathered = air_max_u64(most.gathered, b.gathered);
        most.gathered_q8 = air_max_u64(most.gathered_q8, b.gathered_q8);
        most.hidden = air_max_u64(most.hidden, b.hidden);
        most.hidden_q8 = air_max_u64(most.hidden_q8, b.hidden_q8);
        most.results = air_max_u64(most.results, b.results);
    }
    uint64_t sent = rows * (uint64_t)air_device_sent_most(p);
    l->sent = cut(at, sent * sizeof(int32_t));
    l->place = cut(at, sent * sizeof(int32_t));
    l->gathered = cut(at, most.gathered);
    l->gathered_q8 = cut(at, most.gathered_q8);
    l->hidden = cut(at, most.hidden);
    l->hidden_q8 = cut(at, most.hidden_q8);
    l->results = cut(at, most.results);
}

air_device_layout air_device_layout_of(const air_program *p, int64_t rows, int64_t n_wanted, int64_t n_ctx)
{
    air_device_layout l;
    size_t at = 0;
    uint64_t n = (uint64_t)rows, w = (uint64_t)n_wanted, columns = n > w ? n : w;
    l.rows = cut(&at, n * (uint64_t)p->row_floats * sizeof(float));
    l.wanted = cut(&at, w * (uint64_t)p->wanted_floats * sizeof(float));
    l.logits = cut(&at, w * (uint64_t)p->n_vocab * sizeof(float));
    l.q8 = cut(&at, q8_bytes(widest_input(p), columns));
    l.cos = cut(&at, n * (uint64_t)p->rope_pairs * sizeof(float));
    l.sin = cut(&at, n * (uint64_t)p->rope_pairs * sizeof(float));
    l.tokens = cut(&at, ((2 + (uint64_t)air_device_more_numbers(p)) * n + w) * sizeof(int32_t));
    l.blocks = cut(&at, block_table_bytes(rows, n_ctx));
    l.courses = cut(&at, course_bytes(p, rows));
    l.adapted = cut(&at, n * sizeof(air_device_adapted));
    l.attention = cut(&at, air_max_u64(attention_bytes(p, rows, n_ctx), gathered_bytes(p, n)));
    l.candidates = cut(&at, air_device_candidate_bytes(n_wanted, AIR_DEVICE_CANDIDATES));
    int64_t together = n_wanted < AIR_DEVICE_CANDIDATE_ROWS ? n_wanted : AIR_DEVICE_CANDIDATE_ROWS;
    l.candidate_scratch = cut(&at, air_device_candidate_layout_of(together, p->n_vocab).total);
    place_mixtures(p, n, &l, &at);
    l.total = at;
    return l;
}

air_device_candidate_layout air_device_candidate_layout_of(int64_t rows, int64_t n_vocab)
{
    air_device_candidate_layout l;
    size_t at = 0;
    uint64_t n = (uint64_t)rows, list = AIR_DEVICE_CANDIDATES * sizeof(uint64_t);
    uint64_t parts = air_ceil_div((uint64_t)n_vocab, AIR_DEVICE_CANDIDATE_PART);
    l.lists = cut(&at, n * parts * list);
    l.better = cut(&at, n * air_ceil_div(parts * AIR_DEVICE_CANDIDATES, AIR_DEVICE_CANDIDATE_PART) * list);
    l.parts = cut(&at, n * parts * sizeof(air_device_candidate_part));
    l.total = at;
    return l;
}

int64_t air_device_candidates(int64_t needed)
{
    if (needed > AIR_DEVICE_CANDIDATES) return 0;
    return needed > 1 ? AIR_DEVICE_CANDIDATES : needed;
}

uint64_t air_device_candidate_bytes(int64_t rows, int64_t n)
{
    return n ? (uint64_t)rows * ((uint64_t)n * sizeof(air_candidate) + sizeof(float)) : 0;
}

uint64_t air_device_pass_bytes(const air_program *program, int64_t rows, int64_t n_wanted, int64_t n_ctx)
{
    return air_device_layout_of(program, rows, n_wanted, n_ctx).total;
}

size_t air_device_state_bytes(const air_attention_shape *a, air_state_type type)
{
    size_t values = a->values_in_keys ? 0 : air_state_head_bytes(type, a->value_dim);
    return (size_t)a->kv_heads * (air_state_head_bytes(type, a->key_dim) + values);
}

air_device_adapting air_device_adapting_of(const air_program *p, int64_t rows, int64_t rank)
{
    air_device_adapting l = {0};
    uint64_t widest = 0, most = AIR_DEVICE_RAW_MOST / sizeof(float);
    size_t at = 0;
    if (!rank) return l;
    for (int32_t i = 0; i < p->n_ops; i++)
        if (p->ops[i].kind == AIR_OP_PRODUCT && p->ops[i].epilogue != AIR_EPILOGUE_SET)
            widest = air_max_u64(widest, (uint64_t)p->weights[p->ops[i].weight].rows);
    l.raw_floats = (int64_t)air_min_u64((uint64_t)rows * widest, air_max_u64(widest, most));
    l.reduced = cut(&at, (uint64_t)rows * (uint64_t)rank * sizeof(float));
    l.raw = cut(&at, (uint64_t)l.raw_floats * sizeof(float));
    l.total = at;
    return l;
}

size_t air_device_shuttle_block(const air_program *p, air_state_type type)
{
    size_t most = 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        size_t bytes = air_device_state_bytes(a, type);
        most = bytes > most ? bytes : most;
    }
    return (size_t)air_round_up(most, AIR_DEVICE_ALIGN);
}

uint64_t air_device_staging_piece(uint64_t tile_bytes)
{
    return air_min_u64(air_round_up(tile_bytes + 1, AIR_DEVICE_ALIGN), AIR_DEVICE_STAGING_BYTES);
}

uint64_t air_device_staging_bytes(uint64_t tile_bytes) { return AIR_DEVICE_STAGING_PIECES * air_device_staging_piece(tile_bytes); }

int64_t air_device_more_numbers(const air_program *p)
{
    int types = 0;
    for (int32_t i = 0; i < p->n_ops; i++) types |= p->ops[i].kind == AIR_OP_ADD_TYPE;
    return p->bidirectional || types ? 2 : 0;
}

int64_t air_device_embeds(const air_program *p)
{
    int64_t n = 0;
    for (int32_t i = 0; i < p->n_ops; i++) n += p->ops[i].kind == AIR_OP_EMBED || p->ops[i].kind == AIR_OP_EMBED_POSITION;
    return n;
}

uint64_t air_device_host_bytes(const air_program *p, int64_t rows, int64_t n_wanted, int64_t n_ctx)
{
    uint64_t n = (uint64_t)rows, w = (uint64_t)n_wanted;
    uint64_t floats = n * (uint64_t)(air_device_embeds(p) * p->n_embd + 2 * p->rope_pairs) + w * (uint64_t)(p->n_vocab + p->n_embd);
    uint64_t others = block_table_bytes(rows, n_ctx) + course_bytes(p, rows) + air_device_candidate_bytes(n_wanted, AIR_DEVICE_CANDIDATES);
    uint64_t sent = n * (uint64_t)air_device_sent_most(p); /* what each goes to with which weight comes down; which go where goes up */
    uint64_t numbers = (2 + (uint64_t)air_device_more_numbers(p)) * n + w + 2 * sent;
    others += n * sizeof(air_device_adapted);
    return (floats + 2 * sent) * sizeof(float) + numbers * sizeof(int32_t) + others + 12 * AIR_DEVICE_ALIGN;
}

uint64_t air_device_graph_bytes(const air_program *p)
{
    enum { ENDS = 16, HEADS = 3 };
    uint64_t launches = 2 * (uint64_t)p->n_ops + ENDS;
    for (int32_t i = 0; i < p->n_ops; i++) launches += p->ops[i].kind == AIR_OP_PRODUCT && p->ops[i].heads ? HEADS : 0;
    return launches * AIR_DEVICE_GRAPH_NODE;
}

uint64_t air_device_adapting_graph_bytes(const air_program *p)
{
    uint64_t products = 0;
    for (int32_t i = 0; i < p->n_ops; i++) products += p->ops[i].kind == AIR_OP_PRODUCT;
    return 2 * products * AIR_DEVICE_GRAPH_NODE;
}

uint64_t air_device_column_bytes(const air_program *p, int64_t columns)
{
    return air_round_up((uint64_t)columns * air_round_up(widest_input(p), AIR_Q8_GROUP) * sizeof(float), AIR_DEVICE_ALIGN);
}

uint64_t air_device_input_bytes(const air_program *p, int64_t columns)
{
    return air_device_column_bytes(p, columns) + air_round_up(q8_bytes(widest_input(p), (uint64_t)columns), AIR_DEVICE_ALIGN);
}

uint64_t air_device_host_share_bytes(const air_program *p, uint64_t part_bytes)
{
    return air_device_column_bytes(p, AIR_SHARE_COLUMNS) + AIR_DEVICE_PARTS * air_round_up(part_bytes, AIR_DEVICE_ALIGN);
}
