"""What a model is, under the names Hugging Face's configs use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airpy.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters as a Hugging Face user knows them; `hparams` has them as the engine does."""

    model_type: str
    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    hparams: Mapping[str, Any]

    @classmethod
    def build(cls, hparams: Mapping[str, Any], metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ModelConfig:
        arch = hparams["arch"]
        ends = tokenizer.eos_token_ids
        return cls(
            model_type=arch,
            name=str(metadata.get("general.name", "")),
            hidden_size=hparams["n_embd"],
            intermediate_size=hparams["n_ff"],
            num_hidden_layers=hparams["n_layers"],
            num_attention_heads=hparams["heads"],
            num_key_value_heads=hparams["kv_heads"],
            head_dim=hparams["key_dim"],
            vocab_size=hparams["n_vocab"],
            max_position_embeddings=hparams["n_ctx_trained"],
            rms_norm_eps=hparams["norm_eps"],
            rope_theta=float(metadata.get(f"{arch}.rope.freq_base", 10000.0)),
            tie_word_embeddings=hparams["tied_output"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends[0] if len(ends) == 1 else ends or None,
            pad_token_id=tokenizer.pad_token_id,
            hparams=dict(hparams),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
