"""The pages of the course say what the sources say: points, hours, commands, figures, plans."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import assignments
import nbformat
import notebooks
import pytest
import torch
import yaml

from diffbook import check, cli
from diffbook.check import a2
from diffbook.check.personal import NUMBERS
from diffbook.grade import box, bundle, marking, session
from diffbook.grade.box import Limits

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "book" / "course.md").read_text(encoding="utf-8")
STUDENTS = (ROOT / "book" / "students.md").read_text(encoding="utf-8")
PAGES = {"course.md": GUIDE, "students.md": STUDENTS}
CHAPTERS = {int(path.stem[:2]): path for path in notebooks.chapters()}
ALL = set(check.ASSIGNMENTS)

# What the guide calls the figures that react, and their files in diffbook/show/js.
FIGURES = {
    "the noise of a softmax": "attention_noise", "the amplifier": "amplifier",
    "two maps and their difference": "difference", "the landscape of λ": "lambda",
    "a training, replayed": "training_replay", "bend the laws": "scaling_fit",
    "all cells of all maps": "needle_browser", "two trained models in the page": "needle_model",
    "the table of all claims": "table",
}


@cache
def source(name: str) -> assignments.Source:
    return assignments.parse(assignments.FOLDER / f"{name}.py")


def by_test(name: str) -> float:
    return sum(task.points for task in check.tasks(name))


def by_hand(name: str) -> float:
    return sum(part["points"] for part in source(name).header["manual"])


def section(text: str, title: str) -> str:
    """What stands under a heading, down to the next of the same level or a higher one."""
    marks, rest = re.split(rf"^(##+) {re.escape(title)}$", text, flags=re.M)[1:]
    return re.split(rf"^#{{2,{len(marks)}}} ", rest, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the first table in a text, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.M)[0].strip().split("\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def linked(text: str) -> list[int]:
    """Numbers of the chapters that a text links to."""
    return [int(number) for number in re.findall(r"\]\((\d\d)_\w+\.ipynb\)", text)]


def needed(name: str) -> set[int]:
    """The chapters that an assignment names under "Before you start"."""
    text = "\n".join(cell.text for cell in source(name).cells)
    before = text.split("**Before you start.**")[1].split("\n\n")[0]
    return {int(number) for number in re.findall(r"/book/(\d\d)_", before)}


def words(chapter: int) -> str:
    cells = notebooks.read(CHAPTERS[chapter]).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


# ---------------------------------------------------------------- points, hours, limits


def test_students_table_of_assignments():
    found = rows(STUDENTS)
    assert [re.match(r"\[(A\d)\. ", row[0])[1] for row in found] == list(check.ASSIGNMENTS)
    for (link, points, hours, before, colab), name in zip(found, check.ASSIGNMENTS, strict=True):
        assert f"(assignments/student/{name}.ipynb)" in link
        assert {int(number) for number in re.findall(r"\d+", before)} == needed(name)
        assert float(points) == by_test(name) + by_hand(name)
        assert float(hours) == source(name).header["hours"]
        url, branch = notebooks.repository()
        path = url.removeprefix("https://github.com/")
        assert colab == (f"[open](https://colab.research.google.com/github/{path}/blob/{branch}"
                         f"/book/assignments/student/{name}.ipynb)")


def test_instructors_table_of_assignments():
    found = rows(section(GUIDE, "The assignments"))
    assert [linked_name(row[0]) for row in found] == list(check.ASSIGNMENTS)
    for (_, points, hours, gpu, _), name in zip(found, check.ASSIGNMENTS, strict=True):
        assert points == f"{by_test(name):g} + {by_hand(name):g}", name
        assert float(hours) == source(name).header["hours"]
        text = " ".join(source(name).cells[0].text.split())
        helps = bool(re.search(r"GPU helps (only )?if", text))
        assert (gpu != "no") == helps and (helps or re.search(r"No GPU|GPU helps nowhere", text))


def linked_name(cell: str) -> str:
    return re.fullmatch(r"\[(A\d)\]\(assignments/student/\1\.ipynb\)", cell)[1]


def test_personal_numbers_are_named():
    named = re.search(r"^(.+) give each student other numbers", GUIDE, re.M)[1]
    assert re.findall(r"A\d\.\d", named) == sorted(NUMBERS)
    ids = re.search(r"In (.+), put your id into `STUDENT`", STUDENTS)[1]
    assert set(re.findall(r"A\d", ids)) == {task[:2] for task in NUMBERS}


def test_limits_are_those_of_the_box():
    units = {"s": 1, "GiB": 1 << 30, "MiB": 1 << 20, "": 1}

    def amount(text: str) -> float:
        number, _, unit = text.partition(" ")
        return float(number) * units[unit]

    table = rows(section(STUDENTS, "How marks come about"))
    fields = ("cell", "cells", "call", "total", "memory", "processes", "files", "output")
    assert set(fields) == set(asdict(Limits()))
    assert len(table) == len(fields)
    for (_, default, other), field in zip(table, fields, strict=True):
        own = {name: getattr(assignments.bundle(source(name)).limits, field) for name in ALL}
        said = dict.fromkeys(ALL, amount(default))
        for names, value in re.findall(r"((?:A\d(?:, )?)+): (\d+ \w+)", other):
            said |= dict.fromkeys(re.findall(r"A\d", names), amount(value))
        assert said == own and amount(default) == getattr(Limits(), field), field
    size = int(re.search(r"may have up to (\d+) MiB", " ".join(STUDENTS.split()))[1])
    assert size << 20 == marking.FILE_LIMIT
    assert f"up to {session.KEEP_OUTPUT // 1000} kB of what a notebook printed" in GUIDE


# ---------------------------------------------------------------- plans, lectures, chapters

PLANS = {"Three weeks": 3, "Six weeks": 6, "Ten weeks": 10}


class Plan(NamedTuple):
    weeks: list[int]
    chapters: list[list[int]]
    lectures: list[str]
    moves: list[tuple[str, str, int]]  # assignment, out or due, row
    said: str


@pytest.fixture(params=PLANS)
def plan(request) -> Plan:
    text = section(GUIDE, request.param)
    table = rows(text)
    moves = [(name, what, number) for number, row in enumerate(table)
             for name, what in re.findall(r"(A\d) (out|due)", row[2])]
    return Plan([int(row[0]) for row in table], [linked(row[1]) for row in table],
                [row[3] for row in table], moves, text)


def test_plans_have_their_length():
    for title, length in PLANS.items():
        table = rows(section(GUIDE, title))
        meetings = [int(row[0]) for row in table if not row[3].startswith("No meeting")]
        assert sorted(set(meetings)) == list(range(1, length + 1)), title
        assert [int(row[0]) for row in table] == sorted(int(row[0]) for row in table)


def test_an_assignment_is_out_once_and_due_later(plan):
    names = [name for name, what, _ in plan.moves if what == "out"]
    assert len(set(names)) == len(names) >= 3
    assert sorted(name for name, what, _ in plan.moves if what == "due") == sorted(names)
    when = {(name, what): plan.weeks[number] for name, what, number in plan.moves}
    place = {(name, what): number for name, what, number in plan.moves}
    for name in names:
        assert when[name, "out"] <= when[name, "due"] <= when[name, "out"] + 3
        assert place[name, "out"] < place[name, "due"]
        read = {c for row in plan.chapters[: place[name, "out"] + 1] for c in row}
        assert needed(name) <= read, f"{name} needs chapters that come later"


def test_every_chapter_once_and_the_lectures_in_order(plan):
    chapters = [number for row in plan.chapters for number in row]
    assert len(set(chapters)) == len(chapters)
    lectures = [int(n) for text in plan.lectures for n in re.findall(r"Lecture (\d)", text)]
    assert sorted(set(lectures)) == [1, 2, 3, 4] and lectures == sorted(lectures)
    covered = {number: set(chapters) for number, chapters in lecture_chapters().items()}
    for row, text in zip(plan.chapters, plan.lectures, strict=True):
        for number in re.findall(r"Lecture (\d)", text):
            assert covered[int(number)] & set(row), "a lecture on none of the week's chapters"


def test_hours_of_the_plans(plan):
    chapters = [number for row in plan.chapters for number in row]
    minutes = [int(re.search(r"\b(\d+) minutes to read", words(number))[1]) for number in chapters]
    reading, work = re.search(
        r"(\d+) hours of reading and (\d+) of assignments", plan.said).groups()
    assert int(reading) == round(sum(minutes) / 60)
    names = {name for name, _, _ in plan.moves}
    assert int(work) == sum(source(name).header["hours"] for name in names)


def test_ten_weeks_hold_everything():
    table = rows(section(GUIDE, "Ten weeks"))
    assert {number for row in table for number in linked(row[1])} == set(CHAPTERS)
    assert set(re.findall(r"(A\d) due", " ".join(row[2] for row in table))) == ALL


def test_every_chapter_has_its_row():
    assert [linked(row[0])[0] for row in rows(section(GUIDE, "Chapter by chapter"))] == [*CHAPTERS]


def lecture_chapters() -> dict[int, list[int]]:
    found = {}
    for row in rows(section(GUIDE, "Four lectures")):
        spans = re.findall(r"(\d+)(?: to (\d+))?", row[0].split(", chapters ")[1])
        found[int(row[0][0])] = [n for first, last in spans
                                 for n in range(int(first), int(last or first) + 1)]
    return found


def test_lectures_cover_the_chapters():
    covered = [number for chapters in lecture_chapters().values() for number in chapters]
    assert set(covered) >= set(CHAPTERS) and len(set(covered)) == len(covered)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_decks_are_what_the_guide_says(number):
    deck = (ROOT / "book" / "slides" / f"{number}.md").read_text(encoding="utf-8")
    head = yaml.safe_load(deck.split("---\n")[1])
    row = rows(section(GUIDE, "Four lectures"))[number - 1]
    link, title = re.match(rf'{number}\. <a href="(.+?)">(.+?)</a>', row[0]).groups()
    assert title == head["title"] and link == f"../slides/{number}.html"
    assert [int(name[:2]) for name in head["chapters"]] == [
        chapter for chapter in lecture_chapters()[number] if chapter in CHAPTERS]
    minutes = re.findall(r"^Note: ([\d.]+) min", deck, re.M)
    assert 55 <= sum(map(float, minutes)) <= 65, "about an hour"


def test_figures_to_move_are_in_their_chapters():
    named = re.findall(r"\[([^\]]+)\]\((\d\d)_\w+\.ipynb\)", section(GUIDE, "Four lectures"))
    assert {text for text, _ in named} == set(FIGURES)
    for text, chapter in named:
        code = CHAPTERS[int(chapter)].read_text(encoding="utf-8")
        mark = "data-diffbook-table" if text.startswith("the table") else (
            f'data-figure=\\"{FIGURES[text]}\\"')
        assert mark in code, text
        assert (ROOT / "diffbook" / "show" / "js" / f"{FIGURES[text]}.js").exists()


def test_misconceptions_lead_to_something_that_is_there():
    table = rows(section(GUIDE, "Common misconceptions"))
    assert len(table) >= 20 and len({row[0] for row in table}) == len(table)
    for _, dissolves, where in table:
        chapter = linked(where)[0]
        text = words(chapter)
        quick = text.split("\n## Quick check")[1].split("\n## ")[0]
        places = re.findall(r"quick check (\d)|step (\d+)|(A\d\.\d)", where)
        assert places and dissolves
        for question, step, task in places:
            assert not question or re.search(rf"^\*\*{question}\.\*\*", quick, re.M), where
            assert not step or re.search(rf"^## Step {step}\. ", text, re.M), where
            assert not task or check.task(task)


# ---------------------------------------------------------------- commands and what they print


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.M | re.S)
    return [re.sub(rf"^{indent}", "", body, flags=re.M) for indent, body in found]


def commands(text: str) -> Iterator[list[str]]:
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").strip().split("\n"):
            yield shlex.split(line)


def test_commands_of_the_grader_parse():
    seen = 0
    for text in (*PAGES.values(), (ROOT / "README.md").read_text(encoding="utf-8")):
        for command in commands(text):
            if "grade" in command[1:]:
                options = cli._parser().parse_args(command[command.index("grade"):])
                assert options.assignment in ALL and options.out.name == "results"
                assert command[command.index("grade") - 1] == "diffbook"
                seen += 1
    assert seen >= 4


def test_options_are_the_graders():
    said = set(re.findall(r"^- `(--[a-z]+)", section(GUIDE, "Grading"), re.M))
    text = next(a for a in cli._parser()._actions if a.choices).choices["grade"].format_help()
    real = set(re.findall(r"(--[a-z]+)\b", text.split("\nwhat:")[1])) | {"--again"}
    assert said <= real
    assert real - said == {"--assignment", "--bundle", "--out", "--gradescope"}
    protection = section(GUIDE, "What the grader protects from")
    assert re.findall(r"^- `(\w+)` \(", protection, re.M) == list(box.LEVELS)


def test_commands_that_make_private_bundles_work(tmp_path, capsys):
    seen = set()
    for command in commands(GUIDE):
        if "scripts/assignments.py" in command:
            arguments = command[command.index("scripts/assignments.py") + 1:]
            arguments = [str(tmp_path) if a == "~/private" else a for a in arguments]
            assert assignments.main(arguments) == 0, capsys.readouterr().err
            seen.add(arguments[0])
    assert seen == {"build", "gradescope"}
    private = bundle.load(tmp_path / "bundles" / "A2.json")
    public = bundle.load(assignments.FOLDER / "bundles" / "A2.json")
    assert private.secret == "a text of your own" != public.secret
    first, other = (b.cases(b.tasks[0], "ada")[0].inputs["q"] for b in (private, public))
    assert first.shape != other.shape or not torch.equal(first, other)
    assert (tmp_path / "A2-autograder.zip").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="hand-ins are graded on Linux")
def test_the_grader_prints_what_the_guide_shows(tmp_path, monkeypatch, capsys):
    """A right hand-in, one that divides by √(2d), and an empty one, with a roster."""
    monkeypatch.setattr(box, "not_inspectable", lambda: None)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hand-ins"
    folder.mkdir()
    right = assignments.FOLDER / "instructor" / "A2.ipynb"
    shutil.copy(right, folder / "ada-A2.ipynb")
    shutil.copy(assignments.FOLDER / "student" / "A2.ipynb", folder / "dora_A2.ipynb")
    text = right.read_text(encoding="utf-8")
    (folder / "ben-A2.ipynb").write_text(text.replace("math.sqrt(d)", "math.sqrt(2 * d)"))
    Path("roster.csv").write_text("file,student\nada-A2.ipynb,s1001\nben-A2.ipynb,s1002\n")
    level = ["--isolation", "limits"] if box.levels_here()[0] == "limits" else []
    assert cli.main(["grade", "hand-ins/", "--assignment", "A2", "--out", "results/", "--quiet",
                     "--bundles", str(assignments.FOLDER / "bundles"), "--roster", "roster.csv",
                     *level]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().split("\n")]
    shown, table = (block for block in blocks(GUIDE, "text") if not block.startswith("FROM"))
    assert shown.strip().split("\n") == printed[-8:]
    made = Path("results/scores.csv").read_text(encoding="utf-8").strip().split("\n")
    without_seconds = [line.rpartition(",")[0] for line in made[:3]]
    assert [line.rpartition(",")[0] for line in table.strip().split("\n")] == without_seconds
    assert made[0] == table.split("\n")[0]
    files = {path.name for path in Path("results/s1002").iterdir()}
    named = re.findall(r"^- `ada/([\w.]+)`", GUIDE, re.M)
    assert files == set(named)
    report = Path("results/s1002/report.md").read_text(encoding="utf-8")
    assert all(line in report for line in section(STUDENTS, "Your report").split("\n")
               if line.startswith("|"))
    about = json.loads(Path("results/s1002/results.json").read_text(encoding="utf-8"))
    assert about["level"] in box.LEVELS


def test_the_message_that_students_see_is_the_real_one(capsys):
    def after_subtracting(q1, k1, q2, k2, lam):
        scores = (q1 @ k1.mT - lam * q2 @ k2.mT) / q1.shape[-1] ** 0.5
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        return scores.masked_fill(~visible, -torch.inf).softmax(-1)

    check.check("A2.2", after_subtracting)
    assert capsys.readouterr().out.strip() == re.search(r"^> (.+)$", STUDENTS, re.M)[1]
    check.check("A2.2", a2.diff_map)
    check.check("A2.2", lambda *arguments: ...)
    assert [line[0] for line in capsys.readouterr().out.strip().split("\n")] == ["✓", "○"]
    assert all(f"`{mark}`" in STUDENTS for mark in "✓✗○")


def test_the_grader_and_the_checks_talk_to_nobody():
    """"The grader opens no connection": no module that could, and sockets only to its own boxes."""
    for path in sorted([*(ROOT / "diffbook").glob("grade/*.py"),
                        *(ROOT / "diffbook").glob("check/*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name.split(".")[0] for node in ast.walk(tree)
                    if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module.split(".")[0] for node in ast.walk(tree)
                     if isinstance(node, ast.ImportFrom) and node.module}
        assert not imported & {"urllib", "http", "requests", "httpx", "ssl", "smtplib", "ftplib",
                               "asyncio", "socketserver", "xmlrpc", "webbrowser"}, path.name
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name) and node.value.id == "socket"}
        assert not used & {"create_connection", "create_server", "getaddrinfo", "AF_INET"}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
                 and ast.unparse(node.func) == "socket.socket"]
        assert all([k.arg for k in call.keywords] == ["fileno"] for call in calls), path.name


# ---------------------------------------------------------------- links, form, contents


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)\s]+)\)", PAGES[name])
    assert len(targets) >= 10
    url, branch = notebooks.repository()
    for target in targets:
        place = re.sub(rf"^{url}/(?:blob|tree)/{branch}/", "../", target)
        colab = url.replace("github.com", "colab.research.google.com/github") + f"/blob/{branch}/"
        place = place.replace(colab, "../")
        if "://" not in place:
            assert (ROOT / "book" / place).exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_plain_markdown(name):
    text = PAGES[name]
    assert not notebooks.MYST_DIRECTIVE.search(text) and not notebooks.MYST_ROLE.search(text)
    assert text.startswith("# For ") and text.count("\n# ") == 0
    for named in re.findall(r"`((?:diffbook|scripts|book|tests)/[\w./]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_pages_and_the_students_notebooks_are_in_the_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    part = next(part for part in toc["parts"] if part["caption"] == "The course")
    students, guide = part["chapters"]
    assert (students["file"], guide["file"]) == ("book/students", "book/course")
    files = [entry["file"] for entry in students["sections"]]
    assert files == [f"book/assignments/student/{name}" for name in check.ASSIGNMENTS]
    assert "instructor" not in json.dumps(toc)
    for name in check.ASSIGNMENTS:
        notebook = nbformat.read(ROOT / f"book/assignments/student/{name}.ipynb", as_version=4)
        assert len(re.findall(r"^# ", notebook.cells[0].source, re.M)) == 1
