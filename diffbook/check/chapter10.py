"""The exercises of chapter 10, long context."""

from __future__ import annotations

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 10.1, undo an average

CURVE_MISTAKES = (
    Mistake("whole-count", 0, "The rest is divided by all 10,000 tokens. Between 1,000 and 10,000 "
            "there are 9,000."),
    Mistake("middle", 0, "This is the middle of the two numbers. Both are averages *from the "
            "start*; what are the two sums, and what is their difference?"),
    Mistake("last", 0, "2.20 is the mean over all 10,000, the first 1,000 among them."),
    Mistake("tells", 0, "The mean is right. If the loss were exactly this at *every* position from "
            "1,001 on, what would the curve look like?"),
)


def curve(mistakes: Names = NONE) -> dict[str, float | bool]:
    """Mean loss between, and whether two points of a cumulative average show a fall."""
    found = (10_000 * 2.20 - 1_000 * 2.40) / (10_000 if "whole-count" in mistakes else 9_000)
    if "middle" in mistakes:
        found = 2.30
    elif "last" in mistakes:
        found = 2.20
    return {"mean": found, "one can tell": "tells" in mistakes}


# ---------------------------------------------------------------------------------------------
# 10.2, a base for 400 bytes

BASE_MISTAKES = (
    Mistake("same-exponent", 0, "The exponent is 7/16 here. To solve for the base it has to be "
            "undone: 16/7."),
    Mistake("proportional", 0, "The base does not grow in proportion to the length: the length "
            "is 256 (b'/10000)^(7/16)."),
    Mistake("factor", 0, "This is the factor. The base itself is 10,000 times as large."),
    Mistake("inverse", 0, "The base comes out smaller than 10,000: a longer reach needs slower "
            "turning, a larger one."),
)


def base(mistakes: Names = NONE) -> float:
    """256 (b' / 10000)^(7/16) = 400, solved for b'."""
    length = 256 / 400 if "inverse" in mistakes else 400 / 256
    power = 1.0 if "proportional" in mistakes else 7 / 16 if "same-exponent" in mistakes else 16 / 7
    return length**power * (1 if "factor" in mistakes else 10_000)


TASKS = (
    Task("10.1", "Undo an average", "answer", 0, once, curve, CURVE_MISTAKES, probe=value,
         rtol=1e-3, group=1),
    Task("10.2", "A base for 400 bytes", "base", 0, once, base, BASE_MISTAKES, probe=value,
         rtol=0.01, group=1),
)
