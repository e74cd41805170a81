"""Many-shot curves and the order of demonstrations: by hand, by simulation, and with rules that
are known to heed the order, or not."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from diffbook import paper
from diffbook.experiments.in_context import IN_CONTEXT, LEVEL_FROM, level, margin
from diffbook.measure.in_context import (
    ORDERS,
    Rule,
    Trials,
    ask,
    balanced,
    curve_points,
    expected_range,
    in_context_measures,
    many_shot,
    order_effect,
    order_points,
    over_orders,
    shuffled,
    test_items,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.tasks.in_context import InContextTask

TASK = InContextTask()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Demonstrations and test items ------------------------------------------------------------


def test_demonstrations_are_balanced_and_all_their_items_are_asked():
    drawn = balanced(TASK, 20, 10, generator())
    assert drawn.tokens.shape == (20, 121)
    items, labels = test_items(TASK, drawn)
    assert items.shape == labels.shape == (20, 30)
    for row in range(20):
        assert torch.bincount(drawn.classes[row]).tolist() == [10] * 6
        meaning = {
            (item - 1) // TASK.n_items: label
            for item, label in zip(
                drawn.tokens[row, drawn.item_positions].tolist(), drawn.labels[row].tolist(),
                strict=True,
            )
        }
        assert len(meaning) == 6
        assert len(set(items[row].tolist())) == 30
        for item, label in zip(items[row].tolist(), labels[row].tolist(), strict=True):
            assert meaning[(item - 1) // TASK.n_items] == label
    # Not sorted by class any more.
    assert not torch.equal(drawn.classes[0], drawn.classes[1])
    wrong = (drawn.shown != drawn.labels).double().mean()
    assert float(wrong) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("per_class", [0, 11])
def test_too_many_or_no_demonstrations(per_class):
    with pytest.raises(ValueError, match=rf"per_class={per_class}: give 1 to 10; .* 61 shots"):
        balanced(TASK, 2, per_class, generator())


@pytest.mark.parametrize("kind", list(ORDERS))
def test_another_order_of_the_same_demonstrations(kind):
    drawn = balanced(TASK, 8, 10, generator())
    moved = shuffled(TASK, drawn, kind, generator(1))
    for row in range(8):
        pairs = [
            sorted(zip(some.tokens[row, 1::2].tolist(), some.tokens[row, 2::2].tolist(),
                       some.classes[row].tolist(), strict=True))
            for some in (drawn, moved)
        ]
        assert pairs[0] == pairs[1]
        turns = moved.classes[row].reshape(10, 6)
        assert (kind == "alternating") == bool((turns == turns[0]).all())
        if kind == "alternating":
            assert turns[0].sort().values.tolist() == list(range(6))
    assert not torch.equal(moved.tokens, shuffled(TASK, drawn, kind, generator(2)).tokens)
    assert len({tuple(row[:6].tolist()) for row in moved.classes}) > 4
    with pytest.raises(ValueError, match="kind='sorted': choose"):
        shuffled(TASK, drawn, "sorted", generator())


@pytest.mark.parametrize("kind", ["softmax", "diff"])
def test_the_same_answers_one_by_one(kind):
    model = LanguageModel(ModelConfig(TASK.vocab_size, 16, 2, 2, attention=kind)).eval()
    drawn = balanced(TASK, 3, 2, generator())
    items, _ = test_items(TASK, drawn)
    whole = ask(model, TASK, drawn, items)
    assert whole.min() >= TASK.first_label
    for at, context in enumerate(drawn.tokens):
        rows = torch.cat((context.expand(30, -1), items[at][:, None]), 1)
        with torch.no_grad():
            alone = model(rows)[:, -1, TASK.first_label :].argmax(-1) + TASK.first_label
        assert torch.equal(alone, whole[at])
    # And of a model that is no LanguageModel, which reads all of it for each item.
    assert torch.equal(ask(torch.nn.Sequential(model), TASK, drawn, items), whole)


# --- Rules that are known ---------------------------------------------------------------------


def test_votes_by_hand():
    task = InContextTask(shots=5, n_classes=2, n_groups=2, n_items=2, n_labels=3)
    a, b, x, y, z = 1, 3, 5, 6, 7  # the items 1, 2 and 3, 4 are of one group
    tokens = torch.tensor([[0, a, y, b, x, a + 1, z, a, y, 2]])

    def answer(decay: float) -> int:
        return int(Rule(task, decay=decay)(tokens)[0, -1].argmax())

    assert answer(1) == y  # y twice, z once
    assert answer(0) == y  # the last of its group
    swapped = torch.tensor([[0, a, y, b, x, a, y, a + 1, z, 2]])
    assert int(Rule(task)(swapped)[0, -1].argmax()) == y
    assert int(Rule(task, decay=0)(swapped)[0, -1].argmax()) == z
    # z weighs 1, y 0.5 + 0.25; with 0.7: 0.7 + 0.49
    assert int(Rule(task, decay=0.5)(swapped)[0, -1].argmax()) == z
    assert int(Rule(task, decay=0.7)(swapped)[0, -1].argmax()) == y
    said = {kind: int(Rule(task, kind)(swapped)[0, -1].argmax()) for kind in ("last", "first")}
    assert said == {"last": z, "first": y}
    with pytest.raises(ValueError, match="kind='wise': choose one of votes"):
        Rule(task, "wise")
    with pytest.raises(ValueError, match=r"decay=1.5 is a weight"):
        Rule(task, decay=1.5)


def posterior_by_enumeration(
    task: InContextTask, pairs: list[tuple[int, int]], asked: int
) -> dict[int, float]:
    """Bayes by brute force: all choices of groups' labels, for a sequence whose groups are known:
    those shown and asked, and none else matters."""
    k = task.n_classes
    found: dict[int, float] = {}
    known = sorted({group for group, _ in pairs} | {asked})
    for chosen in permutations(range(task.n_labels), k):  # labels of k groups, known ones first
        meaning = dict(zip(known, chosen, strict=False))
        weight = 1.0
        for group, shown in pairs:
            if shown not in chosen:
                weight = 0.0
            weight *= 1 - task.noise if meaning[group] == shown else task.noise / (k - 1)
        found[meaning[asked]] = found.get(meaning[asked], 0) + weight
    total = sum(found.values())
    return {label: value / total for label, value in found.items()}


@pytest.mark.parametrize("pairs, asked", [
    ([(0, 1), (0, 1), (1, 1)], 1), ([(0, 1), (0, 1), (1, 1)], 0), ([(0, 1), (1, 2), (2, 3)], 2),
    ([(0, 0)], 3), ([(0, 4), (0, 4), (3, 4), (2, 1), (2, 3), (3, 3)], 3), ([(1, 2)], 1),
])
def test_the_best_answer_is_that_of_bayes(pairs, asked):
    task = InContextTask(
        shots=8, n_classes=3, n_groups=4, n_items=2, n_labels=5, noise=0.4, curriculum=())
    shown = [(1 + 2 * group, task.first_label + label) for group, label in pairs]
    tokens = torch.tensor([[0, *(token for pair in shown for token in pair), 2 + 2 * asked]])
    scores = Rule(task, "best")(tokens)[0, 0, task.first_label :]
    expected = posterior_by_enumeration(task, pairs, asked)
    assert scores.tolist() == pytest.approx([expected.get(x, 0.0) for x in range(5)], abs=1e-9)


def test_the_best_answer_beats_counting():
    best, counts = (many_shot(Rule(TASK, kind), TASK, 3, n_sets=60) for kind in ("best", "votes"))
    assert best > counts + 0.03
    with pytest.raises(ValueError, match="8 are too many, at most 7"):
        Rule(replace(TASK, n_classes=8), "best")


def test_counting_gets_better_with_shots_and_the_others_do_not():
    def curve(rule: Rule) -> list[float]:
        return [many_shot(rule, TASK, per_class, n_sets=40) for per_class in (1, 4, 10)]

    counts = curve(Rule(TASK))
    assert counts[0] == pytest.approx(0.6, abs=0.08)  # one demonstration, right in 60 %
    assert counts[0] < counts[1] - 0.1 < counts[2] - 0.15 and counts[2] > 0.93
    assert curve(Rule(TASK, decay=0)) == pytest.approx([0.6] * 3, abs=0.08)
    assert curve(Rule(TASK, "last")) == pytest.approx([1 / 6] * 3, abs=1e-9)
    assert curve_points(TASK) == list(range(1, 11))
    assert curve_points(replace(TASK, shots=1001, n_classes=10)) == [
        1, 12, 23, 34, 45, 56, 67, 78, 89, 100]


def effect(rule: Rule, kind: str = "random", orders: int = 10):
    drawn = balanced(TASK, 30, 10, generator(3))
    return order_effect(over_orders(rule, TASK, drawn, kind, orders, generator(4)))


def test_who_heeds_the_order_is_told_apart():
    counts = effect(Rule(TASK))
    assert counts.margin == counts.flips == 0 and counts.accuracy > 0.9
    assert counts.level > 0.03  # luck alone could have made such a margin

    # Its accuracy never moves, since 5 of the 30 items bear any label of the sequence: the margin
    # is blind to the worst of all order effects. The flips are not.
    last = effect(Rule(TASK, "last"))
    assert last.accuracy == pytest.approx(1 / 6) and last.margin == pytest.approx(0)
    assert last.flips > 0.7 and last.shared == pytest.approx(-last.own)

    coin = effect(Rule(TASK, "coin"))
    assert coin.flips == pytest.approx(11 / 12, abs=0.01)
    assert coin.margin == pytest.approx(0.15, abs=0.05)
    assert abs(coin.shared) < 0.3 * coin.own

    one = effect(Rule(TASK, "one"))
    assert one.flips == one.margin == 0 and one.accuracy < 0.2

    # Five items of a class change together: a true order effect, and more than luck.
    recent = effect(Rule(TASK, decay=0.0))
    assert recent.accuracy == pytest.approx(0.6, abs=0.05)
    assert recent.margin > 1.5 * recent.level and recent.shared > 2 * recent.own
    middle = effect(Rule(TASK, decay=0.8))
    assert 0 < middle.flips < recent.flips and 0 < middle.margin < recent.margin
    assert effect(Rule(TASK, decay=0.0), "alternating", 4).flips > 0.4


# --- The margin taken apart -------------------------------------------------------------------


def trials(*rows: list[int]) -> Trials:
    """One set; what is right is label 1."""
    right = np.array(rows, dtype=bool)[:, None, :]
    return Trials(right.astype(int), right)


def test_order_effects_by_hand():
    together = order_effect(trials([1, 1], [0, 0]))
    assert (together.accuracy, together.margin, together.flips) == (0.5, 1, 1)
    assert together.spread == pytest.approx(0.5**0.5)
    assert together.own == together.shared == pytest.approx(0.25)
    # Two answers at p = 1/2, two orders: E|difference| is 3/4 of half a point … 0.375.
    assert together.level == pytest.approx(0.375)
    opposed = order_effect(trials([1, 0], [0, 1]))
    assert opposed.margin == opposed.spread == 0 and opposed.flips == 1
    assert opposed.own == pytest.approx(0.25) and opposed.shared == pytest.approx(-0.25)
    steady = order_effect(trials([1, 0, 1], [1, 0, 1], [1, 0, 1]))
    assert steady.own == steady.shared == steady.margin == steady.flips == 0
    third = order_effect(trials([1, 1], [1, 0], [1, 1]))
    assert third.flips == pytest.approx(0.5 * 2 / 3)  # one item of two, two of three pairs
    with pytest.raises(ValueError, match="1 orders cannot differ"):
        order_effect(trials([1, 0]))


def test_independent_answers_have_no_shared_part():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 1.0, size=(1, 400, 30))  # items of different difficulty
    right = rng.random((10, 400, 30)) < p
    found = order_effect(Trials(right.astype(int), right))
    assert abs(found.shared) < 0.05 * found.own
    assert found.own == pytest.approx((p * (1 - p)).sum(2).mean() / 900, rel=0.03)
    # Different difficulties: less than luck at the mean level.
    assert found.margin < found.level


@pytest.mark.parametrize("p, n, orders", [(0.75, 100, 10), (0.9, 100, 10), (0.66, 30, 30)])
def test_the_expected_range_by_simulation(p, n, orders):
    draws = np.random.default_rng(1).binomial(n, p, (20_000, orders)) / n
    simulated = (draws.max(1) - draws.min(1)).mean()
    assert expected_range(p, n, orders) == pytest.approx(simulated, rel=0.01)


def test_the_expected_range_by_hand():
    # One answer each: the range is 1 unless all orders agree.
    assert expected_range(0.3, 1, 4) == pytest.approx(1 - 0.3**4 - 0.7**4)
    assert expected_range(0.5, 100, 1) == 0
    assert expected_range(0.0, 50, 10) == expected_range(1.0, 50, 10) == 0
    assert expected_range(0.9, 100, 10) < expected_range(0.75, 100, 10)  # the level effect
    for bad in ({"p": 1.2}, {"n": 0}, {"orders": 0}):
        with pytest.raises(ValueError, match="give 0 <= p <= 1"):
            expected_range(**{"p": 0.5, "n": 10, "orders": 10, **bad})


# --- The experiment ---------------------------------------------------------------------------


def test_all_measures_of_a_rule():
    numbers = in_context_measures(Rule(TASK), TASK, n_sets=2, curve_sets=4)
    assert numbers["shots"] == [6.0 * k for k in range(1, 11)]
    curve = numbers["accuracy by shots"]
    assert numbers["few-shot accuracy"] == curve[0]
    assert numbers["many-shot accuracy"] == pytest.approx(np.mean(curve[5:]))
    assert numbers["left the plateau"] == 1
    assert order_points(TASK) == {"": 3, "full ": 10}
    assert order_points(replace(TASK, shots=7)) == {"": 1, "full ": 1}
    for name, orders in {**ORDERS, "full random": 10}.items():
        assert numbers[f"margin {name}"] == numbers[f"flips {name}"] == 0
        assert numbers[f"margin beyond level {name}"] == -numbers[f"level {name}"] <= 0
        assert len(numbers[f"first set {name}"]) == orders
    assert numbers["accuracy random"] < numbers["accuracy full random"]
    guess = in_context_measures(Rule(TASK, "last"), TASK, n_sets=1, curve_sets=4)
    assert guess["left the plateau"] == 0


def test_presets_hold_a_curve_and_all_orders():
    for preset in IN_CONTEXT.presets.values():
        task = preset.task
        assert preset.model.vocab_size == task.vocab_size
        assert preset.model.max_seq_len >= task.seq_len
        assert curve_points(task)[-1] * task.n_classes <= task.shots - 1


def test_claims_quote_the_paper():
    quoted = {claim.measure: claim.paper for claim in IN_CONTEXT.claims}
    # Gains as printed in Fig. 6, margins as printed in Figs. 7 and 11.
    gains = [level(name, "diff") - level(name, "softmax") for name in LEVEL_FROM]
    assert gains == pytest.approx([18.0, 21.6, 10.4, 5.2], abs=0.06)
    assert "69.9 / 87.9 (TREC)" in quoted["many-shot accuracy"]
    printed = {"fig11a": (19, 4), "fig11b": (24, 9), "fig11c": (13, 9), "fig11d": (12, 6)}
    for name, (softmax, diff) in printed.items():
        assert (margin(name, "softmax"), margin(name, "diff")) == (softmax, diff)
        pair = f"{softmax:.1f} / {diff:.1f} ({paper.load(name)['dataset']})"
        assert pair in quoted["margin random"]
    assert quoted["margin alternating"] == "56.7 / 13.4 (TREC)"


# --- What chapter 13 says in words --------------------------------------------------------------

SETTINGS = ("fig11a", "fig11b", "fig11c", "fig11d", "fig7b")


def by_luck(name: str, kind: str) -> tuple[float, float, float]:
    """Margin, the margin by luck, and the probability that luck makes as large a one."""
    n = 30 if name == "fig7b" else 100
    values = np.array(paper.load(name)[kind])[:, 1]
    p, orders = values.mean() / 100, len(values)
    draws = 100 * np.random.default_rng(1).binomial(n, p, (50_000, orders)) / n
    tail = np.mean(np.ptp(draws, axis=1) >= np.ptp(values) - 0.05)
    return float(np.ptp(values)), 100 * expected_range(p, n, orders), float(tail)


def test_the_papers_margins_against_luck():
    found = {(name, kind): by_luck(name, kind) for name in SETTINGS for kind in ("softmax", "diff")}
    share = {}
    for name in SETTINGS:
        (seen, luck, _), (seen_diff, luck_diff, _) = found[name, "softmax"], found[name, "diff"]
        share[name] = (luck - luck_diff) / (seen - seen_diff)
        assert seen_diff < luck_diff  # DIFF below luck in all five
    assert min(share.values()) == share["fig11d"] == pytest.approx(1 / 8, abs=0.02)
    assert max(share.values()) == share["fig11c"] == pytest.approx(2 / 5, abs=0.02)
    for name in ("fig11c", "fig11d"):
        assert found[name, "softmax"][0] < found[name, "softmax"][1]
    assert found["fig7b", "softmax"][2] < 0.01
    assert found["fig11b", "softmax"][2] < 0.03 and 0.05 < found["fig11a", "softmax"][2] < 0.1


def test_the_zigzags_of_fig_6a_are_of_the_size_of_luck():
    for kind in ("softmax", "diff"):
        x, y = np.array(paper.load("fig6a")[kind]).T
        level_part = y[x >= LEVEL_FROM["fig6a"]]
        p = level_part.mean() / 100
        assert level_part.std(ddof=1) < 1.1 * 100 * (p * (1 - p) / 100) ** 0.5


def test_questions_of_the_papers_figures():
    """Whole per cents, one point apart; multiples of 1/30 in Fig. 7b, three apart."""
    accuracies = [
        y for name in (*LEVEL_FROM, "fig11a", "fig11b", "fig11c", "fig11d")
        for kind in ("softmax", "diff") for _, y in paper.load(name)[kind]
    ]
    assert sum(y != round(y) for y in accuracies) <= 6
    thirds = [y * 0.3 for kind in ("softmax", "diff") for _, y in paper.load("fig7b")[kind]]
    assert sum(abs(x - round(x)) < 0.02 for x in thirds) >= len(thirds) - 3
