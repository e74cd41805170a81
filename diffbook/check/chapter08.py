"""The exercises of chapter 8, training."""

from __future__ import annotations

import math

import numpy as np

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 8.2, when pairing helps

SPREAD_MISTAKES = (
    Mistake("population", 0, "These divide by n. The spread of a sample divides by n - 1: "
            "`ddof=1`."),
    Mistake("standard-error", 0, "These are standard errors of the mean, divided by √n. Asked is "
            "the spread of one difference, as in Step 7."),
    Mistake("sum", 0, "For unrelated runs the *variances* add, not the standard deviations."),
    Mistake("seed-5", 0, "Another seed was left out. The seeds are counted from 0: the failed run "
            "is the one with index 4."),
    Mistake("swapped", 0, "The two numbers are in each other's place: in pairs first, then for "
            "unrelated runs."),
)


def spreads(mistakes: Names = NONE) -> dict[str, tuple[float, float]]:
    """(in pairs, unrelated): spread of DIFF - Transformer in the needles' accuracy 4x."""
    from diffbook import records

    record = records.load("needle-cpu")
    diff, softmax = (record.values(kind, "accuracy 4x") for kind in ("diff", "softmax"))
    ddof = 0 if "population" in mistakes else 1
    found = {}
    for name, out in (("six seeds", None), ("without seed 4", 3 if "seed-5" in mistakes else 4)):
        keep = [seed for seed in range(len(diff)) if seed != out]
        a, b = diff[keep], softmax[keep]
        both = a.std(ddof=ddof), b.std(ddof=ddof)
        pair = [float((a - b).std(ddof=ddof)),
                float(sum(both) if "sum" in mistakes else np.hypot(*both))]
        if "standard-error" in mistakes:
            pair = [spread / math.sqrt(len(keep)) for spread in pair]
        if "swapped" in mistakes:
            pair.reverse()
        found[name] = (pair[0], pair[1])
    return found


# ---------------------------------------------------------------------------------------------
# 8.3, how many pairs

PAIRS_MISTAKES = (
    Mistake("t-two", 0, "You took t = 2 (or 1.96) throughout. With four pairs Student's t is 3.2: "
            "is the half-width then still what you want? Go up until it is."),
    Mistake("unrelated", 0, "This uses the spread for unrelated runs. Yours are paired: take the "
            "spread of the differences."),
    Mistake("no-square", 0, "The half-width falls with √n, so half of it costs *four* times the "
            "pairs: is something not squared?"),
    Mistake("full-width", 0, "This is for an interval whose *whole* width is the target. Its half "
            "should be."),
)
# Two-sided 95 % points of Student's t by degrees of freedom: exact for few, then the expansion.
FEW = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def student_t(freedom: int) -> float:
    """t of a 95 % interval; beyond nine degrees of freedom to 1e-3 (Cornish and Fisher)."""
    if freedom <= len(FEW):
        return FEW[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def pairs_needed(mistakes: Names = NONE) -> dict[str, int]:
    """Smallest number of pairs for these half-widths, from the spread of the text pairs."""
    from diffbook import records

    record = records.load("lm-cpu")
    diff, softmax = (record.values(kind, "validation loss") for kind in ("diff", "softmax"))
    s = float((diff - softmax).std(ddof=1))
    if "unrelated" in mistakes:
        s = float(np.hypot(diff.std(ddof=1), softmax.std(ddof=1)))
    found = {}
    for target in (0.014, 0.005):
        half = target / 2 if "full-width" in mistakes else target
        if "no-square" in mistakes:
            found[str(target)] = math.ceil(2 * s / half)
            continue
        n = 2
        while (2 if "t-two" in mistakes else student_t(n - 1)) * s / math.sqrt(n) > half:
            n += 1
        found[str(target)] = n
    return found


TASKS = (
    Task("8.2", "When pairing helps", "answer", 0, once, spreads, SPREAD_MISTAKES, probe=value,
         rtol=0.01, atol=5e-4, group=1),
    Task("8.3", "How many pairs", "answer", 0, once, pairs_needed, PAIRS_MISTAKES, probe=value,
         rtol=0.04, atol=0, group=1),
)
