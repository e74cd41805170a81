"""The chapters' shape, and the tool that keeps it. What cells compute, strict nbval compares."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import notebooks
import pytest
from IPython.core.inputtransformer2 import TransformerManager

CHAPTERS = notebooks.chapters()
HEADINGS = [
    "The question",
    "A figure that reacts",
    "Try it",
    "What the paper reports, and what we measured",
    "What we cannot conclude",
    "Quick check",
    "Where next",
]


def by_name(path):
    return path.stem


def small_notebook() -> nbformat.NotebookNode:
    """A chapter in two screens, as `sync` and `run` would leave it."""
    cells = [
        nbformat.v4.new_markdown_cell("# 1. A chapter\n\nText with $\\lambda$."),
        nbformat.v4.new_code_cell("# SETUP"),
        nbformat.v4.new_code_cell("print(1 + 1)"),
    ]
    notebook = notebooks.synced(nbformat.v4.new_notebook(cells=cells))
    for count, cell in enumerate((notebook.cells[1], notebook.cells[2]), start=1):
        cell.execution_count = count
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
    return notebook


# ---------------------------------------------------------------- the chapters


def test_there_are_chapters():
    assert len(CHAPTERS) >= 5
    toc = (notebooks.ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert [path.stem for path in CHAPTERS] == re.findall(r"file: book/(\d\d_\w+)", toc)


@pytest.mark.parametrize("path", CHAPTERS, ids=by_name)
def test_chapter_is_in_shape(path):
    assert notebooks.check(path) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=by_name)
def test_chapter_is_what_sync_would_write(path):
    synced = notebooks.as_text(notebooks.synced(notebooks.read(path)))
    assert path.read_text(encoding="utf-8") == synced


@pytest.mark.parametrize("path", CHAPTERS, ids=by_name)
def test_chapter_has_the_rhythm(path):
    markdown = [c.source for c in notebooks.read(path).cells if c.cell_type == "markdown"]
    prose = re.sub(r"^```.*?^```", "", "\n\n".join(markdown), flags=re.S | re.M)
    assert prose.startswith(f"# {int(path.stem[:2])}. "), "the title carries the chapter's number"
    headings = re.findall(r"^## (.+?)\s*$", prose, re.M)
    steps = [heading for heading in headings if heading.startswith("Step ")]
    assert [heading for heading in headings if heading not in steps] == HEADINGS
    assert [re.match(r"Step (\d+)\. \w", step).group(1) for step in steps] == [
        str(n) for n in range(1, len(steps) + 1)
    ]
    assert headings.index(steps[0]) == 1 and headings.index(steps[-1]) == len(steps)
    exercises = prose.split("\n## Try it")[1].split("\n## ")[0]
    for kind in ("Hint", "Solution"):
        assert 3 <= len(re.findall(rf"<summary>\s*{kind}", exercises)) <= 5


# ---------------------------------------------------------------- the setup cell


def test_setup_cell_names_the_repository_of_the_configuration():
    url, branch = notebooks.repository()
    assert url.startswith("https://") and f'"git+{url}@{branch}"' in notebooks.setup_source()


@pytest.mark.parametrize("named", [None, "../somewhere/else"], ids=["default", "DIFFBOOK_SPEC"])
def test_setup_cell_installs_only_where_the_package_is_missing(monkeypatch, named):
    if named:
        monkeypatch.setenv("DIFFBOOK_SPEC", named)
    else:
        monkeypatch.delenv("DIFFBOOK_SPEC", raising=False)
    code = TransformerManager().transform_cell(notebooks.setup_source())
    url, branch = notebooks.repository()

    def commands(missing: bool) -> list[tuple]:
        called = []
        shell = SimpleNamespace(run_line_magic=lambda *arguments: called.append(arguments))
        namespace = {"get_ipython": lambda: shell}
        with monkeypatch.context() as patch:
            if missing:
                patch.setattr("importlib.util.find_spec", lambda name: None)
            exec(compile(code, "setup", "exec"), namespace)
        assert namespace["diffbook"].__name__ == "diffbook"
        return [(magic, line, namespace["_spec"]) for magic, line in called]

    assert commands(missing=False) == []
    expected = named or f"git+{url}@{branch}"
    assert commands(missing=True) == [("pip", 'install --quiet "$_spec"', expected)]


# ---------------------------------------------------------------- check finds what is wrong


def test_check_accepts_a_good_chapter():
    assert notebooks.problems(small_notebook()) == []


def image(alt: str | None) -> nbformat.NotebookNode:
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return nbformat.v4.new_output(
        "display_data", {"image/png": "AAAA", "text/plain": "x"}, metadata=metadata
    )


def spoil_setup(n):
    n.cells[1].source += "\nprint('more')"


def spoil_counts(n):
    n.cells[2].execution_count = 7


def spoil_metadata(n):
    n.metadata["accelerator"] = "GPU"


def spoil_ids(n):
    n.cells[0]["id"] = "something"


def spoil_directive(n):
    n.cells[0].source += "\n\n:::{note}\ntext\n:::"


def spoil_fence(n):
    n.cells[0].source += "\n\n```{figure} a.png\n```"


def spoil_role(n):
    n.cells[0].source += "\n\nsee {ref}`here`"


def spoil_error(n):
    n.cells[2].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no")]


def spoil_alt(n):
    n.cells[2].outputs = [image(None)]


def spoil_path(n):
    n.cells[2].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="in /some/where/file.py\n")
    ]


def spoil_stderr(n):
    n.cells[2].outputs = [nbformat.v4.new_output("stream", name="stderr", text="a warning\n")]


def spoil_widget(n):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    n.cells[2].outputs = [nbformat.v4.new_output("display_data", data)]


def spoil_address(n):
    data = {"text/plain": "<Figure object at 0x7f00>"}
    n.cells[2].outputs = [nbformat.v4.new_output("display_data", data)]


def spoil_summary(n):
    n.cells[0].source += "\n\n<details><summary>Hint</summary>\nraw\n\n</details>"


def spoil_details(n):
    n.cells[0].source += "\n\n<details><summary>Hint</summary>\n\nopen"


def spoil_title(n):
    n.cells[0].source += "\n\n# Another title"


def spoil_link(n):
    n.cells[0].source += "\n\n[next](99_nowhere.ipynb)"


def spoil_width(n):
    n.cells[2].source = "print(" + "1 + " * 30 + "1)"


def spoil_tag(n):
    n.cells[2].metadata["tags"] = ["hide_input"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_setup, "setup cell"),
        (spoil_counts, "counts [1, 7]"),
        (spoil_metadata, "metadata"),
        (spoil_ids, "cell ids"),
        (spoil_directive, "MyST syntax ':::{note}'"),
        (spoil_fence, "MyST syntax '```{figure}'"),
        (spoil_role, "MyST syntax"),
        (spoil_error, "ValueError: no"),
        (spoil_alt, "without alt text"),
        (spoil_path, "absolute path: '/some/where/file.py'"),
        (spoil_stderr, "a warning"),
        (spoil_widget, "widget state"),
        (spoil_address, "address"),
        (spoil_summary, "no blank line after </summary>"),
        (spoil_details, "<details>"),
        (spoil_title, "2 level-one headings"),
        (spoil_link, "99_nowhere.ipynb"),
        (spoil_width, "wider than 79"),
        (spoil_tag, "unknown tag ['hide_input']"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_check_finds(spoil, words):
    notebook = small_notebook()
    spoil(notebook)
    if spoil is not spoil_ids:  # the new text has a new id, which is not the fault looked for
        for cell, cell_id in zip(notebook.cells, notebooks.cell_ids(notebook.cells), strict=True):
            cell["id"] = cell_id
    found = notebooks.problems(notebook)
    assert len(found) == 1 and words in found[0], found


def test_check_accepts_an_image_with_alt_text_and_an_expected_error():
    notebook = small_notebook()
    notebook.cells[2].outputs = [
        image("A line that rises."),
        nbformat.v4.new_output("error", ename="ValueError", evalue="expected"),
    ]
    notebook.cells[2].metadata["tags"] = ["raises-exception"]
    assert notebooks.problems(notebook) == []


# ---------------------------------------------------------------- sync and run


def test_sync_is_stable_and_ids_follow_the_text():
    notebook = small_notebook()
    again = notebooks.synced(notebook)
    assert again == notebook
    twin = copy.deepcopy(notebook)
    twin.cells.append(copy.deepcopy(twin.cells[2]))  # the same text twice: two ids
    ids = [cell["id"] for cell in notebooks.synced(twin).cells]
    assert len(set(ids)) == 4 and ids[:3] == [cell["id"] for cell in notebook.cells]


@pytest.mark.parametrize("setups", [0, 2])
def test_sync_wants_exactly_one_setup_cell(tmp_path, setups):
    cells = [nbformat.v4.new_code_cell("# SETUP") for _ in range(setups)]
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(notebooks.NotebookError, match=f"01_x.ipynb: found {setups} setup cells"):
        notebooks.sync(path)


def test_run_stores_outputs_of_this_interpreter(tmp_path):
    notebook = small_notebook()
    notebook.cells[2].source = (
        "import os, sys\nprint(os.environ['DIFFBOOK_STATIC'], sys.prefix == "
        f"{sys.prefix!r}, os.getcwd() == {str(tmp_path)!r})"
    )
    path = tmp_path / "01_x.ipynb"
    notebooks.write(path, notebooks.synced(notebook))
    assert notebooks.run(path) > 0
    ran = notebooks.read(path)
    assert [c.get("execution_count") for c in ran.cells] == [None, 1, 2]
    assert ran.cells[2].outputs[0].text == "1 True True\n"
    assert all(set(cell.metadata) <= {"tags"} for cell in ran.cells)


def test_a_failing_run_says_where_and_keeps_the_file(tmp_path, capsys):
    notebook = small_notebook()
    notebook.cells[2].source = "raise RuntimeError('the third cell')"
    path = tmp_path / "01_x.ipynb"
    notebooks.write(path, notebooks.synced(notebook))
    before = path.read_bytes()
    assert notebooks.main(["run", str(path)]) == 1
    said = capsys.readouterr().err
    assert "01_x.ipynb" in said and "the third cell" in said
    assert path.read_bytes() == before


def test_command_line_names_a_file_that_is_no_notebook(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    script = notebooks.ROOT / "scripts" / "notebooks.py"
    done = subprocess.run(
        [sys.executable, script, "check", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "broken.ipynb: not a readable notebook" in done.stderr
    assert "Traceback" not in done.stderr
