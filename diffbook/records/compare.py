"""Two models, several seeds: the paired difference, its interval, the verdict.

The rules of evidence of the book, in one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REPRODUCED = "reproduced"
PARTLY = "partly"
NO_DIFFERENCE = "no difference at this scale"
CONTRADICTED = "contradicted"
OUT_OF_REACH = "out of reach here"
VERDICTS = (REPRODUCED, PARTLY, NO_DIFFERENCE, CONTRADICTED, OUT_OF_REACH)

# Two-sided 95 % points of Student's t for n - 1 degrees of freedom, by the number of seeds n.
STUDENT = {
    2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306,
}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, and what stands for it here.

    Attributes:
        text: the claim in a few words. where: its table or figure, "Table 2". paper: the paper's
            numbers, as text, baseline first.
        measure: of the record; a, b: variants; says: the claim holds when ``a`` is "lower" or
            "higher" than ``b``.
        chapter: the one that speaks about it.
        scale: what separates the measure from the paper's, in a few words.
    """

    text: str
    where: str
    paper: str
    measure: str
    says: str
    chapter: int
    a: str = "diff"
    b: str = "softmax"
    scale: str = ""


@dataclass(frozen=True)
class Standing:
    """Where a record stands on a :class:`Claim`: means of both variants, the paired difference
    a - b with its 95 % interval, the number of paired seeds, and the verdict."""

    claim: Claim
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    seeds: int
    verdict: str


@dataclass(frozen=True)
class Paired:
    """Differences a - b of one measure, one for each seed, and a 95 % interval of their mean."""

    measure: str
    a: str
    b: str
    differences: tuple[float, ...]
    low: float
    high: float

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))

    def verdict(self, claim: str) -> str:
        """Judge the claim that ``a`` has the "lower" or the "higher" value: one of
        :data:`VERDICTS`. An interval that holds zero is no difference, however pretty its mean."""
        if claim not in ("lower", "higher"):
            raise ValueError(f'claim={claim!r}: say "lower" or "higher"')
        if self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return REPRODUCED if (self.high < 0) == (claim == "lower") else CONTRADICTED

    def text(self, digits: int = 3) -> str:
        """``-0.005 [-0.043, +0.033], n = 3``."""
        numbers = (f"{x:+.{digits}f}" for x in (self.mean, self.low, self.high))
        mean, low, high = numbers
        return f"{mean} [{low}, {high}], n = {self.n}"


def paired_interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of paired ``differences``.

    From ten seeds on by bootstrap (10,000 resamples, percentiles). Below that such an interval is
    too narrow (with three seeds it covers the truth in three cases out of four, and one run that
    failed can carry it past zero), so Student's t is taken, which is wider.

    Raises:
        ValueError: for fewer than two differences, or one that is not a number.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least two paired seeds, got {values.tolist()}")
    if not np.isfinite(values).all():
        raise ValueError(f"a difference is not a number: {values.tolist()}")
    n = len(values)
    if n in STUDENT:
        half = STUDENT[n] * float(values.std(ddof=1)) / math.sqrt(n)
        return float(values.mean()) - half, float(values.mean()) + half
    draws = np.random.default_rng(seed).integers(0, n, (10_000, n))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
