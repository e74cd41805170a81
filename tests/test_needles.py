"""Chapter 11: its measures on models whose score is known, and its words against the records."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffbook import paper, records
from diffbook.experiments.multineedle import MULTINEEDLE
from diffbook.experiments.text_needle import TASK as TEXT_TASK
from diffbook.measure.needles import (
    FIG5_TIMES,
    OUTCOMES,
    RIGHT,
    TABLE2,
    fits,
    heat_map,
    left_plateau,
    recency,
    retrieval_measures,
    said,
    u_depth,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE
from diffbook.show.retrieval import depth_map
from diffbook.tasks import text
from diffbook.tasks.needle import DEPTHS, TEMPLATES, NeedleTask

TASK = NeedleTask()


class Habit(nn.Module):
    """Answers every question by a rule, without attention."""

    def __init__(self, which: str):
        super().__init__()
        self.which = which
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TASK.vocab_size)
        city = (tokens >= TASK.first_city) & (tokens < TASK.first_number)
        number = (tokens >= TASK.first_number) & (tokens < TASK.first_word)
        needle = number & nn.functional.pad(city[:, :-1], (1, 0))
        for row, line in enumerate(tokens):
            places = needle[row].nonzero().flatten()
            for at in city[row].nonzero().flatten().tolist():
                right = int((line == line[at]).nonzero()[0]) + 1
                if self.which == "oracle":
                    answer = line[right]
                elif self.which == "first":
                    answer = line[places[0]]
                elif self.which == "last quarter":
                    near = right >= 0.75 * len(line)
                    answer = line[right] if near else torch.tensor(TASK.first_word)
                elif self.which == "ends":
                    near = not 0.2 < right / len(line) < 0.8
                    answer = line[right] if near else torch.tensor(TASK.first_number)
                else:  # some needle
                    pick = torch.randint(len(places), (), generator=self.generator)
                    answer = line[places[pick]]
                logits[row, at, answer] = 1.0
        return logits


# --- Answers and grids ------------------------------------------------------------------------


def test_what_was_said_is_told_apart():
    two = replace(TASK, n_needles=2, n_queries=2)
    assert said(Habit("oracle"), two, n=10).tolist() == [[RIGHT, RIGHT]] * 10
    first = said(Habit("first"), two, n=40)
    assert first.shape == (40, 2)
    assert set(first.flatten().tolist()) == {RIGHT, OUTCOMES.index("another needle")}
    assert ((first == RIGHT).sum(1) == 1).all()  # of two needles exactly one is the first
    quarter = said(Habit("last quarter"), replace(TASK, n_queries=1, depth=0.0), n=5)
    assert quarter.tolist() == [[OUTCOMES.index("no number")]] * 5
    ends = said(Habit("ends"), replace(TASK, seq_len=256, n_queries=1, depth=0.5), n=60)
    # The lowest number stands in no needle in three sequences out of four.
    share = (ends == OUTCOMES.index("another number")).double().mean()
    assert share == pytest.approx(0.75, abs=0.2)
    with pytest.raises(ValueError, match="n=0: give at least one"):
        said(Habit("oracle"), TASK, n=0)


def test_the_same_questions_for_every_model_and_batching_changes_nothing():
    long = replace(TASK, seq_len=2**14, n_queries=1)  # two sequences a pass
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return torch.zeros(*tokens.shape, TASK.vocab_size)

    said(Watch(), long, n=3)
    assert [len(batch) for batch in seen] == [2, 1]
    first = torch.cat(seen)
    seen.clear()
    said(Watch(), long, n=3)
    assert torch.equal(torch.cat(seen), first)


@pytest.mark.parametrize("habit, low, high", [
    ("oracle", (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    ("first", (1, 0.2, 0, 0, 0), (1, 0.7, 0.3, 0.1, 0)),
    ("last quarter", (0, 0, 0, 0, 1), (0, 0, 0, 1, 1)),
    ("ends", (1, 0, 0, 0, 1), (1, 0.3, 0.3, 0.3, 1)),
    ("some needle", (0.1,) * 5, (0.42,) * 5),
])
def test_every_habit_is_exposed_by_depth(habit, low, high):
    row = heat_map(Habit(habit), TASK, [256], n=60)[:, 0]
    for value, least, most in zip(row.tolist(), low, high, strict=True):
        assert least <= value <= most, row
    u, lean = float(u_depth(row)), float(recency(row))
    if habit == "oracle":
        assert u == lean == 0
    elif habit == "first":
        assert lean == -1
    elif habit == "last quarter":
        assert lean == 1 and u == 0.5
    elif habit == "ends":
        assert abs(lean) == 0 and u > 0.7
    else:
        assert abs(lean) < 0.3 and abs(u) < 0.3


def test_uniform_attention_is_exposed():
    """A trained model whose last layer averages over everything cannot use the city."""
    model = copy.deepcopy(records.model("multineedle-cpu/softmax-0"))
    assert (said(model, TASK, n=30) == RIGHT).double().mean() > 0.95
    with torch.no_grad():
        model.blocks[-1].attention.q_proj.weight.zero_()
    score = float((said(model, TASK, n=100) == RIGHT).double().mean())
    assert score < 0.3
    assert not left_plateau(score, TASK.n_needles)


def test_u_and_recency_of_known_curves():
    straight = torch.linspace(0.2, 1.0, 5)
    assert float(u_depth(straight)) == pytest.approx(0)
    assert float(recency(straight)) == pytest.approx(0.8)
    grid = np.array([[1.0, 0.0], [0.5, 0.0], [0.2, 1.0], [0.5, 0.0], [0.8, 0.0]])
    assert u_depth(grid) == pytest.approx([0.7, -1.0])  # (depths, lengths): column by column
    assert recency(grid) == pytest.approx([-0.2, 0.0])
    for bad in (4, 1):
        with pytest.raises(ValueError, match=f"{bad} depths have no middle"):
            u_depth(torch.zeros(bad))


def test_leaving_the_plateau_is_halfway():
    assert not left_plateau(0.25, 4)
    assert not left_plateau(0.625, 4)
    assert left_plateau(0.63, 4)
    assert left_plateau(0.76, 2) and not left_plateau(0.74, 2)


def test_all_measures_of_models_with_known_scores():
    numbers = retrieval_measures(Habit("oracle"), TASK, n=4)
    for n, r in TABLE2:
        for times in (1, 2, 4, 8):
            assert numbers[f"N={n}, R={r}, {times}x"] == 1
            assert numbers[f"by depth N={n}, R={r}, {times}x"] == [1] * 5
    for times in FIG5_TIMES:
        assert numbers[f"N=8, R=1, {times}x"] == numbers[f"depth 25 %, {times}x"] == 1
        assert numbers[f"U-depth {times}x"] == numbers[f"recency {times}x"] == 0
    assert numbers["N=8, R=1, all"] == numbers["left the plateau"] == 1
    assert numbers["said 4x"] == [1, 0, 0, 0]
    # A bin of distances may be empty with so few questions.
    assert {value for value in numbers["by distance 4x"] if value == value} == {1}


def test_only_lengths_that_the_model_knows_are_asked():
    model = LanguageModel(ModelConfig(TASK.vocab_size, 16, 1, 2, max_seq_len=200))
    assert fits(model, 200) and not fits(model, 201)
    numbers = retrieval_measures(model, TASK, n=2)
    assert "N=8, R=1, 3x" in numbers and "N=8, R=1, 4x" not in numbers
    assert "said 2x" in numbers and "said 4x" not in numbers


def test_depth_map_draws_every_cell_and_its_mean():
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    cells = np.linspace(0, 1, 10).reshape(5, 2)
    image = depth_map(ax, cells, ["1x", "2x"], mean=True)
    assert image.get_array().shape == (6, 2)
    assert np.allclose(image.get_array()[-1], cells.mean(0))
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "mean"
    assert {".11", "1.0", ".56"} <= {note.get_text() for note in ax.texts}
    plt.close(fig)
    with pytest.raises(ValueError, match=r"\(depths, lengths\) = \(5, 3\), got \(5, 2\)"):
        depth_map(plt.subplots()[1], cells, ["a", "b", "c"])
    plt.close("all")


# --- The curriculum on text -------------------------------------------------------------------


def test_a_drill_asks_what_stands_in_its_text():
    tokenizer = text.get_tokenizer("bpe")
    for progress, template in ((0.0, TEMPLATES[0]), (0.99, TEMPLATES[-1])):
        inputs, targets = TEXT_TASK.training_batch(2, torch.Generator().manual_seed(1), progress)
        assert inputs.shape == targets.shape
        for row, target in zip(inputs, targets, strict=True):
            answers = re.findall("...", tokenizer.decode(target[target >= 0]))
            assert len(answers) == TEXT_TASK.drills
            body, *lines = tokenizer.decode(row).rsplit("\n", TEXT_TASK.drills)
            # An input ends one token before its row: the last question has lost its full stop.
            needle = re.compile(
                template[:-1].replace("{city}", "([A-Z][a-z]+)").replace("{number}", r"(\d{3})"))
            pairs = dict(needle.findall(body))
            assert len(pairs) == TEXT_TASK.n_needles
            for line, answer in zip(lines, answers, strict=True):
                if answer not in line:  # … or its last digit
                    continue
                city, number = needle.match(line).groups()
                assert pairs[city] == number == answer


def test_drills_are_drawn_with_replacement():
    """So no answer can be had by elimination: a city comes twice, though all were not asked."""
    task = replace(TEXT_TASK, drills=3, curriculum=((1.0, 64, 0, 0),))
    twice = 0
    for seed in range(60):
        _, targets = task.training_batch(1, torch.Generator().manual_seed(seed))
        digits = text.get_tokenizer("bpe").decode(targets[0][targets[0] >= 0])
        twice += len({digits[:3], digits[3:6], digits[6:]}) < 3
    assert twice / 60 == pytest.approx(1 - 3 / 4 * 2 / 4, abs=0.2)


@pytest.mark.parametrize("change, message", [
    ({"curriculum": ((0.5, 64, 3, 1),)}, r"curriculum step \(0.5, 64, 3, 1\)"),
    ({"curriculum": ((1.5, 64, 0, 1),)}, "curriculum step"),
    ({"curriculum": ((0.5, 64, 0, 5),)}, "from 0 to 4"),
    ({"drills": 0}, "drills=0: ask at least one"),
])
def test_curriculum_errors(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TEXT_TASK, **change)


# --- Presets ----------------------------------------------------------------------------------


def test_presets_reach_the_lengths_they_promise():
    for name, longest in (("cpu", 512), ("t4", 4096), ("h100", 8192)):
        preset = MULTINEEDLE.presets[name]
        model = preset.model
        reach = max(t for t in (1, 2, 4, 8) if t * preset.task.seq_len <= model.max_seq_len)
        assert reach * preset.task.seq_len == longest
        assert model.vocab_size == preset.task.vocab_size
    batch, _ = MULTINEEDLE.presets["h100"].task.training_batch(
        64, torch.Generator().manual_seed(0), progress=0.0)
    assert batch.numel() == 64 * 2048 and batch.shape[1] == 64


def test_claims_quote_the_paper():
    table, figure = paper.load("table2"), paper.load("fig5")
    quoted = {c.measure: c.paper for c in MULTINEEDLE.claims if c.chapter == 11}
    for at, (n, r) in enumerate(TABLE2[1:], 1):
        pair = f"{table['softmax'][at]:.2f} / {table['diff'][at]:.2f}"
        assert quoted[f"N={n}, R={r}, 1x"] == pair
    assert quoted["N=8, R=1, 8x"].startswith("0.52 / 0.86")
    assert quoted["depth 25 %, 8x"].startswith("0.12 / 0.88")
    for kind, mean in (("softmax", "0.72"), ("diff", "0.89")):
        assert f"{np.mean(np.array(figure[kind])[:5]):.2f}" == mean
        assert mean in quoted["N=8, R=1, all"]


# --- What chapter 11 says in words --------------------------------------------------------------

RECORD = records.load("multineedle-cpu")


def test_who_left_the_plateau():
    left = {kind: RECORD.values(kind, "left the plateau") for kind in RECORD.variants}
    assert left["softmax"].all() and left["diff"].all() and left["diff_frozen"].all()
    for kind in ("softmax_norm", "softmax_wide_norm"):
        assert 0 < left[kind].sum() < 8  # some seeds stay
        ok = left[kind] == 1
        for times in (2, 4, 8):  # and those that learned carry less far
            mine = RECORD.values(kind, f"accuracy {times}x")[ok].mean()
            assert mine < RECORD.values("softmax", f"accuracy {times}x").mean()
    assert all(RECORD.paired("accuracy 1x", a=kind).n == 8 for kind in RECORD.variants)


def test_table_2_at_four_lengths():
    cells = {(n, r, t): RECORD.paired(f"N={n}, R={r}, {t}x")
             for n, r in TABLE2[1:] for t in (1, 2, 4, 8)}
    assert {cells[n, r, 1].verdict("higher") for n, r in TABLE2[1:]} == {NO_DIFFERENCE}
    beyond = {key: pair for key, pair in cells.items() if key[2] > 1}
    assert len(beyond) == 9 and all(pair.mean < 0 for pair in beyond.values())
    clear = [key for key, pair in beyond.items() if pair.verdict("higher") == CONTRADICTED]
    assert clear == [(4, 2, 4), (6, 2, 4)]
    assert min(RECORD.values(kind, f"N={n}, R={r}, 1x").mean()
               for kind in ("softmax", "diff") for n, r in TABLE2) > 0.99


def test_fig_5_and_its_holes():
    for measure in ("N=8, R=1, all", "N=8, R=1, 8x"):
        assert RECORD.paired(measure).verdict("higher") == CONTRADICTED
    assert RECORD.paired("depth 25 %, 8x").verdict("higher") == NO_DIFFERENCE
    grid = {
        kind: np.stack([RECORD.array(kind, f"by depth N=8, R=1, {t}x").mean(0)
                        for t in FIG5_TIMES], axis=1)
        for kind in ("softmax", "diff")
    }
    palest = np.argsort(grid["softmax"].ravel())[:2]
    cells = {(DEPTHS[i // 8], FIG5_TIMES[i % 8]) for i in palest}
    assert cells == {(0.25, 7), (0.0, 5)}
    for kind, map_ in grid.items():
        assert map_[1, 6] == map_.min(), kind  # 7x at 25 %: the same hole in both
    assert grid["softmax"][0, 5] > grid["softmax"][0, 4]  # 6x at 0 % is less deep


def test_u_and_recency_of_the_record():
    for times in (4, 8):
        assert RECORD.paired(f"U-depth {times}x").low > 0
    for kind in ("softmax", "diff"):
        assert (RECORD.values(kind, "recency 8x") > 0.4).all()
        by = RECORD.array(kind, "by distance 8x").mean(0)
        assert by.argmin() == 5 and by[6] > by[5]  # a hole between five and six, and behind it up
    softmax, diff = (RECORD.array(k, "by distance 8x").mean(0) for k in ("softmax", "diff"))
    assert softmax[0] > 0.97 and 0.88 < diff[0] < softmax[0]
    assert (diff < softmax).sum() >= 7
    figure = {k: np.array(paper.load("fig5")[k])[:5] for k in ("softmax", "diff")}
    assert (u_depth(figure["softmax"])[1:7] > 0.2).all() and u_depth(figure["softmax"])[7] < 0


def test_errors_and_controls_of_the_record():
    confusion, empty = (
        [RECORD.array(kind, "said 8x").mean(0)[OUTCOMES.index(what)]
         for kind in ("softmax", "diff")]
        for what in ("another needle", "another number")
    )
    assert abs(confusion[0] - confusion[1]) < 0.03 and empty[1] > empty[0] + 0.05
    assert RECORD.paired("N=8, R=1, all", b="diff_frozen").verdict("higher") == NO_DIFFERENCE
    for kind in ("diff", "diff_frozen", "softmax_norm", "softmax_wide_norm"):
        assert RECORD.paired("N=8, R=1, all", a=kind).high < 0
    norm, diff = (RECORD.paired("N=8, R=1, all", a=k).mean for k in ("softmax_norm", "diff"))
    assert norm < 3 * diff


def test_one_of_six_left_the_plateau_on_text():
    found = records.load("text-needle-cpu")
    left = [(run.variant, run.seed) for run in found.runs if run.measures["left the plateau"]]
    assert left == [("softmax", 1)]
    assert len(found.runs) == 6
    assert found.paired("exact N=4, 1x").verdict("higher") == NO_DIFFERENCE
    for run in found.runs:
        if (run.variant, run.seed) not in left:
            others = run.measures["another needle N=4, 1x"]
            assert others > run.measures["exact N=4, 1x"]  # mostly that of another needle
    ends = sorted(run.validation["exact_match"][-1] for run in found.runs)
    assert ends[-1] == pytest.approx(0.9, abs=0.03) and ends[-2] == pytest.approx(0.38, abs=0.03)
    assert ends[-3] <= 0.25
    steps, exact = found.series("softmax", "exact_match")
    assert exact[1][steps <= 900].max() < 0.5 < exact[1][steps > 900].min()
