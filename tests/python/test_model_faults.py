"""What goes wrong on the way: failed allocations, failing disks, files that change. A typed error, and nothing leaked."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil

import pytest
from models import DEMO, RATES, golden, load, load_from

from airpy import _core, errors

PROMPT = [[5, 6, 7, 8]]


def open_and_generate():
    with load(golden("llama-gqa"), io="direct", max_ram="2MiB", bandwidths=RATES) as model:
        return model.generate(PROMPT, max_new_tokens=3, eos_token_id=[]).tolist()


def test_every_allocation_may_fail_from_opening_to_text():
    want = open_and_generate()
    gc.collect()
    live = _core.alloc_live()
    failed = 0
    for n in range(1, 5000):
        _core.alloc_fail_at(n)
        try:
            got = open_and_generate()
        except (MemoryError, errors.AirpyError):
            got = None
        hit = _core.alloc_failed()
        _core.alloc_fail_at(0)
        gc.collect()
        assert _core.alloc_live() == live, f"allocation {n} failed and something was left"
        if not hit:
            break
        failed += 1
        assert got is None or got == want
    assert failed > 50 and got == want


@pytest.mark.parametrize(("source", "error"), [("fail_at=60", errors.FileIOError), ("short_at=60", errors.FileChangedError)])
def test_a_failing_read_is_a_typed_error_and_the_next_call_works(source, error):
    with load_from(source) as model:
        with pytest.raises(error):
            for _ in range(20):
                model.generate(PROMPT, max_new_tokens=3, eos_token_id=[])
        with load() as sound:
            want = sound.generate(PROMPT, max_new_tokens=3, eos_token_id=[]).tolist()
        assert model.generate(PROMPT, max_new_tokens=3, eos_token_id=[]).tolist() == want


@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_a_file_that_shrinks_while_open_is_a_typed_error(tmp_path, io):
    path = tmp_path / "m.gguf"
    shutil.copy(DEMO, path)
    options = {"io": io, "max_ram": "6MiB"} if io == "direct" else {"io": io}
    with load(path, **options) as model:
        model.generate(PROMPT, max_new_tokens=2)
        os.truncate(path, 2 << 20)
        with pytest.raises((errors.FileChangedError, errors.FileIOError)):
            model.generate([[9, 8, 7]], max_new_tokens=8, eos_token_id=[])
        with pytest.raises(errors.AirpyError):
            model.generate([[9, 8, 7]], max_new_tokens=8, eos_token_id=[])


@pytest.mark.parametrize("keep", [0, 100, 20_000, 134_464, 3 << 20])
def test_a_truncated_file_is_refused_at_open(tmp_path, keep):
    path = tmp_path / "m.gguf"
    path.write_bytes(DEMO.read_bytes()[:keep])
    with pytest.raises(errors.FormatError, match="m.gguf: not a GGUF file: it is empty" if keep == 0 else "m.gguf: "):
        load(path)


def test_a_replaced_file_is_the_old_one_to_an_open_model(tmp_path):
    path = tmp_path / "m.gguf"
    shutil.copy(DEMO, path)
    with load(path, io="direct", max_ram="6MiB") as model:
        want = model.generate(PROMPT, max_new_tokens=4, eos_token_id=[]).tolist()
        (tmp_path / "new").write_bytes(b"something else")
        os.replace(tmp_path / "new", path)
        model.forget()
        with contextlib.suppress(errors.FileChangedError):  # said, not guessed
            assert model.generate(PROMPT, max_new_tokens=4, eos_token_id=[]).tolist() == want


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_os_error(tmp_path):
    path = tmp_path / "m.gguf"
    shutil.copy(DEMO, path)
    path.chmod(0)
    with pytest.raises(PermissionError):
        load(path)


def test_a_directory_named_like_a_model_is_refused(tmp_path):
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises((errors.AirpyError, OSError)):
        load(tmp_path / "m.gguf")
