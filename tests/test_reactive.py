"""Figures that react, the Python half: the bundle, the data, the piece of HTML, stored outputs."""

from __future__ import annotations

import builtins
import json
import re
import shutil
import subprocess
import sys
from types import ModuleType

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import notebooks
import numpy as np
import pytest
import torch

from diffbook import show
from diffbook.show import reactive

START = {"log2_n": 12, "m": 8, "s": 1}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on the search path")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder of one's own for figures; give files by name to write them."""
    monkeypatch.setattr(reactive, "FOLDER", tmp_path)
    reactive.bundle.cache_clear()

    def write(**files: str) -> None:
        for name, text in {"core": "export function start() {}", **files}.items():
            (tmp_path / f"{name}.js").write_text(text, encoding="utf-8")

    yield write
    reactive.bundle.cache_clear()


def run(program: str) -> str:
    done = subprocess.run(["node", "--eval", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---------------------------------------------------------------- the bundle


@needs_node
def test_a_bundle_keeps_the_files_apart(scripts):
    scripts(
        one="export const scale = 3;\nconst hidden = 1;\n"
            "export function twice(x) { return 2 * x; }",
        two='import { scale as factor, twice } from "./one.js";\nconst hidden = 10;\n'
            "export function answer(x) { return hidden + factor * twice(x); }",
        three='import * as one from "./one.js";\nimport {\n  answer,\n} from "./two.js";\n'
              "export const value = () => answer(one.twice(1));\n",
    )
    code = reactive.bundle("three")
    assert run(f"{code}console.log($three.value(), typeof hidden)") == "22 undefined"
    assert code.count("hidden = 1;") == 1  # a file that two others import comes once


def test_comments_stay_in_the_files():
    code = reactive.bundle("attention_noise")
    source = (reactive.FOLDER / "attention_noise.js").read_text(encoding="utf-8")
    assert source.startswith("// ") and "\n//" not in code and "/**" not in code
    assert len(code.encode()) < 40_000  # a figure costs a page no more than a small picture


@pytest.mark.parametrize("text, complaint", [
    ('export default 3', "export default 3"),
    ('import x from "./one.js"', "import x from"),
    ('import { x } from "https://example.org/x.js"', "example.org"),
    ('const a = "</script>";', "</script"),
])
def test_what_cannot_stand_in_a_page_is_an_error(scripts, text, complaint):
    scripts(odd=text)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        reactive.bundle("odd")


def test_an_unknown_figure_names_the_known_ones(scripts):
    scripts(one="")
    for name in ("two", "../one", ""):
        with pytest.raises(ValueError, match="there are core, one"):
            reactive.bundle(name)


def test_a_circle_of_imports_is_an_error(scripts):
    scripts(one='import { b } from "./two.js";', two='import { a } from "./one.js";')
    with pytest.raises(ValueError, match=r"one\.js imports itself by way of one and two"):
        reactive.bundle("one")


# ---------------------------------------------------------------- the data


def test_data_are_the_same_on_every_machine():
    third = 1 / 3
    assert reactive.to_json({"x": third}) == reactive.to_json({"x": third * (1 + 1e-12)})
    assert reactive.to_json({"x": np.float32([0.1, -0.0])}) == '{"x":[0.1,0]}'
    assert reactive.to_json([torch.tensor([[1.5]]), np.int64(3), True, None, "λ"]) == (
        '[[[1.5]],3,true,null,"λ"]')
    assert reactive.to_json({"weights": b"\x00\xff\x10", "gap": float("nan")}) == (
        '{"weights":"AP8Q","gap":null}')


def test_data_cannot_leave_the_script():
    text = "</script><!-- \u2028 'x' \"y\" "
    packed = reactive.to_json({"text": text})
    assert "<" not in packed and "\u2028" not in packed
    assert json.loads(packed) == {"text": text}


@pytest.mark.parametrize("data", [{"x": object()}, {"x": float("inf")}, {"x": {1, 2}}])
def test_data_that_json_cannot_hold_are_an_error(data):
    with pytest.raises(ValueError, match="a figure's data must be plain"):
        reactive.to_json(data)


# ---------------------------------------------------------------- the piece of HTML


def test_fragment_stands_alone_and_repeats_itself():
    html = reactive.fragment("attention_noise", START, b"\x89PNG", "A <curve>\nfalls.")
    assert html == reactive.fragment("attention_noise", START, b"\x89PNG", "A <curve>\nfalls.")
    assert 'alt="A &lt;curve&gt; falls."' in html
    assert html.count("<script>") == html.count("</script>") == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    other = reactive.fragment("attention_noise", {**START, "m": 9}, b"\x89PNG", "A curve.")
    key = re.compile(r'data-diffbook="(\w+)"')
    assert key.search(html)[1] != key.search(other)[1]


def test_alt_text_must_say_something():
    with pytest.raises(ValueError, match="the alt text is empty"):
        reactive.fragment("attention_noise", START, b"", "  ")


def test_stored_figures_take_new_code_without_a_run(scripts):
    scripts(one="export function render() { return 1; }")
    old = reactive.fragment("one", {"a": "</div>"}, b"\x89PNG", "A picture.")
    scripts(one="export function render() { return 'new'; }")
    reactive.bundle.cache_clear()
    new = reactive.fragment("one", {"a": "</div>"}, b"\x89PNG", "A picture.")
    assert old != new == reactive.refreshed(old) == reactive.refreshed(new)
    assert reactive.refreshed("<p>no figure</p>") == "<p>no figure</p>"


def test_react_publishes_html_a_picture_and_its_text(monkeypatch):
    sent = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: sent.append((data, more)))
    fig, _ = plt.subplots(figsize=(7, 3))
    show.react("attention_noise", START, fig, alt="A curve falls.")
    [(data, more)] = sent
    assert list(data) == ["text/html", "image/png", "text/plain"]
    assert data["text/plain"] == "A curve falls." and data["image/png"].startswith(b"\x89PNG")
    assert more["metadata"]["image/png"]["alt"] == "A curve falls."
    assert not plt.fignum_exists(fig.number)


# ---------------------------------------------------------------- with a kernel


def test_live_without_anywidget_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *more):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match="pip install anywidget"):
        show.live("attention_noise", START, compute=dict)


def test_live_answers_the_controls(monkeypatch):
    traitlets = pytest.importorskip("traitlets")
    module = ModuleType("anywidget")
    module.AnyWidget = type("AnyWidget", (traitlets.HasTraits,), {})
    monkeypatch.setitem(sys.modules, "anywidget", module)
    widget = show.live("attention_noise", START, lambda m, **_: {**START, "m": m, "twice": 2 * m})
    assert widget.data == START
    widget.values = {"m": 4.0}
    assert widget.data == {**START, "m": 4, "twice": 8}
    assert "export default $core.widget($attention_noise.render);" in widget._esm


# ---------------------------------------------------------------- what the chapters store


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_stored_figures_have_todays_code(path):
    for cell in notebooks.read(path).cells:
        for output in cell.get("outputs", []):
            stored = output.get("data", {}).get("text/html", "")
            assert stored == reactive.refreshed(stored), (
                "the figures' JavaScript changed: python scripts/notebooks.py figures")
