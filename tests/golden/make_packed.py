"""Writes tests/golden/packed: matrices as the libraries that quantise checkpoints store them, and the numbers that they read out of these.

Needs torch, safetensors, compressed-tensors, nvidia-modelopt, and the source of autoawq, whose packing_utils.py is loaded by itself:
python tests/golden/make_packed.py AUTOAWQ/awq/utils/packing_utils.py. A file has two matrices, "a.weight" and "b.weight", as a checkpoint
has them, and beside them the libraries' numbers, in float32, and quantization_config. Scales are made float32 before that, so that nothing
is rounded but the product.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "packed"
SHAPES = {"a": (24, 64), "b": (40, 96)}
State = dict[str, torch.Tensor]

COMPRESSED: dict[str, tuple[Any, str, dict[str, Any], torch.dtype]] = {
    "int4-groups": (PackedQuantizationCompressor, "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32},
                    torch.bfloat16),
    "int4-zeros": (PackedQuantizationCompressor, "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16,
                                                                   "symmetric": False}, torch.float16),
    "int8-packed": (PackedQuantizationCompressor, "pack-quantized", {"num_bits": 8, "strategy": "channel"}, torch.bfloat16),
    "int2-packed": (PackedQuantizationCompressor, "pack-quantized", {"num_bits": 2, "strategy": "group", "group_size": 8}, torch.float32),
    "int8": (IntQuantizationCompressor, "int-quantized", {"num_bits": 8, "strategy": "channel"}, torch.bfloat16),
    "int8-zeros": (IntQuantizationCompressor, "int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}, torch.float16),
}


def drawn(seed: int, shape: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def compressed(name: str) -> tuple[State, State, dict[str, Any]]:
    compressor, format, args, dtype = COMPRESSED[name]
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(type="int", **args))
    half, stored, numbers = 1 << (args["num_bits"] - 1), {}, {}
    for seed, (stem, shape) in enumerate(SHAPES.items()):
        weight = drawn(seed, shape)
        groups = weight.reshape(shape[0], -1, args.get("group_size", shape[1]))
        state: State = {"weight": weight}
        if args.get("symmetric", True):
            state["weight_scale"] = (groups.abs().amax(-1) / (half - 0.5)).to(dtype)
        else:
            low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
            state["weight_scale"] = ((high - low) / (2 * half - 1)).to(dtype)
            state["weight_zero_point"] = (torch.round(-low / state["weight_scale"].float()) - half).to(torch.int8)
        packed = compressor.compress({**state, "weight_scale": state["weight_scale"].float()}, scheme)
        numbers[f"{stem}.weight"] = compressor.decompress(packed, scheme)["weight"].float()
        packed = {**packed, "weight_scale": state["weight_scale"]}
        stored |= {f"{stem}.{part}": tensor.contiguous() for part, tensor in packed.items()}
    weights = {"type": "int", **args}
    return stored, numbers, {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": {"weights": weights}}}



def modelopt_nvfp4() -> tuple[State, State, dict[str, Any]]:
    stored, numbers = {}, {}
    for seed, (stem, shape) in enumerate(SHAPES.items()):
        weight = drawn(seed, shape)
        found, scales, double = NVFP4QTensor.quantize(weight, 16)
        stored |= {f"{stem}.weight": found._quantized_data, f"{stem}.weight_scale": scales,
                   f"{stem}.weight_scale_2": double.reshape(()).float(),
                   f"{stem}.input_scale": torch.tensor(0.25)}
        numbers[f"{stem}.weight"] = found.dequantize(torch.float32, scale=scales, double_scale=double, block_sizes={-1: 16})
    return stored, numbers, {"quant_method": "modelopt", "quant_algo": "NVFP4"}


def compressed_nvfp4() -> tuple[State, State, dict[str, Any]]:
    args = {"num_bits": 4, "strategy": "tensor_group", "group_size": 16}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(type="float", **args))
    stored, numbers = {}, {}
    for seed, (stem, shape) in enumerate(SHAPES.items()):
        weight = drawn(seed, shape)
        whole = (448.0 * 6.0 / weight.abs().max()).reshape(1)
        scales = (whole * weight.reshape(shape[0], -1, 16).abs().amax(-1) / 6.0).to(torch.float8_e4m3fn)
        state = {"weight": weight, "weight_scale": scales.float(), "weight_global_scale": whole}
        packed = NVFP4PackedCompressor.compress(state, scheme)
        stored |= {f"{stem}.{part}": tensor for part, tensor in packed.items()}
        codes = unpack_fp4_from_uint8(packed["weight_packed"], *shape, dtype=torch.float32)  # decompress() has it in bfloat16
        numbers[f"{stem}.weight"] = dequantize(codes, packed["weight_scale"].float(), args=scheme.weights, dtype=torch.float32,
                                               global_scale=whole)
    weights = {"type": "float", **args}
    return stored, numbers, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                             "config_groups": {"group_0": {"weights": weights}}}


def awq(utils: Any, *, as_gptq: bool) -> tuple[State, State, dict[str, Any]]:
    stored, numbers = {}, {}
    rng = np.random.default_rng(9)
    for stem, (outputs, inputs) in SHAPES.items():
        words = {part: torch.from_numpy(rng.integers(-1 << 31, 1 << 31, (rows, outputs // 8), dtype=np.int64).astype(np.int32))
                 for part, rows in (("qweight", inputs), ("qzeros", inputs // 32))}
        if as_gptq:  # whose zeros are one less: none of them is 0
            words["qzeros"] |= 0x11111111
        scales = torch.from_numpy(rng.uniform(0.01, 0.1, (inputs // 32, outputs)).astype(np.float16))
        numbers[f"{stem}.weight"] = utils.dequantize_gemm(words["qweight"], words["qzeros"], scales.float(), 4, 32).float().T
        if as_gptq:
            words["qweight"], words["qzeros"] = utils.unpack_reorder_pack(words["qweight"], words["qzeros"], 4)
        stored |= {f"{stem}.{part}": tensor.contiguous() for part, tensor in words.items()} | {f"{stem}.scales": scales}
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    return stored, numbers, gptq if as_gptq else {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def main() -> None:
    spec = importlib.util.spec_from_file_location("packing_utils", sys.argv[1])
    assert spec and spec.loader
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    FOLDER.mkdir(exist_ok=True)
    made = {name: compressed(name) for name in COMPRESSED}
    made |= {"nvfp4-compressed": compressed_nvfp4(), "nvfp4-modelopt": modelopt_nvfp4(), "awq": awq(utils, as_gptq=False),
             "gptq": awq(utils, as_gptq=True)}
    for name, (stored, numbers, config) in made.items():
        save_file(stored, FOLDER / f"{name}.safetensors")
        np.savez_compressed(FOLDER / f"{name}.npz", config=json.dumps({"quantization_config": config}),
                            **{key: value.numpy() for key, value in numbers.items()})
        print(f"{name}: {', '.join(f'{key} {tuple(value.shape)}' for key, value in stored.items())}")


if __name__ == "__main__":
    main()
