"""The heads of a model one by one: what each writes, how alike they are, what each is worth
(chapter 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from diffbook.attention import MultiheadAttention, MultiheadDiffAttention
from diffbook.model import Block, LanguageModel


@dataclass(frozen=True)
class HeadOutputs:
    """The heads of one layer, (batch, heads, seq, width); a width of d in a Transformer, 2d in
    DIFF.

    Attributes:
        before: A V, or (A1 - λ A2) V: what the attention itself computes.
        after: what W^O reads: normalized and scaled, where the layer does so.
    """

    before: Tensor
    after: Tensor

    def rms(self) -> Tensor:
        """Root mean square over the channels of ``before``: (batch, heads, seq), float64. One over
        it is what a headwise RMSNorm multiplies by."""
        return self.before.double().square().mean(-1).sqrt()


@torch.no_grad()
def head_outputs(model: LanguageModel, tokens: Tensor) -> list[HeadOutputs]:
    """What each layer's heads compute on ``tokens`` (batch, seq)."""
    layers = _attention(model)
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}

    def keep(where: dict[int, Tensor], index: int) -> Callable[[Any, Any], None]:
        def hook(_module: Any, inputs: tuple[Tensor]) -> None:
            where[index] = inputs[0]

        return hook

    handles = []
    for index, layer in enumerate(layers):
        handles.append(layer.o_proj.register_forward_pre_hook(keep(after, index)))
        if layer.head_norm is not None:
            handles.append(layer.head_norm.register_forward_pre_hook(keep(before, index)))
    try:
        model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    outputs = []
    for index, layer in enumerate(layers):
        heads = after[index].unflatten(-1, (layer.n_heads, -1)).transpose(1, 2)
        outputs.append(HeadOutputs(before.get(index, heads / _scale(layer)), heads))
    return outputs


@contextmanager
def without_head(model: LanguageModel, layer: int, head: int) -> Iterator[None]:
    """Inside the block, head ``head`` of layer ``layer`` (both from 0) says the same everywhere:
    its mean over the batch and the positions. What depends on the text is gone, and the layers
    above still see the average that they are used to."""
    layers = _attention(model)
    if not (0 <= layer < len(layers) and 0 <= head < layers[layer].n_heads):
        raise ValueError(
            f"layer={layer}, head={head}: the model has layers 0 to {len(layers) - 1}, and this "
            "kind of layer heads 0 to " + str(layers[0].n_heads - 1)
        )
    attention = layers[layer]

    def hook(_module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        heads = inputs[0].unflatten(-1, (attention.n_heads, -1)).clone()  # (batch, seq, heads, w)
        heads[:, :, head] = heads[:, :, head].mean((0, 1))
        return (heads.flatten(-2),)

    handle = attention.o_proj.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def head_importance(model: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """How much the loss (nats per token) rises when one head is silenced by
    :func:`without_head`: (layers, heads), float64."""
    whole = float(model(tokens, targets))
    rises = []
    for index, layer in enumerate(_attention(model)):
        for head in range(layer.n_heads):
            with without_head(model, index, head):
                rises.append(float(model(tokens, targets)) - whole)
    return torch.tensor(rises, dtype=torch.float64).view(len(model.blocks), -1)


@contextmanager
def own_lambda(model: LanguageModel, layer: int, lam: Tensor) -> Iterator[None]:
    """Inside the block, each head of layer ``layer`` (from 0) has a λ of its own: ``lam``
    (heads,), which may ask for gradients. Eq. (2) gives the heads of a layer one λ.

    Raises:
        ValueError: for a layer without λ, or not one value for each head.
    """
    layers = _attention(model)
    attention = layers[layer] if 0 <= layer < len(layers) else None
    if not isinstance(attention, MultiheadDiffAttention):
        raise ValueError(
            f"layer={layer} is no differential layer: give a model with attention=\"diff\" and a "
            f"layer from 0 to {len(layers) - 1}"
        )
    if lam.shape != (attention.n_heads,):
        raise ValueError(f"lam {tuple(lam.shape)}: give one value for each of the layer's heads, "
                         f"({attention.n_heads},)")
    attention.lam = lambda: lam[:, None, None]  # type: ignore[method-assign]  # (heads, 1, 1)
    try:
        yield
    finally:
        del attention.lam  # the class's method is back


def map_cosines(maps: Tensor, *, floor: bool = True) -> Tensor:
    """Cosine similarity of each pair of heads' maps, mean over the batch: (heads, heads), float64.

    Args:
        maps: (batch, heads, seq, seq), causal.
        floor: False first takes from each row its mean over the visible keys. Any two softmax maps
            share that even layer of weight, so they look alike even when they are unrelated.
    """
    a = maps.double()
    if not floor:
        seen = torch.ones(a.shape[-2:], dtype=a.dtype, device=a.device).tril()
        a = (a - a.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)) * seen
    flat = torch.nn.functional.normalize(a.flatten(-2), dim=-1)  # (batch, heads, seq²)
    return (flat @ flat.transpose(-2, -1)).mean(0)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two sets of features of the same samples, (n, p) and (n, q): 1 if they are
    equal up to rotation and scale, near 0 if unrelated (Kornblith et al., 2019)."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"features are (samples, width) of the same samples: {tuple(x.shape)}, {tuple(y.shape)}"
        )
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    cross, own_x, own_y = (torch.linalg.matrix_norm(m) for m in (y.T @ x, x.T @ x, y.T @ y))
    return float(cross**2 / (own_x * own_y))


def head_cka(outputs: HeadOutputs) -> Tensor:
    """Linear CKA of each pair of a layer's heads, over all positions: (heads, heads), float64."""
    features = outputs.after.transpose(0, 1).flatten(1, 2)  # (heads, batch * seq, width)
    rows = [[linear_cka(x, y) for y in features] for x in features]
    return torch.tensor(rows, dtype=torch.float64)


def _attention(model: LanguageModel) -> list[MultiheadAttention | MultiheadDiffAttention]:
    return [block.attention for block in cast(Iterable[Block], model.blocks)]


def _scale(layer: MultiheadAttention | MultiheadDiffAttention) -> float:
    return layer.output_scale if isinstance(layer, MultiheadDiffAttention) else 1.0
