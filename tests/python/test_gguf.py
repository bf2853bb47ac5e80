"""Reading GGUF headers: every malformed file is refused by name, every sound one read as the gguf package reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocab_files import shared_vocab

from airpy import _core, errors

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "golden"))
import make_malformed  # noqa: E402

INTEGERS = {
    GGUFValueType.UINT8: np.uint8, GGUFValueType.INT8: np.int8, GGUFValueType.UINT16: np.uint16, GGUFValueType.INT16: np.int16,
    GGUFValueType.UINT32: np.uint32, GGUFValueType.INT32: np.int32, GGUFValueType.UINT64: np.uint64, GGUFValueType.INT64: np.int64,
}  # fmt: skip
FLOATS = {GGUFValueType.FLOAT32: np.float32, GGUFValueType.FLOAT64: np.float64}
NUMBERS = INTEGERS | FLOATS | {GGUFValueType.BOOL: np.bool_}
# The gguf package counts Q8_1's two scales as floats; in ggml (ggml-common.h, block_q8_1) they are halves.
TYPES = [t for t in GGMLQuantizationType if t.name != "Q8_1"]


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", make_malformed.CASES, ids=lambda case: case.name)
def test_a_malformed_file_is_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.setattr(make_malformed, "CASES", [case])
    [(_, path)] = make_malformed.write(tmp_path)
    live = _core.alloc_live()
    with pytest.raises(getattr(errors, case.error)) as caught:
        _core.GGUF(str(path))
    assert re.search(case.match, str(caught.value)), str(caught.value)
    assert _core.alloc_live() == live


def test_the_files_that_are_spoilt_are_sound_before(tmp_path):
    (tmp_path / "valid.gguf").write_bytes(make_malformed.valid().to_bytes())
    sound = _core.GGUF(str(tmp_path / "valid.gguf"))
    assert [t[:3] for t in sound.tensors] == [
        ("a.weight", "F32", (4, 2)),
        ("b.weight", "F16", (32, 2, 2, 1)),
        ("c.weight", "Q4_0", (64,)),
    ]
    for name, file in make_malformed.split().items():
        (tmp_path / name).write_bytes(file.to_bytes())
    assert [t[0] for t in _core.GGUF(str(tmp_path / "set-00002-of-00003.gguf")).tensors] == ["t0", "t1", "t2"]


def test_no_two_malformed_files_are_the_same():
    contents = [(case.open, *((f.to_bytes(), f.size) for f in case.files.values())) for case in make_malformed.CASES]
    assert len(set(contents)) == len(contents) > 70


@pytest.mark.parametrize("keep", [3, 23, 24, 100, 1000])
def test_a_truncated_file_is_refused(keep, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(make_malformed.valid().to_bytes()[:keep])
    with pytest.raises(errors.FormatError, match="beyond the end of the file at"):
        _core.GGUF(str(path))


# ---- parity with the gguf package ------------------------------------------------------------------------------------------------


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def plain(value: Any) -> Any:
    """As lists and scalars, arrays of arrays flattened: GGUFReader does so."""
    if isinstance(value, (str, int, float)):
        return value
    flat: list[Any] = []
    for item in value if isinstance(value, list) else np.asarray(value).tolist():
        flat.extend(plain(item)) if not isinstance(item, (str, int, float)) else flat.append(item)
    return flat


def type_names(types: list[GGUFValueType]) -> tuple[str, str | None]:
    """UINT32 as "u32", and so on; of an array, and its elements."""
    names = [re.sub(r"^(U|I|F)(?:INT|NT|LOAT)(\d+)$", r"\1\2", type_.name).lower() for type_ in types[:2]]
    return names[0], names[1] if len(names) > 1 else None


def assert_read_as_by_the_gguf_package(path: Path) -> _core.GGUF:
    ours, theirs = _core.GGUF(str(path)), GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, want in fields.items():
        assert repr(plain(ours.metadata[key])) == repr(want), key  # repr: NaN equals NaN, 0.0 is not -0.0, True is not 1
        assert ours.types[key] == type_names(theirs.fields[key].types), key
    assert ours.version == theirs.fields["GGUF.version"].contents()
    assert ours.alignment == theirs.alignment
    assert ours.bytes == path.stat().st_size
    assert ours.tensors == [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), 0, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
    return ours


def test_every_metadata_type_reads_as_by_the_gguf_package(tmp_path):
    path = tmp_path / "types.gguf"
    writer = GGUFWriter(path, "llama")
    for type_, dtype in INTEGERS.items():
        writer.add_key_value(f"min.{type_.name}", int(np.iinfo(dtype).min), type_)
        writer.add_key_value(f"max.{type_.name}", int(np.iinfo(dtype).max), type_)
    for type_ in FLOATS:
        for value in (0.1, -0.0, float("inf"), float("nan"), 1e-42):
            writer.add_key_value(f"{value}.{type_.name}", value, type_)
    for value in (True, False):
        writer.add_bool(f"bool.{value}", value)
    for i, value in enumerate(("", "héé€😀", "a\0b", "line\nline")):
        writer.add_key_value(f"string.{i}", value, GGUFValueType.STRING)
    writer.add_key_value("nested", [[1, 2, 3], [4]], GGUFValueType.ARRAY)
    finish(writer)
    assert_read_as_by_the_gguf_package(path)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_arrays_of_every_type_keep_their_dtype(count, tmp_path):
    path = tmp_path / "arrays.gguf"
    writer = GGUFWriter(path, "llama")
    wanted = {}
    for type_, dtype in NUMBERS.items():
        wanted[type_.name] = np.resize(np.array([0, 1, 1, 0, 1]), count).astype(dtype)
        writer.add_key_value(type_.name, wanted[type_.name].tolist(), GGUFValueType.ARRAY, sub_type=type_)
    writer.add_array("strings", [f"string {i}" for i in range(count)])
    finish(writer)
    ours = assert_read_as_by_the_gguf_package(path)
    for name, want in wanted.items():
        got = np.asarray(ours.metadata[name])
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert ours.metadata["strings"] == [f"string {i}" for i in range(count)]


def test_numeric_arrays_outlive_the_file_object(tmp_path):
    path = tmp_path / "arrays.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_array("numbers", list(range(100000)))
    finish(writer)
    array = np.asarray(_core.GGUF(str(path)).metadata["numbers"])
    np.testing.assert_array_equal(array, np.arange(100000))


def test_nested_arrays_are_lists_of_arrays(tmp_path):
    path = tmp_path / "nested.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_key_value("nested", [[1, 2, 3], [4]], GGUFValueType.ARRAY)
    writer.add_key_value("words", [["a", "b"], ["c"]], GGUFValueType.ARRAY)
    finish(writer)
    metadata = _core.GGUF(str(path)).metadata
    assert [np.asarray(row).tolist() for row in metadata["nested"]] == [[1, 2, 3], [4]]
    assert metadata["words"] == [["a", "b"], ["c"]]


def test_strings_that_are_not_utf8_keep_their_bytes(tmp_path):
    path = tmp_path / "bytes.gguf"
    m = make_malformed
    tokens = m.array(m.STRING, 2, m.string(b"\xff\xfe") + m.string(b"\xe2\x82"))
    path.write_bytes(m.File([m.text(b"text", b"a\xff"), m.entry(b"tokens", m.ARRAY, tokens)]).to_bytes())
    metadata = _core.GGUF(str(path)).metadata
    assert metadata["text"].encode("utf-8", "surrogateescape") == b"a\xff"
    assert [t.encode("utf-8", "surrogateescape") for t in metadata["tokens"]] == [b"\xff\xfe", b"\xe2\x82"]


def add_blocks(writer: GGUFWriter, name: str, type_: GGMLQuantizationType, rows: int, blocks: int) -> None:
    _, size = gguf.GGML_QUANT_SIZES[type_]
    writer.add_tensor(name, np.zeros((rows, blocks * size), np.uint8), raw_dtype=type_)


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_tensors_of_every_type_lie_where_the_gguf_package_finds_them(alignment, tmp_path):
    path = tmp_path / "tensors.gguf"
    writer = GGUFWriter(path, "llama")
    if alignment != gguf.GGUF_DEFAULT_ALIGNMENT:
        writer.add_custom_alignment(alignment)
    for type_ in TYPES:
        add_blocks(writer, f"{type_.name}.weight", type_, rows=3, blocks=5)
    writer.add_tensor("four", np.zeros((2, 3, 4, 5), np.float32))
    finish(writer)
    ours = assert_read_as_by_the_gguf_package(path)
    assert ours.alignment == alignment
    assert len(ours.tensors) == len(TYPES) + 1


@pytest.mark.parametrize("per_part", [1, 3, 10])
def test_any_part_of_a_split_set_opens_all_of_it(per_part, tmp_path):
    writer = GGUFWriter(tmp_path / "split.gguf", "llama", split_max_tensors=per_part)
    writer.add_uint32("llama.block_count", 7)
    for i in range(11):
        writer.add_tensor(f"blk.{i}.weight", np.full((i + 1, 32), i, np.float32))
    finish(writer)
    parts = sorted(tmp_path.iterdir())
    want = [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), part, t.data_offset, t.n_bytes)
        for part, path in enumerate(parts)
        for t in GGUFReader(path).tensors
    ]
    assert len(parts) == -(-11 // per_part)
    for path in parts:
        ours = _core.GGUF(str(path))
        assert ours.paths == [str(p) for p in parts]
        assert ours.bytes == sum(p.stat().st_size for p in parts)
        assert ours.metadata["llama.block_count"] == 7
        assert ours.tensors == want
    for name, _, _, part, offset, size in want:
        data = np.frombuffer(parts[part].read_bytes()[offset : offset + size], np.float32)
        assert (data == int(name.split(".")[1])).all()


scalars = st.one_of(
    *[st.tuples(st.just(t), st.integers(int(np.iinfo(d).min), int(np.iinfo(d).max))) for t, d in INTEGERS.items()],
    st.tuples(st.just(GGUFValueType.FLOAT32), st.floats(width=32)),
    st.tuples(st.just(GGUFValueType.FLOAT64), st.floats()),
    st.tuples(st.just(GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(GGUFValueType.STRING), st.text()),
    st.tuples(st.just(GGUFValueType.ARRAY), st.lists(st.text(), min_size=1)),
    st.tuples(st.just(GGUFValueType.ARRAY), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1)),
)
keys = st.text(min_size=1, max_size=50).filter(lambda key: key != "general.alignment" and not key.startswith(("GGUF.", "split.")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(keys, scalars, max_size=20), rows=st.lists(st.integers(1, 9), max_size=5))
def test_whatever_the_gguf_package_writes_reads_the_same(metadata, rows, tmp_path):
    path = tmp_path / "any.gguf"
    writer = GGUFWriter(path, "llama")
    for key, (type_, value) in metadata.items():
        writer.add_key_value(key, value, type_)
    for i, n in enumerate(rows):
        writer.add_tensor(f"t{i}", np.zeros((n, 4), np.float32))
    finish(writer)
    assert_read_as_by_the_gguf_package(path)


@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])  # GGUFReader takes seconds for each
def test_real_vocabularies_read_as_by_the_gguf_package(name):
    assert_read_as_by_the_gguf_package(shared_vocab(name))


# ---- failures --------------------------------------------------------------------------------------------------------------------


def test_every_failing_allocation_raises_and_leaks_nothing(tmp_path):
    for name, file in make_malformed.split().items():
        (tmp_path / name).write_bytes(file.to_bytes())
    path = str(tmp_path / "set-00001-of-00003.gguf")
    _core.GGUF(path)
    live = _core.alloc_live()
    for n in range(1, 1000):
        _core.alloc_fail_at(n)
        try:
            _core.GGUF(path)
        except errors.OutOfMemoryError:
            assert _core.alloc_live() == live
        if not _core.alloc_failed():
            break
    _core.alloc_fail_at(0)
    assert 20 < n < 1000


def test_the_fuzz_corpus_is_made(tmp_path):
    subprocess.run([sys.executable, str(TESTS / "fuzz" / "make_corpus.py"), str(tmp_path)], check=True, capture_output=True)
    seeds = list((tmp_path / "corpus").iterdir())
    assert len(seeds) > 80
    assert all(len(seed.read_bytes()) <= 16384 for seed in seeds)
    assert len((tmp_path / "gguf.dict").read_text().splitlines()) > 40
