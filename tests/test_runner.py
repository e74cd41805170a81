"""diffbook.experiments.runner: the right run first, within the time, killed or side by side, and
the same numbers whatever happened on the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_records import TINY

from diffbook.cli import main
from diffbook.experiments import EXPERIMENTS, runner
from diffbook.experiments.experiment import read_run, run_one
from diffbook.experiments.runner import Outcome, Report, Unit, _Plan, _Watch, order, record
from diffbook.records import RecordError, load

CPU = TINY.presets["cpu"]


def numbers(folder: Path) -> dict:
    """All of a run.json but what the clock says."""
    body = json.loads((folder / "run.json").read_text())
    assert body.pop("seconds") > 0
    assert 0 < body.pop("mfu") < 1
    assert body.pop("commit")
    return body


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Both variants with seeds 0 and 1, one after the other."""
    out = tmp_path_factory.mktemp("undisturbed")
    report = record(TINY, "cpu", [0, 1], out, jobs=1)
    assert re.fullmatch(
        r"tiny-cpu: all 4 runs are finished, 4 of them now, in \d+\.\d minutes", report.text())
    return out / "tiny-cpu"


def assert_as_undisturbed(folder: Path, undisturbed: Path) -> None:
    for path in undisturbed.glob("*/run.json"):
        assert numbers(folder / path.parent.name) == numbers(path.parent), path.parent.name


# --- What comes first, and what is begun ----------------------------------------------------


def test_order_is_seed_by_seed_and_the_pair_before_the_controls():
    names = [unit.name for unit in order(EXPERIMENTS["needle"], "cpu", [3, 0])]
    assert names == ["softmax-3", "diff-3", "softmax_norm-3", "diff_frozen-3",
                     "softmax-0", "diff-0", "softmax_norm-0", "diff_frozen-0"]
    assert order(TINY, "cpu", [0, 0], ["diff"]) == [Unit("diff", 0)]
    first = [unit.name for unit in order(EXPERIMENTS["scaling"], "cpu", [0])][:4]
    assert first == ["softmax-32-0", "diff-32-0", "softmax-48-0", "diff-48-0"]  # pair by pair


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved: ``clock.now``."""

    class Clock:
        now = 1000.0

        @staticmethod
        def time() -> float:
            return Clock.now

    Clock.now = 1000.0
    monkeypatch.setattr(runner, "time", Clock)
    return Clock


def plan_of(folder: Path, *units: Unit, seconds: float, minutes: float = 1.0) -> _Plan:
    preset = replace(CPU, minutes=minutes, train=replace(CPU.train, steps=100, checkpoint_every=10))
    return _Plan(preset, folder, units, 1000.0 + seconds)


A, B, C = Unit("softmax", 0), Unit("diff", 0), Unit("softmax", 1)


def test_what_cannot_be_finished_is_not_begun(tmp_path, clock):
    plan = plan_of(tmp_path, A, B, C, seconds=130)
    begun = plan.begins()
    assert next(begun) == A
    clock.now += 60
    assert next(begun) == B  # 70 s left, 60 needed
    plan.ended(Outcome(A, "finished", 20.0))
    clock.now += 45
    assert next(begun) == C  # 25 s left: the preset says 60, but the one before took 20
    assert next(begun, None) is None and not plan.waiting


def test_a_shorter_one_is_taken_where_the_next_does_not_fit(tmp_path, clock):
    for name, seconds in (("softmax-9", 80.0), ("diff-9", 10.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"seconds": seconds}))
    (tmp_path / "softmax-8").mkdir()
    (tmp_path / "softmax-8" / "run.json").write_text("cut off")  # no estimate comes from it
    plan = plan_of(tmp_path, A, C, B, seconds=50)
    assert plan.estimate(A) == pytest.approx(92)
    assert list(plan.begins()) == [B, A, C]  # then these, up to a checkpoint: better than nothing


def test_a_checkpoint_shortens_what_is_left(tmp_path, clock):
    plan = plan_of(tmp_path, A, B, seconds=20)
    whole = plan.estimate(A)
    (tmp_path / "diff-0" / "checkpoint").mkdir(parents=True)
    (tmp_path / "diff-0" / "checkpoint" / "progress.json").write_text('{"step": 75}')
    assert plan.estimate(B) == pytest.approx(whole / 4)
    assert next(plan.begins()) == B


def test_at_the_end_nothing_is_begun_that_reaches_no_checkpoint(tmp_path, clock):
    plan = plan_of(tmp_path, A, B, C, seconds=5.9, minutes=1)  # a checkpoint takes 6 s
    assert list(plan.begins()) == [A]  # one in any case: every call gets on
    assert plan.waiting == [B, C]
    assert list(plan_of(tmp_path, A, B, C, seconds=6.1).begins()) == [A, B, C]
    plan = plan_of(tmp_path, A, B, seconds=6.1)
    begun = plan.begins()
    next(begun)
    clock.now += 1
    assert list(begun) == []


def test_a_training_stops_behind_the_last_checkpoint_that_fits(clock):
    def stops_at(until: float, first: int = 1, steps: int = 100, every: int = 10) -> int | None:
        clock.now = 0.0
        watch = _Watch(until, steps, every)
        for step in range(first, steps + 1):
            clock.now += 1.0
            try:
                watch(step, 1.0)
            except runner.Deadline:
                return step
        return None

    assert stops_at(200) is None
    assert stops_at(35.5) == 31  # 30 is kept, 40 would come too late
    assert stops_at(40.5) == 41
    assert stops_at(0.5) == 11  # every call gets one checkpoint further
    assert stops_at(5.5, first=31) == 41
    assert stops_at(99.5) == 91
    assert stops_at(50, every=0) is None  # its only checkpoint is the end


def test_small_times_get_there_in_small_steps(tmp_path, undisturbed):
    """Each call has no time at all: it gets one unit to its next checkpoint."""
    said, calls = [], 0
    while True:
        calls += 1
        report = record(TINY, "cpu", [0, 1], tmp_path, minutes=1e-6, jobs=1, say=said.append)
        if not report.left:
            break
        assert calls < 9
        assert "left, about 1 minutes more: give the same command again to go on" in report.text()
    assert calls == 8  # four runs of two checkpoints
    assert said[0] == "softmax-0: stopped, at step 2: the time is over"
    assert said[1].startswith("softmax-0: finished, ")
    assert [line.split(":")[0] for line in said[::2]] == [
        "softmax-0", "diff-0", "softmax-1", "diff-1"]
    assert_as_undisturbed(tmp_path / "tiny-cpu", undisturbed)


def test_report_text():
    units = order(TINY, "cpu", [0, 1])
    report = Report("tiny-cpu", units, done=set(units[:2]), made=units[1:2], seconds=90, rest=61)
    assert report.text() == (
        "tiny-cpu: 2 of 4 runs are finished, 1 of them now, in 1.5 minutes; 2 left, about 2 "
        "minutes more: give the same command again to go on")
    report.busy, report.failed = 1, [Outcome(units[3], "failed")]
    assert report.text().endswith(
        "in 1.5 minutes; 1 in the hands of another process; 1 failed")


@pytest.mark.parametrize("change, message", [
    ({"minutes": 0}, "minutes=0: give more than 0"),
    ({"minutes": float("nan")}, "minutes=nan: give more than 0"),
    ({"jobs": 0}, "jobs=0: give at least 1"),
    ({"backend": "spark"}, "backend='spark' is not known: choose one of loky, dask, ray"),
    ({"variants": ["cubic"]}, "tiny has no variant cubic: it has softmax, diff"),
    ({"minutes": 9, "again": True}, "leave minutes out"),
])
def test_wrong_arguments(change, message, tmp_path):
    with pytest.raises(ValueError) as error:
        record(TINY, "cpu", [0], tmp_path, **change)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_gpu_preset_without_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'h100' is for a CUDA GPU and there is none here: take "
                                         "one of cpu, or run it where"):
        record(EXPERIMENTS["lm"], "h100", [0], tmp_path)
    with pytest.raises(ValueError, match="lm has no preset 'moon': it has cpu, t4, h100"):
        record(EXPERIMENTS["lm"], "moon", [0], tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="python -m diffbook train with accelerate launch"):
        record(TINY, "cpu", [0], tmp_path)


@pytest.mark.parametrize("entry", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_presets_run_on_the_device_of_their_name(entry):
    for name, preset in entry.presets.items():
        if preset.train is not None:
            assert preset.train.device == (None if runner.needs_gpu(name) else "cpu")


# --- Killed at any moment -------------------------------------------------------------------

# Children of one process, forked before torch has any thread: each is killed for real.
KILLED = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from test_records import TINY, NeedleTask
from diffbook.experiments.runner import record

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def nth(function, n, before=None):
    calls = []
    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            if before is not None:
                before(*args, **kwargs)
            die()
        return function(*args, **kwargs)
    return counted

def half(self, folder, **options):
    save(self, folder, **options)
    for path in Path(folder).iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

save, write = Accelerator.save_state, Path.write_text
out = Path(sys.argv[1])
scenes = {{
    "in a step": (NeedleTask, "training_batch", nth(NeedleTask.training_batch, 4)),
    "while a checkpoint is half written": (Accelerator, "save_state", nth(save, 2, half)),
    "between its renames": (Path, "rename", nth(Path.rename, 3)),
    "before the result": (os, "replace", nth(os.replace, 4)),
}}
for name, (owner, attribute, deadly) in scenes.items():
    child = os.fork()
    if not child:
        setattr(owner, attribute, deadly)
        record(TINY, "cpu", [0, 1], out / name, jobs=1)
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, status)

# Two at once on one folder; the first unit waits until both are there.
children = []
for number in range(2):
    children.append(os.fork())
    if not children[-1]:
        batch = NeedleTask.training_batch
        def patient(self, *arguments):
            (out / f"ready-{{number}}").touch()
            while len(list(out.glob("ready-*"))) < 2:
                time.sleep(0.01)
            return batch(self, *arguments)
        NeedleTask.training_batch = patient
        report = record(TINY, "cpu", [0, 1], out / "both", jobs=1)
        again = record(TINY, "cpu", [0, 1], out / "both", jobs=1)
        write(out / f"report-{{number}}", json.dumps(
            [report.busy, [unit.name for unit in report.made + again.made]]))
        os._exit(0)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_killed_at_the_worst_moments_and_two_at_once(tmp_path, undisturbed):
    script = KILLED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True,
        timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    left = {
        "in a step": {"checkpoint"}, "while a checkpoint is half written": {"checkpoint.new"},
        "between its renames": {"checkpoint.new", "checkpoint.old"},
        "before the result": {"checkpoint", "model"},
    }
    for scene, names in left.items():
        out = tmp_path / scene
        there = {path.name for path in (out / "tiny-cpu" / "softmax-0").iterdir()}
        assert names <= there and "run.json" not in there, (scene, there)
        assert (out / "tiny-cpu" / ".locks" / "softmax-0.owner").exists()  # of the dead process
        report = record(TINY, "cpu", [0, 1], out, jobs=1)
        assert len(report.made) == 4 and report.busy == 0
        assert_as_undisturbed(out / "tiny-cpu", undisturbed)
    # Two at once: each run was made by one of them, and both knew of the other.
    reports = [json.loads((tmp_path / f"report-{n}").read_text()) for n in range(2)]
    assert sorted(reports[0][1] + reports[1][1]) == sorted(
        path.parent.name for path in undisturbed.glob("*/run.json"))
    assert reports[0][0] + reports[1][0] >= 1
    assert_as_undisturbed(tmp_path / "both" / "tiny-cpu", undisturbed)


def test_a_unit_in_the_hands_of_another_process_is_left_to_it(tmp_path):
    said = []
    with runner._claim(tmp_path / "tiny-cpu", Unit("softmax", 0)):
        report = record(TINY, "cpu", [0], tmp_path, jobs=1, say=said.append)
    assert (report.busy, [unit.name for unit in report.made]) == (1, ["diff-0"])
    assert re.match(
        rf"softmax-0: busy, is being made by process {os.getpid()} on .+ since \d\d:\d\d", said[0])
    report = record(TINY, "cpu", [0], tmp_path, jobs=1)
    assert not report.left and not report.busy
    assert not list((tmp_path / "tiny-cpu" / ".locks").glob("*.owner"))


def test_a_unit_that_another_process_made_meanwhile_is_not_claimed(tmp_path):
    run_one(TINY, "cpu", "diff", 0, tmp_path)
    task = runner._Task(TINY, "cpu", tmp_path, again=False, until=float("inf"), gpu=False)
    assert task(Unit("diff", 0)).state == "there"
    assert task(Unit("softmax", 0)).state == "finished"


# --- Files that are not what they should be -------------------------------------------------


def test_a_result_that_is_damaged_or_of_other_settings_is_named_and_kept(tmp_path):
    path = run_one(TINY, "cpu", "diff", 0, tmp_path)
    whole = path.read_text()
    body = json.loads(whole)
    model = {**body["model"], "d_ff": 64, "n_layers": 2}
    train = {**body["train"], "lr": 0.5}
    for content, message in (
        (whole[: len(whole) // 2], "cut off, edited, or of another version"),
        ("", "cut off, edited, or of another version"),
        ("[]", "cut off, edited, or of another version"),
        (json.dumps({**body, "schema": 1}), "cut off, edited, or of another version"),
        (json.dumps({k: v for k, v in body.items() if k != "curve"}), "of another version"),
        (json.dumps({**body, "train": train}), r"other settings .*\(train.lr was 0.5, is 0.002\)"),
        (json.dumps({**body, "model": model}),
         r"\(model.d_ff was 64, is 32; model.n_layers was 2, is 1\): give another --out, or del"),
        (json.dumps({**body, "model": {**body["model"], "gone": 1}}), "model.gone was 1, is None"),
        (json.dumps({**body, "variant": "softmax"}), "is the run softmax-0: its folder must have"),
    ):
        path.write_text(content)
        for call in (
            lambda: run_one(TINY, "cpu", "diff", 0, tmp_path),
            lambda: run_one(TINY, "cpu", "diff", 0, tmp_path, again=True),
            lambda: record(TINY, "cpu", [0], tmp_path, jobs=1),
        ):
            with pytest.raises(RecordError, match=message) as error:
                call()
            assert str(path) in str(error.value)
        assert path.read_text() == content
        assert not (path.parent.parent / "softmax-0").exists()  # told before an hour of work
    # A field that is younger than the run has its default: the same settings.
    older = {k: v for k, v in body["model"].items() if k != "output_scale"}
    path.write_text(json.dumps({**body, "model": older}))
    assert read_run(path, TINY, "cpu").variant == "diff"
    # The remedy of the message: the training is not repeated, the numbers are the same.
    stamp = (path.parent / "checkpoint" / "progress.json").stat().st_mtime_ns
    path.unlink()
    record(TINY, "cpu", [0], tmp_path, jobs=1, variants=["diff"])
    assert (path.parent / "checkpoint" / "progress.json").stat().st_mtime_ns == stamp
    clock = {"seconds": 0, "mfu": 0, "commit": ""}
    assert {**json.loads(path.read_text()), **clock} == {**body, **clock}


def test_again_measures_without_training(tmp_path, monkeypatch):
    record(TINY, "cpu", [0], tmp_path, jobs=1)
    path = tmp_path / "tiny-cpu" / "diff-0" / "run.json"
    before = json.loads(path.read_text())
    monkeypatch.setattr(
        type(CPU.task), "training_batch", lambda *a, **k: pytest.fail("trained once more"))
    other = replace(TINY, measure=lambda model, task: {"λ": model.lambdas(), "one": 1.0})
    assert not record(other, "cpu", [0], tmp_path, jobs=1).made  # done is done
    report = record(other, "cpu", [0], tmp_path, jobs=1, again=True)
    assert [unit.name for unit in report.made] == ["softmax-0", "diff-0"]
    after = json.loads(path.read_text())
    assert after == {**before, "measures": {"one": 1.0}, "arrays": {"λ": before["lambdas"]}}
    # Its model cut off: an error, and the result stays.
    weights = path.parent / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    report = record(TINY, "cpu", [0], tmp_path, jobs=1, again=True)
    assert [outcome.unit.name for outcome in report.failed] == ["diff-0"]
    assert str(weights.parent) in report.failed[0].message
    assert json.loads(path.read_text()) == after


def test_a_damaged_checkpoint_is_one_failed_run(tmp_path, capsys, monkeypatch):
    record(TINY, "cpu", [0], tmp_path, minutes=1e-6, jobs=1)
    weights = tmp_path / "tiny-cpu" / "softmax-0" / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    command = ["record", "tiny", "--seeds", "0", "--jobs", "1", "--out", str(tmp_path)]
    assert main([*command, "--publish"]) == 2
    out, err = capsys.readouterr()
    assert "softmax-0: failed, TrainingError: " in out
    assert "diff-0: finished, " in out  # the others go on
    assert "tiny-cpu: 1 of 2 runs are finished, 1 of them now" in out
    assert err.startswith("diffbook record: 1 of 2 runs failed, nothing is published; the first: "
                          "softmax-0: TrainingError: ")
    assert "damaged; delete it to start again" in err and err.count("\n") == 1
    trace = tmp_path / "tiny-cpu" / "softmax-0" / "error.txt"
    assert str(trace) in err and "Traceback" in trace.read_text()
    import shutil

    shutil.rmtree(weights.parent)  # as the message says
    assert main(command) == 0
    assert not trace.exists()


# --- A run that begins with another's model -------------------------------------------------


def test_a_run_can_begin_with_the_model_of_another(tmp_path):
    longer = replace(
        TINY, name="longer",
        presets={"cpu": replace(CPU, start="tiny-cpu", train=replace(CPU.train, steps=2))})
    report = record(longer, "cpu", [0], tmp_path, jobs=1)
    assert [outcome.unit.name for outcome in report.failed] == ["softmax-0", "diff-0"]
    assert re.search(
        r"begins with the model of tiny-cpu/diff-0, which is not to be had .* make it: "
        r"python -m diffbook record tiny --preset cpu --variants diff --seeds 0 --out ",
        report.failed[1].message)

    record(TINY, "cpu", [0], tmp_path, jobs=1)
    first = runner.run_one(TINY, "cpu", "diff", 0, tmp_path).parent
    # Nothing is trained: the measures are those of the other's model, of its own seed, in `out`.
    measured = replace(
        TINY, name="measured", presets={"cpu": replace(CPU, start="tiny-cpu", train=None)})
    report = record(measured, "cpu", [0], tmp_path, jobs=1)
    assert not report.failed and len(report.made) == 2
    other = json.loads((tmp_path / "measured-cpu" / "diff-0" / "run.json").read_text())
    expected = json.loads((first / "run.json").read_text())
    for name in ("measures", "lambdas", "parameters", "model", "samples"):
        assert other[name] == expected[name]
    assert (other["train"], other["curve"], other["tokens"], other["mfu"]) == ({}, {}, 0, None)
    again = record(measured, "cpu", [0], tmp_path, jobs=1, again=True)
    assert not again.failed and len(again.made) == 2
    measured = json.loads((tmp_path / "measured-cpu" / "diff-0" / "run.json").read_text())
    assert {**measured, "seconds": 0} == {**other, "seconds": 0}

    # Trained further: from there, not from new weights.
    assert not record(longer, "cpu", [0], tmp_path, jobs=1).failed
    further = json.loads((tmp_path / "longer-cpu" / "diff-0" / "run.json").read_text())
    from diffbook.model import load_model
    from diffbook.train import train

    model = load_model(first / "model")
    result = train(model, CPU.task, longer.presets["cpu"].train)
    assert further["curve"] == result.curve
    assert further["curve"]["loss"][0] != expected["curve"]["loss"][0]


# --- Side by side ---------------------------------------------------------------------------


def broken_for_diff(model, task) -> dict[str, float]:
    """A measure that fails for one of the variants."""
    if model.config.attention == "diff" and model.config.seed == 0:
        raise ZeroDivisionError("no luck\nwith this one")
    return TINY.measure(model, task)


def deadly_for_diff(model, task) -> dict[str, float]:
    """A measure that takes its process away, as the system does when memory is short."""
    if model.config.attention == "diff":
        os._exit(9)
    return TINY.measure(model, task)


def test_side_by_side_is_one_after_the_other(tmp_path, undisturbed):
    """And one that fails does not stop the others."""
    said = []
    broken = replace(TINY, measure=broken_for_diff)
    report = record(broken, "cpu", [0, 1], tmp_path, jobs=2, say=said.append)
    assert [outcome.unit.name for outcome in report.failed] == ["diff-0"]
    assert report.failed[0].message == (
        "ZeroDivisionError: no luck with this one (more in "
        f"{tmp_path / 'tiny-cpu' / 'diff-0' / 'error.txt'})")
    assert len(said) == 4
    assert report.text().startswith("tiny-cpu: 3 of 4 runs are finished, 3 of them now")
    assert report.text().endswith("; 1 failed")
    assert [u.name for u in record(TINY, "cpu", [0, 1], tmp_path, jobs=2).made] == ["diff-0"]
    assert_as_undisturbed(tmp_path / "tiny-cpu", undisturbed)


def test_a_killed_worker_takes_only_what_it_ran(tmp_path):
    deadly = replace(TINY, measure=deadly_for_diff)
    report = record(deadly, "cpu", [0, 1], tmp_path, jobs=2, variants=["diff", "softmax"])
    failed = {outcome.unit.name for outcome in report.failed}
    assert {"diff-0", "diff-1"} <= failed
    assert len(failed) + len(report.made) == 4
    assert all("give the same command again" in outcome.message for outcome in report.failed)
    assert not record(TINY, "cpu", [0, 1], tmp_path, jobs=1).failed


def test_units_spread_over_the_gpus_of_a_host(monkeypatch, tmp_path):
    chosen = []

    @contextmanager
    def device(index):
        chosen.append(index)
        yield

    monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    assert runner._jobs_here(gpu=True, units=12) == 2
    with runner._device(True):
        with runner._device(True), runner._device(True):
            assert chosen == [0, 1, 0]
        with runner._device(True):
            assert chosen[3:] == [1]
    with runner._device(True):
        assert chosen[4:] == [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU on "), runner._device(True):
        pass


def test_a_run_on_a_cpu_has_one_thread():
    torch.set_num_threads(2)
    with runner._device(False):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


# --- Clusters -------------------------------------------------------------------------------


def test_on_a_dask_cluster(tmp_path, monkeypatch, undisturbed):
    distributed = pytest.importorskip("distributed", reason="Dask is an extra: cluster")
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="give --scheduler tcp://HOST:8786 or set DASK_SCHED"):
        record(TINY, "cpu", [0], tmp_path, backend="dask")
    options = {"processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        report = record(
            replace(TINY, measure=where), "cpu", [0, 1], tmp_path, backend="dask")
        assert len(report.made) == 4 and not report.failed
        workers = set()
        for path in tmp_path.glob("tiny-cpu/*/run.json"):
            run = json.loads(path.read_text())
            workers.add(run["measures"].pop("process"))
            path.write_text(json.dumps(run))
        assert len(workers) == 2 and os.getpid() not in workers
        assert_as_undisturbed(tmp_path / "tiny-cpu", undisturbed)
        # Nothing to do: no cluster is needed.
        assert not record(TINY, "cpu", [0], tmp_path, backend="dask", scheduler="tcp://nobody").made


def where(model, task) -> dict[str, float]:
    return {**TINY.measure(model, task), "process": os.getpid()}


class Cluster:
    """As much of a Dask client as the check asks for."""

    def __init__(self, threads: int, sees: bool):
        self.threads, self.sees = threads, sees

    def wait_for_workers(self, count: int, timeout: int) -> None:
        assert count == 1

    def nthreads(self) -> dict[str, int]:
        return {"tcp://one:1": 1, "tcp://two:2": self.threads}

    def run(self, function, path: str) -> dict[str, bool]:
        assert function(path)
        return {"tcp://one:1": True, "tcp://two:2": self.sees}


def test_a_cluster_that_would_spoil_the_runs_is_refused(tmp_path):
    runner._check_dask(Cluster(1, True), tmp_path)
    with pytest.raises(ValueError, match=r"tcp://two:2 has 4 threads.* --nthreads 1"):
        runner._check_dask(Cluster(4, True), tmp_path)
    with pytest.raises(ValueError, match=r"tcp://two:2 does not see .*that all workers share"):
        runner._check_dask(Cluster(1, False), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend, module, name", [
    ("dask", "distributed", "Dask"), ("ray", "ray", "Ray"),
])
def test_an_engine_that_is_not_installed(backend, module, name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{name} is not installed: pip install .diffbook.clus"):
        record(TINY, "cpu", [0], tmp_path, backend=backend, scheduler="tcp://here:8786")


# --- What it costs --------------------------------------------------------------------------


def test_the_list_fits_a_terminal_and_tells_of_every_preset(capsys):
    assert main(["record", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    for entry in EXPERIMENTS.values():
        start = next(n for n, line in enumerate(lines) if line.startswith(f"{entry.name}: "))
        rest = lines[start + 1 :]
        block = rest[: rest.index("")] if "" in rest else rest
        for preset in entry.presets:
            assert sum(line.startswith(f"  {preset} ") for line in block) == 1
    assert main(["record", "--list", "needle", "--seeds", "0-7", "--jobs", "4"]) == 0
    row = capsys.readouterr().out.split("\n  cpu ")[1].splitlines()[0].split()
    minutes, _ = runner.minutes_of(EXPERIMENTS["needle"], "cpu")
    assert row[:5] == [f"{minutes:.2g}", "32", "4", str(round(8 * minutes)), "min"]


def test_a_damaged_record_is_seen_in_the_list(tmp_path, monkeypatch):
    from diffbook.records import record as module

    monkeypatch.setattr(module, "FOLDER", tmp_path)
    module.load.cache_clear()
    (tmp_path / "tiny-cpu.json").write_text("{")
    text = " ".join(runner.listing([TINY], 3).split())
    assert "cannot be read: " in text and "cut off or not JSON" in text
    module.load.cache_clear()


def test_the_readme_has_the_minutes_of_today():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    shown = readme.split("<!-- costs -->")[1].split("<!-- /costs -->")[0].strip()
    table = runner.costs(EXPERIMENTS.values())
    assert shown == table, f"a preset or a record is new: put this table into README.md\n{table}"
    runs = load("lm-cpu").runs
    minutes = sum(run.seconds for run in runs) / len(runs) / 60
    assert f" | `lm` | 4 | {minutes:.2g} | " in table  # a number alone is measured
    assert " (estimate) | " in table
