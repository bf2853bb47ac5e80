"""Plans for another machine, with a device or without: a model of 70 billion weights, of which there is a header alone."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from models import DEMO, RATES, golden

from airpy import Plan, _core, errors
from airpy.calibration import check_rates, parse_rates
from airpy.forecast import forecast
from airpy.sizes import format_size, parse_size

ASSUMED = "disk=3GB/s,link=25GB/s,device=900GB/s"
TOOL = Path(__file__).parents[2] / "tools" / "make_gguf.py"
MIB, GB = 1 << 20, 10**9


@pytest.fixture(autouse=True)
def no_probes(monkeypatch):
    monkeypatch.delenv("AIRPY_BANDWIDTHS", raising=False)
    for name in ("probe_disk", "probe_compute"):
        monkeypatch.setattr(_core, name, lambda *given, name=name: pytest.fail(name))


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """Llama 2 70B's tensors in Q4_K over a hole."""
    spec = importlib.util.spec_from_file_location("make_gguf", TOOL)
    assert spec and spec.loader
    make_gguf = importlib.util.module_from_spec(spec)
    sys.modules["make_gguf"] = make_gguf  # its dataclasses look their module up
    spec.loader.exec_module(make_gguf)
    (path,) = make_gguf.write(tmp_path_factory.mktemp("70b") / "70b.gguf", shape="70b", type="Q4_K", sparse=True)
    assert path.stat().st_size > 38 * GB and path.stat().st_blocks * 512 < 64 * MIB
    return path


def planned(path, vram, ram, **given):
    given = {"max_vram": vram and parse_size(vram), "max_ram": parse_size(ram)} | given
    return forecast(path, given, parse_rates(ASSUMED))


def table(plan, title):
    """Lines of a block of the plan's text, as lists of cells, by their first."""
    block = next(block for block in str(plan).split("\n\n") if block.startswith(title))
    rows = [re.split(r"\s{2,}", line) for line in block.splitlines()]
    return {row[0]: row[1:] for row in rows}


def figure(text):
    """Of a size as the text has it, and what its rounding may be."""
    number, unit = text.split()
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    return float(number) * scale, scale * (0.05 if "." in number else 0.5)


BUDGETS = [("24GB", "64GB"), ("8GB", "16GB"), ("2GB", "8GB"), ("48GB", "4GB"), ("80GB", "64GB")]


@pytest.mark.parametrize(("vram", "ram"), BUDGETS)
def test_the_figures_of_both_memories_add_up(header, vram, ram):
    plan = planned(header, vram, ram)
    state = 2 * 80 * 8 * 128 * 2 * plan["n_ctx"]  # K and V, layers, heads, values of two bytes
    assert plan["device_state_bytes"] == state and plan["state_bytes_full"] == 0 and plan["n_ctx"] % 64 == 0
    device_parts = ("fixed", "state_bytes", "activation_bytes_full", "ring_bytes", "pin_bytes", "graph_bytes")
    in_vram = sum(plan[f"device_{name}"] for name in device_parts)
    assert (plan["device_graph_bytes"] > 0) == (plan["device_weight_bytes"] == plan["weight_bytes"])
    in_ram = sum(plan[name] for name in ("fixed", "activation_bytes_full", "logit_bytes", "ring_bytes", "staging_bytes", "pin_bytes"))
    assert in_vram <= plan["device_budget"] == parse_size(vram) and in_ram <= plan["budget"] == parse_size(ram)
    if plan.linked_bytes:  # the rest is less than a tile
        assert plan["device_budget"] - in_vram < plan["tile_bytes"] <= 32 * MIB
        assert plan["device_ring_bytes"] <= 3 * plan["tile_bytes"]
    if plan.streamed_bytes:
        assert plan["budget"] - in_ram < plan["tile_bytes"] + 2 * MIB + plan["budget"] // 1024  # buffers of small reads, rows that are kept
    rows = [row for row in plan["weights"] if row[3]]
    assert sum(size for _, _, size, *_ in rows) == plan["weight_bytes"] > 38 * GB
    assert sum(device for *_, device in rows) == plan["n_device_tiles"]
    assert all(pinned + device <= tiles for _, _, _, tiles, pinned, device in rows)
    assert plan.linked_bytes == plan["weight_bytes"] - plan["device_weight_bytes"]


@pytest.mark.parametrize(("vram", "ram"), BUDGETS)
def test_the_printed_tables_add_up(header, vram, ram):
    plan = planned(header, vram, ram)
    weights, memory = table(plan, "weights"), table(plan, "memory")
    assert weights.pop("weights") == ["type", "bytes", "in VRAM", "locked RAM", "from disk"]
    assert weights.pop("embedding table")[2:] == ["by row"]
    size, *homes = map(figure, weights.pop("of a pass in all"))
    assert abs(sum(home for home, _ in homes) - size[0]) <= sum(slack for _, slack in [size, *homes])
    for _, _, *shares in weights.values():
        assert 99 <= sum(int(share.removesuffix(" %")) for share in shares) <= 101
    assert list(weights) == ["attention", "feed-forward", "output"]
    assert memory.pop("memory") == ["VRAM", "RAM"]
    budgets, sums = memory.pop("of"), memory.pop("in all")
    assert budgets == [format_size(parse_size(vram)), format_size(parse_size(ram))]
    for column in (0, 1):
        together, rounding = figure(sums[column])
        parts = [figure(row[column]) for row in memory.values()]
        assert abs(sum(part for part, _ in parts) - together) <= rounding + sum(slack for _, slack in parts)
        assert together <= figure(budgets[column])[0] + rounding
    assert max(map(len, str(plan).splitlines())) < 140


def test_what_bounds_a_pass_is_named_with_its_time(header):
    plan = planned(header, "24GB", "64GB")
    assert plan.bound == "link" and plan.streamed_bytes < 2 * MIB and plan["disk_s"] == 0
    assert plan["pass_s"] == plan["link_s"] == pytest.approx(plan.linked_bytes / 25e9)
    assert plan["device_s"] == pytest.approx(plan["weight_bytes"] / 900e9) and plan["compute_s"] == 0
    assert 1.2 < plan.predicted_tok_s < 1.6 and "bound by the link" in str(plan)
    assert re.search(r"takes 8 passes of 67\d ms or more", str(plan))  # how fast products of many rows are is not known
    rates = {**plan.bandwidths, "device_product_columns": {"Q4_K": 1e13}}
    many = forecast(header, {"max_vram": 24 * GB, "max_ram": 64 * GB}, rates)
    assert many["prompt_s"] == pytest.approx(many["max_rows"] * many["weight_bytes"] / 1e13, rel=0.01)
    assert many["pass_s"] == plan["pass_s"] and "or more" not in str(many)
    assert re.search(r"device reads, of VRAM +36\.0 GiB +900\.00 GB/s +42\.9 ms\n", str(plan))
    slower = forecast(header, {"max_vram": 24 * GB, "max_ram": 64 * GB}, {**plan.bandwidths, "device_product": {"Q4_K": 6e11}})
    assert re.search(r"device reads, of VRAM +36\.0 GiB +600\.00 GB/s", str(slower))
    plan = planned(header, "8GB", "16GB")
    assert plan.bound == "disk" and plan["pass_s"] == plan["disk_s"] == pytest.approx(plan.streamed_bytes / 3e9, rel=0.01)
    assert plan["link_s"] == pytest.approx(plan.linked_bytes / 25e9) and "bound by the disk" in str(plan)
    plan = planned(header, "48GB", "4GB")
    assert plan.bound == "device" and plan["link_s"] == plan["disk_s"] == plan["device_ring_bytes"] == plan["pin_bytes"] == 0
    assert plan["device_weight_bytes"] == plan["weight_bytes"] and "bound by the device" in str(plan)


def test_a_mixture_is_foretold_on_a_gpu_and_without_one():
    mixture = golden("qwen3moe")
    plan = forecast(mixture, {"max_vram": 24 * GB}, parse_rates(ASSUMED))
    assert plan.on_device and plan["device_expert_hit"] == 1 and "experts used most" in str(plan)
    plan = forecast(mixture, {"max_ram": GB}, parse_rates(ASSUMED))
    assert not plan.on_device and plan["device_expert_hit"] == plan["device_expert_bytes"] == 0


def test_a_compressed_state_is_counted_without_values():
    """Of each position a layer has 24 elements, whose values they are, and 8 that are rotated."""
    plan = forecast(golden("deepseek2-v2"), {"max_vram": 24 * GB, "n_ctx": 128}, parse_rates(ASSUMED))
    layers = _core.GGUF(str(golden("deepseek2-v2"))).metadata["deepseek2.block_count"]
    assert plan.on_device and plan["device_state_bytes"] == layers * (24 + 8) * 128 * 2


def test_what_nothing_is_known_of_is_no_prediction(header):
    """Small times that are known beside its bytes, such as a read's latency, would make a fast machine of it."""
    memory = {"max_vram": 24 * GB, "max_ram": 64 * GB}
    nothing = forecast(header, memory, {"disk": 3e9, "latency_s": 1e-4, "op_s": 1e-6})
    assert nothing["pass_s"] > 0 and nothing.predicted_tok_s is None and nothing.to_dict()["predicted_tok_s"] is None
    assert str(nothing).endswith("\n\na token       not known: how fast the device and the link would be is not (bandwidths)")
    assert "tokens/s" not in str(nothing) and "bounds it" not in str(nothing)
    some = forecast(header, memory, parse_rates("disk=3GB/s,link=25GB/s"))
    assert 1.2 < some.predicted_tok_s < 1.6
    assert "bound by the link, unless the device takes longer, which is not known\n" in str(some)
    assert re.search(r"keeps all of it: speed unknown\n", str(some))  # when nothing crosses the link
    by_type = forecast(header, memory, {"disk": 3e9, "link": 25e9, "device_product": {"Q4_K": 6e11}})
    assert "not known" not in str(by_type) and re.search(r"device reads, of VRAM +36\.0 GiB +600\.00 GB/s", str(by_type))


def test_rates_of_several_devices_are_told_from_each_other(header):
    budgets = {"max_vram": (24 * GB, 8 * GB), "max_ram": 64 * GB}
    text = str(forecast(header, budgets, parse_rates("disk=3GB/s,link=25GB/s+12GB/s,device=900GB/s+300GB/s")))
    assert re.search(r"^2 devices read +\d+\.\d GiB +1\d{3}\.\d+ GB/s in all +", text, re.M)
    budgets["max_vram"] = (24 * GB, 24 * GB)
    text = str(forecast(header, budgets, parse_rates("disk=3GB/s,link=25GB/s+12GB/s,device=900GB/s")))
    assert re.search(r"^2 links bring +0 B +- +-$", text, re.M)  # and not the rate of the first


def test_the_cpu_takes_as_long_as_the_link(header):
    """Where it is known how fast it is, while devices read memory too; and not where something else bounds a pass."""
    rates = parse_rates(ASSUMED + ",memory=60GB/s")
    memory = {"max_vram": 24 * GB, "max_ram": 64 * GB}
    plan, without = forecast(header, memory, rates), forecast(header, {**memory, "cpu_share": 0.0}, rates)
    assert without["n_host_tiles"] == 0 and without.bound == "link" and without["compute_s"] == 0
    assert plan["pass_s"] < 0.5 * without["pass_s"]
    waits = plan["compute_s"] - plan["host_weight_bytes"] / 35e9  # while the device computes what the CPU has no part of
    assert 0 < waits < plan["device_s"] and plan["compute_s"] == pytest.approx(plan["link_s"], rel=0.01)
    assert plan["prompt_s"] == pytest.approx(without["prompt_s"], rel=0.01)  # rows of prompts are the device's
    assert "CPU computes, in RAM" in str(plan) and "CPU computes" not in str(without)
    half = forecast(header, {**memory, "cpu_share": 0.5}, rates)
    assert half["host_weight_bytes"] == pytest.approx(half.away_bytes / 2, rel=0.01)
    assert Plan(half.to_dict()) == half and half.to_dict()["options"]["cpu_share"] == 0.5
    for other in ({"memory": 0.0}, {"disk": 1e8}, {"handover_s": 1.0}, {"link": 1e12}):
        poor = forecast(header, {"max_vram": 24 * GB, "max_ram": 16 * GB}, rates | other)
        assert poor["n_host_tiles"] == 0, other


def test_several_devices_share_weights_and_links(header):
    plan = planned(header, None, "64GB", max_vram=(10 * GB, 20 * GB))
    one, (two,) = planned(header, "10GB", "64GB"), plan["helpers"]
    assert plan["device_weight_bytes"] == pytest.approx(one["device_weight_bytes"] + two["weight_bytes"], rel=0.01)
    assert two["weight_bytes"] > 18 * GB and two["linked_bytes"] == pytest.approx(plan.linked_bytes / 2, rel=0.01)
    assert plan["link_s"] == pytest.approx(plan.linked_bytes / 50e9, rel=0.01)
    assert table(plan, "memory")["memory"] == ["VRAM 1", "VRAM 2", "RAM"] and "2 links bring" in str(plan)
    both = planned(header, None, "8GB", max_vram=(24 * GB, 24 * GB))
    assert both["device_weight_bytes"] == both["weight_bytes"] and both["device_ring_bytes"] == both["helpers"][0]["ring_bytes"] == 0
    assert both["device_s"] == pytest.approx(both["weight_bytes"] / 1.8e12, rel=0.1)
    assert planned(header, None, "8GB", max_vram=(48 * GB, 24 * GB))["helpers"] == []  # one alone is as fast, without handing over


def test_devices_are_each_given_what_their_links_and_memories_take_on(header):
    """Nothing but what is said of each, so that all are done with a token at the same time; and where they are not, the plan says why."""
    budgets = {"max_vram": (16 * GB, 12 * GB), "max_ram": 64 * GB}
    plan = forecast(header, budgets, parse_rates("disk=30GB/s,link=25GB/s+12.5GB/s,device=900GB/s+450GB/s"))
    first, second = plan["work"]
    assert first["linked_bytes"] == pytest.approx(2 * second["linked_bytes"], rel=0.02) and second["linked_bytes"] > GB
    assert first["link_s"] == pytest.approx(second["link_s"], rel=0.02) and plan.bound == "link"
    assert first["weight_bytes"] + second["weight_bytes"] == plan["weight_bytes"]
    assert Plan(plan.to_dict()) == plan and plan.bandwidths["helpers"] == [{"link": 12.5e9, "device": 450e9}]
    rows = table(plan, "each GPU")
    assert [row for row in rows if row.startswith("GPU")] == ["GPU 1", "GPU 2"] and "idle" not in str(plan) and "2 GPUs: " in str(plan)
    # A root port that both are behind: what they have at once is what counts.
    shared = forecast(header, budgets, parse_rates("link=25GB/s+25GB/s,link_together=10GB/s+15GB/s,device=900GB/s"))
    first, second = shared["work"]
    assert second["linked_bytes"] == pytest.approx(1.5 * first["linked_bytes"], rel=0.02)
    assert shared["link_s"] == pytest.approx(shared.linked_bytes / 25e9, rel=0.02)
    slow_disk = forecast(header, {**budgets, "max_ram": 8 * GB}, parse_rates("disk=1GB/s,link=25GB/s+12.5GB/s,device=900GB/s+450GB/s"))
    assert slow_disk.bound == "disk" and len(re.findall(r"idle \d+ % of the time: the disk takes longer", str(slow_disk))) == 2


def test_a_plan_says_which_device_has_nothing_to_do(header):
    alone = forecast(header, {"max_vram": (48 * GB, 24 * GB), "max_ram": 8 * GB}, parse_rates("link=25GB/s,device=900GB/s"))
    assert alone["helpers"] == [] and len(alone["work"]) == 1
    assert re.search(r"GPU 2 +idle: the first holds all weights, and handing over to another one costs more than it saves\n", str(alone))
    slow = forecast(header, {"max_vram": (24 * GB, 2 * GB), "max_ram": 64 * GB}, parse_rates("link=25GB/s,device=900GB/s+0.5GB/s"))
    assert slow["work"][1]["linked_bytes"] == 0 and slow.bound == "device"
    assert re.search(r"GPU 1 .*idle \d+ % of the time: GPU 2 takes longer\n", str(slow))


def test_a_link_as_fast_as_memory_leaves_the_cpu_some_of_it(header):
    rates = parse_rates("disk=3GB/s,link=50GB/s,device=900GB/s,memory=40GB/s")
    plan = forecast(header, {"max_vram": 24 * GB, "max_ram": 64 * GB, "cpu_share": 0.5}, rates)
    assert plan["host_weight_bytes"] > 0 and 0 < plan["compute_s"] - plan["host_weight_bytes"] / 10e9 < plan["device_s"]


def test_what_more_of_either_memory_would_bring(header):
    plan = planned(header, "8GB", "16GB")
    data = plan.to_dict()
    for key, option in (("more_ram", "max_ram"), ("more_vram", "max_vram")):
        half, all_of_it = data[key]
        assert half["share"] == 0.5 and all_of_it["share"] == 1 and half[option] < all_of_it[option]
        assert plan["pass_s"] > half["pass_s"] > all_of_it["pass_s"]
    assert data["more_ram"][1]["bound"] == "link" and data["more_vram"][1]["bound"] == "device"
    again = planned(header, str(data["more_vram"][1]["max_vram"]), "16GB", n_ctx=plan["n_ctx"])
    assert again["pass_s"] == data["more_vram"][1]["pass_s"]
    text = str(plan)
    assert "more VRAM" in text and "of what is away from VRAM now" in text and "of what streams now" in text
    assert "more RAM      would not help: nothing streams" in str(planned(header, "24GB", "64GB"))
    assert "more VRAM     would not help: nothing is away from VRAM" in str(planned(header, "48GB", "4GB"))
    slow = forecast(header, {"max_vram": 24 * GB, "max_ram": 8 * GB}, parse_rates("disk=100GB/s,link=1GB/s"))
    assert "more RAM      would not help: the link bounds a token" in str(slow)


def test_a_device_plan_is_kept_and_taken_back(header, tmp_path):
    plan = planned(header, "24GB", "64GB")
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan and str(loaded) == str(plan) and Plan.of(loaded.to_dict()) == plan
    assert repr(plan) == "Plan(synthetic 70b Q4_K, max_vram=22.4 GiB, max_ram=59.6 GiB, io=direct, bound=link)"
    gguf = _core.GGUF(str(header))
    options = loaded.engine_options(gguf)
    assert options["max_vram"] == 24 * GB and options["bandwidths"] == parse_rates(ASSUMED)
    solved = _core.solve_plan(gguf, fixed_bytes=0, **options)
    assert solved["n_device_tiles"] == plan["n_device_tiles"] and solved["pass_s"] == plan["pass_s"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["plan", "bound"], "tape"), (["plan", "n_device_tiles"], -1), (["plan", "device_budget"], 0.5), (["plan", "link_s"], None),
        (["plan", "weights", 0], ["x", "F32", 1, 1, 1]), (["plan", "weights", 0, 5], None), (["options", "max_vram"], "24GB"),
        (["options", "max_vram"], []), (["devices"], [3]), (["devices"], None), (["plan", "work"], []), (["plan", "work", 0, "link_s"], -1),
        (["bandwidths", "helpers"], [{"disk": 1}]), (["bandwidths", "deciding"], {"deciding": {}}), (["devices"], [{}] * 99),
        (["more_vram"], [{"max_ram": 1, "share": 1, "pass_s": 1}]), (["more_vram"], 3), (["bandwidths", "link"], -1),
    ],
)  # fmt: skip
def test_an_edited_device_plan_that_makes_no_sense_is_refused(header, path, value):
    data = copy.deepcopy(planned(header, "24GB", "64GB").to_dict())
    *parents, last = path
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(errors.ArgumentError):
        Plan(data)


def test_a_context_beyond_vram_lies_in_ram(header):
    plan = planned(header, "1.5GB", "16GB", n_ctx=4096)
    assert plan["n_ctx"] == 4096 and 0 < plan["away_blocks"] < 64
    assert re.search(r"KV cache +[\d.]+ MiB +[\d.]+ \wiB", str(plan)) and "KV cache on its way" in str(plan)
    assert plan["full_s"] > plan["pass_s"] and "of KV cache over the link" in str(plan)
    with pytest.raises(errors.BudgetError, match=r"^max_ram .* is too small by .*KV cache [\d.]+ MiB \(n_ctx 4096\)"):
        planned(header, "1.5GB", "800MB", n_ctx=4096)


def test_a_context_that_leaves_a_device_no_room_is_refused_and_a_shorter_one_works(header):
    with pytest.raises(errors.BudgetError, match=r"^max_vram 627\.0 MiB is too small by .*; lower n_ctx to \d+ or raise") as raised:
        planned(header, "627MiB", "16GB", n_ctx=4096)
    found = re.search(r"lower n_ctx to (\d+) or raise max_vram to ([\d.]+) MiB", str(raised.value))
    assert planned(header, "627MiB", "16GB", n_ctx=int(found[1]))["n_ctx"] == int(found[1])
    assert planned(header, f"{found[2]}MiB", "16GB", n_ctx=4096)["n_ctx"] == 4096
    assert 64 <= planned(header, "1.5GB", "16GB")["n_ctx"] < 4096
    with pytest.raises(errors.BudgetError, match=r"device context and small weights 5[78]\d\.\d; raise max_vram to"):
        planned(header, "300MB", "16GB")
    with pytest.raises(errors.BudgetError, match=r"^max_ram .* is too small by .*: activations 0.\d MiB, logits"):
        planned(header, "24GB", "10MB")


def test_without_a_device_another_machine_is_planned_as_this_one(header):
    plan = forecast(header, {"max_ram": 16 * GB}, parse_rates("disk=3GB/s,memory=50GB/s"))
    assert not plan.on_device and plan.bound == "disk" and plan["io"] == "direct" and plan.linked_bytes == 0
    assert "VRAM" not in str(plan) and "bound by the disk" in str(plan)
    plan = forecast(header, {"max_ram": 1 << 40}, parse_rates("disk=3GB/s,memory=50GB/s"))  # more than this machine has
    assert plan["io"] == "mmap" and plan.bound == "compute"


def test_a_small_model_lies_in_the_device_whole():
    plan = forecast(DEMO, {"max_vram": 1 << 30}, {"device": 9e11, "link": 1e10})
    assert plan["device_weight_bytes"] == plan["weight_bytes"] and plan.bound == "device"
    assert all(pinned == 0 and device == tiles for _, _, _, tiles, pinned, device in plan["weights"])


def test_rates_that_are_not_known_are_named(header):
    text = str(forecast(header, {"max_vram": 24 * GB, "max_ram": 64 * GB}, parse_rates("device=900GB/s")))
    rows = {line.split("  ")[0]: line.split()[-2:] for line in text.splitlines()}
    assert rows["disk reads"] == rows["link brings, from RAM"] == ["known", "-"] and rows["device reads, of VRAM"][-1] == "it"


# ---- bandwidths as text --------------------------------------------------------------------------------------------------------------


def test_bandwidths_are_read_as_people_write_them():
    assert parse_rates("disk=3GB/s, link = 25GB ,memory=50000000000") == {"disk": 3e9, "link": 25e9, "memory": 5e10}
    assert parse_rates("block_bytes=2MiB,depth=8,device_op_s=5e-6") == {"block_bytes": 2 << 20, "depth": 8, "device_op_s": 5e-6}
    assert check_rates({"device_product_columns": {"Q4_K": 1e13}}) == {"device_product_columns": {"Q4_K": 1e13}}
    several = parse_rates("link=25GB/s+12GB/s+6GB/s,device=900GB/s,device_op_s=5e-6+4e-6,memory=50GB/s")
    assert several["link"] == 25e9 and several["memory"] == 5e10 and [other["link"] for other in several["helpers"]] == [12e9, 6e9]
    assert [(other["device"], other["device_op_s"]) for other in several["helpers"]] == [(9e11, 4e-6), (9e11, 5e-6)]


@pytest.mark.parametrize(
    "text",
    ["", "disk", "disk=", "disk=fast", "tape=3GB/s", "product=3GB/s", "op_s=x", "op_s=nan", "depth=5000", "disk=1GB/h",
     "disk=1+2", "link=1GB/s+", "link=1+x", "link=" + "+".join(["1GB/s"] * 9)],
)  # fmt: skip
def test_bandwidths_that_make_no_sense_are_refused(text):
    with pytest.raises(errors.ArgumentError):
        parse_rates(text)


# ---- the command ---------------------------------------------------------------------------------------------------------------------


def test_the_command_plans_for_a_machine_that_is_described(airpy, header, tmp_path):
    command = ("plan", header, "--max-vram", "24GB", "--max-ram", "64GB", "--bandwidths", ASSUMED)
    code, out, err = airpy(*command, "--save", tmp_path / "plan.json")
    assert code == 0 and err == "" and "in VRAM" in out and "bound by the link" in out
    assert out == f"{Plan.load(tmp_path / 'plan.json')}\n"
    data = json.loads(airpy(*command, "--json")[1])
    assert data["options"]["max_vram"] == 24 * GB and data["plan"]["bound"] == "link" and data["bandwidths"]["link"] == 25e9


def test_the_command_says_what_is_wrong(airpy, header, tmp_path):
    assert "should be one of disk" in airpy("plan", header, "--max-vram", "24GB", "--bandwidths", "tape=1")[2]
    assert airpy("plan", header, "--max-vram", "many")[0] == 2
    code, _, err = airpy("plan", header, "--max-vram", "24GB", "--plan", "plan.json")
    assert code == 2 and "leave out --max-vram" in err
    code, _, err = airpy("plan", header, "--bandwidths", ASSUMED, "--probe")
    assert code == 2 and "leave out one" in err
    code, _, err = airpy("plan", header, "--cpu-share", "0.5", "--bandwidths", ASSUMED)
    assert code == 1 and "cpu_share is the CPU's part beside a GPU" in err
    code, _, err = airpy("plan", header, "--max-vram", "300MB", "--bandwidths", ASSUMED)
    assert code == 1 and "max_vram 286.1 MiB is too small by" in err and err.count("\n") == 1


def test_max_vram_alone_takes_the_disk_of_this_machine(airpy, monkeypatch):
    monkeypatch.setenv("AIRPY_BANDWIDTHS", json.dumps({name: rate for name, rate in RATES.items() if name not in ("link", "device")}))
    code, out, _ = airpy("plan", DEMO, "--max-vram", "594MiB", "--max-ram", "128MiB")
    assert code == 0 and re.search(r"^link brings, from RAM .* not known +-$", out, re.M)
    assert re.search(r"^disk reads .* 1\.00 GB/s", out, re.M)
