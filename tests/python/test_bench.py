"""What the benchmarks stand on: turns, summaries, memory groups, the table."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import attention, batch, cgroup, common, prefill, start, table  # noqa: E402

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


def test_the_table_stands_between_its_markers(tmp_path, monkeypatch):
    result = {
        "command": "python -m tests.bench.x", "taken": "2026-01-01T00:00:00", "commit": "abc", "models": {"m.gguf": 2 * 10**9},
        "machine": {"cpu": "C", "threads": 2, "tier": "avx2", "memory_bytes": 8 << 30, "read_ahead_kb": 128}, "rounds": [{}],
        "settings": {"group_bytes": 10**9}, "other_cores": common.summary([0.05]),
        "rows": [common.row("speed", "1 | 2", "≥ 1", True), common.row("share", "3", "≥ 4", False)],
    }  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(result))
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["table", "--write", str(page)])
    assert table.main() == 0
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n") and text.endswith(f"{table.END}\nafter\n") and "old" not in text
    assert "| speed | 1 \\| 2 | ≥ 1 ✓ |\n| share | 3 | ≥ 4 (missed) |" in text
    page.write_text("no markers")
    assert table.main() == 1 and page.read_text() == "no markers"


def test_the_readme_shows_the_results_on_record():
    text = (ROOT / "README.md").read_text()
    assert table.replace(text, table.render(table.RESULTS)) == text, "run python -m tests.bench.table --write README.md"


DEMO = ROOT / "airpy" / "assets" / "demo-q8_0.gguf"
MAPPED = {"io": "mmap", "threads": 2, "n_ctx": 256, "probe_seconds": 0.05}


def test_texts_together_are_timed_for_every_count():
    rounds = [common.Round({"airpy": common.worker("batch", DEMO, texts=batch.COUNTS, prompt=4, new=3, **MAPPED)})]
    figures = batch.figures_of(rounds)
    assert [len(rounds[0].results["airpy"]["texts"][str(n)]["seconds"]) for n in batch.COUNTS] == [3] * len(batch.COUNTS)
    assert figures["airpy"]["1"]["over_one"]["median"] == 1
    assert len(batch.table("demo", figures)) == len(batch.COUNTS)


def test_a_prompt_is_timed_in_one_pass():
    found = common.worker("prefill", DEMO, prompt=48, times=2, **MAPPED)
    figures = prefill.figures_of("demo", [common.Round({"demo": found})])
    assert len(found["prompt"]["seconds"]) == 2 and figures["tokens"] == 48
    assert "a prompt of 48" in prefill.table("demo", figures)[0]["what"]


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
    assert 0 < figures["open_s"]["median"] < figures["first_s"]["median"] < figures["command_s"]["median"]
    assert figures["limit_s"]["median"] == start.PASSES * figures["pass_s"]["median"] + start.REST_S
    assert [r["what"] for r in start.table(figures)][-1] == "tokenizer of demo-q8_0, 4096 tokens"
    assert list(tmp_path.rglob("auto_model*.pyc"))  # compiled, as an installed package is
