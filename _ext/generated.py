"""Tables that are written from the repository's own files when the site is built.

    <!-- figure -->     in index.md: the figure of chapter 3 that reacts
    <!-- chapters -->   in index.md: title, first aim and reading time of every chapter in _toc.yml
    <!-- costs -->      in book/runs.md: minutes of a run, by experiment and machine
    <!-- records -->    in book/runs.md: every measure of every shipped record
    <!-- corpus -->     in book/runs.md: the texts, their size and rights
    <!-- modules -->    in book/api.md: every module of the package, in the order of the house

So a page cannot say anything else than the files do.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffbook"
RECORDS = PACKAGE / "records"
CORPUS = PACKAGE / "data" / "corpus" / "manifest.json"


def record_section(record: Any) -> str:
    """One record as Markdown: where it comes from, then each measure by variant (mean ± standard
    deviation over seeds) and the paired difference. Variants of several sizes ("softmax-32",
    "diff-32", …) take a row for each size."""
    from diffbook.show.style import LABELS

    sizes: dict[str, dict[str, str]] = {}  # size, "" where there is one -> kind -> variant
    for variant in record.variants:
        kind, _, size = variant.partition("-")
        sizes.setdefault(size, {})[kind] = variant
    kinds = list(dict.fromkeys(kind for group in sizes.values() for kind in group))
    seeds = {kind: sorted({len(record.of(group[kind])) for group in sizes.values()
                           if kind in group}) for kind in kinds}
    lines = [f"### {record.name}", "", f"{record.title}. *{record.provenance}.*", ""]
    heads = [
        f"{LABELS.get(kind, kind)} (n = {' or '.join(map(str, seeds[kind]))})" for kind in kinds]
    compared = {"softmax", "diff"} <= set(kinds) and min(seeds["softmax"] + seeds["diff"]) > 1
    rows = [["measure", *heads, *(["DIFF − Transformer [95 %]"] if compared else [])]]
    for measure in record.runs[0].measures:
        for size, group in sizes.items():
            row = [f"{measure}, {size}" if size else measure]
            for kind in kinds:
                if kind not in group:
                    row.append("")
                    continue
                values = [float(value) for value in record.values(group[kind], measure)]
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                row.append(f"{statistics.mean(values):.3f}{spread}")
            if compared and {"softmax", "diff"} <= set(group):
                paired = record.paired(measure, a=group["diff"], b=group["softmax"])
                row.append(paired.text().split(", n =")[0])
            elif compared:
                row.append("")
            rows.append(row)
    return "\n".join([*lines, *table(rows), ""])


def corpus_table(manifest: dict[str, Any]) -> str:
    """The texts: title, size, rights."""
    rows = [["text", "size", "rights"]]
    for part in manifest["parts"].values():
        rows.append([part["title"], f"{part['bytes'] / 1e6:.1f} MB", part["rights"]])
    return "\n".join(table(rows, right=(1,)))


def contents_table(root: Path) -> str:
    """The chapters by part: title with link, the first thing one can do after it, minutes.

    A chapter's first cell holds all three; one that does not say its time is an error.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    rows = [["Part", "Chapter", "After it you can, for example,", "Minutes to read"]]
    for part in toc["parts"]:
        caption = part["caption"].split()[0]
        for name in (chapter["file"] for chapter in part["chapters"]):
            path = root / f"{name}.ipynb"
            if not path.exists():
                continue
            first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
            title = re.search(r"^# (.+)$", first, re.M)
            aim = re.search(r"^[-*] (.+?)[;.,]?$(?=\n(?:[-*] |\n)|\Z)", first, re.M | re.S)
            minutes = re.search(r"\b(\d+) minutes to read", first)
            if not (title and aim and minutes):
                raise ValueError(
                    f"{path.name}: the first cell must hold the title, a list of aims and "
                    '"N minutes to read" for the table of contents on the first page'
                )
            text = " ".join(aim[1].split()).replace("|", "\\|")
            rows.append([f"**{caption}**", f"[{title[1]}]({name}.ipynb)", text, minutes[1]])
            caption = ""
    rows = [[cell.replace("****", "") for cell in row] for row in rows]
    return "\n".join(table(rows, right=(3,)))


HERO = (
    "Three square attention maps side by side. The first, map 1, and the second, lambda times map "
    "2, are computed with softmax and have only positive weights. The third, their difference, has "
    "positive weights in blue and negative weights in red."
)


def first_figure() -> str:
    """The explorer of two maps and their difference; the book's picture where no script runs."""
    from diffbook.show.reactive import fragment

    html = fragment("difference", {"preset": "hand"}, "_static/hero.png", HERO)
    return f"``````{{raw}} html\n{html}\n``````"


# The way through the house; a module that is not named here comes last.
ORDER = "attention blockwise rope signals model tasks train measure records experiments show"
PRIVATE = ("cli", "__main__")


def api_sections(package: Path) -> str:
    """A heading and an automodule for each module. A package that names its public things in
    ``__all__`` stands for its files; of any other package each file is shown."""
    order = ORDER.split()
    entries = [path for path in package.iterdir() if not path.stem.startswith(("_", "."))]
    modules = [p for p in entries if p.suffix == ".py" or (p / "__init__.py").exists()]
    modules = [path for path in modules if path.stem not in PRIVATE]
    modules.sort(key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.stem))
    lines = []
    for path in modules:
        name = f"diffbook.{path.stem}"
        lines += [f"## {name}", ""]
        whole = path.suffix == ".py" or "__all__" in (path / "__init__.py").read_text("utf-8")
        parts = (
            [name] if whole else [f"{name}.{file.stem}" for file in sorted(path.glob("[!_]*.py"))]
        )
        for part in parts:
            lines += [] if whole else [f"### {part}", ""]
            lines += ["```{eval-rst}", f".. automodule:: {part}", "   :members:"]
            lines += ["   :imported-members:"] if path.suffix != ".py" and whole else []
            lines += ["```", ""]
    return "\n".join(lines)


def join_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let one entry of a docstring's Args or Attributes speak of several names: ``a, b: text``.

    Sphinx takes what stands before the last space for a type, so the names are joined by commas
    alone.
    """
    for number, line in enumerate(lines):
        several = re.match(r"(\s+)(\w+(?:, \w+)+): ", line)
        if several:
            joined = several[2].replace(", ", ",")
            lines[number] = f"{several[1]}{joined}: {line[several.end() :]}"


def table(rows: list[list[str]], right: Iterable[int] | None = None) -> list[str]:
    """Markdown lines; the first row is the head. All columns but the first are numbers, or those
    named by ``right``."""
    numbers = set(range(1, len(rows[0])) if right is None else right)
    marks = ["---:" if column in numbers else "---" for column in range(len(rows[0]))]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], marks, *rows[1:])]


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the marks of the pages that have them."""

    def put(mark: str, text: str) -> None:
        if mark not in source[0]:
            raise ValueError(f"{docname}: the mark {mark} is gone; the table has no place")
        source[0] = source[0].replace(mark, text)

    if docname == "index":
        for path in (ROOT / "_toc.yml", *ROOT.glob("book/*.ipynb")):
            app.env.note_dependency(str(path))
        for path in PACKAGE.glob("show/js/*.js"):
            app.env.note_dependency(str(path))
        put("<!-- figure -->", first_figure())
        put("<!-- chapters -->", contents_table(ROOT))
    if docname == "book/api":
        for path in PACKAGE.rglob("*.py"):
            app.env.note_dependency(str(path))
        put("<!-- modules -->", api_sections(PACKAGE))
    if docname == "book/runs":
        from diffbook import records
        from diffbook.experiments import EXPERIMENTS
        from diffbook.experiments.runner import costs

        for path in (*RECORDS.glob("*.json"), CORPUS):
            app.env.note_dependency(str(path))
        put("<!-- costs -->", costs(EXPERIMENTS.values()))
        loaded = [records.load(name) for name in records.available()]
        sections = [record_section(record) for record in loaded]
        put("<!-- records -->", "\n".join(sections) or "None is shipped yet.")
        put("<!-- corpus -->", corpus_table(json.loads(CORPUS.read_text(encoding="utf-8"))))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", join_names, priority=100)  # before napoleon
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
