"""Answers to the exercises of chapter 5."""

from __future__ import annotations

import torch


def limits(large: object, small: object) -> dict:
    return {"RMS 1": large, "RMS 0.16": small}


def rows(weight, n_heads):
    return torch.cat([part - part.mean(0) for part in weight.chunk(n_heads)])


def viewed(weight, n_heads):
    heads = weight.view(n_heads, -1, weight.shape[-1])
    return (heads - heads.mean(1, keepdim=True)).flatten(0, 1)


def mixed(weight, n_heads):
    heads = weight.view(-1, n_heads, weight.shape[-1])
    return (heads - heads.mean(0)).flatten(0, 1)


def scaled(weight, n_heads):
    heads = weight.view(n_heads, -1, weight.shape[-1])
    heads = heads - heads.mean(1, keepdim=True)
    return (heads / heads.std(1, keepdim=True)).flatten(0, 1)


RIGHT = {
    "5.1": [rows, viewed],
    "5.3": [limits((100_000, 4000), (2560, 102)), limits((1e5, 4000), (2500, 100))],
}

WRONG = {
    "5.1": [
        (lambda weight, n_heads: weight - weight.mean(1, keepdim=True), "*inputs*"),
        (lambda weight, n_heads: weight - weight.mean(0), "of all heads"),
        (mixed, "one after the other"),
        (scaled, "divided by their spread"),
        (lambda weight, n_heads: None, "there is no answer yet"),
    ],
    "5.3": [
        (limits((100_000, 20_000), (16_000, 3200)), "*square*"),
        (limits((100_000, 100_000), (2560, 2560)), "lose nothing"),
        (limits((100_000, 36_000), (2560, 921.6)), "is not 1-λ²"),
        (limits((100_000, 64_000), (2560, 1638)), "factor is λ"),
        (limits((100_000, 4000), (..., ...)), "there is no answer yet"),
    ],
}
