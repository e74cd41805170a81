"""Curves over seeds, intervals of paired differences, text colored by surprise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffbook.show.style import COLORS, SEQUENTIAL

if TYPE_CHECKING:
    from diffbook.records.compare import Paired


def band(
    ax: Any, steps: Any, values: Any, label: str, color: str = "neutral", *, ls: str = "-"
) -> Any:
    """Draw the mean over seeds of a curve, each seed thin, and the range from lowest to highest.

    The range and not a standard error: with three seeds one should see all of them.

    Args:
        steps: (points,).
        values: (n_seeds, points); one seed draws one line.
        color: a key of ``show.COLORS``, or any color of matplotlib.

    Returns:
        The line of the mean.

    Raises:
        ValueError: when the shapes do not fit.
    """
    steps, values = np.asarray(steps), np.atleast_2d(np.asarray(values, dtype=float))
    if values.ndim != 2 or values.shape[1:] != steps.shape:
        raise ValueError(
            f"values are (n_seeds, points) for steps (points,): got {values.shape} and "
            f"{steps.shape}"
        )
    shade = COLORS.get(color, color)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        ax.fill_between(steps, low, high, color=shade, alpha=0.15, lw=0)
        ax.plot(steps, values.T, color=shade, alpha=0.35, lw=0.8)
    return ax.plot(steps, values.mean(axis=0), color=shade, label=label, ls=ls)[0]


def intervals(ax: Any, pairs: Sequence[Paired], labels: Sequence[str] | None = None) -> None:
    """One row for each paired comparison: a dot for every seed, the mean, its 95 % interval.

    Rows whose interval holds zero are gray, so that "no difference" looks like it. The first pair
    stands on top.

    Args:
        pairs: from ``record.paired(measure)``.
        labels: of the rows; default the names of the measures.

    Raises:
        ValueError: when there is nothing to draw, or not one label for each pair.
    """
    names = [pair.measure for pair in pairs] if labels is None else list(labels)
    if not pairs or len(names) != len(pairs):
        raise ValueError(f"{len(pairs)} pairs and {len(names)} labels: give one label for each")
    ax.axvline(0, color=COLORS["neutral"], lw=1)
    for row, pair in enumerate(pairs):
        clear = not pair.low <= 0 <= pair.high
        color = COLORS["diff"] if clear else COLORS["noise"]
        ax.plot([pair.low, pair.high], [row, row], color=color, lw=2.5, alpha=0.6)
        ax.plot(pair.differences, np.full(pair.n, row), "o", color=color, alpha=0.7, mew=0)
        ax.plot(pair.mean, row, "|", color=color, ms=16, mew=2.5)
    ax.set_yticks(range(len(pairs)), names)
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def surprise(
    ax: Any, characters: Sequence[str], nats: Any, *, columns: int = 64, top: float = 5.0
) -> Any:
    """Write ``characters`` in rows of ``columns`` cells, each colored by how surprising it was.

    Args:
        characters: one for each token; a line break also ends the row.
        nats: (len(characters),): -ln p of each; not-a-number leaves a cell blank (a prompt).
        top: nats that get the darkest color.

    Returns:
        The image, for a color bar.

    Raises:
        ValueError: when the lengths differ.
    """
    nats = np.asarray(nats, dtype=float)
    if nats.shape != (len(characters),):
        raise ValueError(f"{len(characters)} characters need as many nats, got {nats.shape}")
    row = column = 0
    places = []
    for character in characters:
        places.append((row, column))
        column += 1
        if character == "\n" or column == columns:
            row, column = row + 1, 0
    grid = np.full((places[-1][0] + 1 if places else 1, columns), np.nan)
    for place, value in zip(places, nats, strict=True):
        grid[place] = value
    image = ax.imshow(
        grid, cmap=SEQUENTIAL, vmin=0, vmax=1.4 * top, aspect="auto", interpolation="nearest"
    )
    for character, (row, column) in zip(characters, places, strict=True):
        shown = {"\n": "↵", "\t": "→"}.get(character, character)
        if shown.strip():
            ax.text(column, row, shown, ha="center", va="center", family="monospace",
                    fontsize=9, color="#222222", parse_math=False)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image
