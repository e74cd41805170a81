"""One entry for each experiment that is recorded: variants x seeds x measures.

An entry reads like the caption of a table; ``python -m diffbook record NAME --preset cpu`` makes
its record.
"""

from diffbook.experiments.ablation import ABLATION
from diffbook.experiments.experiment import Experiment, Preset
from diffbook.experiments.faithful import FAITHFUL
from diffbook.experiments.in_context import IN_CONTEXT
from diffbook.experiments.lm import LM, LM_124M, LM_BPE
from diffbook.experiments.long_context import EXTRAPOLATION, LONG_CONTEXT
from diffbook.experiments.multineedle import MULTINEEDLE
from diffbook.experiments.needle import NEEDLE
from diffbook.experiments.outliers import OUTLIERS, QUANTIZATION
from diffbook.experiments.replay import REPLAY
from diffbook.experiments.scaling import SCALING, SCALING_LARGE
from diffbook.experiments.speed import SPEED, SPEED_124M
from diffbook.experiments.text_needle import TEXT_NEEDLE

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        LM, LM_BPE, LM_124M, SCALING, SCALING_LARGE, NEEDLE, MULTINEEDLE, TEXT_NEEDLE, ABLATION,
        LONG_CONTEXT, EXTRAPOLATION, OUTLIERS, QUANTIZATION, REPLAY, FAITHFUL, IN_CONTEXT, SPEED,
        SPEED_124M,
    )
}

__all__ = ["EXPERIMENTS", "Experiment", "Preset"]
