"""How large the gradient of each group of weights is (Appendix G; chapter 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffbook.attention import MultiheadDiffAttention
from diffbook.model import Block, LanguageModel

# Group -> the endings of its parameters' names. Gains of norms are left out: they start at one in
# both models, and the headwise one has no counterpart in a Transformer.
GROUPS: dict[str, tuple[str, ...]] = {
    "wq, wk": ("q_proj.weight", "k_proj.weight"),
    "wv": ("v_proj.weight",),
    "wo": ("o_proj.weight",),
    "mlp": ("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
    "embedding": ("embedding.weight",),
    "output": ("head.weight",),
    "lambda": ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
}


def gradient_norms(model: LanguageModel, tokens: Tensor, targets: Tensor) -> dict[str, float]:
    """The Euclidean norm of the loss's gradient, for each group of :data:`GROUPS`, all layers
    together. A group without trained weights ("lambda" in a Transformer) is left out.

    Args:
        tokens, targets: (batch, seq). The loss is the mean over the targets, in nats.
    """
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    grads = _gradients(model, list(weights.values()), tokens, targets)
    squares = dict.fromkeys(GROUPS, 0.0)
    for name, grad in zip(weights, grads, strict=True):
        for group, endings in GROUPS.items():
            if name.endswith(endings):
                squares[group] += float(grad.double().square().sum())
    return {group: square**0.5 for group, square in squares.items() if square}


def map_gradient_norms(model: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """Gradient norms of the weights behind each of the two maps: (layers, 2 maps, 2), the last axis
    W^Q, W^K.

    Raises:
        ValueError: for a model without differential attention.
    """
    layers = [block.attention for block in cast(Iterable[Block], model.blocks)]
    diff = [layer for layer in layers if isinstance(layer, MultiheadDiffAttention)]
    if not diff:
        raise ValueError('a softmax head has one map: give a model with attention="diff"')
    weights = [w for layer in diff for w in (layer.q_proj.weight, layer.k_proj.weight)]
    grads = _gradients(model, weights, tokens, targets)
    norms = []
    for layer, grad in zip([a for a in diff for _ in range(2)], grads, strict=True):
        # Rows (2i, 2i+1) of width d belong to maps 1 and 2 of head i.
        by_map = grad.double().unflatten(0, (-1, 2, layer.d))  # (heads, 2, d, d_model)
        norms.append(by_map.square().sum((0, 2, 3)).sqrt())  # (2,)
    return torch.stack(norms).view(len(diff), 2, 2).transpose(1, 2)


def draw_normal(model: LanguageModel, std: float, seed: int) -> LanguageModel:
    """Draw every matrix of ``model`` anew from N(0, std²), as many GPT-like models start; λ and
    gains stay. Models that differ only in their attention get the same matrices. Returns it."""
    if not std > 0:
        raise ValueError(f"std={std}: give a positive standard deviation")
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=std, generator=generator)
    return model


def _gradients(
    model: LanguageModel, weights: Sequence[Tensor], tokens: Tensor, targets: Tensor
) -> tuple[Tensor, ...]:
    """Of the mean loss; the ``.grad`` of the weights is not touched."""
    return torch.autograd.grad(model(tokens, targets), weights)
