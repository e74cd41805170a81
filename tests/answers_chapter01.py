"""Answers to the exercises of chapter 1."""

import math

import numpy as np


def head(half: object, noise: object, margin: object) -> dict:
    return {"half-noise context": half, "noise at 131,072": noise, "margin for 10 %": margin}


def odds(n, m, s, k):
    """By the log odds of noise against signal."""
    return 1 / (1 + np.exp(m + np.log(k) - np.log(n) - s**2 / 2))


RIGHT = {
    "1.1": [head(13_360, 0.91, 14.5), head(math.exp(9.5), 0.9075, 14.48)],
    "1.2": [odds, lambda n, m, s, k: n * math.exp(s * s / 2)
            / (n * math.exp(s * s / 2) + k * math.exp(m))],
}

WRONG = {
    "1.1": [
        (head(22_026, 0.856, 13.98), "half a nat"),
        (head(8_103, 0.942, 14.98), "with a half"),
        (head(13_360, 0.0925, 14.48), "share of the *answer*"),
        (head(13_360, 0.9075, 14.59), "not ln 10"),
        (head(13_360, 0.9075, 10.09), "cost *more*"),
        (head(13_360, 0.9075, ...), "there is no answer yet"),
    ],
    "1.2": [
        (lambda n, m, s, k: n * math.exp(s * s / 2) / (n * math.exp(s * s / 2) + math.exp(m)),
         "k changes nothing"),
        (lambda n, m, s, k: n * math.exp(s * s / 2) / (n * math.exp(s * s / 2) + math.exp(k * m)),
         "in the exponent"),
        (lambda n, m, s, k: 1 - odds(n, m, s, k), "share of the answers"),
        (lambda n, m, s, k: n * math.exp(s * s / 2) / (k * math.exp(m)), "divided by signal"),
        (lambda n, m, s, k: odds(n, m, 0, k), "spread is missing"),
        (lambda n, m, s, k: None, "there is no answer yet"),
    ],
}
