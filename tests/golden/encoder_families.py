"""The tiny models that make_encoders.py writes, one row each; a row is appended, as its seed is its place."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from airpy.conversion.families import FAMILIES, LLAMA, Family

LENGTHS = (1, 9, 64, 65, 100)                           # around a block of state
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
         *".,!?-'0123456789", "the", "cat", "sat", "##ing"]


@dataclass(frozen=True)
class Variant:
    """A tiny model: its class in transformers or own_encoders.py, its GGUF architecture, what differs from BASE, and keys instead of the
    converter's (None: left out). instead: what converts it, where the class is not the architecture's own."""

    model: str
    arch: str
    config: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    instead: Family | None = None
    words: bool = False             # a vocabulary of WordPiece
    pairs: bool = False             # texts are pairs
    centred: bool = False           # weights of norms are around 0


BASE = {"vocab_size": 272, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {"vocab_size": len(WORDS), "num_attention_heads": 4}
DECODER = {"num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
# Keys that files in the wild leave out: what an architecture has without them is at work.
UNTOLD = {"vocab_size": None, "rope.dimension_count": None}
UNTOLD_HEADS = {**UNTOLD, "attention.key_length": None, "attention.value_length": None}
UNTOLD_LABELS = {"classifier.output_labels": None}

VARIANTS = {
    "bert": Variant("BertModel", "bert", {**BERT, "layer_norm_eps": 1e-5}, {**UNTOLD_HEADS, "pooling_type": 2}, words=True),
    "bert-rank": Variant("BertForSequenceClassification", "bert", {**BERT, "num_labels": 1, "layer_norm_eps": 1e-5},
                         {**UNTOLD_HEADS, **UNTOLD_LABELS}, words=True, pairs=True),
    "roberta": Variant("XLMRobertaModel", "bert", {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
                                                   "max_position_embeddings": 130, "pad_token_id": 1, "bos_token_id": 0},
                       {**UNTOLD_HEADS, "pooling_type": 1}),
    "nomic-bert": Variant("NomicBertModel", "nomic-bert", {**BERT, "layer_norm_eps": 1e-5}, {**UNTOLD, "pooling_type": 1}, words=True),
    "modern-bert": Variant("ModernBertModel", "modern-bert", {"local_attention": 16, "num_hidden_layers": 4, "norm_eps": 1e-5,
                                                              "cls_token_id": 1, "sep_token_id": 2},
                           {**UNTOLD_HEADS, "hidden_activation": None}),
    "eurobert": Variant("EuroBertModel", "eurobert", {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 3},
                        {**UNTOLD, "pooling_type": 1}),
    "gemma-embedding": Variant("Gemma3TextModel", "gemma-embedding",
                               {**DECODER, "num_hidden_layers": 6, "hidden_size": 24, "intermediate_size": 40, "head_dim": 16,
                                "use_bidirectional_attention": True, "sliding_window": 16, "query_pre_attn_scalar": 16},
                               {**UNTOLD, "pooling_type": 1, "attention.scale": None, "attention.sliding_window_pattern": None,
                                "rope.freq_base_swa": None}, centred=True),
    "qwen3": Variant("Qwen3Model", "qwen3", DECODER, {**UNTOLD, "pooling_type": 3}),
    "qwen3-rank": Variant("Qwen3ForSequenceClassification", "qwen3", {**DECODER, "num_labels": 2}, {**UNTOLD, **UNTOLD_LABELS}),
    "llama-both-ways": Variant("EuroBertModel", "llama", {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 3},
                               {**UNTOLD, "pooling_type": 1, "attention.causal": False}, instead=LLAMA),
    "jina-bert-v2": Variant("JinaBertV2", "jina-bert-v2", {**BERT, "layer_norm_eps": 1e-5}, {**UNTOLD_HEADS, "pooling_type": 1},
                            instead=replace(FAMILIES["BertModel"], arch="jina-bert-v2", names={"intermediate.gated_layers": "ffn_up"}),
                            words=True),
    "nomic-bert-moe": Variant("NomicBertMoe", "nomic-bert-moe", {**BERT, "num_experts": 4, "num_experts_per_tok": 2, "hidden_act": "gelu",
                                                                 "layer_norm_eps": 1e-5},
                              {**UNTOLD, "expert_feed_forward_length": None, "moe_every_n_layers": 2, "pooling_type": 1}, words=True,
                              instead=replace(FAMILIES["NomicBertModel"], arch="nomic-bert-moe", names={
                                  "post_attention_layernorm": "attn_output_norm", "post_mlp_layernorm": "layer_output_norm"})),
}
