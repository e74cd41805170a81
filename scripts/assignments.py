"""Assignments: one source each, from which three things are made.

``book/assignments/A2.py`` is a script in percent format (jupytext, VS Code and git understand it).
``python scripts/assignments.py build`` makes from it

- ``student/A2.ipynb``: no solutions, no hidden tests, no rubric;
- ``instructor/A2.ipynb``: solutions and rubric;
- ``bundles/A2.json``: what the grader needs, hidden tests included.

``check`` says whether the three are what the source gives. ``gradescope`` packs an autograder.
``bench`` grades many copies of the solution and prints how long that takes here.
The format is described at the top of each source and in :func:`parse`.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import notebooks
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffbook import check
from diffbook.check.core import rounded
from diffbook.check.personal import NUMBERS
from diffbook.grade.batch import grade_folder
from diffbook.grade.box import Limits
from diffbook.grade.bundle import Bundle

FOLDER = notebooks.BOOK / "assignments"
STUDENT_LINE = "...  # your code here"
ROLES = ("instructor", "rubric", "hidden")
SECRET = "diffbook"  # of the public bundles; everybody knows it


class SourceError(Exception):
    """An assignment's source that cannot be built; the message names the place and the remedy."""


@dataclass(frozen=True)
class Cell:
    """A cell of a source: ``kind`` "code" or "markdown", ``role`` "" for everybody."""

    kind: str
    role: str
    text: str


@dataclass(frozen=True)
class Source:
    """An assignment's source, in parts."""

    name: str
    header: dict[str, Any]
    cells: tuple[Cell, ...]


# ---------------------------------------------------------------- reading a source


def sources() -> list[Path]:
    """All sources in order."""
    return sorted(FOLDER.glob("A[0-9]*.py"))


def parse(path: Path) -> Source:
    """Read a source.

    The file begins with a YAML header between two lines ``# ---``: title, hours, provide (parts of
    the package that hand-ins may import while graded), manual (what a person marks: title,
    points), limits (optional). Then cells:

    - ``# %% [markdown]`` with every line commented, ``# %%`` for code;
    - ``tags=["instructor"]``: for the instructor only; ``["rubric"]``: the same, and counted as
      rubric; ``["hidden"]``: code that goes to the bundle only;
    - in code, the lines between ``# BEGIN SOLUTION`` and ``# END SOLUTION``, and an assignment that
      ends in ``# SOLUTION``, are for the instructor; the student gets a placeholder.
    """
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# ---\n(.*?)# ---\n", text, re.S)
    if not match:
        raise SourceError(f"{path.name}: no header between two lines `# ---` at the top")
    header = yaml.safe_load(re.sub(r"^# ?", "", match[1], flags=re.M))
    missing = {"title", "hours", "provide", "manual"} - set(header)
    if missing:
        raise SourceError(f"{path.name}: the header has no {', '.join(sorted(missing))}")
    cells = []
    for part in re.split(r"^(?=# %%)", text[match.end() :], flags=re.M):
        if not part.strip():
            continue
        first, _, body = part.partition("\n")
        if not first.startswith("# %%"):
            raise SourceError(f"{path.name}: text outside a cell: {first!r}")
        kind = "markdown" if "[markdown]" in first else "code"
        tags = re.search(r"tags=(\[.*?\])", first)
        roles = json.loads(tags[1]) if tags else []
        if len(roles) > 1 or not set(roles) <= set(ROLES):
            raise SourceError(f"{path.name}: tags {roles}; a cell has one of {ROLES}, or none")
        if kind == "markdown":
            body = re.sub(r"^# ?", "", body, flags=re.M)
        cells.append(Cell(kind, roles[0] if roles else "", body.strip("\n")))
    return Source(path.stem, header, tuple(cells))


# ---------------------------------------------------------------- the three products


def without_solution(code: str) -> str:
    """Code as the student gets it."""
    lines, inside = [], False
    for line in code.split("\n"):
        marker = line.strip()
        indent = line[: len(line) - len(line.lstrip())]
        if marker == "# BEGIN SOLUTION":
            if inside:
                raise SourceError("BEGIN SOLUTION inside a solution")
            inside = True
            lines.append(indent + STUDENT_LINE)
        elif marker == "# END SOLUTION":
            if not inside:
                raise SourceError("END SOLUTION without a beginning")
            inside = False
        elif inside:
            continue
        elif marker.endswith("# SOLUTION"):
            name = re.match(r"(\s*[\w.]+(?:: [^=]+)? = )", line)
            if not name:
                raise SourceError(f"`# SOLUTION` behind something that is no assignment: {line!r}")
            lines.append(f"{name[1]}...  # your answer here")
        else:
            lines.append(line)
    if inside:
        raise SourceError("BEGIN SOLUTION without an end")
    return "\n".join(lines)


def with_solution(code: str) -> str:
    """Code as the instructor gets it: without the markers."""
    lines = [line for line in code.split("\n")
             if line.strip() not in ("# BEGIN SOLUTION", "# END SOLUTION")]
    return "\n".join(re.sub(r"\s+# SOLUTION$", "", line) for line in lines)


def solution_lines(source: Source) -> set[str]:
    """Lines that only the instructor may see."""
    found: set[str] = set()
    for cell in source.cells:
        if cell.role == "hidden":
            continue
        if cell.role:
            found |= {line.strip() for line in cell.text.split("\n")}
        elif cell.kind == "code":
            shown = {line.strip() for line in without_solution(cell.text).split("\n")}
            found |= {line.strip() for line in with_solution(cell.text).split("\n")} - shown
    return {line for line in found if len(line) > 8}


def points_text(points: float) -> str:
    return f"{points:g} point{'' if points == 1 else 's'}"


def _with_points(text: str, header: dict[str, Any]) -> str:
    """Headings of tasks get their points: a heading "## A2.1 The map" is a task's."""

    def add(match: re.Match[str]) -> str:
        return f"{match[0]} ({points_text(check.task(match[1]).points)})"

    def manual(match: re.Match[str]) -> str:
        for part in header["manual"]:
            if part["title"] == match[1].strip():
                return f"{match[0]} ({points_text(part['points'])}, marked by a person)"
        return match[0]

    text = re.sub(r"^## (A\d+\.\d+) .*$", add, text, flags=re.M)
    return re.sub(r"^## (?!A\d+\.\d+)(.*)$", manual, text, flags=re.M)


def facts(source: Source) -> str:
    """The table under the title: points and hours."""
    tasks = check.tasks(source.name)
    by_test = rounded(sum(task.points for task in tasks))
    by_hand = rounded(sum(part["points"] for part in source.header["manual"]))
    hand = f" and {by_hand:g} by a person" if by_hand else ""
    return (f"**Points** {by_test + by_hand:g}: {by_test:g} by tests{hand} · "
            f"**Time** about {source.header['hours']} hours")


def notebook(source: Source, instructor: bool) -> nbformat.NotebookNode:
    """The student's or the instructor's notebook."""
    cells: list[nbformat.NotebookNode] = []
    for cell in source.cells:
        if cell.role == "hidden" or (cell.role and not instructor):
            continue
        text = cell.text
        if cell.kind == "markdown":
            text = _with_points(text, source.header)
            if not cells:  # the title
                name = " (instructor)" if instructor else ""
                text = re.sub(r"^(# .*)$", rf"\1{name}\n\n{facts(source)}", text, count=1,
                              flags=re.M)
            cells.append(new_markdown_cell(text))
            continue
        if text.strip() == "# SETUP":
            cells.append(new_code_cell(text))
            continue
        text = with_solution(text) if instructor else without_solution(text)
        ast.parse(text)
        cells.append(new_code_cell(text))
    return notebooks.synced(new_notebook(cells=cells))


def bundle(source: Source, secret: str = SECRET) -> Bundle:
    """What the grader needs."""
    hidden = "\n\n".join(cell.text for cell in source.cells if cell.role == "hidden")
    return Bundle(
        source.name, source.header["title"], secret, hidden, tuple(source.header["provide"]),
        tuple(source.header["manual"]), Limits(**source.header.get("limits", {})),
    )


def products(path: Path, secret: str = SECRET) -> dict[str, str]:
    """{file below book/assignments: text} of one source."""
    try:
        source = parse(path)
        return {
            f"student/{source.name}.ipynb": notebooks.as_text(notebook(source, False)),
            f"instructor/{source.name}.ipynb": notebooks.as_text(notebook(source, True)),
            f"bundles/{source.name}.json": bundle(source, secret).text(),
        }
    except (SourceError, SyntaxError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SourceError(f"{path.name}: {error}") from error


def build(out: Path, secret: str, files: list[Path]) -> list[str]:
    """Write all products; the names of those that changed."""
    changed = []
    for path in files:
        for name, text in products(path, secret).items():
            target = out / name
            if target.exists() and target.read_text(encoding="utf-8") == text:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            part.write_text(text, encoding="utf-8", newline="\n")
            os.replace(part, target)
            changed.append(name)
    return changed


def drifted(files: list[Path]) -> list[str]:
    """Products that are not what their source gives."""
    found = []
    for path in files:
        for name, text in products(path).items():
            target = FOLDER / name
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                found.append(name)
    return found


# ---------------------------------------------------------------- Gradescope

SETUP_SH = """\
#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image.
set -e
apt-get update && apt-get install -y python3 python3-pip python3-venv git
python3 -m venv /opt/course
/opt/course/bin/pip install --no-cache-dir torch --index-url {index}
/opt/course/bin/pip install --no-cache-dir "{spec}" ipython
chmod 700 /autograder/source
# Where no box of its own can be had, hand-ins run as another user: what judges them is closed.
chmod -R go= "$(/opt/course/bin/python -c 'import diffbook; print(diffbook.__path__[0])')"
"""
RUN = """\
#!/usr/bin/env bash
# Gradescope runs this for each hand-in. The student's code runs apart, as another user.
cd /
STUDENT=$(/opt/course/bin/python - <<'END'
import json
users = json.load(open("/autograder/submission_metadata.json"))["users"]
print(users[0].get("sid") or users[0]["email"].split("@")[0])
END
)
SAID=$(mktemp)
timeout 900 /opt/course/bin/python -m diffbook grade /autograder/submission \\
  --bundle /autograder/source/{name}.json --out /autograder/results/parts --jobs 1 --quiet \\
  --student "$STUDENT" --gradescope /autograder/results/results.json 2> >(tee "$SAID" >&2) \\
  && exit 0
# No notebook, or two of them: the student reads why.
/opt/course/bin/python - "$SAID" <<'END'
import json, pathlib, sys
said = pathlib.Path(sys.argv[1]).read_text()[-1000:].strip() or "it took longer than 900 s"
plain = {{"score": 0, "output": f"Not graded: {{said}}", "stdout_visibility": "hidden"}}
pathlib.Path("/autograder/results/results.json").write_text(json.dumps(plain))
END
"""


def gradescope_zip(source: Source, secret: str) -> bytes:
    """An autograder.zip: the bundle, and two short scripts."""
    spec = re.search(r'"(git\+[^"]+)"', notebooks.setup_source())
    assert spec is not None
    index = "https://download.pytorch.org/whl/cpu"
    files = {
        "setup.sh": SETUP_SH.format(spec=f"diffbook @ {spec[1]}", index=index),
        "run_autograder": RUN.format(name=source.name),
        f"{source.name}.json": bundle(source, secret).text(),
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o644 if name.endswith(".json") else 0o755) << 16
            archive.writestr(entry, text)
    return data.getvalue()


# ---------------------------------------------------------------- how long grading takes


def bench(source: Source, count: int, jobs: int) -> str:
    """Grade ``count`` hand-ins, all of them the solution, and say how long it took."""
    chosen = bundle(source)
    script = "\n\n".join(f"# %%\n{with_solution(cell.text)}" for cell in source.cells
                         if cell.kind == "code" and cell.role == "" and cell.text != "# SETUP")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "hand-ins"
        folder.mkdir()
        for number in range(count):
            (folder / f"student{number}.py").write_text(script, encoding="utf-8")
        start = time.monotonic()
        results = grade_folder(folder, chosen, Path(name) / "results", jobs=jobs)
        seconds = time.monotonic() - start
    own = any(task.id in NUMBERS for task in chosen.tasks)  # then a copy is wrong there
    return (f"{source.name}: {count} hand-ins, {jobs} at a time: {seconds:.0f} s; full marks for "
            f"{sum(result.points == result.of for result in results)}"
            + (" (each student has other numbers in some tasks)" if own else ""))


# ---------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["build", "check", "gradescope", "bench"])
    parser.add_argument("names", nargs="*", help="such as A2; default: all")
    parser.add_argument("--out", type=Path, help="folder; default: book/assignments")
    parser.add_argument(
        "--secret", default=SECRET, help="a text of your own: it gives hidden inputs that nobody "
        "finds in the public repository. Keep the bundles made with it to yourself (--out)")
    parser.add_argument("--count", type=int, default=60, help="bench: how many hand-ins")
    parser.add_argument("--jobs", type=int, default=2, help="bench: how many at the same time")
    options = parser.parse_args(arguments)
    files = [path for path in sources() if not options.names or path.stem in options.names]
    unknown = set(options.names) - {path.stem for path in files}
    if unknown or not files:
        print(f"no assignment {', '.join(sorted(unknown)) or 'here'} in {FOLDER}", file=sys.stderr)
        return 1
    out = options.out or FOLDER
    if options.secret != SECRET and out == FOLDER:
        print("a bundle with your own secret does not belong into the public folder; "
              "give --out", file=sys.stderr)
        return 1
    try:
        if options.command == "check":
            found = drifted(files)
            for name in found:
                print(f"{name} is not what its source gives; run "
                      "python scripts/assignments.py build", file=sys.stderr)
            return int(bool(found))
        if options.command == "gradescope":
            out.mkdir(parents=True, exist_ok=True)
            for path in files:
                target = out / f"{path.stem}-autograder.zip"
                target.write_bytes(gradescope_zip(parse(path), options.secret))
                print(target)
            return 0
        if options.command == "bench":
            for path in files:
                print(bench(parse(path), options.count, options.jobs))
            return 0
        changed = build(out, options.secret, files)
        print("\n".join(changed) if changed else "unchanged")
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
