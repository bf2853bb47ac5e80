"""What checkpoints keep in another order than GGUF does: functions from one tensor to what becomes of it, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from airpy.conversion.config import Config
from airpy.conversion.lazy import LazyTensor, join
from airpy.errors import ModelError

Named = tuple[str, LazyTensor]  # a layer's name for it, without the layer, and the tensor
Layout = Callable[[str, LazyTensor, Config], Iterator[Named]]
Joint = Callable[[dict[str, LazyTensor]], dict[str, LazyTensor]]  # of all tensors of a layer


def _numbers(tensor: LazyTensor, *shape: int) -> np.ndarray:
    """The tensor's rows by number, in that shape, one of which may be -1. Raises ModelError where they do not fill it."""
    rows = tensor.shape[0]
    try:
        return np.arange(rows).reshape(shape)
    except ValueError:
        raise ModelError(f"{tensor.name} has {rows} rows, which the configuration's heads do not divide") from None


def interleave(tensor: LazyTensor, heads: int) -> LazyTensor:
    """transformers turns pairs (i, i + half) of a head, some of GGUF's architectures adjacent ones (undo_permute of llama.cpp's
    convert_hf_to_gguf.py)."""
    return tensor.take(_numbers(tensor, heads, 2, -1).swapaxes(1, 2).ravel(), tensor.shape)


def interleaved(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    if name.startswith("self_attn.q_proj."):
        tensor = interleave(tensor, config.heads)
    if name.startswith("self_attn.k_proj."):
        tensor = interleave(tensor, config.kv_heads)
    yield name, tensor


def one_more(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Norms that multiply by 1 + weight."""
    yield name, tensor.map(lambda w: w + 1) if name.endswith("norm.weight") else tensor


def transposed(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """GPT-2's matrices are inputs by outputs."""
    yield name, tensor.transpose() if ".c_" in name and len(tensor.shape) == 2 else tensor


def by_head(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """q, k and v of a head side by side: GGUF has all of q, then k, then v."""
    if "query_key_value" in name or (name.startswith("attn.c_attn") and not config.flag("multi_query", default=True)):
        tensor = tensor.take(_numbers(tensor, config.heads, 3, -1).swapaxes(0, 1).ravel(), tensor.shape)
    yield name, tensor


def _of_groups(tensor: LazyTensor, config: Config) -> list[LazyTensor]:
    """Queries that share a head of keys and values lie before these, group by group: all of q, of k and of v."""
    kv = config.kv_heads
    groups = _numbers(tensor, kv, config.heads // kv + 2, -1)
    return [tensor.take(part.ravel()) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])]


def by_group(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Falcon."""
    yield name, join(_of_groups(tensor, config)) if "query_key_value" in name else tensor


def wqkv(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """InternLM 2: as Falcon's, in three."""
    if not name.startswith("attention.wqkv."):
        yield name, tensor
        return
    q, k, v = _of_groups(tensor, config)
    kind = name.rpartition(".")[2]
    yield f"self_attn.q_proj.{kind}", interleave(q, config.heads)
    yield f"self_attn.k_proj.{kind}", interleave(k, config.kv_heads)
    yield f"self_attn.v_proj.{kind}", v


def w_pack(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Baichuan: q, k and v one below the other. Only the 7b model, of 32 layers, has rotary positions."""
    if name != "self_attn.W_pack.weight":
        yield name, tensor
        return
    q, k, v = tensor.split([tensor.shape[0] // 3] * 3)
    turned = config.layers == 32
    yield "self_attn.q_proj.weight", interleave(q, config.heads) if turned else q
    yield "self_attn.k_proj.weight", interleave(k, config.heads) if turned else k
    yield "self_attn.v_proj.weight", v


def gate_and_up(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Granite's experts: gate above up, all experts in one tensor [experts, rows of both, columns]."""
    if name.endswith("output_linear.weight"):
        yield "experts.down_proj.weight", tensor
    elif name.endswith("input_linear.weight"):
        if len(tensor.shape) != 3 or tensor.shape[1] % 2:
            raise ModelError(f"{tensor.name} is {list(tensor.shape)}; expected a matrix of gate and up for each expert")
        experts, rows, columns = tensor.shape
        numbers = np.arange(experts * rows).reshape(experts, 2, -1)
        for i, part in enumerate(("gate", "up")):
            yield f"experts.{part}_proj.weight", tensor.take(numbers[:, i].ravel(), (experts, rows // 2, columns))
    else:
        yield name, tensor


def stacked_gate_and_up(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Mistral 4's experts: as Granite's, under other names."""
    if name.startswith("mlp.experts.") and not name.endswith("weight"):
        name = {"gate_up_proj": "input_linear.weight", "down_proj": "output_linear.weight"}.get(name.rpartition(".")[2], name)
        yield from gate_and_up(name, tensor, config)
    else:
        yield name, tensor


def shared_in_one(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Granite 4's feed-forward for all rows, beside experts or alone: gate above up."""
    stem = "mlp.shared_expert" if config.experts else "mlp"
    if name == "shared_mlp.input_linear.weight":
        for part, half in zip(("gate", "up"), tensor.split([tensor.shape[0] // 2] * 2), strict=True):
            yield f"{stem}.{part}_proj.weight", half
    else:
        yield f"{stem}.down_proj.weight" if name == "shared_mlp.output_linear.weight" else name, tensor


def turned_experts(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Llama 4: experts' matrices are inputs by outputs, gate beside up."""
    if name == "feed_forward.experts.gate_up_proj":
        half = tensor.shape[-1] // 2
        for i, part in enumerate(("gate", "up")):
            yield f"experts.{part}_proj.weight", tensor.transpose(range(i * half, (i + 1) * half))
    elif name == "feed_forward.experts.down_proj":
        yield "experts.down_proj.weight", tensor.transpose()
    else:
        yield name, tensor


def convolutions(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Of single channels: channels by taps, without the axis of one between."""
    flat = len(tensor.shape) == 3 and tensor.shape[1] == 1 and "conv" in name
    yield name, tensor.reshape(tensor.shape[0], tensor.shape[2]) if flat else tensor


def mamba2(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """The rate itself instead of its logarithm, vectors of heads as columns, the norm's weights by groups."""
    kind = name.removeprefix("mamba.").removeprefix("mixer.") if name.startswith(("mamba.", "mixer.")) else ""
    if kind in ("A_log", "D"):
        column = (*tensor.shape, 1)
        yield name, tensor.map(lambda w: -np.exp(w), column) if kind == "A_log" else tensor.reshape(*column)
    elif kind == "norm.weight":
        groups = config.integer("mamba_n_groups", "n_groups")
        yield name, tensor.reshape(groups, tensor.shape[0] // groups)
    else:
        yield name, tensor


def falcon_h1(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """What the model multiplies activations by, into the matrices before or behind them: of Mamba's first one, of each part of its rows."""
    into = {
        "embed_tokens": ("embedding_multiplier",), "lm_head": ("lm_head_multiplier",), "self_attn.o_proj": ("attention_out_multiplier",),
        "self_attn.q_proj": ("attention_in_multiplier",), "self_attn.v_proj": ("attention_in_multiplier",),
        "self_attn.k_proj": ("attention_in_multiplier", "key_multiplier"), "mamba.in_proj": ("ssm_in_multiplier",),
        "mamba.out_proj": ("ssm_out_multiplier",),
    }  # fmt: skip
    stem = name.removesuffix(".weight")
    for factor in into.get(stem, ()):
        tensor = tensor.times(config.number(factor, default=1.0))
    if stem in ("feed_forward.gate_proj", "feed_forward.down_proj"):
        tensor = tensor.times(config.numbers("mlp_multipliers", 2)[stem == "feed_forward.down_proj"])
    if stem == "mamba.in_proj":
        inner, heads = config.integer("mamba_d_ssm"), config.integer("mamba_n_heads")
        keys = config.integer("mamba_n_groups") * config.integer("mamba_d_state")
        parts = tensor.split([inner, inner, keys, keys, heads])
        tensor = join([part.times(factor) for part, factor in zip(parts, config.numbers("ssm_multipliers", 5), strict=True)])
    yield name, tensor


def delta_net(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Qwen3-Next: q, k, v and the gate of a head of keys side by side, GGUF has each of all heads; the rate itself; norms by 1 + weight,
    but for the delta net's."""
    if name == "linear_attn.in_proj_qkvz.weight":
        heads, dim = config.integer("linear_num_key_heads"), config.integer("linear_key_head_dim")
        values = config.integer("linear_num_value_heads") // heads * config.integer("linear_value_head_dim")
        rows = _numbers(tensor, heads, 2 * (dim + values))
        parts = np.split(rows, np.cumsum([dim, dim, values]), axis=1)
        yield "linear_attn.in_proj_qkv.weight", tensor.take(np.concatenate([part.ravel() for part in parts[:3]]))
        yield "linear_attn.in_proj_z.weight", tensor.take(parts[3].ravel())
    elif name == "linear_attn.A_log":
        yield name, tensor.map(lambda w: -np.exp(w))
    else:
        yield from ((name, tensor),) if name == "linear_attn.norm.weight" else one_more(name, tensor, config)


def values_in_turn(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Qwen3.5: of heads that share keys GGUF has first one of each key head, then the next (llama.cpp's conversion/qwen.py)."""
    stem = name.removeprefix("linear_attn.")
    if name == stem or stem == "norm.weight":
        yield name, tensor
        return
    heads, keys = config.integer("linear_num_value_heads"), config.integer("linear_num_key_heads")
    joined = stem in ("in_proj_qkv.weight", "conv1d.weight")
    first = 2 * keys * config.integer("linear_key_head_dim") if joined else 0
    dim = config.integer("linear_value_head_dim") if joined or stem in ("in_proj_z.weight", "out_proj.weight") else 1
    size = tensor.shape[-1 if stem == "out_proj.weight" else 0]
    if heads % keys or size != first + heads * dim:
        raise ModelError(f"{tensor.name} is {list(tensor.shape)}, which is not {heads} linear_num_value_heads of {keys} "
                         f"linear_num_key_heads: {first + heads * dim}")  # fmt: skip
    by_head = np.arange(heads).reshape(keys, -1).T.reshape(-1, 1)
    order = np.concatenate([np.arange(first), first + (by_head * dim + np.arange(dim)).ravel()])
    yield name, tensor.take_columns(order) if stem == "out_proj.weight" else tensor.take(order, tensor.shape)


def side_by_side(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """Ling 1: q, k and v one below the other, as Llama's."""
    if name != "attention.query_key_value.weight":
        yield name, tensor
        return
    size = config.head * config.kv_heads
    q, k, v = tensor.split([config.head * config.heads, size, size])
    yield "self_attn.q_proj.weight", interleave(q, config.heads)
    yield "self_attn.k_proj.weight", interleave(k, config.kv_heads)
    yield "self_attn.v_proj.weight", v


def flat_correction(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """ERNIE's has an axis of one."""
    yield name, tensor.reshape(tensor.rows * tensor.shape[-1]) if name.endswith("correction_bias") else tensor


def gates_in_turn(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """gpt-oss: experts' matrices are inputs by outputs, and of gate and up each other column is one's. Those in MXFP4 are outputs by
    inputs already."""
    stem, kind = (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")
    stem, packed = stem.removesuffix("_blocks"), stem.endswith("_blocks")
    if name == "self_attn.sinks":
        yield "self_attn.sinks.weight", tensor
    elif not name.startswith("mlp.experts."):
        yield name, tensor
    elif not stem.endswith("gate_up_proj"):
        yield f"experts.down_proj.{kind}", tensor.transpose() if kind == "weight" and not packed else tensor
    elif packed:
        count, rows, width = tensor.shape
        numbers = np.arange(count * rows).reshape(count, rows)
        for i, part in enumerate(("gate", "up")):
            yield f"experts.{part}_proj.weight", tensor.take(numbers[:, i::2].ravel(), (count, rows // 2, width))
    else:
        *experts, columns = tensor.shape
        for i, part in enumerate(("gate", "up")):
            taken = range(i, columns, 2)
            if kind == "weight":
                yield f"experts.{part}_proj.weight", tensor.transpose(taken)
            else:  # each expert's row, as a matrix of one row
                yield f"experts.{part}_proj.bias", tensor.reshape(*experts, 1, columns).transpose(taken).reshape(*experts, len(taken))


def latent(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """DeepSeek: what makes a head's keys and values of the compressed state, side by side: GGUF has them apart, keys' transposed."""
    if name != "self_attn.kv_b_proj.weight":
        yield name, tensor
        return
    heads, rank = config.heads, config.integer("kv_lora_rank")
    keys, values = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    if tensor.shape != (heads * (keys + values), rank):
        raise ModelError(f"{tensor.name} is {list(tensor.shape)}, but the configuration's heads need {[heads * (keys + values), rank]}")
    numbers = _numbers(tensor, heads, keys + values)
    of_keys = tensor.take(numbers[:, :keys].ravel())
    yield "self_attn.k_b_proj.weight", of_keys.map(lambda w: w.reshape(heads, keys, rank).swapaxes(1, 2), (heads, rank, keys))
    yield "self_attn.v_b_proj.weight", tensor.take(numbers[:, keys:].ravel(), (heads, values, rank))


def from_second_position(name: str, tensor: LazyTensor, config: Config) -> Iterator[Named]:
    """RoBERTa's positions begin behind that of padding: what no text has is left out."""
    first = config.integer("pad_token_id", default=1, least=0) + 1
    yield name, tensor.take(range(first, tensor.rows)) if name == "embeddings.position_embeddings.weight" else tensor


# ---- of several tensors ----------------------------------------------------------------------------------------------


def fused(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """q, k and v in one tensor, as GGUF has ChatGLM's."""
    out = dict(tensors)
    for kind in ("weight", "bias"):
        names = [f"self_attn.{part}_proj.{kind}" for part in "qkv"]
        if all(name in out for name in names):
            out[f"self_attention.query_key_value.{kind}"] = join([out.pop(name) for name in names])
    return out


def stacked_norms(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """StableLM keeps each head's norm by itself."""
    out = {name: tensor for name, tensor in tensors.items() if ".norms." not in name}
    for stem in ("self_attn.q_layernorm", "self_attn.k_layernorm"):
        heads = numbered(tensors, f"{stem}.norms.", ".weight")
        if heads:
            out[f"{stem}.weight"] = join(heads, (len(heads), heads[0].shape[0]))
    return out


def numbered(tensors: dict[str, LazyTensor], before: str, behind: str) -> list[LazyTensor]:
    """Those whose names differ by a number, in order. Raises ModelError where one is missing."""
    found = {name[len(before) : -len(behind)]: t for name, t in tensors.items() if name.startswith(before) and name.endswith(behind)}
    return in_order(found, before)


def in_order(found: dict[str, LazyTensor], what: str) -> list[LazyTensor]:
    numbers = [str(i) for i in range(len(found))]
    if missing := [number for number in numbers if number not in found]:
        raise ModelError(f"{what}{missing[0]} is not there, but {len(found)} of its kind are")
    return [found[number] for number in numbers]


def stacked(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """Equal matrices as one tensor, [how many, rows, columns]."""
    return join(tensors, (len(tensors), *tensors[0].shape))
