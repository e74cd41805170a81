"""From finished runs to the record that goes with the package."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import safetensors.torch
import torch

from diffbook.experiments.experiment import (
    Experiment,
    commit,
    read_run,
    settings_changed,
    write_whole,
)
from diffbook.records.record import FOLDER, Record, Run, file_sha256, read


def combine(experiment: Experiment, preset: str, out: Path) -> Record:
    """All finished runs in ``out``, and those of the shipped record that are not there, as one
    record, by variant and seed: seeds can be added to a record.

    Raises:
        ValueError: when there is no run, or one that is damaged, was made with other settings
            than today's preset, or has a measure that is no number.
    """
    name = f"{experiment.name}-{preset}"
    task = repr(experiment.presets[preset].task)
    shipped = FOLDER / f"{name}.json"
    found: dict[tuple[str, int], Run] = {}
    if shipped.exists():
        earlier = read(shipped)
        changed = "" if _same_task(earlier.task, task) else f"its task was {earlier.task}"
        for run in earlier.runs:
            changed = changed or settings_changed(run, experiment, preset)
            found[run.variant, run.seed] = run
        if changed:
            raise ValueError(
                f"{shipped} was made with other settings than those of today ({changed}): one "
                "record does not mix them; delete it to replace the record by new runs"
            )
    for path in sorted((out / name).glob("*/run.json")):
        run = read_run(path, experiment, preset)
        numbers = chain(run.measures.values(), *run.arrays.values())
        if not all(math.isfinite(value) for value in numbers):
            raise ValueError(
                f"{path} has a measure that is no number: mend the measure, then give --again")
        found[run.variant, run.seed] = run
    if not found:
        raise ValueError(f"no finished run of {name} in {out}")
    order = list(experiment.variants)
    runs = sorted(found.values(), key=lambda run: (order.index(run.variant), run.seed))
    seeds = sorted({run.seed for run in runs})
    record = Record(
        name=name,
        title=experiment.title,
        task=task,
        versions={"python": platform.python_version(), "torch": torch.__version__,
                  "accelerate": version("accelerate")},
        commit=commit(),
        date=datetime.now(UTC).date().isoformat(),
        command=f"python -m diffbook record {experiment.name} --preset {preset} "
                f"--seeds {span(seeds)}",
        runs=tuple(runs),
    )
    return replace(record, standing=tuple(record.judge(claim) for claim in experiment.claims))


def _same_task(recorded: str, today: str) -> bool:
    """Whether two tasks, as text, are one, up to fields that were added since."""
    kind, _, fields = recorded.removesuffix(")").partition("(")
    kind_today, _, fields_today = today.removesuffix(")").partition("(")
    return kind == kind_today and set(fields.split(", ")) <= set(fields_today.split(", "))


def publish(experiment: Experiment, preset: str, out: Path) -> Path:
    """Write the record, and the checkpoints it ships as bf16, into the package."""
    record = combine(experiment, preset, out)
    shipped = []
    for run in record.runs:
        name = f"{run.variant}-{run.seed}"
        source = out / record.name / name / "model"
        if run.seed in experiment.ship and source.is_dir():
            target = FOLDER / "checkpoints" / record.name / name
            target.mkdir(parents=True, exist_ok=True)
            weights = safetensors.torch.load_file(source / "model.safetensors")
            # λ and the gains are few and matter: they stay in float32.
            half = {k: w.bfloat16() if w.ndim == 2 else w for k, w in weights.items()}
            safetensors.torch.save_file(half, target / "model.safetensors")
            (target / "config.json").write_text((source / "config.json").read_text())
            run = replace(run, checkpoint=file_sha256(target / "model.safetensors"))
        shipped.append(run)
    path = FOLDER / f"{record.name}.json"
    write_whole(path, replace(record, runs=tuple(shipped)).to_json())
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


def span(seeds: Iterable[int]) -> str:
    """[0, 1, 2] -> "0-2"."""
    seeds = list(seeds)
    if seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))
