"""Is my answer right, and if not, why not? For exercises and assignments, in your own hands.

    from diffbook.check import check

    check("A2.1", softmax_map)

``check`` calls your function with a few inputs, compares what comes back with the right answer,
and with the answers of people who made a common mistake. It prints what it found. Nothing is sent
anywhere, and nothing here decides about marks: ``diffbook.grade`` does, with other inputs.
"""

from __future__ import annotations

import copy
import importlib
import traceback
import warnings
from pathlib import Path
from typing import Any

from diffbook.check.core import NO_ANSWER, Case, Mistake, Task, Unknown, Verdict, seed
from diffbook.check.personal import NoStudent, personal

__all__ = ["Case", "Mistake", "Task", "Unknown", "Verdict", "check", "personal", "task", "tasks",
           "verdict"]

ASSIGNMENTS = ("A1", "A2", "A3", "A4", "A5")
# The chapters whose exercises have tests: "3" is diffbook.check.chapter03.
CHAPTERS = tuple(str(int(file.stem[-2:])) for file in sorted(
    Path(__file__).parent.glob("chapter[0-9][0-9].py")))


def tasks(assignment: str) -> tuple[Task, ...]:
    """All tasks of an assignment ("A2") in their order, or of the chapters' exercises ("3")."""
    if assignment in ASSIGNMENTS:
        return importlib.import_module(f"diffbook.check.{assignment.lower()}").TASKS
    if assignment in CHAPTERS:
        return importlib.import_module(f"diffbook.check.chapter{int(assignment):02d}").TASKS
    raise ValueError(
        f"no assignment or chapter {assignment!r} with tests: there are "
        f"{', '.join(ASSIGNMENTS + CHAPTERS)}"
    )


def task(task_id: str) -> Task:
    """The task with this id, such as "A2.1"."""
    group = str(task_id).partition(".")[0]
    found = {each.id: each for each in tasks(group)}
    if task_id not in found:
        raise ValueError(f"no task {task_id!r}: {group} has {', '.join(found)}")
    return found[task_id]


def verdict(task_id: str, answer: Any, student: str = "") -> Verdict:
    """What :func:`check` prints, as a value.

    Args:
        task_id: such as "A2.1".
        answer: your function, class or number.
        student: your id, for tasks with personal numbers.

    Raises:
        ValueError: for an unknown task.
    """
    chosen = task(task_id)
    known: frozenset[str] = frozenset()
    try:
        cases = list(chosen.cases(seed("public", task_id), student))
    except NoStudent as error:
        return Verdict(False, str(error))
    for case in cases:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = chosen.probe(answer, copy.deepcopy(case.inputs))
        except Exception as error:  # whatever the student's code does wrong is told to him
            return Verdict(False, _raised(error, case))
        found = chosen.judge(case, given, known)
        if not found.right:
            said = case.label and not found.message.startswith(NO_ANSWER)
            where = f" (test input: {case.label})" if said else ""
            return Verdict(False, f"{found.message}{where}", found.mistakes)
    return Verdict(True, f"right, on {len(cases)} test inputs" if len(cases) > 1 else "right")


def check(task_id: str, answer: Any, student: str = "") -> None:
    """Print whether ``answer`` solves the task (✓), and if not (✗), what was seen; ○ is no answer.

    Args:
        task_id: such as "A2.1".
        answer: your function, class or number.
        student: your id, for tasks with personal numbers.
    """
    found = verdict(task_id, answer, student)
    mark = "✓" if found.right else "○" if found.message.startswith(NO_ANSWER) else "✗"
    print(f"{mark} {task_id} {task(task_id).title}: {found.message}")


def _raised(error: Exception, case: Case) -> str:
    """The error with the line of the student's code it came from."""
    line = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.line and "diffbook" not in frame.filename and "torch" not in frame.filename:
            line = f" in the line `{frame.line.strip()}`"
            break
    text = str(error).strip().split("\n")[0][:300]
    shapes = ", ".join(
        f"{name} {tuple(x.shape)}" for name, x in case.inputs.items() if hasattr(x, "shape"))
    given = f"; it was given {shapes}" if shapes else ""
    return f"it stopped with {type(error).__name__}: {text}{line}{given}"
