"""Tables of `book/runs.md` that are written from the package's own files at build time.

A line `<!-- records -->` becomes one section for each shipped record, `<!-- corpus -->` the table
of the texts, so that the page cannot say anything else than the files do.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PACKAGE = Path(__file__).resolve().parent.parent / "diffbook"
RECORDS = PACKAGE / "records"
CORPUS = PACKAGE / "data" / "corpus" / "manifest.json"


def record_section(record: Any) -> str:
    """One record as Markdown: where it comes from, then each measure by variant (mean ± standard
    deviation over seeds) and the paired difference."""
    from diffbook.show.style import LABELS

    seeds = {variant: len(record.of(variant)) for variant in record.variants}
    lines = [f"### {record.name}", "", f"{record.title}. *{record.provenance}.*", ""]
    heads = [f"{LABELS.get(variant, variant)} (n = {n})" for variant, n in seeds.items()]
    compared = {"softmax", "diff"} <= set(seeds) and min(seeds["softmax"], seeds["diff"]) > 1
    rows = [["measure", *heads, *(["DIFF − Transformer [95 %]"] if compared else [])]]
    for measure in record.runs[0].measures:
        row = [measure]
        for variant in record.variants:
            values = [float(value) for value in record.values(variant, measure)]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            row.append(f"{statistics.mean(values):.3f}{spread}")
        if compared:
            row.append(record.paired(measure).text().split(", n =")[0])
        rows.append(row)
    return "\n".join([*lines, *table(rows), ""])


def corpus_table(manifest: dict[str, Any]) -> str:
    """The texts: title, size, rights."""
    rows = [["text", "size", "rights"]]
    for part in manifest["parts"].values():
        rows.append([part["title"], f"{part['bytes'] / 1e6:.1f} MB", part["rights"]])
    return "\n".join(table(rows, right=(1,)))


def table(rows: list[list[str]], right: Iterable[int] | None = None) -> list[str]:
    """Markdown lines; the first row is the head. All columns but the first are numbers, or those
    named by ``right``."""
    numbers = set(range(1, len(rows[0])) if right is None else right)
    marks = ["---:" if column in numbers else "---" for column in range(len(rows[0]))]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], marks, *rows[1:])]


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the two marks of `book/runs.md`."""
    if docname != "book/runs":
        return
    from diffbook import records

    for path in (*RECORDS.glob("*.json"), CORPUS):
        app.env.note_dependency(str(path))
    sections = [record_section(records.load(name)) for name in records.available()]
    source[0] = source[0].replace("<!-- records -->", "\n".join(sections) or "None is shipped yet.")
    manifest = json.loads(CORPUS.read_text(encoding="utf-8"))
    source[0] = source[0].replace("<!-- corpus -->", corpus_table(manifest))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
