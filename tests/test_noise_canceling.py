"""diffbook.measure.noise_canceling: maps and models whose numbers are known beforehand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from diffbook import records
from diffbook.attention import DiffMaps
from diffbook.measure.heads import own_lambda
from diffbook.measure.noise_canceling import (
    FACTORS,
    KINDS,
    PLACES,
    attention_measures,
    average_map2,
    canceling,
    even,
    other_map2,
    place_of,
    question_rows,
    scaled_lambda,
    shares,
    shares_of_maps,
    snr_db,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records import Paired, paired_interval
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, REPRODUCED
from diffbook.tasks.needle import NeedleBatch, NeedleTask

TASK = NeedleTask(seq_len=40)
BOS, BEFORE, CITY, ANSWER, AFTER, QUERY = range(6)


def drawn(n: int = 16, **change: object) -> NeedleBatch:
    return replace(TASK, **change).sample(n, torch.Generator().manual_seed(3))


def model_of(attention: str = "diff", seed: int = 0, **change: object) -> LanguageModel:
    config = ModelConfig(TASK.vocab_size, 32, 2, 4, attention=attention, seed=seed, **change)
    return LanguageModel(config).eval()


def measured(model: LanguageModel, rows: int, lengths: tuple[int, ...] = (1,)) -> dict:
    return attention_measures(model, TASK, rows=rows, lengths=lengths)


# --- Shares -------------------------------------------------------------------------------------


def test_the_places_of_a_row_by_hand():
    """BOS w | city number (asked) | w | city number | ? city ? city: the second question asks for
    the first needle."""
    city, number, word = TASK.first_city, TASK.first_number, TASK.first_word
    tokens = torch.tensor([[0, word, city, number, word, city + 1, number + 1,
                            1, city + 1, 1, city]])
    batch = NeedleBatch(tokens, torch.tensor([[8, 10]]), tokens[:, [6, 3]],
                        torch.tensor([[6, 3]]))
    place = place_of(batch)[0]
    assert place[1].tolist() == [BOS, BEFORE, CITY, ANSWER, *3 * [AFTER], *4 * [QUERY]]
    assert place[0].tolist() == [
        BOS, *4 * [BEFORE], CITY, ANSWER, QUERY, QUERY, -1, -1]


def test_the_chapters_row_of_four_in_three_normalizations():
    """Chapter 12, step 1: the two normalizations turn both halves of Table 3 around."""
    a1, a2 = torch.tensor([0.3, 0.4, 0.2, 0.1]), torch.tensor([0.1, 0.0, 0.6, 0.3])
    place = torch.tensor([BEFORE, ANSWER, BEFORE, QUERY])
    found = shares(a1 - 0.5 * a2, place)
    expected = {"raw": (0.4, 0.15), "signed": (0.8, 0.3), "absolute": (0.5, 0.4375)}
    for kind, (answer, noise) in expected.items():
        assert found[kind][ANSWER] == pytest.approx(answer, abs=1e-6)
        assert found[kind][BEFORE] == pytest.approx(noise, abs=1e-6)
    plain = shares(torch.tensor([0.25, 0.55, 0.1, 0.1]), place)
    for kind, sign in (("signed", 1), ("absolute", -1)):
        assert sign * (found[kind][ANSWER] - plain[kind][ANSWER]) > 0
        assert sign * (plain[kind][BEFORE] - found[kind][BEFORE]) > 0


def test_normalizations_agree_for_softmax_and_only_there():
    batch = drawn()
    for attention in ("softmax", "diff"):
        model = model_of(attention)
        found = shares_of_maps(model.attention_maps(batch.tokens), batch)
        total = torch.ones(found["signed"].shape[:2]).double()
        for kind in ("absolute", "signed"):
            torch.testing.assert_close(found[kind].sum(-1), total, rtol=1e-5, atol=1e-5)
        same = torch.allclose(found["absolute"], found["signed"], atol=1e-6)
        assert same == (attention == "softmax")
        for lam, row_sum in zip(model.lambdas(), found["raw"].sum(-1)):
            torch.testing.assert_close(row_sum, torch.full((2,), 1 - lam).double(),
                                       rtol=1e-5, atol=1e-5)


class Looker(LanguageModel):
    """A model that is wrong on purpose: each row at a city of a question looks where ``where``
    says; all other rows, and what it answers, are those of an untrained Transformer."""

    def __init__(self, where: Callable[[Tensor], Tensor]):
        super().__init__(ModelConfig(TASK.vocab_size, 32, 2, 4))
        self.where = where

    def attention_maps(self, tokens: Tensor) -> list[Tensor | DiffMaps]:
        maps = super().attention_maps(tokens)
        for a in maps:
            for row, sequence in enumerate(tokens):
                for at in range(len(sequence)):
                    if at and sequence[at - 1] == NeedleTask.QUESTION:
                        weights = self.where(sequence[: at + 1])
                        a[row, :, at] = 0.0
                        a[row, :, at, : at + 1] = weights / weights.sum()
        return maps


def everywhere(seen: Tensor) -> Tensor:
    return torch.ones(len(seen))


def first_needle(seen: Tensor) -> Tensor:
    """All on the number of the needle that comes first, whoever is asked for."""
    city = (seen >= TASK.first_city) & (seen < TASK.first_number)
    weights = torch.zeros(len(seen))
    weights[int(city.int().argmax()) + 1] = 1.0
    return weights


def last_quarter(seen: Tensor) -> Tensor:
    weights = torch.zeros(len(seen))
    weights[3 * len(seen) // 4 :] = 1.0
    return weights


def test_uniform_attention_gives_each_place_its_size():
    numbers = measured(Looker(everywhere), 2, (1, 2, 4))
    for times in (1, 2, 4):
        seq = times * 40
        for kind in KINDS:
            # All but BOS, answer, asked city and two tokens of question are noise.
            assert numbers[f"table3 answer {kind} {times}x"] == pytest.approx(1 / seq, abs=1e-5)
            assert numbers[f"table3 noise {kind} {times}x"] == pytest.approx(
                (seq - 5) / seq, abs=1e-5)
            fig1 = dict(zip(PLACES, numbers[f"fig1 {kind} {times}x"]))
            assert fig1["bos"] == pytest.approx(1 / seq, abs=1e-5)
            assert fig1["query"] == pytest.approx(2 / seq, abs=1e-5)
        snr = 10 * math.log10(1 / (seq - 5))  # one weight against seq - 5 of the same size
        assert numbers[f"retrieval snr {times}x"] == pytest.approx(snr, abs=1e-3)


def test_copying_the_first_needle_is_exposed_by_depth():
    numbers = measured(Looker(first_needle), 24)
    answer = numbers["table3 answer absolute 1x by depth"]
    noise = numbers["table3 noise absolute 1x by depth"]
    assert answer[0] > 0.85 and answer[4] == 0  # at depth 0 the asked needle mostly is the first
    assert all(a >= b for a, b in pairwise(answer))
    assert [a + n for a, n in zip(answer, noise)] == pytest.approx([1.0] * 5, abs=1e-4)


def test_reading_only_the_last_quarter_is_exposed_by_depth():
    numbers = measured(Looker(last_quarter), 3, (1, 4))
    answer = numbers["table3 answer absolute 4x by depth"]
    assert answer[:3] == [0.0, 0.0, 0.0] and answer[4] == pytest.approx(1 / 40, abs=1e-5)
    assert numbers["table3 answer absolute 4x"] < 1 / 80
    assert numbers["fig1 absolute 4x"][PLACES.index("before")] == 0


# --- Two maps -----------------------------------------------------------------------------------


def two_maps(rho: float, share2: float = 0.0, rows: int = 400, n: int = 60, s: float = 0.7):
    """Rows with the signal in column 0; log-weights of the noise with correlation ``rho``."""
    draw = torch.Generator().manual_seed(4)
    g1 = torch.randn(rows, n, generator=draw).double()
    g2 = rho * g1 + math.sqrt(1 - rho**2) * torch.randn(rows, n, generator=draw).double()
    maps = []
    for g, share in ((g1, 0.4), (g2, share2)):
        noise = (1 - share) * (s * g).softmax(-1)
        maps.append(torch.cat((torch.full((rows, 1), share).double(), noise), dim=1))
    signal = torch.zeros(rows, dtype=torch.long)
    noise = torch.ones(rows, n + 1, dtype=torch.bool)
    noise[:, 0] = False
    return *maps, signal, noise


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_canceling_recovers_what_the_maps_were_made_with(rho):
    a1, a2, signal, noise = two_maps(rho)
    lam = 0.5
    found = canceling(a1, a2, lam, signal, noise)
    assert found.log_correlation == pytest.approx(rho, abs=0.02)
    by_numpy = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1]
                            for pair in zip(a1[:, 1:], a2[:, 1:])]).mean()
    assert found.correlation == pytest.approx(float(by_numpy), abs=1e-9)
    assert found.signal == pytest.approx((0.4, 0.0)) and found.noise == pytest.approx((0.6, 1.0))
    energy = [a[:, 1:].square().sum(1).mean() for a in (a1, a1 - lam * a2)]
    assert found.gain_db == pytest.approx(10 * math.log10(energy[0] / energy[1]))
    assert found.snr_db[0] == pytest.approx(10 * math.log10(0.16 / energy[0]))


def test_the_gain_has_the_sign_of_the_law():
    """Chapter 2: shared noise and no signal in map 2 gain; the same signal in both loses."""
    shared = canceling(*two_maps(1.0)[:2], 0.5, *two_maps(1.0)[2:])
    both = canceling(*two_maps(0.0, share2=0.4)[:2], 0.5, *two_maps(0.0)[2:])
    assert shared.gain_db > 3 and both.gain_db < -1


def test_an_even_map_has_no_correlation_and_few_keys_are_refused():
    a1, a2, signal, noise = two_maps(0.5)
    found = canceling(a1, torch.full_like(a2, 0.01), 0.5, signal, noise)
    assert abs(found.correlation) < 1e-6
    noise[0, 3:] = False
    with pytest.raises(ValueError, match="fewer than three"):
        canceling(a1, a2, 0.5, signal, noise)


def test_a_map_subtracted_from_itself_changes_nothing_but_the_scale():
    """Map 2 made a copy of map 1: correlation 1, gain 0 dB, and no answer changes without it."""
    model = model_of()
    with torch.no_grad():
        for block in model.blocks:
            for proj in (block.attention.q_proj, block.attention.k_proj):
                heads = proj.weight.view(4, 8, 32)
                heads[1::2] = heads[0::2]
    numbers = measured(model, 8, (1, 2))
    for role in ("retrieval", "back"):
        assert numbers[f"{role} noise correlation 1x"] == pytest.approx(1, abs=1e-4)
        assert numbers[f"{role} log noise correlation 2x"] == pytest.approx(1, abs=1e-3)
        assert numbers[f"{role} snr gain 1x"] == pytest.approx(0, abs=1e-3)
    assert numbers["map2 removed 1x"] == numbers["map2 learned 1x"]
    assert len(set(numbers["map2 by factor 1x"])) == 1 and len(FACTORS) == 5
    row_sums = [1 - lam for lam in model.lambdas()]
    assert numbers["table3 row sum"] == pytest.approx(row_sums, abs=1e-4)


def test_snr_of_nothing_is_finite():
    assert math.isfinite(snr_db(torch.zeros(3), torch.zeros(3, 5)))


# --- Interventions ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"headwise_norm": False}, {"output_scale": False}])
def test_the_same_map_again_is_the_same_model_and_zero_is_lambda_zero(change):
    model, tokens = model_of(**change), drawn(4).tokens
    with torch.no_grad():
        whole = model(tokens)
        with other_map2(model, 0, lambda a2: a2), other_map2(model, 1, lambda a2: a2):
            torch.testing.assert_close(model(tokens), whole, atol=1e-5, rtol=1e-4)
        with other_map2(model, 1, torch.zeros_like):
            without = model(tokens)
        with own_lambda(model, 1, torch.zeros(2)):
            torch.testing.assert_close(model(tokens), without, atol=1e-5, rtol=1e-4)
        with scaled_lambda(model, 0.0, [1]):
            torch.testing.assert_close(model(tokens), without, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(without, whole, atol=1e-3)
        torch.testing.assert_close(model(tokens), whole)  # and it comes back


def test_a_map_that_does_not_read_the_text_is_its_own_average():
    """With queries of zero map 2 is the even floor: averaging it changes nothing. In a model whose
    map 2 does read the text, it does."""
    model, batch = model_of(), drawn(8)
    blind = copy.deepcopy(model)
    with torch.no_grad():
        blind.blocks[1].attention.q_proj.weight.view(4, 8, 32)[1::2] = 0
        for net, same in ((blind, True), (model, False)):
            with torch.no_grad():
                net.blocks[1].attention.q_proj.weight.mul_(8)
            whole = net(batch.tokens)
            with other_map2(net, 1, average_map2(net, TASK, 1)):
                assert torch.allclose(net(batch.tokens), whole, atol=1e-4) == same
            with other_map2(net, 1, even):
                assert torch.allclose(net(batch.tokens), whole, atol=1e-4) == same


def test_interventions_say_what_is_wrong():
    with pytest.raises(ValueError, match="no differential layer"):
        with scaled_lambda(model_of("softmax"), 0.0):
            pass
    with pytest.raises(ValueError, match="layer=2"):
        with other_map2(model_of(), 2, even):
            pass
    model = model_of()
    with other_map2(model, 0, even), pytest.raises(ValueError, match="use_cache=False"):
        model.generate(drawn(1).tokens, 1)


def test_question_rows_are_the_rows_at_the_questions():
    batch = drawn(3)
    maps = model_of("softmax").attention_maps(batch.tokens)[1]
    rows = question_rows(maps, batch)
    for row in range(3):
        for question, at in enumerate(batch.query_positions[row].tolist()):
            assert torch.equal(rows[row, :, question], maps[row, :, at])


def test_every_measure_is_a_finite_number_and_named_for_what_the_model_has():
    of = {kind: measured(model_of(kind), 2, (1, 8)) for kind in ("softmax", "diff")}
    assert set(of["softmax"]) < set(of["diff"])
    assert all(name.startswith(("retrieval ", "back ", "map2 "))
               for name in set(of["diff"]) - set(of["softmax"]))
    for numbers in of.values():
        for value in numbers.values():
            assert all(math.isfinite(x) for x in (value if isinstance(value, list) else [value]))


# --- What chapter 12 says in words about the record ---------------------------------------------


@pytest.mark.skipif("multineedle-cpu" not in records.available(), reason="no record yet")
def test_chapter_12_says_what_the_record_says():
    record = records.load("multineedle-cpu")

    def mean(name: str, kind: str = "diff") -> float:
        return float(record.values(kind, name).mean())

    def verdict(name: str, claim: str) -> str:
        values = record.values("diff", name)
        return Paired(name, "", "", tuple(values), *paired_interval(values)).verdict(claim)

    # Step 4: each normalization gives one half of Table 3 and contradicts the other.
    assert len(record.of("diff")) == len(record.of("softmax")) == 8
    for part, claim, holds in (("answer", "higher", "signed"), ("noise", "lower", "absolute")):
        for kind in ("absolute", "signed"):
            found = record.paired(f"table3 {part} {kind} 1x").verdict(claim)
            assert found == (REPRODUCED if kind == holds else CONTRADICTED)
    query = PLACES.index("query")
    asked = {kind: record.array("diff", f"fig1 {kind} 1x")[:, query].mean() for kind in KINDS}
    plain = record.array("softmax", "fig1 absolute 1x")[:, query].mean()
    assert asked["absolute"] > plain > 0 > asked["signed"]
    # Step 5: no common noise, no cleaner head.
    for role in ("retrieval", "back"):
        assert verdict(f"{role} noise correlation 1x", "higher") == NO_DIFFERENCE
        assert mean(f"{role} signal map 2 1x") < 0.05 < 0.8 < mean(f"{role} signal map 1 1x")
        assert verdict(f"{role} snr gain 1x", "higher") == CONTRADICTED
        assert all(mean(f"{role} snr gain {times}x") <= 0 for times in (1, 2, 4))
    # Step 6: layer 2 does without map 2, layer 1 with the average of other texts.
    for times in (1, 2, 4):
        learned = mean(f"map2 learned {times}x")
        assert abs(mean(f"map2 removed layer 2 {times}x") - learned) < 0.02
        assert abs(mean(f"map2 average layer 1 {times}x") - learned) < 0.02
        assert mean(f"map2 even layer 1 {times}x") < learned - 0.2
        assert mean(f"map2 removed layer 1 {times}x") < learned - 0.2
        by_factor = record.array("diff", f"map2 by factor {times}x").mean(0)
        assert np.ptp(by_factor[1:4]) < 0.05 < by_factor[1] - by_factor[0]
    # Step 7, lines 4 and 5.
    assert sum(lam < 0 for run in record.of("diff") for lam in run.lambdas) == 1
    lost = [record.values("diff", f"map2 learned {t}x")
            - record.values("diff", f"map2 removed {t}x") for t in (1, 4)]
    assert paired_interval(lost[0])[0] > 0 and paired_interval(lost[1] - lost[0])[0] > 0
