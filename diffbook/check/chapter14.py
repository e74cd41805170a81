"""The exercises of chapter 14, hallucination."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, once, value

Names = frozenset[str]

# ---------------------------------------------------------------------------------------------
# 14.1, how many outputs

OUTPUT_MISTAKES = (
    Mistake("one-variance", 0, "Only one of the two shares has an error here. The variance of a "
            "difference is the sum of both."),
    Mistake("one-error", 0, "The difference is one standard error here. An interval of 95 % needs "
            "1.96 of them, and n grows with the square of that."),
    Mistake("no-square", 0, "n comes out far too small: is the difference of the shares, or the "
            "1.96, not squared?"),
    Mistake("certain", 0, "The second number is the chance to *miss* it."),
    Mistake("even", 0, "An even chance would need a difference of 1.96 standard errors. How many "
            "are 10 points with 100 outputs?"),
)


def outputs(mistakes: Names = NONE) -> dict[str, float]:
    """Outputs for shares 0.35 and 0.44; power of 100 outputs for ten points (chapter 14, step 1
    has the interval)."""
    a, b = 0.35, 0.44
    variance = a * (1 - a) + (0 if "one-variance" in mistakes else b * (1 - b))
    z = 1.0 if "one-error" in mistakes else 1.96
    n = z * variance / (b - a) if "no-square" in mistakes else z**2 * variance / (b - a) ** 2
    error = math.sqrt((0.35 * 0.65 + 0.45 * 0.55) / 100)
    found = NormalDist().cdf(0.10 / error - 1.96)
    if "certain" in mistakes:
        found = 1 - found
    elif "even" in mistakes:
        found = 0.5
    return {"outputs": n, "found": found}


# ---------------------------------------------------------------------------------------------
# 14.2, precision and recall in one number

F1_MISTAKES = (
    Mistake("mean", 0, "This is the arithmetic mean: somebody who says one true sentence and "
            "nothing else gets more than a half. Which mean is small when *one* of the two is?"),
    Mistake("product", 0, "The product also punishes both, but a summary with 0.8 and 0.8 gets "
            "0.64. Take the harmonic mean, which leaves equal numbers as they are."),
    Mistake("half", 0, "The factor 2 is missing: with precision and recall 1 this is 1/2."),
    Mistake("zero", 0, "Nothing said that is true: precision and recall are 0, and so is the "
            "score, not 0/0."),
)


def harmonic(precision: Any, recall: Any, mistakes: Names = NONE) -> float:
    """2pr / (p + r), and 0 where both are 0."""
    if "mean" in mistakes:
        return (precision + recall) / 2
    if "product" in mistakes:
        return precision * recall
    if precision + recall == 0:
        return math.nan if "zero" in mistakes else 0.0
    return (1 if "half" in mistakes else 2) * precision * recall / (precision + recall)


def _summaries(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("one sentence, true", {"precision": 1.0, "recall": 0.1})
    yield Case("both 0.8", {"precision": 0.8, "recall": 0.8})
    yield Case("nothing true", {"precision": 0.0, "recall": 0.0})


def _called(thing: Any, inputs: dict[str, float]) -> Any:
    """The score, or NaN where it divides by zero."""
    try:
        return thing(**inputs)
    except ZeroDivisionError:
        return float("nan")


TASKS = (
    Task("14.1", "How many outputs", "answer", 0, once, outputs, OUTPUT_MISTAKES, probe=value,
         rtol=0.1, atol=0, group=1),
    Task("14.2", "One number for two faults", "f1", 0, _summaries, harmonic, F1_MISTAKES,
         probe=_called, group=1),
)
