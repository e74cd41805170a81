"""Loss against size (Fig. 3a): how many parameters does DIFF save?"""

from __future__ import annotations

from diffbook.experiments.experiment import VARIANTS, Experiment, Preset
from diffbook.experiments.lm import measure
from diffbook.model import ModelConfig
from diffbook.tasks.text import TextTask
from diffbook.train import TrainConfig

# d_model, layers, heads. The width of a head grows with the model, from 16 to 32: the smallest
# would have a single head otherwise.
SIZES = {
    "32": (32, 2, 2),
    "48": (48, 3, 2),
    "64": (64, 4, 4),
    "96": (96, 4, 4),
    "128": (128, 5, 4),
}

SCALING = Experiment(
    name="scaling",
    title="Loss against size, byte-level text",
    variants={
        f"{kind}-{size}": {
            **VARIANTS[kind], "d_model": d_model, "n_layers": n_layers, "n_heads": n_heads,
        }
        for size, (d_model, n_layers, n_heads) in SIZES.items()
        for kind in ("softmax", "diff")
    },
    presets={
        "cpu": Preset(
            ModelConfig(256, d_model=128, n_layers=5, n_heads=4),
            TrainConfig(
                steps=400, batch_size=16, lr=2e-3, warmup=40, log_every=10, eval_every=100,
                checkpoint_every=100, device="cpu",
            ),
            TextTask(seq_len=256), 2, "0.04 to 1.1 M parameters, 1.6 M bytes; one core each",
        ),
    },
    measure=measure,
)
