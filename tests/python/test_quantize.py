"""airpy quantize: the types that llama.cpp chose (recorded by tests/golden/check_llama_cpp_files.py), files that the gguf package reads,
metadata as it was, bounded memory, and nothing left behind by what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from models import DEMO, GOLDEN, GOLDEN_NAMES, golden, load, run_python

import airpy
from airpy import _core
from airpy.errors import ArgumentError, FileChangedError, FileIOError, FormatError, MissingFileError, NumericError
from airpy.gguf_writer import GGUFWriter, TensorInfo
from airpy.quantization import MIXES, plan_quantize
from airpy.quantization.mixes import Facts, choose_types, facts_of, find_mix

sys.path.insert(0, str(GOLDEN))
import quantise_shapes

TEXT = (GOLDEN / "demo_val.txt").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The demo model in F16."""
    path = tmp_path_factory.mktemp("source") / "demo-f16.gguf"
    airpy.quantize(DEMO, "F16", path, allow_requantize=True, progress=False)
    return path


@pytest.fixture(scope="module")
def base() -> float:
    """The perplexity of what all are made from."""
    with load(DEMO) as model:
        return model.perplexity(TEXT, chunks=4).perplexity


def quantised(source: Path, type: str, output: Path, **options) -> Path:
    assert airpy.quantize(source, type, output, progress=False, **options) == os.fspath(output)
    return output


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def plain(value):
    return [plain(item) for item in value] if isinstance(value, list) else bytes(value) if isinstance(value, _core.Array) else value


# ---- mixes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", quantise_shapes.SHAPES)
def test_every_mix_makes_the_types_that_llama_cpp_makes(shape, tmp_path):
    recorded = json.loads((GOLDEN / "quantise_types.json").read_text())[shape]
    path = quantise_shapes.write(tmp_path / "shape.gguf", shape)
    assert set(recorded) == set(MIXES)
    for mix, want in recorded.items():
        plan = plan_quantize(path, mix, tmp_path / "out.gguf")
        assert quantise_shapes.summary({t.target.name: t.target.type for t in plan.tensors}) == want, mix


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_is_a_file_that_gguf_reads_and_the_engine_runs(mix, source, base, tmp_path):
    path = quantised(source, mix, tmp_path / "out.gguf")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[("ALL_" if mix == "F32" else "MOSTLY_") + mix]
    assert reader.fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION
    want, bits = weights_of(source), _core.GGUF(path).bytes * 8 / 5_770_496
    for name, got in weights_of(path).items():
        error = np.sqrt(((got - want[name]) ** 2).mean() / (want[name] ** 2).mean())
        assert error <= 0.32 and (got.ndim > 1 or error == 0), name  # two bits in Q2_K, all of a norm
    with load(path) as model:
        found = model.perplexity(TEXT, chunks=4).perplexity
    print(f"{mix}: {bits:.2f} bits, {found:.3f}, Q8_0 {base:.3f}")
    limit = {"Q2_K": 1.35, "Q3_K_S": 1.1, "Q3_K_M": 1.06, "Q3_K_L": 1.05}.get(mix, 1.03 if mix.startswith("Q4") else 1.01)
    assert base / 1.01 <= found <= base * limit


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_every_architecture_runs_with_fewer_bits(name, tmp_path):
    """Tiny random models, whose rows are mostly no whole blocks of 256: what is kept as it was is what the engine wants so. The median
    token's error: where two experts are nearly as good, another one is another token's worth, not a mistake."""
    logits = {}
    for type in (None, "Q8_0", "Q4_K_M"):
        path = golden(name) if type is None else quantised(golden(name), type, tmp_path / f"{type}.gguf")
        with load(path) as model:
            logits[type] = model(np.arange(1, 30)[None]).logits[0].astype(np.float64)
    base = logits[None]
    far = {type: np.median(((logits[type] - base) ** 2).sum(-1) / (base**2).sum(-1)) for type in ("Q8_0", "Q4_K_M")}
    print(name, far)
    assert far["Q8_0"] < 2e-3 and far["Q4_K_M"] < 0.1


def test_the_help_lists_every_mix():
    from airpy.cli.quantize import _DESCRIPTION

    assert re.findall(r"^  (\w+) +[\d.]+\b", _DESCRIPTION, re.MULTILINE) == list(MIXES)


@pytest.mark.parametrize(
    ("name", "want"), [("8bit", "Q8_0"), ("4BIT", "Q4_K_M"), ("q5_k", "Q5_K_M"), ("q4_k_s", "Q4_K_S"), ("bf16", "BF16")]
)
def test_names_are_taken_in_any_case_and_by_alias(name, want):
    assert find_mix(name).name == want


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(ArgumentError, match=r"type is 'Q9', but must be one of F32, F16, .*, 8bit"):
        find_mix("Q9")


def matrix(name: str, columns: int = 256, type: str = "F16") -> TensorInfo:
    return TensorInfo(name, type, (columns, 4))


def test_patterns_choose_first_and_pure_has_one_type():
    norm = TensorInfo("blk.0.n", "F32", (256,))
    tensors = [matrix("blk.0.ffn_down.weight"), matrix("blk.1.ffn_down.weight"), matrix("output.weight"), norm]
    facts = Facts(2, 1, 0)
    got = choose_types(find_mix("Q4_K_M"), tensors, facts, overrides=[(r"blk\.1\.", "q8_0"), ("ffn", "Q5_0")])
    assert got == ["Q5_0", "Q8_0", "Q6_K", "F32"]
    assert choose_types(find_mix("Q4_K_M"), tensors, facts, pure=True) == ["Q4_K", "Q4_K", "Q4_K", "F32"]
    assert choose_types(find_mix("F16"), tensors, facts, overrides=[("output", "Q8_0")]) == ["F16", "F16", "Q8_0", "F32"]


@pytest.mark.parametrize(("override", "message"), [
    (("attn", "Q8_0"), "'attn' is in no matrix's name"),
    (("blk.0.n", "Q8_0"), "'blk.0.n' is in no matrix's name"),
    (("(", "Q8_0"), r"'\(' is no regular expression"),
    (("ffn", "IQ2_XS"), "'IQ2_XS' is a type that airpy reads but does not write; it writes F32, F16"),
    (("ffn", "Q9"), "'Q9' is no type of tensors"),
])  # fmt: skip
def test_patterns_that_do_nothing_are_refused(override, message):
    tensors = [matrix("blk.0.ffn_up.weight"), TensorInfo("blk.0.n", "F32", (256,))]
    with pytest.raises(ArgumentError, match=message):
        choose_types(find_mix("Q4_0"), tensors, Facts(1, 1, 0), overrides=[override])


def test_rows_that_are_no_whole_blocks_take_other_types():
    tensors = [matrix("blk.0.a.weight", 288), matrix("blk.0.b.weight", 100), matrix("blk.0.c.weight")]
    for mix, want in {"Q4_K_S": "Q5_0", "Q5_K_S": "Q5_1", "Q6_K": "Q8_0", "Q3_K_S": "Q4_0", "Q8_0": "Q8_0"}.items():
        assert choose_types(find_mix(mix), tensors, Facts(1, 1, 0)) == [want, "F16", find_mix(mix).type]


def test_what_is_no_matrix_of_floats_stays():
    tensors = [
        TensorInfo("table.weight", "I32", (256, 4)), TensorInfo("blk.0.attn_q.bias", "F16", (256,)),
        matrix("blk.0.ffn_gate_inp.weight", type="F32"), matrix("blk.0.attn_q_norm.weight", type="BF16"),
        matrix("position_embd.weight", type="F32"), matrix("rope_freqs", type="F32"),
    ]  # fmt: skip
    assert choose_types(find_mix("Q4_K_M"), tensors, Facts(1, 1, 0)) == ["I32", "F32", "F32", "F32", "F32", "F32"]


def test_facts_that_are_missing_or_odd_count_as_none():
    assert facts_of({}) == Facts(1, 1, 0)
    numbers = _core.GGUF(DEMO).metadata["tokenizer.ggml.token_type"]
    odd = {"general.architecture": "x", "x.block_count": -3, "x.attention.head_count": 8, "x.attention.head_count_kv": numbers}
    assert facts_of(odd | {"x.expert_count": "many"}) == Facts(1, 8 // max(memoryview(numbers).tolist()), 0)


# ---- files -----------------------------------------------------------------------------------------------------------------------


def test_metadata_of_every_type_is_copied_as_it_was(tmp_path):
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    V = gguf.GGUFValueType
    for type_, value in {
        V.UINT8: 255, V.INT8: -128, V.UINT16: 65535, V.INT16: -32768, V.UINT32: 2**32 - 1, V.INT32: -(2**31), V.UINT64: 2**64 - 1,
        V.INT64: -(2**63), V.FLOAT32: 0.1, V.FLOAT64: 1e300, V.BOOL: True, V.STRING: "héé€\0😀",
    }.items():  # fmt: skip
        writer.add_key_value(f"one.{type_.name}", value, type_)
        writer.add_key_value(f"many.{type_.name}", [value] * 3, V.ARRAY, sub_type=type_)
    writer.add_key_value("nested", [[1, 2, 3], [4]], V.ARRAY)
    writer.add_key_value("words", [["a", "b"], ["c"]], V.ARRAY)
    writer.add_custom_alignment(128)
    writer.add_file_type(1)
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((3, 96), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(5, np.float32))
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        finish()
    out = quantised(path, "Q8_0", tmp_path / "out.gguf")
    before, after = _core.GGUF(path), _core.GGUF(out)
    changed = {"general.file_type": 7, "general.quantization_version": 2}
    assert list(after.metadata) == [*before.metadata, "general.quantization_version"]
    assert {k: plain(v) for k, v in after.metadata.items()} == {**{k: plain(v) for k, v in before.metadata.items()}, **changed}
    assert after.types == {**before.types, "general.quantization_version": ("u32", None)}
    assert after.alignment == 128 and all(offset % 128 == 0 for *_, offset, _ in after.tensors)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    assert fields["one.STRING"] == "héé€\0😀" and fields["many.UINT64"] == [2**64 - 1] * 3 and fields["nested"] == [1, 2, 3, 4]


def test_strings_that_are_no_utf_8_keep_their_bytes(tmp_path):
    path = tmp_path / "bytes.gguf"
    with GGUFWriter(os.fspath(path), [("text", ("string", None), "a\udcff"), ("none", ("array", "u8"), [])], []) as writer:
        writer.commit()
    out = _core.GGUF(quantised(path, "Q8_0", tmp_path / "out.gguf"))
    assert out.metadata["text"] == "a\udcff" and out.types["none"] == ("array", "u8")


def test_a_split_set_becomes_one_file(tmp_path):
    whole = quantise_shapes.make_gguf.write(tmp_path / "whole.gguf", type="F16", seed=3)[0]
    parts = quantise_shapes.make_gguf.write(tmp_path / "split.gguf", type="F16", seed=3, parts=3)
    one = quantised(whole, "Q4_K_M", tmp_path / "one.gguf")
    plan = plan_quantize(parts[1], "Q4_K_M")
    assert plan.output == os.fspath(tmp_path / "split-Q4_K_M.gguf")
    plan.write(progress=False)
    assert not [key for key in _core.GGUF(plan.output).metadata if key.startswith("split.")]
    assert Path(plan.output).read_bytes() == one.read_bytes()


def test_threads_change_nothing(source, tmp_path):
    files = [quantised(source, "Q4_K_M", tmp_path / f"{n}.gguf", threads=n).read_bytes() for n in (1, 2, 7)]
    assert files[0] == files[1] == files[2]


def test_weights_that_keep_their_type_keep_their_bits(tmp_path):
    out = quantised(DEMO, "Q8_0", tmp_path / "out.gguf")
    assert out.read_bytes() == DEMO.read_bytes()


def test_weights_that_are_quantized_already_are_refused_unless_allowed(tmp_path):
    message = r"is quantized already \(token_embd.weight and \d+ more would go from Q8_0 to Q6_K\), and errors add up; .*--allow-requantize"
    with pytest.raises(ArgumentError, match=message):
        airpy.quantize(DEMO, "Q4_K_M", tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())
    quantised(DEMO, "Q4_K_M", tmp_path / "out.gguf", allow_requantize=True)


@pytest.mark.parametrize(("name", "type", "want"), [
    ("m-f16.gguf", "4bit", "m-q4_k_m.gguf"), ("M-F16.gguf", "Q6_K", "M-Q6_K.gguf"), ("m.bf16.gguf", "8bit", "m.q8_0.gguf"),
    ("m.gguf", "Q4_0", "m-Q4_0.gguf"), ("f16.gguf", "Q4_0", "f16-Q4_0.gguf"), ("m-Q4_K_M.gguf", "F16", "m-F16.gguf"),
    ("a-f16-00002-of-00003.gguf", "8bit", "a-q8_0.gguf"),
])  # fmt: skip
def test_an_output_is_named_after_its_model(name, type, want):
    from airpy.quantization.requantize import _default_output

    assert _default_output(f"/somewhere/{name}", find_mix(type)) == f"/somewhere/{want}"


def test_outputs_that_would_do_harm_are_refused(source, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    with pytest.raises(ArgumentError, match=r"out\.gguf exists; give another output, or overwrite it"):
        airpy.quantize(source, "Q8_0", out)
    for self in (source, tmp_path / "link.gguf"):
        if self != source:
            os.link(source, self)
        with pytest.raises(ArgumentError, match="is the model itself"):
            airpy.quantize(source, "Q8_0", self, overwrite=True)
    with pytest.raises(ArgumentError, match="is a directory"):
        airpy.quantize(source, "Q8_0", tmp_path, overwrite=True)
    os.mkfifo(tmp_path / "pipe")  # what /dev/null is refused as, which would be a file afterwards
    with pytest.raises(ArgumentError, match="pipe is no regular file, and a model would take its place"):
        airpy.quantize(source, "Q8_0", tmp_path / "pipe", overwrite=True)
    with pytest.raises(MissingFileError):
        airpy.quantize(source, "Q8_0", tmp_path / "nowhere" / "out.gguf")
    assert out.read_text() == "precious"
    quantised(source, "Q8_0", out, overwrite=True)
    assert types_of(out)["token_embd.weight"] == "Q8_0" and out.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- what goes wrong leaves nothing ----------------------------------------------------------------------------------------------


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinite"), (1e5, "100000, but Q8_0 holds numbers up to 65504")])
def test_weights_that_are_no_numbers_are_named(value, what, tmp_path):
    path = tmp_path / "bad.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    bad = np.zeros((40, 64), np.float32)
    bad[30, 7] = value
    writer.add_tensor("blk.0.ffn_up.weight", bad)
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        finish()
    with pytest.raises(NumericError, match=f"^blk.0.ffn_up.weight: element 1927 is {what}"):
        airpy.quantize(path, "Q8_0", tmp_path / "out.gguf", progress=False)
    assert left(tmp_path) == ["bad.gguf"]


def test_a_disk_without_room_is_found_out_before_anything_is_written(source, tmp_path, monkeypatch):
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=1 << 20))
    with pytest.raises(FileIOError, match=r"out\.gguf takes 6\.\d MiB, but 1\.0 MiB are free there"):
        airpy.quantize(source, "Q8_0", tmp_path / "out.gguf", progress=False)
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_leaves_what_there_was(source, tmp_path, monkeypatch):
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    real, calls = os.pwrite, []

    def pwrite(fd, data, offset):
        calls.append(offset)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: max(1, len(data) // 2)], offset)  # and short writes are gone on with

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(FileIOError, match="No space left on device"):
        airpy.quantize(source, "Q8_0", out, overwrite=True, progress=False)
    assert left(tmp_path) == ["out.gguf"] and out.read_text() == "precious"


def test_a_source_that_is_cut_short_meanwhile_is_noticed(source, tmp_path):
    path = tmp_path / "short.gguf"
    path.write_bytes(source.read_bytes())
    plan = plan_quantize(path, "Q8_0", tmp_path / "out.gguf")
    os.truncate(path, path.stat().st_size - 100_000)
    with pytest.raises(FileChangedError, match=r"short\.gguf ends within .*; it was longer when its header was read"):
        plan.write(progress=False)
    assert left(tmp_path) == ["short.gguf"]


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really, only some text of some length")
    with pytest.raises((FormatError, airpy.UnsupportedError)):
        airpy.quantize(tmp_path / "x.gguf", "Q8_0")
    assert left(tmp_path) == ["x.gguf"]


def sparse(path: Path, elements: int) -> Path:
    """One matrix of zeros in F16, as a hole."""
    tensor = TensorInfo("a.weight", "F16", (4096, elements // 4096))
    with GGUFWriter(os.fspath(path), [("general.architecture", ("string", None), "llama")], [tensor]) as w:
        w.write(0, 2 * elements - 2, bytes(2))
        w._written = 2 * elements  # the rest is a hole
        w.commit()
    return path


def test_memory_is_bounded_whatever_the_size_of_a_tensor(tmp_path):
    """1 GiB of one tensor, with 32 MiB beside what the process began with."""
    path = sparse(tmp_path / "large.gguf", 1 << 29)
    code = """
import re, sys
import airpy, airpy.quantization
def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = most()
airpy.quantize(sys.argv[1], "Q8_0", sys.argv[2], progress=False, threads=2)
print(most() - before)
"""
    done = run_python(code, os.fspath(path), os.fspath(tmp_path / "out.gguf"))
    assert done.returncode == 0, done.stderr
    assert 1 << 10 < int(done.stdout) < 32 << 10, f"{int(done.stdout) >> 10} MiB"
    assert _core.GGUF(tmp_path / "out.gguf").tensors[0][-1] == (1 << 29) // 32 * 34


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    path = sparse(tmp_path / "large.gguf", 1 << 31)
    command = [sys.executable, "-m", "airpy", "quantize", os.fspath(path), "Q4_K_M", "-o", os.fspath(tmp_path / "out.gguf")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(airpy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env) as child:
        deadline = time.monotonic() + 60
        while not any(name.endswith(".part") for name in left(tmp_path)):
            assert child.poll() is None and time.monotonic() < deadline, child.stderr
            time.sleep(0.02)
        time.sleep(0.3)
        assert any(name.endswith(".part") for name in left(tmp_path))
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    assert left(tmp_path) == ["large.gguf"]


# ---- the writer ------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_whole_is_not_put_in_place(tmp_path):
    tensors = [TensorInfo("a", "F32", (8,)), TensorInfo("b", "F32", (8,))]
    path = str(tmp_path / "x")
    with pytest.raises(ArgumentError, match="32 bytes of tensors were written, of 64"), GGUFWriter(path, [], tensors) as writer:
        writer.write(0, 0, bytes(32))
        writer.commit()
    with pytest.raises(ArgumentError, match="b: 8 bytes at 28 of 32"), GGUFWriter(path, [], tensors) as writer:
        writer.write(1, 28, bytes(8))
    assert left(tmp_path) == []


@pytest.mark.parametrize(("type", "value"), [
    (("u8", None), 256), (("u32", None), -1), (("string", None), 5), (("array", "i8"), [200]), (("array", "f32"), memoryview(b"abc")),
    (("f32", None), "x"),
])  # fmt: skip
def test_values_that_a_type_does_not_hold_are_refused(type, value, tmp_path):
    with pytest.raises(ArgumentError, match=f"some.key is {type[0]} in the file, which does not hold"):
        GGUFWriter(str(tmp_path / "x"), [("some.key", type, value)], [])


# ---- the command -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(request):
    command = request.getfixturevalue("airpy")
    return lambda *arguments: command("quantize", *map(os.fspath, arguments))


def test_the_command_writes_a_file_and_says_so(run, source, tmp_path):
    out = tmp_path / "out.gguf"
    code, text, err = run(source, "4bit", "-o", out)
    assert (code, err) == (0, "") and re.match(rf"{out}: 3\.\d MiB, 5\.05 bits per weight, in [\d.]+ m?s \([\d.]+ .B/s read\)\n", text)
    assert types_of(out)["blk.0.attn_q.weight"] == "Q4_K"
    code, text, _ = run(source, "4bit", "-o", out, "--overwrite", "--json", "--tensor-type", "attn_q=Q5_1", "--threads", "1")
    answer = json.loads(text)
    assert code == 0 and answer["bytes"] == out.stat().st_size and answer["type"] == "Q4_K_M" and answer["output"] == str(out)
    assert types_of(out)["blk.0.attn_q.weight"] == "Q5_1"


def test_a_dry_run_shows_what_would_be_and_writes_nothing(run, source):
    code, text, _ = run(source, "Q4_K_M", "--dry-run")
    assert code == 0 and re.search(r"^blk\.0\.ffn_down\.weight +768 x 256 +F16 → Q\d_K +\d+ KiB$", text, re.MULTILINE)
    assert re.search(r"^output_norm\.weight +256 +F32 +1\.0 KiB$", text, re.MULTILINE)
    assert re.search(r"^11\.0 MiB → 3\.5 MiB, 5\.05 bits per weight: .*/demo-q4_k_m\.gguf$", text, re.MULTILINE)
    code, text, _ = run(source, "Q4_K_M", "--dry-run", "--json", "--pure")
    answer = json.loads(text)
    assert code == 0 and {row["to"] for row in answer["tensors"]} == {"Q4_K", "F32"}
    assert answer["target_bytes"] == sum(row["bytes"] for row in answer["tensors"])
    assert left(source.parent) == ["demo-f16.gguf"]


def test_progress_goes_up_to_the_end(source, tmp_path):
    calls: list[tuple[int, ...]] = []
    plan_quantize(source, "Q8_0", tmp_path / "out.gguf").write(progress=lambda *call: calls.append(call))
    assert calls == sorted(calls) and calls[-1] == (22, 22, 0, 1)  # MiB of float32


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["Q4"], 1, "type is 'Q4', but must be one of"),
    (["Q8_0", "--tensor-type", "Q8_0"], 2, "'Q8_0' is not PATTERN=TYPE"),
    (["Q8_0", "--tensor-type", "nothing=Q8_0"], 1, "'nothing' is in no matrix's name"),
    (["Q8_0", "--threads", "0"], 2, "0 is less than 1"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(run, source, capsys, arguments, code, message):
    try:
        got, _, err = run(source, *arguments)
    except SystemExit as error:
        got, err = error.code, capsys.readouterr().err
    assert got == code and message in err
