"""A5: projects that hold lose nothing; what a machine can see of one that does not, it sees."""

from __future__ import annotations

import course
import mutants_a2
import mutants_a5
import numpy as np
import pytest

from diffbook import check, paper, scorecard
from diffbook.check import a5
from diffbook.records import paired_interval


@pytest.mark.parametrize("right", mutants_a5.RIGHT)
def test_different_right_projects_lose_nothing(right):
    course.judge_right("A5", course.namespace("A5", mutants_a5, mutants_a5.RIGHT[right]))


@pytest.mark.parametrize("wrong", mutants_a5.WRONG)
def test_wrong_projects_lose_what_they_should_and_hear_why(wrong):
    mutant = mutants_a5.WRONG[wrong]
    course.judge_wrong("A5", mutant, course.namespace("A5", mutants_a5, mutant.changes))


def test_there_are_enough_of_both():
    assert len(mutants_a5.WRONG) >= 12 and len(mutants_a5.RIGHT) >= 3


def test_mistakes_are_told_apart_and_teach():
    course.told_apart("A5")
    course.mistakes_teach("A5")


def test_the_grader_says_the_same(tmp_path):
    model = mutants_a2.solution("A5")
    names = ["typed numbers", "a seed dropped"]
    codes = {"right": model} | {
        name: mutants_a2.changed(model, mutants_a5.WRONG[name].changes) for name in names}
    found = course.graded("A5", codes, tmp_path)
    assert found["right"].points == found["right"].of == 16, found["right"]
    for name in names:
        lost = {t.id: t.of - t.points for t in found[name].tasks if t.points < t.of}
        assert lost == mutants_a5.WRONG[name].lost, (name, found[name])


def test_every_claim_of_the_scorecard_with_numbers_can_be_planned():
    """Tables and figures of the paper are found under the names that the scorecard uses."""
    for row in scorecard.ORDER:
        if not row.startswith(("Appendix", "Authors")):
            assert a5._key(row), row
    assert {name for row in scorecard.ORDER for name in a5._key(row)} == set(paper.names())


def test_the_row_is_the_books():
    made = a5.runs()
    row = a5.row(made, "lower")
    low, high = paired_interval(np.array(made["diff"]) - np.array(made["softmax"]))
    assert (row["low"], row["high"]) == pytest.approx((low, high))


@pytest.mark.parametrize("task, thing, words", [
    ("A5.1", dict.fromkeys(("where", "claim"), ...), "no answer yet"),
    ("A5.1", {"where": "Table 3"}, "says nothing about claim"),
    ("A5.1", {"where": "Table 12", "claim": "x" * 20, "paper": [1, 2], "measure": "",
              "says": "lower", "seeds": [0, 1, 2], "against": ""}, "where is 'Table 12'"),
    ("A5.1", a5.plan() | {"says": "better"}, "lower"),
    ("A5.1", a5.plan() | {"paper": [0.52]}, "two numbers"),
    ("A5.1", a5.plan() | {"seeds": [0, 0, 0]}, "different numbers"),
    ("A5.2", {"plan": a5.plan(), "runs": {"softmax": ..., "diff": ...}, "row": {}},
     "no answer yet"),
    ("A5.2", {"plan": a5.plan()}, "PROJECT needs plan, runs, row and measure"),
    ("A5.2", {"plan": a5.plan(), "runs": {"softmax": [1, 2, 3], "diff": [1, 2]}, "row": {}},
     "each seed needs both"),
    ("A5.3", {"plan": a5.plan(), "runs": a5.runs(), "row": {"softmax": ...}}, "does not follow"),
    ("A5.4", {"plan": a5.plan(), "runs": a5.runs(), "row": {}}, "no measure(kind, seed)"),
])
def test_odd_answers_get_a_clear_word(task, thing, words):
    verdict = check.verdict(task, thing)
    assert not verdict.right and words in verdict.message, verdict
