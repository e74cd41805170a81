"""Answers to the exercises of chapter 4."""

import math


def by_hand(lam: object, row: object) -> dict:
    return {"lambda": lam, "row sum": row}


def sigma(value: object, lever: object) -> dict:
    return {"sigma": value, "lever": lever}


RIGHT = {
    "4.1": [by_hand(1.119, -0.119), by_hand(math.exp(0.5) - 1 + 0.4707, -0.1194)],
    "4.3": [sigma(0.0733, 0.733), sigma(math.sqrt(0.2 / 16 / 2.33), 0.73)],
}

WRONG = {
    "4.1": [
        (by_hand(1.205, -0.205), "that of layer 4"),
        (by_hand(0.649, 0.351), "λ_init is missing"),
        (by_hand(-0.178, 1.178), "each other's place"),
        (by_hand(0.971, 0.029), "takes e to each"),
        (by_hand(1.119, 1.119), "what is left"),
        (by_hand(1.119, ...), "there is no answer yet"),
    ],
    "4.3": [
        (sigma(0.0697, 0.697), "2.33"),
        (sigma(0.00537, 0.733), "This is σ²"),
        (sigma(0.0872, 0.872), "whose variances add"),
        (sigma(0.0733, 0.537), "σ itself"),
    ],
}
