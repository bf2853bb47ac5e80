"""llama.cpp on a golden file and its ids, for the checks beside this: in float32, one thread, without its flash attention."""
from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


def be_quiet() -> Any:
    """Nothing is logged while what this returns lives."""
    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    return quiet


def outputs(path: Path, ids: npt.NDArray[np.int32], *, hidden: bool = False) -> npt.NDArray[np.float32]:
    """The logits after each of `ids`, [len(ids), vocab], with the K/V state in float32; or the last hidden states, [len(ids), width]."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if hidden:
        params.embeddings = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp does not run {path}")
    row = llama_cpp.llama_get_embeddings_ith if hidden else llama_cpp.llama_get_logits_ith
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    width = llama_cpp.llama_model_n_embd(model) if hidden else vocab
    out = np.stack([np.ctypeslib.as_array(row(context, i), (width,)) for i in range(len(ids))])
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return out
