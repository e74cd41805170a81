"""One look for every figure of the book."""

from __future__ import annotations

# Okabe and Ito's colour-blind safe set: orange and blue stay apart for every common kind of colour
# vision, and keep their hue under the site's dark theme.
COLORS = {
    "transformer": "#D55E00",
    "diff": "#0072B2",
    "signal": "#009E73",
    "noise": "#8A8A8A",
    "map1": "#56B4E9",
    "map2": "#E69F00",
    "neutral": "#444444",
    "accent": "#CC79A7",
}
LABELS = {
    "softmax": "Transformer",
    "softmax_norm": "Transformer + headwise norm",
    "diff": "DIFF",
    "diff_frozen": "DIFF, λ frozen",
}
SEQUENTIAL = "Blues"
DIVERGING = "RdBu"  # red below zero, blue above: blue means "attends" in both maps


def style() -> None:
    """Set matplotlib's defaults for the book: 7 in wide, readable at phone width, no clutter."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update({
        "figure.figsize": (7.0, 3.6),
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#666666",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E3E3E3",
        "grid.linewidth": 0.7,
        "lines.linewidth": 2.0,
        "lines.markersize": 5,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "image.cmap": SEQUENTIAL,
        "axes.prop_cycle": cycler(
            color=[COLORS[k] for k in ("diff", "transformer", "signal", "accent", "map2", "map1")]
        ),
    })
