"""The exercises of chapter 3, differential attention."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, once, value

Names = frozenset[str]

# Scores of the last token of step 1 for "4", for "7", and for each of the four other tokens.
FIRST = np.array([2 * math.sqrt(2), math.sqrt(2), 0, 0, 0, 0])
SECOND = np.array([math.sqrt(2), math.sqrt(2), 0, 0, 0, 0])


# ---------------------------------------------------------------------------------------------
# 3.1, a row by hand

ROW_MISTAKES = (
    Mistake("other-way", 0, "The two maps are in each other's place: map 1 minus λ times map 2."),
    Mistake("normalized", 0, "The row is divided by its sum. It sums to 1 - λ, and stays so: the "
            "norm comes later, and over the output."),
    Mistake("no-lambda", 0, "λ is not there: the second map is taken away as a whole."),
    Mistake("added", 0, "The second map is added. What should it do to what both maps share?"),
    Mistake("scores", 0, "The scores were subtracted, and the softmax taken after. Then all "
            "weights are positive and sum to 1: where would a negative one come from?"),
    Mistake("all-four", 0, "\"each other\" is the weight of *one* of the four, not of all "
            "together."),
)


def row(mistakes: Names = NONE) -> dict[str, float]:
    """Last row of step 1's difference for λ = 0.8."""
    lam = 1.0 if "no-lambda" in mistakes else -0.8 if "added" in mistakes else 0.8
    first, second = (np.exp(s) / np.exp(s).sum() for s in (FIRST, SECOND))
    if "other-way" in mistakes:
        first, second = second, first
    weights = first - lam * second
    if "scores" in mistakes:
        weights = np.exp(FIRST - 0.8 * SECOND)
        weights /= weights.sum()
    if "normalized" in mistakes:
        weights = weights / weights.sum()
    other = 4 if "all-four" in mistakes else 1
    return {"4": weights[0], "7": weights[1], "each other": other * weights[2]}


# ---------------------------------------------------------------------------------------------
# 3.2, the λ at which all common tokens vanish

LAMBDA_MISTAKES = (
    Mistake("inverse", 0, "This is Z1/Z2, above 2. Solve e^s/Z1 = λ e^s/Z2 for λ once more."),
    Mistake("weights-of-4", 0, "This is where *4* itself vanishes. Take a token whose score is the "
            "same in both maps."),
    Mistake("works", 0, "The λ is right. Now give map 2 the query (3, 0) and compute the scores of "
            "*7* and of a filler in both maps: is each the same as before?"),
)


def cancelling(mistakes: Names = NONE) -> dict[str, float | bool]:
    """λ = Z2 / Z1, and whether it would also do for map 2's query (3, 0)."""
    z1, z2 = np.exp(FIRST).sum(), np.exp(SECOND).sum()
    lam = z1 / z2 if "inverse" in mistakes else z2 / z1
    if "weights-of-4" in mistakes:
        lam *= math.exp(FIRST[0] - SECOND[0])
    return {"lambda": float(lam), "works with (3, 0)": "works" in mistakes}


# ---------------------------------------------------------------------------------------------
# 3.4, one token at a time

NEWEST_MISTAKES = (
    Mistake("first-key", 0, "This is the row of a token that sees the first key only: is it the "
            "first token, or was a causal mask made as if the one query stood at the *beginning*? "
            "The newest token stands at the end and may see everything."),
    Mistake("axis-lost", 0, "The axis of the sequence is gone. Slice with -1:, which keeps it."),
    Mistake("all-rows", 0, "All rows are there. Give it only the last query of each map."),
    Mistake("one-map", 0, "The second map is missing: this is map 1 times the values."),
    Mistake("no-scale", 0, "The scores are not divided by √d."),
)


def newest(
    q1: Any, k1: Any, q2: Any, k2: Any, v: Any, lam: float, mistakes: Names = NONE
) -> Any:
    """Output of the last token, (batch, heads, 1, 2d)."""
    last = slice(None) if "all-rows" in mistakes else slice(-1, None)
    scale = 1.0 if "no-scale" in mistakes else q1.shape[-1] ** -0.5
    maps = []
    for q, k in ((q1, k1), (q2, k2)):
        scores = q[:, :, last] @ k.mT * scale  # (batch, heads, 1, seq)
        if "first-key" in mistakes:
            scores[..., 1:] = -math.inf
        elif "all-rows" in mistakes:
            n = scores.shape[-1]
            scores = scores.masked_fill(scores.new_ones(n, n).triu(1).bool(), -math.inf)
        maps.append(scores.softmax(-1))
    weights = maps[0] if "one-map" in mistakes else maps[0] - lam * maps[1]
    out = weights @ v
    return out[:, :, -1] if "axis-lost" in mistakes else out


def _inputs(rng: np.random.Generator, student: str) -> Iterable[Case]:
    import torch

    draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for label, n in (("50 tokens", 50), ("a single token", 1)):
        q1, k1, q2, k2 = torch.randn(4, 2, 3, n, 8, generator=draw)
        v = torch.randn(2, 3, n, 16, generator=draw)
        yield Case(label, {"q1": q1, "k1": k1, "q2": q2, "k2": k2, "v": v, "lam": 0.5})


TASKS = (
    Task("3.1", "A row by hand", "answer", 0, once, row, ROW_MISTAKES, probe=value, rtol=0,
         atol=1.2e-3, group=1),
    Task("3.2", "One λ for all", "answer", 0, once, cancelling, LAMBDA_MISTAKES, probe=value,
         rtol=5e-3, group=1),
    Task("3.4", "One token at a time", "newest", 0, _inputs, newest, NEWEST_MISTAKES, group=1),
)
