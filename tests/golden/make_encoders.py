"""Golden hidden states of tiny random encoders, and of decoders that make embeddings, from Hugging Face transformers in float32.

    pip install torch transformers gguf numpy
    python tests/golden/make_encoders.py --out tests/golden/encoders

For each variant below it writes NAME.gguf (float32 weights, a vocabulary) and NAME.npz with, of a few texts,
    input_ids   int32 [tokens of all]         one text after the other
    lengths     int32 [texts]                 their tokens
    firsts      int32 [texts]                 tokens of the first text of a pair; 0: it is one
    hidden      float32 [tokens of all, n]    the last hidden states
    scores      float32 [texts, labels]       of a classifier
Every text is computed by itself. The weights follow from a seed per variant, its place in the list.
"""
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers
from encoder_families import BASE, LENGTHS, VARIANTS, WORDS, Variant

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

Floats = npt.NDArray[np.float32]

def build(variant: Variant, seed: int) -> Any:
    """In float32, its weights drawn from `seed`: sharp attention."""
    kind = getattr(transformers, variant.model)
    config = kind.config_class(**{**BASE, **variant.config})
    config._attn_implementation = "eager"
    model = kind(config).float().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1:
                p.copy_(1 + 0.2 * noise - float(variant.centred))
            else:
                p.copy_(noise * (1.5 / p.shape[-1] ** 0.5))
    return model


@torch.no_grad()
def golden(model: Any, variant: Variant, dense: list[Floats], seed: int) -> dict[str, Any]:
    """The arrays of NAME.npz."""
    rng = np.random.default_rng(seed)
    texts, hidden, scores, firsts = [], [], [], []
    for length in LENGTHS[1:] if variant.pairs else LENGTHS:
        ids = rng.integers(5, model.config.vocab_size, length).astype(np.int32)
        first = length // 3 if variant.pairs else 0
        types = {"token_type_ids": torch.from_numpy(np.arange(length) >= first).long()[None]} if first else {}
        out = model(input_ids=torch.from_numpy(ids).long()[None], output_hidden_states=True, **types)
        last = (out.last_hidden_state if hasattr(out, "last_hidden_state") else out.hidden_states[-1])[0].numpy()
        for matrix in dense:
            last = last @ matrix.T
        texts.append(ids)
        hidden.append(last)
        firsts.append(first)
        if hasattr(out, "logits"):
            scores.append(out.logits[0].numpy())
    found = {"input_ids": np.concatenate(texts), "lengths": np.array([len(t) for t in texts], np.int32),
             "firsts": np.array(firsts, np.int32), "hidden": np.concatenate(hidden).astype(np.float32)}
    return {**found, "scores": np.stack(scores)} if scores else found


def fused(state: dict[str, Any], config: Any) -> Iterator[tuple[str, Any]]:
    """q, k and v of NomicBERT in one tensor, as its first checkpoints have them."""
    for name, p in state.items():
        if name.endswith("self_attn.q_proj.weight"):
            others = [state[name.replace("q_proj", other)] for other in ("k_proj", "v_proj")]
            yield name.replace("q_proj", "qkv"), torch.cat([p, *others])
        elif not re.search(r"self_attn\.[kv]_proj", name):
            yield name, p


def tensors(model: Any, variant: Variant) -> Iterator[tuple[str, Floats]]:
    """The model's tensors under GGUF's names."""
    state = model.state_dict()
    arch = next((a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == variant.arch), gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, p in fused(state, model.config) if variant.arch == "nomic-bert" else state.items():
        if "position_ids" in name or ("pooler" in name and not hasattr(model, "classifier")):
            continue
        if variant.arch == "llama":
            p = interleaved(name, p, model.config)
        name = re.sub(r"^(bert|model)\.", "", name)
        for old, new in variant.renames.items():
            name = re.sub(old, new, name)
        known = names.get_name(name, (".weight", ".bias")) or re.sub(r"^layers\.(\d+)\.", r"blk.\1.", name)
        if not known.startswith(("blk.", "token_", "position_", "output_norm", "cls.")):
            raise ValueError(f"{variant.arch} has no name for {name}")
        data = p.numpy() + float(variant.centred and "norm" in name)
        if variant.model.startswith("XLMRoberta") and known == "position_embd.weight":
            data = data[2:]                             # of padding and what no text has
        yield known, np.ascontiguousarray(data)


def interleaved(name: str, p: Any, config: Any) -> Any:
    """Rows of q and k as llama's files have them: pairs of a rotation are neighbours."""
    if not re.search(r"[qk]_proj", name):
        return p
    heads = p.shape[0] // config.head_dim
    return p.reshape(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(p.shape)


def add_vocabulary(w: gguf.GGUFWriter, variant: Variant, size: int) -> None:
    if variant.words:
        spelt = [t if t.startswith("[") else t[2:] if t.startswith("##") else f"\u2581{t}" for t in WORDS]
        w.add_tokenizer_model("bert")
        w.add_token_list(spelt)
        w.add_token_types([3 if t.startswith("[") else 1 for t in WORDS])
        w.add_token_type_count(2)
        for add, token in ((w.add_pad_token_id, "[PAD]"), (w.add_unk_token_id, "[UNK]"), (w.add_bos_token_id, "[CLS]"),
                           (w.add_sep_token_id, "[SEP]"), (w.add_mask_token_id, "[MASK]")):
            add(WORDS.index(token))
        return
    tokens, types, merges = make_gguf.vocabulary(size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.add_add_bos_token(False)
    if variant.arch == "bert":
        w.add_token_type_count(1)


def write(path: Path, variant: Variant, model: Any, dense: list[Floats]) -> None:
    """NAME.gguf, everything in F32."""
    config = model.config
    w = gguf.GGUFWriter(path, variant.arch)
    w.add_name(f"golden {path.stem}")
    w.add_context_length(128)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
    if getattr(config, "head_dim", None):
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    add_vocabulary(w, variant, config.vocab_size)
    for key, value in variant.keys.items():
        add = w.add_bool if isinstance(value, bool) else w.add_float32 if isinstance(value, float) else w.add_uint32
        add(f"{variant.arch}.{key}", value)
    for name, data in tensors(model, variant):
        w.add_tensor(name, data)
    for i, matrix in enumerate(dense):
        w.add_tensor(f"dense_{i + 2}.weight", matrix)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path(__file__).parent / "encoders")
    ap.add_argument("--only", choices=VARIANTS, action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)        # the same sums in the same order on every machine of a kind
    args.out.mkdir(parents=True, exist_ok=True)
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        if args.only and name not in args.only:
            continue
        model = build(variant, seed)
        rng = np.random.default_rng(seed)
        width = model.config.hidden_size
        shapes = [(3 * width, width), (width, 3 * width)] if variant.arch == "gemma-embedding" else []
        dense = [(rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32) for shape in shapes]
        write(args.out / f"{name}.gguf", variant, model, dense)
        arrays = golden(model, variant, dense, seed)
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name:16} hidden states spread over {arrays['hidden'].std():.2f}")


if __name__ == "__main__":
    main()
