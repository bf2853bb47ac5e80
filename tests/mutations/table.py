"""Mistakes that a test must catch: one row each.

A row is a file under csrc/, its exact text (found once) and what replaces it, and the C test executable that must then fail, with
the test within it that should, so that a mistake is caught by the test that is about it.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    killer: str
    test: str = ""  # part of a test's name; "": all of the executable


MUTATIONS = [
    # base, platform
    Mutation("sums wrap", "base/checked.h", "if (a > UINT64_MAX - b) return 0;", "", "test_base", "checked"),
    Mutation("calloc forgets overflow", "base/alloc.c", "if (bytes && count > SIZE_MAX / bytes) return NULL;", "", "test_base", "calloc"),
    Mutation("the last chunk of a job is dealt twice", "platform/pool.c", "return n < job->chunks ? n : -1;",
             "return n < job->chunks ? n : n == job->chunks ? n - 1 : -1;", "test_pool", "a_job_deals"),
    # gguf
    Mutation("a string may be longer than the limit", "gguf/parse.c", "if (bytes > max)\n", "if (bytes > max && max == 0)\n", "test_gguf", "limits_are"),
    Mutation("a bool may be anything", "gguf/parse.c", "return value <= 1 ?", "return value <= 255 ?", "test_gguf_open", "malformed"),
    Mutation("arrays nest without end", "gguf/parse.c", "if (depth > r->limits->depth)", "if (depth > r->limits->depth + 100000)", "test_gguf"),
    # quant
    Mutation("the high bits of scales 4 to 7 are lost", "quant/blocks.h", "(packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4",
             "(packed[i + 4] & 15) | (packed[i - 4] >> 7) << 4", "test_kernels"),
    Mutation("halves round up on ties", "quant/half.h", "magnitude + 0xfffu + (magnitude >> 13 & 1u)", "magnitude + 0x1000u", "test_quant", "narrow"),
    Mutation("bfloat16 rounds up on ties", "quant/half.h", "bits + 0x7fffu + (bits >> 16 & 1u)", "bits + 0x8000u", "test_encode", "bfloat16"),
    Mutation("small scales are the nearest alone", "quant/encode_k.c", "for (int i = 0; i < 3; i++) {", "for (int i = 0; i < 1; i++) {",
             "test_encode", "errors"),
    Mutation("one grid is searched", "quant/encode_fit.h", "how.least - how.first - how.step * (float)i", "how.least", "test_encode", "errors"),
    Mutation("the high bits of offsets 4 to 7 are lost", "quant/encode_k.c", "small_offset(k, g) | (min >> 4) << 6", "small_offset(k, g) | (min >> 5) << 6",
             "test_encode", "errors"),
    Mutation("what is no number is quantised", "quant/encode.c", "if (!beyond) return n;", "return n;", "test_encode", "no_number"),
    # kernels of the portable tier, as the model's logits see them
    Mutation("rope turns the other way", "kernels/ref/vector.c", "*a = a0 * cos[i] - b0 * sin[i];", "*a = a0 * cos[i] + b0 * sin[i];",
             "test_model", "logits_are"),
    Mutation("the norm forgets epsilon", "kernels/ref/vector.c", "sum / (double)n + (double)eps", "sum / (double)n", "test_functions"),
    Mutation("silu without its gate", "kernels/ref/vector.c", "of_silu(float x) { return x / (1.0f + expf(-x)); }",
             "of_silu(float x) { return 1.0f / (1.0f + expf(-x)); }", "test_model", "logits_are"),
    # kernels of AVX2, against the portable ones
    Mutation("sums of pairs leave 16 bits", "kernels/x86/formats/k.h", "PRODUCT(q6_k, .parts = 4,",
             "PRODUCT(q6_k, .parts = 2,", "test_kernels", "extreme"),
    Mutation("the eighth sign counts four of seven", "kernels/x86/formats/iq.h", "_mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4))",
             "seven", "test_kernels", "every_shape"),
    Mutation("second halves have the first ones' scales", "kernels/x86/avx2/product_q8.h", "second, t->scale[1], x->scale);",
             "second, t->scale[0], x->scale);", "test_kernels", "every_shape"),
    Mutation("all rows of a prompt see what the last one does", "kernels/attention.h", "end <= a->positions)", "end <= last)",
             "test_functions", "attention"),
    Mutation("segments merge without their maxima", "kernels/attention.h", "more = expf(state->max - max)", "more = 1", "test_functions", "segments"),
    Mutation("a segment is merged before its turn", "backend/host_attention.c", "memory_order_acquire) == segment) return 1;",
             "memory_order_acquire) >= 0) return 1;", "test_engine", "split"),
    Mutation("scales of keys are those of the first elements", "kernels/simd/attention_parts.h", "k->scales + first / AIR_STATE_GROUP *",
             "k->scales + first / 4096 *", "test_functions", "every_shape"),
    # model
    Mutation("attention is not scaled by the head", "model/blocks/attention.c", "1.0 / sqrt((double)hp->key_dim)", "1.0 / sqrt((double)hp->n_embd)",
             "test_model", "logits_are"),
    Mutation("rope's base is forgotten", "model/rope.c", "pow(s->base, ", "pow(10000.0, ", "test_model", "logits_are"),
    Mutation("yarn interpolates the fast waves", "model/rope.c", "f / s->factor * (1 - keep) + f * keep", "f / s->factor * keep + f * (1 - keep)",
             "test_model", "logits_are"),
    Mutation("the residual is overwritten", "model/blocks/ffn.c", "AIR_EPILOGUE_ADD", "AIR_EPILOGUE_SET", "test_model"),
    Mutation("live buffers share memory", "model/builder.c", "b->lives[j].last < b->lives[i].first ||", "b->lives[j].last <= b->lives[i].first ||",
             "test_model", "programs_bind"),
    Mutation("buffers never share memory", "model/builder.c", "if (apart || other->rows", "if (other->rows", "test_model", "memory_of"),
    # backend
    Mutation("a cancel in the last op is a success", "backend/host.c", "if (atomic_load(pass->cancel)) return", "if (0) return", "test_model", "a_cancel"),
    Mutation("the 8-bit form of an old input is used again", "backend/host_stages.c", "air__product_reads_q8(h, op)) quantize_before(",
             "air__product_reads_q8(h, op) && i < 8) quantize_before(", "test_engine", "eight_bit"),
    Mutation("buffers that share memory are thought apart", "backend/host_stages.c", "if (a == b || a == AIR_NONE ||", "if (1 || a == AIR_NONE ||",
             "test_stages", "random_programs"),
    Mutation("a product reads what its own stage writes", "backend/host_stages.c", "a->in == b->in && b->out != b->in &&", "b->out != b->in &&",
             "test_stages", "random_programs"),
    Mutation("every op is a stage of its own", "backend/host_stages.c", "if (h->n_stages && joins(", "if (0 && joins(", "test_stages", "ten_stages"),
    Mutation("up does not wait for its gate", "backend/host_products.c", "    if (op->epilogue != AIR_EPILOGUE_SET && !earlier_done(h, s)) return;\n",
             "    (void)earlier_done;\n", "test_stages", "bits_of_whole"),
    Mutation("a span is given back while another thread reads it", "backend/host_products.c", "memory_order_acq_rel) < h->threads - 1) return;",
             "memory_order_acq_rel) > 0) return;", "test_stages", "bits_of_whole"),
    Mutation("more spans are held than a feed allows", "backend/host.h", "AIR__BELT_SPANS = 3,", "AIR__BELT_SPANS = 4,", "test_stages"),
    Mutation("spans of a failed pass are kept", "backend/host.c", "    air__belt_clear(h);\n", "", "test_stages", "gives_back"),
    Mutation("the last to arrive works when others have gone on", "platform/pool.c",
             "    if (last) last(context);\n    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* the count publishes it to the next barrier */\n    air_gate_count(&pool->barrier);\n",
             "    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* the count publishes it to the next barrier */\n    air_gate_count(&pool->barrier);\n    if (last) last(context);\n",
             "test_pool", "the_last_to_arrive"),
    Mutation("the query sees the next position", "backend/host_attention.c", ".positions = h->pass->positions[row] + 1,",
             ".positions = h->pass->positions[row] + 1 + (row + rows < h->pass->rows),", "test_engine"),
    Mutation("rows of two sequences attend together", "backend/host_attention.c", "p->sequences[next] == p->sequences[row] && ", "", "test_engine"),
    Mutation("columns beyond the first 64 are those of the first", "backend/host_products.c", "air_columns x = columns_of(h, op, c, columns);",
             "air_columns x = columns_of(h, op, 0, columns);", "test_engine"),
    Mutation("every span is computed from its first chunk", "backend/host_products.c", "s->span.data + (uint64_t)from * w->row_bytes", "s->span.data + 0 * w->row_bytes",
             "test_model", "logits_are"),
    # memory
    Mutation("the prefix that fits is one too long", "memory/tiles.c", "        if (more > bytes - *memory) break;\n        *memory += more;",
             "        *memory += more;\n        if (*memory > bytes) break;", "test_memory_plan"),
    Mutation("pins are the first weights", "memory/tiles.c", "reversed |= ((i >> b) & 1) << (bits - 1 - b)", "reversed |= ((i >> b) & 1) << b",
             "test_memory_plan", "every_prefix"),
    Mutation("the budget takes what is one over", "memory/budget.c", "bytes > budget->limit - total", "bytes > budget->limit - total + 1",
             "test_memory_plan", "accountant"),
    Mutation("the peak is the last", "memory/budget.c", "while (peak < total + bytes &&", "while (peak != total + bytes &&", "test_memory_plan", "accountant"),
    Mutation("absurd blocks wrap", "memory/plan.c", "air_min_u64(p->block_bytes, BLOCK_MOST)", "p->block_bytes", "test_memory_plan", "absurd"),
    Mutation("a file is mapped though it does not fit", "memory/plan.c", "return full <= r->budget && r->file_bytes <= r->available", "return r->file_bytes <= r->available",
             "test_memory_plan", "mapped"),
    Mutation("a place in the ring is given twice", "memory/pager_window.c", "if (begin + memory - p->tail > p->ring_bytes) return 0;",
             "if (begin + memory - p->tail > p->ring_bytes + memory) return 0;", "test_memory_pager"),
    Mutation("released places are not given back", "memory/pager_window.c", "if (in_ring(slot)) p->tail = slot->ring_end;", "", "test_memory_pager"),
    Mutation("a pin's budget is not released", "memory/pager_pins.c", "    air_budget_release(p->budget, AIR_HOLD_PINS, freed);\n", "",
             "test_memory_pager"),
    Mutation("a pin is given up with its neighbour's memory", "memory/pager_pins.c", "uint64_t from = kept ? air_round_up(kept, p->pins_page) : 0;",
             "uint64_t from = 0;", "test_memory_pager"),
    Mutation("the probe reads into less memory than the ring", "memory/probe.c", "air_min_u64(air_ring_wanted(c->block, c->depth), p->ring_bytes)",
             "c->block", "test_memory_source", "as_much_memory"),
    Mutation("a context we choose leaves prompts nothing", "memory/plan.c", "uint64_t reserve = r->n_ctx ? 0 : reserve_for_rows(r, m);",
             "uint64_t reserve = 0; (void)reserve_for_rows;", "test_memory_plan", "leaves_room"),
    Mutation("ops cost nothing beside their bytes", "memory/plan_time.c", "by.op_s * r->program->n_ops +",
             "0 * by.op_s +", "test_memory_plan", "slower_of_disk_and_compute"),
    Mutation("what fits a device whole leaves room for a ring", "memory/plan_shares.c", "deal(p, left, 0, all);", "deal(p, air__less(left, ring), 0, all);",
             "test_memory_plan_device", "needs_no_ring"),
    Mutation("what the CPU's share takes is not counted", "memory/plan.c", "air__plus(r->fixed, p->share_bytes)", "r->fixed",
             "test_memory_plan_device", "share_all_tiles"),
    Mutation("parts are not counted in a device", "memory/plan_device.c", "air__plus(r->device.fixed, p->device_part_bytes)", "r->device.fixed",
             "test_memory_plan_device", "share_all_tiles"),
    Mutation("a helper's buffers are not counted", "memory/plan_shares.c", "air__plus(h->fixed, air__plus(h->buffer_bytes, p->part_bytes)));\n}",
             "air__plus(h->fixed, p->part_bytes));\n}",
             "test_memory_plan_device", "share_all_tiles"),
    Mutation("rows of prompts are not counted in a device", "memory/plan.c", "used(r, m, p->n_ctx, p->max_rows, p->n_ctx)), m->ring)",
             "used(r, m, p->n_ctx, 1, p->n_ctx)), m->ring)", "test_memory_plan_device", "both_hold"),
    Mutation("pins are the tiles that a device has", "memory/plan.c", "(void)keep(p, r, m, p->n_device_tiles, 1, rows, &p->pin_bytes);",
             "(void)keep(p, r, m, 0, 1, rows, &p->pin_bytes);", "test_memory_plan_device"),
    Mutation("what a device has crosses the link", "memory/plan_time.c", "(double)(p->weight_bytes - p->device_weight_bytes - (",
             "(double)(p->weight_bytes - (", "test_memory_plan_device", "crosses_no_link"),
    Mutation("a device needs a ring larger than all its weights", "memory/plan_device.c",
             ".weights_least = air_min_u64(ring, all_tiles(r->program, p->tile_bytes))", ".weights_least = all_tiles(r->program, p->tile_bytes) ? ring : 0",
             "test_memory_plan_device", "one_byte_too_small"),
    Mutation("a tile is ready before its last block", "memory/pager_window.c", "if (--slot->reads_left == 0 &&", "if (--slot->reads_left <= 1 &&", "test_memory_pager"),
    Mutation("waiting for the disk ignores cancellation", "memory/pager.c", "while (slot->state == AIR__SLOT_PLACED && !air__pager_cancelled(p))",
             "while (slot->state == AIR__SLOT_PLACED)", "test_memory_pager", "cancelling"),
    # engine
    Mutation("a shared block is written without a copy", "engine/state.c", "if (!st && shared >= 0) st = unshare(s, shared, moves, err);", "(void)shared; (void)unshare;",
             "test_engine", "a_fork"),
    Mutation("state is not given back", "engine/blocks.c", "pool->block_bytes);\n        air_budget_release(pool->budget, AIR_HOLD_STATE, pool->block_bytes);\n        return;",
             "pool->block_bytes);\n        return;", "test_engine", "a_fork"),
    Mutation("a sequence may be used twice at once", "engine/state.c", "atomic_compare_exchange_strong(&s->busy, &idle, 1)",
             "(atomic_store(&s->busy, 1), !idle)", "test_engine", "a_sequence_has"),
    Mutation("the context may overflow by one", "engine/batch.c", "if (held + item->n_tokens > e->plan->n_ctx)", "if (held + item->n_tokens > e->plan->n_ctx + 1)",
             "test_engine", "context_is_full"),
    Mutation("a token id may equal the vocabulary", "engine/batch.c", "item->tokens[t] >= n_vocab", "item->tokens[t] > n_vocab", "test_engine", "bad_requests"),
    Mutation("a failed pass leaves its tokens", "engine/pass.c", "    if (st)\n        for (int32_t i = 0; i < b->n_items; i++) air__sequence_cut(",
             "    if (0)\n        for (int32_t i = 0; i < b->n_items; i++) air__sequence_cut(", "test_engine"),
    Mutation("logits of the second pass land on the first's", "engine/pass.c", "wanted += wanted_in(b, first, rows);\n        atomic", "atomic",
             "test_engine", "wants_in_several"),
    Mutation("activations that could not be had stay booked wrongly", "engine/pass.c", "    e->rows_cap = e->wanted_cap = -1;", "    ", "test_engine", "booked"),
    # sampling
    Mutation("the token that crosses top_p goes", "engine/sample.c", "mass += p[kept++];", "{ if (kept && mass + p[kept] > s->top_p * total) break; mass += p[kept++]; }",
             "test_sample", "truncations"),
    Mutation("the last of equals is the greedy one", "engine/sample.c", "if (x[i] > x[best]) best = i;", "if (x[i] >= x[best]) best = i;", "test_sample", "greedy"),
    Mutation("the last of equals is the k-th", "engine/sample.c", "if (x[i] <= best[0].logit) continue;", "if (x[i] < best[0].logit) continue;", "test_sample"),
    Mutation("the last of equals comes first", "engine/sample.c", "a.token < b.token : a.token > b.token;", "a.token > b.token : a.token < b.token;", "test_sample"),
    Mutation("penalties are forgotten where few logits come", "engine/sample.c", "return has_penalties(s) ? 0 : truncation(s, n_vocab);", "return truncation(s, n_vocab);", "test_sample", "whole_row"),
    Mutation("a negative logit is rewarded for repetition", "engine/sample.c", "x[t] > 0 ? x[t] / s->repetition_penalty : x[t] * s->repetition_penalty",
             "x[t] / s->repetition_penalty", "test_sample", "penalties"),
    Mutation("the draw forgets its number", "engine/sample.c", "double left = air_random_unit(s->seed, (uint64_t)a->n) * mass;\n    while",
             "double left = air_random_unit(s->seed, 0) * mass;\n    while", "test_sample"),
    Mutation("small temperatures make infinities", "engine/sample.c", "float x = (p[i] - best) / temperature;", "float x = p[i] * (1 / temperature);", "test_sample", "smallest"),
]  # fmt: skip
