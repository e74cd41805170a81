"""Tasks, and what is said about an answer to one.

A :class:`Task` knows how to make inputs, what the right answer to them is, and which *mistakes*
people make. One function, ``reference(*inputs, mistakes)``, gives the right answer for no mistakes
and the answer of somebody who made them otherwise. So a wrong answer is not only told to be wrong:
if it equals the answer of a known mistake, or of two at once, the message names it.

The same judgement serves the student (:func:`diffbook.check.check`, public inputs, in his own
process) and the grader (:mod:`diffbook.grade`, other inputs, from a process apart).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NONE: frozenset[str] = frozenset()
NO_ANSWER = "there is no answer yet"
FOLLOWS = "follows from a mistake that was marked before"


@dataclass(frozen=True)
class Mistake:
    """A way to be wrong that can be recognized.

    Args:
        name: one per assignment, used in every task where the mistake shows.
        costs: points, taken once in an assignment, where the mistake is first seen.
        says: what the student reads: what was seen, and a question or a step that leads on.
    """

    name: str
    costs: float
    says: str


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Args:
        label: what is special about it, for the message.
        inputs: arguments by name, handed to the student's function in this order.
        costs: points an unrecognized wrong answer to this case costs. None: all of the task.
            Give a number to a case that tests one extra (an edge, a dtype), not the idea.
    """

    label: str
    inputs: dict[str, Any]
    costs: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of one case, or of one task."""

    right: bool
    message: str = ""
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unknown:
    """Stands for an answer that is no plain value."""

    type_name: str


def call(thing: Any, inputs: dict[str, Any]) -> Any:
    """The usual probe: the student's function, called with the inputs in their order."""
    return thing(*inputs.values())


def value(thing: Any, inputs: dict[str, Any]) -> Any:
    """The probe of a task whose answer is a plain number in the notebook."""
    return thing


Judge = Callable[[Case, Any, frozenset[str]], Verdict]
Cases = Callable[[np.random.Generator, str], Iterable[Case]]


def once(rng: np.random.Generator, student: str) -> Iterable[Case]:
    """The cases of a task without inputs: a number by hand, a choice, a measured value."""
    yield Case("", {})


@dataclass(frozen=True)
class Task:
    """One task of an assignment, or one exercise of a chapter.

    Args:
        id: "A2.1", or "3.2" for exercise 2 of chapter 3.
        title: a few words.
        name: the function, class or variable of the notebook that is judged.
        points: in all. The grader takes off what wrong cases and mistakes cost, down to 0.
        cases: ``cases(rng, student)`` yields the inputs. The student's id is "" where inputs do
            not depend on it. ``rng`` is the only source of chance.
        reference: ``reference(*inputs, mistakes=frozenset())`` gives the plain right answer, or
            that of somebody who made these mistakes. It ignores names it does not know.
        mistakes: those that may be recognized here, the likelier first.
        symptom: ``symptom(inputs, answer, expected)`` -> for a wrong answer that no mistake
            reproduces exactly: a message, or one of ``mistakes`` after all, or None. Shapes agree
            and all numbers are finite.
        probe: ``probe(thing, inputs)`` -> plain values, for what is more than one call. In the
            grader its *source text* runs beside the student's code: let it stand alone, import
            inside, and hold no secret.
        rtol, atol: an answer a is right if \\|a - b\\| <= atol + rtol \\|b\\| everywhere.
        group: at most so many mistakes are looked for together.
        compare: ``compare(answer, expected)`` -> None if the answer will do, else what is wrong;
            in the place of the comparison number by number (:func:`difference`), for answers
            that depend on chance.
        judge: ``judge(case, answer, known)`` -> :class:`Verdict`, in the place of everything else
            (but it is not asked where there is no answer at all). See :func:`marked`.
    """

    id: str
    title: str
    name: str
    points: float
    cases: Cases
    reference: Callable[..., Any]
    mistakes: tuple[Mistake, ...] = ()
    symptom: Callable[[dict[str, Any], Any, Any], str | Mistake | None] | None = None
    probe: Callable[[Any, dict[str, Any]], Any] = call
    rtol: float = 1e-4
    atol: float = 1e-5
    group: int = 2
    compare: Callable[[Any, Any], str | None] | None = None
    judge: Judge = field(default=None)  # type: ignore

    def __post_init__(self) -> None:
        own: Judge | None = self.judge
        object.__setattr__(self, "judge", _answered(self._judge if own is None else own))
        names = [mistake.name for mistake in self.mistakes]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.id}: two mistakes have one name: {names}")

    def says(self, names: Iterable[str]) -> str:
        """The messages of these mistakes, one after the other."""
        texts = {mistake.name: mistake.says for mistake in self.mistakes}
        return " ".join(texts[name] for name in names)

    def costs(self, names: Iterable[str]) -> float:
        """The points that these mistakes take off."""
        prices = {mistake.name: mistake.costs for mistake in self.mistakes}
        return sum(prices.get(name, 0.0) for name in names)

    def problem(self, answer: Any, expected: Any) -> str | None:
        """None if ``answer`` is ``expected``, within the tolerance, else the difference."""
        if self.compare is not None:
            return self.compare(answer, expected)
        return difference(answer, expected, self.rtol, self.atol)

    def close(self, answer: Any, expected: Any) -> bool:
        return expected is not None and self.problem(answer, expected) is None

    def _judge(self, case: Case, answer: Any, known: frozenset[str] = NONE) -> Verdict:
        """Right, or which mistakes explain the answer, or what can be said about it.

        ``known`` are mistakes already seen in this work: what only follows from them is right.
        """
        inputs = tuple(case.inputs.values())
        expected = self.reference(*inputs, mistakes=NONE)
        problem = self.problem(answer, expected)
        if problem is None:
            return Verdict(True)
        if unanswered(answer) or isinstance(answer, Unknown):
            return Verdict(False, problem)
        if known and self.close(answer, self.reference(*inputs, mistakes=known)):
            return Verdict(True, FOLLOWS)
        for found in self._explanations(known):
            wrong = self.reference(*inputs, mistakes=found | known)
            if self.close(answer, wrong):
                new = tuple(m.name for m in self.mistakes if m.name in found)
                return Verdict(False, self.says(new), new)
            if known:
                wrong = self.reference(*inputs, mistakes=found)
                if self.close(answer, wrong):
                    new = tuple(m.name for m in self.mistakes if m.name in found - known)
                    return Verdict(not new, self.says(new), new)
        if self.symptom is not None and _comparable(answer, expected):
            said = self.symptom(case.inputs, answer, expected)
            if isinstance(said, Mistake):
                if said.name in known:
                    return Verdict(True, FOLLOWS)
                return Verdict(False, said.says, (said.name,))
            if said:
                return Verdict(False, f"{said} ({problem})")
        return Verdict(False, problem)

    def _explanations(self, known: frozenset[str]) -> Iterable[frozenset[str]]:
        own = [mistake.name for mistake in self.mistakes]
        for size in range(1, self.group + 1):
            for names in itertools.combinations(own, size):
                if not known.issuperset(names) or size < len(known):
                    yield frozenset(names)


def _answered(judge: Judge) -> Judge:
    """The judge, who is asked only if there is an answer."""
    @functools.wraps(judge)
    def asked(case: Case, answer: Any, known: frozenset[str] = NONE) -> Verdict:
        if answer is None or answer is Ellipsis:
            return Verdict(False, no_answer(answer))
        return judge(case, answer, known)

    return asked


def marked(mistakes: Iterable[Mistake], known: frozenset[str]) -> Verdict:
    """These mistakes were seen; those that are known already cost nothing more."""
    new = [mistake for mistake in mistakes if mistake.name not in known]
    if not new:
        return Verdict(True, FOLLOWS)
    return Verdict(False, " ".join(m.says for m in new), tuple(m.name for m in new))


# ---------------------------------------------------------------------------------------------
# Comparing plain values


def seed(*parts: object) -> np.random.Generator:
    """The generator that belongs to these words, on every machine the same."""
    text = "\0".join(str(part) for part in parts)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def _is_tensor(x: Any) -> bool:
    return type(x).__module__.startswith("torch") and hasattr(x, "detach")


def numeric(x: Any) -> Any:
    """Numbers as an array of float64, of a number, an array, a tensor, or a list; else None."""
    if isinstance(x, (bool, np.bool_)) or isinstance(x, numbers.Real):
        return np.asarray(float(x))
    if _is_tensor(x):
        x = x.detach().cpu()
        return None if x.is_complex() else x.double().numpy()
    if isinstance(x, np.ndarray):
        return x.astype(np.float64) if x.dtype.kind in "biuf" else None
    if isinstance(x, (list, tuple)) and x and all(isinstance(e, numbers.Real) for e in x):
        return np.asarray([float(e) for e in x])
    return None


def kind(x: Any) -> str:
    """An answer's kind in words."""
    if isinstance(x, Unknown):
        return f"an object of type {x.type_name}"
    if _is_tensor(x):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, np.ndarray):
        return f"an array of shape {x.shape}"
    if isinstance(x, (bool, np.bool_)):
        return f"the truth value {x}"
    if isinstance(x, numbers.Real):
        return f"the number {float(x):.6g}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}"
    if isinstance(x, str):
        return f"the text {x[:40]!r}"
    return f"an object of type {type(x).__name__}"


def unanswered(x: Any) -> bool:
    """Whether an answer was left as it stood in the notebook: None, the dots, or only dots."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        return bool(x) and all(unanswered(part) for part in x)
    return x is None or x is Ellipsis


def no_answer(x: Any) -> str:
    """What is said of one that is :func:`unanswered`."""
    return NO_ANSWER if x is not None else (
        f"{NO_ANSWER}; if you wrote a function, is its `return` missing?")


def difference(answer: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """None if ``answer`` equals ``expected`` within the tolerance, else the difference in words."""
    if unanswered(answer):
        return no_answer(answer)
    if isinstance(expected, dict):
        return _difference_of_dicts(answer, expected, rtol, atol)
    if isinstance(expected, str):
        if not isinstance(answer, str):
            return f"this is {kind(answer)}; a text was expected"
        same = answer.strip().casefold() == expected.strip().casefold()
        return None if same else f"this is {kind(answer)}, which is not the right one"
    listed = isinstance(answer, (list, tuple)) and any(unanswered(part) for part in answer)
    if isinstance(expected, (list, tuple)) and (listed or numeric(expected) is None):
        return _difference_of_lists(answer, expected, rtol, atol)
    if _is_tensor(expected) and expected.ndim and not _is_tensor(answer):
        return f"this is {kind(answer)}; a torch tensor was expected"
    mine, right = numeric(answer), numeric(expected)
    if right is None:
        raise TypeError(f"the reference gave {kind(expected)}, which is no plain value")
    if mine is None:
        return f"this is {kind(answer)}; numbers were expected"
    if mine.shape != right.shape:
        if mine.size == right.size == 1:
            mine = mine.reshape(right.shape)
        else:
            return f"the shape is {mine.shape}; it should be {right.shape}"
    return _difference_of_numbers(mine, right, rtol, atol)


def _difference_of_numbers(
    mine: np.ndarray, right: np.ndarray, rtol: float, atol: float
) -> str | None:
    strange = np.isnan(mine) & ~np.isnan(right)
    if strange.any():
        part = f"{strange.sum()} of {mine.size} entries are" if mine.size > 1 else "this is"
        return (f"{part} NaN (not a number): a division 0/0, an overflow of exp, or a row whose "
                "scores are all -inf")
    with np.errstate(invalid="ignore"):
        wrong = ~np.isclose(mine, right, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    if mine.ndim == 0:
        return f"this is {float(mine):.5g}, which is not right"
    with np.errstate(invalid="ignore"):
        gap = np.where(wrong, np.nan_to_num(np.abs(mine - right), nan=np.inf), -1.0)
    index = np.unravel_index(int(gap.argmax()), gap.shape)
    where = ", ".join(str(int(i)) for i in index)
    return (f"{int(wrong.sum())} of {mine.size} entries differ; most at [{where}], where you have "
            f"{mine[index]:.5g} and {right[index]:.5g} is right")


def _difference_of_dicts(
    answer: Any, expected: dict[str, Any], rtol: float, atol: float
) -> str | None:
    if not isinstance(answer, dict):
        return f"this is {kind(answer)}; a dictionary with {', '.join(expected)} was expected"
    for name, right in expected.items():
        if name not in answer:
            return f"{name} is missing"
        problem = difference(answer[name], right, rtol, atol)
        if problem:
            return f"{name}: {problem}"
    return None


def _difference_of_lists(
    answer: Any, expected: Sequence[Any], rtol: float, atol: float
) -> str | None:
    if not isinstance(answer, (list, tuple)) or len(answer) != len(expected):
        return f"this is {kind(answer)}; {len(expected)} values were expected"
    for number, (mine, right) in enumerate(zip(answer, expected, strict=True), start=1):
        problem = difference(mine, right, rtol, atol)
        if problem:
            return f"value {number} of {len(expected)}: {problem}"
    return None


def _comparable(answer: Any, expected: Any) -> bool:
    """Whether a symptom may compute with the answer."""
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            name in answer and _comparable(answer[name], part) for name, part in expected.items()
        )
    if isinstance(expected, (list, tuple)) and numeric(expected) is None:
        return isinstance(answer, (list, tuple)) and len(answer) == len(expected) and all(
            _comparable(mine, right) for mine, right in zip(answer, expected, strict=True))
    if isinstance(expected, str):
        return isinstance(answer, str)
    if _is_tensor(expected) and not _is_tensor(answer):
        return False
    mine, right = numeric(answer), numeric(expected)
    return (
        mine is not None and right is not None and mine.shape == right.shape
        and bool(np.isfinite(mine).all())
    )


def rounded(points: float) -> float:
    """Points, without the dust of floating-point sums."""
    return 0.0 if math.isclose(points, 0, abs_tol=1e-9) else round(points, 4)
