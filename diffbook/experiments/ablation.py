"""Which part does it? Table 6, and two rows the paper does not have."""

from __future__ import annotations

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED, measure_recall
from diffbook.model import ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.text import TextTask
from diffbook.train import TrainConfig


def row(text: str, paper: str, b: str, measure: str = "validation loss") -> Claim:
    """A claim of Table 6: DIFF has the lower loss, ``paper`` being "b / DIFF"."""
    return Claim(
        text=text, where="Table 6", paper=f"{paper} (1.4 B parameters, one run each)",
        measure=measure, says="lower", chapter=16, b=b,
        scale="bytes, half a million parameters, 1.2 million bytes read",
    )


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
        "t4": Preset(
            ModelConfig(256, d_model=256, n_layers=6, n_heads=8),
            TrainConfig(
                steps=1000, batch_size=32, lr=1e-3, warmup=50, log_every=20, eval_every=200,
                checkpoint_every=200,
            ),
            TextTask(seq_len=512), 6, f"4.9 M parameters, 16 M bytes; {ESTIMATED}",
        ),
        "h100": Preset(
            # Twelve layers and eight heads a pair: the norm's row of Table 6 is about depth.
            ModelConfig(256, d_model=512, n_layers=12, n_heads=8),
            TrainConfig(
                steps=2000, batch_size=64, lr=6e-4, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=500, compile=True,
            ),
            TextTask(seq_len=1024), 3.5, f"38 M parameters, 131 M bytes; {ESTIMATED}",
        ),
    },
    measure=measure_recall,
    claims=(
        row("a lower loss than the Transformer's", "3.087 / 3.062", "softmax"),
        row("a lower loss on AR hits than the Transformer's", "0.898 / 0.880", "softmax",
            "AR-hit loss"),
        row("a lower loss on the other tokens than the Transformer's", "3.272 / 3.247", "softmax",
            "others loss"),
        row("a lower loss than a Transformer with as many heads and the norm", "3.086 / 3.062",
            "softmax_wide_norm"),
        row("a lower loss than without the headwise norm", "3.122 / 3.062", "diff_no_norm"),
        row("a lower loss than with λ_init = 0.8 in every layer", "3.065 / 3.062", "diff_0.8"),
        row("a lower loss than with λ_init = 0.5 in every layer", "3.066 / 3.062", "diff_0.5"),
    ),
)
