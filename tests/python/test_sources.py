"""from_pretrained() of directories with safetensors, of the hub, and with fewer bits: made once, kept, and by one process of several."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import serving
from models import DEMO, GOLDEN, golden, load, run_python

from airpy import _core, errors
from airpy.conversion.cache import Place, made_once
from airpy.sources import Wanted, find_source

sys.path.insert(0, str(GOLDEN))
import checkpoints


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRPY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def llama(tmp_path, cache):
    folder = tmp_path / "tiny-llama"
    checkpoints.write_checkpoint(folder, checkpoints.describe("llama"), shards=2)
    return folder


def logits(path, **options):
    data = np.load(checkpoints.FOLDER / "llama.npz")
    with load(path, kv_dtype="f32", **options) as model:
        return model(data["input_ids"]).logits[0][list(checkpoints.ROWS)], data["logits"]


def types(path):
    return {name: kind for name, kind, *_ in _core.GGUF(str(path)).tensors}


def test_a_directory_is_converted_once(llama, cache, monkeypatch):
    ours, theirs = logits(llama)
    assert np.square(ours - theirs).sum() <= 1e-6 * np.square(theirs).sum()
    (made,) = os.listdir(cache)
    assert made.startswith("tiny-llama-") and made.endswith(".gguf")
    before = os.stat(cache / made).st_mtime_ns
    monkeypatch.setattr("airpy.conversion.directory.plan_convert", None)  # nobody asks for it
    logits(llama)
    assert os.listdir(cache) == [made] and os.stat(cache / made).st_mtime_ns == before


def test_a_directory_that_changes_is_converted_anew(llama, cache):
    first = find_source(llama, Wanted()).path
    os.utime(llama / "tokenizer.json", ns=(5, 5))
    second = find_source(llama, Wanted()).path
    assert first != second and sorted(os.listdir(cache)) == sorted(map(os.path.basename, (first, second)))


def test_compression_is_the_type_and_folders_are_where_one_says(llama, cache, tmp_path):
    with load(llama, compression="8bit", layer_shards_saving_path=tmp_path / "mine") as model:
        assert model.tokenizer.decode([5]) and Path(model.path).parent == tmp_path / "mine"
    (made,) = os.listdir(tmp_path / "mine")
    assert made.startswith("tiny-llama-q8_0-") and not cache.exists()
    load(llama, load_in_8bit=True, layer_shards_saving_path=str(tmp_path / "mine")).close()
    assert os.listdir(tmp_path / "mine") == [made]
    load(llama, compression="Q5_K_M").close()
    assert os.listdir(cache)[0].startswith("tiny-llama-q5_k_m-")


def test_a_file_is_given_fewer_bits(cache):
    with load(golden("llama-gqa"), compression="8bit") as model:
        assert Path(model.path).parent == cache and types(model.path)["blk.0.ffn_down.weight"] == "F16"  # rows of 72 are no whole blocks
    with load(DEMO, compression="8bit") as model:
        assert model.path == str(DEMO)  # which has them already
    with pytest.raises(errors.ArgumentError, match="quantized already"):
        load(DEMO, compression="4bit")


def test_a_gguf_beside_the_safetensors_is_taken_as_it_is(llama, cache):
    shutil.copy(golden("qwen2"), llama / "other.gguf")
    with load(llama) as model:
        assert model.path == str(llama / "other.gguf")
    with load(llama, gguf_file="other.gguf") as model:
        assert model.path == str(llama / "other.gguf")
    assert not cache.exists()
    load(llama, compression="8bit").close()
    assert len(os.listdir(cache)) == 1


def test_originals_go_when_their_file_is_open_and_it_is_found_without_them(llama, cache):
    others = {name for name in os.listdir(llama) if not name.endswith(".safetensors")}
    before, _ = logits(llama, delete_original=True)
    assert set(os.listdir(llama)) == others
    after, _ = logits(llama)
    np.testing.assert_array_equal(before, after)
    assert len(os.listdir(cache)) == 1
    with pytest.raises(errors.MissingFileError, match="2 of 2 files"):  # of another type there is none
        load(llama, compression="8bit")


def test_originals_stay_where_the_file_does_not_open(llama):
    with pytest.raises(errors.BudgetError):
        load(llama, delete_original=True, max_ram="300KiB")
    assert sum(name.endswith(".safetensors") for name in os.listdir(llama)) == 2


def test_what_the_disk_does_not_give_back_is_no_file(llama, cache, monkeypatch):
    from airpy.gguf_writer import GGUFWriter

    monkeypatch.setattr(GGUFWriter, "read", lambda self, index, offset, size: bytes(size))
    with pytest.raises(errors.FileIOError, match="is not on the disk as it was written"):
        load(llama, delete_original=True)
    assert not list(cache.glob("*.gguf")) and sum(name.endswith(".safetensors") for name in os.listdir(llama)) == 2


def damage(path):
    data = bytearray(Path(path).read_bytes())
    data[-700] ^= 0x55
    Path(path).write_bytes(data)


def safetensors(folder):
    return sorted(path.name for path in Path(folder).rglob("*.safetensors"))


def test_originals_stay_until_a_file_of_before_is_what_they_make(llama, cache, monkeypatch):
    """Made by a call that did not read it back, and damaged since: it is made anew, and read back, before they go."""
    before, _ = logits(llama)
    (made,) = cache.glob("*.gguf")
    whole = made.read_bytes()
    damage(made)
    after, _ = logits(llama, delete_original=True)
    np.testing.assert_array_equal(before, after)
    assert made.read_bytes() == whole and safetensors(llama) == []
    assert logits(llama, delete_original=True)[0].tolist() == before.tolist()  # nothing is left to remove


def test_originals_go_where_a_file_of_before_is_what_they_make(llama, cache, monkeypatch):
    logits(llama)
    (made,) = cache.glob("*.gguf")
    written = os.stat(made)
    logits(llama, delete_original=True)
    after = os.stat(made)
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns) and safetensors(llama) == []


@pytest.mark.parametrize("cut", [1, 5000])
def test_a_file_of_before_that_is_no_whole_one_is_not_what_the_originals_make(llama, cache, cut):
    logits(llama)
    (made,) = cache.glob("*.gguf")
    os.truncate(made, os.stat(made).st_size - cut)
    ours, theirs = logits(llama, delete_original=True)
    assert np.square(ours - theirs).sum() <= 1e-6 * np.square(theirs).sum() and safetensors(llama) == []


def test_originals_that_cannot_be_removed_are_said(llama, monkeypatch):
    def refuse(path, *args, **kwargs):
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied", path)
        return unlink(path, *args, **kwargs)

    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(errors.FileIOError, match=r"Permission denied: .*\.safetensors"):
        load(llama, delete_original=True)


@pytest.mark.parametrize("harm", ["a part is missing", "the index is damaged"])
def test_what_was_made_before_stands_for_no_damaged_checkpoint(llama, harm):
    logits(llama)
    if harm == "a part is missing":
        (llama / "model-00002-of-00002.safetensors").unlink()
    else:
        (llama / "model.safetensors.index.json").write_text("{")
    with pytest.raises((errors.MissingFileError, errors.FormatError), match=r"1 of 2 files|index.json is no JSON"):
        load(llama)


def test_a_gguf_with_its_configuration_beside_it_is_given_fewer_bits(tmp_path, cache):
    folder = tmp_path / "as-repositories-of-gguf-files-are"
    folder.mkdir()
    shutil.copy(golden("llama-gqa"), folder)
    (folder / "config.json").write_text("{}")
    with load(folder, compression="8bit") as model:
        assert Path(model.path).parent == cache and Path(model.path).name.startswith("llama-gqa-q8_0-")


def test_folders_that_are_no_checkpoint_are_told_apart(llama, tmp_path):
    with pytest.raises(errors.ArgumentError, match="is an adapter; open the model that it is for"):
        load(GOLDEN / "adapters" / "llama-all")
    with pytest.raises(errors.ArgumentError, match="is a file of a checkpoint; give the directory"):
        load(llama / "model-00001-of-00002.safetensors")
    (llama / "config.json").unlink()
    with pytest.raises(errors.MissingFileError, match=r"no config\.json beside the safetensors"):
        load(llama)


ARGUMENTS = {
    "two types": ({"compression": "4bit", "load_in_8bit": True}, "ArgumentError", "4bit and 8bit at once"),
    "a type that nobody knows": ({"compression": "3bit"}, "ArgumentError", "compression is '3bit', but must be one of F32"),
    "a flag that is none": ({"load_in_4bit": 4}, "ArgumentError", "load_in_4bit is 4"),
    "delete_original as a text": ({"delete_original": "yes"}, "ArgumentError", "delete_original is 'yes'"),
    "a token that is none": ({"hf_token": True}, "ArgumentError", "token is bool; expected a text"),
    "two tokens": ({"hf_token": "a", "token": "b"}, "ArgumentError", "hf_token and token are two"),
    "a revision of a folder": ({"revision": "main"}, "ArgumentError", "revision is 'main', but .* is a folder here"),
    "a file that is not there": ({"gguf_file": "none.gguf"}, "MissingFileError", "none.gguf"),
    "another configuration": ({"quantization_config": {}}, "UnsupportedError", "compression="),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_go_together_badly_are_refused(name, llama):
    given, error, message = ARGUMENTS[name]
    with pytest.raises(getattr(errors, error), match=message):
        load(llama, **given)


def test_several_processes_make_one_file(llama, cache):
    code = ("import sys\nfrom airpy.sources import Wanted, find_source\nimport airpy.conversion.directory as directory\n"
            "original = directory.plan_convert\ndef plan(*a, **k):\n    print('made', flush=True)\n    return original(*a, **k)\n"
            "directory.plan_convert = plan\nprint(find_source(sys.argv[1], Wanted(progress=False)).path)")  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen([sys.executable, "-c", code, str(llama)], stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    said = "".join(child.communicate(timeout=120)[0] for child in children).split("\n")
    assert [child.returncode for child in children] == [0, 0, 0]
    (path,) = cache.iterdir()
    assert said.count("made") == 1 and said.count(str(path)) == 3


def test_what_fails_leaves_the_next_one_to_make_it(tmp_path):
    def fail(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(str(tmp_path / "m.gguf"), fail)
    assert made_once(str(tmp_path / "m.gguf"), lambda path: Path(path).touch()) == str(tmp_path / "m.gguf")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_names_of_places_are_file_names(tmp_path):
    place = Place(str(tmp_path), "a/../b\n" + "x" * 300, "Q4_K_M", "/where", "state")
    assert os.path.dirname(place.path()) == str(tmp_path) and len(os.path.basename(place.path())) < 150
    assert place.latest() is None
    Path(place.path()).touch()
    assert place.latest() == place.path() == Place(str(tmp_path), place.label, "Q4_K_M", "/where", "state").path()


# ---- the hub -----------------------------------------------------------------------------------------------------------

CHILD = """
import sys, json, airpy
from models import RATES
def say(path, **options):
    try:
        with airpy.AutoModel.from_pretrained(path, bandwidths=RATES, progress=False, **options) as model:
            print(json.dumps([model.path, model([[1, 2, 3]]).logits[0, -1, :3].tolist()]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
for path, options in json.loads(sys.argv[1]):
    say(path, **options)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as server:
        checkpoints.write_checkpoint(tmp_path / "hub" / "tiny", checkpoints.describe("llama"), shards=2)
        for name in ("pytorch_model.bin", "README.md", "onnx/model.onnx", "original/consolidated.safetensors", "training_args.json"):
            (tmp_path / "hub" / "tiny" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "hub" / "tiny" / name).write_bytes(b"not wanted")
        server.repositories["org/tiny"] = tmp_path / "hub" / "tiny"
        yield server


def ask(hub, tmp_path, *calls, **env):
    """What each of these from_pretrained() of one process gives: path and logits, or an error's class and words."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "AIRPY_CACHE_DIR": str(tmp_path / "cache"),
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "", "HF_HUB_OFFLINE": "0", **env}  # fmt: skip
    done = run_python(CHILD, json.dumps(calls), env=settings)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def downloads(hub):
    return sorted({path.split("/")[-1] for method, path in hub.asked if method == "GET" and "/resolve/" in path})


def test_a_repository_is_downloaded_converted_and_kept(hub, tmp_path):
    (first, again) = ask(hub, tmp_path, ("org/tiny", {}), ("org/tiny", {}))
    assert first == again and Path(first[0]).parent == tmp_path / "cache" / "models" and Path(first[0]).name.startswith("tiny-")
    assert downloads(hub) == ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                              "model.safetensors.index.json", "tokenizer.json"]  # fmt: skip
    assert _core.GGUF(first[0]).metadata["general.name"] == "tiny"
    assert ask(hub, tmp_path, ("org/tiny", {}), HF_HUB_OFFLINE="1") == [first]  # by what is kept
    gone = ask(hub, tmp_path, ("org/other", {}), ("org/tiny", {"compression": "8bit"}), HF_HUB_OFFLINE="1")
    assert gone[0][0] == "MissingFileError" and "the hub cannot be reached (HF_ENDPOINT is http://127.0.0.1" in gone[0][1]
    assert Path(gone[1][0]).name.startswith("tiny-q8_0-")  # made of what is in the hub's cache


def test_a_download_that_was_cut_goes_on_and_originals_go(hub, tmp_path):
    cut = "model-00002-of-00002.safetensors"
    hub.cut[cut] = 9000
    given = {"compression": "8bit", "delete_original": True, "layer_shards_saving_path": str(tmp_path / "mine")}
    answers = ask(hub, tmp_path, ("org/tiny", given), ("org/tiny", given))  # the library may have tried again in the first
    made = answers[-1]
    assert Path(made[0]).parent == tmp_path / "mine" and answers[0] in (made, ["FileIOError", answers[0][1]])
    assert len([file for file, _ in hub.ranges if file == cut]) == 2
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    assert len([path for path in (tmp_path / "hf").rglob("blobs/*") if path.is_file()]) == 3  # config, index, tokenizer
    hub.asked.clear()
    assert ask(hub, tmp_path, ("org/tiny", given)) == [made] and not downloads(hub)


def test_originals_in_the_hubs_cache_go_by_a_later_call(hub, tmp_path):
    """Also by one that finds its file made, once that is what they make."""
    (first,) = ask(hub, tmp_path, ("org/tiny", {}))
    damage(first[0])
    assert ask(hub, tmp_path, ("org/tiny", {"delete_original": True})) == [first]
    assert safetensors(tmp_path / "hf") == [] and len([path for path in (tmp_path / "hf").rglob("blobs/*") if path.is_file()]) == 3
    hub.asked.clear()
    assert ask(hub, tmp_path, ("org/tiny", {"delete_original": True})) == [first] and not downloads(hub)


def test_an_index_on_the_hub_that_is_none_is_refused(hub, tmp_path):
    indices = [b"[]", b'{"weight_map": []}', b'{"weight_map": {"a": ["x"]}}', b"{", b"\xff", b"[" * 100_000]
    for i, index in enumerate(indices):
        folder = tmp_path / "hub" / str(i)
        shutil.copytree(tmp_path / "hub" / "tiny", folder)
        (folder / "model.safetensors.index.json").write_bytes(index)
        hub.repositories[f"org/{i}"] = folder
    for kind, said in ask(hub, tmp_path, *((f"org/{i}", {}) for i in range(len(indices)))):
        assert kind == "FormatError" and "model.safetensors.index.json" in said


def test_the_command_converts_what_the_hub_has(hub, tmp_path):
    code = "import sys\nfrom airpy.cli.main import main\nprint(main(sys.argv[1:-1]), main(sys.argv[1:]))"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = run_python(code, "convert", "org/tiny", str(tmp_path / "m.gguf"), env=env)
    assert "airpy: name the file to write, such as tiny.gguf" in done.stderr and done.stdout.endswith("1 0\n")
    assert _core.GGUF(str(tmp_path / "m.gguf")).metadata["general.name"] == "tiny"


def test_matrices_behind_a_model_come_from_the_hub_as_well(hub, tmp_path):
    checkpoints.write_checkpoint(tmp_path / "hub" / "sentence", checkpoints.describe("gemma-embedding", checkpoints.ENCODERS))
    hub.repositories["org/sentence"] = tmp_path / "hub" / "sentence"
    code = "import sys\nfrom airpy.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = run_python(code, "convert", "org/sentence", str(tmp_path / "m.gguf"), env=env)
    assert done.returncode == 0, done.stderr
    assert {"dense_2.weight", "dense_3.weight"} <= set(types(tmp_path / "m.gguf"))
    assert _core.GGUF(str(tmp_path / "m.gguf")).metadata["gemma-embedding.pooling_type"] == 1


def test_what_the_hub_refuses_is_said(hub, tmp_path):
    hub.repositories["org/private"] = hub.repositories["org/tiny"]
    hub.private.add("org/private")
    pickles = tmp_path / "hub" / "pickles"
    pickles.mkdir()
    (pickles / "config.json").write_text("{}")
    (pickles / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
    hub.repositories["org/pickles"] = pickles
    said = ask(hub, tmp_path, ("org/none", {}), ("org/private", {}), ("org/private", {"hf_token": "secret"}), ("org/pickles", {}),
               ("org/tiny", {"revision": "nope"}), ("org/tiny", {"gguf_file": "x.gguf"}))  # fmt: skip
    assert said[0][0] == said[1][0] == "MissingFileError" and "give hf_token, if it is private" in said[1][1]
    assert said[2][0].endswith(".gguf")
    assert said[3][0] == "UnsupportedError" and "pytorch_model.bin alone; airpy loads no pickles" in said[3][1]
    assert said[4][0] == "MissingFileError" and "no such revision" in said[4][1]
    assert said[5][0] == "ArgumentError" and "holds no .gguf file" in said[5][1]
    assert not any(path.endswith(".bin") for _, path in hub.asked)


def test_a_repository_with_gguf_files_is_chosen_from(hub, tmp_path):
    folder = tmp_path / "hub" / "quants"
    folder.mkdir()
    for kind, source in (("Q8_0", "llama"), ("Q4_K_M", "llama-gqa"), ("Q4_K_S", "qwen2")):
        shutil.copy(golden(source), folder / f"tiny-{kind}.gguf")
    hub.repositories["org/quants"] = folder
    several, four, named, other = ask(
        hub, tmp_path, ("org/quants", {}), ("org/quants", {"compression": "4bit"}), ("org/quants", {"gguf_file": "tiny-Q8_0.gguf"}),
        ("org/quants", {"compression": "Q2_K"}))  # fmt: skip
    assert several[0] == "ArgumentError" and "holds 3 models, 3 for a choice" in several[1] and "tiny-Q4_K_S.gguf" in several[1]
    assert Path(four[0]).name == "tiny-Q4_K_M.gguf" and Path(named[0]).name == "tiny-Q8_0.gguf"
    assert other[0] == "ArgumentError" and "0 for compression Q2_K" in other[1]
    assert downloads(hub) == ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]
