"""Tables of the GPU benchmark's results: python -m tests.gpu.table [FILE…] → Markdown, of tests/gpu/results/*.json by default."""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.common import figure, percent, row
from tests.bench.table import cell

Json = dict[str, Any]
RESULTS = Path(__file__).with_name("results")


def rate(bytes_s: float) -> str:
    return f"{figure(bytes_s / 1e9)} GB/s"


def share_of(value: float, bound: float, what: str) -> str:
    return f", {percent(value / bound)} of {what}" if bound else ""


def known(found: Json, step: str, name: str) -> float:
    return float(found["steps"].get(step, {}).get(name, 0.0))


# ---- rows of each kind of step -------------------------------------------------------------------------------------------------------


def rows_of_runtime(f: Json) -> Iterator[Json]:
    yield row("machine", f"{'' if f['virtualised'] else 'not '}virtualised, {f['cpus']} CPUs, {f['memory_bytes'] / 2**30:.0f} GiB free; "
              f"models lie {'in memory' if f['folder_in_memory'] else 'on disk'}; direct reads there "
              f"{'work' if f['direct_reads'] else 'do not work'}")


def rows_of_link(f: Json) -> Iterator[Json]:
    if f.get("h2d"):
        yield row("link: page-locked, to the GPU", f"{rate(f['h2d'])}; in pieces of 2 MiB {rate(f['h2d_2mib'])}; back {rate(f['d2h'])}")
    else:
        yield row("link: page-locked memory", "cannot be had")
    text = f"pageable {rate(f.get('pageable', 0))}"
    if f.get("can_register"):
        text += f"; locked later {rate(f['registered'])}, locking itself {rate(f['register_rate'])}"
    yield row("link: other memory", text if f.get("can_register") else text + "; locking it later is refused")


def rows_of_probe(found: Json, f: Json) -> Iterator[Json]:
    """Plans' own figures beside the long measures."""
    link, back, read = known(found, "link", "h2d"), known(found, "link", "d2h"), known(found, "memory", "read")
    yield row("probe for plans: the link", f"{rate(f['link'])}{share_of(f['link'], link, 'the above')}; back {rate(f['link_back'])}"
              f"{share_of(f['link_back'], back, 'the above')}")
    yield row("probe for plans: the GPU", f"memory {rate(f['device'])}{share_of(f['device'], read, 'the above')}; a launch "
              f"{f['device_op_s'] * 1e6:.1f} µs, a hand-over {f['handover_s'] * 1e6:.1f} µs; its context "
              f"{f['device_context'] / 2**20:.0f} MiB at most")
    for name, one in f["device_product"].items():
        yield row(f"probe for plans: product {name}", f"{rate(one)}; of many columns "
                  f"{figure(f['device_product_columns'][name] / 1e12)} TB/s × columns")


def rows_of_products(found: Json, f: Json) -> Iterator[Json]:
    read = known(found, "memory", "read")
    for name, value in f.items():
        if " " not in name and name != "took_s":
            layer = f.get(f"{name} 4096x4096", 0.0)
            yield row(f"product {name}, one column", f"{rate(value)}{share_of(value, read, 'the memory')}; 4096 × 4096: {rate(layer)}"
                      f"{share_of(layer, read, 'it')}")


def rows_of_prompts(f: Json) -> Iterator[Json]:
    for name, value in f.items():
        if " x " in name:
            format, columns = name.split(" x ")
            kind = "halves" if format in ("F32", "F16", "BF16") else "bytes"
            peak = share_of(value, f.get(f"peak of {kind}", 0.0), f"the tensor cores on {kind}")
            yield row(f"product {format}, {columns} columns", f"{figure(value / 1e12)} TOPS{peak}")


def rows_of_attention(found: Json, f: Json) -> Iterator[Json]:
    read = known(found, "memory", "read")
    for name, value in f.items():
        kind, _, rest = name.partition(" ")
        if kind == "decode":
            yield row(f"attention of a token, {rest}", f"{rate(value)} of K and V{share_of(value, read, 'the memory')}")
        elif kind == "prompt":
            yield row(f"attention of 512 rows, {rest}", f"{figure(value / 1e12)} TFLOPS")


def bound_of(found: Json, plan: Json, passes: int = 1) -> tuple[float, str]:
    """Seconds that the bytes of so many passes take, and what takes them; 0 where a speed is not known."""
    read, link = known(found, "memory", "read"), known(found, "link", "h2d")
    linked = plan["weight_bytes"] - plan["device_weight_bytes"] - plan.get("host_weight_bytes", 0)
    times = {"the memory": plan["weight_bytes"] / read if read else 0.0, "the link": linked / link if link else 0.0}
    what = max(times, key=lambda name: times[name])
    return passes * times[what], what


def rows_of_decode(found: Json, name: str, f: Json) -> Iterator[Json]:
    plan, median = f["plan"], f["median_s"]
    predicted = plan.get("pass_s", 0.0)
    bound, what = bound_of(found, plan)
    host = plan.get("host_weight_bytes", 0)
    linked = plan["weight_bytes"] - plan["device_weight_bytes"] - host
    text = f"{figure(1 / median)} tokens/s"
    if bound:
        text += f", {percent(bound / median)} of the bound by {what} ({figure(1 / bound)})"
    if linked:
        text += f"; {linked / 1e9:.2f} of {plan['weight_bytes'] / 1e9:.2f} GB cross the link, {rate(linked / median)}"
    else:
        text += f"; {rate(plan['weight_bytes'] / median)}"
    if host:
        text += f"; the CPU computes with {host / 1e9:.2f} GB, {rate(host / median)}"
    if f["disk_bytes"] > 1e6:
        text += f"; {f['disk_bytes'] / 1e9:.2f} GB read from files, {rate(f['disk_bytes'] / median)}"
    if predicted:
        text += f"; {percent(predicted / median)} of the plan's {figure(1 / predicted)}"
    yield row(name, text)


def rows_of_prompt(found: Json, name: str, f: Json) -> Iterator[Json]:
    for length, one in f["prompts"].items():
        bound, what = bound_of(found, f["plan"], one["passes"])
        done = 2.0 * (int(length) * f["weights_per_token"] + f["weights_of_output"]) / one["seconds"]
        text = f"{figure(int(length) / one['seconds'])} tokens/s in {one['passes']} pass{'es' if one['passes'] > 1 else ''}"
        if bound:
            text += f", {percent(bound / one['seconds'])} of the bound by {what}"
        text += f"; {figure(done / 1e12)} TOPS{share_of(done, f['of_format'], 'the product’s')}"
        yield row(f"{name} of {length}", text)


def rows_of_peer(name: str, f: Json) -> Iterator[Json]:
    if "decode" in f:
        yield row(name, f"{figure(f['decode'])} tokens/s, a prompt of {f['tokens']} {figure(f['prompt'])}; "
                  f"{f['layers_on_gpu']} layers on the GPU")
    else:
        yield row(name, f"{figure(f['seconds_per_token'])} s a token")


def rows_of(name: str, found: Json) -> list[Json]:
    """The lines of a step."""
    f = found["steps"][name]
    for state, words in (("left_out", "left out"), ("failed", "FAILED")):
        if state in f:
            return [row(name, f"{words}: {f[state]}")]
    if name == "runtime":
        return list(rows_of_runtime(f))
    if name == "link":
        return list(rows_of_link(f))
    if name == "cpu":
        return [row("the CPU, for its share", f"memory {rate(f['memory'])}; products "
                    + ", ".join(f"{name} {rate(one)}" for name, one in f.get("product", {}).items()))]
    if name == "probe":
        return list(rows_of_probe(found, f))
    if name == "memory":
        return [row("memory of the GPU", f"read at {rate(f['read'])}, copied at {rate(f['copy'])} (read and written)")]
    if name.startswith("products"):
        return list(rows_of_products(found, f))
    if name.startswith("prompts"):
        return list(rows_of_prompts(f))
    if name == "attention":
        return list(rows_of_attention(found, f))
    if "llama.cpp" in name or name == "airllm":
        return list(rows_of_peer(name, f))
    return list(rows_of_prompt(found, name, f) if "prompts" in f else rows_of_decode(found, name, f))


def heading(found: Json) -> str:
    gpu = found["gpu"]
    facts = [gpu["name"], f"{gpu['memory_bytes'] / 2**30:.0f} GiB", f"driver {gpu['driver']}" if gpu.get("driver") else "",
             f"CUDA {found['cuda']}" if found.get("cuda") else "", f"commit {found['commit']}" if found.get("commit") else "",
             found["taken"][:10]]
    return ("EMULATED, figures mean nothing: " if found["emulated"] else "") + ", ".join(filter(None, facts))


def page(results: Sequence[Json]) -> str:
    """Markdown of all of them."""
    lines: list[str] = []
    for found in results:
        lines += [f"## {heading(found)}", "", "| what | measured |", "|---|---|"]
        lines += [f"| {cell(r['what'])} | {cell(r['text'])} |" for name in found["steps"] for r in rows_of(name, found)] + [""]
    return "\n".join(lines).rstrip() + "\n"


def main(words: Sequence[str] | None = None) -> int:
    ap = argparse.ArgumentParser("python -m tests.gpu.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("files", nargs="*", type=Path, metavar="FILE", help="results; default: all in tests/gpu/results")
    files = ap.parse_args(words).files or sorted(RESULTS.glob("*.json"))
    if not files:
        print(f"table: there are no results in {RESULTS}", file=sys.stderr)
        return 1
    print(page([json.loads(path.read_text()) for path in files]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
