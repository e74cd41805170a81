"""diffbook.records and diffbook.experiments: evidence that cannot be bent without notice."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffbook import records
from diffbook.experiments import EXPERIMENTS, Experiment, Preset
from diffbook.experiments import publish as publish_module
from diffbook.experiments.experiment import VARIANTS, choose, run_one
from diffbook.experiments.publish import combine, parse_seeds, publish, span
from diffbook.model import CheckpointError, LanguageModel, ModelConfig, count_parameters
from diffbook.records import Claim, Paired, Record, RecordError, Run, paired_interval, record
from diffbook.records.compare import (
    CONTRADICTED,
    NO_DIFFERENCE,
    REPRODUCED,
    STUDENT,
    VERDICTS,
)
from diffbook.tasks.needle import NeedleTask
from diffbook.tasks.text import TextTask
from diffbook.train import TrainConfig, train

# --- Intervals and verdicts -----------------------------------------------------------------


def test_few_seeds_take_students_t():
    low, high = paired_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182 * math.sqrt(5 / 3) / 2  # t(3) * sd / sqrt(n), by hand
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half))
    assert paired_interval([0.1, 0.3]) == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1))
    assert paired_interval([-1.0, 0.0, 1.0]) == pytest.approx(
        (-4.303 / math.sqrt(3), 4.303 / math.sqrt(3)))
    assert paired_interval([0.5] * 5) == (0.5, 0.5)


def test_students_points_leave_five_percent_outside():
    """Integrate Student's density instead of trusting the table."""
    for n, point in STUDENT.items():
        df = n - 1
        t = np.linspace(-point, point, 200_001)
        constant = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
        inside = np.trapezoid(constant * (1 + t**2 / df) ** (-(df + 1) / 2), t)
        assert inside == pytest.approx(0.95, abs=2e-4)


@pytest.mark.parametrize("n, low, high", [
    *((n, 0.93, 0.97) for n in sorted(STUDENT)), (12, 0.87, 0.96),
])
def test_how_often_the_interval_covers_the_truth(n, low, high):
    """Normal differences around 0.3: 95 % with Student's t; the bootstrap is a little short."""
    rng = np.random.default_rng(n)
    trials = 2000 if n in STUDENT else 250
    hits = 0
    for _ in range(trials):
        a, b = paired_interval(rng.normal(0.3, 1.0, n))
        hits += a <= 0.3 <= b
    assert low <= hits / trials <= high


def test_why_three_seeds_are_not_bootstrapped():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        values = rng.normal(0.0, 1.0, 3)
        means = values[rng.integers(0, 3, (500, 3))].mean(axis=1)
        a, b = np.percentile(means, (2.5, 97.5))
        hits += a <= 0 <= b
    assert hits / 400 < 0.82  # the docstring's "three cases out of four"


def test_bootstrap_properties():
    values = np.random.default_rng(1).normal(size=16)
    low, high = paired_interval(values)
    assert low < values.mean() < high
    assert (low, high) == paired_interval(values)  # the same every time
    assert paired_interval(values, seed=1) != (low, high)
    assert paired_interval(values, seed=1) == pytest.approx((low, high), abs=0.03)
    assert paired_interval(3 * values + 7) == pytest.approx((3 * low + 7, 3 * high + 7))
    standard_error = values.std() / 4
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


@pytest.mark.parametrize("values, message", [
    ([], "at least two paired seeds, got []"),
    ([0.3], "at least two paired seeds"),
    ([0.1, math.nan, 0.2], "a difference is not a number"),
])
def test_interval_errors(values, message):
    with pytest.raises(ValueError) as error:
        paired_interval(values)
    assert message in str(error.value)


def test_verdicts():
    def judge(low: float, high: float, claim: str) -> str:
        return Paired("loss", "diff", "softmax", (low, high), low, high).verdict(claim)

    assert judge(-0.3, -0.1, "lower") == REPRODUCED
    assert judge(0.1, 0.3, "lower") == CONTRADICTED
    assert judge(0.1, 0.3, "higher") == REPRODUCED
    assert judge(-0.3, -0.1, "higher") == CONTRADICTED
    for low, high in ((-0.9, 0.001), (0.0, 0.4), (-0.4, 0.0), (0.0, 0.0)):
        for claim in ("lower", "higher"):
            assert judge(low, high, claim) == NO_DIFFERENCE
    with pytest.raises(ValueError, match="claim='better': say"):
        judge(0.1, 0.3, "better")
    assert {REPRODUCED, CONTRADICTED, NO_DIFFERENCE} < set(records.VERDICTS)


def test_paired_text():
    paired = Paired("loss", "diff", "softmax", (-0.03, 0.02), -0.0431, 0.0333)
    assert paired.text() == "-0.005 [-0.043, +0.033], n = 2"
    assert paired.text(1) == "-0.0 [-0.0, +0.0], n = 2"


# --- A record -------------------------------------------------------------------------------


def make_run(variant: str, seed: int, loss: float, **more) -> Run:
    return Run(
        variant=variant, seed=seed, model={"d_model": 8}, train={"steps": 2}, parameters=10,
        curve={"step": [1, 2], "loss": [3.0, loss]}, validation={"step": [2], "score": [seed / 7]},
        measures={"loss": loss}, lambdas=[0.2], seconds=90.0, tokens=5, device="cpu, 1 thread",
        **more,
    )


def make_record(*runs: Run) -> Record:
    return Record(
        name="try-cpu", title="A try", task="Task()", versions={"torch": "2"}, commit="abc",
        date="2026-01-02", command="python -m diffbook record try", runs=runs,
    )


RECORD = make_record(
    make_run("softmax", 1, 1.5), make_run("softmax", 0, 1.0), make_run("softmax", 2, 9.0),
    make_run("diff", 0, 0.8), make_run("diff", 1, 1.2), make_run("diff", 3, 0.0),
)


def test_choosing_runs():
    assert RECORD.variants == ["softmax", "diff"]
    assert [run.seed for run in RECORD.of("softmax")] == [0, 1, 2]
    np.testing.assert_array_equal(RECORD.values("softmax", "loss"), [1.0, 1.5, 9.0])
    steps, curves = RECORD.series("diff", "loss")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(curves, [[3.0, 0.8], [3.0, 1.2], [3.0, 0.0]])
    steps, scores = RECORD.series("diff", "score")
    np.testing.assert_array_equal(steps, [2])
    np.testing.assert_allclose(scores, [[0], [1 / 7], [3 / 7]])
    with pytest.raises(KeyError, match="no variant 'linear': it has"):
        RECORD.of("linear")
    with pytest.raises(KeyError, match="no 'accuracy' for diff: it has loss"):
        RECORD.values("diff", "accuracy")


def test_pairs_are_seeds_that_both_have():
    paired = RECORD.paired("loss")
    assert paired.differences == pytest.approx((-0.2, -0.3))  # seeds 0 and 1; not 2, not 3
    assert (paired.low, paired.high) == pytest.approx(paired_interval([-0.2, -0.3]))
    assert (paired.mean, paired.n) == (pytest.approx(-0.25), 2)
    backwards = RECORD.paired("loss", a="softmax", b="diff")
    assert backwards.differences == pytest.approx((0.2, 0.3))
    assert isinstance(paired.differences[0], float)
    with pytest.raises(KeyError, match="no 'accuracy' for diff"):
        RECORD.paired("accuracy")
    with pytest.raises(ValueError, match="at least two paired seeds"):
        make_record(make_run("diff", 0, 1.0), make_run("softmax", 0, 1.0)).paired("loss")


def test_provenance_line():
    assert RECORD.provenance == (
        "recorded: try-cpu, cpu, 1 thread, 3 seeds, 9 minutes in all, 2026-01-02, commit abc")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty folder of records instead of the package's."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "shelf")
    monkeypatch.setattr(publish_module, "FOLDER", tmp_path / "shelf")
    (tmp_path / "shelf").mkdir()
    records.load.cache_clear()
    yield tmp_path / "shelf"
    records.load.cache_clear()


def test_round_trip(shelf):
    (shelf / "try-cpu.json").write_text(RECORD.to_json())
    again = records.load("try-cpu")
    assert again == RECORD
    assert records.load("try-cpu") is again
    assert records.available() == ["try-cpu"]
    with pytest.raises(RecordError, match="no record 'other-cpu': there are try-cpu"):
        records.load("other-cpu")


def test_damaged_and_edited_records_are_errors(shelf):
    path, whole = shelf / "try-cpu.json", RECORD.to_json()
    body = json.loads(whole)

    def refused(content: str, message: str) -> None:
        path.write_text(content)
        with pytest.raises(RecordError, match=message) as error:
            records.read(path)
        assert "try-cpu" in str(error.value)
        assert "python -m diffbook record" in str(error.value)

    for length in (0, 1, len(whole) // 2, len(whole) - 3):
        refused(whole[:length], "cut off or not JSON")
    # One digit of one result, in an otherwise perfect file.
    assert whole.count("0.8") > 0
    refused(whole.replace("0.8", "0.7"), "changed after it was written")
    refused(whole.replace(body["sha256"], "0" * 64), "changed after it was written")
    refused(json.dumps({k: v for k, v in body.items() if k != "sha256"}), "changed after")
    refused(json.dumps({**body, "extra": 1}), "changed after it was written")
    refused(json.dumps({**body, "schema": 0}), "has schema 0, this version reads 2")
    refused(json.dumps({k: v for k, v in body.items() if k != "schema"}), "has schema None")
    refused("[1, 2]", "has schema None")

    def signed(change) -> str:  # a checksum that fits, as another version might write
        changed = json.loads(whole)
        del changed["sha256"]
        change(changed)
        return json.dumps({**changed, "sha256": record._digest(changed)})

    refused(signed(lambda b: b.pop("runs")), "lacks a field or has one too many")
    refused(signed(lambda b: b.pop("date")), "lacks a field or has one too many")
    refused(signed(lambda b: b.update(more=1)), "lacks a field or has one too many")
    refused(signed(lambda b: b["runs"][0].pop("seed")), "lacks a field or has one too many")
    path.write_text(make_record(make_run("diff", 4, math.nan)).to_json())
    with pytest.raises(RecordError, match="diff-4 has a measure that is no number"):
        records.read(path)
    path.write_text(signed(lambda b: None))
    assert records.read(path) == RECORD


# --- Making one -----------------------------------------------------------------------------

TASK = NeedleTask(seq_len=16, n_needles=2, n_cities=4, n_numbers=4, n_words=4)


def measure(model: LanguageModel, task: NeedleTask) -> dict[str, float]:
    return {"accuracy": task.evaluate(model, n=64)["accuracy"]}


TINY = Experiment(
    name="tiny", title="A tiny one", variants=choose("softmax", "diff"),
    presets={"cpu": Preset(
        ModelConfig(TASK.vocab_size, d_model=16, n_layers=1, n_heads=2, d_ff=32),
        TrainConfig(steps=4, batch_size=4, log_every=1, checkpoint_every=2, device="cpu"),
        TASK, 0.01, "nothing",
    )},
    measure=measure, samples=lambda model: {"?": str(model.config.seed)}, ship=(1,),
)


@pytest.mark.parametrize("text, seeds", [
    ("0-2", [0, 1, 2]), ("3", [3]), ("0,3,5", [0, 3, 5]), ("0-1,4-5", [0, 1, 4, 5]),
    ("10-12", [10, 11, 12]), ("2-2", [2]),
])
def test_parse_seeds(text, seeds):
    assert parse_seeds(text) == seeds
    assert parse_seeds(span(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-b", "1,,2", "1.5", "0 - 2"])
def test_bad_seeds(text):
    if text == "1-":
        assert parse_seeds(text) == [1]
        return
    with pytest.raises(ValueError, match="write them as 0-2 or 0,3,5"):
        parse_seeds(text)
    with pytest.raises(ValueError, match="'3-1' counts down; write 1-3"):
        parse_seeds("3-1")


def test_a_run_is_made_once_and_appears_whole(tmp_path):
    path = run_one(TINY, "cpu", "diff", 1, tmp_path)
    assert path == tmp_path / "tiny-cpu" / "diff-1" / "run.json"
    run = Run(**json.loads(path.read_text()))
    assert (run.variant, run.seed) == ("diff", 1)
    assert (run.model["attention"], run.model["seed"], run.train["seed"]) == ("diff", 1, 1)
    model = LanguageModel(replace(TINY.presets["cpu"].model, attention="diff", seed=1))
    result = train(model, TASK, replace(TINY.presets["cpu"].train, seed=1))
    assert run.curve == result.curve
    assert run.lambdas == model.lambdas()
    assert run.measures == measure(model, TASK)
    assert run.parameters == count_parameters(model)["total"]
    assert run.samples == {"?": "1"}
    assert run.checkpoint is None
    stamp = path.stat().st_mtime_ns
    broken = replace(TINY, measure=lambda model, task: 1 / 0)
    assert run_one(broken, "cpu", "diff", 1, tmp_path) == path  # done is done
    assert path.stat().st_mtime_ns == stamp


def test_a_stopped_run_leaves_no_result_and_is_not_trained_again(tmp_path, monkeypatch):
    def stopped(model, task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(replace(TINY, measure=stopped), "cpu", "softmax", 0, tmp_path)
    folder = tmp_path / "tiny-cpu" / "softmax-0"
    assert not (folder / "run.json").exists()
    monkeypatch.setattr(
        NeedleTask, "training_batch", lambda *a, **k: pytest.fail("trained once more"))
    run = Run(**json.loads(run_one(TINY, "cpu", "softmax", 0, tmp_path).read_text()))
    assert run.curve["step"] == [1, 2, 3, 4]
    assert not list(folder.glob("*.new"))


def test_combine_publish_and_ship(tmp_path, shelf):
    with pytest.raises(ValueError, match="no finished run of tiny-cpu"):
        combine(TINY, "cpu", tmp_path)
    for seed in (1, 0):
        for variant in ("diff", "softmax"):
            run_one(TINY, "cpu", variant, seed, tmp_path)
    made = combine(TINY, "cpu", tmp_path)
    assert [(run.variant, run.seed) for run in made.runs] == [
        ("softmax", 0), ("softmax", 1), ("diff", 0), ("diff", 1)]
    assert made.name == "tiny-cpu"
    assert made.task == repr(TASK)
    assert made.command == "python -m diffbook record tiny --preset cpu --seeds 0-1"
    assert made.versions["torch"] == torch.__version__

    path = publish(TINY, "cpu", tmp_path)
    assert path == shelf / "tiny-cpu.json"
    published = records.load("tiny-cpu")
    assert [run.checkpoint is not None for run in published.runs] == [False, True, False, True]
    stripped = [replace(run, checkpoint=None) for run in published.runs]
    assert [asdict(run) for run in stripped] == [asdict(run) for run in made.runs]
    assert published.paired("accuracy").n == 2

    # The shipped weights: matrices in bf16, what is small and matters in float32.
    shipped = records.model("tiny-cpu/diff-1")
    assert not shipped.training
    trained = LanguageModel.from_pretrained(tmp_path / "tiny-cpu" / "diff-1" / "model")
    for name, weight in trained.state_dict().items():
        expected = weight.bfloat16().float() if weight.ndim == 2 else weight
        assert torch.equal(shipped.state_dict()[name], expected), name
    assert shipped.lambdas() == published.of("diff")[1].lambdas

    for name in ("tiny-cpu/diff-0", "tiny-cpu/nothing", "tiny-cpu"):
        with pytest.raises(CheckpointError, match=r"there are tiny-cpu/softmax-1, tiny-cpu/diff-1"):
            records.model(name)
    with pytest.raises(RecordError, match="no record 'nothing'"):
        records.model("nothing/diff-1")
    weights = shelf / "checkpoints" / "tiny-cpu" / "diff-1" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit
    with pytest.raises(CheckpointError, match=r"diff-1.model.safetensors is damaged \(sha256"):
        records.model("tiny-cpu/diff-1")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        records.model("tiny-cpu/diff-1")


LESS = Claim(
    text="a lower loss", where="Table 6", paper="3.1 / 3.0", measure="loss", says="lower",
    chapter=8,
)


def test_where_a_record_stands_on_a_claim():
    """On the seeds that both have: 0 and 1."""
    stands = RECORD.judge(LESS)
    assert (stands.mean_a, stands.mean_b) == pytest.approx((1.0, 1.25))
    assert stands.difference == pytest.approx(stands.mean_a - stands.mean_b)
    low, high = paired_interval([-0.2, -0.3])
    assert (stands.low, stands.high, stands.seeds) == (pytest.approx(low), pytest.approx(high), 2)
    assert low < 0 < high and stands.verdict == NO_DIFFERENCE
    runs = [make_run(kind, seed, seed + shift) for kind, shift in (("diff", 0.1), ("softmax", 0.5))
            for seed in range(3)]
    assert make_record(*runs).judge(LESS).verdict == REPRODUCED
    assert make_record(*runs).judge(replace(LESS, says="higher")).verdict == CONTRADICTED
    swapped = make_record(*runs).judge(replace(LESS, a="softmax", b="diff"))
    assert (swapped.mean_a, swapped.mean_b) == pytest.approx((1.5, 1.1))
    with pytest.raises(KeyError, match="no 'accuracy' for diff"):
        RECORD.judge(replace(LESS, measure="accuracy"))


def test_arrays_and_standings_are_kept_and_guarded(shelf):
    runs = [make_run(kind, seed, 1.0 + seed, arrays={"by depth": [0.5, seed]})
            for kind in ("softmax", "diff") for seed in (1, 0)]
    made = make_record(*runs)
    made = replace(made, standing=(made.judge(LESS),))
    path = shelf / "try-cpu.json"
    path.write_text(made.to_json())
    assert records.read(path) == made
    np.testing.assert_array_equal(made.array("diff", "by depth"), [[0.5, 0], [0.5, 1]])
    with pytest.raises(KeyError, match="no 'by length' for diff: it has by depth"):
        made.array("diff", "by length")
    with pytest.raises(KeyError, match="no 'by depth' for diff: it has none"):
        RECORD.array("diff", "by depth")
    # An edited verdict, an edited list, a standing of another version, a list with a hole.
    for old, new in ((NO_DIFFERENCE, REPRODUCED), ("[0.5,1]", "[0.9,1]")):
        path.write_text(made.to_json().replace(old, new))
        with pytest.raises(RecordError, match="changed after it was written"):
            records.read(path)
    for change in (
        lambda body: body["standing"][0].pop("verdict"),
        lambda body: body["standing"][0]["claim"].update(weight=1),
        lambda body: body["standing"][0].pop("claim"),
        lambda body: body.pop("standing"),
    ):
        body = json.loads(made.to_json())
        del body["sha256"]
        change(body)
        path.write_text(json.dumps({**body, "sha256": record._digest(body)}))
        with pytest.raises(RecordError, match="lacks a field or has one too many"):
            records.read(path)
    holed = make_run("diff", 0, 1.0, arrays={"by depth": [0.5, math.inf]})
    path.write_text(make_record(holed).to_json())
    with pytest.raises(RecordError, match="diff-0 has a measure that is no number"):
        records.read(path)


def test_the_best_record_is_that_of_the_strongest_machine(shelf):
    for name in ("cpu", "h100", "t4"):
        (shelf / f"try-{name}.json").write_text(replace(RECORD, name=f"try-{name}").to_json())
        strongest = "try-cpu" if name == "cpu" else "try-h100"
        assert records.best("try").name == strongest
    with pytest.raises(RecordError, match="no record of 'other': there are try-cpu, try-h100, tr"):
        records.best("other")


def test_seeds_are_added_to_a_shipped_record(tmp_path, shelf):
    entry = replace(TINY, claims=(replace(LESS, measure="accuracy", says="higher"),))
    for variant in ("softmax", "diff"):
        for seed in (0, 1):
            run_one(entry, "cpu", variant, seed, tmp_path / "first")
    publish(entry, "cpu", tmp_path / "first")
    earlier = records.load("tiny-cpu")
    assert [row.verdict for row in earlier.standing] == [
        earlier.paired("accuracy").verdict("higher")]
    for variant in ("softmax", "diff"):
        run_one(entry, "cpu", variant, 2, tmp_path / "second")
    both = combine(entry, "cpu", tmp_path / "second")
    assert [run.seed for run in both.of("diff")] == [0, 1, 2]
    assert list(both.of("diff")[:2]) == earlier.of("diff")  # its checksums of weights included
    assert both.command.endswith("--seeds 0-2")
    assert both.standing[0].seeds == 3

    # Not with other settings or another task; nothing is written.
    before = (shelf / "tiny-cpu.json").read_text()
    preset = entry.presets["cpu"]
    longer = replace(preset, train=replace(preset.train, steps=9))
    other = replace(preset, task=replace(TASK, distractors=0.5))
    for changed, message in ((longer, r"\(train.steps was 4, is 9\): one record does not mix"),
                             (other, r"its task was NeedleTask\(.*delete it to replace")):
        with pytest.raises(ValueError, match=message) as error:
            publish(replace(entry, presets={"cpu": changed}), "cpu", tmp_path / "second")
        assert str(shelf / "tiny-cpu.json") in str(error.value)
    path = tmp_path / "second" / "tiny-cpu" / "diff-2" / "run.json"
    whole = path.read_text()
    body = json.loads(whole)
    for content, message in (
        (whole[:-9], "cut off"), (json.dumps({**body, "measures": {"a": math.nan}}), "--again"),
        (json.dumps({**body, "train": {**body["train"], "lr": 1.0}}), "train.lr was 1.0, is 0.002"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            publish(entry, "cpu", tmp_path / "second")
        assert str(path) in str(error.value)
    assert (shelf / "tiny-cpu.json").read_text() == before


def test_utilization_is_a_share_of_what_the_device_can_do(tmp_path, monkeypatch):
    from diffbook.experiments import experiment
    from diffbook.measure.flops import forward_flops

    monkeypatch.setattr(experiment, "peak_flops", lambda device: 1e9)
    run = Run(**json.loads(run_one(TINY, "cpu", "diff", 0, tmp_path).read_text()))
    config = ModelConfig(**run.model)
    work = 3 * forward_flops(config, TASK.seq_len).total / TASK.seq_len * run.tokens
    assert run.mfu == pytest.approx(work / run.seconds / 1e9)
    assert run.tokens_per_second == run.tokens / run.seconds
    assert math.isnan(replace(run, tokens=0, seconds=0.0).tokens_per_second)


def test_peak_of_a_device(monkeypatch):
    from diffbook.measure import flops

    for name, peak in (("NVIDIA H100 80GB HBM3", 989e12), ("Tesla T4", 65e12),
                       ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L4", 121e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert flops.peak_flops("cuda") == peak
    # Measured where it is not listed: 2 n^3 operations in the fastest of five.
    ticks = iter([0.0, 3.0, 0.0, 0.5, 0.0, 2.0, 0.0, 1.0, 0.0, 1.0])
    monkeypatch.setattr(flops.time, "perf_counter", lambda: next(ticks))
    assert flops.peak_flops("cpu") == 2 * 1024**3 / 0.5


def test_variants_differ_from_the_baseline_in_what_they_say():
    base = TINY.presets["cpu"].model
    every = replace(TINY, variants=VARIANTS)
    configs = {name: every.config("cpu", name, seed=0) for name in VARIANTS}
    assert configs["softmax"] == base
    models = {name: LanguageModel(config) for name, config in configs.items()}
    layers = {name: model.blocks[0].attention for name, model in models.items()}
    assert {name for name, layer in layers.items() if layer.head_norm is None} == {
        "softmax", "softmax_wide", "diff_no_norm"}
    assert layers["diff"].lambda_q1.requires_grad
    assert not layers["diff_frozen"].lambda_q1.requires_grad
    assert layers["softmax"].n_heads == 2
    assert layers["softmax_wide"].n_heads == layers["softmax_wide_norm"].n_heads == 1
    assert layers["diff"].output_scale == 0.8
    assert layers["diff_no_scale"].output_scale == 1
    assert [layers[f"diff_{x}"].lambda_init for x in (0.8, 0.5)] == [0.8, 0.5]
    # The norm of a wide head is as wide as that of a differential head: the exact control.
    assert layers["softmax_wide_norm"].head_norm.weight.shape == (
        layers["diff"].head_norm.weight.shape)


@pytest.mark.parametrize("entry", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_experiment_can_build_its_runs(entry):
    first = next(iter(entry.variants))
    assert first.startswith("softmax") or first == "pair"  # both models measured in one run
    for name, preset in entry.presets.items():
        assert preset.model.vocab_size >= preset.task.vocab_size
        assert preset.model.max_seq_len >= preset.task.seq_len
        assert preset.minutes > 0 and preset.note
        for variant in entry.variants:
            config = entry.config(name, variant, seed=3)
            assert config.seed == 3
            assert (config.attention == "diff") == variant.startswith(("diff", "pair"))
    for claim in entry.claims:
        assert {claim.a, claim.b} <= set(entry.variants)
        assert claim.says in ("lower", "higher")


# --- What the package ships -----------------------------------------------------------------

SHIPPED = records.available()


def preset_of(name: str) -> Preset:
    entry, _, preset = name.rpartition("-")
    return EXPERIMENTS[entry].presets[preset]


def pairs_of(found: Record) -> list[tuple[str, str]]:
    """The matched pairs of a record: (softmax, diff), or one for each size (softmax-32, …)."""
    pairs = [
        (name.replace("diff", "softmax"), name)
        for name in found.variants if name.partition("-")[0] == "diff"
    ]
    return [pair for pair in pairs if pair[0] in found.variants]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_records_are_whole(name):
    found = records.load(name)
    assert found.name == name
    preset = preset_of(name)
    # The presets of today, but for fields that were added since.
    entry = EXPERIMENTS[name.rpartition("-")[0]]
    kind, _, fields = found.task[:-1].partition("(")
    assert kind == type(preset.task).__name__
    assert set(fields.split(", ")) <= set(repr(preset.task)[len(kind) + 1 : -1].split(", "))
    for run in found.runs:
        config = entry.config(name.rpartition("-")[2], run.variant, run.seed)
        assert run.model.items() <= asdict(config).items()
        if preset.train is None:  # measured only
            assert not run.train and not run.curve and run.tokens == 0
        else:
            settings = asdict(replace(preset.train, seed=run.seed))
            settings = json.loads(json.dumps(settings))
            assert run.train == {name: settings[name] for name in run.train}
            assert run.curve["step"][-1] == preset.train.steps
            assert np.isfinite(run.curve["loss"]).all()
        assert len({len(values) for values in run.curve.values()}) <= 1
        assert len({len(values) for values in run.validation.values()}) <= 1
        assert len(run.lambdas) == (config.n_layers if config.attention == "diff" else 0)
        # What there is to measure may depend on the variant (two maps), never on the seed.
        assert run.measures.keys() == found.of(run.variant)[0].measures.keys()
    # A pair: same seeds, same data, and 6d more parameters a layer.
    seeds = {variant: [run.seed for run in found.of(variant)] for variant in found.variants}
    assert all(len(set(chosen)) == len(chosen) for chosen in seeds.values())
    for baseline, diff in pairs_of(found):
        shape = ModelConfig(**found.of(diff)[0].model)
        d = shape.d_model // shape.n_heads
        more = found.of(diff)[0].parameters - found.of(baseline)[0].parameters
        assert more == 6 * d * shape.n_layers
        for a, b in zip(found.of(baseline), found.of(diff), strict=False):
            assert a.seed != b.seed or a.tokens == b.tokens
        assert found.paired(next(iter(found.runs[0].measures)), diff, baseline).n >= 2


CHECKPOINTS = [
    (name, f"{run.variant}-{run.seed}")
    for name in SHIPPED for run in records.load(name).runs if run.checkpoint
]


@pytest.mark.parametrize("name, run_name", CHECKPOINTS)
def test_shipped_checkpoints_do_what_their_record_says(name, run_name):
    """Measured again, the last validation of the run comes out, up to the rounding to bf16."""
    model = records.model(f"{name}/{run_name}")
    run = next(r for r in records.load(name).runs if f"{r.variant}-{r.seed}" == run_name)
    assert run.model.items() <= asdict(model.config).items()
    assert count_parameters(model)["total"] == run.parameters
    assert model.lambdas() == pytest.approx(run.lambdas, abs=1e-6)
    task = preset_of(name).task
    if isinstance(task, TextTask):
        task = replace(task, eval_batch=8)
    with torch.no_grad():
        again = task.evaluate(model)
    for measure_name, value in again.items():
        recorded = run.validation[measure_name][-1]
        assert value == pytest.approx(recorded, rel=0.02, abs=0.01), measure_name


def test_every_checkpoint_folder_belongs_to_a_record():
    folder = record.FOLDER / "checkpoints"
    there = {
        (path.parent.parent.name, path.parent.name) for path in folder.glob("*/*/model.safetensors")
    }
    assert there == set(CHECKPOINTS)


class Stop(Exception):
    pass


@pytest.mark.parametrize("variant", ["softmax", "diff"])
@pytest.mark.parametrize(
    "name", [name for name in SHIPPED if name.endswith("-cpu") and preset_of(name).train])
def test_today_s_code_begins_the_recorded_run_again(name, variant):
    """The first point of the curve, retrained: weights, data order and loop are still those of the
    record, so that a record cannot outlive the code it speaks of."""
    found = records.load(name)
    # The first of its kind: "diff", or "diff-32" where there are sizes.
    first = next(v for v in found.variants if v.partition("-")[0] == variant)
    run = found.of(first)[0]
    preset = preset_of(name)
    entry = EXPERIMENTS[name.rpartition("-")[0]]
    model = LanguageModel(entry.config("cpu", first, run.seed))
    close = 1e-4
    if preset.start:  # that model is shipped in bf16, the run began with float32
        begun = records.model(f"{preset.start}/{first}-{run.seed}")
        model.load_state_dict(begun.state_dict())
        close = 3e-3
    points = []

    def stop(step: int, loss: float) -> None:
        points.append((step, loss))
        raise Stop

    with pytest.raises(Stop):
        train(model, preset.task, replace(preset.train, seed=run.seed), on_step=stop)
    assert points[0][0] == run.curve["step"][0]
    assert points[0][1] == pytest.approx(run.curve["loss"][0], rel=close)
    if variant == "diff":
        assert model.lambdas() == pytest.approx(run.curve["lambda"][0], abs=close)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_standing_of_a_record_is_that_of_its_runs(name):
    """What the file says about the paper's claims comes out of its runs again, and the claims are
    still those of the experiment."""
    found = records.load(name)
    claims = EXPERIMENTS[name.rpartition("-")[0]].claims
    assert [row.claim for row in found.standing] == list(claims), "publish the record again"
    for row in found.standing:
        again = found.judge(row.claim)
        assert again.verdict == row.verdict and again.seeds == row.seeds
        for number in ("mean_a", "mean_b", "difference", "low", "high"):
            assert getattr(again, number) == pytest.approx(getattr(row, number), abs=1e-12)
        assert row.verdict in VERDICTS
