"""Does attention know when an answer is made up? (chapter 14)

After the idea of Chuang et al. (2024, arXiv 2407.07071): a model that hallucinates looks less at
its context, so attention alone gives it away. They compare attention to the context with attention
to the model's own words. Here answers are one token, and the document is known: we ask how much of
the attention at the end of a question lies on the very value that would be right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffbook.attention import DiffMaps
from diffbook.model import LanguageModel
from diffbook.tasks.faithful import Documents, FaithfulTask


def value_positions(task: FaithfulTask, documents: Documents) -> Tensor:
    """Where the asked value stands in the document: (batch, n_questions), -1 where it does not."""
    tokens = documents.tokens[:, : task.document_len]
    name = task.first_name + documents.asked[..., :1]  # (batch, n_questions, 1)
    attribute = task.first_attribute + documents.asked[..., 1:]
    here = (tokens[:, None, :-2] == name) & (tokens[:, None, 1:-1] == attribute)
    return torch.where(here.any(-1), here.int().argmax(-1) + 2, -1)


@torch.no_grad()
def share_on_value(
    model: LanguageModel, task: FaithfulTask, documents: Documents, rows: int = 32
) -> Tensor:
    """The share of attention, in magnitude, from the end of each question to the value that
    answers it: (layers, heads, batch, n_questions), nan where none does. In DIFF A is their
    difference."""
    device = next(model.parameters()).device
    where = value_positions(task, documents)
    parts = []
    for tokens, at, value in zip(
        documents.tokens.split(rows), documents.query_positions.split(rows), where.split(rows),
        strict=True,
    ):
        layers = []
        for maps in model.attention_maps(tokens.to(device)):
            a = maps.difference if isinstance(maps, DiffMaps) else maps  # (b, heads, seq, seq)
            a = a.float().cpu().abs()
            row = a.gather(2, at[:, None, :, None].expand(-1, a.shape[1], -1, a.shape[-1]))
            share = row / row.sum(-1, keepdim=True)  # (b, heads, n_questions, seq)
            index = value.clamp_min(0)[:, None, :, None].expand(-1, a.shape[1], -1, -1)
            layers.append(share.gather(3, index)[..., 0].transpose(0, 1))
        parts.append(torch.stack(layers))  # (layers, heads, b, n_questions)
    return torch.cat(parts, dim=2).masked_fill(where == -1, torch.nan)


@dataclass(frozen=True)
class Lookback:
    """What one head looks at when answers are right and when they are not.

    Attributes:
        layer, head: counted from 0; the one with the largest share, chosen on other documents.
        right, wrong: its mean share of attention on the value that would be right, over the answers
            that are and are not (nan for none).
        auc: the probability that a right answer has a larger share than a wrong one: 0.5 when
            attention knows nothing, 1 when it tells them apart (nan without both kinds).
        n_right, n_wrong: answers.
    """

    layer: int
    head: int
    right: float
    wrong: float
    auc: float
    n_right: int
    n_wrong: int


def lookback(
    model: LanguageModel, task: FaithfulTask, n: int = 128, seed: int = 0, *, forced: bool = True
) -> Lookback:
    """Ask ``model`` about ``n`` documents that have the answer; ``forced``: it cannot abstain."""
    asked = replace(task, unanswerable=0.0)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(4_900_003 + seed)
    trial = asked.sample(max(16, n // 4), generator)
    mean = share_on_value(model, asked, trial).mean((2, 3))  # (layers, heads)
    layer, head = divmod(int(mean.argmax()), mean.shape[1])
    documents = asked.sample(n, generator)
    share = share_on_value(model, asked, documents)[layer, head].flatten()
    said = asked.answer(model, documents, device, forced=forced)
    correct = (said == documents.answers).flatten()
    right, wrong = share[correct], share[~correct]
    return Lookback(
        layer, head, float(right.mean()), float(wrong.mean()), auc(right, wrong), len(right),
        len(wrong))


def auc(high: Tensor, low: Tensor) -> float:
    """The probability that a draw of ``high`` (n,) exceeds one of ``low`` (m,), ties as one half:
    the area under the ROC curve. nan when either is empty."""
    if not len(high) or not len(low):
        return float("nan")
    larger = (high[:, None] > low[None]).double() + 0.5 * (high[:, None] == low[None]).double()
    return float(larger.mean())
