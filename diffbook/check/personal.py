"""Numbers that differ from student to student, made from the student's id.

This file stands alone: where work is graded, it is the only part of ``diffbook.check`` there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np


def _pencil(rng: np.random.Generator) -> dict[str, Any]:
    return {"n": int(rng.integers(20, 90)) * 50, "m": float(rng.integers(60, 95)) / 10,
            "s": float(rng.integers(6, 15)) / 10}


def _margin(rng: np.random.Generator) -> dict[str, Any]:
    return {"n": int(rng.integers(20, 300)) * 1000, "s": float(rng.integers(6, 15)) / 10,
            "eps": float(rng.integers(2, 20)) / 100}


def _small_model(rng: np.random.Generator) -> dict[str, Any]:
    heads = 2 * int(rng.integers(2, 5))
    return {"vocab_size": int(rng.integers(20, 90)), "d_model": heads * 2 * int(rng.integers(3, 9)),
            "n_layers": int(rng.integers(2, 6)), "n_heads": heads,
            "d_ff": 32 * int(rng.integers(1, 6))}


def _guesses(rng: np.random.Generator) -> dict[str, Any]:
    return {"n_needles": int(rng.integers(3, 8)), "n_numbers": int(rng.integers(16, 40)),
            "found": int(rng.integers(50, 90)) / 100}


def _length(rng: np.random.Generator) -> dict[str, Any]:
    return {"length": int(rng.choice([200, 208, 216, 224, 232, 240]))}


NUMBERS: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "A1.1": _pencil,
    "A1.4": _margin,
    "A3.2": _small_model,
    "A4.3": _guesses,
    "A4.6": _length,
}


class NoStudent(ValueError):
    """The id was not filled in."""


def normal(student: str) -> str:
    """An id as it is compared: no spaces around it, no difference between A and a."""
    return str(student).strip().casefold()


def personal(task: str, student: str) -> dict[str, Any]:
    """The numbers of one student for one task, such as ``personal("A1.1", "ada")``.

    The same id gives the same numbers on every machine. Raises ValueError for a task that has no
    personal numbers, and :class:`NoStudent` (a ValueError, too) for an id that was not filled in.
    """
    if task not in NUMBERS:
        raise ValueError(f"{task!r} has no personal numbers; {', '.join(NUMBERS)} have")
    if not isinstance(student, str) or not normal(student):
        raise NoStudent(
            "who are you? Write STUDENT = \"your id\", as it is in the name of the file that you "
            "hand in"
        )
    digest = hashlib.sha256(f"{task}\0{normal(student)}".encode()).digest()
    return NUMBERS[task](np.random.default_rng(int.from_bytes(digest[:16], "big")))
