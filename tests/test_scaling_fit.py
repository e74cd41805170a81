"""Figure of chapter 9: the JavaScript fits and reads as diffbook.measure.scaling does."""

import json

import numpy as np
import pytest
from javascript import call, needs_node

from diffbook import records
from diffbook.measure.scaling import equal_loss, fit_law
from diffbook.records import paired_interval
from diffbook.records.compare import STUDENT
from diffbook.show.reactive import to_json
from diffbook.show.scaling_fit import scaling_data

pytestmark = needs_node


@pytest.fixture(scope="module")
def data():
    return scaling_data(records.load("scaling-cpu"))


def plain(source):
    """As the page has it."""
    return json.loads(to_json(source))


def laws_of(x, losses, **options):
    return {kind: fit_law(x[kind], losses[kind], **options) for kind in ("softmax", "diff")}


def test_laws_are_those_of_python(data):
    """All ten means and thirty seeds, with floor and without, and points that know their law."""
    cases = []
    for source in data["sources"]:
        for kind, x in source["x"].items():
            rows = [source["mean"][kind], *(source["seeds"][kind] if source["seeds"] else [])]
            cases += [(list(x), np.asarray(row).tolist(), f) for row in rows for f in (True, False)]
    x = [0.83, 1.41, 2.79, 6.84, 13.12]
    cases.append((x, [2.8 + 0.32 * n**-0.5 for n in x], True))
    found = call("scaling_fit", [["fitLaw", list(case)] for case in cases])
    expected = [fit_law(x, loss, floor=floor) for x, loss, floor in cases]
    for name in "Eab":
        np.testing.assert_allclose(
            [law[name] for law in found], [getattr(law, name) for law in expected],
            rtol=0, atol=1e-6)
    assert [found[-1][name] for name in "Eab"] == pytest.approx([2.8, 0.32, 0.5], abs=1e-6)
    misses = call("scaling_fit", [
        ["rms", [law, x, loss]] for law, (x, loss, _) in zip(found, cases, strict=True)])
    np.testing.assert_allclose(misses, [float(law.rms) for law in expected], atol=1e-8)


def test_shares_of_the_paper_s_points(data):
    source = data["sources"][0]
    x, losses = source["x"], source["mean"]
    laws = laws_of(x, losses)
    expected = equal_loss(laws["diff"], laws["softmax"], loss=laws["diff"](6.84))
    given = {kind: {n: float(getattr(law, n)) for n in "Eab"} for kind, law in laws.items()}
    found, left_out = call("scaling_fit", [
        ["share", [given, 6.84, "diff"]], ["leaveOneOut", [plain(source), 6.84]]])
    assert found["share"] == pytest.approx(float(expected.share), abs=1e-9)
    assert found["other"] == pytest.approx(float(expected.x_baseline), abs=1e-6)
    assert round(found["share"], 3) == 0.622  # the paper's own number
    again = []
    for left in range(5):
        keep = np.arange(5) != left
        law = laws_of(
            {k: np.array(v)[keep] for k, v in x.items()},
            {k: np.array(v)[keep] for k, v in losses.items()})
        again.append(float(equal_loss(law["diff"], law["softmax"], loss=law["diff"](6.84)).share))
    np.testing.assert_allclose(left_out, again, rtol=0, atol=1e-6)


def test_share_by_seed_of_our_runs(data):
    """The rule of chapter 9: a law for each seed, one loss, Student on the logarithms."""
    exact, source = data["sources"][1], plain(data["sources"][1])  # the page has seven digits
    at = source["at"]
    level = fit_law(source["x"]["softmax"], source["mean"]["softmax"])(at)
    laws = laws_of(source["x"], source["seeds"])
    shares = equal_loss(laws["diff"], laws["softmax"], loss=level).share
    low, high = np.exp(paired_interval(np.log(shares)))
    [found] = call("scaling_fit", [["bySeed", [source, at, STUDENT[3]]]])
    np.testing.assert_allclose(found["shares"], shares, rtol=0, atol=1e-6)
    expected = [np.exp(np.log(shares).mean()), low, high]
    np.testing.assert_allclose(
        [found["mean"], found["low"], found["high"]], expected, rtol=0, atol=1e-6)
    unrounded = equal_loss(*laws_of(exact["x"], exact["seeds"]).values(), loss=level).share
    np.testing.assert_allclose(1 / unrounded, shares, rtol=0, atol=1e-5)


def test_what_the_chapter_says_about_bending_b(data):
    """From 0.35 to 0.6 the misses grow by about a tenth, and the share moves by nine points."""
    source = plain(data["sources"][0])
    x, loss = source["x"]["softmax"], source["mean"]["softmax"]
    diff, best = call("scaling_fit", [
        ["fitLaw", [source["x"]["diff"], source["mean"]["diff"]]], ["fitLaw", [x, loss]]])
    bent = call("scaling_fit", [["linear", [x, loss, b]] for b in (0.35, 0.6)])
    laws = [{**law, "b": b} for law, b in zip(bent, (0.35, 0.6), strict=True)]
    found = call("scaling_fit", [
        *(["rms", [law, x, loss]] for law in (best, *laws)),
        *(["share", [{"softmax": law, "diff": diff}, 6.84, "diff"]] for law in laws)])
    assert max(found[1:3]) < 1.11 * found[0]
    assert found[3]["share"] - found[4]["share"] == pytest.approx(0.09, abs=0.01)


def test_a_dragged_curve_goes_through_its_handles():
    x = [1.0, 3.0, 9.0]
    law = {"E": 2.0, "a": 0.5, "b": 0.3}
    losses = [law["E"] + law["a"] * n ** -law["b"] for n in x]
    straight = [3.0, 2.5, 2.0]  # no power law bends so little
    found, none, below = call("scaling_fit", [
        ["through", [x, losses]], ["through", [x, straight]], ["through", [x, [1.0, 0.4, 0.0]]]])
    assert [found[name] for name in "Eab"] == pytest.approx([2.0, 0.5, 0.3], abs=1e-9)
    assert none is None and below is None  # the last would need a floor below zero
    [infinite] = call("scaling_fit", [["inverse", [law, 1.9]]])
    assert infinite == np.inf  # below the floor
