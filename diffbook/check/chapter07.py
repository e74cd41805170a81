"""The exercises of chapter 7, the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, difference, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 7.1, matched in another way

COUNT_MISTAKES = (
    Mistake("no-lambda", 0, "The matrices are right. What does a layer of differential attention "
            "have besides: how many vectors make λ, and what comes after the norm?"),
    Mistake("one-matrix", 0, "Only one matrix grows here. Two maps need two sets of queries *and* "
            "two of keys."),
    Mistake("values-too", 0, "The values grow here, too. Twelve heads with values of width 64 fill "
            "768 as before."),
    Mistake("per-head", 0, "λ's vectors and the gain are counted once for each head. The heads of "
            "a layer share them."),
    Mistake("two-of-swiglu", 0, "The surplus is right. SwiGLU has *three* matrices of d_model "
            "times its width, and each gets narrower."),
)
NARROWER = "narrower by"


def counts(mistakes: Names = NONE) -> dict[str, int]:
    """Surplus of 12 differential heads at the baseline's width of head, chapter 7, step 2."""
    width, d, heads = 768, 64, 12
    grown = 1 if "one-matrix" in mistakes else 3 if "values-too" in mistakes else 2
    extra = 0 if "no-lambda" in mistakes else 4 * d + d
    if "per-head" in mistakes:
        extra *= heads
    surplus = grown * width**2 + extra
    matrices = 2 if "two-of-swiglu" in mistakes else 3
    return {"more parameters a layer": surplus, NARROWER: round(surplus / (matrices * width))}


def _whole(answer: Any, expected: Any) -> str | None:
    """The comparison, with the width rounded to whole units."""
    if isinstance(answer, dict) and isinstance(answer.get(NARROWER), (int, float)):
        answer = {**answer, NARROWER: round(answer[NARROWER])}
    return difference(answer, expected, rtol=0, atol=0.5)


# ---------------------------------------------------------------------------------------------
# 7.2, hands of a clock

CLOCK_MISTAKES = (
    Mistake("radians", 0, "base^(2j/d) tokens turn a pair by one *radian*. A full turn is 2π of "
            "them."),
    Mistake("half-turn", 0, "These pairs do not make half a turn. Asked is a full one, 2π."),
    Mistake("exponent", 0, "The exponent of pair j is 2j/d, so that the last of the 64 pairs comes "
            "close to the whole base; here it ends at its root."),
    Mistake("others", 0, "These are the pairs that *do* come round. Asked are the others."),
)


def slow_pairs(mistakes: Names = NONE) -> dict[str, int]:
    """Pairs of 64 that make no full turn, by base and reach (chapter 7, the clock)."""
    found = {}
    for base, reach in ((10_000, 4096), (10_000, 65_536), (640_000, 65_536)):
        turn = 2 * math.pi * base ** (np.arange(0, 128, 2) / 128)
        if "exponent" in mistakes:
            turn = 2 * math.pi * base ** (np.arange(64) / 128)
        turn /= 2 * math.pi if "radians" in mistakes else 2 if "half-turn" in mistakes else 1
        slow = int((turn > reach).sum())
        found[f"{reach:,} at {base:,}"] = 64 - slow if "others" in mistakes else slow
    return found


# ---------------------------------------------------------------------------------------------
# 7.3, top-p

TOP_P_MISTAKES = (
    Mistake("plain", 0, "All tokens still come: nothing is cut off. Which have to get the "
            "probability 0 before you draw?"),
    Mistake("crossing-lost", 0, "The token whose probability *reaches* p is missing. A token "
            "stays if the sum before it is still below p; so the first one always stays."),
    Mistake("ranks", 0, "These are places in the sorted order, not tokens. `sort` gives the order, "
            "too: what stands at the place that was drawn?"),
    Mistake("threshold", 0, "Only tokens that have p by themselves stay. The p is for the *sum* of "
            "the most probable ones."),
    Mistake("even", 0, "The right tokens stay, but all with one probability. Keep the ratios that "
            "the model gave them."),
)
DRAWS = 4000


def shares(logits: Any, p: float, mistakes: Names = NONE) -> np.ndarray:
    """Probability of each token under top-p sampling; logits (vocab,)."""
    probability = logits.softmax(-1).double().numpy()
    order = np.argsort(-probability)
    sorted_ = probability[order]
    before = np.cumsum(sorted_) - sorted_
    stays = before < p
    if "plain" in mistakes:
        stays[:] = True
    elif "crossing-lost" in mistakes:
        stays = np.cumsum(sorted_) < p
        stays[0] = True
    elif "threshold" in mistakes:
        stays = sorted_ >= p
        stays[0] = True
    kept = np.where(stays, 1.0 if "even" in mistakes else sorted_, 0.0)
    kept /= kept.sum()
    if "ranks" in mistakes:
        return kept
    found = np.zeros_like(kept)
    found[order] = kept
    return found


def _drawn(thing: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """Shares of the tokens in many draws."""
    import torch

    logits = inputs["logits"]
    tokens = thing(logits.expand(DRAWS, -1).clone(), inputs["p"], torch.Generator().manual_seed(0))
    if not isinstance(tokens, torch.Tensor):
        return tokens
    if tokens.numel() != DRAWS or tokens.is_floating_point():
        return tokens
    return torch.bincount(tokens.flatten(), minlength=len(logits)).double() / DRAWS


def _same_shares(answer: Any, expected: np.ndarray) -> str | None:
    if getattr(answer, "shape", None) is not None and tuple(answer.shape) != expected.shape:
        return (f"it gave a tensor of shape {tuple(answer.shape)} and type {answer.dtype}; one "
                f"token (an integer) for each of the {DRAWS} rows was expected")
    return difference(answer, expected, rtol=0, atol=0.04)


def _logits(rng: np.random.Generator, student: str) -> Iterable[Case]:
    import torch

    probability = torch.tensor([0.08, 0.30, 0.04, 0.20, 0.25, 0.13])
    yield Case("p = 0.7: the largest three of six", {"logits": probability.log(), "p": 0.7})
    yield Case("p = 1: plain sampling", {"logits": probability.log(), "p": 1.0})
    yield Case("a tiny p: greedy", {"logits": probability.log(), "p": 1e-6})


TASKS = (
    Task("7.1", "Matched in another way", "answer", 0, once, counts, COUNT_MISTAKES, probe=value,
         compare=_whole),
    Task("7.2", "Hands of a clock", "answer", 0, once, slow_pairs, CLOCK_MISTAKES, probe=value,
         group=1),
    Task("7.3", "Top-p sampling", "sample_top_p", 0, _logits, shares, TOP_P_MISTAKES,
         probe=_drawn, compare=_same_shares, group=1),
)
