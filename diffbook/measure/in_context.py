"""Learning from demonstrations: many-shot curves, and what the order of the demonstrations does.

Figs. 6, 7 and 11 of the paper, on :class:`diffbook.tasks.in_context.InContextTask`, and what a
"best minus worst accuracy" is worth: how much of it is the level, how much the order. Chapter 13.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diffbook.tasks.in_context import Demonstrations, InContextTask

ORDERS = {"random": 10, "alternating": 30}  # how many of each, as in Figs. 7a and 7b
SETS = 16  # sets of demonstrations for the order, each with all items as test items
CURVE_SETS = 64
CURVE_POINTS = 10
TOKENS = 2**16  # in one forward pass


def balanced(
    task: InContextTask, n_sets: int, per_class: int, generator: torch.Generator
) -> Demonstrations:
    """``n_sets`` sets of demonstrations with ``per_class`` of each class, in random order: (n_sets,
    per_class * n_classes) shots. A share ``task.noise`` of the shown labels is wrong.

    Raises:
        ValueError: when the shots and a test item do not fit into the task's sequences.
    """
    most = (task.shots - 1) // task.n_classes
    if not 1 <= per_class <= most:
        raise ValueError(
            f"per_class={per_class}: give 1 to {most}; the task has {task.shots} shots for "
            f"{task.n_classes} classes and one test item"
        )
    shots = per_class * task.n_classes
    classes = torch.arange(task.n_classes).repeat(per_class).expand(n_sets, -1)
    drawn = task.sample(n_sets, generator, classes=classes)
    return task.permute(drawn, torch.rand(n_sets, shots, generator=generator).argsort(1))


def test_items(task: InContextTask, drawn: Demonstrations) -> tuple[Tensor, Tensor]:
    """All items of the groups in ``drawn``, and the right label of each, both (n_sets, n_classes *
    n_items). Every class must have been drawn."""
    tokens, labels = [], []
    items = drawn.tokens[:, drawn.item_positions]  # (n_sets, shots)
    for k in range(task.n_classes):
        where = (drawn.classes == k).long().argmax(1, keepdim=True)  # the class's first shot
        group = (items.gather(1, where) - 1) // task.n_items
        tokens.append(1 + group * task.n_items + torch.arange(task.n_items))
        labels.append(drawn.labels.gather(1, where).expand(-1, task.n_items))
    return torch.cat(tokens, 1), torch.cat(labels, 1)


test_items.__test__ = False  # type: ignore[attr-defined]  # no test, for pytest


@torch.no_grad()
def ask(model: nn.Module, task: InContextTask, drawn: Demonstrations, items: Tensor) -> Tensor:
    """The label that ``model`` gives to each of ``items`` (n_sets, n_test) behind its set's
    demonstrations: (n_sets, n_test). One item is asked at a time; only labels can be answered."""
    n_sets, n_test = items.shape
    contexts = drawn.tokens.repeat_interleave(n_test, 0)  # (n_sets * n_test, 1 + 2 shots)
    rows = torch.cat((contexts, items.reshape(-1, 1)), 1)
    weight = next(model.parameters(), None)
    device = "cpu" if weight is None else weight.device
    answers = [
        model(part.to(device))[:, -1, task.first_label :].argmax(-1).cpu() + task.first_label
        for part in rows.split(max(1, TOKENS // rows.shape[1]))
    ]
    return torch.cat(answers).reshape(n_sets, n_test)


def many_shot(
    model: nn.Module, task: InContextTask, per_class: int, *, n_sets: int = CURVE_SETS
) -> float:
    """Accuracy with ``per_class`` demonstrations of each class, over all test items of ``n_sets``
    sets, the same for every model."""
    generator = torch.Generator().manual_seed(7_000_003)
    drawn = balanced(task, n_sets, per_class, generator)
    items, labels = test_items(task, drawn)
    return float((ask(model, task, drawn, items) == labels).double().mean())


def curve_points(task: InContextTask) -> list[int]:
    """Demonstrations of each class: up to :data:`CURVE_POINTS` numbers, 1 to what fits."""
    most = (task.shots - 1) // task.n_classes
    return sorted({round(x) for x in np.linspace(1, most, min(most, CURVE_POINTS))})


def shuffled(
    task: InContextTask, drawn: Demonstrations, kind: str, generator: torch.Generator
) -> Demonstrations:
    """The same demonstrations in another order: any ("random"), or with classes that take turns
    ("alternating": the classes in one order, again and again; which is which, is random)."""
    n_sets, shots = drawn.classes.shape
    chance = torch.rand(n_sets, shots, generator=generator)
    if kind == "random":
        return task.permute(drawn, chance.argsort(1))
    if kind != "alternating":
        raise ValueError(f'kind={kind!r}: choose "random" or "alternating"')
    # Shuffled within each class, then one of each class in turn.
    turns = torch.rand(n_sets, task.n_classes, generator=generator).argsort(1)
    by_class = (drawn.classes + chance).argsort(1).reshape(n_sets, task.n_classes, -1)
    rows = by_class.gather(1, turns[..., None].expand_as(by_class))
    return task.permute(drawn, rows.transpose(1, 2).reshape(n_sets, shots))


class Trials(NamedTuple):
    """Answers under several orders of the same demonstrations."""

    answers: np.ndarray  # (n_orders, n_sets, n_test): labels
    right: np.ndarray  # the same shape, bool


def over_orders(
    model: nn.Module, task: InContextTask, drawn: Demonstrations, kind: str, n_orders: int,
    generator: torch.Generator,
) -> Trials:
    """Ask all test items again for each of ``n_orders`` orders of the same demonstrations."""
    items, labels = test_items(task, drawn)
    answers = torch.stack([
        ask(model, task, shuffled(task, drawn, kind, generator), items) for _ in range(n_orders)
    ])
    return Trials(answers.numpy(), (answers == labels).numpy())


def expected_range(p: float, n: int, orders: int) -> float:
    """Best minus worst of ``orders`` accuracies that differ by luck alone: each is the share of
    right answers among ``n`` independent ones, right with probability ``p``.

    With the distribution function F of one count, m counts have a mean largest value of
    sum_x (1 - F(x)^m) and a mean smallest of sum_x (1 - F(x))^m, both for x from 0 to n - 1.
    """
    if not 0 <= p <= 1 or n < 1 or orders < 1:
        raise ValueError(f"p={p}, n={n}, orders={orders}: give 0 <= p <= 1 and at least 1 of each")
    below = np.cumsum([math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n)])
    below = np.clip(below, 0, 1)
    return float((1 - below**orders - (1 - below) ** orders).sum() / n)


class OrderEffect(NamedTuple):
    """What the order of the demonstrations does, mean over sets; accuracies as shares.

    ``margin`` is the paper's number, ``level`` what luck alone would make of it. ``spread`` is the
    standard deviation over orders; ``own`` the part of its square that comes from items which
    change their answer each on its own, ``shared`` the rest: items that change together, as when
    the order moves all answers towards one label. ``flips``: two different orders give an item
    different answers with this probability.
    """

    accuracy: float
    margin: float
    level: float
    spread: float
    own: float
    shared: float
    flips: float


def order_effect(trials: Trials) -> OrderEffect:
    """Take a margin apart.

    An accuracy is a mean over n items. Its variance over orders is the sum of all covariances of
    two items, divided by n²: ``own`` are the n variances, ``shared`` all others. Were the items
    asked independently, ``shared`` would be zero and the variance at most p (1 - p) / n, as in
    :func:`expected_range`.

    Raises:
        ValueError: for fewer than two orders.
    """
    orders, sets, n = trials.right.shape
    if orders < 2:
        raise ValueError(f"{orders} orders cannot differ: give at least 2")
    right = trials.right.astype(float)
    by_order = right.mean(2)  # (orders, sets)
    variance = by_order.var(0, ddof=1)
    own = right.var(0, ddof=1).sum(1) / n**2
    a = trials.answers
    same = (a[:, None] == a[None]).sum((0, 1)) - orders  # ordered pairs of two orders that agree
    return OrderEffect(
        accuracy=float(right.mean()),
        margin=float((by_order.max(0) - by_order.min(0)).mean()),
        level=float(np.mean([expected_range(p, n, orders) for p in by_order.mean(0)])),
        spread=float(np.sqrt(variance).mean()),
        own=float(own.mean()),
        shared=float((variance - own).mean()),
        flips=float(1 - same.mean() / (orders * (orders - 1))),
    )


def in_context_measures(
    model: nn.Module, task: InContextTask, *, n_sets: int = SETS, curve_sets: int = CURVE_SETS
) -> dict[str, float | list[float]]:
    """The many-shot curve (Fig. 6), and the orders of Figs. 7 and 11 taken apart."""
    points = curve_points(task)
    curve = [many_shot(model, task, per_class, n_sets=curve_sets) for per_class in points]
    numbers: dict[str, float | list[float]] = {
        "few-shot accuracy": curve[0],
        # As the dashed lines of Fig. 6: the mean where the curve has become level.
        "many-shot accuracy": float(np.mean(curve[len(curve) // 2 :])),
        "shots": [float(task.n_classes * per_class) for per_class in points],
        "accuracy by shots": curve,
    }
    generator = torch.Generator().manual_seed(8_000_009)
    drawn = balanced(task, n_sets, points[-1], generator)
    for kind, orders in ORDERS.items():
        trials = over_orders(model, task, drawn, kind, orders, generator)
        found = order_effect(trials)
        for name, value in found._asdict().items():
            numbers[f"{name} {kind}"] = value
        numbers[f"margin beyond level {kind}"] = found.margin - found.level
        numbers[f"first set {kind}"] = trials.right[:, 0].mean(1).tolist()
    return numbers


class Rule(nn.Module):
    """A rule instead of a trained model, for comparison: the best one and some bad ones.

    Every demonstration of the asked item's group votes for its label with weight ``decay`` to the
    power of the number of such demonstrations behind it.

    Attributes:
        kind: "votes"; "last" or "first": the label that stands last or first of all, whatever is
            asked; "one": always the same label; "coin": any label, at random.
        decay: 1 counts all votes alike, so that the order cannot matter; 0 hears the last only.
    """

    KINDS = ("votes", "last", "first", "one", "coin")

    def __init__(self, task: InContextTask, kind: str = "votes", decay: float = 1.0, seed: int = 0):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(self.KINDS)}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay} is a weight from 0 to 1")
        self.task, self.kind, self.decay = task, kind, decay
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, 2 + 2 shots), ending with the asked item, to logits (batch, 1, vocab)."""
        items, shown, asked = tokens[:, 1:-1:2], tokens[:, 2::2], tokens[:, -1:]
        vocab = self.task.vocab_size
        if self.kind == "coin":
            return torch.rand(len(tokens), 1, vocab, generator=self.generator)
        if self.kind != "votes":
            one = torch.full_like(asked, self.task.first_label)
            said = {"last": shown[:, -1:], "first": shown[:, :1], "one": one}[self.kind]
            return torch.nn.functional.one_hot(said, vocab).double()
        same = ((items - 1) // self.task.n_items == (asked - 1) // self.task.n_items).double()
        behind = same.flip(1).cumsum(1).flip(1) - same  # demonstrations of the group that follow
        weights = same * torch.tensor(self.decay, dtype=torch.float64) ** behind  # (batch, shots)
        votes = torch.zeros(len(tokens), vocab, dtype=torch.float64)
        return votes.scatter_add(1, shown, weights)[:, None]
