"""Answers to the exercises of chapter 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffbook import attention


def row(four: object, seven: object, other: object) -> dict:
    return {"4": four, "7": seven, "each other": other}


def one(lam: object, works: object) -> dict:
    return {"lambda": lam, "works with (3, 0)": works}


def package(q1, k1, q2, k2, v, lam):
    return attention.diff_attention(q1[:, :, -1:], k1, q2[:, :, -1:], k2, v, lam)


def sdpa(q1, k1, q2, k2, v, lam):
    return (F.scaled_dot_product_attention(q1[:, :, -1:], k1, v)
            - lam * F.scaled_dot_product_attention(q2[:, :, -1:], k2, v))


def aligned_wrong(q1, k1, q2, k2, v, lam):
    """SDPA's own causal mask puts a single query at the first place."""
    return (F.scaled_dot_product_attention(q1[:, :, -1:], k1, v, is_causal=True)
            - lam * F.scaled_dot_product_attention(q2[:, :, -1:], k2, v, is_causal=True))


def whole(q1, k1, q2, k2, v, lam):
    return attention.diff_attention(q1, k1, q2, k2, v, lam)


def unscaled(q1, k1, q2, k2, v, lam):
    a1, a2 = ((q[:, :, -1:] @ k.mT).softmax(-1) for q, k in ((q1, k1), (q2, k2)))
    return (a1 - lam * a2) @ v


RIGHT = {
    "3.1": [row(0.407, -0.105, -0.0255), row(0.676 - 0.8 * 0.336, 0.164 - 0.8 * 0.336,
                                             0.0400 - 0.8 * 0.0819)],
    "3.2": [one(12.2 / 25.0, False), one(0.489, False)],
    "3.4": [package, sdpa],
}

WRONG = {
    "3.1": [
        (row(-0.204, 0.205, 0.0498), "in each other's place"),
        (row(2.034, -0.524, -0.1274), "divided by its sum"),
        (row(0.339, -0.172, -0.0418), "as a whole"),
        (row(0.945, 0.4335, 0.1054), "is added"),
        (row(0.506, 0.123, 0.0927), "softmax taken after"),
        (row(0.407, -0.105, -0.102), "*one* of the four"),
        (row(..., ..., ...), "there is no answer yet"),
    ],
    "3.2": [
        (one(2.05, False), "Z1/Z2"),
        (one(2.01, False), "*4* itself"),
        (one(0.489, True), "(3, 0)"),
        (one(0.489, ...), "there is no answer yet"),
    ],
    "3.4": [
        (aligned_wrong, "sees the first key only"),
        (lambda *x: whole(*x)[:, :, :1], "the first key only"),
        (lambda *x: package(*x)[:, :, -1], "-1:"),
        (whole, "All rows are there"),
        (lambda q1, k1, q2, k2, v, lam:
            F.scaled_dot_product_attention(q1[:, :, -1:], k1, v), "second map is missing"),
        (unscaled, "√d"),
        (lambda *x: torch.zeros(3), "the shape is (3,)"),
    ],
}
