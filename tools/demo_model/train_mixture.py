"""A small mixture of experts on the demo model's text: its routers are trained, so what they choose is like what real ones choose.

    python train_mixture.py --data data --out mixture.gguf [--steps 1500] [--seconds 3600]

What experts stay in memory is decided by comparing policies on its choices (tests/bench/routing.py). Mixtral's way, which GGUF calls
"llama" with experts: the best of all experts by logit, weighted by the softmax of theirs alone; Switch's loss keeps them balanced
(arXiv 2101.03961, section 2.2). Reads prepare.py's --data; writes the GGUF file, matrices in F16. Stops after --seconds too, and writes
what there is: the learning rate falls with whichever of the two is nearer its end.
"""
from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import export
import gguf
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from train import BATCH, Block, Config, Llama, batches, drop, optimizer, rotate, update


@dataclass
class MixtureConfig(Config):
    experts: int = 32
    used: int = 4
    expert_ff: int = 128
    balance: float = 0.01           # weight of the loss that keeps experts balanced


class Experts(nn.Module):
    """In place of a layer's feed-forward network. Parameter names are GGUF's, shapes too: [experts, out, in]."""

    def __init__(self, c: MixtureConfig) -> None:
        super().__init__()
        self.c = c
        self.ffn_gate_inp = nn.Parameter(0.02 * torch.randn(c.experts, c.d))
        self.ffn_gate_exps = nn.Parameter(0.02 * torch.randn(c.experts, c.expert_ff, c.d))
        self.ffn_up_exps = nn.Parameter(0.02 * torch.randn(c.experts, c.expert_ff, c.d))
        self.ffn_down_exps = nn.Parameter(0.02 / (2 * c.layers) ** 0.5 * torch.randn(c.experts, c.d, c.expert_ff))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (n, d) -> (n, d) and the loss of imbalance."""
        c = self.c
        logits = x @ self.ffn_gate_inp.T
        best, chosen = logits.topk(c.used)
        weights = best.softmax(-1)
        share = F.one_hot(chosen, c.experts).float().sum(1).mean(0) / c.used
        imbalance = c.experts * (share * logits.softmax(-1).mean(0)).sum()
        order = chosen.flatten().argsort(stable=True)
        rows, counts = order // c.used, chosen.flatten().bincount(minlength=c.experts).tolist()
        outs = []
        for e, h in enumerate(x[rows].split(counts)):
            outs.append((F.silu(h @ self.ffn_gate_exps[e].T) * (h @ self.ffn_up_exps[e].T)) @ self.ffn_down_exps[e].T)
        out = torch.cat(outs) * weights.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, rows, out), imbalance


class MixtureBlock(Block):
    """A layer of Llama with experts in place of the SwiGLU."""

    def __init__(self, c: MixtureConfig, dropout: float) -> None:
        super().__init__(c, dropout)
        del self.ffn_gate, self.ffn_up, self.ffn_down
        self.experts = Experts(c)
        self.imbalance = torch.zeros(())

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        c, (b, t, _), p = self.c, x.shape, self.dropout if self.training else 0.0
        h = self.attn_norm(x)
        q, k, v = (w(h).view(b, t, -1, c.d // c.heads).transpose(1, 2) for w in (self.attn_q, self.attn_k, self.attn_v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (z.repeat_interleave(c.heads // c.kv_heads, 1) for z in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c.d)
        x = x + drop(self.attn_output(a), p)
        out, self.imbalance = self.experts(self.ffn_norm(x).flatten(0, 1))
        return x + drop(out.view_as(x), p)


def make(c: MixtureConfig, dropout: float) -> Llama:
    model = Llama(c, dropout)
    model.blk = nn.ModuleList(MixtureBlock(c, dropout) for _ in range(c.layers))
    return model


def fit(model: Llama, c: MixtureConfig, args: argparse.Namespace) -> None:
    train = np.fromfile(args.data / "train.bin", np.uint16)
    opt, start, losses = optimizer(model), time.time(), []
    for step, x, y in batches(train, args.steps, args.seed):
        done = max(step / args.steps, (time.time() - start) / args.seconds)
        if done >= 1:
            break
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        imbalance = torch.stack([block.imbalance for block in model.blk]).mean()
        update(opt, loss + c.balance * imbalance, args.lr, done, 0.03)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            said = {"step": step + 1, "tokens": (step + 1) * BATCH, "seconds": round(time.time() - start),
                    "loss": round(float(np.mean(losses[-50:])), 4), "imbalance": round(imbalance.item(), 4)}
            print(json.dumps(said), flush=True)


def write(model: Llama, c: MixtureConfig, tokenizer: Path, path: Path) -> None:
    f16, f32 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32
    w = gguf.GGUFWriter(path, "llama")
    export.add_metadata(w, model, json.loads(tokenizer.read_text()), f16)
    w.add_expert_count(c.experts)
    w.add_expert_used_count(c.used)
    for name, tensor in model.state_dict().items():
        data = tensor.float().numpy()
        name = name.replace(".experts", "")
        router = name.endswith("ffn_gate_inp")
        dtype = f32 if data.ndim == 1 or router else f16
        name = name if name.endswith(".weight") else f"{name}.weight"
        w.add_tensor(name, gguf.quants.quantize(data, dtype), raw_dtype=dtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="prepare.py's --out")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=1500)
    ap.add_argument("--seconds", type=float, default=1e9)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=1)
    return ap.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    c = MixtureConfig()
    c.ff = c.expert_ff
    model = make(c, 0.05)
    fit(model, c, args)
    write(model.eval(), c, args.data / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
