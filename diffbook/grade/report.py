"""Results as files: one JSON and one readable report for each hand-in, a table for all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffbook.grade.bundle import Bundle
from diffbook.grade.marking import Result, TaskResult


def write_text(path: Path, text: str) -> None:
    """Write in one step: a stopped grader leaves no half file."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def number(points: float) -> str:
    return f"{points:g}"


def save(result: Result, path: Path) -> None:
    write_text(path, json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")


def load(path: Path, key: str) -> Result | None:
    """The saved result if it is of this work and this bundle, else None."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["tasks"] = [TaskResult(**task) for task in plain["tasks"]]
        result = Result(**plain)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not there, or half of another version: it is graded again
    return result if result.key == key else None


def page(result: Result, bundle: Bundle) -> str:
    """The report for the student, in Markdown."""
    lines = [
        f"# {bundle.assignment}. {bundle.title}", "",
        f"Student: `{_code(result.student)}` · file: `{_code(result.file)}`", "",
        f"**{number(result.points)} of {number(result.of)} points** by the tests."
        + "".join(f" {part['title']}: {number(part['points'])} more, by a person."
                  for part in bundle.manual), "",
        "| Task | Points | |", "| --- | --- | --- |",
    ]
    for task in result.tasks:
        said = " ".join(_cell(message) for message in task.messages) or "right"
        lines.append(
            f"| {task.id} {task.title} | {number(task.points)} of {number(task.of)} | {said} |")
    if result.notes:
        lines += ["", "## When the notebook ran", "", *(f"- {_cell(n)}" for n in result.notes)]
    if result.output.strip():
        tail = result.output.strip().splitlines()[-20:]
        lines += ["", "## What it printed (the last lines)", "",
                  *("    " + "".join(c if c.isprintable() else "?" for c in line)[:200]
                    for line in tail)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return text.replace("`", "'")


def _cell(text: str) -> str:
    """Text in a table's cell: what a student's code says must not become HTML, a link, a picture
    or a new column."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "] (")
    return text.replace("|", "\\|")


def gradescope(result: Result, bundle: Bundle) -> dict[str, Any]:
    """results.json as Gradescope reads it. Nothing that ran prints to the student."""
    return {
        "score": result.points,
        "execution_time": result.seconds,
        "output": "\n".join(result.notes),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "name": f"{task.id} {task.title}", "score": task.points, "max_score": task.of,
                "status": "passed" if task.points == task.of else "failed",
                "output": "\n".join(task.messages) or "right", "visibility": "visible",
            }
            for task in result.tasks
        ],
        "extra_data": {"mistakes": [m for task in result.tasks for m in task.mistakes]},
    }


def table(results: Sequence[Result], bundle: Bundle, path: Path) -> None:
    """scores.csv: a row for each hand-in. A leading =, + or - would be a formula in a sheet."""
    def safe(text: str) -> str:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text

    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["student", "file", "points", "of", *(task.id for task in bundle.tasks),
                       "mistakes", "look", "seconds"])
        for result in results:
            marks = {task.id: number(task.points) for task in result.tasks}
            rows.writerow([
                safe(result.student), safe(result.file), number(result.points), number(result.of),
                *(marks.get(task.id, "0") for task in bundle.tasks),
                " ".join(m for task in result.tasks for m in task.mistakes),
                safe("; ".join(result.look)), result.seconds,
            ])
    os.replace(part, path)


def summary(results: Sequence[Result], bundle: Bundle) -> str:
    """What the class found hard: the mean of each task, and the mistakes by number."""
    if not results:
        return "no hand-ins"
    lines = []
    for task in bundle.tasks:
        marks = [t for r in results for t in r.tasks if t.id == task.id]
        mean = sum(t.points for t in marks) / max(1, len(marks))
        mistakes = [m for t in marks for m in t.mistakes]
        often = sorted({(-mistakes.count(m), m) for m in mistakes})[:3]
        lines.append(f"{task.id}  {mean:4.1f} of {number(task.points)}  "
                     + ", ".join(f"{name} {-count}x" for count, name in often))
    return "\n".join(lines)
