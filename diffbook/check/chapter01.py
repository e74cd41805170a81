"""The exercises of chapter 1, attention noise."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from diffbook.check.core import NONE, Case, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 1.1, a head by hand

HEAD_MISTAKES = (
    Mistake("no-spread", 0, "The spread is missing: an irrelevant token weighs e^(s²/2) on "
            "average, not 1. With s = 1 that is worth half a nat everywhere."),
    Mistake("spread-twice", 0, "The mean of e^z is e^(s²/2), with a half; here it is e^(s²)."),
    Mistake("signal-instead", 0, "The second number is the share of the *answer*, 1 minus the "
            "noise."),
    Mistake("odds-one", 0, "The margin is nearly right: its last term is ln((1-ε)/ε), which is "
            "ln 9 for ε = 0.1, not ln 10."),
    Mistake("odds-inverted", 0, "The margin has the last term with the wrong sign: less noise has "
            "to cost *more*."),
)


def head(mistakes: Names = NONE) -> dict[str, float]:
    """Half-noise context, noise and margin for m = 10, s = 1 (chapter 1, steps 2 and 3)."""
    m, n, share = 10.0, 131_072, 0.1
    spread = 0.0 if "no-spread" in mistakes else 1.0 if "spread-twice" in mistakes else 0.5
    half = math.exp(m - spread)
    noise = n / (n + half)
    odds = math.log(1 / share if "odds-one" in mistakes else (1 - share) / share)
    if "odds-inverted" in mistakes:
        odds = -odds
    return {"half-noise context": half,
            "noise at 131,072": 1 - noise if "signal-instead" in mistakes else noise,
            "margin for 10 %": math.log(n) + spread + odds}


# ---------------------------------------------------------------------------------------------
# 1.2, the answer k times

TIMES_MISTAKES = (
    Mistake("ignored", 0, "k changes nothing here. How much weight do k copies of the answer have "
            "together?"),
    Mistake("exponent", 0, "k stands in the exponent: k tokens of weight e^m weigh k e^m together, "
            "and not e^(k m)."),
    Mistake("signal-instead", 0, "This is the share of the answers, 1 minus the noise mass."),
    Mistake("ratio-instead", 0, "This is noise divided by signal. The noise mass is a share of the "
            "whole: noise / (noise + signal)."),
    Mistake("no-spread", 0, "The spread is missing: an irrelevant token weighs e^(s²/2) on "
            "average."),
)


def noise_mass(
    n: float, m: float, s: float, k: float, mistakes: Names = NONE
) -> float:
    """n e^(s²/2) / (n e^(s²/2) + k e^m)."""
    noise = n * (1.0 if "no-spread" in mistakes else math.exp(s**2 / 2))
    signal = math.exp(k * m) if "exponent" in mistakes else k * math.exp(m)
    if "ignored" in mistakes:
        signal = math.exp(m)
    if "ratio-instead" in mistakes:
        return noise / signal
    return (signal if "signal-instead" in mistakes else noise) / (noise + signal)


def _times(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("two copies", {"n": 4096, "m": 8.0, "s": 1.2, "k": 2})
    yield Case("ten copies", {"n": 65_536, "m": 9.0, "s": 0.7, "k": 10})


TASKS = (
    Task("1.1", "A head by hand", "answer", 0, once, head, HEAD_MISTAKES, probe=value, rtol=5e-3),
    Task("1.2", "The answer k times", "noise_mass_of_k", 0, _times, noise_mass, TIMES_MISTAKES,
         group=1),
)
