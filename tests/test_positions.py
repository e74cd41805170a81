"""diffbook.measure.positions: models whose loss at each position is known, and models that read
less than they are given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook import paper, records
from diffbook.experiments.long_context import RAISED, WINDOWS, curves, fine, powers
from diffbook.measure.positions import (
    BOOKS,
    book_windows,
    cumulative_average,
    interval_average,
    nll_by_position,
    nll_with_context,
    with_rope_base,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE
from diffbook.tasks.text import TextTask, load_documents

VOCAB = 12
CERTAIN = 50.0  # a logit that makes every other token impossible


class Uniform(nn.Module):
    """Every token alike, whatever came before."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, VOCAB)


class Copy(nn.Module):
    """Certain that the next token is the one ``period`` tokens before it; uniform where there is
    none. ``reads(i)``: how many of the i + 1 tokens up to place i it can see."""

    def __init__(self, period: int, reads=lambda i: i + 1):
        super().__init__()
        self.period, self.reads = period, reads

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, VOCAB)
        for i in range(tokens.shape[1]):
            if self.period <= min(self.reads(i), i + 1):
                source = tokens[:, i + 1 - self.period]
                logits[:, i] = CERTAIN * F.one_hot(source, VOCAB)
        return logits


class Count(nn.Module):
    """What attention with equal weights can do: how often each token has occurred, plus one."""

    def forward(self, tokens: Tensor) -> Tensor:
        counts = F.one_hot(tokens, VOCAB).cumsum(1) + 1.0  # (batch, seq, VOCAB)
        return (counts / counts.sum(-1, keepdim=True)).log()


def periodic(period: int, length: int, n: int = 3) -> Tensor:
    """(n, length + 1): each row repeats its own permutation of ``period`` different tokens."""
    generator = torch.Generator().manual_seed(period)
    rows = [torch.randperm(VOCAB, generator=generator)[:period] for _ in range(n)]
    return torch.stack(rows).repeat(1, length // period + 2)[:, : length + 1]


def noise(length: int, n: int = 3) -> Tensor:
    return torch.randint(VOCAB, (n, length + 1), generator=torch.Generator().manual_seed(0))


# --- Loss by position -----------------------------------------------------------------------


def test_a_model_that_knows_nothing_has_ln_v_everywhere():
    nll = nll_by_position(Uniform(), noise(40), batch=2)
    assert nll.shape == (3, 40) and nll.dtype == torch.float64
    torch.testing.assert_close(nll, torch.full_like(nll, math.log(VOCAB)), atol=1e-6, rtol=0)
    assert cumulative_average(nll, [1, 7, 40]).tolist() == pytest.approx([math.log(VOCAB)] * 3)


@pytest.mark.parametrize("period", [1, 5, 11])
def test_a_model_that_copies_is_right_from_its_period_on(period):
    """Position p sees p tokens: the copy is there from p = period, not one earlier or later."""
    nll = nll_by_position(Copy(period), periodic(period, 40))
    before, after = nll[:, : period - 1], nll[:, period - 1 :]
    torch.testing.assert_close(before, torch.full_like(before, math.log(VOCAB)), atol=1e-6, rtol=0)
    assert float(after.max()) < 1e-6
    positions = torch.tensor([1, period, 2 * period, 40])
    expected = (period - 1) * math.log(VOCAB) / positions
    expected[0] = 0.0 if period == 1 else math.log(VOCAB)
    torch.testing.assert_close(
        cumulative_average(nll, positions), expected.double(), atol=1e-6, rtol=0)


def test_a_shift_by_one_is_caught():
    """Scored against its own input, a model that copies the last token would be perfect; scored
    one too late, a model that copies with period 5 would be as bad as one of period 4."""
    text = noise(200)
    own_input = nll_by_position(Copy(1), text)
    hits = (text[:, 1:] == text[:, :-1]).double()
    assert float(own_input.mean()) == pytest.approx(CERTAIN * (1 - float(hits.mean())), rel=0.01)
    assert float(nll_by_position(Copy(4), periodic(5, 40))[:, 4:].mean()) > 40
    assert float(nll_by_position(Copy(5), periodic(5, 40))[:, 4:].mean()) < 1e-6


def test_it_is_the_loss_of_the_model_and_of_the_task():
    model = LanguageModel(ModelConfig(256, d_model=16, n_layers=1, n_heads=2, attention="diff"))
    task = TextTask(seq_len=32, eval_windows=6)
    inputs, targets = task._windows("validation", task.eval_starts())
    windows = torch.cat((inputs, targets[:, -1:]), dim=1)
    nll = nll_by_position(model, windows, batch=4)
    assert float(nll.mean()) == pytest.approx(task.evaluate(model)["loss"], rel=1e-5)
    with torch.no_grad():
        assert float(nll.mean()) == pytest.approx(float(model(inputs, targets)), rel=1e-5)


# --- Cumulative averages --------------------------------------------------------------------


def test_a_falling_cumulative_average_does_not_need_order():
    """Counting tokens falls forever by a law of its own, and shuffling the past changes nothing."""
    nll = nll_by_position(Count(), torch.full((1, 401), 3))
    q = torch.arange(1, 401, dtype=torch.float64)
    law = torch.log((q + VOCAB) / (q + 1))
    torch.testing.assert_close(nll[0], law, atol=1e-5, rtol=0)
    average = cumulative_average(nll, [10, 100, 400])
    assert bool((average.diff() < 0).all())

    text = periodic(6, 60, n=2)
    mixed = text.clone()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    mixed[:, :48] = text[:, order]
    assert not torch.equal(mixed, text)
    late = slice(48, None)
    torch.testing.assert_close(
        nll_by_position(Count(), mixed)[:, late], nll_by_position(Count(), text)[:, late])
    # A copier needs the order, so the same test sees the difference.
    assert float(nll_by_position(Copy(6), mixed)[:, 48:53].mean()) > 5


def test_even_a_model_that_stops_to_read_keeps_falling():
    """Loss 3 up to position 10 and 1 after it: the average is 1 + 20/P, which never stops to
    fall. Undone, it shows that nothing was gained after position 10."""
    nll = torch.cat((torch.full((2, 10), 3.0), torch.ones(2, 150)), dim=1).double()
    at = [10, 20, 40, 80, 160]
    average = cumulative_average(nll, at)
    assert average.tolist() == pytest.approx([1 + 20 / p for p in at])
    assert interval_average(at, average.tolist()).tolist() == pytest.approx([3, 1, 1, 1, 1])


def test_interval_average_undoes_the_average_and_says_how_errors_grow():
    nll = torch.rand(4, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    at = [3, 24, 48, 96]
    average = cumulative_average(nll, at)
    direct = [nll[:, a:b].mean() for a, b in zip([0, *at], at, strict=False)]
    torch.testing.assert_close(interval_average(at, average.tolist()), torch.stack(direct))
    wrong = average.clone()
    wrong[2] -= 0.001
    wrong[3] += 0.001
    error = interval_average(at, wrong.tolist()) - interval_average(at, average.tolist())
    assert float(error[3]) == pytest.approx(0.003)  # positions double: three times as large


@pytest.mark.parametrize("at", [[0, 4], [4, 9], [-1]])
def test_positions_that_are_not_there(at):
    with pytest.raises(ValueError, match="the windows have 1 to 8"):
        cumulative_average(torch.zeros(2, 8), at)


@pytest.mark.parametrize("positions, averages", [([4, 2], [1, 1]), ([2, 4], [1]), ([2, 2], [1, 1])])
def test_averages_that_cannot_be_undone(positions, averages):
    with pytest.raises(ValueError, match="give growing positions, one for each"):
        interval_average(positions, averages)


# --- More or less context -------------------------------------------------------------------


def test_context_gain_of_models_that_read_less_than_they_are_given():
    """Of text with period 8, and eight of its tokens scored."""
    text = periodic(8, 127)
    contexts = [4, 8, 16, 32, 64, 120]

    def losses(model: nn.Module) -> list[float]:
        return nll_with_context(model, text, contexts, scored=8).mean(0).tolist()

    nothing, full = math.log(VOCAB), 0.0
    # Reads all: with 4 tokens of context the first 4 of 8 scored tokens have no source.
    assert losses(Copy(8)) == pytest.approx([nothing / 2, *[full] * 5], abs=1e-6)
    # A window shorter than the period: no gain anywhere, however much it is given.
    assert losses(Copy(8, reads=lambda i: 7)) == pytest.approx([nothing] * 6, abs=1e-6)
    # A window of just the period: all there is to gain is gained at 8 tokens.
    assert losses(Copy(8, reads=lambda i: 8)) == pytest.approx([nothing / 2, *[0] * 5], abs=1e-6)
    # Reads the last quarter of what it is given: it needs 32 tokens to do what 8 would do.
    quarter = losses(Copy(8, reads=lambda i: (i + 1) // 4))
    assert quarter[:3] == pytest.approx([nothing] * 3, abs=1e-6)
    assert quarter[3:] == pytest.approx([full] * 3, abs=1e-6)
    # A loss by position tells the two apart as well.
    by_position = nll_by_position(Copy(8, reads=lambda i: (i + 1) // 4), text)
    assert int((by_position.mean(0) < 1e-6).int().argmax()) + 1 == 32
    assert losses(Uniform()) == pytest.approx([nothing] * 6)


def test_every_context_scores_the_same_tokens():
    """A model that ignores its context has the same loss in every column, token by token; a loss
    by position of the same model differs, because the text differs."""
    model = LanguageModel(ModelConfig(VOCAB, d_model=16, n_layers=1, n_heads=2))
    with torch.no_grad():
        model.blocks[0].attention.o_proj.weight.zero_()  # sees the last token only
        model.embedding.weight.mul_(20)
    text = noise(63, n=5)
    losses = nll_with_context(model, text, [1, 7, 30, 56], scored=8)
    assert losses.shape == (5, 4)
    torch.testing.assert_close(losses, losses[:, :1].expand(-1, 4), atol=1e-5, rtol=1e-5)
    blocks = nll_by_position(model, text)[:, :56].mean(0).view(7, 8).mean(1)
    assert float(blocks.std()) > 1e-3


def test_uniform_attention_gains_nothing_from_order():
    """A transformer whose attention is uniform: its loss on a shuffled past is the same."""
    model = LanguageModel(ModelConfig(VOCAB, d_model=16, n_layers=1, n_heads=2))
    with torch.no_grad():
        model.blocks[0].attention.q_proj.weight.zero_()
    text = noise(63)
    mixed = text.clone()
    mixed[:, :40] = text[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    same = [nll_with_context(model, t, [60], scored=4) for t in (text, mixed)]
    torch.testing.assert_close(*same, atol=1e-6, rtol=1e-6)
    whole = LanguageModel(ModelConfig(VOCAB, d_model=16, n_layers=1, n_heads=2))
    with torch.no_grad():
        whole.blocks[0].attention.q_proj.weight.mul_(10)
    other = [nll_with_context(whole, t, [60], scored=4) for t in (text, mixed)]
    assert float((other[0] - other[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("contexts, scored", [([0], 4), ([30], 4), ([4], 0)])
def test_contexts_that_do_not_fit(contexts, scored):
    with pytest.raises(ValueError, match="windows of 33 tokens allow contexts of 1 to"):
        nll_with_context(Uniform(), noise(32), contexts, scored=scored)


# --- Windows of books -----------------------------------------------------------------------


def test_windows_come_from_held_out_books_and_never_cross_a_border():
    windows = book_windows(512, 24)
    assert windows.shape == (24, 513) and windows.dtype == torch.int64
    books = [d for s in ("validation", "test") for d in load_documents(s, BOOKS)]
    texts = [d.text.encode() for d in books]
    found = [[i for i, text in enumerate(texts) if bytes(w.tolist()) in text] for w in windows]
    assert all(len(where) == 1 for where in found)
    assert len({where[0] for where in found}) >= 8  # spread over the books
    training = b"".join(d.text.encode() for d in load_documents("train", BOOKS))
    assert not any(bytes(w.tolist()) in training for w in windows)
    assert torch.equal(windows, book_windows(512, 24))
    assert len({bytes(w.tolist()) for w in windows}) == 24


def test_windows_in_bpe_tokens():
    windows = book_windows(64, 5, tokenizer="bpe", parts=("austen",))
    assert windows.shape == (5, 65) and int(windows.max()) >= 256


@pytest.mark.parametrize("length, n, message", [
    (0, 3, "give at least 1 of each"), (8, 0, "give at least 1 of each"),
    (100_000, 50, "these books have 8 windows of 100000 tokens: ask for fewer or shorter"),
])
def test_windows_there_are_not(length, n, message):
    with pytest.raises(ValueError, match=message):
        book_windows(length, n)


# --- Rotary base and record grids -----------------------------------------------------------


def test_with_rope_base_changes_the_frequencies_and_nothing_else():
    model = LanguageModel(ModelConfig(VOCAB, d_model=16, n_layers=2, n_heads=2, attention="diff"))
    with torch.no_grad():  # attention that is sharp enough for positions to matter
        for block in model.blocks:
            block.attention.q_proj.weight.mul_(8)
    other = with_rope_base(model, 1e6)
    assert other.config.rope_base == 1e6 and model.config.rope_base == 10_000
    text = noise(64)
    assert not torch.allclose(nll_by_position(model, text), nll_by_position(other, text))
    back = with_rope_base(other, 10_000.0)
    torch.testing.assert_close(nll_by_position(model, text), nll_by_position(back, text))
    assert model.lambdas() == other.lambdas()


def test_grids_of_the_record():
    assert powers(2048) == [64, 128, 256, 512, 1024, 2048]
    assert powers(1000) == [64, 128, 256, 512]
    grid = fine(2048)
    assert grid[:16] == list(range(1, 17)) and grid[-1] == 2048 and set(powers(2048)) <= set(grid)
    assert fine(100)[-1] == 91 and fine(8) == list(range(1, 9))
    nll = nll_by_position(Copy(20, reads=lambda i: 0), noise(128))
    arrays = curves(nll, ", x")
    assert set(arrays) == {"position", "cumulative NLL, x", "interval NLL, x"}
    assert len({len(values) for values in arrays.values()}) == 1
    assert all(isinstance(value, float) for values in arrays.values() for value in values)


# --- What chapter 10 says -------------------------------------------------------------------


def test_what_chapter_10_says_of_the_paper():
    fig4 = paper.load("fig4")
    at = fig4["position"]
    local = {k: interval_average(at, fig4[k]).numpy() for k in ("softmax", "diff")}
    gap = local["diff"] - local["softmax"]
    assert (np.array(fig4["diff"]) < fig4["softmax"]).all()
    assert np.abs(gap[1:2]).min() > 0.08  # largest below 100 tokens
    assert (np.abs(gap[2:-1] + 0.035) < 0.006).all()  # flat, within the error of the reading
    assert abs(gap[-1]) == np.abs(gap).min()  # smallest in the last step: it does not widen
    fall = {k: fig4[k][0] - fig4[k][-1] for k in local}
    assert fall["softmax"] > fall["diff"]
    for loss in local.values():
        assert loss[1:5].mean() == pytest.approx(2.4, abs=0.05)
        assert loss[-1] == pytest.approx(2.1, abs=0.05)
    assert 1 - math.exp(-0.035) == pytest.approx(0.034, abs=5e-4)
    # 64 for 16 times the length is 16^1.5; the same rule gives ours.
    assert 640_000 / 10_000 == pytest.approx(16**1.5) and RAISED / 10_000 == pytest.approx(4**1.5)


def test_where_the_rotary_pairs_run_out():
    pair = torch.arange(16)
    turn = 2 * math.pi * 10_000 ** (pair / 16)
    first = int((turn > 256).int().argmax())
    assert first == 7
    assert round(256 * (RAISED / 10_000) ** (first / 16)) == 636
    assert 256 * 64 ** (first / 16) > 1024
    assert 10_000 * (400 / 256) ** (16 / 7) == pytest.approx(27_700, abs=100)  # exercise 2


LONG = records.load("long-context-cpu")


def test_the_setup_of_chapter_10_is_that_of_the_record():
    run = LONG.of("diff")[0]
    start = records.load("lm-cpu").of("diff")[0]
    assert LONG.values("diff", "cumulative NLL 1024").size == 3
    assert run.tokens == pytest.approx(0.4e6, rel=0.05)
    assert start.tokens == pytest.approx(4.9e6, rel=0.01)
    assert run.parameters == pytest.approx(0.87e6, rel=0.01)
    assert run.train["lr"] == 5e-4 == start.train["lr"] / 4
    assert run.train["steps"] == 100 and "seq_len=1024" in LONG.task
    assert run.model["rope_base"] == RAISED == 80_000
    assert WINDOWS == 64
    assert len([d for s in ("validation", "test") for d in load_documents(s, BOOKS)]) == 13


def test_the_words_of_chapter_10_follow_from_the_record():
    for kind in ("softmax", "diff"):
        def values(name: str, kind: str = kind) -> np.ndarray:
            return LONG.values(kind, name)

        # The cliff stands at 1024 and no more at 256, in every run.
        assert (values("NLL 256-512") < values("NLL 128-256") + 0.1).all()
        assert (values("NLL 512-1024") < values("NLL 128-256") + 0.1).all()
        assert (values("NLL 1024-2048") > values("NLL 512-1024") + 0.3).all()
        # The average falls to 256 and is level from there.
        assert (values("fall 256") > 0.09).all()
        assert (np.abs(values("fall 1024") - values("fall 256")) < 0.02).all()
        # Nothing is gained from far away; a hundredth or two from the near.
        for context in (64, 128, 256, 512):
            assert (np.abs(values(f"gain over context {context}")) < 0.015).all()
        assert (values("gain over context 16") > 0.005).all()
        assert (values("gain over context 16") < 0.035).all()
        assert (values("gain over context 512") < 0).all()
    assert LONG.standing[0].verdict == LONG.paired("cumulative NLL 1024").verdict("lower")


def test_diff_breaks_harder_beyond_its_length_and_only_there():
    """Steps 5 and 6: three pairs of three, before and after the extension."""
    zero = records.load("extrapolation-cpu")
    beyond = zero.paired("cumulative NLL 1024, base 10000")
    after = LONG.paired("NLL 1024-2048")
    for paired in (beyond, after):
        assert paired.n == 3 and min(paired.differences) > 0 and paired.low > 0
        assert paired.verdict("lower") == CONTRADICTED
    for base in (80_000, 640_000):
        assert zero.paired(f"cumulative NLL 1024, base {base}").verdict("lower") == NO_DIFFERENCE
    for position in (64, 256, 1024):
        assert LONG.paired(f"cumulative NLL {position}").verdict("lower") == NO_DIFFERENCE
    assert LONG.paired("fall 1024").verdict("higher") == NO_DIFFERENCE
    # Raising the base costs loss inside the training length and saves it beyond.
    for kind in ("softmax", "diff"):
        inside, outside = (
            [zero.values(kind, f"cumulative NLL {p}, base {b}").mean()
             for b in (10_000, 80_000, 640_000)] for p in (256, 1024))
        assert inside == sorted(inside) and min(outside) < outside[0] - 0.5
    # The gap in percent, as drawn beside the paper's.
    position = LONG.array("diff", "position")[0]
    drawn = (position >= 16) & (position <= 1024)
    s, t = (LONG.array(kind, "cumulative NLL")[:, drawn] for kind in ("softmax", "diff"))
    assert np.abs((t - s) / s).max() < 0.03


def test_the_live_pair_of_the_chapter_is_the_recorded_one():
    """The shipped weights, on two of the windows: far from the cliff the record's loss, in bf16."""
    model = records.model("long-context-cpu/diff-0")
    assert model.config.rope_base == RAISED
    nll = nll_by_position(model, book_windows(1024, 2))
    assert float(nll[:, 512:].mean()) < 2
