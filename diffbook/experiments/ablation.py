"""Which part does it? Table 6, and two rows the paper does not have."""

from __future__ import annotations

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import measure
from diffbook.model import ModelConfig
from diffbook.tasks.text import TextTask
from diffbook.train import TrainConfig

ABLATION = Experiment(
    name="ablation",
    title="Ablations of differential attention on byte-level text",
    variants=choose(
        "softmax", "softmax_wide", "softmax_wide_norm", "diff", "diff_no_norm", "diff_0.8",
        "diff_0.5",  # the rows of Table 6; then ours
        "diff_no_scale", "diff_frozen",
    ),
    presets={
        "cpu": Preset(
            ModelConfig(256, d_model=96, n_layers=4, n_heads=4),
            TrainConfig(
                steps=300, batch_size=16, lr=2e-3, warmup=40, log_every=10,
                checkpoint_every=100, device="cpu",
            ),
            TextTask(seq_len=256), 2, "0.5 M parameters, 1.2 M bytes; one core each",
        ),
    },
    measure=measure,
)
