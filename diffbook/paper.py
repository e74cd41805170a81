"""The paper's own numbers, to stand beside ours.

    paper.load("table2")          # {"cells": ["N=1, R=1", …], "softmax": […], "diff": […], …}
    paper.load("fig3a")["diff"]   # five losses

Tables are as printed. Figures were read off the vector graphics of the PDF (arXiv:2410.05258v2),
marker centers against axis ticks, to about 0.001 nats or 0.1 points; an entry's ``note`` says what
is uncertain. "softmax" is the paper's Transformer, "diff" its DIFF Transformer.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "data" / "paper.json"


@cache
def _all() -> dict[str, dict[str, Any]]:
    return json.loads(FILE.read_text())


def names() -> list[str]:
    """Tables and figures there are."""
    return list(_all())


def load(name: str) -> dict[str, Any]:
    """The numbers of one table or figure, with ``source`` and, where needed, ``note``.

    Raises:
        KeyError: naming those there are.
    """
    try:
        return deepcopy(_all()[name])
    except KeyError:
        raise KeyError(f"no numbers of {name!r}: there are {', '.join(names())}") from None
