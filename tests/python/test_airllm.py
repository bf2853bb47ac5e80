"""What programs written for AirLLM find: its names, its arguments, its README's example; torch's tensors in and out."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from models import DEMO, GOLDEN, STREAMED, golden, load, run_python

import airpy
from airpy import AutoModel, errors

NAMES = [name for name in airpy.__all__ if name.startswith("AirLLM")]


def test_its_names_open_any_model():
    assert {"AirLLMLlama2", "AirLLMQWen", "AirLLMMistral", "AirLLMBaseModel"} <= set(NAMES)
    for name in NAMES:
        with getattr(airpy, name)(golden("qwen3"), progress=False, bandwidths={}) as model:
            assert isinstance(model, airpy.Model) and model.config.model_type == "qwen3"
    with airpy.AirLLMLlama2.from_pretrained(DEMO, progress=False) as model:
        assert model.config.model_type == "llama"
    with pytest.raises(errors.ArgumentTypeError, match=r"AutoModel.from_pretrained\(path\) opens a model"):
        AutoModel()


def test_its_arguments_come_by_position_and_by_name():
    with airpy.AirLLMLlama2(DEMO, "cpu", "float32", 128, progress=False) as model:
        assert model.device == "cpu" and model.n_ctx == 128 and model._options["kv_dtype"] == "f32"
    with load(max_seq_len=96, dtype="float16", prefetching=True, profiling_mode=False) as model:
        assert model.n_ctx == 96 and model._options["kv_dtype"] != "f32"
    with load(torch_dtype="float32", kv_dtype="q8_0") as model:
        assert model._options["kv_dtype"] == "q8_0"
    with load(max_seq_len=96, n_ctx=96) as model, pytest.raises(errors.ContextOverflowError):
        model.generate([[1] * 96], max_new_tokens=1)


def test_a_directory_is_converted_for_its_names_too(tmp_path):
    sys.path.insert(0, str(GOLDEN))
    from checkpoints import describe, write_checkpoint

    write_checkpoint(tmp_path / "model", describe("llama"))
    options = {"layer_shards_saving_path": tmp_path / "made", "compression": "8bit", "prefetching": True, "progress": False}
    with airpy.AirLLMLlama2(tmp_path / "model", max_seq_len=64, **options) as model:
        assert model.config.model_type == "llama" and model.n_ctx == 64
        assert "Q8_0" in str(model.plan) and list((tmp_path / "made").rglob("*.gguf"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_seq_len": 96, "n_ctx": 97}, errors.ArgumentError, "n_ctx is 97 and max_seq_len 96; leave one of them out"),
        ({"max_seq_len": -1}, errors.ArgumentError, "max_seq_len is -1"),
        ({"dtype": "int8"}, errors.UnsupportedError, "dtype='int8' is not supported; what is computed is float32"),
        ({"dtype": 16}, errors.UnsupportedError, "dtype=16 is not supported"),
        ({"profiling_mode": "yes"}, errors.ArgumentError, "profiling_mode is 'yes'; expected True or False"),
        ({"prefetching": 2}, errors.ArgumentError, "prefetching is 2; expected True or False"),
    ],
)
def test_arguments_that_make_no_sense_say_so(options, error, message):
    with pytest.raises(error, match=message):
        load(**options)


def test_prefetching_cannot_be_left_out():
    with pytest.warns(UserWarning, match="prefetching=False does nothing") as seen:
        AutoModel.from_pretrained(DEMO, prefetching=False, progress=False).close()
    assert seen[0].filename == __file__


def test_profiling_mode_prints_what_each_layer_took(capsys):
    """A profile of each call, as profile() takes it, which has the call instead where one is being taken."""
    with load(profiling_mode=True, **STREAMED) as model:
        model.generate([[1, 2, 3]], max_new_tokens=4, eos_token_id=[])
        lines, layers = capsys.readouterr().out.splitlines(), model.config.num_hidden_layers
        assert ": 4 passes of " in lines[0] and "read from disk at" in lines[0]
        assert [line.split()[0] for line in lines[2:]] == ["layer", *map(str, range(layers)), "outside"]
        assert all(re.search(r"^\d+ +[1-9][\d.]* (µs|ms|s) .* [1-9][\d.]* [KM]iB", line) for line in lines[3:-1])
        list(model.stream([1, 2, 3], max_new_tokens=1))
        assert ": 1 passes of " in capsys.readouterr().out
        with pytest.raises(errors.ArgumentError):
            model.generate([[1, 2, 3]], max_new_tokens=1, seed=-1)
        with model.profile() as profile:
            model.generate([[1, 2, 3]], max_new_tokens=1)
        assert capsys.readouterr().out == "" and profile.passes == 1 and [name for name, *_ in profile.spans] == ["generate"]
        model.prints_profile = False
        model.generate([[1, 2, 3]], max_new_tokens=1)
        assert capsys.readouterr().out == ""


# ---- its README's example, as printed but for .cuda() ---------------------------------------------------------------------

README = """
from airllm import AutoModel

MAX_LENGTH = 128
model = AutoModel.from_pretrained("Qwen/Qwen3-32B")

input_text = [
        'What is the capital of United States?',
        #'I like',
    ]

input_tokens = model.tokenizer(input_text,
    return_tensors="pt", 
    return_attention_mask=False, 
    truncation=True, 
    max_length=MAX_LENGTH, 
    padding=False)
           
generation_output = model.generate(
    input_tokens['input_ids'].cuda(), 
    max_new_tokens=20,
    use_cache=True,
    return_dict_in_generate=True)

output = model.tokenizer.decode(generation_output.sequences[0])

print(output)
"""  # noqa: W291, W293


def example(kind):
    """The example with airpy's name and a model that is here, without a GPU."""
    text = README.replace("from airllm import", "from airpy import").replace(".cuda()", "").replace('"pt"', repr(kind))
    return text.replace('"Qwen/Qwen3-32B"', repr(str(DEMO)))


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_the_example_of_its_readme_runs_as_printed(kind):
    if kind == "pt":
        pytest.importorskip("torch")
    done = run_python(example(kind))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("What is the capital of United States?") and len(done.stdout) > 45


def test_a_mask_is_left_out_where_it_is_not_wanted():
    with load() as model:
        assert list(model.tokenizer(["a b"], return_attention_mask=False)) == ["input_ids"]
        assert list(model.tokenizer("a b", return_attention_mask=False)) == ["input_ids"]
        for wanted in (True, None):
            assert list(model.tokenizer(["a b"], return_attention_mask=wanted)) == ["input_ids", "attention_mask"]
        with pytest.raises(errors.ArgumentError, match="return_attention_mask is 'no'; expected one of None, True, False"):
            model.tokenizer(["a b"], return_attention_mask="no")


# ---- torch ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model():
    with load() as model:
        yield model


def test_tensors_in_are_tensors_out(torch, model):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    how = {"max_new_tokens": 4, "eos_token_id": []}
    want = model.generate(ids.numpy(), **how)
    out = model.generate(ids, torch.ones_like(ids), **how)
    assert isinstance(out, torch.Tensor) and out.dtype == torch.int64 and out.device == ids.device
    np.testing.assert_array_equal(out.numpy(), want)
    np.testing.assert_array_equal(model.generate([ids[0], ids[1]], **how).numpy(), want)
    kept = model.generate(ids, **how, return_dict_in_generate=True, output_scores=True, output_logits=True)
    assert isinstance(kept.sequences, torch.Tensor) and all(isinstance(step, torch.Tensor) for step in kept.scores + kept.logits)
    assert torch.equal(kept.scores[0].argmax(-1), out[:, 3])
    logits = model(ids).logits
    assert isinstance(logits, torch.Tensor) and torch.equal(logits[:, -1].argmax(-1), out[:, 3])


def test_nothing_is_copied_on_the_way_out(torch, model):
    from airpy.generation.tensors import like

    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    tensor = like(array, torch.tensor([1]))
    tensor[0, 0] = 77
    assert array[0, 0] == 77 and like(array, [1]) is array


def test_torchs_callables_get_tensors(torch, model):
    seen = []

    class Mine:
        def __call__(self, ids, scores):
            seen.append((ids, scores))
            return torch.where(torch.arange(scores.shape[1]) % 2 == 0, scores, -float("inf"))

    class LogitsProcessor(Mine):
        """By name and base as transformers' are."""

    class MyProcessor(LogitsProcessor):
        pass

    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, logits_processor=[Mine()], eos_token_id=[])
    assert all(token % 2 == 0 for token in out[0, 3:].tolist()) and isinstance(seen[0][1], torch.Tensor)
    again = model.generate([[5, 6, 7]], max_new_tokens=3, logits_processor=[MyProcessor()], eos_token_id=[])
    assert isinstance(again, np.ndarray) and again.tolist() == out.tolist() and isinstance(seen[-1][0], torch.Tensor)
    stopped = model.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=9, eos_token_id=[],
        stopping_criteria=[lambda ids, scores: torch.full((1,), ids.shape[1] >= 5)],
    )  # fmt: skip
    assert stopped.shape == (1, 5)
    allowed = model.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=3, eos_token_id=[], prefix_allowed_tokens_fn=lambda row, ids: [int(ids[-1]) + 1]
    )
    assert allowed[0].tolist() == [5, 6, 7, 8, 9, 10]


def test_what_speaks_dlpack_alone_is_taken(model):
    class Array:
        """Of a library that numpy knows nothing of."""

        def __init__(self, array):
            self._array = array

        def __dlpack__(self, **how):
            return self._array.__dlpack__(**how)

        def __dlpack_device__(self):
            return self._array.__dlpack_device__()

    ids = np.array([[5, 6, 7]])
    np.testing.assert_array_equal(model.generate(Array(ids), max_new_tokens=3), model.generate(ids, max_new_tokens=3))


def test_torch_is_not_brought_in_by_arrays():
    code = """
import sys
from models import load
with load() as model:
    model.generate([[1, 2]], max_new_tokens=2, logits_processor=[lambda ids, scores: scores])
assert "torch" not in sys.modules
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
