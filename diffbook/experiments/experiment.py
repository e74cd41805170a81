"""What an experiment is, and how its record is made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from diffbook.model import LanguageModel, ModelConfig, count_parameters
from diffbook.records.record import FOLDER, Record, Run, file_sha256
from diffbook.train import Task, TrainConfig, train

# How a variant differs from the baseline: fields of ModelConfig.
VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {"attention": "softmax"},
    "softmax_norm": {"attention": "softmax", "headwise_norm": True},
    "diff": {"attention": "diff"},
    "diff_frozen": {"attention": "diff", "learn_lambda": False},
}


@dataclass(frozen=True)
class Preset:
    """One size of an experiment, for one kind of machine."""

    model: ModelConfig
    train: TrainConfig
    task: Task
    note: str  # what it costs


@dataclass(frozen=True)
class Experiment:
    """Variants x seeds x measures.

    Attributes:
        name, title: short; what is tested, with the paper's table or figure.
        variants: keys of :data:`VARIANTS`, the baseline first.
        presets: by machine.
        measure: (model, task) -> numbers, after training.
        samples: model -> generated text by prompt.
        ship: seeds whose weights go with the package.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    presets: dict[str, Preset]
    measure: Callable[[LanguageModel, Any], dict[str, float]]
    samples: Callable[[LanguageModel], dict[str, str]] | None = None
    ship: tuple[int, ...] = field(default=())


def run_one(experiment: Experiment, preset: str, variant: str, seed: int, out: Path) -> Path:
    """Train and measure one model, unless that is done; return its file.

    The file appears whole, at the end; until then training can be killed and goes on from its
    last checkpoint.
    """
    folder = out / f"{experiment.name}-{preset}" / f"{variant}-{seed}"
    path = folder / "run.json"
    if path.exists():
        return path
    chosen = experiment.presets[preset]
    config = replace(chosen.model, seed=seed, **VARIANTS[variant])
    model = LanguageModel(config)
    settings = replace(chosen.train, seed=seed)
    result = train(model, chosen.task, settings, folder)
    model.eval()
    run = Run(
        variant=variant, seed=seed, model=asdict(config), train=asdict(settings),
        parameters=count_parameters(model)["total"], curve=result.curve,
        validation=result.validation, measures=experiment.measure(model, chosen.task),
        lambdas=model.lambdas(), seconds=result.seconds, tokens=result.tokens,
        device=result.device, samples=experiment.samples(model) if experiment.samples else {},
    )
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(run)))
    os.replace(fresh, path)
    return path


def combine(experiment: Experiment, preset: str, out: Path) -> Record:
    """All finished runs in ``out`` as one record, by variant and seed."""
    files = (out / f"{experiment.name}-{preset}").glob("*/run.json")
    runs = [Run(**json.loads(path.read_text())) for path in files]
    runs.sort(key=lambda run: (experiment.variants.index(run.variant), run.seed))
    if not runs:
        raise ValueError(f"no finished run of {experiment.name}-{preset} in {out}")
    seeds = sorted({run.seed for run in runs})
    return Record(
        name=f"{experiment.name}-{preset}",
        title=experiment.title,
        task=repr(experiment.presets[preset].task),
        versions={"python": platform.python_version(), "torch": torch.__version__,
                  "accelerate": version("accelerate")},
        commit=_commit(),
        date=datetime.now(UTC).date().isoformat(),
        command=f"python -m diffbook record {experiment.name} --preset {preset} "
                f"--seeds {_span(seeds)}",
        runs=tuple(runs),
    )


def publish(experiment: Experiment, preset: str, out: Path) -> Path:
    """Write the record, and the checkpoints it ships as bf16, into the package."""
    record = combine(experiment, preset, out)
    shipped = []
    for run in record.runs:
        if run.seed in experiment.ship:
            name = f"{run.variant}-{run.seed}"
            target = FOLDER / "checkpoints" / record.name / name
            target.mkdir(parents=True, exist_ok=True)
            source = out / record.name / name / "model"
            weights = safetensors.torch.load_file(source / "model.safetensors")
            # λ and the gains are few and matter: they stay in float32.
            half = {k: w.bfloat16() if w.ndim == 2 else w for k, w in weights.items()}
            safetensors.torch.save_file(half, target / "model.safetensors")
            (target / "config.json").write_text((source / "config.json").read_text())
            run = replace(run, checkpoint=file_sha256(target / "model.safetensors"))
        shipped.append(run)
    path = FOLDER / f"{record.name}.json"
    path.write_text(replace(record, runs=tuple(shipped)).to_json())
    return path


def parse_seeds(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"seeds {text!r}: write them as 0-2 or 0,3,5")
        if last and int(last) < int(first):
            raise ValueError(f"seeds {text!r}: {part!r} counts down; write {last}-{first}")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _span(seeds: Iterable[int]) -> str:
    seeds = list(seeds)
    if seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _commit() -> str:
    """The commit of the source tree, "+" when the package's code has changes, "installed" outside
    a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=FOLDER.parent, capture_output=True, text=True, check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "*.py")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "installed"
