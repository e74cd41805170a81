"""A language model as the judge of hallucination, and how far it agrees with an exact one.

The protocol behind Table 4 is that of Chuang et al. (2024, arXiv 2407.07071): a large language
model reads the document, a reference, and the proposed answer or summary; it explains, and says at
the end whether everything proposed can be inferred from the document. The reference is a help, not
the measure: what differs from it but stands in the document is right. The wording here is the
book's own. Chapter 14.

    cases = answer_cases(task, model, n=25) + summary_cases(task, model, n=25)
    agreement = judge_cases(cases, hub_judge("Qwen/Qwen2.5-7B-Instruct"))
    print(agreement.text())
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from diffbook.tasks.faithful import (
    FAITHFUL_OUTCOMES,
    HALLUCINATIONS,
    VERDICTS,
    FaithfulTask,
)

Ask = Callable[[str], str]  # a prompt -> a reply; any model, any service

PROMPT = """\
Below are a document and a proposed {kind}. The document is the only source that counts; what you \
know of the world does not. The {kind} passes if every statement in it can be inferred from the \
document. It may leave things out, and it may differ from the reference, as long as it states \
nothing that the document does not support. It also passes if it states nothing, or only says that \
the document does not tell. It does not pass if it breaks off in "...".

Document: {document}

{question}Reference {kind}: {reference}

Proposed {kind}: {proposed}

Explain briefly, statement by statement. Then end with one line, either "Verdict: yes" (everything \
is supported) or "Verdict: no" (something is not)."""

VERDICT = re.compile(r"verdict\W*(yes|no)\b", re.IGNORECASE)
ALONE = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


class Case(NamedTuple):
    """One output of a model, in English, with the verdict of the exact judge."""

    kind: str  # "answer" or "summary"
    document: str
    question: str  # empty for a summary
    reference: str
    proposed: str
    faithful: bool

    @property
    def prompt(self) -> str:
        question = f"Question: {self.question}\n\n" if self.question else ""
        return PROMPT.format(
            kind=self.kind, document=self.document, question=question, reference=self.reference,
            proposed=self.proposed)


def answer_cases(
    task: FaithfulTask, model: nn.Module, n: int = 100, seed: int = 0, *, forced: bool = False
) -> list[Case]:
    """The first answer of ``model`` to each of ``n`` documents. ``forced``: it cannot abstain."""
    documents = task.sample(n, torch.Generator().manual_seed(4_000_037 + seed))
    device = next(model.parameters()).device
    said = task.answer(model, documents, device, forced=forced)
    verdicts = task.judge(documents, said)
    cases = []
    for row in range(n):
        subject, attribute = documents.asked[row, 0].tolist()
        cases.append(Case(
            "answer", task.document_text(documents.tokens[row]),
            task.question_text(subject, attribute),
            task.answer_text(subject, attribute, int(documents.answers[row, 0])),
            task.answer_text(subject, attribute, int(said[row, 0])),
            VERDICTS[int(verdicts[row, 0])] not in HALLUCINATIONS,
        ))
    return cases


def summary_cases(
    task: FaithfulTask, model: nn.Module, n: int = 100, seed: int = 0
) -> list[Case]:
    """The summaries that ``model`` writes of ``n`` documents."""
    summaries = task.sample_summaries(n, torch.Generator().manual_seed(4_000_037 + seed))
    device = next(model.parameters()).device
    judged = task.judge_summaries(summaries, task.summarize(model, summaries, device))
    right = task.judge_summaries(summaries, summaries.reference)
    return [
        Case(
            "summary", task.document_text(summaries.tokens[row]), "",
            task.summary_text(right[row]), task.summary_text(judged[row]),
            judged[row].outcome in FAITHFUL_OUTCOMES,
        )
        for row in range(n)
    ]


def parse_verdict(reply: str) -> bool | None:
    """True for yes, False for no, None where that is not clear: no verdict, or both."""
    said = {word.lower() for word in VERDICT.findall(reply)}
    if not said:
        alone = ALONE.fullmatch(reply)
        said = {alone.group(1).lower()} if alone else set()
    return said == {"yes"} if len(said) == 1 else None


@dataclass(frozen=True)
class Agreement:
    """A language model's verdicts beside the exact ones, on the same cases.

    Attributes:
        exact: free of hallucination, by the exact judge. verdicts: by the language model, None
            where unclear.
    """

    exact: tuple[bool, ...]
    verdicts: tuple[bool | None, ...]

    @property
    def n(self) -> int:
        return len(self.exact)

    @property
    def unclear(self) -> int:
        return sum(verdict is None for verdict in self.verdicts)

    @property
    def faithful(self) -> float:
        """The share that a table would print: an unclear verdict is no yes."""
        return sum(verdict is True for verdict in self.verdicts) / self.n

    @property
    def exact_faithful(self) -> float:
        return sum(self.exact) / self.n

    @property
    def agree(self) -> float:
        """Share of cases with the same verdict; an unclear one agrees with nothing."""
        pairs = zip(self.exact, self.verdicts, strict=True)
        return sum(exact is verdict for exact, verdict in pairs) / self.n

    @property
    def kappa(self) -> float:
        """Cohen's kappa over the *clear* verdicts: 1 for full agreement, 0 for as much as two
        independent judges with these shares would have; nan where nothing can be said, as when
        both always say the same one word."""
        return cohen_kappa([
            (exact, verdict)
            for exact, verdict in zip(self.exact, self.verdicts, strict=True)
            if verdict is not None
        ])

    def text(self) -> str:
        return (
            f"{self.n} cases: free of hallucination {self.faithful:.2f} by the language model, "
            f"{self.exact_faithful:.2f} exactly; same verdict {self.agree:.2f}, "
            f"kappa {self.kappa:.2f}, unclear {self.unclear}"
        )


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Agreement of two judges beyond chance, (p_o - p_e) / (1 - p_e), for pairs of verdicts; nan
    for none, or when chance alone would agree always."""
    if not pairs:
        return math.nan
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    first, second = (sum(pair[i] for pair in pairs) / n for i in (0, 1))
    chance = first * second + (1 - first) * (1 - second)
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)


def judge_cases(cases: Sequence[Case], ask: Ask) -> Agreement:
    """Put every case to ``ask``, any function from a prompt to a reply.

    Raises:
        ValueError: without cases.
    """
    if not cases:
        raise ValueError("no cases: give at least one, from answer_cases or summary_cases")
    return Agreement(
        tuple(case.faithful for case in cases),
        tuple(parse_verdict(ask(case.prompt)) for case in cases),
    )


def hub_judge(
    name: str, device: str | None = None, dtype: str | None = None, *, max_new_tokens: int = 300
) -> Ask:
    """A causal language model of Hugging Face as judge, by name or folder (extra ``llm``): always
    its first choice, in its chat format where it has one.

    Raises:
        ValueError: as :func:`diffbook.tasks.hub_needle.load`.
    """
    from diffbook.tasks.hub_needle import load

    model, tokenizer = load(name, device, dtype)
    place = next(model.parameters()).device

    @torch.no_grad()
    def ask(prompt: str) -> str:
        if getattr(tokenizer, "chat_template", None):
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
            inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        else:
            inputs = tokenizer(prompt, return_tensors="pt")
        tokens = inputs["input_ids"].to(place)
        whole = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=max_new_tokens,
            do_sample=False, pad_token_id=tokenizer.pad_token_id or 0)
        return tokenizer.decode(whole[0, tokens.shape[1] :], skip_special_tokens=True)

    return ask
