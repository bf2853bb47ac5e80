"""Commands given a checkpoint's directory or a name on the hub: they open what from_pretrained() opens, and keep one file together."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from hub_server import serving
from models import GOLDEN, golden, load, run_python

from airpy import _core

sys.path.insert(0, str(GOLDEN))
import checkpoints

COMMANDS = {
    "generate": ("-p", "the cat", "-n", "4", "--stop", "x"), "plan": (), "inspect": (), "tokenize": ("-p", "the cat"),
    "embed": ("the cat",), "bench": ("--prompt-tokens", "4", "--tokens", "2"), "perplexity": (__file__, "--ctx", "16", "--chunks", "2"),
}  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRPY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def folder(tmp_path, cache):
    checkpoints.write_checkpoint(tmp_path / "tiny", checkpoints.describe("llama"), shards=2)
    return tmp_path / "tiny"


def test_every_command_takes_a_directory_and_one_file_serves_all(airpy, folder, cache):
    for command, arguments in COMMANDS.items():
        code, out, err = airpy(command, folder, *arguments, "--json")
        assert code == 0, (command, err)
        answer = json.loads(out)
        if command == "inspect":
            assert answer["paths"] == [str(path) for path in cache.glob("*.gguf")] and answer["architecture"] == "llama"
    (made,) = cache.glob("*.gguf")
    with load(folder) as model:
        assert model.path == str(made)
        want = model.generate(model.tokenizer("the cat")["input_ids"], max_new_tokens=4)[0]
    code, out, _ = airpy("generate", folder, "-p", "the cat", "-n", "4", "--json")
    assert json.loads(out)["ids"] == want[-4:].tolist()


def test_a_conversation_takes_a_directory(airpy, folder, cache, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    code, out, err = airpy("chat", folder, "--template", template, "-n", "2", "--json")
    assert code == 0, err
    assert json.loads(out) and len(list(cache.glob("*.gguf"))) == 1


VRAM: list[tuple[str, ...]] = [(), ("--max-vram", "1GiB")]  # for a machine that has such


def sizes_of(plan: str) -> dict:
    """What of a plan no rate of the disk changes."""
    found = json.loads(plan)
    return {"model": found["model"], **{name: found["plan"][name] for name in ("weights", "budget", "n_ctx", "pin_bytes", "io")}}


def test_what_reads_headers_makes_no_file(airpy, folder, cache):
    code, out, err = airpy("inspect", folder, "--compression", "8bit", "--tensors")
    assert (code, err) == (0, "") and out.startswith("a checkpoint, which would be GGUF 3 of 1") and "blk.1.ffn_down.weight" in out
    seen = json.loads(airpy("inspect", folder, "--compression", "8bit", "--tensors", "--json")[1])
    ids = json.loads(airpy("tokenize", folder, "-p", "the cat", "--json")[1])
    planned = [airpy("plan", folder, "--compression", "8bit", "--max-ram", "1GiB", "--json", *more)[1] for more in VRAM]
    assert airpy("plan", folder, "--compression", "8bit", "--save", folder / "plan.json")[0] == 0
    assert not list(cache.glob("*.gguf*"))
    code, _, err = airpy("generate", folder, "--compression", "8bit", "--plan", folder / "plan.json", "-p", "the cat", "-n", "1")
    assert code == 0, err
    (made,) = cache.glob("*.gguf")
    for more, before in zip(VRAM, planned, strict=True):
        assert sizes_of(airpy("plan", made, "--max-ram", "1GiB", "--json", *more)[1]) == sizes_of(before)
    assert {**seen, "paths": [str(made)]} == json.loads(airpy("inspect", folder, "--compression", "8bit", "--tensors", "--json")[1])
    assert ids == json.loads(airpy("tokenize", made, "-p", "the cat", "--json")[1])


def test_compression_is_from_pretraineds(airpy, folder, cache):
    code, _, err = airpy("tokenize", folder, "--compression", "8bit", "-p", "the")
    assert (code, err) == (0, "") and not list(cache.glob("*"))
    assert airpy("embed", folder, "the cat", "--compression", "8bit")[0] == 0
    (made,) = os.listdir(cache)
    assert made.startswith("tiny-q8_0-") and _core.GGUF(str(cache / made)).metadata["general.file_type"] == 7
    with load(folder, compression="8bit") as model:
        assert os.path.basename(model.path) == made
    code, _, err = airpy("inspect", folder, "--compression", "9bit")
    assert code == 1 and "compression is '9bit', but must be one of" in err


def test_one_of_several_files_is_chosen(airpy, tmp_path):
    for name in ("llama", "qwen2"):
        shutil.copy(golden(name), tmp_path / f"{name}.gguf")
    code, out, _ = airpy("inspect", tmp_path, "--gguf-file", "qwen2.gguf", "--json")
    assert code == 0 and json.loads(out)["architecture"] == "qwen2"
    code, _, err = airpy("inspect", tmp_path)
    assert code == 1 and "holds 2 models; choose one" in err
    for option in ("--revision", "--gguf-file"):
        code, _, err = airpy("generate", tmp_path / "llama.gguf", option, "x", "-p", "hi")
        assert code == 1 and f"{option[2:].replace('-', '_')} is 'x', but" in err


def test_nothing_is_made_for_a_command_line_that_is_wrong(airpy, folder, cache):
    code, _, err = airpy("generate", folder, "-p", "x", "--temp", "0", "--seed", "4")
    assert code == 2 and "--seed does nothing" in err
    code, _, err = airpy("plan", folder, "--probe", "--bandwidths", "disk=1GB/s")
    assert code == 2 and "leave out one of them" in err
    assert not cache.exists()


def test_quantize_takes_a_directory_as_convert_does(airpy, folder, cache, tmp_path):
    """From the safetensors, also where a .gguf file lies beside, unless that is named; nothing is kept elsewhere."""
    assert airpy("convert", folder, tmp_path / "want.gguf", "--type", "8bit")[0] == 0
    shutil.copy(golden("qwen2"), folder / "other.gguf")
    code, out, err = airpy("quantize", folder, "8bit", "-o", tmp_path / "found.gguf", "--json")
    assert code == 0 and json.loads(out)["architecture"] == "llama", err
    assert (tmp_path / "found.gguf").read_bytes() == (tmp_path / "want.gguf").read_bytes() and not cache.exists()
    code, out, err = airpy("quantize", folder, "8bit", "--gguf-file", "other.gguf", "--dry-run")
    assert code == 0 and "other-Q8_0.gguf" in out, err
    code, out, err = airpy("quantize", folder, "8bit", "--dry-run", "--tensor-type", "ffn_down=BF16")
    assert code == 0 and "F32 → BF16" in out and "tiny-Q8_0.gguf" in out, err
    code, _, err = airpy("quantize", folder, "9bit")
    assert code == 1 and "type is '9bit', but must be one of" in err


def test_doctor_measures_the_disk_that_a_checkpoint_is_on(airpy, folder, cache):
    code, out, err = airpy("doctor", folder, "--json")
    assert code == 0, err
    assert os.path.dirname(json.loads(out)["disk"]["path"]) == str(folder) and not list(cache.glob("*.gguf"))
    code, _, err = airpy("doctor", folder / "config.json" / "x", "--json")
    assert code == 1 and "Not a directory" in err


def test_a_name_on_the_hub_is_brought_once(tmp_path):
    checkpoints.write_checkpoint(tmp_path / "hub" / "tiny", checkpoints.describe("llama"))
    code = "import sys\nfrom airpy.cli.main import main\nfor name in ('tokenize', 'generate'): assert main([name, *sys.argv[1:]]) == 0"
    with serving() as hub:
        hub.repositories["org/tiny"] = tmp_path / "hub" / "tiny"
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
               "AIRPY_CACHE_DIR": str(tmp_path / "cache")}  # fmt: skip
        done = run_python(code, "org/tiny", "-p", "hi", "--json", "--revision", "main", env=env)
        brought = [path for method, path in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert [list(json.loads(line))[:2] for line in done.stdout.splitlines()] == [["ids", "pieces"], ["text", "ids"]]
    assert len(brought) == 1
    (made,) = (tmp_path / "cache" / "models").glob("tiny-*.gguf")
    assert _core.GGUF(str(made)).metadata["general.name"] == "tiny"


def test_ctrl_c_is_an_exception_while_a_file_is_made_and_ends_the_process_before_and_behind():
    code = """if True:
        import signal
        from airpy import command
        signal.signal(signal.SIGINT, command._leave)
        with command.interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is command._leave
        command.opened()
        with command.interruptible():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
