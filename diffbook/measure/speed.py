"""How fast each way to compute differential attention is, on this machine (chapter 6).

Eight ways to write eq. (1), all with the same result, against the attention of a Transformer with
the same parameters: h differential heads (maps of width d, values of width 2d) against 2h heads of
width d. Measured is the attention core alone, without projections. ``python -m diffbook bench``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffbook.attention import diff_attention_reference, padded_diff_attention
from diffbook.blockwise import blockwise_diff_attention

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, "float | Tensor"], Tensor]

BASELINE = "Transformer (SDPA)"


def two_calls(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor
) -> Tensor:
    """A1 V - λ A2 V with values wider than the keys: two calls, as they are."""
    o1 = F.scaled_dot_product_attention(q1, k1, v, is_causal=True)
    o2 = F.scaled_dot_product_attention(q2, k2, v, is_causal=True)
    return o1 - lam * o2


def two_padded_calls(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor
) -> Tensor:
    """The same with zeros behind q and k, so that all widths are equal."""
    d, d_v = q1.shape[-1], v.shape[-1]
    q1, k1, q2, k2 = (F.pad(x, (0, d_v - d)) for x in (q1, k1, q2, k2))
    scale = 1 / math.sqrt(d)
    o1 = F.scaled_dot_product_attention(q1, k1, v, is_causal=True, scale=scale)
    o2 = F.scaled_dot_product_attention(q2, k2, v, is_causal=True, scale=scale)
    return o1 - lam * o2


def four_narrow_calls(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor
) -> Tensor:
    """Each map meets each half of V: the official code's ``multihead_flashdiff_2``."""
    halves = v.chunk(2, dim=-1)
    o1, o2 = (
        torch.cat([F.scaled_dot_product_attention(q, k, half, is_causal=True)
                   for half in halves], dim=-1)
        for q, k in ((q1, k1), (q2, k2))
    )
    return o1 - lam * o2


def two_narrow_calls(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor
) -> Tensor:
    """Both maps as heads of one call, once for each half of V: as DiffLlama arranges it."""
    q, k = torch.cat((q1, q2), dim=1), torch.cat((k1, k2), dim=1)  # (batch, 2 heads, seq, d)
    both = torch.cat([
        F.scaled_dot_product_attention(q, k, torch.cat((half, half), dim=1), is_causal=True)
        for half in v.chunk(2, dim=-1)
    ], dim=-1)  # (batch, 2 heads, seq, 2d)
    o1, o2 = both.chunk(2, dim=1)
    return o1 - lam * o2


def shared_values(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, lam: float | Tensor
) -> Tensor:
    """One call in which neighboring maps share a value head, by ``enable_gqa``: V is not copied."""
    q = torch.stack((q1, q2), dim=2).flatten(1, 2)  # (batch, 2 heads, seq, d), maps 2i, 2i + 1
    k = torch.stack((k1, k2), dim=2).flatten(1, 2)
    both = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return both[:, 0::2] - lam * both[:, 1::2]


# All causal; q1, k1, q2, k2 (batch, heads, seq, d), v (batch, heads, seq, 2d).
FORMS: dict[str, Form] = {
    "build the maps": diff_attention_reference,
    "two calls": two_calls,
    "two padded calls": two_padded_calls,
    "one padded call": padded_diff_attention,
    "four narrow calls": four_narrow_calls,
    "two narrow calls": two_narrow_calls,
    "shared values (GQA)": shared_values,
    "blockwise": blockwise_diff_attention,
}


@dataclass(frozen=True)
class Row:
    """One way at one length. Times are the fastest of all repetitions.

    Attributes:
        form: a key of :data:`FORMS`, or :data:`BASELINE`.
        seq: positions. kernel: what attention ran, see :func:`sdpa_kernels`.
        forward, training: seconds of a forward pass, and of forward and backward together.
        forward_ratio, training_ratio: the same over the baseline's, in the same run.
        memory: bytes at the peak of forward and backward, above the inputs; see :func:`peak_bytes`.
    """

    form: str
    seq: int
    kernel: str
    forward: float
    training: float
    forward_ratio: float
    training_ratio: float
    memory: int


def draw_inputs(
    seq: int, *, batch: int = 1, heads: int = 4, d: int = 32, device: str = "cpu",
    dtype: torch.dtype = torch.float32, seed: int = 0,
) -> list[Tensor]:
    """q1, k1, q2, k2 (batch, heads, seq, d) and v (batch, heads, seq, 2d), normal numbers that ask
    for gradients; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, seq, width, generator=generator)
        .to(device, dtype).requires_grad_()
        for width in (d, d, d, d, 2 * d)
    ]


# What torch's operations are called, and what people call them.
KERNELS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_flash_attention_for_cpu": "flash",
    "_scaled_dot_product_efficient_attention": "mem-efficient",
    "_scaled_dot_product_cudnn_attention": "cuDNN",
    "_scaled_dot_product_fused_attention_overrideable": "fused",
    "_scaled_dot_product_attention_math_for_mps": "math",
}


class _Calls(TorchFunctionMode):
    """Counts calls of ``scaled_dot_product_attention``, the function that Python sees."""

    number = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):
    """Notes the operations that it becomes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if name := KERNELS.get(func.overloadpacket.__name__):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def sdpa_kernels(run: Callable[[], object]) -> str:
    """Which kernels of ``scaled_dot_product_attention`` the forward pass ``run()`` takes: "flash",
    "math", ...; "none" when it is not called. The function itself does not say.

    A fused kernel is one operation with a name of its own. A call without such an operation was
    written out as products and a softmax: the "math" path, which builds the map.
    """
    with _Calls() as calls, _Kernels() as kernels:
        run()
    names = set(kernels.found) | ({"math"} if calls.number > len(kernels.found) else set())
    return ", ".join(sorted(names)) or "none"


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still in use."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def skip(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self.known[tensor.untyped_storage()] = 0

    def _release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                size = storage.nbytes()
                self.known[storage] = size
                finalize(storage, self._release, size)
                self.now += size
                self.peak = max(self.peak, self.now)
        return out


def peak_bytes(run: Callable[[], object], inputs: Sequence[Tensor] = ()) -> int:
    """Bytes of the tensors alive at the worst moment of ``run()``, ``inputs`` not counted.

    What a kernel needs inside itself does not show (a few hundred KB for flash on a CPU).
    """
    with _Alive() as alive:
        alive.skip(inputs)
        run()
    return alive.peak


@contextmanager
def _threads(number: int | None) -> Any:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench(
    seqs: Sequence[int] = (256, 1024), *, batch: int = 1, heads: int = 4, d: int = 32,
    forms: Sequence[str] | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32,
    threads: int | None = None, repeats: int = 5, max_gib: float = 4.0,
) -> list[Row]:
    """Time the forms against the baseline, causal, in one run.

    The forms take turns, ``repeats`` times, and the fastest turn counts: another program that
    takes the processor for a while then disturbs all of them alike, or none.

    Args:
        seqs: lengths. batch, heads, d: h differential heads, maps of width d; the baseline has 2h.
        forms: keys of :data:`FORMS`; default all.
        threads: of the CPU; default as torch has it.
        max_gib: forms that build a map are left out where their maps would need more.

    Returns:
        For each length the baseline's row, then one for each form that ran.

    Raises:
        ValueError: for an unknown form or a size below 1.
    """
    names = list(FORMS) if forms is None else list(forms)
    if unknown := [name for name in names if name not in FORMS]:
        raise ValueError(f"no form {unknown[0]!r}: there are {', '.join(FORMS)}")
    sizes = {"batch": batch, "heads": heads, "d": d, "repeats": repeats}
    sizes |= {"threads": 1 if threads is None else threads}
    for name, size in [*sizes.items(), *(("seq", seq) for seq in seqs)]:
        if size < 1:
            raise ValueError(f"{name}={size}: give a whole number of at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': torch sees no CUDA device here; leave it out for the CPU")
    rows = []
    with _threads(threads):
        for seq in seqs:
            rows += _bench_one(seq, batch, heads, d, names, device, dtype, repeats, max_gib)
    return rows


def _bench_one(
    seq: int, batch: int, heads: int, d: int, names: list[str], device: str, dtype: torch.dtype,
    repeats: int, max_gib: float,
) -> list[Row]:
    make = {"batch": batch, "d": d, "device": device, "dtype": dtype}
    inputs = draw_inputs(seq, heads=heads, **make)  # type: ignore[arg-type]
    q, k, _, _, v = draw_inputs(seq, heads=2 * heads, **make)  # type: ignore[arg-type]
    v = v[..., :d].detach().clone().requires_grad_()
    lam = torch.tensor(0.5, device=device, requires_grad=True)
    # At the peak of a training step about eight maps of all heads are alive: two of scores and
    # two of weights, and as many gradients.
    maps_gib = 8 * batch * heads * seq**2 * q.element_size() / 2**30
    runs: dict[str, Callable[[], Tensor]] = {
        BASELINE: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    }
    runs |= {name: lambda f=FORMS[name]: f(*inputs, lam) for name in names}  # type: ignore[misc]
    leaves = [q, k, v, *inputs, lam]
    kernels, memory = {}, {}
    small = [x[:, :, :16].detach() for x in inputs]
    for name, run in list(runs.items()):
        # Which kernel runs depends on widths and types, not on the length.
        kernel = sdpa_kernels(
            run if name == BASELINE else lambda f=FORMS[name]: f(*small, lam))  # type: ignore[misc]
        if maps_gib > max_gib and (name == "build the maps" or "math" in kernel):
            del runs[name]
            continue
        kernels[name] = kernel
        memory[name] = _memory(run, leaves, device)
    fastest = {name: [math.inf, math.inf] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            fastest[name] = [min(p) for p in zip(fastest[name], _time(run, leaves), strict=True)]
    base = fastest[BASELINE]
    return [
        Row(name, seq, kernels[name], forward, training, forward / base[0], training / base[1],
            memory[name])
        for name, (forward, training) in fastest.items()
    ]


def _memory(run: Callable[[], Tensor], leaves: list[Tensor], device: str) -> int:
    def step() -> None:
        run().sum().backward()
        for leaf in leaves:
            leaf.grad = None

    if device == "cuda":
        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    return peak_bytes(step, leaves)


def _time(run: Callable[[], Tensor], leaves: list[Tensor]) -> tuple[float, float]:
    """Seconds of forward, and of forward and backward. One CPU thread is timed by the seconds the
    processor gave to it, so that other programs do not count; all else by the clock."""
    alone = leaves[0].device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    wait = torch.cuda.synchronize if leaves[0].is_cuda else (lambda: None)
    for leaf in leaves:
        leaf.grad = None
    with torch.no_grad():
        wait()
        start = clock()
        run()
        wait()
        forward = clock() - start
    start = clock()
    run().sum().backward()
    wait()
    return forward, clock() - start


def table(rows: Sequence[Row]) -> str:
    """The rows as text, for a terminal or a notebook."""
    head = f"{'':20}{'forward':>10}{'ratio':>7}{'fwd+bwd':>11}{'ratio':>7}{'memory':>11}  kernel"
    lines = []
    for seq in dict.fromkeys(row.seq for row in rows):
        lines += [f"seq {seq}", head]
        lines += [
            f"{row.form:20}{row.forward * 1e3:7.2f} ms{row.forward_ratio:7.2f}"
            f"{row.training * 1e3:8.2f} ms{row.training_ratio:7.2f}{row.memory / 2**20:7.1f} MiB"
            f"  {row.kernel}"
            for row in rows if row.seq == seq
        ]
    return "\n".join(lines)
