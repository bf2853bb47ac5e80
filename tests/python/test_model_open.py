"""AutoModel.from_pretrained: what it opens, what it refuses, what a model says of itself."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re
import shutil
import sys
import threading
import warnings

import pytest
from models import DEMO, RATES, golden, load, run_python

import airpy
from airpy import AutoModel, _core, errors


def test_every_public_name_is_there():
    for name in airpy.__all__:
        assert getattr(airpy, name) is not None
    assert set(airpy.__all__) <= set(dir(airpy))
    with pytest.raises(AttributeError, match="nothing"):
        _ = airpy.nothing


def test_a_model_says_what_it_is_under_hugging_faces_names():
    with load() as model:
        config = model.config
        assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", 256, 6)
        assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 64)
        assert (config.vocab_size, config.max_position_embeddings, config.intermediate_size) == (4096, 512, 768)
        assert config.tie_word_embeddings and config.eos_token_id == 0 and config.rope_theta == 10000
        assert config.to_dict()["vocab_size"] == 4096
        assert model.device == "cpu" and model.n_ctx == 512 and "airpy demo" in repr(model)
        assert model.generation_config.eos_token_id == [0]


def test_a_directory_with_one_model_is_that_model(tmp_path):
    shutil.copy(golden("llama"), tmp_path / "only.gguf")
    (tmp_path / "README.md").write_text("a model")
    with load(tmp_path) as model:
        assert model.config.num_hidden_layers == 2


def test_a_split_model_counts_as_one(tmp_path):
    make_gguf = pytest.importorskip("test_make_gguf").make_gguf
    make_gguf.write(tmp_path / "m.gguf", shape="tiny", type="Q8_0", parts=3)
    assert len(list(tmp_path.iterdir())) == 3
    with load(tmp_path) as model:
        assert model.generate([[1, 2, 3]], max_new_tokens=2, eos_token_id=[]).shape == (1, 5)


def test_a_directory_with_several_models_lists_them(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(golden("llama"), tmp_path / name)
    with pytest.raises(errors.ArgumentError, match=r"2 models.*a\.gguf, b\.gguf"):
        load(tmp_path)


def test_a_directory_without_a_model_says_so(tmp_path):
    with pytest.raises(errors.ArgumentError, match=r"no \.gguf file"):
        load(tmp_path)


@pytest.mark.parametrize("path", ["nowhere.gguf", "somebody/some-model", b"nowhere", ""])
def test_a_missing_file_is_one_error_under_every_name(path):
    for call in (load, lambda path: load(DEMO, plan=path, bandwidths=None), airpy.Tokenizer.from_gguf, airpy.Plan.load):
        with pytest.raises(errors.MissingFileError) as refused:
            call(path)
        error = refused.value
        assert isinstance(error, (errors.AirpyError, FileNotFoundError)) and isinstance(error, errors.FileIOError)
        assert isinstance(error, FileNotFoundError) and isinstance(error, errors.AirpyError)
        assert (error.errno, error.filename) == (errno.ENOENT, os.fsdecode(path))


def test_what_the_system_refuses_has_its_number_and_path(tmp_path, monkeypatch):
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(errors.FileIOError) as refused:
        load(tmp_path / "loop.gguf")
    assert (refused.value.errno, refused.value.filename) == (errno.ELOOP, str(tmp_path / "loop.gguf"))
    with load() as model, pytest.raises(errors.FileIOError) as refused:
        model.plan.save(tmp_path)
    assert refused.value.errno == errno.EISDIR


def test_too_many_open_files_say_what_to_do():
    done = run_python(
        "import hashlib, resource, sys; from airpy import AutoModel, AirpyError; import airpy.auto_model, airpy.tokenizer.build, numpy\n"
        "from airpy import _core\n"
        "files = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "try:\n"
        "    while True: files.append(open('/dev/null'))\n"
        "except OSError: pass\n"
        "for call in (AutoModel.from_pretrained, _core.GGUF):\n"
        "    try: call(sys.argv[1])\n"
        "    except AirpyError as error: print(error)",
        str(DEMO),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Too many open files; close some, or raise the limit (ulimit -n)") == 2


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("x\ud800.gguf", errors.ArgumentError, r"'x\\ud800.gguf' has a lone surrogate"),
        ("a\0b.gguf", errors.ArgumentError, "has a NUL character"),
        (3, errors.ArgumentTypeError, "path is int; expected a str or an os.PathLike"),
        (None, errors.ArgumentTypeError, "path is NoneType"),
    ],
)
def test_what_names_no_file_is_an_argument_error(path, error, message):
    for call in (load, airpy.Tokenizer.from_gguf, airpy.Plan.load):
        with pytest.raises(error, match=message):
            call(path)


def test_a_path_of_bytes_is_a_path(tmp_path):
    shutil.copy(golden("llama"), tmp_path / "only.gguf")
    for path in (tmp_path, tmp_path / "only.gguf"):
        with load(os.fsencode(path)) as model:
            assert model.config.num_hidden_layers == 2


def test_a_tokenizer_is_found_in_a_directory_as_a_model_is(tmp_path):
    shutil.copy(DEMO, tmp_path / "only.gguf")
    assert len(airpy.Tokenizer.from_gguf(tmp_path)) == 4096


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all", b"GGUF\x03\0\0\0" + b"\xff" * 40])
def test_a_file_that_is_no_model_is_a_format_error(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(errors.FormatError):
        load(tmp_path / "m.gguf")


def test_a_vocabulary_alone_is_no_model(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_types([1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert airpy.Tokenizer.from_gguf(tmp_path / "v.gguf").encode("ab") == [2]
    with pytest.raises(errors.AirpyError):
        load(tmp_path / "v.gguf")


@pytest.mark.parametrize("size", [64 << 20, "64MiB", "67108864", "0.0625 GiB"])
def test_max_ram_is_bytes_or_a_text(size):
    with load(max_ram=size) as model:
        assert model.stats()["budget"] == 64 << 20


@pytest.mark.parametrize("size", [0, -1, "lots", "4 parsec", "", 1.5, None.__class__, "9e99GiB", str(1 << 70)])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(errors.ArgumentError, match="max_ram"):
        load(max_ram=size)


def test_a_budget_that_cannot_do_says_what_is_missing():
    with pytest.raises(errors.BudgetError, match="raise max_ram"):
        load(max_ram="300KiB")


def test_unknown_arguments_are_type_errors_and_foreign_ones_say_what_to_do():
    with pytest.raises(TypeError, match="max_rum"):
        load(max_rum=3)
    with pytest.raises(errors.UnsupportedError, match="devices are"):
        load(device_map={"": 0})
    with pytest.raises(errors.ArgumentError, match="leave one of them out"):
        load(device="cpu", device_map="auto")
    with pytest.raises(errors.ArgumentError, match="quantized already"):
        load(load_in_4bit=True)
    with pytest.raises(errors.UnsupportedError, match="no code of a model is ever run"):
        load(trust_remote_code=True)
    load(device_map="auto", torch_dtype="auto", low_cpu_mem_usage=True).close()


@pytest.mark.parametrize(
    "options",
    [{"io": "fast"}, {"kv_dtype": "q4"}, {"n_ctx": 1 << 20}, {"threads": -1}, {"progress": 3}, {"n_ctx": True}, {"threads": True},
     {"n_ctx": 0}, {"threads": 0}, {"threads": 257}, {"n_ctx": 1.5}, {"threads": "2"}, {"io": 3}, {"kv_dtype": False}, {"plan": 3}],
)
def test_options_out_of_range_are_argument_errors(options):
    with pytest.raises(errors.ArgumentError, match=next(iter(options))):
        load(**options)


@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_a_relative_path_stays_the_file_wherever_the_process_goes(tmp_path, monkeypatch, io):
    shutil.copy(DEMO, tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    with load("model.gguf", io=io, max_ram="32MiB") as model:
        monkeypatch.chdir("/")
        assert model.generate([[1, 2]], max_new_tokens=2).shape == (1, 4)


@pytest.mark.parametrize("tier", ["ref", "avx2", "avx512", "neon", "dotprod", "i8mm", "sse9"])
def test_airpy_cpu_chooses_among_the_kernels_that_this_cpu_has(monkeypatch, tier):
    monkeypatch.setenv("AIRPY_CPU", tier)
    if tier in _core.TIERS:
        with load() as model:
            assert model.stats()["kernels"] == tier
    else:
        with pytest.raises(errors.ArgumentError, match=f"AIRPY_CPU is '{tier}', but what this CPU can run is {', '.join(_core.TIERS)};"):
            load()


def test_closing_twice_is_fine_and_a_closed_model_says_so():
    model = load()
    with model:
        pass
    model.close()
    assert "closed" in repr(model)
    for call in (lambda: model.generate([[1]]), lambda: model([[1]]), lambda: model.stream([1]), model.stats):
        with pytest.raises(errors.StateError):
            call()


def test_a_model_stays_on_the_cpu_and_where_it_is():
    with load() as model:
        assert model.eval() is model and model.to("cpu") is model and model.to(model.device) is model
        with pytest.raises(errors.UnsupportedError, match=r"to\(\): this is on 'cpu' and stays there; open it with"):
            model.to("cuda")
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(errors.UnsupportedError, match="neither copied nor pickled; pass its path on"):
                copied(model)


def test_close_in_another_thread_ends_a_generation():
    model = load(**{"io": "direct", "max_ram": "6MiB"})
    started, seen = threading.Event(), []

    def body():
        try:
            for _ in model.stream([1, 2], max_new_tokens=500, eos_token_id=[]):
                started.set()
        except errors.AirpyError as error:
            seen.append(type(error))

    thread = threading.Thread(target=body)
    thread.start()
    assert started.wait(20)
    model.close()
    thread.join(20)
    assert seen and seen[0] in (errors.StateError, errors.CancelledError)


def test_progress_may_be_a_callable_or_a_bar(capsys):
    from airpy.progress import PassBar, progress_for_call

    seen = []
    model = AutoModel.from_pretrained(DEMO, bandwidths=RATES, progress=lambda *at: seen.append(at))
    with model, progress_for_call(model._progress) as report:
        report(1, 6, 0, 2)
    assert seen == [(1, 6, 0, 2)]
    with PassBar() as bar:
        bar(1, 6, 0, 1)
        assert capsys.readouterr().err == ""  # not before a second has passed
        bar._started -= 2
        bar(3, 6, 0, 1)
    assert "3/6" in capsys.readouterr().err
    with progress_for_call(True, "step", 2.0) as bar:
        bar._started -= 1.5
        bar(1, 4, 0, 1)
        assert capsys.readouterr().err == ""
        bar._started -= 1
        bar(3, 4, 0, 1)
    assert re.search("3/4.*step", capsys.readouterr().err)


def test_a_notebook_has_tqdms_own_bar(monkeypatch, capsys):
    from types import SimpleNamespace

    from airpy.progress import NotebookBar, progress_for_call

    shell = SimpleNamespace(config={})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not isinstance(progress_for_call(True), NotebookBar)  # IPython in a terminal
    shell.config["IPKernelApp"] = {}
    assert not isinstance(progress_for_call(False), NotebookBar)
    bar = progress_for_call("auto", "window")
    assert isinstance(bar, NotebookBar)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm's, where ipywidgets is not there
        for _ in range(2):
            with bar:
                bar(1, 6, 0, 2)
                assert capsys.readouterr().err == ""  # not before a second has passed
                bar._started -= 2
                bar.note = "of interest"
                bar(3, 6, 1, 2)
                assert (bar._bar.n, bar._bar.total, bar._bar.unit) == (9, 12, "window") and bar._bar.postfix == "of interest"
                assert bar._bar.format_dict["elapsed"] >= 2
            assert bar._bar is None
            capsys.readouterr()


def test_the_bar_leaves_text_that_is_being_streamed_alone(monkeypatch, capsys):
    from airpy.progress import PassBar

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with PassBar() as bar:
        bar._started -= 4
        bar(3, 6, 0, 1)
    drawn = capsys.readouterr().err
    save, back = "\x1b7\r\n", "\x1b[K\x1b8"
    assert drawn.count(save) == drawn.count(back) == 2 and drawn.endswith(save + back)  # drawn below, and taken away
    assert "\r" not in drawn.replace(save, "") and "3/6" in drawn and "1.33s/layer" in drawn and "00:04<00:04" in drawn
