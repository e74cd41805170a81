"""The exercises of chapter 4, lambda."""

from __future__ import annotations

import math

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 4.1, eq. (2) by hand

LAMBDA_MISTAKES = (
    Mistake("index", 0, "λ_init is that of layer 4. The paper's schedule has l - 1, so that layer "
            "1 starts at 0.2."),
    Mistake("no-init", 0, "λ_init is missing, the last term of eq. (2)."),
    Mistake("swapped", 0, "The two exponentials are in each other's place: e^(q1·k1) comes first."),
    Mistake("no-exp", 0, "The dot products are subtracted themselves. Eq. (2) takes e to each of "
            "them first."),
    Mistake("sum", 0, "λ is right. Each of the two maps has rows that sum to 1: what is left "
            "after λ times the second is taken away?"),
)


def by_hand(mistakes: Names = NONE) -> dict[str, float]:
    """Eq. (2) for a = 0.5, b = 0 in layer 3, and the sum of a row of the difference."""
    from diffbook.attention import lambda_init

    start = lambda_init(4 if "index" in mistakes else 3)
    a, b = 0.5, 0.0
    offset = a - b if "no-exp" in mistakes else math.exp(a) - math.exp(b)
    if "swapped" in mistakes:
        offset = -offset
    lam = offset + (0.0 if "no-init" in mistakes else start)
    return {"lambda": lam, "row sum": lam if "sum" in mistakes else 1 - lam}


# ---------------------------------------------------------------------------------------------
# 4.3, a smaller sigma

SIGMA_MISTAKES = (
    Mistake("two-sided", 0, "1 % on *both* sides is 2.58 standard deviations. Only the negative "
            "side counts, 2.33."),
    Mistake("variance", 0, "This is σ². The spread of λ goes with it; asked is σ."),
    Mistake("one-product", 0, "The spread is that of *one* dot product, σ²√d. λ has the difference "
            "of two, whose variances add."),
    Mistake("lever-squared", 0, "σ is right. The spread goes with σ², but the lever of step 4 with "
            "σ itself."),
)


def sigma(mistakes: Names = NONE) -> dict[str, float]:
    """σ with σ² √(2d) z = 0.2 for d = 128, and the lever against that of σ = 0.1."""
    z = 2.5758 if "two-sided" in mistakes else 2.3263
    products = 1 if "one-product" in mistakes else 2
    square = 0.2 / (z * math.sqrt(products * 128))
    found = square if "variance" in mistakes else math.sqrt(square)
    lever = math.sqrt(square) / 0.1
    return {"sigma": found, "lever": lever**2 if "lever-squared" in mistakes else lever}


TASKS = (
    Task("4.1", "Eq. (2) by hand", "answer", 0, once, by_hand, LAMBDA_MISTAKES, probe=value,
         rtol=0, atol=1.5e-3),
    Task("4.3", "A smaller sigma", "answer", 0, once, sigma, SIGMA_MISTAKES, probe=value,
         rtol=0.01, atol=0, group=1),
)
