"""One entry for each experiment that is recorded: variants x seeds x measures.

An entry reads like the caption of a table; ``python -m diffbook record NAME --preset cpu`` makes
its record.
"""

from diffbook.experiments.ablation import ABLATION
from diffbook.experiments.experiment import Experiment, Preset
from diffbook.experiments.lm import LM, LM_124M, LM_BPE
from diffbook.experiments.multineedle import MULTINEEDLE
from diffbook.experiments.needle import NEEDLE
from diffbook.experiments.scaling import SCALING

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (LM, LM_BPE, LM_124M, SCALING, NEEDLE, MULTINEEDLE, ABLATION)
}

__all__ = ["EXPERIMENTS", "Experiment", "Preset"]
