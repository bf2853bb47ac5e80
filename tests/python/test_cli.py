"""The command line: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from models import DEMO, RATES, golden, load
from test_extending import write_gguf

from airpy import Model, Plan, _core, errors
from airpy.cli import chat

STATS = {"pass_ms", "tok_s", "bytes_disk_per_token", "bytes_ram_per_token", "peak_ram", "budget", "predicted_tok_s",
         "achieved_over_predicted", "stall_ms"}  # fmt: skip
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(autouse=True)
def given_bandwidths(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(RATES))
    monkeypatch.setenv("AIRPY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """The demo model with a chat template."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(DEMO)
    path = tmp_path_factory.mktemp("chat") / "chat.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_chat_template(TEMPLATE)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- generate, demo --------------------------------------------------------------------------------------------------------------


def test_generate_prints_one_object(airpy):
    code, out, err = airpy("generate", DEMO, "-p", "The LORD", "-n", "8", "--temp", "0", "--json")
    answer = json.loads(out)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert set(answer) == {"text", "ids", "prompt_tokens", "new_tokens", "stats"} and set(answer["stats"]) >= STATS
    with load() as model:
        ids = model.tokenizer.encode("The LORD")
        want = model.generate([ids], max_new_tokens=8)[0, len(ids) :].tolist()
        assert answer["ids"] == want and answer["text"] == model.tokenizer.decode(want)
    assert answer["prompt_tokens"] == len(ids) and answer["new_tokens"] == 8


def test_generate_prints_text_and_figures_where_asked(airpy):
    code, out, err = airpy("generate", DEMO, "-p", "The LORD", "-n", "8", "--stats", "--max-ram", "6MiB")
    assert code == 0 and out.endswith("\n") and len(out) > 10
    assert err.count("\n") == 1 and "tokens/s" in err and "of 6.0 MiB" in err


def test_options_reach_the_model(airpy):
    how = ("--temp", "1.2", "--top-k", "30", "--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1", "--seed", "5")
    first = airpy("generate", DEMO, "-p", "The LORD", "-n", "12", *how, "--threads", "1", "--io", "mmap", "--json")
    again = airpy("generate", DEMO, "-p", "The LORD", "-n", "12", *how, "--io", "direct", "--max-ram", "6.5MB", "--json")
    first, again = json.loads(first[1]), json.loads(again[1])
    assert first["ids"] == again["ids"]
    assert again["stats"]["budget"] == 6_500_000 and again["stats"]["bytes_disk_per_token"] > 0
    stopped = json.loads(airpy("generate", DEMO, "-p", "The LORD", "-n", "12", *how, "--stop", first["text"][5:9], "--json")[1])
    assert stopped["text"] == first["text"][: first["text"].index(first["text"][5:9])]


def test_the_prompt_may_come_from_a_file_or_a_pipe(airpy, tmp_path, monkeypatch):
    want = json.loads(airpy("generate", DEMO, "-p", "The LORD", "-n", "4", "--json")[1])["ids"]
    (tmp_path / "prompt.txt").write_text("The LORD")
    assert json.loads(airpy("generate", DEMO, "-f", tmp_path / "prompt.txt", "-n", "4", "--json")[1])["ids"] == want
    monkeypatch.setattr(sys, "stdin", io.StringIO("The LORD"))
    assert json.loads(airpy("generate", DEMO, "-n", "4", "--json")[1])["ids"] == want


def test_the_demo_streams_under_a_budget_smaller_than_its_weights(airpy):
    code, out, err = airpy("demo", "-n", "12")
    assert code == 0 and err == ""
    for word in ("stays", "streams", "bound by", "It is a truth universally acknowledged", "tokens/s", "from disk", "peak memory",
                 "between them", "passes at", "% of the predicted speed"):  # fmt: skip
        assert word in out, word
    figures = out.splitlines()[-1]
    assert re.match(r"12 tokens at [0-9.]+ tokens/s, passes of ", figures) and figures.count("tokens/s") == 1  # by the clock, and no other


@pytest.mark.parametrize(
    ("depth", "tokenizer"),  # what Python needs for it: versions differ
    [*((depth, 2 << 20) for depth in (1, 2, 4, 8, 16, 64)), (4, 0), (1, 3 << 20), (64, 3 << 20)],
)
def test_the_demo_streams_whatever_was_probed(airpy, monkeypatch, depth, tokenizer):
    rates = {**RATES, "disk": 1.58e9, "block_bytes": 1 << 18, "depth": depth, "latency_s": 1e-4}
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(rates))
    monkeypatch.setattr("airpy.tokenizer.build.memory_bytes", lambda _: tokenizer)
    answer = json.loads(airpy("demo", "-n", "12", "--json")[1])
    assert set(answer) == {"text", "ids", "prompt_tokens", "new_tokens", "stats", "plan"}
    plan = answer["plan"]["plan"]
    assert plan["budget"] < plan["weight_bytes"] and plan["fixed"] >= tokenizer
    assert answer["stats"]["bytes_disk_per_token"] > 0.4 * plan["weight_bytes"]
    assert 192 <= plan["n_ctx"] < 512 if tokenizer == 3 << 20 else plan["n_ctx"] == 512


def test_the_demo_shortens_its_context_before_it_takes_more_than_its_weights(airpy, monkeypatch):
    monkeypatch.setattr("airpy.tokenizer.build.memory_bytes", lambda _: 3 << 20)  # with a context of 512 more than fits
    code, out, _ = airpy("demo", "-n", "280")
    context = int(re.search(r"context (\d+)", out)[1])
    assert code == 0 and 300 <= context < 512 and re.match(r"5.8 MiB of weights in 5\.\d MiB of RAM, the tokenizer included\n", out)


def test_the_demo_streams_even_where_the_tokenizer_alone_takes_more_than_the_weights(airpy, monkeypatch):
    monkeypatch.setattr("airpy.tokenizer.build.memory_bytes", lambda _: 7 << 20)
    code, out, _ = airpy("demo", "-n", "12")
    line = r"5.8 MiB of weights in ([\d.]+) MiB of RAM, of which the tokenizer takes 7.\d MiB and a context of 512 tokens 1.5 MiB; "
    said = re.match(line + r"([\d.]+) MiB of weights are streamed\n", out)
    assert code == 0 and float(said[1]) > 7 and float(said[2]) > 0.4 * 5.8


def test_the_demo_says_where_nothing_streams(airpy):
    for options in (("--max-ram", "64MiB"), ("--io", "mmap", "--max-ram", "64MiB")):
        out = airpy("demo", "-n", "3", *options)[1]
        assert out.startswith("5.8 MiB of weights, all of them in memory: up to 64.0 MiB of RAM may be used\n")


@pytest.mark.parametrize("options", [("-p", ""), ("-n", "700")])
def test_the_demo_says_what_is_wrong_before_anything_else(airpy, options):
    code, out, err = airpy("demo", *options)
    assert code == 1 and out == "" and err.count("\n") == 1 and "-f" not in err


# ---- plan, inspect, tokenize, bench ----------------------------------------------------------------------------------------------


def test_plan_prints_saves_and_is_taken_back(airpy, tmp_path):
    code, out, _ = airpy("plan", DEMO, "--max-ram", "6MiB", "--io", "direct", "--save", tmp_path / "plan.json")
    assert code == 0 and "what streams now" in out
    data = json.loads(airpy("plan", DEMO, "--max-ram", "6MiB", "--io", "direct", "--json")[1])
    assert data["format"] == "airpy plan 5" and data["plan"]["budget"] == 6 << 20 and data["predicted_tok_s"] > 0
    code, out, _ = airpy("generate", DEMO, "--plan", tmp_path / "plan.json", "-p", "x", "-n", "2", "--json")
    assert code == 0 and json.loads(out)["stats"]["budget"] == 6 << 20
    code, _, err = airpy("generate", golden("llama"), "--plan", tmp_path / "plan.json", "-p", "x")
    assert code == 1 and err.count("\n") == 1 and "other tensors" in err


def test_inspect_reads_any_header(airpy):
    code, out, _ = airpy("inspect", DEMO, "--tensors")
    assert (
        code == 0
        and "supported" in out
        and "tokenizer.ggml.tokens" in out
        and "4096 values" in out
        and "blk.5.ffn_down.weight" in out
    )
    facts = json.loads(airpy("inspect", DEMO, "--json")[1])
    assert facts["architecture"] == "llama" and facts["supported"] and facts["tensor_count"] == 56 and "tensors" not in facts
    assert len(json.loads(airpy("inspect", DEMO, "--json", "--tensors")[1])["tensors"]) == 56
    assert facts["bytes"] == DEMO.stat().st_size and facts["metadata"]["llama.block_count"] == 6


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eback\r\n"


def test_no_text_of_a_file_commands_the_terminal(airpy, tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    keys = {"general.architecture": f"a{HOSTILE}", "tokenizer.ggml.model": HOSTILE, f"key{HOSTILE}": 1.0}
    write_gguf(path, keys, {f"blk{HOSTILE}": ((32,), 0, bytes(128))})
    code, out, _ = airpy("inspect", path, "--tensors")
    assert code == 0 and "architecture a\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202eback\\r\\n: not supported" in out
    plan = Plan.of(json.loads(airpy("plan", DEMO, "--json")[1])).to_dict()
    plan["model"] |= {"name": HOSTILE, "arch": HOSTILE}
    plan["plan"]["weights"].append([HOSTILE, HOSTILE, 1, 1, 1, 0])
    refused = airpy("plan", path)
    said = talk(airpy, monkeypatch, DEMO, ["x"], "--template", "{{ raise_exception('" + HOSTILE.strip() + "') }}")
    assert refused[0] == said[0] == 1 and "\\x1b]0;title" in refused[2] and "\\x1b]0;title" in said[2]
    for seen in (out, refused[2], said[2], str(Plan(plan)), repr(Plan(plan))):
        assert all(c.isprintable() or c == "\n" for c in seen), seen
    assert airpy("inspect", tmp_path / HOSTILE.strip())[2].rstrip("\n").isprintable()


def test_json_has_no_infinity(airpy, tmp_path):
    values = {"inf": math.inf, "minus": -math.inf, "nan": math.nan, "one": 1.0}
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "x", **values}, {"t": ((32,), 0, bytes(128))})
    code, out, _ = airpy("inspect", tmp_path / "m.gguf", "--json")
    facts = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0 and [facts["metadata"][name] for name in values] == ["inf", "-inf", "nan", 1.0]


def test_tokenize_prints_ids_and_pieces(airpy, monkeypatch):
    with load() as model:
        ids = model.tokenizer.encode("Hello wörld")
    answer = json.loads(airpy("tokenize", DEMO, "-p", "Hello wörld", "--json")[1])
    assert answer["ids"] == ids and len(answer["pieces"]) == len(ids)
    assert json.loads(airpy("tokenize", DEMO, "--no-special", "-p", "Hello wörld", "--json")[1])["ids"] == ids
    code, out, _ = airpy("tokenize", DEMO, "-p", "Hello")
    assert code == 0 and "'ell'" in out


def test_bench_prints_rows(airpy, monkeypatch):
    code, out, _ = airpy("bench", DEMO, "--json", "--tokens", "4", "--prompt-tokens", "32", "--max-ram", "9MiB", "--io", "direct")
    rows = json.loads(out)
    assert code == 0 and [row["test"] for row in rows] == ["prefill", "decode", "batch"]
    for row in rows:
        assert {"test", "tokens", "tok_s", "gb_s", "probe_gb_s", "predicted_tok_s"} <= set(row)
        assert row["tok_s"] > 0 and row["gb_s"] > 0 and row["probe_gb_s"] > 0
    assert [row["tokens"] for row in rows] == [32, 3, 24]
    code, out, _ = airpy("bench", DEMO, "--tokens", "3", "--prompt-tokens", "8")
    assert code == 0 and "prefill" in out and "io mmap" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--prompt-tokens", "100000"),
            "a prompt of 100000 and 2 new tokens exceed the context of 512 that the model was trained for; lower --prompt-tokens 100000\n",
        ),
        (("--tokens", "600"), "600 new tokens exceed the context of 512 that the model was trained for; lower --tokens 600\n"),
        (("--tokens", "100", "--n-ctx", "100"), "the context of 100; lower --tokens 100, or give a larger --n-ctx, up to 512\n"),
        (("--n-ctx", "2"), "a prompt of 1 and 2 new tokens exceed the context of 2; give a larger --n-ctx, up to 512\n"),
    ],
)
def test_bench_measures_what_it_was_asked_for_or_says_why_not(airpy, options, message):
    code, out, err = airpy("bench", DEMO, *options)
    assert code == 1 and out == "" and err.count("\n") == 1 and message in err


def test_bench_takes_what_a_short_context_has_room_for(airpy):
    rows = json.loads(airpy("bench", DEMO, "--n-ctx", "48", "--json")[1])
    assert [row["tokens"] for row in rows[:2]] == [24, 23]
    rows = json.loads(airpy("bench", DEMO, "--n-ctx", "3", "--json")[1])
    assert [row["tokens"] for row in rows] == [1, 1, 8] and not any(row["reason"] for row in rows)


def test_bench_says_why_a_batch_is_not_there(airpy, monkeypatch):
    run = Model._run_in_budget

    def one_fits(model, items, *rest):
        if len(items) > 1:
            raise errors.BudgetError("max_ram 6.0 MiB is too small by 2.5 MiB")
        return run(model, items, *rest)

    monkeypatch.setattr(Model, "_run_in_budget", one_fits)
    options = ("bench", DEMO, "--tokens", "3", "--prompt-tokens", "8")
    last = json.loads(airpy(*options, "--json")[1])[-1]
    assert last.pop("test") == "batch" and last.pop("reason").startswith("max_ram 6.0 MiB is too small by 2.5 MiB; raise max_ram to ")
    assert "tok_s" in last and set(last.values()) == {None}
    code, out, _ = airpy(*options)
    assert code == 0 and "\nbatch    not measured: max_ram 6.0 MiB is too small by 2.5 MiB; raise max_ram to" in out


def test_bench_probes_in_its_own_run(airpy, monkeypatch):
    monkeypatch.delenv("AIRPY_BANDWIDTHS")
    probed = []
    real = _core.probe_disk
    monkeypatch.setattr("airpy.calibration.probe_disk", lambda path: probed.append(path) or real(path, 0.05))
    for _ in range(2):
        assert airpy("bench", DEMO, "--json", "--tokens", "2", "--prompt-tokens", "4")[0] == 0
    assert len(probed) == 2


def test_plan_probes_once_and_when_told_to(airpy, monkeypatch):
    monkeypatch.delenv("AIRPY_BANDWIDTHS")
    probed = []
    real = _core.probe_disk
    monkeypatch.setattr("airpy.calibration.probe_disk", lambda path: probed.append(path) or real(path, 0.05))
    for options, so_far in (((), 1), ((), 1), (("--probe",), 2), ((), 2)):
        assert airpy("plan", DEMO, *options)[0] == 0
        assert len(probed) == so_far


# ---- chat ------------------------------------------------------------------------------------------------------------------------


def talk(airpy, monkeypatch, path, lines, *options):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return airpy("chat", path, "-n", "10", "--temp", "0", *options)


def test_chat_answers_lines_and_never_reads_its_history_again(airpy, monkeypatch, chat_model):
    code, out, err = talk(airpy, monkeypatch, chat_model, ["Who art thou?", "", "And he?"], "--json", "--system", "Be brief.")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == "" and len(answers) == 2
    assert all(answer["role"] == "assistant" and answer["content"] for answer in answers)
    first, second = answers
    assert second["stats"]["reused_tokens"] == first["prompt_tokens"] + first["new_tokens"] - 1
    assert second["prompt_tokens"] > first["prompt_tokens"] + first["new_tokens"]


def test_chat_forgets_on_reset_and_ends_on_exit(airpy, monkeypatch, chat_model):
    _, out, _ = talk(airpy, monkeypatch, chat_model, ["Who?", "/reset", "Who?", "/exit", "Never"], "--json")
    answers = [json.loads(line)["content"] for line in out.splitlines()]
    assert len(answers) == 2 and answers[0] == answers[1]
    code, out, _ = talk(airpy, monkeypatch, chat_model, ["Who?"])
    assert code == 0 and out == answers[0] + "\n"


def test_a_chat_in_json_is_json_alone(airpy, monkeypatch, chat_model):
    _, out, err = talk(airpy, monkeypatch, chat_model, ["/help", "Who?"], "--json")
    assert [json.loads(line)["role"] for line in out.splitlines()] == ["assistant"] and "/reset forgets" in err
    assert "/reset forgets" in talk(airpy, monkeypatch, chat_model, ["/help"])[1]


def test_help_says_what_json_there_is(airpy):
    for command, what in (("bench", "a JSON array, one object for each test,"), ("chat", "one JSON object for each answer"),
                          ("generate", "one JSON object")):  # fmt: skip
        assert f"print {what} instead of text" in " ".join(airpy(command, "--help")[1].split())


def test_a_conversation_that_grows_too_long_says_so(airpy, monkeypatch, chat_model):
    code, out, err = talk(airpy, monkeypatch, chat_model, ["word " * 60, "/reset", "Who?"], "--n-ctx", "64", "--json")
    assert code == 1 and "/reset starts over" in err and len(out.splitlines()) == 1


def test_a_refused_message_or_a_full_budget_is_no_end_of_a_conversation(airpy, monkeypatch):
    refusing = TEMPLATE.replace("<{{", "{% if m.content == 'bad' %}{{ raise_exception('not that') }}{% endif %}<{{")
    stream, calls = Model.stream, []

    def second_is_too_much(model, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise errors.BudgetError("max_ram is too small")
        return stream(model, *arguments, **options)

    monkeypatch.setattr(Model, "stream", second_is_too_much)
    code, out, err = talk(airpy, monkeypatch, DEMO, ["Who?", "bad", "How?", "And he?"], "--json", "--template", refusing)
    first, last = map(json.loads, out.splitlines())
    assert code == 1 and err == "airpy: not that; /reset starts over\nairpy: max_ram is too small; /reset starts over\n"
    assert last["stats"]["reused_tokens"] == first["prompt_tokens"] + first["new_tokens"] - 1


def test_chat_without_a_template_says_what_to_do(airpy, monkeypatch):
    code, _, err = talk(airpy, monkeypatch, DEMO, ["Hello"])
    assert code == 1 and "--template" in err and err.count("\n") == 1
    assert talk(airpy, monkeypatch, DEMO, ["Hello"], "--template", TEMPLATE)[0] == 0


def test_a_template_is_one_of_the_models_or_a_file_or_a_text_that_is_one(airpy, monkeypatch, chat_model, tmp_path):
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    (tmp_path / "notes.txt").write_text("Hello.")
    said = [talk(airpy, monkeypatch, chat_model, ["Who?"], "--template", t) for t in ("default", tmp_path / "chat.jinja", TEMPLATE)]
    assert said[0][0] == 0 and said[0] == said[1] == said[2]
    for model, name, message in (
        (chat_model, "defualt", "--template 'defualt': none of the model's (default), no file, and no Jinja template, which has {{ or {%"),
        (DEMO, "default", "--template 'default': the model has none, no file, and no"),
        (DEMO, tmp_path / "notes.txt", "is a file without a Jinja template"),
    ):
        code, out, err = talk(airpy, monkeypatch, model, ["Who?"], "--template", name)
        assert code == 1 and out == "" and err.count("\n") == 1 and message in err


def _terminal_chat(command):
    """One conversation in a pseudo-terminal: how far it came, its exit status and what was seen. Never longer than 40 s."""
    import pty
    import select
    import signal
    import time

    pid, fd = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command)
    seen, sent, deadline = b"", 0, time.monotonic() + 40
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            seen += os.read(fd, 4096)
        except OSError:  # the other end is closed
            break
        if sent == 0 and seen.endswith(b"> "):
            os.write(fd, b"Who art thou?\n")
            sent = 1
        elif sent == 1 and len(seen.partition(b"thou?\r\n")[2]) > 20:  # of the answer: the line was read and echoed
            os.write(fd, b"\x03")
            sent = 2
        elif sent == 2 and b"(stopped)" in seen and seen.rstrip(b" ").endswith(b">"):
            os.write(fd, b"/exit\n")
            sent = 3
    else:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    return sent, status, seen


def test_chat_in_a_terminal_stops_an_answer_on_ctrl_c(chat_model):
    command = [sys.executable, "-m", "airpy", "chat", str(chat_model), "-n", "400", "--max-ram", "6MiB", "--io", "direct"]
    command += ["--temp", "1.5", "--top-k", "0", "--seed", "3"]  # so wild that it hardly ends by itself
    sent, status, seen = _terminal_chat(command)
    assert (sent, status) == (3, 0), seen


def _interrupted_chat(airpy, monkeypatch, model, at):
    """Two questions at a terminal, with Ctrl-C at the at-th step of chat.py between their prompts. Whether there was such a step, the
    exit code, and what was rendered beside the ids that the model got."""
    lines, rendered, given, steps = iter(["Who?", "And he?", "/exit"]), [], [], 0
    render, stream = chat.Conversation.render, Model.stream

    def trace(frame, event, _):
        nonlocal steps
        if frame.f_code.co_filename != chat.__file__:
            return None
        steps += event in ("line", "return")
        if steps == at:
            raise KeyboardInterrupt  # which ends the tracing too
        return trace

    def read(_):
        line = next(lines)
        sys.settrace(trace if line == "Who?" else None)
        frame = sys._getframe(1)
        while line == "Who?" and frame.f_code.co_filename == chat.__file__:
            frame.f_trace, frame = trace, frame.f_back
        return line

    def seen_render(talk, said):
        rendered.append(render(talk, said))
        return rendered[-1]

    def seen_stream(model, ids, **options):
        given.append(ids)
        return stream(model, ids, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.input", read)
        patch.setattr(sys, "stdin", io.StringIO())
        patch.setattr(sys.stdin, "isatty", lambda: True)
        patch.setattr(chat.Conversation, "render", seen_render)
        patch.setattr(Model, "stream", seen_stream)
        patch.setattr("airpy.cli.common.open_from", lambda _: contextlib.nullcontext(model))
        try:
            code, _, _ = airpy("chat", DEMO, "-n", "2", "--temp", "0", "--template", TEMPLATE)
        finally:
            sys.settrace(None)
    return steps >= at, code, rendered, given


def test_ctrl_c_at_any_moment_of_a_conversation_leaves_it_whole(airpy, monkeypatch):
    with load() as model:
        for at in range(1, 1000):
            hit, code, rendered, given = _interrupted_chat(airpy, monkeypatch, model, at)
            assert code == 0, f"step {at}"
            assert model.tokenizer.decode(given[-1]).strip() == rendered[-1].strip(), f"step {at}"
            if not hit:
                break
    assert at > 30 and len(given) == 2


# ---- exit codes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "generate", "chat", "plan", "inspect", "tokenize", "bench"])
def test_help_teaches_with_examples(airpy, command):
    code, out, _ = airpy(command, "--help")
    assert code == 0 and f"  airpy {command}" in out and "--json" in out
    assert f"airpy {command}" in airpy("--help")[1] or command in airpy("--help")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("generate",),
        ("generate", DEMO, "--max-ram", "lots"),
        ("generate", DEMO, "--max-ram", "9" * 400 + ".0GiB"),
        ("generate", DEMO, "--threads", "0"),
        ("plan", DEMO, "--io", "x"),
        ("plan", DEMO, "--js"),
        ("--vers",),
        ("generate", DEMO, "-p", "x", "--seed", "-1"),
        ("generate", DEMO, "-p", "x", "-n", "few"),
        ("generate", DEMO, "-p", "a", "-f", "b"),
        *(("generate", "nowhere.gguf", "-p", "x", *options) for options in (
            ("--temp", "nan"), ("--temp", "-1"), ("--temp", "hot"), ("--top-p", "3"), ("--top-p", "0"), ("--min-p", "2"), ("--top-k", "-1"),
            ("--top-k", "1.5"), ("--repetition-penalty", "0"), ("--threads", "100000"), ("--stop", ""), ("--n-ctx", "0"),
            ("--top-k", "3"), ("--top-p", "0.5", "--min-p", "0.1"), ("--seed", "7"),
        )),
        ("chat", "nowhere.gguf", "--temp", "0", "--top-k", "3"),
        ("demo", "--temp", "0", "--seed", "7"),
        ("bench", "nowhere.gguf", "--tokens", "1"),
    ],
)
def test_usage_errors_are_2_and_found_before_a_model_is_opened(airpy, arguments):
    code, out, err = airpy(*arguments)
    assert code == 2 and out == "" and "usage: airpy" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "nowhere.gguf", "-p", "x"), "nowhere.gguf"),
        (("generate", DEMO, "-p", "x", "--max-ram", "300KiB"), "raise max_ram"),
        (("generate", DEMO, "-p", "x", "-n", "600"), "512"),
        (("generate", DEMO, "-p", ""), "the prompt is empty, and this model has no token to begin with; give some text, such as -p"),
        (("generate", DEMO, "-f", "nowhere.txt"), "nowhere.txt"),
        (("tokenize", __file__, "-p", "x"), "GGUF"),
        (("plan", DEMO, "--n-ctx", "100000"), "n_ctx"),
        (("plan", DEMO, "--plan", "nowhere.json"), "airpy: nowhere.json: No such file or directory"),
    ],
)
def test_errors_are_1_with_one_line(airpy, arguments, message):
    code, _, err = airpy(*arguments)
    assert code == 1 and err.startswith("airpy: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", DEMO, "-p", "x", "--top-p", "0.5", "--min-p", "0.1"), "--top-p, --min-p do nothing at --temp 0"),
        (("generate", DEMO, "-p", "x", "--seed", "7"), "--seed does nothing at --temp 0, which takes the likeliest token; give a --temp"),
        (("demo", "--temp", "nan"), "argument --temp: temperature is nan; it must be 0 to 1e6"),
        (("demo", "--stop", ""), "argument --stop: an empty text is everywhere; give some"),
        (("demo", "--threads", "100000"), "argument --threads: 100000 is more than 256"),
        (("bench", DEMO, "--tokens", "1"), "give 2 or more"),
    ],
)
def test_usage_errors_say_what_is_wrong(airpy, arguments, message):
    assert message in airpy(*arguments)[2]


def test_a_machine_without_memory_for_python_is_one_line():
    """What cannot be loaded differs with the limit, and so may how it ends; a traceback it is never."""
    for limit in (60_000, 100_000, 150_000):
        command = f"ulimit -v {limit}; exec '{sys.executable}' -m airpy generate '{DEMO}' -p x -n 2"
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, env=env)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or done.stderr.count("\n") <= 1, done.stderr


def test_a_library_that_cannot_be_loaded_is_one_line(airpy, monkeypatch):
    for error, said in ((ImportError("tokenizers.so: failed to map\nsegment"), "tokenizers.so: failed to map segment"),
                        (MemoryError(), "MemoryError")):  # fmt: skip
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("airpy.cli.common.open_from", fail)
        assert airpy("generate", DEMO, "-p", "x") == (1, "", f"airpy: {said}\n")


def test_a_path_that_leads_nowhere_is_named(airpy, tmp_path):
    hub = "of a name on Hugging Face's hub, org/name, AutoModel.from_pretrained() and airpy convert make a file"
    advice = f"No such file or directory; {hub}\n"
    assert airpy("inspect", "")[2] == f"airpy: '': {advice}"
    assert "airpy: some/model: no file or folder here" in airpy("quantize", "some/model", "8bit")[2]
    assert "airpy: some/model: no file or folder here, no model in the hub's cache" in airpy("inspect", "some/model")[2]
    for name in ("loop", "loop.gguf"):
        (tmp_path / name).symlink_to(name)
        code, _, err = airpy("inspect", tmp_path / name)
        assert code == 1 and err == f"airpy: {tmp_path / name}: Too many levels of symbolic links\n"


@pytest.mark.parametrize("command", ["generate", "plan", "inspect", "tokenize", "chat", "bench"])
def test_an_empty_file_is_named_as_such(airpy, tmp_path, command):
    (tmp_path / "m.gguf").touch()
    code, out, err = airpy(command, tmp_path / "m.gguf", *(["-p", "x"] if command in ("generate", "tokenize") else []))
    assert (code, out, err) == (1, "", "airpy: m.gguf: not a GGUF file: it is empty\n")


@pytest.mark.parametrize("command", ["generate", "demo"])
def test_a_call_over_budget_is_one_line_with_advice_for_a_person(airpy, monkeypatch, command):
    def full(*_):
        raise errors.BudgetError("max_ram 6 MiB is too small by 0.1 MiB")  # one prompt fits in fact wherever a model opens

    monkeypatch.setattr(Model, "_run_in_budget", full)
    code, _, err = airpy(command, *([DEMO] if command == "generate" else []), "-p", "x", "--json")
    assert code == 1
    assert re.fullmatch(
        r"airpy: max_ram 6 MiB is too small by 0.1 MiB; raise max_ram to [\d.]+ MiB, or give fewer or shorter prompts\n", err
    )


def test_a_reader_that_has_had_enough_is_no_error():
    command = [sys.executable, "-m", "airpy", "generate", str(DEMO), "-p", "And it came to pass", "-n", "300"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    err = child.stderr.read()
    assert child.wait(60) == 0 and err == b""


def test_a_closed_stdout_is_no_error():
    command = f"'{sys.executable}' -m airpy generate '{DEMO}' -p hi -n 2 >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_stdin_is_an_empty_conversation():
    command = f"'{sys.executable}' -m airpy chat '{DEMO}' --template '{{{{ messages }}}}' <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}])
@pytest.mark.parametrize("piped", [False, True])
def test_prompts_are_utf8_whatever_the_locale_and_what_is_not_does_no_harm(locale, piped):
    prompt = "é🦙".encode() + b"\xff"
    command = [sys.executable, "-m", "airpy", "tokenize", str(DEMO), "--json", *([] if piped else ["-p", prompt])]
    done = subprocess.run(command, input=prompt, capture_output=True, env={**os.environ, **locale}, timeout=60)
    assert done.returncode == 0, done.stderr
    ids = json.loads(done.stdout)["ids"]
    assert ids == load(DEMO).tokenizer.encode("é🦙\ufffd")


def test_numbers_have_no_exponents():
    from airpy.sizes import format_speed

    seen = [format_speed(value) for value in (4583.4, 21710, 88.84, 2.25, 0.9142, 0.00123)]
    assert seen == [f"{number} tokens/s" for number in ("4583", "21710", "88.8", "2.25", "0.914", "0.00123")]


def test_help_says_the_demos_own_defaults(airpy):
    _, out, _ = airpy("demo", "--help")
    assert "default: 120" in out and "1813" in out and "what is free" not in " ".join(out.split())


def test_the_version(airpy):
    assert airpy("--version")[1] == f"airpy {_core.VERSION}\n"


def test_text_that_the_terminal_does_not_know_does_no_harm():
    command = [sys.executable, "-m", "airpy", "tokenize", str(DEMO), "-p", "日本€"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, timeout=60)
    assert done.returncode == 0 and done.stdout and np.frombuffer(done.stdout, np.uint8).max() < 128
