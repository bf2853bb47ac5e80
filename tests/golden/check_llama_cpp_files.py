"""Whole files: what llama.cpp makes of tensors in every mix (recorded in quantise_types.json); the perplexity of the demo model on its
held-out text in every mix that airpy makes, as airpy and as llama.cpp count it, beside that of llama.cpp's own file; and how far either
file's predictions are from those of the weights it was made from.

    pip install . llama-cpp-python numpy gguf
    python tests/golden/check_llama_cpp_files.py --model demo-f16.gguf           exit code 1 where types differ or a file is off

demo-f16.gguf: tools/demo_model makes it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import quantise_shapes

import airpy
from airpy import _core
from airpy.quantization import MIXES, plan_quantize

HERE = Path(__file__).parent
TEXT = HERE / "demo_val.txt"
WINDOW = 512
NEAR = 2e-3  # of two engines' figures for one file
DIVERGENCE_WINDOWS = 24


def quantise_theirs(source: Path, out: Path, file_type: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, 2, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp does not quantise {source} to {file_type}")


def types_of(path: Path) -> dict[str, str]:
    return {name: type for name, type, *_ in _core.GGUF(path).tensors}


def check_types(folder: Path) -> int:
    """How many of shapes and mixes differ; records llama.cpp's."""
    recorded: dict[str, dict[str, dict[str, str]]] = {}
    differ = 0
    for shape in quantise_shapes.SHAPES:
        source = quantise_shapes.write(folder / "shape.gguf", shape)
        for mix in MIXES.values():
            theirs, ours = folder / "theirs.gguf", folder / "ours.gguf"
            quantise_theirs(source, theirs, mix.file_type)
            airpy.quantize(source, mix.name, ours, overwrite=True, progress=False)
            recorded.setdefault(shape, {})[mix.name] = quantise_shapes.summary(types_of(theirs))
            if types_of(ours) != types_of(theirs):
                differ += 1
                print(f"{shape}, {mix.name}: {quantise_shapes.summary(types_of(ours))}, llama.cpp {recorded[shape][mix.name]}")
    lines = []
    for shape, mixes in recorded.items():
        rows = ",\n".join(f"  {json.dumps(mix)}: {json.dumps(kinds)}" for mix, kinds in mixes.items())
        lines.append(f" {json.dumps(shape)}: {{\n{rows}\n }}")
    (HERE / "quantise_types.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return differ


def their_perplexity(path: Path, ids: np.ndarray) -> float:
    """llama.cpp's, as tools/perplexity counts it. ids: whole windows."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
    params.n_threads = params.n_threads_batch = 1  # several spin, and wait for each other where others compute
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(WINDOW, 0, 1)
    total, count = 0.0, 0
    for window in ids.reshape(-1, WINDOW):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = WINDOW
        for i, token in enumerate(window.tolist()):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, i >= WINDOW // 2
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"llama.cpp does not run {path}")
        rows = WINDOW // 2
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (rows, vocab))[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        targets = window[WINDOW // 2 + 1 :]
        total += float((np.log(np.exp(logits).sum(-1)) - logits[np.arange(rows - 1), targets]).sum())
        count += rows - 1
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return math.exp(total / count)


def log_probabilities(path: Path, ids: np.ndarray, decoded: Path) -> np.ndarray:
    """[tokens, vocabulary], of the first DIVERGENCE_WINDOWS windows: of the weights decoded to F32, so that nothing else is rounded.
    decoded: a file for those."""
    airpy.quantize(path, "F32", decoded, overwrite=True, allow_requantize=True, progress=False)
    with airpy.AutoModel.from_pretrained(decoded, progress=False, kv_dtype="f32") as model:
        rows = [model(window[None]).logits[0].astype(np.float64) for window in ids.reshape(-1, WINDOW)[:DIVERGENCE_WINDOWS]]
    logits = np.concatenate(rows)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def check_perplexity(source: Path, folder: Path) -> int:
    """How many files the two engines do not agree on; prints the table."""
    text = TEXT.read_text().removesuffix("\n")
    ids = np.array(airpy.Tokenizer.from_gguf(source).encode(text, parse_special=False), np.int32)
    ids = ids[: len(ids) // WINDOW * WINDOW]
    true = log_probabilities(source, ids, folder / "decoded.gguf")
    print("| type | bits per weight | airpy's file in airpy | in llama.cpp | llama.cpp's file in llama.cpp | divergence | llama.cpp's |")
    print("|---|---|---|---|---|---|---|")
    off = 0
    for mix in MIXES.values():
        ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
        plan = plan_quantize(source, mix.name, ours, overwrite=True)
        plan.write(progress=False)
        quantise_theirs(source, theirs, mix.file_type)
        with airpy.AutoModel.from_pretrained(ours, progress=False) as model:
            found = model.perplexity(text)
        same, own = (their_perplexity(path, ids) for path in (ours, theirs))
        off += abs(found.perplexity / same - 1) > NEAR
        found_by = [log_probabilities(path, ids, folder / "decoded.gguf") for path in (ours, theirs)]
        far = [(np.exp(true) * (true - logs)).sum(-1).mean() for logs in found_by]
        figures = f"{found.perplexity:.4f} | {same:.4f} | {own:.4f} | {far[0]:.6f} | {far[1]:.6f}"
        print(f"| {mix.name} | {plan.bits_per_weight:.2f} | {figures} |", flush=True)
    return off


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="demo-f16.gguf")
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as name:
        differ = check_types(Path(name))
        off = check_perplexity(args.model, Path(name))
    print(f"{differ} files with other types than llama.cpp's, {off} with a perplexity that the engines do not agree on")
    return int(differ + off > 0)


if __name__ == "__main__":
    sys.exit(main())
