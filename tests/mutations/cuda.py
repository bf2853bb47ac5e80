"""Mistakes in the order of copies and kernels of the CUDA backend, which tests/cuda_emu/test_stream.cu must catch, in how it fails, which
are test_stream_faults.cu's, with state in RAM, test_state.cu's, with experts, test_experts.cu's, with adapters, test_adapters.cu's, and in
kernels, test_rows.cu's, test_mixture.cu's, test_lora.cu's and test_attention.cu's: a table, and what plants them. Run by tests/python/test_cuda_mutations.py.

A row is a file under cuda/, exact texts (found once each) with what replaces them, and the part of a test's name that must then fail.
Only that file is compiled; the rest, and the test, are objects of a build of the tests (CMake's, with its compile_commands.json).
"""

# ruff: noqa: E501

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SEEDS = "8"  # schedules each test tries at most
TEST_SECONDS = 60  # a mistake may hang: that is a failure too


class Mutation(NamedTuple):
    name: str
    file: str
    edits: list[tuple[str, str]]
    test: str
    killer: str


def mutation(name: str, file: str, old: str, new: str, test: str = "no_schedule", *more: tuple[str, str]) -> Mutation:
    return Mutation(name, file, [(old, new), *more], test, "test_stream")


def of_shares(name: str, file: str, old: str, new: str, test: str = "devices_share", *more: tuple[str, str]) -> Mutation:
    return Mutation(name, file, [(old, new), *more], test, "test_share")


def of_rows(name: str, old: str, new: str, test: str, *more: tuple[str, str]) -> Mutation:
    return Mutation(name, "candidates.cu", [(old, new), *more], test, "test_rows")


def of_kernels(name: str, file: str, old: str, new: str, test: str, killer: str = "test_attention") -> Mutation:
    return Mutation(name, file, [(old, new)], test, killer)


def of_faults(name: str, file: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, file, [(old, new)], test, "test_stream_faults")


def of_state(name: str, old: str, new: str, test: str = "whatever_order", file: str = "shuttle.cu") -> Mutation:
    return Mutation(name, file, [(old, new)], test, "test_state")


def of_experts(name: str, old: str, new: str, test: str = "no_schedule", *more: tuple[str, str]) -> Mutation:
    return Mutation(name, "experts.cu", [(old, new), *more], test, "test_experts")


def of_recurrent(name: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, "recurrent.cu", [(old, new)], test, "test_recurrent")


def of_adapters(name: str, file: str, old: str, new: str, test: str = "of_the_cpu") -> Mutation:
    return Mutation(name, file, [(old, new)], test, "test_adapters")


def of_lora(name: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, "lora.cu", [(old, new)], test, "test_lora")


def of_mixtures(name: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(name, "mixture.cu", [(old, new)], test, "test_mixture")


WAIT_USED = '    if (d->taken >= AIR_DEVICE_RING_TILES) AIR_CUDA_TRY(cudaStreamWaitEvent(d->copy, slot->used, 0), "copying weights", err);\n'
WAIT_COPIED = '    if (tile->copied) AIR_CUDA_TRY(cudaStreamWaitEvent(h->devices[tile->device].compute, tile->copied, 0), "copying weights", err);\n'
RECORD_COPIED = '    AIR_CUDA_TRY(cudaEventRecord(copied, d->copy), "copying weights", err);\n'
WAIT_READ = '        AIR_CUDA_TRY(cudaEventSynchronize(oldest->copied), "copying weights", err);\n'
LOCKED_COPY = '    if (span->locked) AIR_CUDA_TRY(cudaMemcpyAsync(to, span->data, bytes, cudaMemcpyHostToDevice, d->copy), "copying weights", err);\n'
WAIT_PIECE = '        if (w->pieces >= AIR_DEVICE_STAGING_PIECES) AIR_CUDA_TRY(cudaEventSynchronize(w->staged_by[i]), "copying", err);\n'
RECORD_PIECE = '        AIR_CUDA_TRY(cudaEventRecord(d->staged[i], stream), "copying", err);\n'
STAGED_COPY = '        AIR_CUDA_TRY(cudaMemcpyAsync(to + at, piece, n, cudaMemcpyHostToDevice, stream), "copying", err);\n'
RECORD_USED = '    AIR_CUDA_TRY(cudaEventRecord(tile->slot->used, h->devices[tile->device].compute), "computing", err);\n'
SETTLE = "    cudaError_t late = air_cuda_settle_all(h);\n"
DRAIN = "    air_cuda_weights_drain(h);\n"
W, P, B, G, M, S, R = "weights.cu", "pass.cu", "backend.cu", "graph.cu", "probe.cu", "share.cu", "results.cu"

MUTATIONS = [
    # the ring in VRAM
    mutation("a slot is filled before its kernels are done", W, WAIT_USED, ""),
    mutation("kernels do not wait for their copy", W, WAIT_COPIED, ""),
    mutation("kernels wait for another copy", W, WAIT_COPIED, WAIT_COPIED.replace("tile->copied, 0", "h->devices[0].kept_copied, 0")),
    mutation("a copy's event comes before it", W, LOCKED_COPY, RECORD_COPIED + LOCKED_COPY, "no_schedule", (RECORD_COPIED + "    return AIR_OK;\n}\n\nstatic air_status bring_to_stay", "    return AIR_OK;\n}\n\nstatic air_status bring_to_stay")),
    mutation("a copy's event is the kernels'", W, RECORD_COPIED, RECORD_COPIED.replace("d->copy", "d->compute")),
    mutation("the kernels' event comes before them", W, RECORD_USED, "    (void)err;\n", "no_schedule",
             (WAIT_COPIED, WAIT_COPIED + "    if (tile->slot) (void)cudaEventRecord(tile->slot->used, h->devices[tile->device].compute);\n")),
    mutation("the kernels' event is the copies'", W, RECORD_USED, RECORD_USED.replace(".compute", ".copy")),
    mutation("the first slot is used again one tile early", W, WAIT_USED, WAIT_USED.replace(">=", ">")),
    mutation("a ring of one slot fewer", W, "d->taken % AIR_DEVICE_RING_TILES", "d->taken % (AIR_DEVICE_RING_TILES - 1)"),
    mutation("memory for one slot fewer", W, "each * AIR_DEVICE_RING_TILES", "each * (AIR_DEVICE_RING_TILES - 1)"),
    mutation("slots overlap", W, "d->ring + each * (uint64_t)i", "d->ring + each / 2 * (uint64_t)i"),
    mutation("all tiles take the same slot", W, "    if (!st) d->taken++;\n", ""),
    # spans
    mutation("a span goes back before its copy is done", W, "return !st && span->locked && !span->stays ? note", "return !st && !span->locked && !span->stays ? note"),
    mutation("a span goes back without waiting for its copy", W, WAIT_READ, "        (void)err;\n"),
    mutation("a span goes back as soon as its copy is asked for", W, "    *done = error == cudaSuccess;\n", "    *done = true;\n"),
    mutation("a span's copy is noted where it is not", W, "cudaEventRecord(event, d->copy)", "cudaEventRecord(event, h->aside)"),
    mutation("spans go back out of order", W, "if (copied || computing || w->n_held) {", "if (copied || computing) {"),
    mutation("spans of a pass stay behind", P, DRAIN, "", "all_its_places"),
    mutation("spans of a cancelled pass go back before their copies are done", P, SETTLE + DRAIN, DRAIN + SETTLE, "cancelled"),
    # copies
    mutation("a copy is short by a weight", W, LOCKED_COPY, LOCKED_COPY.replace("bytes,", "bytes - 4,"), "transformers"),
    mutation("copies are rounded down", W, LOCKED_COPY, LOCKED_COPY.replace("bytes,", "bytes / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN,"), "transformers"),
    mutation("copies go by a stream that nothing waits for", W, LOCKED_COPY, LOCKED_COPY.replace("d->copy", "h->aside")),
    mutation("a piece is filled before it is copied", W, WAIT_PIECE, "", "pageable"),
    mutation("a piece's event comes before its copy", W, STAGED_COPY + RECORD_PIECE, RECORD_PIECE + STAGED_COPY, "pageable"),
    mutation("pageable memory is copied as if it were locked", W, "if (span->locked) AIR_CUDA_TRY", "if (span->data) AIR_CUDA_TRY", "pageable"),
    mutation("the pieces go while weights still come", W, "!w->staging || w->to_come || ", "!w->staging || ", "pageable"),
    # weights that stay
    mutation("a tile is there without a copy", W, "return copy(h, d, to, span, bytes, d->kept_copied, err);", "return AIR_OK;", "all_its_places"),
    mutation("tiles that stay overlap", W, "d->stay[(size_t)stays].place;", "d->stay[(size_t)stays].place / 2;", "all_its_places"),
    mutation("the span of a tile that stays goes back before it is copied", W, "return !st && span->locked && !span->stays ? note",
             "return !st && span->locked && !span->stays && stays == AIR_NONE ? note"),
    mutation("rows that stay are taken for neighbours", W, " && d->stay[(size_t)i].first_row == tile->first_row + tile->rows;", ";", "all_its_places"),
    mutation("rows that stay are computed with before they have come", W, "while (i < end && !d->come[(size_t)i]) i++;", ""),
    mutation("each tile that stays is a launch of its own", W, "for (i++; i < end && ", "for (i++; false && ", "at_once"),
    mutation("the host waits for weights that stay", W, "static int used_again(const air_span *span) { return span->data && !span->stays; }", "static int used_again(const air_span *span) { return span->data != nullptr; }", "the_host_waits", ("span->locked && !span->stays ? note", "span->locked ? note")),
    mutation("small weights are used before they have come", W, "cudaError_t error = air_cuda_settle(h, d->copy);", "cudaError_t error = cudaSuccess;", "all_or_nothing"),
    # inputs, results, state
    mutation("logits are read before they have come", P, "    TRY(cudaEventSynchronize(h->marks.back()));\n", ""),
    mutation("logits go by another stream", R, "logits, cudaMemcpyDeviceToHost, h->compute", "logits, cudaMemcpyDeviceToHost, h->copy"),
    mutation("positions go by another stream", P, "h->host + from, bytes, cudaMemcpyHostToDevice, h->compute", "h->host + from, bytes, cudaMemcpyHostToDevice, h->copy",
             "all_or_nothing"),
    mutation("embeddings go by another stream", P, "n * sizeof *x, cudaMemcpyHostToDevice, h->compute", "n * sizeof *x, cudaMemcpyHostToDevice, h->copy"),
    mutation("angles lie where embeddings do", B, "l.sin = cut(&at, n * pairs * sizeof(float));", "l.sin = l.embed;", "transformers"),
    # passes
    mutation("sequences are counted from the batch's first", P, "int32_t first = pass->sequences[0], last = first;", "int32_t first = 0, last = 0;", "many_sequences"),
    mutation("norms of no rows are launched", P, "    if (op->kind != AIR_OP_PRODUCT && op->out != AIR_NONE && !rows_of(h, op->out)) return AIR_OK; /* no row is wanted */\n", "",
             "all_its_places"),
    # tokens
    mutation("candidates come down before they are made", R, "TRY(cudaMemcpyAsync(to, made, bytes, cudaMemcpyDeviceToHost, h->compute));",
             "TRY(cudaMemcpyAsync(to, made, bytes, cudaMemcpyDeviceToHost, h->copy));", "few_logits"),
    mutation("rows of logits come down over each other", R, "        to += logits;\n", "", "own_way"),
    mutation("logits that nobody reads come down", R, "    return p->logits && (!p->whole || p->whole[i]);\n", "    return p->logits != nullptr || i < 0;\n", "own_way"),
    of_rows("the last of equals comes first", "(uint64_t)bits << 32 | (0xffffffffu - (uint32_t)at);", "(uint64_t)bits << 32 | (uint32_t)at;", "equal",
            ("(int)(0xffffffffu - (uint32_t)key);", "(int)(uint32_t)key;")),
    of_rows("the sign of a zero counts", "    if (x == 0.0f) x = 0.0f; /* whatever its sign */\n", "", "equal"),
    of_rows("negative logits the other way round", "bits >> 31 ? 0xffffffffu : 0x80000000u;", "0x80000000u;", "in_order", ("bits >> 31 ? 0x80000000u : 0xffffffffu;", "0x80000000u;")),
    of_rows("the last part is not merged", "int64_t left = n_parts * K;", "int64_t left = (n_parts > 1 ? n_parts - 1 : 1) * K;", "in_order"),
    of_rows("a list is merged as it lies", "keys[i < half ? i : i ^ (K - 1)] =", "keys[half ? i : 0] =", "in_order"),
    of_rows("a sum of the candidates alone", "i < count; i += THREADS) sum +=", "i < min(count, K); i += THREADS) sum +=", "in_order"),
    of_rows("a sum of the first part alone", "i < n_parts; i += THREADS) {", "i < min(n_parts, 1); i += THREADS) {", "in_order"),
    of_rows("sums of parts are added as they are", "sum += part.sum * expf(part.max - max);", "sum += part.sum;", "in_order"),
    of_rows("what is not finite is forgotten between parts", "        wrong |= part.wrong;\n", "", "not_finite"),
    of_rows("warps do not wait for each other", "    if (apart > AIR_CUDA_WARP || apart == 1) __syncthreads();\n    else __syncwarp();\n", "    __syncwarp();\n", "in_order"),
    of_kernels("the second half of a block is as far away as the first", "attention_rows.cu", "slopes[h] * (float)abs(above - back)", "slopes[h] * (float)abs(lane - back)", "slopes_sinks"),
    of_kernels("sinks are left out of the sum", "attention.cu", "by = a.sinks ? expf(a.sinks[blockIdx.x] - most) : 0.0f;", "by = 0.0f;", "slopes_sinks"),
    of_kernels("sinks are left out where there is one part", "attention_decode.cu", "(a.sinks ? expf(", "(false ? expf(", "has_the_bits_it_has_among"),
    of_kernels("what a query has beyond a half is lost", "attention_decode.cu", "to[0] = high, to[2] = low;", "to[0] = high, to[2] = low & 0;", "numbers_of_every_size"),
    of_kernels("what a weight has beyond a half is lost", "attention_decode.cu", "return {{even.high, odd.high}, {even.low, odd.low}};", "return {{even.high, odd.high}, {0, 0}};", "heads_of_every_size"),
    of_kernels("scales of values overflow halves", "attention_decode.cu", "int power = power_for(most);", "int power = power_for(most) + 4;", "numbers_of_every_size"),
    of_kernels("what is not stored is multiplied by zero", "attention_decode.cu", "e + s * SLICE < row && sees(seen, position + i)", "e + s * SLICE < row && sees({0, seen.hi + 99}, position + i)", "heads_of_every_size"),
    of_kernels("a warp's first tile is the greatest for good", "attention_decode.cu", "to[i] *= corrections[i % 2];", "to[i] *= corrections[i % 2] * 0.0f + 1.0f;", "rows_at_the_borders"),
    of_kernels("a prompt's scores rise with the distance", "attention_prompt.cu", "score = fmaf(-q.slope,", "score = fmaf(q.slope,", "prompts_with_slopes"),
    of_kernels("a prompt's heads have the first one's slope", "attention_prompt.cu", "q.slope = a.slopes[q.head];", "q.slope = a.slopes[0];", "prompts_with_slopes"),
    of_kernels("every group has the first one's weights", "rows.cu", "of_weight = group % a.turn * a.group", "of_weight = group % 1 * a.group", "layer_norms_and", "test_rows"),
    of_kernels("every group in registers has the first one's weights", "rows.cu", "a.weight + group % a.turn * a.group", "a.weight + group % 1 * a.group", "layer_norms_and", "test_rows"),
    of_kernels("every row's 8-bit form is the first one's", "rows.cu", "a.q8, start + at, has", "a.q8, at, has", "a_norm_gives_its_8_bit_form", "test_rows"),
    of_kernels("a layer norm leaves the mean in", "rows.cu", "(a.x[start + at] - mean) * scale", "a.x[start + at] * scale", "layer_norms_and", "test_rows"),
    of_kernels("what comes later is seen to the end", "attention.cu", "to.ahead = a->ahead < INT_MAX ? (int)a->ahead : INT_MAX", "to.ahead = a->ahead ? INT_MAX : 0", "own_sequence"),
    of_kernels("parts of what comes later are not merged", "attention.cu", "air_cuda_most_seen(to.window, to.ahead)", "to.window", "own_sequence"),
    of_kernels("groups of a row begin where it does", "rows.cu", "a.width + a.first + group", "a.width + group", "may_lie_apart", "test_rows"),
    of_kernels("parts are rotated from the row's start", "rows.cu", "a.at.width + a.at.first + head", "a.at.width + head", "rotated_where_they_lie", "test_rows"),
    of_kernels("heads in 8 bits lie row by row", "quantize.cu", "part = column / n, row = column % n", "part = column % (groups / in_column / n), row = column / (groups / in_column / n)", "8_bit_form_part_by_part", "test_rows"),
    of_kernels("values in keys that are not seen count as zero times what is there", "attention_rows.cu", "bool seen = position + i >= at.lo && position + i < at.hi;", "bool seen = true;", "values_in_keys_are"),
    of_kernels("of a compressed state's query what a half leaves over is lost", "attention_latent.cu", "if (S::SPLIT) to[S::EACH * s.q_row + e] = air_float_to_half(x[n] * up - air_half_to_float(to[e]));", "if (S::SPLIT) to[S::EACH * s.q_row + e] = 0;", "of_any_size"),
    of_kernels("of a compressed state's weight what a half leaves over is lost", "attention_latent.cu", "low[g] = pair_of(p[0] - rounded.x, p[1] - rounded.y);", "low[g] = 0;", "values_in_keys_are"),
    of_kernels("keys that are not seen are multiplied by zero", "attention_latent.cu", "only_seen(keys[i], t.seen, position_of(a, step, c))", "keys[i]", "shows_where_it_is_seen"),
    of_kernels("a compressed state's sums are relative to the first maximum", "attention_latent.cu", "    if (!__ballot_sync(AIR_CUDA_ALL_LANES, by[0] != 1.0f || by[1] != 1.0f)) return; /* seldom after the first steps */\n", "    return;\n", "values_in_keys_at"),
    of_kernels("the second query of a lane has the first one's maximum", "attention_latent.cu", "out[n][2] *= by[1], out[n][3] *= by[1];", "out[n][2] *= by[0], out[n][3] *= by[0];", "prompts_attend_a_compressed"),
    of_kernels("the second tile's values are the first one's", "attention_latent.cu", "v + tile * a.key_dim * AIR_STATE_TILE + n", "v + n", "prompts_attend_a_compressed"),
    of_kernels("sinks of a compressed state are left out where there is one part", "attention_latent.cu", "(a.sinks ? expf(a.sinks[which_head] - q.all.max) : 0.0f)", "0.0f", "with_windows_and_all"),
    of_kernels("parts are copied to where they came from", "rows.cu", "part * to.step + at]", "part * from.step + at]", "parts_of_rows", "test_rows"),
    of_recurrent("a sequence's rows see those before them", "    if (row >= course.first) return", "    if (row >= 0) return", "convolutions"),
    of_recurrent("a window's rows are the pass's first ones", "course.ends[s] - kept + j, c)", "course.first + j, c)", "convolutions"),
    of_recurrent("a sequence goes on from zeros", "bool there = course.before && ", "bool there = false && ", "recurrences_are"),
    of_recurrent("what is kept is that of the end", "        first = end;\n", "        first = course.first;\n", "recurrences_are"),
    of_recurrent("heads have the first one's steps", "steps + head / a.shared * 2 * a.shared", "steps + head * 0 * a.shared", "recurrences_are"),
    of_recurrent("queries keep their length", "to_length<ELEMENTS>(q, a.of.eps, a.to_length), ", "", "recurrences_are"),
    of_recurrent("later rows have the steps of the first", "mine.decay, r)", "mine.decay, 0)", "recurrences_are"),
    of_kernels("rows have the types of the next ones", "rows.cu", "types[blockIdx.x] * width", "types[(blockIdx.x + 1) % gridDim.x] * width", "their_type", "test_rows"),
    of_kernels("rows are tempered by their numbers", "rows.cu", "(int64_t)a.positions[blockIdx.x] + a.shift", "(int64_t)blockIdx.x + a.shift", "tempered", "test_rows"),
    of_rows("rows that take their turn come over the first", "out + r * k, log_sums + r,", "out + r / 64 * k, log_sums + r,", "other_rows"),
    # state in RAM
    of_state("attention does not wait for state", 'AIR_CUDA_TRY(cudaStreamWaitEvent(h->compute, h->shuttle.copied[buffer_of(h, layer)], 0), "copying state", err);', "(void)layer, (void)err;"),
    of_state("a buffer of state is filled before it was attended", "if (turn >= AIR_DEVICE_SHUTTLE) AIR_CUDA_TRY", "if (turn < 0) AIR_CUDA_TRY"),
    of_state("copies of state are short", "cudaMemcpyAsync(to, from, bytes,", "cudaMemcpyAsync(to, from, bytes - 64,", "bits_of_state"),
    of_state("a window is a block short", "block->end > h->min_position + 1 - window", "block->end > h->min_position + 65 - window", "window"),
    of_state("state's event is the weights'", "cudaEventRecord(s->copied[i], s->stream)", "cudaEventRecord(s->copied[i], h->copy)"),
    of_state("pageable state is copied as if it were locked", "if (block->home != AIR_STATE_LOCKED) return", "if (!block->memory) return"),
    of_state("a block of state is used before it is copied, or given away", 'AIR_CUDA_TRY(air_cuda_settle(h, pageable ? cudaStreamLegacy : h->aside), "copying state", err);', "(void)err;", file="backend.cu"),
    # graphs
    mutation("a graph serves other rows", G, "a.rows == b.rows && a.n_wanted == b.n_wanted && a.sequences == b.sequences && ", "", "alike", ("\n        && a.whole == b.whole;", ";")),
    mutation("a graph brings other candidates", G, "a.candidates == b.candidates && ", "", "own_way"),
    mutation("a graph brings other rows of logits", G, "\n        && a.whole == b.whole;", ";", "own_way"),
    mutation("a graph outlives the memory it names", B, "    air_cuda_graph_drop(h); /* which names it */\n", "", "alike"),
    mutation("a graph is made of weights that stream", G, " || !air_cuda_weights_resident(h)", "", "the_host_waits"),
    mutation("each position has a graph of its own", P, "    if (air_cuda_graph_takes(h)) h->max_position = bucket_of(h, h->max_position);\n", "    (void)bucket_of;\n", "alike"),
    mutation("a graph is forgotten", G, "    if (graph) (void)cudaGraphDestroy(graph);\n    if (error", "    if (error", "alike"),
    of_faults("a graph of half a pass is launched", G, "    if (!st && error == cudaSuccess) return graph;", "    (void)st;\n    if (error == cudaSuccess) return graph;", "walked"),
    mutation("a capture that failed is tried again", G, "    h->graph.refused = !atomic_load(h->pass->cancel);\n", "", "alike"),
    # failures
    of_faults("a tile that stays is there before its copy is asked for", W, "    if (st) tile->rows = 0;\n", "", "any_call"),
    of_faults("memory of a failed upload is kept", W, "    (void)cudaFree(*out);\n    *out = nullptr;\n    return st;\n", "    *out = nullptr;\n    return st;\n", "any_call"),
    of_faults("a lost device is not known for lost", B, "    if (again != cudaSuccess) h->lost = again;\n", "    (void)again;\n", "lost_device"),
    of_faults("freed state keeps its room from rows", B, "    if (bytes > old_bytes) drop_free_state(h);", "    if (bytes > old_bytes) (void)old_rows;", "freed_state"),
    of_faults("pages stay locked", B, "    (void)cudaHostUnregister(p);\n", "    (void)p;\n", "lost_device"),
    of_faults("a probe keeps its memory", M, "    (void)cudaFree(p->window);\n", "", "a_probe"),
    of_faults("a probe that fails succeeds", M, "    return st ? st : context_bytes(&out->context, err);\n", "    return context_bytes(&out->context, err);\n",
              "a_probe"),
    of_faults("freed state is forgotten", B, "        h->state_free.emplace_back(p, bytes);\n", "        (void)bytes;\n", "lost_device"),
    # products that others compute
    of_shares("another device does not wait for the columns", S, "    TRY(cudaStreamWaitEvent(d->compute, h->share.input, 0));\n", ""),
    of_shares("the columns are said to be there before they are", S, "    TRY(cudaEventRecord(h->share.input, h->compute));\n", ""),
    of_shares("a result is folded before it has arrived", S, "    TRY(cudaStreamWaitEvent(h->compute, lane->arrived[slot], 0));\n", ""),
    of_shares("a result is said to have arrived before it left", S, "    TRY(cudaEventRecord(lane->arrived[slot], sender));\n", ""),
    of_shares("a result comes over one that is being folded", S, "    if (lane->sent >= AIR_DEVICE_PARTS) TRY(cudaStreamWaitEvent(sender, lane->folded[*slot], 0));\n", ""),
    of_shares("a result counts as folded before it is", S, "    TRY(cudaEventRecord(folded, h->compute));\n", ""),
    of_shares("a short copy of results", S, "d->part, d->number, bytes, d->compute", "d->part, d->number, bytes - 4, d->compute"),
    of_shares("a short copy of columns", S, "(size_t)(columns * k) * sizeof(float), d->compute", "(size_t)(columns * k - 1) * sizeof(float), d->compute"),
    of_shares("a product is over before all results are in", S, "while (!st && s->lanes[i].taken < s->lanes[i].sent)", "while (!st && s->lanes[i].taken + 1 < s->lanes[i].sent)"),
    of_shares("the CPU does not wait for the columns", S, "    TRY(cudaEventSynchronize(s->columns_there));\n", "", "the_cpu_computes"),
    of_shares("the CPU writes over results that have not left", S, "    if (s->computed >= AIR_DEVICE_PARTS) TRY(cudaEventSynchronize(s->folded[slot])); /* the last results there have been read */\n", "", "the_cpu_computes"),
    of_shares("the CPU computes prompts", S, "if (role == AIR_ROW_GENERATED) return", "if (role >= 0) return", "the_cpu_computes"),
    of_shares("the CPU's rows are the device's too", P, "        if (tile->host && role == AIR_ROW_GENERATED) continue;\n", "", "the_cpu_computes"),
    of_shares("a span goes back while the CPU computes with it", W, "!st && tile->host && !span.stays);", "0);", "the_cpu_computes"),
    of_shares("more is brought ahead than the ring holds", W, "d->taken - d->left < AIR_DEVICE_RING_TILES", "d->taken - d->left <= AIR_DEVICE_RING_TILES", "the_cpu_computes"),
    of_shares("tiles brought ahead are not waited for", W, WAIT_COPIED, "", "the_cpu_computes"),
    # experts
    of_experts("a place is filled before its kernels are done", "    TRY(cudaStreamWaitEvent(h->copy, x->used[(turn < oldest ? oldest : turn) % AIR_CUDA_EXPERT_TURNS], 0));\n", "    (void)oldest;\n"),
    of_experts("a place waits for another expert's kernels", "(turn < oldest ? oldest : turn) %", "(turn < oldest ? oldest : turn + 1) %"),
    of_experts("kernels do not wait for their expert", "    TRY(cudaStreamWaitEvent(h->compute, x->copied, 0));\n", ""),
    of_experts("an expert's copy is noted before it", "    TRY(cudaEventRecord(x->copied, h->copy));\n", "", "no_schedule", ("    air_status st = await_place(h, e->place, err);\n", "    air_status st = await_place(h, e->place, err);\n    TRY(cudaEventRecord(x->copied, h->copy));\n")),
    of_experts("an expert's kernels are noted on another stream", "x->used[turn % AIR_CUDA_EXPERT_TURNS], h->compute", "x->used[turn % AIR_CUDA_EXPERT_TURNS], h->aside"),
    of_experts("an expert goes back before it is copied", "    if (e->down && e->locked) x->held[x->n_held++] = *e;\n    else give(h, e);\n", "    give(h, e);\n"),
    of_experts("an expert goes back without waiting for its copy", "x->n_held == AIR_CUDA_READING ? cudaEventSynchronize(oldest) : cudaEventQuery(oldest);", "oldest ? cudaSuccess : cudaErrorUnknown;"),
    of_experts("experts of a pass stay behind", "    while (well && h->experts.n_held) give_oldest(h);\n", "    (void)well;\n"),
    of_experts("rows are sorted before the routing has come", "    TRY(cudaEventSynchronize(x->routed));\n", ""),
    of_experts("the routing comes by another stream", "cudaMemcpyDeviceToHost, h->compute", "cudaMemcpyDeviceToHost, h->copy"),
    of_experts("which row goes where goes by another stream", "sent, times * sizeof *sent, cudaMemcpyHostToDevice, h->compute", "sent, times * sizeof *sent, cudaMemcpyHostToDevice, h->aside"),
    of_experts("pageable experts are copied as if they were locked", "    if (!e->locked) return air_cuda_copy_staged", "    if (!from) return air_cuda_copy_staged"),
    of_experts("places overlap", "h->experts.memory + e->at + air_device", "h->experts.memory + e->at / 2 + air_device", "transformers"),
    of_experts("a lone row is the first", "        run.row = sent[run.first];\n", "        run.row = 0 * sent[run.first];\n", "transformers"),
    of_experts("an expert's columns are the first ones", "(const float *)(h->memory + h->layout.gathered) + run->first * k;", "(const float *)(h->memory + h->layout.gathered);", "transformers"),
    of_experts("experts are not gated", "    gated.activation = m->activation;\n", "", "transformers"),
    of_experts("what experts make takes the residual's place", "mixed.adds = op->epilogue == AIR_EPILOGUE_ADD;", "mixed.adds = false;", "transformers"),
    of_experts("rows of prompts lie over generated ones", "next[AIR_ROW_PROMPT][i] = x->first[i] + x->generated[i];", "next[AIR_ROW_PROMPT][i] = x->first[i];", "among_others"),
    of_experts("rows of prompts are computed as generated ones", "generated, x->rows[e->expert] - generated, 0, AIR_ROW_PROMPT", "generated, x->rows[e->expert] - generated, 0, AIR_ROW_GENERATED", "among_others", ("p.role = (air_cuda_role)run->role;", "p.role = (air_cuda_role)h->pass->roles[0];")),
    of_mixtures("the last of equal experts is chosen", "before += keys[j] > mine || (keys[j] == mine && j < i);", "before += keys[j] > mine || (keys[j] == mine && j > i);", "equal"),
    of_mixtures("a group too many is kept", ">= a.groups_used) keys[i] = 0;", "> a.groups_used) keys[i] = 0;", "best_groups"),
    of_mixtures("weights have the bias that chooses", " : values[i];\n    }", " : biased(a, values, i);\n    }", "definition_names"),
    of_mixtures("groups are weighed by one expert", "return a.bias ? one + two : one;", "return one;", "best_groups"),
    of_mixtures("a row adds its first expert's result again", "a.results[place[j] * a.width + i]", "a.results[place[0] * a.width + i]", "order_of_a_rows"),
    of_mixtures("a time's weight is its row's first", "a.place[row * a.used + which] != time", "a.place[row * a.used + which] < 0", "what_experts_make"),
    of_mixtures("what is weighed already is weighed again", "a.weighed ? 1.0f : weights[j]", "weights[j]", "order_of_a_rows"),
    # adapters
    of_adapters("results that are added lie where the sum is, before they are", "adapters.cu", "    if (op->epilogue == AIR_EPILOGUE_SET) return;\n", "    return;\n"),
    of_adapters("A x is left out", P, "    if (!st && n) st = air_cuda_adapters_begin(h, op, n, err);\n", ""),
    of_adapters("wanted rows have the first rows' adapters", "adapters.cu", "if (h->program->buffers[op->in].rows != AIR_ROWS_ALL) a.wanted", "if (op->weight < 0) a.wanted"),
    of_adapters("who has none has the first one's", "adapters.cu", "out[s] = air_device_adapted{adapter ? adapter->on_device : nullptr, adapted->scale};", "out[s] = adapter ? air_device_adapted{adapter->on_device, adapted->scale} : out[0];"),
    of_adapters("who has which does not go up", P, "    if (!st) st = upload(h, h->layout.adapted, l->adapted, adapted, err);\n", "    (void)adapted;\n"),
    of_adapters("what another device gives has none", S, "    if (air_cuda_adapts(h, op)) st = air_cuda_adapters_fold(h, op, f.part, of->rows, of, err);\n    else TRY", "    TRY", "other_devices"),
    of_adapters("a graph is of whoever has adapters", G, " && a.ranks == b.ranks", "", "captured"),
    of_adapters("memory of what adapters add is kept", B, "    (void)cudaFree(h->adapting.memory);\n", "", "follow_who"),
    of_adapters("an adapter's memory is kept", B, "        if (cudaSetDevice(h->device) == cudaSuccess) (void)cudaFree(p);\n        return AIR_OK;\n", "        return AIR_OK;\n", "comes_back"),
    of_adapters("an adapter that could not be cleared is kept", B, '    (void)cudaFree(*out);\n    *out = nullptr;\n    return air_cuda_fail(error, "an adapter", err);', '    *out = nullptr;\n    return air_cuda_fail(error, "an adapter", err);', "any_call"),
    of_lora("the scale is forgotten", "__fmul_rn(v, of.scale)", "v", "before_anything_else"),
    of_lora("columns have the first one's adapter", "alike = alike && of[c].a == of[0].a;", "alike = alike || of[c].a == of[0].a;", "a_columns_bits"),
    of_lora("a warp's sums are left out", "for (int w = 1; w < WARPS; w++)", "for (int w = 1; w < WARPS - 1; w++)", "before_anything_else"),
    of_lora("rows begin with the weight's first", "g.of[0].b + f.first_row + row", "g.of[0].b + row", "a_columns_bits"),
    of_lora("rows beside another adapter's begin with the weight's first", "g.of[c].b + f.first_row + row", "g.of[c].b + row", "a_columns_bits"),
    of_lora("who has no adapter gets a zero added", "if (g.of[c].rank) y = __fadd_rn(y, sum[c]);", "y = __fadd_rn(y, sum[c] + (g.of[c].rank ? 0.0f : 1e-3f));", "without_an_adapter"),
    of_lora("what is added comes behind the epilogue", "if (g.of[c].rank) y = __fadd_rn(y, sum[c]);", "if (!g.of[c].rank) y = __fadd_rn(y, sum[c]);", "before_anything_else"),
    of_mixtures("what is scaled was not normalised", "a.normalise ? weights[j] / (sum + 1e-20f) : weights[j]", "weights[j] + 0 * sum", "definition_names"),
]


def compile_command(build: Path, file: str) -> tuple[list[str], str]:
    """That of the backend's file in a build, without what it is compiled from and to, and the folder to run it in."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        if Path(entry["file"]) == ROOT / "cuda" / file and any("air_cuda_backend" in word for word in words):
            break
    else:
        raise LookupError(f"cuda/{file} is not compiled in {build}")
    kept: list[str] = []
    skip = 0
    for word in words:
        if skip or word in ("-o", "-c", "-MT", "-MF", "-MD", "-Werror"):
            skip = word in ("-o", "-c", "-MT", "-MF") and not skip
        else:
            kept.append("-O1" if word == "-O3" else word)
    return kept, entry["directory"]


def mutated(m: Mutation) -> str:
    text = (ROOT / "cuda" / m.file).read_text()
    for old, new in m.edits:
        if text.count(old) != 1:
            raise LookupError(f"{m.name}: its text is there {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return text


def fate(build: Path, m: Mutation, folder: Path) -> str:
    """What becomes of it: "caught", or what else."""
    folder.mkdir()
    source, test = folder / m.file, folder / m.killer
    source.write_text(mutated(m))
    compiler, directory = compile_command(build, m.file)
    emulation = build / "tests" / "cuda_emu"
    objects = [o for o in (emulation / "CMakeFiles" / "air_cuda_backend.dir").rglob("*.cu.o") if o.name != f"{m.file}.o"]
    link = [emulation / "CMakeFiles" / f"{m.killer}.dir" / f"{m.killer}.cu.o", *sorted(objects), emulation / "libair_cuda_emu.a", build / "csrc" / "libair.a"]
    for command in (
        [*compiler, "-o", source.with_suffix(".o"), "-c", source],
        [compiler[0], "-o", test, source.with_suffix(".o"), *link, "-pthread", "-ldl", "-lm"],
    ):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            return "does not compile: " + done.stderr[-2000:]
    try:
        done = subprocess.run([test, m.test], capture_output=True, text=True, errors="replace", timeout=TEST_SECONDS, env={**os.environ, "AIR_STREAM_SEEDS": SEEDS})
    except subprocess.TimeoutExpired:
        return "caught"
    return "caught" if "FAILED" in done.stdout or done.returncode < 0 or "no reference" in done.stdout else f"SURVIVED {m.test}"
