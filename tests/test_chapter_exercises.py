"""The exercises of the chapters and their check functions.

For chapter 3, ``tests/answers_chapter03.py`` holds RIGHT = {"3.1": [answers]} and
WRONG = {"3.1": [(answer, words of the message)]}. An answer is what a reader would hand to
``check``: a number, a dict, or a function.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from diffbook import check

ROOT = Path(__file__).parents[1]
TASKS = [task for chapter in check.CHAPTERS for task in check.tasks(chapter)]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)


def answers(task):
    chapter = int(task.id.partition(".")[0])
    return importlib.import_module(f"answers_chapter{chapter:02d}")


def cells(chapter: str) -> list[dict]:
    [path] = (ROOT / "book").glob(f"{int(chapter):02d}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def text(cell: dict) -> str:
    return "".join(cell["source"])


def test_every_chapter_with_exercises_has_checks():
    names = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
    assert [str(int(path.name[:2])) for path in names] == list(check.CHAPTERS)


@every_task
def test_right_answers_are_right(task):
    for answer in answers(task).RIGHT[task.id]:
        found = check.verdict(task.id, answer)
        assert found.right, f"{answer}: {found.message}"


@every_task
def test_wrong_answers_are_told_why(task):
    wrong = answers(task).WRONG[task.id]
    assert len(wrong) >= 2
    met = set()
    for answer, words in wrong:
        found = check.verdict(task.id, answer)
        assert not found.right, answer
        assert words in found.message, f"{answer}: {found.message}"
        met |= set(found.mistakes)
    assert met == {mistake.name for mistake in task.mistakes}, "a mistake that no answer makes"


@every_task
def test_exercises_give_no_marks(task):
    assert task.points == 0 and not any(mistake.costs for mistake in task.mistakes)


@pytest.mark.parametrize("chapter", check.CHAPTERS)
def test_a_cell_for_each_answer_stands_under_its_exercise(chapter):
    """First the question, then the cell for the answer (open), then hint and solution."""
    exercise, seen = "", []
    for cell in cells(chapter):
        if cell["cell_type"] == "markdown":
            numbers = re.findall(r"^\*\*Exercise (\d+)\b", text(cell), re.M)
            if numbers:
                exercise = numbers[-1]
                last = re.split(r"^\*\*Exercise \d+\b", text(cell), flags=re.M)[-1]
                assert "<details>" not in last or "exercise" not in following(cell, chapter), (
                    f"hint and solution of exercise {exercise} stand before the cell for it")
        elif "exercise" in cell["metadata"].get("tags", []):
            ids = re.findall(r'^check\("([\d.]+)"', text(cell), re.M)
            assert ids, text(cell)
            assert all(re.fullmatch(rf"{chapter}\.{exercise}[a-z]?", each) for each in ids), (
                f"{ids} under exercise {exercise}")
            printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
            assert [line.split()[:2] for line in printed.splitlines()] == [
                ["○", each] for each in ids], printed
            seen += ids
        else:
            assert not re.search(r"^check\(", text(cell), re.M), "the cell lacks its tag: exercise"
    assert seen == [task.id for task in check.tasks(chapter)]


def following(cell: dict, chapter: str) -> list[str]:
    """The tags of the cell after this one."""
    all_cells = cells(chapter)
    place = [each["id"] for each in all_cells].index(cell["id"])
    after = all_cells[place + 1: place + 2]
    return after[0]["metadata"].get("tags", []) if after else []
