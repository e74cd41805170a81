"""Answers to the exercises of chapter 13."""

import numpy as np

from diffbook import paper


def margins(ten: object, thirty: object) -> dict:
    return {"10 orders": ten, "30 orders": thirty}


def labels(right: object, wrong: object, nothing: object) -> dict:
    return {"right": right, "each wrong": wrong, "say nothing at": nothing}


def spread(kind: str, ddof: int = 1) -> float:
    return float(np.array(paper.load("fig7a")[kind])[:, 1].std(ddof=ddof))


S = spread("softmax")
RIGHT = {
    "13.2": [margins(S * 3.08, S * 4.09), margins(round(S * 3.08, 1), round(S * 4.09, 1))],
    "13.4": [labels(0.2, 0.16, 0.833), labels(1 / 5, 4 / 25, 5 / 6)],
}

WRONG = {
    "13.2": [
        (margins(3.08 * spread("softmax", 0), 4.09 * spread("softmax", 0)), "n - 1"),
        (margins(3.08 * spread("diff"), 4.09 * spread("diff")), "DIFF's accuracies"),
        (margins(S, S), "standard deviation itself"),
        (margins(S * 4.09, S * 3.08), "each other's place"),
        (margins(S * 3.08, S * 3.08 * 3**0.5), "with √n"),
        (margins(S * 3.08, ...), "there is no answer yet"),
    ],
    "13.4": [
        (labels(0.333, 0.1333, 1.0), "five *others*"),
        (labels(0.2, 0.8, 0.833), "a fifth of it"),
        (labels(0.2, 0.16, 0.5), "At one half"),
        (labels(20, 16, 83.3), "in percent"),
    ],
}
