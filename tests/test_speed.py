"""diffbook.measure.speed: all forms compute one thing, and the kernel and the bytes are the real
ones. No test depends on the time that anything takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from diffbook.attention import diff_attention_reference, softmax_attention
from diffbook.cli import main
from diffbook.measure.speed import BASELINE, FORMS, bench, draw_inputs, peak_bytes, sdpa_kernels


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
