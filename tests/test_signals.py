"""diffbook.signals: every closed form against a simulation, hand values, and a wrong variant."""

from __future__ import annotations

import io
import math
import wave

import numpy as np
import pytest

from diffbook import signals


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- One softmax ----------------------------------------------------------------------------

@pytest.mark.parametrize("n, expected", [(64, 0.034), (256, 0.124), (1024, 0.362), (4096, 0.694),
                                         (16384, 0.901)])
def test_noise_mass_values_and_simulation(n, expected):
    assert signals.noise_mass(n, 8.0, 1.0) == pytest.approx(expected, abs=6e-4)
    simulated = signals.simulate_noise_mass(n, 8.0, 1.0, generator=rng(), trials=100)
    assert simulated.mean() == pytest.approx(expected, abs=4e-3)


def test_noise_mass_is_exact_without_spread():
    for n, m in [(1, 0.0), (7, 2.0), (500, 5.5)]:
        row = np.exp(np.array([m] + [0.0] * n))
        share = 1 - row[0] / row.sum()
        assert signals.noise_mass(n, m) == pytest.approx(share, rel=1e-12)
        assert signals.simulate_noise_mass(n, m, 0.0, generator=rng(), trials=2) == \
            pytest.approx(share, rel=1e-9)


def test_noise_mass_overstates_where_the_docstring_says_so():
    """The annealed formula is an upper bound (Jensen), visibly so for few keys and wide logits."""
    exact = signals.simulate_noise_mass(64, 6.0, 2.0, generator=rng(), trials=4000).mean()
    assert 0.03 < signals.noise_mass(64, 6.0, 2.0) - exact < 0.05
    exact = signals.simulate_noise_mass(16, 4.0, 1.0, generator=rng(), trials=4000).mean()
    assert 0.0 < signals.noise_mass(16, 4.0, 1.0) - exact < 0.01


def test_noise_mass_does_not_overflow():
    assert signals.noise_mass(10, 5000.0) == 0.0
    assert signals.noise_mass(10, -5000.0) == 1.0


def test_half_noise_context_and_margin_invert_noise_mass():
    assert signals.half_noise_context(8.0, 1.0) == pytest.approx(math.exp(7.5))
    assert signals.noise_mass(signals.half_noise_context(6.0, 0.7), 6.0, 0.7) == pytest.approx(0.5)
    n, s, eps = np.array([64, 1024, 65536]), 1.2, 0.1
    margin = signals.required_margin(n, s, eps)
    np.testing.assert_allclose(signals.noise_mass(n, margin, s), eps, rtol=1e-12)
    # The margin grows by ln(ratio of contexts), whatever s and eps.
    np.testing.assert_allclose(np.diff(margin), np.log([16.0, 64.0]))


# --- Electronics ----------------------------------------------------------------------------

def test_difference_amplifier_matches_kirchhoff():
    """Solve the node equations instead of using the formula."""
    r1, r2, r3, r4 = 1000.0, 4700.0, 1100.0, 4500.0

    def output(v_plus, v_minus):
        node = v_plus * r4 / (r3 + r4)          # no current into the op-amp
        return node - (v_minus - node) / r1 * r2  # the inverting node sits at the same voltage

    differential, common = signals.difference_amplifier(r1, r2, r3, r4)
    assert output(0.5, -0.5) == pytest.approx(differential)
    assert output(1.0, 1.0) == pytest.approx(common)
    assert output(0.7, 0.2) == pytest.approx(differential * 0.5 + common * 0.45)


def test_difference_amplifier_textbook_values():
    """2k/200k with 1 % resistors: worst case A_cm 0.04 and 68 dB (Sedra and Smith)."""
    differential, common = signals.difference_amplifier(2e3, 200e3, 2e3, 200e3)
    assert differential == pytest.approx(100.0)
    assert common == pytest.approx(0.0, abs=1e-12)
    t = 0.01
    differential, common = signals.difference_amplifier(
        2e3 * (1 + t), 200e3 * (1 - t), 2e3 * (1 - t), 200e3 * (1 + t))
    assert common == pytest.approx(0.04, abs=1.5e-3)
    assert signals.amplifier_cmrr_db(differential, common) == pytest.approx(68.0, abs=0.25)


def test_amplifier_cmrr():
    assert signals.amplifier_cmrr_db(100.0, 0.1) == pytest.approx(60.0)
    assert signals.amplifier_cmrr_db(1.0, -0.2) == pytest.approx(20 * math.log10(5))
    assert signals.amplifier_cmrr_db(1.0, 0.0) == math.inf
    with pytest.raises(ValueError, match="both gains are 0"):
        signals.amplifier_cmrr_db(0.0, 0.0)


def test_long_tailed_pair_is_a_softmax_and_its_slope_is_the_gain():
    tail, thermal = 1e-3, signals.THERMAL_VOLTAGE
    for plus, minus in [(0.0, 0.0), (0.03, -0.01), (2.02, 2.0), (-0.5, 0.5)]:
        weights = np.exp(np.array([plus, minus]) / thermal - max(plus, minus) / thermal)
        weights /= weights.sum()
        currents = signals.long_tailed_pair(plus, minus, tail)
        np.testing.assert_allclose(currents, tail * weights, rtol=1e-9, atol=1e-18)
        assert sum(currents) == pytest.approx(tail)
    step = 1e-6
    slope = (signals.long_tailed_pair(step / 2, -step / 2, tail)[0]
             - signals.long_tailed_pair(-step / 2, step / 2, tail)[0]) / (2 * step)
    gain, _ = signals.long_tailed_pair_gains(tail, 10e3, 100e3)
    assert slope * 10e3 == pytest.approx(gain, rel=1e-6)


def test_long_tailed_pair_gains_hand_values():
    gain, common = signals.long_tailed_pair_gains(1e-3, 10e3, 100e3)
    assert gain == pytest.approx(96.7, abs=0.05)
    assert common == pytest.approx(0.05, abs=1e-4)
    assert signals.amplifier_cmrr_db(gain, common) == pytest.approx(65.7, abs=0.05)
    _, stiffer = signals.long_tailed_pair_gains(1e-3, 10e3, 1e6)
    assert stiffer < common / 9.9


# --- The law of cosines ---------------------------------------------------------------------

def test_rejection_db_is_the_law_of_cosines():
    x = rng(1).standard_normal(50)
    x /= np.linalg.norm(x)
    y = rng(2).standard_normal(50)
    y /= np.linalg.norm(y)
    for lam in (-0.7, 0.0, 0.3, 1.0, 2.0):
        direct = -10 * math.log10(np.sum((x - lam * y) ** 2))
        assert signals.rejection_db(lam, x @ y) == pytest.approx(direct)


@pytest.mark.parametrize("lam, cost", [(0.2, 0.17), (0.5, 0.97), (0.8, 2.15), (1.0, 3.01)])
def test_unrelated_noise_always_costs(lam, cost):
    assert signals.rejection_db(lam, 0.0) == pytest.approx(-cost, abs=5e-3)
    assert signals.rejection_db(lam, 0.0) == pytest.approx(-10 * math.log10(1 + lam**2))


def test_identical_noise_leaves_one_minus_lambda():
    np.testing.assert_allclose(signals.rejection_db(np.array([0.2, 0.5, 0.8]), 1.0),
                               [1.94, 6.02, 13.98], atol=5e-3)
    assert signals.rejection_db(1.0, 1.0) == math.inf


def test_max_rejection_is_at_lambda_equal_similarity():
    for similarity in (0.0, 0.3, 0.9, -0.4):
        lams = np.linspace(-2, 2, 4001)
        curve = signals.rejection_db(lams, similarity)
        assert lams[curve.argmax()] == pytest.approx(similarity, abs=1e-3)
        assert curve.max() == pytest.approx(signals.max_rejection_db(similarity), abs=1e-5)
    assert signals.max_rejection_db(1.0) == math.inf


# --- Headphones -----------------------------------------------------------------------------

@pytest.mark.parametrize("coherence", [0.0, 0.6, 0.95, 1.0])
def test_headphones_follow_the_law(coherence):
    scene = signals.headphone_scene(coherence, generator=rng(3), seconds=20.0)
    inside, outside = scene.noise_inside, scene.outside
    assert np.corrcoef(inside, outside)[0, 1] == pytest.approx(coherence, abs=0.02)
    for lam in (0.3, coherence, 1.0):
        expected = signals.rejection_db(lam, coherence)
        if math.isfinite(expected):
            measured = 10 * np.log10(np.mean(inside**2) / np.mean((inside - lam * outside) ** 2))
            assert measured == pytest.approx(expected, abs=0.25)
    np.testing.assert_allclose(scene.inside - inside, scene.music, atol=1e-12)
    assert np.mean(scene.music**2) == pytest.approx(1.0)
    assert 10 * np.log10(np.mean(inside**2)) == pytest.approx(6.0)


def test_headphone_scene_is_reproducible_and_the_right_length():
    first = signals.headphone_scene(0.9, generator=rng(5), seconds=1.5, rate=8000)
    second = signals.headphone_scene(0.9, generator=rng(5), seconds=1.5, rate=8000)
    np.testing.assert_array_equal(first.inside, second.inside)
    assert first.inside.shape == first.outside.shape == (12000,)


def test_wav_round_trip_and_clipping():
    sound = np.array([0.0, 0.37, -1.1, 2.0])
    with wave.open(io.BytesIO(signals.wav_bytes(sound, 8000, full_scale=2.0))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        read = np.frombuffer(file.readframes(4), dtype="<i2")
    np.testing.assert_allclose(read / 32767 * 2.0, sound, atol=1e-4)
    # What another processor may change in the last bits does not reach the file.
    assert signals.wav_bytes(sound * (1 + 1e-12), 8000, full_scale=2.0 + 1e-11) == \
        signals.wav_bytes(sound, 8000, full_scale=2.0)
    with pytest.raises(ValueError, match="raise it to avoid clipping"):
        signals.wav_bytes(sound, 8000, full_scale=1.9)
    with pytest.raises(ValueError, match="one channel"):
        signals.wav_bytes(np.zeros((2, 4)), 8000, full_scale=1.0)


# --- Two maps: noise ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pairs() -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Maps without an answer, s = 1, n = 4096, for each rho of the table."""
    return {rho: signals.simulate_maps(4096, rho, 1.0, generator=rng(7), trials=64)
            for rho in (0.0, 0.5, 0.9, 0.99, 1.0)}


CMRR_TABLE = {  # s = 1: dB at lam .2 .5 .8 1, best lam, max dB
    0.0: (0.49, 0.54, -0.22, -1.02, 0.37, 0.6),
    0.5: (0.98, 1.91, 1.75, 1.05, 0.61, 2.0),
    0.9: (1.68, 4.6, 7.1, 7.2, 0.90, 7.4),
    0.99: (1.91, 5.85, 12.5, 17.0, 0.99, 17.0),
    1.0: (1.94, 6.02, 13.98, math.inf, 1.0, math.inf),
}


@pytest.mark.parametrize("rho", CMRR_TABLE)
def test_cmrr_table_and_simulation(rho, pairs):
    *row, lam_best, most = CMRR_TABLE[rho]
    for lam, expected in zip((0.2, 0.5, 0.8, 1.0), row):
        theory = signals.cmrr_db(lam, rho, 1.0)
        assert theory == pytest.approx(expected, abs=0.07)
        measured = signals.measure_rejection_db(*pairs[rho], lam)
        assert measured == pytest.approx(theory, abs=0.12)
    assert signals.best_lambda(rho, 1.0) == pytest.approx(lam_best, abs=6e-3)
    assert signals.max_cmrr_db(rho, 1.0) == pytest.approx(most, abs=0.05)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.99])
def test_similarity_of_simulated_maps(rho, pairs):
    cosine, correlation = signals.measure_similarity(*pairs[rho])
    assert cosine == pytest.approx(signals.noise_cosine(rho, 1.0), abs=0.01)
    assert correlation == pytest.approx(signals.noise_correlation(rho, 1.0), abs=0.01)


def test_similarity_hand_values_and_limits():
    assert signals.noise_cosine(0.0, 1.0) == pytest.approx(math.exp(-1))
    assert signals.noise_correlation(0.0, 1.0) == 0.0
    assert signals.noise_correlation(0.5, 1.0) == pytest.approx(
        (math.exp(0.5) - 1) / (math.e - 1))
    assert signals.noise_correlation(1.0, 3.0) == pytest.approx(1.0)
    np.testing.assert_allclose(signals.noise_correlation(np.array([-0.3, 0.4]), 0.0), [-0.3, 0.4])
    assert signals.noise_correlation(0.4, 1e-4) == pytest.approx(0.4, abs=1e-6)
    assert signals.noise_cosine(0.2, 0.0) == 1.0


def test_finite_maps_are_more_alike_than_the_formula_for_wide_logits():
    """The stated limit of the approximation: s = 2 is out of reach at n = 4096."""
    maps = signals.simulate_maps(4096, 0.5, 2.0, generator=rng(11), trials=64)
    assert signals.measure_similarity(*maps)[0] > signals.noise_cosine(0.5, 2.0) + 0.05


def test_noise_energy_simulated_with_different_shares():
    n, rho, s, p1, p2 = 4096, 0.7, 0.8, 0.4, 0.15
    a1, a2 = signals.simulate_maps(n, rho, s, generator=rng(13), p1=p1, p2=p2, trials=64)
    np.testing.assert_allclose(a1.sum(axis=1), 1.0)
    np.testing.assert_allclose(a2[:, 0], p2)
    for lam in (0.0, 0.3, 0.9, -0.5):
        measured = n * np.mean(np.sum((a1 - lam * a2)[:, 1:] ** 2, axis=1))
        assert measured == pytest.approx(
            signals.noise_energy(lam, rho, s, p1=p1, p2=p2), rel=0.02)


def test_noise_energy_equals_the_textbook_form():
    """E = (A-B)² + (A²+B²) v - 2ABc, the form with mean and fluctuations apart."""
    lam, rho, s, p1, p2 = 0.6, 0.4, 1.1, 0.3, 0.1
    a, b = 1 - p1, lam * (1 - p2)
    v, c = math.exp(s**2) - 1, math.exp(rho * s**2) - 1
    expected = (a - b) ** 2 + (a * a + b * b) * v - 2 * a * b * c
    assert signals.noise_energy(lam, rho, s, p1=p1, p2=p2) == pytest.approx(expected)
    # Signal-free maps of the same share: the CMRR is the ratio of energies.
    ratio = signals.noise_energy(0.0, rho, s) / signals.noise_energy(lam, rho, s)
    assert signals.cmrr_db(lam, rho, s) == pytest.approx(10 * math.log10(ratio))


def test_best_lambda_minimizes_the_energy_and_twice_it_breaks_even():
    for rho, s, p1, p2 in [(0.0, 1.0, 0.0, 0.0), (0.8, 0.7, 0.5, 0.1), (0.95, 1.5, 0.1, 0.4)]:
        best = signals.best_lambda(rho, s, p1=p1, p2=p2)
        shares = {"p1": p1, "p2": p2}
        least = signals.noise_energy(best, rho, s, **shares)
        assert least < signals.noise_energy(best + 0.01, rho, s, **shares)
        assert least < signals.noise_energy(best - 0.01, rho, s, **shares)
        alone = signals.noise_energy(0.0, rho, s, **shares)
        threshold = signals.over_subtraction_threshold(rho, s, **shares)
        assert signals.noise_energy(threshold, rho, s, **shares) == pytest.approx(alone)
        assert signals.noise_energy(threshold * 1.01, rho, s, **shares) > alone
        # Without the factor 2 the "threshold" would be the optimum: far from breaking even.
        assert signals.noise_energy(threshold / 2, rho, s, **shares) < 0.95 * alone


def test_over_subtraction_in_simulated_maps(pairs):
    threshold = signals.over_subtraction_threshold(0.0, 1.0)
    assert threshold == pytest.approx(0.736, abs=1e-3)
    assert signals.measure_rejection_db(*pairs[0.0], threshold - 0.05) > 0
    assert signals.measure_rejection_db(*pairs[0.0], threshold + 0.05) < 0


def test_output_noise_energy_or_fluctuation_depends_on_the_values():
    """Independent zero-mean values read out the energy, values centered in the row the variance."""
    n, rho, s, lam, channels = 1024, 0.0, 1.0, 0.8, 2000
    a1, a2 = (a[:, 1:] for a in signals.simulate_maps(n, rho, s, generator=rng(17), trials=128))
    values = rng(18).standard_normal((n, channels))

    def gain(v):
        return 10 * math.log10(np.mean((a1 @ v) ** 2) / np.mean(((a1 - lam * a2) @ v) ** 2))

    assert gain(values) == pytest.approx(signals.cmrr_db(lam, rho, s), abs=0.2)
    centered = values - values.mean(axis=0)
    assert gain(centered) == pytest.approx(signals.variance_rejection_db(lam, rho, s), abs=0.2)
    assert signals.cmrr_db(lam, rho, s) - signals.variance_rejection_db(lam, rho, s) > 1.5


def test_coherent_values_cancel_for_any_correlation():
    p1, p2 = 0.3, 0.1
    lam = (1 - p1) / (1 - p2)
    assert signals.coherent_leakage(lam, p1=p1, p2=p2) == pytest.approx(0.0, abs=1e-12)
    for rho in (0.0, 0.9):
        a1, a2 = signals.simulate_maps(500, rho, 1.0, generator=rng(), p1=p1, p2=p2, trials=3)
        for at in (0.0, 0.4, lam):
            noise = (a1 - at * a2)[:, 1:].sum(axis=1)
            np.testing.assert_allclose(
                noise, signals.coherent_leakage(at, p1=p1, p2=p2), atol=1e-12)


def test_row_mass_adds_up():
    total, answer, noise = signals.row_mass(0.8, p1=0.3, p2=0.1)
    assert (total, answer) == (pytest.approx(0.2), pytest.approx(0.22))
    assert noise == pytest.approx(-0.02)  # the noise keys together weigh less than nothing
    assert signals.row_mass(0.5)[0] == 0.5


# --- Two maps: signal -----------------------------------------------------------------------

SNR_TABLE = {  # (p2, rho) -> dB at lam .2 .5 .7 .8 1; p1 = .3, s = 1
    (0.0, 0.0): (0.6, 0.1, -1.0, -1.7, -3.0),
    (0.0, 0.9): (2.5, 6.7, 7.3, 6.3, 3.4),
    (0.0, 1.0): (2.9, 10.9, math.inf, 16.9, 7.4),
    (0.1, 0.9): (1.6, 4.5, 5.2, 4.5, 1.4),
    (0.3, 0.9): (-0.3, -1.4, -3.9, -6.8, -math.inf),
    (0.3, 0.0): (-1.4, -5.5, -10.3, -14.2, -math.inf),
}


@pytest.mark.parametrize("p2, rho", SNR_TABLE)
def test_snr_gain_table_and_simulation(p2, rho):
    a1, a2 = signals.simulate_maps(1024, rho, 1.0, generator=rng(19), p1=0.3, p2=p2, trials=200)
    for lam, expected in zip((0.2, 0.5, 0.7, 0.8, 1.0), SNR_TABLE[p2, rho]):
        theory = signals.snr_gain_db(lam, rho, 1.0, p1=0.3, p2=p2)
        measured = signals.measure_snr_gain_db(a1, a2, lam)
        if expected == math.inf:  # the noise cancels to the last bit or nearly so
            assert theory > 100
            assert measured > 100
        else:
            assert theory == pytest.approx(expected, abs=0.16)
            assert measured == pytest.approx(theory, abs=0.2)


def test_small_subtraction_helps_iff_map2_resembles_noise_more_than_signal():
    outcomes = set()
    for p1, p2, rho, s in [(0.3, 0.1, 0.9, 1.0), (0.3, 0.3, 0.9, 1.0), (0.5, 0.2, 0.0, 0.5),
                           (0.2, 0.15, 0.5, 1.2), (0.4, 0.35, 0.99, 0.3)]:
        helps = (1 - p2) / (1 - p1) * math.exp(-(1 - rho) * s**2) > p2 / p1
        assert (signals.snr_gain_db(0.01, rho, s, p1=p1, p2=p2) > 0) == helps
        assert (signals.best_snr_lambda(rho, s, p1=p1, p2=p2) > 0) == helps
        outcomes.add(helps)
    assert outcomes == {True, False}


def test_best_snr_lambda_is_the_maximum_and_may_be_negative():
    lams = np.linspace(-3, 3, 6001)
    for p1, p2, rho, s in [(0.3, 0.0, 0.9, 1.0), (0.3, 0.1, 0.9, 1.0), (0.3, 0.3, 0.0, 1.0),
                           (0.3, 0.2, 0.2, 0.8)]:
        curve = signals.snr_gain_db(lams, rho, s, p1=p1, p2=p2)
        best = signals.best_snr_lambda(rho, s, p1=p1, p2=p2)
        assert lams[curve.argmax()] == pytest.approx(best, abs=2e-3)
        assert curve.max() == pytest.approx(
            signals.max_snr_gain_db(rho, s, p1=p1, p2=p2), abs=1e-4)
    # Two equally good, independently noisy maps: average them.
    assert signals.best_snr_lambda(0.0, 1.0, p1=0.3, p2=0.3) == pytest.approx(-1.0)
    assert signals.max_snr_gain_db(0.0, 1.0, p1=0.3, p2=0.3) == pytest.approx(
        10 * math.log10(2 / (1 + math.exp(-1))))


def test_cmrr_hides_what_the_snr_shows():
    """Twice the same map: 14 dB less noise, no better signal-to-noise ratio."""
    assert signals.cmrr_db(0.8, 1.0, 1.0) == pytest.approx(13.98, abs=5e-3)
    assert signals.snr_gain_db(0.8, 1.0, 1.0, p1=0.3, p2=0.3) == pytest.approx(0.0, abs=1e-9)


ANSWER_SHARE = {  # rho -> share at lam .2 .5 .8 1; p1 = .3, p2 = 0, s = 1
    0.0: (0.336, 0.319, 0.277, 0.248),
    0.9: (0.375, 0.528, 0.520, 0.436),
    0.99: (0.375, 0.599, 0.715, 0.500),
}


@pytest.mark.parametrize("rho", ANSWER_SHARE)
def test_answer_share_and_signs(rho):
    a1, a2 = signals.simulate_maps(4096, rho, 1.0, generator=rng(23), p1=0.3, trials=32)
    for lam, expected in zip((0.2, 0.5, 0.8, 1.0), ANSWER_SHARE[rho]):
        theory = signals.answer_share(lam, rho, 1.0, p1=0.3)
        assert theory == pytest.approx(expected, abs=1.5e-3)
        assert signals.measure_answer_share(a1, a2, lam) == pytest.approx(theory, abs=4e-3)
        negative = np.mean((a1 - lam * a2)[:, 1:] < 0)
        assert negative == pytest.approx(
            signals.negative_share(lam, rho, 1.0, p1=0.3), abs=6e-3)
    assert signals.measure_answer_share(a1, a2, 0.0) == pytest.approx(0.3)


def test_negative_share_hand_value():
    assert signals.negative_share(1.0, 0.3, 1.4) == pytest.approx(0.5)  # equal maps: a fair coin
    assert signals.negative_share(0.5, 0.0, 1.0) == pytest.approx(0.312, abs=1e-3)


# --- Input ----------------------------------------------------------------------------------

def test_arguments_broadcast_and_floats_stay_scalars():
    grid = signals.cmrr_db(np.array([0.2, 0.5])[:, None], np.array([0.0, 0.9, 1.0]), 1.0)
    assert grid.shape == (2, 3)
    assert grid[1, 1] == signals.cmrr_db(0.5, 0.9, 1.0)
    assert isinstance(signals.cmrr_db(0.5, 0.9, 1.0), float)
    assert isinstance(signals.noise_mass(10, 2.0), float)
    assert signals.max_cmrr_db(np.array([0.0, 1.0]), 1.0).shape == (2,)
    assert signals.negative_share(np.array([0.2, 0.5]), 0.0, 1.0).shape == (2,)


@pytest.mark.parametrize("call, message", [
    (lambda: signals.noise_mass(0, 1.0), r"n must lie in \[1, inf\), got 0: give the number"),
    (lambda: signals.noise_mass(5, float("nan")), "m must be finite"),
    (lambda: signals.noise_mass(5, 1.0, -1.0), "s must lie in .* got -1.0: give a standard"),
    (lambda: signals.required_margin(5, 0.0, 1.0), "eps must lie in"),
    (lambda: signals.noise_cosine(1.2, 1.0), "rho must lie in .* got 1.2: give a correlation"),
    (lambda: signals.rejection_db(0.5, 1.5), "similarity must lie in"),
    (lambda: signals.rejection_db(math.inf, 0.5), "lam must be finite"),
    (lambda: signals.best_lambda(0.0, 1.0, p1=0.0, p2=1.0), "p2 must lie in .* below 1"),
    (lambda: signals.snr_gain_db(0.5, 0.0, 1.0, p1=0.0, p2=0.0), "p1 must lie in .* above 0"),
    (lambda: signals.snr_gain_db(1.0, 1.0, 1.0, p1=0.3, p2=0.3), "both vanish"),
    (lambda: signals.best_snr_lambda(1.0, 1.0, p1=0.3, p2=0.3), "no finite best lam"),
    (lambda: signals.max_snr_gain_db(1.0, 1.0, p1=0.3, p2=0.0), "no finite maximum"),
    (lambda: signals.negative_share(0.0, 0.0, 1.0), "lam above 0"),
    (lambda: signals.answer_share(0.5, 1.0, 1.0, p1=0.3), "rho below 1"),
    (lambda: signals.simulate_maps(16, 0.0, 1.0, generator=7), r"default_rng\(seed\)"),
    (lambda: signals.simulate_maps(1.5, 0.0, 1.0, generator=rng()), "n must be a whole number"),
    (lambda: signals.measure_similarity(np.ones((2, 4)), np.ones((2, 5))), "column 0 is the"),
    (lambda: signals.measure_similarity(np.ones((1, 4)), np.ones((1, 4))), "constant or zero"),
    (lambda: signals.measure_snr_gain_db(np.zeros((1, 4)), np.ones((1, 4)), 0.5), "column 0"),
    (lambda: signals.difference_amplifier(0.0, 1.0, 1.0, 1.0), "r1 must lie in"),
    (lambda: signals.long_tailed_pair(0.0, 0.0, -1.0), "tail_current must lie in"),
    (lambda: signals.headphone_scene(1.1, generator=rng()), "coherence must lie in"),
    (lambda: signals.headphone_scene(0.5, generator=rng(), rate=1000), "rate must be at least"),
    (lambda: signals.headphone_scene(0.5, generator=rng(), seconds=1e4), "seconds must lie in"),
])
def test_bad_input_is_named_with_a_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
