"""One hand-in, from file to marks.

The points of a task are its own, less what was found: each recognized mistake costs what it says,
once in the whole work; a case that is wrong for a reason nobody knows costs the task, or what the
case says. A mistake that was marked in one task is not marked again where later tasks build on it.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import stat
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffbook.check.core import Case, Task, rounded
from diffbook.check.personal import NUMBERS, normal
from diffbook.grade.box import Plan
from diffbook.grade.bundle import HIDE, Bundle
from diffbook.grade.session import Box, Ended, Nursery

FILE_LIMIT = 16 << 20
RESTARTS = 4  # boxes one hand-in may use up, after its first


@dataclass
class TaskResult:
    """The marks of one task, and what is said about it."""

    id: str
    title: str
    points: float
    of: float
    mistakes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@dataclass
class Result:
    """The marks of one hand-in. ``look`` says why a person should look at it, if one should."""

    assignment: str
    student: str
    file: str
    points: float = 0.0
    of: float = 0.0
    tasks: list[TaskResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    output: str = ""
    seconds: float = 0.0
    level: str = ""
    key: str = ""


class Unreadable(Exception):
    """A file that cannot be graded; the message is for its author."""


def read(path: Path) -> bytes:
    """The bytes of a hand-in: a plain file of a sensible size, and no link to anything else."""
    try:
        # A link could name a file of the grader's, a pipe would wait for ever.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else str(error.strerror)
        raise Unreadable(f"the file cannot be read: {reason}") from None
    with os.fdopen(number, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is no plain file")
        if status.st_size > FILE_LIMIT:
            raise Unreadable(
                f"the file has {status.st_size / 2**20:.1f} MiB, more than the {FILE_LIMIT >> 20} "
                "that are read; clear its outputs (Edit, Clear all outputs) and hand in again"
            )
        return file.read(FILE_LIMIT)


def grade(
    data: bytes, name: str, student: str, bundle: Bundle, nursery: Nursery, level: str, slot: int,
    packages: Path, scratch: Path,
) -> Result:
    """Grade one hand-in.

    Args:
        data: the file's bytes.
        name: the file's name: its ending says what it is, .ipynb or .py.
        student: the id it was handed in under, not the one it claims.
        nursery, level: what boxes are made of, and how strong.
        slot: number of this worker, which no other uses at the same time.
        packages: from :func:`diffbook.grade.bundle.lay_out_packages`.
        scratch: an empty folder of this worker.
    """
    start = time.monotonic()
    result = Result(bundle.assignment, student, name, of=bundle.points, level=level)
    plan = Plan(level, slot, str(packages), str(scratch), HIDE, bundle.limits)
    work = _Work(data, name, nursery, plan, start + bundle.limits.total)
    try:
        work.start()
        _about_the_run(work.ran, student, bundle, result)
        known: frozenset[str] = frozenset()
        for task in bundle.tasks:
            marked = _grade_task(task, bundle, student, work, known, result)
            known |= set(marked.mistakes)
            result.tasks.append(marked)
    except Ended as error:
        result.notes.append(f"The notebook could not be run: {error}.")
        done = {task.id for task in result.tasks}
        result.tasks += [
            TaskResult(task.id, task.title, 0.0, task.points, [], ["not run, see above"])
            for task in bundle.tasks if task.id not in done
        ]
    finally:
        work.close()
    result.output = work.output
    result.notes = work.notes + result.notes
    result.look = work.look + result.look
    result.points = rounded(sum(task.points for task in result.tasks))
    result.seconds = round(time.monotonic() - start, 2)
    return result


class _Work:
    """A hand-in in a box; in a new one where it broke the old."""

    def __init__(self, data: bytes, name: str, nursery: Nursery, plan: Plan, deadline: float):
        self._data, self._nursery, self._plan = data, nursery, plan
        self._kind = "py" if name.lower().endswith(".py") else "ipynb"
        self._deadline = deadline
        self._skip: list[int] = []
        self._box: Box | None = None
        self._boxes = 0
        self.output = ""
        self.ran: dict[str, Any] = {}
        self.notes: list[str] = []
        self.look: list[str] = []

    def start(self) -> None:
        """Run the cells. A cell that ends the process is left out the next time."""
        while True:
            self._boxes += 1
            if self._boxes > 1 + RESTARTS:
                raise Ended("it ended its process again and again")
            self._box = self._nursery.open(self._plan)
            try:
                ran = self._ask({
                    "do": "run", "kind": self._kind, "skip": self._skip,
                    "file": np.frombuffer(self._data, np.uint8),
                    "cell_seconds": float(self._plan.limits.cell),
                }, self._plan.limits.cells)
            except Ended as error:
                cell = self._box.cell
                self._end_box()
                if not cell or cell in self._skip or time.monotonic() > self._deadline:
                    raise
                self._skip.append(cell)
                if "connection" in str(error):
                    self.look.append(f"cell {cell}: {error}")
                self.notes.append(f"Cell {cell} was left out, because when it ran, {error}.")
                continue
            if "unreadable" in ran:
                raise Ended(clean(ran["unreadable"]))
            self.ran = ran
            self._box.stop_keeping()
            return

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Ended("the time for the whole work was over")
        assert self._box is not None
        return self._box.ask(request, min(seconds, left))

    def probe(self, task: Task, inputs: dict[str, Any]) -> dict[str, Any]:
        """Call the thing of the notebook that the task names."""
        if self._box is None:
            self.start()
        request = {
            "do": "probe", "name": task.name, "inputs": inputs, "function": task.probe.__name__,
            "source": textwrap.dedent(inspect.getsource(task.probe)),
        }
        try:
            return self._ask(request, self._plan.limits.call)
        except Ended:
            self._end_box()
            raise

    def _end_box(self) -> None:
        if self._box is not None:
            self.output = self.output or self._box.output
            self._box.close()
            self._box = None

    def close(self) -> None:
        self._end_box()


def _about_the_run(
    ran: dict[str, Any], student: str, bundle: Bundle, result: Result
) -> None:
    """Notes on what happened when the cells ran. All of it is what the child says of itself."""
    errors = ran.get("errors")
    for entry in errors[:10] if isinstance(errors, list) else []:
        if isinstance(entry, list) and len(entry) == 2:
            result.notes.append(f"Cell {clean(entry[0], 6)} stopped: {clean(entry[1])}")
    claimed = ran.get("student")
    personal = any(task.id in NUMBERS for task in bundle.tasks)
    if personal and isinstance(claimed, str) and claimed and normal(claimed) != normal(student):
        said = (f"The notebook says STUDENT = {clean(claimed, 60)!r}, it was handed in as "
                f"{student!r}. Personal numbers are those of {student!r}.")
        result.notes.append(said)
        result.look.append(said)


def _grade_task(
    task: Task, bundle: Bundle, student: str, work: _Work, known: frozenset[str], result: Result
) -> TaskResult:
    """All cases of one task."""
    marked = TaskResult(task.id, task.title, task.points, task.points)
    lost = 0.0
    for case in bundle.cases(task, student):
        costs, message, mistakes, goes_on = _grade_case(task, case, work, known, result)
        lost += costs
        known |= set(mistakes)
        marked.mistakes += mistakes
        if message and message not in marked.messages:
            marked.messages.append(message)
        if not goes_on or lost >= task.points:
            break
    marked.points = rounded(max(0.0, task.points - lost))
    return marked


def _grade_case(
    task: Task, case: Case, work: _Work, known: frozenset[str], result: Result
) -> tuple[float, str, list[str], bool]:
    """(points lost, message, new mistakes, whether more cases make sense)."""
    where = f" (test input: {case.label})" if case.label else ""
    try:
        answer = work.probe(task, case.inputs)
    except Ended as error:
        if "connection" in str(error):
            result.look.append(f"{task.id}: {error}")
        return task.points, f"No answer: {clean(error)}{where}.", [], False
    if answer.get("missing"):
        return task.points, _missing(task.name, work.ran.get("names")), [], False
    price = task.points if case.costs is None else case.costs
    if "error" in answer:
        return price, f"It stopped with {clean(answer['error'])}{where}.", [], True
    if "value" not in answer:
        result.look.append(f"{task.id}: it wrote to the grader's connection")
        return task.points, "No answer.", [], False
    try:
        verdict = task.judge(case, answer["value"], known)
    except Exception as error:  # an answer nobody thought of must not end the batch, nor score
        result.look.append(f"{task.id}: the grader could not judge this answer: {error!r}"[:400])
        return price, f"This answer could not be judged; a person will look at it{where}.", [], True
    if verdict.right:
        return 0.0, "", [], True
    # A message may hold names from the hand-in, of parameters for example.
    said = clean(verdict.message, 1500)
    message = (said[:1].upper() if said[:1].isascii() else said[:1]) + said[1:] + where
    if verdict.mistakes:
        return task.costs(set(verdict.mistakes) - known), message, list(verdict.mistakes), True
    return price, message, [], True


def _missing(name: str, names: Any) -> str:
    known = [n for n in names if isinstance(n, str)][:500] if isinstance(names, list) else []
    text = f"`{name}` is not defined in the notebook: was its cell deleted, or did it stop?"
    alike = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if alike:
        text += f" There is {' and '.join(f'`{clean(n, 60)}`' for n in alike)}; was it renamed?"
    return text


def clean(text: Any, limit: int = 400) -> str:
    """What a hand-in says, fit to be shown: one line, no control characters, not long."""
    line = re.sub(r"\s+", " ", str(text))
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


ENDINGS = (".ipynb", ".py")


def _hand_ins(folder: Path, path: Path) -> bool:
    """Whether a file at this place can be a hand-in: not hidden, at most two folders deep."""
    parts = path.relative_to(folder).parts
    return len(parts) <= 3 and not any(part.startswith((".", "__")) for part in parts)


def names_in(folder: Path, assignment: str) -> Iterator[tuple[Path, str]]:
    """(file, student) of all hand-ins under ``folder``, at most two folders deep.

    The student is the first folder's name, or for a file directly in ``folder`` the file's name
    without the assignment's: ada-A2.ipynb and ada/A2.ipynb are both ada's.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in ENDINGS or not _hand_ins(folder, path):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        parts = path.relative_to(folder).parts
        stem = re.sub(rf"[-_. ]*(?<![a-z0-9]){re.escape(assignment)}(?![a-z0-9])[-_. ]*", "",
                      path.stem, flags=re.I)
        yield path, parts[0] if len(parts) > 1 else stem or path.stem


def left_out(folder: Path) -> Iterator[str]:
    """A line about files and links among the hand-ins that nobody will look at, if there are."""
    names = [clean(path.relative_to(folder).as_posix(), 60) for path in sorted(folder.rglob("*"))
             if path.suffix.lower() not in ENDINGS and _hand_ins(folder, path)
             and (path.is_symlink() or not path.is_dir())]
    if names:
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        yield f"not graded, as they are no .ipynb or .py files: {shown}"
