"""The exercises of chapter 15, outliers and quantization."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, once, value

Names = frozenset[str]

# ---------------------------------------------------------------------------------------------
# 15.1, how far a sink stands above the rest

GAP_MISTAKES = (
    Mistake("percent", 0, "The gap is that for 10 %: 0.1 % is the share 0.001."),
    Mistake("one-key", 0, "The length is missing: this is the gap to a *single* other key. A "
            "million keys with little weight each still have much together."),
    Mistake("no-share", 0, "This is ln n, at which the sink has as much as all the others "
            "together. How much further for 999 times as much?"),
    Mistake("bits", 0, "These are bits. Logits are exponents of e: natural logarithms."),
    Mistake("log10", 0, "These are powers of ten. Logits are exponents of e: natural logarithms."),
    Mistake("doubled", 0, "The second number is the gap itself, or twice it. Only the *rise* is "
            "asked for: what does ln(2n) have more than ln n?"),
)


def gaps(mistakes: Names = NONE) -> dict[str, float]:
    """ln((n - 1)(1 - rest) / rest), chapter 15, step 1, and its rise from n to 2n."""
    rest = 0.1 if "percent" in mistakes else 0.001
    odds = 0.0 if "no-share" in mistakes else math.log((1 - rest) / rest)

    def gap(n: int) -> float:
        return odds + (0.0 if "one-key" in mistakes else math.log(n - 1))

    unit = (math.log(2) if "bits" in mistakes else math.log(10) if "log10" in mistakes else 1.0)
    once, twice = gap(10**6) / unit, gap(2 * 10**6) / unit
    if "doubled" in mistakes:
        return {"gap": once, "twice the context adds": twice}
    return {"gap": once, "twice the context adds": twice - once}


# ---------------------------------------------------------------------------------------------
# 15.3, a key for nothing

NOTHING_MISTAKES = (
    Mistake("one-after-max", 0, "The row's largest score was taken away first, and 1 added then. "
            "The null key's logit is 0 *before* that: after a shift by the maximum its weight is "
            "exp(-maximum), not 1. Let every row be far below zero and look at the sum."),
    Mistake("not-dropped", 0, "There is one weight too many: the null key takes part in the sum, "
            "but nothing reads its value. Leave its weight out of what you return."),
    Mistake("plain", 0, "This is the plain softmax: each row still sums to 1, whatever the logits. "
            "Where is the 1 in the denominator?"),
    Mistake("overflow", 0, "Large scores give NaN: exp(1000) is infinite. Give the null key to the "
            "softmax as one more score, which is safe for every size."),
    Mistake("row-by-row", 0, "The sum runs over the whole map, not over each row: sum over the "
            "last axis."),
)


def softmax_plus_one(s: Any, mistakes: Names = NONE) -> Any:
    """e^s / (1 + sum e^s) over the last axis; s is (..., keys)."""
    import torch

    if "overflow" in mistakes:
        return s.exp() / (1 + s.exp().sum(-1, keepdim=True))
    if "plain" in mistakes:
        return s.softmax(-1)
    if "one-after-max" in mistakes:
        weights = (s - s.amax(-1, keepdim=True)).exp()
        return weights / (1 + weights.sum(-1, keepdim=True))
    if "row-by-row" in mistakes:
        return s.exp() / (1 + s.exp().sum())
    weights = torch.cat((s, torch.zeros_like(s[..., :1])), dim=-1).softmax(-1)
    return weights if "not-dropped" in mistakes else weights[..., :-1]


def _rows(rng: np.random.Generator, student: str) -> Iterable[Case]:
    import torch

    s = torch.tensor(rng.standard_normal((3, 5)))
    yield Case("3 rows of 5 keys", {"s": s})
    yield Case("all logits 10 lower", {"s": s - 10})
    yield Case("logits near 1000", {"s": s + 1000})


TASKS = (
    Task("15.1", "How many nats", "answer", 0, once, gaps,
         GAP_MISTAKES, probe=value, rtol=0.005),
    Task("15.3", "A key for nothing", "softmax_plus_one", 0, _rows, softmax_plus_one,
         NOTHING_MISTAKES, rtol=1e-5, atol=1e-7, group=1),
)
