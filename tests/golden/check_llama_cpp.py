"""Holds the golden files against llama.cpp: the same logits from the GGUF files as transformers gave, so that names, the
order of q and k, rope's factors and scalings are what other engines expect.

    pip install llama-cpp-python numpy
    python tests/golden/check_llama_cpp.py            prints one line per model; exit code 1 if one is off
"""
from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
LIMIT = 1e-5                        # of the squared error over the squared logits
DIFFER = {"exaone4": "no window below 64 layers", "command-r-norms": "no norms on q and k below 64 layers", "phi3": "no window",
          "phi3-longrope": "a vocabulary of its own where a name says phi3", "dots1": "no fewer heads of keys than of queries",
          "ernie4-5-moe": "asks for interleave_moe_layer_step", "olmoe": "asks for an output matrix",
          "qwen2moe": "asks for an output matrix", "deepseek2-lite": "models of other than 27 layers have a q_lora_rank",
          "deepseek2-v2": "groups by their two best", "phimoe": "a softmax over all", "llama4": "chunks of 8192 alone",
          "gpt-oss": "yarn's ramp is cut to whole pairs"}


def logits(path: Path, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """llama.cpp's logits after each of `ids`, [len(ids), vocab], with the K/V state in float32."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp does not run {path}")
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    out = np.stack([np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (vocab,)) for i in range(len(ids))])
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return out


def main() -> int:
    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    worst = 0.0
    for path in sorted((HERE / "models").glob("*.gguf")):
        if path.stem in DIFFER:
            print(f"{path.stem:16} is left out: {DIFFER[path.stem]}")
            continue
        golden = np.load(HERE / f"{path.stem}.npz")
        ids = np.concatenate((golden["input_ids"], golden["greedy_ids"]))
        got = logits(path, ids)
        want = golden["logits"]
        n = len(golden["input_ids"])
        nmse = float(((got[:n] - want) ** 2).sum() / (want ** 2).sum())
        same = int((got[n - 1:-1].argmax(1) == golden["greedy_ids"]).sum())
        worst = max(worst, nmse, 1.0 if same < len(golden["greedy_ids"]) else 0.0)
        print(f"{path.stem:16} NMSE {nmse:.1e}, {same} of {len(golden['greedy_ids'])} greedy tokens")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
