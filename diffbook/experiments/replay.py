"""A training watched from inside: the needle pair again, with its attention maps on the way.

Training is repeatable in every bit on one machine, so the frames need no place in the training
loop: the run is made and recorded like any other, then trained once more with an onlooker, and the
weights at the end say whether it was the same run. Chapter 8.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.needle import NEEDLE, TASK
from diffbook.measure.needles import OUTCOMES
from diffbook.model import LanguageModel
from diffbook.tasks.needle import NeedleBatch, NeedleTask
from diffbook.train import TrainConfig, train

CPU = NEEDLE.presets["cpu"]
assert CPU.train is not None
TRAIN = CPU.train

# Steps that are looked at: close together where the circuit forms.
STEPS = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 160, 200, 240, 320, 400)

# What is looked at: three needles, five words, one question, small enough to read every cell.
EXAMPLE = replace(TASK, seq_len=14, n_needles=3, n_queries=1)
LEARNED = 0.9  # accuracy


def example(task: NeedleTask = EXAMPLE) -> NeedleBatch:
    """The one sequence whose maps are kept; the question is its last token."""
    return task.sample(1, torch.Generator().manual_seed(19))


def layout(batch: NeedleBatch, task: NeedleTask = EXAMPLE) -> dict[str, list]:
    """What a page needs to label the maps: ``tokens`` as text; positions of the needles' cities and
    numbers, in the order in which they stand, and of the ``answer``."""
    tokens = batch.tokens[0].tolist()
    is_city = [task.first_city <= token < task.first_number for token in tokens]
    cities = [at for at, yes in enumerate(is_city[:-1]) if yes and tokens[at + 1] != task.QUESTION]
    return {
        "tokens": [task.describe(token) for token in tokens],
        "cities": cities,
        "numbers": [at + 1 for at in cities],
        "answer": batch.answer_positions[0].tolist(),
    }


@torch.no_grad()
def frame(model: LanguageModel, task: NeedleTask, batch: NeedleBatch) -> dict[str, list[float]]:
    """One look at a model in training.

    Returns:
        "accuracy" and "loss" on 256 fresh sequences of ``task``; "said" (4,): the probability, at
        the question of ``batch``, of each of :data:`~diffbook.measure.needles.OUTCOMES`; "lambda"
        (layers,), empty for a Transformer; "maps": attention in whole percent, (layers, maps, seq
        * (seq + 1) / 2) as one list: the lower triangle row by row, a query each; the maps of a
        layer are its heads, for DIFF the first maps of all heads and then the second ones.
    """
    training = model.training
    model.eval()
    tested = task.evaluate(model, n=256)
    logits = model(batch.tokens)[0, -1]  # (vocab,)
    probability = logits.softmax(-1)
    numbers = range(task.first_number, task.first_word)
    right = int(batch.answers[0, 0])
    inside = {int(batch.tokens[0, at]) for at in layout(batch)["numbers"]}
    groups = (
        [right],
        [number for number in numbers if number in inside - {right}],
        [number for number in numbers if number not in inside],
    )
    shares = [float(probability[group].sum()) for group in groups]
    shares.append(max(0.0, 1 - sum(shares)))
    assert len(shares) == len(OUTCOMES)
    maps: list[float] = []
    for layer in model.attention_maps(batch.tokens):
        kinds = [layer] if isinstance(layer, Tensor) else [layer.a1, layer.a2]
        seq = kinds[0].shape[-1]
        row, column = torch.tril_indices(seq, seq)
        for kind in kinds:  # (1, heads, seq, seq)
            maps += (100 * kind[0, :, row, column]).round().int().flatten().tolist()
    model.train(training)
    return {
        "accuracy": [tested["accuracy"]],
        "loss": [tested["loss"]],
        "said": [round(share, 4) for share in shares],
        "lambda": [round(lam, 4) for lam in model.lambdas()],
        "maps": maps,
    }


def replay(
    model: LanguageModel, task: NeedleTask, config: TrainConfig = TRAIN,
    steps: tuple[int, ...] = STEPS,
) -> dict[str, float | list[float]]:
    """Train the trained ``model`` once more from its start, with a :func:`frame` after ``steps``.

    Returns:
        The lists of :func:`frame`, those of all steps one behind the other, as "replay loss" and so
        on, and "replay step"; and three numbers: "accuracy" at the end; "learned at step", the
        first of ``steps`` from which the accuracy stays above 0.9 (``config.steps`` where it does
        not); "weights differ by", at most, from those of ``model``: 0 on one machine.

    Raises:
        ValueError: when one of ``steps`` falls between two points of the training curve.
    """
    off = [step for step in steps if step % config.log_every or step > config.steps]
    if off:
        raise ValueError(
            f"steps {off} are no points of the curve: give multiples of "
            f"log_every={config.log_every} up to {config.steps}"
        )
    again, batch = LanguageModel(model.config), example()
    frames: list[dict[str, list[float]]] = []

    def look(step: int, loss: float = 0.0) -> None:
        if step in steps:
            frames.append(frame(again, task, batch))

    look(0)
    config = replace(config, seed=model.config.seed, eval_every=0, checkpoint_every=0)
    train(again, task, config, progress=False, on_step=look)
    trained = model.state_dict()
    apart = max(
        float((weight - trained[name].cpu()).abs().max())
        for name, weight in again.state_dict().items()
    )
    accuracy = [found["accuracy"][0] for found in frames]
    learned = config.steps
    for step, value in zip(reversed(steps), reversed(accuracy), strict=True):
        if value <= LEARNED:
            break
        learned = step
    return {
        "accuracy": accuracy[-1],
        "learned at step": float(learned),
        "weights differ by": apart,
        "replay step": list(steps),
        **{
            f"replay {name}": [value for found in frames for value in found[name]]
            for name in frames[0]
        },
    }


REPLAY = Experiment(
    name="replay",
    title="The needle pair while it trains: loss, λ and attention maps at twenty steps",
    variants=choose("softmax", "diff"),
    presets={
        "cpu": Preset(
            CPU.model, TRAIN, TASK, 0.9,
            "the runs of `needle`, each trained twice; one core each",
        ),
    },
    measure=replay,
)
