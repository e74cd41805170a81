"""Differential attention on a CPU: some rows of both maps at a time, subtracted before V.

The fused kernels of torch give the output of *one* softmax map, so they must multiply V twice:
(A1 - λ A2) V = A1 V - λ A2 V. Here a block of query rows has both maps in the cache; they are
subtracted there and meet V once, as in eq. (1). That is the operation count of the Transformer,
and memory is that of a block of rows, never of a (seq, seq) map: the backward pass computes each
block again instead of keeping it, as FlashAttention does. Chapter 6 measures what it gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers of one map that are worked on at a time. Four such pieces (two maps and two gradients)
# take 2 MiB in float32: the second-level cache of one core. Found by measurement, chapter 6.
CACHE_NUMBERS = 2**17


def blockwise_diff_attention(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor,
    *, causal: bool = True, block: int | None = None,
) -> Tensor:
    """(softmax(q1 k1^T/√d) - λ softmax(q2 k2^T/√d)) v, eq. (1), with each product made once.

    Args:
        q1, k1, q2, k2: (batch, heads, seq, d), as many queries as keys.
        v: (batch, heads, seq, d_v), any d_v.
        lam: λ, a number or a tensor that broadcasts to (batch, heads, seq, 1).
        causal: position i sees positions up to i only; what lies above the diagonal blocks is
            not computed at all.
        block: query rows at a time; default 64 for short sequences, 128 from 512 positions on.

    Returns:
        (batch, heads, seq, d_v). It can be differentiated once; for second derivatives take
        :func:`diffbook.attention.diff_attention_reference`.

    Raises:
        ValueError: for ``block`` below 1.

    :func:`diffbook.attention.diff_attention` checks the shapes and calls this where it pays.
    """
    batch, heads, seq, d = q1.shape
    if block is None:
        block = 64 if seq < 512 else 128
    if block < 1:
        raise ValueError(f"block={block}: give at least 1 query row at a time")
    flat = batch * heads
    # The scale goes into the queries: seq * d multiplications instead of seq².
    q = (torch.stack((q1, q2)) / math.sqrt(d)).view(2, flat, seq, d)
    k = torch.stack((k1, k2)).view(2, flat, seq, d)
    lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device).expand(batch, heads, seq, 1)
    out = _Blockwise.apply(q, k, v.reshape(flat, seq, -1), lam.reshape(flat, seq, 1), causal, block)
    return out.view(batch, heads, seq, -1)


class _Blockwise(torch.autograd.Function):
    """q (2, heads, seq, d) already scaled, k (2, heads, seq, d), v (heads, seq, d_v), lam
    (heads, seq, 1) -> (heads, seq, d_v); ``heads`` are those of all sequences of the batch."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, lam: Tensor, causal: bool, block: int
    ) -> Tensor:
        out = torch.empty_like(v)
        space = v.new_empty(2 * _space(q, block))
        for part, rows, m in _blocks(q, causal, block):
            maps = _maps(space, q, k, part, rows, m, causal)  # (2, n, b, m)
            maps[0].addcmul_(maps[1], lam[part, rows], value=-1)
            torch.bmm(maps[0], v[part, :m], out=out[part, rows])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4], output)
        ctx.causal, ctx.block = inputs[4:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, lam, out = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dlam = torch.empty_like(lam)
        # With D = dA V^T: softmax's gradient is A (D - δ), δ the row sum of A D. Both maps share
        # D, and δ1 - λ δ2 = grad · out without any map.
        delta = (grad * out).sum(-1, keepdim=True)  # (heads, seq, 1)
        weighted = torch.stack((q[0], -lam * q[1]))  # map 2 enters with -λ
        size = _space(q, ctx.block)
        space = v.new_empty(4 * size)
        for part, rows, m in _blocks(q, ctx.causal, ctx.block):
            maps = _maps(space, q, k, part, rows, m, ctx.causal)
            a1, a2 = maps
            g, lam_rows = grad[part, rows], lam[part, rows]
            d_map = space[2 * size : 2 * size + a1.numel()].view_as(a1)
            other = space[3 * size : 3 * size + a1.numel()].view_as(a1)
            torch.addcmul(a1, a2, lam_rows, value=-1, out=other)
            dv[part, :m].baddbmm_(other.mT, g)
            torch.bmm(g, v[part, :m].mT, out=d_map)
            torch.mul(d_map, a2, out=other)
            delta2 = other.sum(-1, keepdim=True)
            dlam[part, rows] = -delta2
            torch.addcmul(other, a2, delta2, value=-1, out=a2)
            a1.mul_(d_map.sub_(torch.addcmul(delta[part, rows], lam_rows, delta2)))
            for i in (0, 1):
                torch.bmm(maps[i], k[i, part, :m], out=dq[i, part, rows])
                dk[i, part, :m].baddbmm_(maps[i].mT, weighted[i, part, rows])
        dq[1].mul_(-lam)
        return dq, dk, dv, dlam, None, None


def _space(q: Tensor, block: int) -> int:
    """The most numbers that one piece of a map has."""
    _, heads, seq, _ = q.shape
    return max(min(CACHE_NUMBERS, heads * min(block, seq) * seq), min(block, seq) * seq)


def _blocks(q: Tensor, causal: bool, block: int) -> Iterator[tuple[slice, slice, int]]:
    """(heads, query rows, number of keys they see), so that a piece fits the cache."""
    _, heads, seq, _ = q.shape
    for start in range(0, seq, block):
        stop = min(start + block, seq)
        m = stop if causal else seq
        step = min(heads, max(1, CACHE_NUMBERS // ((stop - start) * m)))
        for first in range(0, heads, step):
            yield slice(first, min(first + step, heads)), slice(start, stop), m


def _maps(
    space: Tensor, q: Tensor, k: Tensor, part: slice, rows: slice, m: int, causal: bool
) -> Tensor:
    """Rows of both maps, (2, n, b, m), written at the start of ``space``."""
    n, b = part.stop - part.start, rows.stop - rows.start
    maps = space[: 2 * n * b * m].view(2, n, b, m)
    for i in (0, 1):
        torch.bmm(q[i, part, rows], k[i, part, :m].mT, out=maps[i])
    if causal:  # only the last b columns hold anything that lies in the future
        future = maps.new_full((b, b), -math.inf).triu_(1)
        maps[..., m - b :].add_(future)
    return torch.softmax(maps, dim=-1, out=maps)
