"""Loss by position: what a model gains from a longer context (Fig. 4; chapter 10).

A *position* p counts the tokens that a prediction can see: position 1 is the second token of a
window, predicted from the first. All losses are in nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.model import LanguageModel
from diffbook.tasks.text import get_tokenizer, load_documents

BOOKS = ("austen", "shakespeare", "king_james_bible")  # parts of the corpus with held-out books
HELD_OUT = ("validation", "test")


def book_windows(
    length: int, n: int, *, tokenizer: str = "bytes", parts: Sequence[str] = BOOKS,
    splits: Sequence[str] = HELD_OUT,
) -> Tensor:
    """``n`` windows of ``length`` + 1 tokens of books, (n, length + 1) int64: the same for every
    model.

    Each book is cut into windows that do not overlap, from its first token on; of all of them every
    k-th is taken. So no window runs from one book into the next, where the context says nothing.

    Raises:
        ValueError: when the books have no ``n`` windows of this length.
    """
    if length < 1 or n < 1:
        raise ValueError(f"length={length}, n={n}: give at least 1 of each")
    encoder = get_tokenizer(tokenizer)
    pieces = []
    for split in splits:
        for document in load_documents(split, parts):
            ids = encoder.encode(document.text)  # (tokens of the book,)
            whole = len(ids) // (length + 1)
            pieces.append(ids[: whole * (length + 1)].view(whole, length + 1))
    windows = torch.cat(pieces)  # (all there are, length + 1)
    if n > len(windows):
        raise ValueError(
            f"n={n}: these books have {len(windows)} windows of {length} tokens: ask for fewer or "
            "shorter ones"
        )
    chosen = torch.linspace(0, len(windows) - 1, n).round().long()
    return windows[chosen]


@torch.no_grad()
def nll_by_position(
    model: nn.Module, windows: Tensor, *, batch: int = 4, device: str | torch.device = "cpu"
) -> Tensor:
    """-ln p of each token given all before it in its window: (n, length) float64.

    Column p - 1 is position p.

    Args:
        model: tokens (batch, seq) -> logits (batch, seq, vocab), causal.
        windows: (n, length + 1), as from :func:`book_windows`.
    """
    losses = []
    for rows in windows.split(batch):
        rows = rows.to(device)
        logits = model(rows[:, :-1]).float()  # (batch, length, vocab)
        loss = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
        losses.append(loss.double().cpu())  # (batch, length)
    return torch.cat(losses)


def cumulative_average(nll: Tensor, positions: Sequence[int] | Tensor) -> Tensor:
    """What Fig. 4 draws: at each position P the mean loss of all positions 1…P.

    Args:
        nll: (n, length), from :func:`nll_by_position`.

    Raises:
        ValueError: for a position that the windows do not have.
    """
    at = torch.as_tensor(positions)
    length = nll.shape[-1]
    if int(at.min()) < 1 or int(at.max()) > length:
        raise ValueError(f"positions {at.tolist()}: the windows have 1 to {length}")
    steps = torch.arange(1, length + 1)
    return (nll.mean(0).cumsum(0) / steps)[at - 1]


def interval_average(positions: Sequence[float], averages: Sequence[float]) -> Tensor:
    """Undo a cumulative average: the mean loss between neighboring positions, float64.

    The first entry is the first average itself; entry i > 0 is the mean over positions[i-1] + 1 to
    positions[i]: (P_i C_i - P_{i-1} C_{i-1}) / (P_i - P_{i-1}). An error of e in two neighboring
    averages becomes up to e (P_i + P_{i-1}) / (P_i - P_{i-1}): three times as large where the
    positions double.

    Raises:
        ValueError: when positions do not grow, or there is not one average for each.
    """
    at = torch.as_tensor(positions, dtype=torch.float64)
    average = torch.as_tensor(averages, dtype=torch.float64)
    if at.shape != average.shape or not bool((at.diff() > 0).all()):
        raise ValueError(f"{at.tolist()}: give growing positions, one for each of the averages")
    total = at * average
    return torch.cat((average[:1], total.diff() / at.diff()))


@torch.no_grad()
def nll_with_context(
    model: nn.Module, windows: Tensor, contexts: Sequence[int], *, scored: int = 64,
    batch: int = 4, device: str | torch.device = "cpu",
) -> Tensor:
    """The loss of the *same* tokens when the model is given more or less of what stands before
    them: (n, len(contexts)) float64.

    Scored are the last ``scored`` tokens of each window; the input begins ``context`` tokens before
    the first of them (so they see context to context + scored - 1 tokens). Unlike a loss by
    position, the difference of two columns holds no difference in the text; unlike a cumulative
    average, no early position is carried along. The difference to a longer context is the gain from
    the tokens that were cut off; it is zero from where a model stops to read.

    Raises:
        ValueError: for a context shorter than 1 or longer than the windows allow.
    """
    longest = windows.shape[1] - scored
    if scored < 1 or min(contexts) < 1 or max(contexts) > longest:
        raise ValueError(
            f"contexts {list(contexts)}, scored={scored}: windows of {windows.shape[1]} tokens "
            f"allow contexts of 1 to {longest} and at least one scored token"
        )
    columns = []
    for context in contexts:
        short = windows[:, -(context + scored) :]
        nll = nll_by_position(model, short, batch=batch, device=device)
        columns.append(nll[:, -scored:].mean(1))
    return torch.stack(columns, dim=1)


def with_rope_base(model: LanguageModel, base: float) -> LanguageModel:
    """A copy of ``model`` with the same weights and other rotary frequencies."""
    other = LanguageModel(replace(model.config, rope_base=base))
    other.load_state_dict(model.state_dict())
    return other.to(next(model.parameters()).device).eval()
