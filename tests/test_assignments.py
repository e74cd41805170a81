"""Assignments: three products of one source, none of them out of step, no solution given away."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import assignments
import nbformat
import notebooks
import pytest
from assignments import FOLDER, SourceError

from diffbook import check
from diffbook.grade import bundle

SOURCES = assignments.sources()
NAMES = [path.stem for path in SOURCES]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=SOURCES, ids=NAMES)
def source(request) -> assignments.Source:
    return assignments.parse(request.param)


def cells(kind: str, name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(FOLDER / kind / f"{name}.ipynb", as_version=4).cells


def test_there_is_a_source_for_every_assignment():
    assert NAMES == list(check.ASSIGNMENTS) and len(NAMES) >= 2


def test_products_are_what_the_sources_give():
    assert assignments.drifted(SOURCES) == []
    for kind in ("student", "instructor", "bundles"):
        there = {path.stem for path in (FOLDER / kind).iterdir() if not path.name.startswith(".")}
        assert there == set(NAMES), "a product without a source"


def test_no_solution_in_the_students_notebook(source):
    """No line of a solution, of the rubric or of the hidden tests is in any cell."""
    secret = assignments.solution_lines(source)
    assert len(secret) > 10
    shown = {line.strip() for cell in cells("student", source.name)
             for line in cell.source.split("\n")}
    # such a line may be in the text on its own account; then it must not be the solution's alone
    assert secret & shown == set()
    text = (FOLDER / "student" / f"{source.name}.ipynb").read_text(encoding="utf-8")
    for word in ("SOLUTION", "@hidden", "Rubric", "marked by a person**"):
        assert word not in text, word
    hidden = {line.strip() for cell in source.cells if cell.role == "hidden"
              for line in cell.text.split("\n") if len(line.strip()) > 12}
    assert hidden & shown == set()


def test_the_check_for_solutions_would_find_one(source):
    """With one line of the solution put back, the test above fails."""
    secret = assignments.solution_lines(source)
    instructor = {line.strip() for cell in cells("instructor", source.name)
                  for line in cell.source.split("\n")}
    assert secret <= instructor
    assert {"instructor", "rubric"} & {cell.role for cell in source.cells}


def test_student_notebooks_ask_for_everything_that_is_graded(source):
    """Every task is there with its points, its check and its name."""
    text = "\n\n".join(cell.source for cell in cells("student", source.name))
    for task in check.tasks(source.name):
        points = assignments.points_text(task.points)
        assert re.search(rf"^## {task.id} .*\({points}\)$", text, re.M), task.id
        assert re.search(rf'^check\("{task.id}", {task.name}\b', text, re.M), task.id
        assert re.search(rf"^(def|class) {task.name}\b|^{task.name} = ", text, re.M), task.name
    total = sum(task.points for task in check.tasks(source.name))
    manual = sum(part["points"] for part in source.header["manual"])
    assert f"**Points** {total + manual:g}: {total:g} by tests" in text
    for part in ("**Time** about", "hours", "**What you learn.**", "**Before you start.**", "GPU"):
        assert part in text.split("\n## ")[0], part
    for part in re.split(r"^## ", text, flags=re.M)[1:]:  # small tasks have one hint
        hints = part.count("<summary>")
        points = [task.points for task in check.tasks(source.name) if part.startswith(task.id)]
        assert not points or hints >= (2 if points[0] >= 4 and source.name != "A5" else 1), part
    for part in source.header["manual"]:
        assert f"## {part['title']} ({assignments.points_text(part['points'])}, marked" in text


def test_student_notebooks_run_without_an_answer(source):
    """Before anything is filled in, every cell compiles, and hints are closed."""
    for cell in cells("student", source.name):
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []):
            ast.parse(cell.source)
            assert max(map(len, cell.source.split("\n"))) <= notebooks.MAX_COLUMNS
    text = "\n".join(cell.source for cell in cells("student", source.name))
    assert text.count("<details>") == text.count("</details>") >= 3
    assert "<details open" not in text
    assert text.count("<summary>") == len(re.findall(r"</summary>\n\n", text))


def test_notebooks_are_fit_for_colab(source):
    """Plain Markdown, absolute links, the book's setup cell, its metadata and no outputs."""
    for kind in ("student", "instructor"):
        notebook = nbformat.read(FOLDER / kind / f"{source.name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert json.loads(json.dumps(notebook.metadata)) == notebooks.METADATA
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert code[0].source == notebooks.setup_source()
        assert all(cell.outputs == [] for cell in code)
        assert notebook.cells[0].source.startswith(f"# {source.name}. {source.header['title']}")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                assert not notebooks.MYST_DIRECTIVE.search(cell.source)
                assert not notebooks.MYST_ROLE.search(cell.source)
                for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                    assert target.startswith("https://"), target


def test_the_bundle_has_cases_for_every_task(source):
    chosen = bundle.load(FOLDER / "bundles" / f"{source.name}.json")
    assert chosen == assignments.bundle(source)
    for task in chosen.tasks:
        found = chosen.cases(task, "ada")
        assert len(found) >= len(list(task.cases(check.seed("x"), "ada")))
        assert any(case.costs is None for case in found), "a task that cannot be lost"
    assert chosen.points == sum(task.points for task in chosen.tasks)


def test_nothing_of_an_assignment_is_in_the_package():
    """What pip installs on Colab has neither solutions nor hidden tests."""
    package = ROOT / "diffbook"
    for path in package.rglob("*"):
        assert path.suffix != ".ipynb" and path.name not in {f"{name}.json" for name in NAMES}


# ---------------------------------------------------------------- the format

HEADER = "# ---\n# title: T\n# hours: 1\n# provide: [show]\n# manual: []\n# ---\n"


def written(tmp_path: Path, text: str, header: str = HEADER) -> Path:
    path = tmp_path / "A2.py"
    path.write_text(header + text, encoding="utf-8")
    return path


def test_a_source_becomes_cells(tmp_path):
    source = assignments.parse(written(tmp_path, (
        "\n# %% [markdown]\n# # A2. T\n#\n# text\n\n# %%\n# SETUP\n\n# %%\nx = 1  # SOLUTION\n\n\n"
        '# %% tags=["hidden"]\ny = 2\n\n# %% [markdown] tags=["rubric"]\n# **Rubric**\n')))
    assert [(cell.kind, cell.role, cell.text) for cell in source.cells] == [
        ("markdown", "", "# A2. T\n\ntext"), ("code", "", "# SETUP"),
        ("code", "", "x = 1  # SOLUTION"), ("code", "hidden", "y = 2"),
        ("markdown", "rubric", "**Rubric**")]
    student = assignments.notebook(source, False)
    assert [cell.source for cell in student.cells][2:] == ["x = ...  # your answer here"]
    instructor = assignments.notebook(source, True)
    assert [cell.source for cell in instructor.cells][2:] == ["x = 1", "**Rubric**"]
    assert assignments.bundle(source).hidden == "y = 2"


def test_solutions_become_placeholders():
    code = ("def f(x):\n    y = 0\n    # BEGIN SOLUTION\n    return x + y\n    # END SOLUTION\n"
            "z: int = 3  # SOLUTION\n\nf(z)")
    assert assignments.without_solution(code) == (
        "def f(x):\n    y = 0\n    ...  # your code here\nz: int = ...  # your answer here\n\nf(z)")
    assert assignments.with_solution(code) == (
        "def f(x):\n    y = 0\n    return x + y\nz: int = 3\n\nf(z)")


@pytest.mark.parametrize("text, header, words", [
    ("", "", "no header"),
    ("", "# ---\n# title: T\n# ---\n", "has no hours, manual, provide"),
    ("x = 1\n# %%\n", HEADER, "text outside a cell"),
    ('# %% tags=["secret"]\nx = 1\n', HEADER, "a cell has one of"),
    ("# %%\n# SETUP\n\n# %%\n# BEGIN SOLUTION\nx = 1\n", HEADER, "without an end"),
    ("# %%\n# SETUP\n\n# %%\n# END SOLUTION\n", HEADER, "without a beginning"),
    ("# %%\n# SETUP\n\n# %%\nf(x)  # SOLUTION\n", HEADER, "no assignment"),
    ("# %%\n# SETUP\n\n# %%\nx = = 1\n", HEADER, "invalid syntax"),
])
def test_sources_that_cannot_be_built(tmp_path, text, header, words):
    with pytest.raises(SourceError, match=words):
        assignments.products(written(tmp_path, text, header))


def test_the_command(tmp_path, capsys):
    """A private bundle of the instructor's own: the same tests with other inputs."""
    assert assignments.main(["build", "A2", "--secret", "mine", "--out", str(tmp_path)]) == 0
    assert "bundles/A2.json" in capsys.readouterr().out
    mine = bundle.load(tmp_path / "bundles" / "A2.json")
    public = bundle.load(FOLDER / "bundles" / "A2.json")
    task = mine.tasks[0]
    assert mine.cases(task, "ada")[0].label == public.cases(task, "ada")[0].label
    assert not (mine.cases(task, "ada")[0].inputs["q"] == public.cases(task, "ada")[0].inputs["q"]
                ).any()
    student = "student/A2.ipynb"
    assert (tmp_path / student).read_bytes() == (FOLDER / student).read_bytes()
    assert assignments.main(["build", "--secret", "mine"]) == 1
    assert "give --out" in capsys.readouterr().err
    assert assignments.main(["build", "A99"]) == 1
    assert assignments.main(["check", "A2"]) == 0


def test_drift_is_found(tmp_path, monkeypatch, capsys):
    shutil.copytree(FOLDER, tmp_path / "assignments")
    monkeypatch.setattr(assignments, "FOLDER", tmp_path / "assignments")
    path = tmp_path / "assignments" / "A2.py"
    path.write_text(path.read_text().replace("math.sqrt(d)", "d**0.5"))
    assert assignments.main(["check"]) == 1
    assert capsys.readouterr().err.count("is not what its source gives") == 1  # the instructor's
    (tmp_path / "assignments" / "student" / "A1.ipynb").unlink()
    assert assignments.main(["check"]) == 1
    assert assignments.main(["build"]) == 0 and assignments.main(["check"]) == 0


def test_an_autograder_for_gradescope(tmp_path, capsys):
    assert assignments.main(["gradescope", "A2", "--secret", "mine", "--out", str(tmp_path)]) == 0
    with zipfile.ZipFile(tmp_path / "A2-autograder.zip") as archive:
        names = set(archive.namelist())
        assert names == {"setup.sh", "run_autograder", "A2.json"}
        archive.extractall(tmp_path / "unpacked")
        for name in ("setup.sh", "run_autograder"):
            assert archive.getinfo(name).external_attr >> 16 == 0o755
            done = subprocess.run(["bash", "-n", str(tmp_path / "unpacked" / name)],
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert bundle.load(tmp_path / "unpacked" / "A2.json").secret == "mine"
    assert "instructor" not in names


# ---------------------------------------------------------------- alone in an empty folder


@pytest.mark.slow
def test_the_colab_route(tmp_path):
    """The students' notebooks alone in an empty folder: the setup cell installs the package from a
    wheel (as it would from the repository), and every cell runs, untouched and solved."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, source)
    skip = shutil.ignore_patterns("__pycache__", "corpus", "checkpoints")  # 20 MB not needed here
    shutil.copytree(ROOT / "diffbook", source / "diffbook", ignore=skip)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
           "--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(pip, check=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    # A fresh environment that sees what a notebook service has, but not this book.
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    [site] = home.glob("lib/python*/site-packages")
    [ours] = [path for path in map(Path, sys.path) if (path / "torch").is_dir()]
    (site / "service.pth").write_text(f"{ours}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "DIFFBOOK_SPEC": str(wheel), "PIP_NO_DEPS": "1",
                   "PIP_NO_INDEX": "1", "PYTHONNOUSERSITE": "1",
                   "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    for kind, names, mark in (("student", NAMES, "○|✗ .*who are you"), ("instructor", ["A2"], "✓")):
        for name in names:
            shutil.copy(FOLDER / kind / f"{name}.ipynb", empty / f"{name}.ipynb")
        code = f"""\
import json
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for name in {names}:
    shell.reset()
    for cell in json.load(open(name + ".ipynb"))["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"])).raise_error()
import diffbook
print("FROM", diffbook.__file__)
"""
        done = subprocess.run([str(home / "bin" / "python"), "-c", code], cwd=empty,
                              env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        checks = [line for line in lines if re.match(mark, line)]
        assert len(checks) == sum(len(check.tasks(name)) for name in names), done.stdout
        assert f"FROM {home}" in done.stdout
