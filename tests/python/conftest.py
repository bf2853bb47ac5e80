"""What every test stands on: the installed package. The tree's airpy/ hides it only where the extension was built into it (the
release preset)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Python puts the current folder, here the tree, before everything for -m and -c: for `python -m pytest` and for tests' child processes.
os.environ["PYTHONSAFEPATH"] = "1"
if not (ROOT / "airpy" / "_core.abi3.so").exists():
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# What says no device is the CPU's, also beside a GPU, unless that is what is tested.
if os.environ.get("AIRPY_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub but the one that hub_server.py is

# Started in the background of a script, it would be deaf to Ctrl-C, and so would its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def executables() -> Path:
    """Where the C tests are, and the CUDA backend on the emulation. AIRPY_C_TESTS names a folder with what was built already (the
    sanitizers' run); otherwise it is built in build/c_tests, once."""
    from models import tool

    given = os.environ.get("AIRPY_C_TESTS")
    if given:
        return Path(given)
    cmake, compiler = tool("cmake"), tool(os.environ.get("CC", "cc"))
    if not cmake or not compiler:
        pytest.skip("the C tests need cmake and a C compiler")
    folder = ROOT / "build" / "c_tests"
    options = ["-DAIRPY_PYTHON=OFF", "-DAIRPY_CUDA=off", "-DAIRPY_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    build = [cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)]
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes of pytest -n one builds
        for command in ([cmake, "-S", str(ROOT), "-B", str(folder), *options], build):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tests"


@pytest.fixture(scope="session")
def plugin(request: pytest.FixtureRequest) -> Path:
    """The CUDA backend on the emulation, or with AIRPY_TEST_GPU=1 the real one."""
    from on_cuda import REAL

    from airpy.device import cuda_plugin

    if REAL:
        return Path(cuda_plugin())
    folder: Path = request.getfixturevalue("executables")
    return folder / "libairpy_cuda_emulated.so"


@pytest.fixture
def cuda(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes device="cuda" the emulated one; what it gives changes the emulation (tests/cuda_emu/runtime.h) until the test ends."""
    from on_cuda import REAL, only_emulated

    if REAL:
        yield only_emulated
        return
    monkeypatch.setenv("AIRPY_CUDA_PLUGIN", os.fspath(plugin))
    library = ctypes.CDLL(os.fspath(plugin))
    library.air_emu_configure.argtypes, library.air_emu_configure.restype = [ctypes.c_char_p], ctypes.c_char_p

    def configure(words: str) -> None:
        assert library.air_emu_configure(words.encode()) == b"", words

    configure("")
    yield configure
    configure("")


@pytest.fixture
def airpy(capsys):
    """Runs the command; exit code, stdout, stderr."""
    from airpy.cli.main import main

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run
