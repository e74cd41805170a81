"""Draw the pictures of the first page from the package's own attention functions.

    python scripts/make_hero.py          # _static/hero.png and _static/social_card.png

The queries and keys are made, not trained: each query looks for one earlier token, and both maps
see the same disturbance, so that their difference shows what the subtraction is meant to do.
Chapter 8 shows the maps of trained models, which are less tidy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffbook import show
from diffbook.attention import diff_attention_map, softmax_attention_map

STATIC = Path(__file__).resolve().parent.parent / "_static"
SEQ, WIDTH, LAMBDA = 24, 64, 0.8


def made_heads(seed: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and keys (1, 1, SEQ, 2 WIDTH): half of the width holds the noise that both pairs
    share, the other half the signal, which only the first pair has."""
    generator = torch.Generator().manual_seed(seed)
    noise_q = torch.randn(1, 1, SEQ, WIDTH, generator=generator) * 2**0.25
    noise_k = torch.randn(1, 1, SEQ, WIDTH, generator=generator) * 2**0.25
    position = torch.arange(SEQ)
    wanted = (position * 0.62 * torch.rand(SEQ, generator=generator) ** 0.35).long()
    logit = 2.6  # of the wanted token; the others' are about standard normal
    strength = (logit * (2 * WIDTH) ** 0.5) ** 0.5
    signal_k = strength * torch.eye(WIDTH)[None, None, :SEQ]
    signal_q = signal_k[:, :, wanted]  # query i looks for the token `wanted[i]`
    none = torch.zeros_like(signal_k)
    return (
        torch.cat((noise_q, signal_q), dim=-1),
        torch.cat((noise_k, signal_k), dim=-1),
        torch.cat((noise_q, none), dim=-1),
        torch.cat((noise_k, none), dim=-1),
    )


def maps() -> tuple[Tensor, Tensor, Tensor]:
    """Map 1, lambda times map 2, and their difference, each (SEQ, SEQ)."""
    q1, k1, q2, k2 = made_heads()
    first = softmax_attention_map(q1, k1)[0, 0]
    second = LAMBDA * softmax_attention_map(q2, k2)[0, 0]
    difference = diff_attention_map(q1, k1, q2, k2, LAMBDA)[0, 0]
    return first, second, difference


def draw(fig: Figure, box: tuple[float, float, float, float], titlesize: float) -> None:
    """Three maps in a row with a minus and an equals sign between them, inside ``box`` of ``fig``
    (left, bottom, width, height as fractions of the figure)."""
    left, bottom, width, height = box
    figure_width, figure_height = fig.get_size_inches()
    side = height * figure_height / figure_width  # the width of one square map
    gap = (width - 3 * side) / 2
    titles = ["$A_1$", r"$\lambda A_2$", r"$A_1 - \lambda A_2$"]
    for column, (panel, title) in enumerate(zip(maps(), titles, strict=True)):
        start = left + column * (side + gap)
        ax = fig.add_axes((start, bottom, side, height))
        shown = panel.masked_fill(torch.ones_like(panel).triu(1).bool(), torch.nan)
        ax.imshow(shown, cmap=show.DIVERGING, vmin=-0.5, vmax=0.5, interpolation="nearest")
        ax.set_xticks([n - 0.5 for n in range(SEQ + 1)], labels=[])
        ax.set_yticks([n - 0.5 for n in range(SEQ + 1)], labels=[])
        ax.grid(True, color="white", linewidth=1.1)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title, loc="left", fontsize=titlesize, color="#333333", fontweight="normal")
        if column:
            sign = "\N{MINUS SIGN}" if column == 1 else "="
            orange = show.COLORS["transformer"]
            fig.text(
                start - gap / 2, bottom + height / 2, sign,
                fontsize=34, ha="center", va="center", color=orange,
            )  # fmt: skip


def main() -> int:
    """Write both pictures; returns the exit status."""
    show.style()
    plt.rcParams.update({"mathtext.fontset": "stix", "font.family": "DejaVu Sans"})

    hero = plt.figure(figsize=(10.0, 3.45), layout="none")
    draw(hero, (0.005, 0.01, 0.985, 0.86), titlesize=15)
    hero.savefig(STATIC / "hero.png", dpi=160, metadata={"Software": None})

    card = plt.figure(figsize=(12.0, 6.3), layout="none")
    card.text(0.05, 0.85, "diffbook", fontsize=44, fontweight="bold", color="#1d242c")
    card.text(
        0.05, 0.755, "The Differential Transformer, understood and checked",
        fontsize=23, color="#3a4654",
    )  # fmt: skip
    draw(card, (0.05, 0.08, 0.9, 0.5), titlesize=20)
    card.savefig(STATIC / "social_card.png", dpi=100, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
