"""The figures that show records, used in a real browser as a reader would: keys, mouse, menus.

The pages are made of the outputs stored in the chapters, opened as files: no site, no server.
"""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from figures import needs_browser

from diffbook import records

BOOK = Path(__file__).parent.parent / "book"
CHAPTERS = {
    "training_replay": "08_training", "scaling_fit": "09_scaling", "needle_browser": "11_needles",
}
CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}

pytestmark = needs_browser


class Figure:
    """One figure, alone on a page."""

    def __init__(self, tab, page):
        self.tab, self.page = tab, page

    def open(self, **options):
        visit = self.tab.visit(self.page.as_uri(), **options)
        assert visit.errors == []
        assert all(address.startswith(("file:", "data:")) for address in visit.requests)
        self.rest()
        return self

    def rest(self, seconds=0.25):
        """Until what a control has caused is on the page."""
        self.tab.evaluate(f"new Promise(done => setTimeout(done, {1000 * seconds}))")

    def js(self, script):
        return self.tab.evaluate(
            "(() => { const root = document.querySelector('[data-figure]').shadowRoot;"
            f" return {script}; }})()")

    def say(self):
        return self.js("root.querySelector('.say').textContent")

    def set(self, name, value):
        """Choose in a menu (by its text), or move a slider."""
        self.js(
            f"(() => {{ const field = root.getElementById('{name}'); if (field.options)"
            f" field.selectedIndex = [...field.options].findIndex(o => o.text === {value!r});"
            f" else field.value = {value!r}; field.dispatchEvent(new Event('input')); }})()")
        self.rest()

    def click(self, label):
        self.js(f"[...root.querySelectorAll('button')].find(b => b.textContent === {label!r})"
                ".click()")
        self.rest()

    def key(self, key):
        for kind in ("keyDown", "keyUp"):
            self.tab._send("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                           windowsVirtualKeyCode=CODES[key])
        self.rest()

    def drag(self, start, end):
        """With the mouse, from one point of the window to another."""
        steps = (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end))
        for kind, (x, y) in steps:
            self.tab._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                           buttons=int(kind != "mouseReleased"), clickCount=1)
        self.rest()


@pytest.fixture
def figure(request, tab, tmp_path):
    notebook = nbformat.read(BOOK / f"{CHAPTERS[request.param]}.ipynb", 4)
    [output] = [
        found.data["text/html"] for cell in notebook.cells for found in cell.get("outputs", [])
        if f'data-figure="{request.param}"' in found.get("data", {}).get("text/html", "")
    ]
    assert len(output) < 300_000  # the page's budget, picture included
    page = tmp_path / "figure.html"
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>figure'
        '</title><meta name="viewport" content="width=device-width">'
        f'<body style="margin:8px;max-width:760px">{output}</body></html>')
    return Figure(tab, page)


def only(name):
    return pytest.mark.parametrize("figure", [name], indirect=True)


@pytest.mark.parametrize("figure", CHAPTERS, indirect=True)
def test_no_figure_is_wider_than_a_phone(figure):
    figure.open(width=360, dark=True)
    assert figure.tab.evaluate("document.documentElement.scrollWidth") == 360
    assert figure.js("getComputedStyle(root.querySelector('.figure')).display") == "block"
    small = figure.js("[...root.querySelectorAll('button, select')]"
                      ".filter(e => e.getBoundingClientRect().height < 24).length")
    assert small == 0  # large enough for a finger


@only("needle_browser")
def test_the_map_of_needles_is_walked_with_arrow_keys(figure):
    figure.open()
    record = records.load("multineedle-cpu")
    cells = figure.js("[...root.querySelectorAll('table')].map(t =>"
                      " [...t.querySelectorAll('td')].map(td => td.textContent))")
    assert len(cells) == 3
    for shown, kind in zip(cells, ("softmax", "diff"), strict=False):
        exact = np.stack([
            record.array(kind, f"by depth N=8, R=1, {t}x").mean(0) for t in range(1, 9)], axis=1)
        found = np.reshape([float(text) for text in shown], (6, 8))
        np.testing.assert_allclose(found[:5], exact, atol=0.0051)
        np.testing.assert_allclose(found[5], exact.mean(0), atol=0.0051)
    first = figure.say()
    assert "answer at 25 % depth, context of 8× the training length" in first
    delta = record.paired("depth 25 %, 8x")
    assert f"{delta.mean:.2f}".replace("-", "−") in first.splitlines()[-1]
    figure.js("root.querySelectorAll('table')[2].querySelector('td[tabindex=\"0\"]').focus()")
    figure.key("ArrowLeft")
    assert "answer at 25 % depth, context of 7×" in figure.say()
    figure.key("ArrowDown")
    figure.key("Home")
    assert "answer at 50 % depth, context of 1×" in figure.say()
    for _ in range(9):
        figure.key("ArrowDown")  # stops at the last row
    assert "mean over depths" in figure.say()
    assert figure.js("root.activeElement.closest('table') === root.querySelectorAll('table')[2]")
    # One stop for the tab key in each map, and each map has a name.
    stops = figure.js(
        "[...root.querySelectorAll('table')].map(t =>"
        " [t.querySelectorAll('td[tabindex=\"0\"]').length, t.ariaLabel.length > 20])")
    assert stops == [[1, True]] * 3


@only("needle_browser")
def test_whose_needles_they_are_can_be_chosen(figure):
    figure.open()
    figure.set("seed", "seed 3")
    assert "of 50 prompts; 95 % interval" in figure.say()
    figure.set("b", "DIFF, λ frozen")
    assert "DIFF, λ frozen − Transformer" in figure.say()
    figure.set("source", "Paper, Fig. 5")
    said = figure.say()
    assert said.startswith("Paper, Fig. 5: N = 8, answer at 25 % depth, context of 64K tokens.")
    assert "Transformer: 0.12 right (6 of 50 prompts" in said and "DIFF: 0.88" in said
    assert figure.js("root.getElementById('seed').disabled")
    figure.set("source", "Paper, Table 2")
    figure.js("[...root.querySelectorAll('td')].at(-1).click()")
    figure.rest()
    assert "N = 6, context of 4K tokens" in figure.say() and "0.85 right" in figure.say()
    figure.set("source", "Ours, recorded")
    assert figure.say().startswith("Ours, recorded")
    assert not figure.js("root.getElementById('seed').disabled")


@only("training_replay")
def test_a_training_is_replayed_with_keys_menus_and_a_button(figure):
    figure.open()
    record = records.load("replay-cpu")
    steps = record.of("diff")[0].arrays["replay step"]
    figure.js("root.getElementById('frame').focus()")
    figure.key("End")
    loss = record.of("softmax")[0].arrays["replay loss"]
    assert f"Step {steps[-1]}: Transformer has learned the task" in figure.say()
    figure.key("Home")
    assert "does not know yet that a number is wanted" in figure.say()
    assert f"loss {loss[0]:.2f}" in figure.say()
    figure.key("ArrowRight")
    assert figure.say().startswith(f"Step {steps[1]}:")
    assert figure.js("root.getElementById('frame').getAttribute('aria-valuetext')") == (
        f"{steps[1]} of {steps[-1]}")
    # DIFF of the other pair has another circuit, and the sentence says so from the numbers.
    figure.click("End")
    assert "without this circuit" not in figure.say()
    figure.set("pair", "seed 1")
    assert "DIFF has learned it without this circuit" in figure.say()
    figure.set("layer", "1")
    assert figure.js("root.querySelectorAll('canvas')[1].ariaLabel").startswith("Attention map")
    # Play starts again from the first step, and runs on by itself until it is paused.
    figure.click("Play the training")
    figure.rest(2.0)
    figure.click("Pause")
    at = figure.say()
    assert not at.startswith(f"Step {steps[-1]}:")
    figure.rest(1.0)
    assert figure.say() == at


@only("training_replay")
def test_who_wants_less_motion_steps_by_hand(figure):
    figure.open()
    figure.tab._send("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-reduced-motion", "value": "reduce"}])
    figure.tab.evaluate("location.reload()")
    figure.rest(1.0)
    before = figure.say()
    figure.click("Step")
    after = figure.say()
    figure.rest(1.0)
    assert before != after == figure.say()


@only("scaling_fit")
def test_laws_are_dragged_and_fitted_again(figure):
    figure.open()
    assert "62.2 % of the parameters" in figure.say()
    ring = figure.js(
        "(() => { const r = root.querySelector('circle[fill=\"#FFFFFF\"]')"
        ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()")
    figure.drag(ring, (ring[0], ring[1] - 12))
    bent = figure.say()
    assert "62.2 % of the parameters" not in bent.splitlines()[0]
    assert "(least squares 10.0)" in bent and "Transformer 10.0 (" not in bent
    figure.click("Least squares")
    assert "62.2 % of the parameters" in figure.say().splitlines()[0]
    figure.js("root.getElementById('b').focus()")
    figure.key("ArrowRight")
    assert "62.2 % of the parameters" not in figure.say().splitlines()[0]
    figure.click("Without floor, E = 0")
    assert float(figure.js("root.getElementById('E').value")) == 0
    figure.set("source", "Ours, recorded")
    said = figure.say()
    assert "a law for each seed: 109 %, 119 %, 103 %, together 110 %" in said
    assert "95 % interval 92 % to 132 %" in said
