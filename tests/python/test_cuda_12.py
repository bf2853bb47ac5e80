"""CUDA's sources compile with CUDA 12.9, of which NVIDIA's wheels have no nvcc: kernels for compute capability 7.0, which nvcc 13 no longer
knows, by NVRTC; the others by the host's compiler, with 12.9's headers. Without a GPU.

NVRTC takes device code alone: launchers are compiled as such (cuda/dialect.h), which makes every kernel that they name. It brings no
headers of the host; what the sources need of them stands here."""
from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "cuda").glob("*.cu"))
KERNELS = [path.name for path in ALL if re.search(r"__global__|^AIR_CUDA_\w*PRODUCT\(", path.read_text(), re.M)]
HOST = [path.name for path in ALL if path.name not in KERNELS]

HEADERS = {
    "stdint.h": """#pragma once
        typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t; typedef long intptr_t;
        typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t; typedef unsigned long uint64_t;
        typedef unsigned long uintptr_t;
        #define UINT16_MAX 65535
        #define INT32_MAX 2147483647
        #define INT64_MAX 9223372036854775807L
        #define INFINITY __int_as_float(0x7f800000)""",
    "cstdint": "#include <stdint.h>",
    "climits": "#define INT_MAX 2147483647",
    "cuda_runtime.h": """#include <driver_types.h>
        cudaError_t cudaGetLastError(void);
        cudaError_t cudaGetDevice(int *device);
        cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
        cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel);
        cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);""",
    "atomic": "namespace std { template <class T> struct atomic { T value; }; }",
    "stddef.h": "",
    "cstring": "",
    "utility": "",
}


@dataclass
class Made:
    """What came of a source: the number of its kernels, and what NVRTC had to say."""

    kernels: int
    log: str


class Compiler:
    def __init__(self, nvrtc: Path, includes: list[Path]) -> None:
        self.library = ctypes.CDLL(str(nvrtc))
        self.options = ["--gpu-architecture=sm_70", "--std=c++17", "--ptxas-options=-O0", "--device-as-default-execution-space",
                        "--diag-suppress=20044", *(f"-I{folder}" for folder in includes)]  # fmt: skip

    def text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, source: str, name: str) -> Made:
        def strings(values: list[str]) -> ctypes.Array[ctypes.c_char_p]:
            return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

        program, headers = ctypes.c_void_p(), HEADERS
        names, texts = strings(list(headers)), strings(list(headers.values()))
        assert self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names) == 0
        try:
            failed = self.library.nvrtcCompileProgram(program, len(self.options), strings(self.options))
            log = "\n".join(line for line in self.text(program, "ProgramLog").splitlines() if line.strip() and "deprecated" not in line)
            return Made(0 if failed else self.text(program, "PTX").count(".entry"), log)
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))


def folder_of(part: str) -> Path:
    """Where NVIDIA's wheel of a part of CUDA 12.9 lies."""
    found = importlib.util.find_spec(f"nvidia.{part}") if importlib.util.find_spec("nvidia") else None
    if sys.platform != "linux" or not found or not found.submodule_search_locations:
        pytest.skip(f"not installed here: nvidia-{part.replace('_', '-')}-cu12==12.9.*")
    return Path(next(iter(found.submodule_search_locations)))


@pytest.fixture(scope="module")
def nvrtc() -> Compiler:
    return Compiler(folder_of("cuda_nvrtc") / "lib" / "libnvrtc.so.12", [ROOT, ROOT / "csrc", folder_of("cuda_runtime") / "include"])


def shortened(source: str) -> str:
    """With the products of its first and last format: what depends on the device is the same in all."""
    lines = source.splitlines()
    products = [i for i, line in enumerate(lines) if re.match(r"AIR_CUDA_\w*PRODUCT\(", line)]
    return "\n".join(line for i, line in enumerate(lines) if i not in products[1:-1])


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_compute_capability_7_0(nvrtc: Compiler, name: str) -> None:
    made = nvrtc.compile(shortened((ROOT / "cuda" / name).read_text()), name)
    assert made.log == ""
    assert made.kernels > 0


def test_what_compute_capability_7_0_lacks_does_not_compile(nvrtc: Compiler) -> None:
    made = nvrtc.compile('__global__ void newer() { asm volatile("cp.async.commit_group;"); }', "newer.cu")
    assert made.kernels == 0 and "sm_80" in made.log


@pytest.mark.parametrize("name", HOST)
def test_host_code_compiles_with_the_headers_of_cuda_12(name: str) -> None:
    folders = [folder_of(part) / "include" for part in ("cuda_runtime", "cuda_nvcc")]
    if not (compiler := shutil.which("g++") or shutil.which("c++")):
        pytest.skip("no C++ compiler")
    words = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", f"-I{ROOT / 'csrc'}"]
    words += [word for folder in folders for word in ("-isystem", str(folder))]
    done = subprocess.run([compiler, *words, "-x", "c++", str(ROOT / "cuda" / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
