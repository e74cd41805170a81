"""Curves over seeds, intervals, colored text (diffbook/show/curves.py)."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from diffbook import show
from diffbook.records import Paired, paired_interval


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_band_draws_the_mean_every_seed_and_the_full_range(ax):
    steps = np.array([10, 20, 30])
    values = np.array([[3.0, 2.0, 1.0], [5.0, 2.0, 0.0], [4.0, 5.0, 2.0]])
    line = show.band(ax, steps, values, "DIFF", "diff")
    np.testing.assert_allclose(line.get_ydata(), [4, 3, 1])
    assert line.get_label() == "DIFF" and to_hex(line.get_color()) == show.COLORS["diff"].lower()
    thin = [other.get_ydata().tolist() for other in ax.lines if other is not line]
    assert sorted(thin) == sorted(values.tolist())
    corners = ax.collections[0].get_paths()[0].vertices
    for step, low, high in zip(steps, values.min(0), values.max(0), strict=True):
        at = corners[corners[:, 0] == step, 1]
        assert (at.min(), at.max()) == (low, high)  # not a standard error, which is narrower


def test_band_of_one_seed_is_one_line(ax):
    show.band(ax, [1, 2], [0.5, 0.25], "one", "#123456")
    assert len(ax.lines) == 1 and not ax.collections
    assert to_hex(ax.lines[0].get_color()) == "#123456"


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.zeros((5, 3)), np.zeros((2, 2, 5))])
def test_band_wants_seeds_by_points(ax, values):
    with pytest.raises(ValueError, match=r"\(n_seeds, points\).*\(5,\)"):
        show.band(ax, np.arange(5), values, "x")


def paired(differences, measure="loss"):
    return Paired(measure, "diff", "softmax", tuple(differences), *paired_interval(differences))


def test_intervals_grays_what_holds_zero_and_shows_every_seed(ax):
    null, clear = paired([-0.1, 0.2, 0.05]), paired([-0.30, -0.31, -0.29], "accuracy")
    show.intervals(ax, [null, clear])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["loss", "accuracy"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first pair stands on top
    rows = {row: [li for li in ax.lines[1:] if set(np.ravel(li.get_ydata())) == {row}]
            for row in (0, 1)}
    for row, pair, color in ((0, null, "noise"), (1, clear, "diff")):
        bar, dots, mean = rows[row]
        np.testing.assert_allclose(bar.get_xdata(), [pair.low, pair.high])
        np.testing.assert_allclose(dots.get_xdata(), pair.differences)
        assert np.ravel(mean.get_xdata())[0] == pytest.approx(pair.mean)
        assert {to_hex(line.get_color()) for line in rows[row]} == {show.COLORS[color].lower()}


@pytest.mark.parametrize("labels", [["only one"], ["a", "b", "c"]])
def test_intervals_wants_one_label_for_each(ax, labels):
    pairs = [paired([0.1, 0.2]), paired([0.1, 0.3])]
    with pytest.raises(ValueError, match=f"2 pairs and {len(labels)} labels"):
        show.intervals(ax, pairs, labels)
    with pytest.raises(ValueError, match="0 pairs"):
        show.intervals(ax, [])


def test_surprise_places_each_character_on_its_own_color(ax):
    characters = list("ab\ncdefg")
    nats = np.array([np.nan, 1.0, 0.5, 2.0, 3.0, 4.0, 5.0, 6.0])
    image = show.surprise(ax, characters, nats, columns=4)
    grid = image.get_array().filled(np.nan)
    # "ab" and its line break, then "cdef", then "g": the break ends the row early.
    expected = [[np.nan, 1, 0.5, np.nan], [2, 3, 4, 5], [6, np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(grid, expected)
    at = {text.get_text(): text.get_position() for text in ax.texts}
    assert at["b"] == (1, 0) and at["↵"] == (2, 0) and at["c"] == (0, 1) and at["g"] == (0, 2)


def test_surprise_shows_a_dollar_as_a_dollar_and_wants_a_number_for_each(ax):
    show.surprise(ax, list("$x$ "), np.zeros(4))
    assert [text.get_text() for text in ax.texts] == ["$", "x", "$"]  # no math, no blank
    assert not any(text.get_parse_math() for text in ax.texts)
    with pytest.raises(ValueError, match="3 characters"):
        show.surprise(ax, list("abc"), np.zeros(2))
