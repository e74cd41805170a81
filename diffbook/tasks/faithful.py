"""Answers that the document must support: hallucination with an exact judge (chapter 14).

Table 4 of the paper lets GPT-4o say whether an answer or a summary is supported by its document.
Here documents are generated, so that what they state is known, and the judge is a look-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffbook.model import IGNORE, LanguageModel

# What an answer can be. The first two are faithful, the last four are not; "silent" is no
# hallucination, but it is wrong.
VERDICTS = ("supported", "abstained", "silent", "prior", "misattributed", "invented")
HALLUCINATIONS = ("prior", "misattributed", "invented")


class Documents(NamedTuple):
    """What :meth:`FaithfulTask.sample` draws; all int64."""

    tokens: Tensor  # (batch, seq)
    query_positions: Tensor  # (batch, n_questions): the last token of each question
    answers: Tensor  # (batch, n_questions): a value, or NOT_STATED
    asked: Tensor  # (batch, n_questions, 2): subject and attribute, counted from 0
    facts: Tensor  # (batch, subjects, attributes): the stated value token, or -1


@dataclass(frozen=True)
class FaithfulTask:
    """Documents that state facts, ``subject attribute value`` between words, then questions.

    Every pair of a subject and an attribute has a value that most documents state (the *prior*:
    what a model can know by heart). A share ``conflict`` of the stated facts says something else.
    A question is ``Q subject attribute``; the answer is the stated value, or NOT_STATED where this
    document does not say: ``unanswerable`` of the questions, always about a subject that the
    document speaks of. Answers are not written back.

    Attributes:
        n_facts: stated in a document. n_questions: asked about it.
        n_subjects: subjects a document speaks of.
        n_names, n_attributes, n_values, n_words: sizes of the groups of tokens.
        words: haystack tokens between the facts.
        conflict: share of stated facts that are not the prior's.
        unanswerable: share of the questions.
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
    conflict: float = 0.5
    unanswerable: float = 0.25
    curriculum: tuple[tuple[float, int, int], ...] = ((0.3, 4, 0), (0.5, 8, 0))

    name = "faithful"
    BOS = 0
    QUESTION = 1
    NOT_STATED = 2

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
        for share in ("conflict", "unanswerable"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share}={getattr(self, share)} is a share: 0 to 1")

    @property
    def seq_len(self) -> int:
        return 1 + 3 * self.n_facts + self.words + 3 * self.n_questions

    @property
    def first_name(self) -> int:
        return 3

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

    def sample(self, batch_size: int, generator: torch.Generator) -> Documents:
        """``batch_size`` fresh documents with their questions."""
        batch, subjects, attributes = batch_size, self.n_subjects, self.n_attributes
        cells = subjects * attributes

        def order(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).argsort(dim=-1)

        names = order(batch, self.n_names)[:, :subjects]  # (batch, subjects), counted from 0
        # One fact for each subject first, so that each is spoken of; then others.
        first = torch.randint(attributes, (batch, subjects), generator=generator)
        rank = torch.rand(batch, subjects, attributes, generator=generator)
        rank.scatter_(2, first[..., None], -1.0)
        stated = rank.flatten(1).argsort(dim=1)[:, : self.n_facts]  # (batch, facts), of the cells

        usual = self.prior[names].flatten(1)  # (batch, cells)
        other = (usual - self.first_value + torch.randint(
            1, self.n_values, (batch, cells), generator=generator)) % self.n_values
        contrary = torch.rand(batch, cells, generator=generator) < self.conflict
        values = torch.where(contrary, self.first_value + other, usual)
        facts = torch.full((batch, cells), -1).scatter(1, stated, values.gather(1, stated))

        # Each fact goes before some word; facts at one place stand in a random order.
        shuffled = stated.gather(1, order(batch, self.n_facts))
        before = torch.randint(self.words + 1, (batch, self.n_facts), generator=generator)
        before = before.sort(dim=1).values
        start = 1 + before + 3 * torch.arange(self.n_facts)  # (batch, facts)
        body = 3 * self.n_facts + self.words
        tokens = torch.full((batch, self.seq_len), -1)
        tokens[:, 0] = self.BOS
        subject, attribute = shuffled // attributes, shuffled % attributes
        tokens.scatter_(1, start, self.first_name + names.gather(1, subject))
        tokens.scatter_(1, start + 1, self.first_attribute + attribute)
        tokens.scatter_(1, start + 2, values.gather(1, shuffled))

        # Questions: unanswerable ones among the cells left unsaid, the others among the stated.
        asked_out = torch.rand(batch, self.n_questions, generator=generator) < self.unanswerable
        unsaid = rank.flatten(1).argsort(dim=1)[:, self.n_facts :]
        pick_in = torch.randint(self.n_facts, (batch, self.n_questions), generator=generator)
        pick_out = torch.randint(
            unsaid.shape[1], (batch, self.n_questions), generator=generator)
        cell = torch.where(asked_out, unsaid.gather(1, pick_out), stated.gather(1, pick_in))
        asked_subject, asked_attribute = cell // attributes, cell % attributes
        at = 1 + body + 3 * torch.arange(self.n_questions)
        tokens[:, at] = self.QUESTION
        tokens[:, at + 1] = self.first_name + names.gather(1, asked_subject)
        tokens[:, at + 2] = self.first_attribute + asked_attribute
        answer = facts.gather(1, cell)
        hay = self.first_word + torch.randint(
            self.n_words, (batch, self.words), generator=generator)
        tokens[tokens == -1] = hay.flatten()

        by_name = torch.full((batch, self.n_names, attributes), -1)
        by_name.scatter_(
            1, names[..., None].expand(-1, -1, attributes), facts.view(batch, subjects, attributes))
        return Documents(
            tokens, (at + 2).expand(batch, -1),
            torch.where(answer == -1, self.NOT_STATED, answer),
            torch.stack((names.gather(1, asked_subject), asked_attribute), dim=-1), by_name,
        )

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

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq): the answers at the questions' ends, all else ignored."""
        final = (1.0, self.n_facts, self.words)
        _, facts, words = next((step for step in self.curriculum if progress < step[0]), final)
        stage = replace(self, n_facts=min(facts, self.n_facts), words=min(words, self.words))
        drawn = stage.sample(batch_size * self.seq_len // stage.seq_len, generator)
        targets = torch.full_like(drawn.tokens, IGNORE)
        return drawn.tokens, targets.scatter(1, drawn.query_positions, drawn.answers)

    @torch.no_grad()
    def answer(
        self, model: nn.Module, documents: Documents, device: str | torch.device = "cpu"
    ) -> Tensor:
        """The model's first choice at each question: (batch, n_questions)."""
        logits = model(documents.tokens.to(device)).cpu()
        at = documents.query_positions[..., None].expand(-1, -1, logits.shape[-1])
        return logits.gather(1, at).argmax(-1)

    def evaluate(
        self, model: LanguageModel, device: str | torch.device = "cpu", *, n: int = 256,
        seed: int = 0,
    ) -> dict[str, float]:
        """Shares of all answers to ``n`` fresh documents, the same for every model: ``faithful``
        (free of hallucination, Table 4's measure), ``correct`` and each of :data:`VERDICTS`."""
        generator = torch.Generator().manual_seed(4_000_037 + seed)  # no training step draws this
        documents = self.sample(n, generator)
        verdicts = self.judge(documents, self.answer(model, documents, device))
        shares = {
            name: float((verdicts == index).double().mean()) for index, name in enumerate(VERDICTS)
        }
        return {
            "faithful": 1 - sum(shares[name] for name in HALLUCINATIONS),
            "correct": shares["supported"] + shares["abstained"],
            **shares,
        }
