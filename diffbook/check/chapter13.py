"""The exercises of chapter 13, learning in context."""

from __future__ import annotations

import numpy as np

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 13.2, more orders

MARGIN_MISTAKES = (
    Mistake("population", 0, "The spread divides by n here. The ten orders are a sample: n - 1 "
            "(`ddof=1`)."),
    Mistake("other-model", 0, "These are DIFF's accuracies. The 19 points are the Transformer's."),
    Mistake("spread-only", 0, "This is the standard deviation itself. The expected range of ten "
            "normal numbers is 3.08 of them."),
    Mistake("swapped", 0, "The two are in each other's place: more orders, a larger range."),
    Mistake("root", 0, "The range does not grow with √n: from 10 orders to 30 it goes from 3.08 to "
            "4.09 standard deviations."),
)


def margins(mistakes: Names = NONE) -> dict[str, float]:
    """Expected best minus worst of 10 and of 30 orders, from the spread in Fig. 7a (points)."""
    from diffbook import paper

    points = np.array(paper.load("fig7a")["diff" if "other-model" in mistakes else "softmax"])
    spread = float(points[:, 1].std(ddof=0 if "population" in mistakes else 1))
    ten, thirty = 3.08 * spread, 4.09 * spread
    if "spread-only" in mistakes:
        ten = thirty = spread
    elif "root" in mistakes:
        thirty = ten * 3**0.5
    elif "swapped" in mistakes:
        ten, thirty = thirty, ten
    return {"10 orders": ten, "30 orders": thirty}


# ---------------------------------------------------------------------------------------------
# 13.4, how many wrong labels

LABEL_MISTAKES = (
    Mistake("six", 0, "The wrong labels are spread over all six here, the right one among them. A "
            "wrong label is one of the five *others*."),
    Mistake("together", 0, "This is the share of all wrong labels together. Each of the five has "
            "a fifth of it."),
    Mistake("half", 0, "At one half the right label still has far more votes than each of the five "
            "others. When do all six have as many?"),
    Mistake("percent", 0, "Right, but in percent: give shares between 0 and 1."),
)


def labels(mistakes: Names = NONE) -> dict[str, float]:
    """Votes at 80 % wrong labels of six classes, and the share at which they say nothing."""
    right, wrong, nothing = 0.2, 0.8 / 5, 5 / 6
    if "six" in mistakes:
        right, wrong, nothing = 0.2 + 0.8 / 6, 0.8 / 6, 1.0
    elif "together" in mistakes:
        wrong = 0.8
    elif "half" in mistakes:
        nothing = 0.5
    unit = 100 if "percent" in mistakes else 1
    return {"right": unit * right, "each wrong": unit * wrong, "say nothing at": unit * nothing}


TASKS = (
    Task("13.2", "More orders", "answer", 0, once, margins, MARGIN_MISTAKES, probe=value,
         rtol=0.02, atol=0, group=1),
    Task("13.4", "How many wrong labels", "answer", 0, once, labels, LABEL_MISTAKES, probe=value,
         rtol=0.01, atol=0, group=1),
)
