"""Tasks and their judgement: right is right in any form, and each mistake is known by name."""

from __future__ import annotations

import math
import re

import mutants_a1
import mutants_a2
import numpy as np
import pytest
import torch

from diffbook import attention, check, signals
from diffbook.check import Case, Mistake, Task, Unknown, Verdict, a1, a2, core, personal
from diffbook.grade.bundle import Bundle

MUTANTS = {"A1": mutants_a1, "A2": mutants_a2}
WRONG = [(name, wrong) for name, module in MUTANTS.items() for wrong in module.WRONG]
RIGHT = [(name, right) for name, module in MUTANTS.items() for right in module.RIGHT]


def namespace(name: str, changes: list[tuple[str, str]]) -> dict:
    """What a notebook defines, its own calls of check left out."""
    code = mutants_a2.changed(mutants_a2.solution(name), changes)
    space: dict = {}
    exec(re.sub(r"^check\(.*\)$", "", code, flags=re.M), space)
    return space


def marks(name: str, space: dict, student: str = "solution") -> dict[str, tuple[float, list, str]]:
    """{task: (points lost, mistakes, message)} by the rules of the grader, in this process."""
    known: frozenset[str] = frozenset()
    found = {}
    for task in check.tasks(name):
        lost, mistakes, said = 0.0, [], ""
        for case in task.cases(core.seed("a secret", student, task.id), student):
            verdict = task.judge(case, task.probe(space[task.name], case.inputs), known)
            if verdict.right:
                continue
            said = said or verdict.message
            price = task.points if case.costs is None else case.costs
            lost += task.costs(verdict.mistakes) if verdict.mistakes else price
            known |= set(verdict.mistakes)
            mistakes += verdict.mistakes
        found[task.id] = (min(lost, task.points), mistakes, said)
    return found


# ---------------------------------------------------------------- the references are right


def test_references_of_a2_are_the_packages_attention():
    torch.manual_seed(0)
    for layer in (1, 2, 9):
        assert a2.lambda_init(layer) == pytest.approx(attention.lambda_init(layer))
    q1, k1, q2, k2 = torch.randn(4, 2, 3, 6, 8)
    assert torch.allclose(a2.softmax_map(q1, k1), attention.softmax_attention_map(q1, k1))
    assert torch.allclose(a2.diff_map(q1, k1, q2, k2, 0.4),
                          attention.diff_attention_map(q1, k1, q2, k2, 0.4), atol=1e-6)
    heads = torch.randn(2, 3, 4, 8)
    assert torch.allclose(a2.head_norm(heads, 0.2),
                          0.8 * torch.nn.functional.rms_norm(heads, (8,), eps=1e-5))
    layer = attention.MultiheadDiffAttention(24, 2, 3)
    x = torch.randn(2, 5, 24)
    layer.head_norm.weight.data.uniform_(0.5, 1.5)
    weights = dict(layer.named_parameters())
    weights["gain"] = weights.pop("head_norm.weight")
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    mine = a2.layer_outputs(weights, x, 2, 3)
    out = layer(x)
    out.square().sum().backward()
    assert torch.allclose(mine["output"], out, atol=1e-5)
    gradients = torch.stack([getattr(layer, name).grad for name in a2.VECTORS])
    assert torch.allclose(mine["gradients of λ's vectors"], gradients, atol=1e-3)


def test_references_of_a1_are_the_packages_signals():
    n = np.array([10, 1000, 10**6])
    assert np.allclose(a1.noise_mass(n, 7.0, 1.3), signals.noise_mass(n, 7.0, 1.3))
    assert a1.required_margin(5000, 0.8, 0.1) == pytest.approx(
        signals.required_margin(5000, 0.8, 0.1))
    assert 10 * math.log10(1 / a1.noise_left(0.8, 0.9)) == pytest.approx(
        signals.rejection_db(0.8, 0.9))
    drawn = signals.simulate_noise_mass(64, 5.0, 0.7, trials=500,
                                        generator=np.random.default_rng(3))
    assert a1.same_law(drawn, a1.simulate(64, 5.0, 0.7, 500, 4)["noise masses"]) is None
    # the SNR gain, against two signals made for it
    rng = np.random.default_rng(0)
    x1, x2 = rng.standard_normal((2, 200_000))
    x2 = 0.9 * x1 + math.sqrt(1 - 0.81) * x2
    after = (0.4 - 0.8 * 0.1) ** 2 / np.mean((x1 - 0.8 * x2) ** 2)
    gain = 10 * math.log10(after / (0.4**2 / np.mean(x1**2)))
    assert a1.snr_gain_db(0.4, 0.1, 0.9, 0.8) == pytest.approx(gain, abs=0.05)


# ---------------------------------------------------------------- right and wrong answers


@pytest.mark.parametrize("name, right", RIGHT)
def test_different_right_answers_lose_nothing(name, right):
    space = namespace(name, MUTANTS[name].RIGHT[right])
    found = marks(name, space)
    assert {task: said for task, (lost, _, said) in found.items() if lost} == {}
    for task in check.tasks(name):
        verdict = check.verdict(task.id, space[task.name], "solution")
        assert verdict.right, (task.id, verdict.message)


@pytest.mark.parametrize("name, wrong", WRONG)
def test_wrong_answers_lose_what_they_should_and_hear_why(name, wrong):
    mutant = MUTANTS[name].WRONG[wrong]
    space = namespace(name, mutant.changes)
    found = marks(name, space)
    lost = {task: points for task, (points, _, _) in found.items() if points}
    assert lost == mutant.lost, found
    assert {m for _, mistakes, _ in found.values() for m in mistakes} == mutant.mistakes
    assert any(mutant.says in said for _, _, said in found.values()), found
    # the student's own check says the same
    said = [check.verdict(task.id, space[task.name], "solution") for task in check.tasks(name)]
    assert any(not verdict.right and mutant.says in verdict.message for verdict in said), said


@pytest.mark.parametrize("name, free", [("A1", {"A1.1", "A1.4"}), ("A2", set())])
def test_right_is_right_whatever_is_drawn(name, free):
    """No input on which rounding or chance would cost a right answer its points."""
    space = namespace(name, [])
    for student in range(40):
        for task in check.tasks(name):
            cases = () if task.id in free else Bundle(name, "", "any").cases(task, str(student))
            for case in cases:
                verdict = task.judge(case, task.probe(space[task.name], case.inputs), frozenset())
                assert verdict.right, (task.id, student, case.label, verdict)


def test_there_are_enough_of_both():
    assert len(mutants_a2.WRONG) >= 40 and len(mutants_a2.RIGHT) >= 5
    assert len(mutants_a1.WRONG) >= 20 and len(mutants_a1.RIGHT) >= 3


@pytest.mark.parametrize("name", ["A1", "A2"])
def test_every_mistake_is_told_from_every_other(name):
    """The answer of each mistake alone is known as that mistake, by all cases together, and by no
    other; what leaves every answer of a task right is no mistake there."""
    for task in check.tasks(name):
        cases = list(task.cases(core.seed("other", task.id), "ada"))
        for mistake in task.mistakes:
            seen: set[str] = set()
            for case in cases:
                inputs = dict(case.inputs) | ({"seed": 1} if "seed" in case.inputs else {})
                answer = task.reference(*inputs.values(), mistakes=frozenset({mistake.name}))
                verdict = task.judge(case, answer, frozenset(seen))
                assert verdict.right or verdict.mistakes, (task.id, mistake.name, verdict)
                seen |= set(verdict.mistakes)
            assert seen <= {mistake.name}, (task.id, mistake.name, seen)
            if task.id != "A2.7":  # there some have no effect: the norm undoes a division
                assert seen == {mistake.name}, (task.id, mistake.name)


def test_mistakes_have_messages_that_teach():
    for name in ("A1", "A2"):
        for task in check.tasks(name):
            for mistake in task.mistakes:
                assert 40 < len(mistake.says) < 400, mistake
                assert mistake.says.endswith((".", "?"))
                assert 0 < mistake.costs <= 3
            assert all(m.costs <= task.points for m in task.mistakes)


@pytest.mark.parametrize("thing, words", [
    (lambda *_: None, "no answer yet"),
    (lambda *_: ..., "no answer yet"),
    (lambda q, k: q, "the shape is (2, 3, 6, 8); it should be (2, 3, 6, 6)"),
    (lambda q, k: (q @ k.mT).numpy(), "a torch tensor was expected"),
    (lambda q, k: "a map", "the text 'a map'"),
    (lambda q, k: torch.full((2, 3, 6, 6), torch.nan), "NaN"),
    (lambda q, k: torch.full((2, 3, 6, 6), torch.inf), "entries differ"),
    (lambda q, k: torch.zeros(2, 3, 6, 6), "The rows sum to 0.000"),
    (lambda q, k: torch.zeros(2, 3, 6, 6, dtype=torch.complex64), "numbers were expected"),
    (lambda q, k: q @ k, "it stopped with RuntimeError"),
    (lambda q: q, "takes 1 positional argument but 2 were given"),
    (lambda q, k: object(), "an object of type object"),
    (lambda q, k: torch.eye(6).expand(2, 3, 6, 6), "entries differ; most at"),
    (None, "'NoneType' object is not callable"),
    (3.0, "'float' object is not callable"),
])
def test_odd_answers_get_a_clear_word(thing, words):
    verdict = check.verdict("A2.1", thing)
    assert not verdict.right and words in verdict.message, verdict


def test_check_prints_and_does_not_raise(capsys):
    check.check("A2.3", a2.lambda_init)
    check.check("A2.3", lambda layer: 0.8 - 0.6 * math.exp(-0.3 * layer))
    check.check("A1.1", 0.515, "solution")
    right, wrong, pencil = capsys.readouterr().out.splitlines()
    assert right == "✓ A2.3 Where λ starts: right, on 3 test inputs"
    assert wrong.startswith("✗ A2.3 Where λ starts: λ_init of layer 1 comes out as that of layer 2")
    assert pencil.startswith("✓ A1.1") and pencil.endswith(": right")
    for bad, words in [("A9.1", "no assignment or chapter 'A9'"), ("A2.9", "A2 has A2.1")]:
        with pytest.raises(ValueError, match=words):
            check.check(bad, None)


def test_check_does_not_change_what_it_is_given():
    def greedy(q, k):
        q.zero_()
        return torch.zeros(*q.shape[:-1], k.shape[-2])

    assert check.verdict("A2.1", greedy) == check.verdict("A2.1", greedy)


def test_personal_numbers():
    assert personal("A1.1", "ada") == personal("A1.1", " Ada ")
    drawn = {str(personal("A1.1", f"student{i}")) for i in range(60)}
    assert len(drawn) == 60
    for i in range(60):
        numbers = personal("A1.1", f"student{i}")
        assert 0.01 < a1.noise_mass(**numbers) < 0.99
        # every known mistake is further away than the tolerance of a pencil
        right = a1.noise_mass(*numbers.values())
        for name in ("no-spread", "spread-twice", "ratio-instead", "percent"):
            wrong = a1.noise_mass(*numbers.values(), mistakes=frozenset({name}))
            assert abs(wrong - right) > 0.01 * right + 1e-3, (numbers, name)
    for nobody in ("", "  ", None, ...):
        with pytest.raises(ValueError, match="who are you"):
            personal("A1.1", nobody)
    with pytest.raises(ValueError, match="no personal numbers"):
        personal("A2.1", "ada")


# ---------------------------------------------------------------- the machinery itself


def square(x, mistakes=frozenset()):
    if "cube" in mistakes:
        x = x ** 1.5
    return -(x**2) if "sign" in mistakes else x**2


def toy(**more) -> Task:
    def cases(rng, student):
        yield Case("", {"x": float(rng.uniform(2, 3))})

    mistakes = (Mistake("sign", 1, "the sign"), Mistake("cube", 1, "the power"))
    return Task("T.1", "toy", "toy", 3, cases, square, mistakes, **more)


def test_mistakes_alone_and_together_and_known():
    task = toy()
    case = Case("", {"x": 2.0})
    assert task.judge(case, 4.0, frozenset()) == Verdict(True)
    assert task.judge(case, -4.0, frozenset()).mistakes == ("sign",)
    both = task.judge(case, -8.0, frozenset())
    assert both.mistakes == ("sign", "cube") and both.message == "the sign the power"
    assert task.judge(case, -8.0, frozenset({"sign"})).mistakes == ("cube",)
    assert task.judge(case, -8.0, frozenset({"sign", "cube"})) == Verdict(True, core.FOLLOWS)
    assert task.judge(case, -4.0, frozenset({"sign", "cube"})).right  # one of two shows here
    assert task.judge(case, 4.0, frozenset({"sign"})) == Verdict(True)
    unknown = task.judge(case, 5.0, frozenset({"sign"}))
    assert not unknown.right and unknown.mistakes == () and "5" in unknown.message
    assert task.costs(["sign", "cube", "other"]) == 2


def test_symptom_may_name_a_mistake_or_say_a_sentence():
    task = toy(symptom=lambda inputs, answer, expected: Mistake("sign", 1, "the sign")
               if answer < 0 else "odd")
    case = Case("", {"x": 2.0})
    assert task.judge(case, -99.0, frozenset()).mistakes == ("sign",)
    assert task.judge(case, -99.0, frozenset({"sign"})).right
    assert task.judge(case, 99.0, frozenset()).message.startswith("odd (this is 99")
    assert "NaN" in task.judge(case, math.nan, frozenset()).message  # no symptom of NaN
    assert not task.judge(case, Unknown("Equal"), frozenset()).right
    with pytest.raises(ValueError, match="two mistakes have one name"):
        Task("T", "", "", 1, task.cases, square, (task.mistakes[0],) * 2)


@pytest.mark.parametrize("answer, expected, words", [
    (1.0, 1.0 + 1e-7, None),
    (np.float32(1), 1.0, None),
    (np.array([1.0]), 1.0, None),
    (True, 1.0, None),
    ([1.0, 2.0], np.array([1.0, 2.0]), None),
    (1.1, 1.0, "which is not right"),
    ("1", 1.0, "numbers were expected"),
    (np.array([1.0, 2.0]), np.array([1.0, 3.0]), "1 of 2 entries differ; most at [1]"),
    ({"a": 1.0}, {"a": 1.0, "b": 2.0}, "b is missing"),
    ({"a": 1.0}, {"a": 2.0}, "a: this is 1"),
    (3.0, {"a": 2.0}, "a dictionary with a"),
    ((1.0, "x"), [1.0, "X "], None),
    ((1.0, "x"), [1.0, "y"], "value 2 of 2"),
    ("Softmax ", "softmax", None),
    (np.array(["a"]), np.array([1.0]), "numbers were expected"),
    (np.array([np.nan]), np.array([np.nan]), None),
    (np.array([np.inf]), np.array([1.0]), "entries differ"),
])
def test_difference(answer, expected, words):
    found = core.difference(answer, expected)
    assert found is None if words is None else words in found, found


def test_hidden_inputs_are_others_for_each_student_and_secret():
    task = check.task("A2.1")

    def first(secret: str, student: str) -> torch.Tensor:
        return Bundle("A2", "", secret).cases(task, student)[0].inputs["q"]

    assert torch.equal(first("x", "ada"), first("x", "ADA "))
    others = [first("x", "bob"), first("y", "ada"), next(iter(task.cases(
        core.seed("public", "A2.1"), ""))).inputs["q"]]
    assert not any(torch.equal(first("x", "ada"), other) for other in others)
