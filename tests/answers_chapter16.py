"""Answers to the exercises of chapter 16."""

import numpy as np


def effects(subtraction: object, norm: object) -> dict:
    return {"subtraction": subtraction, "norm": norm}


def hits(two: object, three: object) -> dict:
    return {"n = 2": two, "n = 3": three}


def rows(chance: object, level: object) -> dict:
    return {"at least one alarm": chance, "level of each interval": level}


RIGHT = {
    "16.1": [effects(0.005, -0.031), effects((0.034 - 0.024) / 2, (-0.002 - 0.060) / 2)],
    "16.2": [hits([4, 5, 6, 7], [5, 6, 7]), hits(np.array([4, 5, 6, 7]), (5, 6, 7))],
    "16.4": [rows(1 - 0.95**8, 0.994), rows(0.337, 1 - 0.05 / 8)],
}

WRONG = {
    "16.1": [
        (effects(0.010, -0.062), "their *average*"),
        (effects(-0.058, -0.058), "the interaction"),
        (effects(-0.024, -0.060), "averages over both"),
        (effects(-0.005, 0.031), "turned around"),
        (effects(-0.031, 0.005), "each other's place"),
        (effects(0.005, ...), "norm: there is no answer yet"),
    ],
    "16.2": [
        (hits([5, 6, 7, 8], [6, 7, 8]), "counted from 0"),
        (hits([3, 4, 5, 6], [3, 4, 5]), "*begins*"),
        (hits([1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]), "The first occurrence"),
        (hits([3, 4, 5, 6, 7], [3, 4, 5, 6, 7]), "the *letters*"),
        (hits([4, 5, 6, 7, 8], [5, 6, 7, 8]), "the shape is (5,); it should be (4,)"),
    ],
    "16.4": [
        (rows(0.40, 0.99375), "expected *number*"),
        (rows(0.663, 0.994), "*no* row"),
        (rows(0.337, 0.00625), "outside of the interval"),
        (rows(33.66, 99.375), "in percent"),
        (rows(1 - 0.975**8, 1 - 0.025 / 8), "both sides"),
    ],
}
