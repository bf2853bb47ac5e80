"""Ctrl-C and cancel(): within 250 ms, in prompt and decode, also while a slow disk is waited for; the model goes on working."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest
from models import DEMO, load, load_from, run_python

from airpy import _core, errors

LIMIT = 0.25
SLOW = "rate=4000000"  # bytes per second: a pass that streams half of the demo model takes about a second
PROMPT = [list(range(60, 100))]


@pytest.fixture
def slow():
    with load_from(SLOW) as model:
        yield model


def in_thread(call):
    """Runs call in a thread; what it raised and when it ended."""
    seen: dict[str, object] = {}

    def body():
        try:
            call()
        except BaseException as error:
            seen["error"] = error
        seen["end"] = time.monotonic()

    thread = threading.Thread(target=body)
    thread.start()
    return thread, seen


def cancel_after(model, call, ready):
    thread, seen = in_thread(call)
    ready()
    start = time.monotonic()
    model.cancel()
    thread.join(10)
    assert isinstance(seen["error"], errors.CancelledError)
    return seen["end"] - start


def test_cancel_ends_a_prompt_that_waits_for_a_slow_disk(slow):
    took = cancel_after(slow, lambda: slow.generate(PROMPT, max_new_tokens=50), lambda: time.sleep(0.3))
    assert took < LIMIT


def test_cancel_ends_decoding_from_a_slow_disk(slow):
    started = threading.Event()

    def call():
        for _ in slow.stream(PROMPT, max_new_tokens=50, eos_token_id=[], on_tokens=lambda _: started.set()):
            pass

    assert cancel_after(slow, call, lambda: (started.wait(30), time.sleep(0.2))) < LIMIT
    assert slow.stats()["new_tokens"] >= 1


def test_cancel_ends_logits_too(slow):
    assert cancel_after(slow, lambda: slow(PROMPT), lambda: time.sleep(0.2)) < LIMIT


def test_cancel_ends_a_fast_generation_between_its_passes():
    with load() as model:
        started = threading.Event()
        running = lambda: list(model.stream([1], max_new_tokens=500, eos_token_id=[], on_tokens=lambda _: started.set()))  # noqa: E731
        assert cancel_after(model, running, lambda: started.wait(20)) < LIMIT


@pytest.mark.parametrize("what", ["generate", "logits", "stream"])
@pytest.mark.parametrize("wait", [0, 0.05, 0.3, 1.2])  # before, in and between its passes
def test_close_ends_every_call_with_the_same_error(what, wait):
    model = load_from(SLOW)
    calls = {
        "generate": lambda: model.generate(PROMPT, max_new_tokens=50, eos_token_id=[]),
        "logits": lambda: [model(PROMPT) for _ in range(50)],
        "stream": lambda: list(model.stream(PROMPT[0], max_new_tokens=50, eos_token_id=[])),
    }
    under_way = threading.Event()
    take = model._pool.take
    model._pool.take = lambda *ids: (take(*ids), under_way.set())[0]
    thread, seen = in_thread(calls[what])
    under_way.wait(30)
    time.sleep(wait)
    model.close()
    thread.join(10)
    assert type(seen["error"]) is errors.StateError, repr(seen["error"])
    assert str(seen["error"]) in ("the model was closed while a call was under way", "the model is closed")


def test_a_closed_model_is_not_entered():
    model = load()
    model.close()
    with pytest.raises(errors.StateError, match="the model is closed"), model:
        pass


def test_cancel_with_nothing_under_way_does_nothing():
    with load() as model:
        model.cancel()
        assert model.generate([[1, 2]], max_new_tokens=2).shape == (1, 4)


def test_a_cancelled_model_gives_the_text_it_gave_before():
    with load() as model:
        want = model.generate(PROMPT, max_new_tokens=8, eos_token_id=[]).tolist()
        stream = model.stream(PROMPT, max_new_tokens=8, eos_token_id=[])
        next(stream)
        model.cancel()
        with pytest.raises(errors.CancelledError):
            list(stream)
        assert model.generate(PROMPT, max_new_tokens=8, eos_token_id=[]).tolist() == want


def test_cancel_ends_every_call_that_queues(slow):
    calls = [in_thread(lambda: slow.generate(PROMPT, max_new_tokens=5)) for _ in range(3)]
    time.sleep(0.3)
    start = time.monotonic()
    slow.cancel()
    for thread, _ in calls:
        thread.join(10)
    assert all(isinstance(seen["error"], errors.CancelledError) and seen["end"] - start < LIMIT for _, seen in calls)


CTRL_C = """
import os, signal, sys, threading, time
from models import load_from
phase = sys.argv[1]
sent = []
def interrupt():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
with load_from("rate=4000000") as model:
    timer = threading.Timer(0.3, interrupt)
    if phase == "prompt":
        timer.start()
    begun = lambda _: timer.start() if not timer.is_alive() and not sent else None
    try:
        for _ in model.stream([list(range(60, 100))], max_new_tokens=50, eos_token_id=[], on_tokens=begun):
            pass
        sys.exit("not interrupted")
    except KeyboardInterrupt:
        took = time.monotonic() - sent[0]
    text = "".join(model.stream([5, 6], max_new_tokens=2, eos_token_id=[]))
    assert took < 0.25, took
    print("usable")
"""


@pytest.mark.parametrize("phase", ["prompt", "decode"])
def test_ctrl_c_is_a_keyboard_interrupt_within_a_quarter_of_a_second(phase):
    done = run_python(CTRL_C, phase)
    assert done.stdout == "usable\n", done.stderr


def test_another_thread_keeps_running_during_a_pass(slow):
    thread, _ = in_thread(lambda: slow.generate(PROMPT, max_new_tokens=1))
    ticks, longest, last = 0, 0.0, time.monotonic()
    while thread.is_alive():
        time.sleep(0.002)
        now = time.monotonic()
        longest, last, ticks = max(longest, now - last), now, ticks + 1
    assert ticks > 20 and longest < LIMIT


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_command_line_ends_with_130(tmp_path):
    from models import DEMO, RATES

    code = (
        "import sys, airpy.cli.common as c, airpy.auto_model as a; from airpy.cli import main\n"
        "slow = lambda args, **_: a.open_model(args.model, {'io': 'direct', 'max_ram': 6 << 20}, source='rate=2000000',"
        f" bandwidths={RATES!r})\n"
        "c.open_from = slow\n"
        "sys.exit(main(['generate', sys.argv[1], '-p', 'And it came', '-n', '50']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(DEMO)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.read(1)
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130 and "Traceback" not in err
    assert time.monotonic() - start < 2  # with the end of the interpreter


# Ctrl-C as the at-th module is looked for, which is where KeyboardInterrupt does most harm.
START_UP = """
import importlib.abc, os, runpy, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    seen = 0
    def find_spec(self, name, path, target=None):
        Interrupt.seen += Interrupt.seen > 0 or name == "airpy.cli"
        if Interrupt.seen == AT:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_module("airpy", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 170])
def test_ctrl_c_at_start_up_is_130_and_not_a_word(at):
    done = run_python(START_UP.replace("AT", str(at)), "generate", str(DEMO), "-p", "And it came", "-n", "2")
    assert (done.returncode, done.stderr, done.stdout) == (130, "", "")


def test_importing_leaves_signals_alone():
    code = "import signal\nbefore = signal.getsignal(signal.SIGINT)\nimport airpy.command, airpy.cli\nfrom airpy import AutoModel\n"
    code += "assert before is signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert run_python(code).returncode == 0


@pytest.mark.parametrize("probe", ["disk", "slow disk", "compute"])
def test_ctrl_c_ends_a_probe(probe):
    def interrupt():
        time.sleep(0.4)
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    sent: list[float] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        if probe == "compute":
            _core.probe_compute(["Q8_0", "IQ1_S"], seconds=20.0, max_bytes=64 << 20)
        else:
            _core.probe_disk(str(DEMO), 20.0, SLOW if probe == "slow disk" else "")
    assert time.monotonic() - sent[0] < LIMIT
    thread.join()
