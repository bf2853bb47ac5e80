"""What happens around an open engine: files cut, replaced, deleted; split sets, forks, kills, and what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from models import DEMO, golden, run_python

from airpy import _core, errors

PROMPT = np.arange(40, 60, dtype=np.int32)
STREAMED = {"io": "direct", "max_ram": 32 << 20, "max_pins": 0}
CHANGED = (errors.FileChangedError, errors.FileIOError)


def opened(path: Path, **options) -> _core.Engine:
    return _core.Engine(_core.GGUF(os.fspath(path)), **{"threads": 2, **options})


def logits(engine: _core.Engine) -> np.ndarray:
    sequence = engine.sequence()
    try:
        return np.array(engine.run([(sequence, PROMPT, 1, None, 0)], logits=True).logits)
    finally:
        sequence.close()


@pytest.fixture(scope="module")
def want():
    engine = opened(DEMO, max_ram=64 << 20)
    out = logits(engine)
    engine.close()
    return out


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copy(DEMO, tmp_path / "m.gguf"))


# ---- the file under an open engine -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"io": "mmap"}, STREAMED], ids=["mmap", "direct"])
def test_a_truncated_file_fails_its_engine_and_no_other(copy, want, options):
    engine, other = opened(copy, **options), opened(DEMO, **options)
    np.testing.assert_array_equal(logits(engine), want)
    os.truncate(copy, 1 << 20)
    for _ in range(2):
        with pytest.raises(CHANGED) as caught:
            logits(engine)
        np.testing.assert_array_equal(logits(other), want)
        if options["io"] == "direct":
            assert f"had {DEMO.stat().st_size} bytes when it was opened, now {1 << 20}" in str(caught.value)
    assert engine.stats()["held_by"]["KV cache"] == 0
    engine.close()
    np.testing.assert_array_equal(logits(other), want)
    other.close()


@pytest.mark.parametrize("options", [{"io": "mmap"}, STREAMED], ids=["mmap", "direct"])
@pytest.mark.parametrize("how", ["replace", "delete"])
def test_an_engine_keeps_its_file_or_says_that_it_is_gone(copy, want, how, options):
    engine = opened(copy, **options)
    np.testing.assert_array_equal(logits(engine), want)
    if how == "delete":
        copy.unlink()
    else:
        (copy.parent / "new").write_bytes(bytes(DEMO.stat().st_size))
        os.replace(copy.parent / "new", copy)
    with contextlib.suppress(*CHANGED):
        np.testing.assert_array_equal(logits(engine), want)  # never the new file's zeros
    engine.close()


def test_a_file_overwritten_in_place_is_never_half_believed(copy, want):
    engine = opened(copy, **STREAMED)
    np.testing.assert_array_equal(logits(engine), want)
    time.sleep(0.02)  # a later time of change
    with open(copy, "r+b") as file:
        file.seek(3 << 20)
        file.write(bytes(1 << 20))
    with pytest.raises(errors.FileChangedError):
        logits(engine)
        logits(engine)  # what was read ahead before the change may still serve one pass
    engine.close()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no tmpfs at /dev/shm")
def test_a_file_system_without_direct_io_serves_direct_mode(want):
    path = Path("/dev/shm") / f"airpy-test-{os.getpid()}.gguf"
    try:
        shutil.copy(DEMO, path)
        engine = opened(path, **STREAMED)
        np.testing.assert_array_equal(logits(engine), want)
        assert engine.plan["io"] == "direct" and engine.stats()["pager_disk_bytes"] > 0
        engine.close()
    finally:
        path.unlink(missing_ok=True)


# ---- split sets --------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """The demo model's tensors in three files, by the gguf package's own splitter."""
    gguf = pytest.importorskip("gguf", reason="the gguf package splits the file")
    reader = gguf.GGUFReader(DEMO)
    writer = gguf.GGUFWriter(tmp_path / "set.gguf", "llama", split_max_tensors=len(reader.tensors) // 3 + 1)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(tmp_path.glob("*-of-*.gguf"))
    assert len(found) == 3
    return found


@pytest.mark.parametrize("options", [{"io": "mmap"}, STREAMED], ids=["mmap", "direct"])
def test_any_part_of_a_set_opens_all_of_it(parts, want, options):
    for part in parts:
        engine = opened(part, **options)
        np.testing.assert_array_equal(logits(engine), want)
        engine.close()


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_part_is_an_error_that_names_it(parts, gone):
    parts[gone].unlink()
    for part in parts:
        if part != parts[gone]:
            with pytest.raises(errors.AirpyError, match=parts[gone].name):
                _core.GGUF(part)


def test_a_part_that_shrinks_fails_the_pass(parts, want):
    engine = opened(parts[0], **STREAMED)
    np.testing.assert_array_equal(logits(engine), want)
    os.truncate(parts[2], 4096)
    with pytest.raises(CHANGED):
        logits(engine)
        logits(engine)
    engine.close()


NO_ROOM = """
import resource
from airpy import _core, errors
from models import DEMO
gguf = _core.GGUF(str(DEMO))
_core.Engine(gguf, max_ram=5 << 20, io="direct", threads=1).close()
pages = int(open("/proc/self/statm").read().split()[0])
for more in range(1, 64):  # MiB; with few of them, what is smaller finds no room
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (more << 20), resource.RLIM_INFINITY))
    try:
        _core.Engine(gguf, max_ram=1 << 30, io="direct", threads=1)
        break
    except (errors.OutOfMemoryError, errors.ThreadError) as error:
        print(error)
"""


def test_too_little_address_space_says_what_to_raise():
    done = run_python(NO_ROOM)
    assert "of address space, of the weights that may stay; raise the limit (ulimit -v) or lower max_ram" in done.stdout, done


# ---- what is left behind -----------------------------------------------------------------------------------


def resources() -> tuple[int, int, int]:
    """Open files, threads, and anonymous memory in KiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return len(os.listdir("/proc/self/fd")), int(status["Threads"]), int(status["RssAnon"].split()[0])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts files and threads in /proc")
@pytest.mark.parametrize(
    "options", [{"io": "mmap"}, STREAMED, {"io": "direct", "max_ram": 64 << 20}], ids=["mmap", "streamed", "pinned"]
)
def test_twenty_engines_leave_no_file_no_thread_and_no_memory(options):
    def life():
        engine = opened(DEMO, **options)
        logits(engine)
        engine.close()

    life()
    gc.collect()
    files, threads, memory = resources()
    for _ in range(20):
        life()
    gc.collect()
    after = resources()
    assert after[:2] == (files, threads)
    assert after[2] <= memory + 4096  # the model is 6 MB: one left behind would show


# ---- processes and threads ---------------------------------------------------------------------------------

START = """
import os, signal, sys, threading, time
import numpy as np
from airpy import _core, errors
DEMO, PROMPT = sys.argv[1], np.arange(40, 60, dtype=np.int32)
slow = lambda: _core.Engine(_core.GGUF(DEMO), io="direct", max_ram=32 << 20, max_pins=0, source="rate=1000000")
"""


def start(code: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(_core.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", START + textwrap.dedent(code), str(DEMO)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_child_forked_during_a_pass_ends_cleanly():
    """Other threads' locks may be held for ever in the child: nothing of the engine may wait for one, its end included."""
    child = start("""
        engine = slow()
        sequence = engine.sequence()
        thread = threading.Thread(target=lambda: engine.run([(sequence, PROMPT, 1, None, 0)]))
        thread.start()
        time.sleep(0.2)
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                try:
                    engine.run([(engine.sequence(), PROMPT, 1, None, 0)])
                except errors.StateError:
                    sys.exit(7)  # through the interpreter's whole end
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        engine.cancel()
        thread.join()
        print("fine")
    """)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and out == "fine\n" and "CancelledError" in err, out + err


@pytest.mark.parametrize(("child_does", "code"), [("sys.exit(7)", 7), ("pass", 8)], ids=["exit", "go on"])
def test_a_child_forked_inside_of_a_call_leaves_it(child_does, code):
    """A progress callback or a signal handler that forks: the child's copy of the call ends, whatever it does next."""
    child = start(f"""
        def progress(*at):
            global pid
            if pid is None:
                pid = os.fork()
                if pid == 0:
                    {child_does}
        engine, pid = slow(), None
        sequence = engine.sequence()
        try:
            engine.run([(sequence, PROMPT[:2], 1, None, 0)], progress=progress)
        except errors.StateError as error:
            assert "fork" in str(error) and pid == 0
            sys.exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == {code}
        print("fine")
    """)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and out == "fine\n", out + err


def test_a_process_killed_during_a_pass_leaves_nothing(tmp_path):
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    child = start("""
        engine = slow()
        print("running", flush=True)
        engine.run([(engine.sequence(), PROMPT, 1, None, 0)])
    """)
    assert child.stdout.readline() == "running\n"
    time.sleep(0.2)
    child.kill()
    child.communicate(timeout=10)
    assert child.returncode == -signal.SIGKILL
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert not {name for name in after - before if "airpy" in name and str(child.pid) in name}
    engine = opened(DEMO, **STREAMED)
    logits(engine)
    engine.close()


def test_an_interrupt_leaves_an_engine_that_computes_the_same(want):
    engine = opened(DEMO, **STREAMED, source="rate=2000000")
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        logits(engine)
        logits(engine)
    timer.join()
    assert engine.stats()["held_by"]["KV cache"] == 0 and engine.stats()["held_by"]["logits"] == 0
    np.testing.assert_array_equal(logits(engine), want)
    engine.close()


def test_cancelling_at_any_moment_never_passes_for_success():
    """Cancels land in every part of a pass; a call either raises or gives the right logits."""
    engine = opened(golden("llama-gqa"), max_ram=16 << 20)
    right, cancelled = logits(engine), 0
    stop = threading.Event()

    def cancel():
        while not stop.is_set():
            time.sleep(0.0007)
            engine.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    for _ in range(300):
        try:
            np.testing.assert_array_equal(logits(engine), right)
        except errors.CancelledError:
            cancelled += 1
    stop.set()
    thread.join()
    engine.close()
    assert cancelled > 0


# ---- extreme shapes ----------------------------------------------------------------------------------------


def test_a_70b_file_opens_under_a_small_budget(tmp_path):
    """By its header alone: the file is sparse. 40 GB stream, a fraction stays, and the plan says so."""
    script = Path(__file__).parents[2] / "tools" / "make_gguf.py"
    path = tmp_path / "70b.gguf"
    made = subprocess.run(
        [sys.executable, script, "--shape", "70b", "--type", "Q4_K", "--sparse", path], capture_output=True, text=True
    )
    if made.returncode and "gguf" in made.stderr and "No module" in made.stderr:
        pytest.skip("the file is written with the gguf package")
    assert made.returncode == 0, made.stderr
    rates = {"disk": 2e9, "memory": 2e10, "block_bytes": 1 << 20, "depth": 4, "product": {"Q4_K": 2e10}}
    began = time.monotonic()
    engine = opened(path, max_ram=4 << 30, bandwidths=rates)
    assert time.monotonic() - began < 10
    plan = engine.plan
    assert plan["io"] == "direct" and plan["bound"] == "disk" and plan["weight_bytes"] > 35 << 30
    assert 0 < plan["pin_bytes"] < 4 << 30 and plan["ring_bytes"] <= 512 << 20 and plan["n_ctx"] >= 1024
    streamed = plan["weight_bytes"] - plan["pin_bytes"]
    assert streamed / 2e9 == pytest.approx(plan["pass_s"], rel=0.02)
    assert resources()[2] < 1 << 20  # nothing planned is taken before it is used
    engine.close()
    with pytest.raises(errors.BudgetError, match="too small by"):
        opened(path, max_ram=16 << 20)


def test_heads_whose_keys_and_values_differ_give_the_reference_logits(tmp_path):
    """Keys of 6, values of 10, one layer, three heads of queries for each of two: against numpy in float64."""
    pytest.importorskip("gguf", reason="the reference reads files with the gguf package")
    from reference_llama import logits as reference
    from test_extending import write_gguf

    heads, kv, key, value, embed, ff, vocab = 6, 2, 6, 10, 20, 28, 3001
    rng = np.random.default_rng(11)
    shapes = {"token_embd": (vocab, embed), "output_norm": (embed,), "blk.0.attn_norm": (embed,), "blk.0.ffn_norm": (embed,),
              "blk.0.attn_q": (heads * key, embed), "blk.0.attn_k": (kv * key, embed), "blk.0.attn_v": (kv * value, embed),
              "blk.0.attn_output": (embed, heads * value), "blk.0.ffn_gate": (ff, embed), "blk.0.ffn_up": (ff, embed),
              "blk.0.ffn_down": (embed, ff)}  # fmt: skip
    tensors = {f"{n}.weight": (s, 0, rng.standard_normal(s).astype(np.float32).tobytes()) for n, s in shapes.items()}
    numbers = {"block_count": 1, "context_length": 128, "embedding_length": embed, "feed_forward_length": ff,
               "attention.head_count": heads,
               "attention.head_count_kv": kv, "attention.key_length": key, "attention.value_length": value,
               "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    path = tmp_path / "odd.gguf"
    write_gguf(path, {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in numbers.items()}, tensors)
    ids = (np.arange(90) * 37 % vocab).astype(np.int32)
    right = reference(path, ids)
    for tier in _core.TIERS:
        for chunk in (0, 7):
            engine = opened(path, max_ram=16 << 20, kv_dtype="f32", tier=tier, max_rows=chunk)
            got = np.array(engine.run([(engine.sequence(), ids, len(ids), None, 0)], logits=True).logits)
            engine.close()
            assert ((got - right) ** 2).sum() <= 1e-9 * (right**2).sum()


def test_many_layers_open_in_reasonable_time(tmp_path):
    """4096 layers, the most there may be: laying out buffers must not take the square of them for ever."""
    from test_extending import write_gguf

    row = np.ones(8, np.float32).tobytes()
    tensors = {"token_embd.weight": ((4, 8), 0, row * 4), "output_norm.weight": ((8,), 0, row)}
    for i in range(4096):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            tensors[f"blk.{i}.{name}.weight"] = ((8, 8), 0, row * 8)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{i}.{name}.weight"] = ((8,), 0, row)
    numbers = {"block_count": 4096, "context_length": 64, "embedding_length": 8, "feed_forward_length": 8,
               "attention.head_count": 2,
               "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    path = tmp_path / "deep.gguf"
    write_gguf(path, {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in numbers.items()}, tensors)
    file = _core.GGUF(path)
    began = time.monotonic()
    _core.solve_plan(file, max_ram=1 << 30)
    assert time.monotonic() - began < 10
