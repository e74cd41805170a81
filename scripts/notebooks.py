"""Keep the chapters in one shape: `sync` them, `run` them, `check` them.

    python scripts/notebooks.py sync  [files]   write the setup cell, tidy the metadata and cell ids
    python scripts/notebooks.py run   [files]   execute top to bottom and store the outputs in place
    python scripts/notebooks.py figures [files] put today's JavaScript into the stored figures
    python scripts/notebooks.py check [files]   say what is wrong; exit 1 if anything is

Without files, all chapters (`book/*.ipynb`) are meant. The setup cell is rendered from the
repository address in `_config.yml`, the only place where it is written. `tests/test_notebooks.py`
calls the same functions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import nbformat.reader
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"

# What every kernel of the book starts with, here and under pytest (see conftest.py): no live
# widgets in stored outputs, and a fixed number of threads so that sums are added in one order.
KERNEL_ENVIRONMENT = {
    "DIFFBOOK_STATIC": "1",
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other on two cores
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

# Colab and GitHub need no more than this; anything else differs from machine to machine.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}

SETUP_TAGS = ["setup", "hide-input"]
KNOWN_TAGS = {
    "setup",
    "hide-input",
    "hide-output",
    "hide-cell",
    "exercise",
    "remove-input",
    "remove-output",
    "nbval-ignore-output",
    "nbval-skip",
    "nbval-raises-exception",
    "raises-exception",
}
SETUP_CELL = """\
# Setup: safe to run anywhere. Opened alone (for example on Colab), the notebook installs
# the book's package first.
import importlib.util
import os

if importlib.util.find_spec("diffbook") is None:
    _spec = os.environ.get("DIFFBOOK_SPEC", "{spec}")
    %pip install --quiet "$_spec"
    importlib.invalidate_caches()
import diffbook"""

MAX_COLUMNS = 79
WIDGET_TYPES = {
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
}
IMAGE_TYPES = ("image/png", "image/jpeg", "image/svg+xml")
MYST_DIRECTIVE = re.compile(r"^\s*(?::{3,}|`{3,})\{[\w:-]+\}", re.M)
MYST_ROLE = re.compile(r"(?<!`)\{[a-z][\w:+-]*\}`[^`]")
ABSOLUTE_PATH = re.compile(r"(?:^|[\s'\"(=\[])((?:/[\w.@+-]+){2,}|[A-Za-z]:\\[\w.\\-]+)", re.M)


class NotebookError(Exception):
    """A chapter that cannot be written or run; the message names the file and the remedy."""


# ---------------------------------------------------------------- reading and writing


def chapters() -> list[Path]:
    """All chapters of the book in reading order."""
    return sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """Read a chapter as notebook format 4."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise NotebookError(f"{path}: not a readable notebook ({error})") from error


def as_text(notebook: nbformat.NotebookNode) -> str:
    """The notebook as the JSON text that Jupyter itself would write."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a chapter in one step, so that an interrupted run leaves the old file whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(as_text(notebook), encoding="utf-8", newline="\n")
    os.replace(part, path)


def repository() -> tuple[str, str]:
    """Address and branch of the repository, from `_config.yml`."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"].rstrip("/"), config["repository"]["branch"]


def setup_source() -> str:
    """The one setup cell, with the repository's address filled in."""
    url, branch = repository()
    return SETUP_CELL.format(spec=f"git+{url}@{branch}")


# ---------------------------------------------------------------- sync


def _is_setup(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and (
        "setup" in cell.metadata.get("tags", []) or cell.source.strip() == "# SETUP"
    )


def cell_ids(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Ids that follow from each cell's text: the same text always gets the same id."""
    ids: list[str] = []
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        repeat = sum(1 for known in ids if known.split("-")[0] == digest)
        ids.append(digest if repeat == 0 else f"{digest}-{repeat}")
    return ids


def synced(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy in the book's shape: setup cell, metadata and cell ids. Outputs stay."""
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    setups = [cell for cell in notebook.cells if _is_setup(cell)]
    if len(setups) != 1:
        raise NotebookError(
            f"found {len(setups)} setup cells; write exactly one code cell `# SETUP` "
            "and make it the first code cell"
        )
    setups[0].source = setup_source()
    setups[0].metadata["tags"] = list(SETUP_TAGS)
    for cell in notebook.cells:
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    for cell, cell_id in zip(notebook.cells, cell_ids(notebook.cells), strict=True):
        cell["id"] = cell_id
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def sync(path: Path) -> bool:
    """Bring one chapter into shape; True if the file changed."""
    before = read(path)
    try:
        after = synced(before)
    except NotebookError as error:
        raise NotebookError(f"{path}: {error}") from error
    if path.read_text(encoding="utf-8") == as_text(after):
        return False
    write(path, after)
    return True


# ---------------------------------------------------------------- run


def run(path: Path, timeout: int = 600) -> float:
    """Execute a chapter with this interpreter, store its outputs, return the seconds it took.

    The file is only replaced when every cell has run.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class ThisInterpreter(AsyncKernelManager):
        """A kernel of the running interpreter, whatever kernels happen to be installed."""

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    os.environ.update({k: os.environ.get(k, v) for k, v in KERNEL_ENVIRONMENT.items()})
    os.environ["DIFFBOOK_STATIC"] = "1"
    sync(path)
    notebook = read(path)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_manager_class=ThisInterpreter,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        record_timing=False,
        store_widget_state=False,
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(
            f"{path}: did not run to the end, its stored outputs are unchanged\n{error}"
        ) from error
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidy_outputs(cell.outputs)
    write(path, synced(notebook))
    return seconds


def _tidy_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join neighbouring pieces of one stream: where they were cut depends on timing."""
    tidy: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = tidy[-1] if tidy else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            tidy.append(output)
    return tidy


def renew_figures(path: Path) -> bool:
    """Put today's JavaScript into the figures that react; True if the file changed.

    The chapter is not run: data and pictures stay what its cells made of them.
    """
    from diffbook.show.reactive import refreshed

    notebook = read(path)
    before = as_text(notebook)
    for output in _outputs(notebook):
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = refreshed(data["text/html"])
    if as_text(notebook) == before:
        return False
    write(path, notebook)
    return True


def _outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


# ---------------------------------------------------------------- check


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Everything in which a chapter departs from the book's shape, one line each."""
    found = [*_shape_problems(notebook), *_text_problems(notebook)]
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found += [f"cell {number}: {line}" for line in _output_problems(cell)]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return found + quick_check_problems("\n\n".join(prose))


def _shape_problems(notebook: nbformat.NotebookNode) -> list[str]:
    found = []
    if json.loads(json.dumps(notebook.metadata)) != METADATA:
        found.append("notebook metadata is not the book's (run sync)")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or code[0].source != setup_source():
        found.append("the first code cell is not the book's setup cell (run sync)")
    elif code[0].metadata.get("tags") != SETUP_TAGS:
        found.append(f"the setup cell's tags are not {SETUP_TAGS} (run sync)")
    if sum(_is_setup(cell) for cell in code) > 1:
        found.append("more than one setup cell")
    if [cell.get("id") for cell in notebook.cells] != cell_ids(notebook.cells):
        found.append("cell ids do not follow from the cells' text (run sync)")
    counts = [cell.get("execution_count") for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"outputs are not from one run, top to bottom: counts {counts} (run it)")
    for number, cell in enumerate(notebook.cells):
        extra = set(cell.metadata) - {"tags"}
        if extra:
            found.append(f"cell {number}: metadata {sorted(extra)} (run sync)")
        unknown = set(cell.metadata.get("tags", [])) - KNOWN_TAGS
        if unknown:
            found.append(f"cell {number}: unknown tag {sorted(unknown)}")
    return found


def _text_problems(notebook: nbformat.NotebookNode) -> list[str]:
    found = []
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("the first cell is not a Markdown cell that starts with the title")
    titles = 0
    local_link = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            long = [line for line in cell.source.split("\n") if len(line) > MAX_COLUMNS]
            if long and not _is_setup(cell):
                found.append(f"cell {number}: wider than {MAX_COLUMNS} columns: {long[0]!r}")
            continue
        if cell.cell_type != "markdown":
            found.append(f"cell {number}: a {cell.cell_type} cell; use Markdown or code")
            continue
        prose = re.sub(r"^```.*?^```", "", cell.source, flags=re.S | re.M)
        titles += len(re.findall(r"^# ", prose, re.M))
        match = MYST_DIRECTIVE.search(cell.source) or MYST_ROLE.search(prose)
        if match:
            found.append(
                f"cell {number}: MyST syntax {match.group(0).strip()!r}, which Colab shows raw; "
                "use plain Markdown or HTML"
            )
        if re.search(r"</summary>[^\n]*\n(?=[^\n])", cell.source):
            found.append(
                f"cell {number}: no blank line after </summary>, so Markdown inside stays raw"
            )
        if len(re.findall(r"<details\b", prose)) != len(re.findall(r"</details>", prose)):
            found.append(f"cell {number}: <details> opened and closed unequally often")
        for target in local_link.findall(prose):
            if not (BOOK / target).exists():
                found.append(f"cell {number}: a link to {target!r}, which is not in book/")
        if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", prose):
            found.append(f"cell {number}: an image without alt text")
    if titles != 1:
        found.append(f"{titles} level-one headings; a chapter has exactly one")
    return found


def quick_check_problems(prose: str) -> list[str]:
    """What is wrong with the questions of a chapter's "## Quick check", if it has one.

    A question is a paragraph that begins with its bold number. Below it stand three or four
    options, each a `<details>` with a letter and plain text in its summary, where Markdown and
    formulas would stay raw, and a verdict with its reason inside. One option is right. The site
    makes a self-test of this (`_static/selftest.js`); without a script it still can be read.
    """
    section = re.search(r"^## Quick check\s*\n(.*?)(?=^## |\Z)", prose, re.M | re.S)
    if section is None:
        return []
    _, *parts = re.split(r"^\*\*(\d+)\.\*\*[ \n]", section.group(1), flags=re.M)
    numbers, questions = parts[::2], parts[1::2]
    found = []
    if not 2 <= len(numbers) <= 5 or numbers != [str(n + 1) for n in range(len(numbers))]:
        found.append(f"questions {numbers}, not 1, 2 ... up to 5, each `**1.** text`")
    for number, question in zip(numbers, questions, strict=True):
        found += [f"question {number}: {line}" for line in _option_problems(question)]
    return [f"quick check: {line}" for line in found]


def _option_problems(question: str) -> list[str]:
    text, *options = re.split(r"^<details>\n", question, flags=re.M)
    found = [] if text.strip() else ["no text before the options"]
    letters, right = "", 0
    for option in options:
        match = re.fullmatch(
            r"<summary>([A-D])\. (\S[^\n]*)</summary>\n\n"
            r"\*\*(Right|No|Not quite)\.\*\* (\S.*?)\n\n</details>\s*",
            option,
            re.S,
        )
        if match is None:
            return found + [
                f"{option.strip()[:40]!r} is no option: <details>, <summary>A. text</summary>, "
                "then **Right.**, **No.** or **Not quite.** and the reason, </details>"
            ]
        letter, summary, verdict, _ = match.groups()
        letters += letter
        right += verdict == "Right"
        if re.search(r"[$*`]|\]\(", summary):
            found.append(f"Markdown stays raw in the option {summary!r}")
    if letters not in ("ABC", "ABCD"):
        found.append(f"options {letters or 'none'}, not ABC or ABCD")
    if right != 1:
        found.append(f"{right} right options, not one")
    return found


def _output_problems(cell: nbformat.NotebookNode) -> list[str]:
    found = []
    expects_error = {"raises-exception", "nbval-raises-exception"} & set(
        cell.metadata.get("tags", [])
    )
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            if not expects_error:
                found.append(f"an error output: {output.ename}: {output.evalue}")
            continue
        if output.output_type == "stream":
            if output.name == "stderr":
                found.append(f"text on stderr: {output.text.strip()[:80]!r}")
            found += _path_problems(output.text)
            continue
        data, metadata = output.get("data", {}), output.get("metadata", {})
        for kind in WIDGET_TYPES & set(data):
            found.append(f"widget state ({kind}); run with DIFFBOOK_STATIC=1")
        for kind in IMAGE_TYPES:
            if kind in data and not str(metadata.get(kind, {}).get("alt", "")).strip():
                found.append("an image without alt text; publish it with show.figure(fig, alt=…)")
        for text in (data.get("text/plain", ""), data.get("text/html", "")):
            found += _path_problems(re.sub(r"data:[\w/+.-]+;base64,[\w+/=\s]+", "", text))
            if re.search(r"<img(?![^>]*\balt=)[^>]*>", text):
                found.append("an HTML output with an image without alt text")
        if re.search(r"<[\w.]+ (?:object )?at 0x", data.get("text/plain", "")):
            found.append(f"an object's address is shown: {data['text/plain'][:60]!r}")
    return found


def _path_problems(text: str) -> list[str]:
    return [f"an absolute path: {path!r}" for path in ABSOLUTE_PATH.findall(text)[:1]]


def check(path: Path) -> list[str]:
    """The problems of one chapter, each with the file's name in front."""
    return [f"{path.name}: {problem}" for problem in problems(read(path))]


# ---------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["sync", "run", "figures", "check"])
    parser.add_argument("files", nargs="*", type=Path, help="default: every chapter")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    options = parser.parse_args(arguments)
    files = options.files or chapters()
    if not files:
        print(f"no chapters in {BOOK}", file=sys.stderr)
        return 1
    status = 0
    total = 0.0
    for path in files:
        try:
            if options.command == "sync":
                print(f"{path.name}: {'written' if sync(path) else 'unchanged'}")
            elif options.command == "figures":
                print(f"{path.name}: {'renewed' if renew_figures(path) else 'unchanged'}")
            elif options.command == "run":
                seconds = run(path, options.timeout)
                total += seconds
                print(f"{path.name}: ran in {seconds:.1f} s", flush=True)
            else:
                found = check(path)
                print("\n".join(found) if found else f"{path.name}: ok")
                status |= bool(found)
        except NotebookError as error:
            print(error, file=sys.stderr)
            status = 1
    if options.command == "run" and len(files) > 1:
        print(f"all: {total:.1f} s")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
