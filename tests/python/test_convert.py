"""airpy convert and airpy.convert(): types, what a file holds, going on where another run ended, and memory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from models import GOLDEN, load, run_python

import airpy
from airpy import _core, errors
from airpy.conversion import plan_convert

sys.path.insert(0, str(GOLDEN))
import checkpoints

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint in three files whose matrices have rows of whole blocks, and whose embedding is more than one piece."""
    description = checkpoints.describe("llama-gqa")
    config = {**description["config"], "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 4500}
    wide = {48: 256, 72: 512, 24: 128, 272: 4500}
    tensors = {name: [wide[axis] for axis in shape] for name, shape in description["tensors"].items()}
    made = tmp_path_factory.mktemp("converted") / "wide"
    checkpoints.write_checkpoint(made, {**description, "config": config, "tensors": tensors}, shards=3)
    return made


def tensors_of(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def fields_of(path):
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


def test_weights_stay_as_they_are_stored_unless_a_type_is_given(folder, tmp_path):
    path = airpy.convert(folder, tmp_path / "m.gguf", progress=False)
    found = tensors_of(path)
    assert {t.tensor_type.name for name, t in found.items() if "norm" not in name} == {"BF16"}
    assert {t.tensor_type.name for name, t in found.items() if "norm" in name} == {"F32"}
    stored = dict(checkpoints.weights({**checkpoints.describe("llama-gqa"), "tensors": {"model.embed_tokens.weight": [4500, 256]}}))
    want = checkpoints.stored(stored["model.embed_tokens.weight"], "BF16")
    assert found["token_embd.weight"].data.tobytes() == want  # the first that is drawn
    assert fields_of(path)["general.name"] == "wide" and fields_of(path)["general.file_type"] == 32


def test_a_type_is_what_quantize_makes_of_it_afterwards(folder, tmp_path):
    plain = airpy.convert(folder, tmp_path / "plain.gguf", progress=False)
    once = airpy.convert(folder, tmp_path / "once.gguf", "4bit", progress=False)
    twice = airpy.quantize(plain, "4bit", tmp_path / "twice.gguf", progress=False)
    assert {n: (t.tensor_type, t.data.tobytes()) for n, t in tensors_of(once).items()} == {
        n: (t.tensor_type, t.data.tobytes()) for n, t in tensors_of(twice).items()}  # fmt: skip
    assert fields_of(once) == fields_of(twice)


def test_the_command_writes_the_file_and_says_what_it_is(airpy, folder, tmp_path):
    code, out, err = airpy("convert", folder, tmp_path / "m.gguf", "--type", "Q8_0", "--tensor-type", "ffn_down=Q6_K", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["architecture"] == "llama" and facts["type"] == "Q8_0" and facts["bytes"] == os.path.getsize(tmp_path / "m.gguf")
    assert tensors_of(tmp_path / "m.gguf")["blk.1.ffn_down.weight"].tensor_type.name == "Q6_K"
    code, out, _ = airpy("convert", folder, tmp_path / "n.gguf")
    assert code == 0 and out.startswith(f"{tmp_path / 'n.gguf'}: llama, ") and "bits per weight, in" in out
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "n.gguf"]


def test_a_dry_run_writes_nothing(airpy, folder, tmp_path):
    code, out, _ = airpy("convert", folder, tmp_path / "m.gguf", "--type", "Q4_K_M", "--dry-run")
    assert code == 0 and "BF16 → Q6_K" in out and "BF16 → Q4_K" in out and not os.listdir(tmp_path)
    code, out, _ = airpy("convert", folder, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["output"] == str(folder / "wide-BF16.gguf") and len(json.loads(out)["tensors"]) == 29


def test_a_file_that_exists_is_left_alone(airpy, folder, tmp_path):
    (tmp_path / "m.gguf").write_text("mine")
    assert "exists; give another output" in airpy("convert", folder, tmp_path / "m.gguf")[2]
    assert "is a directory" in airpy("convert", folder, tmp_path)[2]
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is no regular file" in airpy("convert", folder, tmp_path / "pipe", "--overwrite")[2]
    assert "No such file" in airpy("convert", folder, tmp_path / "nowhere" / "m.gguf")[2]
    assert "is a file; a checkpoint is a directory; of a .gguf file airpy quantize" in airpy("convert", tmp_path / "m.gguf")[2]
    assert (tmp_path / "m.gguf").read_text() == "mine"
    assert airpy("convert", folder, tmp_path / "m.gguf", "--overwrite")[0] == 0


def test_room_is_asked_for_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(errors.FileIOError, match=r"takes \d.*MiB, but 1.*MiB are free there"):
        airpy.convert(folder, tmp_path / "m.gguf", progress=False)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("m.gguf")]


class Ended(Exception):
    pass


def end_after(pieces, folder, output, monkeypatch):
    """A run that ends after so many pieces; what it has read."""
    done = []
    original = _core.convert

    def convert(*args):
        if len(done) == pieces:
            raise Ended
        done.append(args[:2])
        return original(*args)

    with monkeypatch.context() as patch, plan_convert(folder, output, "Q4_K_M") as plan:
        patch.setattr("airpy.quantization.stream.convert", convert)
        if pieces < 1000:
            with pytest.raises(Ended):
                plan.write(threads=1, progress=False)
        else:
            plan.write(threads=1, progress=False)
    return len(done)


def test_what_was_written_is_not_made_again(folder, tmp_path, monkeypatch):
    whole = end_after(1000, folder, tmp_path / "whole.gguf", monkeypatch)
    first = end_after(17, folder, tmp_path / "m.gguf", monkeypatch)
    assert sorted(os.listdir(tmp_path)) == ["m.gguf.part", "m.gguf.part.journal", "whole.gguf"]
    assert first == 17 and end_after(1000, folder, tmp_path / "m.gguf", monkeypatch) == whole - 17
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "whole.gguf"]


@pytest.mark.parametrize("damage", ["data", "journal", "cut journal", "another source", "another type"])
def test_what_is_not_as_it_was_is_made_again(damage, folder, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    whole = end_after(1000, source, tmp_path / "whole.gguf", monkeypatch)
    end_after(17, source, tmp_path / "m.gguf", monkeypatch)
    partial, journal = tmp_path / "m.gguf.part", tmp_path / "m.gguf.part.journal"
    again = {"data": 1, "journal": 17, "cut journal": 1, "another source": 17, "another type": 17}[damage]
    if damage == "data":
        with open(partial, "r+b") as file:  # in the first piece, of the embedding, which is right behind the header
            file.seek(gguf.GGUFReader(tmp_path / "whole.gguf").data_offset + 4096)
            file.write(b"damaged!")
    elif damage == "journal":
        journal.write_bytes(b"\xff\x00garbage\n1 2 3\n")
    elif damage == "cut journal":
        journal.write_bytes(journal.read_bytes()[:-3])
    elif damage == "another source":
        os.utime(source / "model-00001-of-00003.safetensors", ns=(1, 1))
    else:
        with plan_convert(source, tmp_path / "m.gguf", "Q8_0") as plan:
            plan.write(progress=False)
        assert fields_of(tmp_path / "m.gguf")["general.file_type"] == 7
        return
    assert end_after(1000, source, tmp_path / "m.gguf", monkeypatch) == whole - 17 + again
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_two_processes_do_not_write_one_file(folder, tmp_path):
    (tmp_path / "m.gguf.part.journal").touch()
    with open(tmp_path / "m.gguf.part.journal") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(errors.FileIOError, match=r"another process is writing .*m.gguf.part"):
            airpy.convert(folder, tmp_path / "m.gguf", progress=False)
    airpy.convert(folder, tmp_path / "m.gguf", progress=False)


def test_ctrl_c_leaves_a_file_that_the_same_command_continues(folder, tmp_path):
    slow = ("import sys, time, airpy.quantization.stream as stream\nfrom airpy.cli.main import main\noriginal = stream.convert\n"
            "def convert(*a):\n    time.sleep(0.2)\n    return original(*a)\nstream.convert = convert\n"
            "sys.exit(main(sys.argv[1:]))")  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", slow, "convert", folder, tmp_path / "m.gguf", "--threads", "1"],
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    journal = tmp_path / "m.gguf.part.journal"
    deadline = time.monotonic() + 120
    while not (tmp_path / "m.gguf.part").exists():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130 and journal.exists() and not (tmp_path / "m.gguf").exists()
    airpy.convert(folder, tmp_path / "m.gguf", progress=False)
    with load(tmp_path / "m.gguf") as model:
        assert np.isfinite(model([[1, 2, 3]]).logits).all()


def test_the_tool_that_makes_large_checkpoints_makes_working_ones(tmp_path):
    sys.path.insert(0, str(GOLDEN.parents[1] / "tools"))
    import make_checkpoint

    make_checkpoint.write(tmp_path / "tiny", "tiny", "BF16", shard_gb=0.001)
    assert len(list((tmp_path / "tiny").glob("*.safetensors"))) == 4
    path = airpy.convert(tmp_path / "tiny", tmp_path / "m.gguf", "4bit", progress=False)
    with load(path) as model:
        logits = model(model.tokenizer.encode("Hello")).logits
        assert np.isfinite(logits).all() and 0.1 < logits.std() < 100


def test_memory_is_that_of_a_few_pieces(tmp_path):
    """98 MiB of weights, most of them in one tensor, of which no more than pieces are held."""
    config = {**checkpoints.describe("llama")["config"], "num_hidden_layers": 1, "hidden_size": 1024, "head_dim": 512, "vocab_size": 45000,
              "intermediate_size": 1024, "num_key_value_heads": 2, "tie_word_embeddings": True}  # fmt: skip
    shapes = {"model.embed_tokens.weight": (45000, 1024), "model.norm.weight": (1024,)}
    for part in ("q", "k", "v", "o"):
        shapes[f"model.layers.0.self_attn.{part}_proj.weight"] = (1024, 1024)
    for part in ("gate", "up", "down"):
        shapes[f"model.layers.0.mlp.{part}_proj.weight"] = (1024, 1024)
    shapes |= {f"model.layers.0.{name}_layernorm.weight": (1024,) for name in ("input", "post_attention")}
    tmp_path.joinpath("model").mkdir()
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    checkpoints.write_safetensors(tmp_path / "model" / "model.safetensors",
                                  {name: ("F16", shape, bytes(sizes[name])) for name, shape in shapes.items()})  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    checkpoints.tokenizer(300).save(str(tmp_path / "model" / "tokenizer.json"))
    code = """
import resource, sys
import airpy.conversion, tokenizers
from airpy.conversion import plan_convert
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
with plan_convert(sys.argv[1], sys.argv[2], "Q4_K_M") as plan:
    before = peak()
    plan.write(threads=2, progress=False)
    print(peak() - before)
"""
    done = run_python(code, str(tmp_path / "model"), str(tmp_path / "m.gguf"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48  # MiB: two threads' pieces, and what the interpreter grows by
