"""What the benchmarks stand on: turns, summaries, memory groups, the table."""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import airllm, attention, batch, beyond_ram, cgroup, common, kernels, plot, prefill, resident, start, sweep, table  # noqa: E402

MIB = 1 << 20


class Disturbance:
    """In place of common.Load: the n-th block saw this much of others."""

    seen = iter(())

    def __enter__(self) -> Disturbance:
        self.other_cores, self.seconds = next(Disturbance.seen), 1.0
        return self

    def __exit__(self, *unused: object) -> None:
        pass


def test_disturbed_rounds_are_repeated_and_the_quietest_kept(monkeypatch):
    monkeypatch.setattr(common, "Load", Disturbance)
    Disturbance.seen = iter([0.0, 0.9, 0.01, 0.02, 0.5, 0.0, 0.03, 0.0])      # two contenders in each round
    calls = iter(range(8))
    rounds = common.take_turns({name: lambda: {"n": next(calls)} for name in "ab"}, rounds=2, seconds=60)
    assert [r.other_cores for r in rounds] == [0.02, 0.03]
    assert rounds[0].results == {"a": {"n": 2}, "b": {"n": 3}}


def test_repeating_ends_when_the_time_is_up(monkeypatch):
    monkeypatch.setattr(common, "Load", Disturbance)
    Disturbance.seen = iter([0.9, 0.8, 0.7])
    assert len(common.take_turns({"a": dict}, rounds=3, seconds=0)) == 3


def test_others_are_seen_and_own_work_is_not():
    with common.Load() as own:
        code = "import time\nwhile time.process_time() < 0.5: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])       # ends after the block: not a child of it yet
    try:
        with common.Load() as others:
            subprocess.run(["sleep", "0.5"], check=True)
    finally:
        busy.kill()
        busy.wait()
    assert own.seconds > 0.4 and others.other_cores > 0.2


def test_a_summary_is_the_median_and_the_spread():
    assert common.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "spread": 1.0, "values": [3.0, 1.0, 2.0]}
    assert common.ratios([4.0, 9.0], [2.0, 3.0])["values"] == [2.0, 3.0]


def test_a_memory_group_holds_its_processes_to_the_limit():
    if not cgroup.available():
        pytest.skip("this process may not make memory control groups")
    code = "import sys; b = bytearray(int(sys.argv[1])); b[::4096] = b'x' * len(b[::4096])"
    with cgroup.MemoryGroup(128 * MIB) as group:
        assert subprocess.run([sys.executable, "-c", code, str(64 * MIB)], preexec_fn=group.enter).returncode == 0
        assert 64 * MIB <= group.peak <= 128 * MIB and group.kills == 0
        assert subprocess.run([sys.executable, "-c", code, str(256 * MIB)], preexec_fn=group.enter).returncode != 0
        assert group.kills == 1


def test_a_group_holds_a_disk_to_its_rate(tmp_path):
    if not cgroup.available():
        pytest.skip("this process may not make control groups")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(24 * MIB))
    read = ["dd", f"if={file}", "of=/dev/null", "bs=1M"]
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
        os.sync()
        with cgroup.MemoryGroup(128 * MIB, (file, 32 * MIB)) as group:
            begin = time.monotonic()
            assert subprocess.run([*read, "iflag=direct"], capture_output=True, preexec_fn=group.enter).returncode == 0
            assert time.monotonic() - begin > 0.4            # 24 MiB take 0.75 s, but for what the kernel lets through at first
    except OSError as error:
        pytest.skip(f"no disk behind this folder: {error}")


RESULT = {
    "name": "x", "command": "python -m tests.bench.x", "taken": "2026-01-01T00:00:00", "commit": "abc", "models": {"m.gguf": 2 * 10**9},
    "machine": {"cpu": "C", "threads": 2, "tier": "avx2", "memory_bytes": 8 << 30, "read_ahead_kb": 128}, "rounds": [{}],
    "settings": {}, "other_cores": common.summary([0.05]), "charts": [common.chart("GB/s", ["a", "b"], us=[1.0, 2.0], them=[2.0, 1.0])],
    "rows": [common.row("speed", "1 | 2", "≥ 1", True, headline=True), common.row("share", "3", "≥ 4", False)],
}  # fmt: skip


def test_the_tables_stand_between_their_markers(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text(json.dumps(RESULT))
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "results.md"
    for file in (readme, page):
        file.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["table", "--write"])
    assert table.main() == 0
    for file in (readme, page):
        text = file.read_text()
        assert text.startswith(f"before\n{table.BEGIN}\n") and text.endswith(f"{table.END}\nafter\n") and "old" not in text
        assert "| speed | 1 \\| 2 | ≥ 1 ✓ |" in text
        assert ("| share | 3 | ≥ 4 (missed) |" in text) == (file == page)      # the README has headlines alone
    assert "![x](../tests/bench/results/x.svg)" in page.read_text()
    readme.write_text("no markers")
    assert table.main() == 1 and readme.read_text() == "no markers"


def test_the_pages_show_the_results_on_record():
    for page, text in table.pages(ROOT, table.RESULTS).items():
        assert page.read_text() == text, "run python -m tests.bench.table --write"


def test_what_is_drawn_depends_on_the_results_alone(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RESULT))
        plot.draw(tmp_path / f"{name}.json")
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes() and b"GB/s" in drawn and b"them" in drawn
    (tmp_path / "c.json").write_text(json.dumps({**RESULT, "charts": []}))
    plot.draw(tmp_path / "c.json")
    assert not (tmp_path / "c.svg").exists()


def test_without_matplotlib_a_line_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.json").write_text(json.dumps(RESULT))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot.draw(tmp_path / "x.json")
    assert "no matplotlib" in capsys.readouterr().err and not (tmp_path / "x.svg").exists()


DEMO = ROOT / "airpy" / "assets" / "demo-q8_0.gguf"
MAPPED = {"io": "mmap", "threads": 2, "n_ctx": 256, "probe_seconds": 0.05}


PEAK = {"tier": "avx2", "int8": 3e11, "f32": 1e11, "clock": 3e9}


def slower(seconds):
    """A peer that takes so many times as long."""
    return {"peer": "other 1.0", "repack": False, "pass_s_median": seconds, "pass_s": [seconds], "prefill_tok_s": 1 / seconds,
            "pass_bytes": 4e6, "texts": {str(n): {"pass_s_median": n * seconds} for n in batch.COUNTS}}


def test_texts_together_are_timed_for_every_count():
    found = common.worker("batch", DEMO, texts=batch.COUNTS, prompt=4, new=3, **MAPPED)
    figures = batch.figures_of("demo", [common.Round({"demo": found, "demo: peak": PEAK, "demo: llama.cpp": slower(1.0)})])
    assert [len(found["texts"][str(n)]["seconds"]) for n in batch.COUNTS] == [3] * len(batch.COUNTS)
    assert figures["airpy"]["1"]["over_one"]["median"] == 1 and figures["llama.cpp"]["8"]["over_one"]["median"] == 8
    rows = batch.table("demo", figures)
    assert len(rows) == len(batch.COUNTS) and all("its bound" in r["text"] and "llama.cpp" in r["text"] for r in rows)
    assert len(batch.charts({"demo": figures})) == 2


def test_a_bound_is_reading_or_arithmetic():
    run = {"type": "Q8_0", "weights_per_token": 10**9, "weights_of_output": 0, "plan": {"weight_bytes": 10**9},
           "probe_before": {"memory": 1e10}, "probe_after": {"memory": 1e10}}  # fmt: skip
    disturbed = {**PEAK, "int8": 1e11}
    assert batch.bound(run, [disturbed, PEAK], 1) == pytest.approx(0.1)               # 1 GB at 10 GB/s; 2 GB of operations in 12 ms
    assert batch.bound(run, [disturbed, PEAK], 16) == pytest.approx(32e9 / (0.55 * 3e11))
    assert batch.bound({**run, "type": "F16"}, [PEAK], 16) == pytest.approx(32e9 / (0.55 * 1e11))
    assert batch.bound(run, [{}], 1) == 0


def test_a_prompt_is_timed_in_one_pass():
    found = common.worker("prefill", DEMO, prompt=48, times=2, **MAPPED)
    peak = {**PEAK, "int8": 1e15}                                                     # no machine's: how quick this one is decides nothing
    round = common.Round({"demo": found, "demo: peak": peak, "demo: ik_llama.cpp": slower(1.0)})
    figures = prefill.figures_of("demo", [round])
    assert len(found["prompt"]["seconds"]) == 2 and figures["tokens"] == 48 and found["type"] == "Q8_0"
    assert 0 < figures["of_peak"]["median"] < 1
    first = prefill.table("demo", figures)[0]
    assert "a prompt of 48" in first["what"] and "ik_llama.cpp" in first["text"] and first["goal"].startswith("≥ 1.35 × any peer")
    assert first["met"] is False                                                      # a demo's prompt is far from any peak
    assert prefill.goal({**figures, "peers": {}})[1] is None                          # nothing to be held against


def test_a_decoded_text_is_held_against_memory_and_peers():
    found = common.worker("resident", DEMO, prompt=4, new=5, **MAPPED)
    figures = resident.figures_of("demo", [common.Round({"demo": found, "demo: llama.cpp": slower(1.0)})])
    assert figures["peers"]["llama.cpp"]["ratio"]["median"] == pytest.approx(1 / found["one"]["median_s"])
    assert resident.reached(figures) is True and resident.table("demo", figures)[0]["met"] is True
    slow = {**figures, "peers": {"llama.cpp": {"ratio": {"median": 1.1}}}, "of_probed": {"median": 0.8}}
    assert resident.reached(slow) is False and resident.reached({**slow, "of_probed": {"median": 0.93}}) is True
    quicker = {**figures["peers"], "ik_llama.cpp": {"ratio": {"median": 0.9}}}
    assert resident.reached({**figures, "peers": quicker}) is False
    assert len(resident.charts({"demo": figures})) == 2


def test_the_bound_of_a_stream_is_a_walk_and_the_sweep_above_it():
    settings = {"io": "direct", "threads": 2, "n_ctx": 256, "max_ram": 24 * MIB, "max_pins": 2 * MIB, "probe_seconds": 0.2, "sweep": True}
    found = common.worker("stream", DEMO, prompt=4, new=3, batch=2, batch_new=2, long_prompt=48, **settings)
    found |= {"peak": 20 * MIB, "kills": 0, "usage_at_open": 0}
    one = found["one"]
    assert len(one["walks"]["seconds"]) == 3 and found["probe_after"]["sweep"]["rate"] > 0
    round = common.Round({"airpy 1/2": found, "llama.cpp 1/2": slower(1.0)})
    figures = beyond_ram.figures_of("1/2", 20 * MIB, [round], ["llama.cpp"])
    assert set(figures["peers"]) == {"llama.cpp"} and figures["speed"]["tok_s"]["median"] == pytest.approx(1 / one["median_s"])
    assert len(beyond_ram.table("1/2", figures)) == 7
    more = beyond_ram.extras(found, PEAK, 2)
    assert more["batch_tok_over_one"] == pytest.approx(2 * one["median_s"] / found["batch"]["median_s"])
    assert len(beyond_ram.table_of_extras("1/2", more)) == 2


def test_a_sweep_reads_at_the_rate_of_a_disk(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(9 * MIB))
    try:
        found = sweep.best(str(file), 0.3)
    except OSError:
        pytest.skip("no direct reads here")
    assert found["rate"] > 1e6 and (found["block_bytes"], found["depth"]) in [(b, d) for b in sweep.BLOCKS for d in sweep.DEPTHS]


LINES = """# one thread
tier kernel n from GB/s Gop/s cycles share
avx2 Q8_0 1 DRAM 8.03 28.57 7.258 0.877
avx2 Q8_0 1 L2 19.34 68.77 3.015 0.511
avx2 Q8_0 4 L2 7.78 110.63 1.874 0.364
avx2 Q8_0 16 L2 2.40 136.66 1.517 0.449
avx2 Q8_0 64 L2 0.67 153.30 1.352 0.504
avx2 attention 64 L2 0.20 47.46 4.341 0.458
"""


def test_what_the_kernels_print_becomes_rows(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{LINES}E\n")
    program.chmod(0o755)
    monkeypatch.setattr(common, "KERNELS", program)
    probed = {type: {"memory": 2e10, "product": 1e10, "product_columns": 5e10} for type in kernels.formats()}
    figures = {"avx2": {**kernels.measured("avx2"), "all_threads": probed}}
    first, second = kernels.table(figures)
    assert first["what"] == "avx2 Q8_0" and "10.0 of 20.0 GB/s (50 %)" in first["text"] and "(50 % of the peak)" in first["text"]
    assert second["what"] == "avx2 attention, 64 rows"
    assert [c["series"] for c in kernels.charts("avx2", figures["avx2"])] == [
        {"one thread": [0.877], "all threads": [0.5]},
        {"1 columns": [0.511], "4 columns": [0.364], "16 columns": [0.449], "64 columns": [0.504]},
    ]


def test_a_peak_is_measured_where_the_program_is(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "KERNELS", tmp_path / "none")
    assert common.peak(2) == {}


def test_attention_is_timed_behind_copied_contexts(tmp_path):
    from tools import make_gguf

    [path] = make_gguf.write(tmp_path / "m.gguf", shape="tiny", type="Q8_0", ctx=8192)
    options = {**MAPPED, "n_ctx": 4096, "depths": [0, 1024, 3072], "new": 3, "chunk": 16}
    found = {f"m {kind}": common.worker("attention", path, kv_dtype=kind, **options) for kind in attention.KINDS}
    depths = found["m f16"]["depths"]
    assert depths["3072"]["bytes"] == 3 * depths["1024"]["bytes"]
    assert found["m q8_0"]["depths"]["3072"]["bytes"] < 0.6 * depths["3072"]["bytes"]
    for run in found.values():
        for depth in run["depths"].values():
            depth["decode_s"] += depth["bytes"] * 1e-9            # so small a model's attention may be lost in the noise
    figures = {name: attention.figures_of(name, [common.Round(found)]) for name in found}
    assert all(len(attention.table(name, f)) == 4 for name, f in figures.items())


def test_a_start_is_timed_from_import_to_token_and_from_the_command_line(tmp_path):
    options = argparse.Namespace(threads=2, vocabulary=[DEMO], peer_python=None)
    turns = start.contenders(DEMO, str(tmp_path), options)
    rounds = [common.Round({name: run() for name, run in turns.items()})]
    figures = start.figures_of(rounds, [DEMO])
    assert min(figures[name]["median"] for name in ("open_s", "first_s", "command_s")) > 0
    assert figures["limit_s"]["median"] == start.PASSES * figures["pass_s"]["median"] + start.REST_S
    assert [r["what"] for r in start.table(figures)][-1] == "tokenizer of demo-q8_0, 4096 tokens"
    assert list(tmp_path.rglob("auto_model*.pyc"))  # compiled, as an installed package is


def test_the_program_for_airllm_times_airpys_tokens():
    """The same one runs both; airpy is the one that is here."""
    demo = Path(common.__file__).parents[2] / "airpy" / "assets" / "demo-q8_0.gguf"
    found = common.run_json([sys.executable, str(airllm.PROGRAM), "airpy", str(demo), "--new", "4", "--prompt", "3", "--max-ram", "32MiB"])
    assert found["package"].startswith("airpy ") and len(found["ids"]) == 4 and len(found["token_s"]) == 3
    assert all(seconds > 0 for seconds in found["token_s"]) and found["peak_rss"] > MIB


def test_rows_beside_airllm_are_ratios_of_each_round():
    def of(*seconds, ids=(5, 6)):
        return {"token_s": list(seconds), "ids": list(ids)}

    shipped, without = of(9, 9, 30), of(0.4, ids=(5, 7, 8))
    results = {
        "cached: airpy": of(0.1, 0.1), "cached: airpy in 4 bits": of(0.05), "cached: AirLLM as shipped": shipped,
        "cached: AirLLM without collecting": without,
    }  # fmt: skip
    rounds = [common.Round(results)]
    rows = airllm.table("cached", 1900, airllm.figures_of("cached", rounds))
    assert [r["met"] for r in rows] == [None, True, False, False, None] and rows[4]["text"] == "0.05 s a token (one round)"
    assert rows[3]["text"] == "3 of 4 are AirLLM's"
    assert rows[1]["text"].startswith("90.0 × as quick as its 9.00 s a token")
