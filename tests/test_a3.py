"""A3: right is right in any form, each mistake is known, and the grader says the same."""

from __future__ import annotations

import course
import mutants_a2
import mutants_a3
import numpy as np
import pytest
import torch

from diffbook import check
from diffbook.check import a3
from diffbook.model import LanguageModel, ModelConfig, count_parameters
from diffbook.records import Paired, paired_interval


@pytest.mark.parametrize("right", mutants_a3.RIGHT)
def test_different_right_answers_lose_nothing(right):
    course.judge_right("A3", course.namespace("A3", mutants_a3, mutants_a3.RIGHT[right]))


@pytest.mark.parametrize("wrong", mutants_a3.WRONG)
def test_wrong_answers_lose_what_they_should_and_hear_why(wrong):
    mutant = mutants_a3.WRONG[wrong]
    course.judge_wrong("A3", mutant, course.namespace("A3", mutants_a3, mutant.changes))


def test_there_are_enough_of_both():
    assert len(mutants_a3.WRONG) >= 50 and len(mutants_a3.RIGHT) >= 3


def test_mistakes_are_told_apart_and_teach():
    # n_heads not halved gives a model of another shape, which no reference makes (see WRONG)
    course.told_apart("A3", frozenset({"heads-not-halved"}))
    course.mistakes_teach("A3")


def test_the_grader_says_the_same(tmp_path):
    model = mutants_a2.changed(mutants_a2.solution("A3"), mutants_a3.BASE)
    names = ["seeded before each"]
    codes = {"right": model} | {
        name: mutants_a2.changed(model, mutants_a3.WRONG[name].changes) for name in names}
    found = course.graded("A3", codes, tmp_path)
    assert found["right"].points == found["right"].of == 31, found["right"]
    assert all("which one counts?" in why for why in found["right"].look)  # one student's files
    for name in names:
        lost = {t.id: t.of - t.points for t in found[name].tasks if t.points < t.of}
        assert lost == mutants_a3.WRONG[name].lost, (name, found[name])


@pytest.mark.parametrize("attention", ["softmax", "diff"])
def test_references_are_the_packages_model(attention):
    shape = dict(zip(a3.SHAPE, (11, 16, 3, 4, 24), strict=True))
    model = LanguageModel(ModelConfig(11, 16, 3, 4, attention, d_ff=24, seed=3))
    weights = {name.replace(".ffn.", "."): w.detach() for name, w in model.named_parameters()}
    tokens = torch.arange(10)[None]
    mine = a3.language_model(weights, tokens, shape, attention)
    assert torch.allclose(mine["logits"], model(tokens), atol=1e-5)
    assert a3.parameters(*shape.values())[attention] == count_parameters(model)["total"]


def test_the_interval_is_the_books():
    rng = np.random.default_rng(0)
    for n in (2, 3, 7):
        a, b = rng.standard_normal((2, n)) + [[0.0], [1.5]]
        found = a3.paired(a, b)
        low, high = paired_interval(a - b)
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert found["verdict"] == Paired("", "a", "b", tuple(a - b), low, high).verdict("lower")


def test_the_stopped_run_of_the_reference_is_the_other():
    case = next(iter(a3._loop_cases(np.random.default_rng(0), "")))
    found = a3.loop(*case.inputs.values())
    whole = np.concatenate([found["the losses up to the stop"], found["the losses after it"]])
    assert np.allclose(whole, found["the losses of a run"])
    assert torch.allclose(found["its weights"], found["the weights after it"])


@pytest.mark.parametrize("task, thing, words", [
    ("A3.1", lambda *_: None, "it stopped with AttributeError"),
    ("A3.2", {"softmax": ..., "diff": ...}, "there is no answer yet"),
    ("A3.2", {"softmax": 5}, "softmax: this is 5"),
    ("A3.3", None, "'NoneType' object is not callable"),
    ("A3.4", lambda seed: None, "no answer yet"),
    ("A3.4", lambda seed: [torch.nn.Linear(2, 2)] * 2, "λ's vectors"),
    ("A3.5", lambda seed, step: ("a", "b"), "should return (tokens, targets)"),
    ("A3.6", lambda *_, **__: None, "no answer yet"),
    ("A3.7", lambda a, b: (1, 2), "a dictionary with difference, low, high, verdict"),
    ("A3.8", lambda runs: None, "no answer yet"),
    ("A3.8", lambda runs: 3, "should return the matplotlib Figure"),
])
def test_odd_answers_get_a_clear_word(task, thing, words):
    verdict = check.verdict(task, thing, "ada")
    assert not verdict.right and words in verdict.message, verdict
