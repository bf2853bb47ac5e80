"""The package as a whole: its stub, its symbols, its layers, its headers, what importing it costs and what a wheel of it holds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from airpy import _core

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
LAYERS = ["base", "platform", "quant", "gguf", "kernels", "backend", "memory", "model", "engine", "python"]
OF_ONE_CPU = {"x86", "arm"}  # these folders alone name what a CPU has; templates in simd/ come after its vocabulary
HEADERS = sorted(path for path in CSRC.rglob("*.h") if not {"python", "simd", *OF_ONE_CPU} & set(path.parts))
STANDARD = set(  # C11, 7.1.2
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic stdbool stddef "  # noqa: SIM905
    "stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype".split()
)
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".def"))
WRITTEN = {".c", ".h", ".def", ".cu", ".cuh", ".cpp", ".map", ".py", ".pyi", ".sh", ".md", ".txt", ".toml", ".json", ".cmake"}
TREE = sorted(  # all that was written by hand
    [path for path in ROOT.iterdir() if path.is_file() and path.suffix in WRITTEN]
    + [path for path in (ROOT / ".ci").rglob("*") if path.is_file()]
    + [path for name in ("airpy", "csrc", "cuda", "docs", "tests", "tools") for path in (ROOT / name).rglob("*")
       if path.suffix in WRITTEN and path.name != "demo_val.txt" and "results" not in path.parts]
)  # fmt: skip


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not there")
    return found


# ---- the stub --------------------------------------------------------------------------------------------------------------------


def test_the_stub_says_what_the_extension_has(tmp_path):
    if not find_spec("mypy"):
        pytest.skip("mypy is not there")
    allow = tmp_path / "allow"
    # 3.12 is the first to show the buffer slot as a method.
    allow.write_text("" if sys.version_info >= (3, 12) else "airpy._core.Array.__buffer__\n")
    command = [sys.executable, "-m", "mypy.stubtest", "airpy._core", "--allowlist", str(allow)]
    paths = os.pathsep.join([str(Path(_core.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stub_and_the_marker_lie_beside_the_extension():
    folder = Path(_core.__file__).parent
    assert (folder / "_core.pyi").is_file() and (folder / "py.typed").is_file()


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == _core.VERSION
    command = ["git", "grep", "-lF", f'"{project["version"]}"', "--", "*.py", "*.c", "*.h", "*.txt", "*.json"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert found.returncode in (1, 128), f"the version stands elsewhere too: {found.stdout.decode()}"


def run_in_checkout(tmp_path: Path, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder that has the package's sources and no extension beside them."""
    shutil.copytree(ROOT / "airpy", tmp_path / "airpy", ignore=shutil.ignore_patterns("*.so", "__pycache__", "assets"))
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")} | variables
    return subprocess.run([sys.executable, *options, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_sources_without_an_extension_leave_the_work_to_the_installed_package(tmp_path):
    code = "import airpy, sys; airpy.AutoModel; print(sys.modules['airpy._core'].__file__, sys.modules['airpy.auto_model'].__file__)"
    done = run_in_checkout(tmp_path, code, PYTHONPATH=str(Path(_core.__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    assert [Path(path).parent for path in done.stdout.split()] == [Path(_core.__file__).parent] * 2


def test_sources_alone_say_that_the_extension_is_not_built(tmp_path):
    done = run_in_checkout(tmp_path, "import airpy; airpy.__version__", "-S")  # -S: no installed packages
    assert done.returncode == 1 and f"not built beside {tmp_path / 'airpy'}: run pip install ." in done.stderr.splitlines()[-1]


def test_the_command_says_so_too(tmp_path):
    done = run_in_checkout(tmp_path, "import runpy; runpy.run_module('airpy', run_name='__main__')", "-S")
    assert done.returncode == 1 and done.stderr.startswith("airpy: airpy's extension is not built beside") and done.stderr.count("\n") == 1


# ---- symbols ---------------------------------------------------------------------------------------------------------------------


def symbols(*options: str) -> set[str]:
    out = subprocess.run([need("nm"), "-D", *options, _core.__file__], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def is_sanitized() -> bool:
    return any(name.startswith(("__asan", "__ubsan", "__tsan")) for name in symbols("--undefined-only"))


def test_the_extension_exports_its_init_function_alone():
    assert symbols("--defined-only") == {"PyInit__core"}


def test_the_extension_is_named_for_the_stable_abi():
    assert Path(_core.__file__).name == "_core.abi3.so"


def test_the_library_never_prints_aborts_or_exits():
    output = set(
        "printf fprintf vprintf vfprintf dprintf puts fputs putchar putc fputc fwrite perror write psignal error warn warnx "  # noqa: SIM905
        "__printf_chk __fprintf_chk __vfprintf_chk stdout stderr".split()
    )
    endings = set("abort exit _exit _Exit quick_exit __assert_fail longjmp Py_Exit Py_FatalError err errx".split())  # noqa: SIM905
    unwanted = symbols("--undefined-only") & (output | endings)
    if is_sanitized():
        unwanted -= {"abort", "stderr"}
    assert not unwanted


def test_nothing_of_the_library_is_missing():
    assert not {name for name in symbols("--undefined-only") if name.startswith("air_")}


def test_the_extension_needs_the_c_library_alone():
    out = subprocess.run([need("readelf"), "-d", _core.__file__], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*)\]", out))
    if is_sanitized():
        pytest.skip("a sanitized build links its run-time library")
    assert libraries <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


# ---- sources ---------------------------------------------------------------------------------------------------------------------


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_a_file_includes_only_layers_above_its_own(path):
    own = path.relative_to(CSRC).parts[0]
    assert own in LAYERS
    for name in includes(path):
        beside = path.parent / name
        target = beside if "/" not in name and beside.is_file() else CSRC / name
        assert target.is_file(), f'"{name}" is not found from csrc'
        layer = target.relative_to(CSRC).parts[0]
        assert LAYERS.index(layer) <= LAYERS.index(own), f"{own} includes {layer}"


def test_the_sources_were_found():
    assert len(SOURCES) > 60 and sum(len(includes(path)) for path in SOURCES) > 100
    assert {path.relative_to(CSRC).parts[0] for path in SOURCES} == set(LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_the_system_is_named_in_platform_alone(path):
    """Outside platform/ only ISO C11, and the compiler's extensions through base/compiler.h."""
    if {"platform", *OF_ONE_CPU} & set(path.parts):
        return
    text = path.read_text()
    for header in re.findall(r"^\s*#\s*include\s+<([^>]+)>", text, re.M):
        name = header.removesuffix(".h")
        assert name in STANDARD or header == "Python.h" or (header == "atomic" and path.name == "compiler.h"), f"<{header}>"
    if path.name != "compiler.h":
        assert "__attribute__" not in text and "__builtin_" not in text
    assert not re.search(r"\b(__linux__|_WIN32|__APPLE__|_GNU_SOURCE|_POSIX_C_SOURCE)\b", text)


@pytest.mark.parametrize("language", ["c11", "c++17"])
def test_every_header_compiles_alone(language, tmp_path):
    c = language == "c11"
    compiler = need(os.environ.get("CC", "cc") if c else os.environ.get("CXX", "c++"))
    failed = {}
    for header in HEADERS:
        source = tmp_path / ("one.c" if c else "one.cpp")
        source.write_text(f'#include "{header.relative_to(CSRC)}"\n#include "{header.relative_to(CSRC)}"\nint air_one;\n')
        warnings = ["-Wall", "-Werror", "-Wno-unused-function", *(["-Wextra"] if c else [])]
        done = subprocess.run(
            [compiler, f"-std={language}", *warnings, f"-I{CSRC}", "-fsyntax-only", source], capture_output=True, text=True
        )
        if done.returncode:
            failed[str(header.relative_to(CSRC))] = done.stderr
    assert not failed, "\n".join(failed.values())
    assert len(HEADERS) > 25


def lines_of_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's place and its lines: by the parser in Python, by braces in the first column in C."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.name}:{node.lineno}", (node.end_lineno or 0) - node.lineno + 1
    start = None
    for number, line in enumerate(text.splitlines() if path.suffix in (".c", ".h") else [], 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            yield f"{path.name}:{start}", number - start + 1
            start = None


def test_files_and_functions_keep_their_size():
    long_files = {str(path): n for path in TREE if (n := len(path.read_text().splitlines())) > 800}
    assert not long_files
    functions = [place for path in TREE for place in lines_of_functions(path)]
    assert len(functions) > 1000
    assert not [place for place, n in functions if n > 62]


def test_lines_keep_their_length():
    """ruff holds Python to it. Left out: tables of numbers that were made, and the kernels' rows of intrinsics."""
    files = [path for path in SOURCES + sorted((ROOT / "tests" / "c").glob("*.[ch]"))
             if "kernels" not in path.parts and path.name not in ("iq_tables.c", "golden_logits.h")]  # fmt: skip
    long = [f"{path.name}:{n}" for path in files for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 140]
    assert len(files) > 80 and not long


def test_nothing_is_left_for_later_and_no_path_is_of_one_machine():
    left = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    machine = re.compile(r"(?<![\w./])/(work|root|home|Users)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}" for path in TREE for what in (left, machine) if (match := what.search(path.read_text()))
    ]
    assert not found


# ---- importing -------------------------------------------------------------------------------------------------------------------


def import_seconds(statement: str) -> float:
    code = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(5)
    ]
    return min(runs)


def test_importing_airpy_is_quick_and_brings_no_framework():
    if is_sanitized():
        pytest.skip("a sanitized build is slow")
    assert import_seconds("import numpy; import airpy") - import_seconds("import numpy") < 0.080
    code = "import sys, airpy; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"torch", "transformers", "matplotlib", "huggingface_hub", "pandas", "scipy", "gguf"}


def test_importing_a_class_brings_nothing_that_only_its_use_needs():
    code = (
        "import sys, airpy; before = set(sys.modules); airpy.AutoModel, airpy.Tokenizer; import airpy.cli.main\n"
        "print(*set(sys.modules) - before)"
    )
    loaded = set(subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "airpy.model" in loaded
    assert not loaded & {"tokenizers", "jinja2", "tqdm", "airpy.chat", "subprocess", "secrets"}
    assert not loaded & {"pathlib", "tempfile", "shutil", "hashlib", "importlib.resources"}


# ---- the wheel -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [True, False])
def test_what_is_said_of_cuda_is_heard(environment, tmp_path):
    """By the environment, as pip takes it on, too: a word that means nothing is refused, and not taken for auto."""
    cmake = shutil.which("cmake")
    if not cmake:
        pytest.skip("no cmake")
    own = {"AIRPY_CUDA": "OFF"} if environment else {}
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path), "-DAIRPY_PYTHON=OFF", *([] if environment else ["-DAIRPY_CUDA=OFF"])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    assert done.returncode and "AIRPY_CUDA is 'OFF', but may be auto, on or off" in done.stderr


@pytest.mark.skipif(not os.environ.get("AIRPY_WHEEL"), reason="AIRPY_WHEEL names no wheel (CI's does)")
def test_the_wheel_holds_the_package_alone():
    wheel = Path(os.environ["AIRPY_WHEEL"])
    assert re.fullmatch(r"airpy-[\d.]+-cp311-abi3-\w*linux\w*_x86_64(\.\w+)*\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} <= {"airpy", f"airpy-{_core.VERSION}.dist-info"}
    assert {"airpy/_core.abi3.so", "airpy/_core.pyi", "airpy/py.typed", "airpy/assets/demo-q8_0.gguf"} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".h", ".pyc", ".a", ".txt")) and "dist-info" not in name]
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist() if info.filename.startswith("airpy/assets/")) <= 9 << 20
