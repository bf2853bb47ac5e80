"""The tiny models that make_encoders.py writes, one row each; a row is appended, as its seed is its place."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LENGTHS = (1, 9, 64, 65, 100)                           # around a block of state
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
         *".,!?-'0123456789", "the", "cat", "sat", "##ing"]


@dataclass(frozen=True)
class Variant:
    """A tiny model: its class in transformers, its GGUF architecture, what differs from BASE, what its tensors are called in GGUF where
    gguf's own table knows them under other names, and keys."""

    model: str
    arch: str
    config: dict[str, Any] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    words: bool = False             # a vocabulary of WordPiece
    pairs: bool = False             # texts are pairs
    centred: bool = False           # weights of norms are around 0


BASE = {"vocab_size": 272, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {"vocab_size": len(WORDS), "num_attention_heads": 4}
SCORED = {"pooler.dense.": "classifier.dense.", r"^classifier\.(weight|bias)": r"classifier.out_proj.\1"}
LAYER_EPS = {"attention.layer_norm_epsilon": 1e-5}
RMS_EPS = {"attention.layer_norm_rms_epsilon": 1e-5}
DECODER = {"num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}

VARIANTS = {
    "bert": Variant("BertModel", "bert", {**BERT, "layer_norm_eps": 1e-5}, keys={**LAYER_EPS, "attention.causal": False, "pooling_type": 2},
                    words=True),
    "bert-rank": Variant("BertForSequenceClassification", "bert", {**BERT, "num_labels": 1, "layer_norm_eps": 1e-5}, SCORED,
                         {**LAYER_EPS, "attention.causal": False, "pooling_type": 4}, words=True, pairs=True),
    "roberta": Variant("XLMRobertaModel", "bert", {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
                                                   "max_position_embeddings": 130, "pad_token_id": 1, "bos_token_id": 0},
                       keys={**LAYER_EPS, "attention.causal": False, "pooling_type": 1}),
    "nomic-bert": Variant("NomicBertModel", "nomic-bert", {**BERT, "layer_norm_eps": 1e-5},
                          {"self_attn.qkv": "attn.Wqkv", "post_attention_layernorm": "attn_output_norm",
                           "post_mlp_layernorm": "layer_output_norm"},
                          {**LAYER_EPS, "attention.causal": False, "pooling_type": 1, "rope.freq_base": 1000.0}, words=True),
    "modern-bert": Variant("ModernBertModel", "modern-bert", {"local_attention": 16, "num_hidden_layers": 4, "norm_eps": 1e-5,
                                                              "cls_token_id": 1, "sep_token_id": 2},
                           keys={**LAYER_EPS, "attention.causal": False, "attention.sliding_window": 16, "rope.freq_base": 160000.0,
                                 "rope.freq_base_swa": 10000.0}),
    "eurobert": Variant("EuroBertModel", "eurobert", {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 3},
                        keys={**RMS_EPS, "attention.causal": False, "pooling_type": 1, "rope.freq_base": 10000.0}),
    "gemma-embedding": Variant("Gemma3TextModel", "gemma-embedding",
                               {**DECODER, "num_hidden_layers": 6, "hidden_size": 24, "intermediate_size": 40, "head_dim": 16,
                                "use_bidirectional_attention": True, "sliding_window": 16, "query_pre_attn_scalar": 16},
                               keys={**RMS_EPS, "pooling_type": 1, "attention.sliding_window": 16, "rope.freq_base": 1000000.0},
                               centred=True),
    "qwen3": Variant("Qwen3Model", "qwen3", DECODER, keys={**RMS_EPS, "pooling_type": 3, "rope.freq_base": 10000.0}),
    "qwen3-rank": Variant("Qwen3ForSequenceClassification", "qwen3", {**DECODER, "num_labels": 2}, {r"^score\.": "cls.output."},
                          {**RMS_EPS, "pooling_type": 4, "rope.freq_base": 10000.0}),
    "llama-both-ways": Variant("EuroBertModel", "llama", {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 3},
                               keys={**RMS_EPS, "attention.causal": False, "pooling_type": 1, "rope.freq_base": 10000.0}),
}
