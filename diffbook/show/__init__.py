"""What the pages draw with: one style, figures with alt text, live controls.

    show.style()                      once per notebook
    show.figure(fig, alt="...")       the last line of a cell that draws
    show.heatmap(ax, map)             an attention map, signed or not
    show.explore(draw, alt="...", lam=(0, 1, 0.05))
    show.react("attention_noise", data, fig, alt="...")   a figure that reacts without a kernel
    show.band(ax, steps, values, label, color)   curves over seeds
    show.intervals(ax, pairs, labels)            paired differences with their intervals
    show.surprise(ax, characters, nats)          text colored by -ln p
    show.table(heads, rows, caption="...", choose="...")   rows that sort and filter, no kernel
"""

from diffbook.show.curves import band, intervals, surprise
from diffbook.show.explore import explore
from diffbook.show.figure import figure, heatmap
from diffbook.show.reactive import live, react
from diffbook.show.style import COLORS, DIVERGING, LABELS, SEQUENTIAL, style
from diffbook.show.table import Cell, table

__all__ = [
    "COLORS",
    "DIVERGING",
    "LABELS",
    "SEQUENTIAL",
    "Cell",
    "band",
    "explore",
    "figure",
    "heatmap",
    "intervals",
    "live",
    "react",
    "style",
    "surprise",
    "table",
]
