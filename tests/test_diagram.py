"""diffbook.show.diagram: the picture says what the code does, and nothing overlaps."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from diffbook import show
from diffbook.show.diagram import OWN, SAME, model_diagram


@pytest.fixture
def figure() -> Iterator[Figure]:
    with plt.rc_context():
        show.style()
        fig = model_diagram()
        fig.canvas.draw()
        yield fig
        plt.close(fig)


def boxes(ax) -> list[FancyBboxPatch]:
    return [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]


def test_only_what_differs_is_blue(figure):
    from matplotlib.colors import same_color

    stream, softmax, diff = figure.axes
    fills = [[same_color(box.get_facecolor(), OWN) for box in boxes(ax)] for ax in figure.axes]
    assert [sum(column) for column in fills] == [1, 0, 3]
    assert [len(column) for column in fills] == [7, 5, 6]
    assert all(same_color(box.get_facecolor(), SAME) for box in boxes(softmax))
    # What both columns share stands at the same height in both.
    for text in ("$W^Q$, $W^K$, $W^V$", "RoPE turns $Q$ and $K$", "$W^O$"):
        heights = [
            label.get_position()[1]
            for ax in (softmax, diff) for label in ax.texts if label.get_text() == text
        ]
        assert len(heights) == 2 and heights[0] == heights[1], text


def test_text_stays_in_its_box_and_boxes_stay_apart(figure):
    for ax in figure.axes:
        frames = [box.get_window_extent() for box in boxes(ax)]
        for index, frame in enumerate(frames):
            assert not any(frame.overlaps(other) for other in frames[index + 1 :])
        for label in (text for text in ax.texts if text.get_text()):  # arrows have none
            words = label.get_window_extent()
            home = [frame for frame in frames if frame.overlaps(words)]
            assert len(home) <= 1, label.get_text()
            for frame in home:
                assert frame.x0 < words.x0 and words.x1 < frame.x1, label.get_text()
                assert frame.y0 < words.y0 and words.y1 < frame.y1, label.get_text()
