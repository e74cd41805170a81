"""The figure of chapter 11 that reacts: accuracy by depth, length and number of needles."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffbook import paper
from diffbook.measure.needles import FIG5, FIG5_TIMES, SAMPLES, TABLE2, TABLE2_TIMES
from diffbook.records.compare import STUDENT
from diffbook.records.record import Record
from diffbook.show.reactive import react
from diffbook.show.retrieval import depth_map
from diffbook.show.style import DIVERGING, LABELS
from diffbook.tasks.needle import DEPTHS

NAMES = {**LABELS, "softmax_wide_norm": "Transformer, wide heads + norm"}
ACROSS = "by length of the context"
PERCENT = [f"{depth:.0%}".replace("%", " %") for depth in DEPTHS]


def needle_data(record: Record) -> dict[str, Any]:
    """What ``needle_browser.js`` shows: the record of ``multineedle``, and the paper's Fig. 5 and
    Table 2 (:mod:`diffbook.paper`).

    A map holds counts of right answers, ``right[variant]`` as one list (seeds, rows, columns), out
    of ``n`` for each row, column and seed; with ``mean`` the figure adds the sum over rows.
    """
    variants, seeds = record.variants, [run.seed for run in record.runs[: len(record.of("diff"))]]

    def by_depth(needles: int, queries: int, times: tuple[int, ...]) -> dict[str, Any]:
        """One number of needles: depth by length."""
        return {
            "key": f"N={needles}",
            "label": f"N = {needles}" if needles > 1 else "N = 1 (one needle)",
            "axes": "depth and length", "corner": "depth", "mean": True, "across": ACROSS,
            "rows": PERCENT, "row": "answer at {} depth",
            "columns": [f"{t}×" for t in times], "column": "context of {} the training length",
            "n": SAMPLES, "unit": "prompts", "seeds": seeds,
            "note": "" if queries == 1 else "Of the two questions in a prompt, the first counts.",
            "right": {
                kind: _counts(SAMPLES * np.stack([
                    record.array(kind, f"by depth N={needles}, R={queries}, {t}x") for t in times
                ], axis=-1))  # (seeds, depths, lengths)
                for kind in variants
            },
        }

    cells = [*TABLE2, FIG5]
    n = SAMPLES * len(DEPTHS)
    overview = {
        "key": "all", "label": "all N, mean over depths", "axes": "needles and length",
        "corner": "needles", "mean": False, "across": ACROSS,
        "rows": [str(needles) for needles, _ in cells], "row": "N = {}",
        "columns": [f"{t}×" for t in TABLE2_TIMES], "column": "context of {} the training length",
        "n": n, "unit": "prompts", "seeds": seeds,
        "note": "N = 2, 4 and 6 ask two questions; both count, as half a prompt each (Table 2).",
        "right": {
            kind: _counts(n * np.stack([
                [record.values(kind, f"N={needles}, R={queries}, {t}x") for t in TABLE2_TIMES]
                for needles, queries in cells
            ]).transpose(2, 0, 1))  # (seeds, needles, lengths)
            for kind in variants
        },
    }
    figure, table = paper.load("fig5"), paper.load("table2")
    pair = [{"key": kind, "label": NAMES[kind]} for kind in ("softmax", "diff")]
    one = {"seeds": [0], "unit": "prompts"}
    return {
        "student": {str(len(seeds)): STUDENT[len(seeds)]},
        "sources": [
            {
                "key": "ours", "label": "Ours, recorded",
                "variants": [{"key": kind, "label": NAMES[kind]} for kind in variants],
                "maps": [
                    by_depth(*FIG5, FIG5_TIMES),
                    *(by_depth(*cell, TABLE2_TIMES) for cell in reversed(TABLE2)),
                    overview,
                ],
                "note": f"{record.provenance}. Token level, trained at 64 tokens (1×).",
            },
            {
                "key": "fig5", "label": "Paper, Fig. 5", "variants": pair,
                "maps": [{
                    **one, "key": "N=8", "label": "N = 8", "axes": "depth and length",
                    "corner": "depth", "mean": True, "across": "by length of the context",
                    "rows": PERCENT, "row": "answer at {} depth",
                    "columns": figure["lengths"], "column": "context of {} tokens", "n": SAMPLES,
                    "note": "",
                    "right": {
                        kind: _counts(SAMPLES * np.array(figure[kind][: len(DEPTHS)]))
                        for kind in ("softmax", "diff")
                    },
                }],
                "note": f"Paper, {figure['source']}: 3B models, trained at 64K before the test, "
                        "one of each kind.",
            },
            {
                "key": "table2", "label": "Paper, Table 2", "variants": pair,
                "maps": [{
                    **one, "key": "all", "label": "all N, mean over depths",
                    "axes": "needles", "corner": "needles", "mean": False,
                    "across": "by length of the context",
                    "rows": [str(needles) for needles, _ in TABLE2], "row": "N = {}",
                    "columns": ["4K"], "column": "context of {} tokens", "n": n, "note": "",
                    "right": {
                        kind: _counts(n * np.array(table[kind])) for kind in ("softmax", "diff")
                    },
                }],
                "note": f"Paper, {table['source']}: {table['note']}. Two questions from N = 2 on; "
                        "the paper does not say how they count.",
            },
        ],
    }


def _counts(values: np.ndarray) -> list[float]:
    """Flat, without the noise of floats; halves are possible where two questions count."""
    return np.round(np.asarray(values, dtype=float), 6).ravel().tolist()


def needle_browser(record: Record) -> None:
    """Publish the figure for the record ``multineedle``, with the maps of its start as a picture.
    """
    import matplotlib.pyplot as plt

    data = needle_data(record)
    first = data["sources"][0]["maps"][0]
    maps = {
        kind: np.reshape(first["right"][kind], (-1, len(DEPTHS), len(FIG5_TIMES))).mean(0) / SAMPLES
        for kind in ("softmax", "diff")
    }
    apart = maps["diff"] - maps["softmax"]
    lengths = [f"{t}×" for t in FIG5_TIMES]
    fig, axes = plt.subplots(3, 1, figsize=(7, 7.4), sharex=True)
    for ax, (kind, cells) in zip(axes, maps.items(), strict=False):
        depth_map(ax, cells, lengths, mean=True, fontsize=9)
        ax.set_title(f"{NAMES[kind]}, mean of {len(record.of(kind))} seeds")
    cells = np.vstack([apart, apart.mean(0)])
    image = depth_map(axes[2], np.zeros_like(apart), lengths, mean=True, fontsize=9)
    image.set(cmap=DIVERGING, data=cells)
    image.set_clim(-np.abs(cells).max(), np.abs(cells).max())
    for text, value in zip(axes[2].texts, cells.ravel(), strict=True):
        text.set_text(f"{value:+.2f}".replace("0.", ".", 1).replace("-", "−"))
        text.set_color("white" if abs(value) > 0.7 * np.abs(cells).max() else "#333333")
    axes[2].set_title("DIFF − Transformer")
    axes[2].set_xlabel("context, in training lengths")
    for ax in axes:
        ax.set_ylabel("depth of the answer")
    react("needle_browser", data, fig, alt=(
        "Three heat maps by depth of the answer and length of the context, eight needles, mean of "
        "eight seeds: share of right answers of Transformer and of DIFF, both dark on the left and "
        "at the bottom and paler toward the upper right, and their difference, DIFF minus "
        "Transformer, near zero on the left and at the bottom and mostly negative elsewhere."))
