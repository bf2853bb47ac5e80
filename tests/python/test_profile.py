"""Profiles: what the timeline of a model says agrees with its statistics, whatever ends it; traces that a viewer can load."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DEMO, RATES, STREAMED, golden, load, load_from

from airpy import Model, Profile, errors

HOSTILE = b"<b>\x1b[2J\"'\xff"  # as long as the demo model's name, "airpy demo"
MIXTURE = {"io": "direct", "max_ram": 8 << 20, "n_ctx": 64}
IDS = [[1, 45, 200, 7, 12, 99, 5, 81]]


def durations(events: np.ndarray) -> np.ndarray:
    return events["end_ns"].astype(np.int64) - events["begin_ns"].astype(np.int64)


def of(profile: Profile, *kinds: str) -> np.ndarray:
    return profile.events[np.isin(profile.events["kind"], [profile.kinds.index(kind) for kind in kinds])]


def check_nested(spans: list[tuple[int, int]]) -> None:
    """Of one thread, sorted by begin, outer ones first: two either do not meet or one is inside of the other."""
    stack: list[int] = []
    for begin, end in spans:
        assert end >= begin
        while stack and stack[-1] <= begin:
            stack.pop()
        assert not stack or end <= stack[-1]
        stack.append(end)


def check_sums(profile: Profile, engine_before: dict[str, Any], engine_after: dict[str, Any]) -> None:
    """Sums over events are what was counted meanwhile."""
    reads, stalls, passes = of(profile, "read", "expert", "row"), of(profile, "stall"), of(profile, "pass")
    assert profile.dropped == 0
    assert reads["bytes"].sum() == profile.disk_bytes
    assert durations(reads).sum() == round(profile.read_s * 1e9)
    assert durations(stalls).sum() == round(profile.stall_s * 1e9)
    assert passes.size == engine_after["passes"] - engine_before["passes"]
    assert durations(passes).sum() == engine_after["pass_ns"] - engine_before["pass_ns"]
    # Reads go on between passes, so what was counted around the profile is more.
    assert 0 < profile.disk_bytes <= engine_after["pager_disk_bytes"] - engine_before["pager_disk_bytes"]
    assert round(profile.stall_s * 1e9) <= engine_after["pager_stall_ns"] - engine_before["pager_stall_ns"]
    for lane in profile.lanes:
        mine = profile.events[profile.events["lane"] == lane]
        check_nested(list(zip(mine["begin_ns"].tolist(), mine["end_ns"].tolist(), strict=True)))
    rows = profile.table()
    assert [row["layer"] for row in rows] == [*range(len(rows) - 1), None]
    assert sum(row["read_bytes"] for row in rows) == profile.disk_bytes
    assert sum(row["stall_ms"] for row in rows) == pytest.approx(1e3 * profile.stall_s)
    wall = sum(row["wall_ms"] for row in rows)
    assert 0.2 * 1e3 * profile.pass_s < wall <= 1e3 * profile.pass_s
    assert wall == pytest.approx(sum(row["compute_ms"] + row["stall_ms"] for row in rows), rel=0.01)


@pytest.mark.parametrize("threads", [1, 3])
def test_sums_over_a_timeline_are_those_of_the_statistics(threads):
    with load(**STREAMED, threads=threads) as model:
        before = model._engine.stats()
        with model.profile() as profile:
            model.generate(**model.tokenizer("It is a truth", return_tensors="np"), max_new_tokens=12)
        after = model._engine.stats()
    check_sums(profile, before, after)
    assert set(of(profile, "products")["lane"]) == set(range(threads))  # every thread has its part
    assert {"passes, compute 0", "layers", "reads 1"} <= set(profile.lanes.values())
    names = {profile.weights[weight] for weight in set(of(profile, "read")["weight"].tolist())}
    assert any(name.startswith("blk.") for name in names) and all(name.endswith(".weight") for name in names)
    assert set(of(profile, "sample")["number"]) == {1} and of(profile, "sample").size == 12
    assert sorted(of(profile, "layer")["layer"].tolist()) == sorted([*range(6), -1, -1] * 12)  # -1: before the first, and behind the last


def test_reads_of_experts_are_in_it():
    with load(golden("qwen3moe"), **MIXTURE) as model:
        before = model._engine.stats()
        with model.profile() as profile:
            model(IDS)
        after = model._engine.stats()
    check_sums(profile, before, after)
    experts, parts = of(profile, "expert"), of(profile, "experts")
    assert experts.size and parts.size and set(experts["number"]) > {0}
    assert {profile.weights[weight].split(".")[2] for weight in experts["weight"]} == {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    assert profile.by_kind()["experts"] > 0


def test_a_timeline_changes_no_token_and_ends():
    with load() as model:
        inputs = model.tokenizer("It is a truth", return_tensors="np")
        want = model.generate(**inputs, max_new_tokens=20).tolist()
        for _ in range(2):
            with model.profile() as profile:
                assert model.generate(**inputs, max_new_tokens=20).tolist() == want
            assert profile.passes
        size = profile.events.size
        model.generate(**inputs, max_new_tokens=20)
        assert profile.events.size == size and model.tokenizer.spans is None


def test_tokenizing_templates_and_calls_are_in_it():
    with load() as model:
        model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        with model.profile() as profile:
            ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "It is"}], return_tensors="np")
            out = model.generate(ids, max_new_tokens=4)
            model.tokenizer.decode(out[0])
            model(ids)
            "".join(model.stream("It is", max_new_tokens=3))
            with pytest.raises(errors.ArgumentError):
                model.generate(ids, max_new_tokens=0)
    names = [name for name, *_ in profile.spans]
    assert {name: names.count(name) for name in set(names)} == {
        "chat template": 1, "tokenize": 2, "generate": 2, "detokenize": 1, "logits": 1,
    }  # fmt: skip
    check_nested([(begin, end) for _, begin, end, _ in profile.spans])
    begin, end = next((begin, end) for name, begin, end, _ in profile.spans if name == "generate")
    inside = [p for p in of(profile, "pass").tolist() if begin <= p[0] and p[1] <= end]
    assert len(inside) == 4  # Python's clock is the engine's


def test_what_there_is_no_room_for_is_counted(tmp_path):
    with load() as model:
        with model.profile(max_events=1024) as profile:
            model.generate(**model.tokenizer("It is a truth", return_tensors="np"), max_new_tokens=200)
        assert profile.dropped > 0 and 0 < profile.events.size <= 1024
        assert f"{profile.dropped} events dropped" in str(profile)
        profile.save(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["dropped"] == str(profile.dropped)


class Stop(Exception):
    pass


def test_what_a_call_that_is_interrupted_did_is_in_it():
    def stop(layers_done, n_layers, passes_done, n_passes):
        if layers_done:
            raise Stop

    with load_from("rate=2000000") as model:
        model._progress = stop
        with pytest.raises(Stop), model.profile() as profile:
            model.generate(IDS, max_new_tokens=50)
        assert of(profile, "read").size and of(profile, "pass").size == 1 and of(profile, "sample").size == 0
        assert of(profile, "read", "row")["bytes"].sum() == profile.disk_bytes
        model._progress = False
        with model.profile() as profile:
            model.generate(IDS, max_new_tokens=1)
        assert of(profile, "sample").size == 1


def test_a_failed_read_brought_nothing():
    with load_from("fail_at=40", n_ctx=64) as model, model.profile() as profile:
        with pytest.raises(errors.FileIOError):
            for _ in range(50):
                model.generate(IDS, max_new_tokens=2)
                model.forget()
        profile.end()
        reads = of(profile, "read", "row")
        assert reads["bytes"].sum() == profile.disk_bytes and reads["bytes"].min() == 0


def test_a_model_has_one_profile_at_a_time_and_a_profile_one_life(tmp_path):
    with load() as model:
        with model.profile() as profile:
            with pytest.raises(errors.StateError, match="end it before another"):
                model.profile().__enter__()
            with pytest.raises(errors.StateError, match="not taken yet"):
                profile.save("/dev/null")
            assert "being taken" in repr(profile) == str(profile) and "being taken" in profile._repr_html_()
        with pytest.raises(errors.StateError, match="taken once"):
            profile.__enter__()
        with model.profile() as again:
            pass
        assert again.events.size == 0 and again.passes == 0 and again.table()[0]["wall_ms"] == 0 and "0 passes" in str(again)
        again.save(tmp_path / "nothing.json")
        assert [event["ph"] for event in json.loads((tmp_path / "nothing.json").read_text())["traceEvents"]] == ["M"]
        with load() as other, model.profile() as one, other.profile() as two:
            other.generate(IDS, max_new_tokens=2)
        assert one.passes == 0 and two.passes == 2


@pytest.mark.parametrize("many", [0, -1, 1.5, "many", True, 1 << 29])
def test_an_absurd_number_of_events_is_refused(many):
    with load() as model, pytest.raises(errors.ArgumentError, match="max_events"):
        model.profile(max_events=many)


def test_its_memory_is_a_part_of_max_ram():
    with load(**STREAMED) as model:
        model.generate(IDS, max_new_tokens=2)
        before = model._engine.stats()
        with pytest.raises(errors.BudgetError, match="give it fewer events"):
            model.profile(max_events=1 << 17).__enter__()
        with model.profile(max_events=8192):
            model.generate(IDS, max_new_tokens=2)
            during = model._engine.stats()
        assert during["held_by"]["timeline"] == 8192 * 40 and during["held"] <= during["budget"]
        assert during["pager_pin_target"] < before["pager_pin_target"]  # weights have given way
        model.forget()
        model.generate(IDS, max_new_tokens=2)
        after = model._engine.stats()
        assert after["held_by"]["timeline"] == 0 and after["pager_pin_target"] == before["pager_pin_target"]


def test_closing_the_model_ends_its_profile():
    model = load(**STREAMED)
    with model.profile() as profile:
        model.generate(IDS, max_new_tokens=2)
        model.close()
        assert profile.passes == 2 and profile.dropped == 0
    with pytest.raises(errors.StateError):
        model.profile().__enter__()
    assert profile.table()[0]["wall_ms"] > 0


def test_a_profile_ends_while_another_thread_generates():
    with load(**STREAMED) as model:
        stop = threading.Event()

        def work():
            while not stop.is_set():
                model.generate(IDS, max_new_tokens=4)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(5):
                with model.profile() as profile:
                    seen = model._engine.stats()["passes"]
                    while thread.is_alive() and model._engine.stats()["passes"] < seen + 5:
                        time.sleep(0.001)
                assert thread.is_alive()  # no call of it has failed
                assert of(profile, "read", "row")["bytes"].sum() == profile.disk_bytes
                assert durations(of(profile, "stall")).sum() == round(profile.stall_s * 1e9)
                assert profile.passes >= 4 and (durations(profile.events) >= 0).all()
        finally:
            stop.set()
            thread.join()


def test_pages_show_where_weights_lie():
    with load(**STREAMED) as model:
        homes, pages = model.plan.homes, [model._repr_html_(), model.plan._repr_html_()]
        assert set(homes) == {"RAM", "disk"} and min(homes.values()) > 0
        assert sum(homes.values()) == model.plan["weight_bytes"]
        for page in pages:
            assert 'title="RAM"' in page and 'title="disk"' in page and "<script" not in page
            colours = set(re.findall(r"[^-]color:([^;\"]+)", page))
            assert colours == {"inherit"}  # of text: a dark page's is light
        with model.profile() as profile:
            model.generate(IDS, max_new_tokens=2)
        page = profile._repr_html_()
        assert page.count("<tr>") == 8 and page.count('title="stalled"') >= 1
    assert ", closed" in model._repr_html_()
    with load() as mapped:
        assert mapped.plan.homes == {"page cache": mapped.plan["weight_bytes"]}
    with load(golden("qwen3moe"), **MIXTURE) as mixture:
        assert sum(mixture.plan.homes.values()) == mixture.plan["weight_bytes"] + mixture.plan["expert_weight_bytes"]


# ---- the trace -------------------------------------------------------------------------------------------------------------------


def check_trace(path: Path) -> dict[str, Any]:
    """As the format says: docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU."""
    trace = json.loads(path.read_text(encoding="utf-8"))
    assert set(trace) == {"displayTimeUnit", "traceEvents", "otherData"} and trace["displayTimeUnit"] == "ms"
    named, used = {}, set()
    for event in trace["traceEvents"]:
        assert event["pid"] == 1 and isinstance(event["tid"], int) and isinstance(event["name"], str) and isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            if event["name"] == "thread_name":
                named[event["tid"]] = event["args"]["name"]
            continue
        assert event["ph"] == "X" and event["ts"] >= 0 and event["dur"] >= 0 and isinstance(event["cat"], str) and event["name"]
        used.add(event["tid"])
    assert used <= set(named) and len(set(named.values())) == len(named)
    return trace


def test_a_trace_has_threads_names_and_bytes(tmp_path):
    with load(**STREAMED) as model:
        with model.profile() as profile:
            model.generate(**model.tokenizer("It is a truth", return_tensors="np"), max_new_tokens=3)
        profile.save(tmp_path / "trace.json")
        with pytest.raises(errors.FileIOError):
            profile.save(tmp_path / "nowhere" / "trace.json")
    events = check_trace(tmp_path / "trace.json")["traceEvents"]
    reads = [event for event in events if event["ph"] == "X" and event["cat"] in ("read", "row")]
    assert sum(event["args"]["bytes"] for event in reads) == profile.disk_bytes
    layers = [event for event in reads if event["name"].startswith("read blk.")]
    assert layers and all(event["name"] == f"read blk.{event['args']['layer']}.{event['args']['weight'][6:]}" for event in layers)
    names = {event["name"] for event in events}
    assert {"layer 5", "layer: embedding, output", "pass of 1", "sample of 1", "tokenize", "generate"} <= names
    assert len([event for event in events if event["ph"] == "X"]) == profile.events.size + len(profile.spans)


def test_a_hostile_name_is_text_everywhere(tmp_path):
    data = DEMO.read_bytes()
    assert data.count(b"airpy demo") == 1
    (tmp_path / "hostile.gguf").write_bytes(data.replace(b"airpy demo", HOSTILE))
    with load(tmp_path / "hostile.gguf", **STREAMED) as model:
        with model.profile() as profile:
            model.generate(IDS, max_new_tokens=2)
        profile.save(tmp_path / "trace.json")
        pages = [profile._repr_html_(), model._repr_html_(), model.plan._repr_html_()]
    trace = check_trace(tmp_path / "trace.json")
    assert trace["traceEvents"][0]["args"]["name"].startswith("airpy: <b>\\x1b[2J\"'")
    for page in pages:
        assert "&lt;b&gt;" in page and "<b>" not in page and "\x1b" not in page and "\\x1b[2J&quot;&#x27;" in page
        page.encode()  # no lone surrogate is left
    assert "\x1b" not in str(profile) + repr(profile)


# ---- the command -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def given_bandwidths(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(RATES))
    monkeypatch.setenv("AIRPY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "command",
    [
        ("generate", DEMO, "-p", "The LORD", "-n", "4", "--json"),
        ("perplexity", DEMO, "text.txt", "--ctx", "32", "--chunks", "2", "--json"),
        ("bench", DEMO, "--prompt-tokens", "16", "--tokens", "4", "--json"),
        ("chat", "chat.gguf", "-n", "4", "--json"),
    ],
    ids=lambda command: command[0],
)
def test_commands_write_a_trace(airpy, given_bandwidths, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("It is a truth universally acknowledged. " * 20)
    if command[0] == "chat":
        import io
        import sys

        from airpy.cli import chat

        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
        monkeypatch.setattr(chat, "find_template", lambda chosen, known: "{% for m in messages %}{{ m.content }}{% endfor %}")
        command = ("chat", DEMO, *command[2:])
    code, out, err = airpy(*command, "--trace", "out.json")
    assert code == 0 and out and err == ""
    trace = check_trace(tmp_path / "out.json")
    assert {"pass", "layer", "products"} <= {event.get("cat") for event in trace["traceEvents"]}


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_computed(airpy, given_bandwidths, tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "generate", lambda *args, **kwargs: pytest.fail("it went on"))
    monkeypatch.setattr(Model, "stream", lambda *args, **kwargs: pytest.fail("it went on"))
    code, out, err = airpy("generate", DEMO, "-p", "The", "--trace", tmp_path / "nowhere" / "out.json")
    assert code != 0 and out == "" and err.count("\n") == 1 and "nowhere" in err


def test_a_command_that_is_interrupted_leaves_its_trace(airpy, given_bandwidths, tmp_path, monkeypatch):
    from airpy.cli import generate

    def interrupted(model, prompt, arguments, *, show):
        model.generate(IDS, max_new_tokens=2)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generate, "generate_text", interrupted)
    try:
        code, _, _ = airpy("generate", DEMO, "-p", "The", "--trace", tmp_path / "out.json")
        assert code != 0
    except KeyboardInterrupt:
        pass
    assert any(event["name"] == "pass of 1" for event in check_trace(tmp_path / "out.json")["traceEvents"])
