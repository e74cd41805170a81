"""diffbook.measure.scaling: laws with known answers come back, and so does doubt."""

from __future__ import annotations

import numpy as np
import pytest

from diffbook import paper, records
from diffbook.experiments.scaling import SIZES as WIDTHS
from diffbook.measure.scaling import (
    bootstrap_means,
    equal_loss,
    fit_law,
    parameter_counts,
    reached,
)
from diffbook.model import ModelConfig
from diffbook.records import paired_interval
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE

SIZES = np.array([0.043, 0.108, 0.222, 0.492, 1.07])  # as in the record, in millions


def law(x, E, a, b):
    return E + a * np.asarray(x) ** -b


# --- The fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("E, a, b", [
    (1.2, 0.3, 0.4), (2.8, 0.32, 0.486), (0.0, 2.0, 0.1), (0.5, 1e-3, 2.5), (1.0, 0.2, 0.05),
])
def test_an_exact_law_comes_back(E, a, b):
    found = fit_law(SIZES, law(SIZES, E, a, b))
    assert found.rms < 1e-8
    assert found(SIZES) == pytest.approx(law(SIZES, E, a, b), abs=1e-7)
    assert (found.E, found.a, found.b) == (
        pytest.approx(E, abs=2e-4), pytest.approx(a, rel=2e-3), pytest.approx(b, rel=2e-3))
    assert (found.low, found.high) == (0.043, 1.07)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_the_unit_of_x_changes_nothing_but_a(unit):
    rng = np.random.default_rng(0)
    losses = law(SIZES, 1.2, 0.3, 0.4) + rng.normal(0, 0.005, 5)
    one, other = fit_law(SIZES, losses), fit_law(SIZES * unit, losses)
    assert (other.E, other.b, other.rms) == pytest.approx((one.E, one.b, one.rms), rel=1e-5)
    assert other.a == pytest.approx(one.a * unit**one.b, rel=1e-4)
    assert other.inverse(1.6) == pytest.approx(unit * one.inverse(1.6), rel=1e-5)


def test_no_other_law_fits_noisy_points_better():
    """Against a plain search in all three parameters, which knows nothing of linear algebra."""
    rng = np.random.default_rng(1)
    losses = law(SIZES, 1.2, 0.3, 0.4) + rng.normal(0, 0.01, 5)
    found = fit_law(SIZES, losses)
    best = found.rms
    assert best == pytest.approx(np.sqrt(np.mean((found(SIZES) - losses) ** 2)))
    E = found.E + np.linspace(-0.1, 0.1, 41)[:, None, None]
    a = found.a * np.linspace(0.9, 1.1, 41)[None, :, None]
    b = found.b * np.linspace(0.9, 1.1, 41)[None, None, :]
    others = np.sqrt(np.mean([(E + a * x**-b - y) ** 2 for x, y in zip(SIZES, losses)], axis=0))
    assert others.min() >= best - 1e-12
    assert others[20, 20, 20] == pytest.approx(best)


def test_many_laws_at_once_are_the_laws_one_by_one():
    rng = np.random.default_rng(2)
    losses = law(SIZES, 1.2, 0.3, 0.4) + rng.normal(0, 0.01, (7, 5))
    together = fit_law(SIZES, losses)
    assert together(SIZES).shape == (7, 5) and together(0.3).shape == (7,)
    for row, values in enumerate(losses):
        alone = fit_law(SIZES, values)
        for name in ("E", "a", "b", "rms"):
            assert getattr(together, name)[row] == pytest.approx(getattr(alone, name), rel=1e-6)
        assert alone(SIZES).shape == (5,) and np.shape(alone(0.3)) == ()
        assert together.slope(SIZES)[row] == pytest.approx(alone.slope(SIZES), rel=1e-6)


def test_without_a_floor():
    losses = law(SIZES, 0, 2.0, 0.1)
    pure = fit_law(SIZES[[0, 4]], losses[[0, 4]], floor=False)
    assert (pure.E, pure.a, pure.b) == pytest.approx((0, 2.0, 0.1), rel=1e-6)
    with pytest.raises(ValueError, match="2 different sizes cannot determine 3 numbers"):
        fit_law(SIZES[[0, 4]], losses[[0, 4]])
    # A floor below zero would fit these better; a loss has none there.
    bent = 2.0 - 0.3 * np.log(SIZES) - 0.02 * np.log(SIZES) ** 2
    assert fit_law(SIZES, bent).E == 0
    assert fit_law(SIZES, bent).b == pytest.approx(fit_law(SIZES, bent, floor=False).b)


def test_slope_is_the_derivative():
    found = fit_law(SIZES, law(SIZES, 1.2, 0.3, 0.4))
    step = 1e-5
    numeric = (found(0.3 * np.exp(step)) - found(0.3 * np.exp(-step))) / (2 * step)
    assert found.slope(0.3) == pytest.approx(numeric, rel=1e-6) and found.slope(0.3) < 0


def test_inverse_and_its_end():
    found = fit_law(SIZES, law(SIZES, 1.2, 0.3, 0.4))
    for x in (0.01, 0.3, 50.0):
        assert found.inverse(found(x)) == pytest.approx(x)
    assert found.inverse(1.1) == np.inf and found.inverse(float(found.E)) == np.inf
    assert found.covers([0.043, 0.3, 1.07]).all()
    assert not found.covers([0.0429, 1.071]).any()


@pytest.mark.parametrize("x, loss, message", [
    ([1, 2, 4], [3, 2], "got (2,) and (3,)"),
    ([1, 2, 4], [[[3, 2, 1]]], "losses are (points,) or (laws, points)"),
    ([1, 2, np.nan], [3, 2, 1], "is not a number"),
    ([1, 2, 4], [3, 2, np.inf], "is not a number"),
    ([0, 2, 4], [3, 2, 1], "x=0 is not positive"),
    ([1, 1, 4], [3, 3, 1], "2 different sizes cannot determine 3 numbers"),
    ([1, 2, 4], [1, 2, 3], "does not fall with x: [1.0, 2.0, 3.0]"),
])
def test_what_cannot_be_fitted(x, loss, message):
    with pytest.raises(ValueError) as error:
        fit_law(x, loss)
    assert message in str(error.value)


# --- Shares ---------------------------------------------------------------------------------


def test_a_known_share():
    """DIFF is a Transformer of 1/0.7 times its size, by construction."""
    softmax = fit_law(SIZES, law(SIZES, 1.2, 0.3, 0.4))
    diff = fit_law(SIZES, law(SIZES / 0.7, 1.2, 0.3, 0.4))
    for x in (0.05, 0.2, 0.6):
        found = equal_loss(diff, softmax, loss=diff(x))
        assert found.share == pytest.approx(0.7, rel=1e-4)
        assert found.x == pytest.approx(x) and found.x_baseline == pytest.approx(x / 0.7, rel=1e-4)
        assert not found.extrapolated
        back = equal_loss(softmax, diff, loss=diff(x))
        assert back.share == pytest.approx(1 / 0.7, rel=1e-4)
    # At DIFF's largest size the Transformer would have to be larger than any that was measured.
    assert equal_loss(diff, softmax, loss=diff(1.07)).extrapolated
    assert equal_loss(diff, softmax, loss=softmax(0.043)).extrapolated


def test_shares_beyond_a_floor():
    softmax = fit_law(SIZES, law(SIZES, 1.3, 0.3, 0.4))
    diff = fit_law(SIZES, law(SIZES, 1.2, 0.3, 0.4))
    below = equal_loss(diff, softmax, loss=1.25)
    assert (below.share, below.x_baseline) == (0, np.inf) and below.extrapolated
    assert equal_loss(softmax, diff, loss=1.25).share == np.inf
    neither = equal_loss(diff, softmax, loss=1.1)
    assert np.isnan(neither.share) and neither.extrapolated
    with pytest.raises(ValueError, match="not a number"):  # and no interval is made of such shares
        paired_interval([np.log(0.9), -np.inf, np.log(1.1)])


def test_gap_over_slope_is_the_logarithm_of_the_share():
    """Step 4 of chapter 9: a small gap g is worth exp(-g / |slope|)."""
    softmax = fit_law(SIZES, law(SIZES, 1.2, 0.3, 0.4))
    for gap in (0.001, 0.005):
        diff = fit_law(SIZES, law(SIZES, 1.2 - gap, 0.3, 0.4))
        found = equal_loss(diff, softmax, loss=softmax(0.5))
        assert np.log(found.share) == pytest.approx(gap / softmax.slope(0.5), rel=5 * gap)


def test_the_polygon():
    x, loss = [1.0, 4.0, 16.0, 64.0], [3.0, 2.0, 2.2, 1.0]
    assert reached(x, loss, 2.5) == pytest.approx(2.0)  # halfway in ln x
    assert reached(x, loss, 2.1) == pytest.approx(16 * 4 ** (0.1 / 1.2))  # the last crossing
    np.testing.assert_allclose(reached(x, loss, [3.0, 1.0]), [1.0, 64.0])
    assert np.isnan(reached(x, loss, [3.1, 0.9])).all()
    with pytest.raises(ValueError, match="must increase"):
        reached([1.0, 1.0], [3.0, 2.0], 2.5)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        reached([1.0, 2.0], [3.0, 2.0, 1.0], 2.5)


# --- Intervals ------------------------------------------------------------------------------

TRUTH = {"softmax": (1.2, 0.3, 0.4), "diff": (1.2, 0.3 * 0.85**0.4, 0.4)}  # a share of 0.85


def experiments(rng, trials, n=3, sd=0.01):
    """Five sizes, n seeds, many times, DIFF then Transformer, each (trials, n, 5): half of the
    noise of one seed and size is common to the pair."""
    common = rng.normal(0, sd / np.sqrt(2), (trials, n, 5))
    return [
        law(SIZES, *TRUTH[kind]) + common + rng.normal(0, sd / np.sqrt(2), (trials, n, 5))
        for kind in ("diff", "softmax")
    ]


def fit_all(losses):
    """Laws of losses (..., 5), as one long row of laws."""
    return fit_law(SIZES, np.reshape(losses, (-1, 5)))


def test_the_interval_over_seeds_covers_the_true_share():
    """A law for each seed, Student's t on the logarithms: what chapter 9 judges by."""
    diff, softmax = experiments(np.random.default_rng(3), trials := 600)
    level = fit_all(softmax.mean(axis=1))(SIZES[2])  # (trials,)
    found = equal_loss(fit_all(diff), fit_all(softmax), loss=np.repeat(level, 3))
    intervals = [paired_interval(row) for row in np.log(found.share).reshape(trials, 3)]
    hits = sum(low <= np.log(0.85) <= high for low, high in intervals)
    assert 0.93 <= hits / trials <= 0.97


def test_the_bootstrap_covers_the_true_share_and_curve():
    diff, softmax = experiments(np.random.default_rng(4), trials := 120)
    draws = [bootstrap_means(*pair, draws=100, seed=i) for i, pair in enumerate(zip(diff, softmax))]
    laws = [fit_all([draw[k] for draw in draws]) for k in (0, 1)]
    level = fit_all(softmax.mean(axis=1))(SIZES[2])
    share = equal_loss(*laws, loss=np.repeat(level, 100)).share.reshape(trials, 100)
    curve = laws[1](0.3).reshape(trials, 100)
    for found, truth in ((share, 0.85), (curve, law(0.3, *TRUTH["softmax"]))):
        low, high = np.percentile(found, (2.5, 97.5), axis=1)
        assert 0.87 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_drawing_three_seeds_instead_would_be_too_narrow():
    """Why the bootstrap pools the deviations of all sizes."""
    rng = np.random.default_rng(5)
    _, softmax = experiments(rng, trials := 120)
    chosen = rng.integers(0, 3, (trials, 100, 3, 1))
    means = np.take_along_axis(softmax[:, None], chosen, axis=2).mean(axis=2)  # (trials, 100, 5)
    low, high = np.percentile(fit_all(means)(0.3).reshape(trials, 100), (2.5, 97.5), axis=1)
    truth = law(0.3, *TRUTH["softmax"])
    assert np.mean((low <= truth) & (truth <= high)) < 0.82


def test_bootstrap_keeps_pairs_together_and_the_size_of_the_noise():
    rng = np.random.default_rng(6)
    a = rng.normal(0, 0.01, (3, 5)) + SIZES
    first, second = bootstrap_means(a, a + 0.5, draws=4000)
    np.testing.assert_allclose(second - first, 0.5)  # one drawn deviation for both
    assert first.mean(axis=0) == pytest.approx(a.mean(axis=0), abs=1e-3)
    within = np.sqrt(a.var(axis=0, ddof=1).mean())
    assert first.std(axis=0) == pytest.approx(within / np.sqrt(3), rel=0.05)
    again = bootstrap_means(a, a + 0.5, draws=4000)
    np.testing.assert_array_equal(first, again[0])
    with pytest.raises(ValueError, match="one seed has no deviations"):
        bootstrap_means(a[:1])
    with pytest.raises(ValueError, match="all inputs are"):
        bootstrap_means(a, a[:2])


# --- Parameters -----------------------------------------------------------------------------


def test_two_ways_to_count():
    config = ModelConfig(256, d_model=32, n_layers=2, n_heads=2)
    counts = parameter_counts(config)
    d, f = 32, config.ffn_width
    body = 2 * (4 * d * d + 3 * d * f + 2 * d) + d  # with two norms a layer, and the last
    assert counts == {"total": body + 2 * 256 * d, "without embeddings": body}
    diff = parameter_counts(ModelConfig(256, d_model=32, n_layers=2, n_heads=2, attention="diff"))
    assert diff["total"] - counts["total"] == 2 * 6 * 16


# --- The paper ------------------------------------------------------------------------------


def paper_laws(name, key, **options):
    entry = paper.load(name)
    return entry, *(fit_law(entry[key], entry[kind], **options) for kind in ("diff", "softmax"))


def test_the_paper_s_three_shares_come_out_of_plain_least_squares():
    entry, diff, softmax = paper_laws("fig3a", "x_params_B")
    for kind, found in (("diff", diff), ("softmax", softmax)):
        assert (found.E, found.a, found.b) == pytest.approx(entry["fit"][kind], rel=0.01)
    first = equal_loss(diff, softmax, loss=diff(6.84))
    assert first.x_baseline == pytest.approx(11, abs=0.05)
    assert first.share == pytest.approx(entry["claims"][0]["share"], abs=0.002)
    second = equal_loss(diff, softmax, loss=softmax(13.12))
    assert second.x == pytest.approx(7.8, abs=0.05)
    assert second.share == pytest.approx(entry["claims"][1]["share"], abs=0.002)
    entry, diff, softmax = paper_laws("fig3b", "x_tokens_B")
    third = equal_loss(diff, softmax, loss=diff(160))
    assert third.x_baseline == pytest.approx(251, abs=1)
    assert third.share == pytest.approx(entry["claims"][0]["share"], abs=0.002)


def test_what_chapter_9_says_of_the_paper_s_points():
    entry, diff, softmax = paper_laws("fig3a", "x_params_B")
    x = np.array(entry["x_params_B"])
    losses = {kind: np.array(entry[kind]) for kind in ("diff", "softmax")}
    # Step 3: both curves miss their points, in the same way, by up to two thirds of the gap.
    misses = [losses["diff"] - diff(x), losses["softmax"] - softmax(x)]
    assert np.corrcoef(*misses)[0, 1] > 0.98
    assert max(np.abs(misses[1])) == pytest.approx(0.018, abs=5e-4)
    assert max(np.abs(misses[1])) / 0.027 == pytest.approx(2 / 3, abs=0.02)
    # Step 4: slope and gap at 6.84 B; the slope falls to about a quarter.
    assert softmax.b * (softmax(6.84) - softmax.E) == pytest.approx(0.061, abs=5e-4)
    assert softmax(6.84) - diff(6.84) == pytest.approx(0.026, abs=5e-4)
    assert softmax.slope(13.12) / softmax.slope(0.83) == pytest.approx(0.26, abs=0.01)
    assert softmax.inverse(diff(13.12)) == pytest.approx(28, abs=0.5)
    # Step 5: one at a time.
    def share(keep, **options):
        laws = [fit_law(x[keep], losses[k][keep], **options) for k in ("diff", "softmax")]
        return float(equal_loss(*laws, loss=laws[0](6.84)).share)

    every = np.arange(5)
    left_out = [share(every != i) for i in range(5)]
    assert left_out == pytest.approx([0.65, 0.62, 0.70, 0.63, 0.35], abs=0.005)
    assert share(every, floor=False) == pytest.approx(0.75, abs=0.006)
    polygon = x / reached(x, losses["softmax"], losses["diff"])
    assert polygon[:4] == pytest.approx([0.82, 0.82, 0.57, 0.75], abs=0.006)
    # Step 7: along the tokens.
    entry, diff, softmax = paper_laws("fig3b", "x_tokens_B")
    x = np.array(entry["x_tokens_B"], dtype=float)
    shares = [float(equal_loss(diff, softmax, loss=diff(t)).share) for t in x]
    assert (shares[0], shares[-1]) == pytest.approx((0.82, 0.19), abs=0.005)
    polygon = x / reached(x, entry["softmax"], entry["diff"])
    assert np.nanmin(polygon) == polygon[3] == pytest.approx(0.55, abs=0.005)
    assert np.nanmax(polygon) == polygon[0] == pytest.approx(0.78, abs=0.005)
    assert polygon[5] == pytest.approx(0.75, abs=0.005) and np.isnan(polygon[6:]).all()


# --- Our runs -------------------------------------------------------------------------------


def judged(law, baseline, loss):
    logs = np.log(equal_loss(law, baseline, loss=loss).share)
    return records.Paired("ln share", "diff", "softmax", tuple(logs), *paired_interval(logs))


def test_what_chapter_9_says_of_our_sizes():
    record = records.load("scaling-cpu")
    assert record.variants == [f"{k}-{w}" for w in WIDTHS for k in ("softmax", "diff")]
    assert [s.verdict for s in record.standing] == [CONTRADICTED, *[NO_DIFFERENCE] * 4]
    assert all(s.difference > 0 and s.seeds == 3 for s in record.standing)
    relative = [100 * s.difference / s.mean_b for s in record.standing]
    assert 0.1 <= min(relative) and max(relative) < 1.05  # the alt text of the last figure
    losses = {
        kind: np.stack([record.values(f"{kind}-{w}", "validation loss") for w in WIDTHS], axis=1)
        for kind in ("diff", "softmax")
    }
    runs = {kind: [record.of(f"{kind}-{w}")[0] for w in WIDTHS] for kind in losses}
    x = {kind: np.array([run.parameters for run in runs[kind]]) / 1e6 for kind in losses}
    counts = [parameter_counts(run.model) for run in runs["softmax"]]
    assert [c["total"] for c in counts] == [run.parameters for run in runs["softmax"]]
    outer = [1 - c["without embeddings"] / c["total"] for c in counts]
    assert (outer[0], outer[-1]) == pytest.approx((0.38, 0.06), abs=0.005)
    assert 830 / x["softmax"][-1] == pytest.approx(780, abs=20)
    assert 10e9 / runs["softmax"][0].tokens == pytest.approx(6000, rel=0.03)
    laws = [fit_law(x[kind], losses[kind]) for kind in losses]
    mean = fit_law(x["softmax"], losses["softmax"].mean(axis=0))
    found = judged(*laws, mean(x["softmax"][2]))
    assert found.verdict("lower") == NO_DIFFERENCE
    assert np.exp(found.low) > 0.622 and np.exp(found.mean) == pytest.approx(1.1, abs=0.02)
    assert judged(*laws, mean(x["softmax"][1])).verdict("lower") == NO_DIFFERENCE
    assert judged(*laws, mean(x["softmax"][3])).verdict("lower") == CONTRADICTED
    pure = [fit_law(x[kind], losses[kind], floor=False) for kind in losses]
    assert judged(*pure, mean(x["softmax"][2])).verdict("lower") == CONTRADICTED
    drawn = bootstrap_means(losses["softmax"], losses["diff"])
    both = fit_law(x["diff"], drawn[1]), fit_law(x["softmax"], drawn[0])
    assert np.percentile(equal_loss(*both, loss=mean(x["softmax"][2])).share, 2.5) > 1
    floors = np.concatenate([law.E for law in laws])
    assert floors.min() < 0.01 and floors.max() > 1


def test_what_chapter_9_says_of_our_tokens():
    record = records.load("lm-cpu")
    steps, diff = record.series("diff", "loss")
    _, softmax = record.series("softmax", "loss")
    laws = [fit_law(steps, values) for values in (diff, softmax)]
    for part in (0.3, 160 / 360, 0.6, 0.8):
        found = judged(*laws, laws[0](part * steps[-1]))
        assert found.verdict("lower") == NO_DIFFERENCE
        assert 0.85 < np.exp(found.low) and np.exp(found.high) < 1.2  # give or take a sixth
