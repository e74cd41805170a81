"""diffbook.show: figures with alt text, maps in honest colors, controls that redraw."""

from __future__ import annotations

import base64
import io
import struct

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from diffbook import show
from diffbook.show.figure import png


@pytest.fixture(autouse=True)
def clean_matplotlib():
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def published(monkeypatch) -> list[tuple[dict, dict]]:
    """What is sent to the page: (data, metadata) of each display."""
    sent: list[tuple[dict, dict]] = []

    def display(data, metadata=None, raw=False):
        if raw:
            sent.append((data, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return sent


def draw_line(slope: float = 1.0):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, slope])
    return fig


# --- figure ---------------------------------------------------------------------------------


def test_figure_publishes_a_png_with_its_alt_text_and_closes(published):
    show.style()
    fig = draw_line()
    show.figure(fig, alt="A line rises from 0 to 1.")
    [(data, metadata)] = published
    assert data.keys() == {"image/png", "text/plain"}
    assert data["text/plain"] == "A line rises from 0 to 1."
    assert metadata["image/png"] == {
        "alt": "A line rises from 0 to 1.", "width": 700, "height": 360}
    image = data["image/png"]
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    assert (width, height) == (7 * 160, round(3.6 * 160))  # sharp on a screen of double density
    assert not plt.fignum_exists(fig.number)


def test_the_same_drawing_is_the_same_file():
    show.style()
    assert png(draw_line())[0] == png(draw_line())[0] != png(draw_line(2.0))[0]
    assert b"Software" not in png(draw_line())[0]


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_a_figure_without_alt_text_is_an_error(alt, published):
    with pytest.raises(ValueError, match="alt text is empty: say in one or two sentences"):
        show.figure(draw_line(), alt)
    assert published == []


# --- heatmap --------------------------------------------------------------------------------


def drawn(matrix, **options):
    _, ax = plt.subplots()
    return show.heatmap(ax, matrix, **options), ax


def test_a_map_without_negative_entries_starts_at_zero():
    image, ax = drawn(torch.tensor([[1.0, 0.0], [0.3, 0.7]], requires_grad=True))
    assert image.get_clim() == (0.0, 1.0)
    assert image.get_cmap().name == show.SEQUENTIAL
    assert not ax.texts
    np.testing.assert_array_equal(image.get_array(), np.float32([[1.0, 0.0], [0.3, 0.7]]))


def test_a_map_with_negative_entries_is_centered_on_zero():
    image, _ = drawn([[0.4, -0.8], [0.1, 0.0]])
    assert image.get_clim() == (-0.8, 0.8)
    assert image.get_cmap().name == show.DIVERGING
    white = image.get_cmap()(0.5)
    assert min(white[:3]) > 0.95  # zero has no color
    low, high = image.get_cmap()(0.0), image.get_cmap()(1.0)
    assert low[0] > low[2]  # negative is red,
    assert high[2] > high[0]  # positive blue
    image, _ = drawn([[0.4, 0.8]], signed=True)
    assert image.get_clim() == (-0.8, 0.8)
    image, _ = drawn([[0.4, -0.8]], signed=False, vmax=0.5)
    assert image.get_clim() == (0.0, 0.5)
    image, _ = drawn(np.zeros((2, 2)))
    assert image.get_clim() == (0.0, 1.0)


def test_heatmap_labels_and_numbers():
    values = [[0.25, -0.5, 1.0], [10.5, 0.0, -20.04]]
    _, ax = drawn(torch.tensor(values), xlabels=["a", "b", "c"], ylabels=["q", "r"], annotate=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["q", "r"]
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {
        (0, 0): ".25", (1, 0): "-.50", (2, 0): "1.00",
        (0, 1): "10.50", (1, 1): ".00", (2, 1): "-20.04",
    }
    for text in ax.texts:
        column, row = text.get_position()
        assert float(text.get_text()) == pytest.approx(values[row][column], abs=0.005)
    white = {text.get_text() for text in ax.texts if text.get_color() == "white"}
    assert white == {"-20.04"}  # light on dark cells only


def test_a_map_has_two_axes():
    with pytest.raises(ValueError, match=r"two axes \(queries, keys\), got shape \(1, 2, 2\)"):
        drawn(np.zeros((1, 2, 2)))


# --- style ----------------------------------------------------------------------------------


def test_style_and_colors():
    show.style()
    assert matplotlib.rcParams["figure.figsize"] == [7.0, 3.6]
    assert matplotlib.rcParams["figure.facecolor"] == "white"
    first = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][:2]
    assert first == [show.COLORS["diff"], show.COLORS["transformer"]]
    assert {"transformer", "diff", "signal", "noise", "map1", "map2", "neutral"} <= set(show.COLORS)
    assert len(set(show.COLORS.values())) == len(show.COLORS)
    assert {"softmax", "diff"} <= set(show.LABELS)
    # The two kinds of model differ in brightness as well: they survive a grey print.
    luminance = {
        name: float(np.dot(matplotlib.colors.to_rgb(show.COLORS[name]), (0.2126, 0.7152, 0.0722)))
        for name in ("transformer", "diff", "map1", "map2")
    }
    assert abs(luminance["transformer"] - luminance["diff"]) > 0.04


# --- explore --------------------------------------------------------------------------------

CONTROLS = {"lam": (0.0, 1.0, 0.25, 0.5), "n": (1, 9, 2), "kind": ["softmax", "diff"], "word": "hi"}
START = {"lam": 0.5, "n": 1, "kind": "softmax", "word": "hi"}


@pytest.fixture
def drawing():
    calls: list[dict] = []

    def draw(**values):
        calls.append(values)
        return draw_line()

    return draw, calls


def test_without_a_kernel_the_start_values_stand_still(published, drawing, monkeypatch):
    monkeypatch.setenv("DIFFBOOK_STATIC", "1")
    draw, calls = drawing
    show.explore(draw, alt="A line.", **CONTROLS)
    assert calls == [START]
    [(data, metadata)] = published
    assert data["text/plain"] == metadata["image/png"]["alt"] == "A line."


def live(monkeypatch, draw, **controls):
    """Run explore with ipywidgets; return its controls and its Output."""
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("DIFFBOOK_STATIC", raising=False)
    shown = []

    def display(thing, metadata=None, raw=False):
        shown.append((thing, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    show.explore(draw, alt="A line.", **controls)
    [box] = [thing for thing, _ in shown if isinstance(thing, widgets.VBox)]
    *handles, output = box.children
    assert isinstance(output, widgets.Output)
    pictures = [metadata["image/png"]["alt"] for thing, metadata in shown if metadata]
    return dict(zip(controls, handles, strict=True)), pictures, shown


def test_with_a_kernel_there_are_widgets_that_redraw(drawing, monkeypatch):
    draw, calls = drawing
    handles, pictures, shown = live(monkeypatch, draw, **CONTROLS)
    kinds = {name: type(handle).__name__ for name, handle in handles.items()}
    assert kinds == {"lam": "FloatSlider", "n": "IntSlider", "kind": "Dropdown", "word": "Text"}
    slider = handles["lam"]
    assert (slider.min, slider.max, slider.step, slider.value) == (0.0, 1.0, 0.25, 0.5)
    assert (handles["n"].value, handles["n"].max, handles["n"].step) == (1, 9, 2)
    assert handles["kind"].options == ("softmax", "diff")
    assert calls == [START]
    assert pictures == ["A line."]

    slider.value = 0.75
    handles["kind"].value = "diff"
    handles["word"].value = "ho"
    assert calls[1:] == [
        {**START, "lam": 0.75}, {**START, "lam": 0.75, "kind": "diff"},
        {**START, "lam": 0.75, "kind": "diff", "word": "ho"},
    ]
    pictures = [metadata["image/png"]["alt"] for _, metadata in shown if metadata]
    assert len(pictures) == 4
    assert pictures[1].startswith("A line. Now: ")
    assert "'lam': 0.75" in pictures[1]  # the alt text says what the picture now shows
    handles["lam"].value, handles["kind"].value, handles["word"].value = 0.5, "softmax", "hi"
    assert [m["image/png"]["alt"] for _, m in shown if m][-1] == "A line."
    assert not plt.get_fignums()


@pytest.mark.parametrize("control", [
    (0, 1), (1, 0, 0.1), (0, 1, 0.1, 0.5, 2), (0.0, 1.0, 0.1, 3.0), [], {}, None, 3,
])
@pytest.mark.parametrize("static", [True, False])
def test_bad_controls_are_named(control, static, drawing, monkeypatch):
    draw, calls = drawing
    if static:
        monkeypatch.setenv("DIFFBOOK_STATIC", "1")
    else:
        monkeypatch.delenv("DIFFBOOK_STATIC", raising=False)
    with pytest.raises(ValueError, match=r"control rate=.*: give \(low, high, step\[, start\]\)"):
        show.explore(draw, alt="A line.", rate=control)
    assert calls == []


def test_pictures_survive_the_way_into_a_notebook():
    """What Jupyter does with the bytes, base64 and back, is what matplotlib reads again."""
    data, _ = png(draw_line())
    again = plt.imread(io.BytesIO(base64.b64decode(base64.b64encode(data))))
    assert again.shape[2] == 4
    assert again.std() > 0.01
