"""diffbook.measure.recall: AR-Hit by hand, by brute force, and on models that must fail or win."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffbook import paper, records
from diffbook.experiments import EXPERIMENTS
from diffbook.measure import recall
from diffbook.measure.recall import (
    RULES,
    ar_hits,
    eval_windows,
    first_occurrence,
    ngram_counts,
    recall_losses,
    token_losses,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, REPRODUCED
from diffbook.tasks.text import TextTask, get_tokenizer

# --- AR hits by hand ------------------------------------------------------------------------

SENTENCE = "the cat saw the dog and the cat ran to the dog and hid".split()
IDS = {word: i for i, word in enumerate(dict.fromkeys(SENTENCE))}
TOKENS = [IDS[word] for word in SENTENCE]


def words(hits: np.ndarray) -> list[tuple[int, str]]:
    return [(i, SENTENCE[i]) for i in np.flatnonzero(hits)]


def test_a_sentence_by_hand():
    assert words(ar_hits(TOKENS, 2)) == [(7, "cat"), (11, "dog"), (12, "and")]
    assert words(ar_hits(TOKENS, 3)) == [(12, "and")]
    assert words(ar_hits(TOKENS, 4)) == []
    first = first_occurrence(TOKENS, 2)
    assert {i: int(first[i]) for i in (7, 11, 12)} == {7: 1, 11: 4, 12: 5}
    assert (first >= 0).sum() == 3
    # "the cat" is frequent in training, "the dog" is there once, "dog and" never.
    train = np.array([IDS[w] for w in "the cat and the cat and the cat hid the dog".split()])
    assert ngram_counts(TOKENS, 2, train)[[7, 11, 12]].tolist() == [3, 1, 0]
    for at_most, expected in ((0, [12]), (1, [11, 12]), (2, [11, 12]), (3, [7, 11, 12])):
        found = ar_hits(TOKENS, 2, stream=train, at_most=at_most)
        assert np.flatnonzero(found).tolist() == expected


def test_occurrences_overlap_and_windows_do_not_see_each_other():
    assert np.flatnonzero(ar_hits([5, 5, 5, 5], 2)).tolist() == [2, 3]
    assert first_occurrence([5, 5, 5, 5], 2).tolist() == [-1, -1, 1, 1]
    assert not ar_hits([[1, 2, 3], [1, 2, 3]], 2).any()
    assert ar_hits([[1, 2, 3], [1, 2, 3]], 2).shape == (2, 3)
    assert ar_hits(np.zeros((2, 3), np.uint8), 5).sum() == 0  # shorter than n


# --- Brute force, and wrong definitions -----------------------------------------------------


def brute_force(tokens, n, stream, at_most):
    """The definition, word by word."""
    tokens = np.asarray(tokens).tolist()
    text = np.asarray(stream).tolist()
    frequent = {}
    for end in range(n, len(text) + 1):
        key = tuple(text[end - n : end])
        frequent[key] = frequent.get(key, 0) + 1
    found = []
    for row in tokens:
        for i in range(len(row)):
            gram = tuple(row[max(0, i - n + 1) : i + 1])
            before = [tuple(row[j - n + 1 : j + 1]) for j in range(n - 1, i)]
            found.append(gram in before and frequent.get(gram, 0) <= at_most)
    return np.array(found).reshape(len(tokens), -1)


def with_itself(tokens, n, stream, at_most):
    """Wrong: the current occurrence counts as an earlier one."""
    everywhere = np.zeros(np.shape(tokens), bool)
    everywhere[:, n - 1 :] = True
    return everywhere & (ngram_counts(tokens, n, stream) <= at_most)


def with_the_future(tokens, n, stream, at_most):
    """Wrong: a later occurrence counts, too."""
    turned = ar_hits(np.asarray(tokens)[:, ::-1], n)[:, ::-1]  # by its first token
    later = np.zeros_like(turned)
    later[:, n - 1 :] = turned[:, : turned.shape[1] - n + 1]
    rare = ngram_counts(tokens, n, stream) <= at_most
    return (ar_hits(tokens, n) | later) & rare


def one_token_less(tokens, n, stream, at_most):
    return ar_hits(tokens, n - 1, stream=stream, at_most=at_most)


def frequent_ones_too(tokens, n, stream, at_most):
    return ar_hits(tokens, n)


def across_windows(tokens, n, stream, at_most):
    flat = ar_hits(np.asarray(tokens).ravel(), n, stream=stream, at_most=at_most)
    return flat.reshape(np.shape(tokens))


def shifted(tokens, n, stream, at_most):
    """Wrong: marks the token before the one that is recalled."""
    return np.roll(ours(tokens, n, stream, at_most), -1, axis=1)


def ours(tokens, n, stream, at_most):
    return ar_hits(tokens, n, stream=stream, at_most=at_most)


def same_as_brute_force(function) -> bool:
    rng = np.random.default_rng(0)
    same = []
    for n, ids, at_most in ((3, 4, 14), (3, 3, 33), (4, 3, 11), (5, 2, 28)):
        tokens, stream = rng.integers(0, ids, (5, 60)), rng.integers(0, ids, 900)
        expected = brute_force(tokens, n, stream, at_most)
        assert 0.1 < expected.mean() < 0.9
        same.append(np.array_equal(function(tokens, n, stream, at_most), expected))
    return all(same)


def test_equal_to_the_definition():
    assert same_as_brute_force(ours)
    rng = np.random.default_rng(1)
    tokens, stream = rng.integers(0, 4096, (2, 50)), rng.integers(0, 4096, 100)
    tokens[:, 25:] = tokens[:, :25]
    for n in (2, 5):
        assert np.array_equal(ours(tokens, n, stream, 0), brute_force(tokens, n, stream, 0))


@pytest.mark.parametrize("wrong", [
    with_itself, with_the_future, one_token_less, frequent_ones_too, across_windows, shifted])
def test_wrong_definitions_are_caught(wrong):
    assert not same_as_brute_force(wrong)


def test_counts_are_exact_across_chunks():
    """The stream is read in pieces of 2^18 tokens; none is lost or counted twice at a seam."""
    rng = np.random.default_rng(2)
    stream = rng.integers(97, 99, 2**19 + 300).astype(np.uint8)
    text = stream.tobytes()
    for n in (2, 6, 8):
        seam = stream[2**18 - n + 1 : 2**18 + 1]
        grams = np.stack([seam, stream[:n], stream[-n:], np.full(n, 120, np.uint8)])
        counts = ngram_counts(grams, n, stream)
        assert (counts[:, :-1] == 0).all()
        for gram, count in zip(grams, counts[:, -1], strict=True):
            naive = at = 0
            while (at := text.find(gram.tobytes(), at)) >= 0:
                naive, at = naive + 1, at + 1
            assert count == naive
        assert counts[-1, -1] == 0


# --- Losses ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeats:
    """Windows of random tokens of which the second half repeats the first: the interface of a
    TextTask, and no text."""

    seq_len: int = 63
    tokenizer: str = "made up"
    eval_batch: int = 4
    vocab: int = 50
    repeat: bool = True

    def tokens(self, split: str) -> np.ndarray:
        draw = np.random.default_rng(0).integers(0, self.vocab, (8, self.seq_len + 1))
        if self.repeat and split == "validation":
            draw[:, 32:] = draw[:, :32]
        return draw.ravel() if split == "validation" else draw[:1].ravel()

    def eval_starts(self, split: str) -> np.ndarray:
        return np.arange(8) * (self.seq_len + 1)


class Uniform(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 256)


class Bigram(nn.Module):
    """Looks at the last token only."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


class Copier(nn.Module):
    """An induction rule: after (x, y) it says what followed the last (x, y), else nothing."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 256)
        for row, line in enumerate(tokens.tolist()):
            after = {}
            for i in range(1, len(line)):
                pair = (line[i - 1], line[i])
                if pair in after:
                    logits[row, i, after[pair]] = 30.0
                if i + 1 < len(line):
                    after[pair] = line[i + 1]
        return logits


def test_a_copier_is_perfect_on_hits_and_knows_nothing_else():
    task = Repeats()
    found = recall_losses(Copier(), task, n=3, at_most=10)
    assert found["AR-hit share"] == pytest.approx(30 / 63, abs=0.02)
    assert found["AR-hit loss"] < 0.2
    assert found["others loss"] == pytest.approx(math.log(256), abs=0.4)
    assert found["recall gain"] > 5


@pytest.mark.parametrize("model", [Uniform(), Bigram()], ids=["uniform", "bigram"])
def test_models_without_memory_gain_nothing(model):
    found = recall_losses(model, Repeats(), n=3, at_most=10)
    assert found["recall gain"] == pytest.approx(0, abs=1e-6)
    if isinstance(model, Uniform):
        assert found["AR-hit loss"] == pytest.approx(math.log(256))
        assert found["others loss"] == pytest.approx(math.log(256))
    else:
        assert found["AR-hit loss"] > math.log(256)


def test_the_gain_compares_with_the_first_time():
    """A model that learned one n-gram by heart has a low loss on its hits, and no gain."""
    class ByHeart(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, 256)
            task = Repeats()
            windows = eval_windows(task)  # type: ignore[arg-type]
            rows = {tuple(row[:2].tolist()): row for row in windows}
            for i, line in enumerate(tokens.tolist()):
                row = rows[tuple(line[:2])]
                logits[i].scatter_(1, row[1 : len(line) + 1, None], 30.0)
            return logits

    found = recall_losses(ByHeart(), Repeats(), n=3, at_most=10)
    assert found["AR-hit loss"] < 1e-6  # looks like perfect recall
    assert abs(found["recall gain"]) < 1e-6  # but knew it before


def test_no_hit_is_an_error():
    with pytest.raises(ValueError, match=r"no token of the validation windows is an AR hit"):
        recall_losses(Uniform(), Repeats(vocab=200, repeat=False), n=5, at_most=10)


TEXT = TextTask(seq_len=96, parts=("state_of_the_union",), eval_windows=24, eval_batch=5)


def test_shares_and_losses_add_up_to_the_validation_loss():
    model = LanguageModel(ModelConfig(256, 16, 1, 2, attention="diff"))
    model.train()
    found = recall_losses(model, TEXT, n=4, at_most=5000)
    assert model.training
    share = found["AR-hit share"]
    together = share * found["AR-hit loss"] + (1 - share) * found["others loss"]
    assert together == pytest.approx(TEXT.evaluate(model)["loss"], rel=1e-6)
    assert found["AR-hit share"] < recall_losses(model, TEXT, n=4, at_most=10**9)["AR-hit share"]
    losses = token_losses(model, eval_windows(TEXT), batch=7)
    assert losses.shape == (24, 96)
    np.testing.assert_allclose(losses, token_losses(model, eval_windows(TEXT), 24), atol=1e-5)


def test_the_rules():
    assert RULES["bpe"] == (2, 1250)  # Zoology's own
    found = recall._targets(TEXT, "validation", recall.Rule(4, 1000))[0]
    windows = eval_windows(TEXT).numpy()
    naive = brute_force(windows, 4, TEXT.tokens("train")[:1], 10**9)[:, 1:]
    text = TEXT.tokens("train").tobytes()
    for row, column in np.argwhere(naive)[::7]:
        gram = bytes(windows[row, column - 2 : column + 2].tolist())
        assert found[row, column] == (text.count(gram) <= 1000), gram
    assert not found[~naive].any()


@pytest.mark.parametrize("n, message", [
    (1, "has at least two"), (0, "n=0"),
    (9, "9 tokens of 8 bits do not fit into 64: give n up to 8"),
])
def test_bad_n(n, message):
    with pytest.raises(ValueError, match=message):
        ar_hits([1, 2, 3, 1, 2], n)


def test_other_errors():
    with pytest.raises(ValueError, match="at_most=3 counts n-grams of the training text"):
        ar_hits([1, 2, 1, 2], 2, at_most=3)
    with pytest.raises(ValueError, match="token id -1"):
        ar_hits([1, -1, 1], 2)


# --- The experiments ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ablation", "lm-bpe"])
def test_the_experiments_measure_it(name, monkeypatch):
    entry = EXPERIMENTS[name]
    task = TextTask(seq_len=64, parts=("state_of_the_union",), eval_windows=16,
                    tokenizer=entry.presets["cpu"].task.tokenizer)
    vocab = get_tokenizer(task.tokenizer).vocab_size
    found = entry.measure(LanguageModel(ModelConfig(vocab, 16, 1, 2)), task)
    assert {"validation loss", "AR-hit loss", "others loss", "AR-hit share"} <= set(found)
    assert {claim.measure for claim in entry.claims} <= set(found)
    share = found["AR-hit share"]
    together = share * found["AR-hit loss"] + (1 - share) * found["others loss"]
    assert together == pytest.approx(found["validation loss"], rel=1e-6)


def test_the_claims_quote_table_6():
    table = paper.load("table6")
    columns = {"validation loss": "loss", "AR-hit loss": "ar_hit", "others loss": "others"}
    quoted = [*EXPERIMENTS["ablation"].claims, EXPERIMENTS["lm-bpe"].claims[1]]
    assert len(quoted) == 8
    for claim in quoted:
        printed = dict(zip(table["variants"], table[columns[claim.measure]], strict=True))
        assert claim.paper.startswith(f"{printed[claim.b]:.3f} / {printed[claim.a]:.3f} ("), claim
        assert printed[claim.a] < printed[claim.b] and claim.says == "lower"
    assert set(table["variants"]) < set(EXPERIMENTS["ablation"].variants)


# --- What chapter 16 says about the paper's own numbers ---------------------------------------


def test_chapter_16_reads_table_6_rightly():
    table = paper.load("table6")
    loss, ar, others = (
        dict(zip(table["variants"], table[column], strict=True))
        for column in ("loss", "ar_hit", "others")
    )
    wide, control = loss["softmax_wide"], loss["softmax_wide_norm"]
    bare, diff = loss["diff_no_norm"], loss["diff"]
    assert round(diff - loss["softmax"], 3) == -0.025
    assert round(bare - diff, 3) == 0.060
    assert {round(loss[k] - diff, 3) for k in ("diff_0.8", "diff_0.5")} == {0.003, 0.004}
    # The square.
    assert [round(x, 3) for x in (control - wide, bare - wide, diff - control)] == [
        -0.002, 0.034, -0.024]
    assert round((diff - bare) - (control - wide), 3) == -0.058
    assert max(loss, key=loss.__getitem__) == "diff_no_norm"
    # Exercise 1: main effects.
    assert round(((bare - wide) + (diff - control)) / 2, 3) == 0.005
    assert round(((control - wide) + (diff - bare)) / 2, 3) == -0.031
    # The share of AR hits is the same in every row, and most of the gain is not theirs.
    share = [(others[k] - loss[k]) / (others[k] - ar[k]) for k in loss]
    assert max(share) - min(share) < 0.0005
    p = sum(share) / len(share)
    parts = [w * (c["diff"] - c["softmax"]) for w, c in ((p, ar), (1 - p, others))]
    assert sum(parts) == pytest.approx(diff - loss["softmax"], abs=0.001)  # to their last digit
    assert round(parts[1] / sum(parts), 2) == 0.94
    for column, percent in ((ar, 2.0), (others, 0.8)):
        gain = 1 - column["diff"] / column["softmax"]
        assert round(100 * gain, 1) == percent


@pytest.mark.skipif(
    "multineedle-cpu" not in records.available(), reason="the record is not published")
def test_chapter_16_reads_the_needles_rightly():
    record = records.load("multineedle-cpu")
    learned = {kind: record.values(kind, "accuracy 1x") > 0.9 for kind in record.variants}
    assert {kind for kind, ok in learned.items() if ok.all()} == {"softmax", "diff", "diff_frozen"}
    assert all(len(ok) == 8 for ok in learned.values())
    for norm in ("softmax_norm", "softmax_wide_norm"):  # those that learn carry less far
        far = record.values(norm, "accuracy 4x")[learned[norm]]
        assert far.max() < record.values("softmax", "accuracy 4x").min()
        assert record.paired("accuracy 4x", norm, "softmax").verdict("higher") == CONTRADICTED
        assert record.paired("accuracy 4x", "diff", norm).verdict("higher") == REPRODUCED
    assert record.paired("accuracy 4x").verdict("higher") == CONTRADICTED
    frozen = record.paired("accuracy 4x", "diff_frozen", "diff")
    assert frozen.verdict("higher") == NO_DIFFERENCE
    assert max(abs(frozen.low), abs(frozen.high)) < 0.06  # "a few hundredths"
