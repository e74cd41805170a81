"""The record of an experiment: schema, reading, choosing runs."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from diffbook.model import CheckpointError, LanguageModel, load_model
from diffbook.records.compare import Claim, Paired, Standing, paired_interval

SCHEMA = 2
MACHINES = ("h100", "t4", "cpu")  # presets, the strongest first
FOLDER = Path(__file__).parent


class RecordError(ValueError):
    """A record that is missing, damaged, or of another schema."""


@dataclass(frozen=True)
class Run:
    """One trained model.

    Attributes:
        variant, seed: which; runs of one seed saw the same data in the same order and started
            from the same common weights.
        model, train: the two configs, as plain dictionaries.
        parameters: numbers trained.
        curve, validation: see :class:`diffbook.train.TrainResult`.
        measures: name -> number, after training. arrays: name -> list of numbers, likewise.
        lambdas: λ of each layer after training; empty for a Transformer.
        samples: generated text by prompt, where the experiment makes any.
        seconds, tokens: of training; where nothing is trained, seconds of measuring. device: what
            it ran on. commit: of the code that ran.
        mfu: model FLOPs utilization of the training, a share of what the device can do at most
            (:func:`diffbook.measure.flops.peak_flops`); None where nothing was trained.
        checkpoint: sha256 of the shipped weights, or None where they are not shipped.
    """

    variant: str
    seed: int
    model: dict[str, Any]
    train: dict[str, Any]
    parameters: int
    curve: dict[str, list]
    validation: dict[str, list]
    measures: dict[str, float]
    lambdas: list[float]
    seconds: float
    tokens: int
    device: str
    commit: str = ""
    mfu: float | None = None
    arrays: dict[str, list[float]] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    @property
    def tokens_per_second(self) -> float:
        """Of training; NaN where nothing was trained."""
        return self.tokens / self.seconds if self.tokens else math.nan


@dataclass(frozen=True)
class Record:
    """All runs of one experiment with one preset.

    Attributes:
        name: "experiment-preset". title: what it tests. task: the task, as text.
        versions, commit, date: of what wrote it. command: makes it again.
        runs: by variant, then seed.
        standing: on each of the experiment's claims, as it was written.
    """

    name: str
    title: str
    task: str
    versions: dict[str, str]
    commit: str
    date: str
    command: str
    runs: tuple[Run, ...]
    standing: tuple[Standing, ...] = ()

    def of(self, variant: str) -> list[Run]:
        """The runs of one variant, by seed."""
        runs = sorted((r for r in self.runs if r.variant == variant), key=lambda r: r.seed)
        if not runs:
            raise KeyError(f"{self.name} has no variant {variant!r}: it has {self.variants}")
        return runs

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    def values(self, variant: str, measure: str) -> np.ndarray:
        """One measure over the seeds of ``variant``: (n_seeds,)."""
        try:
            return np.array([run.measures[measure] for run in self.of(variant)])
        except KeyError as error:
            known = ", ".join(self.of(variant)[0].measures)
            raise KeyError(f"{self.name} has no {error} for {variant}: it has {known}") from None

    def paired(self, measure: str, a: str = "diff", b: str = "softmax") -> Paired:
        """a - b over the seeds both have, with its 95 % interval."""
        of_a, of_b = (
            dict(zip((run.seed for run in self.of(kind)), self.values(kind, measure), strict=True))
            for kind in (a, b)
        )
        seeds = sorted(of_a.keys() & of_b.keys())
        differences = tuple(float(of_a[seed] - of_b[seed]) for seed in seeds)
        return Paired(measure, a, b, differences, *paired_interval(differences))

    def judge(self, claim: Claim) -> Standing:
        """Where these runs stand on ``claim``."""
        found = self.paired(claim.measure, claim.a, claim.b)
        of_a, of_b = (
            {run.seed: run.measures[claim.measure] for run in self.of(kind)}
            for kind in (claim.a, claim.b)
        )
        both = sorted(of_a.keys() & of_b.keys())
        return Standing(
            claim, mean_a=float(np.mean([of_a[seed] for seed in both])),
            mean_b=float(np.mean([of_b[seed] for seed in both])), difference=found.mean,
            low=found.low, high=found.high, seeds=found.n, verdict=found.verdict(claim.says),
        )

    def array(self, variant: str, name: str) -> np.ndarray:
        """A list of numbers that each run measured: (n_seeds, length)."""
        try:
            return np.array([run.arrays[name] for run in self.of(variant)])
        except KeyError as error:
            known = ", ".join(self.of(variant)[0].arrays) or "none"
            raise KeyError(f"{self.name} has no {error} for {variant}: it has {known}") from None

    def series(self, variant: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (points,) and ``name`` (n_seeds, points) of the training curve or validation."""
        runs = self.of(variant)
        table = "validation" if name in runs[0].validation else "curve"
        steps = np.array(getattr(runs[0], table)["step"])
        return steps, np.array([getattr(run, table)[name] for run in runs])

    @property
    def provenance(self) -> str:
        """One line for a caption: device, seeds, minutes, commit."""
        devices = " / ".join(dict.fromkeys(run.device for run in self.runs))
        commits = " / ".join(dict.fromkeys(run.commit or self.commit for run in self.runs))
        seeds = max(len(self.of(variant)) for variant in self.variants)
        minutes = sum(run.seconds for run in self.runs) / 60
        return (
            f"recorded: {self.name}, {devices}, {seeds} seeds, {minutes:.0f} minutes in all, "
            f"{self.date}, commit {commits}"
        )

    def to_json(self) -> str:
        """The file's text, its own checksum included."""
        body = {"schema": SCHEMA, **asdict(self)}
        return json.dumps({**body, "sha256": _digest(body)}, separators=(",", ":")) + "\n"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read(path: str | Path) -> Record:
    """The record in the file ``path``.

    Raises:
        RecordError: naming the file, what is wrong with it and what to do.
    """
    path = Path(path)
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(available()) or "none"
        raise RecordError(f"there is no record {path.stem!r}: there are {known}") from None
    except ValueError as error:
        raise RecordError(
            f"{path} is cut off or not JSON ({error}): restore it, or make it again with "
            "`python -m diffbook record`"
        ) from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        found = body.get("schema") if isinstance(body, dict) else None
        raise RecordError(
            f"{path} has schema {found}, this version reads {SCHEMA}: make the record again with "
            "`python -m diffbook record`, or use the version of diffbook that wrote it"
        )
    claimed = body.pop("sha256", None)
    if claimed != _digest(body):
        raise RecordError(
            f"{path} was changed after it was written (its checksum does not fit): restore it, or "
            "make it again with `python -m diffbook record`"
        )
    body.pop("schema")
    try:
        runs = tuple(Run(**run) for run in body.pop("runs"))
        standing = tuple(
            Standing(**{**row, "claim": Claim(**row["claim"])}) for row in body.pop("standing")
        )
        record = Record(runs=runs, standing=standing, **body)
    except (KeyError, TypeError) as error:
        raise RecordError(
            f"{path} lacks a field or has one too many ({error}): make it again with "
            "`python -m diffbook record`"
        ) from error
    for run in runs:
        numbers = chain(run.measures.values(), *run.arrays.values())
        if not all(math.isfinite(value) for value in numbers):
            raise RecordError(f"{path}: {run.variant}-{run.seed} has a measure that is no number")
    return record


def available() -> list[str]:
    """Names of the shipped records."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def best(experiment: str) -> Record:
    """The record of ``experiment`` from the strongest machine that has made one."""
    for preset in MACHINES:
        if f"{experiment}-{preset}" in available():
            return load(f"{experiment}-{preset}")
    raise RecordError(
        f"there is no record of {experiment!r}: there are {', '.join(available()) or 'none'}"
    )


@cache
def load(name: str) -> Record:
    """The shipped record ``name``, for example "lm-cpu"; :func:`available` lists them."""
    return read(FOLDER / f"{name}.json")


def model(name: str) -> LanguageModel:
    """A shipped trained model, for example "lm-cpu/diff-0", in float32 and evaluation mode.

    Its sha256 is compared with the record's.

    Raises:
        CheckpointError: when it is not shipped or damaged.
    """
    record_name, _, run_name = name.partition("/")
    runs = {
        f"{run.variant}-{run.seed}": run.checkpoint
        for run in load(record_name).runs if run.checkpoint
    }
    if run_name not in runs:
        known = ", ".join(f"{record_name}/{run}" for run in runs) or "none"
        raise CheckpointError(f"no checkpoint {name!r} is shipped; there are {known}")
    folder = FOLDER / "checkpoints" / record_name / run_name
    weights = folder / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else None
    if found is not None and found != runs[run_name]:
        raise CheckpointError(
            f"{weights} is damaged (sha256 {found[:12]}…, the record says "
            f"{runs[run_name][:12]}…): restore the file or install diffbook again"
        )
    return load_model(folder).eval()


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
