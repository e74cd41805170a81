"""The exercises of chapter 12, where attention goes."""

from __future__ import annotations

import numpy as np

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


SIGNED_MISTAKES = (
    Mistake("not-normalized", 0, "The entries are not divided by their sum, 1-λ. Shares have to "
            "add up to 1."),
    Mistake("absolute", 0, "These are shares of *magnitudes*. Signed shares keep the minus, and "
            "add up to 1 with it."),
    Mistake("added", 0, "The second map is added. The head takes it away."),
    Mistake("swapped-maps", 0, "The maps are in each other's place: map 1 minus λ times map 2."),
    Mistake("answer-zero", 0, "The third number is where the *answer* vanishes. At which λ does "
            "map 1's noise equal λ times map 2's?"),
)


def signed(mistakes: Names = NONE) -> dict[str, float]:
    """Signed shares of answer and noise for λ = 0.8, and the λ without signed noise."""
    lam = -0.8 if "added" in mistakes else 0.8
    first, second = np.array([0.30, 0.70]), np.array([0.05, 0.95])
    if "swapped-maps" in mistakes:
        first, second = second, first
    entries = first - lam * second
    if "absolute" in mistakes:
        entries = np.abs(entries) / np.abs(entries).sum()
    elif "not-normalized" not in mistakes:
        entries = entries / entries.sum()
    zero = 0.30 / 0.05 if "answer-zero" in mistakes else 0.70 / 0.95
    return {"answer": float(entries[0]), "noise": float(entries[1]), "no noise at": zero}


TASKS = (
    Task("12.1", "Signed shares by hand", "answer", 0, once, signed, SIGNED_MISTAKES, probe=value,
         rtol=0.01, atol=0.002, group=1),
)
