"""What the pages draw with: one style, figures with alt text, live controls.

    show.style()                      once per notebook
    show.figure(fig, alt="...")       the last line of a cell that draws
    show.heatmap(ax, map)             an attention map, signed or not
    show.explore(draw, alt="...", lam=(0, 1, 0.05))
"""

from diffbook.show.explore import explore
from diffbook.show.figure import figure, heatmap
from diffbook.show.style import COLORS, DIVERGING, LABELS, SEQUENTIAL, style

__all__ = [
    "COLORS", "DIVERGING", "LABELS", "SEQUENTIAL", "explore", "figure", "heatmap", "style",
]
