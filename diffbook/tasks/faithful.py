"""Answers and summaries that a document must support: hallucination with an exact judge.

Table 4 of the paper lets GPT-4o say whether an answer or a summary is free of hallucination. Here
documents are generated, so that what they state is known, and the judge is a look-up. Chapter 14.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from diffbook.model import IGNORE, LanguageModel
from diffbook.tasks.needle import CITIES

# What an answer can be. The first two are faithful, the last four are not right; "silent" is no
# hallucination, but it is wrong.
VERDICTS = ("supported", "abstained", "silent", "prior", "misattributed", "invented")
HALLUCINATIONS = ("prior", "misattributed", "invented")
# What a whole summary can be; "unfaithful" takes one sentence that the document does not support.
# The first three are free of hallucination; "empty" states nothing. "broken" is a summary that is
# none: out of form, or without an end.
OUTCOMES = ("complete", "partial", "empty", "unfaithful", "broken")
FAITHFUL_OUTCOMES = ("complete", "partial", "empty")


class Documents(NamedTuple):
    """What :meth:`FaithfulTask.sample` draws; all int64."""

    tokens: Tensor  # (batch, seq)
    query_positions: Tensor  # (batch, n_questions): the last token of each question
    answers: Tensor  # (batch, n_questions): a value, or NOT_STATED
    asked: Tensor  # (batch, n_questions, 2): subject and attribute, counted from 0
    facts: Tensor  # (batch, n_names, n_attributes): the stated value token, or -1


class Summaries(NamedTuple):
    """What :meth:`FaithfulTask.sample_summaries` draws; all int64."""

    tokens: Tensor  # (batch, seq): a document, then SUMMARY and the subject's name
    subjects: Tensor  # (batch,): the one to summarize, counted from 0
    reference: Tensor  # (batch, 3 n_attributes): how it should go on, END from its end on
    facts: Tensor  # (batch, n_names, n_attributes): the stated value token, or -1


class Sentence(NamedTuple):
    """What one sentence of a summary says: subject and attribute from 0; the value as token, or
    NOT_STATED."""

    subject: int
    attribute: int
    value: int


class JudgedSummary(NamedTuple):
    """One summary and what the judge says of it."""

    sentences: tuple[Sentence, ...]
    verdicts: tuple[str, ...]  # of each sentence, from VERDICTS
    outcome: str  # from OUTCOMES
    covered: float  # share of the facts stated of the subject that the summary says


class _Drawn(NamedTuple):
    """Documents before anything is asked about them. A *cell* is a subject of the document and an
    attribute, counted together."""

    tokens: Tensor  # (batch, document_len)
    names: Tensor  # (batch, n_subjects): who is spoken of, counted from 0
    stated: Tensor  # (batch, n_facts): cells
    unsaid: Tensor  # (batch, all other cells)
    values: Tensor  # (batch, cells): the stated value token, or -1
    facts: Tensor  # (batch, n_names, n_attributes): the same by name


@dataclass(frozen=True)
class FaithfulTask:
    """Documents that state facts, ``subject attribute value`` between words; then questions, or a
    summary.

    Every pair of a subject and an attribute has a value that most documents state (the *prior*:
    what a model can know by heart). A share ``conflict`` of the stated facts says something else.

    A question is ``QUESTION subject attribute``; the answer is the stated value, or NOT_STATED
    where this document does not say: ``unanswerable`` of the questions, always about a subject
    that the document speaks of. Answers are not written back.

    A summary is asked for by ``SUMMARY subject`` and goes on ``attribute value, subject attribute
    value, ..., END``: all that is stated of this subject, in the order of the attributes. It is
    generated freely, token by token.

    Attributes:
        n_facts: stated in a document. n_questions: asked about it.
        n_subjects: subjects a document speaks of.
        n_names, n_attributes, n_values, n_words: sizes of the groups of tokens.
        words: haystack tokens between the facts.
        conflict: share of stated facts that are not the prior's.
        unanswerable: share of the questions.
        summaries: share of the training rows that end in a summary; the others in questions.
        curriculum: (share of the training, facts, words) steps; short documents first.
    """

    n_facts: int = 8
    n_questions: int = 4
    n_subjects: int = 4
    n_names: int = 12
    n_attributes: int = 4
    n_values: int = 16
    n_words: int = 16
    words: int = 27
    conflict: float = 0.3
    unanswerable: float = 0.1
    summaries: float = 0.5
    curriculum: tuple[tuple[float, int, int], ...] = ((0.3, 4, 0), (0.5, 8, 0))

    name = "faithful"
    BOS = 0
    QUESTION = 1
    NOT_STATED = 2
    SUMMARY = 3
    END = 4

    def __post_init__(self) -> None:
        cells = self.n_subjects * self.n_attributes
        if not self.n_subjects <= self.n_facts < cells:
            raise ValueError(
                f"n_facts={self.n_facts}: give at least one for each of n_subjects="
                f"{self.n_subjects} and fewer than {cells}, so that something is left unsaid"
            )
        if self.n_names < self.n_subjects:
            raise ValueError(f"n_names={self.n_names} is fewer than n_subjects={self.n_subjects}")
        if self.n_values < 2 or self.n_words < 1 or self.n_questions < 1 or self.words < 0:
            raise ValueError("give n_values of at least 2, n_words and n_questions of at least 1")
        for share in ("conflict", "unanswerable", "summaries"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share}={getattr(self, share)} is a share: 0 to 1")

    @property
    def document_len(self) -> int:
        return 1 + 3 * self.n_facts + self.words

    @property
    def seq_len(self) -> int:
        """Of a training row: document and questions, or document and the longest summary."""
        return self.document_len + max(3 * self.n_questions, 1 + 3 * self.n_attributes)

    @property
    def first_name(self) -> int:
        return 5

    @property
    def first_attribute(self) -> int:
        return self.first_name + self.n_names

    @property
    def first_value(self) -> int:
        return self.first_attribute + self.n_attributes

    @property
    def first_word(self) -> int:
        return self.first_value + self.n_values

    @property
    def vocab_size(self) -> int:
        return self.first_word + self.n_words

    @property
    def prior(self) -> Tensor:
        """(n_names, n_attributes): the value token that most documents state, the same always."""
        generator = torch.Generator().manual_seed(14)
        shape = (self.n_names, self.n_attributes)
        return self.first_value + torch.randint(self.n_values, shape, generator=generator)

    # --- Documents ---------------------------------------------------------------------------

    def _documents(self, batch_size: int, generator: torch.Generator) -> _Drawn:
        batch, subjects, attributes = batch_size, self.n_subjects, self.n_attributes
        cells = subjects * attributes

        def order(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).argsort(dim=-1)

        names = order(batch, self.n_names)[:, :subjects]  # (batch, subjects), counted from 0
        # One fact for each subject first, so that each is spoken of; then others.
        first = torch.randint(attributes, (batch, subjects), generator=generator)
        rank = torch.rand(batch, subjects, attributes, generator=generator)
        rank.scatter_(2, first[..., None], -1.0)
        ranked = rank.flatten(1).argsort(dim=1)  # (batch, cells)
        stated, unsaid = ranked[:, : self.n_facts], ranked[:, self.n_facts :]

        usual = self.prior[names].flatten(1)  # (batch, cells)
        other = (usual - self.first_value + torch.randint(
            1, self.n_values, (batch, cells), generator=generator)) % self.n_values
        contrary = torch.rand(batch, cells, generator=generator) < self.conflict
        values = torch.where(contrary, self.first_value + other, usual)
        values = torch.full((batch, cells), -1).scatter(1, stated, values.gather(1, stated))

        # Each fact goes before some word; facts at one place stand in a random order.
        shuffled = stated.gather(1, order(batch, self.n_facts))
        before = torch.randint(self.words + 1, (batch, self.n_facts), generator=generator)
        before = before.sort(dim=1).values
        start = 1 + before + 3 * torch.arange(self.n_facts)  # (batch, facts)
        tokens = torch.full((batch, self.document_len), -1)
        tokens[:, 0] = self.BOS
        subject, attribute = shuffled // attributes, shuffled % attributes
        tokens.scatter_(1, start, self.first_name + names.gather(1, subject))
        tokens.scatter_(1, start + 1, self.first_attribute + attribute)
        tokens.scatter_(1, start + 2, values.gather(1, shuffled))
        hay = self.first_word + torch.randint(
            self.n_words, (batch, self.words), generator=generator)
        tokens[tokens == -1] = hay.flatten()

        facts = torch.full((batch, self.n_names, attributes), -1)
        facts.scatter_(
            1, names[..., None].expand(-1, -1, attributes),
            values.view(batch, subjects, attributes))
        return _Drawn(tokens, names, stated, unsaid, values, facts)

    def sample(self, batch_size: int, generator: torch.Generator) -> Documents:
        """``batch_size`` fresh documents with their questions."""
        drawn = self._documents(batch_size, generator)
        shape = (batch_size, self.n_questions)
        # Unanswerable questions among the cells left unsaid, the others among the stated.
        asked_out = torch.rand(*shape, generator=generator) < self.unanswerable
        pick_in = torch.randint(self.n_facts, shape, generator=generator)
        pick_out = torch.randint(drawn.unsaid.shape[1], shape, generator=generator)
        cell = torch.where(
            asked_out, drawn.unsaid.gather(1, pick_out), drawn.stated.gather(1, pick_in))
        subject, attribute = cell // self.n_attributes, cell % self.n_attributes
        names = drawn.names.gather(1, subject)  # (batch, n_questions)
        questions = torch.stack((
            torch.full_like(names, self.QUESTION), self.first_name + names,
            self.first_attribute + attribute), dim=-1)  # (batch, n_questions, 3)
        stated = drawn.values.gather(1, cell)
        at = self.document_len + 2 + 3 * torch.arange(self.n_questions)
        return Documents(
            torch.cat((drawn.tokens, questions.flatten(1)), dim=1), at.expand(shape),
            torch.where(stated == -1, self.NOT_STATED, stated),
            torch.stack((names, attribute), dim=-1), drawn.facts,
        )

    def sample_summaries(self, batch_size: int, generator: torch.Generator) -> Summaries:
        """``batch_size`` fresh documents, each with one of its subjects to summarize."""
        drawn = self._documents(batch_size, generator)
        rows = torch.arange(batch_size)
        names = drawn.names[
            rows, torch.randint(self.n_subjects, (batch_size,), generator=generator)]
        prompt = torch.stack(
            (torch.full_like(names, self.SUMMARY), self.first_name + names), dim=1)
        return Summaries(
            torch.cat((drawn.tokens, prompt), dim=1), names,
            self.reference(names, drawn.facts[rows, names]), drawn.facts)

    def reference(self, subjects: Tensor, facts: Tensor) -> Tensor:
        """The right summaries of ``subjects`` (batch,) of whom ``facts`` (batch, n_attributes) are
        stated: (batch, 3 n_attributes), from the first attribute on; END from its end on."""
        missing = (facts == -1).long()
        order = missing.argsort(dim=1, stable=True)  # the stated ones first
        count = self.n_attributes - missing.sum(dim=1, keepdim=True)  # (batch, 1)
        place = torch.arange(self.n_attributes)
        again = (self.first_name + subjects)[:, None]
        sentences = torch.stack((
            self.first_attribute + order, facts.gather(1, order),
            torch.where(place < count - 1, again, self.END)), dim=-1)  # (batch, attributes, 3)
        return sentences.masked_fill((place >= count)[..., None], self.END).flatten(1)

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq): answers at the ends of the questions, the reference
        behind SUMMARY and the subject; all else is ignored. Shorter documents come in more rows."""
        final = (1.0, self.n_facts, self.words)
        _, facts, words = next((step for step in self.curriculum if progress < step[0]), final)
        stage = replace(self, n_facts=min(facts, self.n_facts), words=min(words, self.words))
        rows = batch_size * self.seq_len // stage.seq_len
        told, n = round(self.summaries * rows), stage.document_len
        # END also fills what is left of a row; nothing there is scored.
        inputs = torch.full((rows, stage.seq_len), self.END)
        targets = torch.full_like(inputs, IGNORE)

        summary = stage.sample_summaries(told, generator)
        wanted = summary.reference
        inputs[:told, : n + 2] = summary.tokens
        inputs[:told, n + 2 : n + 1 + wanted.shape[1]] = wanted[:, :-1]
        behind = (wanted == self.END).cumsum(dim=1) > 1
        targets[:told, n + 1 : n + 1 + wanted.shape[1]] = wanted.masked_fill(behind, IGNORE)

        asked = stage.sample(rows - told, generator)
        inputs[told:, : asked.tokens.shape[1]] = asked.tokens
        targets[told:].scatter_(1, asked.query_positions, asked.answers)
        return inputs, targets

    # --- The judge ---------------------------------------------------------------------------

    def judge(self, documents: Documents, said: Tensor) -> Tensor:
        """Index into :data:`VERDICTS` of each answer ``said`` (batch, n_questions).

        An answer is *supported* when the document states it of this subject and attribute,
        *abstained* when it rightly says NOT_STATED, *silent* when it wrongly does. Else it is a
        hallucination: the *prior*'s value, *misattributed* (stated of something else), or
        *invented* (stated nowhere in the document, or no value at all).
        """
        rows = torch.arange(len(said))[:, None]
        subject, attribute = documents.asked.unbind(-1)
        stated = documents.facts[rows, subject, attribute]  # (batch, n_questions)
        anywhere = (documents.facts[:, None] == said[..., None, None]).flatten(2).any(-1)
        verdict = torch.full_like(said, VERDICTS.index("invented"))
        verdict[anywhere] = VERDICTS.index("misattributed")
        verdict[said == self.prior[subject, attribute]] = VERDICTS.index("prior")
        none = said == self.NOT_STATED
        verdict[none & (stated == -1)] = VERDICTS.index("abstained")
        verdict[none & (stated != -1)] = VERDICTS.index("silent")
        verdict[(said == stated) & ~none] = VERDICTS.index("supported")
        return verdict

    def read_summary(self, subject: int, said: list[int]) -> tuple[list[Sentence], bool]:
        """The sentences of a summary of ``subject`` (from 0), and whether it is well formed:
        sentences and nothing else, then END."""
        sentences: list[Sentence] = []
        if said[:1] == [self.END]:
            return sentences, True
        for i in range(0, len(said) - 2, 3):
            attribute, value, link = said[i : i + 3]
            is_value = self.first_value <= value < self.first_word or value == self.NOT_STATED
            if not (self.first_attribute <= attribute < self.first_value and is_value):
                return sentences, False
            sentences.append(Sentence(subject, attribute - self.first_attribute, value))
            if not self.first_name <= link < self.first_attribute:
                return sentences, link == self.END
            subject = link - self.first_name
        return sentences, False

    def judge_summaries(self, summaries: Summaries, said: Tensor) -> list[JudgedSummary]:
        """Judge continuations ``said`` (batch, new tokens) sentence by sentence, as :meth:`judge`
        does with answers, and as a whole.

        A summary with one hallucinated sentence is *unfaithful*. Else it is *broken* when it is out
        of form, *empty* when it states nothing, *complete* when it says all that is stated of its
        subject, and *partial* when some is left out. (A supported sentence about somebody else does
        no harm, as the question is only what is supported. "Not stated" states nothing; no
        reference has it, but models that learned it from questions say it here, too.)
        """
        prior = self.prior
        judged = []
        for row, subject in enumerate(summaries.subjects.tolist()):
            facts = summaries.facts[row]  # (n_names, n_attributes)
            sentences, well_formed = self.read_summary(subject, said[row].tolist())
            verdicts = []
            for who, what, value in sentences:
                if value == self.NOT_STATED:
                    verdicts.append("abstained" if facts[who, what] == -1 else "silent")
                elif value == facts[who, what]:
                    verdicts.append("supported")
                elif value == prior[who, what]:
                    verdicts.append("prior")
                else:
                    stated = bool((facts == value).any())
                    verdicts.append("misattributed" if stated else "invented")
            due = {
                Sentence(subject, what, value)
                for what, value in enumerate(facts[subject].tolist()) if value != -1
            }
            covered = len(due & set(sentences)) / len(due)
            if any(verdict in HALLUCINATIONS for verdict in verdicts):
                outcome = "unfaithful"
            elif not well_formed:
                outcome = "broken"
            elif "supported" not in verdicts:
                outcome = "empty"
            else:
                outcome = "complete" if covered == 1 else "partial"
            judged.append(JudgedSummary(tuple(sentences), tuple(verdicts), outcome, covered))
        return judged

    # --- A model under test ------------------------------------------------------------------

    @torch.no_grad()
    def answer(
        self, model: nn.Module, documents: Documents, device: str | torch.device = "cpu", *,
        forced: bool = False,
    ) -> Tensor:
        """The model's first choice at each question: (batch, n_questions). ``forced``: the first
        choice among the values, so that it cannot abstain."""
        logits = model(documents.tokens.to(device)).cpu()
        at = documents.query_positions[..., None].expand(-1, -1, logits.shape[-1])
        logits = logits.gather(1, at)  # (batch, n_questions, vocab)
        if forced:
            values = logits[..., self.first_value : self.first_word]
            return self.first_value + values.argmax(-1)
        return logits.argmax(-1)

    @torch.no_grad()
    def summarize(
        self, model: nn.Module, summaries: Summaries, device: str | torch.device = "cpu"
    ) -> Tensor:
        """What the model writes, always its first choice, from its own words: (batch,
        3 n_attributes), as long as the longest right summary."""
        tokens = summaries.tokens.to(device)
        writer = cast(LanguageModel, model)
        whole = writer.generate(tokens, 3 * self.n_attributes, temperature=0)
        return whole[:, tokens.shape[1] :].cpu()

    def evaluate(
        self, model: nn.Module, device: str | torch.device = "cpu", *, n: int = 256,
        seed: int = 0,
    ) -> dict[str, float]:
        """Measures on ``n`` fresh documents with questions and ``n`` with a summary, the same for
        every model.

        Of all answers: ``faithful`` (free of hallucination, Table 4's measure), ``correct``, and
        the share of each of :data:`VERDICTS`. Of all summaries: ``summary faithful`` (likewise),
        ``summary covered`` (stated facts that are said, mean), and the share of each of
        :data:`OUTCOMES`. Of all their sentences: ``sentence supported`` and so on, of those that
        were written (0 where none was).
        """
        generator = torch.Generator().manual_seed(4_000_037 + seed)  # no training step draws this
        documents = self.sample(n, generator)
        verdicts = self.judge(documents, self.answer(model, documents, device))
        shares = {
            name: float((verdicts == index).double().mean()) for index, name in enumerate(VERDICTS)
        }
        summaries = self.sample_summaries(n, generator)
        judged = self.judge_summaries(summaries, self.summarize(model, summaries, device))
        outcomes = Counter(summary.outcome for summary in judged)
        sentences = Counter(verdict for summary in judged for verdict in summary.verdicts)
        return {
            "faithful": 1 - sum(shares[name] for name in HALLUCINATIONS),
            "correct": shares["supported"] + shares["abstained"],
            **shares,
            "summary faithful": sum(outcomes[name] for name in FAITHFUL_OUTCOMES) / n,
            "summary covered": sum(summary.covered for summary in judged) / n,
            **{f"summary {name}": outcomes[name] / n for name in OUTCOMES},
            **{
                f"sentence {name}": sentences[name] / max(1, sentences.total())
                for name in ("supported", *HALLUCINATIONS)
            },
        }

    # --- In English --------------------------------------------------------------------------

    def describe(self, token: int) -> str:
        """A short readable name of a token id, for figures."""
        if token >= self.first_word:
            return f"w{token - self.first_word}"
        if token >= self.first_value:
            return _numbered(CITIES, token - self.first_value)
        if token >= self.first_attribute:
            return _numbered(SHORT, token - self.first_attribute).replace(" ", "-")
        if token >= self.first_name:
            return _numbered(PEOPLE, token - self.first_name)
        return ("BOS", "?", "NOT-STATED", "SUMMARY", "END")[token]

    def question_text(self, subject: int, attribute: int) -> str:
        """The question in English; subject and attribute are counted from 0."""
        return _numbered(QUESTIONS, attribute).format(_numbered(PEOPLE, subject))

    def statement_text(self, subject: int, attribute: int, value: int) -> str:
        """One fact as an English sentence; ``value`` is a token, whatever a model said."""
        person, verb = _numbered(PEOPLE, subject), _numbered(STATEMENTS, attribute)
        if value == self.NOT_STATED:
            return f"It is not stated where {person} {verb.rsplit(' ', 1)[0]}."
        return f"{person} {verb} {self.describe(value)}."

    def answer_text(self, subject: int, attribute: int, said: int) -> str:
        """An answer as an English sentence."""
        if said == self.NOT_STATED:
            return "The document does not say."
        return self.statement_text(subject, attribute, said)

    def summary_text(self, summary: JudgedSummary) -> str:
        """The sentences of a summary in English, and a row of dots where it fell out of form."""
        told = [self.statement_text(*sentence) for sentence in summary.sentences]
        if summary.outcome == "broken":
            told.append("...")
        return " ".join(told) or "(nothing)"

    def document_text(self, tokens: Tensor) -> str:
        """The document of one row of tokens in English: a sentence for every fact and word."""
        said, i = [], 1
        row = tokens.tolist()
        while i < len(row) and row[i] not in (self.QUESTION, self.SUMMARY):
            if row[i] >= self.first_word:
                said.append(_numbered(FILLERS, row[i] - self.first_word))
                i += 1
            else:
                said.append(self.statement_text(
                    row[i] - self.first_name, row[i + 1] - self.first_attribute, row[i + 2]))
                i += 3
        return " ".join(said)


def _numbered(names: Sequence[str], index: int) -> str:
    """Names go round, with a number behind, where there are more tokens than names."""
    again, index = divmod(index, len(names))
    if not again:
        return names[index]
    stem = names[index].rstrip(".")
    return f"{stem} {again + 1}" + "." * (stem != names[index])


PEOPLE = tuple((
    "Ada Ben Cleo Dan Eva Finn Gita Hugo Ines Jon Kim Lena Milo Nora Omar Pia Quinn Rosa Sam Tara "
    "Udo Vera Will Zoe"
).split())
# An attribute as a statement, as one token, as a question.
STATEMENTS = (
    "was born in", "lives in", "works in", "studied in", "was married in", "will retire to")
SHORT = ("born in", "lives in", "works in", "studied in", "married in", "retires to")
QUESTIONS = (
    "Where was {} born?", "Where does {} live?", "Where does {} work?", "Where did {} study?",
    "Where was {} married?", "Where will {} retire to?",
)
FILLERS = (
    "It rained.", "The bus was late.", "Somebody laughed.", "The shop was closed.",
    "A dog barked.", "Coffee was served.", "The line was long.", "A window stood open.",
    "The radio played.", "Nobody answered.", "It was a Monday.", "The lift was slow.",
    "Snow was expected.", "The lights went out.", "A door slammed.", "The paper was damp.",
)
