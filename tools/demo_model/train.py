"""A small Llama and its one-layer draft, trained together on one CPU.

The target learns from the text; the draft, from --draft-from of the way on, learns the target's distribution on the
same batches (its logits are there already), so that its greedy choice is the target's more often.
Reads prepare.py's --data; writes target.pt and draft.pt (config and weights) and train.json (losses) to --out.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

Ids = npt.NDArray[np.uint16]
BATCH = 4096                        # tokens of a step


@dataclass
class Config:
    """Shape of a model, in the terms of GGUF's llama.* keys."""
    layers: int = 6
    ff: int = 768
    d: int = 256
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 4096
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE on adjacent pairs (2i, 2i+1), GGUF's "normal" order. x (B, H, T, d), cos and sin (T, d/2)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout with one mask per sequence, shared by its positions; costs a CPU next to nothing. x (B, T, d)."""
    return x * ((torch.rand(x.shape[0], 1, x.shape[2]) >= p) / (1 - p)).to(x.dtype) if p else x


class Block(nn.Module):
    """One Llama layer: attention with grouped KV heads and a SwiGLU, each behind an RMS norm and dropout."""

    def __init__(self, c: Config, dropout: float) -> None:
        super().__init__()
        self.c, self.dropout, kv = c, dropout, c.kv_heads * c.d // c.heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(c.d, c.eps), nn.RMSNorm(c.d, c.eps)
        for name, out, into in (("attn_q", c.d, c.d), ("attn_k", kv, c.d), ("attn_v", kv, c.d), ("attn_output", c.d, c.d),
                                ("ffn_gate", c.ff, c.d), ("ffn_up", c.ff, c.d), ("ffn_down", c.d, c.ff)):
            setattr(self, name, nn.Linear(into, out, bias=False))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (B, T, d) -> (B, T, d)."""
        c, (b, t, _), p = self.c, x.shape, self.dropout if self.training else 0.0
        h = self.attn_norm(x)
        q, k, v = (w(h).view(b, t, -1, c.d // c.heads).transpose(1, 2) for w in (self.attn_q, self.attn_k, self.attn_v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (z.repeat_interleave(c.heads // c.kv_heads, 1) for z in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c.d)
        x = x + drop(self.attn_output(a), p)
        h = self.ffn_norm(x)
        return x + drop(self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)), p)


class Llama(nn.Module):
    """The architecture GGUF calls "llama", output tied to the embedding. Parameter names are GGUF's."""

    def __init__(self, c: Config, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = c
        self.token_embd = nn.Embedding(c.vocab, c.d)
        self.blk = nn.ModuleList(Block(c, dropout) for _ in range(c.layers))
        self.output_norm = nn.RMSNorm(c.d, c.eps)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                down = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.layers) if down else 0.02)
        head = c.d // c.heads
        angle = torch.outer(torch.arange(c.context), c.theta ** (-torch.arange(0, head, 2) / head))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens int64 (B, T) -> logits (B, T, vocab)."""
        x, t = self.token_embd(tokens), tokens.shape[1]
        for block in self.blk:
            x = block(x, self.cos[:t], self.sin[:t])
        return F.linear(self.output_norm(x), self.token_embd.weight)


def load(path: Path) -> Llama:
    """The model train.py saved at `path`, in evaluation mode."""
    saved = torch.load(path, weights_only=True)
    model = Llama(Config(**saved["config"]))
    model.load_state_dict(saved["weights"])
    return model.eval()


def batches(data: Ids, steps: int, seed: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(step, x, y), x and y int64 (BATCH / T, T): windows of `data` from random places; T is 256, in the last quarter 512."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        t = 512 if step >= 0.75 * steps else 256
        starts = rng.integers(0, len(data) - t - 1, BATCH // t)
        w = torch.from_numpy(np.stack([data[s:s + t + 1] for s in starts]).astype(np.int64))
        yield step, w[:, :-1].contiguous(), w[:, 1:].contiguous()


@torch.no_grad()
def evaluate(target: nn.Module, draft: nn.Module, ids: Ids, t: int) -> dict[str, float]:
    """Mean loss in nats per token of both on consecutive windows of t, and how often their greedy choices agree."""
    total, n = torch.zeros(3), (len(ids) - 1) // t
    x, y = (torch.from_numpy(ids[i:n * t + i].astype(np.int64)).view(n, t) for i in (0, 1))
    for x16, y16 in zip(x.split(16), y.split(16), strict=True):
        a, b, gold = target(x16).float().flatten(0, 1), draft(x16).float().flatten(0, 1), y16.flatten()
        total += torch.stack([F.cross_entropy(a, gold, reduction="sum"), F.cross_entropy(b, gold, reduction="sum"),
                              (a.argmax(-1) == b.argmax(-1)).sum().float()])
    return dict(zip(("target_loss", "draft_loss", "agreement"), (total / (n * t)).tolist(), strict=True))


def optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW, weight decay on matrices only."""
    groups = [{"params": [p for p in model.parameters() if p.ndim == n], "weight_decay": w}
              for n, w in ((2, 0.1), (1, 0.0))]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def update(opt: torch.optim.AdamW, loss: torch.Tensor, peak: float, done: float, warm: float) -> None:
    """One step, `done` in [0, 1) of the way: linear warm-up over `warm`, then cosine down to 2 % of `peak`."""
    lr = peak * (done / warm if done < warm else 0.02 + 0.49 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))
    loss.backward()
    for group in opt.param_groups:
        group["lr"] = lr
    nn.utils.clip_grad_norm_([p for group in opt.param_groups for p in group["params"]], 1.0)
    opt.step()
    opt.zero_grad()


Losses = Callable[[torch.Tensor, torch.Tensor], Any]


def compiled_losses(target: nn.Module, draft: nn.Module) -> tuple[Losses, Losses]:
    """(learn, distil), each compiled once for a length of window, in bfloat16 where PyTorch thinks it safe."""

    @torch.compile(dynamic=False)
    def learn(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T) and the ones that follow -> the target's mean loss and its log probabilities (B * T, vocab)."""
        with torch.autocast("cpu", torch.bfloat16):
            p = F.log_softmax(target(x).flatten(0, 1).float(), -1)
            return F.nll_loss(p, y.flatten()), p.detach()

    @torch.compile(dynamic=False)
    def distil(x: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Mean KL divergence of the draft from `teacher` (B * T, vocab), in log probabilities."""
        with torch.autocast("cpu", torch.bfloat16):
            student = F.log_softmax(draft(x).flatten(0, 1).float(), -1)
            return (teacher.exp() * (teacher - student)).sum(-1).mean()

    return learn, distil


@dataclass
class Parts:
    """Losses of the steps since the last evaluation."""
    train_loss: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)


def fit(target: Llama, draft: Llama, train: Ids, val: Ids, args: argparse.Namespace) -> list[dict[str, float]]:
    """Trains both in place; what was measured every 250 steps, also printed."""
    learn, distil = compiled_losses(target, draft)
    opt, opt_draft = optimizer(target), optimizer(draft)
    log: list[dict[str, float]] = []
    start, parts = time.time(), Parts()
    for step, x, y in batches(train, args.steps, args.seed):
        done = step / args.steps
        loss, teacher = learn(x, y)
        update(opt, loss, args.lr, done, 0.03)
        parts.train_loss.append(loss.item())
        if done >= args.draft_from:
            kl = distil(x, teacher)
            update(opt_draft, kl, 2 * args.lr, (done - args.draft_from) / (1 - args.draft_from), 0.05)
            parts.kl.append(kl.item())
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            target.eval()
            means = {k: sum(v) / len(v) for k, v in vars(parts).items() if v}
            log.append({"step": step + 1, "tokens": (step + 1) * BATCH, "seconds": time.time() - start, **means,
                        **evaluate(target, draft, val[:40_000], 256)})
            target.train()
            print(json.dumps({k: round(v, 4) for k, v in log[-1].items()}), flush=True)
            parts = Parts()
    return log


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="prepare.py's --out")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=4300)
    ap.add_argument("--draft-from", type=float, default=0.5, help="share of the steps after which the draft learns too")
    ap.add_argument("--lr", type=float, default=2.5e-3)
    ap.add_argument("--dropout", type=float, default=0.1)
    ap.add_argument("--seed", type=int, default=1)
    return ap.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    train, val = (np.fromfile(args.data / f"{name}.bin", np.uint16) for name in ("train", "val"))
    target, draft = Llama(Config(), args.dropout), Llama(Config(layers=1, ff=512))
    log = fit(target, draft, train, val, args)
    for name, model in (("target", target.eval()), ("draft", draft)):
        torch.save({"config": asdict(model.config), "weights": model.state_dict()}, args.out / f"{name}.pt")
    final = evaluate(target, draft, val, 256)
    nats = math.log(2) * json.loads((args.data / "corpus.json").read_text())["val_bytes"] / len(val)
    final.update({f"{name}_bits_per_byte": final[f"{name}_loss"] / nats for name in ("target", "draft")})
    settings = {k: v for k, v in vars(args).items() if k not in ("data", "out")}
    (args.out / "train.json").write_text(json.dumps({"arguments": settings, "final": final, "log": log}, indent=1) + "\n")


if __name__ == "__main__":
    main()
