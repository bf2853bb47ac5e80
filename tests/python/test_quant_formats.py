"""Every decoder against an oracle that is not ours: the gguf package's dequantize where it has one, else ggml's layout in numpy."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

BLOCKS = 2000
TYPES = {t.name: t for t in gguf.GGMLQuantizationType}
MATRIX = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
]  # fmt: skip

# Where the binary16 scales (and minima) of a block lie. MXFP4 and NVFP4 have one-byte scales, of which random bytes try all.
HALF_SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ1_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "Q8_1": [0], "Q1_0": [0], "Q2_0": [0],
}  # fmt: skip
# zeros, least and greatest subnormals, least normal, one, greatest, infinities, NaNs quiet and signalling
EXTREME_HALVES = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01,
]  # fmt: skip


@pytest.fixture(scope="module")
def core():
    from airpy import _core

    return _core


@pytest.fixture(scope="module")
def formats(core):
    """name → (id, elements of a block, bytes of a block, role)"""
    return {name: rest for name, *rest in core.FORMATS}


def random_blocks(size: int, n: int = BLOCKS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, size]).integers(0, 256, (n, size), dtype=np.uint8)


def put_half(blocks: np.ndarray, at: int, halves: np.ndarray) -> None:
    blocks[:, at : at + 2] = halves.astype("<u2").view(np.uint8).reshape(-1, 2)


def extreme_blocks(name: str, size: int) -> np.ndarray:
    """Random blocks with every pair of extreme scales and minima."""
    pairs = np.array([(a, b) for a in EXTREME_HALVES for b in EXTREME_HALVES], dtype=np.uint16)
    blocks = random_blocks(size, len(pairs), seed=1)
    for at, halves in zip(HALF_SCALES[name], pairs.T, strict=False):
        put_half(blocks, at, halves)
    return blocks


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bit for bit, one NaN being as good as another."""
    assert got.dtype == np.float32 and want.dtype == np.float32
    got, want = got.ravel(), want.ravel()
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    number = ~np.isnan(want)
    np.testing.assert_array_equal(got[number].view(np.uint32), want[number].view(np.uint32))


def assert_equals_gguf(core, name: str, blocks: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        want = dequantize(blocks, TYPES[name])
    assert_same_bits(np.asarray(core.dequantize(name, blocks.tobytes())), want)


def test_every_type_the_gguf_package_knows_is_here_with_its_sizes(formats):
    ours = {name: (id, block, size) for name, (id, block, size, _) in formats.items()}
    theirs = {t.name: (t.value, *sizes) for t, sizes in gguf.GGML_QUANT_SIZES.items()}
    # The package still has Q8_1 with two binary32 scales; block_q8_1 of ggml-common.h has two halves, asserted there to be 36 bytes.
    theirs["Q8_1"] = (9, 32, 36)
    assert {name: ours.get(name) for name in theirs} == theirs


def test_types_that_models_store_weights_in_may_be_matrices(formats):
    assert {name for name, (*_, role) in formats.items() if role == "matrix"} == set(MATRIX)
    assert {role for *_, role in formats.values()} == {"matrix", "storage"}


@pytest.mark.parametrize("name", MATRIX)
def test_random_blocks_decode_to_the_bits_of_gguf(core, formats, name):
    _, _, size, _ = formats[name]
    assert_equals_gguf(core, name, random_blocks(size))


@pytest.mark.parametrize("name", sorted(set(HALF_SCALES) & set(MATRIX)))
def test_extreme_scales_decode_to_the_bits_of_gguf(core, formats, name):
    _, _, size, _ = formats[name]
    assert_equals_gguf(core, name, extreme_blocks(name, size))


def test_extreme_scales_of_iq1_m_decode_to_the_bits_of_gguf(core, formats):
    """Its scale lies in the top nibbles of the last four half words, lowest nibble first."""
    blocks = random_blocks(formats["IQ1_M"][2], len(EXTREME_HALVES), seed=2)
    for block, half in zip(blocks, EXTREME_HALVES, strict=True):
        words = block[48:].view("<u2")
        words[:] = (words & 0x0FFF) | [(half >> 4 * i & 15) << 12 for i in range(4)]
    assert_equals_gguf(core, "IQ1_M", blocks)


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_half_decodes_to_the_bits_of_gguf(core, name):
    assert_equals_gguf(core, name, np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2))


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_byte_scale_decodes_to_the_bits_of_gguf(core, formats, name):
    blocks = random_blocks(formats[name][2], 256, seed=3)
    blocks[:, : 1 if name == "MXFP4" else 4] = np.arange(256, dtype=np.uint8)[:, None]
    assert_equals_gguf(core, name, blocks)


# Formats that no model stores weights in, from the structs of ggml-common.h and dequantize_row_* of ggml-quants.c.


def half_at(blocks: np.ndarray, at: int) -> np.ndarray:
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def bits_of(packed: np.ndarray, width: int) -> np.ndarray:
    """Fields of width bits, lowest first within each byte."""
    fields = packed[:, :, None] >> np.arange(0, 8, width, dtype=np.uint8) & np.uint8((1 << width) - 1)
    return fields.reshape(len(packed), -1)


def numbers(blocks: np.ndarray, dtype: str) -> np.ndarray:
    return blocks.copy().view(dtype).astype(np.float32)


BY_LAYOUT = {
    "Q1_0": lambda b: np.where(bits_of(b[:, 2:], 1) == 1, half_at(b, 0), -half_at(b, 0)),
    "Q2_0": lambda b: half_at(b, 0) * (bits_of(b[:, 2:], 2).astype(np.float32) - 1),
    "Q8_1": lambda b: half_at(b, 0) * b[:, 4:].view(np.int8).astype(np.float32),
    "Q8_K": lambda b: b[:, :4].copy().view("<f4") * b[:, 4:260].view(np.int8).astype(np.float32),
    "I8": lambda b: numbers(b, "<i1"),
    "I16": lambda b: numbers(b, "<i2"),
    "I32": lambda b: numbers(b, "<i4"),
    "I64": lambda b: numbers(b, "<i8"),
    "F64": lambda b: numbers(b, "<f8"),
}


def test_every_format_has_an_oracle(formats):
    assert set(formats) == set(MATRIX) | set(BY_LAYOUT)


def assert_equals_layout(core, name: str, blocks: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        want = BY_LAYOUT[name](blocks)
    assert_same_bits(np.asarray(core.dequantize(name, blocks.tobytes())), want)


@pytest.mark.parametrize("name", BY_LAYOUT)
def test_storage_blocks_decode_by_the_layout_of_ggml(core, formats, name):
    _, _, size, _ = formats[name]
    assert_equals_layout(core, name, random_blocks(size))


@pytest.mark.parametrize("name", sorted(set(HALF_SCALES) - set(MATRIX)))
def test_storage_blocks_with_extreme_scales_decode_by_the_layout_of_ggml(core, formats, name):
    _, _, size, _ = formats[name]
    assert_equals_layout(core, name, extreme_blocks(name, size))


def test_doubles_round_to_the_nearest_float(core):
    edges = [0.0, -0.0, 1e300, -1e300, 1e-300, 2.0**-149, 2.0**-150, 1 + 2.0**-24, 1 + 3 * 2.0**-24, np.inf, -np.inf, np.nan]
    assert_equals_layout(core, "F64", np.array(edges, "<f8").view(np.uint8).reshape(-1, 8))


# What dequantize() itself promises.


def test_a_format_may_be_named_by_its_id(core, formats):
    blocks = random_blocks(formats["Q6_K"][2], 3).tobytes()
    np.testing.assert_array_equal(core.dequantize(formats["Q6_K"][0], blocks), core.dequantize("Q6_K", blocks))


def test_no_bytes_are_no_floats(core, formats):
    for name in formats:
        assert core.dequantize(name, b"").shape == (0,)


@pytest.mark.parametrize("length", [1, 143, 145])
def test_a_part_of_a_block_is_refused(core, length):
    with pytest.raises(ValueError, match="144"):
        core.dequantize("Q4_K", bytes(length))


@pytest.mark.parametrize("unknown", ["Q4_2", "q4_k", 4, 31, 36, 1000, 2**32 - 1])
def test_an_unknown_format_is_refused_by_name(core, unknown):
    with pytest.raises(ValueError, match=str(unknown)):
        core.dequantize(unknown, b"")
