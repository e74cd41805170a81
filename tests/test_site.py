"""The built site: links, pictures, foreign hosts, and a look at every page with a real browser.

Looks at `_build/html`; without it (say: make book) these tests are skipped, and where
`DIFFBOOK_REQUIRE_SITE` is set (.ci/run) they fail instead.
"""

from __future__ import annotations

import ast
import html
import importlib
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import notebooks
import pytest
import yaml
from figures import ROOT, SITE, needs_browser

from diffbook import records

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))

if not (SITE / "index.html").exists() and not os.environ.get("DIFFBOOK_REQUIRE_SITE"):
    pytest.skip("no site in _build/html; build it with: make book", allow_module_level=True)

PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if not path.relative_to(SITE).parts[0].startswith("_")
)
CHAPTERS = [f"book/{path.stem}.html" for path in notebooks.chapters()]


class Page(HTMLParser):
    """What the tests ask about one page."""

    def __init__(self, name: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = (SITE / name).read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def anchors(self) -> set[str]:
        return {a[key] for _, a in self.tags for key in ("id", "name") if key in a}


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {name: Page(name) for name in PAGES}


def test_every_page_of_the_contents_is_built():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    assert [f"{name}.html" for name in files if f"{name}.html" not in PAGES] == []


def test_internal_links_and_anchors(pages):
    broken, checked = [], 0
    for name, page in pages.items():
        for tag, attributes in page.tags:
            target = attributes.get("href" if tag in ("a", "link") else "src", "")
            if not target or urlsplit(target).scheme or target.startswith("//"):
                continue
            path, anchor = unquote(urlsplit(target).path), unquote(urlsplit(target).fragment)
            file = (SITE / name).parent / path if path else SITE / name
            file = Path(os.path.normpath(file))
            if file.is_dir():
                file = file / "index.html"
            checked += 1
            if not file.exists():
                broken.append(f"{name}: {target}")
            elif anchor and file.suffix == ".html":
                other = pages.get(file.relative_to(SITE).as_posix())
                if other is None or anchor not in other.anchors:
                    broken.append(f"{name}: {target} (no such anchor)")
    assert broken == []
    assert checked > 20 * len(pages), "the pages have too few links; was the site built in full?"


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_alt_text(pages, name):
    pictures = pages[name].all("img")
    assert [p for p in pictures if not p.get("alt", "").strip()] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_another_host(pages, name):
    page = pages[name]
    loading = {"preload", "stylesheet", "icon", "modulepreload", "prefetch", "preconnect"}
    loaded = [a.get("src", "") for tag in ("script", "img", "iframe") for a in page.all(tag)]
    loaded += [
        a.get("href", "") for a in page.all("link") if loading & set(a.get("rel", "").split())
    ]
    assert [url for url in loaded if re.match(r"(https?:)?//", url)] == []


def test_style_sheets_load_nothing_from_another_host():
    foreign = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]https?:")
    sheets = list(SITE.rglob("*.css"))
    assert sheets and [s.name for s in sheets if foreign.search(s.read_text("utf-8"))] == []


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_figures_keep_their_alt_text(pages, path):
    outputs = [
        output
        for cell in notebooks.read(path).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    shown = [
        picture
        for picture in pages[f"book/{path.stem}.html"].all("img")
        if "figure-output" in picture.get("class", "")
    ]
    expected = [output.metadata["image/png"]["alt"] for output in outputs]
    assert [picture["alt"] for picture in shown] == [" ".join(e.split()) for e in expected] or [
        picture["alt"] for picture in shown
    ] == expected
    assert expected, "a chapter has at least one figure"


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_links_to_colab_and_to_its_notebook(pages, name):
    url, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    source = name.removesuffix(".html") + ".ipynb"
    colab = url.replace("https://github.com", "https://colab.research.google.com/github")
    links = [a.get("href") for a in pages[name].all("a")]
    assert f"{colab}/blob/{branch}/{source}" in links
    assert (SITE / "_sources" / source).read_bytes() == (ROOT / source).read_bytes()


@pytest.mark.parametrize("name", CHAPTERS)
def test_prose_came_through(pages, name):
    body = pages[name].text.split('<article class="bd-article"')[1].split("</article>")[0]
    for pre in re.findall(r"<pre.*?</pre>|<script.*?</script>|<code.*?</code>", body, re.S):
        body = body.replace(pre, "")
    text = html.unescape(re.sub(r"<[^>]+>", "", body))
    text = re.sub(r"\\\(.*?\\\)|\\\[.*?\\\]", "", text, flags=re.S)  # formulas
    assert "**" not in text and "](" not in text and "$" not in text, "raw Markdown on the page"
    assert body.count("<details") == body.count("</details>")


def test_runs_page_shows_every_record_as_it_stands_in_its_file(pages):
    text = html.unescape(re.sub(r"<[^>]+>", "", pages["book/runs.html"].text))
    words = " ".join(text.split())
    assert records.available() and "<!-- " not in text
    for name in records.available():
        record = records.load(name)
        assert record.provenance in words
        for measure in record.runs[0].measures:
            assert measure in words
        if {"softmax", "diff"} <= set(record.variants):
            first = record.paired(next(iter(record.runs[0].measures)))
            assert first.text().split(", n =")[0] in words


def test_api_page_has_every_documented_name(pages):
    """Every public function and class of a module that has a docstring, found by reading the
    source, stands on the page; so does what a package exports."""
    anchors = pages["book/api.html"].anchors
    missing = []
    for path in sorted((ROOT / "diffbook").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        exports = (path.parent / "__init__.py").read_text(encoding="utf-8")
        if "cli" in module or path.name.startswith("_") or "__all__" in exports:
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node) and f"{module}.{node.name}" not in anchors:
                    missing.append(f"{module}.{node.name}")
    assert missing == []
    for package in ("records", "experiments", "show"):
        exported = importlib.import_module(f"diffbook.{package}")
        for name in exported.__all__:
            thing = getattr(exported, name)
            if callable(thing) and thing.__doc__:
                assert f"diffbook.{package}.{name}" in anchors


def test_search_index_knows_the_words_of_the_book():
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    assert all(word in index for word in ("amplifi", "softmax", "lambda"))


# ---------------------------------------------------------------- with a browser



OVERFLOW = """
[document.documentElement.scrollWidth, ...[...document.querySelectorAll('.bd-article *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
  .slice(0, 3).map(e => e.outerHTML.slice(0, 90))];
function scrolls(e) {
  for (let p = e; p && p !== document.body; p = p.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return true;
  return e.closest('mjx-assistive-mml, .visually-hidden, .sd-d-none') !== null;
}
"""


FAULTY = """
[...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent.slice(0, 80))
"""
CUT_OFF = """
[...document.querySelectorAll('.bd-article div.math')].filter(box =>
  box.querySelector('mjx-math').getBoundingClientRect().left < box.getBoundingClientRect().left - 1
).map(box => box.textContent.slice(0, 60))
"""


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(tab, address, name):
    for width, dark in ((browser.DESKTOP, False), (browser.PHONE, True)):
        visit = tab.visit(address + name, width=width, dark=dark)
        assert visit.errors == []
        foreign = [u for u in visit.requests if not u.startswith((address, "data:", "blob:"))]
        assert foreign == []
        theme = tab.evaluate("document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
    assert tab.evaluate(OVERFLOW) == [browser.PHONE], "the page scrolls sideways on a phone"
    assert tab.evaluate(FAULTY) == [], "a formula that MathJax cannot set"
    assert tab.evaluate(CUT_OFF) == [], "a formula begins outside of its box"


@needs_browser
def test_formulas_are_set_and_figures_turn_dark(tab, address):
    name = CHAPTERS[0]
    tab.visit(address + name, dark=True)
    assert tab.evaluate("document.querySelectorAll('.bd-article mjx-container').length") > 3
    style = "getComputedStyle(document.querySelector('img.figure-output'))"
    assert "invert" in tab.evaluate(f"{style}.filter")
    assert tab.evaluate(f"{style}.backgroundColor") == "rgba(0, 0, 0, 0)"
    tab.visit(address + name)
    assert tab.evaluate(f"{style}.filter") == "none"


@needs_browser
def test_text_keeps_its_contrast(tab, address):
    """Body text, links, muted text and code reach 4.5:1 (WCAG AA) in both themes."""
    script = """
    (() => {
      const rgb = s => s.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= 0.04045
        ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b; };
      const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e)
        .backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255,255,255)'; };
      const parts = '.bd-article p, .bd-article p a, .bd-article li, .bd-article h1, summary,'
        + ' .bd-article td, figcaption p, .bd-links a, .caption-text, .bd-article pre span,'
        + ' .chapter-actions a, .page-toc a, .bd-footer-content p';
      return [...document.querySelectorAll(parts)].filter(e => e.offsetParent).map(e => {
        const a = light(getComputedStyle(e).color), b = light(behind(e));
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
      }).filter(([ratio]) => ratio < 4.5).slice(0, 5);
    })()
    """
    for name in (CHAPTERS[0], "index.html", "book/api.html"):
        for dark in (False, True):
            tab.visit(address + name, dark=dark)
            assert tab.evaluate(script) == [], (name, "dark" if dark else "light")


@needs_browser
def test_search_finds_a_chapter(tab, address):
    tab.visit(f"{address}search.html?q=amplifier")
    found = tab.evaluate(
        "(async () => { for (let i = 0; i < 50; i++) {"
        " const a = [...document.querySelectorAll('#search-results a')].map(a => a.href);"
        " if (a.length) return a.join(' '); await new Promise(r => setTimeout(r, 100)); }"
        " return ''; })()"
    )
    assert "differential_amplifier" in found


@needs_browser
def test_exercises_open_with_the_keyboard(tab, address):
    tab.visit(address + CHAPTERS[0])
    closed = "document.querySelectorAll('.bd-article details:not(.hide)[open]').length"
    assert tab.evaluate(closed) == 0
    tab.evaluate("document.querySelector('.bd-article details:not(.hide) > summary').focus()")
    tab.press("Enter")
    assert tab.evaluate(closed) == 1
