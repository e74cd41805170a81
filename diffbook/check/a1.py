"""Assignment A1, softmax noise and the signal-to-noise ratio: what is right, and how people go
wrong. The formulas are those of chapters 1 and 2; the tests hold them to :mod:`diffbook.signals`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffbook.check.core import NO_ANSWER, NONE, Case, Mistake, Task, kind, numeric, value
from diffbook.check.personal import personal

Names = frozenset[str]
Numbers = float | np.ndarray

# ---------------------------------------------------------------------------------------------
# A1.1 and A1.3, the noise mass

MASS_MISTAKES = (
    Mistake("no-spread", 1, "The spread is missing: this is the value for s = 0. An irrelevant "
            "token weighs e^z, and the mean of e^z over a normal z is not e^0."),
    Mistake("spread-twice", 1, "The mean of e^z is e^(s²/2), with a half; here it is e^(s²)."),
    Mistake("spread-linear", 1, "The mean of e^z is e^(s²/2); here s is not squared."),
    Mistake("signal-instead", 1, "This is the share of the *relevant* token, 1 minus what is "
            "asked for."),
    Mistake("ratio-instead", 1, "This is noise divided by signal. The noise mass is a share of "
            "the whole: noise / (noise + signal)."),
    Mistake("percent", 0.5, "Right, but in percent. A share is a number between 0 and 1."),
    Mistake("n-plus-one", 0.5, "There is one irrelevant token too many: n counts them without the "
            "relevant one."),
)


def noise_mass(n: Any, m: float, s: float, mistakes: Names = NONE) -> Any:
    """n e^(s²/2) / (n e^(s²/2) + e^m), chapter 1, step 2."""
    exponent = s**2 / 2
    if "n-plus-one" in mistakes:
        n = n + 1
    if "no-spread" in mistakes:
        exponent = 0.0
    elif "spread-twice" in mistakes:
        exponent = s**2
    elif "spread-linear" in mistakes:
        exponent = s / 2
    noise, signal = n * np.exp(exponent), np.exp(m)
    if "ratio-instead" in mistakes:
        return noise / signal
    share = (signal if "signal-instead" in mistakes else noise) / (noise + signal)
    return 100 * share if "percent" in mistakes else share


def _mass_symptom(inputs: dict[str, Any], answer: Any, expected: Any) -> str | None:
    mine, right = (np.asarray(numeric(x)) for x in (answer, expected))
    if np.allclose(mine, right, rtol=0.03, atol=5e-4):
        return "Nearly right: is something rounded, or simulated? Here the formula itself is asked."
    return None


def _pencil_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("your own numbers", personal("A1.1", student))


def _mass_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("one length", {"n": int(rng.integers(100, 900)), "m": 7.3, "s": 1.2})
    lengths = np.array([4, 64, 1024, 65536]) * int(rng.integers(1, 5))
    yield Case("an array of lengths", {"n": lengths, "m": 9.1, "s": 0.8}, costs=1)
    yield Case("a large margin", {"n": 1000, "m": 40.0, "s": 1.5}, costs=0.5)


# ---------------------------------------------------------------------------------------------
# A1.2, the softmax

SOFTMAX_MISTAKES = (
    Mistake("overflow", 1, "Large scores give NaN or 0: exp(1000) is infinite. Subtract the "
            "largest score of the row first; it drops out of the ratio."),
    Mistake("all-rows", 1.5, "The whole array sums to 1. Each *row* should: sum over the last axis "
            "only, with keepdims=True."),
    Mistake("columns", 1.5, "The columns sum to 1, not the rows: the sum runs over the wrong "
            "axis."),
    Mistake("global-max", 0.5, "One maximum is subtracted from all rows: in a row of much smaller "
            "scores every exp is 0, and 0/0 follows. Take the maximum of each row."),
)


def softmax(z: np.ndarray, mistakes: Names = NONE) -> np.ndarray:
    """Softmax over the last axis."""
    axis: Any = None if "all-rows" in mistakes else 0 if "columns" in mistakes else -1
    if "overflow" not in mistakes:
        z = z - (z.max() if "global-max" in mistakes else z.max(axis=axis, keepdims=True))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weights = np.exp(z)
        return weights / weights.sum(axis=axis, keepdims=True)


def _softmax_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("3 rows of 5", {"z": rng.standard_normal((3, 5))})
    yield Case("scores around 1000", {"z": 1000 + 3 * rng.standard_normal((3, 5))}, costs=1)
    far = np.array([[0.0], [-2000.0], [2000.0]])
    yield Case("rows far from each other", {"z": far + rng.standard_normal((3, 5))}, costs=1)
    yield Case("a batch of maps", {"z": rng.standard_normal((2, 3, 4, 5))}, costs=1)


# ---------------------------------------------------------------------------------------------
# A1.4, the margin

MARGIN_MISTAKES = (
    Mistake("no-spread", 1, MASS_MISTAKES[0].says),
    Mistake("spread-twice", 1, MASS_MISTAKES[1].says),
    Mistake("log10", 1, "The logarithm is the one of base 10. Margins are in nats: natural "
            "logarithms, np.log."),
    Mistake("log2", 1, "The logarithm is the one of base 2. Margins are in nats: natural "
            "logarithms, np.log."),
    Mistake("odds-inverted", 1, "The sign of the last term is wrong: ln(ε/(1-ε)) in the place of "
            "ln((1-ε)/ε). Less noise has to cost *more* margin."),
    Mistake("no-odds", 1, "This is the margin for half noise; the term of ε is missing."),
    Mistake("odds-one", 0.5, "The last term is ln(1/ε); it should be ln((1-ε)/ε)."),
)


def required_margin(n: int, s: float, eps: float, mistakes: Names = NONE) -> float:
    """ln n + s²/2 + ln((1-ε)/ε), chapter 1, step 3."""
    odds = (1 - eps) / eps
    if "odds-inverted" in mistakes:
        odds = 1 / odds
    elif "no-odds" in mistakes:
        odds = 1.0
    elif "odds-one" in mistakes:
        odds = 1 / eps
    spread = 0.0 if "no-spread" in mistakes else s**2 if "spread-twice" in mistakes else s**2 / 2
    base = 10 if "log10" in mistakes else 2 if "log2" in mistakes else math.e
    return math.log(n, base) + spread + math.log(odds, base)


def _margin_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("your own numbers", personal("A1.4", student))


# ---------------------------------------------------------------------------------------------
# A1.5, the simulation

SIMULATION_MISTAKES = (
    Mistake("variance", 1, "The scores scatter with s² (or √s) in the place of s: `scale` of "
            "rng.normal is a standard deviation."),
    Mistake("no-margin", 2, "The relevant token has no margin: its score is m, those of the others "
            "scatter around 0."),
    Mistake("signal-instead", 1, MASS_MISTAKES[3].says),
    Mistake("uniform", 2, "The scores are not drawn from a normal distribution."),
    Mistake("one-draw", 2, "All trials are the same: the scores are drawn once, they should be "
            "drawn anew for each trial."),
    Mistake("percent", 0.5, MASS_MISTAKES[5].says),
    Mistake("signal-scatters", 1, "The relevant token's score is drawn, too. It is m, in every "
            "trial."),
    Mistake("rng-ignored", 1, "The draws do not come from the generator `rng`: two generators of "
            "one seed give different noise masses, or two of different seeds the same. Then nobody "
            "can repeat your numbers."),
    Mistake("same-n", 1, "Every trial gives the value of the formula. This task asks for a "
            "simulation: draw scores, take their softmax."),
)


def simulate(
    n: int, m: float, s: float, trials: int, seed: int, mistakes: Names = NONE
) -> dict[str, Any]:
    """Noise masses of ``trials`` drawn rows, (trials,), and whether they come from ``rng``."""
    mine = not {"rng-ignored", "same-n"} & mistakes
    return {"noise masses": _simulated(n, m, s, trials, seed, mistakes), "from rng": mine}


def _simulated(
    n: int, m: float, s: float, trials: int, seed: int, mistakes: Names
) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])  # other draws than the student's: only laws are compared
    scale = s**2 if "variance" in mistakes else s
    rows = 1 if "one-draw" in mistakes else trials  # (found by its scatter, see below)
    if "uniform" in mistakes:
        z = rng.uniform(0, 1, (rows, n))
    else:
        z = scale * rng.standard_normal((rows, n))
    noise, signal = np.exp(z).sum(1), np.exp(0.0 if "no-margin" in mistakes else m)
    if "signal-scatters" in mistakes:
        signal = signal * np.exp(s * rng.standard_normal(rows))
    share = noise / (noise + signal)
    if "same-n" in mistakes:
        share = np.full(trials, noise_mass(n, m, s))
    if "signal-instead" in mistakes:
        share = 1 - share
    share = np.broadcast_to(share, trials)
    return 100 * share if "percent" in mistakes else share


def probe_simulation(thing: Any, inputs: dict[str, Any]) -> Any:
    """The student's simulation with a generator made from the seed; again, and with another."""
    import numpy as np

    found = []
    for seed in (inputs["seed"], inputs["seed"], inputs["seed"] + 1):
        np.random.rand(3)  # noqa: NPY002 (disturbs the global generator on purpose)
        rng = np.random.default_rng(seed)
        found.append(thing(inputs["n"], inputs["m"], inputs["s"], rng, inputs["trials"]))
        if found[0] is None:
            return None
    first, again, other = (np.asarray(x, float) for x in found)
    return {"noise masses": found[0], "from rng": bool(
        np.array_equal(first, again) and not np.array_equal(first, other))}


def _same_simulation(answer: Any, expected: dict[str, Any]) -> str | None:
    """:func:`same_law` of what the probe saw."""
    if not isinstance(answer, dict) or set(answer) != set(expected):
        return same_law(answer, expected["noise masses"])
    problem = same_law(answer["noise masses"], expected["noise masses"])
    if problem is None and answer["from rng"] is not expected["from rng"]:
        return "the draws do not come from rng"
    return problem


def same_law(answer: Any, expected: np.ndarray) -> str | None:
    """None if two samples of one shape could come from one law: means and scatter agree."""
    if answer is None:
        return NO_ANSWER
    mine = numeric(answer)
    if mine is None:
        return f"this is {kind(answer)}; numbers were expected"
    if mine.shape != expected.shape:
        return (f"the shape is {mine.shape}; it should be {expected.shape}, one noise mass for "
                "each trial")
    if not np.isfinite(mine).all():
        return "some noise masses are NaN or infinite"
    error = math.hypot(mine.std(), expected.std()) / math.sqrt(len(mine))
    if abs(mine.mean() - expected.mean()) > 5 * error + 1e-9:
        return (f"the mean over the trials is {mine.mean():.3f}; it should be near "
                f"{expected.mean():.3f}")
    if not 0.7 * expected.std() <= mine.std() <= 1.4 * expected.std() + 1e-9:
        return (f"the scatter between trials (standard deviation) is {mine.std():.4f}; it should "
                f"be near {expected.std():.4f}")
    return None


def _simulation_symptom(
    inputs: dict[str, Any], answer: Any, expected: Any
) -> str | Mistake | None:
    """One draw for all trials has a chance value, but no scatter."""
    masses = np.asarray(numeric(answer["noise masses"]))
    return SIMULATION_MISTAKES[4] if np.ptp(masses) < 1e-12 else None


def _simulation_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, n, m, s in (("n = 64, m = 5, s = 0.7", 64, 5.0, 0.7),
                           ("n = 256, m = 8, s = 1.6", 256, 8.0, 1.6)):
        yield Case(label, {"n": n, "m": m, "s": s, "trials": 500,
                           "seed": int(rng.integers(2**31))})


# ---------------------------------------------------------------------------------------------
# A1.6 and A1.7, what a subtraction does

LEFT_MISTAKES = (
    Mistake("no-cross", 1, "The cross term is missing: 1 + λ² holds for noises that have nothing "
            "in common. Expand (x1 - λ x2)·(x1 - λ x2)."),
    Mistake("plus-cross", 1, "The cross term has the wrong sign: common noise should make the "
            "rest *smaller*."),
    Mistake("amplitude", 1, "This is the length of what is left; the question is about its energy, "
            "the square."),
    Mistake("half-cross", 1, "The cross term counts twice: x1·x2 and x2·x1."),
    Mistake("same-noise", 1, "(1 - λ)² is what is left when both noises are the same, c = 1. Where "
            "does c come in?"),
    Mistake("c-squared", 1, "This is (1 - λc)², as if x2 were c times x1. The part of x2 that has "
            "nothing to do with x1 is subtracted, too, and adds its energy."),
)


def noise_left(lam: Any, c: Any, mistakes: Names = NONE) -> Any:
    """1 + λ² - 2 λ c, chapter 2, step 4."""
    factor = 0 if "no-cross" in mistakes else 1 if "half-cross" in mistakes else 2
    sign = 1 if "plus-cross" in mistakes else -1
    left = 1 + lam**2 + sign * factor * lam * c
    if "same-noise" in mistakes:
        left = (1 - lam) ** 2
    if "c-squared" in mistakes:
        left = (1 - lam * c) ** 2
    return np.sqrt(left) if "amplitude" in mistakes else left


def _left_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("nearly common noise", {"lam": 0.8, "c": float(rng.uniform(0.8, 0.95))})
    yield Case("unrelated noise", {"lam": 0.6, "c": 0.05})
    yield Case("an array of λ", {"lam": np.linspace(0, 1.2, 7), "c": 0.7}, costs=0.5)


GAIN_MISTAKES = (
    Mistake("signal-kept", 2, "The signal is taken as untouched. The subtraction takes λ p2 from "
            "it, too: p1 - λ p2 is left."),
    Mistake("twenty-log", 1, "The factor is 20, and the ratio is one of powers already: 10 log10."),
    Mistake("signal-not-squared", 1, "Signal *power* is the square of the signal that is left."),
    Mistake("natural-log", 1, "The logarithm is natural. Decibels take the one of base "
            "10: np.log10."),
    Mistake("inverted", 1, "The sign is wrong: a gain is SNR after over SNR before, in dB positive "
            "when things got better."),
    Mistake("noise-kept", 2, "The noise is taken as untouched. It changes, too: below the square "
            "of what is left of the signal stands noise_left."),
    Mistake("before-missing", 1, "This is SNR after, not over SNR before: in map 1 the answer has "
            "the weight p1."),
    Mistake("half-log", 1, "This is half the gain: the ratio of amplitudes with 10 log10. Of "
            "powers it is 10 log10, of amplitudes 20."),
    *LEFT_MISTAKES[:2],
    *LEFT_MISTAKES[3:],
)


def snr_gain_db(p1: float, p2: float, c: float, lam: float, mistakes: Names = NONE) -> float:
    """10 log10 of SNR after over SNR before, chapter 2."""
    signal = 1.0 if "signal-kept" in mistakes else (p1 - lam * p2) / p1
    if "before-missing" in mistakes:
        signal = signal * p1
    power = abs(signal) if "signal-not-squared" in mistakes else signal**2
    left = 1.0 if "noise-kept" in mistakes else noise_left(lam, c, mistakes - {"amplitude"})
    ratio = power / left
    decibels = (math.log if "natural-log" in mistakes else math.log10)(ratio)
    decibels *= 20 if "twenty-log" in mistakes else 5 if "half-log" in mistakes else 10
    return -decibels if "inverted" in mistakes else decibels


def _gain_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("the second map hardly sees the answer",
               {"p1": 0.4, "p2": 0.02, "c": float(rng.uniform(0.8, 0.95)), "lam": 0.8})
    yield Case("both maps see the answer", {"p1": 0.4, "p2": 0.3, "c": 0.9, "lam": 0.7})
    yield Case("unrelated noise", {"p1": 0.5, "p2": 0.1, "c": 0.1, "lam": 0.9})


TASKS = (
    Task("A1.1", "The noise mass, with pencil and your own numbers", "my_noise_mass", 2,
         _pencil_cases, noise_mass, MASS_MISTAKES[:-1], probe=value, rtol=0.01, atol=1e-3,
         group=1),
    Task("A1.2", "A softmax that does not overflow", "softmax", 3, _softmax_cases, softmax,
         SOFTMAX_MISTAKES),
    Task("A1.3", "The noise mass as a function", "noise_mass", 3, _mass_cases, noise_mass,
         MASS_MISTAKES, _mass_symptom, rtol=1e-5, atol=1e-12),
    Task("A1.4", "The margin you need, with your own numbers", "my_margin", 2, _margin_cases,
         required_margin, MARGIN_MISTAKES, probe=value, rtol=0.01, atol=1e-2, group=1),
    Task("A1.5", "The simulation", "simulate", 4, _simulation_cases, simulate,
         SIMULATION_MISTAKES, _simulation_symptom, probe=probe_simulation,
         compare=_same_simulation, group=1),
    Task("A1.6", "What a subtraction leaves of the noise", "noise_left", 2, _left_cases,
         noise_left, LEFT_MISTAKES),
    Task("A1.7", "The gain in signal-to-noise ratio", "snr_gain_db", 4, _gain_cases, snr_gain_db,
         GAIN_MISTAKES),
)
