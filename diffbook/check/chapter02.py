"""The exercises of chapter 2, the differential amplifier."""

from __future__ import annotations

import math

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 2.1, what resistors allow

CIRCUIT_MISTAKES = (
    Mistake("ten-log", 0, "These are 10 log10 of the ratio. CMRR compares two gains, of voltages: "
            "20 log10."),
    Mistake("no-gain", 0, "The gain is missing: with G = 10 the worst case is (1 + G)/(4t), eleven "
            "times better than with the 1 alone."),
    Mistake("two-resistors", 0, "Only two of the four resistors are off here. In the worst case "
            "all four are, each in the bad direction."),
    Mistake("share", 0, "The tolerance is right as a share. Give percent, as on the resistors."),
)


def circuit(mistakes: Names = NONE) -> dict[str, float]:
    """(1 + G) / (4t) in dB for t = 1 %, and the t of 80 dB in percent."""
    gain = 1 if "no-gain" in mistakes else 11
    resistors = 2 if "two-resistors" in mistakes else 4
    tens = 10 if "ten-log" in mistakes else 20
    needed = gain / (resistors * 10 ** (80 / tens))
    return {"worst CMRR in dB": tens * math.log10(gain / (resistors * 0.01)),
            "tolerance in %": needed * (1 if "share" in mistakes else 100)}


# ---------------------------------------------------------------------------------------------
# 2.2, two microphones

EAR_MISTAKES = (
    Mistake("sign", 0, "The signs are turned around: here a *change* is asked for, so less noise "
            "is negative."),
    Mistake("amplitude", 0, "These are 20 log10 of a ratio of *energies*. Energies take 10 log10."),
    Mistake("forgot-two", 0, "The middle term of the law of cosines is 2 λ γ; the 2 is missing."),
    Mistake("plus", 0, "The middle term has the wrong sign: subtracting what is alike makes the "
            "rest *smaller*."),
)


def ear(mistakes: Names = NONE) -> dict[str, float]:
    """Change of the noise in dB by 1 + λ² - 2 λ γ at a coherence γ of 0.6."""
    found = {}
    for lam in (0.6, 1.2, -1.0):
        middle = (1 if "forgot-two" in mistakes else 2) * lam * 0.6
        energy = 1 + lam**2 + (middle if "plus" in mistakes else -middle)
        change = (20 if "amplitude" in mistakes else 10) * math.log10(energy)
        found[f"λ = {lam:g}"] = -change if "sign" in mistakes else change
    return found


TASKS = (
    Task("2.1", "What resistors allow", "answer", 0, once, circuit, CIRCUIT_MISTAKES, probe=value,
         rtol=0.02, atol=0, group=1),
    Task("2.2", "Two microphones", "answer", 0, once, ear, EAR_MISTAKES, probe=value, rtol=0.02,
         atol=0.03, group=1),
)
