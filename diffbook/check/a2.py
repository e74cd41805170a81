"""Assignment A2, differential attention from scratch: what is right, and how people go wrong.

One set of readable functions, each of which can make the mistakes that are asked of it. Without
mistakes they are eqs. (1) to (3) of the paper; the tests hold them to :mod:`diffbook.attention`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffbook.check.core import NONE, Case, Mistake, Task

Names = frozenset[str]


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * rng.standard_normal(shape)).float()


# ---------------------------------------------------------------------------------------------
# A2.1, the softmax map

HALF = Mistake(
    "half", 1, "Right, but only to about three digits: somewhere the scores or weights go through "
    "float16 or bfloat16. Keep the softmax in float32.")
MAP_MISTAKES = (
    Mistake("no-mask", 2, "Positions see the future: the entries above the diagonal are not 0. "
            "Where do you set the scores of later positions to minus infinity, and is that before "
            "the softmax?"),
    Mistake("scale-2d", 1, "The scores are divided by √(2d). In a differential head 2d is the "
            "width of the *value*; a query and a key have width d, so the scale is 1/√d."),
    Mistake("no-scale", 1, "The scores are not divided by √d. Without it, wide heads have scores "
            "so large that the softmax is nearly one-hot."),
    HALF,
    Mistake("mask-after", 2, "The mask is applied after the softmax: the future is 0, but its "
            "weight was already shared out, so the rows no longer sum to 1. Mask the scores."),
    Mistake("wrong-axis", 2, "The columns sum to 1, the rows do not: the softmax runs over the "
            "queries. Each query shares 1 among the keys, so use the last axis."),
    Mistake("scale-d", 1, "The scores are divided by d. Eq. (1) divides by its root, √d."),
    Mistake("mask-zero", 2, "Masked scores are 0, and exp(0) = 1 is a weight like any other: the "
            "future is still seen. Set them to minus infinity."),
    Mistake("mask-turned", 2, "Positions see the future and not the past: the mask is turned "
            "round. Row i may look at columns up to i (tril keeps them)."),
    Mistake("roles-swapped", 2, "Rows belong to the keys: that is k @ qᵀ. A row holds what one "
            "*query* gives to all keys, q @ kᵀ."),
    Mistake("no-self", 1, "A position does not see itself (the diagonal is 0). Causal means: "
            "itself and everything before."),
)


def softmax_map(q: Tensor, k: Tensor, mistakes: Names = NONE) -> Tensor:
    """The causal softmax map (..., seq, seq) of ``q``, ``k`` (..., seq, d)."""
    return _weights(_scores(q, k, mistakes), mistakes)


def _scores(q: Tensor, k: Tensor, mistakes: Names) -> Tensor:
    """(..., seq, seq): what the softmax is taken of, before the mask."""
    d = q.shape[-1]
    if "roles-swapped" in mistakes:
        q, k = k, q
    scales = {"no-scale": 1.0, "scale-2d": 2 * d, "scale-d": d**2}
    scale = next((scales[name] for name in scales if name in mistakes), d)
    return q @ k.transpose(-2, -1) / math.sqrt(scale)


def _weights(scores: Tensor, mistakes: Names) -> Tensor:
    """Mask and softmax."""
    dtype = scores.dtype
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(-1 if "no-self" in mistakes else 0)
    if "no-self" in mistakes:
        seen[0, 0] = True  # else the first row is empty
    if "mask-turned" in mistakes:
        seen = seen.T
    if not {"no-mask", "mask-after"} & mistakes:
        scores = scores.masked_fill(~seen, 0.0 if "mask-zero" in mistakes else -torch.inf)
    if "half" in mistakes:
        scores = scores.half()
    weights = scores.softmax(-2 if "wrong-axis" in mistakes else -1).to(dtype)
    return weights * seen if "mask-after" in mistakes else weights


def _close_in_half(answer: Tensor, expected: Tensor) -> bool:
    return torch.allclose(answer.float(), expected.float(), rtol=2e-2, atol=4e-3)


def _map_symptom(inputs: dict[str, Any], answer: Tensor, expected: Tensor) -> str | Mistake | None:
    answer = answer.float()
    rows, wanted = answer.sum(-1), expected.sum(-1)
    if (answer.triu(1).abs() > 1e-5).any():
        return "There is weight above the diagonal: some positions see the future."
    if _close_in_half(answer, expected):
        return HALF
    if not torch.allclose(rows, wanted, atol=1e-3):
        return (f"The rows sum to {rows.flatten()[-1]:.3f} (last one), they should sum to "
                f"{wanted.flatten()[-1]:.3f}.")
    return None


def _map_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    q, k = _normal(rng, 2, 2, 3, 6, 8).unbind(0)
    yield Case("2 sequences, 3 heads, 6 positions, d = 8", {"q": q, "k": k})
    q, k = _normal(rng, 2, 1, 2, 1, 4).unbind(0)
    yield Case("a single position", {"q": q, "k": k}, costs=0.5)
    # Whole numbers, as their products are exact: else rounding would decide between two of them.
    q, k = _normal(rng, 2, 1, 1, 5, 4, scale=14.0).round().unbind(0)
    yield Case("very large scores", {"q": q, "k": k}, costs=0.5)


# ---------------------------------------------------------------------------------------------
# A2.2, the difference map

DIFF_MISTAKES = (
    Mistake("subtract-scores", 3, "The rows sum to 1, they should sum to 1 - λ: did you subtract "
            "before the softmax? Eq. (1) subtracts two finished maps."),
    Mistake("crossed", 2, "Queries of one map meet keys of the other (K1 with Q2). Map 1 belongs "
            "to q1 and k1, map 2 to q2 and k2."),
    Mistake("plus", 2, "The maps are added: rows sum to 1 + λ. Eq. (1) has a minus."),
    Mistake("no-lambda", 2, "The second map is subtracted whole: the rows sum to 0 for every λ. "
            "It has to be multiplied by λ first."),
    Mistake("swapped-maps", 2, "It is map 2 minus λ times map 1: the two are swapped."),
    Mistake("lambda-first", 2, "λ multiplies the first map: rows sum to λ - 1. It belongs to the "
            "second."),
    Mistake("renormalized", 2, "The rows sum to 1: you divided by 1 - λ, or by the row sum. "
            "The paper leaves the sum at 1 - λ; the norm of eq. (3) takes care of the scale."),
    Mistake("absolute", 1, "All entries are 0 or more: the absolute value was taken. Negative "
            "weights are meant to be there: a head may vote against a token."),
    Mistake("softmax-again", 2, "The rows sum to 1, and later positions have weight: a softmax was "
            "taken of the difference. Eq. (1) ends with the subtraction."),
    Mistake("second-missing", 2, "The rows sum to 1: this is the first map alone."),
    Mistake("shared-out", 2, "The first map is multiplied by 1 - λ. Eq. (1) leaves it whole: "
            "A1 - λ A2."),
    Mistake("clipped", 1, "All entries are 0 or more: negative weights were cut off. They are "
            "meant to be there: a head may vote against a token."),
)


def diff_map(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, lam: float | Tensor, mistakes: Names = NONE
) -> Tensor:
    """The difference map of eq. (1), (..., seq, seq)."""
    if "crossed" in mistakes:
        k1, k2 = k2, k1
    if "swapped-maps" in mistakes:
        q1, k1, q2, k2 = q2, k2, q1, k1
    if "subtract-scores" in mistakes:
        scores = _scores(q1, k1, mistakes) - lam * _scores(q2, k2, mistakes)
        return _weights(scores, mistakes)
    a1, a2 = softmax_map(q1, k1, mistakes), softmax_map(q2, k2, mistakes)
    if "no-lambda" in mistakes:
        lam = 1.0
    if "lambda-first" in mistakes:
        return lam * a1 - a2
    if "second-missing" in mistakes:
        return a1
    if "shared-out" in mistakes:
        a1 = (1 - lam) * a1
    difference = a1 + lam * a2 if "plus" in mistakes else a1 - lam * a2
    if "renormalized" in mistakes:
        difference = difference / difference.sum(-1, keepdim=True)
    if "softmax-again" in mistakes:
        return difference.softmax(-1)
    if "absolute" in mistakes:
        return difference.abs()
    return difference.clamp(min=0) if "clipped" in mistakes else difference


def _diff_symptom(inputs: dict[str, Any], answer: Tensor, expected: Tensor) -> str | Mistake | None:
    rows, wanted = answer.float().sum(-1), 1 - float(inputs["lam"])
    if (answer.float().triu(1).abs() > 1e-5).any():
        return "There is weight above the diagonal: some positions see the future."
    if _close_in_half(answer, expected):
        return HALF
    off = (rows - wanted).abs().flatten()
    if off.max() > 1e-3:
        return (f"A row sums to {rows.flatten()[off.argmax()]:.3f}; with λ = "
                f"{float(inputs['lam']):.2f} all should sum to 1 - λ = {wanted:.2f}.")
    return None


def _diff_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, lam in (("λ = 0.3", 0.3), ("λ = 0.8", 0.8), ("a negative λ", -0.25)):
        q1, k1, q2, k2 = _normal(rng, 4, 2, 2, 7, 8).unbind(0)
        inputs = {"q1": q1, "k1": k1, "q2": q2, "k2": k2, "lam": lam}
        yield Case(label, inputs, costs=0.5 if lam < 0 else None)


# ---------------------------------------------------------------------------------------------
# A2.3 and A2.4, lambda

INIT_MISTAKES = (
    Mistake("layer-from-0", 1, "λ_init of layer 1 comes out as that of layer 2: the exponent is "
            "-0.3 (l - 1), with layers counted from 1."),
    Mistake("layer-one-late", 1, "The index is off by one the other way: layer 3 has the value of "
            "layer 2. Was 1 subtracted twice? Here layers count from 1, in the official code from "
            "0."),
    Mistake("same-everywhere", 2, "λ_init is the same in all layers: it should grow with the "
            "layer, 0.8 - 0.6 exp(-0.3 (l - 1))."),
    Mistake("no-parentheses", 1, "The exponent is -0.3 l - 1: parentheses are missing, it should "
            "be -0.3 (l - 1)."),
    Mistake("exponent-sign", 1, "λ_init falls without limit: the exponent has the wrong sign. It "
            "is exp(-0.3 (l - 1)), which goes to 0, so that λ_init goes to 0.8."),
)


def lambda_init(layer: int, mistakes: Names = NONE) -> float:
    """λ_init of layer ``layer``, from 1."""
    step = layer - 1
    step += ("layer-from-0" in mistakes) - ("layer-one-late" in mistakes)
    sign = 1 if "exponent-sign" in mistakes else -1
    if "same-everywhere" in mistakes:
        step = 0
    if "no-parentheses" in mistakes:
        return 0.8 - 0.6 * math.exp(-0.3 * (step + 1) - 1)
    return 0.8 - 0.6 * math.exp(sign * 0.3 * step)


def _init_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("layer 1", {"layer": 1})
    yield Case("layer 3", {"layer": 3})
    yield Case("a deep layer", {"layer": int(rng.integers(8, 40))})


LAMBDA_MISTAKES = (
    Mistake("detached", 2, "The value is right, but no gradient reaches λ's vectors (or some of "
            "them), so λ would never learn: a .detach(), .item(), .data, float(...) or "
            "torch.no_grad() is in the way."),
    Mistake("lambda-per-entry", 2, "λ comes out as a vector: exp is taken of each product. λ is "
            "one number: exp of the *dot product*, so sum before exp."),
    Mistake("no-lambda-init", 1, "λ_init is not added: at the start λ would be near 0."),
    Mistake("sum-of-exps", 2, "exp is taken of each product, and the sum of that. λ takes exp of "
            "the *dot product*: sum first."),
    Mistake("lambda-plus", 1, "The two exponentials are added. Eq. (2) has a minus between them."),
    Mistake("lambda-mean", 1, "The products are averaged: eq. (2) has dot products, so sum them."),
    Mistake("no-exp", 2, "The dot products are subtracted without exp. Eq. (2) takes exp of each."),
    Mistake("exp-of-difference", 2, "It is exp of the difference of the dot products. Eq. (2) is "
            "the difference of two exponentials."),
    Mistake("lambda-swapped", 1, "The two exponentials are swapped: the first comes from λ_q1 and "
            "λ_k1."),
    Mistake("lambda-crossed", 2, "λ_q1 meets λ_k2 (or λ_q2 meets λ_k1): the pairs are crossed."),
    Mistake("lambda-scaled", 1, "The dot products are divided by √d. Attention scores are; these "
            "are not (eq. 2)."),
)


def lam_value(
    lambda_q1: Tensor, lambda_k1: Tensor, lambda_q2: Tensor, lambda_k2: Tensor, init: float,
    mistakes: Names = NONE,
) -> Tensor:
    """λ of eq. (2), a scalar tensor."""
    if "lambda-crossed" in mistakes:
        lambda_k1, lambda_k2 = lambda_k2, lambda_k1
    if "lambda-swapped" in mistakes:
        lambda_q1, lambda_k1, lambda_q2, lambda_k2 = lambda_q2, lambda_k2, lambda_q1, lambda_k1
    first, second = lambda_q1 * lambda_k1, lambda_q2 * lambda_k2  # (d,)
    if "sum-of-exps" in mistakes:
        return first.exp().sum() - second.exp().sum() + init
    if "lambda-mean" in mistakes:
        first, second = first.mean(), second.mean()
    elif "lambda-per-entry" not in mistakes:
        first, second = first.sum(), second.sum()
    if "lambda-scaled" in mistakes:
        scale = math.sqrt(lambda_q1.shape[-1])
        first, second = first / scale, second / scale
    if "exp-of-difference" in mistakes:
        change = (first - second).exp()
    elif "no-exp" in mistakes:
        change = first - second
    elif "lambda-plus" in mistakes:
        change = first.exp() + second.exp()
    else:
        change = first.exp() - second.exp()
    lam = change if "no-lambda-init" in mistakes else change + init
    return lam.detach() if "detached" in mistakes else lam


def _lam_with_gradients(
    lambda_q1: Tensor, lambda_k1: Tensor, lambda_q2: Tensor, lambda_k2: Tensor, init: float,
    mistakes: Names = NONE,
) -> dict[str, Any]:
    vectors = [x.clone().requires_grad_() for x in (lambda_q1, lambda_k1, lambda_q2, lambda_k2)]
    q1, k1, q2, k2 = vectors
    lam = lam_value(q1, k1, q2, k2, init, mistakes)
    if lam.requires_grad:
        lam.sum().backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in vectors]
    return {"λ": lam.detach(), "its gradients": torch.stack(gradients)}


def probe_lambda(thing: Any, inputs: dict[str, Any]) -> Any:
    """The value of λ, and the gradients of the four vectors (0 where none arrives)."""
    import torch

    *vectors, init = inputs.values()
    vectors = [x.clone().requires_grad_() for x in vectors]
    lam = thing(*vectors, init)
    if isinstance(lam, torch.Tensor) and lam.requires_grad:
        lam.sum().backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in vectors]
    return None if lam is None else {"λ": lam, "its gradients": torch.stack(gradients)}


def _lambda_symptom(inputs: dict[str, Any], answer: Any, expected: Any) -> str | Mistake | None:
    if not torch.allclose(answer["λ"].float(), expected["λ"].float(), rtol=1e-3):
        return None
    dead = [not mine.any() and bool(right.any()) for mine, right in zip(
        answer["its gradients"], expected["its gradients"], strict=True)]
    return LAMBDA_MISTAKES[0] if any(dead) else None


def _lambda_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, init in (("λ_init = 0.2", 0.2), ("λ_init = 0.6", 0.6)):
        vectors = _normal(rng, 4, 6, scale=0.5).unbind(0)
        names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        yield Case(label, dict(zip(names, vectors)) | {"lambda_init": init})


# ---------------------------------------------------------------------------------------------
# A2.5, the headwise norm

NORM_MISTAKES = (
    Mistake("no-output-scale", 1, "The factor (1 - λ_init) behind the norm is missing (eq. 3)."),
    Mistake("norm-all-heads", 2, "One norm runs over all heads of a position. Headwise means: "
            "each head is divided by its *own* root mean square."),
    Mistake("layer-norm", 1, "The mean is subtracted: that is LayerNorm. RMSNorm only divides by "
            "the root mean square."),
    Mistake("l2-norm", 1, "Heads are divided by their length, the root of the *sum* of squares. "
            "RMSNorm takes the root of the *mean*."),
    Mistake("scale-lambda-init", 1, "The factor is λ_init; it should be 1 - λ_init."),
    Mistake("norm-positions", 2, "The mean runs over the positions of a head. Each position of "
            "each head is normed by itself, over its 2d numbers (the last axis)."),
    Mistake("no-root", 1, "Heads are divided by the mean of squares. RMSNorm divides by its "
            "*root*."),
    Mistake("scale-divides", 1, "The heads are divided by 1 - λ_init; eq. (3) multiplies."),
    Mistake("no-eps", 0.5, "Without the small eps = 1e-5 under the root, a head of zeros is 0/0, "
            "and small heads are blown up."),
    Mistake("eps-outside", 0.5, "eps stands outside the root. It is √(mean of squares + eps)."),
)


def head_norm(heads: Tensor, init: float, mistakes: Names = NONE) -> Tensor:
    """RMSNorm of each head (batch, heads, seq, 2d) for itself, times 1 - λ_init."""
    axes = (-3, -1) if "norm-all-heads" in mistakes else (-1,)
    if "norm-positions" in mistakes:
        axes = (-2,)
    if "layer-norm" in mistakes:
        heads = heads - heads.mean(axes, keepdim=True)
    squares = heads.square()
    mean = squares.sum(axes, keepdim=True) if "l2-norm" in mistakes else squares.mean(
        axes, keepdim=True)
    if "no-eps" in mistakes:
        root = mean.sqrt()
    else:
        root = mean.sqrt() + 1e-5 if "eps-outside" in mistakes else (mean + 1e-5).sqrt()
    if "no-root" in mistakes:
        root = mean + 1e-5
    scale = init if "scale-lambda-init" in mistakes else 1 - init
    if "scale-divides" in mistakes:
        scale = 1 / scale
    return heads / root * (1.0 if "no-output-scale" in mistakes else scale)


def _norm_symptom(inputs: dict[str, Any], answer: Tensor, expected: Tensor) -> str | None:
    small = inputs["heads"].abs().max() < 0.1
    if small and torch.cosine_similarity(answer.float(), expected, dim=-1).min() > 0.999:
        return "Small heads have another size: eps is 1e-5, and stands under the root."
    return None


def _norm_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    sizes = torch.tensor([0.2, 1.0, 5.0])[:, None, None]  # heads differ in size
    yield Case("three heads of different size", {
        "heads": _normal(rng, 2, 3, 4, 8) * sizes + 0.1 * sizes, "lambda_init": 0.2})
    yield Case("another λ_init", {"heads": _normal(rng, 1, 2, 3, 6) + 0.5, "lambda_init": 0.7})
    yield Case("a head of nearly zeros",
               {"heads": _normal(rng, 1, 2, 3, 8) * 1e-3, "lambda_init": 0.5}, costs=0.5)


# ---------------------------------------------------------------------------------------------
# A2.6, the heads

SPLIT_MISTAKES = (
    Mistake("halves", 2, "The first half of the maps is paired with the second half. In the "
            "official code neighbors belong together: maps 2i and 2i + 1 make head i."),
    Mistake("v-not-doubled", 2, "The values are split into 2h heads of width d. Both maps of a "
            "head share one value of width 2d: h heads."),
    Mistake("view-not-transpose", 2, "Numbers of different positions are mixed: (batch, seq, "
            "heads, d) was reshaped to (batch, heads, seq, d). That needs a transpose."),
    Mistake("other-order", 1, "The five are given in another order. It is q1, k1, q2, k2, v."),
    Mistake("maps-swapped", 1, "Map 1 and map 2 of each head are swapped: map 1 is the even one, "
            "2i, map 2 the odd one."),
    Mistake("halves-inside", 2, "Each head's 2d numbers were cut as even and odd entries. Map 1 "
            "is the first d of them, map 2 the second d."),
)


def split_heads(
    q: Tensor, k: Tensor, v: Tensor, n_heads: int, mistakes: Names = NONE
) -> dict[str, Tensor]:
    """Projections (batch, seq, d_model) -> q1, k1, q2, k2 (batch, heads, seq, d), v (..., 2d)."""
    batch, seq, d_model = q.shape
    d = d_model // (2 * n_heads)

    def cut(x: Tensor, count: int) -> Tensor:  # (batch, count, seq, width)
        if "view-not-transpose" in mistakes:
            return x.reshape(batch, count, seq, -1)
        return x.reshape(batch, seq, count, -1).transpose(1, 2)

    if "halves-inside" in mistakes:
        wide = cut(q, n_heads), cut(k, n_heads)
        (q1, k1), (q2, k2) = ([x[..., i::2] for x in wide] for i in (0, 1))
    else:
        maps = cut(q, 2 * n_heads), cut(k, 2 * n_heads)
        pick = (
            (slice(0, n_heads), slice(n_heads, None)) if "halves" in mistakes
            else (slice(0, None, 2), slice(1, None, 2))
        )
        (q1, k1), (q2, k2) = ([x[:, part] for x in maps] for part in pick)
    if "maps-swapped" in mistakes:
        q1, k1, q2, k2 = q2, k2, q1, k1
    if "other-order" in mistakes:
        k1, q2 = q2, k1
    v = cut(v, 2 * n_heads if "v-not-doubled" in mistakes else n_heads)
    assert q1.shape[-1] == d
    return {"q1": q1, "k1": k1, "q2": q2, "k2": k2, "v": v}


def probe_split(thing: Any, inputs: dict[str, Any]) -> Any:
    """The five tensors by name."""
    parts = thing(*inputs.values())
    if isinstance(parts, (tuple, list)) and len(parts) == 5:
        return dict(zip(("q1", "k1", "q2", "k2", "v"), parts))
    return parts


def _split_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for n_heads in (2, 3):
        q, k, v = _normal(rng, 3, 2, 5, 24).unbind(0)
        yield Case(f"{n_heads} heads, d_model = 24",
                   {"q": q, "k": k, "v": v, "n_heads": n_heads})


# ---------------------------------------------------------------------------------------------
# A2.7, the layer

LAYER_MISTAKES = (
    Mistake("lambda-per-head", 2, "λ's vectors have one row for each head. In the paper's code all "
            "heads of a layer share one λ: four vectors of shape (d,)."),
    Mistake("no-o-proj", 2, "The output is not multiplied by W^O: the heads are joined, and then "
            "self.o_proj has to follow."),
    Mistake("gain-missing", 1, "The parameter self.gain does not reach the output. Each normalized "
            "head is multiplied by the learned gain (2d,), before (1 - λ_init) or after it."),
    Mistake("heads-not-joined", 2, "Heads were joined without moving them behind the positions: "
            "(batch, heads, seq, 2d) has to become (batch, seq, heads, 2d) before the reshape."),
)

VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def layer_outputs(
    weights: dict[str, Tensor], x: Tensor, n_heads: int, layer: int, mistakes: Names = NONE
) -> dict[str, Any]:
    """The layer's output, the gradients of λ's vectors, and the parameters' shapes."""
    vectors = [weights[name].clone().requires_grad_() for name in VECTORS]
    q, k, v = (x @ weights[f"{name}_proj.weight"].T for name in "qkv")  # (batch, seq, d_model)
    out = _heads_of_the_layer(q, k, v, n_heads, layer, vectors, weights["gain"], mistakes)
    moved = out if "heads-not-joined" in mistakes else out.transpose(1, 2)
    joined = moved.reshape(x.shape)  # (batch, seq, d_model)
    output = joined if "no-o-proj" in mistakes else joined @ weights["o_proj.weight"].T
    if output.requires_grad:
        output.square().sum().backward()
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in vectors]
    shapes = {name: str(tuple(tensor.shape)) for name, tensor in sorted(weights.items())}
    if "lambda-per-head" in mistakes:
        shapes |= {name: str((n_heads, *weights[name].shape)) for name in VECTORS}
    return {"parameters": shapes, "output": output.detach(),
            "gradients of λ's vectors": torch.stack(gradients)}


def _heads_of_the_layer(
    q: Tensor, k: Tensor, v: Tensor, n_heads: int, layer: int, vectors: list[Tensor],
    gain: Tensor, mistakes: Names,
) -> Tensor:
    """(batch, heads, seq, 2d), normalized, scaled, with the gain."""
    init = lambda_init(layer, mistakes)
    parts = split_heads(q, k, v, n_heads, mistakes - {"v-not-doubled"})
    lq1, lk1, lq2, lk2 = vectors
    lam = lam_value(lq1, lk1, lq2, lk2, init, mistakes - {"lambda-per-entry"})
    maps = diff_map(parts["q1"], parts["k1"], parts["q2"], parts["k2"], lam, mistakes)
    out = head_norm(maps @ parts["v"], init, mistakes)  # (batch, heads, seq, 2d)
    return out if "gain-missing" in mistakes else out * gain


def probe_layer(thing: Any, inputs: dict[str, Any]) -> Any:
    """Build the layer, give it the weights, run it forward and backward."""
    import torch

    weights, x = inputs["weights"], inputs["x"]
    layer = thing(x.shape[-1], inputs["n_heads"], inputs["layer"])
    names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    own = dict(layer.named_parameters())
    for name in own:
        if name in weights and own[name].shape == weights[name].shape:
            own[name].data.copy_(weights[name])
        elif name in names and own[name].shape[-1:] == weights[name].shape[-1:]:
            own[name].data.copy_(weights[name].expand_as(own[name]))  # a vector for each head
    shapes = {name: str(tuple(own[name].shape)) for name in sorted(own)}
    output = layer(x)
    if output is None:
        return None
    if output.requires_grad:
        output.square().sum().backward()
    gradients = []
    for name in names:
        grad = own[name].grad if name in own else None
        grad = torch.zeros_like(weights[name]) if grad is None else grad
        gradients.append(grad.sum(0) if grad.ndim == 2 else grad)
    return {"parameters": shapes, "output": output.detach(),
            "gradients of λ's vectors": torch.stack(gradients)}


def _layer_reference(
    weights: dict[str, Tensor], x: Tensor, n_heads: int, layer: int, mistakes: Names = NONE
) -> dict[str, Any]:
    return layer_outputs(weights, x, n_heads, layer, mistakes)


def _layer_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, n_heads, layer in (("2 heads, layer 1", 2, 1), ("3 heads, layer 4", 3, 4)):
        inputs = _draw_layer(rng, n_heads, layer)
        while not _well_conditioned(inputs):
            inputs = _draw_layer(rng, n_heads, layer)
        yield Case(label, inputs)


def _draw_layer(rng: np.random.Generator, n_heads: int, layer: int) -> dict[str, Any]:
    d_model = 24
    d = d_model // (2 * n_heads)
    weights = {f"{name}_proj.weight": _normal(rng, d_model, d_model, scale=0.3) for name in "qkvo"}
    weights["v_proj.weight"] *= 100  # large heads: whether there is an eps is A2.5's matter
    weights |= {name: _normal(rng, d, scale=0.3) for name in VECTORS}
    weights["gain"] = 1 + _normal(rng, 2 * d, scale=0.2)
    return {"weights": weights, "x": _normal(rng, 2, 6, d_model), "n_heads": n_heads,
            "layer": layer}


def _well_conditioned(inputs: dict[str, Any]) -> bool:
    """Whether rounding leaves λ's gradient alone: its terms may cancel, and then two right layers
    that add in another order differ."""
    wide = inputs | {"weights": {name: w.double() for name, w in inputs["weights"].items()},
                     "x": inputs["x"].double()}
    name = "gradients of λ's vectors"
    once, exact = (layer_outputs(**each)[name] for each in (inputs, wide))
    return bool((once - exact).norm() < 3e-5 * exact.norm())


def _layer_symptom(inputs: dict[str, Any], answer: Any, expected: Any) -> str | Mistake | None:
    for name, shape in expected["parameters"].items():
        if answer["parameters"][name] != shape:
            return (f"The parameter {name} has the shape {answer['parameters'][name]}; it should "
                    f"be {shape}.")
    if torch.allclose(answer["output"].float(), expected["output"], rtol=1e-3, atol=1e-4):
        none = not answer["gradients of λ's vectors"].any(-1).all()
        return LAMBDA_MISTAKES[0] if none else (
            "The output is right, its gradients are not: is λ part of the graph?")
    # The norm makes rounding larger, so that single entries say little.
    error = (answer["output"].float() - expected["output"]).norm() / expected["output"].norm()
    return HALF if error < 0.02 else None


TASKS = (
    Task("A2.1", "The causal softmax map", "softmax_map", 4, _map_cases, softmax_map,
         MAP_MISTAKES, _map_symptom),
    Task("A2.2", "The difference map", "diff_map", 4, _diff_cases, diff_map,
         DIFF_MISTAKES + MAP_MISTAKES, _diff_symptom),
    Task("A2.3", "Where λ starts", "lambda_init", 2, _init_cases, lambda_init, INIT_MISTAKES,
         rtol=1e-6, atol=1e-6),
    Task("A2.4", "λ, and its gradient", "lam", 4, _lambda_cases, _lam_with_gradients,
         LAMBDA_MISTAKES, _lambda_symptom, probe=probe_lambda),
    Task("A2.5", "The headwise norm", "head_norm", 3, _norm_cases, head_norm, NORM_MISTAKES,
         _norm_symptom, rtol=1e-3),
    Task("A2.6", "Which map belongs to which head", "split_heads", 3, _split_cases, split_heads,
         SPLIT_MISTAKES, probe=probe_split),
    Task("A2.7", "The layer", "DiffAttention", 5, _layer_cases, _layer_reference,
         # maps-swapped has the effect of swapped-maps here
         LAYER_MISTAKES + LAMBDA_MISTAKES
         + tuple(m for m in SPLIT_MISTAKES if m.name != "maps-swapped") + DIFF_MISTAKES
         + MAP_MISTAKES + INIT_MISTAKES + NORM_MISTAKES, _layer_symptom, probe=probe_layer,
         rtol=1e-3, atol=1e-4, group=1),
)
