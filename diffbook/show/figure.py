"""Publish a figure with its alt text; draw attention maps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from diffbook.show.style import DIVERGING, SEQUENTIAL


def png(fig: Any, colors: int = 256) -> tuple[bytes, dict[str, int]]:
    """``fig`` as PNG bytes (deterministic: no date, no version) and its size in CSS pixels.

    With a palette of ``colors`` it takes a third of the bytes: the readers of the site load it.
    """
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", metadata={"Software": None})
    image = Image.open(drawn).convert("RGB")
    image.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        packed, "png", optimize=True)
    width, height = fig.get_size_inches()
    return packed.getvalue(), {"width": round(width * 100), "height": round(height * 100)}


def figure(fig: Any, alt: str) -> None:
    """Show ``fig`` with the alt text ``alt`` and close it. The last line of a cell that draws.

    The text form of the output *is* the alt text: a terminal, a screen reader and strict nbval see
    it; the site turns it into the ``alt`` of the picture.
    """
    if not alt.strip():
        raise ValueError("the alt text is empty: say in one or two sentences what the figure shows")
    import matplotlib.pyplot as plt
    from IPython.display import display

    data, size = png(fig)
    plt.close(fig)
    display(
        {"image/png": data, "text/plain": alt},
        metadata={"image/png": {"alt": alt, **size}},
        raw=True,
    )


def heatmap(
    ax: Any,
    matrix: Any,
    xlabels: list[str] | None = None,
    ylabels: list[str] | None = None,
    signed: bool | None = None,
    vmax: float | None = None,
    annotate: bool = False,
) -> Any:
    """Draw an attention map on ``ax``: ``matrix`` (queries, keys), rows are queries.

    A map with negative entries (or ``signed=True``) gets the diverging colors, centered on zero;
    every other map the sequential ones, starting at zero. Returns the image, for a color bar.
    """
    values = np.asarray(matrix.detach().float().cpu() if hasattr(matrix, "detach") else matrix)
    if values.ndim != 2:
        raise ValueError(f"a map has two axes (queries, keys), got shape {values.shape}")
    if signed is None:
        signed = bool(values.min() < 0)
    top = float(np.abs(values).max() or 1.0) if vmax is None else vmax
    image = ax.imshow(
        values,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else 0.0,
        vmax=top,
        aspect="equal",
        interpolation="nearest",
    )
    ax.grid(False)
    if xlabels is not None:
        ax.set_xticks(range(len(xlabels)), xlabels, rotation=45, ha="right")
    if ylabels is not None:
        ax.set_yticks(range(len(ylabels)), ylabels)
    if annotate:
        for (row, column), value in np.ndenumerate(values):
            dark = abs(value) > 0.6 * top
            label = f"{value:.2f}"
            if abs(value) < 1:
                label = label.replace("0.", ".", 1)
            ax.text(column, row, label, ha="center", va="center",
                    fontsize=7.5, color="white" if dark else "#333333")
    return image
