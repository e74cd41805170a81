"""Many needles, many places (Table 2, Fig. 5, Table 3): the needle pair trained to the end."""

from __future__ import annotations

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.needle import TASK, measure
from diffbook.model import ModelConfig
from diffbook.train import TrainConfig

MULTINEEDLE = Experiment(
    name="multineedle",
    title="Multi-needle retrieval on token level: N needles, R questions, depth and length",
    variants=choose("softmax", "diff", "softmax_norm", "softmax_wide_norm", "diff_frozen"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=2, n_heads=4, d_ff=160),
            TrainConfig(
                steps=1000, batch_size=64, lr=3e-3, warmup=30, weight_decay=0.0, log_every=10,
                eval_every=100, checkpoint_every=200, device="cpu",
            ),
            TASK, 1.2, "0.1 M parameters, 1000 steps of 4096 tokens; one core each",
        ),
    },
    measure=measure,
    ship=(0, 1, 2),
)
