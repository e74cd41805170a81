"""Token-level needles: find the number that belongs to a city (Table 2, Fig. 5 in small)."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.measure.attention_mass import REGIONS, attention_mass
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.needle import NeedleTask
from diffbook.train import TrainConfig

TASK = NeedleTask()


def measure(model: LanguageModel, task: NeedleTask) -> dict[str, float]:
    """Accuracy at 1, 2, 4 and 8 times the training length, with more needles and with distractors;
    and what the head that looks most at the answer does, with both normalizations."""
    device = next(model.parameters()).device
    numbers: dict[str, float] = {}

    def accuracy(name: str, **change: object) -> None:
        harder = replace(task, **change)  # type: ignore[arg-type]
        numbers[f"accuracy {name}"] = harder.evaluate(model, device)["accuracy"]

    for times in (1, 2, 4, 8):
        accuracy(f"{times}x", seq_len=times * task.seq_len)
    accuracy("2N", n_needles=2 * task.n_needles)
    accuracy("distractors 0.5, 2x", seq_len=2 * task.seq_len, distractors=0.5)
    for times in (1, 2, 4):
        longer = replace(task, seq_len=times * task.seq_len)
        batch = longer.sample(64, torch.Generator().manual_seed(5_000_011))
        mass = attention_mass(model.cpu(), batch, task.first_number, task.first_word)
        layer, head = mass.best_head()
        for kind in ("signed", "absolute"):
            for region in ("answer", "haystack"):
                share = getattr(mass, kind)[layer, head, REGIONS.index(region)]
                numbers[f"{region} {kind} {times}x"] = float(share)
        numbers[f"snr {times}x"] = float(mass.snr_db[layer, head])
    model.to(device)
    return numbers


NEEDLE = Experiment(
    name="needle",
    title="Multi-needle retrieval on token level: N = R = 4, to 8 times the training length",
    variants=choose("softmax", "softmax_norm", "diff", "diff_frozen"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=2, n_heads=4, d_ff=160),
            TrainConfig(
                steps=400, batch_size=64, lr=3e-3, warmup=30, weight_decay=0.0, log_every=10,
                eval_every=40, device="cpu",
            ),
            TASK,
            0.7, "0.1 M parameters, 400 steps; one core each",
        ),
    },
    measure=measure,
    ship=(0, 1, 2),
    claims=tuple(
        Claim(
            text=f"more needles found at {times} x the training length",
            where="Fig. 5", paper="0.52 / 0.86 (64 K tokens, N = 8)",
            measure=f"accuracy {times}x", says="higher", chapter=11,
            scale="token level, 64 tokens, 0.1 M parameters",
        )
        for times in (2, 4, 8)
    ),
)
