"""What the pages draw with: one style, figures with alt text, live controls.

    show.style()                      once per notebook
    show.figure(fig, alt="...")       the last line of a cell that draws
    show.heatmap(ax, map)             an attention map, signed or not
    show.explore(draw, alt="...", lam=(0, 1, 0.05))
    show.band(ax, steps, values, label, color)   curves over seeds
    show.intervals(ax, pairs, labels)            paired differences with their intervals
    show.surprise(ax, characters, nats)          text colored by -ln p
"""

from diffbook.show.curves import band, intervals, surprise
from diffbook.show.explore import explore
from diffbook.show.figure import figure, heatmap
from diffbook.show.style import COLORS, DIVERGING, LABELS, SEQUENTIAL, style

__all__ = [
    "COLORS", "DIVERGING", "LABELS", "SEQUENTIAL", "band", "explore", "figure", "heatmap",
    "intervals", "style", "surprise",
]
