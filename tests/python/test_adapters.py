"""LoRA adapters: PEFT's files and logits, GGUF files, rows with different ones in a batch, memory, hostile files."""

from __future__ import annotations

import gc
import json
import shutil
import struct

import gguf
import numpy as np
import pytest
from models import DEMO, GOLDEN, RATES, STREAMED, encoder, golden, load

from airpy import _core, errors
from airpy.adapters.peft import read_peft
from airpy.gguf_writer import GGUFWriter, TensorInfo

FOLDER = GOLDEN / "adapters"
CASES = {  # and the golden model, as make_adapters.py has them
    "llama-all": "llama", "llama-attention": "llama", "llama-patterns": "llama", "qwen3": "qwen3", "phi3": "phi3", "qwen3moe": "qwen3moe",
}  # fmt: skip
TOKENS = 24


def prompt(name):
    return np.load(GOLDEN / f"{name}.npz")["input_ids"][None, :TOKENS]


def logits(model, name="llama", **how):
    return np.array(model(prompt(name), **how).logits[0])


def error_of(got, want):
    return np.square(got - want, dtype=np.float64).sum() / np.square(want, dtype=np.float64).sum()


def write_gguf(path, matrices, *, alpha=0.0, arch="llama", type="lora", kind=np.float32):
    """An adapter as llama.cpp's converter lays it out: matrices {name: (a [rank, cols], b [rows, rank])}."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", type)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in matrices.items():
        writer.add_tensor(f"{name}.lora_a", a.astype(kind))
        writer.add_tensor(f"{name}.lora_b", b.astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_pairs(path, rank, seed, size=0.05):
    """For every matrix of a model's layers."""
    rng = np.random.default_rng(seed)
    shapes = {name: shape for name, _, shape, *_ in _core.GGUF(str(path)).tensors if name.startswith("blk.") and len(shape) == 2}
    return {
        name: (rng.normal(size=(rank, cols)).astype(np.float32) / cols**0.5, size * rng.normal(size=(rows, rank)).astype(np.float32))
        for name, (cols, rows) in shapes.items()
    }


@pytest.fixture(scope="module")
def llama():
    with load(golden("llama"), kv_dtype="f32") as model:
        model.load_adapter(FOLDER / "llama-all", "all")
        model.load_adapter(FOLDER / "llama-attention", "attention")
        model.set_adapter(None)
        yield model


# ---- against others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("io", ["direct", "mmap"])
def test_logits_are_those_of_peft(case, io):
    name, want = CASES[case], np.load(FOLDER / f"{case}.npz")["logits"]
    with load(golden(name), kv_dtype="f32", io=io) as model:
        assert model.load_adapter(FOLDER / case) == "default"
        error = error_of(logits(model, name), want)
        print(f"{case}: {error:.1e}")
        assert error < 1e-10
        assert error_of(logits(model, name, adapter=None), want) > 0.1


def test_a_gguf_adapter_is_the_same_one(tmp_path):
    with load(golden("llama"), kv_dtype="f32") as model:
        heads = (model.config.num_attention_heads, model.config.num_key_value_heads)
        pairs = {m.name: m.read() for m in read_peft(str(FOLDER / "llama-all"), "llama", heads)}
        model.load_adapter(FOLDER / "llama-all", "peft")
        model.load_adapter(write_gguf(tmp_path / "scaled.gguf", pairs), "scaled")
        halves = {name: (a, b / 2) for name, (a, b) in pairs.items()}
        model.load_adapter(write_gguf(tmp_path / "alpha.gguf", halves, alpha=8.0), "alpha")  # of rank 4
        model.load_adapter(write_gguf(tmp_path / "half.gguf", pairs, kind=np.float16), "f16")
        want = logits(model, adapter="peft")
        np.testing.assert_array_equal(logits(model, adapter="scaled"), want)
        np.testing.assert_array_equal(logits(model, adapter="alpha"), want)
        assert 0 < error_of(logits(model, adapter="f16"), want) < 1e-5


# ---- who has which -------------------------------------------------------------------------------------------------------


def test_rows_of_a_batch_have_their_own(llama):
    ids = np.repeat(prompt("llama"), 5, axis=0)
    choices = ["all", None, ("attention", 0.5), "attention", ("all", -1)]
    together = llama(ids, adapter=choices).logits
    for row, choice in enumerate(choices):
        llama.forget()
        np.testing.assert_array_equal(together[row], llama(ids[:1], adapter=choice).logits[0])
    assert len({row.tobytes() for row in together}) == 5


def test_decoded_rows_have_the_bits_of_a_prompt(llama):
    how = {"max_new_tokens": 9, "eos_token_id": [], "return_dict_in_generate": True, "output_logits": True}
    out = llama.generate(np.repeat(prompt("llama"), 3, axis=0), adapter=["all", None, "attention"], **how)
    for row, choice in enumerate(["all", None, "attention"]):
        llama.forget()
        whole = llama(out.sequences[row : row + 1, :-1], adapter=choice).logits[0]
        np.testing.assert_array_equal(np.stack([step[row] for step in out.logits]), whole[TOKENS - 1 :])


def test_the_active_one_is_what_calls_have_that_say_nothing(llama):
    base, want = logits(llama, adapter=None), logits(llama, adapter="all")
    assert llama.active_adapter is None
    np.testing.assert_array_equal(logits(llama), base)
    llama.set_adapter("all")
    np.testing.assert_array_equal(logits(llama), want)
    np.testing.assert_array_equal(logits(llama, adapter=None), base)
    text = list(llama.stream([1, 2, 3], max_new_tokens=4, eos_token_id=[]))
    ids = llama.generate([[1, 2, 3]], max_new_tokens=4, eos_token_id=[])
    assert "".join(text) == llama.tokenizer.decode(ids[0, 3:], skip_special_tokens=True)
    llama.set_adapter(None)
    np.testing.assert_array_equal(logits(llama, adapter=("all", 0)), base)
    assert set(llama.adapters) == {"all", "attention"} and llama.adapters["all"]["weights"] == 14


def test_perplexity_is_that_of_pefts_logits():
    ids, theirs = prompt("llama")[0], np.load(FOLDER / "llama-all.npz")["logits"].astype(np.float64)
    rows = np.arange(TOKENS - TOKENS // 2, TOKENS - 1)  # whose next token is scored
    want = np.mean(np.log(np.exp(theirs[rows]).sum(-1)) - theirs[rows, ids[rows + 1]])
    with load(golden("llama"), kv_dtype="f32") as model:
        plain = model.perplexity(ids, ctx=TOKENS).nll
        model.load_adapter(FOLDER / "llama-all", "one")
        assert model.perplexity(ids, ctx=TOKENS).nll == pytest.approx(want, rel=1e-5)
        assert model.perplexity(ids, ctx=TOKENS, adapter=None).nll == plain != pytest.approx(want, rel=1e-2)
        half = model.perplexity(ids, ctx=TOKENS, adapter=("one", 0.5)).nll
        assert plain != half != want
        with pytest.raises(errors.ArgumentError, match="there is no adapter 'two'"):
            model.perplexity(ids, ctx=TOKENS, adapter="two")


def test_what_one_has_read_is_not_anothers(llama):
    """State is computed with an adapter, so it is known to sequences with the same one and scale alone."""
    llama.forget()
    how = {"max_new_tokens": 2, "eos_token_id": []}
    want = {}
    for choice in (None, "all", ("all", 0.5), "attention"):
        want[choice] = llama.generate(prompt("llama"), adapter=choice, **how).tolist()
        assert llama.stats()["reused_tokens"] == 0
    for choice, ids in want.items():
        assert llama.generate(prompt("llama"), adapter=choice, **how).tolist() == ids
        assert llama.stats()["reused_tokens"] == TOKENS - 1


def test_several_texts_of_a_prompt_share_its_adapter(llama):
    how = {"max_new_tokens": 5, "eos_token_id": [], "do_sample": True, "seed": 3}
    both = np.repeat(prompt("llama"), 2, axis=0)
    out = llama.generate(both, adapter=["all", None], num_return_sequences=2, **how)
    np.testing.assert_array_equal(out[:2], llama.generate(both[:1], adapter="all", num_return_sequences=2, **how))
    np.testing.assert_array_equal(out[2:], llama.generate(both[:1], adapter=None, num_return_sequences=2, **how))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("other", "there is no adapter 'other'; there is 'all', 'attention': load_adapter"),
        (["all", "all"], "2 adapters for 1 prompts; give one, or one for each"),
        (3, r"adapter is 3; expected a name, \(name, scale\), None"),
        (("all", "x"), "scale is 'x'; expected a number"),
        (("all", float("nan")), "scale is nan"),
        (("all", 1e7), "scale is 10000000.0; expected a number, -1e6 to 1e6"),
        ((3, 1.0), "there is no adapter 3"),
    ],
)
def test_a_choice_that_is_none_says_so(llama, choice, message):
    for call in (llama.generate, llama, llama.stream):
        with pytest.raises(errors.ArgumentError, match=message):
            call([[1]], adapter=choice)


# ---- memory --------------------------------------------------------------------------------------------------------------


def test_a_model_that_streams_gives_the_bits_of_one_that_stays(tmp_path):
    ids = np.random.default_rng(1).integers(0, 4096, (3, 40))
    files = [write_gguf(tmp_path / f"{i}.gguf", random_pairs(DEMO, rank, i)) for i, rank in enumerate((8, 3))]
    found = []
    for options in ({"io": "mmap", "max_ram": "64MiB"}, {**STREAMED, "max_ram": "7MiB"}, {**STREAMED, "max_ram": "8MiB", "threads": 1}):
        with load(**options) as model:
            names = [model.load_adapter(file, str(i)) for i, file in enumerate(files)]
            how = {"max_new_tokens": 6, "eos_token_id": [], "return_dict_in_generate": True, "output_logits": True}
            out = model.generate(ids, adapter=[*names, None], **how)
            found.append((out.sequences, np.stack(out.logits)))
            assert model.stats()["held_by"]["adapters"] == sum(each["bytes"] for each in model.adapters.values())
    for sequences, steps in found[1:]:
        np.testing.assert_array_equal(sequences, found[0][0])
        np.testing.assert_array_equal(steps, found[0][1])


def test_weights_give_way_and_come_back(tmp_path):
    file = write_gguf(tmp_path / "large.gguf", random_pairs(DEMO, 16, 0))
    with load(**{**STREAMED, "max_ram": "8MiB"}) as model:
        model.generate([[1, 2]], max_new_tokens=2, eos_token_id=[])
        before = model.stats()
        model.load_adapter(file, "large")
        model.generate([[1, 2]], max_new_tokens=2, eos_token_id=[])
        during = model.stats()
        size = during["held_by"]["adapters"]
        assert size > 1 << 20 and during["held"] <= during["budget"] and during["pinned_bytes"] <= before["pinned_bytes"] - size + (1 << 20)
        model.unload_adapter("large")
        assert model.adapters == {} and model.active_adapter is None
        model.generate([[1, 2]], max_new_tokens=2, eos_token_id=[])
        after = model.stats()
        assert after["held_by"]["adapters"] == 0 and before["pinned_bytes"] - after["pinned_bytes"] < 1 << 19  # a tile is not worth a move
        with pytest.raises(errors.ArgumentError, match="there is no adapter 'large'; there is none"):
            model.unload_adapter("large")


def test_one_that_memory_does_not_hold_is_refused(tmp_path):
    file = write_gguf(tmp_path / "huge.gguf", random_pairs(DEMO, 200, 0))
    with load(**{**STREAMED, "max_ram": "6MiB"}) as model:
        want = model.generate([[1, 2]], max_new_tokens=3, eos_token_id=[]).tolist()
        with pytest.raises(errors.BudgetError, match=r"max_ram 6\.0 MiB is too small for an adapter of \d+\.\d MiB: in use"):
            model.load_adapter(file)
        assert model.adapters == {} and model.stats()["held_by"]["adapters"] == 0
        assert model.generate([[1, 2]], max_new_tokens=3, eos_token_id=[]).tolist() == want


def test_one_that_is_unloaded_stays_for_calls_under_way(llama):
    llama.load_adapter(FOLDER / "llama-all", "again")
    want = llama.generate([[1, 2, 3]], max_new_tokens=6, eos_token_id=[], adapter="all")[0, 3:].tolist()
    seen = []
    stream = llama.stream([1, 2, 3], max_new_tokens=6, eos_token_id=[], adapter="again", on_tokens=seen.extend)
    next(stream)
    llama.unload_adapter("again")
    list(stream)
    assert seen == want
    held = sum(each["bytes"] for each in llama.adapters.values())
    llama.forget()
    gc.collect()
    assert llama.stats()["held_by"]["adapters"] == held
    llama.set_adapter(None)


def test_a_name_is_taken_once(llama):
    with pytest.raises(errors.ArgumentError, match=r"there is an adapter 'all' already; unload_adapter\('all'\) first"):
        llama.load_adapter(FOLDER / "llama-attention", "all")
    for name in ("", 3, None):
        with pytest.raises(errors.ArgumentError, match="the adapter's name is"):
            llama.load_adapter(FOLDER / "llama-all", name)
    with pytest.raises(errors.ArgumentError, match="scale is 'much'"):
        llama.load_adapter(FOLDER / "llama-all", "scaled", scale="much")
    llama.load_adapter(FOLDER / "llama-all", "scaled", scale=0.5)
    np.testing.assert_array_equal(logits(llama), logits(llama, adapter=("all", 0.5)))
    llama.unload_adapter("scaled")


# ---- hostile files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FOLDER / "llama-attention", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "LOHA"}, errors.UnsupportedError, "peft_type is 'LOHA'; only 'LORA'"),
        ({"peft_type": None}, errors.UnsupportedError, "peft_type is 'None'"),
        ({"use_dora": True}, errors.UnsupportedError, "use_dora=True is not supported; merge the adapter"),
        ({"bias": "all"}, errors.UnsupportedError, "bias=all is not supported"),
        ({"fan_in_fan_out": True}, errors.UnsupportedError, "fan_in_fan_out=True"),
        ({"modules_to_save": ["lm_head"]}, errors.UnsupportedError, "modules_to_save="),
        ({"layer_replication": [[0, 1]]}, errors.UnsupportedError, "layer_replication="),
        ({"r": 0}, errors.FormatError, "r is 0; expected a rank of 1 or more"),
        ({"r": "2"}, errors.FormatError, "r is 2; expected a rank"),
        ({"r": True}, errors.FormatError, "r is True"),
        ({"r": 3}, errors.FormatError, "has rank 2, and 3 by the configuration"),
        ({"lora_alpha": None}, errors.FormatError, "lora_alpha has None; expected a number"),
        ({"lora_alpha": 1e300}, errors.FormatError, r"lora_alpha has 1e\+300"),
        ({"lora_alpha": float("nan")}, errors.FormatError, "lora_alpha has nan"),
        ({"rank_pattern": {"q_proj": 7}}, errors.FormatError, "has rank 2, and 7 by the configuration"),
        ({"alpha_pattern": {"q_proj": "x"}}, errors.FormatError, "alpha_pattern has x"),
        ({"alpha_pattern": {"(a+)+$": 1}}, errors.UnsupportedError, "hold no expressions"),
        ({"alpha_pattern": [1]}, errors.UnsupportedError, "may name modules"),
    ],
)
def test_configurations_that_would_compute_something_else_are_refused(llama, folder, changes, error, message):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(error, match=message):
        llama.load_adapter(folder, "bad")
    assert "bad" not in llama.adapters


def rewrite(path, tensors):
    """A safetensors file of {name: (dtype, shape, bytes)}."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors.values()))


def pair(module="model.layers.0.self_attn.q_proj", a=(2, 40), b=(40, 2), dtype="F32", fill=0.0):
    size = {"F32": 4, "F16": 2, "F64": 8, "I32": 4}[dtype]
    block = np.array([fill], dtype="<f4" if size == 4 else f"<f{size}").tobytes()
    return {
        f"base_model.model.{module}.lora_A.weight": (dtype, list(a), block * int(np.prod(a))),
        f"base_model.model.{module}.lora_B.weight": (dtype, list(b), block * int(np.prod(b))),
    }


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({}, errors.FormatError, "holds no tensors"),
        (dict([*pair().items()][:1]), errors.FormatError, "there is lora_A alone"),
        (pair(a=(3, 40)), errors.FormatError, r"has \[3, 40\] and \[40, 2\]; expected \[rank, columns\]"),
        (pair(a=(0, 40), b=(40, 0)), errors.FormatError, "expected"),
        (pair(a=(2, 40, 1)), errors.FormatError, "expected"),
        (pair(a=(2, 41)), errors.ModelError, r"the adapter has \[41, 2\] and \[2, 40\] for blk\.0\.attn_q\.weight, which is \[40, 40\]"),
        (pair(b=(44, 2)), errors.ModelError, r"for blk\.0\.attn_q\.weight, which is"),
        (pair(b=(41, 2)), errors.ModelError, "has 41 rows, which 2 heads do not divide"),
        (pair("model.layers.7.self_attn.q_proj"), errors.ModelError, r"changes blk\.7\.attn_q\.weight, which this model does not"),
        (pair("model.layers.0.self_attn.x_proj"), errors.ModelError, "is nothing that this model has"),
        (pair("model.embed_tokens"), errors.UnsupportedError, r"changes token_embd\.weight, which is a table"),
        (pair("model.norm"), errors.UnsupportedError, "which is a vector; only products of matrices"),
        (pair(dtype="I32"), errors.UnsupportedError, "of type I32; adapters may have F32, F16, BF16"),
        (pair(dtype="F64"), errors.UnsupportedError, "of type F64"),
        (pair(fill=np.inf), errors.ModelError, "has numbers that are not finite"),
        (pair(fill=np.nan, dtype="F16"), errors.ModelError, "has numbers that are not finite"),
        ({**pair(), "base_model.model.lm_head.weight": ("F32", [1], b"\0" * 4)}, errors.UnsupportedError, "is no matrix of a LoRA"),
        ({"base_model.model.x.lora_magnitude_vector": ("F32", [1], b"\0" * 4)}, errors.UnsupportedError, "is no matrix of a LoRA"),
        ({**pair(), **{k.replace("weight", "other.weight"): v for k, v in pair().items()}}, errors.FormatError, "has lora_A twice"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(llama, folder, tensors, error, message):
    rewrite(folder / "adapter_model.safetensors", tensors)
    held = llama.stats()["held_by"]["adapters"]
    with pytest.raises(error, match=message):
        llama.load_adapter(folder, "bad")
    gc.collect()
    assert "bad" not in llama.adapters and llama.stats()["held_by"]["adapters"] == held


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_a_file_that_is_cut_short_is_a_format_error(llama, folder, cut):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(errors.FormatError):
        llama.load_adapter(folder, "bad")


def test_what_is_not_there_or_is_none_says_so(llama, folder, tmp_path):
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(errors.MissingFileError, match="PEFT writes it beside"):
        llama.load_adapter(folder, "bad")
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(errors.UnsupportedError, match=r"has adapter_model\.bin; airpy loads no pickles"):
        llama.load_adapter(folder, "bad")
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(errors.FormatError, match="expected a JSON object"):
        llama.load_adapter(folder, "bad")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(errors.MissingFileError, match=r"there is no adapter_config\.json"):
        llama.load_adapter(folder, "bad")
    with pytest.raises(FileNotFoundError):
        llama.load_adapter(tmp_path / "nowhere.gguf", "bad")
    with pytest.raises(errors.UnsupportedError, match=r"'model'.*, and no adapter of type 'lora'"):
        llama.load_adapter(golden("llama"), "bad")


def test_gguf_files_that_do_not_fit_are_refused(llama, tmp_path):
    a, b = np.zeros((2, 40), np.float32), np.zeros((40, 2), np.float32)
    name = "blk.0.attn_q.weight"
    for how, error, message in (
        ({"matrices": {name: (a, b)}, "arch": "qwen3"}, errors.ModelError, "of a model of 'qwen3', and this one is of 'llama'"),
        ({"matrices": {name: (a, b)}, "type": "control"}, errors.UnsupportedError, "'control', and no adapter of type 'lora'"),
        ({"matrices": {name: (a, b)}, "alpha": float("nan")}, errors.FormatError, "adapter.lora.alpha is nan"),
        ({"matrices": {name: (a, b[:, :1])}}, errors.FormatError, r"is \[40, 2\] and lora_b \[1, 40\]"),
        ({"matrices": {name: (a[:, :39], b)}}, errors.ModelError, "which is"),
        ({"matrices": {"blk.9.attn_q.weight": (a, b)}}, errors.ModelError, "which this model does not have"),
        ({"matrices": {}}, errors.FormatError, "changes no weight"),
    ):
        with pytest.raises(error, match=message):
            llama.load_adapter(write_gguf(tmp_path / "bad.gguf", **how), "bad")
    whole = write_gguf(tmp_path / "bad.gguf", {name: (a, b)}).read_bytes()
    (tmp_path / "bad.gguf").write_bytes(whole.replace(b"lora_b", b"lora_c"))
    with pytest.raises(errors.UnsupportedError, match=r"lora_c' is neither X\.lora_a nor X\.lora_b"):
        llama.load_adapter(tmp_path / "bad.gguf", "bad")
    (tmp_path / "bad.gguf").write_bytes(whole[:-64])
    with pytest.raises(errors.AirpyError):
        llama.load_adapter(tmp_path / "bad.gguf", "bad")


def test_matrices_of_heads_are_refused(tmp_path):
    with load(golden("deepseek2-v3")) as model:
        pairs = {"blk.0.attn_k_b.weight": (np.zeros((2, 12), np.float32), np.zeros((96, 2), np.float32))}
        with pytest.raises(errors.UnsupportedError, match=r"changes blk\.0\.attn_k_b\.weight, matrices of heads"):
            model.load_adapter(write_gguf(tmp_path / "heads.gguf", pairs, arch="deepseek2"))


def test_experts_and_architectures_in_another_order_are_refused(tmp_path):
    with load(golden("qwen3moe")) as model:
        rank, (_, _, shape, *_) = 2, next(t for t in model._gguf.tensors if t[0] == "blk.0.ffn_up_exps.weight")
        pairs = {"blk.0.ffn_up_exps.weight": (np.zeros((rank, shape[0]), np.float32), np.zeros((shape[1], rank), np.float32))}
        with pytest.raises(errors.UnsupportedError, match=r"changes blk\.0\.ffn_up_exps\.weight, experts of a mixture"):
            model.load_adapter(write_gguf(tmp_path / "experts.gguf", pairs, arch="qwen3moe"))
    with load(golden("gpt2")) as model, pytest.raises(errors.UnsupportedError, match="of 'gpt2' have their weights in another order"):
        model.load_adapter(FOLDER / "llama-all")


def test_encoders_have_them_as_well(tmp_path):
    """As the model whose weights have them in."""
    pairs = random_pairs(encoder("bert"), 3, 5)
    adapter = write_gguf(tmp_path / "adapter.gguf", pairs, arch="bert")
    source = _core.GGUF(str(encoder("bert")))
    entries = [(key, source.types[key], value) for key, value in source.metadata.items()]
    tensors = [(TensorInfo(name, kind, shape), offset) for name, kind, shape, _, offset, _ in source.tensors]
    data = encoder("bert").read_bytes()
    with GGUFWriter(str(tmp_path / "merged.gguf"), entries, [info for info, _ in tensors]) as writer:
        for i, (info, offset) in enumerate(tensors):
            values = np.frombuffer(data, np.float32, info.elements, offset).copy()
            if info.name in pairs:
                a, b = pairs[info.name]
                values += (b @ a).ravel()
            writer.write(i, 0, values)
        writer.commit()
    texts = ["the cat sat", "a dog"]
    with load(encoder("bert")) as model, load(tmp_path / "merged.gguf") as merged:
        plain, want = model.embed(texts), merged.embed(texts)
        model.load_adapter(adapter)
        np.testing.assert_allclose(model.embed(texts), want, atol=2e-6)
        assert np.abs(want - plain).max() > 1e-2
        np.testing.assert_array_equal(model.embed(texts, adapter=None), plain)


def test_adapters_are_gone_with_their_model():
    model = load(golden("llama"))
    model.load_adapter(FOLDER / "llama-all")
    model.close()
    for call in (
        lambda: model.load_adapter(FOLDER / "llama-all", "x"),
        lambda: model.adapters,
        lambda: model.generate([[1]], adapter="default"),
    ):
        with pytest.raises(errors.StateError):
            call()


# ---- the engine's side ---------------------------------------------------------------------------------------------------

MATRIX = ("blk.0.attn_q.weight", 2, 40, 40)
A, B = np.ones((2, 40), np.float32), np.ones((40, 2), np.float32)


def test_what_the_engine_is_given_is_checked(llama):
    engine = llama._engine
    for matrices, error, message in (
        ([], errors.ArgumentError, "an adapter of 0 matrices"), (3, TypeError, "iterable"), ([3], TypeError, "a matrix is a tuple"),
        ([MATRIX[:3]], TypeError, "a matrix is"), ([(*MATRIX[:1], 0, 40, 40)], errors.ArgumentError, "rank is 0"),
        ([MATRIX, MATRIX], errors.ModelError, r"has blk\.0\.attn_q\.weight twice"),
        ([(MATRIX[0], 1 << 30, 40, 40)], errors.BudgetError, "too small for an adapter"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            engine.adapter(matrices)
    adapter = engine.adapter([MATRIX])
    for arguments, error, message in (
        ((1, A, B), errors.ArgumentError, "the adapter has 1 matrices"), ((-1, A, B), errors.ArgumentError, "i is -1"),
        ((0, B, A), errors.ArgumentError, r"matrix 0 needs float32 a \[2, 40\], b \[40, 2\]"),
        ((0, A.astype(float), B), errors.ArgumentError, "needs float32"), ((0, A, 3), TypeError, "bytes-like"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            adapter.set(*arguments)
    adapter.set(0, A, B)
    sequence = engine.sequence()
    assert sequence.adapted is None
    sequence.adapt(adapter, 0.5)
    assert sequence.adapted == (adapter, 0.5) == sequence.fork().adapted
    with pytest.raises(errors.StateError, match="a sequence has the adapter already"):
        adapter.set(0, A, B)
    for arguments, error in (((3,), TypeError), ((adapter, "x"), TypeError), ((adapter, float("nan")), errors.ArgumentError)):
        with pytest.raises(error):
            engine.sequence().adapt(*arguments)
    engine.run([(sequence, np.array([1], np.int32), 0, None, 1)])
    with pytest.raises(errors.ArgumentError, match="the sequence has 1 tokens already, computed otherwise"):
        sequence.adapt(None)
    with load(golden("llama")) as other, pytest.raises(errors.ArgumentError, match="belongs to another model"):
        other._engine.sequence().adapt(adapter)


def test_every_allocation_of_an_adapter_may_fail():
    with load(golden("llama"), bandwidths=RATES) as model:
        engine, ids, failures, n, came = model._engine, np.array([1, 2], np.int32), 0, 0, True

        def attempt(n):
            _core.alloc_fail_at(n)
            try:
                adapter = engine.adapter([MATRIX])
                sequence = engine.sequence()
                sequence.adapt(adapter)
                return engine.run([(sequence, ids, 1, {"temperature": 0}, 2)]).sampled, _core.alloc_failed()
            except (errors.OutOfMemoryError, MemoryError):
                return None, _core.alloc_failed()
            finally:
                _core.alloc_fail_at(0)

        want, _ = attempt(0)
        live = _core.alloc_live()
        while came:
            n += 1
            got, came = attempt(n)
            assert got == want or (got is None and came), f"allocation {n}"
            failures += got is None
            assert _core.alloc_live() == live and engine.stats()["held_by"]["adapters"] == 0, f"allocation {n} leaks"
        assert failures > 10
