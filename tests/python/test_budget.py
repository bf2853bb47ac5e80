"""The second invariant: max_ram bounds what airpy adds, measured from outside of its own accounts."""

from __future__ import annotations

import json
import re
import sys
import threading

import limited
import numpy as np
import pytest
from models import DEMO, RATES, load, run_python
from test_package import is_sanitized
from test_tokenizer_api import large_metadata
from tokenizer_fixtures import write_gguf
from vocab_files import VOCAB_NAMES, shared_vocab

from airpy import _core, auto_model, calibration, errors

MIB = 1 << 20

# Peak of anonymous memory above its value at open, sampled by a thread of its own while the model works.
WORK = """
import json, sys, threading, time
import numpy as np
from airpy import AutoModel, _core
path, options = sys.argv[1], json.loads(sys.argv[2])
now = lambda: _core.memory_info()["process_anonymous"]
base, peak, stop = now(), [0], threading.Event()
def watch():
    while not stop.is_set():
        peak[0] = max(peak[0], now() - base)
        time.sleep(0.005)
thread = threading.Thread(target=watch, daemon=True); thread.start()  # ends with an error too
with AutoModel.from_pretrained(path, progress=False, **options) as model:
    rng = np.random.default_rng(0)
    n = min(model.n_ctx, 512) - 20
    for rows in (1, 3):
        ids = rng.integers(0, 4096, (rows, n // rows))
        model.generate(ids, max_new_tokens=12, eos_token_id=[])
    model(ids[:1], logits_to_keep=4)
    stats = model.stats()
stop.set(); thread.join()
print(json.dumps({"peak": peak[0], "stats": stats, "after": now() - base}))
"""


def slack(budget: int) -> int:
    return max(budget // 50, 16 * MIB)


def work(path, **options):
    done = run_python(WORK, str(path), json.dumps(options))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """About 150 MiB of Q8_0: slack is small beside it."""
    make_gguf = pytest.importorskip("test_make_gguf").make_gguf
    path = tmp_path_factory.mktemp("large") / "m.gguf"
    make_gguf.write(path, shape="tiny", type="Q8_0", layers=12, embd=1024, ff=2816, heads=16, kv_heads=4, vocab=4096, ctx=2048)
    assert path.stat().st_size > 120 * MIB
    return path


@pytest.mark.parametrize("budget", [7 * MIB, 24 * MIB])
def test_the_demo_model_stays_inside_its_budget(budget):
    seen = work(DEMO, max_ram=budget, io="direct")
    assert seen["peak"] <= budget + slack(budget)
    assert seen["stats"]["held"] <= budget and seen["stats"]["peak_ram"] <= budget + slack(budget)


def test_quantised_state_takes_what_the_plan_says_and_near_half_and_a_quarter_of_f16(large):
    bytes_of = {}
    for kind in ("f16", "q8_0", "q4_0"):
        with load(large, kv_dtype=kind, n_ctx=2048, max_ram="1GiB") as model:
            model.generate([list(range(1, 1980))], max_new_tokens=1, eos_token_id=[])
            bytes_of[kind] = (model.stats()["held_by"]["KV cache"], model.plan["state_bytes_full"])
    for kind, block in (("q8_0", 34), ("q4_0", 18)):
        assert abs(bytes_of[kind][1] / bytes_of["f16"][1] - block / 64) < 0.02
    assert all(planned * 0.9 < held <= planned for held, planned in bytes_of.values())


def test_pins_of_a_small_model_give_way_page_by_page():
    """What the KV cache of a growing text takes comes from pins, and a huge page that is half theirs would stay whole."""
    done = run_python(
        "import json, sys; from airpy import AutoModel\n"
        "with AutoModel.from_pretrained(sys.argv[1], max_ram='6.5MiB', io='direct', n_ctx=512, progress=False) as model:\n"
        "    model.generate([[5, 6, 7]], max_new_tokens=400, eos_token_id=[])\n"
        "    print(json.dumps(model.stats()))",
        str(DEMO),
    )
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)
    assert stats["pinned_bytes"] > MIB and stats["peak_ram"] <= stats["budget"] + MIB // 2


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_larger_model_stays_inside_its_budget_and_uses_it(large, share):
    budget = int(large.stat().st_size * share)
    seen = work(large, max_ram=budget, io="direct")
    assert budget * 0.7 < seen["peak"] <= budget + slack(budget)
    assert seen["stats"]["pinned_bytes"] > budget * 0.4
    assert seen["stats"]["peak_ram"] >= seen["peak"] * 0.8  # what it says of itself is not far from what is seen
    assert seen["after"] < slack(budget)  # closed: given back


def test_what_others_allocate_while_a_model_opens_is_not_its_own(monkeypatch):
    with load() as model:
        alone = model.stats()["held_by"]["fixed"]
    others = []

    def read(file, real=auto_model._read_metadata):
        others.append(np.ones(48 * MIB, np.uint8))
        return real(file)

    monkeypatch.setattr(auto_model, "_read_metadata", read)
    with load(io="direct", max_ram="24MiB") as model:
        assert len(others) == 1 and model.stats()["held_by"]["fixed"] == alone


def test_models_opened_at_once_are_charged_what_each_is_alone():
    opened = []

    def body():
        with load(io="direct", max_ram="7MiB") as model:
            opened.append(model.stats()["held_by"]["fixed"])

    for threads in ([threading.Thread(target=body)], [threading.Thread(target=body) for _ in range(4)]):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(opened) == 5 and len(set(opened)) == 1


def test_the_peak_of_a_model_is_not_anothers():
    with load(io="direct", max_ram="7MiB") as model:
        with load() as other:
            kept = other([[5] * 500]).logits
            model.generate([[5, 6, 7]], max_new_tokens=2)
            assert kept.nbytes > 7 * MIB
        stats = model.stats()
    assert stats["peak_ram"] <= 7 * MIB and stats["peak_ram_is"] == "booked by the engine"
    with load(io="direct", max_ram="24MiB") as model:
        model.generate([[5, 6, 7]], max_new_tokens=2)
        assert model.stats()["peak_ram"] > 0


def test_a_model_that_is_gone_is_no_other_model():
    done = run_python(
        "import gc, sys; from airpy import AutoModel, _core; gc.disable()\n"
        "def used():\n"
        "    model = AutoModel.from_pretrained(sys.argv[1], max_ram='24MiB', io='direct', progress=False)\n"
        "    model.generate([[5, 6, 7]], max_new_tokens=2)\n"
        "    return model._memory._alone\n"
        "used(); live = _core.alloc_live()\n"
        "print(used(), live, _core.alloc_live())",
        str(DEMO),
    )
    assert done.returncode == 0, done.stderr
    alone, once, twice = done.stdout.split()
    assert alone == "True" and once == twice


@pytest.mark.skipif(is_sanitized(), reason="sanitizers add memory of their own")
@pytest.mark.parametrize("vocabulary", ["demo", "30000", "150000", *VOCAB_NAMES, "bert-bge", "nomic-bert-moe"])
def test_the_charge_for_a_tokenizer_is_what_it_takes(tmp_path, vocabulary):
    path = DEMO if vocabulary == "demo" else tmp_path / "v.gguf" if vocabulary.isdigit() else shared_vocab(vocabulary)
    if vocabulary.isdigit():
        write_gguf(path, large_metadata(int(vocabulary)))
    done = run_python(
        "import sys; from airpy import _core, auto_model\n"
        "now = lambda: _core.memory_info()['process_anonymous']\n"
        "import airpy.tokenizer.build\n"
        "base = now(); tokenizer = auto_model.Tokenizer(*auto_model._read_metadata(sys.argv[1])[0]); gguf = _core.GGUF(sys.argv[1])\n"
        "print(now() - base, tokenizer.memory_bytes + gguf.held_bytes)",
        str(path),
    )
    taken, charged = map(int, done.stdout.split())
    assert abs(taken - charged) < max(5 * MIB, 0.2 * taken)


def test_mapped_bytes_are_told_apart():
    seen = work(DEMO, max_ram="9MiB", io="mmap")
    assert seen["stats"]["mapped_bytes"] == DEMO.stat().st_size
    assert seen["peak"] <= 9 * MIB + slack(9 * MIB)


def test_auto_maps_only_what_fits():
    for budget, io in (("64MiB", "mmap"), ("5.5MiB", "direct")):
        with load(max_ram=budget) as model:
            assert model.plan["io"] == io


@pytest.mark.skipif(bool(limited.why_not()), reason=limited.why_not() or "may make groups")
def test_a_model_runs_in_a_memory_cgroup_smaller_than_its_weights(large):
    size = large.stat().st_size
    # The interpreter, its libraries and their page cache are in the group as well: about 60 MiB.
    budget, limit = int(size * 0.4), int(size * 0.4) + 80 * MIB
    assert limit < size * 1.05
    limited.evict(large)
    command = [sys.executable, "-c", WORK, str(large), json.dumps({"max_ram": budget, "io": "direct", "bandwidths": RATES})]
    import os
    from pathlib import Path

    import airpy

    env = {**os.environ, "PYTHONPATH": str(Path(airpy.__file__).parents[1])}
    seen = limited.run(limit, command, env=env)
    assert seen.returncode == 0 and seen.oom_kills == 0, seen.stderr
    assert seen.peak <= limit
    assert json.loads(seen.stdout)["peak"] <= budget + slack(budget)


@pytest.mark.skipif(bool(limited.why_not()), reason=limited.why_not() or "may make groups")
def test_the_default_budget_respects_the_group():
    code = "from airpy import _core; print(_core.memory_info()['default_budget'])"
    import os
    from pathlib import Path

    import airpy

    env = {**os.environ, "PYTHONPATH": str(Path(airpy.__file__).parents[1])}
    seen = limited.run(256 * MIB, [sys.executable, "-c", code], env=env)
    assert seen.returncode == 0, seen.stderr
    assert 64 * MIB < int(seen.stdout) < 256 * MIB


@pytest.mark.parametrize("io", ["auto", "direct"])
def test_advice_of_a_refusal_helps_when_it_is_followed(io):
    """Each in a process of its own: what they hold at the start differs a little."""
    def generate(budget, n_ctx):
        return run_python(
            "import sys; from airpy import AutoModel, BudgetError\n"
            "try:\n"
            "    with AutoModel.from_pretrained(\n"
            "        sys.argv[1], max_ram=sys.argv[2], n_ctx=int(sys.argv[3]), io=sys.argv[4], progress=False) as m:\n"
            "        m.generate([[5, 6, 7]], max_new_tokens=3)\n"
            "except BudgetError as e: print(e)",
            str(DEMO), budget, str(n_ctx), io,
        )  # fmt: skip

    for budget in ("300KiB", "4MiB"):
        refused = generate(budget, 512).stdout
        advice = re.search(r"small by (?!0\.0 ).*; (?:lower n_ctx to (\d+) or )?raise max_ram to ([\d.]+ MiB) or more$", refused.strip())
        assert advice, refused
        for _ in range(2):
            done = generate(advice[2], 512)
            assert done.returncode == 0 and not done.stdout, (refused, done)
        if advice[1]:
            done = generate(budget, int(advice[1]))
            assert done.returncode == 0 and not done.stdout, (refused, done)


@pytest.fixture
def small_machine(monkeypatch):
    """A machine with 8 GiB free, or a group on it with this much left."""

    def make(limit=-1, usage=0):
        room = max(0, min(8 << 30, limit - usage)) if limit != -1 else 8 << 30
        monkeypatch.setattr(_core, "memory_info", lambda real=_core.memory_info: {
            **real(), "available": 8 << 30, "cgroup_limit": limit, "cgroup_usage": usage, "room": room, "default_budget": room // 2,
        })  # fmt: skip

    return make


def test_a_limit_on_address_space_is_one_on_memory(large):
    """A file that it leaves no room for is not mapped, and what it leaves is what may stay."""
    done = run_python(
        "import json, mmap, resource, sys; from airpy import AutoModel, BudgetError\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (128 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    AutoModel.from_pretrained(sys.argv[1], max_ram='1GiB', threads=2)\n"
        "except BudgetError as error: print(error)\n"
        "try:\n"
        "    AutoModel.from_pretrained(sys.argv[1], io='mmap', threads=2)\n"
        "except MemoryError as error: print(error)\n"
        "with AutoModel.from_pretrained(sys.argv[1], progress=False, threads=2) as model:\n"
        "    arena = mmap.mmap(-1, 64 << 20)\n"  # what a thread that allocates may take, where it finds it aligned
        "    model.generate([[1, 2]], max_new_tokens=2)\n"
        "    print(json.dumps([model.plan['io'], model.plan['budget']]))",
        str(large),
    )
    assert done.returncode == 0, done.stderr
    refused, unmapped, plan = done.stdout.splitlines()
    assert "cannot map" in unmapped and unmapped.endswith('; io "direct" reads without a mapping')
    assert "is more than there is: the limit on address space (ulimit -v) leaves this process" in refused
    io, budget = json.loads(plan)
    assert io == "direct" and budget < 64 * MIB


@pytest.mark.parametrize("io", ["auto", "direct", "mmap"])
def test_a_budget_above_what_there_is_is_refused_before_anything_is_probed(small_machine, monkeypatch, io):
    for probe in ("probe_disk", "probe_compute"):
        monkeypatch.setattr(calibration, probe, lambda *_: pytest.fail("probed"))
    small_machine()
    with pytest.raises(errors.BudgetError, match=r"max_ram 9.0 GiB \(--max-ram\) is more than there is: this machine has 8.0 GiB free"):
        load(max_ram="9GiB", io=io, bandwidths=None)
    small_machine(limit=3 << 30, usage=2 << 30)
    with pytest.raises(errors.BudgetError, match=r"4.0 GiB .*: the memory cgroup .* has 1.0 GiB left of 3.0 GiB; .* to 512 MiB"):
        load(max_ram="4GiB", io=io, bandwidths=None)
    small_machine(limit=1 << 30, usage=2 << 30)
    with pytest.raises(errors.BudgetError, match=r"left of 1.0 GiB; free some$"):
        load(max_ram="4GiB", io=io, bandwidths=None)
    small_machine(limit=3 << 30, usage=2 << 30)
    with load(max_ram="1GiB", io=io) as model:
        assert model.stats()["budget"] == 1 << 30


def test_a_plan_for_a_larger_machine_is_refused(small_machine):
    with load(max_ram="64MiB") as model:
        plan = model.plan
    small_machine(limit=48 << 20)
    with pytest.raises(errors.BudgetError, match=r"max_ram 64.0 MiB .* left of 48.0 MiB; .* or leave it out, in a new plan"):
        load(plan=plan, bandwidths=None)


@pytest.mark.skipif(bool(limited.why_not()), reason=limited.why_not() or "may make groups")
@pytest.mark.parametrize("command", [["plan"], ["generate", "--io", "auto"], ["generate", "--io", "direct"]])
def test_a_budget_above_the_group_is_an_error_and_kills_nobody(large, tmp_path, command):
    import os
    from pathlib import Path

    import airpy

    env = {**os.environ, "PYTHONPATH": str(Path(airpy.__file__).parents[1]), "AIRPY_CACHE_DIR": str(tmp_path)}
    env.pop("AIRPY_BANDWIDTHS", None)
    more = ["-p", "one", "-n", "1"] if command[0] == "generate" else []
    call = [sys.executable, "-m", "airpy", command[0], str(large), *command[1:], *more, "--max-ram"]
    refused = limited.run(160 * MIB, [*call, "4GiB"], env=env)
    assert refused.returncode == 1 and refused.oom_kills == 0, refused.stderr
    assert "max_ram 4.0 GiB (--max-ram) is more than there is" in refused.stderr
    seen = limited.run(160 * MIB, [*call, "80MiB"], env=env)  # with probes that leave room for the rest
    assert seen.returncode == 0 and seen.oom_kills == 0, seen.stderr


def test_a_batch_too_large_for_the_budget_is_refused_and_a_smaller_one_runs():
    with load(io="direct", max_ram="6MiB") as model:
        with pytest.raises(errors.BudgetError, match=r"max_ram 6.0 MiB is too small by (?!0.0).* KV cache.*; raise max_ram to "
                           r"[\d.]+ MiB, or give fewer or shorter prompts$"):
            model.generate([[1] * 300] * 64, max_new_tokens=2)
        assert model.generate([[1] * 300], max_new_tokens=2, eos_token_id=[]).shape == (1, 302)


def test_a_batch_that_grows_too_large_is_refused_with_advice_that_helps():
    prompts = [[1] * 10] * 8
    with load(io="direct", max_ram="6MiB") as model:
        with pytest.raises(errors.BudgetError, match=r"too small by.*; raise max_ram to .*, lower max_new_tokens, or give fewer or"):
            model.generate(prompts, max_new_tokens=400, eos_token_id=[])
        model.generate(prompts, max_new_tokens=40, eos_token_id=[])
        model.generate(prompts[:1], max_new_tokens=400, eos_token_id=[])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate([[1] * 300] * 40, max_new_tokens=2, eos_token_id=[]),
        lambda model: model.generate([[1] * 10] * 12, max_new_tokens=300, eos_token_id=[]),
        lambda model: model([[1] * 500], logits_to_keep=400),
    ],
)
@pytest.mark.parametrize("io", ["direct", "auto"])
def test_a_refused_call_names_a_budget_that_would_do(io, call):
    with load(io=io, max_ram="6000000") as model, pytest.raises(errors.BudgetError) as refused:
        call(model)
    said = re.search(r"max_ram 5\.7 MiB is too small by ([\d.]+) MiB: .*raise max_ram to ([\d.]+) MiB, ", str(refused.value))
    assert said and float(said[1]) > 0, refused.value
    with load(io=io, max_ram=f"{said[2]}MiB", n_ctx=512) as model:
        call(model)
