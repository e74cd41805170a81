"""How large the largest activations are: attention logits and hidden states (chapter 15, Table 5).

A softmax does not see a number that is added to a whole row of its logits. So a large logit can
mean two things: a large *offset* of its row, which the model's output does not depend on, or a
large *difference* from the row's other logits. Everything here is measured with and without the
offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from diffbook.attention import KVCache, MultiheadAttention, MultiheadDiffAttention
from diffbook.model import Block, LanguageModel
from diffbook.rope import Rotary

TOP = (1, 2, 3, 10, 100)  # the columns of Table 5, before the median
KINDS = ("logits", "logits without offset", "logits below maximum", "hidden")

# What stands in for a layer's logits: (layer from 0, logits, visible) -> logits. The logits are
# (batch, maps, n, m), -inf where ``visible`` (n, m) is False, and must stay so; the two maps of
# differential head i are 2i and 2i + 1.
Change = Callable[[int, Tensor, Tensor], Tensor]


@contextmanager
def changed_logits(model: LanguageModel, change: Change) -> Iterator[None]:
    """Inside the block, every layer's softmax gets ``change(layer, logits, visible)``.

    The logits are q k^T / sqrt(d), of both maps in a differential layer. Attention is then
    computed as its definition says, map and all: O(seq²) memory. Of two blocks, one in the other,
    the inner one counts.
    """
    layers = [block.attention for block in cast(Iterable[Block], model.blocks)]
    earlier = [vars(layer).get("forward") for layer in layers]  # of a block around this one
    for index, layer in enumerate(layers):
        layer.forward = partial(  # type: ignore[method-assign]
            _forward, layer, partial(change, index))
    try:
        yield
    finally:
        for layer, forward in zip(layers, earlier, strict=True):
            if forward is None:
                del layer.forward  # the class's method is back
            else:
                layer.forward = forward  # type: ignore[method-assign]


def _forward(
    layer: MultiheadAttention | MultiheadDiffAttention,
    change: Callable[[Tensor, Tensor], Tensor],
    x: Tensor, *, causal: bool = True, rope: Rotary | None = None, cache: KVCache | None = None,
) -> Tensor:
    """The layer by its definition, its logits changed: (batch, seq, d_model) -> the same."""
    differential = isinstance(layer, MultiheadDiffAttention)
    q, k, v = layer._heads(x, rope, cache, d_v=2 * layer.d if differential else layer.d)
    group = layer.n_heads // layer.n_kv_heads
    if differential:  # key/value *heads* are repeated, each with both of its maps
        k = k.unflatten(1, (-1, 2)).repeat_interleave(group, dim=1).flatten(1, 2)
    else:
        k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    logits = (q @ k.transpose(-2, -1)).float() * layer.d**-0.5  # (batch, maps, n, m)
    visible = _visible(logits)
    if not causal:
        visible = torch.ones_like(visible)
    logits = change(logits.masked_fill(~visible, -torch.inf), visible)
    maps = logits.softmax(-1)
    if isinstance(layer, MultiheadDiffAttention):
        maps = maps[:, 0::2] - layer.lam() * maps[:, 1::2]  # (batch, heads, n, m)
    out = maps.to(v.dtype) @ v
    if layer.head_norm is not None:
        out = layer.head_norm(out)
    if isinstance(layer, MultiheadDiffAttention):
        out = layer.output_scale * out
    return layer._join(out)


def causal_mask(n: int, m: int, device: torch.device | str = "cpu") -> Tensor:
    """(n, m) bool, True = visible, for n queries that are the last of m positions."""
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


def _visible(logits: Tensor) -> Tensor:
    """The causal mask of ``logits`` (…, n, m)."""
    n, m = logits.shape[-2:]
    return causal_mask(n, m, logits.device)


@torch.no_grad()
def attention_logits(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    """The logits of each layer for ``tokens`` (batch, seq): (batch, maps, seq, seq) float32, -inf
    above the diagonal. The two maps of differential head i are 2i and 2i + 1."""
    kept: list[Tensor] = []

    def keep(_layer: int, logits: Tensor, _visible: Tensor) -> Tensor:
        kept.append(logits)
        return logits

    with changed_logits(model, keep):
        model(tokens)
    return kept


@torch.no_grad()
def hidden_states(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    """The output of each layer for ``tokens`` (batch, seq), as it goes on to the next one: after
    both residual additions, before any norm. Each (batch, seq, d_model)."""
    kept: list[Tensor] = []

    def keep(_block: Any, _inputs: Any, output: Tensor) -> None:
        kept.append(output)

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def without_offset(logits: Tensor, by: str = "mean") -> Tensor:
    """``logits`` (…, n, m), -inf above the diagonal, minus what the softmax does not see.

    Args:
        by: "mean" takes from each row its mean over the visible keys; "max" its largest entry, as
            every numerically safe softmax does. The attention map is the same after both.
    """
    if by == "max":
        return logits - logits.amax(-1, keepdim=True)
    if by != "mean":
        raise ValueError(f'by={by!r}: choose "mean" or "max"')
    visible = _visible(logits)
    total = logits.masked_fill(~visible, 0).sum(-1, keepdim=True)
    return logits - total / visible.sum(-1, keepdim=True)


def visible_entries(logits: Tensor) -> Tensor:
    """The entries of ``logits`` (…, n, m) that the causal mask leaves, as one row."""
    return logits[..., _visible(logits)].flatten()


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitudes and the median one of many numbers, as in Table 5.

    Attributes:
        top: the :data:`TOP`-largest: largest, second, third, tenth, hundredth.
        median: of all magnitudes.
    """

    top: tuple[float, ...]
    median: float

    @property
    def ratio(self) -> float:
        """The largest over the median: how far the outlier stands out."""
        return self.top[0] / self.median


def magnitudes(values: Tensor, top: Sequence[int] = TOP) -> Magnitudes:
    """Measure the magnitudes of ``values``, of any shape.

    Raises:
        ValueError: for fewer values than the last entry of ``top``, or values that are not finite,
            such as the -inf of a mask.
    """
    size = values.abs().flatten()
    if len(size) < max(top):
        raise ValueError(f"{len(size)} values have no {max(top)} largest: measure more tokens")
    if not bool(size.isfinite().all()):
        raise ValueError(
            "values that are not finite have no magnitude: take the visible entries of the logits "
            "(visible_entries), not the mask"
        )
    largest = size.topk(max(top)).values.tolist()
    # torch.median takes the lower of two middle values; with so many it makes no difference.
    return Magnitudes(tuple(largest[k - 1] for k in top), float(size.median()))


@dataclass(frozen=True)
class Outliers:
    """Magnitudes of the logits and hidden states of one model.

    Attributes:
        whole: over all layers, by :data:`KINDS`. "logits" are q k^T / sqrt(d) of visible keys, of
            both maps in DIFF; "logits without offset" have each row's mean removed; "logits below
            maximum" are the distances from each row's largest, whose top-1 is the widest range of
            any row; "hidden" are the layers' outputs.
        layers: the same for each layer.
        offset: share of the logits' sum of squares that lies in the means of the rows, by layer;
            what the softmax cannot see.
    """

    whole: dict[str, Magnitudes]
    layers: dict[str, list[Magnitudes]]
    offset: list[float]


@torch.no_grad()
def outliers(model: LanguageModel, tokens: Tensor, *, rows: int = 8) -> Outliers:
    """Measure ``model`` on ``tokens`` (batch, seq), ``rows`` sequences at a time.

    The largest of more numbers is larger: compare models on the same tokens only.
    """
    n_layers = len(model.blocks)
    found: dict[str, list[list[Tensor]]] = {kind: [[] for _ in range(n_layers)] for kind in KINDS}
    for part in tokens.split(rows):
        for index, logits in enumerate(attention_logits(model, part)):
            for kind, values in zip(
                KINDS, (logits, without_offset(logits), without_offset(logits, by="max")),
                strict=False,  # without the hidden states
            ):
                found[kind][index].append(visible_entries(values).cpu())
        for index, state in enumerate(hidden_states(model, part)):
            found["hidden"][index].append(state.float().flatten().cpu())
    whole, layers, offset = {}, {}, []
    squares: dict[str, list[float]] = {}
    for kind, columns in found.items():
        joined = [torch.cat(column) for column in columns]
        squares[kind] = [float(values.double().square().sum()) for values in joined]
        layers[kind] = [magnitudes(values) for values in joined]
        whole[kind] = magnitudes(torch.cat(joined))
    for all_of_it, seen in zip(squares["logits"], squares["logits without offset"], strict=True):
        offset.append(1 - seen / all_of_it)  # Σx² = Σ(x - mean)² + Σmean², row by row
    return Outliers(whole, layers, offset)
