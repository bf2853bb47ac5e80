"""AirLLM's class names, for programs that were written for it: each opens any model that airpy runs, as AutoModel does."""

from __future__ import annotations

from typing import Any

from airpy.auto_model import AutoModel
from airpy.files import PathLike
from airpy.model import Model


class AirLLMBaseModel(AutoModel):
    """AirLLMBaseModel(path, device, dtype, max_seq_len, …) is AutoModel.from_pretrained(path, device=device, …): an airpy.Model, not an
    instance of this class. What a file holds is in the file, so the names of families are one class. By default a GPU computes, where
    there is one."""

    def __new__(  # type: ignore[misc]
        cls, path: PathLike, device: Any = None, dtype: Any = None, max_seq_len: int | None = None, **options: Any
    ) -> Model:
        return cls.from_pretrained(path, device=device, dtype=dtype, max_seq_len=max_seq_len, **options)


AirLLMLlama2 = AirLLMBaseModel
AirLLMBaichuan = AirLLMBaseModel
AirLLMChatGLM = AirLLMBaseModel
AirLLMInternLM = AirLLMBaseModel
AirLLMMistral = AirLLMBaseModel
AirLLMMixtral = AirLLMBaseModel
AirLLMQWen = AirLLMBaseModel
AirLLMQWen2 = AirLLMBaseModel
