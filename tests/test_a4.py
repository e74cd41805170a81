"""A4: right is right in any form, each mistake is known, and the grader says the same."""

from __future__ import annotations

import course
import mutants_a2
import mutants_a4
import numpy as np
import pytest
import torch

from diffbook import check
from diffbook.check import a4, core
from diffbook.tasks.needle import NeedleTask


def space(changes: list[tuple[str, str]]) -> dict:
    length = check.personal("A4.6", "solution")["length"]
    return course.namespace("A4", mutants_a4, changes, ANSWERS=a4.accuracies(length),
                            SHORT=a4.accuracies(64))


@pytest.mark.parametrize("right", mutants_a4.RIGHT)
def test_different_right_answers_lose_nothing(right):
    course.judge_right("A4", space(mutants_a4.RIGHT[right]))


@pytest.mark.parametrize("wrong", mutants_a4.WRONG)
def test_wrong_answers_lose_what_they_should_and_hear_why(wrong):
    mutant = mutants_a4.WRONG[wrong]
    course.judge_wrong("A4", mutant, space(mutant.changes))


def test_there_are_enough_of_both():
    assert len(mutants_a4.WRONG) >= 30 and len(mutants_a4.RIGHT) >= 2


def test_mistakes_are_told_apart_and_teach():
    course.told_apart("A4")
    course.mistakes_teach("A4")


def test_the_grader_says_the_same(tmp_path):
    """The model solution with all six models, in a box without the book's own needle task."""
    model = mutants_a2.solution("A4")
    few = [("np.random.default_rng(5), 300,", "np.random.default_rng(5), 200,")]
    quick = [("for seed in range(3)\n", "for seed in range(0)\n")]
    wrong = mutants_a4.WRONG["Wald"]
    cheat = "from diffbook.tasks.needle import NeedleTask\n"
    found = course.graded("A4", {
        "right": mutants_a2.changed(model, few),
        "Wald": mutants_a2.changed(model, quick + wrong.changes),
        "taken from the book": mutants_a2.changed(model, quick).replace(
            "def make_test(", cheat + "def make_test("),
    }, tmp_path)
    assert found["right"].points == found["right"].of == 26, found["right"]
    assert found["Wald"].tasks[3].points == 1.5
    assert found["taken from the book"].tasks[0].points == 0
    assert any("not available while A4 is graded" in note for note in
               found["taken from the book"].notes)


def test_the_books_own_test_passes():
    """The judge finds nothing wrong with NeedleTask, whose rows are made in another way."""
    def of_the_book(rng, n, length, n_needles, depth):
        task = NeedleTask(seq_len=length, n_needles=n_needles, n_queries=1, depth=depth)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        batch = task.sample(n, generator)
        return batch.tokens, batch.answers[:, 0], batch.answer_positions[:, 0]

    verdict = check.verdict("A4.1", of_the_book)
    assert verdict.right, verdict


def test_intervals_are_what_they_should_be():
    """Wilson's against an independent search, and both against simulations."""
    p = np.linspace(0, 1, 200_001)
    inside = np.abs(33 / 50 - p) <= 1.96 * np.sqrt(p * (1 - p) / 50)
    assert np.allclose(a4.wilson(33, 50), [p[inside].min(), p[inside].max()], atol=1e-4)
    rng = np.random.default_rng(0)
    hits = rng.binomial(50, 0.9, 2000)
    covered = [a4.wilson(int(k), 50)[0] <= 0.9 <= a4.wilson(int(k), 50)[1] for k in hits]
    assert 0.93 < np.mean(covered) < 0.98
    a, b = (rng.standard_normal((400, 1)) * s + np.zeros((400, 3)) for s in (1.0, 0.5))
    mean, low, high = a4.bootstrap(a, b)
    assert (high - low) / 2 == pytest.approx(1.96 * np.hypot(1, 0.5) / 20, rel=0.1)
    assert low < mean < high


def test_lengths_tell_the_training_length_apart():
    """Whatever length a student gets, the accuracies differ from those at 64 tokens by more than
    the judge lets pass."""
    for length in (check.personal("A4.6", "solution")["length"],):
        far = [abs(x - y) for name in ("softmax", "diff") for x, y in zip(
            a4.accuracies(length)[name], a4.accuracies(64)[name], strict=True)]
        assert max(far) > 1.5 * a4.TOLERANCE
    lengths = {check.personal("A4.6", f"student{i}")["length"] for i in range(50)}
    assert min(lengths) >= 200 and max(lengths) <= 240 and len(lengths) > 4


@pytest.mark.parametrize("task, thing, words", [
    ("A4.1", lambda *_: None, "no answer yet"),
    ("A4.1", lambda rng, n, *_: (np.zeros((n, 3)), np.zeros(n), np.zeros(n)),
     "tokens has the shape"),
    ("A4.1", lambda rng, n, length, *_: (np.zeros((n, length), int), np.zeros(n), np.zeros(n)),
     "the question token"),
    ("A4.1", lambda *_: 3, "it stopped with TypeError"),
    ("A4.2", lambda model, tokens, answers: 0.5, "the shape is"),
    ("A4.3", ..., "no answer yet"),
    ("A4.4", lambda right, n: (np.nan, 1.0), "NaN"),
    ("A4.5", lambda a, b, rng: (0.0, 1.0), "three numbers were expected"),
    ("A4.6", {"softmax": [1, 1, 1]}, "a dictionary with softmax, diff, difference"),
    ("A4.6", dict.fromkeys(("softmax", "diff", "difference", "low", "high", "verdict"), ...),
     "one accuracy for each"),
])
def test_odd_answers_get_a_clear_word(task, thing, words):
    verdict = check.verdict(task, thing, "ada")
    assert not verdict.right and words in verdict.message, verdict


def test_a_right_answer_of_another_student_is_wrong():
    task = check.task("A4.3")
    for mine, other in (("ada", "bob"), ("bob", "eve")):
        numbers = check.personal("A4.3", other)
        case = next(iter(task.cases(core.seed("x"), mine)))
        assert not task.judge(case, a4.knows(*numbers.values()), frozenset()).right
