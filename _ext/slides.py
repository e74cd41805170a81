"""Lectures as slides: `book/slides/<n>.md` becomes `slides/<n>.html` of the site.

A source is Markdown. A head between two lines of `---` says title, chapters, assignment and
`values`; then come the slides, separated by lines of `---`. On a slide

    ## The title is the message         `## Title {split}`: text on the left, figures on the right
    . . .                               what follows comes with the next key
    {{ figure: 03_differential_attention, difference; live: a head set by hand }}
    {{ name }}                          a value of the head, computed when the site is built
    Note: 4 min. What the lecturer says; the minutes add up to those of the deck.

A figure is taken out of the stored outputs of the chapter: one that reacts by its name (`table` for
the table that sorts), any other by words of its alt text that no other figure of the chapter has.
So slides show what the chapters show; a figure that is gone, or a value that cannot be computed,
is an error of the build. After the `;` stands where the figure comes from (paper, recorded, live,
in any order), and at the end how large a figure that reacts is drawn (`; zoom 0.8`).

`python _ext/slides.py FOLDER` writes the decks beside a built site, without Sphinx.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import statistics
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "book" / "slides"
EVIDENCE = ("paper", "recorded", "live")

_FIGURE = re.compile(r"^\{\{ figure: *(\w+), *([^;]+?) *; *(.+?) *(?:; *zoom ([\d.]+) *)?\}\}$")
_VALUE = re.compile(r"\{\{ (\w+) \}\}")


class SlideError(ValueError):
    """A deck that cannot be built; the message names the file and the slide."""


@dataclass(frozen=True)
class Slide:
    """One slide: HTML of its body and notes, title as plain text, minutes to talk."""

    title: str
    body: str
    notes: str
    minutes: float
    split: bool
    first: bool


@dataclass(frozen=True)
class Deck:
    """A lecture. `pictures` are the files that its slides show, by their name."""

    name: str
    title: str
    chapters: tuple[str, ...]
    assignment: str
    slides: tuple[Slide, ...]
    pictures: Mapping[str, bytes]

    @property
    def minutes(self) -> int:
        return round(sum(slide.minutes for slide in self.slides))


# ---------------------------------------------------------------- figures and values


@cache
def _outputs(chapter: str) -> list[dict[str, Any]]:
    """The outputs of a chapter's cells, in order."""
    path = ROOT / "book" / f"{chapter}.ipynb"
    if not path.exists():
        raise SlideError(f"there is no chapter {chapter!r} in {path.parent}")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", []) if "data" in output]


def find_figure(chapter: str, words: str) -> dict[str, Any]:
    """The one output of a chapter whose figure is named so, or whose alt text has these words.

    Raises:
        SlideError: where no output or more than one fits; lists what there is.
    """

    def name(output: dict[str, Any]) -> str:
        page = "".join(output["data"].get("text/html", ""))
        found = re.search(r'data-figure="([\w-]+)"', page)
        return found[1] if found else "table" if "data-diffbook-table=" in page else ""

    def alt(output: dict[str, Any]) -> str:
        return " ".join(output.get("metadata", {}).get("image/png", {}).get("alt", "").split())

    every = [output for output in _outputs(chapter) if name(output) or alt(output)]
    found = [o for o in every if name(o) == words] or [o for o in every if words in alt(o)]
    if len(found) != 1:
        known = "".join(f"\n  {name(o)} {alt(o)[:70]}" for o in every)
        raise SlideError(f"{len(found)} figures of {chapter} answer to {words!r}; it has{known}")
    return found[0]


def _figure(line: str, pictures: dict[str, bytes]) -> str:
    """HTML of one figure with its source; adds the picture it needs to `pictures`."""
    from diffbook.show.reactive import refreshed

    read = _FIGURE.match(line.strip())
    if not read:
        raise SlideError(f"not understood: {line.strip()!r}; write {{{{ figure: CHAPTER, NAME or "
                         "words of the alt text; paper|recorded|live: more }}")
    chapter, words, source, zoom = read.groups()
    kind = re.match(rf"(?:{'|'.join(EVIDENCE)})(?: and (?:{'|'.join(EVIDENCE)}))*\b", source)
    if not kind:
        raise SlideError(f"{words!r}: say where the figure comes from, first {EVIDENCE}")
    output = find_figure(chapter, words)
    live = "".join(output["data"].get("text/html", ""))
    if "data-figure=" in live or "data-diffbook-table=" in live:
        # Inside of an output links name notebooks, as Jupyter needs it.
        live = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="../book/\1.html"', live)
        size = f' style="--zoom: {zoom}"' if zoom else ""
        shown = f'<div class="reacts" data-prevent-swipe{size}>{refreshed(live)}</div>'
    else:
        picture = base64.b64decode(output["data"]["image/png"])
        # Content in the name: a browser never shows an older picture.
        name = f"{chapter[:2]}-{hashlib.sha256(picture).hexdigest()[:10]}.png"
        pictures[name] = picture
        width, height = struct.unpack(">II", picture[16:24])
        alt = html.escape(" ".join(output["metadata"]["image/png"]["alt"].split()))
        shown = (f'<img class="figure-output" src="figures/{name}" alt="{alt}" '
                 f'width="{width}" height="{height}">')
    said = html.escape(source[len(kind[0]):])
    link = f'<a href="../book/{chapter}.html">chapter {int(chapter[:2])}</a>'
    return (f"<figure>{shown}<figcaption><b>{kind[0].capitalize()}</b>{said} · {link}"
            "</figcaption></figure>")


def _values(expressions: Mapping[str, str]) -> dict[str, str]:
    """What the head of a deck computes out of the book's records and the paper's numbers."""
    from diffbook import attention, paper, records, scorecard, signals

    names = {"attention": attention, "paper": paper, "records": records, "scorecard": scorecard,
             "signals": signals, "statistics": statistics}
    found: dict[str, str] = {}
    for name, expression in expressions.items():
        try:
            found[name] = str(eval(expression, {**names, **_HELP}))
        except Exception as error:
            raise SlideError(f"value {name}: {expression!r}: {error!r}") from error
    return found


def _signed(number: float, digits: int) -> str:
    """`+0.13`, `−0.04`: with a sign, the minus a true one."""
    return f"{number:+.{digits}f}".replace("-", "−")


def _paired(found: Any, digits: int = 2) -> str:
    """`+0.13 [−0.04, +0.30], n = 8` for a difference between models, or a row of the scorecard."""
    mean = found.mean if hasattr(found, "mean") else found.difference  # a row of the scorecard
    middle, low, high = (_signed(x, digits) for x in (mean, found.low, found.high))
    n = f", n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{found.n}" if hasattr(found, "n") else ""
    return f"{middle} [{low}, {high}]{n}"


def _row(claim: str) -> Any:
    """The first row of the scorecard whose claim begins so."""
    from diffbook import scorecard

    return next(row for row in scorecard.rows() if row.claim.startswith(claim))


_HELP = {"paired": _paired, "row": _row}


# ---------------------------------------------------------------- Markdown


def _markdown() -> MarkdownIt:
    """Markdown with tables, formulas for MathJax, and the book's HTML as it stands."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    dollarmath_plugin(reader, allow_labels=False, allow_space=False, double_inline=False)

    def inline(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        return rf'<span class="math">\({html.escape(tokens[at].content)}\)</span>'

    def block(self: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        return f'<div class="math">\\[{html.escape(tokens[at].content.strip())}\\]</div>\n'

    reader.add_render_rule("math_inline", inline)
    reader.add_render_rule("math_block", block)
    return reader


def _body(text: str, split: bool, reader: MarkdownIt, pictures: dict[str, bytes]) -> str:
    """The slide below its title. What follows the n-th pause is a fragment with index n."""
    columns: dict[str, list[str]] = {"text": [], "figures": []}
    for number, part in enumerate(re.split(r"^\. \. \.$", text, flags=re.M)):
        # Text and figures take turns; figures that follow each other stand side by side.
        blocks: list[tuple[str, list[str]]] = []
        for line in part.splitlines():
            kind = "figures" if line.startswith("{{ figure:") else "text"
            if not blocks or (blocks[-1][0] != kind and line.strip()):
                blocks.append((kind, []))
            blocks[-1][1].append(line)
        for kind, lines in blocks:
            if kind == "text":
                made = reader.render("\n".join(lines)).strip()
                made = re.sub(r"<table>.*?</table>", r'<div class="table">\g<0></div>', made,
                              flags=re.S)
            else:
                made = "".join(_figure(line, pictures) for line in lines if line.strip())
                made = f'<div class="figures">{made}</div>'
            if made:
                step = f' class="fragment" data-fragment-index="{number}"' if number else ""
                columns[kind if split else "text"].append(f"<div{step}>{made}</div>")
    if not split:
        return "\n".join(columns["text"])
    left, right = ("\n".join(columns[kind]) for kind in ("text", "figures"))
    return f'<div class="split"><div>{left}</div><div>{right}</div></div>'


def _slide(text: str, first: bool, values: Mapping[str, str], reader: MarkdownIt,
           pictures: dict[str, bytes]) -> Slide:
    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise SlideError(f"the head computes no value {found[1]!r}")
        return values[found[1]]

    text = _VALUE.sub(value, text.strip())
    shown, _, notes = text.partition("\nNote:")
    heading = re.match(r"(#{1,2}) (.+?)( \{split\})?\n", shown + "\n")
    if not heading or (heading[1] == "#") != first:
        raise SlideError(f"a slide begins with its title (# the first, ## others): {text[:60]!r}")
    title = reader.renderInline(heading[2])
    try:
        body = _body(shown[heading.end():], bool(heading[3]), reader, pictures)
    except SlideError as error:
        raise SlideError(f"slide {heading[2]!r}: {error}") from error
    minutes = re.match(r"\s*([\d.]+) min\.", notes)
    if not minutes:
        raise SlideError(f"slide {heading[2]!r}: its notes begin with the minutes, 'Note: 3 min.'")
    left = re.search(r"\{\{ |\s\}\}", body)
    if left:
        around = body[max(0, left.start() - 30):left.end() + 30]
        raise SlideError(f"slide {heading[2]!r}: not understood: {around!r}")
    return Slide(title, body, reader.render(notes.strip()), float(minutes[1]), bool(heading[3]),
                 first)


def read(path: Path) -> Deck:
    """The deck of one source.

    Raises:
        SlideError: for whatever cannot be shown, naming file and slide.
    """
    _, head, text = re.split(r"^---\n", path.read_text(encoding="utf-8"), maxsplit=2, flags=re.M)
    settings = yaml.safe_load(head)
    reader = _markdown()
    pictures: dict[str, bytes] = {}
    try:
        values = _values(settings.get("values", {}))
        slides = tuple(
            _slide(part, number == 0, values, reader, pictures)
            for number, part in enumerate(re.split(r"^---$", text, flags=re.M))
        )
    except SlideError as error:
        raise SlideError(f"{path.name}: {error}") from error
    return Deck(path.stem, settings["title"], tuple(settings["chapters"]), settings["assignment"],
                slides, pictures)


# ---------------------------------------------------------------- pages

# Everything a page needs lies on this site; a phone and a browser without JavaScript get the same
# text as one page to scroll (see slides.js).
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Lecture {name} · diffbook</title>
<meta name="description" content="Slides of the book diffbook: {title}. {minutes} minutes.">
<link rel="icon" href="../_static/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="../_static/vendor/reveal/reveal.css" media="not all" id="reveal-css">
<link rel="stylesheet" href="../_static/slides/slides.css">
<script src="../_static/slides/slides.js"></script>
<script>window.MathJax = {mathjax};</script>
<script defer src="../_static/vendor/mathjax/tex-mml-chtml.js"></script>
<script defer src="../_static/vendor/reveal/reveal.js"></script>
<script defer src="../_static/vendor/reveal/notes.js"></script>
</head>
<body>
<main class="reveal">
<div class="slides">
{slides}
</div>
</main>
<footer class="bar">
<a href="../index.html">diffbook</a>
<span>Lecture {name}</span>
{others}
<a class="plain-link" href="?plain">As one page</a>
<button type="button" data-theme-button>Dark or light</button>
</footer>
</body>
</html>
"""


def page(deck: Deck, names: list[str]) -> str:
    """The deck as HTML; `names` are those of all decks."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    mathjax = config["sphinx"]["config"]["mathjax3_config"]
    # What MathJax would measure on a slide that is not shown is wrong.
    mathjax = {**mathjax, "chtml": {"matchFontHeight": False}}
    others = "\n".join(
        f'<a href="{name}.html" aria-label="Lecture {name}">{name}</a>'
        for name in names if name != deck.name
    )
    return PAGE.format(
        title=html.escape(deck.title), name=deck.name, minutes=deck.minutes, others=others,
        mathjax=json.dumps(mathjax), slides="\n".join(map(_section, deck.slides)))


def _section(slide: Slide) -> str:
    level = "h1" if slide.first else "h2"
    kinds = " ".join(kind for kind, on in (("title", slide.first), ("wide", slide.split)) if on)
    label = f' class="{kinds}"' if kinds else ""
    return (f'<section{label} data-timing="{round(60 * slide.minutes)}">\n'
            f"<{level}>{slide.title}</{level}>\n{slide.body}\n"
            f'<aside class="notes">\n{slide.notes}</aside>\n</section>')


def write(out: Path) -> list[Deck]:
    """Write all decks and their pictures into `out`/slides."""
    sources = sorted(SOURCES.glob("[0-9]*.md"))
    decks = [read(path) for path in sources]
    folder = out / "slides"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for old in (folder / "figures").glob("*.png"):
        old.unlink()
    for deck in decks:
        made = page(deck, [path.stem for path in sources])
        (folder / f"{deck.name}.html").write_text(made, encoding="utf-8")
        for name, picture in deck.pictures.items():
            (folder / "figures" / name).write_bytes(picture)
    return decks


def _build_finished(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.name == "html":
        write(Path(app.outdir))


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the decks when the site is there."""
    app.connect("build-finished", _build_finished)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for made in write(Path(sys.argv[1])):
        print(f"{made.name}: {made.title}, {len(made.slides)} slides, {made.minutes} minutes")
