"""What an experiment is, and how one run of it is made."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diffbook.measure.flops import forward_flops, peak_flops
from diffbook.model import (
    CheckpointError,
    LanguageModel,
    ModelConfig,
    count_parameters,
    load_model,
)
from diffbook.records.compare import Claim
from diffbook.records.record import FOLDER, RecordError, Run
from diffbook.records.record import model as shipped_model
from diffbook.train import Task, TrainConfig, TrainResult, train

# How a variant differs from the baseline: fields of ModelConfig, or functions of the baseline's.
Change = Mapping[str, Any]


def half_the_heads(model: ModelConfig) -> int:
    """As many heads as DIFF has, each twice as wide: "8 x 256" in Table 6."""
    return model.n_heads // 2


VARIANTS: dict[str, Change] = {
    "softmax": {"attention": "softmax"},
    "softmax_norm": {"attention": "softmax", "headwise_norm": True},
    "softmax_wide": {"attention": "softmax", "n_heads": half_the_heads},
    "softmax_wide_norm": {
        "attention": "softmax", "n_heads": half_the_heads, "headwise_norm": True,
    },
    "diff": {"attention": "diff"},
    "diff_frozen": {"attention": "diff", "learn_lambda": False},
    "diff_no_norm": {"attention": "diff", "headwise_norm": False},
    "diff_no_scale": {"attention": "diff", "output_scale": False},
    "diff_0.8": {"attention": "diff", "lambda_init": 0.8},
    "diff_0.5": {"attention": "diff", "lambda_init": 0.5},
}


def choose(*names: str) -> dict[str, Change]:
    """Some of :data:`VARIANTS`, in this order."""
    return {name: VARIANTS[name] for name in names}


@dataclass(frozen=True)
class Preset:
    """One size of an experiment, for one kind of machine.

    Attributes:
        model: the baseline. train: None where nothing is trained. task: what it is given.
        minutes: a run takes about so long there.
        note: the machine, and whether the minutes were measured.
        start: the record whose trained models these runs begin with, by variant and seed, such as
            "lm-cpu"; default new weights.
    """

    model: ModelConfig
    train: TrainConfig | None
    task: Task
    minutes: float
    note: str
    start: str | None = None


@dataclass(frozen=True)
class Experiment:
    """Variants x seeds x measures.

    Attributes:
        name, title: short; what is tested, with the paper's table or figure.
        variants: name -> how it differs from the preset's model, the baseline first; mostly from
            :func:`choose`.
        presets: by machine.
        measure: (model, task) -> numbers, and lists of numbers, after training.
        samples: model -> generated text by prompt.
        ship: seeds whose weights go with the package.
        claims: what the paper says, and the measure that stands for it here.
    """

    name: str
    title: str
    variants: Mapping[str, Change]
    presets: dict[str, Preset]
    measure: Callable[[LanguageModel, Any], Mapping[str, float | list[float]]]
    samples: Callable[[LanguageModel], dict[str, str]] | None = None
    ship: tuple[int, ...] = field(default=())
    claims: tuple[Claim, ...] = field(default=())

    def config(self, preset: str, variant: str, seed: int) -> ModelConfig:
        """The model of one run."""
        base = self.presets[preset].model
        change = {
            name: value(base) if callable(value) else value
            for name, value in self.variants[variant].items()
        }
        return replace(base, **change, seed=seed)


def run_one(
    experiment: Experiment, preset: str, variant: str, seed: int, out: Path, *,
    again: bool = False, progress: bool | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train and measure one model, unless that is done; return its file.

    The file appears whole, at the end; until then training can be killed and goes on from its
    last checkpoint.

    Args:
        again: measure a trained model again, as after a change of the measures.
        progress, on_step: of :func:`diffbook.train.train`.

    Raises:
        RecordError: when the file is there but damaged, or made with other settings.
    """
    folder = out / f"{experiment.name}-{preset}" / f"{variant}-{seed}"
    path = folder / "run.json"
    chosen = experiment.presets[preset]
    if path.exists():
        run = read_run(path, experiment, preset)
        if not again:
            return path
        if chosen.train is None:
            model = _start(experiment, preset, run, out)
        else:
            model = load_model(folder / "model")
    else:
        model, run = _trained(experiment, preset, variant, seed, out, progress, on_step)
    model.eval()
    started = time.perf_counter()
    numbers = experiment.measure(model, chosen.task)
    run = replace(
        run,
        seconds=run.seconds if chosen.train else time.perf_counter() - started,
        measures={k: v for k, v in numbers.items() if not isinstance(v, list)},
        arrays={k: v for k, v in numbers.items() if isinstance(v, list)},
        samples=experiment.samples(model) if experiment.samples else {},
    )
    write_whole(path, json.dumps(asdict(run)))
    return path


def _trained(
    experiment: Experiment, preset: str, variant: str, seed: int, out: Path,
    progress: bool | None, on_step: Callable[[int, float], None] | None,
) -> tuple[LanguageModel, Run]:
    """The model of one run, trained, and all of its run but the measures."""
    chosen = experiment.presets[preset]
    config = experiment.config(preset, variant, seed)
    run = Run(
        variant=variant, seed=seed, model=asdict(config), train={}, parameters=0, curve={},
        validation={}, measures={}, lambdas=[], seconds=0.0, tokens=0, device="", commit=commit(),
    )
    model = _start(experiment, preset, run, out)
    # Where nothing is trained, a task may say what it measures on.
    result = TrainResult(device=getattr(chosen.task, "device_name", "cpu"))
    settings, mfu = None, None
    if chosen.train is not None:
        settings = replace(chosen.train, seed=seed)
        folder = out / f"{experiment.name}-{preset}" / f"{variant}-{seed}"
        result = train(model, chosen.task, settings, folder, progress=progress, on_step=on_step)
        # A training step costs three forward passes.
        seq = getattr(chosen.task, "seq_len", 1)
        work = 3 * forward_flops(config, seq).total / seq * result.tokens
        mfu = work / result.seconds / peak_flops(next(model.parameters()).device)
    return model, replace(
        run, train=asdict(settings) if settings else {},
        parameters=count_parameters(model)["total"], curve=result.curve,
        validation=result.validation, lambdas=model.lambdas(), seconds=result.seconds,
        tokens=result.tokens, device=result.device, mfu=mfu,
    )


def _start(experiment: Experiment, preset: str, run: Run, out: Path) -> LanguageModel:
    """The model that a run begins with: new, or trained by the run of ``preset.start`` with the
    same variant and seed (in ``out``, else the shipped one), in the shape of its own config."""
    name = experiment.presets[preset].start
    model = LanguageModel(ModelConfig(**run.model))
    if name is None:
        return model
    unit = f"{run.variant}-{run.seed}"
    folder = out / name / unit / "model"
    try:
        trained = load_model(folder) if folder.is_dir() else shipped_model(f"{name}/{unit}")
    except (CheckpointError, RecordError) as error:
        other, _, size = name.rpartition("-")
        raise CheckpointError(
            f"{experiment.name}-{preset}/{unit} begins with the model of {name}/{unit}, which is "
            f"not to be had ({error}); make it: python -m diffbook record {other} --preset {size} "
            f"--variants {run.variant} --seeds {run.seed} --out {out}"
        ) from error
    model.load_state_dict(trained.state_dict())
    return model


def read_run(path: Path, experiment: Experiment, preset: str) -> Run:
    """The finished run in the file ``path``, which must be one of today's ``preset``.

    Raises:
        RecordError: naming the file, what is wrong with it and what to do.
    """
    try:
        run = Run(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RecordError(
            f"{path} is cut off, edited, or of another version ({error}): delete this file; the "
            "trained model beside it is then measured again"
        ) from error
    if path.parent.name != f"{run.variant}-{run.seed}":
        raise RecordError(
            f"{path} is the run {run.variant}-{run.seed}: its folder must have that name")
    changed = settings_changed(run, experiment, preset)
    if changed:
        raise RecordError(
            f"{path} was made with other settings than those of today ({changed}): give another "
            f"--out, or delete {path.parent} to make the run again"
        )
    return run


def settings_changed(run: Run, experiment: Experiment, preset: str) -> str:
    """What differs between the settings of ``run`` and those of ``preset`` today, in words; empty
    when nothing does. A field that is newer than the run must have its default."""
    if run.variant not in experiment.variants:
        return f"there is no variant {run.variant!r} any more"
    trained = experiment.presets[preset].train
    pairs: list[tuple[str, Any, dict[str, Any]]] = [
        ("model", experiment.config(preset, run.variant, run.seed), run.model)]
    if trained is not None:
        pairs.append(("train", replace(trained, seed=run.seed), run.train))
    found = []
    for kind, config, recorded in pairs:
        today = json.loads(json.dumps(asdict(config)))  # as a file has it: tuples are lists
        default = {
            entry.name: None if entry.default is MISSING else entry.default
            for entry in fields(config)
        }
        default = json.loads(json.dumps(default))
        for name in today.keys() | recorded.keys():
            was = recorded.get(name, default.get(name))
            if name not in today or was != today[name]:
                found.append(f"{kind}.{name} was {was!r}, is {today.get(name)!r}")
    return "; ".join(sorted(found))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(text)
    os.replace(fresh, path)


def commit() -> str:
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
