"""Accuracy by depth and length, as the paper draws it (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffbook.show.style import SEQUENTIAL


def depth_map(
    ax: Any, cells: Any, lengths: Sequence[str], depths: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    *, mean: bool = False, fontsize: float = 9,
) -> Any:
    """Draw ``cells`` (depths, lengths), accuracies from 0 to 1, each with its number.

    Args:
        lengths: labels of the columns. depths: of the rows, 0 to 1.
        mean: add the mean over depths below, as the paper does.

    Returns:
        The image, for a color bar.

    Raises:
        ValueError: when the shape does not fit.
    """
    values = np.asarray(cells, dtype=float)
    if values.shape != (len(depths), len(lengths)):
        raise ValueError(
            f"cells are (depths, lengths) = {(len(depths), len(lengths))}, got {values.shape}")
    rows = [f"{depth:.0%}" for depth in depths]
    if mean:
        values, rows = np.vstack([values, values.mean(axis=0)]), [*rows, "mean"]
    image = ax.imshow(
        values, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        label = "1.0" if value > 0.995 else f"{value:.2f}".replace("0.", ".", 1)
        ax.text(column, row, label, ha="center", va="center", fontsize=fontsize,
                color="white" if value > 0.6 else "#333333")
    if mean:
        ax.axhline(len(depths) - 0.5, color="white", lw=2.5)
    ax.set_xticks(range(len(lengths)), lengths)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image
