"""Encoders that transformers has no class for, as the models' own code computes them: classes of transformers with parts exchanged.

Sources: modeling_bert.py of jinaai/jina-bert-implementation, modeling_hf_nomic_bert.py of nomic-ai/nomic-bert-2048 (with experts, whose
one bias for all has no place in GGUF, and is zero here).
"""
from __future__ import annotations

from typing import Any

import torch
import transformers
from families import alibi_slopes
from torch import nn


class NoPositions(nn.Module):
    """In the place of a table of positions."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.zeros(())


class GatedIntermediate(nn.Module):
    """GELU of the first half times the second."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gated_layers(x).chunk(2, dim=-1)
        return nn.functional.gelu(gate) * up


class JinaBertV2(transformers.BertModel):
    """ALiBi to both sides instead of positions, and a gated feed-forward."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.embeddings.position_embeddings = NoPositions()
        for layer in self.encoder.layer:
            layer.intermediate = GatedIntermediate(config)

    def forward(self, input_ids: torch.Tensor, **given: Any) -> Any:
        places = torch.arange(input_ids.shape[1])
        slopes = torch.from_numpy(alibi_slopes(self.config.num_attention_heads))
        bias = -slopes[:, None, None] * (places[:, None] - places[None]).abs()
        return super().forward(input_ids=input_ids, attention_mask=bias[None], **given)


class Plain(nn.Module):
    """A feed-forward of GELU."""

    def __init__(self, config: Any, bias: bool) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.gelu(self.up_proj(x)))


class Mixture(nn.Module):
    """Experts by their weights in a softmax over all of them, which the chosen ones keep."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.used = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Plain(config, bias=False) for _ in range(config.num_experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(self.used, dim=-1)
        each = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (torch.gather(each, -2, chosen[..., None].expand(*chosen.shape, x.shape[-1])) * weights[..., None]).sum(-2)


class NomicBertMoeConfig(transformers.NomicBertConfig):
    model_type = "nomic_bert_moe"  # of its own, so that nothing is renamed when it is saved


class NomicBertMoe(transformers.NomicBertModel):
    """Biases, feed-forwards without a gate, and experts in every second layer."""

    config_class = NomicBertMoeConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for i, layer in enumerate(self.layers):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(layer.self_attn, name, nn.Linear(config.hidden_size, config.hidden_size))
            layer.mlp = Mixture(config) if i % 2 else Plain(config, bias=True)
