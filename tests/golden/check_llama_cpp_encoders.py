"""Holds the golden encoders against llama.cpp: the same last hidden states from the GGUF files as transformers gave, so that names, the
order of q and k, windows and norms are what other engines expect.

    pip install llama-cpp-python numpy
    python tests/golden/check_llama_cpp_encoders.py       prints one line per model; exit code 1 if one is off
"""
from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "encoders"
LIMIT = 1e-5                        # of the squared error over the squared states; GELU is the tanh form there
DIFFER = {"bert-rank": "all tokens are of the first type", "gemma-embedding": "its matrices behind the norm are for pooled states",
          "qwen3-rank": "asks for names of the labels"}


def states(path: Path, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """llama.cpp's last hidden states [len(ids), width]."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 128
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp does not run {path}")
    width = llama_cpp.llama_model_n_embd(model)
    out = np.stack([np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(context, i), (width,)) for i in range(len(ids))])
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return out


def main() -> int:
    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    worst = 0.0
    for path in sorted(FOLDER.glob("*.gguf")):
        if path.stem in DIFFER:
            print(f"{path.stem:16} is left out: {DIFFER[path.stem]}")
            continue
        golden = np.load(path.with_suffix(".npz"))
        got = np.concatenate([states(path, ids) for ids in np.split(golden["input_ids"], np.cumsum(golden["lengths"])[:-1])])
        nmse = float(((got - golden["hidden"]) ** 2).sum() / (golden["hidden"] ** 2).sum())
        worst = max(worst, nmse)
        print(f"{path.stem:16} NMSE {nmse:.1e}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
