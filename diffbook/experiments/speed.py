"""What differential attention costs in seconds (Table 7, chapter 6): core, layer, training step.

Nothing is trained. Both models of the pair are timed in turns in one run, so that a ratio is of one
machine at one time; the seeds of the record are repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch

from diffbook.attention import diff_attention, wide_diff_attention
from diffbook.experiments.experiment import Experiment, Preset
from diffbook.experiments.lm import ESTIMATED, LM, LM_124M
from diffbook.measure.speed import (
    BASELINE,
    FORMS,
    OURS,
    Form,
    Row,
    bench,
    bench_layer,
    bench_step,
    draw_inputs,
    sdpa_kernels,
)
from diffbook.model import LanguageModel
from diffbook.records.record import Record
from diffbook.train import Task

# What diff_attention takes on a CPU is a form of its own; on a GPU it is timed beside them.
ON_A_GPU: dict[str, Form] = {
    **{name: form for name, form in FORMS.items() if name != "blockwise"},
    "one wide call": wide_diff_attention, "diff_attention": diff_attention,
}
# Beyond SpeedPlan.all_forms_to: these keep no map, on a CPU.
LONG = ("one padded call", "blockwise", "one wide call", "diff_attention")


@dataclass(frozen=True)
class SpeedPlan:
    """What is timed; in the place of a task.

    Attributes:
        device: "cpu" or "cuda". threads: of the CPU.
        seqs: lengths of the core, over maps of each of the widths ``d``, all heads together
            ``width`` wide, ``tokens`` in a batch.
        all_forms_to: up to this length all forms run, beyond it some that keep no map.
        others_to: up to this length all widths ``d`` run, beyond it the first.
        repeats: turns up to 2048 tokens; beyond, fewer, down to 1.
        layer_seqs: lengths of a whole attention layer as wide as the preset's model.
        step_seqs, step_tokens, compile: of a training step of the preset's model.
        alone: nothing else may run beside it.
    """

    device: str = "cpu"
    threads: int | None = 1
    seqs: tuple[int, ...] = ()
    d: tuple[int, ...] = (64, 32)
    width: int = 256
    tokens: int = 2048
    all_forms_to: int = 4096
    others_to: int = 2048
    repeats: int = 5
    layer_seqs: tuple[int, ...] = ()
    step_seqs: tuple[int, ...] = ()
    step_tokens: int = 1024
    compile: bool = False
    vocab_size: int = 256
    name: str = "speed"
    alone: bool = True

    @property
    def seq_len(self) -> int:
        """The longest sequence that the model meets."""
        return max((*self.step_seqs, 1))

    @property
    def device_name(self) -> str:
        """For the record: what the times are of."""
        if self.device == "cuda" and torch.cuda.is_available():
            return torch.cuda.get_device_name()
        threads = self.threads or torch.get_num_threads()
        return f"{self.device}, {threads} thread{'s' * (threads > 1)}"

    @property
    def dtype(self) -> torch.dtype:
        """What the device multiplies in: bf16 or fp16 on a GPU, float32 on a CPU."""
        if self.device != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16

    @property
    def forms(self) -> Mapping[str, Form]:
        return FORMS if self.device == "cpu" else ON_A_GPU

    @property
    def own(self) -> str:
        """The form that :func:`diffbook.attention.diff_attention` takes at these lengths."""
        return "blockwise" if self.device == "cpu" else "diff_attention"

    def turns(self, seq: int) -> int:
        return max(1, min(self.repeats, self.repeats * 2048 // seq))


def measure(model: LanguageModel, task: SpeedPlan) -> dict[str, float | list[float]]:
    """Seconds and bytes by length, and the ratios that the chapter names.

    Arrays, one number for each length (for the first lengths, where a form leaves the longest
    out), for each width D: "core dD seq", "core dD forward: FORM", "core dD training: FORM",
    "core dD memory: FORM", FORM also being the baseline; "layer seq", "layer training: ROW", …;
    "step seq", "step seconds: softmax", "step memory: diff", "step MFU: diff", …. Numbers: "core
    dD forward ratio N" and "core dD training ratio N" of the form that the package takes, "layer
    training ratio N", "step ratio N".
    """
    found: dict[str, float | list[float]] = {}
    where = {"device": task.device, "threads": task.threads, "dtype": task.dtype}
    for d in task.d:
        rows: list[Row] = []
        for seq in task.seqs:
            if d != task.d[0] and seq > task.others_to:
                continue
            short = seq <= task.all_forms_to
            forms = {k: f for k, f in task.forms.items() if short or k in LONG}
            rows += bench(
                [seq], batch=max(1, task.tokens // seq), heads=task.width // (2 * d), d=d,
                forms=forms, repeats=task.turns(seq), max_gib=16 if task.device == "cuda" else 2,
                **where,  # type: ignore[arg-type]
            )
        found |= _columns(f"core d{d}", rows)
        for row in rows:
            if row.form == task.own:
                found[f"core d{d} forward ratio {row.seq}"] = row.forward_ratio
                found[f"core d{d} training ratio {row.seq}"] = row.training_ratio
    config = model.config
    rows = []
    for seq in task.layer_seqs:
        rows += bench_layer(
            [seq], batch=max(1, task.tokens // seq), d_model=config.d_model,
            heads=config.n_heads, repeats=task.turns(seq), **where,  # type: ignore[arg-type]
        )
    found |= _columns("layer", rows)
    for row in rows:
        if row.form == OURS:
            found[f"layer training ratio {row.seq}"] = row.training_ratio
    steps = bench_step(
        config, task.step_seqs, tokens=task.step_tokens, compile=task.compile,
        repeats=task.repeats, **where,  # type: ignore[arg-type]
    ) if task.step_seqs else []
    for step in steps:
        for name, value in (
            ("seconds", step.seconds), ("memory", step.memory), ("MFU", step.mfu),
            ("tokens per second", step.tokens_per_second),
        ):
            cast(list, found.setdefault(f"step {name}: {step.attention}", [])).append(float(value))
        if step.attention == "diff":
            found[f"step ratio {step.seq}"] = step.ratio
    if steps:
        found["step seq"] = [float(seq) for seq in task.step_seqs]
    model.to(task.device)  # for `engines`
    return found


def _columns(part: str, rows: list[Row]) -> dict[str, float | list[float]]:
    """The rows as lists over the lengths."""
    found: dict[str, float | list[float]] = {}
    for row in rows:
        if row.form == BASELINE:
            cast(list, found.setdefault(f"{part} seq", [])).append(float(row.seq))
        for name in ("forward", "training", "memory"):
            column = cast(list, found.setdefault(f"{part} {name}: {row.form}", []))
            column.append(float(getattr(row, name)))
    return found


def engines(model: LanguageModel) -> dict[str, str]:
    """Which kernel of torch each form runs on the device of ``model``, by the width d of a map."""
    device = next(model.parameters()).device.type
    plan = SpeedPlan(device=device)
    found = {}
    for d in plan.d:
        inputs = draw_inputs(128, d=d, device=device, dtype=plan.dtype)
        for name, form in plan.forms.items():
            q1, k1, q2, k2, v = inputs
            found[f"d{d}: {name}"] = sdpa_kernels(partial(form, q1, k1, q2, k2, v, 0.5))
    return found


def ratios(
    record: Record, part: str = "core d64 training", form: str | None = None,
    base: str = BASELINE,
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (n,) and time over the Transformer's (repetitions, n) in a record of this experiment.

    Args:
        part: "core dD forward", "core dD training" or, for bytes, "core dD memory", with ``form`` a
            key of FORMS, default what the package takes on that device; "layer training" with
            ``form`` and ``base`` as in :func:`diffbook.measure.speed.bench_layer`; "step seconds"
            with form "diff" and base "softmax".
    """
    variant = record.variants[0]
    if form is None:
        known = record.of(variant)[0].arrays
        form = "blockwise" if f"{part}: blockwise" in known else "diff_attention"
    of_form = record.array(variant, f"{part}: {form}")
    of_base = record.array(variant, f"{part}: {base}")
    lengths = record.array(variant, f"{part.rpartition(' ')[0]} seq")[0]
    n = of_form.shape[1]
    return lengths[:n].astype(int), of_form / of_base[:, :n]


def _preset(plan: SpeedPlan, source: Preset, minutes: float, note: str) -> Preset:
    model = replace(source.model, max_seq_len=max(source.model.max_seq_len, plan.seq_len))
    return Preset(model, None, cast(Task, plan), minutes, note)


MODEL_14M = LM.presets["h100"]
GPU = SpeedPlan(
    device="cuda", threads=None, seqs=(256, 512, 1024, 2048, 4096, 8192, 16384), width=1024,
    tokens=16384, all_forms_to=16384, others_to=16384, repeats=10, layer_seqs=(1024, 4096, 16384),
    step_seqs=(1024, 4096, 16384), step_tokens=65536, compile=True,
)

SPEED = Experiment(
    name="speed",
    title="Speed of differential attention: core, layer and training step (Table 7)",
    variants={"pair": {"attention": "diff"}},
    presets={
        "cpu": _preset(
            SpeedPlan(
                seqs=(256, 512, 1024, 2048, 4096, 8192, 16384), layer_seqs=(1024,),
                step_seqs=(1024, 2048), repeats=2,
            ),
            MODEL_14M, 2.8, "one thread; core to 16K tokens, a step of 14 M parameters to 2K",
        ),
        "t4": _preset(
            replace(GPU, width=512, step_seqs=(1024, 4096), step_tokens=8192, compile=False,
                    all_forms_to=4096),
            MODEL_14M, 4, f"fp16; core to 16K tokens, a step of 14 M parameters; {ESTIMATED}",
        ),
        "h100": _preset(
            GPU, MODEL_14M, 4, f"bf16; core, layer and a compiled step of 14 M parameters, to 16K "
            f"tokens; {ESTIMATED}",
        ),
    },
    measure=measure,
    samples=engines,
)

SPEED_124M = Experiment(
    name="speed-124m",
    title="A compiled training step at the size of GPT-2 small, as in nanoGPT",
    variants={"pair": {"attention": "diff"}},
    presets={
        "h100": _preset(
            replace(GPU, seqs=(), layer_seqs=(), step_seqs=(1024,), step_tokens=24 * 1024),
            LM_124M.presets["h100"], 2, f"124 M parameters, 24 x 1024 tokens; {ESTIMATED}",
        ),
    },
    measure=measure,
)
