"""Loss against size (Fig. 3a): how many parameters does DIFF save?"""

from __future__ import annotations

from collections.abc import Mapping

from diffbook.experiments.experiment import VARIANTS, Change, Experiment, Preset
from diffbook.experiments.lm import ESTIMATED, measure
from diffbook.model import ModelConfig
from diffbook.records.compare import Claim
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

# For a GPU; heads of 32 to 64, so that the values of a differential head stay within 128.
LARGE_SIZES = {
    "128": (128, 4, 4),
    "192": (192, 6, 4),
    "256": (256, 8, 4),
    "384": (384, 8, 6),
    "512": (512, 10, 8),
}


def pairs(sizes: Mapping[str, tuple[int, int, int]]) -> dict[str, Change]:
    """A matched pair of each size: "softmax-32", "diff-32", …"""
    return {
        f"{kind}-{size}": {
            **VARIANTS[kind], "d_model": d_model, "n_layers": n_layers, "n_heads": n_heads,
        }
        for size, (d_model, n_layers, n_heads) in sizes.items()
        for kind in ("softmax", "diff")
    }


def claims(sizes: Mapping[str, tuple[int, int, int]], scale: str) -> tuple[Claim, ...]:
    """The paper's claim at every size. "62 % of the parameters" is no difference of a measure; it
    is computed and judged in chapter 9."""
    return tuple(
        Claim(
            text=f"a lower validation loss at equal size, width {size}",
            where="Fig. 3a", paper="0.025 to 0.032 lower at each of five sizes (0.83 to 13.1 B)",
            measure="validation loss", says="lower", chapter=9,
            a=f"diff-{size}", b=f"softmax-{size}", scale=scale,
        )
        for size in sizes
    )


SCALING = Experiment(
    name="scaling",
    title="Loss against size, byte-level text",
    variants=pairs(SIZES),
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
    claims=claims(SIZES, "bytes, 0.04 to 1.1 million parameters, 1.6 million bytes read"),
)

SCALING_LARGE = Experiment(
    name="scaling-large",
    title="Loss against size, byte-level text, the sizes for a GPU",
    variants=pairs(LARGE_SIZES),
    presets={
        "t4": Preset(
            ModelConfig(256, d_model=512, n_layers=10, n_heads=8),
            TrainConfig(
                steps=2000, batch_size=32, lr=1e-3, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=200,
            ),
            TextTask(seq_len=512), 6, f"0.9 to 32 M parameters, 33 M bytes; {ESTIMATED}",
        ),
        "h100": Preset(
            ModelConfig(256, d_model=512, n_layers=10, n_heads=8),
            TrainConfig(
                steps=1220, batch_size=64, lr=1e-3, warmup=60, log_every=20, eval_every=122,
                checkpoint_every=244, compile=True,
            ),
            TextTask(seq_len=1024), 1.5, f"0.9 to 32 M parameters, 80 M bytes; {ESTIMATED}",
        ),
    },
    measure=measure,
    claims=claims(LARGE_SIZES, "bytes, 0.9 to 32 million parameters"),
)
