"""One entry for each experiment that is recorded: variants x seeds x measures.

An entry reads like the caption of a table; ``python -m diffbook record NAME --preset cpu`` makes
its record.
"""

from diffbook.experiments.experiment import Experiment, Preset
from diffbook.experiments.lm import LM
from diffbook.experiments.needle import NEEDLE

EXPERIMENTS = {experiment.name: experiment for experiment in (LM, NEEDLE)}

__all__ = ["EXPERIMENTS", "Experiment", "Preset"]
