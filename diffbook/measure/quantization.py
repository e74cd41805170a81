"""Attention logits in few bits: absmax quantization (chapter 15, Fig. 8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffbook.measure.outliers import changed_logits, without_offset
from diffbook.model import LanguageModel

# What shares one scale: the dimensions of (batch, maps, n, m) over which the maximum is taken.
GRANULARITIES: dict[str, tuple[int, ...]] = {"tensor": (-3, -2, -1), "head": (-2, -1), "row": (-1,)}


def absmax_quantize(
    x: Tensor, bits: int, dims: tuple[int, ...] | None = None, visible: Tensor | None = None
) -> Tensor:
    """``x`` rounded to the nearest of 2^bits - 1 evenly spaced values, zero in their middle.

    With scale = max abs(x) / (2^(bits-1) - 1) each entry becomes scale · round(x / scale):
    symmetric ("absmax") quantization, dynamic because the maximum is that of ``x`` itself. The
    result is still floating point, as in every simulation of quantization.

    Args:
        bits: at least 2; 4 bits have the 15 values -7 … 7.
        dims: over which the maximum is taken; default all.
        visible: bool, broadcasts to ``x``. Entries where it is False (masked, -inf) neither count
            for the maximum nor are changed.

    Raises:
        ValueError: for fewer than 2 bits: one bit would leave zero only.
    """
    if bits < 2:
        raise ValueError(f"bits={bits}: symmetric quantization needs at least 2 (-1, 0, 1)")
    levels = 2 ** (bits - 1) - 1
    inside = x if visible is None else x.masked_fill(~visible, 0)
    dims = tuple(range(x.ndim)) if dims is None else dims
    scale = inside.abs().amax(dims, keepdim=True) / levels
    scale = scale.where(scale > 0, 1)  # all zero stays all zero
    rounded = (inside / scale).round() * scale
    return rounded if visible is None else torch.where(visible, rounded, x)


@contextmanager
def quantized_logits(
    model: LanguageModel, bits: int | None, granularity: str = "tensor", *, center: bool = False
) -> Iterator[None]:
    """Inside the block, ``model`` computes its attention from quantized logits; nothing else is
    quantized, as in Fig. 8. In DIFF the logits of both maps are.

    Args:
        bits: None leaves the logits as they are (and attention computed by its definition).
        granularity: what shares a scale: "tensor" all maps of a layer, "head" one map, "row" one
            query's logits in one map; always one sequence. The paper does not say which it took.
            "tensor" and "head" look at the whole map: the scale of an early query depends on
            tokens after it.
        center: first take from each row its mean, which no softmax sees.

    Raises:
        ValueError: for another granularity, or fewer than 2 bits.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity={granularity!r}: choose " + ", ".join(GRANULARITIES))
    if bits is not None and bits < 2:
        raise ValueError(f"bits={bits}: give at least 2, or None for no quantization")
    dims = GRANULARITIES[granularity]

    def change(_layer: int, logits: Tensor, visible: Tensor) -> Tensor:
        if bits is None:
            return logits
        if center:
            logits = without_offset(logits)
        return absmax_quantize(logits, bits, dims, visible)

    with changed_logits(model, change):
        yield


@contextmanager
def rounded_logits(model: LanguageModel, step: float) -> Iterator[None]:
    """Inside the block, all attention logits of ``model`` are rounded to multiples of ``step``
    (nats), however large they are. Where absmax quantization gives a model with larger logits a
    larger step, this gives all models the same one.

    Raises:
        ValueError: for a step that is not positive.
    """
    if not step > 0:
        raise ValueError(f"step={step}: give a positive number of nats")

    def change(_layer: int, logits: Tensor, _visible: Tensor) -> Tensor:
        return (logits / step).round() * step  # -inf stays -inf

    with changed_logits(model, change):
        yield
