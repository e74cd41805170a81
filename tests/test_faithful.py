"""FaithfulTask: documents, questions, the exact judge, and answerers that must be caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffbook.model import IGNORE
from diffbook.tasks.faithful import HALLUCINATIONS, VERDICTS, Documents, FaithfulTask

TASK = FaithfulTask()


def draw(task: FaithfulTask = TASK, n: int = 200, seed: int = 0) -> Documents:
    return task.sample(n, torch.Generator().manual_seed(seed))


def read(task: FaithfulTask, tokens: list[int]) -> tuple[dict, list]:
    """The facts and questions of one document, parsed from its tokens alone."""
    facts, questions, i = {}, [], 1
    assert tokens[0] == task.BOS
    while i < len(tokens):
        token = tokens[i]
        if token == task.QUESTION:
            name, attribute = tokens[i + 1] - task.first_name, tokens[i + 2] - task.first_attribute
            questions.append((name, attribute, i + 2))
            i += 3
        elif token >= task.first_word:
            assert not questions, "a word behind a question"
            i += 1
        else:
            name, attribute = token - task.first_name, tokens[i + 1] - task.first_attribute
            assert 0 <= name < task.n_names and 0 <= attribute < task.n_attributes
            assert task.first_value <= tokens[i + 2] < task.first_word
            assert (name, attribute) not in facts, "stated twice"
            facts[name, attribute] = tokens[i + 2]
            i += 3
    return facts, questions


@pytest.mark.parametrize("task", [
    TASK, FaithfulTask(words=0), FaithfulTask(n_facts=4), FaithfulTask(n_facts=15),
    FaithfulTask(unanswerable=1.0), FaithfulTask(unanswerable=0.0, conflict=1.0),
])
def test_the_document_read_back_agrees_with_what_sample_says(task):
    documents = draw(task, n=60)
    assert documents.tokens.shape == (60, task.seq_len)
    for row in range(60):
        facts, questions = read(task, documents.tokens[row].tolist())
        assert len(facts) == task.n_facts
        assert len({name for name, _ in facts}) == task.n_subjects
        stated = {
            (int(name), int(attribute)): int(documents.facts[row, name, attribute])
            for name, attribute in (documents.facts[row] >= 0).nonzero()
        }
        assert stated == facts
        assert [at for _, _, at in questions] == documents.query_positions[row].tolist()
        for question, (name, attribute, _) in enumerate(questions):
            assert documents.asked[row, question].tolist() == [name, attribute]
            answer = facts.get((name, attribute), task.NOT_STATED)
            assert int(documents.answers[row, question]) == answer
            assert any(name == other for other, _ in facts), "asked about a stranger"


def test_shares_are_those_asked_for():
    for conflict, unanswerable in ((0.5, 0.25), (0.1, 0.6)):
        task = replace(TASK, conflict=conflict, unanswerable=unanswerable)
        documents = draw(task, n=1000)
        stated = documents.facts >= 0
        usual = (documents.facts == task.prior) & stated
        assert float(usual.sum() / stated.sum()) == pytest.approx(1 - conflict, abs=0.02)
        unsaid = (documents.answers == task.NOT_STATED).double().mean()
        assert float(unsaid) == pytest.approx(unanswerable, abs=0.03)


def test_the_prior_is_fixed():
    assert torch.equal(TASK.prior, FaithfulTask().prior)
    assert TASK.prior.min() >= TASK.first_value and TASK.prior.max() < TASK.first_word


def test_the_judge_by_hand():
    task = FaithfulTask(
        n_facts=2, n_questions=6, n_subjects=2, n_names=3, n_attributes=2, n_values=16)
    prior = task.prior  # (3, 2)
    values = [task.first_value + i for i in range(16)]
    facts = torch.full((1, 3, 2), -1)
    # What is stated must be neither prior, so that each verdict has a case of its own.
    free = [v for v in values if v not in prior.flatten().tolist()]
    facts[0, 0, 0], facts[0, 1, 1] = free[0], free[1]
    nowhere = free[2]
    asked = torch.tensor([[[0, 0]] * 5 + [[0, 1]]])
    documents = Documents(
        torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 6, dtype=torch.long),
        torch.zeros(1, 6, dtype=torch.long), asked, facts,
    )
    said = torch.tensor([[
        free[0], task.NOT_STATED, int(prior[0, 0]), free[1], nowhere, task.NOT_STATED]])
    verdicts = [VERDICTS[int(i)] for i in task.judge(documents, said)[0]]
    assert verdicts == ["supported", "silent", "prior", "misattributed", "invented", "abstained"]
    # Words, names and the like are no values: invented.
    for token in (task.BOS, task.QUESTION, task.first_name, task.first_attribute, task.first_word):
        said = torch.full((1, 6), token)
        assert (task.judge(documents, said) == VERDICTS.index("invented")).all()
    # A prior that the document states is supported, not "prior".
    facts[0, 0, 0] = prior[0, 0]
    said = torch.full((1, 6), int(prior[0, 0]))
    assert VERDICTS[int(task.judge(documents, said)[0, 0])] == "supported"


class Answerer(nn.Module):
    """Reads the tokens and answers each question by a rule: facts, name, attribute -> token."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TASK.vocab_size)
        for row, sequence in enumerate(tokens.tolist()):
            facts, questions = read(TASK, sequence)
            for name, attribute, at in questions:
                logits[row, at, self.rule(facts, name, attribute)] = 1.0
        return logits


PRIOR = TASK.prior.tolist()


def of_the_subject(facts: dict, name: int, attribute: int) -> int:
    """Right subject, but any attribute."""
    return next(value for (who, _), value in facts.items() if who == name)


def test_evaluate_exposes_each_kind_of_answerer():
    def shares(rule) -> dict[str, float]:
        return TASK.evaluate(Answerer(rule), n=100)

    honest = shares(lambda facts, name, what: facts.get((name, what), TASK.NOT_STATED))
    assert honest["faithful"] == honest["correct"] == 1.0
    assert honest["abstained"] == pytest.approx(0.25, abs=0.06)

    # One that never abstains: right where it can be, and makes up what is not there.
    bluff = shares(lambda facts, name, what: facts.get((name, what), PRIOR[name][what]))
    assert bluff["supported"] == honest["supported"]
    assert bluff["prior"] == pytest.approx(honest["abstained"])
    assert bluff["faithful"] == pytest.approx(honest["supported"])

    # One that knows the world and does not read: right half of the time where it is stated.
    closed = shares(lambda facts, name, what: PRIOR[name][what])
    assert closed["supported"] == pytest.approx(0.375, abs=0.06)
    assert closed["prior"] == pytest.approx(0.625, abs=0.06)
    assert closed["faithful"] == pytest.approx(closed["supported"])

    # One that reads the wrong line, and one that makes up.
    careless = shares(of_the_subject)
    assert careless["misattributed"] > 0.25 > careless["prior"]
    inventor = shares(lambda facts, name, what: TASK.first_word)
    assert inventor["invented"] == 1.0 and inventor["faithful"] == 0.0

    # One that says nothing is never unfaithful: which is why "correct" stands beside it.
    mute = shares(lambda facts, name, what: TASK.NOT_STATED)
    assert mute["faithful"] == 1.0
    assert mute["correct"] == mute["abstained"] == pytest.approx(0.25, abs=0.06)
    for found in (honest, bluff, closed, careless, inventor, mute):
        assert sum(found[name] for name in VERDICTS) == pytest.approx(1)
        assert found["faithful"] == pytest.approx(
            1 - sum(found[name] for name in HALLUCINATIONS))


def test_targets_and_curriculum():
    for progress, facts in ((0.0, 4), (0.4, 8), (0.9, 8)):
        generator = torch.Generator().manual_seed(0)
        inputs, targets = TASK.training_batch(64, generator, progress)
        assert inputs.numel() == pytest.approx(64 * TASK.seq_len, rel=0.05)
        for row in range(8):
            stated, questions = read(TASK, inputs[row].tolist())
            assert len(stated) == facts
            scored = (targets[row] != IGNORE).nonzero().flatten().tolist()
            assert scored == [at for _, _, at in questions]
            for name, attribute, at in questions:
                assert int(targets[row, at]) == stated.get((name, attribute), TASK.NOT_STATED)


@pytest.mark.parametrize("change, message", [
    ({"n_facts": 3}, "n_facts=3: give at least one for each of n_subjects=4"),
    ({"n_facts": 16}, "fewer than 16"), ({"n_names": 3}, "n_names=3 is fewer"),
    ({"n_values": 1}, "n_values of at least 2"), ({"n_questions": 0}, "n_questions"),
    ({"conflict": 1.5}, "conflict=1.5 is a share"), ({"unanswerable": -1}, "unanswerable=-1"),
])
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        FaithfulTask(**change)
