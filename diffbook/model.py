"""The language model: pre-RMSNorm, SwiGLU, RoPE; softmax or differential attention.

One :class:`ModelConfig` describes a matched pair: change ``attention`` and nothing else. Both
models then have the same matrices, drawn from the same numbers; the differential one adds 6d
numbers a layer (four λ vectors and the gain of the headwise norm). Chapter 7.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from diffbook.attention import (
    DiffMaps,
    KVCache,
    MultiheadAttention,
    MultiheadDiffAttention,
)
from diffbook.rope import Rotary

ATTENTION_KINDS = ("softmax", "diff")
IGNORE = -100  # a target that is not scored


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model.

    Attributes:
        vocab_size, d_model, n_layers: as everywhere.
        n_heads: the *baseline's* heads, of width d = d_model / n_heads, for every kind of
            attention: "diff" makes n_heads / 2 differential heads of two maps of that width.
        attention: "softmax" (the Transformer) or "diff" (the Differential Transformer).
        n_kv_heads: the baseline's key/value heads (GQA), halved for "diff" likewise.
        d_ff: hidden width of SwiGLU; default 8/3 d_model, rounded to a multiple of 32.
        max_seq_len: longest sequence (the table of rotary positions; not a parameter).
        rope_base: base of the rotary frequencies.
        tie_embeddings: one matrix for the embedding and the output.
        headwise_norm: default as in the paper: with "diff", not with "softmax".
        output_scale, lambda_init, learn_lambda: ablations of "diff", see
            :class:`diffbook.attention.MultiheadDiffAttention`.
        seed: all weights are drawn from it; a pair with one seed shares all common weights.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    attention: str = "softmax"
    n_kv_heads: int | None = None
    d_ff: int | None = None
    max_seq_len: int = 4096
    rope_base: float = 10_000.0
    tie_embeddings: bool = False
    headwise_norm: bool | None = None
    output_scale: bool = True
    lambda_init: float | None = None
    learn_lambda: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION_KINDS:
            raise ValueError(
                f"attention={self.attention!r} is not known: choose one of "
                + ", ".join(map(repr, ATTENTION_KINDS))
            )
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
        if self.d_model % self.n_heads or self.d_model // self.n_heads % 2:
            raise ValueError(
                f"d_model={self.d_model} and n_heads={self.n_heads} give a head width of "
                f"{self.d_model / self.n_heads:g}: it must be whole and even (RoPE turns pairs)"
            )
        for name in ("n_heads", "n_kv_heads"):
            count = getattr(self, name)
            if self.attention == "diff" and count is not None and count % 2:
                raise ValueError(
                    f"{name}={count} counts the baseline's heads; differential attention pairs "
                    "them, so give an even number"
                )
        if self.n_kv_heads is not None and (
            self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads
        ):
            raise ValueError(
                f"n_kv_heads={self.n_kv_heads} does not divide n_heads={self.n_heads}: each "
                "key/value head serves the same number of query heads"
            )

    @property
    def ffn_width(self) -> int:
        return self.d_ff or max(32, 32 * round(8 * self.d_model / 3 / 32))


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x), no biases: (batch, seq, d_model) -> the same."""

    def __init__(self, d_model: int, width: int):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, width, bias=False)
        self.up_proj = nn.Linear(d_model, width, bias=False)
        self.down_proj = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer, eqs. (4) and (5): Y = MultiHead(LN(X)) + X, then SwiGLU(LN(Y)) + Y."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.ffn = SwiGLU(config.d_model, config.ffn_width)
        n_kv_heads = config.n_kv_heads or config.n_heads
        if config.attention == "softmax":
            self.attention: MultiheadAttention | MultiheadDiffAttention = MultiheadAttention(
                config.d_model, config.n_heads, n_kv_heads=n_kv_heads,
                headwise_norm=bool(config.headwise_norm),
            )
        else:
            self.attention = MultiheadDiffAttention(
                config.d_model, config.n_heads // 2, layer, n_kv_heads=n_kv_heads // 2,
                lambda_init=config.lambda_init, learn_lambda=config.learn_lambda,
                headwise_norm=config.headwise_norm is not False,
                output_scale=config.output_scale,
            )

    def forward(self, x: Tensor, rope: Rotary, cache: KVCache | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope=rope, cache=cache)
        return x + self.ffn(self.ffn_norm(x))


class LanguageModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="diffbook",
    tags=["differential-transformer", "arxiv:2410.05258"],
):
    """A causal language model: tokens (batch, seq) -> logits (batch, seq, vocab_size).

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` (config.json and safetensors) come
    from huggingface_hub; :func:`load_model` reads one checkpoint with clear errors.
    """

    def __init__(self, config: ModelConfig | dict):
        super().__init__()
        if isinstance(config, dict):  # as it comes from config.json
            config = ModelConfig(**config)
        self.config = config
        d_model = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, d_model)
        self.blocks = nn.ModuleList(
            Block(config, layer) for layer in range(1, config.n_layers + 1)
        )
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.head = nn.Linear(d_model, config.vocab_size, bias=False)
        self.rope = Rotary(d_model // config.n_heads, config.max_seq_len, config.rope_base)
        self._draw_weights()
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def _draw_weights(self) -> None:
        """Projections: normal with the variance of torch's own linear layers, 1/(3 fan_in); what
        writes into the residual stream divided by sqrt(2 n_layers). Embedding and output: std
        1/sqrt(d_model). The λ vectors come last, so that all else is the same in a pair."""
        generator = torch.Generator().manual_seed(self.config.seed)
        residual = 1 / math.sqrt(2 * self.config.n_layers)
        own: list[nn.Parameter] = []
        for name, weight in self.named_parameters():
            if "lambda_" in name:
                own.append(weight)
            elif weight.ndim == 2:
                std = 1 / math.sqrt(weight.shape[1])
                if name.startswith("blocks"):
                    std /= math.sqrt(3)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std *= residual
                nn.init.normal_(weight, std=std, generator=generator)
        for weight in own:
            nn.init.normal_(weight, std=0.1, generator=generator)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, caches: list[KVCache] | None = None
    ) -> Tensor:
        """Logits (batch, seq, vocab_size); with ``targets`` (batch, seq) the mean loss in nats
        over the targets that are not -100 (on a CPU the output matrix runs on those only).

        Raises:
            ValueError: for tokens of another shape or range, or a sequence too long.
        """
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ValueError(f"tokens are (batch, seq), not empty: got {tuple(tokens.shape)}")
        # Where numbers decide what runs: a GPU would wait for all earlier kernels, and a compiled
        # graph would break in two.
        eager_cpu = tokens.device.type == "cpu" and not torch.compiler.is_compiling()
        if eager_cpu:
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(
                    f"token {low if low < 0 else high} is out of range: the model knows 0 to "
                    f"{self.config.vocab_size - 1}"
                )
        x = self.embedding(tokens)  # (batch, seq, d_model)
        for index, block in enumerate(self.blocks):
            x = block(x, self.rope, caches[index] if caches else None)
        x = self.norm(x)
        if targets is None:
            return self.head(x)  # (batch, seq, vocab_size)
        if eager_cpu:
            scored = targets != IGNORE
            if not bool(scored.all()):
                x, targets = x[scored], targets[scored]  # (n_scored, d_model), (n_scored,)
        logits = self.head(x).flatten(0, -2).float()
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE)

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, max_new_tokens: int, *, temperature: float = 1.0,
        top_k: int | None = None, generator: torch.Generator | None = None, use_cache: bool = True,
    ) -> Tensor:
        """Continue ``tokens`` (batch, seq) by ``max_new_tokens``: (batch, seq + max_new_tokens).

        Args:
            temperature: 0 takes the most probable token; 1 samples from the model.
            top_k: sample from the k most probable tokens only.
            generator: makes sampling repeatable.
            use_cache: keep keys and values (each new token costs O(seq) instead of O(seq²)).
        """
        if temperature < 0 or (top_k is not None and top_k < 1):
            raise ValueError(
                f"temperature={temperature} must be >= 0 and top_k={top_k} at least 1 (or None)"
            )
        caches = [KVCache() for _ in self.blocks] if use_cache else None
        fresh = tokens
        for _ in range(max_new_tokens):
            logits = self(fresh, caches=caches)[:, -1].float()  # (batch, vocab_size)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                if top_k is not None and top_k < logits.shape[-1]:
                    least = logits.topk(top_k).values[:, -1:]
                    logits = logits.masked_fill(logits < least, -torch.inf)
                probability = (logits / temperature).softmax(-1)
                new = torch.multinomial(probability, 1, generator=generator)
            tokens = torch.cat((tokens, new), dim=1)
            fresh = new if use_cache else tokens
        return tokens

    @torch.no_grad()
    def attention_maps(self, tokens: Tensor) -> list[Tensor | DiffMaps]:
        """The maps of each layer for ``tokens`` (batch, seq): a tensor (batch, heads, seq, seq),
        or :class:`DiffMaps` for differential attention."""
        x = self.embedding(tokens)
        maps = []
        for block in cast(Iterable[Block], self.blocks):
            maps.append(block.attention.maps(block.attention_norm(x), rope=self.rope))
            x = block(x, self.rope)
        return maps

    def lambdas(self) -> list[float]:
        """The current λ of each layer; empty for a Transformer."""
        layers = [block.attention for block in self.blocks]
        return [float(a.lam().detach()) for a in layers if isinstance(a, MultiheadDiffAttention)]


def pair(config: ModelConfig) -> Iterator[LanguageModel]:
    """The matched pair of ``config``: the Transformer, then DIFF, with all common weights equal."""
    for attention in ATTENTION_KINDS:
        yield LanguageModel(replace(config, attention=attention))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers to train, by group: embedding, attention (the four matrices), λ, head norm, ffn,
    norms, output; ``total`` counts tied matrices once. Chapter 7 prints the pair side by side."""
    groups = dict.fromkeys(
        ("embedding", "attention", "lambda", "head norm", "ffn", "norms", "output"), 0
    )
    for name, weight in model.named_parameters():
        if name.startswith("embedding"):
            group = "embedding"
        elif name.startswith("head."):
            group = "output"
        elif "lambda_" in name:
            group = "lambda"
        elif "head_norm" in name:
            group = "head norm"
        elif "norm" in name:
            group = "norms"
        else:
            group = "ffn" if ".ffn." in name else "attention"
        groups[group] += weight.numel()
    return {**groups, "total": sum(groups.values())}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model."""


def load_model(folder: str | Path) -> LanguageModel:
    """The model saved in ``folder`` by ``save_pretrained`` (config.json, model.safetensors).

    Raises:
        CheckpointError: naming the file and what to do.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing: a checkpoint is a folder written by "
                "model.save_pretrained(folder) or by `python -m diffbook train --out folder`"
            )
    try:
        config = ModelConfig(**json.loads((folder / "config.json").read_text()))
        model = LanguageModel(config)
        safetensors.torch.load_model(model, folder / "model.safetensors")
    except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be read as a checkpoint ({error}): it is damaged or was saved by "
            "another version; fetch or train it again"
        ) from error
    return model
