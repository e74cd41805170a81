"""Scaling laws: loss against size or tokens, L(x) = E + a x^-b, and what a gap in loss is worth.

The form of Kaplan et al. (2020, arXiv:2001.08361) with the floor E of Hoffmann et al. (2022,
arXiv:2203.15556). The paper's Fig. 3 draws such curves through five sizes and nine checkpoints and
reads "62 % of the parameters" off them; chapter 9 asks how far that goes.

    law = fit_law(sizes, losses)            # losses (points,), or (seeds, points): a law each
    law(6.8), law.inverse(2.95)             # loss at a size; the size that reaches a loss
    equal_loss(diff_law, softmax_law, loss=2.95).share

Three numbers from a handful of points: E and b in particular trade against each other (a lower
floor with a smaller exponent fits almost as well), so neither is to be read as a constant of
nature. Within the range of the points the *curve* is far better determined than its parameters,
beyond it no better than they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffbook.model import LanguageModel, ModelConfig, count_parameters

EXPONENTS = np.geomspace(0.01, 10.0, 61)  # where b is looked for
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class ScalingLaw:
    """L(x) = E + a x^-b, or several such laws at once.

    Attributes:
        E: the floor, in the unit of the loss; never below zero, since no cross-entropy is. Zero
            means that the points show no floor. a, b: amplitude at x = 1, and exponent, both
            positive. All three are () or (laws,).
        rms: root mean square residual of the points, () or (laws,).
        low, high: the range of x that was fitted; everything outside is extrapolation.
    """

    E: np.ndarray
    a: np.ndarray
    b: np.ndarray
    rms: np.ndarray
    low: float
    high: float

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The loss at x (points,) or (): (laws, points), without an axis where there is one."""
        return self._spread(self.E, x) + self._power(x)

    def slope(self, x: ArrayLike) -> np.ndarray:
        """dL / d ln x, negative: nats gained by an e-fold in x. Shapes as in a call."""
        return -self._spread(self.b, x) * self._power(x)

    def inverse(self, loss: ArrayLike) -> np.ndarray:
        """The x that reaches ``loss``, a number or one for each law: () or (laws,).

        Infinite at the floor and below it: no x gets there.
        """
        above = np.asarray(loss, dtype=float) - self.E
        with np.errstate(divide="ignore"):
            return np.where(above > 0, np.maximum(above, 0) / self.a, 0.0) ** (-1 / self.b)

    def covers(self, x: ArrayLike) -> np.ndarray:
        """Whether x lies in the range that was fitted (up to rounding)."""
        x = np.asarray(x, dtype=float)
        return (x >= self.low * (1 - 1e-9)) & (x <= self.high * (1 + 1e-9))

    @staticmethod
    def _spread(parameter: np.ndarray, x: ArrayLike) -> np.ndarray:
        return parameter[..., None] if np.ndim(x) else parameter

    def _power(self, x: ArrayLike) -> np.ndarray:
        x = np.asarray(x, dtype=float)
        return self._spread(self.a, x) * x ** -self._spread(self.b, x)


def fit_law(x: ArrayLike, loss: ArrayLike, *, floor: bool = True) -> ScalingLaw:
    """Least squares of E + a x^-b on the losses themselves.

    For a given exponent the law is linear in E and a, so that only b has to be searched: on a grid
    from 0.01 to 10, then by golden section. Where the best E would be negative it is set to zero,
    and where the points do not bend at all b ends at 0.01 or at the value of the pure power law.

    Args:
        x: sizes or tokens, (points,), positive.
        loss: (points,), or (laws, points) for a law in each row, over the same x: one for each
            seed, or for each draw of a bootstrap.
        floor: False fits the pure power law, E = 0, which two points determine.

    Raises:
        ValueError: for fewer points than parameters, sizes that are not positive or not distinct,
            numbers that are none, shapes that do not fit, or losses that do not fall with x.
    """
    x, loss = np.asarray(x, dtype=float), np.asarray(loss, dtype=float)
    if x.ndim != 1 or loss.ndim not in (1, 2) or loss.shape[-1:] != x.shape:
        raise ValueError(
            f"losses are (points,) or (laws, points) for x (points,): got {loss.shape} and "
            f"{x.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(loss).all()):
        raise ValueError("a size or a loss is not a number: leave that point out")
    if (x <= 0).any():
        raise ValueError(f"x={x.min():g} is not positive: give sizes or tokens")
    needed = 3 if floor else 2
    if len(np.unique(x)) < needed:
        raise ValueError(
            f"{len(np.unique(x))} different sizes cannot determine {needed} numbers: give at least "
            f"{needed}" + (", or floor=False for the pure power law" if floor else "")
        )
    rows = np.atleast_2d(loss)
    middle = np.exp(np.log(x).mean())  # powers near one: well conditioned
    scaled = x / middle
    grid = np.stack([_linear(scaled, rows, np.full(len(rows), b), floor)[2] for b in EXPONENTS])
    best = grid.argmin(axis=0)
    low = np.log(EXPONENTS[np.maximum(best - 1, 0)])
    high = np.log(EXPONENTS[np.minimum(best + 1, len(EXPONENTS) - 1)])
    for _ in range(40):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        better = (_linear(scaled, rows, np.exp(left), floor)[2]
                  < _linear(scaled, rows, np.exp(right), floor)[2])
        low, high = np.where(better, low, left), np.where(better, right, high)
    b = np.exp((low + high) / 2)
    E, a, squares = _linear(scaled, rows, b, floor)
    if (a <= 0).any():
        raise ValueError(
            f"the loss does not fall with x: {rows[a.argmin()].tolist()} at {x.tolist()}; there is "
            "no such law to fit"
        )
    fitted = (E, a * middle**b, b, np.sqrt(squares / len(x)))
    E, a, b, rms = (v if loss.ndim == 2 else v[0] for v in fitted)
    return ScalingLaw(E, a, b, rms, float(x.min()), float(x.max()))


def _linear(
    x: np.ndarray, loss: np.ndarray, b: np.ndarray, floor: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E, a and the sum of squares for given exponents: x (points,), loss (laws, points), b (laws,).
    A floor that would be negative is zero."""
    power = x ** -b[:, None]  # (laws, points)
    centered = power - power.mean(axis=1, keepdims=True)
    a = (centered * loss).sum(axis=1) / (centered**2).sum(axis=1)
    E = loss.mean(axis=1) - a * power.mean(axis=1)
    pure = (E < 0) | (not floor)
    a = np.where(pure, (power * loss).sum(axis=1) / (power**2).sum(axis=1), a)
    E = np.where(pure, 0.0, E)
    squares = ((E[:, None] + a[:, None] * power - loss) ** 2).sum(axis=1)
    return E, a, squares


@dataclass(frozen=True)
class Share:
    """What one model needs of x for a loss, as a share of what another needs.

    Attributes:
        loss: the common loss. x, x_baseline: where either law reaches it; infinite where it never
            does.
        share: x / x_baseline: 0.62 is "62 % of the parameters", above one the other way round.
            Zero where the baseline never gets there, infinite where the other never does, NaN
            where neither does.
        extrapolated: one of the two x lies outside of the range its law was fitted in: the number
            then rests on the form of the law and not on a measurement.

    Each is () or (laws,).
    """

    loss: np.ndarray
    x: np.ndarray
    x_baseline: np.ndarray
    share: np.ndarray
    extrapolated: np.ndarray


def equal_loss(law: ScalingLaw, baseline: ScalingLaw, *, loss: ArrayLike) -> Share:
    """Compare two laws at one ``loss``, a number or one for each law.

    The paper's "6.8 B reaches what 11 B reach" takes ``loss=law(6.84)``; its "7.8 B for 13.1 B"
    takes ``loss=baseline(13.12)``.
    """
    loss = np.asarray(loss, dtype=float)
    x, other = law.inverse(loss), baseline.inverse(loss)
    with np.errstate(invalid="ignore"):
        share = x / other
    outside = ~(law.covers(x) & baseline.covers(other))
    return Share(np.broadcast_to(loss, share.shape), x, other, share, outside)


def reached(x: ArrayLike, loss: ArrayLike, target: ArrayLike) -> np.ndarray:
    """The x that reaches ``target`` on the polygon through the points, straight in ln x: no law.

    Where the losses rise in between, the last crossing counts: after it the loss stays below. NaN
    outside of the measured losses, since a polygon cannot be continued.

    Args:
        x, loss: (points,). target: a number or several.

    Raises:
        ValueError: for shapes that do not fit, or x that do not increase from above zero.
    """
    x, loss = np.asarray(x, dtype=float), np.asarray(loss, dtype=float)
    if x.ndim != 1 or loss.shape != x.shape:
        raise ValueError(f"x and losses are (points,): got {x.shape} and {loss.shape}")
    if x[0] <= 0 or (np.diff(x) <= 0).any():
        raise ValueError(f"x={x.tolist()} must increase from above zero")
    found = []
    for wanted in np.atleast_1d(np.asarray(target, dtype=float)):
        above = np.flatnonzero(loss > wanted)
        last = above[-1] if len(above) else -1
        if loss[-1] == wanted:
            found.append(x[-1])
        elif last == len(x) - 1 or (last == -1 and loss[0] != wanted):
            found.append(np.nan)
        elif last == -1:
            found.append(x[0])
        else:
            part = (loss[last] - wanted) / (loss[last] - loss[last + 1])
            found.append(x[last] * (x[last + 1] / x[last]) ** part)
    return np.array(found).reshape(np.shape(target))


def bootstrap_means(
    *losses: ArrayLike, draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Mean losses of ``draws`` repetitions of the whole experiment: (draws, points) for each input.

    Seeds are few, so single seeds cannot be drawn (with three of them the intervals would be far
    too narrow). Drawn are deviations from the mean over seeds, from the pool of all points, made
    larger by sqrt(n / (n - 1)), which is what taking the mean away has cost. Models stay paired: a
    drawn deviation is that of one seed at one size in all inputs. This takes the noise for alike
    and independent at all points: right for separate runs, wrong along one run, whose points share
    their luck.

    Args:
        losses: (n_seeds, points) each, the same seeds and number of points in all.

    Raises:
        ValueError: for fewer than two seeds, or shapes that differ.
    """
    arrays = [np.asarray(values, dtype=float) for values in losses]
    shapes = {values.shape for values in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2:
        raise ValueError(f"all inputs are (n_seeds, points), alike: got {sorted(shapes)}")
    n, points = arrays[0].shape
    if n < 2:
        raise ValueError("one seed has no deviations: give at least two")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, n * points, (draws, n, points))
    result = []
    for values in arrays:
        means = values.mean(axis=0)
        pool = (values - means).ravel() * np.sqrt(n / (n - 1))  # (n * points,)
        result.append(means + pool[chosen].mean(axis=1))
    return tuple(result)


def parameter_counts(config: ModelConfig | dict[str, Any]) -> dict[str, int]:
    """Two numbers that are both called "parameters": ``total``, and ``without embeddings``, which
    leaves out the embedding and the output matrix as Kaplan et al. do.

    Args:
        config: or its dictionary, as ``run.model`` of a record.
    """
    if isinstance(config, dict):
        config = ModelConfig(**config)
    groups = count_parameters(LanguageModel(config))
    outer = groups["embedding"] + groups["output"]
    return {"total": groups["total"], "without embeddings": groups["total"] - outer}
