"""The plan as an object, a text and a file, and the calibration it is made from."""

from __future__ import annotations

import copy
import json
import math
import os

import pytest
from models import DEMO, RATES, golden, load, run_python

from airpy import Plan, _core, calibration, errors
from airpy.auto_model import machine_for, open_model
from airpy.sizes import format_rate, format_size, format_time, parse_size


@pytest.fixture(scope="module")
def plan():
    with load(io="direct", max_ram="6MiB", n_ctx=256) as model:
        yield model.plan


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("AIRPY_BANDWIDTHS", raising=False)
    return tmp_path / "cache"


def test_a_relative_cache_folder_is_ignored(cache, monkeypatch, tmp_path):
    """As the XDG base directory specification has it."""
    monkeypatch.delenv("AIRPY_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    for base, want in (("cache", tmp_path / ".cache"), ("", tmp_path / ".cache"), (str(tmp_path / "x"), tmp_path / "x")):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert calibration.cache_dir() == str(want / "airpy")


@pytest.mark.parametrize("home", [None, "rel"])
def test_without_a_home_nothing_is_kept(tmp_path, home):
    """Of a user without an entry in passwd, as in many containers, or with one that means another folder each time."""
    done = run_python(
        "import os, pwd, sys\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "for name in ('HOME', 'XDG_CACHE_HOME', 'AIRPY_CACHE_DIR'): os.environ.pop(name, None)\n"
        "if len(sys.argv) > 2: os.environ['HOME'] = sys.argv[2]\n"
        "from airpy import AutoModel, calibration\n"
        "assert calibration.cache_dir() is None\n"
        "calibration._store('cpu x', {'memory': 1e9})\n"
        "assert calibration._load('cpu x') == {}\n"
        "AutoModel.from_pretrained(sys.argv[1], progress=False).generate([[1]], max_new_tokens=1)",
        str(DEMO), *([home] if home else []), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- the plan --------------------------------------------------------------------------------------------------------------------


def test_the_text_says_what_stays_what_streams_and_what_bounds(plan):
    text = str(plan)
    for word in ("stays", "streams", "attention", "feed-forward", "output", "KV cache", "ring", "bound by the disk", "tokens/s",
                 "full context", "a prompt", "more RAM", "1.00 GB/s", "6.0 MiB"):  # fmt: skip
        assert word in text, word
    assert max(map(len, text.splitlines())) < 140


def test_the_figures_agree_with_each_other(plan):
    assert plan.bound == "disk" and plan["io"] == "direct"
    assert 0 < plan.streamed_bytes == plan["weight_bytes"] - plan["pin_bytes"]
    assert math.isclose(plan.predicted_tok_s, 1 / plan["pass_s"])
    assert plan.streamed_bytes / RATES["disk"] <= plan["pass_s"] * 1.01
    rows = plan["weights"]
    assert sum(size for _, _, size, tiles, *_ in rows if tiles) == plan["weight_bytes"]
    steps = plan.to_dict()["more_ram"]
    assert [step["share"] for step in steps] == [0.5, 1.0] and steps[1]["pass_s"] <= steps[0]["pass_s"] < plan["pass_s"]
    assert steps[1]["bound"] == "compute"  # nothing streams any more


def test_a_model_that_fits_says_that_more_ram_does_not_help():
    with load() as model:
        assert model.plan["io"] == "mmap" and model.plan.streamed_bytes == 0
        assert "would not help" in str(model.plan) and "mapped" in str(model.plan)


def test_a_plan_is_kept_and_taken_back(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan and hash(loaded) == hash(plan) and str(loaded) == str(plan)
    for form in (loaded, loaded.to_dict(), tmp_path / "plan.json", str(tmp_path / "plan.json")):
        with load(plan=form, bandwidths=None) as model:
            again = model.plan
            assert (again["n_ctx"], again["budget"], again["io"]) == (256, 6 << 20, "direct")
            assert (again["ring_bytes"], again["tile_bytes"], again["max_rows"]) == (
                plan["ring_bytes"], plan["tile_bytes"], plan["max_rows"],
            )  # fmt: skip
            assert again.bandwidths == plan.bandwidths
            assert model.generate([[1, 2]], max_new_tokens=2).shape == (1, 4)
    with open_model(DEMO, {}, plan=plan, bandwidths=None) as model:
        assert "airpy demo" in repr(model.plan)


def test_a_plan_of_another_model_is_refused(plan):
    with pytest.raises(errors.ArgumentError, match="airpy demo"):
        load(golden("llama"), plan=plan, bandwidths=None)


def test_a_plan_and_arguments_must_not_contradict_each_other(plan):
    with pytest.raises(errors.ArgumentError, match="max_ram"):
        load(plan=plan, max_ram="9MiB", bandwidths=None)
    with pytest.raises(errors.ArgumentError, match="exclude"):
        load(plan=plan)
    load(plan=plan, max_ram="6MiB", bandwidths=None).close()


def test_a_plan_chooses_again_what_was_a_default(tmp_path, monkeypatch):
    """The budget of a moment is no reason to refuse a later one, nor is an argument where none was given."""
    info = _core.memory_info()
    with load(threads=None) as model:
        model.plan.save(tmp_path / "plan.json")
        assert model.plan["budget"] > 64 << 20
    monkeypatch.setattr(_core, "memory_info", lambda: {**info, "room": 64 << 20, "available": 64 << 20, "default_budget": 32 << 20})
    for given in ({}, {"max_ram": "48MiB"}, {"threads": 1}):
        with load(plan=tmp_path / "plan.json", bandwidths=None, **given) as model:
            assert model.plan["budget"] == 48 << 20 or "max_ram" not in given
            assert model.stats()["threads"] == 1 or "threads" not in given


def test_a_plan_for_other_threads_or_kernels_predicts_for_these(cache, monkeypatch):
    """Rates of compute are those of so many threads; the disk's stay the plan's."""
    probed = []

    def probe(machine):
        probed.append((machine.threads, machine.tier))
        return {"memory": 1e9, "op_s": 1e-6, "product": {"Q8_0": 1e9, "F32": 1e9}, "product_columns": {"Q8_0": 1e10}}

    monkeypatch.setattr(calibration, "probe_compute", probe)
    monkeypatch.setattr(calibration, "probe_disk", lambda path: pytest.fail("probed the disk"))
    with load(io="direct", max_ram="6MiB") as model:
        plan, threads = model.plan, model.stats()["threads"]
    with load(plan=plan, bandwidths=None, threads=threads) as model:
        assert model.plan.bandwidths == plan.bandwidths and not probed
    with load(plan=plan, bandwidths=None, threads=threads + 1) as model:
        assert model.plan.bandwidths["memory"] == 1e9 and model.plan.bandwidths["disk"] == RATES["disk"]
        assert model.plan["compute_s"] > plan["compute_s"]
    if len(_core.TIERS) > 1:
        monkeypatch.setenv("AIRPY_CPU", "ref")
        with load(plan=plan, bandwidths=None) as model:
            assert model.plan.bandwidths["memory"] == 1e9
    assert probed == [(threads + 1, ""), (0, "ref")][: len(probed)] and probed


def test_advice_can_be_followed_under_a_plan(plan):
    with pytest.raises(errors.ArgumentError, match=r"max_ram is 9437184, but the plan was made for 6291456; leave one of them out"):
        load(plan=plan, max_ram="9MiB", bandwidths=None)
    data = plan.to_dict()
    data["options"]["max_ram"] = 1 << 20
    with pytest.raises(errors.BudgetError, match=r"raise max_ram to [\d.]+ MiB or more, in a new plan$"):
        load(plan=data, bandwidths=None)


def _set(data, path, value):
    *parents, last = path
    for key in parents:
        data = data[key]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], "airpy plan 99"), (["plan"], None), (["plan", "budget"], -1), (["plan", "budget"], "8"),
        (["plan", "n_ctx"], KeyError),
        (["plan", "pass_s"], math.nan), (["plan", "io"], "tape"), (["plan", "bound"], None), (["plan", "weights"], 3),
        (["plan", "weights", 0], ["x"]), (["model", "name"], 3), (["options", "max_ram"], None), (["options", "tier"], 7),
        (["bandwidths"], {"disk": -1}), (["bandwidths"], {"tape": 1}), (["more_ram"], [3]), (["options"], []),
        (["plan", "n_ctx"], 1.5), (["plan", "ring_bytes"], 262144.0), (["plan", "max_rows"], 2.5), (["plan", "tile_bytes"], 4e4),
        (["plan", "max_rows"], 0),
        (["options", "threads"], 1.5), (["options", "max_ram"], 6e6), (["options", "threads"], True), (["model", "layers"], 1.5),
        (["plan", "weights", 0, 2], 0.5), (["more_ram", 0, "max_ram"], 1e7),
    ],
)  # fmt: skip
def test_an_edited_plan_that_makes_no_sense_is_refused(plan, path, value):
    data = copy.deepcopy(plan.to_dict())
    _set(data, path, value)
    with pytest.raises(errors.ArgumentError):
        Plan(data)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100000, b'{"format": "airpy plan 5"}'])
def test_a_file_that_is_no_plan_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(errors.ArgumentError):
        Plan.load(tmp_path / "plan.json")


# ---- calibration -----------------------------------------------------------------------------------------------------------------


def machine():
    return machine_for(_core.GGUF(str(DEMO)), 0, "", 64 << 20)


def test_bandwidths_are_probed_once_and_kept(cache, monkeypatch):
    first = calibration.calibrate(machine())
    assert first["disk"] > 0 and first["memory"] > 0 and first["product"]["Q8_0"] > 0 and first["block_bytes"] and first["depth"]
    assert 0 < first["latency_s"] < 1
    assert len(list(cache.iterdir())) == 2
    for name in ("probe_disk", "probe_compute"):
        monkeypatch.setattr(calibration, name, lambda *_: pytest.fail("probed again"))
    assert calibration.calibrate(machine()) == first


def test_fresh_ones_replace_kept_ones(cache, monkeypatch):
    calibration.calibrate(machine())
    monkeypatch.setattr(calibration, "probe_disk", lambda *_: {"disk": 123.0, "block_bytes": 4096, "depth": 1})
    assert calibration.calibrate(machine())["disk"] != 123.0
    assert calibration.calibrate(machine(), fresh=True)["disk"] == 123.0
    assert calibration.calibrate(machine())["disk"] == 123.0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"key": 3, "rates": {"disk": 1}}', b"[" * 100000])
def test_a_damaged_cache_costs_a_probe(cache, content):
    calibration.calibrate(machine())
    for file in cache.iterdir():
        file.write_bytes(content)
    assert calibration.calibrate(machine())["disk"] > 0
    key = machine().disk_key
    assert json.loads(calibration._read(calibration._file(key)))["key"] == key


@pytest.mark.parametrize(
    "rates", [{"disk": -5}, {"disk": 1e-300}, {"disk": 1e9, "depth": 10**15}, {"disk": 1e9, "latency_s": 1e10}, {"product": {"Q99": 1e9}}]
)
def test_a_cache_with_senseless_rates_costs_a_probe(cache, rates):
    for key in (machine().disk_key, machine().compute_key):
        calibration._store(key, {**rates, "memory": 1e9, "op_s": 0.0})
    found = calibration.calibrate(machine())
    assert found["disk"] > 1e3 and found["depth"] <= 1024 and found["product"]["Q8_0"] > 0
    with load(bandwidths=None) as model:
        assert model.plan.predicted_tok_s


def test_a_cache_that_cannot_be_written_does_no_harm(cache, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert calibration.calibrate(machine())["disk"] > 0


def test_what_is_given_stands_above_all(cache, monkeypatch, tmp_path):
    for name in ("probe_disk", "probe_compute"):
        monkeypatch.setattr(calibration, name, lambda *_: pytest.fail("probed although given"))
    assert calibration.calibrate(machine(), RATES) == RATES
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps(RATES))
    assert calibration.calibrate(machine(), {"disk": 7.0}) == {**RATES, "disk": 7.0}
    (tmp_path / "rates.json").write_text(json.dumps(RATES))
    monkeypatch.setenv("AIRPY_BANDWIDTHS", str(tmp_path / "rates.json"))
    assert calibration.calibrate(machine()) == RATES
    assert not cache.exists()


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100000, "nowhere.json", "[]", '{"disk": -1}', '{"disk": "fast"}', '{"product": 3}', '{"tape": 3}', '{"disk": NaN}',
     '{"disk": 1e-300}', '{"depth": 1025}', '{"op_s": 1e9}', '{"disk": 1e999}', '{"product": {"Q99": 1}}'],
)  # fmt: skip
def test_given_ones_that_make_no_sense_are_refused(cache, monkeypatch, tmp_path, text):
    (tmp_path / "list.json").write_text("[]")
    monkeypatch.setenv("AIRPY_BANDWIDTHS", str(tmp_path / "list.json") if text == "[]" else text)
    with pytest.raises(errors.ArgumentError, match=r"(?i)bandwidths") as raised:
        calibration.calibrate(machine())
    assert "Errno" not in str(raised.value)


def test_a_file_that_is_no_text_is_no_bandwidths(cache, monkeypatch):
    monkeypatch.setenv("AIRPY_BANDWIDTHS", str(DEMO))
    with pytest.raises(errors.ArgumentError, match="AIRPY_BANDWIDTHS is no JSON"):
        calibration.calibrate(machine())


def test_runs_correct_the_disk_they_were_bound_by(cache):
    calibration._store(machine().disk_key, {"disk": 1e9, "block_bytes": 1 << 20, "depth": 4})
    assert not calibration.learn_disk(machine(), 1 << 20, 10.0)  # too little
    assert not calibration.learn_disk(machine(), 1 << 30, 0.1)  # too short
    assert calibration.calibrate(machine())["disk"] == 1e9
    assert calibration.learn_disk(machine(), 500_000_000, 1.0)
    rates = calibration.calibrate(machine())
    assert math.isclose(rates["disk"], 0.7e9 + 0.3 * 5e8) and rates["depth"] == 4


def test_a_streamed_run_corrects_the_calibration(cache, monkeypatch):
    monkeypatch.setattr(calibration, "_LEARN_BYTES", 1 << 20)
    monkeypatch.setattr(calibration, "_LEARN_SECONDS", 0.0)
    calibration._store(machine().disk_key, {"disk": 1e15, "block_bytes": 1 << 20, "depth": 4})
    with load(io="direct", max_ram="6MiB", bandwidths=None) as model:
        model.generate([[1, 2, 3]], max_new_tokens=8, eos_token_id=[])
    assert calibration._load(machine().disk_key)["disk"] == 1e15  # small reads teach nothing about those that were probed
    calibration._store(machine().disk_key, {"disk": 1e15, "block_bytes": 4096, "depth": 4})
    with load(io="direct", max_ram="6MiB", bandwidths=None) as model:
        for _ in range(20):
            model.generate([[1, 2, 3]], max_new_tokens=8, eos_token_id=[])
            model.forget()
        if not model._learned.passes and calibration._load(model._machine.disk_key)["disk"] == 1e15:
            pytest.skip("this disk is too fast to wait for")
        assert calibration._load(model._machine.disk_key)["disk"] < 1e15


def kept_compute():
    return {"memory": 2e9, "op_s": 1e-5, "product": {"Q8_0": 1e9, "Q4_K": 1e9}, "product_columns": {"Q8_0": 1e10}}


def test_steps_faster_than_predicted_correct_what_a_bad_moment_left(cache):
    key, used = machine().compute_key, kept_compute()
    calibration._store(key, kept_compute())
    assert not calibration.learn_compute(machine(), "steps", used, 1.0, 0.1)  # too short
    assert not calibration.learn_compute(machine(), "steps", used, 0.0, 1.0)  # nothing was predicted
    assert calibration._load(key) == used
    for _ in range(20):
        assert calibration.learn_compute(machine(), "steps", used, 5.0, 1.0)
    kept = calibration._load(key)
    assert math.isclose(kept["product"]["Q8_0"], 5e9, rel_tol=0.01) and kept["product"]["Q4_K"] == 1e9  # no type of this file
    assert math.isclose(kept["op_s"], 2e-6, rel_tol=0.01)
    assert kept["memory"] == kept["product"]["Q8_0"] and kept["product_columns"] == used["product_columns"]
    assert calibration.learn_compute(machine(), "prompts", used, 2.0, 1.0)
    assert math.isclose(calibration._load(key)["product_columns"]["Q8_0"], 0.7e10 + 0.3 * 2e10)


def test_steps_slower_than_predicted_are_believed_slowly(cache):
    key, used = machine().compute_key, kept_compute()
    calibration._store(key, kept_compute())
    assert calibration.learn_compute(machine(), "steps", used, 1.0, 2.0)
    kept = calibration._load(key)
    assert math.isclose(kept["product"]["Q8_0"], 0.975e9) and math.isclose(1 / kept["op_s"], 0.975e5) and kept["memory"] == 2e9


def test_a_run_that_fits_corrects_compute(cache, monkeypatch):
    monkeypatch.setattr(calibration, "_LEARN_SECONDS", 0.0)
    with load(bandwidths=None) as model:
        key, ids = model._machine.compute_key, [[5, 6, 7] * 40]
        slow = {**calibration._load(key), "op_s": 1.0, "product": {"Q8_0": 1e6}, "product_columns": {"Q8_0": 1e6}}
    calibration._store(key, slow)
    with load(bandwidths=None) as model:
        model.generate(ids, max_new_tokens=4, eos_token_id=[])  # its prompt's pass is the model's first
        steps = calibration._load(key)
        assert steps["product"]["Q8_0"] > 1e6 and steps["op_s"] < 1.0 and steps["product_columns"] == slow["product_columns"]
        model.forget()
        model.generate(ids, max_new_tokens=1, eos_token_id=[])
        assert calibration._load(key)["product_columns"]["Q8_0"] > 1e6


def test_probes_stay_inside_the_budget():
    gguf = _core.GGUF(str(DEMO))
    assert machine_for(gguf, 0, "", 2 << 20).max_bytes == 2 << 20
    assert machine_for(gguf, 0, "", 1 << 40).max_bytes == gguf.bytes  # a small file is read from the cache, so it is probed there


def test_disks_have_names():
    name = calibration._device(str(DEMO))
    assert name != "unknown" and f"{os.major(os.stat(DEMO).st_dev)}:" in name
    assert calibration._device("/nowhere/at/all") == "unknown"


# ---- sizes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4GiB", 4 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("2g", 2 << 30),
        ("1k", 1024),
        (7, 7),
        ("8 b", 8),
        ("0" * 5000 + "8", 8),
        (str((1 << 63) - 1), (1 << 63) - 1),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


def test_what_is_no_size_is_refused():
    long = ("9" * 400 + ".0GiB", "9" * 5000, 10**400, -(10**5000))
    for size in (0, -1, "0", "0.4", "8589934592GiB", "1e3", "", True, 1.5, None, *long):
        with pytest.raises(errors.ArgumentError, match="max_ram"):
            parse_size(size, "max_ram")


def test_sizes_and_times_are_written():
    assert [format_size(n) for n in (0, 999, 1536, 5 << 20, 123 << 20, 3 << 40)] == [
        "0 B", "999 B", "1.5 KiB", "5.0 MiB", "123 MiB", "3.0 TiB",
    ]  # fmt: skip
    assert [format_time(s) for s in (3e-6, 0.00231, 1.5, 600, 9000)] == ["3 µs", "2.31 ms", "1.5 s", "10 min", "2 h 30 min"]
    assert format_rate(2.154e9) == "2.15 GB/s" and format_rate(5e6) == "5.0 MB/s"
