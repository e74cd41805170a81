"""Outliers and quantized logits (Table 5, Fig. 8), measured on models that others trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffbook import paper
from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import LM
from diffbook.experiments.multineedle import MULTINEEDLE
from diffbook.measure.outliers import KINDS, TOP, outliers
from diffbook.measure.quantization import GRANULARITIES, quantized_logits, rounded_logits
from diffbook.model import IGNORE, LanguageModel
from diffbook.records.compare import Claim
from diffbook.tasks.needle import NeedleTask
from diffbook.tasks.text import TextTask

BITS = (8, 6, 4, 3, 2)  # and not quantized, which the paper calls 16
STEPS = (1, 2, 4, 8)  # nats
TOKENS = 8192  # held out, for the outliers; the paper took 400,000
ROWS = 16  # windows of text for each quantized score
SEQUENCES = 128  # needle sequences for each quantized score, four questions each


class Scores(NamedTuple):
    accuracy: float  # next byte, or number of the asked city
    loss: float  # nats, at the same places


def held_out(task: TextTask | NeedleTask, n: int) -> Tensor:
    """``n`` sequences (n, seq + 1 or seq) that no training step has seen."""
    if isinstance(task, TextTask):
        stream = task.tokens("validation")
        starts = np.linspace(0, len(stream) - task.seq_len - 1, n).astype(np.int64)
        rows = stream[starts[:, None] + np.arange(task.seq_len + 1)]
        return torch.from_numpy(rows.astype(np.int64))
    return task.sample(n, torch.Generator().manual_seed(5_000_011)).tokens


@torch.no_grad()
def scores(model: LanguageModel, task: TextTask | NeedleTask) -> Scores:
    """Accuracy and loss of ``model`` on sequences that are the same for every model."""
    device = next(model.parameters()).device
    if isinstance(task, TextTask):
        windows = held_out(task, ROWS)
        inputs, targets, rows = windows[:, :-1], windows[:, 1:], 4
    else:
        batch = task.sample(SEQUENCES, torch.Generator().manual_seed(6_000_011))
        inputs, rows = batch.tokens, 32
        targets = torch.full_like(inputs, IGNORE).scatter(1, batch.query_positions, batch.answers)
    right, loss = 0, 0.0
    for part, wanted in zip(inputs.split(rows), targets.split(rows), strict=True):
        scored = wanted != IGNORE
        logits = model(part.to(device))[scored.to(device)].float()  # (n_scored, vocab)
        wanted = wanted[scored].to(device)
        right += int((logits.argmax(-1) == wanted).sum())
        loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
    count = int((targets != IGNORE).sum())
    return Scores(right / count, loss / count)


def measure(
    model: LanguageModel, task: TextTask | NeedleTask
) -> dict[str, float | list[float]]:
    """The columns of Table 5 for each of :data:`~diffbook.measure.outliers.KINDS`, over all layers
    and (top-1) by layer; then what quantized logits cost: accuracy lost and loss gained, for each
    granularity and number of bits, also without the rows' offset, and for logits rounded to
    multiples of a fixed step."""
    device = next(model.parameters()).device
    numbers: dict[str, float | list[float]] = {}
    tokens = held_out(task, max(1, TOKENS // task.seq_len))[:, : task.seq_len].to(device)
    found = outliers(model, tokens)
    for kind in KINDS:
        whole = found.whole[kind]
        for k, value in zip(TOP, whole.top, strict=True):
            numbers[f"{kind} top-{k}"] = value
        numbers[f"{kind} median"] = whole.median
        numbers[f"{kind} ratio"] = whole.ratio
        numbers[f"{kind} top-1 by layer"] = [layer.top[0] for layer in found.layers[kind]]
        numbers[f"{kind} median by layer"] = [layer.median for layer in found.layers[kind]]
    numbers["offset by layer"] = found.offset

    plain = scores(model, task)
    numbers["accuracy"], numbers["loss"] = plain

    def lost(name: str, quantized: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        with quantized(model, *arguments, **options):
            now = scores(model, task)
        numbers[f"accuracy drop {name}"] = plain.accuracy - now.accuracy
        numbers[f"loss rise {name}"] = now.loss - plain.loss

    for bits in BITS:
        for granularity in GRANULARITIES:
            lost(f"{granularity} {bits}", quantized_logits, bits, granularity)
        if bits <= 4:  # above, nothing is left to repair
            for granularity in ("tensor", "row"):
                lost(f"{granularity} centered {bits}", quantized_logits, bits, granularity,
                     center=True)
    for step in STEPS:
        lost(f"step {step}", rounded_logits, float(step))
    return numbers


def claims(scale: str) -> tuple[Claim, ...]:
    """Table 5 and Fig. 8, with the paper's numbers."""
    table, figure = paper.load("table5"), paper.load("fig8")
    four = figure["bits"].index(4)
    drops = [figure[kind][0] - figure[kind][four] for kind in ("softmax", "diff")]

    def pair(kind: str) -> str:
        return f"{table[f'softmax_{kind}'][0]} / {table[f'diff_{kind}'][0]}"

    return (
        Claim(
            text="a smaller largest attention logit", where="Table 5", paper=pair("logits"),
            measure="logits top-1", says="lower", chapter=15, scale=scale,
        ),
        Claim(
            text="a smaller largest hidden state", where="Table 5", paper=pair("hidden"),
            measure="hidden top-1", says="lower", chapter=15, scale=scale,
        ),
        Claim(
            text="less accuracy lost with attention logits in 4 bits", where="Fig. 8",
            paper=f"{drops[0]:.1f} / {drops[1]:.1f} points of HellaSwag",
            measure="accuracy drop tensor 4", says="lower", chapter=15, scale=scale,
        ),
    )


def evaluated(source: Experiment, note: str) -> dict[str, Preset]:
    """The presets of ``source`` with its trained models, and nothing to train."""
    return {
        name: Preset(
            preset.model, None, preset.task, 2, f"measured on the models of {source.name}-{name}, "
            f"which must be made first with the same --out; {note}",
            start=f"{source.name}-{name}",
        )
        for name, preset in source.presets.items()
    }


OUTLIERS = Experiment(
    name="outliers",
    title="Largest activations and quantized attention logits, byte-level text",
    variants=choose("softmax", "diff"),
    presets=evaluated(LM, "two minutes each on one CPU core"),
    measure=measure,
    claims=claims("0.9 M parameters, 8192 bytes; next-byte accuracy"),
)

QUANTIZATION = Experiment(
    name="quantization",
    title="Largest activations and quantized attention logits, token-level needles",
    variants=choose(*MULTINEEDLE.variants),
    presets=evaluated(MULTINEEDLE, "half a minute each on one CPU core"),
    measure=measure,
    claims=claims("0.1 M parameters, needles in 64 tokens"),
)
