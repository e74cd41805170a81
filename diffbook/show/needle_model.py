"""Two trained models in a page: the needle test of chapter 11, computed where it is read.

    needle_model("needle-cpu", seed=0)     the last line of a cell

The figure itself is ``js/needle_model.js``; the models go into it by
:func:`diffbook.show.browser_model.pack` and are computed by ``js/transformer.js``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from diffbook import records
from diffbook.attention import DiffMaps
from diffbook.measure.attention_mass import attention_mass
from diffbook.model import LanguageModel
from diffbook.show.browser_model import pack, unpack
from diffbook.show.reactive import react
from diffbook.show.style import COLORS, LABELS
from diffbook.tasks.needle import NeedleBatch, NeedleTask

PAIR = ("softmax", "diff")
LONGEST = 8  # training lengths, the end of the slider
MOST = 8  # needles, the end of the slider
# The haystack's 32 words, to be read as words. The models know tokens only.
WORDS = (
    "the of and to in that was it for on with as his her at by from they this had not but were all "
    "which one there when said out up so"
).split()


@dataclass(frozen=True)
class Haystack:
    """What the figure starts from: ``words`` as indices, needles as (city, number, depth), all
    counted from 0; the first ``count`` needles are hidden, and ``asked`` is one of them."""

    words: list[int]
    needles: list[tuple[int, int, float]]
    count: int
    asked: int

    def sequence(self, task: NeedleTask, length: int) -> NeedleBatch:
        """The haystack in ``length`` tokens with its one question, as a batch of one."""
        needles = self.needles[: self.count]
        room = length - 3 - 2 * len(needles)
        # Half up, as JavaScript rounds.
        before = [int(depth * room + 0.5) for *_, depth in needles]
        order = sorted(range(len(needles)), key=lambda j: before[j])
        tokens = [task.BOS]
        start: dict[int, int] = {}
        for j in order:
            words = self.words[len(tokens) - 1 - 2 * len(start) : before[j]]
            tokens += [task.first_word + word for word in words]
            start[j] = len(tokens)
            city, number, _ = needles[j]
            tokens += [task.first_city + city, task.first_number + number]
        tokens += [task.first_word + word for word in self.words[before[order[-1]] : room]]
        city, number, _ = needles[self.asked]
        tokens += [task.QUESTION, task.first_city + city]
        return NeedleBatch(
            tokens=torch.tensor([tokens]),
            query_positions=torch.tensor([[length - 1]]),
            answers=torch.tensor([[task.first_number + number]]),
            answer_positions=torch.tensor([[start[self.asked] + 1]]),
        )


def draw_haystack(task: NeedleTask, seed: int) -> Haystack:
    """A haystack for :data:`LONGEST` training lengths with :data:`MOST` needles."""
    generator = torch.Generator().manual_seed(seed)

    def distinct(size: int) -> list[int]:
        return torch.randperm(size, generator=generator)[:MOST].tolist()

    cities, numbers = distinct(task.n_cities), distinct(task.n_numbers)
    depths = (torch.randint(101, (MOST,), generator=generator) / 100).tolist()
    words = torch.randint(task.n_words, (LONGEST * task.seq_len,), generator=generator).tolist()
    needles = [(c, n, round(d, 2)) for c, n, d in zip(cities, numbers, depths)]
    return Haystack(words, needles, task.n_needles, 0)


def needle_model(record: str = "needle-cpu", seed: int = 0, start: int = 8) -> None:
    """Show the pair ``record``/softmax-``seed`` and diff-``seed`` as a figure that reacts.

    Args:
        record: one whose models are shipped and were trained on :class:`NeedleTask`.
        start: seed of the first haystack.
    """
    import matplotlib.pyplot as plt

    task = NeedleTask()
    packed = {kind: pack(records.model(f"{record}/{kind}-{seed}")) for kind in PAIR}
    models = {kind: unpack(parts) for kind, parts in packed.items()}
    haystack = draw_haystack(task, start)
    figure, alt = still_picture(models, task, haystack)
    data = figure_data(record, seed, task, packed, models, haystack)
    # The page has the models to carry: the picture behind them is no larger than needed.
    with plt.rc_context({"savefig.dpi": 110}):
        react("needle_model", data, figure, alt)


def figure_data(
    record: str, seed: int, task: NeedleTask, packed: dict[str, dict[str, Any]],
    models: dict[str, LanguageModel], haystack: Haystack,
) -> dict[str, Any]:
    """What ``needle_model.js`` starts from."""
    names = ("city", "number", "depth")
    sizes = ("seq_len", "n_needles", "n_cities", "n_numbers", "n_words")
    run = next(run for run in records.load(record).of("diff") if run.seed == seed)
    return {
        "task": {name: getattr(task, name) for name in sizes},
        "cities": [task.describe(task.first_city + i) for i in range(task.n_cities)],
        "words": WORDS,
        "models": [
            {
                "key": kind, "name": LABELS[kind], "packed": packed[kind],
                "layers": model.config.n_layers, "lambdas": model.lambdas(),
                "heads": model.config.n_heads // (2 if kind == "diff" else 1),
            }
            for kind, model in models.items()
        ],
        "start": {
            "seed": 1, "length": task.seq_len, "count": haystack.count, "asked": haystack.asked,
            "words": haystack.words,
            "needles": [dict(zip(names, needle)) for needle in haystack.needles],
        },
        "note": (
            f"Computed in your browser by two models of the record {record}, seed {seed}: "
            f"{run.train['steps']} training steps on {task.seq_len} tokens with {task.n_needles} "
            "needles; weights in 8 bits, equal to PyTorch with the same weights to 0.001 in every "
            "logit. One seed of each kind: it shows how they work, not which is better."
        ),
    }


def still_picture(
    models: dict[str, LanguageModel], task: NeedleTask, haystack: Haystack
) -> tuple[Any, str]:
    """The figure where no script runs: one question in one and in eight training lengths, the row
    of the head that looks most at the answer. Returns the figure and its alt text."""
    import matplotlib.pyplot as plt

    lengths = (task.seq_len, LONGEST * task.seq_len)
    fig, axes = plt.subplots(len(lengths), len(models), figsize=(7, 4.4))
    told = []
    for length, row in zip(lengths, axes):
        batch = haystack.sequence(task, length)
        answer = int(batch.answer_positions)
        for (kind, model), ax in zip(models.items(), row):
            said, values = _answer(model, task, batch)
            right = said == int(batch.answers)
            colors = [COLORS["noise"]] * length
            colors[answer] = COLORS["signal"]
            ax.bar(range(length), values, width=max(0.9, length / 160), color=colors)
            # The answer's bar once more: it must not hide behind its neighbors.
            ax.bar([answer], [values[answer]], width=max(0.9, length / 120),
                   color=COLORS["signal"])
            ax.axhline(0, color="#666666", lw=0.8)
            ax.annotate("answer", (answer, max(values)), (0, 3), textcoords="offset points",
                        ha="center", color=COLORS["signal"], fontsize=9)
            ax.margins(y=0.16)
            verdict = "right" if right else "wrong"
            ax.set_title(f"{LABELS[kind]}: {task.describe(said)}, {verdict}", fontsize=10.5,
                         color=COLORS["transformer" if kind == "softmax" else "diff"])
            told.append(f"{LABELS[kind]} is {verdict} at {length} tokens")
        row[0].set_ylabel(f"{length} tokens")
    for ax in axes[-1]:
        ax.set_xlabel("token")
    city, number = (task.describe(int(t)) for t in (batch.tokens[0, -1], batch.answers[0, 0]))
    fig.suptitle(f"Asked for {city}; its number is {number}", fontsize=11, x=0.02, ha="left")
    alt = (
        f"Four panels of bars over a haystack: where one head of each model looks when asked for "
        f"{city}, in {lengths[0]} and in {lengths[1]} tokens. {'; '.join(told)}. In the short "
        "haystack one tall bar stands on the answer. DIFF's bars go below zero, too. With "
        "JavaScript, the reader moves the needles and asks."
    )
    return fig, alt


@torch.no_grad()
def _answer(
    model: LanguageModel, task: NeedleTask, batch: NeedleBatch
) -> tuple[int, list[float]]:
    """The token said, and the row of the head that looks most at the answer."""
    mass = attention_mass(model, batch, task.first_number, task.first_word)
    layer, head = mass.best_head()
    maps = model.attention_maps(batch.tokens)[layer]
    row = (maps.difference if isinstance(maps, DiffMaps) else maps)[0, head, -1]
    return int(model(batch.tokens)[0, -1].argmax()), row.tolist()
