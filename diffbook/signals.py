"""Signal and noise: closed forms, and the simulations that check them (NumPy only).

Three parts, for chapters 1 and 2:

* the noise of one softmax: how much attention irrelevant tokens take, and how that grows with n;
* the differential amplifier, electronic and acoustic: difference amplifier, long-tailed pair,
  noise-cancelling headphones;
* two attention maps and their difference ``a1 - lam * a2``: noise rejection, signal-to-noise
  ratio, signs.

The noise model of the third part, for one query row: map ``i`` gives the answer the share ``p_i``
and spreads ``1 - p_i`` over ``n`` irrelevant keys in proportion to ``exp(s * g_i)``. ``g_1`` and
``g_2`` are standard normal over the keys, with correlation ``rho``. So ``s`` is the standard
deviation of the irrelevant logits, and ``rho`` says how alike the two maps' noise logits are.

Conventions: a power ratio in dB is ``10 log10`` of it, and a *rejection* or a *gain* is positive
when the subtraction helps. Arguments broadcast: floats in, a float out; arrays in, an array out.
Randomness always comes from a ``numpy.random.Generator`` that the caller passes.
"""

from __future__ import annotations

import io
import math
import wave
from dataclasses import dataclass
from typing import Any

import numpy as np

# A float where every argument was a float, else an array of the broadcast shape.
Real = Any

#: Thermal voltage kT/q at 300 K, in volts.
THERMAL_VOLTAGE = 0.02585


# --- Input checks ---------------------------------------------------------------------------

def _checked(name: str, value: Any, low: float, high: float, hint: str, open_low: bool = False,
             open_high: bool = False) -> np.ndarray:
    """``value`` as float64 array, or a ValueError that names it, its range and the remedy."""
    numbers = np.asarray(value, dtype=np.float64)
    above = numbers > low if open_low else numbers >= low
    below = numbers < high if open_high else numbers <= high
    if not np.all(above & below):  # false for NaN too
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}{right}, got {value}: {hint}")
    return numbers


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}: give an int")
    return int(value)


def _finite(name: str, value: Any) -> np.ndarray:
    numbers = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} must be finite, got {value}: give a real number")
    return numbers


def _keys(n: Any) -> np.ndarray:
    return _checked("n", n, 1.0, np.inf, "give the number of irrelevant keys, 1 or more",
                    open_high=True)


def _spread(s: Any) -> np.ndarray:
    return _checked("s", s, 0.0, np.inf, "give a standard deviation of logits, 0 or more",
                    open_high=True)


def _rho(rho: Any) -> np.ndarray:
    return _checked("rho", rho, -1.0, 1.0, "give a correlation between -1 and 1")


def _share(name: str, share: Any) -> np.ndarray:
    return _checked(name, share, 0.0, 1.0, "give the answer's share of one map, below 1",
                    open_high=True)


def _generator(generator: Any) -> np.random.Generator:
    if not isinstance(generator, np.random.Generator):
        raise ValueError(
            f"generator must be a numpy.random.Generator, got {generator!r}: "
            "pass numpy.random.default_rng(seed)"
        )
    return generator


def _db(power_ratio: Any) -> Real:
    """10 log10, with +inf or -inf where the ratio is infinite or zero."""
    with np.errstate(divide="ignore"):
        return (10.0 * np.log10(power_ratio))[()]


# --- One softmax (chapter 1) ----------------------------------------------------------------

def noise_mass(n: Any, m: Any, s: Any = 0.0) -> Real:
    """Share of attention that ``n`` irrelevant keys take from one relevant key.

    ``n e^(s²/2) / (n e^(s²/2) + e^m)``: one relevant logit ``m``, ``n`` irrelevant logits drawn
    from a normal distribution with mean 0 and standard deviation ``s``.

    Exact for ``s = 0``. For ``s > 0`` the sum over the noise keys is replaced by its mean
    ("annealed"), which needs ``n`` well above ``e^(s²)``. The formula then gives slightly too much:
    by less than 0.01 for ``s <= 1`` (any ``n >= 16``), for ``s = 1.5`` from ``n = 256`` and for
    ``s = 2`` from ``n = 1024``; by up to 0.04 at ``s = 2, n = 64``. Source: chapter 1.

    Args:
        n: number of irrelevant keys, 1 or more.
        m: logit margin of the relevant key over the mean irrelevant one, in nats.
        s: standard deviation of the irrelevant logits, in nats.

    Returns:
        a share between 0 and 1.
    """
    excess = _finite("m", m) - _spread(s) ** 2 / 2 - np.log(_keys(n))
    return np.exp(-np.logaddexp(0.0, excess))[()]  # 1 / (1 + e^excess), without overflow


def half_noise_context(m: Any, s: Any = 0.0) -> Real:
    """Number of irrelevant keys at which half of the attention is noise: ``e^(m - s²/2)``.

    Args and validity as in :func:`noise_mass`. Source: chapter 1.
    """
    return np.exp(_finite("m", m) - _spread(s) ** 2 / 2)[()]


def required_margin(n: Any, s: Any = 0.0, eps: Any = 0.5) -> Real:
    """Logit margin at which the noise takes no more than ``eps`` of the attention, in nats.

    ``ln n + s²/2 + ln((1 - eps)/eps)``: it has to grow with the logarithm of the context.
    The inverse of :func:`noise_mass`, with the same validity. Source: chapter 1.
    """
    share = _checked("eps", eps, 0.0, 1.0, "give the tolerated share of noise",
                     open_low=True, open_high=True)
    return (np.log(_keys(n)) + _spread(s) ** 2 / 2 + np.log((1 - share) / share))[()]


def simulate_noise_mass(n: int, m: float, s: float, *, generator: np.random.Generator,
                        trials: int = 200) -> np.ndarray:
    """Draw ``trials`` softmax rows and return the noise mass of each, shape ``(trials,)``.

    The simulation beside :func:`noise_mass`; compare with the mean over the trials.
    """
    n, trials = _count("n", n), _count("trials", trials)
    noise = float(_spread(s)) * _generator(generator).standard_normal((trials, n))
    relevant = np.full((trials, 1), float(_finite("m", m)))
    logits = np.concatenate([relevant, noise], axis=1)               # (trials, 1 + n)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1.0 - weights[:, 0] / weights.sum(axis=1)


# --- The electronic differential amplifier (chapter 2) --------------------------------------

def _resistance(name: str, value: Any) -> np.ndarray:
    return _checked(name, value, 0.0, np.inf, "give a resistance in ohms above 0",
                    open_low=True, open_high=True)


def difference_amplifier(r1: Any, r2: Any, r3: Any, r4: Any) -> tuple[Real, Real]:
    """Differential and common-mode gain of the classic four-resistor op-amp circuit.

    The inverting input is reached through ``r1`` with feedback ``r2``, the other one through
    ``r3`` with ``r4`` to ground. An ideal op-amp gives
    ``v_out = P v_plus - N v_minus`` with ``N = r2/r1`` and ``P = (1 + r2/r1) r4/(r3 + r4)``.

    Returns:
        ``((P + N)/2, P - N)``: the gain for the difference and the gain for the mean of the
        inputs. The second is zero only if ``r2/r1 = r4/r3``. Source: chapter 2.
    """
    r1, r2 = _resistance("r1", r1), _resistance("r2", r2)
    r3, r4 = _resistance("r3", r3), _resistance("r4", r4)
    minus = r2 / r1
    plus = (1 + minus) * r4 / (r3 + r4)
    return ((plus + minus) / 2)[()], (plus - minus)[()]


def amplifier_cmrr_db(gain_differential: Any, gain_common: Any) -> Real:
    """Common-mode rejection ratio ``20 log10 |A_d / A_cm|`` in dB; infinite for ``A_cm = 0``."""
    differential = _finite("gain_differential", gain_differential)
    common = _finite("gain_common", gain_common)
    if np.any((differential == 0) & (common == 0)):
        raise ValueError("both gains are 0, their ratio is undefined: give an amplifier that "
                         "amplifies something")
    with np.errstate(divide="ignore"):
        return _db((differential / common) ** 2)


def long_tailed_pair(v_plus: Any, v_minus: Any, tail_current: Any,
                     thermal_voltage: Any = THERMAL_VOLTAGE) -> tuple[Real, Real]:
    """Currents through the two transistors of a bipolar long-tailed pair, in amperes.

    ``i = tail_current * softmax([v_plus, v_minus] / thermal_voltage)``: two exponential devices
    share one fixed current. The difference is ``tail_current * tanh((v_plus - v_minus) / 2V_T)``.
    Holds for ideal, matched transistors with an ideal tail source and no base current. Volts,
    amperes. Source: chapter 2.
    """
    tail = _checked("tail_current", tail_current, 0.0, np.inf, "give a current above 0",
                    open_low=True, open_high=True)
    thermal = _checked("thermal_voltage", thermal_voltage, 0.0, np.inf,
                       "give a voltage above 0, about 0.026 at room temperature",
                       open_low=True, open_high=True)
    half = (_finite("v_plus", v_plus) - _finite("v_minus", v_minus)) / (2 * thermal)
    swing = np.tanh(half)
    return (tail * (1 + swing) / 2)[()], (tail * (1 - swing) / 2)[()]


def long_tailed_pair_gains(tail_current: Any, r_collector: Any, r_tail: Any,
                           thermal_voltage: Any = THERMAL_VOLTAGE) -> tuple[Real, Real]:
    """Small-signal voltage gains of the pair, output at one collector (magnitudes).

    With ``g = tail_current / (2 V_T)`` per transistor: differential ``g r_collector / 2`` and
    common-mode ``g r_collector / (1 + 2 g r_tail)``, so the rejection ``(1 + 2 g r_tail)/2`` is set
    by the stiffness of the tail. Large current gain assumed; ohms, amperes. Source: chapter 2.
    """
    tail = _checked("tail_current", tail_current, 0.0, np.inf, "give a current above 0",
                    open_low=True, open_high=True)
    thermal = _checked("thermal_voltage", thermal_voltage, 0.0, np.inf, "give a voltage above 0",
                       open_low=True, open_high=True)
    collector, stiffness = _resistance("r_collector", r_collector), _resistance("r_tail", r_tail)
    g = tail / (2 * thermal)
    return (g * collector / 2)[()], (g * collector / (1 + 2 * g * stiffness))[()]


# --- The one law behind every subtraction (chapter 2) ---------------------------------------

def rejection_db(lam: Any, similarity: Any) -> Real:
    """How far ``x1 - lam * x2`` lies below ``x1``: ``-10 log10(1 + lam² - 2 lam similarity)``.

    For two noises of equal energy this is the law of cosines; ``similarity`` is the cosine of the
    angle between them: coherence of two microphones, cosine or correlation of two noise maps.
    Positive dB = less noise than before. At ``similarity = 0`` any ``lam`` costs
    ``10 log10(1 + lam²)``: 0.17, 0.97, 2.15, 3.01 dB at 0.2, 0.5, 0.8, 1. Exact. Source: chapter 2.

    Args:
        lam: how much of the second signal is subtracted; any real number.
        similarity: in [-1, 1].
    """
    lam = _finite("lam", lam)
    cosine = _checked("similarity", similarity, -1.0, 1.0, "give a cosine or a correlation")
    # (1 - lam)² + 2 lam (1 - cosine) is the same sum without cancellation near lam = cosine = 1.
    with np.errstate(divide="ignore"):
        return _db(1.0 / np.maximum((1 - lam) ** 2 + 2 * lam * (1 - cosine), 0.0))


def max_rejection_db(similarity: Any) -> Real:
    """The most a subtraction can reject, at ``lam = similarity``: ``-10 log10(1 - similarity²)``.

    Exact, for noises of equal energy; infinite for identical ones. For headphones this is the
    coherence limit of active noise control (Kuo and Morgan 1999, doi:10.1109/5.763310).
    """
    cosine = _checked("similarity", similarity, -1.0, 1.0, "give a cosine or a correlation")
    with np.errstate(divide="ignore"):
        return _db(1.0 / ((1 - cosine) * (1 + cosine)))


# --- Headphones one can listen to (chapter 2) -----------------------------------------------

@dataclass(frozen=True)
class HeadphoneScene:
    """Sound at two microphones: arrays of shape ``(samples,)``, all on one scale.

    ``inside`` (at the ear) is ``music + noise_inside``; ``outside`` (on the shell) hears only the
    cabin noise. ``inside - lam * outside`` is what the simplest headphones would let you hear.
    """

    music: np.ndarray
    noise_inside: np.ndarray
    outside: np.ndarray
    rate: int

    @property
    def inside(self) -> np.ndarray:
        """Music plus the noise at the ear."""
        return self.music + self.noise_inside


def _melody(samples: int, rate: int) -> np.ndarray:
    """A rising arpeggio of plucked notes, root mean square 1."""
    notes = [261.63, 329.63, 392.00, 523.25, 659.26, 523.25, 392.00, 523.25]  # C E G C E C G C
    time = np.arange(samples) / rate
    length = samples / rate / len(notes)
    sound = np.zeros(samples)
    for index, pitch in enumerate(notes):
        since = time - index * length
        envelope = np.where(since >= 0, np.exp(-6.0 * np.maximum(since, 0.0)), 0.0)
        envelope *= np.minimum(np.maximum(since, 0.0) / 0.01, 1.0)  # 10 ms attack: no click
        for partial, strength in ((1, 1.0), (2, 0.4), (3, 0.2)):
            sound += strength * envelope * np.sin(2 * np.pi * partial * pitch * since)
    return sound / np.sqrt(np.mean(sound**2))


def _cabin_noise(samples: int, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise with an engine-like spectrum (most of it below 500 Hz), RMS 1."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    spectrum *= (frequency > 60) / (1 + (frequency / 350) ** 2)
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def headphone_scene(coherence: float, *, generator: np.random.Generator, seconds: float = 2.0,
                    rate: int = 8000, noise_db: float = 6.0) -> HeadphoneScene:
    """Music and cabin noise at the two microphones of a pair of headphones.

    The two noises have the same spectrum, the same power and correlation ``coherence`` at every
    frequency (in expectation; a finite clip differs by about one over the square root of its
    independent samples). No delay and no filtering by the shell: a real pair has both, and adapts a
    filter to them. Music has root mean square 1, noise ``noise_db`` dB more.

    Args:
        coherence: in [0, 1]; 1 means that both microphones hear the same noise.
        generator: source of the noise.
        seconds: length, up to 30.
        rate: samples per second, 4000 or more.
        noise_db: power of the noise relative to the music, in dB.
    """
    gamma = float(_checked("coherence", coherence, 0.0, 1.0, "give the coherence of the noises"))
    length = float(_checked("seconds", seconds, 0.1, 30.0, "give a short clip"))
    if _count("rate", rate) < 4000:
        raise ValueError(f"rate must be at least 4000 samples per second, got {rate}: the melody "
                         "reaches 1978 Hz")
    random = _generator(generator)
    samples = round(length * rate)
    level = 10 ** (float(_finite("noise_db", noise_db)) / 20)
    common = _cabin_noise(samples, rate, random)
    own = _cabin_noise(samples, rate, random)
    return HeadphoneScene(
        music=_melody(samples, rate),
        noise_inside=level * common,
        outside=level * (gamma * common + math.sqrt(1 - gamma**2) * own),
        rate=rate,
    )


def wav_bytes(samples: Any, rate: int, *, full_scale: float) -> bytes:
    """A mono 16-bit WAV file: ``samples`` of shape ``(n,)``, ``full_scale`` is the loudest value.

    Give clips that are to be compared the same ``full_scale``: players then keep their loudness
    apart. Rounding to 16 bits hides last-bit differences between processors: the bytes are the
    same everywhere.

    Raises:
        ValueError: where a sample exceeds ``full_scale`` (it would be clipped).
    """
    sound = _finite("samples", samples)
    if sound.ndim != 1:
        raise ValueError(f"samples must have shape (n,), got {sound.shape}: give one channel")
    if not full_scale >= np.abs(sound).max(initial=0.0) or full_scale <= 0:
        raise ValueError(f"full_scale={full_scale} is below the loudest sample "
                         f"{np.abs(sound).max(initial=0.0):.3g}: raise it to avoid clipping")
    steps = np.rint(sound / full_scale * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_count("rate", rate))
        file.writeframes(steps.tobytes())
    return buffer.getvalue()


# --- Two attention maps: how alike is their noise? (chapter 2) ------------------------------

def noise_cosine(rho: Any, s: Any) -> Real:
    """Cosine similarity of two noise maps (about zero): ``e^(-(1 - rho) s²)``.

    It counts the even floor ``1/n`` that all softmax maps share, so even independent maps
    (``rho = 0``) have ``e^(-s²)``, not 0. Holds for large ``n``, and the larger ``s`` the larger:
    a sum of ``e^(2 s g)`` has a heavy tail. Within 0.01 for ``s = 0.5`` from ``n = 64`` and for
    ``s = 1`` from ``n = 256``; for ``s = 1.5`` still 0.02 off at ``n = 4096``; for ``s = 2`` no
    common context is long enough. Finite maps are more alike than the formula says.
    Source: chapter 2.
    """
    return np.exp(-(1 - _rho(rho)) * _spread(s) ** 2)[()]


def noise_correlation(rho: Any, s: Any) -> Real:
    """Pearson correlation of two noise maps: ``(e^(rho s²) - 1) / (e^(s²) - 1)``; ``rho`` at s = 0.

    Below ``rho`` for positive ``rho``: the exponential pulls correlated logits apart. Validity as
    in :func:`noise_cosine`. Source: chapter 2.
    """
    rho, s = np.broadcast_arrays(_rho(rho), _spread(s))
    variance = s**2
    flat = variance < 1e-12
    safe = np.where(flat, 1.0, variance)
    return np.where(flat, rho, np.expm1(rho * safe) / np.expm1(safe))[()]


def noise_energy(lam: Any, rho: Any, s: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> Real:
    """``n`` times the expected energy of the noise in the row ``a1 - lam * a2``.

    ``E(lam) = (A² + B²) e^(s²) - 2 A B e^(rho s²)`` with ``A = 1 - p1``, ``B = lam (1 - p2)``;
    divide by ``n`` for the sum of squares over the ``n`` noise keys. For values that are
    independent with mean 0 and variance 1 this is ``n`` times the variance of the head's output
    noise, in each channel. Validity as in :func:`noise_cosine`. Source: chapter 2.
    """
    keep, remove = 1 - _share("p1", p1), _finite("lam", lam) * (1 - _share("p2", p2))
    power = np.exp(_spread(s) ** 2)
    # (A - B)² + 2AB(1 - cosine): the same sum without cancellation for nearly equal maps.
    unlike = -np.expm1(-(1 - _rho(rho)) * _spread(s) ** 2)
    return (power * ((keep - remove) ** 2 + 2 * keep * remove * unlike))[()]


def cmrr_db(lam: Any, rho: Any, s: Any) -> Real:
    """Noise rejection of ``a1 - lam * a2`` for ``p1 = p2``, in dB: ``10 log10 E(0)/E(lam)``.

    The same as ``rejection_db(lam, noise_cosine(rho, s))``. It is a common-mode rejection *ratio*
    where the answer passes with gain 1, that is where map 2 gives it nothing; if map 2 holds signal
    too, :func:`snr_gain_db` tells the truth. Source: chapter 2.
    """
    return rejection_db(lam, noise_cosine(rho, s))


def variance_rejection_db(lam: Any, rho: Any, s: Any) -> Real:
    """Rejection of the *fluctuations* about the even floor, in dB (``p1 = p2``).

    ``rejection_db(lam, noise_correlation(rho, s))``. Independent maps always lose here. This part
    alone counts where the values average to zero over the keys of the row (so that the even floor
    reads out nothing). Source: chapter 2.
    """
    return rejection_db(lam, noise_correlation(rho, s))


def best_lambda(rho: Any, s: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> Real:
    """The ``lam`` of least noise energy: ``e^(-(1 - rho) s²) (1 - p1)/(1 - p2)``."""
    return (noise_cosine(rho, s) * (1 - _share("p1", p1)) / (1 - _share("p2", p2)))[()]


def max_cmrr_db(rho: Any, s: Any) -> Real:
    """The noise rejection at ``best_lambda``, in dB: ``-10 log10(1 - e^(-2(1 - rho) s²))``."""
    left_over = np.abs(np.expm1(-2 * (1 - _rho(rho)) * _spread(s) ** 2))
    with np.errstate(divide="ignore"):
        return _db(1.0 / left_over)


def over_subtraction_threshold(rho: Any, s: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> Real:
    """Above this ``lam`` the row holds more noise energy than map 1 alone: ``2 * best_lambda``."""
    return 2 * best_lambda(rho, s, p1=p1, p2=p2)


# --- Two attention maps: signal against noise (chapter 2) -----------------------------------

def snr_gain_db(lam: Any, rho: Any, s: Any, *, p1: Any, p2: Any) -> Real:
    """Signal-to-noise ratio of ``a1 - lam * a2`` over that of map 1, in dB.

    ``20 log10 |1 - lam p2/p1| + 10 log10 E(0)/E(lam)``: what a scale-free reader of the row gains
    (the headwise norm that follows makes the model one). Source: chapter 2.

    Args:
        lam: subtraction strength.
        rho, s: noise model (see the module's head).
        p1, p2: the answer's share in map 1 (above 0) and map 2.
    """
    first = _checked("p1", p1, 0.0, 1.0, "map 1 must give the answer a share above 0 and below 1",
                     open_low=True, open_high=True)
    signal = np.abs(1 - _finite("lam", lam) * _share("p2", p2) / first)
    before = noise_energy(0.0, rho, s, p1=first, p2=p2)
    after = noise_energy(lam, rho, s, p1=first, p2=p2)
    if np.any((signal == 0) & (after == 0)):
        raise ValueError(f"at lam={lam} signal and noise both vanish and their ratio is undefined: "
                         "change lam, or p2 so that the maps differ")
    with np.errstate(divide="ignore"):
        return _db(signal**2 * before / after)


def best_snr_lambda(rho: Any, s: Any, *, p1: Any, p2: Any) -> Real:
    """The ``lam`` of the highest signal-to-noise ratio; negative where *adding* is right.

    ``(h c - q) / (h (h - q c))`` with ``q = p2/p1``, ``h = (1 - p2)/(1 - p1)``,
    ``c = e^(-(1 - rho) s²)``. Its sign is that of ``h c - q``: subtract only if map 2 resembles map
    1 more in its noise than in its signal. That reading needs ``h > q c`` (so for ``p2 <= p1``);
    where map 2 is much the better map, the value says to subtract map 1 from map 2 instead.
    Source: chapter 2 (maximum of :func:`snr_gain_db`).

    Raises:
        ValueError: where no finite best value exists (``h = q c``), or the maps are the same.
    """
    q, h, c = _snr_terms(rho, s, p1, p2)
    if np.any(np.isclose(h, q * c, rtol=0.0, atol=1e-12)):
        raise ValueError(f"no finite best lam at p1={p1}, p2={p2}, rho={rho}, s={s}: the better map"
                         " is map 2 or the maps are the same; change p2 or rho")
    return ((h * c - q) / (h * (h - q * c)))[()]


def max_snr_gain_db(rho: Any, s: Any, *, p1: Any, p2: Any) -> Real:
    """The gain at :func:`best_snr_lambda`: ``10 log10 (h² - 2 q h c + q²)/(h² (1 - c²))``."""
    q, h, c = _snr_terms(rho, s, p1, p2)
    if np.any(c == 1):
        raise ValueError(f"identical noise (rho={rho}, s={s}) can be removed entirely, the gain has"
                         " no finite maximum: take rho below 1 and s above 0")
    return _db((h**2 - 2 * q * h * c + q**2) / (h**2 * (1 - c**2)))


def _snr_terms(rho: Any, s: Any, p1: Any, p2: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = _checked("p1", p1, 0.0, 1.0, "map 1 must give the answer a share above 0 and below 1",
                     open_low=True, open_high=True)
    second = _share("p2", p2)
    return second / first, (1 - second) / (1 - first), np.asarray(noise_cosine(rho, s))


def row_mass(lam: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> tuple[Real, Real, Real]:
    """Sums over the row ``a1 - lam * a2``: everything, the answer, the noise keys.

    ``(1 - lam, p1 - lam p2, (1 - p1) - lam (1 - p2))``. Exact for any two maps. Source: chapter 2.
    """
    lam, first, second = _finite("lam", lam), _share("p1", p1), _share("p2", p2)
    answer = first - lam * second
    return (1 - lam)[()], answer[()], (1 - lam - answer)[()]


def coherent_leakage(lam: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> Real:
    """How much of the values' common part the noise keys let through: ``(1-p1) - lam (1-p2)``.

    If every irrelevant value is ``vbar`` plus its own zero-mean part, the noise contributes this
    number times ``vbar``. Zero at ``lam = (1 - p1)/(1 - p2)`` for *any* ``rho``: the one sense in
    which the difference rejects a common mode without correlated maps. Exact. Source: chapter 2.
    """
    return row_mass(lam, p1=p1, p2=p2)[2]


def negative_share(lam: Any, rho: Any, s: Any, *, p1: Any = 0.0, p2: Any = 0.0) -> Real:
    """Expected share of noise keys whose weight in ``a1 - lam * a2`` is negative.

    ``Phi(ln(B/A) / sigma)`` with ``A = 1 - p1``, ``B = lam (1 - p2)``,
    ``sigma = s sqrt(2(1 - rho))``. Needs ``lam > 0``, ``s > 0``, ``rho < 1``; ``n`` large.
    Source: chapter 2.
    """
    ratio, sigma = _lognormal_pair(lam, rho, s, p1, p2)
    return _normal_cdf(ratio / sigma)


def answer_share(lam: Any, rho: Any, s: Any, *, p1: Any, p2: Any = 0.0) -> Real:
    """The answer's share of ``|a1 - lam * a2|``, the row normalized by absolute values.

    ``|p1 - lam p2| / (|p1 - lam p2| + N)`` with the noise ``N`` the expected absolute difference
    of two log-normals: ``A (2 Phi(d) - 1) - B (2 Phi(d - sigma) - 1)``,
    ``d = (ln(A/B) + sigma²/2)/sigma``, ``sigma = s sqrt(2(1 - rho))``. Needs ``n`` well above
    ``e^(s²)``, as :func:`noise_mass` does. ``lam > 0``, ``s > 0``, ``rho < 1``. Source: chapter 2.
    """
    ratio, sigma = _lognormal_pair(lam, rho, s, p1, p2)
    keep, remove = 1 - np.asarray(p1, float), np.asarray(lam, float) * (1 - np.asarray(p2, float))
    d = -ratio / sigma + sigma / 2
    noise = keep * (2 * _normal_cdf(d) - 1) - remove * (2 * _normal_cdf(d - sigma) - 1)
    answer = np.abs(np.asarray(p1, float) - np.asarray(lam, float) * np.asarray(p2, float))
    return (answer / (answer + noise))[()]


def _lognormal_pair(lam: Any, rho: Any, s: Any, p1: Any, p2: Any) -> tuple[np.ndarray, np.ndarray]:
    """``ln(B/A)`` and the standard deviation of the logarithm of the two noises' ratio."""
    lam = _checked("lam", lam, 0.0, np.inf, "this formula needs lam above 0", open_low=True,
                   open_high=True)
    sigma = _spread(s) * np.sqrt(2 * (1 - _rho(rho)))
    if np.any(sigma == 0):
        raise ValueError(f"rho={rho}, s={s} makes the two noises identical: take rho below 1 and s "
                         "above 0")
    return np.log(lam * (1 - _share("p2", p2)) / (1 - _share("p1", p1))), np.asarray(sigma)


def _normal_cdf(x: Any) -> Real:
    return np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)), otypes=[float])(x)[()]


# --- Two attention maps: simulation (chapter 2) ---------------------------------------------

def simulate_maps(n: int, rho: float, s: float, *, generator: np.random.Generator, p1: float = 0.0,
                  p2: float = 0.0, trials: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of two attention maps from the noise model.

    Returns:
        ``(a1, a2)``, each ``(trials, 1 + n)``; column 0 is the answer, the rest is noise; each row
        sums to 1.
    """
    n, trials = _count("n", n), _count("trials", trials)
    rho, s = float(_rho(rho)), float(_spread(s))
    p1, p2 = float(_share("p1", p1)), float(_share("p2", p2))
    random = _generator(generator)
    g1 = random.standard_normal((trials, n))
    g2 = rho * g1 + math.sqrt(1 - rho**2) * random.standard_normal((trials, n))
    maps = []
    for logits, share in ((g1, p1), (g2, p2)):
        weights = np.exp(s * logits)
        noise = (1 - share) * weights / weights.sum(axis=1, keepdims=True)
        maps.append(np.concatenate([np.full((trials, 1), share), noise], axis=1))
    return maps[0], maps[1]


def _maps(a1: Any, a2: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.atleast_2d(_finite("a1", a1)), np.atleast_2d(_finite("a2", a2))
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] < 3:
        raise ValueError(f"a1 and a2 must both be (rows, 1 + n) with n >= 2, got {first.shape} and "
                         f"{second.shape}: column 0 is the answer, the rest noise keys")
    return first, second


def measure_similarity(a1: Any, a2: Any) -> tuple[float, float]:
    """Cosine and Pearson correlation of the noise in two measured maps ``(rows, 1 + n)``.

    Column 0 is the answer and left out. Both are averaged over the rows. What
    :func:`noise_cosine` and :func:`noise_correlation` predict. Works on the rows of a trained
    model too, once the answer is moved to column 0.
    """
    first, second = (a[:, 1:] for a in _maps(a1, a2))

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        if np.any(scale == 0):
            raise ValueError("a row of noise is constant or zero, its similarity is undefined: "
                             "leave that row out")
        return float(np.mean((x * y).sum(axis=1) / scale))

    centered = [a - a.mean(axis=1, keepdims=True) for a in (first, second)]
    return cosine(first, second), cosine(*centered)


def measure_rejection_db(a1: Any, a2: Any, lam: float) -> float:
    """Measured noise rejection in dB: energy of map 1's noise over that of ``a1 - lam * a2``.

    Energies are averaged over rows before the ratio is taken. What :func:`cmrr_db` predicts for
    ``p1 = p2``.
    """
    first, second = _maps(a1, a2)
    row = first - float(_finite("lam", lam)) * second
    with np.errstate(divide="ignore"):
        return float(_db(np.sum(first[:, 1:] ** 2) / np.sum(row[:, 1:] ** 2)))


def measure_snr_gain_db(a1: Any, a2: Any, lam: float) -> float:
    """Measured gain in signal-to-noise ratio (answer² over noise energy), in dB.

    What :func:`snr_gain_db` predicts. Map 1 must give the answer a share above 0.
    """
    first, second = _maps(a1, a2)
    row = first - float(_finite("lam", lam)) * second
    before, after = np.sum(first[:, 0] ** 2), np.sum(row[:, 0] ** 2)
    if before == 0:
        raise ValueError("map 1 gives the answer nothing in any row: move the answer to column 0")
    with np.errstate(divide="ignore"):
        return float(_db(after / before)) + measure_rejection_db(first, second, lam)


def measure_answer_share(a1: Any, a2: Any, lam: float) -> float:
    """Measured share of the answer in ``|a1 - lam * a2|``, averaged over rows."""
    first, second = _maps(a1, a2)
    row = np.abs(first - float(_finite("lam", lam)) * second)
    return float(np.mean(row[:, 0] / row.sum(axis=1)))
