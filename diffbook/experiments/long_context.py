"""Loss by position on held-out books (Fig. 4): beyond the training length, before and after the
paper's recipe for longer contexts."""

from __future__ import annotations

from torch import Tensor

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED, LM
from diffbook.measure.positions import (
    book_windows,
    cumulative_average,
    interval_average,
    nll_by_position,
    nll_with_context,
    with_rope_base,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.text import TextTask
from diffbook.train import TrainConfig

RAISED = 80_000.0  # rotary base for four times the length: chapter 10 says why
BASES = (10_000.0, RAISED, 640_000.0)  # tried without training
WINDOWS, FEW = 64, 24  # of books; few where the effects are large
SCORED, BATCH = 64, 4


def powers(length: int) -> list[int]:
    """64, 128, … up to ``length``."""
    return [2**k for k in range(6, length.bit_length()) if 2**k <= length]


def fine(length: int) -> list[int]:
    """Positions 1 to 16, then four for each doubling up to ``length``, for curves."""
    grid = (16 * 2 ** (k / 4) for k in range(1, 4 * length.bit_length()))
    return [*range(1, min(16, length) + 1), *(round(p) for p in grid if p <= length)]


def curves(nll: Tensor, name: str = "") -> dict[str, list[float]]:
    """Arrays of a record: "position", and cumulative and interval averages there."""
    at = fine(nll.shape[1])
    average = cumulative_average(nll, at)
    return {
        "position": [float(p) for p in at],
        f"cumulative NLL{name}": average.tolist(),
        f"interval NLL{name}": interval_average(at, average.tolist()).tolist(),
    }


def measure(model: LanguageModel, task: TextTask) -> dict[str, float | list[float]]:
    """On windows of books twice as long as ``task.seq_len``, in nats per token.

    "cumulative NLL P" for P = 64, 128, …, and "cumulative NLL 4x" at ``task.seq_len``, four times
    the first training length; "fall P": how much lower it is than at 64; "NLL P-Q": the mean of
    positions P + 1 to Q; "NLL with context C": of the same tokens with more and more context, up to
    the training length; "gain over context C": how much the longest of these contexts is better.
    """
    device = next(model.parameters()).device
    windows = book_windows(2 * task.seq_len, WINDOWS, tokenizer=task.tokenizer)
    nll = nll_by_position(model, windows, batch=BATCH, device=device)
    at = powers(nll.shape[1])
    average = cumulative_average(nll, at).tolist()
    numbers: dict[str, float | list[float]] = {}
    for position, value in zip(at, average, strict=True):
        numbers[f"cumulative NLL {position}"] = value
        if position > at[0]:
            numbers[f"fall {position}"] = average[0] - value
    numbers["cumulative NLL 4x"] = average[at.index(task.seq_len)]
    between = interval_average(at, average).tolist()
    for start, end, value in zip(at, at[1:], between[1:], strict=False):
        numbers[f"NLL {start}-{end}"] = value
    contexts = [16, 32, *powers(task.seq_len // 2), task.seq_len - SCORED]
    short = windows[:, : task.seq_len]
    with_context = nll_with_context(
        model, short, contexts, scored=SCORED, batch=BATCH, device=device).mean(0).tolist()
    for context, value in zip(contexts, with_context, strict=True):
        numbers[f"NLL with context {context}"] = value
    for context, value in zip(contexts[:-1], with_context, strict=False):
        numbers[f"gain over context {context}"] = value - with_context[-1]
    return {**numbers, **curves(nll)}


def measure_start(model: LanguageModel, task: TextTask) -> dict[str, float | list[float]]:
    """On windows of books four times as long as ``task.seq_len``, with the rotary base of the
    training and with larger ones: "cumulative NLL P, base B"."""
    numbers: dict[str, float | list[float]] = {}
    device = next(model.parameters()).device
    windows = book_windows(4 * task.seq_len, FEW, tokenizer=task.tokenizer)
    for base in BASES:
        changed = with_rope_base(model, base)
        nll = nll_by_position(changed, windows, batch=BATCH, device=device)
        at = powers(nll.shape[1])
        for position, value in zip(at, cumulative_average(nll, at).tolist(), strict=True):
            numbers[f"cumulative NLL {position}, base {base:.0f}"] = value
        numbers |= curves(nll, f", base {base:.0f}")
    return numbers


LONG_CONTEXT = Experiment(
    name="long-context",
    title="Longer contexts: trained on at four times the length, measured on held-out books",
    variants=choose("softmax", "diff"),
    presets={
        "cpu": Preset(
            ModelConfig(256, d_model=128, n_layers=4, n_heads=4, rope_base=RAISED),
            TrainConfig(
                steps=100, batch_size=4, lr=5e-4, warmup=10, log_every=5, eval_every=50,
                checkpoint_every=50, device="cpu",
            ),
            TextTask(seq_len=1024, eval_windows=32, eval_batch=4), 3,
            "0.87 M parameters, 0.4 M bytes in windows of 1024, after lm-cpu; one core each. Seed "
            "0 starts from the shipped weights; for others record lm into the same --out first",
            start="lm-cpu",
        ),
        "t4": Preset(
            ModelConfig(256, d_model=256, n_layers=6, n_heads=8, rope_base=RAISED),
            TrainConfig(
                steps=100, batch_size=16, lr=2.5e-4, warmup=10, log_every=5, eval_every=50,
                checkpoint_every=50,
            ),
            TextTask(seq_len=2048, eval_windows=32, eval_batch=4), 4,
            "4.9 M parameters, 3.3 M bytes in windows of 2048, after lm-t4, which must be in the "
            f"same --out; {ESTIMATED}",
            start="lm-t4",
        ),
        "h100": Preset(
            ModelConfig(
                256, d_model=384, n_layers=8, n_heads=6, max_seq_len=8192, rope_base=RAISED),
            TrainConfig(
                steps=200, batch_size=16, lr=2.5e-4, warmup=20, log_every=10, eval_every=100,
                checkpoint_every=100, compile=True,
            ),
            TextTask(seq_len=4096, eval_windows=32, eval_batch=4), 2,
            "14 M parameters, 13 M bytes in windows of 4096, after lm-h100, which must be in the "
            f"same --out; {ESTIMATED}",
            start="lm-h100",
        ),
    },
    measure=measure,
    ship=(0,),
    claims=(
        Claim(
            text="a lower average loss over a context of four times the first training length",
            where="Fig. 4", paper="2.212 / 2.177 at 16K of 64K tokens (scale inferred)",
            measure="cumulative NLL 4x", says="lower", chapter=10,
            scale="0.87 million parameters, 1024 bytes of context",
        ),
    ),
)

EXTRAPOLATION = Experiment(
    name="extrapolation",
    title="Beyond the training length without further training, by rotary base",
    variants=choose("softmax", "diff"),
    presets={
        "cpu": Preset(
            LM.presets["cpu"].model, None, LM.presets["cpu"].task, 3,
            "the models of lm-cpu, nothing trained; one core each. Seed 0 are the shipped weights; "
            "for others record lm into the same --out first",
            start="lm-cpu",
        ),
    },
    measure=measure_start,
)
