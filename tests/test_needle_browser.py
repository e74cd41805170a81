"""Figure of chapter 11: what JavaScript shows is what Python computes from the record."""

import numpy as np
import pytest
from javascript import call, needs_node

from diffbook import paper, records
from diffbook.measure.needles import binomial_difference, binomial_interval
from diffbook.records import paired_interval
from diffbook.records.compare import STUDENT
from diffbook.show.needle_browser import needle_data


def test_wilson_is_where_the_share_s_own_error_reaches():
    """Each end is a share p of which the sample lies 1.96 standard errors of p away."""
    for right, n in ((1, 50), (25, 50), (47, 50), (200, 250)):
        for end in binomial_interval(right, n):
            error = np.sqrt(end * (1 - end) / n)
            assert abs(right / n - end) / error == pytest.approx(1.959964, abs=1e-6)
    assert binomial_interval(0, 50) == pytest.approx((0, 0.0713), abs=1e-4)
    with pytest.raises(ValueError, match="right=51 of n=50"):
        binomial_interval(51, 50)


@pytest.mark.parametrize("p", [0.3, 0.95])
def test_the_intervals_hold_the_truth_in_about_95_of_100_cases(p):
    rng = np.random.default_rng(0)
    a, b = rng.binomial(50, p, (2, 2000))
    one = np.array([binomial_interval(x, 50) for x in a])
    two = np.array([binomial_difference(x, 50, y, 50) for x, y in zip(a, b, strict=True)])
    assert 0.93 < ((one[:, 0] <= p) & (p <= one[:, 1])).mean() < 0.985
    assert 0.93 < ((two[:, 0] <= 0) & (0 <= two[:, 1])).mean() < 0.985


def test_newcombe_gives_the_example_of_his_paper():
    # Statist. Med. 17 (1998) 873, Table II, method 10: 56/70 - 48/80.
    assert binomial_difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.fixture(scope="module")
def record():
    return records.load("multineedle-cpu")


@pytest.fixture(scope="module")
def data(record):
    return needle_data(record)


def test_the_data_are_counts_of_the_record_and_of_the_paper(record, data):
    ours, fig5, table2 = data["sources"]
    assert [variant["key"] for variant in ours["variants"]] == record.variants
    for shown in ours["maps"]:
        for kind, right in shown["right"].items():
            size = (len(shown["seeds"]), len(shown["rows"]), len(shown["columns"]))
            cells = np.reshape(right, size)
            assert (cells >= 0).all() and (cells <= shown["n"]).all()
            if shown["key"] != "all":
                assert (cells == cells.round()).all()  # 50 prompts: whole answers
                queries = {"N=1": 1, "N=8": 1}.get(shown["key"], 2)
                for column, times in enumerate(shown["columns"]):
                    name = f"by depth {shown['key']}, R={queries}, {times[:-1]}x"
                    np.testing.assert_allclose(
                        cells[:, :, column] / 50, record.array(kind, name), atol=1e-9)
    [paper_map] = fig5["maps"]
    for kind in ("softmax", "diff"):
        assert np.reshape(paper_map["right"][kind], (5, 8))[1, -1] == pytest.approx(
            50 * paper.load("fig5")[kind][1][-1])
    assert table2["maps"][0]["right"]["diff"][-1] == pytest.approx(250 * 0.85)


@needs_node
def test_javascript_reads_the_cells_as_python_does(record, data):
    """Values and intervals of whole maps: one seed, the mean over seeds, and the difference."""
    shown = data["sources"][0]["maps"][0]
    t = STUDENT[8]
    asked, expected = [["counts", [shown, kind]] for kind in ("softmax", "diff")], []
    size = (8, 5, 8)
    a, b = (np.reshape(shown["right"][kind], size) for kind in ("softmax", "diff"))
    for row, column in ((0, 0), (1, 7), (2, 3), (4, 5)):
        right, other = a[:, row, column], b[:, row, column]
        asked += [
            ["reading", [right.tolist(), 50, 3, t]],
            ["reading", [right.tolist(), 50, None, t]],
            ["difference", [right.tolist(), other.tolist(), 50, 3, t]],
            ["difference", [right.tolist(), other.tolist(), 50, None, t]],
        ]
        low, high = paired_interval(right / 50)
        expected += [
            (right[3] / 50, *binomial_interval(right[3], 50)),
            (right.mean() / 50, max(0, low), min(1, high)),
            ((other[3] - right[3]) / 50, *binomial_difference(other[3], 50, right[3], 50)),
            ((other - right).mean() / 50, *paired_interval((other - right) / 50)),
        ]
    first, second, *found = call("needle_browser", asked)
    for cells, whole in ((first, a), (second, b)):
        np.testing.assert_array_equal(cells[:5], whole.transpose(1, 2, 0))
        np.testing.assert_array_equal(cells[5], whole.sum(1).T)
    found = [[cell["value"], cell["low"], cell["high"]] for cell in found]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    # The chapter prints the same difference from the record's own measure.
    paired = record.paired("depth 25 %, 8x")
    assert found[7] == pytest.approx([paired.mean, paired.low, paired.high], abs=1e-9)
