"""Arrays of other libraries: what comes as a torch tensor goes back as one, sharing memory. torch is never imported for its own sake."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt


def torch_tensor(value: Any) -> Any:
    """value if it is one of torch's tensors, else None. Only who has imported torch has such."""
    torch = sys.modules.get("torch")
    return value if torch is not None and isinstance(value, torch.Tensor) else None


def to_host(value: Any) -> Any:
    """What numpy can read: a tensor's memory, or a copy of it where a GPU has it; arrays of other libraries through DLPack."""
    if torch_tensor(value) is not None:
        return value.detach().cpu().numpy()
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return value


def like(array: npt.NDArray[Any], given: Any) -> Any:
    """array, as a torch tensor that shares its memory, or on another device has a copy, where `given` is one; else itself."""
    tensor = torch_tensor(given)
    if tensor is None:
        return array
    return sys.modules["torch"].from_dlpack(array).to(tensor.device)
