"""Learning from demonstrations: many-shot curves, and what the order of the demonstrations does.

Figs. 6, 7 and 11 of the paper, on :class:`diffbook.tasks.in_context.InContextTask`, and what a
"best minus worst accuracy" is worth: how much of it is the level, how much the order. Chapter 13.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.attention import KVCache
from diffbook.model import LanguageModel
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
    weight = next(model.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    per_pass = max(1, TOKENS // (n_test * (1 + drawn.tokens.shape[1])))
    answers = []
    for start in range(0, n_sets, per_pass):
        contexts = drawn.tokens[start : start + per_pass].to(device)  # (sets, 1 + 2 shots)
        asked = items[start : start + per_pass].reshape(-1, 1).to(device)  # (sets * n_test, 1)
        if isinstance(model, LanguageModel):
            # The demonstrations are read once for all items of the set.
            caches = [KVCache() for _ in model.blocks]
            model(contexts, caches=caches)
            for cache in caches:
                assert cache.k is not None and cache.v is not None
                cache.k = cache.k.repeat_interleave(n_test, 0)
                cache.v = cache.v.repeat_interleave(n_test, 0)
            logits = model(asked, caches=caches)
        else:
            logits = model(torch.cat((contexts.repeat_interleave(n_test, 0), asked), 1))
        choice = logits[:, -1, task.first_label :].argmax(-1).cpu() + task.first_label
        answers.append(choice.reshape(-1, n_test))
    return torch.cat(answers)


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


def order_points(task: InContextTask) -> dict[str, int]:
    """Demonstrations of each class for the orders: a third of what fits, where answers can still
    change, and all that fits."""
    most = (task.shots - 1) // task.n_classes
    return {"": max(1, round(0.3 * most)), "full ": most}


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
    """The many-shot curve (Fig. 6), and the orders of Figs. 7 and 11 taken apart, with a third of
    the demonstrations that fit; random orders also with all ("full")."""
    points = curve_points(task)
    curve = [many_shot(model, task, per_class, n_sets=curve_sets) for per_class in points]
    numbers: dict[str, float | list[float]] = {
        "few-shot accuracy": curve[0],
        # As the dashed lines of Fig. 6: the mean where the curve has become level.
        "many-shot accuracy": float(np.mean(curve[len(curve) // 2 :])),
        # Halfway from naming any label of the sequence to all right.
        "left the plateau": float(curve[-1] > (1 / task.n_classes + 1) / 2),
        "shots": [float(task.n_classes * per_class) for per_class in points],
        "accuracy by shots": curve,
    }
    for name, per_class in order_points(task).items():
        generator = torch.Generator().manual_seed(8_000_009)
        drawn = balanced(task, n_sets, per_class, generator)
        for kind, orders in ORDERS.items():
            if name and kind != "random":
                continue
            trials = over_orders(model, task, drawn, kind, orders, generator)
            found = order_effect(trials)
            for part, value in found._asdict().items():
                numbers[f"{part} {name}{kind}"] = value
            numbers[f"margin beyond level {name}{kind}"] = found.margin - found.level
            numbers[f"first set {name}{kind}"] = trials.right[:, 0].mean(1).tolist()
    return numbers


class Rule(nn.Module):
    """A rule instead of a trained model, for comparison: the best one, and some bad ones.

    With "votes" every demonstration of the asked item's group votes for its label, with weight
    ``decay`` to the power of the number of such demonstrations behind it.

    Attributes:
        kind: "votes"; "best": the most probable label, given all that can be known: votes of *all*
            groups, since two groups never have one label; "last" or "first": the label that stands
            last or first of all, whatever is asked; "one": always the same label; "coin": any
            label, at random.
        decay: 1 counts all votes alike, so that the order cannot matter; 0 hears the last only.

    Raises:
        ValueError: for another kind or decay, or more classes than "best" can try in all orders.
    """

    KINDS = ("votes", "best", "last", "first", "one", "coin")

    def __init__(self, task: InContextTask, kind: str = "votes", decay: float = 1.0, seed: int = 0):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(self.KINDS)}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay} is a weight from 0 to 1")
        if kind == "best" and task.n_classes > 7:
            raise ValueError(
                f"kind='best' tries all orders of the classes: {task.n_classes} are too many, at "
                "most 7 are feasible"
            )
        self.task, self.kind, self.decay = task, kind, decay
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, 2 + 2 shots), ending with the asked item, to scores (batch, 1, vocab)."""
        task = self.task
        items, shown, asked = tokens[:, 1:-1:2], tokens[:, 2::2], tokens[:, -1:]
        if self.kind == "coin":
            return torch.rand(len(tokens), 1, task.vocab_size, generator=self.generator)
        groups, group = (items - 1) // task.n_items, (asked - 1) // task.n_items
        if self.kind == "best":
            return self._best(groups, shown - task.first_label, group[:, 0])
        if self.kind != "votes":
            one = torch.full_like(asked, task.first_label)
            said = {"last": shown[:, -1:], "first": shown[:, :1], "one": one}[self.kind]
            return F.one_hot(said, task.vocab_size).double()
        same = (groups == group).double()
        behind = same.flip(1).cumsum(1).flip(1) - same  # demonstrations of the group that follow
        weights = same * torch.tensor(self.decay, dtype=torch.float64) ** behind  # (batch, shots)
        votes = torch.zeros(len(tokens), task.vocab_size, dtype=torch.float64)
        return votes.scatter_add(1, shown, weights)[:, None]

    def _best(self, groups: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Posterior probability of each label: the mean over all one-to-one assignments of labels
        to the sequence's groups, each weighed by the probability of the shown labels under it."""
        task, batch, k = self.task, len(groups), self.task.n_classes
        votes = torch.zeros(batch, task.n_groups * task.n_labels, dtype=torch.float64)
        ones = torch.ones(groups.shape, dtype=torch.float64)
        votes.scatter_add_(1, groups * task.n_labels + labels, ones)
        votes = votes.reshape(batch, task.n_groups, task.n_labels)
        # The k groups and labels of the sequence: those seen come first, some unseen fill up.
        seen_group = votes.sum(2) > 0
        seen_group[torch.arange(batch), asked] = True
        seen_label = votes.sum(1) > 0
        rows = seen_group.int().argsort(dim=1, descending=True, stable=True)[:, :k]
        columns = seen_label.int().argsort(dim=1, descending=True, stable=True)[:, :k]
        table = votes.gather(1, rows[..., None].expand(-1, -1, task.n_labels))
        table = table.gather(2, columns[:, None].expand(-1, k, -1))  # (batch, k, k)
        # A shown label is right with 1 - noise, and each of the k - 1 others has noise / (k - 1).
        noise = max(task.noise, 1e-9)
        per_vote = math.log((1 - noise) * (k - 1) / noise)
        orders = torch.tensor(list(permutations(range(k))))  # (k!, k): the label of each group
        total = torch.stack([table[:, at, orders[:, at]] for at in range(k)]).sum(0)  # (batch, k!)
        weight = (per_vote * total).softmax(1)
        mine = orders[:, (rows == asked[:, None]).int().argmax(1)].T  # (batch, k!)
        found = torch.zeros(batch, k, dtype=torch.float64).scatter_add_(1, mine, weight)
        # A label that was not seen is one of all that were not.
        unseen = (~seen_label.gather(1, columns)).double()
        others = (task.n_labels - seen_label.sum(1, keepdim=True)).clamp(min=1)
        known = found * (1 - unseen)
        each = (found * unseen).sum(1, keepdim=True) / others  # (batch, 1)
        scores = torch.zeros(batch, task.vocab_size, dtype=torch.float64)
        scores[:, task.first_label :] = torch.where(seen_label, 0.0, each)
        scores.scatter_add_(1, columns + task.first_label, known)
        return scores[:, None]
