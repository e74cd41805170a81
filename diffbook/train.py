"""Train a model on a task: one loop for every chapter, every task and every device.

    result = train(model, task, TrainConfig(steps=300, batch_size=64, lr=3e-3))

The batch of step s is drawn from (seed, s) alone. So a run that was killed and resumed sees what
it would have seen, two models with one seed see the same data in the same order, and several
processes can each take their share of one batch. Chapter 8.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffbook.model import IGNORE, LanguageModel


class Task(Protocol):
    """What the loop asks of a task: see :class:`diffbook.tasks.needle.NeedleTask`."""

    name: str

    @property
    def vocab_size(self) -> int: ...

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (rows, seq), int64 on the CPU; target -100 = not scored."""

    def evaluate(self, model: nn.Module, device: str | torch.device = "cpu") -> dict[str, float]:
        """Measures on data no training step draws; the same data for every model."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimizer steps.
        batch_size: sequences a step, over all processes and accumulation rounds.
        lr: peak learning rate: linear warm-up, then a cosine down to ``final_lr`` * lr.
        warmup: steps of the warm-up.
        final_lr: share of ``lr`` where the cosine ends, one step behind the last.
        weight_decay: of matrices; gains, λ vectors and embeddings get none.
        betas, clip: AdamW's averages; the gradient norm above which it is scaled down.
        accumulation: rounds a step is split into, for batches that do not fit.
        seed: of the data order. (The weights' seed is in the model's config.)
        precision: "no" (float32), "bf16" or "fp16"; default bf16 on a GPU that multiplies in it,
            fp16 on an older one (a T4), float32 on a CPU.
        compile: torch.compile the model.
        device: "cpu", "cuda", "mps"; default the best there is.
        log_every, eval_every: steps between points of the curve and of the validation (0: only
            at the end).
        checkpoint_every: steps between checkpoints in ``out`` (0: only at the end).
    """

    steps: int
    batch_size: int = 32
    lr: float = 2e-3
    warmup: int = 40
    final_lr: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    accumulation: int = 1
    seed: int = 0
    precision: str | None = None
    compile: bool = False
    device: str | None = None
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into accumulation="
                f"{self.accumulation} rounds"
            )
        if self.precision not in (None, "no", "bf16", "fp16"):
            raise ValueError(f'precision={self.precision!r}: choose "no", "bf16" or "fp16"')
        if self.device is not None and not _device_exists(self.device):
            raise ValueError(
                f"device={self.device!r} is not there: this machine has {', '.join(_devices())}; "
                "leave device out to take the best"
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr + (1 - self.final_lr) * cosine)


@dataclass
class TrainResult:
    """What a run was.

    Attributes:
        curve: equal lists ``step``, ``loss`` (nats, mean since the last point), ``lr``,
            ``grad_norm``, ``tokens`` (seen so far); for DIFF also ``lambda``, at each point
            a list of one λ a layer.
        validation: equal lists ``step`` and one for each measure of the task.
        seconds: training time without validation; ``tokens``: inputs seen.
        device: what it ran on.
    """

    curve: dict[str, list] = field(default_factory=dict)
    validation: dict[str, list] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    device: str = "cpu"


class TrainingError(RuntimeError):
    """Training cannot go on, or cannot be resumed."""


def train(
    model: LanguageModel,
    task: Task,
    config: TrainConfig,
    out: str | Path | None = None,
    *,
    resume: bool = True,
    progress: bool | None = None,
    tensorboard: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train ``model`` in place on ``task``.

    Args:
        out: folder for ``metrics.jsonl``, ``checkpoint/`` (to resume) and ``model/`` (the trained
            model, as :func:`diffbook.model.load_model` reads it). None keeps all in memory.
        resume: continue from ``out/checkpoint`` when it is there: the losses are those of a run
            never interrupted.
        progress: show a bar; by default not where ``DIFFBOOK_STATIC`` is set (site and tests).
        tensorboard: also write curves for TensorBoard to ``out/tensorboard`` (an extra).
        on_step: called with (step, loss) after each point of the curve.

    Raises:
        TrainingError: when the loss is no longer a number, or ``out`` holds another run.
        ValueError: when the vocabularies differ.
    """
    if task.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the task has {task.vocab_size} tokens, the model knows {model.config.vocab_size}: "
            f"build it with vocab_size={task.vocab_size}"
        )
    accelerator = _accelerator(config)
    if config.batch_size < config.accumulation * accelerator.num_processes:
        raise ValueError(
            f"batch_size={config.batch_size} leaves nothing for some of "
            f"{accelerator.num_processes} processes: give at least 1 sequence for each, times "
            f"accumulation={config.accumulation}"
        )
    device = accelerator.device
    folder = Path(out) if out is not None else None
    optimizer = _optimizer(model, config)
    raw = model
    model, optimizer = accelerator.prepare(model, optimizer)
    # Compiled last: a checkpoint has the same names with and without.
    compiled = torch.compile(model) if config.compile else model

    state = _Progress(config, raw, task)
    if folder is not None:
        if accelerator.is_main_process:
            _settle(folder)
        accelerator.wait_for_everyone()
        if resume and (folder / "checkpoint").is_dir():
            state.load(folder, accelerator)
        elif accelerator.is_main_process:
            _start_folder(folder)
    accelerator.wait_for_everyone()
    result = state.result
    result.device = _device_name(device)
    writer = _tensorboard(folder) if tensorboard and accelerator.is_main_process else None
    bar = tqdm(
        total=config.steps, initial=state.step, desc=f"{task.name}, {raw.config.attention}",
        disable=not _show(progress) or not accelerator.is_main_process,
    )

    model.train()
    losses = torch.zeros((), device=device)
    since, started = state.step, time.perf_counter()
    while state.step < config.steps:
        lr = config.lr_at(state.step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        rounds, tokens = _batches(task, config, state.step, accelerator)
        result.tokens += tokens
        for index, (inputs, targets, weight) in enumerate(rounds):
            last = index == len(rounds) - 1
            with accelerator.no_sync(model) if not last else nullcontext(), accelerator.autocast():
                loss = compiled(inputs.to(device), targets.to(device)) * weight
            accelerator.backward(loss)
            losses += loss.detach()
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        done = state.step == config.steps
        due = config.checkpoint_every and state.step % config.checkpoint_every == 0

        # A checkpoint falls on a point of the curve, so that no half-summed loss is lost.
        if state.step % config.log_every == 0 or due or done:
            mean = float(accelerator.reduce(losses, "mean")) / (state.step - since)
            # A gradient that is no number has just spoiled the weights; the loss shows it a step
            # later. (In fp16 that happens now and then: such a step is skipped.)
            spoiled = not math.isfinite(float(grad_norm)) and accelerator.scaler is None
            if spoiled or not math.isfinite(mean):
                raise TrainingError(
                    f"the loss is {mean:.3g} at step {state.step} (lr {lr:.2g}, gradient norm "
                    f"{float(grad_norm):.3g}): lower lr or clip, or lengthen warmup; the last "
                    "good checkpoint is untouched"
                )
            state.point(loss=mean, lr=lr, grad_norm=float(grad_norm), tokens=result.tokens)
            bar.set_postfix_str(f"loss {mean:.3f}")
            if on_step is not None:
                on_step(state.step, mean)
            losses.zero_()
            since = state.step
        bar.update(1)

        if done or (config.eval_every and state.step % config.eval_every == 0):
            result.seconds += time.perf_counter() - started
            model.eval()
            with accelerator.autocast():
                state.validate(task.evaluate(raw, device))
            model.train()
            started = time.perf_counter()
        if writer is not None:
            state.to_tensorboard(writer)
        if folder is not None and (due or done):
            result.seconds += time.perf_counter() - started
            state.save(folder, accelerator)
            started = time.perf_counter()
    result.seconds += time.perf_counter() - started
    bar.close()
    if writer is not None:
        writer.close()
    if folder is not None:
        _save_model(raw, model, folder / "model", accelerator)
    model.eval()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    raw.__dict__.pop("forward", None)  # accelerate's autocast: after training it is the plain model
    accelerator.free_memory()
    return result


def _save_model(
    raw: LanguageModel, model: nn.Module, path: Path, accelerator: Accelerator
) -> None:
    """Write the trained model, gathered where its weights are spread over processes (FSDP)."""
    weights = None
    if accelerator.distributed_type == DistributedType.FSDP:
        weights = accelerator.get_state_dict(model)  # all processes give their part
    if not accelerator.is_main_process:
        return
    if weights is not None:
        raw = LanguageModel(raw.config)
        raw.load_state_dict(weights)
    raw.save_pretrained(path)


class _Progress:
    """The state of a run: where it stands, what it measured, and how both are kept on disk."""

    def __init__(self, config: TrainConfig, model: LanguageModel, task: Task):
        self.step = 0
        self.result = TrainResult()
        self.model = model
        self.config = config
        self.written: list[dict] = []  # lines of metrics.jsonl
        self.shown = 0  # how many of them TensorBoard has
        # What must be the same for a resumed run; where it runs and how often it looks may change.
        run = asdict(config)
        for free in ("device", "compile", "log_every", "eval_every", "checkpoint_every"):
            run.pop(free)
        described = json.dumps([run, asdict(model.config), repr(task)], sort_keys=True)
        self.identity = hashlib.sha256(described.encode()).hexdigest()

    def point(self, **values: float) -> None:
        row: dict[str, Any] = {"step": self.step, **values}
        lambdas = self.model.lambdas()
        if lambdas:
            row["lambda"] = lambdas
        _append(self.result.curve, row)
        self.written.append({"kind": "train", **row})

    def validate(self, measures: dict[str, float]) -> None:
        row = {"step": self.step, **measures}
        _append(self.result.validation, row)
        self.written.append({"kind": "validation", **row})

    def to_tensorboard(self, writer: Any) -> None:
        for row in self.written[self.shown :]:
            for name, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
            for layer, lam in enumerate(row.get("lambda", []), start=1):
                writer.add_scalar(f"lambda/layer {layer}", lam, row["step"])
        self.shown = len(self.written)

    def save(self, folder: Path, accelerator: Accelerator) -> None:
        """Write ``checkpoint/``, whole or not at all: a folder beside it takes its name."""
        fresh, target = folder / "checkpoint.new", folder / "checkpoint"
        if accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(fresh))
        accelerator.wait_for_everyone()  # each process writes a file of its own into it
        if accelerator.is_main_process:
            state = {"step": self.step, "identity": self.identity, "result": asdict(self.result)}
            (fresh / "progress.json").write_text(json.dumps(state))
            old = folder / "checkpoint.old"
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
            shutil.rmtree(old, ignore_errors=True)
            self.write(folder)
        accelerator.wait_for_everyone()

    def write(self, folder: Path) -> None:
        """``metrics.jsonl``, whole: what a killed run had written behind its checkpoint goes."""
        lines = "".join(json.dumps(row) + "\n" for row in self.written)
        _write(folder / "metrics.jsonl", lines)

    def load(self, folder: Path, accelerator: Accelerator) -> None:
        path = folder / "checkpoint"
        try:
            state = json.loads((path / "progress.json").read_text())
            identity, step = state["identity"], state["step"]
            result = TrainResult(**state["result"])
            written = _rows("train", result.curve) + _rows("validation", result.validation)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path} cannot be resumed ({error}): it is damaged; delete it to start again"
            ) from error
        if identity != self.identity:
            raise TrainingError(
                f"{folder} holds a run of another model, task or configuration: choose another "
                "folder, or give resume=False (--fresh) to replace it"
            )
        try:
            accelerator.load_state(str(path))
        except Exception as error:  # any of several libraries; all mean: not whole
            raise TrainingError(
                f"{path} cannot be resumed ({type(error).__name__} while reading it): it is "
                "damaged; delete it to start again"
            ) from error
        self.step, self.result = step, result
        self.written = sorted(written, key=lambda row: row["step"])
        self.shown = len(self.written)
        if accelerator.is_main_process:
            self.write(folder)


def _rows(kind: str, table: dict[str, list]) -> list[dict]:
    return [
        {"kind": kind, **dict(zip(table, values, strict=True))}
        for values in zip(*table.values(), strict=True)
    ]


def _append(table: dict[str, list], row: dict[str, Any]) -> None:
    for name, value in row.items():
        table.setdefault(name, []).append(value)


def _batches(
    task: Task, config: TrainConfig, step: int, accelerator: Accelerator
) -> tuple[list[tuple[Tensor, Tensor, float]], int]:
    """The rounds of one step: this process's share of the batch, cut for accumulation; and the
    tokens of the whole batch. The weights of the rounds' mean losses make them, over all processes,
    the mean of the whole batch."""
    generator = torch.Generator().manual_seed((config.seed + 1) * 1_000_003 * 64 + step)
    inputs, targets = task.training_batch(config.batch_size, generator, step / config.steps)
    scored = int((targets != IGNORE).sum()) / accelerator.num_processes
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    rounds = zip(
        inputs[share].tensor_split(config.accumulation),
        targets[share].tensor_split(config.accumulation),
        strict=True,
    )
    return [(x, y, int((y != IGNORE).sum()) / scored) for x, y in rounds], inputs.numel()


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            matrix = weight.ndim == 2 and not name.startswith("embedding")
            (decayed if matrix else free).append(weight)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _accelerator(config: TrainConfig) -> Accelerator:
    cpu = config.device == "cpu" or not (torch.cuda.is_available() or _mps())
    precision = config.precision or ("no" if cpu else default_precision())
    if precision == "fp16" and cpu:
        raise ValueError('precision="fp16" needs a GPU: take "bf16" or "no" on a CPU')
    if not torch.distributed.is_initialized():
        # accelerate keeps the first device and precision of a process for good; a notebook
        # trains several models.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=precision)


def default_precision() -> str:
    """"bf16" or "fp16", what the tensor cores of this GPU multiply; "no" where there is no CUDA."""
    if not torch.cuda.is_available():
        return "no"
    # From compute capability 8 on. Older ones emulate bf16, so torch.cuda.is_bf16_supported() says
    # yes on a T4, too: slower than float32.
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"


def _start_folder(folder: Path) -> None:
    """Empty the folder of an earlier run, and mark it as one by its ``metrics.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("checkpoint", "checkpoint.old", "checkpoint.new", "tensorboard", "model")
    there = [name for name in names if (folder / name).exists()]
    if there and not (folder / "metrics.jsonl").exists():
        raise TrainingError(
            f"{folder} is not the folder of a run but has {', '.join(there)} in it, which would be "
            "replaced: choose another folder"
        )
    for name in there:
        shutil.rmtree(folder / name)
    _write(folder / "metrics.jsonl", "")


def _settle(folder: Path) -> None:
    """A run killed between the two renames of a save has its checkpoint as ".old": put it back."""
    current, old = folder / "checkpoint", folder / "checkpoint.old"
    if old.is_dir() and not current.exists():
        old.rename(current)


def _write(path: Path, content: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(content)
    os.replace(fresh, path)


def _tensorboard(folder: Path | None) -> Any:
    if folder is None:
        raise ValueError("tensorboard=True needs a folder to write to: give out=")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            'TensorBoard is not installed: pip install "diffbook[tensorboard]"'
        ) from error
    return SummaryWriter(folder / "tensorboard")


def _show(progress: bool | None) -> bool:
    return not os.environ.get("DIFFBOOK_STATIC") if progress is None else progress


def _mps() -> bool:
    return torch.backends.mps.is_available()


def _devices() -> list[str]:
    return ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * _mps()


def _device_exists(device: str) -> bool:
    return device in _devices()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"
