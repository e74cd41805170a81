"""The slides of the four lectures: what their sources hold, what the decks show, and how they
behave in a real browser with all other hosts blocked.

The decks are built here, out of today's sources and chapters; the last part compares them with
those of the built site.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from figures import SITE, Figure, needs_browser

from diffbook.show import reactive

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "_extra" / "_static" / "vendor" / "reveal"


def _load():
    spec = importlib.util.spec_from_file_location("slides", ROOT / "_ext" / "slides.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["slides"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


slides = _load()
SOURCES = sorted(slides.SOURCES.glob("*.md"))
NAMES = [path.stem for path in SOURCES]
every_deck = pytest.mark.parametrize("name", NAMES)


class Parsed(HTMLParser):
    """Tags of a page with their attributes, its visible text, and tags that are never closed."""

    VOID = frozenset("meta link img input br hr".split())

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.words = ""
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site with the decks and all that they load, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "_static", folder / "_static")
    shutil.copytree(ROOT / "_extra" / "_static", folder / "_static", dirs_exist_ok=True)
    slides.write(folder)
    return folder


@pytest.fixture(scope="module")
def decks():
    return {path.stem: slides.read(path) for path in SOURCES}


@pytest.fixture(scope="module")
def pages(site):
    texts = {name: (site / "slides" / f"{name}.html").read_text("utf-8") for name in NAMES}
    return {name: Parsed(text) for name, text in texts.items()}


def plain(text: str) -> str:
    return re.sub(r"<[^>]+>", "", text).strip()


# ---------------------------------------------------------------- what the sources hold


def test_there_are_four_lectures():
    assert NAMES == ["1", "2", "3", "4"]


@every_deck
def test_a_deck_fills_an_hour(decks, name):
    deck = decks[name]
    assert 15 <= len(deck.slides) <= 22
    assert 45 <= deck.minutes <= 60
    assert all(0.5 <= slide.minutes <= 6 for slide in deck.slides)


@every_deck
def test_titles_and_notes(decks, name):
    deck = decks[name]
    titles = [plain(slide.title) for slide in deck.slides]
    assert all(titles) and len(set(titles)) == len(titles)
    assert titles[0] == deck.title
    for slide in deck.slides:
        notes = plain(slide.notes)
        # enough to talk from, and the misconception to expect
        assert len(notes) > 80 and "Expect:" in notes, slide.title
        # the speaker's view sets no formulas
        assert not re.search(r"\\\(|\\\[|\$", notes), slide.title


@every_deck
def test_the_listeners_are_asked_before_they_are_told(decks, name):
    """At least one slide in three has a question, and some answers wait for the next key."""
    bodies = [slide.body for slide in decks[name].slides]
    assert sum("<blockquote>" in body for body in bodies) >= len(bodies) / 3
    waiting = [body for body in bodies if 'class="fragment"' in body]
    assert len(waiting) >= 5
    for body in waiting:
        assert "<blockquote>" in body.split('class="fragment"')[0]


@every_deck
def test_the_last_slide_says_what_does_not_follow(decks, name):
    last = decks[name].slides[-1]
    assert last.title == "What we cannot conclude"
    assert all(f"<strong>{task}</strong>" in last.body or f"<strong>Assignment {task}</strong>"
               in last.body for task in decks[name].assignment.split(", "))


def test_the_lectures_cover_the_chapters(decks):
    """Each chapter belongs to one lecture, which shows a figure of it."""
    chapters = [chapter for deck in decks.values() for chapter in deck.chapters]
    assert chapters == sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
    for path in SOURCES:
        shown = set(re.findall(r"^\{\{ figure: (\w+),", path.read_text("utf-8"), re.M))
        # speed and the second half of chapter 10's neighbors are told on slides without a picture
        assert shown - {"03_differential_attention"} <= set(decks[path.stem].chapters)
        assert set(decks[path.stem].chapters) - shown <= {"06_speed"}


# ---------------------------------------------------------------- what the decks show


@every_deck
def test_every_figure_is_the_chapters_own(pages, decks, name, site):
    source = slides.SOURCES.joinpath(f"{name}.md").read_text("utf-8")
    asked = re.findall(r"^\{\{ figure: (\w+), ([^;]+);", source, re.M)
    page = pages[name]
    assert len(page.all("figure")) == len(asked) >= 10
    text = (site / "slides" / f"{name}.html").read_text("utf-8")
    for chapter, words in asked:
        output = slides.find_figure(chapter, words.strip())
        live = "".join(output["data"].get("text/html", ""))
        figure = re.search(r'data-diffbook="(\w+)" data-figure="([\w-]+)"', live)
        if figure:
            assert text.count(f'data-diffbook="{figure[1]}"') == 1
            assert reactive.bundle(figure[2]) in text  # today's script, also in an old output
        elif "data-diffbook-table" not in live:
            alt = " ".join(output["metadata"]["image/png"]["alt"].split())
            assert [picture["alt"] for picture in page.all("img")].count(alt) == 1
    for picture in page.all("img"):
        if not picture["src"].startswith("data:"):
            assert (site / "slides" / picture["src"]).stat().st_size > 1000
        assert picture["alt"].strip()


@every_deck
def test_every_figure_says_where_it_comes_from(pages, decks, name):
    for slide in decks[name].slides:
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", slide.body, re.S)
        assert len(captions) == slide.body.count("<figure>")
        for caption in captions:
            assert re.match(r"<b>(Paper|Recorded|Live)( and (paper|recorded|live))?</b>", caption)
            link = re.search(r'href="\.\./book/(\w+)\.html"', caption)
            assert (ROOT / "book" / f"{link[1]}.ipynb").exists()


@every_deck
def test_the_page_is_whole(pages, site, name):
    page = pages[name]
    assert page.wrong == []
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == len(page.all("section")) - 1 == len(page.all("aside")) - 1
    levels = [tag for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert set(levels[1:]) == {"h2"}
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    for attributes in page.all("a"):
        target = attributes["href"]
        if target.startswith("../book/"):
            stem = Path(target).stem
            assert any((ROOT / "book" / f"{stem}{kind}").exists() for kind in (".ipynb", ".md"))


@every_deck
def test_nothing_comes_from_another_host(pages, site, name):
    page = pages[name]
    loaded = [a.get("src", "") for a in page.all("script", "img", "iframe", "audio", "source")]
    loaded += [a.get("href", "") for a in page.all("link")]
    assert [url for url in loaded if re.match(r"\w+:(?!image/png)|//", url)] == []
    for url in loaded:
        if url and not url.startswith("data:"):
            assert (site / "slides" / url).resolve().exists(), url


@every_deck
def test_nothing_is_left_of_the_markup(pages, site, name):
    words = pages[name].words
    assert words.count(r"\(") == words.count(r"\)") and words.count(r"\[") == words.count(r"\]")
    formulas = re.findall(r"\\\((.*?)\\\)|\\\[(.*?)\\\]", words, re.S)
    for formula in map("".join, formulas):
        bare = re.sub(r"\\[{}]", "", formula)
        assert bare.count("{") == bare.count("}"), formula
        assert formula.count(r"\left") == formula.count(r"\right"), formula
    text = re.sub(r"\\\(.*?\\\)|\\\[.*?\\\]", "", words, flags=re.S)
    assert not re.search(r"\$|\*\*|\]\(|\{\{|\}\}|\{split\}|Note:|^\. \. \.", text, re.M)


def test_the_foreign_files_are_named():
    readme, script = ((VENDOR / name).read_text("utf-8") for name in ("README", "reveal.js"))
    major = re.search(r"reveal\.js (\d+\.\d+)\.\d+", script)[1]
    assert f"reveal.js {major}." in readme and "MIT" in readme
    assert "Permission is hereby granted" in (VENDOR / "LICENSE").read_text("utf-8")
    assert "reveal.js (MIT)" in (ROOT / "LICENSE-text").read_text("utf-8")
    assert sum(path.stat().st_size for path in VENDOR.iterdir()) < 250_000
    styles = [*VENDOR.glob("*.css"), ROOT / "_extra" / "_static" / "slides" / "slides.css"]
    for path in styles:
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import", path.read_text("utf-8"))


# ---------------------------------------------------------------- what a deck refuses

HEAD = """---
title: T
chapters: [03_differential_attention]
assignment: A2
values:
  two: 1 + 1
---
# T

Note: 1 min. Hello.
"""


@pytest.mark.parametrize(("slide", "says"), [
    ("## A\n\n{{ figure: 03_differential_attention, no such words; live: x }}", "0 figures"),
    ("## A\n\n{{ figure: 03_differential_attention, the; live: x }}", r"\d+ figures"),
    ("## A\n\n{{ figure: 03_nothing, difference; live: x }}", "no chapter '03_nothing'"),
    ("## A\n\n{{ figure: 03_differential_attention, difference; by hand }}", "where the figure"),
    ("## A\n\n{{ figure: 03_differential_attention, difference }}", "not understood"),
    ("## A\n\nThere are {{ three }}.", "no value 'three'"),
    ("## A\n\nThere are {{ two + 1 }}.", "not understood"),
    ("Text without a title", "begins with its title"),
    ("# A second first title\n", "begins with its title"),
])
def test_a_deck_that_cannot_be_shown_is_an_error(tmp_path, slide, says):
    path = tmp_path / "9.md"
    path.write_text(f"{HEAD}---\n{slide}\n\nNote: 1 min. Hello.\n", encoding="utf-8")
    with pytest.raises(slides.SlideError, match=says) as caught:
        slides.read(path)
    assert str(caught.value).startswith("9.md: ")


def test_a_slide_without_minutes_and_a_value_that_fails_are_errors(tmp_path):
    path = tmp_path / "9.md"
    path.write_text(f"{HEAD}---\n## A\n\nText.\n", encoding="utf-8")
    with pytest.raises(slides.SlideError, match=r"9\.md: slide 'A': its notes begin"):
        slides.read(path)
    path.write_text(HEAD.replace("1 + 1", "records.load('none')"), encoding="utf-8")
    with pytest.raises(slides.SlideError, match=r"9\.md: value two"):
        slides.read(path)


def test_markup_becomes_what_it_says(tmp_path):
    path = tmp_path / "9.md"
    path.write_text(HEAD + r"""---
## Twice {split}

{{ two }} and $a<b$

$$c\tag{1}$$

. . .

later

{{ figure: 03_differential_attention, Three lines over; paper and live: x }}

Note: 2.5 min. Hello.
""", encoding="utf-8")
    deck = slides.read(path)
    body = deck.slides[1].body
    assert deck.minutes == 4 and deck.slides[1].title == "Twice" and len(deck.pictures) == 1
    assert r'<p>2 and <span class="math">\(a&lt;b\)</span></p>' in body
    assert r'<div class="math">\[c\tag{1}\]</div>' in body
    # text on the left, figure on the right, and both come with the same key
    left, right = body.split("</div><div><div")
    assert left.count('class="fragment" data-fragment-index="1"') == 1 and "later" in left
    assert right.startswith(' class="fragment" data-fragment-index="1"') and "<figure>" in right
    assert "<b>Paper and live</b>: x · " in right


# ---------------------------------------------------------------- in a browser



@pytest.fixture(scope="module")
def address(site):
    with browser.served(site) as root:
        yield root


def now(tab) -> list[int]:
    """Slide and fragment that one sees."""
    return tab.evaluate("(({ h, f }) => [h, f ?? -1])(Reveal.getIndices())")


def go_to(tab, figure: str) -> Figure:
    """Open the slide with a figure that reacts."""
    tab.evaluate(f"""(async () => {{
      const slide = document.querySelector('[data-figure="{figure}"]').closest('section');
      Reveal.slide(Reveal.getSlides().indexOf(slide), 0, 99);
      await new Promise(r => setTimeout(r, 150)); }})()""")
    return Figure(tab, figure)


# Each slide in turn with all its fragments: what leaves its box, in the slide's own pixels.
OVERFLOW = """
(async () => {
  const out = [];
  for (const [number, slide] of Reveal.getSlides().entries()) {
    Reveal.slide(number, 0, 99);
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const top = slide.getBoundingClientRect().top;
    const scale = Reveal.getScale();
    const parts = [...slide.querySelectorAll('h1, h2, p, li, tr, figure, div.math, pre')]
      .filter(part => !part.closest('aside, .reacts'));
    const low = Math.max(...parts.map(p => p.getBoundingClientRect().bottom - top)) / scale;
    const right = Math.max(...parts.map(p => p.getBoundingClientRect().right)) / scale;
    const cut = [...slide.querySelectorAll('.table, div.math')]
      .filter(box => box.scrollWidth > box.clientWidth + 1);
    const small = [...slide.querySelectorAll('figure > img')]
      .filter(picture => picture.getBoundingClientRect().height / scale < 150);
    if (slide.scrollHeight > 720 || slide.scrollWidth > 1280 || low > 690 || right > 1280
        || cut.length || small.length)
      out.push([number + 1, slide.scrollHeight, slide.scrollWidth, low, right, cut.length,
        small.length]);
  }
  return out;
})()
"""


@needs_browser
@every_deck
def test_a_deck_opens_and_no_slide_overflows(tab, address, name):
    visit = tab.visit(f"{address}slides/{name}.html")
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith((address, "data:"))] == []
    assert tab.evaluate("Reveal.isReady() && document.documentElement.className").startswith("deck")
    assert tab.evaluate("document.querySelectorAll('.math').length") == tab.evaluate(
        "document.querySelectorAll('.math > mjx-container').length") > 5
    assert tab.evaluate("document.querySelectorAll('mjx-merror').length") == 0
    assert tab.evaluate(OVERFLOW) == []
    ready = "[...document.querySelectorAll('[data-diffbook]')].map(e => e.dataset.ready)"
    assert set(tab.evaluate(ready)) == {"yes"}
    assert tab.errors() == []


@needs_browser
@every_deck
def test_a_figures_first_slider_and_sentence_are_seen(tab, address, name, pages):
    """A figure with many controls scrolls in its box: what it says and moves first is in sight."""
    figures = [a["data-figure"] for a in pages[name].all("div") if "data-figure" in a]
    tab.visit(f"{address}slides/{name}.html")
    for figure in figures:
        seen = go_to(tab, figure).ask("""
            const low = host.closest('.reacts').getBoundingClientRect().bottom + 1;
            return ['input[type=range]', '.say'].map(css =>
              one(css).getBoundingClientRect().bottom < low);""")
        assert seen == [True, True], figure
    assert figures


@needs_browser
def test_keys_turn_slides_and_show_what_waits(tab, address):
    tab.visit(f"{address}slides/1.html")
    assert now(tab) == [0, -1]
    tab.press("ArrowRight")
    assert now(tab) == [1, -1]
    hidden = "getComputedStyle(document.querySelector('section.present .fragment')).visibility"
    assert tab.evaluate(hidden) == "hidden"
    tab.press(" ")
    assert now(tab) == [1, 0] and tab.evaluate(hidden) == "visible"
    tab.press(" ")
    assert now(tab) == [2, -1]
    tab.press("ArrowLeft")
    assert now(tab) == [1, 0]
    assert tab.errors() == []


def key_down(figure: Figure, css: str, key: str, code: int) -> None:
    """A key that the helpers of the browser do not have, with the focus on a control."""
    figure.ask(f"""one({json.dumps(css)}).focus(); one({json.dumps(css)}).dispatchEvent(
      new KeyboardEvent('keydown', {{ key: '{key}', code: '{key}', keyCode: {code},
        bubbles: true, composed: true, cancelable: true }}));""")


@needs_browser
@pytest.mark.parametrize(("width", "scale"), [(1280, 1), (1600, 1.25), (960, 0.75)])
def test_a_figure_answers_to_pointer_and_keys(tab, address, width, scale):
    """Also where the slide is enlarged: the pointer is where one sees it."""
    tab.visit(f"{address}slides/1.html", width=width)
    figure = go_to(tab, "attention_noise")
    assert tab.evaluate("Reveal.getScale()") == pytest.approx(scale)
    slide = now(tab)
    x, y = figure.ask("""
        const tick = [...root.querySelectorAll('svg text')].find(t => t.textContent === '1,000');
        const [at, all] = [tick, one('svg')].map(part => part.getBoundingClientRect());
        return [at.x + at.width / 2, all.y + all.height / 2];""")
    tab.drag((x + 40, y), (x, y))
    tokens = int(re.search(r"With ([\d,]+) irrelevant", figure.sentence)[1].replace(",", ""))
    assert 900 < tokens < 1120  # steps of the slider
    # the keys of a slider stay with it …
    slider = "input[name=m]"
    figure.focus(slider)
    before = figure.sentence
    tab.press("ArrowRight")
    assert figure.sentence != before and now(tab) == slide
    before = figure.sentence
    tab.press("End")
    assert figure.sentence != before and now(tab) == slide
    # … but for those of a presenter's remote; Escape gives the arrows back to the slides
    key_down(figure, slider, "Escape", 27)
    assert figure.ask("return root.activeElement === null") and not tab.evaluate(
        "Reveal.isOverview()")
    tab.press("ArrowRight")
    assert now(tab)[0] == slide[0] + 1
    go_to(tab, "attention_noise")
    key_down(figure, slider, "PageDown", 34)
    assert now(tab)[0] == slide[0] + 1 and tab.errors() == []


@needs_browser
def test_a_drawing_that_is_zoomed_is_dragged_where_it_is_seen(tab, address):
    """The landscape of λ, on a slide that is enlarged and with a zoom of its own."""
    tab.visit(f"{address}slides/2.html", width=1600)
    figure = go_to(tab, "lambda")
    x, y = figure.ask("""
        const ticks = [...root.querySelectorAll('svg')][0].querySelectorAll('text');
        const zeros = [...ticks].filter(t => t.textContent === '0');
        const boxes = zeros.map(t => t.getBoundingClientRect());
        const [left, low] = [Math.min(...boxes.map(b => b.x)), Math.max(...boxes.map(b => b.y))];
        const row = boxes.find(b => b.x === left), column = boxes.find(b => b.y === low);
        return [column.x + column.width / 2, row.y + row.height / 2];""")
    tab.drag((x + 50, y - 30), (x, y))
    values = {c["name"]: float(c["value"]) for c in figure.controls() if c["name"] in "ab"}
    assert values["a"] == pytest.approx(0, abs=0.05) and values["b"] == pytest.approx(0, abs=0.05)
    assert tab.errors() == []


@needs_browser
def test_typing_into_a_figure_turns_no_slide(tab, address):
    tab.visit(f"{address}slides/4.html")
    tab.evaluate("""(() => { const box = document.querySelector('.dbt');
      Reveal.slide(Reveal.getSlides().indexOf(box.closest('section')));
      box.querySelector('input').focus(); })()""")
    before = now(tab)
    for sign in "fob s.needle":
        tab.press(sign)
    shown = tab.evaluate("document.querySelector('.dbt input').value")
    assert (shown, now(tab)) == ("fob s.needle", before)
    assert not tab.evaluate("Reveal.isOverview() || Reveal.isPaused()")


@needs_browser
def test_tab_reaches_the_controls_of_this_slide_only(tab, address):
    tab.visit(f"{address}slides/1.html")
    go_to(tab, "attention_noise")
    reached = []
    for _ in range(12):
        tab.press("Tab")
        reached.append(tab.evaluate("""(() => { let e = document.activeElement;
          while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
          const slide = e.closest('section') ?? e.getRootNode().host?.closest('section');
          return [e.name ?? '', !slide || slide.classList.contains('present')]; })()"""))
    assert {"n", "m", "s"} & {name for name, _ in reached}
    assert all(here for _, here in reached)


@needs_browser
@every_deck
def test_a_phone_gets_one_page(tab, address, name):
    visit = tab.visit(f"{address}slides/{name}.html", width=browser.PHONE, dark=True)
    assert visit.errors == []
    look = tab.evaluate("""[document.documentElement.scrollWidth,
      document.documentElement.className, document.documentElement.dataset.theme,
      [...document.querySelectorAll('section, figure')].every(e => e.offsetHeight > 50),
      [...document.querySelectorAll('.notes')].some(e => e.offsetHeight)]""")
    assert look == [browser.PHONE, "plain", "dark", True, False]
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 18, 18)"


@needs_browser
def test_without_javascript_a_deck_is_a_page(tab, address, decks):
    tab.visit(f"{address}slides/2.html", scripts=False)
    seen = tab.accessible()
    titles = [node["name"] for node in seen if node["role"] == "heading"]
    assert len(titles) == len(decks["2"].slides)
    pictures = [node["name"] for node in seen if node["role"] in ("image", "img")]
    assert len([name for name in pictures if name]) >= 12
    tab.visit(address)  # scripts are on again


@needs_browser
def test_as_one_page_the_notes_are_there(tab, address):
    tab.visit(f"{address}slides/1.html?plain")
    assert tab.evaluate("[...document.querySelectorAll('.notes')].every(e => e.offsetHeight > 20)")
    assert tab.evaluate("document.querySelector('.plain-link').textContent") == "As slides"


@needs_browser
def test_a_deck_opens_from_a_folder_and_can_be_dark(tab, site):
    visit = tab.visit((site / "slides" / "2.html").as_uri(), dark=True)
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.evaluate("document.querySelectorAll('mjx-container').length") > 20
    look = """[document.documentElement.dataset.theme,
      getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('figure > img')).filter.includes('invert'),
      document.querySelector('[data-figure]').shadowRoot.querySelector('.figure').className]"""
    assert tab.evaluate(look) == ["dark", "rgb(18, 18, 18)", True, "figure dark"]
    tab.evaluate("document.querySelector('[data-theme-button]').click()")
    assert tab.evaluate(look) == ["light", "rgb(255, 255, 255)", False, "figure"]
    tab.evaluate("localStorage.clear()")
    assert tab.evaluate("Boolean(Reveal.getPlugin('notes'))")


@needs_browser
def test_for_print_each_slide_is_one_sheet(tab, address, decks):
    tab.visit(f"{address}slides/3.html?print-pdf")
    tab.evaluate("""new Promise(ready => { const look = () => document.querySelector('.pdf-page')
      ? ready(1) : setTimeout(look, 50); look(); })""")
    count = len(decks["3"].slides)
    sheets = "[...document.querySelectorAll('.pdf-page')].map(e => Math.round(e.offsetHeight))"
    heights = tab.evaluate(sheets)
    assert len(heights) == count and set(heights) <= {719, 720}
    assert tab.evaluate("document.documentElement.scrollHeight") <= 720 * count
    shown = "[...document.querySelectorAll('.fragment')].every(e => e.matches('.visible'))"
    assert tab.evaluate(shown)


# ---------------------------------------------------------------- the built site


@pytest.mark.skipif(
    not (SITE / "slides").exists() and not os.environ.get("DIFFBOOK_REQUIRE_SITE"),
    reason="no slides in the built site; build it with: make book")
@every_deck
def test_the_built_site_has_this_deck(site, name):
    built = SITE / "slides" / f"{name}.html"
    assert built.read_bytes() == (site / "slides" / f"{name}.html").read_bytes()
    for url in re.findall(r'(?:src|href)="(\.\./_static/[^"]+|figures/[^"]+)"',
                          built.read_text("utf-8")):
        assert (built.parent / url).resolve().exists(), url
