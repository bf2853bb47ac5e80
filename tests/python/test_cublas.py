"""Products of prompts by cuBLAS, a fake one on the emulated CUDA (tests/cuda_emu/fake_cublas.cpp): found, said, counted.
Products one by one: tests/cuda_emu/test_cublas.cu."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import load, run_python

from airpy import _core, errors
from airpy.device import Device, cublas_directories

sys.path.insert(0, os.fspath(Path(__file__).parents[2] / "tools"))
import make_gguf

pytestmark = pytest.mark.timeout(900)  # the first one builds

IDS = (np.arange(20) * 37 % 500).astype(np.int32)


class Controls(ctypes.Structure):
    configure: Callable[[str], None]
    peak: Callable[[], int]
    _fields_ = [(name, kind) for name, kind in (
        ("launch", ctypes.c_void_p), ("fail_at", ctypes.c_long), ("status", ctypes.c_int), ("handles", ctypes.c_long),
        ("products", ctypes.c_long),
    )]  # fmt: skip


@pytest.fixture
def site(executables: Path, tmp_path: Path) -> Path:
    """A folder of Python packages with NVIDIA's of cuBLAS."""
    library = next((executables / "fake_cublas").iterdir())
    (tmp_path / "nvidia" / "cublas" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "cublas" / "lib" / library.name).symlink_to(library)
    return tmp_path


@pytest.fixture
def fake(executables: Path, monkeypatch: pytest.MonkeyPatch, site: Path):
    """The emulated GPU, on which that cuBLAS works."""
    plugin = executables / "libairpy_cuda_emulated.so"
    monkeypatch.setenv("AIRPY_CUDA_PLUGIN", os.fspath(plugin))
    monkeypatch.syspath_prepend(os.fspath(site))
    library = ctypes.CDLL(os.fspath(plugin))
    library.air_emu_configure.argtypes = [ctypes.c_char_p]
    library.air_emu_configure(b"mode=sched,seed=3")
    path = next((site / "nvidia" / "cublas" / "lib").iterdir())
    controls = Controls.in_dll(ctypes.CDLL(os.fspath(path)), "fake_cublas")
    controls.launch = ctypes.cast(library.cudaLaunchHostFunc, ctypes.c_void_p).value
    controls.fail_at = controls.products = 0
    library.air_emu_report.restype = ctypes.c_char_p
    controls.peak = lambda: int(re.search(rb"vram_peak (\d+)", library.air_emu_report())[1])
    controls.configure = lambda words: library.air_emu_configure(words.encode())
    yield controls
    library.air_emu_configure(b"")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = make_gguf.write(tmp_path_factory.mktemp("cublas") / "f16.gguf", shape="tiny", type="F16", seed=7)
    return Path(path)


def open_engine(path: Path, cublas: str | None = None, **options: Any) -> _core.Engine:
    options = {"plugin": os.environ["AIRPY_CUDA_PLUGIN"], "cublas": cublas, **options}
    return _core.Engine(_core.GGUF(os.fspath(path)), max_ram=256 << 20, n_ctx=128, kv_dtype="f32", **options)


def logits(engine: _core.Engine, ids: np.ndarray = IDS) -> np.ndarray:
    sequence = engine.sequence()
    try:
        return np.array(engine.run([(sequence, ids, len(ids), None, len(ids))], logits=True).logits)
    finally:
        sequence.close()


def test_prompts_by_cublas_are_those_by_our_kernels_and_keep_their_bits(fake, model):
    plain = open_engine(model)
    want, fixed = logits(plain), plain.plan["device_fixed"]
    plain.close()
    assert fake.products == 0
    engine = open_engine(model, cublas_directories())
    plan, got = engine.plan, logits(engine)
    assert fake.products > 0 and fake.handles == 1
    assert plan["device_fixed"] - fixed >= 160 << 20  # its workspace, and what the library itself may take
    assert np.square(got - want).sum() <= 1e-9 * np.square(want).sum() and not np.array_equal(got, want)
    assert np.array_equal(logits(engine, IDS[:9]), got[:9])
    engine.close()
    assert fake.handles == 0
    parts = ("device_fixed", "device_part_bytes", "device_state_bytes", "device_activation_bytes_full")
    budget = sum(plan[part] for part in parts) + (1 << 20)
    fake.configure("mode=sched,seed=9")
    engine = open_engine(model, cublas_directories(), max_vram=budget, max_rows=plan["max_rows"], tile_bytes=1 << 16)
    assert engine.plan["n_device_tiles"] < engine.plan["n_tiles"]
    assert np.array_equal(logits(engine), got)  # streamed, in other tiles
    assert fake.peak() <= budget - _core.DEVICE_CONTEXT - (128 << 20)
    engine.close()


def test_a_product_that_fails_is_an_error_and_leaves_the_model_usable(fake, model):
    engine = open_engine(model, cublas_directories())
    want = logits(engine)
    for n in (1, 12):
        fake.fail_at, fake.status = n, 13
        with pytest.raises(errors.DeviceError, match=r"cuBLAS: cublasGemmEx failed with status 13; AIRPY_CUBLAS=off does without"):
            logits(engine)
        assert np.array_equal(logits(engine), want)
    engine.close()
    for call in ("cudaLaunchHostFunc:2", "cudaMalloc:5"):  # of the first pass, or of opening
        fake.configure(f"mode=sched,seed=4,fail={call}:2")
        with pytest.raises((errors.DeviceError, errors.OutOfMemoryError)):
            engine = open_engine(model, cublas_directories())
            with closing(engine):
                try:
                    logits(engine)
                except errors.AirpyError:
                    assert np.array_equal(logits(engine), want)
                    raise
        assert fake.handles == 0


def test_what_cannot_be_made_is_an_error_when_a_model_is_opened(fake, model, monkeypatch):
    monkeypatch.setenv("AIRPY_CUBLAS", "on")
    fake.launch = None
    with pytest.raises(errors.DeviceError, match="cublasCreate failed with status 1"):
        open_engine(model, **Device("cuda").engine_options())
    with load(device="cuda", n_ctx=64) as opened:  # whose weights are none of cuBLAS's
        assert opened.device == "cuda:0"
    monkeypatch.setenv("AIRPY_CUBLAS", "maybe")
    with pytest.raises(errors.ArgumentError, match="AIRPY_CUBLAS is 'maybe', but may be 'on' or 'off'"):
        load(device="cuda", n_ctx=64)
    monkeypatch.setenv("AIRPY_CUBLAS", "off")
    with load(device="cuda", n_ctx=64) as opened:
        assert opened.device == "cuda:0"


SAYS = "from airpy.cli import doctor; print(doctor._cublas_text(doctor._cublas()))"


def test_doctor_says_which_one_there_is_and_whether_it_is_used(executables, site):
    env = {"AIRPY_CUDA_PLUGIN": os.fspath(executables / "libairpy_cuda_emulated.so")}
    none = run_python(SAYS, env=env).stdout
    if "no cuBLAS" in none:  # nor has this machine one
        assert "not used: no cuBLAS of CUDA 1" in none and "install airpy[cuda1" in none
    env["PYTHONPATH"] = os.fspath(site)
    found = rf"{site}/nvidia/cublas/lib/libcublas.so.1"
    off, on = run_python(SAYS, env=env).stdout, run_python(SAYS, env={**env, "AIRPY_CUBLAS": "on"}).stdout
    assert found in off and "not used, since no GPU has measured that it is faster; AIRPY_CUBLAS=on" in off
    assert found in on and ".2.1, " in on and "used for prompts with F16 and BF16 weights, as AIRPY_CUBLAS=on says" in on
