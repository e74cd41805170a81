"""The exercises of chapter 9, scaling."""

from __future__ import annotations

import math

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 9.1, a share by hand

SHARE_MISTAKES = (
    Mistake("per-doubling", 0, "The slope is that for each *doubling*. For each factor e it is "
            "larger: a doubling is only 0.69 in ln N."),
    Mistake("linear", 0, "You went along a straight line in N. Losses are straighter in ln N: what "
            "is the factor, not the distance?"),
    Mistake("inverse", 0, "The second number is how much *more* the old model needs. The new one's "
            "share is one over it."),
    Mistake("sign", 0, "The slope is positive here: does the loss rise with the size?"),
    Mistake("percent", 0, "Right, but in percent: a share is a number between 0 and 1."),
)


def share(mistakes: Names = NONE) -> dict[str, float]:
    """Slope in nats for a factor e, and the share of parameters (chapter 9, step 4)."""
    slope = -0.10 / math.log(2)
    if "per-doubling" in mistakes or "linear" in mistakes:
        slope = -0.10
    factor = 1 + 0.03 / 0.10 if "linear" in mistakes else math.exp(0.03 / -slope)
    found = factor if "inverse" in mistakes else 1 / factor
    return {"slope": -slope if "sign" in mistakes else slope,
            "share": 100 * found if "percent" in mistakes else found}


# ---------------------------------------------------------------------------------------------
# 9.4, tokens for each parameter

TOKEN_MISTAKES = (
    Mistake("inverse", 0, "These are parameters for each token. Asked is the other way."),
    Mistake("swapped", 0, "The smallest model has the *most* tokens for each parameter."),
    Mistake("thousand", 0, "There is a factor of a thousand in it: tokens and parameters are both "
            "given in billions."),
)


def tokens(mistakes: Names = NONE) -> dict[str, float]:
    """10 billion tokens on the paper's smallest and largest model of Fig. 3a."""
    found = [10 / 0.83, 10 / 13.12]
    if "inverse" in mistakes:
        found = [1 / x for x in found]
    elif "thousand" in mistakes:
        found = [1000 * x for x in found]
    elif "swapped" in mistakes:
        found.reverse()
    return {"smallest": found[0], "largest": found[1]}


TASKS = (
    Task("9.1", "A share by hand", "answer", 0, once, share, SHARE_MISTAKES, probe=value,
         rtol=0.02, atol=0, group=1),
    Task("9.4", "Tokens for each parameter", "answer", 0, once, tokens, TOKEN_MISTAKES,
         probe=value, rtol=0.06, atol=0, group=1),
)
