"""diffbook.attention: the fast paths against the definitions, the layers against outside
implementations (transformers' DiffLlama, timm's DiffAttention), and wrong variants that must be
caught by the same comparisons."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from diffbook import attention, blockwise
from diffbook.attention import (
    KVCache,
    MultiheadAttention,
    MultiheadDiffAttention,
    diff_attention,
    diff_attention_map,
    diff_attention_reference,
    lambda_init,
    padded_diff_attention,
    softmax_attention,
    softmax_attention_map,
    softmax_attention_reference,
)
from diffbook.rope import Rotary

BATCH, HEADS, SEQ, D = 2, 3, 13, 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These tensors are tiny: a second thread only waits for its turn on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(
    d_v: int = 2 * D, n: int = SEQ, m: int = SEQ, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """q1, k1, q2, k2, v; logits with a spread of about 2, so that the maps are far from even."""
    q1, q2 = (1.5 * draw(BATCH, HEADS, n, D, seed=s, dtype=dtype) for s in (1, 2))
    k1, k2 = (1.5 * draw(BATCH, HEADS, m, D, seed=s, dtype=dtype) for s in (3, 4))
    return q1, k1, q2, k2, draw(BATCH, HEADS, m, d_v, seed=5, dtype=dtype)


LAMBDAS = {
    "number": 0.37,
    "negative": -0.6,
    "scalar tensor": torch.tensor(0.37),
    "one per head": torch.tensor([0.2, 0.8, -0.5]).view(HEADS, 1, 1),
    "one per position": draw(BATCH, 1, SEQ, 1, seed=6),
}


# --- Fast path == definition ----------------------------------------------------------------------

def values_and_gradients(function, tensors, cotangent):
    leaves = [x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x for x in tensors]
    out = function(*leaves)
    wanted = [x for x in leaves if isinstance(x, Tensor)]
    return [out.detach(), *torch.autograd.grad(out, wanted, cotangent)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_v", [D, 2 * D, 11, 5], ids=lambda d_v: f"d_v={d_v}")
@pytest.mark.parametrize("lam", LAMBDAS.values(), ids=LAMBDAS.keys())
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_diff_attention_is_its_definition(lam, d_v, causal, dtype, tolerance):
    lam = lam.to(dtype) if isinstance(lam, Tensor) else lam
    tensors = (*inputs(d_v, dtype=dtype), lam)
    cotangent = draw(BATCH, HEADS, SEQ, d_v, seed=7, dtype=dtype)
    fast, slow = (
        values_and_gradients(lambda *x, f=f: f(*x, causal=causal), tensors, cotangent)
        for f in (diff_attention, diff_attention_reference)
    )
    assert fast[0].dtype == dtype
    assert_close(fast, slow, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_v", [D, 2 * D, 11, 5], ids=lambda d_v: f"d_v={d_v}")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_softmax_attention_is_its_definition(d_v, causal, dtype, tolerance):
    q, k, _, _, v = inputs(d_v, dtype=dtype)
    cotangent = draw(BATCH, HEADS, SEQ, d_v, seed=7, dtype=dtype)
    fast, slow = (
        values_and_gradients(lambda *x, f=f: f(*x, causal=causal), (q, k, v), cotangent)
        for f in (softmax_attention, softmax_attention_reference)
    )
    assert_close(fast, slow, rtol=tolerance, atol=tolerance)


def test_the_definition_is_equation_1_entry_by_entry():
    """Written out with sums and exponentials, in plain Python."""
    q1, k1, q2, k2, v = inputs()
    lam = 0.4
    ours = diff_attention_reference(q1, k1, q2, k2, v, lam)
    for batch, head, i, channel in [(0, 0, 0, 0), (1, 2, 5, 3), (0, 1, 12, 15)]:
        row = []
        for q, k in ((q1, k1), (q2, k2)):
            score = [
                math.exp(sum(float(q[batch, head, i, c] * k[batch, head, j, c]) for c in range(D))
                         / math.sqrt(D))
                for j in range(i + 1)
            ]
            row.append([s / sum(score) for s in score])
        expected = sum(
            (a1 - lam * a2) * float(v[batch, head, j, channel]) for j, (a1, a2) in
            enumerate(zip(*row, strict=True))
        )
        assert float(ours[batch, head, i, channel]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d_v", [D, 2 * D, 11], ids=lambda d_v: f"d_v={d_v}")
def test_bfloat16_stays_within_its_rounding(d_v):
    """Against float64 on the same inputs. Three roundings of half a unit of Σ|a v| may meet: of
    the weights, of each map's output and of their difference."""
    tensors = inputs(d_v, dtype=torch.bfloat16)
    q1, k1, q2, k2, v = (x.double() for x in tensors)
    exact = diff_attention_reference(q1, k1, q2, k2, v, 0.8)
    size = softmax_attention_map(q1, k1) @ v.abs() + 0.8 * softmax_attention_map(q2, k2) @ v.abs()
    for lam in (0.8, torch.full((HEADS, 1, 1), 0.8)):
        out = diff_attention(*tensors, lam)
        assert out.dtype == torch.bfloat16
        error = ((out.double() - exact).abs() / (2.0**-8 * size)).max()
        assert 0.05 < error < 3.0  # it is bf16, not float32 in disguise, and not worse
        # The definition rounds the logits as well, which no bound on the weights covers.
        slow = diff_attention_reference(*tensors, lam)
        assert slow.dtype == torch.bfloat16
        assert (slow.double() - exact).abs().mean() > (out.double() - exact).abs().mean()


def test_subtraction_is_made_in_float32():
    """Equal maps and λ = 1 - 2^-10: the result is 2^-10 of the output. bf16 cannot hold that λ."""
    q, k, _, _, v = inputs(dtype=torch.bfloat16)
    lam = 1 - 2.0**-10
    out = diff_attention(q, k, q, k, v, lam)
    plain = softmax_attention(q, k, v).float()
    assert_close(out.float(), plain * 2.0**-10, rtol=2.0**-8, atol=0)
    in_bf16 = plain.bfloat16() - torch.tensor(lam, dtype=torch.bfloat16) * plain.bfloat16()
    assert (in_bf16 == 0).all()


# --- Identities -----------------------------------------------------------------------------------

@pytest.mark.parametrize("causal", [True, False])
def test_lambda_zero_is_plain_attention_with_wide_values(causal):
    q1, k1, q2, k2, v = inputs()
    out = diff_attention(q1, k1, q2, k2, v, 0.0, causal=causal)
    torch_own = F.scaled_dot_product_attention(q1, k1, v, is_causal=causal)
    assert_close(out, torch_own, rtol=1e-12, atol=1e-12)


def test_equal_maps_leave_one_minus_lambda():
    q, k, _, _, v = inputs()
    plain = softmax_attention(q, k, v)
    for lam in (0.3, 1.0, 1.7, -0.5):
        assert_close(diff_attention(q, k, q, k, v, lam), (1 - lam) * plain, rtol=1e-12, atol=1e-12)


def test_swapping_the_maps_is_negative_lambda_rescaled():
    """a1 - λ a2 = -λ (a2 - a1/λ)."""
    q1, k1, q2, k2, v = inputs()
    one = diff_attention(q1, k1, q2, k2, v, 0.4)
    other = -0.4 * diff_attention(q2, k2, q1, k1, v, 1 / 0.4)
    assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.2, 0.8, 1.3, -0.7])
def test_rows_of_the_difference_sum_to_one_minus_lambda(lam, causal):
    difference = diff_attention_map(*inputs()[:4], lam, causal=causal)
    assert_close(difference.sum(-1), torch.full_like(difference[..., 0], 1 - lam))
    assert bool((difference < -1e-3).any()) == (lam > 0)  # softmax alone has no negative weight


def test_causal_maps_are_lower_triangular():
    difference = diff_attention_map(*inputs()[:4], 0.5)
    assert (difference.triu(1) == 0).all()
    assert (difference.tril() != 0).sum() == BATCH * HEADS * SEQ * (SEQ + 1) // 2
    assert_close(difference[..., 0, 0], torch.full((BATCH, HEADS), 0.5, dtype=torch.float64))


def test_output_is_independent_of_the_future():
    q1, k1, q2, k2, v = inputs()
    before = diff_attention(q1, k1, q2, k2, v, 0.6)
    for t in (0, 4, SEQ - 2):
        changed = [x.clone() for x in (k1, k2, v)]
        for x in changed:
            x[:, :, t + 1 :] = 100.0
        after = diff_attention(q1, changed[0], q2, changed[1], changed[2], 0.6)
        assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1])
        assert not torch.allclose(after[:, :, t + 1 :], before[:, :, t + 1 :])


@pytest.mark.parametrize("n", [1, 2, 7, SEQ - 1])
def test_fewer_queries_are_the_last_rows(n):
    q1, k1, q2, k2, v = inputs()
    last1, last2 = q1[:, :, -n:], q2[:, :, -n:]
    for function in (diff_attention, diff_attention_reference):
        whole = function(q1, k1, q2, k2, v, 0.3)
        assert_close(function(last1, k1, last2, k2, v, 0.3), whole[:, :, -n:],
                     rtol=1e-12, atol=1e-12)
    whole_map = diff_attention_map(q1, k1, q2, k2, 0.3)
    assert_close(diff_attention_map(last1, k1, last2, k2, 0.3), whole_map[:, :, -n:])


def test_more_queries_than_keys_without_a_mask():
    q1, k1, q2, k2, v = inputs(n=SEQ, m=5)
    out = diff_attention(q1, k1, q2, k2, v, 0.3, causal=False)
    assert_close(out, diff_attention_reference(q1, k1, q2, k2, v, 0.3, causal=False),
                 rtol=1e-12, atol=1e-12)


# --- λ_init ---------------------------------------------------------------------------------------

TABLE = {
    1: 0.2000, 2: 0.3555, 3: 0.4707, 4: 0.5561, 5: 0.6193, 6: 0.6661, 7: 0.7008, 8: 0.7265,
    9: 0.7456, 10: 0.7597, 11: 0.7701, 12: 0.7779, 13: 0.7836, 14: 0.7879, 15: 0.7910, 16: 0.7933,
    18: 0.7963, 20: 0.7980, 24: 0.7994, 28: 0.7998, 32: 0.7999, 40: 0.8000,
}


def test_lambda_init_is_the_schedule_counted_from_one():
    assert lambda_init(1) == 0.2  # exactly, as promised
    for layer, expected in TABLE.items():
        assert lambda_init(layer) == pytest.approx(expected, abs=5e-5)
        assert lambda_init(layer) == pytest.approx(0.8 - 0.6 * math.exp(-0.3 * (layer - 1)))
    assert all(lambda_init(layer) < lambda_init(layer + 1) < 0.8 for layer in range(1, 60))


# --- No map in memory -----------------------------------------------------------------------------

class Sizes(TorchDispatchMode):
    """Notes each operation and the largest tensor that any of them makes, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.operations = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.add(func.overloadpacket.__name__)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def forward_and_backward(function, d_v: int, seq: int, **options) -> Sizes:
    tensors = [draw(1, 2, seq, D, seed=s, dtype=torch.float32).requires_grad_() for s in range(4)]
    tensors.append(draw(1, 2, seq, d_v, seed=4, dtype=torch.float32).requires_grad_())
    with Sizes() as sizes:
        function(*tensors, torch.tensor(0.5, requires_grad=True), **options).sum().backward()
    return sizes


FLASH = "_scaled_dot_product_flash_attention_for_cpu"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_v", [D, 2 * D, 11, 5], ids=lambda d_v: f"d_v={d_v}")
def test_fast_path_never_builds_the_map(d_v, causal):
    seq = 1024
    sizes = forward_and_backward(padded_diff_attention, d_v, seq, causal=causal)
    assert {FLASH, FLASH + "_backward"} <= sizes.operations
    assert not any("softmax" in name for name in sizes.operations)
    assert sizes.largest <= 4 * seq * max(d_v, D)  # the joined heads of both maps, nothing larger
    # The same ruler sees the map where it is built.
    assert forward_and_backward(diff_attention_reference, d_v, seq).largest >= 2 * seq**2


@pytest.mark.parametrize("causal", [True, False])
def test_blockwise_keeps_a_few_rows_of_the_map(causal):
    """128 rows of two maps and two gradients: linear in the length, for any number of heads."""
    largest = [forward_and_backward(diff_attention, 2 * D, seq, causal=causal).largest
               for seq in (1024, 2048)]
    assert largest == [4 * 128 * 1024, 4 * 128 * 2048]
    tensors = [draw(2, 16, 1024, width, dtype=torch.float32) for width in (D, D, D, D, 2 * D)]
    with Sizes() as sizes:
        diff_attention(*tensors, 0.5, causal=causal)
    assert sizes.largest == max(2 * 128 * 1024, 2 * 2 * 16 * 1024 * D)
    assert FLASH not in sizes.operations


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_v", [2 * D, 5])
@pytest.mark.parametrize("seq, block", [(5, None), (64, 64), (70, 32), (130, None), (200, 1)])
@pytest.mark.parametrize("lam", ["scalar", "one per head", "one per position", "number"])
def test_blockwise_is_its_definition(lam, seq, block, d_v, causal, monkeypatch):
    monkeypatch.setattr(blockwise, "CACHE_NUMBERS", 2 * 70 * 32)  # several groups of heads
    tensors = [1.5 * draw(BATCH, HEADS, seq, w, seed=s) for s, w in enumerate((D, D, D, D, d_v))]
    tensors.append({
        "scalar": torch.tensor(0.37, dtype=torch.float64), "number": 0.37,
        "one per head": draw(HEADS, 1, 1), "one per position": draw(BATCH, 1, seq, 1)}[lam])
    cotangent = draw(BATCH, HEADS, seq, d_v, seed=7)
    fast, slow = (
        values_and_gradients(lambda *x, f=f, o=o: f(*x, causal=causal, **o), tensors, cotangent)
        for f, o in ((blockwise.blockwise_diff_attention, {"block": block}),
                     (diff_attention_reference, {}))
    )
    assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_each_path_runs_where_it_pays(monkeypatch):
    taken = []
    monkeypatch.setattr("diffbook.attention.blockwise_diff_attention",
                        lambda *x, **o: taken.append("blockwise"))
    monkeypatch.setattr("diffbook.attention.padded_diff_attention",
                        lambda *x, **o: taken.append("padded"))
    monkeypatch.setattr("diffbook.attention.diff_attention_reference",
                        lambda *x, **o: taken.append("definition"))

    def path(n=128, m=128, dtype=torch.float32):
        q, k = torch.zeros(1, 1, n, 4, dtype=dtype), torch.zeros(1, 1, m, 4, dtype=dtype)
        diff_attention(q, k, q, k, k, 0.5)
        return taken.pop()

    assert path() == path(dtype=torch.float64) == "blockwise"
    assert path(127, 127) == path(127, 128) == path(dtype=torch.bfloat16) == "padded"
    assert path(1, 500) == path(1, 1) == "definition"
    assert path(1, 500, torch.bfloat16) == path(2, 500) == "padded"
    with torch.autocast("cpu"):
        assert path() == path(1, 500) == "padded"


def test_wide_values_are_the_definition():
    """What a GPU may take: no padding. Also with a cache, and in its gradients."""
    tensors = [*inputs(2 * D), torch.tensor(0.37)]
    cotangent = draw(BATCH, HEADS, SEQ, 2 * D, seed=7)
    wide, right = (
        values_and_gradients(function, tensors, cotangent)
        for function in (attention.wide_diff_attention, diff_attention_reference)
    )
    assert_close(wide, right, rtol=1e-12, atol=1e-12)
    few = inputs(2 * D, n=3)
    assert_close(attention.wide_diff_attention(*few, 0.4), diff_attention_reference(*few, 0.4))


def test_padding_is_left_out_where_the_engine_stays_the_same(monkeypatch):
    """On a CPU wide values lose flash: pad. With one engine for all widths: do not."""
    here = torch.device("cpu")
    attention._engine.cache_clear()
    assert not attention._takes_wide_values(here, torch.float32, 16, 32)
    assert attention._takes_wide_values(here, torch.float32, 16, 16)
    attention._engine.cache_clear()
    with sdpa_kernel(SDPBackend.MATH):
        assert attention._takes_wide_values(here, torch.float32, 16, 32)
    attention._engine.cache_clear()

    # diff_attention asks on a GPU only. A tensor that says it is on one:
    class OnGPU(torch.Tensor):
        is_cuda = True
        device = torch.device("cuda")

    q, v = (torch.zeros(1, 1, 130, w).as_subclass(OnGPU) for w in (4, 8))
    taken: list[str] = []
    for name in ("wide", "padded"):
        monkeypatch.setattr(f"diffbook.attention.{name}_diff_attention",
                            lambda *x, name=name, **o: taken.append(name))
    for wide in (True, False):
        monkeypatch.setattr("diffbook.attention._takes_wide_values",
                            lambda device, dtype, d, d_v, wide=wide: (d, d_v) == (4, 8) and wide)
        diff_attention(q, q, q, q, v, 0.5)
        assert taken.pop() == ("wide" if wide else "padded")


def test_the_question_for_an_engine_does_not_break_a_compiled_graph():
    def ask(x: Tensor) -> Tensor:
        wide = attention._takes_wide_values(x.device, x.dtype, x.shape[-1], 2 * x.shape[-1])
        return x + 1 if wide else x - 1

    compiled = torch.compile(ask, backend="eager", fullgraph=True)
    assert_close(compiled(torch.zeros(2, 16)), -torch.ones(2, 16))


def test_blockwise_says_that_it_has_one_derivative():
    tensors = [draw(1, 1, 130, w).requires_grad_() for w in (D, D, D, D, 2 * D)]
    gradient, = torch.autograd.grad(
        diff_attention(*tensors, 0.5).square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    with error("block=0: give at least 1 query row"):
        blockwise.blockwise_diff_attention(*tensors, 0.5, block=0)


def test_wide_values_without_padding_would_build_the_map():
    """Why the fast path pads: torch leaves its O(seq) kernel silently when d_v != d."""

    def unpadded(q1, k1, q2, k2, v, lam):
        one = F.scaled_dot_product_attention(q1, k1, v, is_causal=True)
        return one - lam * F.scaled_dot_product_attention(q2, k2, v, is_causal=True)

    sizes = forward_and_backward(unpadded, 2 * D, 512)
    if FLASH in sizes.operations:
        pytest.skip("this torch has a kernel for unequal widths: the padding could go")
    assert sizes.largest >= 2 * 512**2


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux's /proc")
def test_peak_memory_at_4096_is_a_fraction_of_one_map():
    """A process of its own: forward and backward of a layer; one map of 4096² is 64 MiB."""
    script = """
import json, re, torch
from diffbook.attention import MultiheadDiffAttention
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) / 1024
torch.manual_seed(0)
layer = MultiheadDiffAttention(32, 2, 1)
def step(seq):
    layer(torch.randn(1, seq, 32, requires_grad=True)).sum().backward()
step(64)                            # loads what torch loads once
before = peak()
step(4096)
print(json.dumps(peak() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120,
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert json.loads(done.stdout) < 48.0  # MiB; four maps and their gradients would be 512


# --- A plain reading of eqs. (1) to (3), and the mistakes people make -----------------------------

def plain_layer(layer: MultiheadDiffAttention, x: Tensor, mistake: str | None = None) -> Tensor:
    """Multi-head differential attention from the weights of ``layer``, one head at a time, without
    any function of the package. ``mistake`` makes one of the known errors."""
    batch, seq, d_model = x.shape
    heads, kv_heads = layer.n_heads, layer.n_kv_heads
    d = d_model // (2 * heads)
    q, k, v = (x @ p.weight.T for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    index = layer.layer
    if mistake == "λ_init one layer on":
        index += 1
    if mistake == "λ_init with (l - 1) of a layer counted from 0":
        index -= 1
    init = 0.8 - 0.6 * math.exp(-0.3 * (index - 1))
    lam = (
        torch.exp(layer.lambda_q1 @ layer.lambda_k1)
        - torch.exp(layer.lambda_q2 @ layer.lambda_k2) + init
    )
    if mistake == "λ of the wrong sign":
        lam = -lam
    mask = torch.ones(seq, seq, dtype=torch.bool).tril()
    outs = []
    for head in range(heads):
        kv = head // (heads // kv_heads)
        q_map, k_map = [2 * head, 2 * head + 1], [2 * kv, 2 * kv + 1]
        if mistake == "halves paired instead of neighbors":
            q_map, k_map = [head, head + heads], [kv, kv + kv_heads]
        if mistake == "one key for both maps":
            k_map = [2 * kv, 2 * kv]
        scale = math.sqrt(2 * d if mistake == "scale of 2d" else d)
        logits = []
        for qm, km in zip(q_map, k_map, strict=True):
            score = q[..., qm * d : qm * d + d] @ k[..., km * d : km * d + d].transpose(1, 2)
            logits.append((score / scale).masked_fill(~mask, -torch.inf))
        if mistake == "softmax after the subtraction":
            difference = (logits[0] - lam * logits[1].masked_fill(~mask, 0.0)).softmax(-1)
        else:
            difference = logits[0].softmax(-1) - lam * logits[1].softmax(-1)
        outs.append(difference @ v[..., 2 * d * kv : 2 * d * (kv + 1)])
    out = torch.stack(outs, dim=2)  # (batch, seq, heads, 2d)
    over = (2, 3) if mistake == "norm over all heads" else (3,)
    if mistake != "no headwise norm":
        out = out / (out.square().mean(over, keepdim=True) + 1e-5).sqrt() * layer.head_norm.weight
    if mistake == "1 - λ instead of 1 - λ_init":
        out = out * (1 - lam)
    elif mistake != "missing 1 - λ_init":
        out = out * (1 - init)
    return out.flatten(2) @ layer.o_proj.weight.T


MISTAKES = [
    "softmax after the subtraction", "scale of 2d", "λ_init one layer on",
    "λ_init with (l - 1) of a layer counted from 0", "λ of the wrong sign",
    "halves paired instead of neighbors", "one key for both maps", "missing 1 - λ_init",
    "1 - λ instead of 1 - λ_init", "norm over all heads", "no headwise norm",
]


def make_layer(n_kv_heads: int | None = None, gain: bool = False, layer: int = 2):
    """A differential layer in float64 with λ vectors large enough to move λ well off λ_init."""
    torch.manual_seed(3)
    module = MultiheadDiffAttention(48, 4, layer, n_kv_heads=n_kv_heads).double()
    with torch.no_grad():
        for name in ("q_proj", "k_proj"):
            getattr(module, name).weight.mul_(3.0)  # maps far from even
        for index, name in enumerate(("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")):
            getattr(module, name).copy_(0.3 * draw(6, seed=20 + index))
        if gain:
            module.head_norm.weight.copy_(1 + 0.5 * draw(12, seed=30))
    return module.requires_grad_(False)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_layer_is_the_plain_reading(n_kv_heads):
    layer, x = make_layer(n_kv_heads, gain=True), draw(2, 9, 48)
    assert_close(layer(x), plain_layer(layer, x), rtol=1e-6, atol=1e-6)  # λ is float32


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_each_known_mistake_is_caught(mistake, n_kv_heads):
    """By the package and by transformers' implementation alike, 1000 times above the tolerance."""
    layer, x = make_layer(n_kv_heads), draw(2, 9, 48)
    wrong = plain_layer(layer, x, mistake)
    assert (wrong - layer(x)).abs().max() > 1e-2
    oracle = diffllama(layer, rope=None)
    assert (wrong - oracle(x)).abs().max() > 1e-2


def test_mistakes_of_equation_1_are_caught():
    q1, k1, q2, k2, v = inputs()
    right = diff_attention(q1, k1, q2, k2, v, 0.5)
    logits = [q @ k.transpose(-2, -1) / math.sqrt(D) for q, k in ((q1, k1), (q2, k2))]
    hidden = torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
    wrong = {
        "softmax after the subtraction":
            (logits[0] - 0.5 * logits[1]).masked_fill(hidden, -torch.inf).softmax(-1) @ v,
        "scale of 2d": diff_attention(q1 / 2**0.5, k1, q2 / 2**0.5, k2, v, 0.5),
        "no scale": diff_attention(q1 * D**0.5, k1, q2 * D**0.5, k2, v, 0.5),
        "no mask": diff_attention(q1, k1, q2, k2, v, 0.5, causal=False),
        "rows rescaled to 1": right / 0.5,
        "maps swapped": diff_attention(q2, k2, q1, k1, v, 0.5),
        "negative weights cut off": diff_attention_map(q1, k1, q2, k2, 0.5).relu() @ v,
    }
    for name, output in wrong.items():
        assert (output - right).abs().max() > 0.05, name


# --- Outside implementations ----------------------------------------------------------------------

def to_halves(weight: Tensor, n_maps: int, rope: bool) -> Tensor:
    """Rows of a projection from our order to DiffLlama's: maps (2i, 2i+1) -> (i, i + n/2), and,
    for what RoPE turns, channels (2j, 2j+1) -> (j, j + d/2)."""
    maps = weight.unflatten(0, (n_maps // 2, 2, -1)).transpose(0, 1)  # (2, n/2, d, d_model)
    if rope:
        maps = maps.unflatten(2, (-1, 2)).transpose(2, 3).flatten(2, 3)
    return maps.flatten(0, 2)


def diffllama(layer: MultiheadDiffAttention, rope: Rotary | None, kind: str = "eager"):
    """transformers' DiffLlamaAttention with the weights of ``layer``, as a function of x."""
    reason = "transformers (an independent implementation) is not installed"
    pytest.importorskip("transformers", reason=reason)
    from transformers.models.diffllama import modeling_diffllama as theirs
    from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig

    d_model, heads = layer.q_proj.in_features, layer.n_heads
    config = DiffLlamaConfig(
        hidden_size=d_model, num_attention_heads=2 * heads,
        num_key_value_heads=2 * layer.n_kv_heads, rms_norm_eps=1e-5, attn_implementation=kind,
    )
    module = theirs.DiffLlamaAttention(config, layer_idx=layer.layer - 1).double()
    with torch.no_grad():
        for name, rotated in (("q_proj", True), ("k_proj", True), ("v_proj", False)):
            weight = getattr(layer, name).weight
            permuted = to_halves(weight, len(weight) // layer.d, rotated and rope is not None)
            getattr(module, name).weight.copy_(permuted)
        module.o_proj.weight.copy_(layer.o_proj.weight)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            getattr(module, name).copy_(getattr(layer, name))

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        seq = x.shape[1]
        if rope is None:
            cos, sin = torch.ones(1, seq, layer.d).double(), torch.zeros(1, seq, layer.d).double()
        else:  # their own table
            cos, sin = theirs.DiffLlamaRotaryEmbedding(config)(x, torch.arange(seq)[None])
        mask = None
        if kind == "eager":
            mask = torch.full((seq, seq), -torch.inf, dtype=x.dtype).triu(1)[None, None]
        return module(x, (cos, sin), attention_mask=mask)[0]

    return forward


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("with_rope", [False, True], ids=["no rope", "rope"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_layer_is_transformers_diffllama(n_kv_heads, with_rope, kind):
    layer, x = make_layer(n_kv_heads), draw(2, 17, 48)
    rope = Rotary(layer.d, 32) if with_rope else None
    ours, theirs = layer(x, rope=rope), diffllama(layer, rope, kind)(x)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # they turn and normalize λ in float32
    if with_rope:
        assert (layer(x) - theirs).abs().max() > 1e-2  # RoPE does something here


def test_baseline_is_transformers_llama():
    reason = "transformers (an independent implementation) is not installed"
    pytest.importorskip("transformers", reason=reason)
    from transformers.models.llama import modeling_llama as theirs
    from transformers.models.llama.configuration_llama import LlamaConfig

    torch.manual_seed(4)
    layer = MultiheadAttention(48, 8, n_kv_heads=2).double().requires_grad_(False)
    config = LlamaConfig(hidden_size=48, num_attention_heads=8, num_key_value_heads=2,
                         attn_implementation="sdpa")
    module = theirs.LlamaAttention(config, layer_idx=0).double().requires_grad_(False)
    for name in ("q_proj", "k_proj"):  # here only RoPE's channels change places
        maps = getattr(layer, name).weight.unflatten(0, (-1, 3, 2))
        getattr(module, name).weight.copy_(maps.transpose(1, 2).flatten(0, 2))
    module.v_proj.weight.copy_(layer.v_proj.weight)
    module.o_proj.weight.copy_(layer.o_proj.weight)
    x = draw(2, 17, 48)
    cos_sin = theirs.LlamaRotaryEmbedding(config)(x, torch.arange(17)[None])
    expected = module(x, cos_sin, attention_mask=None)[0]
    assert_close(layer(x, rope=Rotary(6, 32)), expected, rtol=1e-5, atol=1e-5)


def test_baseline_is_torch_multihead_attention():
    torch.manual_seed(5)
    layer = MultiheadAttention(48, 6).double().requires_grad_(False)
    module = torch.nn.MultiheadAttention(48, 6, bias=False, batch_first=True, dtype=torch.float64)
    weights = [getattr(layer, name).weight for name in ("q_proj", "k_proj", "v_proj")]
    module.requires_grad_(False).in_proj_weight.copy_(torch.cat(weights))
    module.out_proj.weight.copy_(layer.o_proj.weight)
    x, hidden = draw(2, 11, 48), torch.ones(11, 11, dtype=torch.bool).triu(1)
    expected, maps = module(x, x, x, attn_mask=hidden, average_attn_weights=False)
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert_close(layer.maps(x), maps, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def timm_module():
    """timm.layers.diff_attention alone: timm's own __init__ would import torchvision, so empty
    parent modules stand in for it and are taken away again."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm (an independent implementation) is not installed")
    saved = {name: sys.modules.pop(name) for name in list(sys.modules)
             if name.partition(".")[0] == "timm"}
    root = Path(spec.origin).parent
    for name, folder in (("timm", root), ("timm.layers", root / "layers")):
        parent = ModuleType(name)
        parent.__path__ = [str(folder)]
        sys.modules[name] = parent
    yield importlib.import_module("timm.layers.diff_attention")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]
    sys.modules.update(saved)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("causal", [True, False])
def test_layer_is_timm_diff_attention(timm_module, causal, fused):
    layer, x = make_layer(gain=True), draw(2, 17, 48)  # timm's norm has a gain, DiffLlama's none
    module = timm_module.DiffAttention(48, layer.n_heads, proj_bias=False, depth=layer.layer - 1)
    module = module.double().requires_grad_(False)
    module.fused_attn = fused
    weights = [getattr(layer, name).weight for name in ("q_proj", "k_proj", "v_proj")]
    module.qkv.weight.copy_(torch.cat(weights))
    module.proj.weight.copy_(layer.o_proj.weight)
    module.sub_norm.weight.copy_(layer.head_norm.weight)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        getattr(module, name).copy_(getattr(layer, name))
    expected = module(x, is_causal=causal)
    assert_close(layer(x, causal=causal), expected, rtol=1e-5, atol=1e-5)
    assert (plain_layer(layer, x, "missing 1 - λ_init") - expected).abs().max() > 1e-2


# --- The layers -----------------------------------------------------------------------------------

def test_maps_multiply_the_values_to_the_output():
    layer, x = make_layer(2, gain=True), draw(2, 9, 48)
    rope = Rotary(layer.d, 16)
    maps = layer.maps(x, rope=rope)
    assert maps.a1.shape == maps.a2.shape == maps.difference.shape == (2, 4, 9, 9)
    for a in (maps.a1, maps.a2):
        assert_close(a.sum(-1), torch.ones(2, 4, 9, dtype=torch.float64))
    one_minus_lam = float(1 - layer.lam())
    assert_close(maps.difference.sum(-1), torch.full((2, 4, 9), one_minus_lam).double())
    v = (x @ layer.v_proj.weight.T).view(2, 9, 2, 12).transpose(1, 2).repeat_interleave(2, dim=1)
    heads = layer.head_norm(maps.difference @ v) * (1 - lambda_init(2))
    out = heads.transpose(1, 2).reshape(2, 9, 48) @ layer.o_proj.weight.T
    assert_close(layer(x, rope=rope), out, rtol=1e-6, atol=1e-6)


def test_gqa_query_heads_share_their_own_pair_of_keys():
    """Changing key/value head 1 moves the query heads 2 and 3 and no others."""
    layer, x = make_layer(2), draw(1, 9, 48)
    before = layer.maps(x)
    layer.k_proj.weight[2 * layer.d : 3 * layer.d] *= 2.0  # K1 of key/value head 1
    after = layer.maps(x)
    moved1 = [not torch.allclose(before.a1[:, h], after.a1[:, h]) for h in range(4)]
    moved2 = [not torch.allclose(before.a2[:, h], after.a2[:, h]) for h in range(4)]
    assert moved1 == [False, False, True, True]
    assert moved2 == [False] * 4


def test_gqa_is_a_layer_with_repeated_keys_and_values():
    grouped, x = make_layer(2), draw(2, 9, 48)
    full = make_layer(4)
    full.load_state_dict({
        **grouped.state_dict(),
        "k_proj.weight": grouped.k_proj.weight.unflatten(0, (2, 12)).repeat_interleave(2, 0)
        .flatten(0, 1),
        "v_proj.weight": grouped.v_proj.weight.unflatten(0, (2, 12)).repeat_interleave(2, 0)
        .flatten(0, 1),
    })
    assert_close(grouped(x), full(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [
    lambda: MultiheadAttention(48, 8).double(),
    lambda: MultiheadAttention(48, 8, n_kv_heads=4, headwise_norm=True).double(),
    make_layer, lambda: make_layer(2),
], ids=["softmax", "softmax gqa norm", "diff", "diff gqa"])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 3, 1], [9]], ids=str)
def test_cache_gives_the_same_as_the_whole_sequence(build, chunks):
    torch.manual_seed(6)
    layer, x, rope = build(), draw(2, 9, 48), Rotary(6, 16)
    whole, cache, parts = layer(x, rope=rope), KVCache(), []
    for part in x.split(chunks, dim=1):
        parts.append(layer(part, rope=rope, cache=cache))
    assert cache.length == 9
    assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)


def test_layer_output_is_independent_of_the_future():
    layer, x = make_layer(), draw(2, 9, 48)
    changed = x.clone()
    changed[:, 5:] = 50.0
    before, after = (layer(y, rope=Rotary(6, 16)) for y in (x, changed))
    assert_close(after[:, :5], before[:, :5], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[:, 5:], before[:, 5:])


def test_lambda_is_equation_2_and_float32_in_a_bfloat16_model():
    layer = MultiheadDiffAttention(32, 2, layer=3)
    vectors = [getattr(layer, f"lambda_{name}").detach() for name in ("q1", "k1", "q2", "k2")]
    q1, k1, q2, k2 = (v.double() for v in vectors)
    expected = math.exp(q1 @ k1) - math.exp(q2 @ k2) + lambda_init(3)
    assert float(layer.lam().detach()) == pytest.approx(expected, rel=1e-6)
    half = layer.to(torch.bfloat16)
    assert half.lam().dtype == torch.float32
    assert half.lam().shape == ()
    # A step that bf16 exponentials would swallow: exp(x) near 1 moves by 2^-7 or 2^-8 at least.
    with torch.no_grad():
        for vector, value in (("q1", 0.5), ("k1", 0.0), ("q2", 0.5), ("k2", 0.0)):
            getattr(half, f"lambda_{vector}").fill_(value)
        start = float(half.lam().detach())
        half.lambda_k1[0] = 0.001
    assert 0.0004 < float(half.lam().detach()) - start < 0.0006
    x = draw(2, 5, 32, dtype=torch.bfloat16)
    assert half(x).dtype == torch.bfloat16
    assert half.maps(x).lam.dtype == torch.float32


def test_bfloat16_layer_is_near_the_float64_layer():
    layer, x = make_layer(2, gain=True), draw(2, 9, 48)
    half = make_layer(2, gain=True).bfloat16()
    layer.load_state_dict(half.state_dict())  # the rounded weights are common ground
    exact = layer(x.bfloat16().double())
    error = half(x.bfloat16()).double() - exact
    assert error.abs().max() < 0.05 * exact.abs().max()


def test_lambda_gets_a_gradient_unless_frozen():
    x = draw(2, 5, 32, dtype=torch.float32)
    for learn in (True, False):
        torch.manual_seed(7)
        layer = MultiheadDiffAttention(32, 2, layer=1, learn_lambda=learn)
        layer(x).square().sum().backward()
        for name in ("q1", "k1", "q2", "k2"):
            gradient = getattr(layer, f"lambda_{name}").grad
            assert (gradient is not None and bool(gradient.abs().max() > 0)) == learn
    by_q1 = torch.autograd.functional.jacobian(
        lambda q1: torch.exp(q1 @ layer.lambda_k1), layer.lambda_q1.detach())
    assert_close(by_q1, layer.lambda_k1 * torch.exp(layer.lambda_q1 @ layer.lambda_k1))


def test_norm_gives_every_head_the_same_size():
    """Each head leaves with RMS 1 - λ_init (eq. 3), however large its values are."""
    layer, x = make_layer(), draw(2, 9, 48)
    layer.v_proj.weight[:12] *= 100.0  # head 0 shouts
    layer.o_proj.weight.copy_(torch.eye(48))
    rms = layer(x).unflatten(-1, (4, 12)).square().mean(-1).sqrt()  # (batch, seq, heads)
    assert_close(rms, torch.full_like(rms, 1 - lambda_init(2)), rtol=1e-3, atol=0)
    bare = MultiheadDiffAttention(48, 4, 2, headwise_norm=False, output_scale=False).double()
    bare.load_state_dict({k: v for k, v in layer.state_dict().items() if "head_norm" not in k})
    rms = bare(x).unflatten(-1, (4, 12)).square().mean(-1).sqrt()
    assert (rms[..., 0] > 10 * rms[..., 1:].amax(-1)).all()


def test_options_of_the_ablations():
    x = draw(2, 5, 48)
    scaled, free = make_layer(), MultiheadDiffAttention(48, 4, 2, output_scale=False).double()
    free.load_state_dict(scaled.state_dict())
    assert_close(scaled(x), free(x) * (1 - lambda_init(2)), rtol=1e-12, atol=1e-12)
    constant = MultiheadDiffAttention(48, 4, 2, lambda_init=0.5)
    assert constant.lambda_init == 0.5 and constant.output_scale == 0.5
    plain = MultiheadDiffAttention(48, 4, 2, lambda_init=0.0, headwise_norm=False).double()
    with torch.no_grad():
        plain.load_state_dict(
            {k: v for k, v in scaled.state_dict().items() if "head_norm" not in k})
        plain.lambda_q2.zero_()
        plain.lambda_q1.zero_()  # exp(0) - exp(0) + 0 = 0: map 1 alone
        assert float(plain.lam()) == 0.0
        maps = plain.maps(x)
        assert torch.equal(maps.difference, maps.a1)


def test_baseline_and_differential_layer_have_the_same_matrices():
    """h differential heads against 2h: equal shapes, 6d numbers more (eqs. 2 and 3)."""
    base, diff = MultiheadAttention(48, 8), MultiheadDiffAttention(48, 4, 1)
    shapes = {name: p.shape for name, p in base.named_parameters()}
    more = {name: p.shape for name, p in diff.named_parameters()}
    assert shapes == {name: more.pop(name) for name in shapes}
    assert sum(s.numel() for s in more.values()) == 6 * 6
    assert not any(p.ndim == 1 for p in base.parameters())


def test_headwise_norm_control_of_the_baseline():
    torch.manual_seed(8)
    layer = MultiheadAttention(48, 8, headwise_norm=True).double().requires_grad_(False)
    layer.o_proj.weight.copy_(torch.eye(48))
    rms = layer(draw(2, 9, 48)).unflatten(-1, (8, 6)).square().mean(-1).sqrt()
    assert_close(rms, torch.ones_like(rms), rtol=1e-2, atol=0)


@pytest.mark.parametrize("layer, operation, bound", [
    (MultiheadAttention(32, 4, n_kv_heads=2), FLASH, 1024 * 64),
    # Four pieces of 128 rows, whatever the number of heads.
    (MultiheadDiffAttention(32, 2, 1, n_kv_heads=1), "softmax", 4 * 128 * 1024),
    (MultiheadDiffAttention(32, 2, 1).bfloat16(), FLASH, 4 * 1024 * 64),
], ids=["softmax", "diff", "diff in bfloat16"])
def test_layers_never_build_the_map(layer, operation, bound):
    x = draw(1, 1024, 32, dtype=layer.q_proj.weight.dtype).requires_grad_()
    with Sizes() as sizes:
        layer(x, rope=Rotary(8, 1024)).sum().backward()
    assert operation in sizes.operations
    assert sizes.largest <= bound

# --- Rotary positions -----------------------------------------------------------------------------

def test_rotary_products_depend_on_the_distance_only():
    rope = Rotary(8, 64)
    q, k = draw(1, 1, 1, 8, seed=1), draw(1, 1, 1, 8, seed=2)
    products = [float((rope(q, start + 5) * rope(k, start)).sum()) for start in (0, 7, 50)]
    assert products == pytest.approx([products[0]] * 3, rel=1e-5)
    assert abs(float((rope(q, 9) * rope(k, 0)).sum()) - products[0]) > 1e-3
    assert torch.equal(rope(q, 0), q)


def test_rotary_turns_neighbors_by_its_angles():
    """As complex numbers: channel pair j times exp(i p base^(-2j/d))."""
    x = draw(2, 3, 6, 8)
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    angle = torch.outer(torch.arange(4, 10).double(), 100.0 ** (-torch.arange(4) / 4).double())
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    assert_close(Rotary(8, 16, base=100.0)(x, start=4), expected, rtol=1e-6, atol=1e-6)


# --- Errors ---------------------------------------------------------------------------------------

def error(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def test_errors_of_the_functions():
    q1, k1, q2, k2, v = inputs()
    with error("layers count from 1, as in the paper; got layer=0"):
        lambda_init(0)
    with error("queries and keys are (batch, heads, seq, d): got q (3, 13, 8) and k (3, 13, 8)"):
        softmax_attention_map(q1[0], k1[0])
    with error("q (2, 3, 13, 8) and k (2, 3, 13, 5) must agree in batch, heads and width"):
        softmax_attention(q1, k1[..., :5], v)
    with error("q (2, 3, 13, 8) and k (2, 2, 13, 8) must agree in batch, heads and width"):
        softmax_attention(q1, k1[:, :2], v)
    with error("causal attention of 13 queries over 4 keys: the first queries would see nothing"):
        softmax_attention(q1, k1[:, :, :4], v[:, :, :4])
    with error("keys' first three sizes (2, 3, 13): got (2, 3, 12, 16)"):
        softmax_attention(q1, k1, v[:, :, :12])
    for function in (diff_attention, diff_attention_reference):
        with error("one shape: q1 (2, 3, 13, 8), q2 (2, 3, 13, 5), k1 (2, 3, 13, 8)"):
            function(q1, k1, q2[..., :5], k2, v, 0.5)
        with error("one shape: q1 (2, 3, 13, 8), q2 (1, 3, 13, 8), k1 (2, 3, 13, 8)"):
            function(q1, k1, q2[:1], k2[:1], v, 0.5)  # would broadcast without a word
        with error("got q (8,) and k (8,)"):
            function(*(x[0, 0, 0] for x in (q1, k1, q2, k2)), v, 0.5)
        with error("lam (3,) does not broadcast to (batch, heads, seq, 1) = (2, 3, 13, 1)"):
            function(q1, k1, q2, k2, v, torch.ones(3))
        with error("or one for each head as (heads, 1, 1)"):
            function(q1, k1, q2, k2, v, torch.ones(16))  # would scale channels without a word
    # The caller's sizes, not those of the joined maps.
    with error("keys' first three sizes (2, 3, 13): got (2, 2, 13, 16)"):
        diff_attention(q1, k1, q2, k2, v[:, :2], 0.5)


def test_errors_of_the_layers():
    with error("d_model=48 does not divide into n_heads=5 heads: choose n_heads so that 1 * n"):
        MultiheadAttention(48, 5)
    with error("d_model=40 does not divide into n_heads=8 differential heads, two maps each: "
               "choose n_heads so that 2 * n_heads divides d_model"):
        MultiheadDiffAttention(40, 8, 1)
    with error("n_heads=0 heads"):
        MultiheadAttention(48, 0)
    for kv_heads in (3, 0):
        with error(f"n_kv_heads={kv_heads} does not divide n_heads=4: each key/value head serves"):
            MultiheadDiffAttention(48, 4, 1, n_kv_heads=kv_heads)
        with error(f"n_kv_heads={kv_heads} does not divide n_heads=4"):
            MultiheadAttention(48, 4, n_kv_heads=kv_heads)
    with error("layers count from 1, as in the paper; got layer=0"):
        MultiheadDiffAttention(48, 4, 0)
    for layer in (MultiheadAttention(48, 8), MultiheadDiffAttention(48, 4, 1)):
        with error("x is (batch, seq, d_model=48): got (9, 48)"):
            layer(torch.zeros(9, 48))
        with error("x is (batch, seq, d_model=48): got (2, 9, 32)"):
            layer.maps(torch.zeros(2, 9, 32))
        with error("the sequence reaches position 9, the model knows 8"):
            layer(torch.zeros(2, 9, 48), rope=Rotary(6, 8))
    with error("RoPE turns pairs of channels: the head width must be even, got 7"):
        Rotary(7, 16)
