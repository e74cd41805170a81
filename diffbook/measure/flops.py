"""What a model costs before it runs: operations of a pass, bytes of its KV cache (chapter 7).

Counted are matrix products, a multiplication and its addition as two operations (FLOPs): what
``torch.utils.flop_counter.FlopCounterMode`` counts, too. Norms, softmax, RoPE, the subtraction and
the residual sums are left out: they are smaller by about the width of a head. Attention is counted
over the full (queries, keys) rectangle, also where a causal kernel skips the masked half.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from diffbook.model import ModelConfig

# How (A1 - λ A2) V is computed, and how often each product runs, in units of the baseline's
# (scores Q K^T, values A V).
ROUTES: dict[str, tuple[int, int]] = {
    "subtract": (1, 1),  # subtract the maps, then one product with V: the definition, eq. (1)
    "twice": (1, 2),  # A1 V - λ A2 V: no map in memory, values twice (kernels with wide V)
    "padded": (2, 2),  # the same with Q, K padded to V's width: padded_diff_attention
}


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass, over all layers.

    Attributes:
        projections: W^Q, W^K, W^V, W^O. scores: Q K^T. values: the maps times V.
        ffn: the three matrices of SwiGLU. output: the logits.
    """

    projections: int
    scores: int
    values: int
    ffn: int
    output: int

    @property
    def core(self) -> int:
        """Scores and values: the part that grows with the square of the length."""
        return self.scores + self.values

    @property
    def total(self) -> int:
        """All of it. A training step takes three times as much: forward, and twice backward."""
        return self.projections + self.core + self.ffn + self.output


def forward_flops(
    config: ModelConfig, seq: int, *, context: int | None = None, batch: int = 1,
    route: str = "subtract",
) -> Flops:
    """Operations of ``LanguageModel(config)`` for ``batch`` sequences of ``seq`` new tokens.

    Args:
        context: keys that each of them meets, cached ones included; default ``seq``, no cache.
        route: how differential attention is computed, a key of :data:`ROUTES`.

    Raises:
        ValueError: for sizes below one, fewer keys than new tokens, an unknown route, or a route
            for a model that has one map a head and so nothing to choose.
    """
    context = seq if context is None else context
    for name, size in (("seq", seq), ("batch", batch)):
        if size < 1:
            raise ValueError(f"{name}={size}: give a whole number of at least 1")
    if context < seq:
        raise ValueError(f"context={context} counts the seq={seq} new tokens too: give seq or more")
    if route not in ROUTES:
        raise ValueError(f"route={route!r} is not known: choose one of {', '.join(ROUTES)}")
    if config.attention == "softmax" and route != "subtract":
        raise ValueError(f'route={route!r} is for attention="diff": a softmax head has one map')
    d_model, tokens = config.d_model, batch * seq
    products = 2 * config.n_layers * tokens  # two operations for each weight, token and layer
    # All queries of a layer together are d_model wide, for both kinds; so are all values of its
    # heads, after repetition where key/value heads are shared (GQA).
    rectangle = products * context * d_model
    scores, values = ROUTES[route]
    return Flops(
        projections=products * (2 * d_model**2 + 2 * d_model * _kv_width(config)),
        scores=scores * rectangle,
        values=values * rectangle,
        ffn=products * 3 * d_model * config.ffn_width,
        output=2 * tokens * d_model * config.vocab_size,
    )


# Dense products a second in the precision that training takes there (bf16; fp16 on a T4), from the
# makers' data sheets.
PEAK_FLOPS = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12,
}


def peak_flops(device: str | torch.device = "cpu") -> float:
    """Operations a second that ``device`` can do at most: from :data:`PEAK_FLOPS`, and where it is
    not listed (a CPU) those of the fastest of five large float32 products, measured now."""
    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAK_FLOPS.items():
            if known in name.split() or f"{known}-" in name:
                return peak
    size = 4096 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device)
    fastest = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the product
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def cache_bytes(
    config: ModelConfig, seq: int = 1, *, batch: int = 1, bytes_per_number: int = 4
) -> int:
    """Bytes of keys and values kept for ``seq`` tokens, the same for both kinds of attention.

    ``bytes_per_number`` is 4 for float32, 2 for bfloat16.
    """
    for name, size in (("seq", seq), ("batch", batch), ("bytes_per_number", bytes_per_number)):
        if size < 1:
            raise ValueError(f"{name}={size}: give a whole number of at least 1")
    return 2 * config.n_layers * _kv_width(config) * seq * batch * bytes_per_number


def _kv_width(config: ModelConfig) -> int:
    """Width of all keys of a layer, and of all its values: the same number in a pair."""
    return (config.n_kv_heads or config.n_heads) * (config.d_model // config.n_heads)
