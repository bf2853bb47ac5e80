"""Tiny LoRA adapters of golden models, as PEFT saves them, and the logits that PEFT computes with them in float32.

    pip install torch transformers peft gguf numpy
    PYTHONPATH=. python tests/golden/adapters/make_adapters.py

For each case below it writes, beside this, CASE/adapter_config.json, CASE/adapter_model.safetensors and CASE.npz with
    logits       float32 [24, vocab]   after each of the first tokens of the golden model's prompt
It prints how far those of the model that the adapter was merged into are from them. Matrices are drawn from the case's number; B is not
zero, as it is before training.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import VARIANTS
from make_golden import build

HERE = Path(__file__).parent
TOKENS = 24
ATTENTION, GATED = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]

# By name: the golden model, and PEFT's configuration.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-all": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION + GATED}),
    "llama-attention": ("llama", {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "llama-patterns": ("llama", {"r": 3, "lora_alpha": 6, "target_modules": ["k_proj", "down_proj", "lm_head"],
                                 "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"layers.1.self_attn.k_proj": 12}}),
    "qwen3": ("qwen3", {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION + GATED}),
    "phi3": ("phi3", {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
    "qwen3moe": ("qwen3moe", {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION}),
}


def main() -> None:
    names = list(VARIANTS)
    for number, (case, (name, how)) in enumerate(CASES.items()):
        ids = torch.tensor(np.load(HERE.parent / f"{name}.npz")["input_ids"][None, :TOKENS].astype(np.int64))
        model = get_peft_model(build(VARIANTS[name], names.index(name)), LoraConfig(task_type="CAUSAL_LM", **how)).eval()
        torch.manual_seed(number)
        with torch.no_grad():
            for weight, p in model.named_parameters():
                if "lora_" in weight:
                    p.copy_(torch.randn(p.shape) * (0.4 if "lora_B" in weight else 1 / p.shape[1] ** 0.5))
            logits = model(ids).logits[0].numpy()
            model.save_pretrained(str(HERE / case), save_embedding_layers=False)
            (HERE / case / "README.md").unlink(missing_ok=True)
            (HERE / case / "adapter_model.safetensors").chmod(0o644)
            merged = model.merge_and_unload()(ids).logits[0].numpy()
        np.savez_compressed(HERE / f"{case}.npz", logits=logits)
        print(case, np.abs(logits - merged).max())


if __name__ == "__main__":
    main()
