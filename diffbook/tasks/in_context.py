"""Learning in context: a classification that only the demonstrations define (chapter 13).

A stand-in for the many-shot tests of the paper (Figs. 6, 7 and 11: TREC, Banking-77, Clinic-150)
that a small model can learn, with the number of classes, of shots and the noise under control, and
with a best possible answer to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.model import IGNORE


class Demonstrations(NamedTuple):
    """What :meth:`InContextTask.sample` draws; all int64."""

    tokens: Tensor  # (batch, seq)
    item_positions: Tensor  # (shots,): where the items stand; the label follows each
    classes: Tensor  # (batch, shots): of each item, counted from 0 within its sequence
    labels: Tensor  # (batch, shots): the right label of each item; the shown one may be wrong
    shown: Tensor  # (batch, shots): the label token that stands behind the item


@dataclass(frozen=True)
class InContextTask:
    """Items with labels, ``BOS item label item label …``: predict each label from those before.

    ``n_groups`` groups of ``n_items`` item tokens are fixed for good (the model can know which
    items are of one kind, as a language model knows which questions ask for a person). For each
    sequence ``n_classes`` of the groups are drawn and each gets a label token at random, so that a
    label's meaning stands in the demonstrations alone. A share ``noise`` of the *shown* labels is
    wrong (another of the sequence's labels), so that one demonstration does not settle the matter:
    the best answer weighs all demonstrations of a group. Shown labels are inputs; what is asked for
    at every item is the right one.

    Attributes:
        shots: demonstrations in a sequence; it has 1 + 2 * shots tokens.
        n_classes: of a sequence (6 in TREC).
        n_groups, n_items, n_labels: groups of items, items of a group, label tokens in all.
        noise: share of shown labels that are wrong.
        curriculum: (share of the training, shots, noise, items of a group) steps. First one item a
            group, few shots and no noise: with all at once small models stay at naming any label of
            the context.
    """

    shots: int = 61
    n_classes: int = 6
    n_groups: int = 12
    n_items: int = 5
    n_labels: int = 12
    noise: float = 0.4
    curriculum: tuple[tuple[float, int, float, int], ...] = (
        (0.2, 16, 0.0, 1), (0.4, 16, 0.0, 5), (0.5, 32, 0.2, 5))

    name = "in-context"
    BOS = 0

    def __post_init__(self) -> None:
        if self.shots < 1 or self.n_items < 1:
            raise ValueError(f"shots={self.shots}, n_items={self.n_items}: give at least 1 of each")
        most = min(self.n_groups, self.n_labels)
        if not 2 <= self.n_classes <= most:
            raise ValueError(
                f"n_classes={self.n_classes}: give 2 to {most}; there are {self.n_groups} groups "
                f"and {self.n_labels} labels"
            )
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise={self.noise} is a share of wrong labels: 0 to below 1")

    @property
    def seq_len(self) -> int:
        return 1 + 2 * self.shots

    @property
    def first_label(self) -> int:
        return 1 + self.n_groups * self.n_items

    @property
    def vocab_size(self) -> int:
        return self.first_label + self.n_labels

    def sample(
        self, batch_size: int, generator: torch.Generator, *, items: int | None = None,
        classes: Tensor | None = None,
    ) -> Demonstrations:
        """``batch_size`` fresh sequences. The class of each shot is drawn independently, unless
        ``classes`` (batch, shots) gives it; of a group only the first ``items`` items come (default
        all)."""
        batch, shots, k = batch_size, self.shots, self.n_classes
        if classes is not None:
            shots = classes.shape[1]

        def choose(high: int) -> Tensor:
            """k different numbers below ``high`` for each sequence: (batch, k)."""
            return torch.rand(batch, high, generator=generator).argsort(dim=1)[:, :k]

        groups, labels = choose(self.n_groups), choose(self.n_labels) + self.first_label
        if classes is None:
            classes = torch.randint(k, (batch, shots), generator=generator)
        which = torch.randint(items or self.n_items, (batch, shots), generator=generator)
        wrong = torch.rand(batch, shots, generator=generator) < self.noise
        other = (classes + torch.randint(1, k, (batch, shots), generator=generator)) % k
        token = 1 + groups.gather(1, classes) * self.n_items + which
        right = labels.gather(1, classes)
        shown = torch.where(wrong, labels.gather(1, other), right)
        return self.arrange(token, classes, right, shown)

    def arrange(
        self, items: Tensor, classes: Tensor, labels: Tensor, shown: Tensor
    ) -> Demonstrations:
        """Items and shown labels (batch, shots) as a sequence, in this order."""
        batch, shots = items.shape
        tokens = torch.full((batch, 1 + 2 * shots), self.BOS)
        tokens[:, 1::2], tokens[:, 2::2] = items, shown
        return Demonstrations(tokens, 1 + 2 * torch.arange(shots), classes, labels, shown)

    def permute(self, drawn: Demonstrations, order: Tensor) -> Demonstrations:
        """The same demonstrations in another ``order``, (shots,) or (batch, shots)."""
        order = order.expand_as(drawn.classes)
        items = drawn.tokens[:, drawn.item_positions]
        rows = (part.gather(1, order) for part in (items, drawn.classes, drawn.labels, drawn.shown))
        return self.arrange(*rows)

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq): at each item its right label, all else ignored."""
        final = (1.0, self.shots, self.noise, self.n_items)
        step = next((step for step in self.curriculum if progress < step[0]), final)
        shots, noise, items = step[1:]
        stage = replace(self, shots=min(shots, self.shots), noise=min(noise, self.noise))
        # Shorter sequences come in more rows: the tokens of a step stay about equal.
        rows = batch_size * self.shots // stage.shots
        drawn = stage.sample(rows, generator, items=min(items, self.n_items))
        targets = torch.full_like(drawn.tokens, IGNORE)
        targets[:, drawn.item_positions] = drawn.labels
        return drawn.tokens, targets

    def best_guess(self, drawn: Demonstrations) -> Tensor:
        """The most probable label of each item, given all before it: (batch, shots), int64.

        Exact for a reader who knows the groups, the classes of the sequence and their labels, but
        not which belongs to which: every shown label of a class votes with ln((1 - noise)(k - 1) /
        noise) for its own, and the assignment is one-to-one. Here each class is judged by its own
        votes (the one-to-one constraint is left out: it matters in the first few shots only);
        without a vote, and in a tie, the smallest label of those wins.
        """
        batch, shots = drawn.classes.shape
        votes = torch.zeros(batch, self.n_classes, self.n_labels, dtype=torch.long)
        guess = torch.empty_like(drawn.classes)
        rows = torch.arange(batch)
        for shot in range(shots):
            of = drawn.classes[:, shot]
            guess[:, shot] = votes[rows, of].argmax(-1) + self.first_label
            votes[rows, of, drawn.shown[:, shot] - self.first_label] += 1
        return guess

    @torch.no_grad()
    def answers(
        self, model: nn.Module, drawn: Demonstrations, device: str | torch.device = "cpu"
    ) -> Tensor:
        """The model's first choice among the label tokens at each item (batch, shots): decoding
        is constrained to labels, as in the paper's protocol (after Ratner et al. 2023)."""
        logits = model(drawn.tokens.to(device))[:, drawn.item_positions.to(device)]
        choice = logits[..., self.first_label :].argmax(-1) + self.first_label
        return choice.cpu()

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, device: str | torch.device = "cpu", *, n: int = 256, seed: int = 0
    ) -> dict[str, float]:
        """Accuracy over the second half of the shots of ``n`` fresh sequences, the same for every
        model, the loss there in nats, and the accuracy of counting votes."""
        generator = torch.Generator().manual_seed(3_000_017 + seed)  # no training step draws this
        drawn = self.sample(n, generator)
        late = slice(self.shots // 2, None)
        logits = model(drawn.tokens.to(device))[:, drawn.item_positions.to(device)].float().cpu()
        loss = F.cross_entropy(
            logits[:, late].flatten(0, 1), drawn.labels[:, late].flatten()
        )
        choice = logits[..., self.first_label :].argmax(-1) + self.first_label
        return {
            "accuracy": float((choice == drawn.labels)[:, late].double().mean()),
            "loss": float(loss),
            "counting": float((self.best_guess(drawn) == drawn.labels)[:, late].double().mean()),
        }
