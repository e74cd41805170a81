"""All runs of an experiment: the most valuable first, side by side, within a time, on this machine
or on a cluster.

    report = record(EXPERIMENTS["lm"], "cpu", seeds=[0, 1, 2], out="runs", minutes=9)
    print(report.text())

A *unit* is one run: one variant with one seed. Its result, ``run.json``, appears whole when the
unit is finished. So the same call again makes what is left: a unit that was stopped or killed goes
on from its last checkpoint, and a finished one is never made twice. A lock for each unit keeps two
calls with one ``out`` from each other, also on different hosts of one file system.
"""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from diffbook.experiments.experiment import Experiment, Preset, read_run, run_one
from diffbook.experiments.publish import span
from diffbook.records.record import MACHINES, RecordError, available, load

BACKENDS = ("loky", "dask", "ray")
FIRST = ("softmax", "diff")  # the pair of the paper comes before the controls
WIDTH = 100  # columns of a terminal
MEASURING = 1.15  # wall time of a unit over that of its training: measures, checkpoints, start


@dataclass(frozen=True)
class Unit:
    """One run of an experiment."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: "finished", "stopped" (at the deadline, to go on from its checkpoint),
    "busy" (another process makes it), "there" (another process has made it meanwhile) or "failed";
    the wall time; and what there is to say."""

    unit: Unit
    state: str
    seconds: float = 0.0
    message: str = ""


@dataclass
class Report:
    """What a call of :func:`record` did.

    Attributes:
        name: of the record. units: all that were asked for. done: those whose result is there.
        made: those that this call finished. failed: those that could not be made, and why.
        busy: how many another process was making. seconds: the wall time of the call.
        rest: seconds that what is left will take, an estimate.
    """

    name: str
    units: list[Unit]
    done: set[Unit] = field(default_factory=set)
    made: list[Unit] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    busy: int = 0
    seconds: float = 0.0
    rest: float = 0.0

    @property
    def left(self) -> list[Unit]:
        return [unit for unit in self.units if unit not in self.done]

    def text(self) -> str:
        """One line: what is finished, what is left, how to go on."""
        count = f"{len(self.done)} of {len(self.units)}" if self.left else f"all {len(self.units)}"
        line = f"{self.name}: {count} runs are finished"
        if self.made:
            line += f", {len(self.made)} of them now, in {self.seconds / 60:.1f} minutes"
        if self.busy:
            line += f"; {self.busy} in the hands of another process"
        if self.failed:
            line += f"; {len(self.failed)} failed"
        waiting = len(self.left) - self.busy - len(self.failed)
        if waiting > 0:
            line += (
                f"; {waiting} left, about {math.ceil(self.rest / 60)} minutes more: give the same "
                "command again to go on"
            )
        return line


def record(
    experiment: Experiment, preset: str, seeds: Iterable[int], out: str | Path, *,
    variants: Sequence[str] | None = None, minutes: float | None = None, jobs: int | None = None,
    backend: str = "loky", scheduler: str | None = None, again: bool = False,
    progress: bool | None = None, say: Callable[[str], None] | None = None,
) -> Report:
    """Make the runs of ``experiment`` that are not there yet.

    Args:
        out: folder of the runs; on a cluster, one that all workers see under this name.
        variants: some only.
        minutes: no unit is begun that cannot be finished within them, unless nothing else is left
            to do; one that is running then stops behind a checkpoint. Default: no limit.
        jobs: units at the same time. Default: on a CPU its physical cores, with one thread each;
            one on each GPU; all workers of a cluster.
        backend: "loky" for processes of this machine, "dask" or "ray" for a running cluster, all
            by joblib.
        scheduler: the cluster's address; default ``DASK_SCHEDULER_ADDRESS`` or ``RAY_ADDRESS``
            from the environment (without either, Ray starts on this machine).
        again: measure finished runs again, as after a change of the measures.
        progress: show a bar; by default not where ``DIFFBOOK_STATIC`` is set.
        say: called with one line for each unit that ends.

    Returns:
        The report. A unit that fails does not stop the others; it is in ``report.failed``.

    Raises:
        ValueError: for an unknown name, or a machine without what the preset needs.
        RecordError: when the result of a run is there, but damaged or of other settings.
    """
    units = order(experiment, preset, seeds, variants)
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes={minutes:g}: give more than 0")
    if minutes is not None and again:
        raise ValueError("again (--again) measures all runs in one go: leave minutes out")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: give at least 1")
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known: choose one of {', '.join(BACKENDS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "record makes one run on one device and several runs side by side (--jobs); to train "
            "one model on several, start python -m diffbook train with accelerate launch"
        )
    gpu = needs_gpu(preset)
    if gpu and backend == "loky" and not torch.cuda.is_available():
        raise ValueError(
            f"preset {preset!r} is for a CUDA GPU and there is none here: take one of "
            + (", ".join(name for name in experiment.presets if not needs_gpu(name)) or "no other")
            + ", or run it where a GPU is"
        )
    started = time.time()
    name = f"{experiment.name}-{preset}"
    folder = Path(out).resolve() / name
    report = Report(name, units)
    for unit in units:  # a bad file is reported before an hour of work, not after it
        path = folder / unit.name / "run.json"
        if path.exists():
            read_run(path, experiment, preset)
            if not again:
                report.done.add(unit)
    todo = report.left
    if backend == "loky":
        alone = getattr(experiment.presets[preset].task, "alone", False)  # it measures times
        jobs = jobs or (1 if alone else _jobs_here(gpu, len(todo)))
    until = math.inf if minutes is None else started + 60 * minutes
    plan = _Plan(experiment.presets[preset], folder, todo, until)
    hidden = bool(os.environ.get("DIFFBOOK_STATIC")) if progress is None else not progress
    bar = tqdm(
        total=len(units), initial=len(report.done), desc=name, unit="run", disable=hidden)
    task = _Task(experiment, preset, Path(out).resolve(), again, until, gpu)
    try:
        for outcome in _outcomes(task, plan, jobs, backend, scheduler, bar) if todo else ():
            plan.ended(outcome)
            unit = outcome.unit
            if outcome.state in ("finished", "there"):
                if not (folder / unit.name / "run.json").exists():
                    raise RuntimeError(
                        f"a worker finished {unit.name}, but {folder / unit.name} is not here: "
                        "OUT must be a folder that this machine and all workers see"
                    )
                report.done.add(unit)
                if outcome.state == "finished":
                    report.made.append(unit)
                bar.update(1)
            elif outcome.state == "failed":
                report.failed.append(outcome)
            elif outcome.state == "busy":
                report.busy += 1
            if say is not None:
                with bar.external_write_mode():
                    say(_line(outcome, folder))
    finally:
        bar.close()
    report.seconds = time.time() - started
    report.rest = sum(plan.estimate(unit) for unit in report.left) / plan.jobs
    return report


def order(
    experiment: Experiment, preset: str, seeds: Iterable[int], variants: Sequence[str] | None = None
) -> list[Unit]:
    """The units, the most valuable first: seed by seed, since a comparison takes all variants of a
    seed, and in each the Transformer and DIFF before the controls."""
    if preset not in experiment.presets:
        raise ValueError(
            f"{experiment.name} has no preset {preset!r}: it has {', '.join(experiment.presets)}")
    if unknown := set(variants or ()) - set(experiment.variants):
        raise ValueError(
            f"{experiment.name} has no variant {', '.join(sorted(unknown))}: it has "
            + ", ".join(experiment.variants)
        )
    chosen = [name for name in experiment.variants if variants is None or name in variants]
    chosen.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return [Unit(variant, seed) for seed in dict.fromkeys(seeds) for variant in chosen]


def needs_gpu(preset: str) -> bool:
    """Whether the preset of this name is one for a GPU."""
    return preset in MACHINES and preset != "cpu"


def minutes_of(experiment: Experiment, preset: str) -> tuple[float, bool]:
    """Minutes of one run, the mean over variants: as the shipped record says (the training, or
    the measuring where nothing is trained), with True; else as the preset estimates, with False."""
    name = f"{experiment.name}-{preset}"
    if name in available():
        runs = load(name).runs
        seconds = sum(run.seconds for run in runs)
        if seconds:
            return seconds / len(runs) / 60, True
    return experiment.presets[preset].minutes, False


def listing(experiments: Iterable[Experiment], seeds: int, jobs: int | None = None) -> str:
    """What ``record --list`` shows: for each preset its cost and the state of its record."""
    lines = [f"{'preset':8}{'minutes a run':>14}{'runs':>6}{'jobs':>6}{'in all':>12}   record",
             "(~ an estimate; the others are those of the record)"]
    for experiment in experiments:
        lines += ["", *textwrap.wrap(f"{experiment.name}: {experiment.title}", WIDTH)]
        for name, preset in experiment.presets.items():
            runs = seeds * len(experiment.variants)
            one_by_one = needs_gpu(name) or getattr(preset.task, "alone", False)
            side = min(runs, jobs or (1 if one_by_one else _cores()))
            try:
                minutes, measured = minutes_of(experiment, name)
                state = _state(f"{experiment.name}-{name}")
            except RecordError as error:  # the list is where one looks for what is wrong
                minutes, measured, state = preset.minutes, False, f"cannot be read: {error}"
            in_all = _hours(minutes * math.ceil(runs / side))
            one = f"{'' if measured else '~'}{minutes:.2g}"
            row = f"  {name:6}{one:>14}{runs:>6}{side:>6}{in_all:>12}   "
            first, *more = textwrap.wrap(state, WIDTH - len(row)) or [""]
            lines += [row + first, *(" " * len(row) + rest for rest in more)]
            lines += textwrap.wrap(
                preset.note, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def costs(experiments: Iterable[Experiment]) -> str:
    """Minutes of one run by experiment and machine, as a Markdown table (README, site)."""
    machines = MACHINES[::-1]
    lines = [
        "| Experiment | `python -m diffbook record` … | runs a seed | "
        + " | ".join(name.upper() for name in machines) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(machines),
    ]
    for experiment in experiments:
        cells = [experiment.title, f"`{experiment.name}`", str(len(experiment.variants))]
        for name in machines:
            if name not in experiment.presets:
                cells.append("")
                continue
            minutes, measured = minutes_of(experiment, name)
            cells.append(f"{minutes:.2g}" if measured else f"{minutes:.2g} (estimate)")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _state(name: str) -> str:
    """Of the record: its seeds, device and date."""
    if name not in available():
        return "no record yet"
    record = load(name)
    seeds = sorted({run.seed for run in record.runs})
    devices = " / ".join(dict.fromkeys(run.device for run in record.runs))
    return f"seeds {span(seeds)}, {devices}, {record.date}"


def _hours(minutes: float) -> str:
    whole = max(1, round(minutes))
    return f"{whole} min" if whole < 120 else f"{whole // 60} h {whole % 60:02} min"


# ---------------------------------------------------------------- what is begun, and when


class _Plan:
    """The units that are still to be made, handed out one by one as workers become free."""

    def __init__(self, preset: Preset, folder: Path, units: Sequence[Unit], until: float):
        self.preset, self.folder, self.until = preset, folder, until
        self.waiting = list(units)
        self.running: dict[Unit, None] = {}  # a set that keeps its order
        self.begun, self.jobs = 0, 1
        self.earlier: dict[str, float] = {}  # seconds of a whole unit, by variant: before,
        self.walls: dict[str, list[float]] = {}  # and in this call

    def estimate(self, unit: Unit) -> float:
        """Seconds until ``unit`` is finished, its checkpoint taken into account."""
        whole = self.whole(unit.variant)
        steps = self.preset.train.steps if self.preset.train else 1
        rest = whole * (1 - _step(self.folder / unit.name) / steps)
        return max(rest, whole * (1 - 1 / MEASURING))  # it has to be measured, too

    def whole(self, variant: str) -> float:
        """Seconds of a unit from its beginning to its end: as finished ones of this variant took,
        else as the preset says."""
        if variant in self.walls:
            return sum(self.walls[variant]) / len(self.walls[variant])
        if variant not in self.earlier:
            found = [_seconds(path) for path in self.folder.glob("*/run.json")
                     if path.parent.name.rpartition("-")[0] == variant]
            found = [seconds for seconds in found if seconds > 0]
            self.earlier[variant] = (
                MEASURING * sum(found) / len(found) if found else 60 * self.preset.minutes)
        return self.earlier[variant]

    def begins(self) -> Iterator[Unit]:
        """The next unit whenever it is asked; asked again when a worker is free."""
        while self.waiting:
            unit = self.choose()
            if unit is None:
                return
            self.waiting.remove(unit)
            self.running[unit] = None
            self.begun += 1
            yield unit

    def choose(self) -> Unit | None:
        """The first that can be finished in time. Where none can, the first whose next checkpoint
        can be reached: the worker would have nothing else to do. And one in any case."""
        time_left = self.until - time.time()
        for unit in self.waiting:
            if self.estimate(unit) <= time_left:
                return unit
        for unit in self.waiting:
            if self.until_checkpoint(unit) <= time_left:
                return unit
        return None if self.begun else self.waiting[0]

    def until_checkpoint(self, unit: Unit) -> float:
        train = self.preset.train
        if train is None or not train.checkpoint_every:
            return self.estimate(unit)
        return self.whole(unit.variant) * min(1.0, train.checkpoint_every / train.steps)

    def ended(self, outcome: Outcome) -> None:
        self.running.pop(outcome.unit, None)
        if outcome.state == "finished" and outcome.seconds:
            self.walls.setdefault(outcome.unit.variant, []).append(outcome.seconds)


class Deadline(Exception):
    """The time is over; the last checkpoint is just behind."""


class _Watch:
    """``on_step`` of a training with a deadline: ends it behind the last checkpoint from which the
    next one would come too late. It always waits for one checkpoint, so that every call gets on.
    """

    def __init__(self, until: float, steps: int, checkpoint_every: int):
        self.until, self.steps, self.every = until, steps, checkpoint_every or steps
        self.first: int | None = None
        self.began = 0.0

    def __call__(self, step: int, loss: float) -> None:
        now = time.time()
        if self.first is None:
            self.first, self.began = step, now
        coming = min(self.steps, math.ceil(step / self.every) * self.every)
        saved = (step - 1) // self.every * self.every >= self.first
        if not saved or step == coming:  # a checkpoint is written right after its point
            return
        pace = (now - self.began) / (step - self.first)
        if now + (coming - step) * pace > self.until:
            raise Deadline


def _step(folder: Path) -> int:
    """The step of the checkpoint in ``folder``; 0 where there is none that can be read (training
    says what is wrong with it)."""
    for name in ("checkpoint", "checkpoint.old"):
        path = folder / name / "progress.json"
        if path.is_file():
            try:
                return int(json.loads(path.read_text())["step"])
            except (OSError, ValueError, KeyError, TypeError):
                return 0
    return 0


def _seconds(path: Path) -> float:
    """Of the training of a finished run; 0 where its file cannot be read (who asks for this run
    is told)."""
    try:
        return float(json.loads(path.read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


# ---------------------------------------------------------------- one unit, in a worker


@dataclass(frozen=True)
class _Task:
    """What a worker has to know; ``task(unit)`` makes one."""

    experiment: Experiment
    preset: str
    out: Path
    again: bool
    until: float
    gpu: bool

    def __call__(
        self, unit: Unit, on_step: Callable[[int, float], None] | None = None
    ) -> Outcome:
        folder = self.out / f"{self.experiment.name}-{self.preset}"
        errors = folder / unit.name / "error.txt"
        train = self.experiment.presets[self.preset].train
        watch = _Watch(self.until, train.steps, train.checkpoint_every) if train else None

        def each(step: int, loss: float) -> None:
            if on_step is not None:
                on_step(step, loss)
            if watch is not None:
                watch(step, loss)

        began = time.perf_counter()
        state, message = "finished", ""
        try:
            with _claim(folder, unit), _device(self.gpu):
                if (folder / unit.name / "run.json").exists() and not self.again:
                    return Outcome(unit, "there", message="made by another process meanwhile")
                from_start = not _step(folder / unit.name) and not self.again
                run_one(
                    self.experiment, self.preset, unit.variant, unit.seed, self.out,
                    again=self.again, progress=False, on_step=each,
                )
                errors.unlink(missing_ok=True)
        except Timeout:
            return Outcome(unit, "busy", message=_owner(folder, unit))
        except Deadline:
            state, message = "stopped", f"at step {_step(folder / unit.name)}"
        except Exception as error:  # reported at the end; the other units go on
            errors.parent.mkdir(parents=True, exist_ok=True)
            errors.write_text(traceback.format_exc())
            first = " ".join(str(error).split()) or "no message"
            message = f"{type(error).__name__}: {first} (more in {errors})"
            return Outcome(unit, "failed", message=message)
        seconds = time.perf_counter() - began
        return Outcome(
            unit, state, seconds if state == "finished" and from_start else 0.0, message)


def _locks(folder: Path) -> Path:
    path = folder / ".locks"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _claim(folder: Path, unit: Unit) -> Iterator[None]:
    """Hold the lock of ``unit``; ``filelock.Timeout`` where another process holds it.

    It is a lock of the operating system on an open file: it ends with its process, however that
    ends, so none is left behind. Who holds it stands in a file of its own, to be read by others.
    """
    with FileLock(_locks(folder) / f"{unit.name}.lock", timeout=0):
        owner = _locks(folder) / f"{unit.name}.owner"
        owner.write_text(
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%H:%M}")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)


def _owner(folder: Path, unit: Unit) -> str:
    try:
        return "by " + (_locks(folder) / f"{unit.name}.owner").read_text()
    except FileNotFoundError:  # it has just begun, or just ended
        return "by another process"


@contextmanager
def _device(gpu: bool) -> Iterator[None]:
    """On a CPU: one thread, so that a run is the same however many are made beside it. On a host
    with several GPUs: the least used one, by a lock for each place."""
    if not gpu:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
        return
    if not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA GPU on {socket.gethostname()}, which the preset needs")
    gpus, place = torch.cuda.device_count(), 0
    if gpus == 1:
        yield
        return
    user = getattr(os, "getuid", int)()  # Windows has none
    while True:
        path = Path(tempfile.gettempdir()) / f"diffbook-{user}-gpu-{place}.lock"
        seat = FileLock(path, timeout=0)
        try:
            seat.acquire()
            break
        except Timeout:
            place += 1  # from `gpus` on: a second unit on each
    try:
        with torch.cuda.device(place % gpus):
            yield
    finally:
        seat.release()


def _line(outcome: Outcome, folder: Path) -> str:
    """What is said when a unit ends."""
    detail = {
        "finished": str(folder / outcome.unit.name / "run.json"),
        "stopped": f"{outcome.message}: the time is over",
        "busy": f"is being made {outcome.message}",
    }.get(outcome.state, outcome.message)
    return f"{outcome.unit.name}: {outcome.state}, {detail}"


# ---------------------------------------------------------------- side by side


def _jobs_here(gpu: bool, units: int) -> int:
    """How many units at the same time on this machine.

    On a GPU one: a second one makes both slower, takes memory nobody has counted, and spoils the
    record's seconds and utilization. Who only wants the numbers sooner gives ``jobs``.
    """
    if gpu:
        return torch.cuda.device_count()
    return 1 if units < 2 else min(units, _cores())


def _cores() -> int:
    import joblib

    return joblib.cpu_count(only_physical_cores=True)


def _outcomes(
    task: _Task, plan: _Plan, jobs: int | None, backend: str, scheduler: str | None, bar: Any
) -> Iterator[Outcome]:
    """Run what ``plan`` hands out; outcomes as they come."""
    if backend == "loky" and jobs == 1:  # in this process
        for unit in plan.begins():
            def show(step: int, loss: float, unit: Unit = unit) -> None:
                bar.set_postfix_str(f"{unit.name}: step {step}, loss {loss:.3f}")

            yield task(unit, show)
        return
    import joblib

    with _engine(backend, scheduler, task) as (options, slots):
        plan.jobs = jobs or slots
        while plan.waiting:
            parallel = joblib.Parallel(
                n_jobs=plan.jobs, batch_size=1, pre_dispatch="n_jobs",
                # Ray's pool gives its results at the end only.
                return_as="list" if backend == "ray" else "generator_unordered",
            )
            try:
                with joblib.parallel_config(backend, **options):
                    yield from parallel(joblib.delayed(task)(unit) for unit in plan.begins())
                return
            except BrokenExecutor:
                # A worker was killed, mostly for memory. What ran can be gone on with; what was
                # not begun is made by new workers.
                for unit in list(plan.running):
                    yield Outcome(
                        unit, "failed", message="its worker or one beside it was killed (out of "
                        "memory?): give the same command again, with fewer --jobs")


@contextmanager
def _engine(
    backend: str, scheduler: str | None, task: _Task
) -> Iterator[tuple[dict[str, Any], int]]:
    """What joblib's backend is given, connected and checked; and how many workers there are."""
    if backend == "dask":
        address = scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
        if not address:
            raise ValueError(
                "--backend dask needs the address of a running scheduler: give --scheduler "
                "tcp://HOST:8786 or set DASK_SCHEDULER_ADDRESS"
            )
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError('Dask is not installed: pip install "diffbook[cluster]"') from error
        with Client(address, timeout=30, set_as_default=False) as client:
            _check_dask(client, task.out)
            yield {"client": client}, len(client.nthreads())
    elif backend == "ray":
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise ValueError('Ray is not installed: pip install "diffbook[cluster]"') from error
        if not ray.is_initialized():
            ray.init(address=scheduler or os.environ.get("RAY_ADDRESS"), log_to_driver=False)
        register_ray()
        wanted = "GPU" if task.gpu else "CPU"
        slots = int(ray.cluster_resources().get(wanted, 0))
        if not slots:
            raise ValueError(f"the Ray cluster has no {wanted}, which the preset needs")
        # One unit for each worker: a CPU, or a GPU of its own.
        yield {"ray_remote_args": {"num_gpus": 1} if task.gpu else {"num_cpus": 1}}, slots
    else:
        yield {}, 1


def _check_dask(client: Any, out: Path) -> None:
    """Workers must be there, run one unit at a time, and see ``out``."""
    client.wait_for_workers(1, timeout=60)
    threads = {address: count for address, count in client.nthreads().items() if count != 1}
    if threads:
        raise ValueError(
            f"the Dask worker {next(iter(threads))} has {next(iter(threads.values()))} threads, "
            "but a process trains one model at a time: start workers with --nthreads 1 (and "
            "--nworkers for several)"
        )
    token = out / f".seen-by-workers-{os.getpid()}"
    token.touch()
    try:
        blind = [worker for worker, seen in client.run(_sees, str(token)).items() if not seen]
    finally:
        token.unlink()
    if blind:
        raise ValueError(
            f"the Dask worker {blind[0]} does not see {out}: give as --out a folder on a file "
            "system that all workers share"
        )


def _sees(path: str) -> bool:
    return Path(path).exists()
