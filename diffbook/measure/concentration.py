"""How many tokens share the attention of a query (chapter 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbook.attention import DiffMaps
from diffbook.model import LanguageModel


@dataclass(frozen=True)
class Concentration:
    """Means over the batch, for each query position: tensors (layers, heads, seq), float64.

    A query at position i (from 0) sees i + 1 tokens. Of a difference map the magnitudes are taken,
    divided by their sum.

    Attributes:
        half, ninety: how many tokens, the heaviest first, hold 50 % and 90 % of the attention.
        effective: e to the entropy of the row in nats: the number of tokens that would have the
            same entropy if they shared evenly.
        first: the share of the first token of the sequence.
        own: the share of the query's own token.
    """

    half: Tensor
    ninety: Tensor
    effective: Tensor
    first: Tensor
    own: Tensor


def keys_for_share(rows: Tensor, share: float) -> Tensor:
    """How many entries of each row (..., seq), the largest first, sum to at least ``share`` of it.

    ``rows`` are not negative and need not sum to 1. One part in a million counts as reached, so
    that rounding does not ask for one more. Returns whole numbers, (...).
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: give a number between 0 and 1, both excluded")
    if float(rows.min()) < 0:
        raise ValueError("rows has negative entries: take their magnitudes first")
    ordered = rows.double().sort(dim=-1, descending=True).values
    reached = ordered.cumsum(-1) >= (1 - 1e-6) * share * ordered.sum(-1, keepdim=True)
    return reached.int().argmax(-1) + 1  # the first place where the sum is reached


def effective_keys(rows: Tensor) -> Tensor:
    """e to the entropy of each row (..., seq), whose entries are not negative: (...)."""
    p = rows.double() / rows.double().sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


@torch.no_grad()
def concentration(model: LanguageModel, tokens: Tensor) -> Concentration:
    """Measure the attention of ``model`` on ``tokens`` (batch, seq)."""
    columns: list[list[Tensor]] = []
    for maps in model.attention_maps(tokens):
        a = maps.difference.abs() if isinstance(maps, DiffMaps) else maps
        a = a.double()
        a = a / a.sum(-1, keepdim=True)  # (batch, heads, seq, seq)
        columns.append([
            keys_for_share(a, 0.5).double().mean(0),
            keys_for_share(a, 0.9).double().mean(0),
            effective_keys(a).mean(0),
            a[..., 0].mean(0),
            a.diagonal(dim1=-2, dim2=-1).mean(0),
        ])
    return Concentration(*(torch.stack(layers) for layers in zip(*columns, strict=True)))
