"""The picture of the whole model: the residual stream, and what differs inside attention."""

from __future__ import annotations

from typing import Any

from diffbook.show.style import COLORS

SAME, OWN = "#EDEDED", "#CFE3F2"  # boxes both models have, and those of one kind only
INK = COLORS["neutral"]


def model_diagram() -> Any:
    """One layer, eqs. (4) and (5), between embedding and output; beside it the inside of
    attention in both models, with what only the Differential Transformer has in blue.

    Returns:
        A matplotlib figure, 7 x 5.2 in.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, 3, figsize=(7, 5.2), width_ratios=(1.12, 0.95, 0.95), layout="constrained"
    )
    for ax in axes:
        ax.set(xlim=(0, 10), ylim=(-0.3, 18.9))
        ax.axis("off")
    _stream(axes[0])
    rows = [
        ("$W^Q$, $W^K$, $W^V$", "$W^Q$, $W^K$, $W^V$"),
        ("RoPE turns $Q$ and $K$", "RoPE turns $Q$ and $K$"),
        ("$2h$ maps\nsoftmax$(QK^T/\\sqrt{d})$", "$h$ pairs of maps\n$A_1-\\lambda A_2$"),
        ("each times its $V$,\n$d$ wide", "each times its $V$,\n$2d$ wide"),
        ("", "RMSNorm of each head,\ntimes $1-\\lambda_{init}$"),
        ("$W^O$", "$W^O$"),
    ]
    for ax, column, kind in ((axes[1], 0, "transformer"), (axes[2], 1, "diff")):
        ax.set_title(f"MultiHead,\n{'DIFF' if column else 'Transformer'}", color=COLORS[kind])
        _column(ax, [
            (row[column], OWN if column and row[0] != row[1] else SAME) for row in rows
        ])
    return fig


def _stream(ax: Any) -> None:
    """The model from below: tokens, the stream with two stops a layer, logits."""
    ax.set_title("The model\n")
    x = 1.7  # of the stream
    _box(ax, x, 1.9, "Embedding", width=3.2)
    _arrow(ax, (x, 0.7), (x, 1.4))
    ax.text(x, 0.1, "tokens", ha="center", va="center", fontsize=9.5)
    _arrow(ax, (x, 2.4), (x, 16.1))
    for foot, norm, stop in ((3.9, "RMSNorm", "MultiHead"), (9.3, "RMSNorm", "SwiGLU")):
        join = foot + 4.0
        ax.plot([x, 6.8, 6.8], [foot, foot, foot + 0.5], color=INK, lw=1.4)
        _box(ax, 6.8, foot + 1.0, norm, width=4.4)
        _box(ax, 6.8, foot + 2.6, stop, width=4.4, color=OWN if stop == "MultiHead" else SAME)
        _arrow(ax, (6.8, foot + 1.5), (6.8, foot + 2.1))
        ax.plot([6.8, 6.8], [foot + 3.1, join], color=INK, lw=1.4)
        _arrow(ax, (6.8, join), (x + 0.55, join))
        ax.plot(x, join, "o", ms=14, mfc="white", mec=INK, mew=1.4, zorder=4)
        ax.text(x, join, "+", ha="center", va="center", zorder=5)
    ax.plot([0.1, 0.1, 9.8, 9.8, 0.1], [3.1, 14.2, 14.2, 3.1, 3.1], color=COLORS["noise"],
            lw=1.2, ls="--")
    ax.text(9.5, 13.75, "$\\times L$ layers", ha="right", va="center", fontsize=9.5)
    _box(ax, x, 16.6, "RMSNorm", width=3.2)
    _arrow(ax, (x, 17.1), (x, 17.7))
    _box(ax, x, 18.2, "Output", width=3.2)
    _arrow(ax, (x + 1.6, 18.2), (x + 2.9, 18.2))
    ax.text(x + 3.2, 18.2, "logits", ha="left", va="center", fontsize=9.5)


def _column(ax: Any, rows: list[tuple[str, str]]) -> None:
    """Boxes from below, in the order of the computation; an empty one is passed by."""
    ax.text(5, 0.1, "normed stream", ha="center", va="center", fontsize=9.5)
    foot, tip = 1.4, 0.7
    for text, fill in rows:
        height = 1.9 if "\n" in text or not text else 1.1
        if text:
            _arrow(ax, (5, tip), (5, foot))
            _box(ax, 5, foot + height / 2, text, width=9.4, height=height, color=fill)
            tip = foot + height
        foot += height + 1.05
    _arrow(ax, (5, tip), (5, foot - 0.05))
    ax.text(5, foot + 0.5, "back to the stream", ha="center", va="center", fontsize=9.5)


def _box(
    ax: Any, x: float, y: float, text: str, *, width: float, height: float = 1.0,
    color: str = SAME,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.25",
        facecolor=color, edgecolor=INK, linewidth=1.2, zorder=2,
    ))
    ax.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3, linespacing=1.25)


def _arrow(ax: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": INK, "lw": 1.4, "shrinkA": 0, "shrinkB": 0,
    })
