"""Run GGUF language models larger than memory.

    from airpy import AutoModel
    model = AutoModel.from_pretrained("model.gguf", max_ram="4GiB")
    inputs = model.tokenizer(["The meaning of"], return_tensors="np")
    out = model.generate(**inputs, max_new_tokens=32)
    print(model.tokenizer.decode(out[0]))

Names are imported when first used, so that `import airpy` costs next to nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as type checkers see it, typing's; importing that takes longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from airpy._core import VERSION as __version__
    from airpy.airllm import (
        AirLLMBaichuan,
        AirLLMBaseModel,
        AirLLMChatGLM,
        AirLLMInternLM,
        AirLLMLlama2,
        AirLLMMistral,
        AirLLMMixtral,
        AirLLMQWen,
        AirLLMQWen2,
    )
    from airpy.auto_model import AutoModel
    from airpy.conversion import convert
    from airpy.errors import (
        AirpyError,
        ArgumentError,
        ArgumentTypeError,
        BudgetError,
        CancelledError,
        ContextOverflowError,
        DeviceError,
        FileChangedError,
        FileIOError,
        FormatError,
        MissingFileError,
        ModelError,
        NumericError,
        OutOfMemoryError,
        StateError,
        TemplateError,
        ThreadError,
        UnsupportedError,
    )
    from airpy.generation import GenerationConfig, TextIteratorStreamer, TextStreamer
    from airpy.model import Model
    from airpy.perplexity import Perplexity
    from airpy.planning import Plan
    from airpy.profile import Profile
    from airpy.quantization import quantize
    from airpy.tokenizer import Tokenizer

_MODULES = {
    "airpy._core": ("__version__",),
    "airpy.airllm": (
        "AirLLMBaichuan", "AirLLMBaseModel", "AirLLMChatGLM", "AirLLMInternLM", "AirLLMLlama2", "AirLLMMistral", "AirLLMMixtral",
        "AirLLMQWen", "AirLLMQWen2",
    ),
    "airpy.auto_model": ("AutoModel",),
    "airpy.conversion": ("convert",),
    "airpy.errors": (
        "AirpyError", "ArgumentError", "ArgumentTypeError", "BudgetError", "CancelledError", "ContextOverflowError", "DeviceError",
        "FileChangedError", "FileIOError", "FormatError", "MissingFileError", "ModelError", "NumericError", "OutOfMemoryError",
        "StateError", "TemplateError", "ThreadError", "UnsupportedError",
    ),
    "airpy.generation": ("GenerationConfig", "TextIteratorStreamer", "TextStreamer"),
    "airpy.model": ("Model",),
    "airpy.perplexity": ("Perplexity",),
    "airpy.planning": ("Plan",),
    "airpy.profile": ("Profile",),
    "airpy.quantization": ("quantize",),
    "airpy.tokenizer": ("Tokenizer",),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def _find_package() -> list[str]:
    """Where the modules lie. A checkout's sources hide the installed package from programs started in it, so the folder that has the
    extension is taken."""
    folders = __path__ + [os.path.join(entry, "airpy") for entry in sys.path]
    return next(([folder] for folder in folders if os.path.exists(os.path.join(folder, "_core.abi3.so"))), __path__)


__path__ = _find_package()

__all__ = [
    "AirLLMBaichuan",
    "AirLLMBaseModel",
    "AirLLMChatGLM",
    "AirLLMInternLM",
    "AirLLMLlama2",
    "AirLLMMistral",
    "AirLLMMixtral",
    "AirLLMQWen",
    "AirLLMQWen2",
    "AirpyError",
    "ArgumentError",
    "ArgumentTypeError",
    "AutoModel",
    "BudgetError",
    "CancelledError",
    "ContextOverflowError",
    "DeviceError",
    "FileChangedError",
    "FileIOError",
    "FormatError",
    "GenerationConfig",
    "MissingFileError",
    "Model",
    "ModelError",
    "NumericError",
    "OutOfMemoryError",
    "Perplexity",
    "Plan",
    "Profile",
    "StateError",
    "TemplateError",
    "TextIteratorStreamer",
    "TextStreamer",
    "ThreadError",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "convert",
    "quantize",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'airpy' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(home), "VERSION" if name == "__version__" else name)
    except ImportError as error:
        if error.name not in ("airpy", "airpy._core"):
            raise
        raise ImportError(f"airpy's extension is not built beside {__path__[0]}: run pip install . in the folder above it") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
