"""tools/make_gguf.py: what it writes is read by the gguf package, and its weights are of the size it promises."""
from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the gguf package is the oracle of these tests")

TOOL = Path(__file__).parents[2] / "tools" / "make_gguf.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gguf", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_gguf"] = module           # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_gguf = _load()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's metadata and its tensors, by name, as the gguf package reads them."""
    reader = gguf.GGUFReader(path)
    return {k: f.contents() for k, f in reader.fields.items()}, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("type", make_gguf.FORMATS)
def test_weights_of_every_format_are_finite_and_of_the_promised_size(tmp_path: Path, type: str) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", shape="tiny", type=type, seed=3)
    _, tensors = read(path)
    for name, fan_in in (("blk.0.attn_q.weight", 256), ("blk.1.ffn_down.weight", 512), ("output.weight", 256)):
        t = tensors[name]
        assert t.tensor_type.name == type
        w = gguf.quants.dequantize(t.data, t.tensor_type)
        assert np.isfinite(w).all()
        # A bare exponent as scale is met to a factor of 2; everything else is measured.
        low, high = (0.6, 1.6) if type in ("MXFP4", "NVFP4") else (0.9, 1.1)
        assert low < w.std() * fan_in ** 0.5 < high
        assert abs(w.mean()) < 0.12 * w.std()


def test_norms_are_f32_and_near_one(tmp_path: Path) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", shape="tiny", type="Q4_0")
    norm = read(path)[1]["blk.0.attn_norm.weight"]
    assert norm.tensor_type.name == "F32"
    np.testing.assert_allclose(norm.data, 1, atol=0.3)


def test_metadata_names_the_model_and_its_sizes(tmp_path: Path) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", shape="tiny", type="Q4_K", ctx=777, layers=3, kv_heads=1)
    kv, tensors = read(path)
    assert kv["general.architecture"] == "llama"
    assert kv["llama.context_length"] == 777
    assert kv["llama.block_count"] == 3
    assert kv["llama.attention.head_count_kv"] == 1
    assert list(tensors["blk.2.attn_k.weight"].shape) == [256, 64]
    assert "blk.3.attn_k.weight" not in tensors


@pytest.mark.parametrize(("arch", "extra"), [("qwen2", {"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
                                             ("qwen3", {"attn_q_norm.weight", "attn_k_norm.weight"})])
def test_each_architecture_has_its_own_tensors(tmp_path: Path, arch: str, extra: set[str]) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", arch=arch, head_dim=128)
    kv, tensors = read(path)
    llama = {t.name for t in make_gguf.tensors_of(make_gguf.SHAPES["tiny"], "llama", "Q8_0")}
    assert set(tensors) - llama == {f"blk.{i}.{name}" for i in range(2) for name in extra}
    assert kv[f"{arch}.attention.key_length"] == 128
    assert list(tensors["blk.0.attn_output.weight"].shape) == [512, 256]


def test_a_mix_gives_sensitive_matrices_more_bits(tmp_path: Path) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", type="Q4_K_M", layers=16)
    _, tensors = read(path)
    types = [tensors[f"blk.{i}.ffn_down.weight"].tensor_type.name for i in range(16)]
    # llama.cpp's use_more_bits for 16 layers: the first and last two, and every third between.
    assert [i for i, t in enumerate(types) if t == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert tensors["output.weight"].tensor_type.name == "Q6_K"
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q4_K"


def test_a_tied_model_has_no_output_matrix(tmp_path: Path) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", tied=True)
    assert "output.weight" not in read(path)[1]


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    a, b, c = (make_gguf.write(tmp_path / f"{i}.gguf", type="Q4_K", seed=s)[0].read_bytes() for i, s in enumerate((1, 1, 2)))
    assert a == b
    assert a != c


def test_no_two_rows_of_the_output_matrix_are_equal(tmp_path: Path) -> None:
    path, = make_gguf.write(tmp_path / "m.gguf", type="Q4_K", layers=1, vocab=32000)
    rows = read(path)[1]["output.weight"].data
    assert len({row.tobytes() for row in rows}) == 32000


def test_sparse_has_the_header_and_length_of_the_full_file_but_takes_no_space(tmp_path: Path) -> None:
    full, = make_gguf.write(tmp_path / "full.gguf", type="Q4_K")
    hole, = make_gguf.write(tmp_path / "hole.gguf", type="Q4_K", sparse=True)
    assert hole.stat().st_size == full.stat().st_size
    start = min(t.data_offset for t in read(full)[1].values())
    assert hole.read_bytes()[:start] == full.read_bytes()[:start]
    large, = make_gguf.write(tmp_path / "large.gguf", shape="70b", type="Q4_K", sparse=True)
    assert large.stat().st_size > 38e9
    assert large.stat().st_blocks * 512 < 4e6


@pytest.mark.parametrize("count", [2, 3, 21])
def test_parts_hold_every_tensor_once_and_say_which_part_they_are(tmp_path: Path, count: int) -> None:
    whole, = make_gguf.write(tmp_path / "m.gguf", type="Q4_0", seed=5)
    parts = make_gguf.write(tmp_path / "m.gguf", type="Q4_0", seed=5, parts=count)
    assert [p.name for p in parts] == [f"m-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    want = read(whole)[1]
    seen: dict[str, Any] = {}
    for no, part in enumerate(parts):
        kv, tensors = read(part)
        assert (kv["split.no"], kv["split.count"], kv["split.tensors.count"]) == (no, count, len(want))
        assert ("general.architecture" in kv) == (no == 0)
        assert tensors, "a part without tensors"
        assert not seen.keys() & tensors.keys()
        seen |= tensors
    assert list(seen) == list(want)
    for name, t in want.items():
        np.testing.assert_array_equal(seen[name].data, t.data)


def test_every_text_round_trips_through_the_vocabulary(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path, = make_gguf.write(tmp_path / "m.gguf", layers=1, vocab=70000, sparse=True)
    kv, _ = read(path)
    tokens, merges = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == 70000 == len(kv["tokenizer.ggml.token_type"])
    bpe = tokenizers.models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges])
    tok = tokenizers.Tokenizer(bpe)
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    text = "The quick brown fox: 3.14\n\tπ ≈ 22/7 — “Füße” 漢字 🙂\x00\x7f"
    ids = tok.encode(text).ids
    assert tok.decode(ids) == text
    assert len(ids) < len(text.encode()) * 0.8, "the merges join nothing"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"type": "Q4_K", "embd": 288, "heads": 4}, "rows of 288"),
    ({"shape": "9b"}, "no shape '9b'"),
    ({"type": "Q9"}, "no type 'Q9'"),
    ({"arch": "gpt2"}, "no arch 'gpt2'"),
    ({"heads": 4, "kv_heads": 3}, "cannot share 3"),
    ({"vocab": 100}, "vocab 100"),
    ({"parts": 1000}, "1000 parts"),
    ({"layers": 0}, "must be positive"),
])
def test_what_cannot_be_made_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_gguf.write(tmp_path / "m.gguf", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_line_writes_a_file_and_reports_its_speed(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    run = subprocess.run([sys.executable, TOOL, "--shape", "tiny", "--type", "Q8_0", out], capture_output=True, text=True)
    assert run.returncode == 0
    assert "GB/s" in run.stderr
    assert read(out)[0]["general.architecture"] == "llama"
    bad = subprocess.run([sys.executable, TOOL, "--shape", "tiny", "--embd", "100", out], capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1


def test_latent_attention_has_the_shapes_that_the_engine_reads(tmp_path: Path) -> None:
    sizes = {"layers": 1, "embd": 256, "ff": 256, "heads": 3, "vocab": 512, "ctx": 64, "head_dim": 96, "kv_rank": 128, "q_rank": 64}
    path, = make_gguf.write(tmp_path / "m.gguf", shape="mla", arch="deepseek2", rope_dim=32, value_dim=96, **sizes)
    kv, tensors = read(path)
    assert (kv["deepseek2.attention.key_length"], kv["deepseek2.attention.value_length"]) == (160, 128)
    assert list(tensors["blk.0.attn_k_b.weight"].shape) == [64, 128, 3]
    assert list(tensors["blk.0.attn_v_b.weight"].shape) == [128, 96, 3]
    _core = pytest.importorskip("airpy._core")
    engine = _core.Engine(_core.GGUF(str(path)), n_ctx=64)
    result = engine.run([(engine.sequence(), np.arange(3, 20, dtype=np.int32), 1, {"temperature": 0}, 17)])
    assert engine.hparams["key_dim"] == 160
    assert 0 <= result.sampled[0] < 512
    with pytest.raises(ValueError, match="latent attention needs"):
        make_gguf.write(tmp_path / "m.gguf", shape="mla", arch="deepseek2", kv_heads=2, heads=4)
    with pytest.raises(ValueError, match="shape mla goes with arch deepseek2"):
        make_gguf.write(tmp_path / "m.gguf", shape="mla", arch="llama")
