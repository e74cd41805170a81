"""Which needles a model finds, and how far away they were (chapters 1 and 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffbook.tasks.needle import NeedleTask


@dataclass(frozen=True)
class Retrievals:
    """One entry for each question, (n * n_queries,).

    Attributes:
        correct: bool, whether the model's first choice was the number.
        distance: tokens from the question's city back to the number.
        depth: where the number stood, 0 (first place) to 1 (last place before the questions).
    """

    correct: Tensor
    distance: Tensor
    depth: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    def by_distance(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy and number of questions between neighbouring ``edges`` (bins + 1,): two tensors
        (bins,), float64; the accuracy of an empty bin is NaN. A bin holds its lower edge."""
        which = torch.bucketize(self.distance, edges, right=True) - 1
        bins = len(edges) - 1
        inside = (which >= 0) & (which < bins)
        which, correct = which[inside], self.correct[inside].double()
        count = torch.bincount(which, minlength=bins).double()
        return torch.bincount(which, weights=correct, minlength=bins) / count, count


@torch.no_grad()
def retrievals(
    model: nn.Module, task: NeedleTask, *, n: int = 256, seed: int = 0,
    device: str | torch.device = "cpu",
) -> Retrievals:
    """Ask ``model`` all questions of ``n`` fresh sequences of ``task``, the same for every model.

    With ``task.depth`` only the first question is about a needle at that depth: give
    ``n_queries=1`` to ask about nothing else.
    """
    if n < 1:
        raise ValueError(f"n={n}: give at least one sequence")
    generator = torch.Generator().manual_seed(2_000_003 + seed)  # no training step draws this
    rows = max(1, min(n, 2**16 // task.seq_len))
    last = task.seq_len - 2 * task.asked - 1  # the last place an answer can stand at
    correct, distance, depth = [], [], []
    for first in range(0, n, rows):
        batch = task.sample(min(rows, n - first), generator)
        logits = model(batch.tokens.to(device)).cpu()  # (batch, seq, vocab)
        at = batch.query_positions[..., None].expand(-1, -1, logits.shape[-1])
        choice = logits.gather(1, at).argmax(-1)  # (batch, n_queries)
        correct.append((choice == batch.answers).flatten())
        distance.append((batch.query_positions - batch.answer_positions).flatten())
        depth.append(((batch.answer_positions - 2) / (last - 2)).flatten())
    return Retrievals(torch.cat(correct), torch.cat(distance), torch.cat(depth))
