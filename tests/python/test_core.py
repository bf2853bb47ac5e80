"""airpy._core's functions, GGUF and Array: what they take, what they refuse and what they keep alive."""

from __future__ import annotations

import builtins
import ctypes
import gc
import os
import pickle
import re
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from airpy import _core, errors

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(_core.__file__).parent / "assets" / "demo-q8_0.gguf"
ROWS = re.findall(r'^STATUS\(\s*(\w+),\s*"([^"]*)",\s*"(\w+)",\s*PyExc_(\w+)', (ROOT / "csrc/base/status.def").read_text(), re.M)


@pytest.mark.parametrize(("status", "text", "name", "builtin"), ROWS, ids=[row[0] for row in ROWS])
def test_every_status_has_its_exception(status, text, name, builtin):
    error = getattr(errors, name)
    assert error is getattr(_core, name)
    assert issubclass(error, errors.AirpyError) and issubclass(error, getattr(builtins, builtin))
    assert (error.__module__, error.__name__, error.__doc__) == ("airpy.errors", name, text)
    assert name in errors.__all__
    assert isinstance(pickle.loads(pickle.dumps(error("x"))), error)


def test_the_list_of_statuses_was_read():
    assert len(ROWS) == (ROOT / "csrc/base/status.def").read_text().count("\nSTATUS(") >= 13


def test_formats_are_those_of_formats_def():
    rows = re.findall(
        r"^FORMAT\(\s*(\w+),\s*(\d+),\s*(\d+),\s*(\d+),\s*\w+,\s*(\w+)", (ROOT / "csrc/quant/formats.def").read_text(), re.M
    )
    assert list(_core.FORMATS) == [(n, int(i), int(e), int(b), role.lower()) for n, i, e, b, role in rows]


def test_constants_name_what_is_there():
    assert _core.TIERS[0] == "ref" and _core.cpu_info()["tier"] == _core.TIERS[-1]
    assert {"llama", "qwen2", "qwen3"} <= set(_core.ARCHITECTURES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", _core.VERSION)


def test_cpu_info_counts_the_cpus_this_process_may_use():
    info = _core.cpu_info()
    assert 1 <= info["threads"] <= len(os.sched_getaffinity(0))
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert ("avx2" in info["features"]) == ({"avx2", "fma", "f16c", "bmi2"} <= flags)
    assert info["name"]


def test_memory_info_agrees_with_the_kernel():
    info = _core.memory_info()
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    assert info["total"] == meminfo["MemTotal"]
    assert abs(info["available"] - meminfo["MemAvailable"]) < info["total"] // 4
    assert info["cgroup_limit"] == -1 or info["cgroup_limit"] > 0
    assert 0 < info["default_budget"] < info["room"] <= info["available"]
    before = info["process_anonymous"]
    ballast = np.ones(8 << 20, np.uint64)
    assert _core.memory_info()["process_anonymous"] - before > ballast.nbytes // 2


def test_file_identity_changes_with_the_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    first = _core.file_identity(path)
    assert first == _core.file_identity(str(path))
    path.write_bytes(b"three")
    assert _core.file_identity(path) != first
    with pytest.raises(errors.FileIOError, match="nowhere"):
        _core.file_identity(tmp_path / "nowhere")


# ---- dequantize and Array --------------------------------------------------------------------------------------------------------


def test_dequantize_takes_any_contiguous_buffer():
    halves = np.array([1.0, -2.5, 65504.0], np.float16)
    for data in (halves, halves.tobytes(), bytearray(halves.tobytes()), memoryview(halves)):
        np.testing.assert_array_equal(np.asarray(_core.dequantize("F16", data)), halves.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(_core.dequantize(1, halves)), halves.astype(np.float32))
    assert np.asarray(_core.dequantize("F32", b"")).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Q8_0", bytes(35)), errors.ArgumentError, "35 bytes are not whole blocks of Q8_0, which take 34"),
        (("q8_0", b""), errors.ArgumentError, "'q8_0' is not a tensor type"),
        ((4, b""), errors.ArgumentError, "4 is not a tensor type"),
        ((-1, b""), errors.ArgumentError, "type is -1"),
        ((1 << 70, b""), errors.ArgumentError, "type is 1180591620717411303424"),
        ((1.5, b""), TypeError, "type must be an int"),
        (("F32", "text"), TypeError, "bytes-like"),
        (("F\0", b""), errors.ArgumentError, "NUL"),
        (("F32", np.zeros((4, 4), np.float32)[:, 1]), (BufferError, ValueError), "contiguous"),
        ((), TypeError, "2 arguments"),
    ],
)
def test_dequantize_refuses_what_it_cannot_decode(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        _core.dequantize(*arguments)


def test_an_array_shares_its_memory_and_keeps_it_alive():
    array = _core.dequantize("F32", np.arange(6, dtype=np.float32))
    seen = np.asarray(array)
    assert seen.base is not None and not seen.flags.writeable and array.shape == (6,) == seen.shape
    assert np.asarray(array).ctypes.data == seen.ctypes.data
    del array
    gc.collect()
    np.testing.assert_array_equal(seen, np.arange(6, dtype=np.float32))


def test_an_array_refuses_a_writable_view():
    with pytest.raises((BufferError, TypeError)):
        (ctypes.c_char * 4).from_buffer(_core.dequantize("F32", b"\0" * 4))


# ---- GGUF ------------------------------------------------------------------------------------------------------------------------


def test_gguf_shows_the_header():
    file = _core.GGUF(DEMO)
    assert file.version == 3 and file.alignment == 32 and file.paths == [str(DEMO)] and file.bytes == DEMO.stat().st_size
    assert file.metadata["general.architecture"] == "llama" and file.metadata is file.metadata
    name, type_name, shape, part, offset, size = file.tensors[0]
    assert (name, type_name, shape, part) == ("token_embd.weight", "Q8_0", (256, 4096), 0)
    assert size == 256 * 4096 // 32 * 34 and offset % 32 == 0 and offset + size <= file.bytes
    with pytest.raises(TypeError):
        file.metadata["x"] = 1


def test_metadata_arrays_outlive_the_file_object():
    file = _core.GGUF(str(DEMO))
    types = np.asarray(file.metadata["tokenizer.ggml.token_type"])
    copy = types.copy()
    live = _core.alloc_live()
    del file
    gc.collect()
    assert _core.alloc_live() == live  # the array still holds the directory
    np.testing.assert_array_equal(types, copy)
    del types
    assert _core.alloc_live() < live


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/nowhere/at/all.gguf", errors.FileIOError, "/nowhere/at/all.gguf"),
        (str(ROOT), errors.FileIOError, "regular file"),
        (str(ROOT / "LICENSE"), errors.FormatError, "GGUF"),
        (3, TypeError, "int"),
        (None, TypeError, "NoneType"),
        ("a\0b", ValueError, "null"),
    ],
)
def test_gguf_refuses_what_is_no_model(path, error, message):
    with pytest.raises(error, match=message):
        _core.GGUF(path)


@pytest.mark.parametrize("make", [lambda: _core.GGUF(), lambda: _core.GGUF(DEMO, 1), lambda: _core.GGUF(file=DEMO)])
def test_gguf_takes_one_path(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize("name", ["Array", "Sequence", "Result"])
def test_types_that_only_the_engine_makes_cannot_be_called(name):
    with pytest.raises(TypeError, match="cannot create"):
        getattr(_core, name)()


@pytest.mark.parametrize("name", ["Array", "GGUF", "Engine", "Sequence", "Result"])
def test_types_are_final_and_immutable(name):
    kind = getattr(_core, name)
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})
    with pytest.raises(TypeError):
        kind.new_attribute = 1


# ---- references and allocations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: _core.dequantize("Q4_0", bytes(18 * 100)),
        lambda: _core.memory_info(),
        lambda: _core.cpu_info(),
        lambda: _core.file_identity(DEMO),
        lambda: _core.GGUF(DEMO).metadata,
        lambda: _core.GGUF(DEMO).tensors,
        lambda: _core.GGUF(DEMO).paths,
        lambda: _core.solve_plan(_core.GGUF(DEMO), max_ram=64 << 20),
    ],
    ids=["dequantize", "memory_info", "cpu_info", "file_identity", "metadata", "tensors", "paths", "solve_plan"],
)
def test_a_call_leaks_neither_objects_nor_allocations(call):
    call(), call()
    gc.collect()
    live, blocks, none = _core.alloc_live(), sys.getallocatedblocks(), sys.getrefcount(None)
    for _ in range(50):
        call()
    gc.collect()
    assert _core.alloc_live() == live
    assert sys.getallocatedblocks() - blocks < 40 and abs(sys.getrefcount(None) - none) < 40


@pytest.mark.parametrize(
    "bad", [lambda: _core.GGUF(ROOT / "LICENSE"), lambda: _core.dequantize("F32", b"123"), lambda: _core.GGUF(3)]
)
def test_a_failing_call_leaks_nothing(bad):
    def attempt():
        with pytest.raises(Exception):  # noqa: B017 which one is tested above
            bad()

    attempt(), attempt()
    gc.collect()
    live, blocks = _core.alloc_live(), sys.getallocatedblocks()
    for _ in range(50):
        attempt()
    gc.collect()
    assert _core.alloc_live() == live and sys.getallocatedblocks() - blocks < 40


def test_opening_fails_cleanly_at_every_allocation():
    _core.GGUF(DEMO)
    live = _core.alloc_live()
    for n in range(1, 1000):
        _core.alloc_fail_at(n)
        try:
            _core.GGUF(DEMO)
            failed = False
        except errors.OutOfMemoryError:
            failed = True
        finally:
            happened = _core.alloc_failed()
            _core.alloc_fail_at(0)
        assert failed == happened and _core.alloc_live() == live
        if not happened:
            break
    assert n > 3, "no allocation failed"


def test_objects_die_with_their_last_reference():
    class Holder:
        pass

    holder = Holder()
    holder.file = _core.GGUF(DEMO)
    holder.metadata = holder.file.metadata
    gone = weakref.ref(holder)
    live = _core.alloc_live()
    gc.disable()
    try:
        del holder
        assert gone() is None and _core.alloc_live() < live  # no cycle waits for the collector
    finally:
        gc.enable()


def test_the_module_can_be_loaded_twice():
    """State hangs from the module: a second copy has types of its own, and goes."""
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.ExtensionFileLoader("airpy._core", _core.__file__)
    spec = importlib.util.spec_from_loader("airpy._core", loader)
    second = importlib.util.module_from_spec(spec)
    loader.exec_module(second)
    assert second.GGUF is not _core.GGUF and second.FormatError is not _core.FormatError
    with pytest.raises(second.FormatError):
        second.GGUF(ROOT / "LICENSE")
    with pytest.raises(TypeError, match="takes a GGUF"):
        second.Engine(_core.GGUF(DEMO))


# ---- probes ----------------------------------------------------------------------------------------------------------------------


def test_probe_disk_measures_the_rate_of_a_throttled_source(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * 24)
    found = _core.probe_disk(path, 0.5, source="rate=40000000")
    assert 25e6 < found["disk"] < 60e6 and found["block_bytes"] >= 4096 and found["depth"] >= 1


def test_probe_compute_measures_what_it_is_asked():
    found = _core.probe_compute(iter(["Q8_0", 12]), threads=1, max_bytes=32 << 20, seconds=0.1)
    assert found["memory"] > 1e8 and found["product"].keys() == found["product_columns"].keys() == {"Q8_0", "Q4_K"}
    assert all(rate > 1e6 for rate in found["product"].values())
    plan = _core.solve_plan(_core.GGUF(DEMO), bandwidths=found)
    assert plan["compute_s"] > 0
    assert 1e-8 < found["op_s"] < 1e-3
    bare = _core.solve_plan(_core.GGUF(DEMO), bandwidths={**found, "op_s": 0})
    assert 50 * found["op_s"] < plan["compute_s"] - bare["compute_s"] < 200 * found["op_s"]  # six layers of 13 and some


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _core.probe_disk("/nowhere"), errors.FileIOError, "/nowhere"),
        (lambda: _core.probe_disk(DEMO, 0), errors.ArgumentError, "seconds"),
        (lambda: _core.probe_disk(DEMO, float("nan")), errors.ArgumentError, "seconds"),
        (lambda: _core.probe_disk(DEMO, source="x=1"), errors.ArgumentError, "x=1"),
        (lambda: _core.probe_disk(DEMO, source="fail_at=1"), errors.FileIOError, "read"),
        (lambda: _core.probe_compute(3), TypeError, "not iterable"),
        (lambda: _core.probe_compute(["Q9"]), errors.ArgumentError, "Q9"),
        (lambda: _core.probe_compute(["Q8_0"], tier="sse"), errors.ArgumentError, "sse"),
        (lambda: _core.probe_compute(["Q8_0"], threads=-1), errors.ArgumentError, "threads is -1"),
    ],
)
def test_probes_refuse_what_they_cannot_measure(call, error, message):
    live = _core.alloc_live()
    with pytest.raises(error, match=message):
        call()
    assert _core.alloc_live() == live


@pytest.mark.parametrize(
    "probe", [lambda: _core.probe_disk(DEMO, 0.02), lambda: _core.probe_compute(["Q8_0"], 1, "", 1 << 20, 0.02)]
)
def test_probes_fail_cleanly_at_every_allocation(probe):
    probe()
    live = _core.alloc_live()
    n, failures, came = 0, 0, True
    while came:
        n += 1
        _core.alloc_fail_at(n)
        try:
            probe()
        except (errors.OutOfMemoryError, errors.ThreadError):
            failures += 1
        came = _core.alloc_failed()
        _core.alloc_fail_at(0)
        assert _core.alloc_live() == live
    assert failures > 3
