"""Every encoder against somebody else's: the gguf package's bits where the rule is the same, else no larger an error than its, and than
llama.cpp's as tests/golden/check_llama_cpp_quantise.py recorded it. Decoders are proven in test_quant_formats.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

import airpy
from airpy import _core
from airpy.errors import ArgumentError, NumericError, UnsupportedError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from quantise_tensors import errors, seeded, tensors  # noqa: E402

TYPES = {t.name: t for t in gguf.GGMLQuantizationType}
EXACT = ["F32", "F16", "BF16", "Q8_0"]  # one rule for all
FITTED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SIZES = {name: rest for name, *rest in _core.FORMATS}


def encode(name: str, x: np.ndarray) -> bytes:
    return bytes(_core.convert("F32", name, np.ascontiguousarray(x, np.float32)))


def decoded(name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(_core.dequantize(name, encode(name, x)))


def demo(name: str) -> np.ndarray:
    path = Path(airpy.__file__).parent / "assets" / "demo-q8_0.gguf"
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    return tensors(demo)


def test_what_is_written_is_what_is_tested_here():
    assert set(_core.ENCODERS) == {*EXACT, *FITTED}


@pytest.mark.parametrize("name", EXACT)
def test_plain_numbers_and_8_bits_have_the_bits_of_gguf(name, given):
    for x in given.values():
        assert encode(name, x) == quantize(x, TYPES[name]).tobytes()


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_halves_round_to_the_nearest_and_ties_to_even(name):
    """One below, at and above each tie, of every exponent that there is."""
    bits = 13 if name == "F16" else 16
    low = np.array([0, 1, -1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << (bits - 1)) + 1], np.int64)
    high = np.arange(0x33000000, 0x477FD000, 0x17000, np.int64) >> bits << bits
    x = (high[:, None] + low).ravel().astype(np.uint32).view(np.float32)
    assert encode(name, np.concatenate([x, -x])) == quantize(np.concatenate([x, -x]), TYPES[name]).tobytes()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_errors_are_no_larger_than_those_of_gguf(name, given):
    for what, x in given.items():
        ours, theirs = errors(x, decoded(name, x)), errors(x, dequantize(quantize(x, TYPES[name]), TYPES[name]))
        assert np.all(np.array(ours) <= theirs), f"{what}: {ours}, gguf {theirs}"


@pytest.mark.parametrize("name", ["Q8_0", *FITTED])
def test_errors_are_no_larger_than_those_of_llama_cpp(name, given):
    recorded = json.loads((GOLDEN / "quantise_errors.json").read_text())
    assert set(recorded) == set(given)
    for what, x in given.items():
        ours = errors(x, decoded(name, x))
        print(f"{name} {what}: {ours[0]:.5f} and {ours[1]:.5f}, llama.cpp {recorded[what][name]}")
        assert np.all(np.array(ours) <= np.array(recorded[what][name]) * (1 + 1e-5)), f"{what}: {ours}, llama.cpp {recorded[what][name]}"


@pytest.mark.parametrize("name", FITTED)
def test_what_a_block_becomes_does_not_depend_on_its_neighbours(name):
    x = seeded()["heavy tails"].reshape(-1, SIZES[name][1])[:11]
    assert encode(name, x) == b"".join(encode(name, block) for block in x)


@pytest.mark.parametrize("name", ["Q8_0", *FITTED])
def test_unusual_blocks_stay_finite_and_near(name):
    """Within the error that a grid from the least to the greatest has. Zeros stay zeros; what is far below the smallest half may become
    zero; what fills a half's range overflows nothing."""
    n = 512
    r = np.random.RandomState(3)
    unusual = {
        "zeros": np.zeros(n), "minus zeros": -np.zeros(n), "one value": np.full(n, 0.37), "one negative value": np.full(n, -0.37),
        "all above zero": r.uniform(1, 2, n), "all below zero": r.uniform(-2, -1, n), "all of a half": r.uniform(-65504, 65504, n),
        "greatest": np.full(n, 65504.0), "one in many": np.eye(1, n, 7)[0],
        "two scales": np.repeat([1e-4, 10], n // 2) * r.standard_normal(n),
    }  # fmt: skip
    steps = {"Q2_K": 3, "Q3_K": 7, "Q4_0": 15, "Q4_1": 15, "Q4_K": 15, "Q5_0": 31, "Q5_1": 31, "Q5_K": 31, "Q6_K": 63, "Q8_0": 254}[name]
    for what, x in unusual.items():
        span = 2 * np.abs(x).max()
        assert np.abs(decoded(name, x) - x.astype(np.float32)).max() <= 1.2 * span / steps, what
    for tiny in (1e-12, 1e-30, 1e-40):
        assert np.abs(decoded(name, tiny * r.standard_normal(n))).max() <= 1e-7


def test_other_types_come_through_floats(given):
    x = given["normal"]
    for source in ("F16", "BF16", "Q6_K"):
        blocks = encode(source, x)
        want = encode("Q4_K", np.asarray(_core.dequantize(source, blocks)))
        assert bytes(_core.convert(source, "Q4_K", blocks)) == want
        assert bytes(_core.convert(source, source, blocks)) == blocks


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize(("value", "message"), [(np.nan, "element 5001 is NaN"), (-np.inf, "element 5001 is infinite")])
def test_numbers_that_are_none_are_refused_by_their_place(name, value, message):
    x = np.zeros(8192, np.float32)
    x[5000] = value
    with pytest.raises(NumericError, match=message):
        _core.convert("F32", name, x, 1)


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_K"])
def test_numbers_beyond_a_half_are_refused(name):
    x = np.zeros(256, np.float32)
    x[17] = -65505
    with pytest.raises(NumericError, match=f"element 17 is -65505, but {name} holds numbers up to 65504"):
        _core.convert("F32", name, x)
    assert np.asarray(_core.dequantize("BF16", _core.convert("F32", "BF16", x)))[17] == -65536
    x[17] = 3.4e38
    with pytest.raises(NumericError, match=r"BF16 holds numbers up to 3\.38953e\+38"):
        _core.convert("F32", "BF16", x)


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ArgumentError, match="7 bytes are not whole blocks of F32, which take 4 each"):
        _core.convert("F32", "F16", bytes(7))
    with pytest.raises(ArgumentError, match=r"32 elements are not whole blocks of F32 \(1\) and Q4_K \(256\)"):
        _core.convert("F32", "Q4_K", bytes(128))
    with pytest.raises(UnsupportedError, match="airpy reads IQ2_XS but does not write it"):
        _core.convert("F32", "IQ2_XS", bytes(1024))
    with pytest.raises(ArgumentError, match="'Q4_2' is not a tensor type"):
        _core.convert("F32", "Q4_2", b"")
    assert bytes(_core.convert("F32", "Q4_K", b"")) == b""
