"""The exercises of chapter 5, heads and norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, once, value

Names = frozenset[str]

# ---------------------------------------------------------------------------------------------
# 5.1, values that average to zero

CENTER_MISTAKES = (
    Mistake("inputs", 0, "The mean over the *inputs* is taken away, within each row. The channels "
            "of a head are rows of W^V: which axis runs over them?"),
    Mistake("all-heads", 0, "One mean of all heads is taken away. Each head has to average to zero "
            "by itself, as it is normalized by itself."),
    Mistake("interleaved", 0, "The rows of the heads are mixed: a head's 2d rows stand one after "
            "the other."),
    Mistake("scaled", 0, "The rows are divided by their spread, too. Taking the mean away is "
            "enough: the norm does the rest, for each input anew."),
)


def centered(weight: Any, n_heads: int, mistakes: Names = NONE) -> Any:
    """W^V, (heads * 2d, d_model), with the mean over each head's channels taken away."""
    if "all-heads" in mistakes:
        return weight - weight.mean(0, keepdim=True)
    if "inputs" in mistakes:
        return weight - weight.mean(1, keepdim=True)
    if "interleaved" in mistakes:
        rows = weight.reshape(-1, n_heads, weight.shape[1])  # (2d, heads, d_model)
        return (rows - rows.mean(0, keepdim=True)).reshape(weight.shape)
    rows = weight.reshape(n_heads, -1, weight.shape[1])  # (heads, 2d, d_model)
    rows = rows - rows.mean(1, keepdim=True)
    if "scaled" in mistakes:
        rows = rows / rows.std(1, keepdim=True)
    return rows.reshape(weight.shape)


def _weights(rng: np.random.Generator, student: str) -> Iterable[Case]:
    import torch

    for n_heads in (2, 3):
        weight = torch.tensor(1 + rng.standard_normal((n_heads * 8, 6)))
        yield Case(f"{n_heads} heads", {"weight": weight, "n_heads": n_heads})


# ---------------------------------------------------------------------------------------------
# 5.3, where epsilon takes over

LIMIT_MISTAKES = (
    Mistake("no-square", 0, "The number of tokens goes with the *square* of the size: r = "
            "(1-λ)σ_v/√n, and r² is compared with ε."),
    Mistake("no-factor", 0, "The two maps lose nothing here: two even maps leave 1-λ of the mean "
            "value."),
    Mistake("one-minus-square", 0, "(1-λ)² is not 1-λ²."),
    Mistake("lambda-not-rest", 0, "The factor is λ here. What is left of two *equal* maps is 1-λ."),
)


def limits(mistakes: Names = NONE) -> dict[str, tuple[float, float]]:
    """(even head, two even maps with λ = 0.8): n = (1-λ)² σ_v² / ε, by the values' RMS."""
    found = {}
    for rms in (1.0, 0.16):
        pair = []
        for lam in (0.0, 0.8):
            factor = 1 - lam
            if lam and "no-factor" in mistakes:
                factor = 1.0
            elif lam and "lambda-not-rest" in mistakes:
                factor = lam
            size = factor * rms
            square = size if "no-square" in mistakes else size**2
            if "one-minus-square" in mistakes:
                square = (1 - lam**2) * rms**2
            pair.append(square / 1e-5)
        found[f"RMS {rms:g}"] = (pair[0], pair[1])
    return found


TASKS = (
    Task("5.1", "Values that average to zero", "centered", 0, _weights, centered, CENTER_MISTAKES,
         group=1),
    Task("5.3", "Where epsilon takes over", "answer", 0, once, limits, LIMIT_MISTAKES, probe=value,
         rtol=0.05, atol=0, group=1),
)
