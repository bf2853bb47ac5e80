"""Golden logits and greedy tokens of tiny random models, from Hugging Face transformers in float32.

    pip install torch transformers gguf numpy
    PYTHONPATH=. python tests/golden/make_golden.py --out tests/golden

Keys, names and orders are those of the package's converter (airpy/conversion), which is so checked with every test of a golden model; the
file is written by the gguf package. For each variant of families.py it writes models/NAME.gguf (float32 weights, a working byte-level
vocabulary), unless there is one that says the same, and NAME.npz with
    input_ids   int32 [48]                the prompt
    logits      float32 [48, vocab]       after each of its tokens
    greedy_ids  int32 [24]                what greedy decoding then chooses
    greedy_gap  float32                   the smallest lead of a chosen token's logit over the second best
The weights follow from a seed per variant, the prompt is the first that leaves greedy decoding no near tie.
check_llama_cpp.py, beside this, holds the files against llama.cpp.
"""
from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import numpy.typing as npt
import torch
import transformers
from families import BASE, VARIANTS, VOCAB, Floats, Variant, alibi_slopes

from airpy.conversion.config import Config
from airpy.conversion.families import Family, find_family
from airpy.conversion.hparams import model_entries
from airpy.conversion.safetensors import Checkpoint
from airpy.conversion.tensors import source_tensors
from airpy.gguf_writer import Entry

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import make_gguf

PROMPT, NEW = 48, 24
LEAST_GAP = 0.02                    # of greedy choices; float32 engines differ by about 1e-5 here
LEAST_TOKENS = 12                   # different ones among the greedy choices: a loop would test little
EMBEDDINGS = ("lm_head", "model.embed", "embed_in", "embed_out", "wte", "word_embeddings.")
LAST_NORMS = ("model.norm.weight", "model.embedding_norm.weight", "transformer.ln_f.weight")


# ---- transformers ----------------------------------------------------------------------------------------------------

def config_of(variant: Variant) -> Any:
    rope = variant.rope if "full_attention" in variant.rope else {"rope_type": "default", "rope_theta": 10000.0, **variant.rope}
    kind = getattr(transformers, f"{variant.family}Config")
    given = {**BASE, **variant.config}
    if variant.family in ("GPT2", "GPTBigCode", "Bloom", "Mpt"):        # positions without rope, and names of their own
        own = {"vocab_size": VOCAB, **variant.config}
        config = kind(**own)
    else:
        config = kind(**given, rope_parameters=rope)
    config._attn_implementation = "eager"
    return config


def build(variant: Variant, seed: int) -> Any:
    """The model in float32, its weights drawn from `seed`: sharp attention, and logits that spread over a few units."""
    config = config_of(variant)
    model = getattr(transformers, variant.model or f"{variant.family}ForCausalLM")(config).float().eval()
    if variant.attention:
        replace_attention(model, variant.attention)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape)
            if name.endswith("A_log"):
                p.copy_(0.5 * noise - 1.5)      # what is seen is remembered for some ten positions
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.ndim == 1 or "norm" in name:
                size = variant.quiet if name in LAST_NORMS else 1 / variant.quiet if "embeddings_layernorm" in name else 1
                p.copy_(size * (1 + 0.2 * noise) - float(variant.centred))
            else:
                inputs = p.shape[0] if variant.transposed and ".c_" in name else p.shape[-1]
                gain = 2.5 / variant.quiet if any(part in name for part in EMBEDDINGS) else 1.5
                gain *= next((more for part, more in variant.loud.items() if part in name), 1)
                p.copy_(noise * (gain / inputs ** 0.5))
        for name, p in model.named_buffers():
            if "correction" in name or name.endswith("expert_bias"):
                p.copy_(0.1 * torch.randn(p.shape))
    if variant.alibi or not variant.rotated:
        no_rotation(model)
    return model


def replace_attention(model: Any, family: str) -> None:
    """Another family's attention, over keys and values, and its ropes."""
    kinds = vars(__import__(f"transformers.models.{family.lower()}.modeling_{family.lower()}", fromlist=["*"]))
    model.config.kv_lora_rank = 0
    model.model.rotary_emb = kinds[f"{family}RotaryEmbedding"](model.config)
    for i, layer in enumerate(model.model.layers):
        layer.self_attn = kinds[f"{family}Attention"](model.config, i).float().eval()


def no_rotation(model: Any) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda *args, **kwargs: tuple(torch.full_like(x, i == 0) for i, x in enumerate(forward(*args, **kwargs)))


def alibi_mask(model: Any, n: int) -> torch.Tensor:
    """What is added to scores [heads, n, n]: the slopes times the distance, and nothing of what comes later."""
    slopes = torch.from_numpy(alibi_slopes(model.config.num_attention_heads))
    distance = torch.arange(n)[None] - torch.arange(n)[:, None]
    return (slopes[:, None, None] * distance + torch.full((n, n), -math.inf).triu(1))[None]


@torch.no_grad()
def greedy(model: Any, prompt: npt.NDArray[np.int32], alibi: bool) -> tuple[npt.NDArray[np.int32], Floats, float]:
    """Greedy tokens after `prompt`, the prompt's logits, the smallest lead. Each step computes the whole text anew, so that
    no cache is trusted."""
    ids, gap = torch.from_numpy(prompt.astype(np.int64))[None], math.inf
    first: Floats | None = None
    for _ in range(NEW):
        mask = {"attention_mask": alibi_mask(model, ids.shape[1])} if alibi else {}
        logits = model(ids, use_cache=False, **mask).logits[0].float()
        first = logits.numpy() if first is None else first
        best = logits[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids = torch.cat((ids, best.indices[None, :1]), 1)
    assert first is not None
    return ids[0, len(prompt):].numpy().astype(np.int32), first, gap


def golden(model: Any, seed: int, alibi: bool) -> dict[str, Any]:
    """The arrays of NAME.npz, for the first prompt without a near tie or a loop."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        prompt = rng.integers(len(make_gguf.SPECIAL), VOCAB, PROMPT).astype(np.int32)
        ids, logits, gap = greedy(model, prompt, alibi)
        special = ids.min() < len(make_gguf.SPECIAL)            # would end the text before the last token
        if gap > LEAST_GAP and len(set(ids.tolist())) >= LEAST_TOKENS and not special:
            return {"input_ids": prompt, "logits": logits, "greedy_ids": ids, "greedy_gap": np.float32(gap)}
    raise RuntimeError(f"no prompt of 200 keeps {LEAST_TOKENS} greedy choices {LEAST_GAP} apart")


# ---- GGUF ------------------------------------------------------------------------------------------------------------

class Converts(Protocol):
    """What a variant says of its conversion."""

    arch: str
    keys: dict[str, Any]
    instead: Family | None


def converted(model: Any, variant: Converts) -> tuple[dict[str, Entry], list[tuple[str, Floats]]]:
    """Keys and tensors, by the package's converter from what save_pretrained() writes, and by the variant's own word for some keys."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = Config.read(folder)
        family, config = (variant.instead, config) if variant.instead else find_family(config)
        if family.arch != variant.arch:
            raise ValueError(f"{config.architecture} is converted to {family.arch}, not {variant.arch}")
        with Checkpoint(folder) as files:
            tensors = [(t.info.name, np.frombuffer(t.read(0, t.info.bytes), np.float32).reshape(t.info.shape[::-1]))
                       for t in source_tensors(family, config, files)]
        entries = {entry[0]: entry for entry in model_entries(family, config)}
    for suffix, value in variant.keys.items():
        key = f"{variant.arch}.{suffix}"
        entries.pop(key, None)
        if value is not None:
            entries[key] = (key, ("bool" if isinstance(value, bool) else "f32" if isinstance(value, float) else "u32", None), value)
    return entries, tensors


def add_entry(w: gguf.GGUFWriter, entry: Entry) -> None:
    names = {"u32": "UINT32", "i32": "INT32", "f32": "FLOAT32", "bool": "BOOL", "string": "STRING", "array": "ARRAY"}
    key, (kind, of), value = entry
    w.add_key_value(key, value, gguf.GGUFValueType[names[kind]], gguf.GGUFValueType[names[of]] if of else None)


def add_vocabulary(w: gguf.GGUFWriter, n: int) -> None:
    """Bytes and a few pairs."""
    tokens, types, merges = make_gguf.vocabulary(n)
    end = make_gguf.SPECIAL.index("<|endoftext|>")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(end)
    w.add_eos_token_id(end)
    w.add_add_bos_token(False)


def write(path: Path, name: str, variant: Variant, model: Any) -> None:
    """NAME.gguf, everything in F32."""
    w = gguf.GGUFWriter(path, variant.arch)
    w.add_name(f"golden {name}")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_vocabulary(w, model.config.vocab_size)
    entries, tensors = converted(model, variant)
    for entry in entries.values():
        add_entry(w, entry)
    for tensor, data in tensors:
        w.add_tensor(tensor, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a file: keys and tensors, in whatever order."""
    reader = gguf.GGUFReader(path)
    keys = {key: (field.types, field.contents()) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return keys, {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}


def write_if_other(path: Path, write: Callable[[Path], None]) -> bool:
    """Leaves a file that says the same, in whatever order, as it is: git need not have it twice. Whether it is another one now."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        write(made)
        if path.exists() and contents(path) == contents(made):
            return False
        shutil.move(made, path)
        return True


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=Path(__file__).parent)
    ap.add_argument("--only", choices=VARIANTS, action="append", help="this variant; may be given again")
    args = ap.parse_args()
    torch.set_num_threads(1)        # the same sums in the same order on every machine of a kind
    (args.out / "models").mkdir(parents=True, exist_ok=True)
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        if args.only and name not in args.only:
            continue
        model = build(variant, seed)
        path = args.out / "models" / f"{name}.gguf"
        changed = write_if_other(path, lambda path, n=name, v=variant, m=model: write(path, n, v, m))
        arrays = golden(model, seed, variant.alibi)
        np.savez_compressed(args.out / f"{name}.npz", **arrays)
        print(f"{name:16} logits spread over {arrays['logits'].std():.2f}, greedy choices {arrays['greedy_gap']:.3f} apart"
              f"{', a new file' * changed}")


if __name__ == "__main__":
    main()
