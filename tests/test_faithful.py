"""FaithfulTask: documents, questions, the exact judge, and answerers that must be caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffbook.model import IGNORE
from diffbook.tasks.faithful import (
    FAITHFUL_OUTCOMES,
    HALLUCINATIONS,
    OUTCOMES,
    VERDICTS,
    Documents,
    FaithfulTask,
    Sentence,
    Summaries,
)

# Shares at which each kind of answerer below is far from the others.
TASK = FaithfulTask(conflict=0.5, unanswerable=0.25)


def draw(task: FaithfulTask = TASK, n: int = 200, seed: int = 0) -> Documents:
    return task.sample(n, torch.Generator().manual_seed(seed))


def read(task: FaithfulTask, tokens: list[int]) -> tuple[dict, list]:
    """The facts and questions of one document, parsed from its tokens alone; what stands behind
    SUMMARY, or fills a row, is left out."""
    facts, questions, i = {}, [], 1
    assert tokens[0] == task.BOS
    while i < len(tokens):
        token = tokens[i]
        if token in (task.SUMMARY, task.END):
            break
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
    assert documents.tokens.shape == (60, task.document_len + 3 * task.n_questions)
    assert documents.tokens.shape[1] <= task.seq_len
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


def written(facts: dict, name: int, value=None) -> list[int]:
    """The summary of what ``facts`` say of ``name``, by a rule for each value."""
    tokens = []
    for who, what in sorted(facts):
        if who == name:
            said = facts[who, what] if value is None else value(facts, who, what)
            tokens += [TASK.first_name + who, TASK.first_attribute + what, said]
    return [*tokens[1:], TASK.END]


class Answerer(nn.Module):
    """Reads the tokens; answers each question and writes each summary by a rule."""

    def __init__(self, rule, summary=None):
        super().__init__()
        self.rule = rule  # facts, name, attribute -> token
        self.summary = summary or (lambda facts, name: written(facts, name, rule))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TASK.vocab_size)
        for row, sequence in enumerate(tokens.tolist()):
            facts, questions = read(TASK, sequence)
            for name, attribute, at in questions:
                logits[row, at, self.rule(facts, name, attribute)] = 1.0
        return logits

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float) -> Tensor:
        assert temperature == 0
        said = torch.full((len(tokens), max_new_tokens), TASK.END)
        for row, sequence in enumerate(tokens.tolist()):
            assert sequence[-2] == TASK.SUMMARY
            facts, _ = read(TASK, sequence)
            words = self.summary(facts, sequence[-1] - TASK.first_name)[:max_new_tokens]
            said[row, : len(words)] = torch.tensor(words)
        return torch.cat((tokens, said), dim=1)


PRIOR = TASK.prior.tolist()


def of_the_subject(facts: dict, name: int, attribute: int) -> int:
    """Right subject, but any attribute."""
    return next(value for (who, _), value in facts.items() if who == name)


def first_in_the_document(facts: dict, name: int, attribute: int) -> int:
    return next(iter(facts.values()))


def shares(rule, summary=None, n: int = 100) -> dict[str, float]:
    found = TASK.evaluate(Answerer(rule, summary), n=n)
    assert sum(found[name] for name in VERDICTS) == pytest.approx(1)
    assert found["faithful"] == pytest.approx(1 - sum(found[name] for name in HALLUCINATIONS))
    assert sum(found[f"summary {name}"] for name in OUTCOMES) == pytest.approx(1)
    assert found["summary faithful"] == pytest.approx(
        sum(found[f"summary {name}"] for name in FAITHFUL_OUTCOMES))
    return found


def test_evaluate_exposes_each_kind_of_answerer():
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

    # Those that read the wrong line, and one that makes up.
    for careless in (shares(of_the_subject), shares(first_in_the_document)):
        assert careless["misattributed"] > 0.25 > careless["prior"]
    inventor = shares(lambda facts, name, what: TASK.first_word)
    assert inventor["invented"] == 1.0 and inventor["faithful"] == 0.0

    # One that says nothing is never unfaithful: which is why "correct" stands beside it.
    mute = shares(
        lambda facts, name, what: TASK.NOT_STATED, lambda facts, name: [TASK.END])
    assert mute["faithful"] == mute["summary faithful"] == mute["summary empty"] == 1.0
    assert mute["correct"] == mute["abstained"] == pytest.approx(0.25, abs=0.06)
    assert mute["summary covered"] == 0.0


class Uniform(Answerer):
    """As unsure as can be: every token is as good as any other."""

    def __init__(self):
        super().__init__(None, self.dice)
        self.generator = torch.Generator().manual_seed(0)

    def draw(self) -> int:
        return int(torch.randint(TASK.vocab_size, (), generator=self.generator))

    def dice(self, facts, name):
        return [self.draw() for _ in range(12)]

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.rand(*tokens.shape, TASK.vocab_size, generator=self.generator)


def test_evaluate_exposes_each_kind_of_summary():
    """As the model above, each by its summaries alone."""

    def told(summary) -> dict[str, float]:
        return shares(lambda facts, name, what: TASK.NOT_STATED, summary)

    perfect = told(written)
    assert perfect["summary complete"] == perfect["summary covered"] == 1.0
    assert perfect["sentence supported"] == 1.0

    # One that knows the world by heart: a summary is faithful only if all its facts are usual.
    closed = told(lambda facts, name: written(facts, name, lambda _, who, what: PRIOR[who][what]))
    assert closed["sentence prior"] == pytest.approx(0.5, abs=0.08)
    assert closed["sentence supported"] == pytest.approx(1 - closed["sentence prior"])
    assert closed["summary unfaithful"] > closed["sentence prior"]

    copier = told(lambda facts, name: written(facts, name, first_in_the_document))
    assert copier["sentence misattributed"] > 0.6 > copier["sentence prior"]
    assert copier["sentence invented"] == 0.0

    # The first sentence, and nothing more: faithful, and lacking.
    terse = told(lambda facts, name: [*written(facts, name)[:2], TASK.END])
    assert terse["summary faithful"] == 1.0
    assert terse["summary covered"] < 0.8 and terse["summary partial"] > 0.3

    # One that never ends, and one that speaks of somebody else than it was asked about.
    endless = told(lambda facts, name: (4 * [*written(facts, name)[:-1], TASK.first_name + name]))
    assert endless["summary broken"] == 1.0 and endless["summary covered"] == 1.0

    def astray(facts, name):
        other = next(who for who, _ in facts if who != name)
        mine = next(what for who, what in sorted(facts) if who == name)
        first = [TASK.first_attribute + mine, facts[name, mine], TASK.first_name + other]
        return [*first, *written(facts, other)[:2], TASK.END]

    assert told(astray)["summary faithful"] == 1.0
    assert told(astray)["summary covered"] == terse["summary covered"]

    uniform = TASK.evaluate(Uniform(), n=100)
    assert uniform["invented"] > 0.6 and uniform["faithful"] < 0.1
    assert uniform["summary broken"] + uniform["summary unfaithful"] > 0.9


def test_summaries_judged_by_hand():
    task = FaithfulTask(n_facts=2, n_subjects=2, n_names=3, n_attributes=2, n_values=16)
    prior = task.prior.tolist()
    free = [v for v in range(task.first_value, task.first_word)
            if v not in task.prior.flatten().tolist()]
    facts = torch.full((3, 2), -1)
    facts[0, 0], facts[0, 1], facts[1, 1] = free[0], free[1], free[2]
    a, b, name = task.first_attribute, task.first_attribute + 1, task.first_name
    end = task.END
    cases = {
        (a, free[0], name, b, free[1], end): ("supported supported", "complete", 1.0),
        (b, free[1], name, a, free[0], end): ("supported supported", "complete", 1.0),
        (b, free[1], end, a, free[3], end): ("supported", "partial", 0.5),
        (end, a, free[0], end, end, end): ("", "empty", 0.0),
        (a, free[0], name, b, prior[0][1], end): ("supported prior", "unfaithful", 0.5),
        (a, free[0], name, b, free[0], end): ("supported misattributed", "unfaithful", 0.5),
        (a, free[3], name, b, free[1], end): ("invented supported", "unfaithful", 0.5),
        # About another one: supported, but nothing of what is due; and a stranger.
        (a, free[0], name + 1, b, free[2], end): ("supported supported", "partial", 0.5),
        (a, free[0], name + 2, b, free[2], end): ("supported misattributed", "unfaithful", 0.5),
        # "Not stated" states nothing, rightly or not.
        (a, task.NOT_STATED, end, end, end, end): ("silent", "empty", 0.0),
        (b, free[1], name, a, task.NOT_STATED, end): ("supported silent", "partial", 0.5),
        (a, free[0], name + 1, a, task.NOT_STATED, end): ("supported abstained", "partial", 0.5),
        (a, task.NOT_STATED, name, b, free[3], end): ("silent invented", "unfaithful", 0.0),
        (a, task.NOT_STATED, name, b, task.NOT_STATED, name): ("silent silent", "broken", 0.0),
        # Out of form: no end, no value, no attribute, not a name, a wrong sentence and no end.
        (a, free[0], name, b, free[1], name): ("supported supported", "broken", 1.0),
        (a, free[0], name, b, a, end): ("supported", "broken", 0.5),
        (name, a, free[0], end, end, end): ("", "broken", 0.0),
        (a, free[0], a, free[0], end, end): ("supported", "broken", 0.5),
        (a, free[3], a, free[0], end, end): ("invented", "unfaithful", 0.0),
        (task.NOT_STATED, end, end, end, end, end): ("", "broken", 0.0),
    }
    said = torch.tensor(list(cases))
    n = len(cases)
    summaries = Summaries(
        torch.zeros(n, 3, dtype=torch.long), torch.zeros(n, dtype=torch.long),
        torch.zeros(n, 6, dtype=torch.long), facts.expand(n, -1, -1))
    for judged, expected in zip(
            task.judge_summaries(summaries, said), cases.values(), strict=True):
        assert (" ".join(judged.verdicts), judged.outcome, judged.covered) == expected
    assert task.read_summary(2, list(said[0])) == (
        [Sentence(2, 0, free[0]), Sentence(0, 1, free[1])], True)


def test_a_reference_says_all_in_order():
    for task in (TASK, FaithfulTask(n_facts=15), FaithfulTask(n_facts=4, words=0)):
        summaries = task.sample_summaries(50, torch.Generator().manual_seed(1))
        judged = task.judge_summaries(summaries, summaries.reference)
        for row, summary in enumerate(judged):
            assert (summary.outcome, summary.covered) == ("complete", 1.0)
            facts, _ = read(task, summaries.tokens[row].tolist())
            subject = int(summaries.subjects[row])
            assert list(summary.sentences) == [
                (who, what, facts[who, what]) for who, what in sorted(facts) if who == subject]
            assert summaries.tokens[row, -2:].tolist() == [
                task.SUMMARY, task.first_name + subject]


def test_forced_to_answer_a_model_names_a_value():
    class Shy(nn.Module):
        """Says nothing; and were it to say something, the first value."""

        def forward(self, tokens: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, TASK.vocab_size)
            logits[..., TASK.NOT_STATED] = 2.0
            logits[..., TASK.first_value] = 1.0
            return logits

    documents = draw(n=5)
    assert (TASK.answer(Shy(), documents) == TASK.NOT_STATED).all()
    assert (TASK.answer(Shy(), documents, forced=True) == TASK.first_value).all()


def test_targets_and_curriculum():
    for progress, facts in ((0.0, 4), (0.4, 8), (0.9, 8)):
        generator = torch.Generator().manual_seed(0)
        inputs, targets = TASK.training_batch(64, generator, progress)
        assert inputs.numel() == pytest.approx(64 * TASK.seq_len, rel=0.05)
        told = (inputs == TASK.SUMMARY).any(1)
        assert float(told.double().mean()) == pytest.approx(0.5, abs=0.02)
        for row in range(len(inputs)):
            stated, questions = read(TASK, inputs[row].tolist())
            assert len(stated) == facts
            scored = (targets[row] != IGNORE).nonzero().flatten().tolist()
            if told[row]:
                at = inputs[row].tolist().index(TASK.SUMMARY)
                wanted = written(stated, int(inputs[row, at + 1]) - TASK.first_name)
                assert scored == list(range(at + 1, at + 1 + len(wanted)))
                assert targets[row, scored].tolist() == wanted
                assert inputs[row, scored[1:]].tolist() == wanted[:-1]  # what it has to go on
                continue
            assert scored == [at for _, _, at in questions]
            for name, attribute, at in questions:
                assert int(targets[row, at]) == stated.get((name, attribute), TASK.NOT_STATED)


def test_only_questions_or_only_summaries():
    for share in (0.0, 1.0):
        inputs, targets = replace(TASK, summaries=share).training_batch(
            8, torch.Generator().manual_seed(0), 1.0)
        assert ((inputs == TASK.SUMMARY).any(1) == bool(share)).all()
        assert (targets != IGNORE).any(1).all()


def test_in_english():
    summaries = TASK.sample_summaries(20, torch.Generator().manual_seed(2))
    judged = TASK.judge_summaries(summaries, summaries.reference)
    for row, summary in enumerate(judged):
        document = TASK.document_text(summaries.tokens[row])
        assert document.count(".") == TASK.n_facts + TASK.words
        for sentence in TASK.summary_text(summary).split(". "):
            assert sentence.rstrip(".") + "." in document
    assert TASK.question_text(0, 1) == "Where does Ada live?"
    assert TASK.answer_text(0, 1, TASK.first_value) == "Ada lives in Amsterdam."
    assert TASK.answer_text(0, 1, TASK.NOT_STATED) == "The document does not say."
    assert TASK.statement_text(0, 1, TASK.NOT_STATED) == "It is not stated where Ada lives."
    large = FaithfulTask(n_names=60, n_attributes=8, n_values=200, n_words=40)
    shown = [large.describe(token) for token in range(large.vocab_size)]
    assert len(set(shown)) == large.vocab_size  # no two tokens look the same
    texts = {large.question_text(who, what) for who in range(60) for what in range(8)}
    assert len(texts) == 480


@pytest.mark.parametrize("change, message", [
    ({"n_facts": 3}, "n_facts=3: give at least one for each of n_subjects=4"),
    ({"n_facts": 16}, "fewer than 16"), ({"n_names": 3}, "n_names=3 is fewer"),
    ({"n_values": 1}, "n_values of at least 2"), ({"n_questions": 0}, "n_questions"),
    ({"summaries": 2}, "summaries=2 is a share"),
    ({"conflict": 1.5}, "conflict=1.5 is a share"), ({"unanswerable": -1}, "unanswerable=-1"),
])
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        FaithfulTask(**change)
