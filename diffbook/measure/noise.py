"""The two numbers behind softmax noise, read off a trained head (chapter 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbook.attention import DiffMaps
from diffbook.measure.attention_mass import REGIONS, region_of
from diffbook.model import LanguageModel
from diffbook.tasks.needle import NeedleBatch


@dataclass(frozen=True)
class NoiseRows:
    """One head's attention from the asked cities, split into answer and haystack.

    Each tensor is (batch, n_queries), float64. Everything else a row sees (BOS, the other needles,
    the questions) is left out of all four, as in the model of noise of chapter 1.

    Attributes:
        noise: haystack / (haystack + answer), a share between 0 and 1.
        margin: m, the answer's score minus the mean score of the haystack, in nats.
        spread: s, the standard deviation of the haystack's scores, in nats.
        n: haystack tokens the row sees.
    """

    noise: Tensor
    margin: Tensor
    spread: Tensor
    n: Tensor

    def predicted(self) -> Tensor:
        """The closed form n e^(s²/2) / (n e^(s²/2) + e^m) of each row: (batch, n_queries)."""
        return torch.sigmoid(self.n.log() + self.spread**2 / 2 - self.margin)


@torch.no_grad()
def noise_rows(
    model: LanguageModel, batch: NeedleBatch, first_number: int, first_word: int,
    layer: int, head: int,
) -> NoiseRows:
    """Measure one head of a *softmax* model on ``batch`` of a
    :class:`~diffbook.tasks.needle.NeedleTask` whose token groups start at ``first_number`` and
    ``first_word``.

    Scores come from the map itself: within a row, log a_j is the score up to one constant, and the
    constant drops out of m and s.

    Args:
        layer, head: counted from 0.

    Raises:
        ValueError: for a differential model (its weights may be negative, a score has no meaning
            there), a layer or head that does not exist, rows with fewer than two haystack tokens,
            or scores so far apart that a weight is zero in float32.
    """
    if model.config.attention != "softmax":
        raise ValueError(
            f"attention={model.config.attention!r}: a difference of two maps has no scores of its "
            'own; measure a model with attention="softmax"'
        )
    if not (0 <= layer < model.config.n_layers and 0 <= head < model.config.n_heads):
        raise ValueError(
            f"layer={layer}, head={head}: the model has layers 0 to {model.config.n_layers - 1} "
            f"and heads 0 to {model.config.n_heads - 1}"
        )
    maps = model.attention_maps(batch.tokens)[layer]
    assert not isinstance(maps, DiffMaps)
    rows = batch.query_positions[..., None].expand(-1, -1, maps.shape[-1])
    a = maps[:, head].gather(1, rows).double()  # (batch, n_queries, seq)
    region = region_of(batch, first_number, first_word)
    hay = region == REGIONS.index("haystack")
    answer = a.gather(2, batch.answer_positions[..., None])[..., 0]  # (batch, n_queries)
    n = hay.sum(-1).double()
    if int(n.min()) < 2:
        raise ValueError("a row sees fewer than two haystack tokens: lengthen seq_len")
    if float(answer.min()) == 0 or float(a[hay].min()) == 0:
        raise ValueError(
            "a weight is zero in float32 (scores more than 100 nats apart): its score is lost; "
            "measure a head that is less sharp"
        )
    mass = (a * hay).sum(-1)
    scores = torch.where(hay, a, 1.0).log()  # 0 outside the haystack
    mean = scores.sum(-1) / n
    square = (torch.where(hay, scores - mean[..., None], 0.0) ** 2).sum(-1) / n
    return NoiseRows(mass / (mass + answer), answer.log() - mean, square.sqrt(), n)
