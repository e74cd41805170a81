"""Softmax attention and differential attention: the functions, then the layers.

Shapes, all through the file: ``batch`` sequences, ``heads``, ``seq`` positions, ``d`` the width of
one query or key, ``d_v`` the width of a value (2d in the Differential Transformer).

Each function comes twice. ``*_reference`` is the definition, to be read: it builds the attention
map. The plain name is the fast path, to be run: it never builds the (seq, seq) map, forward or
backward, on CPU or GPU. The tests hold the two equal, in values and in gradients.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.blockwise import blockwise_diff_attention
from diffbook.rope import Rotary


def lambda_init(layer: int) -> float:
    """The constant part of λ in layer ``layer``, counted from 1 as in the paper (p. 3).

    0.8 - 0.6 exp(-0.3 (layer - 1)): 0.2 in the first layer, towards 0.8 in deep ones. The official
    code counts from 0 and has the same values. Chapter 4.
    """
    if layer < 1:
        raise ValueError(f"layers count from 1, as in the paper; got layer={layer}")
    # The same number, written so that the first layer gets 0.2 and not 0.20000000000000007.
    return 0.2 - 0.6 * math.expm1(-0.3 * (layer - 1))


# ---------------------------------------------------------------------------------------------
# The definitions


def softmax_attention_map(q: Tensor, k: Tensor, *, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)): ``q`` (batch, heads, n, d), ``k`` (batch, heads, m, d) ->
    (batch, heads, n, m). With ``causal`` the n queries are the *last* n of the m positions."""
    _check_queries(q, k, causal)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (batch, heads, n, m)
    if causal:
        scores = scores.masked_fill(~_causal_mask(q, k), -torch.inf)
    # Softmax in float32 at least, as in the official code: bf16 keeps 8 bits of a probability.
    work = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=work).to(q.dtype)


def softmax_attention_reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """The definition of :func:`softmax_attention`: the map, then its product with ``v``."""
    return softmax_attention_map(q, k, causal=causal) @ v


def diff_attention_map(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, lam: float | Tensor, *, causal: bool = True
) -> Tensor:
    """The difference map of eq. (1), softmax(q1 k1^T/√d) - λ softmax(q2 k2^T/√d):
    (batch, heads, seq, seq). Its rows sum to 1 - λ and may hold negative entries. Chapter 3."""
    _check_pair(q1, k1, q2, k2, lam)
    a1 = softmax_attention_map(q1, k1, causal=causal)
    a2 = softmax_attention_map(q2, k2, causal=causal)
    return (a1 - lam * a2).to(a1.dtype)  # λ is float32, whatever the model is


def diff_attention_reference(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor,
    *, causal: bool = True,
) -> Tensor:
    """The definition of :func:`diff_attention`, eq. (1) as it is written."""
    return diff_attention_map(q1, k1, q2, k2, lam, causal=causal) @ v


# ---------------------------------------------------------------------------------------------
# The fast paths


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """Softmax attention: softmax(q k^T / √d) v.

    Args:
        q, k: (batch, heads, seq, d). With ``causal`` and fewer queries than keys (a KV cache),
            the queries are the last positions.
        v: (batch, heads, seq, d_v); d_v may differ from d.
        causal: position i sees positions up to i only.

    Returns:
        (batch, heads, seq, d_v), in the dtype of ``q``.

    Raises:
        ValueError: when the shapes do not fit.
    """
    _check_queries(q, k, causal)
    _check_values(k, v)
    d, d_v = q.shape[-1], v.shape[-1]
    # With d_v != d, scaled_dot_product_attention silently leaves its O(seq) kernels for the one
    # that builds the map (on CPU; on CUDA flash refuses). Zeros make the widths equal: in q and k
    # they add nothing to a dot product, in v they are cut off again. The scale stays 1/sqrt(d).
    if d < d_v:
        q, k = F.pad(q, (0, d_v - d)), F.pad(k, (0, d_v - d))
    elif d_v < d:
        v = F.pad(v, (0, d - d_v))
    return _fused(q, k, v, d, causal)[..., :d_v]


def _fused(q: Tensor, k: Tensor, v: Tensor, d: int, causal: bool) -> Tensor:
    """One call of torch's attention with the scale 1/sqrt(d)."""
    n, m = q.shape[-2], k.shape[-2]
    square = causal and n == m
    mask = _causal_mask(q, k) if causal and 1 < n < m else None
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=square, scale=1 / math.sqrt(d)
    )


def diff_attention(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor,
    *, causal: bool = True,
) -> Tensor:
    """Differential attention, eq. (1): (softmax(q1 k1^T/√d) - λ softmax(q2 k2^T/√d)) v.

    Args:
        q1, k1, q2, k2: (batch, heads, seq, d); d is the width of *one* of the two maps.
        v: (batch, heads, seq, d_v), shared by both maps; 2d in the paper.
        lam: λ, a number or a tensor that broadcasts to (batch, heads, seq, 1).
        causal: position i sees positions up to i only.

    Returns:
        (batch, heads, seq, d_v), in the dtype of ``q1``.

    Raises:
        ValueError: when the shapes do not fit.

    On a CPU in float32 or float64, a whole sequence of 128 positions or more goes through
    :func:`diffbook.blockwise.blockwise_diff_attention` (once differentiable), and a single query
    through the definition: its map is one row. On a GPU whose engine takes wide values it is
    :func:`wide_diff_attention`. All else, and what ``torch.compile`` traces on a CPU, goes through
    :func:`padded_diff_attention`. Chapter 6 measures them.
    """
    _check_pair(q1, k1, q2, k2, lam)
    _check_queries(q1, k1, causal)
    _check_values(k1, v)
    path = padded_diff_attention
    if _subtracts_first(q1, k1, v):
        n, m = q1.shape[-2], k1.shape[-2]
        if n == 1:  # each key and value is read once, nothing is copied
            path = diff_attention_reference
        elif n == m and n >= 128:  # below, so many small operations cost what they save
            path = blockwise_diff_attention
    elif q1.is_cuda and _takes_wide_values(q1.device, q1.dtype, q1.shape[-1], v.shape[-1]):
        path = wide_diff_attention
    return path(q1, k1, q2, k2, v, lam, causal=causal)


def padded_diff_attention(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor,
    *, causal: bool = True,
) -> Tensor:
    """:func:`diff_attention` by one call of torch's fused attention, on any device.

    Both maps run as the heads of one call, and the subtraction is made on their outputs:
    (A1 - λ A2) v = A1 v - λ A2 v. With queries and keys padded to the width of v, the products are
    twice the Transformer's. Chapters 3 and 6.
    """
    q, k, v = _both_maps(q1, k1, q2, k2, v)
    return _subtract_outputs(softmax_attention(q, k, v, causal=causal), lam)


def wide_diff_attention(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor,
    *, causal: bool = True,
) -> Tensor:
    """:func:`padded_diff_attention` without the padding: 3/4 of its products, but where torch has
    no engine for values wider than keys, as on a CPU, it builds the maps."""
    q, k, v = _both_maps(q1, k1, q2, k2, v)
    return _subtract_outputs(_fused(q, k, v, q.shape[-1], causal), lam)


def _both_maps(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k (batch, 2 heads, seq, d) and v (batch, 2 heads, seq, d_v): first all maps 1."""
    return torch.cat((q1, q2), dim=1), torch.cat((k1, k2), dim=1), torch.cat((v, v), dim=1)


def _subtract_outputs(both: Tensor, lam: float | Tensor) -> Tensor:
    """(batch, 2 heads, seq, d_v) -> A1 v - λ A2 v, (batch, heads, seq, d_v)."""
    o1, o2 = both.chunk(2, dim=1)
    # Two nearly equal numbers are subtracted: in half precision that loses what is looked for.
    work = torch.promote_types(o1.dtype, torch.float32)
    return (o1.to(work) - lam * o2.to(work)).to(o1.dtype)


def _takes_wide_values(device: torch.device, dtype: torch.dtype, d: int, d_v: int) -> bool:
    """Whether torch's attention has the same engine for values of width ``d_v`` as for those of
    width ``d``, the baseline's.

    Read in its source, not run by us: on an H100 or B200 with a recent cuDNN that is so up to
    d_v = 128; on a T4, too, whose only engine (memory-efficient) takes any width. Elsewhere flash
    serves equal widths only, and wide values would fall back to a slower engine: there padding to
    the width that flash takes is the better bet. ``python -m diffbook bench`` measures both.
    """
    return _engine(device, dtype, d, d_v) == _engine(device, dtype, d, d)


# torch.compile takes the answer instead of tracing the question: this is what
# torch.compiler.assume_constant_result sets, without importing the whole compiler for it.
setattr(_takes_wide_values, "_dynamo_marked_constant", True)  # noqa: B010


@cache
def _engine(device: torch.device, dtype: torch.dtype, d: int, d_v: int) -> int:
    """The number of the engine that torch would choose, for training."""
    q, k, v = (
        torch.empty(1, 2, 128, width, device=device, dtype=dtype, requires_grad=True)
        for width in (d, d, d_v)
    )
    return torch._fused_sdp_choice(q, k, v, is_causal=True)


def _subtracts_first(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the forms that subtract before the product with v may be used."""
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float32, torch.float64)  # the difference is not rounded to bf16
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _causal_mask(q: Tensor, k: Tensor) -> Tensor:
    """(n, m) bool, True = visible; the last query sees the last key."""
    n, m = q.shape[-2], k.shape[-2]
    return torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)


def _check_pair(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, lam: float | Tensor) -> None:
    if q1.shape != q2.shape or k1.shape != k2.shape:
        raise ValueError(
            f"the two maps need queries and keys of one shape: q1 {tuple(q1.shape)}, q2 "
            f"{tuple(q2.shape)}, k1 {tuple(k1.shape)}, k2 {tuple(k2.shape)}"
        )
    if isinstance(lam, Tensor) and lam.ndim:
        target = (*q1.shape[:-1], 1)  # (batch, heads, n, 1)
        pairs = zip(reversed(lam.shape), reversed(target))
        if lam.ndim > len(target) or any(size not in (1, want) for size, want in pairs):
            raise ValueError(
                f"lam {tuple(lam.shape)} does not broadcast to (batch, heads, seq, 1) = {target}: "
                "give a number, or one for each head as (heads, 1, 1)"
            )


def _check_queries(q: Tensor, k: Tensor, causal: bool) -> None:
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(
            "queries and keys are (batch, heads, seq, d): got "
            f"q {tuple(q.shape)} and k {tuple(k.shape)}"
        )
    if q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} must agree in batch, heads and width"
        )
    if causal and q.shape[-2] > k.shape[-2]:
        raise ValueError(
            f"causal attention of {q.shape[-2]} queries over {k.shape[-2]} keys: the first "
            "queries would see nothing; give at least as many keys, or causal=False"
        )


def _check_values(k: Tensor, v: Tensor) -> None:
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"values are (batch, heads, seq, d_v) with the keys' first three sizes "
            f"{tuple(k.shape[:3])}: got {tuple(v.shape)}"
        )


# ---------------------------------------------------------------------------------------------
# The layers


class KVCache:
    """Keys and values of the positions one layer has already seen, for generation."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.k is None else self.k.shape[-2]

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``k`` and ``v`` (batch, heads, new, width); return all of them."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat((self.k, k), dim=-2), torch.cat((self.v, v), dim=-2)
        self.k, self.v = k, v
        return k, v


class DiffMaps(NamedTuple):
    """The two maps of a layer, each (batch, heads, seq, seq), and its λ."""

    a1: Tensor
    a2: Tensor
    lam: Tensor

    @property
    def difference(self) -> Tensor:
        """a1 - λ a2, what multiplies the values."""
        return self.a1 - self.lam * self.a2


class _Projections(nn.Module):
    """W^Q, W^K, W^V, W^O without biases: the four matrices both kinds of layer have.

    ``n_maps`` softmax maps of width d = d_model / n_maps; values may be wider. The matrices have
    the same shapes for a baseline with 2h heads and a differential layer with h heads.
    """

    def __init__(self, d_model: int, n_maps: int, n_kv_maps: int, headwise_norm: int | None):
        super().__init__()
        self.d = d_model // n_maps
        self.q_proj = nn.Linear(d_model, n_maps * self.d, bias=False)
        self.k_proj = nn.Linear(d_model, n_kv_maps * self.d, bias=False)
        self.v_proj = nn.Linear(d_model, n_kv_maps * self.d, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        # One learned gain for all heads of the layer, each head normalized for itself (eq. 3).
        self.head_norm = nn.RMSNorm(headwise_norm, eps=1e-5) if headwise_norm else None

    def _heads(
        self, x: Tensor, rope: Rotary | None, cache: KVCache | None, d_v: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` (batch, seq, d_model) -> q (batch, n_maps, seq, d), k, v (..., d_v), turned by
        ``rope`` and extended by ``cache``."""
        if x.ndim != 3 or x.shape[-1] != self.q_proj.in_features:
            raise ValueError(
                f"x is (batch, seq, d_model={self.q_proj.in_features}): got {tuple(x.shape)}"
            )
        q = self.q_proj(x).unflatten(-1, (-1, self.d)).transpose(1, 2)
        k = self.k_proj(x).unflatten(-1, (-1, self.d)).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (-1, d_v)).transpose(1, 2)
        if rope is not None:
            start = cache.length if cache else 0
            q, k = rope(q, start), rope(k, start)
        if cache is not None:
            k, v = cache.extend(k, v)
        return q, k, v

    def _normed(self, heads: Tensor) -> Tensor:
        """Each head (batch, heads, seq, width) over its root mean square, where the layer has that.

        Autocast hands over bf16 while the gain is float32. Torch has a fused kernel for one dtype
        only, so the head goes to the gain's."""
        norm = self.head_norm
        return heads if norm is None else norm(heads.to(norm.weight.dtype))

    def _join(self, heads: Tensor) -> Tensor:
        """(batch, heads, seq, width) -> (batch, seq, d_model), through W^O."""
        return self.o_proj(heads.transpose(1, 2).flatten(-2))


class MultiheadAttention(_Projections):
    """The baseline: multi-head softmax attention.

    Args:
        d_model: width of the model.
        n_heads: heads, each of width d = d_model / n_heads.
        n_kv_heads: key and value heads (GQA); default ``n_heads``.
        headwise_norm: RMS-normalize each head before W^O. Not in a Transformer; the control that
            tells the effect of the norm from the effect of the subtraction.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, n_kv_heads: int | None = None,
        headwise_norm: bool = False,
    ):
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        _check_heads(d_model, n_heads, n_kv_heads, maps_per_head=1)
        d = d_model // n_heads
        super().__init__(d_model, n_heads, n_kv_heads, d if headwise_norm else None)
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads

    def forward(
        self, x: Tensor, *, causal: bool = True, rope: Rotary | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """``x`` (batch, seq, d_model) -> (batch, seq, d_model)."""
        q, k, v = self._heads(x, rope, cache, d_v=self.d)
        group = self.n_heads // self.n_kv_heads
        out = softmax_attention(q, _repeat(k, group), _repeat(v, group), causal=causal)
        out = self._normed(out)
        return self._join(out)  # (batch, seq, d_model)

    def maps(self, x: Tensor, *, causal: bool = True, rope: Rotary | None = None) -> Tensor:
        """The attention maps of ``x``: (batch, n_heads, seq, seq)."""
        q, k, _ = self._heads(x, rope, None, d_v=self.d)
        k = _repeat(k, self.n_heads // self.n_kv_heads)
        return softmax_attention_map(q, k, causal=causal)


class MultiheadDiffAttention(_Projections):
    """Multi-head differential attention, eqs. (1) to (3) of the paper.

    Args:
        d_model: width of the model.
        n_heads: *differential* heads, half of the matched baseline's: each has two maps of width
            d = d_model / n_heads / 2 and values of width 2d. Maps (2i, 2i+1) make head i, as in
            the official code.
        layer: counted from 1; sets λ_init by :func:`lambda_init`.
        n_kv_heads: differential key/value heads (GQA); default ``n_heads``. Head i pairs Q1 with
            K1 and Q2 with K2 of its key/value head (the official flash path's meaning).
        lambda_init: a constant instead of the schedule (Table 6).
        learn_lambda: False freezes λ at its initial value (ablation).
        headwise_norm: the RMSNorm of each head (eq. 3); False is Table 6's "- GroupNorm".
        output_scale: the fixed factor (1 - λ_init) behind the norm (eq. 3).
    """

    # λ's four vectors (eq. 2), each (d,): one set for all heads of the layer.
    lambda_q1: nn.Parameter
    lambda_k1: nn.Parameter
    lambda_q2: nn.Parameter
    lambda_k2: nn.Parameter

    def __init__(
        self, d_model: int, n_heads: int, layer: int, *, n_kv_heads: int | None = None,
        lambda_init: float | None = None, learn_lambda: bool = True, headwise_norm: bool = True,
        output_scale: bool = True,
    ):
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        _check_heads(d_model, n_heads, n_kv_heads, maps_per_head=2)
        d = d_model // n_heads // 2
        super().__init__(d_model, 2 * n_heads, 2 * n_kv_heads, 2 * d if headwise_norm else None)
        self.n_heads, self.n_kv_heads, self.layer = n_heads, n_kv_heads, layer
        self.lambda_init = _schedule(layer) if lambda_init is None else float(lambda_init)
        self.output_scale = 1 - self.lambda_init if output_scale else 1.0
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            vector = nn.Parameter(0.1 * torch.randn(d), requires_grad=learn_lambda)
            self.register_parameter(name, vector)

    def lam(self) -> Tensor:
        """λ = exp(λq1·λk1) - exp(λq2·λk2) + λ_init (eq. 2), a scalar, always in float32: in bf16
        exp(...) moves in steps of 0.004 to 0.008 and small updates would vanish."""
        q1, k1 = self.lambda_q1.float(), self.lambda_k1.float()
        q2, k2 = self.lambda_q2.float(), self.lambda_k2.float()
        return (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.lambda_init

    def forward(
        self, x: Tensor, *, causal: bool = True, rope: Rotary | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """``x`` (batch, seq, d_model) -> (batch, seq, d_model)."""
        q1, k1, q2, k2, v = self._pairs(x, rope, cache)
        out = diff_attention(q1, k1, q2, k2, v, self.lam(), causal=causal)  # (b, h, seq, 2d)
        out = self._normed(out)
        return self._join(self.output_scale * out)  # (batch, seq, d_model)

    def maps(self, x: Tensor, *, causal: bool = True, rope: Rotary | None = None) -> DiffMaps:
        """The two maps of ``x``, each (batch, n_heads, seq, seq), and λ."""
        q1, k1, q2, k2, _ = self._pairs(x, rope, None)
        return DiffMaps(
            softmax_attention_map(q1, k1, causal=causal),
            softmax_attention_map(q2, k2, causal=causal),
            self.lam(),
        )

    def _pairs(
        self, x: Tensor, rope: Rotary | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        # q, k (batch, 2 heads, seq, d), v (batch, heads, seq, 2d)
        q, k, v = self._heads(x, rope, cache, d_v=2 * self.d)
        q1, q2 = q[:, 0::2], q[:, 1::2]  # neighbours (2i, 2i+1) make head i
        k1, k2 = k[:, 0::2], k[:, 1::2]
        group = self.n_heads // self.n_kv_heads
        return q1, _repeat(k1, group), q2, _repeat(k2, group), _repeat(v, group)


_schedule = lambda_init  # the name is also an argument of the layer


def _repeat(x: Tensor, group: int) -> Tensor:
    """Each key/value head serves ``group`` neighbouring query heads (GQA)."""
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def _check_heads(d_model: int, n_heads: int, n_kv_heads: int, maps_per_head: int) -> None:
    kind = "differential heads, two maps each" if maps_per_head == 2 else "heads"
    if n_heads < 1 or d_model % (maps_per_head * n_heads):
        raise ValueError(
            f"d_model={d_model} does not divide into n_heads={n_heads} {kind}: choose n_heads so "
            f"that {maps_per_head} * n_heads divides d_model"
        )
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ValueError(
            f"n_kv_heads={n_kv_heads} does not divide n_heads={n_heads}: each key/value head "
            "serves the same number of query heads"
        )
