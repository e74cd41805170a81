"""Rotary position embedding (RoPE), the interleaved kind of the paper's official code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotate each pair of neighbouring channels by an angle that grows with the position.

    Channels (2j, 2j+1) at position p turn by ``p * base**(-2j/d)``, so that the dot product of a
    query and a key depends on their distance only. Llama and DiffLlama pair channel j with j + d/2
    instead: the same function after a permutation of the projection's rows (chapter 7).

    Args:
        d: head width, even.
        max_seq_len: positions in the table.
        base: the paper gives its own for the 64K extension only, 640,000.
    """

    def __init__(self, d: int, max_seq_len: int, base: float = 10_000.0):
        super().__init__()
        if d % 2:
            raise ValueError(f"RoPE turns pairs of channels: the head width must be even, got {d}")
        frequency = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)  # (d/2,)
        angle = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), frequency)
        # Plain tensors, not buffers: they follow from the config and stay float32 in a bf16 model.
        self.cos = angle.cos().float()  # (max_seq_len, d/2)
        self.sin = angle.sin().float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Let the table follow ``model.to(device)``, but not to another dtype. (A table that moves
        in the first forward pass instead makes ``torch.compile`` compile twice.)"""
        super()._apply(fn, recurse)
        device = fn(self.cos.new_empty(0)).device
        self.cos, self.sin = self.cos.to(device), self.sin.to(device)
        return self

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn ``x`` (batch, heads, seq, d), whose first position is ``start``."""
        end = start + x.shape[-2]
        if end > len(self.cos):
            raise ValueError(
                f"the sequence reaches position {end}, the model knows {len(self.cos)}: "
                "shorten it or build the model with a larger max_seq_len"
            )
        if self.cos.device != x.device:
            self.cos, self.sin = self.cos.to(x.device), self.sin.to(x.device)
        work = torch.promote_types(x.dtype, torch.float32)
        cos, sin = self.cos[start:end].to(work), self.sin[start:end].to(work)
        even, odd = x.to(work).unflatten(-1, (-1, 2)).unbind(-1)  # (batch, heads, seq, d/2) each
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).to(x.dtype)
