"""AirLLM and airpy on the same weights in F16: python -m tests.bench.airllm --peer-python PYTHON

PYTHON has airllm (4.0.0) and PyTorch. A checkpoint of the 1b shape in safetensors, 2.2 GB, is written to the cache folder on first use;
AirLLM splits it there, airpy converts it to one GGUF file. Both are run by one program (peer_airllm.py), first with all of it in the page
cache, then, as root, in a memory control group smaller than the weights (--group MIB). AirLLM runs as it is and without the collecting
of garbage after every layer that most of its time goes to. What airpy takes with compression="4bit" stands apart: AirLLM's takes a GPU.
"""
from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench import cgroup, common
from tests.bench.beyond_ram import BESIDE
from tests.bench.common import Json, Round, figure, row

PROGRAM = Path(__file__).with_name("peer_airllm.py")
MIB = 1 << 20
GOALS = {"cached": {"as shipped": 80, "without collecting": 5}, "group": {"as shipped": 25, "without collecting": 8}}
FOUR_BITS = "airpy in 4 bits"
OURS_NEW, THEIRS_NEW = {"cached": 16, "group": 8}, {"as shipped": 4, "without collecting": 8}


# ---- the checkpoint ----------------------------------------------------------------------------------------------------


def shapes(s: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of transformers' Llama."""
    wide, narrow = s.heads * s.head, s.kv_heads * s.head
    yield "model.embed_tokens.weight", (s.vocab, s.embd)
    for i in range(s.layers):
        for name, *shape in (
            ("input_layernorm", s.embd), ("self_attn.q_proj", wide, s.embd), ("self_attn.k_proj", narrow, s.embd),
            ("self_attn.v_proj", narrow, s.embd), ("self_attn.o_proj", s.embd, wide), ("post_attention_layernorm", s.embd),
            ("mlp.gate_proj", s.ff, s.embd), ("mlp.up_proj", s.ff, s.embd), ("mlp.down_proj", s.embd, s.ff),
        ):  # fmt: skip
            yield f"model.layers.{i}.{name}.weight", tuple(shape)
    yield "model.norm.weight", (s.embd,)
    yield "lm_head.weight", (s.vocab, s.embd)


def config(s: Any) -> Json:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": s.embd, "intermediate_size": s.ff,
        "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "head_dim": s.head,
        "vocab_size": s.vocab, "max_position_embeddings": s.ctx, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "float16",
    }  # fmt: skip


def write_checkpoint(folder: Path) -> None:
    """Normal weights, as small as trained ones, so that nothing overflows float16."""
    sys.path[:0] = [str(common.ROOT / "tests" / "golden")]
    from checkpoints import tokenizer

    from tools import make_gguf

    s, rng, at = make_gguf.SHAPES["1b"], np.random.default_rng(1), 0
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(s)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    tokenizer(s.vocab).save(str(folder / "tokenizer.json"))
    header: Json = {}
    for name, shape in shapes(s):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "unfinished").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes(s):
            values = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5
            file.write(values.astype(np.float16).tobytes())
    os.replace(folder / "unfinished", folder / "model.safetensors")


def prepare(options: argparse.Namespace) -> dict[str, Path]:
    """The directory, split by AirLLM, and the GGUF files by the name of who runs them."""
    folder: Path = options.directory
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder)
    models = {"airpy": folder.with_suffix(".gguf"), FOUR_BITS: folder.with_name(f"{folder.name}-4bit.gguf")}
    for name, compression in (("airpy", "F16"), (FOUR_BITS, "4bit")):
        if not models[name].exists():
            from airpy.conversion import convert

            convert(folder, models[name], compression, progress=False)
    if not (folder / "splitted_model").exists():
        theirs(options, None, "without collecting", new=1)
    return models


# ---- contenders --------------------------------------------------------------------------------------------------------


def run(words: list[str], files: list[Path], limit: int | None, options: argparse.Namespace) -> Json:
    """In a group of so many bytes, with nothing of the files cached; or with all of them cached."""
    common_words = ["--threads", str(options.threads)]
    if limit is None:
        for path in files:
            with path.open("rb") as file:
                while file.read(16 * MIB):
                    pass
        return common.run_json([*words, *common_words])
    for path in files:
        common.evict(path)
    with cgroup.MemoryGroup(limit) as group:
        found = common.run_json([*words, *common_words], group)
        return {**found, "peak": group.peak, "kills": group.kills}


def theirs(options: argparse.Namespace, limit: int | None, kind: str, new: int = 0) -> Json:
    files = [path for path in (options.directory / "splitted_model").rglob("*") if path.is_file()]
    words = [options.peer_python, str(PROGRAM), "airllm", str(options.directory), "--new", str(new or THEIRS_NEW[kind])]
    return run([*words, "--collect", "on" if kind == "as shipped" else "off"], files, limit, options)


def ours(options: argparse.Namespace, model: Path, limit: int | None) -> Json:
    new = OURS_NEW["cached" if limit is None else "group"]
    words = [sys.executable, str(PROGRAM), "airpy", str(model), "--new", str(new)]
    if limit is not None:
        words += ["--max-ram", str(limit - BESIDE)]
    return run(words, [model], limit, options)


def contenders(models: dict[str, Path], options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    turns: dict[str, Callable[[], Json]] = {}
    for where in options.where:
        limit = options.group * MIB if where == "group" else None
        for name, model in models.items():
            turns[f"{where}: {name}"] = partial(ours, options, model, limit)
        for kind in GOALS[where]:
            turns[f"{where}: AirLLM {kind}"] = partial(theirs, options, limit, kind)
    return turns


# ---- figures -----------------------------------------------------------------------------------------------------------


def token_s(found: Json) -> float:
    return median(found["token_s"])


def figures_of(where: str, rounds: list[Round]) -> Json:
    mine = [token_s(r.results[f"{where}: airpy"]) for r in rounds]
    four_bits = common.summary([token_s(r.results[f"{where}: {FOUR_BITS}"]) for r in rounds])
    found: Json = {"airpy": common.summary(mine), FOUR_BITS: four_bits, "peers": {}, "tokens": 0, "same_tokens": 0}
    for kind in GOALS[where]:
        them = [token_s(r.results[f"{where}: AirLLM {kind}"]) for r in rounds]
        for r in rounds:
            pairs = list(zip(r.results[f"{where}: airpy"]["ids"], r.results[f"{where}: AirLLM {kind}"]["ids"], strict=False))
            found["tokens"] += len(pairs)
            found["same_tokens"] += sum(a == b for a, b in pairs)
        found["peers"][kind] = {"token_s": common.summary(them), "ratio": common.ratios(them, mine)}
    return found


def table(where: str, group: int, f: Json) -> list[Json]:
    name = "cached" if where == "cached" else f"in {group} MiB"
    rows = [row(f"1b in F16, {name}: airpy", f"{figure(f['airpy']['median'])} s a token ({common.spread(f['airpy'])})")]
    for kind, peer in f["peers"].items():
        ratio, goal = peer["ratio"]["median"], GOALS[where][kind]
        text = f"{figure(ratio)} × as quick as its {figure(peer['token_s']['median'])} s a token ({common.spread(peer['ratio'])})"
        rows.append(row(f"1b in F16, {name}: over AirLLM {kind}", text, f"≥ {goal} ×", ratio >= goal, headline=True))
    same, all = f["same_tokens"], f["tokens"]
    rows.append(row(f"1b in F16, {name}: greedy tokens", f"{same} of {all} are AirLLM's", "all", same == all))
    four_bits = f[FOUR_BITS]
    return [*rows, row(f"1b in 4 bits, {name}: airpy", f"{figure(four_bits['median'])} s a token ({common.spread(four_bits)})")]


def add_earlier(rounds: list[Round], settings: Json) -> None:
    """What an earlier run of the same commit and settings measured elsewhere (--where), so that neither needs the machine for long."""
    path = common.RESULTS / "airllm.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("commit") == common.commit() and kept["settings"] == settings and len(kept["rounds"]) == len(rounds):
        for round, results in zip(rounds, kept["rounds"], strict=True):
            round.results = {**results, **round.results}


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "airpy" / "bench"
    ap.add_argument("--peer-python", required=True, help="a Python that has airllm and torch")
    ap.add_argument("--directory", type=Path, default=cache / "1b-f16-hf", help="where the checkpoint is, or is to be written")
    ap.add_argument("--where", nargs="+", choices=list(GOALS), default=list(GOALS))
    ap.add_argument("--group", type=int, default=1900, help="MiB")
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--seconds", type=float, default=150, help="for all rounds; disturbed ones are repeated while it lasts")
    ap.add_argument("--prepare", action="store_true", help="make the files, and measure nothing")
    options = ap.parse_args()
    models = prepare(options)
    if options.prepare:
        return 0
    settings = {"group": options.group, "threads": options.threads, "prompt": 8}
    rounds = common.take_turns(contenders(models, options), options.rounds, options.seconds)
    add_earlier(rounds, settings)
    figures = {where: figures_of(where, rounds) for where in GOALS if f"{where}: airpy" in rounds[0].results}
    rows = [r for where, f in figures.items() for r in table(where, options.group, f)]
    common.write("airllm", list(models.values()), rounds, settings, figures, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
