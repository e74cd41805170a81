"""AR-Hit: the loss on tokens that could have been recalled from the context (Table 6; chapter 16).

After Zoology (Arora et al. 2023, arXiv:2312.04927). A token is an **AR hit** if the n-gram that
ends with it stands earlier in the same window and is not frequent in the training text; every other
token is one of the **others**. Zoology takes bigrams of its tokens that occur in training at most
1250 times; the Differential Transformer's Table 6 says "n-gram" and gives neither number.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.tasks.text import TextTask


class Rule(NamedTuple):
    """What counts as an AR hit: n-grams of ``n`` tokens that occur in the train split ``at_most``
    so often."""

    n: int
    at_most: int


# Bigrams of BPE tokens, as in Zoology. Six bytes are a short word and the space before it: the
# five before the last rarely leave a choice, as the first token of a bigram does when it is rare.
RULES = {"bytes": Rule(6, 1250), "bpe": Rule(2, 1250)}


def first_occurrence(tokens: Any, n: int) -> np.ndarray:
    """Where the n-gram that ends at each position ended for the first time in its window:
    (batch, seq), int64; -1 where this is the first time, or where there are fewer than ``n``.

    Occurrences may overlap ("aaaa" holds "aa" three times).

    Args:
        tokens: (batch, seq) token ids, or (seq,) for one window.
        n: from 2 on: of a single token nothing could be recalled.
    """
    rows = np.atleast_2d(np.asarray(tokens))
    codes = _codes(rows, n, _bits(rows))
    found = np.full(rows.shape, -1, dtype=np.int64)
    for row, of_row in enumerate(codes):
        _, first, which = np.unique(of_row, return_index=True, return_inverse=True)
        first = first[which]
        again = first < np.arange(len(of_row))
        found[row, n - 1 :][again] = first[again] + n - 1
    return found.reshape(np.shape(tokens))


def ngram_counts(tokens: Any, n: int, stream: np.ndarray) -> np.ndarray:
    """How often the n-gram that ends at each position occurs in ``stream``: (batch, seq), int64;
    0 where fewer than ``n`` tokens are there.

    Args:
        tokens: (batch, seq) or (seq,), as for :func:`first_occurrence`.
        stream: (length,), such as ``task.tokens("train")``; 27 million bytes take a few seconds.
    """
    rows = np.atleast_2d(np.asarray(tokens))
    bits = max(_bits(rows), _bits(stream))
    known, which = np.unique(_codes(rows, n, bits), return_inverse=True)
    counts = np.zeros(rows.shape, dtype=np.int64)
    if known.size:
        counts[:, n - 1 :] = _count(known, stream, n, bits)[which].reshape(len(rows), -1)
    return counts.reshape(np.shape(tokens))


def ar_hits(
    tokens: Any, n: int, *, stream: np.ndarray | None = None, at_most: int | None = None
) -> np.ndarray:
    """Which tokens are AR hits: (batch, seq), bool.

    Position i is a hit if the n-gram of the tokens i-n+1 … i also ended at some position before i
    of the same window and, where ``at_most`` is given, occurs in ``stream`` at most so often.

    Args:
        tokens: (batch, seq) or (seq,) token ids.
        n: tokens of an n-gram, from 2 on.
        stream: (length,): the training text; needed with ``at_most``.

    Raises:
        ValueError: for an n below 2 or so large that an n-gram does not fit 64 bits; for
            ``at_most`` without ``stream``.
    """
    found = first_occurrence(tokens, n) >= 0
    if at_most is None:
        return found
    if stream is None:
        raise ValueError(f"at_most={at_most} counts n-grams of the training text: give stream")
    # Only what is repeated has to be counted.
    where = np.nonzero(np.atleast_2d(found))
    ends = np.atleast_2d(np.asarray(tokens))[where[0][:, None], where[1][:, None] + range(1 - n, 1)]
    rare = ngram_counts(ends, n, stream)[:, -1] <= at_most
    kept = np.zeros(np.atleast_2d(found).shape, dtype=bool)
    kept[where] = rare
    return kept.reshape(found.shape)


def eval_windows(task: TextTask, split: str = "validation") -> Tensor:
    """The windows on which :meth:`TextTask.evaluate` computes its loss, each with the token after
    it: (windows, seq_len + 1), int64."""
    starts = task.eval_starts(split)
    return torch.from_numpy(
        task.tokens(split)[starts[:, None] + np.arange(task.seq_len + 1)].astype(np.int64)
    )


@torch.no_grad()
def token_losses(model: nn.Module, windows: Tensor, batch: int = 16) -> np.ndarray:
    """-ln p of every token of ``windows`` (rows, seq + 1) but the first: (rows, seq), in nats;
    entry i belongs to token i + 1."""
    weight = next(model.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    was_training = model.training
    model.eval()
    try:
        losses = []
        for rows in windows.to(device).split(batch):
            logits = model(rows[:, :-1]).float()  # (batch, seq, vocab)
            losses.append(F.cross_entropy(logits.mT, rows[:, 1:], reduction="none").cpu())
    finally:
        model.train(was_training)
    return torch.cat(losses).double().numpy()


def recall_losses(
    model: nn.Module, task: TextTask, *, split: str = "validation", n: int | None = None,
    at_most: int | None = None,
) -> dict[str, float]:
    """Table 6's "AR-Hit" and "Others" on the windows of ``task.evaluate``, in nats a token.

    Args:
        model: tokens (batch, seq) -> logits (batch, seq, vocab).
        n, at_most: default :data:`RULES` of the task's tokenizer.

    Returns:
        ``AR-hit loss``, ``others loss``; ``AR-hit share`` of all tokens, so that share · AR-hit
        loss + (1 - share) · others loss is the loss of ``evaluate``; and ``recall gain``: how much
        lower the loss is on a hit than where the same n-gram stood in the window for the first
        time, which is a control that the paper does not have (a hit may be an easy token anyway).

    Raises:
        ValueError: when no token is a hit.
    """
    rule = RULES.get(task.tokenizer, RULES["bpe"])
    rule = Rule(n or rule.n, rule.at_most if at_most is None else at_most)
    hits, first = _targets(task, split, rule)
    losses = token_losses(model, eval_windows(task, split), task.eval_batch)
    at_first = np.take_along_axis(losses, first, axis=1)
    return {
        "AR-hit loss": float(losses[hits].mean()),
        "others loss": float(losses[~hits].mean()),
        "AR-hit share": float(hits.mean()),
        "recall gain": float((at_first - losses)[hits].mean()),
    }


@cache
def _targets(task: TextTask, split: str, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Of the targets of all windows, (windows, seq_len) each: is it a hit, and which target was the
    first time (itself, where it is no hit)."""
    windows = eval_windows(task, split).numpy()
    hits = ar_hits(windows, rule.n, stream=task.tokens("train"), at_most=rule.at_most)[:, 1:]
    if not hits.any():
        raise ValueError(
            f"no token of the {split} windows is an AR hit with {rule}: take a smaller n or a "
            "larger at_most"
        )
    first = first_occurrence(windows, rule.n)[:, 1:] - 1
    return hits, np.where(hits, first, np.arange(task.seq_len))


# --- n-grams as numbers --------------------------------------------------------------------


def _bits(tokens: np.ndarray) -> int:
    return max(8, int(tokens.max()).bit_length()) if tokens.size else 8


def _codes(tokens: np.ndarray, n: int, bits: int) -> np.ndarray:
    """(…, seq - n + 1) uint64: the n-grams of (…, seq) tokens, each written into one number."""
    if n < 2:
        raise ValueError(f"n={n}: an n-gram of which the last token is recalled has at least two")
    if n * bits > 64:
        raise ValueError(
            f"n={n} tokens of {bits} bits do not fit into 64: give n up to {64 // bits}"
        )
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"token id {tokens.min()}: ids are not negative")
    length = max(0, tokens.shape[-1] - n + 1)
    codes = np.zeros((*tokens.shape[:-1], length), dtype=np.uint64)
    for place in range(n):
        codes <<= np.uint64(bits)
        codes |= tokens[..., place : place + length].astype(np.uint64)
    return codes


def _count(known: np.ndarray, stream: np.ndarray, n: int, bits: int) -> np.ndarray:
    """How often each of the ``known`` codes (sorted) occurs in ``stream``, exactly."""
    def bucket(codes: np.ndarray) -> np.ndarray:
        return (codes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)

    # A table of 16 M entries says "surely not" for nearly all; only the rest is looked up.
    maybe = np.zeros(2**24, dtype=bool)
    maybe[bucket(known)] = True
    counts = np.zeros(len(known), dtype=np.int64)
    step = 2**18
    for start in range(0, len(stream), step):
        codes = _codes(stream[start : start + step + n - 1], n, bits)
        codes = codes[maybe[bucket(codes)]]
        place = np.searchsorted(known, codes)
        place[place == len(known)] = 0
        counts += np.bincount(place[known[place] == codes], minlength=len(known))
    return counts
