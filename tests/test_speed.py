"""diffbook.measure.speed: all forms compute one thing, and the kernel and the bytes are the real
ones. No test depends on the time that anything takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from diffbook.attention import diff_attention_reference, softmax_attention
from diffbook.cli import main
from diffbook.experiments import publish, speed
from diffbook.experiments.experiment import run_one
from diffbook.measure.flops import forward_flops
from diffbook.measure.speed import (
    BASELINE,
    FORMS,
    OURS,
    THEIRS,
    bench,
    bench_layer,
    bench_step,
    draw_inputs,
    peak_bytes,
    sdpa_kernels,
)
from diffbook.model import ModelConfig


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("lam", [torch.tensor(0.37), torch.tensor([0.2, -0.5, 0.8]).view(3, 1, 1)],
                         ids=["one", "per head"])
def test_every_form_is_the_definition(form, lam):
    """Values and all six gradients, over several blocks and heads."""
    results = []
    for function in (form, diff_attention_reference):
        inputs = draw_inputs(150, batch=2, heads=3, d=8, dtype=torch.float64)
        leaf = lam.double().requires_grad_()
        out = function(*inputs, leaf)
        weight = torch.arange(out.numel(), dtype=torch.float64).view_as(out).sin()
        results.append((out, *torch.autograd.grad((out * weight).sum(), [*inputs, leaf])))
        lam = lam.detach()
    assert_close(*results, rtol=1e-10, atol=1e-10)
    q1, k1, q2, k2, v = inputs
    assert not torch.allclose(form(q1, k1, q2, k2, v, lam.double()),
                              form(q2, k2, q1, k1, v, lam.double()))  # the comparison is not blind


KERNEL = {
    "build the maps": "none", "blockwise": "none", "two calls": "math",
    "shared values (GQA)": "math", "two padded calls": "flash", "one padded call": "flash",
    "four narrow calls": "flash", "two narrow calls": "flash",
}


@pytest.mark.parametrize("form", FORMS)
def test_kernel_of_each_form_on_a_cpu(form):
    inputs = draw_inputs(16, d=8)
    assert sdpa_kernels(lambda: FORMS[form](*inputs, 0.5)) == KERNEL[form]


def test_kernel_is_what_was_asked_for():
    q, k, v = torch.randn(3, 1, 2, 16, 8).unbind(0)
    for backend, name in ((SDPBackend.MATH, "math"), (SDPBackend.FLASH_ATTENTION, "flash")):
        with sdpa_kernel(backend):
            assert sdpa_kernels(lambda: F.scaled_dot_product_attention(q, k, v)) == name
    both = sdpa_kernels(lambda: (softmax_attention(q, k, v),
                                 F.scaled_dot_product_attention(q, k, torch.cat((v, v), -1))))
    assert both == "flash, math"
    assert sdpa_kernels(lambda: q @ k.mT) == "none"


def test_peak_counts_what_is_alive_together():
    mib = 2**18  # numbers of float32

    def chain() -> torch.Tensor:
        x = torch.ones(mib)
        for _ in range(5):
            x = x + 1  # the old one goes when the new one is there
        return x

    assert peak_bytes(chain) == 2 * 2**20
    kept: list[torch.Tensor] = []
    assert peak_bytes(lambda: kept.extend(torch.ones(mib) for _ in range(5))) == 5 * 2**20
    given = torch.ones(mib)
    assert peak_bytes(lambda: given.view(2, -1), [given]) == 0
    x = torch.ones(mib, requires_grad=True)
    assert peak_bytes(lambda: x.exp().exp(), [x]) == 2 * 2**20  # kept for the backward pass


def test_memory_grows_with_the_map_or_with_the_length():
    forms = ["build the maps", "two calls", "one padded call", "blockwise"]
    rows = {(row.form, row.seq): row for row in bench([256, 512], heads=2, d=8, forms=forms,
                                                      repeats=1, threads=1)}
    growth = {form: rows[form, 512].memory / rows[form, 256].memory for form in forms}
    assert growth["build the maps"] > 3.5
    assert growth["two calls"] > 3.5
    assert growth["one padded call"] < 2.1
    assert rows["build the maps", 512].memory > 4 * 2 * 512**2 * 4  # four maps of two heads
    assert rows["blockwise", 512].memory < rows["build the maps", 512].memory / 2


def test_bench_rows():
    before = torch.get_num_threads()
    rows = bench([32, 40], heads=2, d=8, forms=["blockwise", "two calls"], repeats=2, threads=1)
    assert torch.get_num_threads() == before
    assert [(row.form, row.seq) for row in rows] == [
        (form, seq) for seq in (32, 40) for form in (BASELINE, "blockwise", "two calls")]
    for row in rows:
        base = next(r for r in rows if r.seq == row.seq)
        assert row.forward > 0 and row.training > 0
        assert row.forward_ratio == pytest.approx(row.forward / base.forward)
        assert row.training_ratio == pytest.approx(row.training / base.training)
    assert [row.kernel for row in rows[:3]] == ["flash", "none", "math"]


def test_bench_leaves_out_what_would_not_fit():
    forms = [row.form for row in bench([64], heads=2, d=8, repeats=1, max_gib=1e-6)]
    assert forms == [BASELINE, *(form for form in FORMS
                                 if form == "blockwise" or KERNEL[form] == "flash")]


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="no form 'fast': there are build the maps, two calls"):
        bench([32], forms=["fast"])
    for name in ("batch", "heads", "d", "repeats", "threads"):
        with pytest.raises(ValueError, match=f"{name}=0: give a whole number of at least 1"):
            bench([32], **{name: 0})
    with pytest.raises(ValueError, match="seq=0"):
        bench([32, 0])


def test_command_line(capsys):
    assert main(["bench", "--seq", "32,48", "--d", "8", "--heads", "2", "--repeats", "1",
                 "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "CPU, 1 thread(s), float32; batch 1, 2 differential heads, d 8; fastest of 1" in out
    assert out.count(BASELINE) == 2
    for form in FORMS:
        assert out.count(form) >= 2
    assert main(["bench", "--seq", "a lot"]) == 2
    assert "seq 'a lot': write it as 256,1024,4096" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["bench", "--seq", "32", "--device", "cuda"]) == 2
        assert "torch sees no CUDA device here" in capsys.readouterr().err


# --- A layer, a training step, the record ---------------------------------------------------

TINY = ModelConfig(64, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)


def test_bench_layer_rows():
    rows = bench_layer([130, 140], d_model=32, heads=4, repeats=1, threads=1)
    forms = [BASELINE, OURS]
    try:
        import transformers  # noqa: F401
    except ImportError:
        pass
    else:
        forms.append(THEIRS)
    assert [(row.form, row.seq) for row in rows] == [
        (form, seq) for seq in (130, 140) for form in forms]
    kernels = {row.form: row.kernel for row in rows}
    assert kernels[BASELINE] == "flash"
    assert kernels[OURS] == "none"  # blockwise
    assert kernels.get(THEIRS, "flash") == "flash"
    assert all(row.training > 0 and row.memory > 130 * 32 * 4 for row in rows)


def test_bench_step_trains_both_of_the_pair(monkeypatch):
    """Tokens, utilization and the order of turns, with a clock that goes by one at each look."""
    monkeypatch.setattr("diffbook.measure.speed.peak_flops", lambda device: 1e9)
    ticks = iter(range(10**6))
    monkeypatch.setattr("diffbook.measure.speed._clock", lambda device: lambda: next(ticks))
    rows = bench_step(TINY, [16, 64], tokens=64, repeats=2, threads=1)
    assert [(row.attention, row.seq, row.batch) for row in rows] == [
        ("softmax", 16, 4), ("diff", 16, 4), ("softmax", 64, 1), ("diff", 64, 1)]
    for row in rows:
        assert row.seconds == row.ratio == 1
        assert row.tokens_per_second == 64
        assert row.mfu == pytest.approx(
            3 * forward_flops(TINY, row.seq, batch=row.batch).total / 1e9)
        # At least the gradients (all weights) and the logits are there at the peak.
        assert row.memory > 4 * (2 * 64 * 32 + 64 * 64)
    softmax, diff = (row.memory for row in rows[:2])
    assert softmax < diff < 3 * softmax
    with pytest.raises(ValueError, match="tokens=0: give a whole number of at least 1"):
        bench_step(TINY, [16], tokens=0)


def test_bench_step_takes_real_steps():
    step = speed_step(TINY)
    before = [weight.detach().clone() for weight in step.raw.parameters()]
    with torch.no_grad():
        loss = float(step.raw(step.inputs, step.targets))
    for _ in range(3):
        step()
    assert all((a != b).any() for a, b in zip(before, step.raw.parameters(), strict=True))
    with torch.no_grad():
        assert float(step.raw(step.inputs, step.targets)) < loss


def speed_step(config: ModelConfig):
    from diffbook.measure.speed import _Step
    from diffbook.model import LanguageModel

    return _Step(LanguageModel(config), 32, 2, "cpu", torch.float32, False)


@pytest.fixture(scope="module")
def speed_record(tmp_path_factory):
    """The experiment in small, made, combined and read as any other."""
    out = tmp_path_factory.mktemp("speed")
    preset = speed.SPEED.presets["cpu"]
    plan = replace(preset.task, seqs=(128, 160, 200), d=(16, 8), width=32, tokens=200,
                   all_forms_to=160, others_to=128, repeats=1, layer_seqs=(128,),
                   step_seqs=(16, 64), step_tokens=64)
    tiny = replace(speed.SPEED, presets={"cpu": replace(preset, model=TINY, task=plan)})
    for seed in (0, 1):
        run_one(tiny, "cpu", "pair", seed, out)
    with pytest.MonkeyPatch.context() as patch:  # the shipped record is of the real size
        patch.setattr(publish, "FOLDER", out)
        return publish.combine(tiny, "cpu", out)


def test_the_experiment_makes_a_record(speed_record):
    run = speed_record.of("pair")[0]
    assert run.device == "cpu, 1 thread"
    assert not run.train and run.tokens == 0 and run.seconds > 0
    assert {name for name in run.measures if name.startswith("core")} == {
        f"core d{d} {what} ratio {seq}"
        for d, seqs in ((16, (128, 160, 200)), (8, (128,)))
        for seq in seqs for what in ("forward", "training")}
    assert {"step ratio 16", "step ratio 64", "layer training ratio 128"} <= run.measures.keys()
    arrays = run.arrays
    assert arrays["core d16 seq"] == [128, 160, 200]
    assert arrays["core d8 seq"] == [128]
    assert len(arrays["core d16 training: build the maps"]) == 2  # not at the longest
    assert len(arrays["core d16 memory: blockwise"]) == 3
    assert arrays["step seq"] == [16, 64]
    assert len(arrays["step MFU: diff"]) == 2
    assert run.samples["d64: two calls"] == "math"


def test_ratios_are_of_one_repetition_and_length(speed_record):
    at, ratio = speed.ratios(speed_record, "core d16 training", "build the maps")
    assert at.tolist() == [128, 160] and ratio.shape == (2, 2)
    run = speed_record.of("pair")[1]
    assert ratio[1, 1] == (run.arrays["core d16 training: build the maps"][1]
                           / run.arrays[f"core d16 training: {BASELINE}"][1])
    at, ratio = speed.ratios(speed_record, "core d16 training")
    own = [r.measures["core d16 training ratio 200"] for r in speed_record.of("pair")]
    assert np.allclose(ratio[:, 2], own)
    at, ratio = speed.ratios(speed_record, "step seconds", "diff", "softmax")
    assert at.tolist() == [16, 64]
    assert np.allclose(ratio[:, 0], speed_record.values("pair", "step ratio 16"))


def test_the_plan_follows_its_device(monkeypatch):
    plan = speed.SpeedPlan(repeats=4)
    assert [plan.turns(seq) for seq in (256, 2048, 4096, 8192, 16384)] == [4, 4, 2, 1, 1]
    assert plan.dtype == torch.float32 and plan.own in plan.forms
    gpu = speed.SPEED.presets["h100"].task
    assert gpu.own in gpu.forms and "blockwise" not in gpu.forms
    for capability, dtype in (((7, 5), torch.float16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert gpu.dtype == dtype
    # Beyond all_forms_to no form may build a map.
    inputs = draw_inputs(128, d=8)
    for name in set(speed.LONG) & set(FORMS):
        assert sdpa_kernels(lambda f=FORMS[name]: f(*inputs, 0.5)) in ("none", "flash")
