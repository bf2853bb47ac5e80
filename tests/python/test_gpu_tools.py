"""What tests a GPU, where there is none: it says so and ends; its tables; all of the benchmark on the emulated GPU (tests/cuda_emu)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(os.fspath(ROOT))  # tests.gpu; behind the package under test

from tests.gpu import bench, build, check, driver, table  # noqa: E402
from tools import make_gguf  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # the first one builds


def has_gpu() -> bool:
    try:
        driver.facts()
    except driver.NoGpuError:
        return False
    return True


def run(module: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As a user does, in a process of its own that has the package under test."""
    import airpy

    path = os.pathsep.join([os.fspath(Path(airpy.__file__).parents[1]), os.fspath(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path, **env},
    )  # fmt: skip


# ---- without a GPU ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
@pytest.mark.parametrize("tool", ["check", "bench"])
def test_without_a_gpu_it_says_so_and_builds_nothing(tool, tmp_path):
    done = run(f"tests.gpu.{tool}", "--build", os.fspath(tmp_path / "build"), AIRPY_CUDA_PLUGIN="")
    assert done.returncode == driver.NO_GPU, done.stderr
    assert done.stderr.startswith(f"{tool}: no GPU: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "build").exists() and not done.stdout


@pytest.mark.parametrize("tool", [check, bench])
@pytest.mark.parametrize("words", [["--no-such"], ["--seconds", "many"]])
def test_wrong_arguments_are_refused(tool, words, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(words)
    assert ended.value.code == 2 and "usage" in capsys.readouterr().err


def test_prebuilt_excludes_building():
    with pytest.raises(SystemExit):
        check.main(["--prebuilt", "--build-only"])


def test_a_folder_that_is_not_built_is_named_with_what_it_lacks(tmp_path):
    lacking = build.missing(tmp_path)
    assert "csrc/_core.abi3.so" in lacking and "gpu/gpu_probe" in lacking
    with pytest.raises(build.BuildError, match=r"lacks .*libairpy_cuda"):
        check.made(check.arguments(["--prebuilt", "--build", os.fspath(tmp_path)]))


def test_what_is_packed_is_all_that_is_needed(tmp_path):
    folder, packed = tmp_path / "build", tmp_path / "packed"
    for path in build.missing(folder):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"a program")
    assert build.pack(folder, packed) == len(b"a program") * len(build.missing(tmp_path / "none"))
    assert build.missing(packed) == []
    home = build.package(packed)
    assert (home / "airpy" / "_core.abi3.so").exists() and (home / "airpy" / "assets" / "demo-q8_0.gguf").exists()
    assert build.environment(home)["AIRPY_CUDA_PLUGIN"] == os.fspath(home / "airpy" / "libairpy_cuda.so")


# ---- what the check runs, and its summary --------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path, monkeypatch) -> check.Session:
    """Of a folder whose programs are scripts."""
    (tmp_path / "gpu").mkdir()
    monkeypatch.setattr(check.build, "environment", lambda home, **more: {**os.environ, **more})
    return check.Session(tmp_path, tmp_path, ends=float("inf"))


def script(session: check.Session, name: str, text: str) -> None:
    path = session.folder / "gpu" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_program_that_fails_or_crashes_is_a_failed_line_and_the_others_run(session):
    script(session, "gpu_test_rows", "echo 'ok     a_test'; echo '1 passed, 0 failed'")
    script(session, "gpu_test_mixture", "echo 'ok     a_test'; echo '1 passed, 0 failed'")
    script(session, "gpu_test_recurrent", "echo 'ok     a_test'; echo '1 passed, 0 failed'")
    script(session, "gpu_test_attention", "echo 'ok     a_test'; echo 'FAILED another'; exit 1")
    script(session, "gpu_test_products", "echo begun; kill -SEGV $$")
    script(session, "gpu_test_lora", "echo 'ok     a_test'; echo '1 passed, 0 failed'")
    check.kernels(session)
    assert [(line.name, line.state) for line in session.lines] == [
        ("kernels: rows", "ok"), ("kernels: mixture", "ok"), ("kernels: recurrent", "ok"), ("kernels: attention", "FAILED"),
        ("kernels: products", "FAILED"), ("kernels: lora", "ok"),
    ]  # fmt: skip
    texts = [line.text for line in session.lines]
    assert texts[0] == "1 tests" and "another" in texts[3] and "status -11" in texts[4]


def test_what_there_is_no_time_for_is_skipped_and_said_so(session):
    session.ends = 0
    check.kernels(session)
    assert {line.state for line in session.lines} == {"skipped"} and "no time" in session.lines[0].text


def test_a_program_that_hangs_is_ended(session):
    script(session, "gpu_test_rows", "sleep 100")
    done = check.run(session, [session.folder / "gpu" / "gpu_test_rows"], 1)
    assert done.code is None and done.seconds < 20


def test_python_tests_that_hang_have_failed(session, monkeypatch):
    monkeypatch.setattr(check, "PYTEST_NEEDS", ())
    monkeypatch.setattr(check.build, "python", lambda *words: ["sh", "-c", "echo 3 passed; sleep 100"])
    monkeypatch.setattr(check.Session, "left", lambda self, most: 1.0)
    check.python_tests(session)
    assert [(line.name, line.state) for line in session.lines] == [(f"tests/python/{test}.py", "FAILED") for test in check.PYTHON_TESTS]


def test_a_sanitizer_that_cannot_run_is_skipped_once(session, monkeypatch):
    script(session, "compute-sanitizer", "echo '========= Device not supported'; exit 1")
    monkeypatch.setenv("PATH", f"{session.folder / 'gpu'}{os.pathsep}{os.environ['PATH']}")
    check.sanitizers(session)
    assert [(line.name, line.state) for line in session.lines] == [("compute-sanitizer", "skipped")]


def test_the_summary_counts_what_held(session):
    lines = [check.Line("one", "ok", 1.5, "fine"), check.Line("another", "FAILED", 2, "NMSE"), check.Line("third", "skipped", 0, "why")]
    text = check.summary(lines, 4.0)
    assert text.splitlines()[-1] == "1 held, 1 failed, 1 skipped in 4 s"
    assert "another  FAILED      2.0 s  NMSE" in text


# ---- tables ----------------------------------------------------------------------------------------------------------------------

PLAN = {"weight_bytes": 4e9, "device_weight_bytes": 1e9}
SAMPLE: dict[str, Any] = {
    "gpu": {"name": "A GPU", "memory_bytes": 80 << 30, "driver": "580.1"}, "emulated": False, "cuda": "13.0", "commit": "0123456789ab",
    "taken": "2026-01-02T03:04:05+00:00",
    "steps": {
        "link": {"can_pin": 1, "h2d": 5e10, "h2d_2mib": 4e10, "d2h": 5e10, "pageable": 1e10, "can_register": 0, "took_s": 1},
        "memory": {"read": 2e12, "copy": 2.5e12, "took_s": 1},
        "probe": {
            "link": 4.5e10, "link_back": 5e10, "device": 1.9e12, "device_op_s": 2e-6, "handover_s": 1.5e-5, "device_context": 450 << 20,
            "device_product": {"Q4_K": 1.4e12}, "device_product_columns": {"Q4_K": 5e13}, "took_s": 1,
        },
        "products": {"Q4_K": 1.5e12, "Q4_K 4096x4096": 1e12, "took_s": 1},
        "prompts": {"peak of bytes": 4e14, "peak of halves": 2e14, "Q4_K x 512": 2e14, "F16 x 512": 1e14, "took_s": 1},
        "attention": {"decode f16 8192": 1e12, "prompt f16 8192": 3e14, "took_s": 1},
        "m: decode, 4 × VRAM": {"plan": PLAN, "median_s": 0.075, "disk_bytes": 0, "took_s": 9},
        "m: prompt": {"plan": PLAN, "prompts": {"512": {"seconds": 0.5, "passes": 1}}, "weights_per_token": 1e9, "weights_of_output": 0,
                      "of_format": 2e14},
        "m: llama.cpp": {"left_out": "no --llama-bench given"},
        "n: decode": {"failed": "RuntimeError: lost | device"},
    },
}  # fmt: skip


def test_tables_put_figures_beside_their_bounds():
    text = table.page([SAMPLE])
    assert text.startswith("## A GPU, 80 GiB, driver 580.1, CUDA 13.0, commit 0123456789ab, 2026-01-02\n")
    for line in [
        "| m: decode, 4 × VRAM | 13.3 tokens/s, 80 % of the bound by the link (16.7); 3.00 of 4.00 GB cross the link, 40.0 GB/s |",
        "| probe for plans: the link | 45.0 GB/s, 90 % of the above; back 50.0 GB/s, 100 % of the above |",
        "| probe for plans: the GPU | memory 1900 GB/s, 95 % of the above; a launch 2.0 µs, a hand-over 15.0 µs; its context "
        "450 MiB at most |",
        "| probe for plans: product Q4_K | 1400 GB/s; of many columns 50.0 TB/s × columns |",
        "| product Q4_K, one column | 1500 GB/s, 75 % of the memory; 4096 × 4096: 1000 GB/s, 50 % of it |",
        "| product Q4_K, 512 columns | 200 TOPS, 50 % of the tensor cores on bytes |",
        "| product F16, 512 columns | 100 TOPS, 50 % of the tensor cores on halves |",
        "| attention of a token, f16 8192 | 1000 GB/s of K and V, 50 % of the memory |",
        "| m: prompt of 512 | 1024 tokens/s in 1 pass, 12 % of the bound by the link; 2.05 TOPS, 1 % of the product’s |",
        "| m: llama.cpp | left out: no --llama-bench given |",
        "| n: decode | FAILED: RuntimeError: lost \\| device |",
    ]:
        assert line in text


def test_the_table_of_a_file_is_printed(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(SAMPLE))
    assert table.main([os.fspath(tmp_path / "a.json")]) == 0
    assert "## A GPU" in capsys.readouterr().out


def test_what_is_in_results_was_measured_on_gpus():
    for path in table.RESULTS.glob("*.json"):
        assert json.loads(path.read_text())["emulated"] is False


# ---- the benchmark on the emulated GPU ------------------------------------------------------------------------------------------------

TINY = [
    "--ratios", "2", "--prompts", "16", "--depths", "64", "--formats", "Q8_0", "--new", "3", "--megabytes", "1", "--each", "0",
    "--n-ctx", "128",
]  # fmt: skip


def test_the_benchmark_runs_on_an_emulated_gpu_and_leaves_no_results(executables, tmp_path):
    plugin, probe = executables / "libairpy_cuda_emulated.so", executables / "gpu_probe_emulated"
    if not plugin.exists() or not probe.exists():
        pytest.skip("built without the emulated GPU")
    before = sorted(table.RESULTS.glob("*"))
    [model] = make_gguf.write(tmp_path / "tiny.gguf", shape="tiny", type="Q8_0", layers=3)
    words = [*TINY, "--model", os.fspath(model), "--probe", os.fspath(probe)]
    out = ["--seconds", "500", "--out", os.fspath(tmp_path / "found.json")]
    done = run("tests.gpu.bench", *words, *out, AIRPY_CUDA_PLUGIN=os.fspath(plugin))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["emulated"] and sorted(table.RESULTS.glob("*")) == before
    streamed = found["steps"]["given: decode, 2 × VRAM"]["plan"]
    assert 0 < streamed["device_weight_bytes"] < streamed["weight_bytes"] and streamed["pass_s"] > 0
    assert found["steps"]["probe"]["device_product"]["Q8_0"] > 0 and found["steps"]["cpu"]["memory"] > 0
    assert streamed["host_weight_bytes"] == 0 and "given: decode, 2 × VRAM, with the CPU" in found["steps"]
    left_out = {name for name, step in found["steps"].items() if "left_out" in step}
    assert left_out == {"given: llama.cpp", "given: llama.cpp, 2 × VRAM", "airllm"}
    assert "EMULATED" in (tmp_path / "found.md").read_text()
    without = run("tests.gpu.bench", *words, "--seconds", "0", AIRPY_CUDA_PLUGIN=os.fspath(plugin))
    assert "s were left" in without.stdout and without.stdout.endswith("nothing was written\n")
    assert sorted(table.RESULTS.glob("*")) == before
