"""A model in any format runs: logits against a float64 forward pass over the exactly dequantised weights, at every kernel tier, and
some by the CUDA backend on an emulation."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from airpy import _core

pytest.importorskip("gguf", reason="the gguf package is the oracle of these tests")
from reference_llama import logits as reference_logits

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("make_gguf", ROOT / "tools" / "make_gguf.py")
make_gguf = importlib.util.module_from_spec(spec)
sys.modules["make_gguf"] = make_gguf
spec.loader.exec_module(make_gguf)

IDS = (np.arange(80) * 37 % 500).astype(np.int32)  # more than one block of state
MATRIX_FORMATS = [name for name, *_, role in _core.FORMATS if role == "matrix"]
FLOATS = {"F32", "F16", "BF16"}


def nmse(got: np.ndarray, want: np.ndarray) -> float:
    return float(((got - want) ** 2).sum() / (want**2).sum())


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """One tiny model of each format and its reference logits, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("formats"), {}

    def get(name):
        if name not in made:
            (path,) = make_gguf.write(folder / f"{name}.gguf", shape="tiny", type=name, seed=7)
            made[name] = path, reference_logits(path, IDS)
        return made[name]

    return get


def run(path: Path, tier: str = "", kv_dtype: str = "f32", **options) -> np.ndarray:
    engine = _core.Engine(_core.GGUF(os.fspath(path)), max_ram=256 << 20, tier=tier, kv_dtype=kv_dtype, n_ctx=128, **options)
    with_sequence = engine.sequence()
    result = engine.run([(with_sequence, IDS, len(IDS), None, 0)], logits=True)
    out = np.array(result.logits)
    with_sequence.close()
    engine.close()
    return out


@pytest.mark.parametrize("tier", _core.TIERS)
@pytest.mark.parametrize("name", MATRIX_FORMATS)
def test_a_model_in_this_format_gives_the_logits_of_its_dequantised_weights(files, name, tier):
    path, want = files(name)
    error = nmse(run(path, tier), want)
    assert error <= (1e-9 if name in FLOATS else 1e-3), f"NMSE {error:.2e}"


@pytest.mark.timeout(900)  # the first one builds
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_K", "IQ4_XS", "IQ2_XXS"])  # products of all: tests/cuda_emu/test_products.cu
def test_a_model_in_this_format_gives_them_on_an_emulated_gpu(files, executables, name):
    path, want = files(name)
    error = nmse(run(path, plugin=os.fspath(executables / "libairpy_cuda_emulated.so")), want)
    assert error <= (1e-9 if name in FLOATS else 1e-3), f"NMSE {error:.2e}"


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K"])
def test_sixteen_bit_state_stays_near_thirty_two(files, name):
    path, want = files(name)
    assert nmse(run(path, kv_dtype="f16"), want) <= 1e-3


@pytest.mark.parametrize("name", [name for name, *_, role in _core.FORMATS if role == "storage"])
def test_a_storage_format_is_refused_as_a_matrix(tmp_path, name):
    """The type of one matrix is changed in place in a file where that keeps the size of the header."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 256, "feed_forward_length": 256}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    block, size = next((b, s) for n, _, b, s, _ in _core.FORMATS if n == name)
    id = next(i for n, i, *_ in _core.FORMATS if n == name)
    writer.add_tensor("token_embd.weight", np.zeros((8, 256), np.float32))
    path = tmp_path / "m.gguf"
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16  # n_dims, two dimensions
    data[at : at + 4] = id.to_bytes(4, "little")
    data += bytes(8 * 256 // block * size)  # no shorter than the type needs
    path.write_bytes(data)
    with pytest.raises(_core.UnsupportedError, match=rf"token_embd.weight is of type {name}"):
        _core.Engine(_core.GGUF(os.fspath(path)))
