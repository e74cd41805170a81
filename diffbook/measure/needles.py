"""Needles by number, depth and length: the grids of Table 2 and Fig. 5 (chapter 11).

A model is asked for the number of a city; what it says is one of :data:`OUTCOMES`. From that come
accuracy by depth and length, the U-curve of "lost in the middle" (arXiv:2307.03172), and whether a
model has left the plateau on which it names *some* needle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from diffbook.measure.retrieval import retrievals
from diffbook.model import LanguageModel
from diffbook.tasks.needle import DEPTHS, NeedleTask

OUTCOMES = ("right", "another needle", "another number", "no number")
RIGHT = OUTCOMES.index("right")

TABLE2 = ((1, 1), (2, 2), (4, 2), (6, 2))  # (N, R), the columns of Table 2
TABLE2_TIMES = (1, 2, 4, 8)  # lengths, in training lengths
FIG5 = (8, 1)  # (N, R) of Fig. 5
FIG5_TIMES = tuple(range(1, 9))  # it has eight lengths, 8K to 64K
SAMPLES = 50  # for each depth and length, as in the paper
Z = 1.959963984540054  # 97.5 % of the normal distribution lies below


@torch.no_grad()
def said(
    model: nn.Module, task: NeedleTask, *, n: int = SAMPLES, seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """What ``model`` answers to all questions of ``n`` fresh sequences of ``task``: (n, n_queries),
    indices into :data:`OUTCOMES`. The sequences are the same for every model.

    "another needle" is the number of a needle that was not asked for; "another number" stands
    behind no city of this sequence (a distractor, or a number that is not there at all).
    """
    if n < 1:
        raise ValueError(f"n={n}: give at least one sequence")
    generator = torch.Generator().manual_seed(4_000_037 + seed)  # no training step draws this
    rows = max(1, min(n, 2**15 // task.seq_len))
    found = []
    for first in range(0, n, rows):
        batch = task.sample(min(rows, n - first), generator)
        logits = model(batch.tokens.to(device)).cpu()  # (batch, seq, vocab)
        at = batch.query_positions[..., None].expand(-1, -1, logits.shape[-1])
        choice = logits.gather(1, at).argmax(-1)  # (batch, n_queries)

        tokens = batch.tokens
        city = (tokens >= task.first_city) & (tokens < task.first_number)
        number = (tokens >= task.first_number) & (tokens < task.first_word)
        needle = number & nn.functional.pad(city[:, :-1], (1, 0))  # (batch, seq)
        in_needle = (needle[:, None] & (tokens[:, None] == choice[..., None])).any(-1)
        is_number = (choice >= task.first_number) & (choice < task.first_word)
        outcome = torch.full_like(choice, OUTCOMES.index("no number"))
        outcome[is_number] = OUTCOMES.index("another number")
        outcome[in_needle] = OUTCOMES.index("another needle")
        outcome[choice == batch.answers] = RIGHT
        found.append(outcome)
    return torch.cat(found)


def heat_map(
    model: nn.Module, task: NeedleTask, lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS, *, n: int = SAMPLES, seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Share of right answers about the needle at each depth, for each length: (depths, lengths),
    float64. One question for each of ``n`` sequences; the other needles stand anywhere (Fig. 5)."""
    cells = torch.empty(len(depths), len(lengths), dtype=torch.float64)
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            asked = replace(task, seq_len=length, depth=depth, n_queries=1)
            answers = said(model, asked, n=n, seed=seed, device=device)
            cells[row, column] = (answers == RIGHT).double().mean()
    return cells


def u_depth(accuracy: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """How deep the U is: the mean of both ends minus the middle of ``accuracy`` (depths, ...).

    Above zero: better at the ends than in the middle, as in "lost in the middle". Zero for any
    straight line, so a model that only forgets what is far away has none.

    Raises:
        ValueError: for an even number of depths, which has no middle.
    """
    if len(accuracy) < 3 or len(accuracy) % 2 == 0:
        raise ValueError(f"{len(accuracy)} depths have no middle: give an odd number from 3 on")
    return (accuracy[0] + accuracy[-1]) / 2 - accuracy[len(accuracy) // 2]


def recency(accuracy: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Accuracy at the end minus accuracy at the start of ``accuracy`` (depths, ...): above zero for
    a model that is lost in the distance."""
    return accuracy[-1] - accuracy[0]


def left_plateau(accuracy: float, n_needles: int) -> bool:
    """Whether a model tells needles apart: more than halfway from the plateau 1 / N, where it names
    the number of some needle, to perfection."""
    return accuracy > (1 + 1 / n_needles) / 2


def fits(model: nn.Module, length: int) -> bool:
    """Whether the model's table of positions reaches so far."""
    return not isinstance(model, LanguageModel) or length <= model.config.max_seq_len


@torch.no_grad()
def retrieval_measures(
    model: nn.Module, task: NeedleTask, *, n: int = SAMPLES,
) -> dict[str, float | list[float]]:
    """Everything chapter 11 shows about one model trained on ``task``, as numbers and lists.

    With K the length in training lengths, 1x to 8x as far as the model's positions reach:

    - "N=4, R=2, Kx": Table 2's cell, the share of right answers to both questions, mean over the
      five depths of the needle asked first, ``n`` sequences each; the other needles, the second
      asked one among them, stand anywhere. "by depth N=4, R=2, Kx" (5,): the first question alone.
    - "N=8, R=1, Kx" and "by depth N=8, R=1, Kx" (5,): a column of Fig. 5, and "N=8, R=1, all": the
      mean of the whole map; "U-depth Kx", "recency Kx", "depth 25 %, Kx": of that column.
    - "said Kx" (4,): shares of :data:`OUTCOMES`, all needles of the training task asked.
    - "by distance Kx" (K,): accuracy by how far back the number stands, in training lengths.
    - "distractors 0.25, Kx": with that share of loose numbers in the haystack.
    - "left the plateau": 1 or 0.
    """
    device = next(model.parameters(), torch.empty(0)).device
    numbers: dict[str, float | list[float]] = {}

    def cell(needles: int, queries: int, times: int) -> float:
        """One cell of Table 2, and its five depths."""
        harder = replace(task, n_needles=needles, n_queries=queries, seq_len=times * task.seq_len)
        right = torch.stack([
            said(model, replace(harder, depth=depth), n=n, device=device) == RIGHT
            for depth in DEPTHS
        ]).double()  # (depths, n, queries)
        numbers[f"by depth N={needles}, R={queries}, {times}x"] = right[..., 0].mean(1).tolist()
        numbers[f"N={needles}, R={queries}, {times}x"] = float(right.mean())
        return float(right.mean())

    for times in TABLE2_TIMES:
        if fits(model, times * task.seq_len):
            for needles, queries in TABLE2:
                cell(needles, queries, times)
    columns = []
    for times in FIG5_TIMES:
        if fits(model, times * task.seq_len):
            columns.append(cell(*FIG5, times))
            row = np.array(numbers[f"by depth N={FIG5[0]}, R={FIG5[1]}, {times}x"])
            numbers[f"U-depth {times}x"] = float(u_depth(row))
            numbers[f"recency {times}x"] = float(recency(row))
            numbers[f"depth 25 %, {times}x"] = float(row[DEPTHS.index(0.25)])
    numbers[f"N={FIG5[0]}, R={FIG5[1]}, all"] = float(np.mean(columns))

    for times in TABLE2_TIMES:
        longer = replace(task, seq_len=times * task.seq_len)
        if not fits(model, longer.seq_len):
            continue
        outcome = said(model, longer, n=2 * n, device=device)
        share = torch.bincount(outcome.flatten(), minlength=len(OUTCOMES)) / outcome.numel()
        numbers[f"said {times}x"] = share.tolist()
        found = retrievals(model, longer, n=2 * n, device=device)
        edges = torch.arange(times + 1) * task.seq_len
        numbers[f"by distance {times}x"] = found.by_distance(edges)[0].tolist()
        loose = replace(longer, distractors=0.25)
        numbers[f"distractors 0.25, {times}x"] = float(
            (said(model, loose, n=n, device=device) == RIGHT).double().mean())
    accuracy = numbers["said 1x"][RIGHT]  # type: ignore[index]
    numbers["left the plateau"] = float(left_plateau(accuracy, task.n_needles))
    return numbers


def binomial_interval(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, ``right`` of ``n`` samples: all shares whose own normal
    error reaches so far. Unlike p ± 2 standard errors it has a width at 0 and 1, too.

    Raises:
        ValueError: when ``right`` is no count out of ``n``.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right={right} of n={n}: give 0 to n right ones, and at least one sample")
    p, z2 = right / n, Z**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def binomial_difference(
    right_a: float, n_a: int, right_b: float, n_b: int,
) -> tuple[float, float]:
    """Newcombe's 95 % interval of the difference of two shares, a - b, from Wilson's of each; for
    independent samples."""
    a, b = right_a / n_a, right_b / n_b
    low_a, high_a = binomial_interval(right_a, n_a)
    low_b, high_b = binomial_interval(right_b, n_b)
    return (
        a - b - math.hypot(a - low_a, high_b - b),
        a - b + math.hypot(high_a - a, b - low_b),
    )
