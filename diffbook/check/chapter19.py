"""The exercises of chapter 19, the scorecard."""

from __future__ import annotations

import math

import numpy as np

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]
DIFFERENCES = {"five seeds": (-0.02, -0.01, -0.03, 0.00, -0.02),
               "three seeds": (-0.02, -0.01, -0.03)}


# ---------------------------------------------------------------------------------------------
# 19.2, two verdicts by hand

VERDICT_MISTAKES = (
    Mistake("no-root", 0, "The spread of single differences is taken: that of their *mean* is "
            "smaller by √n."),
    Mistake("normal", 0, "1.96 is right for many seeds. With few, s is itself a guess: take "
            "Student's t, from the hint."),
    Mistake("freedom", 0, "The t is that of n degrees of freedom. One is spent on the mean: n - 1 "
            "are left."),
    Mistake("population", 0, "s divides by n. A spread around a mean that comes out of the same "
            "numbers divides by n - 1."),
    Mistake("by-the-mean", 0, "The intervals are right. The verdict of one does not follow: an "
            "interval that holds zero is no difference, however pretty its mean."),
    Mistake("wrong-way", 0, "The intervals are right. The claim is \"lower\": does an interval "
            "below zero speak for it or against it?"),
)
T_OF_N = {5: 2.571, 3: 3.182}  # with n degrees of freedom in the place of n - 1


def verdicts(mistakes: Names = NONE) -> dict[str, tuple[float, float, str]]:
    """(low, high, verdict) of both sets of differences, by the rule of every record."""
    from diffbook.records import compare

    found = {}
    for name, differences in DIFFERENCES.items():
        values = np.asarray(differences)
        n = len(values)
        t = compare.STUDENT[n]
        t = 1.96 if "normal" in mistakes else T_OF_N[n] if "freedom" in mistakes else t
        half = t * float(values.std(ddof=0 if "population" in mistakes else 1))
        half /= 1 if "no-root" in mistakes else math.sqrt(n)
        low, high = float(values.mean()) - half, float(values.mean()) + half
        clear = high < 0 or low > 0 or "by-the-mean" in mistakes
        better = (values.mean() < 0) != ("wrong-way" in mistakes)
        verdict = compare.REPRODUCED if better else compare.CONTRADICTED
        found[name] = (low, high, verdict if clear else compare.NO_DIFFERENCE)
    return found


# ---------------------------------------------------------------------------------------------
# 19.3, luck

LUCK_MISTAKES = (
    Mistake("both-sides", 0, "Both sides are counted. An interval misses zero in one case of "
            "twenty, half of them on the right."),
    Mistake("some", 0, "This is the chance to see at least one there; asked is none."),
    Mistake("all-rows", 0, "All rows of the scorecard are counted. Only those with an interval "
            "can land beyond the band: `tested`."),
)


def luck(mistakes: Names = NONE) -> dict[str, float]:
    """Expected false alarms on one side, and the chance of none, rows taken as independent."""
    from diffbook import scorecard

    rows = scorecard.rows()
    n = len(rows if "all-rows" in mistakes else [row for row in rows if row.toward is not None])
    each = 0.05 if "both-sides" in mistakes else 0.025
    none = (1 - each) ** n
    return {"expected rows": each * n, "chance of none": 1 - none if "some" in mistakes else none}


TASKS = (
    Task("19.2", "Two verdicts by hand", "answer", 0, once, verdicts, VERDICT_MISTAKES,
         probe=value, rtol=0, atol=6e-4),
    Task("19.3", "Luck", "answer", 0, once, luck, LUCK_MISTAKES, probe=value, rtol=0.02),
)
