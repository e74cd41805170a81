"""Figures that react, used in a real browser on the built site: pointer, keyboard, screen reader,
themes, a phone, no JavaScript, no server, a sandbox. No other host can be reached meanwhile.

The first part holds for every figure of every page; it finds them by itself.
"""

from __future__ import annotations

import base64
import gzip
import html
import os
import re

import notebooks
import pytest
from figures import SITE, Figure, needs_browser, on_pages

from diffbook.show import reactive

if not (SITE / "index.html").exists() and not os.environ.get("DIFFBOOK_REQUIRE_SITE"):
    pytest.skip("no site in _build/html; build it with: make book", allow_module_level=True)

EVERY = on_pages()
pytestmark = needs_browser
PHONE = 360
PATIENCE = 250  # ms for an answer where other programs run too; alone it takes under 50


def name_of(case):
    return f"{case[1]}-{case[0].rpartition('/')[2].removesuffix('.html')}"


every_figure = pytest.mark.parametrize("case", EVERY, ids=map(name_of, EVERY))


def test_there_are_figures():
    names = {name for _, name in EVERY}
    assert {"attention_noise", "amplifier", "difference", "lambda"} <= names
    assert ("index.html", "difference") in EVERY


# ---------------------------------------------------------------- every figure


def test_labels_have_the_color_they_were_given(tab, address):
    seen = set()
    for page, name in EVERY:
        tab.visit(address + page)
        given = Figure(tab, name).ask("""
            await frames(2);
            const color = (text) => {
              const probe = document.createElement('i');
              probe.style.color = text;
              document.body.append(probe);
              const found = getComputedStyle(probe).color;
              probe.remove();
              return found;
            };
            return [...root.querySelectorAll('svg text[fill]')].map((text) =>
              [color(text.getAttribute('fill')), getComputedStyle(text).fill]);""")
        assert [pair for pair in given if pair[0] != pair[1]] == [], name
        seen |= {pair[0] for pair in given}
    assert len(seen) >= 2, "no drawing has a colored label: this test would see nothing"


@every_figure
def test_works_with_keyboard_and_names_its_controls(tab, address, case, capsys):
    page, name = case
    visit = tab.visit(address + page)
    figure = Figure(tab, name)
    assert visit.errors == [] and figure.state == "yes"
    assert figure.sentence.strip()
    spoken = figure.ask("return one('[role=status]').textContent")
    assert spoken == figure.sentence, "what is seen and what is spoken say the same"
    controls = figure.controls()
    assert controls and all(control["label"] for control in controls)
    drawings = figure.ask("return [...root.querySelectorAll('svg.drawing, canvas')]"
                          ".filter(one => !one.hidden && (one.localName === 'canvas'"
                          " || one.childElementCount))"  # what is drawn later has no name yet
                          ".map(one => [one.getAttribute('role'), one.getAttribute('aria-label')])")
    assert all(role == "img" and (label or "").strip() for role, label in drawings)
    # Every slider: an arrow key moves it, what stands beside it and what is read out agree.
    for control in [c for c in controls if c["kind"] == "range" and not c["disabled"]]:
        low = control["value"] == control["min"]
        figure.focus(f'[name="{control["name"]}"]')
        for key in ("ArrowRight",) if low else ("ArrowLeft",):
            tab.press(key)
        after = next(c for c in figure.controls() if c["name"] == control["name"])
        assert after["value"] != control["value"], control
        assert after["text"] == after["shown"] != ""
    # Every control's answer, from the event to the changed drawing.
    took = figure.ask("""
        const took = {};
        const controls = 'input[type=range], input[type=checkbox], select';
        for (const field of root.querySelectorAll(controls)) {
          if (field.disabled) continue;
          if (field.options) field.selectedIndex = (field.selectedIndex + 1) % field.options.length;
          else if (field.type === 'checkbox') field.checked = !field.checked;
          else field.value = field.value === field.max ? field.min : field.max;
          const start = performance.now();
          for (const kind of ['input', 'change'])
            field.dispatchEvent(new Event(kind, { bubbles: true }));
          await frames(1);
          took[field.name || 'unnamed'] = performance.now() - start;
        }
        return took;""")
    slowest = max(took, key=took.get)
    with capsys.disabled():
        print(f"\n{name}: {len(took)} controls answer, the slowest ({slowest}) after "
              f"{took[slowest]:.0f} ms", end=" ")
    assert took[slowest] < PATIENCE
    assert tab.errors() == []
    assert [u for u in tab.requests() if not u.startswith((address, "data:", "blob:"))] == []


@every_figure
def test_follows_the_theme_and_fits_a_phone(tab, address, case):
    page, name = case
    tab.visit(address + page, width=PHONE, dark=True)
    figure = Figure(tab, name)
    assert figure.ask("return one('.figure').classList.contains('dark')")
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE
    wide = figure.ask(
        "return [...root.querySelectorAll('.figure *')].filter((part) => "
        f"part.getBoundingClientRect().right > {PHONE + 1} && !part.closest('.unseen, .scroll'))"
        ".slice(0, 3).map((part) => part.outerHTML.slice(0, 80))")
    assert wide == [], "it reaches beyond a phone's edge"
    for control in figure.controls():
        if control["height"]:
            assert min(control["width"], control["height"]) >= 24, control
    ink, paper = figure.ask(
        "const style = getComputedStyle(one('.figure'));"
        "return [style.color, style.backgroundColor]")
    assert contrast(ink, paper) > 7
    # The reader switches the theme by hand: the figure follows at once.
    tab.evaluate("document.documentElement.dataset.theme = 'light'")
    assert not figure.ask("await frames(2); return one('.figure').classList.contains('dark')")


@every_figure
def test_tab_walks_through_every_control_and_out_again(tab, address, case):
    page, name = case
    tab.visit(address + page)
    figure = Figure(tab, name)
    reachable = figure.ask("""
        const all = [...root.querySelectorAll('input, select, button, [tabindex="0"]')]
          .filter((part) => !part.disabled && part.checkVisibility());
        all.forEach((part, n) => { part.dataset.place = n; });
        all[0].focus();
        return all.length;""")
    walked = []
    for _ in range(reachable):
        walked.append(figure.ask("""
            const now = root.activeElement;
            if (!now) return 'outside';
            return [Number(now.dataset.place), getComputedStyle(now).outlineStyle];"""))
        tab.press("Tab")
    assert walked == [[place, "solid"] for place in range(reachable)], "order, and a visible frame"
    assert figure.ask("return root.activeElement === null"), "the keyboard is caught in the figure"


@every_figure
def test_without_scripts_the_still_picture_stands(tab, address, case):
    page, name = case
    tab.visit(address + page, scripts=False)
    picture = tab.evaluate(
        f"(() => {{ const img = {Figure(tab, name).host}.querySelector('img');"
        " return [img.complete && img.naturalWidth, img.alt, img.clientWidth]; })()")
    tab.visit("about:blank")
    assert picture[0] > 300 and picture[1].strip() and picture[2] > 300


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG) of two colors `rgb(r, g, b)`."""

    def light(color: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


# ---------------------------------------------------------------- anywhere


def stored() -> dict[str, str]:
    """The HTML of every figure that a chapter stores, by figure."""
    return {
        name: text
        for path in notebooks.chapters()
        for cell in notebooks.read(path).cells
        for output in cell.get("outputs", [])
        if (text := output.get("data", {}).get("text/html", ""))
        for name in re.findall(r'data-figure="([\w-]+)"', text)
    }


STORED = stored()


@pytest.mark.parametrize("name", STORED)
def test_stands_alone_from_a_file_in_a_sandbox_and_under_a_strict_policy(tab, tmp_path, name):
    """As on Colab: alone in a frame that may not touch anything else."""
    policy = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
              "img-src data:")
    (tmp_path / "alone.html").write_text(
        "<!doctype html><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<body>{STORED[name]}", encoding="utf-8")
    visit = tab.visit((tmp_path / "alone.html").as_uri())
    figure = Figure(tab, name)
    assert visit.errors == [] and figure.state == "yes" and figure.sentence.strip()
    assert [u for u in visit.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    report = ("<script>setTimeout(() => { const host = document.querySelector('[data-figure]');"
              "parent.postMessage([host.dataset.ready,"
              " host.shadowRoot.querySelector('.say').textContent], '*'); }, 50)</script>")
    inner = html.escape(STORED[name] + report)
    (tmp_path / "frame.html").write_text(
        "<!doctype html><meta charset=utf-8><script>addEventListener('message',"
        " (event) => { window.heard = event.data; })</script>"
        f'<iframe sandbox="allow-scripts" width="700" height="900" srcdoc="{inner}"></iframe>',
        encoding="utf-8")
    visit = tab.visit((tmp_path / "frame.html").as_uri())
    heard = tab.evaluate(
        "(async () => { for (let i = 0; i < 100 && !window.heard; i += 1)"
        " await new Promise((go) => setTimeout(go, 50)); return window.heard; })()")
    assert visit.errors == [] and heard == ["yes", figure_text(heard)]


def figure_text(heard: list[str]) -> str:
    assert heard[1].strip()
    return heard[1]


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "AABJRU5ErkJggg==")


def open_fragments(tab, tmp_path, *fragments):
    (tmp_path / "page.html").write_text(
        "<!doctype html><meta charset=utf-8><body>" + "".join(fragments), encoding="utf-8")
    return tab.visit((tmp_path / "page.html").as_uri())


def test_the_same_figure_twice_on_a_page(tab, tmp_path):
    one = reactive.fragment("attention_noise", {"log2_n": 12, "m": 8, "s": 1}, PIXEL, "A curve.")
    other = reactive.fragment("attention_noise", {"log2_n": 6, "m": 8, "s": 1}, PIXEL, "A curve.")
    visit = open_fragments(tab, tmp_path, one, one, other)
    assert visit.errors == []
    said = tab.evaluate("[...document.querySelectorAll('[data-figure]')]"
                        ".map(host => host.shadowRoot.querySelector('.say').textContent)")
    assert said[0] == said[1] != said[2] and "4,096" in said[0] and "64 " in said[2]
    assert tab.evaluate("Object.keys(window).filter(key => /core|figure|render/i.test(key))") == []


def test_a_figure_that_throws_leaves_its_picture_and_says_so(tab, tmp_path):
    broken = reactive.fragment("difference", {"preset": "no such start"}, PIXEL, "Three maps.")
    visit = open_fragments(tab, tmp_path, broken)
    figure = Figure(tab, "difference")
    assert figure.state == "failed" and len(visit.errors) == 1
    assert "still picture" in figure.ask("return root.textContent")
    assert figure.ask("return host.querySelector('img').getBoundingClientRect().height") > 0


def test_a_reader_who_asks_for_less_motion_gets_steps(tab, tmp_path):
    """`player` of core.js, through a figure made for this test."""
    code = reactive.bundle("core") + """
      const host = document.querySelector('[data-figure]'); let count = 0;
      window.ui = $core.mount(host, {}, ({ ui }) => {
        ui.player({ step: () => { count += 1; ui.say(`step ${count}`); return count < 3; },
          pause: 20 });
        ui.draw(() => {});
      });"""
    fragment = f'<div data-figure="made"></div><script>(() => {{{code}}})();</script>'
    for still, label, expected in ((True, "Step", "step 1"), (False, "Play", "step 3")):
        (tmp_path / "page.html").write_text("<!doctype html>" + fragment, encoding="utf-8")
        tab.visit((tmp_path / "page.html").as_uri(), still=still)
        figure = Figure(tab, "made")
        assert figure.controls()[0]["label"] == label
        figure.click("button")
        figure.ask("await new Promise((go) => setTimeout(go, 300));")
        assert figure.sentence == expected
        assert figure.controls()[0]["label"] == label  # it stopped by itself


def test_as_a_widget_values_go_to_python_and_come_back(tab, tmp_path):
    """The anywidget form, with a stand-in for the kernel's model."""
    module = reactive.widget_module("attention_noise").replace("export default", "const widget =")
    (tmp_path / "page.html").write_text(
        "<!doctype html><meta charset=utf-8><div data-figure=w></div><script>(() => {"
        + module + """
        const state = { data: { log2_n: 12, m: 8, s: 1 }, values: { m: 5 } };
        const heard = {};
        window.model = { get: (key) => state[key], set: (key, value) => { state[key] = value; },
          on: (event, act) => { heard[event] = act; },
          save_changes: () => { window.saved = state; },
          change: (key, value) => { state[key] = value; heard[`change:${key}`](); } };
        widget.render({ model: window.model, el: document.querySelector('[data-figure]') });
        })();</script>""", encoding="utf-8")
    visit = tab.visit((tmp_path / "page.html").as_uri())
    figure = Figure(tab, "w")
    assert visit.errors == [] and "margin 5.00" in figure.sentence
    figure.set("m", 3)
    assert tab.evaluate("window.saved.values.m") == 3
    tab.evaluate("window.model.change('values', { m: 11 })")
    assert "margin 11.00" in figure.sentence
    tab.evaluate("window.model.change('data', { log2_n: 4, m: 8, s: 0 })")
    assert "16 irrelevant tokens" in figure.sentence and tab.errors() == []


# ---------------------------------------------------------------- figures 1 to 4


CHAPTERS = {name: page for page, name in EVERY if page != "index.html"}


def test_noise_curve_is_dragged(tab, address):
    tab.visit(address + CHAPTERS["attention_noise"])
    figure = Figure(tab, "attention_noise")
    assert "30.6 %" in figure.sentence and "4,096" in figure.sentence
    x, y = figure.middle("svg")
    tab.drag((x, y), (x - 150, y))
    said = figure.sentence
    assert "4,096" not in said
    value = next(c for c in figure.controls() if c["name"] == "log2_n")
    assert value["shown"] in said and float(value["value"]) < 12
    sliders = {(n["role"], n["name"]): n["value"] for n in tab.accessible()}
    assert ("slider", "margin m (nats)") in sliders


def test_amplifier_plays_only_when_asked(tab, address):
    tab.visit(address + CHAPTERS["amplifier"])
    tab.evaluate("""(() => { window.made = 0; const Real = AudioContext;
      window.AudioContext = class extends Real { constructor() { super(); window.made += 1; } };
    })()""")
    figure = Figure(tab, "amplifier")
    figure.set("cmrr", 80)
    assert tab.evaluate("window.made") == 0
    listen = "button[aria-pressed]"
    figure.click(listen)
    pressed = "return [...root.querySelectorAll('button[aria-pressed]')].map(b => b.ariaPressed)"
    assert figure.ask(pressed) == ["true", "false"]
    figure.click(f"{listen}:nth-of-type(2)")
    assert figure.ask(pressed) == ["false", "true"]  # one sound at a time
    figure.click(f"{listen}:nth-of-type(2)")
    assert figure.ask(pressed) == ["false", "false"] and tab.evaluate("window.made") == 1
    before = figure.sentence
    figure.set("common", 60)
    assert figure.sentence != before and tab.errors() == []


@pytest.mark.parametrize("page", [p for p, name in EVERY if name == "difference"])
def test_maps_are_edited_with_pointer_and_keys(tab, address, page):
    tab.visit(address + page)
    figure = Figure(tab, "difference")
    assert "0.51 (map 1 alone: 0.68)" in figure.sentence
    # λ beyond the threshold: the figure says so
    figure.set("lam", 1.5)
    assert "you are there, this is over-subtraction" in figure.sentence
    # the keyboard: from the answer's cell one to the left, score down twice
    figure.focus('[role=grid] [tabindex="0"]')
    tab.press("ArrowLeft")
    assert figure.sentence  # a frame later
    assert "Cairo (row 6) for Cairo" in figure.controls()[2]["label"]
    tab.press("+")
    tab.press("+")
    assert figure.sentence
    score = next(c for c in figure.controls() if c["name"] == "z1")
    assert float(score["value"]) == 0.5 and score["shown"] == "0.50"
    assert figure.ask("return one('[role=grid] .chosen').ariaLabel").startswith("Cairo to Cairo: ")
    # a pull sideways on the second map's answer
    figure.set("lam", 0.5)
    before = figure.sentence
    x, y = figure.middle(".columns > :nth-child(2) [role=row]:nth-child(7) .cell:nth-child(3)")
    tab.drag((x, y), (x - 60, y))
    assert figure.sentence != before
    assert next(c for c in figure.controls() if c["name"] == "z2")["value"] < "1.4"
    # another start: equal maps gain nothing
    figure.set("preset", "equal")
    assert re.search(r"Signal to noise: [+−]?0\.0 dB", figure.sentence)
    assert "least at λ = 1.00" in figure.sentence and tab.errors() == []
    cell = figure.ask("return one('[role=gridcell][tabindex]').getBoundingClientRect().width")
    assert cell >= 24


def test_lambda_is_dragged_over_its_landscape(tab, address):
    tab.visit(address + CHAPTERS["lambda"])
    figure = Figure(tab, "lambda")
    assert "= 0.445" in figure.sentence and "of 12 values below 0" in figure.sentence
    x, y = figure.middle("svg")
    tab.drag((x, y), (x - 60, y - 80))  # towards small a and large b
    said = figure.sentence
    assert "it adds map 2" in said
    figure.set("layer", 12)
    figure.set("record", "")
    assert "Learned" not in figure.sentence and "0.778" in figure.sentence
    assert tab.errors() == []


# ---------------------------------------------------------------- weights


def test_weights_of_the_pages(capsys):
    """What a page itself costs, beyond the theme's files: its HTML as a server sends it
    (compressed) with all that is inside, and the pictures that load at once."""
    heavy = []
    with capsys.disabled():
        print("\npage: KB sent at once (HTML + first pictures), later pictures, figures")
        for page in dict.fromkeys(["index.html", *sorted(
                path.relative_to(SITE).as_posix() for path in (SITE / "book").glob("*.html"))]):
            text = (SITE / page).read_text(encoding="utf-8")
            sent = len(gzip.compress(text.encode())) / 1000
            at_once = later = 0.0
            for tag in re.findall(r"<img[^>]*>", text):
                source = re.search(r'src="([^"]+)"', tag)[1]
                file = ((SITE / page).parent / source).resolve()
                if not source.startswith("data:") and "_images" in file.parts:
                    size = file.stat().st_size / 1000
                    lazy = 'loading="lazy"' in tag
                    at_once, later = at_once + size * (not lazy), later + size * lazy
            names = ", ".join(name for where, name in EVERY if where == page)
            print(f"{page:36s} {sent:4.0f} + {at_once:4.0f}  {later:5.0f}  {names}")
            # chapter 11 holds two trained models, chapter 2 recorded sound
            limit = {"11": 700}.get(page.removeprefix("book/")[:2], 300)
            heavy += [(page, sent + at_once)] if sent + at_once > limit else []
    assert heavy == []
