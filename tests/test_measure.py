"""diffbook.measure on constructed cases: maps whose shares are known without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from diffbook.attention import DiffMaps
from diffbook.measure.attention_mass import attention_mass, region_of
from diffbook.measure.concentration import concentration, effective_keys, keys_for_share
from diffbook.measure.noise import noise_rows
from diffbook.measure.retrieval import Retrievals, retrievals
from diffbook.model import LanguageModel, ModelConfig
from diffbook.tasks.needle import NeedleBatch, NeedleTask

TASK = NeedleTask(seq_len=40)
CITY, NUMBER, WORD = TASK.first_city, TASK.first_number, TASK.first_word
BOS, ANSWER, NEEDLES, HAYSTACK, QUESTIONS = range(5)


@dataclass
class Maps(nn.Module):
    """A "model" whose maps are given: what the measures see of a model, and nothing else."""

    maps: list
    attention: str = "softmax"

    def __post_init__(self) -> None:
        super().__init__()
        diff = self.attention == "diff"
        heads = 2 * self.maps[0].a1.shape[1] if diff else self.maps[0].shape[1]
        self.config = ModelConfig(
            TASK.vocab_size, 8 * heads, len(self.maps), heads, attention=self.attention
        )

    def attention_maps(self, tokens: Tensor) -> list:
        return self.maps


def uniform(batch: int, heads: int, seq: int) -> Tensor:
    """The causal map that spreads every row evenly."""
    seen = torch.ones(seq, seq).tril()
    return (seen / seen.sum(-1, keepdim=True)).expand(batch, heads, seq, seq)


def sampled(n: int = 6, **change: object) -> NeedleBatch:
    return replace(TASK, **change).sample(n, torch.Generator().manual_seed(3))


def hand_built() -> NeedleBatch:
    """BOS word city number word number(distractor) city number, then two questions.

    position   0    1    2    3     4      5       6     7      8 9   10 11
    """
    tokens = torch.tensor([[0, WORD, CITY, NUMBER, WORD + 1, NUMBER + 5, CITY + 1, NUMBER + 2,
                            1, CITY + 1, 1, CITY]])
    return NeedleBatch(
        tokens, torch.tensor([[9, 11]]), torch.tensor([[NUMBER + 2, NUMBER]]),
        torch.tensor([[7, 3]]),
    )


# --- regions ----------------------------------------------------------------------------------


def test_regions_of_a_hand_built_sequence():
    first, second = region_of(hand_built(), NUMBER, WORD)[0].tolist()
    b, a, n, h, q = BOS, ANSWER, NEEDLES, HAYSTACK, QUESTIONS
    # The first question, at 9, asks for 7; behind it nothing is visible.
    assert first == [b, h, n, n, h, h, n, a, q, q, -1, -1]
    assert second == [b, h, n, a, h, h, n, n, q, q, q, q]


@pytest.mark.parametrize("change", [{}, {"distractors": 0.6}, {"n_queries": 1}, {"depth": 0.0}])
def test_region_counts_follow_from_the_task(change):
    task = replace(TASK, **change)
    batch = sampled(**change)
    region = region_of(batch, NUMBER, WORD)
    counts = torch.stack([(region == index).sum(-1) for index in range(5)], dim=-1)
    words = task.seq_len - 1 - 2 * task.n_needles - 2 * task.asked
    for question in range(task.asked):
        expected = [1, 1, 2 * task.n_needles - 1, words, 2 * (question + 1)]
        assert counts[:, question].tolist() == [expected] * len(batch.tokens)


# --- attention mass ---------------------------------------------------------------------------


def test_uniform_attention_gives_shares_proportional_to_counts():
    batch = sampled()
    mass = attention_mass(Maps([uniform(6, 2, 40)] * 3), batch, NUMBER, WORD)
    words = 40 - 1 - 2 * 4 - 2 * 4
    counts = torch.tensor([[1, 1, 7, words, 2 * (i + 1)] for i in range(4)], dtype=torch.double)
    expected = (counts / counts.sum(-1, keepdim=True)).mean(0)  # over the four questions
    assert mass.absolute.shape == (3, 2, 5)
    torch.testing.assert_close(mass.absolute, expected.expand(3, 2, 5), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mass.signed, mass.absolute)
    torch.testing.assert_close(
        mass.snr_db, torch.full((3, 2), -10 * math.log10(words)).double(), rtol=1e-6, atol=1e-6)


def test_a_softmax_model_has_one_normalization_and_shares_that_sum_to_one():
    model = LanguageModel(ModelConfig(TASK.vocab_size, 32, 2, 2))
    mass = attention_mass(model, sampled(), NUMBER, WORD)
    torch.testing.assert_close(mass.signed, mass.absolute)
    torch.testing.assert_close(
        mass.absolute.sum(-1), torch.ones(2, 2).double(), rtol=1e-5, atol=1e-6)


def test_difference_map_by_hand_in_both_normalizations():
    """Row of the first question: map 1 all on the answer and one word, map 2 on two words."""
    batch = hand_built()
    batch = batch._replace(query_positions=batch.query_positions[:, :1],
                           answers=batch.answers[:, :1],
                           answer_positions=batch.answer_positions[:, :1])
    a1, a2 = torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)
    a1[0, 0, 9, 7], a1[0, 0, 9, 1] = 0.6, 0.4  # answer, haystack
    a2[0, 0, 9, 1], a2[0, 0, 9, 4], a2[0, 0, 9, 0] = 0.5, 0.3, 0.2  # haystack twice, BOS
    maps = DiffMaps(a1, a2, torch.tensor(0.5))
    mass = attention_mass(Maps([maps], attention="diff"), batch, NUMBER, WORD)
    # The difference: answer 0.6, words 0.15 and -0.15, BOS -0.1. Sum 0.5, magnitudes 1.0.
    signed = torch.tensor([-0.2, 1.2, 0.0, 0.0, 0.0]).double()
    absolute = torch.tensor([0.1, 0.6, 0.0, 0.3, 0.0]).double()
    torch.testing.assert_close(mass.signed[0, 0], signed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mass.absolute[0, 0], absolute, rtol=1e-6, atol=1e-6)
    # Noise energy counts both words, though they cancel in the signed sum.
    snr = 10 * math.log10(0.6**2 / (2 * 0.15**2))
    assert mass.snr_db[0, 0].item() == pytest.approx(snr, abs=1e-4)


def test_best_head_is_the_one_that_looks_at_the_answer():
    batch = sampled()
    plain = uniform(6, 3, 40)
    sharp = plain.clone()
    for row in range(6):
        for query, answer in zip(batch.query_positions[row], batch.answer_positions[row]):
            sharp[row, 2, query] = 0.0
            sharp[row, 2, query, answer] = 1.0
    mass = attention_mass(Maps([plain, sharp]), batch, NUMBER, WORD)
    assert mass.best_head() == (1, 2)
    assert mass.absolute[1, 2, ANSWER] == 1 and mass.absolute[1, 2, HAYSTACK] == 0


# --- margin and spread ------------------------------------------------------------------------


def map_with_scores(batch: NeedleBatch, m: float, s: float) -> Tensor:
    """A map whose answer has score m and whose haystack has scores of spread s around 0."""
    region = region_of(batch, NUMBER, WORD)
    rows, questions = batch.query_positions.shape
    seq = batch.tokens.shape[1]
    generator = torch.Generator().manual_seed(1)
    maps = uniform(rows, 1, seq).clone()
    for row in range(rows):
        for question in range(questions):
            kinds = region[row, question]
            scores = 3.0 * torch.randn(seq, generator=generator)  # the other regions: anything
            hay = kinds == HAYSTACK
            draw = torch.randn(int(hay.sum()), generator=generator)
            scores[hay] = s * (draw - draw.mean()) / draw.std(correction=0)
            scores[kinds == ANSWER] = m
            scores[kinds == -1] = -torch.inf
            maps[row, 0, batch.query_positions[row, question]] = scores.softmax(-1)
    return maps


def test_margin_and_spread_are_recovered_from_the_map():
    batch = sampled(20)
    model = Maps([uniform(20, 1, 40), map_with_scores(batch, m=4.0, s=1.3)])
    rows = noise_rows(model, batch, NUMBER, WORD, layer=1, head=0)
    full = torch.full((20, 4), 1.0).double()
    torch.testing.assert_close(rows.margin, 4.0 * full, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows.spread, 1.3 * full, rtol=1e-4, atol=1e-4)
    assert rows.n.unique().tolist() == [40 - 1 - 8 - 8]
    # Measured noise, straight from the scores; the closed form is near it, not equal (few keys).
    a, region = model.maps[1][0, 0, batch.query_positions[0, 0]], region_of(batch, NUMBER, WORD)
    hay = a[region[0, 0] == HAYSTACK].sum()
    by_hand = hay / (hay + a[batch.answer_positions[0, 0]])
    assert rows.noise[0, 0].item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert 0 < (rows.noise - rows.predicted()).abs().mean() < 0.15
    assert abs((rows.noise - rows.predicted()).mean()) < 0.06


def test_without_spread_the_closed_form_is_exact():
    batch = sampled()
    region = region_of(batch, NUMBER, WORD)
    rows = noise_rows(Maps([uniform(6, 1, 40)]), batch, NUMBER, WORD, 0, 0)
    torch.testing.assert_close(rows.margin, torch.zeros(6, 4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.noise, rows.predicted(), rtol=1e-6, atol=1e-6)
    n = (region == HAYSTACK).sum(-1).double()
    torch.testing.assert_close(rows.noise, n / (n + 1), rtol=1e-6, atol=1e-6)


def test_noise_rows_say_what_is_wrong():
    batch = sampled()
    model = LanguageModel(ModelConfig(TASK.vocab_size, 32, 2, 2))
    with pytest.raises(ValueError, match="layer=2"):
        noise_rows(model, batch, NUMBER, WORD, 2, 0)
    diff = LanguageModel(ModelConfig(TASK.vocab_size, 32, 2, 2, attention="diff"))
    with pytest.raises(ValueError, match="softmax"):
        noise_rows(diff, batch, NUMBER, WORD, 0, 0)
    zero = uniform(6, 1, 40).clone()
    zero[..., 5] = 0.0
    with pytest.raises(ValueError, match="zero"):
        noise_rows(Maps([zero]), batch, NUMBER, WORD, 0, 0)


# --- concentration ----------------------------------------------------------------------------


def test_keys_for_share_by_hand():
    rows = torch.tensor([[0.1, 0.5, 0.0, 0.4], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    assert keys_for_share(rows, 0.5).tolist() == [1, 2, 1]
    assert keys_for_share(rows, 0.51).tolist() == [2, 3, 1]
    assert keys_for_share(7 * rows, 0.95).tolist() == [3, 4, 1]  # any scale
    with pytest.raises(ValueError, match="share=1"):
        keys_for_share(rows, 1)
    with pytest.raises(ValueError, match="negative"):
        keys_for_share(rows - 0.2, 0.5)


def test_effective_keys_counts_even_shares_and_lies_between():
    rows = torch.tensor([[1.0, 1, 1, 0], [0, 0, 5, 0], [0.7, 0.1, 0.1, 0.1]])
    three, one, between = effective_keys(rows).tolist()
    assert three == pytest.approx(3) and one == pytest.approx(1) and 1 < between < 4


def test_concentration_of_even_and_sharp_maps():
    tokens = torch.zeros(2, 10, dtype=torch.long)
    sink = torch.zeros(2, 1, 10, 10)
    sink[..., 0] = 1.0
    found = concentration(Maps([uniform(2, 1, 10), sink]), tokens)
    seen = torch.arange(1, 11).double()
    torch.testing.assert_close(found.effective[0, 0], seen, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.own[0, 0], 1 / seen, rtol=1e-6, atol=1e-6)
    assert found.half[0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert found.first[1, 0].tolist() == [1.0] * 10
    assert found.ninety[1, 0].tolist() == [1.0] * 10
    assert found.own[1, 0].tolist() == [1.0] + [0.0] * 9


def test_concentration_takes_the_magnitudes_of_a_difference_map():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    a1, a2 = uniform(1, 1, 4), torch.zeros(1, 1, 4, 4)
    a2[..., 0] = 1.0
    found = concentration(Maps([DiffMaps(a1, a2, torch.tensor(1.0))], attention="diff"), tokens)
    # Last row: 1/4 - 1, 1/4, 1/4, 1/4: the first token has half of the magnitude.
    assert found.first[0, 0, 3].item() == pytest.approx(0.5)


# --- retrieval --------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Reads the answer off the sequence; with ``reach`` only that many tokens back."""

    def __init__(self, reach: int = 10**6):
        super().__init__()
        self.reach = reach

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TASK.vocab_size)
        for row, sequence in enumerate(tokens.tolist()):
            for at, token in enumerate(sequence):
                if sequence[at - 1] == 1 and at > 0:
                    where = sequence.index(token) + 1
                    if at - where <= self.reach:
                        logits[row, at, sequence[where]] = 1.0
        return logits


def test_an_oracle_finds_all_and_a_near_sighted_one_by_distance():
    assert retrievals(Oracle(), TASK, n=16).accuracy == 1.0
    found = retrievals(Oracle(reach=20), TASK, n=64)
    assert torch.equal(found.correct, found.distance <= 20)
    accuracy, count = found.by_distance(torch.tensor([0, 21, 40]))
    assert accuracy.tolist() == [1.0, 0.0] and count.sum() == 64 * 4


def test_forced_depth_is_where_the_retrieval_says():
    for depth in (0.0, 0.5, 1.0):
        found = retrievals(Oracle(), replace(TASK, n_queries=1, depth=depth), n=64)
        assert len(found.correct) == 64
        assert found.depth.mean() == pytest.approx(depth, abs=0.12)
    ends = retrievals(Oracle(), replace(TASK, n_queries=1, n_needles=1, depth=1.0), n=4)
    assert ends.depth.tolist() == [1.0] * 4 and ends.distance.tolist() == [2] * 4
    start = retrievals(Oracle(), replace(TASK, n_queries=1, n_needles=1, depth=0.0), n=4)
    assert start.depth.tolist() == [0.0] * 4 and start.distance.tolist() == [37] * 4


def test_bins_hold_their_lower_edge_and_empty_ones_are_nan():
    found = Retrievals(torch.tensor([True, False, True]), torch.tensor([4, 8, 8]), torch.zeros(3))
    accuracy, count = found.by_distance(torch.tensor([0, 4, 8, 16, 32]))
    assert count.tolist() == [0, 1, 2, 0]
    assert accuracy[1:3].tolist() == [1.0, 0.5] and accuracy[[0, 3]].isnan().all()
    with pytest.raises(ValueError, match="n=0"):
        retrievals(Oracle(), TASK, n=0)
