"""Fewer bits for weights: types by name, and files from files, streamed."""

from airpy.quantization.mixes import MIXES, Mix, choose_types, facts_of, find_mix
from airpy.quantization.requantize import QuantizePlan, TensorChange, plan_quantize, quantize
from airpy.quantization.stream import SourceTensor, write_model

__all__ = [
    "MIXES",
    "Mix",
    "QuantizePlan",
    "SourceTensor",
    "TensorChange",
    "choose_types",
    "facts_of",
    "find_mix",
    "plan_quantize",
    "quantize",
    "write_model",
]
