"""Learning in context (Figs. 6, 7 and 11 in small): a classification from demonstrations alone."""

from __future__ import annotations

import numpy as np

from diffbook import paper
from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED
from diffbook.measure.in_context import in_context_measures
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.in_context import InContextTask
from diffbook.train import TrainConfig

TASK = InContextTask()
# On a GPU: as many shots as the paper's smallest contexts, more classes.
WIDE_TASK = InContextTask(
    shots=241, n_classes=12, n_groups=24, n_labels=24,
    curriculum=((0.2, 32, 0.0, 1), (0.4, 32, 0.0, 5), (0.5, 120, 0.2, 5)),
)
FINE_TASK = InContextTask(
    shots=1001, n_classes=50, n_groups=100, n_labels=100,
    curriculum=((0.2, 125, 0.0, 1), (0.4, 125, 0.0, 5), (0.5, 500, 0.2, 5)),
)

# Where the dashed lines of Fig. 6 begin, in samples.
LEVEL_FROM = {"fig6a": 30, "fig6b": 800, "fig6c": 616, "fig6d": 1950}


def measure(model: LanguageModel, task: InContextTask) -> dict[str, float | list[float]]:
    """Accuracy as the task has it, then with demonstrations of the paper's kind."""
    device = next(model.parameters()).device
    return {**task.evaluate(model, device), **in_context_measures(model, task)}


def level(figure: str, kind: str) -> float:
    """The dashed line of Fig. 6: mean accuracy in % from :data:`LEVEL_FROM` samples on."""
    points = paper.load(figure)[kind]
    return float(np.mean([y for x, y in points if x >= LEVEL_FROM[figure]]))


def margin(figure: str, kind: str) -> float:
    """Best minus worst accuracy over the orders of Figs. 7 and 11, in points."""
    values = [y for _, y in paper.load(figure)[kind]]
    return max(values) - min(values)


def _claims() -> tuple[Claim, ...]:
    scale = "6 classes, 60 shots with 40 % wrong labels, token level, 0.1 M parameters"

    def pairs(figures: tuple[str, ...], number: object) -> str:
        return ", ".join(
            f"{number(name, 'softmax'):.1f} / {number(name, 'diff'):.1f} "  # type: ignore[operator]
            f"({paper.load(name)['dataset']})"
            for name in figures
        )

    return (
        Claim(
            text="more right answers with many demonstrations", where="Fig. 6",
            paper=pairs(tuple(LEVEL_FROM), level), measure="many-shot accuracy", says="higher",
            chapter=13, scale=scale,
        ),
        Claim(
            text="a smaller best-minus-worst accuracy over random orders", where="Figs. 7a, 11",
            paper=pairs(("fig11a", "fig11b", "fig11c", "fig11d"), margin),
            measure="margin random", says="lower", chapter=13, scale=scale,
        ),
        Claim(
            text="a smaller best-minus-worst accuracy over orders that alternate classes",
            where="Fig. 7b", paper=pairs(("fig7b",), margin), measure="margin alternating",
            says="lower", chapter=13, scale=scale,
        ),
    )


IN_CONTEXT = Experiment(
    name="in-context",
    title="Learning in context: many shots with noisy labels, and their order",
    variants=choose("softmax", "diff", "softmax_norm"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=2, n_heads=4, max_seq_len=512),
            TrainConfig(
                steps=1500, batch_size=32, lr=3e-3, warmup=50, log_every=10, eval_every=100,
                checkpoint_every=250, device="cpu",
            ),
            TASK, 2.5, "0.1 M parameters, 1500 steps of 3936 tokens; one core each",
        ),
        "t4": Preset(
            ModelConfig(WIDE_TASK.vocab_size, d_model=128, n_layers=4, n_heads=4, max_seq_len=1024),
            TrainConfig(
                steps=2000, batch_size=32, lr=2e-3, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=200, precision="fp16",
            ),
            WIDE_TASK, 4, f"0.9 M parameters, 12 classes, 2000 steps of 15,456 tokens; {ESTIMATED}",
        ),
        "h100": Preset(
            ModelConfig(FINE_TASK.vocab_size, d_model=256, n_layers=6, n_heads=4),
            TrainConfig(
                steps=2000, batch_size=32, lr=1e-3, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=200,
            ),
            FINE_TASK, 3, f"4.9 M parameters, 50 classes, 2000 steps of 64,096 tokens; {ESTIMATED}",
        ),
    },
    measure=measure,
    ship=(0, 1, 2),
    claims=_claims(),
)
