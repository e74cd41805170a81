"""Needles on the level of text (Table 2): sentences in real text, a curriculum, two models."""

from __future__ import annotations

from dataclasses import replace

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED
from diffbook.measure.needles import left_plateau
from diffbook.model import LanguageModel, ModelConfig
from diffbook.tasks.needle import DEPTHS, TextNeedleTask
from diffbook.train import TrainConfig

TASK = TextNeedleTask(
    seq_len=256, n_needles=4, digits=3, tokenizer="bpe", drills=6,
    # The number right behind the city and hardly any text, then the full sentence, then the text.
    curriculum=((0.3, 64, 0, 0), (0.45, 80, 0, 2), (0.6, 96, 1, 4), (0.75, 128, 3, 4)),
)
LONG_TASK = replace(
    TASK, seq_len=1024, digits=4,
    curriculum=((0.3, 64, 0, 0), (0.45, 96, 0, 2), (0.6, 128, 1, 4), (0.75, 256, 3, 4)),
)


def measure(model: LanguageModel, task: TextNeedleTask) -> dict[str, float | list[float]]:
    """On held-out text, the full sentence: share of whole numbers right, and of numbers of another
    needle, for N = 1, 2, 4, 6 at the training length and for the task's N at twice that length;
    "by depth" (5,); "left the plateau": 1 or 0."""
    device = next(model.parameters()).device
    numbers: dict[str, float | list[float]] = {}
    for n in (1, 2, 4, 6):
        score = replace(task, n_needles=n).evaluate(model, device, n=50)
        numbers[f"exact N={n}, 1x"] = score["exact_match"]
        numbers[f"another needle N={n}, 1x"] = score["other_needle"]
    numbers["by depth 1x"] = [
        replace(task, depth=depth).evaluate(model, device, n=50)["exact_match"] for depth in DEPTHS
    ]
    longer = replace(task, seq_len=2 * task.seq_len).evaluate(model, device, n=50)
    numbers[f"exact N={task.n_needles}, 2x"] = longer["exact_match"]
    at_home = task.evaluate(model, device, n=50)["exact_match"]
    numbers["left the plateau"] = float(left_plateau(at_home, task.n_needles))
    return numbers


TEXT_NEEDLE = Experiment(
    name="text-needle",
    title="Multi-needle retrieval on text: sentences with a city's magic number in real text",
    variants=choose("softmax", "diff"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=2, n_heads=4, d_ff=160),
            TrainConfig(
                steps=1200, batch_size=8, lr=3e-3, warmup=50, weight_decay=0.0, log_every=10,
                eval_every=150, checkpoint_every=300, device="cpu",
            ),
            TASK, 1.7, "0.6 M parameters, 1200 steps of about 2500 tokens; one core each",
        ),
        "h100": Preset(
            ModelConfig(LONG_TASK.vocab_size, d_model=256, n_layers=4, n_heads=8),
            TrainConfig(
                steps=2200, batch_size=64, lr=1e-3, warmup=100, weight_decay=0.0, log_every=20,
                eval_every=220, checkpoint_every=220,
            ),
            LONG_TASK, 8, f"5.3 M parameters, 2200 steps of about 66,000 tokens; {ESTIMATED}",
        ),
    },
    measure=measure,
)
