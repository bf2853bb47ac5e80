"""What make_generate.py asks transformers' generate() for, and tests/python/test_generate_golden.py airpy's: arguments by name of the
case, of the golden model llama's prompt. Callables are in both one's forms."""
from __future__ import annotations

from typing import Any

MODEL, PROMPT, NEW = "llama", 12, 8  # tokens
PAD = 0


def every_third(row: int, ids: Any) -> list[int]:
    return list(range(len(ids) % 3, 250, 3))


def halve_even(ids: Any, scores: Any) -> Any:
    scores[:, ::2] /= 2
    return scores


def forbid_last(ids: Any, scores: Any) -> Any:
    for row, text in enumerate(ids.tolist()):
        scores[row, text[-1]] = -float("inf")
    return scores


def five_new(ids: Any, scores: Any) -> Any:
    return ids[:, -1] == ids[:, -1] if ids.shape[1] >= PROMPT + 5 else ids[:, -1] != ids[:, -1]


def drawn(**how: Any) -> dict[str, Any]:
    """Scores before the first draw: what comes after it is chance."""
    return {"do_sample": True, "max_new_tokens": 1, "top_k": 0, **how}


# By name. eos: that many steps into the greedy text is the token that ends texts.
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition": {"repetition_penalty": 1.3},
    "ngrams": {"no_repeat_ngram_size": 1},
    "pairs": {"no_repeat_ngram_size": 2, "repetition_penalty": 0.8},
    "bias": {"sequence_bias": {(7,): 3.0, (11, 9): -2.5, (9,): -1.0}},
    "suppressed": {"suppress_tokens": [5, 6], "begin_suppress_tokens": [7]},
    "prefix": {"prefix_allowed_tokens_fn": every_third},
    "processors": {"logits_processor": [halve_even, forbid_last], "repetition_penalty": 1.1},
    "criterion": {"stopping_criteria": [five_new]},
    "end": {"eos": 3},
    "end-later": {"eos": 3, "min_new_tokens": 6},
    "end-longer": {"eos": 3, "min_length": PROMPT + 5},
    "normalised": {"renormalize_logits": True, "repetition_penalty": 1.2},
    "temperature": drawn(temperature=0.7),
    "top-k": drawn(top_k=20),
    "top-p": drawn(top_p=0.8),
    "min-p": drawn(min_p=0.02),
    "draw": drawn(temperature=1.4, top_k=60, top_p=0.9, min_p=0.01, repetition_penalty=1.2, suppress_tokens=[3]),
}
