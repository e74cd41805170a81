"""The figure of chapter 8 that reacts: a recorded training, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffbook.experiments.replay import EXAMPLE, TASK, example, layout
from diffbook.records.record import Record, Run
from diffbook.show.figure import heatmap
from diffbook.show.reactive import react
from diffbook.show.style import COLORS

START = 100  # step of the still picture
KINDS = {"softmax": ("Transformer", "transformer"), "diff": ("DIFF", "diff")}


def replay_maps(run: Run) -> np.ndarray:
    """The recorded maps of ``run`` as weights: (frames, layers, maps, seq, seq), zeros above the
    diagonal. For DIFF the maps of a layer are the first ones of all heads, then the second ones.
    """
    size = EXAMPLE.seq_len
    row, column = np.tril_indices(size)
    frames, layers = len(run.arrays["replay step"]), run.model["n_layers"]
    weights = np.reshape(run.arrays["replay maps"], (frames, layers, -1, len(row))) / 100
    full = np.zeros((*weights.shape[:3], size, size))
    full[..., row, column] = weights
    return full


def replay_data(record: Record) -> dict[str, Any]:
    """What ``training_replay.js`` shows: for each pair of the record of ``replay``, losses,
    accuracies, λ and maps at its steps; maps as bytes, in whole percent."""
    steps = record.of("diff")[0].arrays["replay step"]
    train = record.of("diff")[0].train
    frames = len(steps)

    def shown(run: Run) -> dict[str, Any]:
        maps = np.asarray(run.arrays["replay maps"])
        if maps.min() < 0 or maps.max() > 100:
            raise ValueError(f"maps of {run.variant}-{run.seed} are no percentages")
        return {
            "loss": run.arrays["replay loss"],
            "accuracy": run.arrays["replay accuracy"],
            "said": run.arrays["replay said"],
            "lambda": run.arrays["replay lambda"],
            "maps": maps.astype(np.uint8).tobytes(),
        }

    layers = record.of("diff")[0].model["n_layers"]
    size = EXAMPLE.seq_len
    per_map = size * (size + 1) // 2
    return {
        "steps": steps,
        "start": steps.index(START),
        "shape": {
            "size": size, "layers": layers,
            "maps": len(record.of("diff")[0].arrays["replay maps"]) // (frames * layers * per_map),
        },
        "layout": layout(example()),
        "plateau": 1 / TASK.n_needles,
        "longer": [share * train["steps"] for share, _ in TASK.curriculum],
        "pairs": [
            {"seed": a.seed, "softmax": shown(a), "diff": shown(b)}
            for a, b in zip(record.of("softmax"), record.of("diff"), strict=True)
        ],
        "note": f"{record.provenance}. The maps are those of one sequence of {size} tokens; the "
                "last one is the question, rows look at columns, the ring marks the right answer. "
                "DIFF's rows sum up to 1 − λ. Dotted lines: the contexts of the training get "
                f"longer, to {TASK.seq_len} tokens. Circuit: dashed, numbers to their city in "
                "layer 1; solid, question to answer; each in its strongest head.",
    }


def training_replay(record: Record) -> None:
    """Publish the figure for the record ``replay``; the picture shows its first pair."""
    import matplotlib.pyplot as plt

    data = replay_data(record)
    frame, steps, place = data["start"], data["steps"], data["layout"]
    fig, (maps, (loss, lam)) = plt.subplots(2, 2, figsize=(7, 6), height_ratios=(1.75, 1))
    for ax, (kind, (name, color)) in zip(maps, KINDS.items(), strict=True):
        run = record.of(kind)[0]
        layer = replay_maps(run)[:, -1]  # (frames, maps, seq, seq)
        if kind == "diff":
            lambdas = np.reshape(run.arrays["replay lambda"], (len(steps), -1))
            heads = layer.shape[1] // 2
            layer = layer[:, :heads] - lambdas[:, -1, None, None, None] * layer[:, heads:]
            for at in range(lambdas.shape[1]):
                lam.plot(steps, lambdas[:, at], color=COLORS[("map1", "map2")[at]],
                         label=f"layer {at + 1}")
        head = layer[-1, :, -1, place["answer"][0]].argmax()
        heatmap(ax, layer[frame, head], place["tokens"], place["tokens"], signed=kind == "diff",
                vmax=1.0)
        ax.tick_params(labelsize=7.5)
        ax.set_title(f"{name}, step {steps[frame]}")
        loss.plot(steps, run.arrays["replay loss"], color=COLORS[color], label=name)
    for ax, title in ((loss, "Loss, new sequences"), (lam, "λ of DIFF")):
        ax.axvline(steps[frame], color=COLORS["noise"], lw=1)
        ax.set(title=title, xlabel="step", ylim=(0, None))
        ax.legend()
    react("training_replay", data, fig, alt=(
        "A pair in the middle of its training. Top: attention maps of layer 2 over 14 "
        "tokens with three needles, step 100. The last row is the question; the Transformer's "
        "is dark at the answer, that of DIFF is only beginning. Bottom: the losses fall in two "
        "slopes with a plateau between, the Transformer's a little earlier; λ of the second layer "
        "rises to nearly one where the loss of DIFF falls, and comes down afterwards."))
