"""The figure of chapter 9 that reacts: bend two scaling laws, read off the share of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffbook import paper
from diffbook.measure.scaling import equal_loss, fit_law, parameter_counts
from diffbook.records.compare import STUDENT
from diffbook.records.record import Record
from diffbook.show.reactive import react
from diffbook.show.style import COLORS

KINDS = {"softmax": ("Transformer", "transformer"), "diff": ("DIFF", "diff")}
PAPER_SIZE = 6.84  # billions: where the paper reads "62 %"


def scaling_data(record: Record) -> dict[str, Any]:
    """What ``scaling_fit.js`` starts from: the points of the paper's Fig. 3a and those of the
    record of ``scaling``, by model: ``x`` and ``mean`` (points,), ``seeds`` (seeds, points)."""
    figure = paper.load("fig3a")
    widths = [name.partition("-")[2] for name in record.variants if name.startswith("diff-")]
    x = figure["x_params_B"]
    losses = {
        kind: np.stack([
            record.values(f"{kind}-{size}", "validation loss") for size in widths
        ], axis=1)  # (seeds, sizes)
        for kind in KINDS
    }
    sizes = {
        kind: [
            parameter_counts(record.of(f"{kind}-{size}")[0].model)["total"] / 1e6 for size in widths
        ]
        for kind in KINDS
    }
    n = len(losses["diff"])
    return {
        "student": {str(n): STUDENT[n]},
        "sources": [
            {
                "key": "paper", "label": "Paper, Fig. 3a", "unit": "B", "unitName": "billions",
                "lossName": "nats per token", "anchor": "diff", "at": PAPER_SIZE, "digits": 1,
                "x": dict.fromkeys(KINDS, x), "mean": {kind: figure[kind] for kind in KINDS},
                "low": min(x), "high": max(x), "seeds": None,
                "note": f"Paper, {figure['source']}, read off the figure: one run for each point. "
                        "The size to read at is DIFF's, as in the paper.",
            },
            {
                "key": "ours", "label": "Ours, recorded", "unit": "M", "unitName": "millions",
                "lossName": "nats per byte", "anchor": "softmax", "at": sizes["softmax"][2],
                "digits": 0, "x": sizes,
                "mean": {kind: values.mean(axis=0) for kind, values in losses.items()},
                "low": min(sizes["softmax"]), "high": max(sizes["diff"]), "seeds": losses,
                "note": f"{record.provenance}. Dots are seeds; the curves go through their means. "
                        "The size to read at is the Transformer's, the middle one at first, as "
                        "fixed before the runs.",
            },
        ],
    }


def scaling_fit(record: Record) -> None:
    """Publish the figure for the record ``scaling``, with the paper's points and their laws as a
    picture."""
    import matplotlib.pyplot as plt

    data = scaling_data(record)
    start = data["sources"][0]
    laws = {kind: fit_law(start["x"][kind], start["mean"][kind]) for kind in KINDS}
    found = equal_loss(laws["diff"], laws["softmax"], loss=laws["diff"](start["at"]))
    fig, (top, low) = plt.subplots(
        2, 1, figsize=(7, 4.6), sharex=True, height_ratios=(2.2, 1))
    grid = np.geomspace(start["low"], start["high"], 100)
    for kind, (name, color) in KINDS.items():
        x, loss = np.array(start["x"][kind]), np.array(start["mean"][kind])
        top.plot(grid, laws[kind](grid), color=COLORS[color], label=name)
        top.plot(x, loss, "o", color=COLORS[color])
        low.plot(x, 1e3 * (loss - laws[kind](x)), "o-", color=COLORS[color], lw=1)
    top.plot([found.x, found.x_baseline], [found.loss] * 2, "o-", color=COLORS["neutral"])
    top.set(xscale="log", ylabel="loss in nats per token",
            title=f"DIFF needs {100 * found.share:.1f} % of the parameters")
    top.set_xticks(start["x"]["diff"], [f"{n:.2g}" for n in start["x"]["diff"]])
    top.minorticks_off()
    top.legend()
    low.axhline(0, color=COLORS["neutral"], lw=1)
    low.set(xlabel="parameters in billions", ylabel="points − curve,\nmilli-nats")
    react("scaling_fit", data, fig, alt=(
        "Top: losses of the paper's five sizes, Transformer and DIFF, each with its law of least "
        "squares; a horizontal line from DIFF at 6.84 billion to the Transformer's curve marks "
        "62.2 percent of the parameters. Bottom: points minus curve, the same zigzag for both "
        "models, up to 18 thousandths of a nat."))
