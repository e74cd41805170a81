"""Answers to the exercises of chapter 14."""

import numpy as np


def outputs(n: object, found: object) -> dict:
    return {"outputs": n, "found": found}


RIGHT = {
    "14.1": [outputs(225, 0.30), outputs(225.0, 0.29)],
    "14.2": [lambda precision, recall: 2 * precision * recall / max(precision + recall, 1e-12),
             lambda precision, recall: 0.0 if 0 in (precision, recall)
             else 2 / (1 / precision + 1 / recall)],
}

WRONG = {
    "14.1": [
        (outputs(108, 0.30), "sum of both"),
        (outputs(59, 0.30), "one standard error here"),
        (outputs(10.3, 0.30), "far too small"),
        (outputs(225, 0.70), "*miss* it"),
        (outputs(225, 0.5), "An even chance"),
        (outputs(225, ...), "there is no answer yet"),
    ],
    "14.2": [
        (lambda precision, recall: (precision + recall) / 2, "arithmetic mean"),
        (lambda precision, recall: precision * recall, "The product"),
        (lambda precision, recall: precision * recall / (precision + recall), "factor 2"),
        (lambda precision, recall: 2 * precision * recall / (precision + recall), "not 0/0"),
        (lambda precision, recall: np.float64(2 * precision * recall)
         / np.float64(precision + recall), "not 0/0"),
        (lambda precision, recall: None, "there is no answer yet"),
    ],
}
