"""diffbook.train: resuming to the bit, failing clearly, the same data for a pair, two processes."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffbook.model import IGNORE, LanguageModel, ModelConfig, load_model
from diffbook.tasks.needle import NeedleTask
from diffbook.train import (
    TrainConfig,
    TrainingError,
    _optimizer,
    default_precision,
    train,
)

TASK = NeedleTask(seq_len=16, n_needles=2, n_cities=4, n_numbers=4, n_words=4)
MODEL = ModelConfig(TASK.vocab_size, d_model=16, n_layers=2, n_heads=4, d_ff=32, attention="diff")
RUN = TrainConfig(
    steps=8, batch_size=8, lr=1e-2, warmup=3, log_every=2, eval_every=4, checkpoint_every=3,
    device="cpu",
)
PLAIN = replace(RUN, checkpoint_every=0, eval_every=0, log_every=1)


@dataclass(frozen=True)
class Noise:
    """Random tokens, a random part of them scored; remembers what it handed out."""

    seq_len: int = 12
    vocab_size: int = 10
    scored: float = 0.5
    name = "noise"

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(10, (batch_size, self.seq_len + 1), generator=generator)
        keep = torch.rand(batch_size, self.seq_len, generator=generator) < self.scored
        SEEN.append((progress, tokens))
        return tokens[:, :-1], torch.where(keep, tokens[:, 1:], IGNORE)

    def evaluate(self, model: torch.nn.Module, device: object = "cpu") -> dict[str, float]:
        return {"loss": 0.0}


SEEN: list[tuple[float, Tensor]] = []
NOISE_MODEL = replace(MODEL, vocab_size=10)


class Killed(Exception):
    pass


def kill_at(step: int):
    def on_step(now: int, loss: float) -> None:
        if now >= step:
            raise Killed

    return on_step


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(
        torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items()
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One whole run: model, result, folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model = LanguageModel(MODEL)
    return model, train(model, TASK, RUN, folder), folder


def assert_as_undisturbed(model, result, folder, undisturbed) -> None:
    other, expected, there = undisturbed
    assert result.curve == expected.curve  # to the bit: floats compare exactly
    assert result.validation == expected.validation
    assert result.tokens == expected.tokens
    assert same_weights(model, other)
    assert lines(folder) == lines(there)
    assert same_weights(load_model(folder / "model"), other)


# --- One run --------------------------------------------------------------------------------


def test_what_a_run_leaves_behind(undisturbed):
    model, result, folder = undisturbed
    # Points every 2 steps, at checkpoints (3, 6) and at the end.
    assert result.curve["step"] == [2, 3, 4, 6, 8]
    assert result.curve.keys() == {"step", "loss", "lr", "grad_norm", "tokens", "lambda"}
    assert result.curve["lr"] == [RUN.lr_at(step - 1) for step in (2, 3, 4, 6, 8)]
    # Rows grow as the curriculum shortens the sequences: the tokens of a step stay about equal.
    assert result.tokens == result.curve["tokens"][-1] == pytest.approx(8 * 8 * 16, rel=0.1)
    assert result.curve["lambda"][-1] == model.lambdas()
    assert result.validation["step"] == [4, 8]
    assert result.validation.keys() == {"step", "accuracy", "loss"}
    assert result.device.startswith("cpu, ")
    assert result.seconds > 0
    assert not model.training
    assert same_weights(load_model(folder / "model"), model)
    rows = lines(folder)
    points = [(row["kind"], row["step"]) for row in rows]
    assert points == [
        ("train", 2), ("train", 3), ("train", 4), ("validation", 4), ("train", 6), ("train", 8),
        ("validation", 8),
    ]
    assert [row["loss"] for row in rows if row["kind"] == "train"] == result.curve["loss"]
    assert not list(folder.glob("*.new"))
    assert not (folder / "checkpoint.old").exists()


def test_a_run_in_memory_is_the_same_run(undisturbed):
    model = LanguageModel(MODEL)
    result = train(model, TASK, RUN)
    assert result.curve == undisturbed[1].curve
    assert same_weights(model, undisturbed[0])


def test_training_lowers_the_loss_and_moves_what_it_should():
    model, before = LanguageModel(MODEL), LanguageModel(MODEL)
    result = train(model, TASK, replace(PLAIN, steps=60, batch_size=16))
    assert sum(result.curve["loss"][-5:]) / 5 < result.curve["loss"][0] - 0.5
    for name, weight in model.state_dict().items():
        assert not torch.equal(weight, before.state_dict()[name]), name
    frozen = LanguageModel(replace(MODEL, learn_lambda=False))
    lambdas = frozen.lambdas()
    train(frozen, TASK, PLAIN)
    assert frozen.lambdas() == lambdas


def test_curve_points_are_means_since_the_last_point():
    every = train(LanguageModel(MODEL), TASK, PLAIN).curve["loss"]
    thirds = train(LanguageModel(MODEL), TASK, replace(PLAIN, log_every=3)).curve
    assert thirds["step"] == [3, 6, 8]
    means = [sum(every[:3]) / 3, sum(every[3:6]) / 3, sum(every[6:]) / 2]
    assert thirds["loss"] == pytest.approx(means, rel=1e-6)
    tokens = Noise()
    model = LanguageModel(NOISE_MODEL)
    SEEN.clear()
    first = train(model, tokens, replace(PLAIN, steps=1)).curve["loss"][0]
    generator = torch.Generator().manual_seed((PLAIN.seed + 1) * 1_000_003 * 64)
    inputs, targets = tokens.training_batch(8, generator)
    assert first == float(LanguageModel(NOISE_MODEL)(inputs, targets).detach())


def test_learning_rate_schedule():
    config = TrainConfig(steps=110, lr=2.0, warmup=10, final_lr=0.1, device="cpu")
    assert [config.lr_at(step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert config.lr_at(10) == 2.0
    assert config.lr_at(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert config.lr_at(35) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert config.lr_at(110) == pytest.approx(0.2)
    assert 0.2 < config.lr_at(109) < 0.201
    falling = [config.lr_at(step) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)
    assert replace(config, warmup=0).lr_at(0) == 2.0


def test_weight_decay_takes_matrices_only():
    for config in (MODEL, replace(MODEL, learn_lambda=False), replace(MODEL, tie_embeddings=True)):
        model = LanguageModel(config)
        decayed, free = _optimizer(model, RUN).param_groups
        assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
        names = {id(weight): name for name, weight in model.named_parameters()}
        for group, matrices in ((decayed, True), (free, False)):
            for weight in group["params"]:
                name = names.pop(id(weight))
                assert name.endswith(("proj.weight", "head.weight")) == matrices, name
                assert weight.requires_grad
        # Nothing is forgotten, nothing that is frozen is trained.
        assert all("lambda_" in name for name in names.values())
        assert bool(names) == (not config.learn_lambda)
    # And it does what it says: with no gradient worth speaking of, matrices shrink by lr * decay.
    model = LanguageModel(MODEL)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, TASK, replace(
        PLAIN, steps=1, warmup=0, lr=0.5, weight_decay=0.2, clip=1e-30))
    for name, weight in model.named_parameters():
        factor = 0.9 if name.endswith(("proj.weight", "head.weight")) else 1.0
        torch.testing.assert_close(weight.detach(), factor * before[name], rtol=1e-5, atol=1e-6)


def test_clipping_scales_the_gradient():
    """Adam forgets the gradient's scale except for its eps: far below it, nothing moves."""
    settings = replace(PLAIN, steps=1, weight_decay=0.0)
    moved, norms = [], []
    for clip in (1e9, 1e-12):
        model, before = LanguageModel(MODEL), LanguageModel(MODEL)
        norms += train(model, TASK, replace(settings, clip=clip)).curve["grad_norm"]
        pairs = zip(model.parameters(), before.parameters(), strict=True)
        moved.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    assert moved[0] == pytest.approx(settings.lr_at(0), rel=1e-3)
    assert moved[1] < 1e-3 * moved[0]
    assert norms[0] == norms[1] > 0.1  # reported before clipping


# --- The same data --------------------------------------------------------------------------


def test_a_pair_sees_identical_data_and_another_seed_does_not():
    streams = []
    for attention, seed in (("softmax", 0), ("diff", 0), ("diff", 1)):
        SEEN.clear()
        model = LanguageModel(replace(NOISE_MODEL, attention=attention))
        train(model, Noise(), replace(PLAIN, seed=seed))
        assert [progress for progress, _ in SEEN] == [step / 8 for step in range(8)]
        streams.append(torch.stack([tokens for _, tokens in SEEN]))
    assert torch.equal(streams[0], streams[1])
    assert not torch.equal(streams[1], streams[2])
    first = streams[0].flatten(1)
    assert len({tuple(step.tolist()) for step in first}) == 8  # no step repeats another
    everything = torch.cat((first, streams[2].flatten(1)))
    assert len({tuple(step.tolist()) for step in everything}) == 16


@pytest.mark.parametrize("task, model", [
    (TASK, MODEL), (Noise(scored=0.3), NOISE_MODEL),
], ids=["rows that do not divide", "unequal numbers of scored tokens"])
def test_accumulation_changes_nothing(task, model):
    whole = LanguageModel(model)
    one = train(whole, task, PLAIN)
    for rounds in (2, 8):
        pieces = LanguageModel(model)
        many = train(pieces, task, replace(PLAIN, accumulation=rounds))
        assert many.curve["loss"] == pytest.approx(one.curve["loss"], rel=2e-4)
        assert many.curve["grad_norm"] == pytest.approx(one.curve["grad_norm"], rel=2e-3)
        assert many.tokens == one.tokens
        assert many.curve["loss"][0] == pytest.approx(one.curve["loss"][0], rel=1e-6)


# --- Killed and resumed ---------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_a_stopped_run_goes_on_to_the_bit(step, tmp_path, undisturbed):
    """Stopped before the first checkpoint, between two, right before one is written, at the end."""
    with pytest.raises(Killed):
        train(LanguageModel(MODEL), TASK, RUN, tmp_path, on_step=kill_at(step))
    model, seen = LanguageModel(replace(MODEL)), []
    result = train(model, TASK, RUN, tmp_path, on_step=lambda now, loss: seen.append(now))
    assert seen[0] == {2: 2, 4: 4, 6: 4, 8: 8}[step]
    assert_as_undisturbed(model, result, tmp_path, undisturbed)


def test_stopped_twice_and_resumed_with_other_free_settings(tmp_path, undisturbed):
    for step in (4, 8):
        with pytest.raises(Killed):
            train(LanguageModel(MODEL), TASK, RUN, tmp_path, on_step=kill_at(step))
    model = LanguageModel(MODEL)
    train(model, TASK, replace(RUN, log_every=1, device=None, checkpoint_every=1), tmp_path)
    assert same_weights(model, undisturbed[0])
    steps = [row["step"] for row in lines(tmp_path) if row["kind"] == "train"]
    assert steps == [2, 3, 4, 6, 7, 8]


SCRIPT = """
import os, signal, sys
from dataclasses import replace
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_train import MODEL, RUN, TASK
from diffbook.model import LanguageModel
from diffbook.train import train
class Task(type(TASK)):
    def training_batch(self, batch_size, generator, progress=0.0):
        if progress == 5 / 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_batch(batch_size, generator, progress)
Task.__qualname__ = "NeedleTask"  # the same run, to the eye of the checkpoint
fields = {{name: getattr(TASK, name) for name in TASK.__dataclass_fields__}}
train(LanguageModel(MODEL), Task(**fields), RUN, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_killed_in_mid_step_goes_on_to_the_bit(tmp_path, undisturbed):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "checkpoint").is_dir()
    assert not (tmp_path / "model").exists()
    assert [row["step"] for row in lines(tmp_path)] == [2, 3]
    model = LanguageModel(MODEL)
    result = train(model, TASK, RUN, tmp_path)
    assert_as_undisturbed(model, result, tmp_path, undisturbed)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_killed_while_a_checkpoint_is_written(call, tmp_path, monkeypatch, undisturbed):
    """Right before the n-th renaming of the run: of the first checkpoint into place, of the old
    one out of the way, of the new one into place (".old" is all there is then), ..."""
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == call:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(Killed):
        train(LanguageModel(MODEL), TASK, RUN, tmp_path)
    monkeypatch.undo()
    if call == 3:
        assert (tmp_path / "checkpoint.old").is_dir()
        assert not (tmp_path / "checkpoint").exists()
    model, seen = LanguageModel(MODEL), []
    result = train(model, TASK, RUN, tmp_path, on_step=lambda now, loss: seen.append(now))
    assert seen[0] == {1: 2, 2: 4, 3: 4, 4: 8}[call]
    assert_as_undisturbed(model, result, tmp_path, undisturbed)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "metrics.jsonl", "model"}


def test_a_finished_run_is_not_run_again(tmp_path):
    model = LanguageModel(NOISE_MODEL)
    first = train(model, Noise(), PLAIN, tmp_path)
    (tmp_path / "metrics.jsonl").write_text("as if killed before it was written")
    SEEN.clear()
    again = LanguageModel(NOISE_MODEL)
    second = train(again, Noise(), PLAIN, tmp_path)
    assert not SEEN
    assert second.curve == first.curve
    assert same_weights(again, model)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_another_run_in_the_folder_is_refused_then_replaced(tmp_path):
    train(LanguageModel(MODEL), TASK, PLAIN, tmp_path)
    others = [
        (LanguageModel(MODEL), TASK, replace(PLAIN, lr=2e-2)),
        (LanguageModel(MODEL), TASK, replace(PLAIN, seed=1)),
        (LanguageModel(MODEL), replace(TASK, distractors=0.5), PLAIN),
        (LanguageModel(replace(MODEL, attention="softmax")), TASK, PLAIN),
        (LanguageModel(replace(MODEL, seed=1)), TASK, PLAIN),
    ]
    for model, task, config in others:
        with pytest.raises(TrainingError, match=r"holds a run of another model.*--fresh"):
            train(model, task, config, tmp_path)
    model, task, config = others[0]
    fresh = train(model, task, config, tmp_path, resume=False)
    assert fresh.curve["step"] == list(range(1, 9))
    assert fresh.curve["lr"][-1] == config.lr_at(7)
    assert len(lines(tmp_path)) == 9


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("weights of three months")
    for resume in (True, False):
        with pytest.raises(TrainingError, match="not the folder of a run but has model in it"):
            train(LanguageModel(MODEL), TASK, PLAIN, tmp_path, resume=resume)
    assert (tmp_path / "model" / "precious").read_text() == "weights of three months"


def test_damaged_checkpoints_are_named(tmp_path):
    with pytest.raises(Killed):
        train(LanguageModel(MODEL), TASK, RUN, tmp_path, on_step=kill_at(4))
    checkpoint = tmp_path / "checkpoint"
    names = ("progress.json", "optimizer.bin", "model.safetensors")
    assert set(names) < {path.name for path in checkpoint.iterdir()}
    for name in names:
        whole = (checkpoint / name).read_bytes()
        for data in (whole[: len(whole) // 2], b"", b"{}", None):
            if data is None:
                (checkpoint / name).unlink()
            else:
                (checkpoint / name).write_bytes(data)
            with pytest.raises(TrainingError, match=r"cannot be resumed .* damaged; delete it"):
                train(LanguageModel(MODEL), TASK, RUN, tmp_path)
        (checkpoint / name).write_bytes(whole)
    assert train(LanguageModel(MODEL), TASK, RUN, tmp_path).curve["step"][-1] == 8


# --- What can go wrong ----------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, undisturbed):
    model = LanguageModel(MODEL)

    def spoil(step: int, loss: float) -> None:
        if step == 4:
            with torch.no_grad():
                model.head.weight.fill_(torch.nan)

    with pytest.raises(TrainingError, match=r"loss is nan at step 6 .*lower lr or clip"):
        train(model, TASK, RUN, tmp_path, on_step=spoil)
    assert lines(tmp_path)[-1]["step"] == 3
    model = LanguageModel(MODEL)
    result = train(model, TASK, RUN, tmp_path)
    assert_as_undisturbed(model, result, tmp_path, undisturbed)


def test_a_gradient_that_is_no_number_does_not_reach_a_checkpoint(tmp_path):
    """The loss of that step is still good: only the weights behind it are spoiled."""
    model, calls = LanguageModel(MODEL), []

    def spoil(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * (torch.inf if len(calls) == 6 else 1)  # step 6 writes a checkpoint

    model.norm.weight.register_hook(spoil)
    with pytest.raises(TrainingError, match=r"at step 6 .*gradient norm (inf|nan)"):
        train(model, TASK, RUN, tmp_path)
    state = json.loads((tmp_path / "checkpoint" / "progress.json").read_text())
    assert state["step"] == 3
    model = LanguageModel(MODEL)
    train(model, TASK, RUN, tmp_path)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_vocabularies_must_fit():
    with pytest.raises(ValueError, match="task has 14 tokens, the model knows 13: build it with"):
        train(LanguageModel(replace(MODEL, vocab_size=13)), TASK, PLAIN)
    train(LanguageModel(replace(MODEL, vocab_size=20)), TASK, replace(PLAIN, steps=1))


@pytest.mark.parametrize("change, message", [
    ({"steps": 0}, "steps=0: give at least 1"),
    ({"log_every": 0}, "log_every=0: give at least 1"),
    ({"batch_size": 10, "accumulation": 4}, "batch_size=10 does not divide into accumulation=4"),
    ({"precision": "fp8"}, 'precision=\'fp8\': choose "no", "bf16" or "fp16"'),
    ({"device": "tpu"}, "device='tpu' is not there: this machine has cpu"),
])
def test_config_errors_name_the_value(change, message):
    with pytest.raises(ValueError) as error:
        replace(PLAIN, **change)
    assert message in str(error.value)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda' is not there: this machine has cpu"):
        TrainConfig(steps=1, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TrainConfig(steps=1, device="cuda").device == "cuda"


@pytest.mark.filterwarnings("error:Mismatch dtype between input and weight")
def test_precisions_follow_each_other_in_one_process():
    """And leave nothing of accelerate's autocast on the model."""
    tokens = torch.arange(14)[None]
    losses = {}
    for precision in ("bf16", "no", "bf16", None):
        model = LanguageModel(MODEL)
        result = train(model, TASK, replace(PLAIN, precision=precision))
        losses.setdefault(precision, result.curve["loss"])
        assert result.curve["loss"] == losses[precision]
        clean = LanguageModel(MODEL)
        clean.load_state_dict(model.state_dict())
        assert torch.equal(model(tokens), clean(tokens))
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert losses["no"] == losses[None]  # float32 on a CPU
    assert losses["bf16"] != losses["no"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)
    with pytest.raises(ValueError, match='"fp16" needs a GPU'):
        train(LanguageModel(MODEL), TASK, replace(PLAIN, precision="fp16"))


@pytest.mark.parametrize("capability, precision", [
    ((7, 5), "fp16"),  # T4: emulates bf16
    ((8, 0), "bf16"), ((9, 0), "bf16"),
])
def test_precision_of_a_gpu(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *emulated: True)
    assert default_precision() == precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_precision() == "no"


BARE = """
import socket, sys
from importlib.machinery import PathFinder
missing = {"IPython", "ipywidgets", "ipykernel", "jupyter_client", "nbformat", "nbclient", "timm",
           "datasets", "pandas", "pyarrow", "transformers", "tensorboard", "dask", "ray"}
class Bare:
    "What a cluster's image has: the rest is not found."
    invalidate_caches = staticmethod(PathFinder.invalidate_caches)
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name in missing else PathFinder.find_spec(name, path, target)
    find_distributions = staticmethod(PathFinder.find_distributions)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
def refuse(*arguments, **options):
    raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse

import importlib, pkgutil
from dataclasses import replace
import diffbook
for module in pkgutil.walk_packages(diffbook.__path__, "diffbook."):
    if module.name != "diffbook.__main__":
        importlib.import_module(module.name)
from diffbook.cli import main
from diffbook.experiments import EXPERIMENTS
lm = EXPERIMENTS["lm"]
preset = lm.presets["cpu"]
preset = replace(
    preset, model=replace(preset.model, d_model=16, n_layers=1),
    train=replace(preset.train, steps=2, batch_size=2, eval_every=0, checkpoint_every=0),
    task=replace(preset.task, seq_len=32, eval_batch=2))
EXPERIMENTS["lm"] = replace(
    lm, presets={"cpu": preset}, samples=None, measure=lambda model, task: {"one": 1.0})
sys.exit(main(["record", "lm", "--seeds", "0", "--variants", "softmax,diff", "--jobs", "1",
               "--out", sys.argv[1]]))
"""


def test_a_record_needs_no_jupyter_and_no_network(tmp_path):
    """From the source tree, with nothing of Jupyter, datasets or the extras installed."""
    run = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path)], cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    for variant in ("softmax", "diff"):
        assert (tmp_path / "lm-cpu" / f"{variant}-0" / "run.json").exists()


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs a folder to write to: give out="):
        train(LanguageModel(MODEL), TASK, PLAIN, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install .diffbook\[tensorboard\]"):
        train(LanguageModel(MODEL), TASK, PLAIN, tmp_path / "without", tensorboard=True)


def test_tensorboard_gets_every_point_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        train(LanguageModel(MODEL), TASK, RUN, tmp_path, tensorboard=True, on_step=kill_at(4))
    result = train(LanguageModel(MODEL), TASK, RUN, tmp_path, tensorboard=True)
    found: dict[str, dict[int, float]] = {}
    for file in (tmp_path / "tensorboard").iterdir():
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                assert event.step not in found.setdefault(tag, {}), "written twice"
                found[tag][event.step] = event.value
    assert found.keys() > {"train/loss", "train/lr", "validation/accuracy", "lambda/layer 2"}
    assert sorted(found["train/loss"]) == result.curve["step"]
    for step, loss in zip(result.curve["step"], result.curve["loss"], strict=True):
        assert found["train/loss"][step] == pytest.approx(loss, rel=1e-6)
    second = [lams[1] for lams in result.curve["lambda"]]
    shown = [found["lambda/layer 2"][step] for step in result.curve["step"]]
    assert shown == pytest.approx(second, rel=1e-6)


def test_a_compiled_run_is_the_same_run_and_interchangeable(tmp_path, monkeypatch, undisturbed):
    """With Dynamo's plain backend: what needs a C++ compiler is only the code generation."""
    compile_, compiled = torch.compile, []

    def eager(model: torch.nn.Module) -> torch.nn.Module:
        compiled.append(compile_(model, backend="eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", eager)
    settings = replace(RUN, compile=True)
    with pytest.raises(Killed):
        train(LanguageModel(MODEL), TASK, settings, tmp_path, on_step=kill_at(4))
    assert len(compiled) == 1
    model = LanguageModel(MODEL)
    result = train(model, TASK, RUN, tmp_path)  # goes on uncompiled
    assert result.curve["loss"] == pytest.approx(undisturbed[1].curve["loss"], rel=1e-5)
    assert not any("_orig_mod" in name for name in model.state_dict())
    assert same_weights(load_model(tmp_path / "model"), model)


# --- Several processes ----------------------------------------------------------------------

WORKER = """
import json, os, sys
import torch
if os.environ.get("ACCELERATE_USE_FSDP"):
    # accelerate shards on GPUs alone and would silently copy here: call these processes GPUs.
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    plain = PartialState.__init__
    def pretend(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU
    PartialState.__init__ = pretend
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_train import NOISE_MODEL, Noise, RUN, Killed, kill_at
from dataclasses import replace
from diffbook.model import LanguageModel
from diffbook.train import train
settings = replace(RUN, batch_size=7)  # does not divide: 4 and 3 sequences
if sys.argv[1] == "too small":
    settings = replace(RUN, batch_size=1)
try:
    train(LanguageModel(NOISE_MODEL), Noise(), settings, sys.argv[1], on_step=kill_at(4))
except Killed:
    pass
result = train(LanguageModel(NOISE_MODEL), Noise(), settings, sys.argv[1])
print(json.dumps([os.environ["RANK"], result.curve]))
"""


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block",
}


@pytest.mark.parametrize("sharding", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_two_processes_are_one_run(sharding, tmp_path):
    """Gloo on this machine, started as torchrun (or accelerate launch) does; killed and resumed on
    the way. With FSDP2 each process holds half of every weight."""
    single = LanguageModel(NOISE_MODEL)
    expected = train(single, Noise(), replace(RUN, batch_size=7))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "OMP_NUM_THREADS": "1", **sharding,
    }
    script = WORKER.format(tests=str(Path(__file__).parent))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run")], text=True,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=900) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    for rank, (out, _) in enumerate(outputs):
        name, curve = json.loads(out.splitlines()[-1])
        assert name == str(rank)
        assert curve["step"] == expected.curve["step"]
        assert curve["loss"] == pytest.approx(expected.curve["loss"], rel=1e-4)
        assert curve["grad_norm"] == pytest.approx(expected.curve["grad_norm"], rel=1e-3)
        assert curve["lambda"][-1] == pytest.approx(expected.curve["lambda"][-1], abs=1e-4)
        assert curve["tokens"] == expected.curve["tokens"]  # of the whole batch, not twice a share
    trained = load_model(tmp_path / "run" / "model")
    for a, b in zip(trained.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert [row["step"] for row in lines(tmp_path / "run") if row["kind"] == "train"] == \
        expected.curve["step"]
    sharded = list((tmp_path / "run" / "checkpoint").glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(sharded) == (2 if sharding else 0)


def test_a_batch_too_small_for_the_processes(monkeypatch):
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda self: 16))
    with pytest.raises(ValueError, match="batch_size=8 leaves nothing for some of 16 processes"):
        train(LanguageModel(MODEL), TASK, PLAIN)
