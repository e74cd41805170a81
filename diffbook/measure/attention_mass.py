"""Where attention goes when a needle is asked for (Fig. 1, Table 3; chapters 1 and 12)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbook.attention import DiffMaps
from diffbook.model import LanguageModel
from diffbook.tasks.needle import NeedleBatch

REGIONS = ("bos", "answer", "needles", "haystack", "questions")


@dataclass(frozen=True)
class AttentionMass:
    """Shares of attention at the asked city, by region of the context.

    Each tensor is (layers, heads, regions), regions in the order of :data:`REGIONS`: the BOS token,
    the asked needle's number, all other needle tokens (the asked city's first mention included),
    the haystack, the questions. Means over batch and questions.

    Attributes:
        signed: sum of the row's entries in the region, divided by the row's sum.
        absolute: sum of the entries' magnitudes, divided by that of the whole row. The same as
            ``signed`` for a softmax map; for a difference map the two can tell opposite stories.
        snr_db: 10 log10(answer² / sum of squares over the haystack), (layers, heads): scale-free.
    """

    signed: Tensor
    absolute: Tensor
    snr_db: Tensor

    def best_head(self) -> tuple[int, int]:
        """(layer, head) that gives the answer the largest absolute share, counted from 0."""
        share = self.absolute[..., REGIONS.index("answer")]
        return divmod(int(share.argmax()), share.shape[1])


@torch.no_grad()
def attention_mass(
    model: LanguageModel, batch: NeedleBatch, first_number: int, first_word: int
) -> AttentionMass:
    """Measure ``model`` on ``batch`` of a :class:`~diffbook.tasks.needle.NeedleTask` whose token
    groups start at ``first_number`` and ``first_word``."""
    regions = region_of(batch, first_number, first_word)  # (batch, n_queries, seq)
    hot = torch.stack([regions == index for index in range(len(REGIONS))], dim=-1).double()
    rows = batch.query_positions  # (batch, n_queries)
    signed, absolute, snr = [], [], []
    for maps in model.attention_maps(batch.tokens):
        a = maps.difference if isinstance(maps, DiffMaps) else maps  # (batch, heads, seq, seq)
        at = rows[:, None, :, None].expand(-1, a.shape[1], -1, a.shape[-1])
        row = a.gather(2, at).double()  # (batch, heads, n_queries, seq)
        total = row.sum(-1, keepdim=True)
        magnitude = row.abs()
        share = torch.einsum("bhqs,bqsr->bhqr", row / total, hot)
        part = torch.einsum("bhqs,bqsr->bhqr", magnitude / magnitude.sum(-1, keepdim=True), hot)
        energy = torch.einsum("bhqs,bqsr->bhqr", row**2, hot)
        signed.append(share.mean((0, 2)))
        absolute.append(part.mean((0, 2)))
        answer, noise = (energy[..., REGIONS.index(name)] for name in ("answer", "haystack"))
        snr.append(10 * torch.log10(answer.mean((0, 2)) / noise.mean((0, 2)).clamp_min(1e-30)))
    return AttentionMass(torch.stack(signed), torch.stack(absolute), torch.stack(snr))


def region_of(batch: NeedleBatch, first_number: int, first_word: int) -> Tensor:
    """Index into :data:`REGIONS` of each position, for each question: (batch, n_queries, seq);
    -1 behind the question (a causal model does not see it).

    A number token that no city precedes (a distractor) counts as haystack.
    """
    tokens = batch.tokens
    batch_size, seq = tokens.shape
    position = torch.arange(seq)
    question = tokens == 1
    first_question = question.int().argmax(dim=1, keepdim=True)  # (batch, 1)
    city = (tokens >= 2) & (tokens < first_number)
    number = (tokens >= first_number) & (tokens < first_word)
    after_city = torch.nn.functional.pad(city[:, :-1], (1, 0))
    region = torch.full((batch_size, seq), REGIONS.index("haystack"))
    region[city | (number & after_city)] = REGIONS.index("needles")
    region[position[None] >= first_question] = REGIONS.index("questions")
    region[:, 0] = REGIONS.index("bos")
    region = region[:, None, :].repeat(1, batch.query_positions.shape[1], 1)
    region.scatter_(2, batch.answer_positions[..., None], REGIONS.index("answer"))
    hidden = position[None, None] > batch.query_positions[..., None]
    return region.masked_fill(hidden, -1)

