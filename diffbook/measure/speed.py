"""How fast each way to compute differential attention is, on this machine (chapter 6).

Eight ways to write eq. (1), all with the same result, against the attention of a Transformer with
the same parameters: h differential heads (maps of width d, values of width 2d) against 2h heads of
width d. :func:`bench` measures the attention core alone, without projections
(``python -m diffbook bench``), :func:`bench_layer` a whole attention layer, and :func:`bench_step`
a whole training step of the matched pair. ``record speed`` keeps all three.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffbook.attention import (
    MultiheadAttention,
    MultiheadDiffAttention,
    diff_attention_reference,
    padded_diff_attention,
)
from diffbook.blockwise import blockwise_diff_attention
from diffbook.measure.flops import forward_flops, peak_flops
from diffbook.model import LanguageModel, ModelConfig, pair
from diffbook.rope import Rotary

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
    forms: Sequence[str] | Mapping[str, Form] | None = None, device: str = "cpu",
    dtype: torch.dtype = torch.float32, threads: int | None = None, repeats: int = 5,
    max_gib: float = 4.0,
) -> list[Row]:
    """Time the forms against the baseline, causal, in one run.

    The forms take turns, ``repeats`` times, and the fastest turn counts: another program that
    takes the processor for a while then disturbs all of them alike, or none.

    Args:
        seqs: lengths. batch, heads, d: h differential heads, maps of width d; the baseline has 2h.
        forms: keys of :data:`FORMS`, or functions of that kind by name; default all of FORMS.
        threads: of the CPU; default as torch has it.
        max_gib: forms that build a map are left out where their maps would need more. On a GPU
            a form that does not fit into its memory is left out, too.

    Returns:
        For each length the baseline's row, then one for each form that ran.

    Raises:
        ValueError: for an unknown form or a size below 1.
    """
    names = list(FORMS) if forms is None else list(forms)
    known = forms if isinstance(forms, Mapping) else FORMS
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no form {unknown[0]!r}: there are {', '.join(FORMS)}")
    sizes = {"batch": batch, "heads": heads, "d": d, "repeats": repeats}
    _check_sizes(seqs, device, threads=1 if threads is None else threads, **sizes)
    rows = []
    with _threads(threads):
        for seq in seqs:
            rows += _bench_one(
                seq, batch, heads, d, {name: known[name] for name in names}, device, dtype,
                repeats, max_gib,
            )
    return rows


def _check_sizes(seqs: Sequence[int], device: str, **sizes: int) -> None:
    for name, size in [*sizes.items(), *(("seq", seq) for seq in seqs)]:
        if size < 1:
            raise ValueError(f"{name}={size}: give a whole number of at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': torch sees no CUDA device here; leave it out for the CPU")


def _bench_one(
    seq: int, batch: int, heads: int, d: int, forms: Mapping[str, Form], device: str,
    dtype: torch.dtype, repeats: int, max_gib: float,
) -> list[Row]:
    make = {"batch": batch, "d": d, "device": device, "dtype": dtype}
    inputs = draw_inputs(seq, heads=heads, **make)  # type: ignore[arg-type]
    q, k, _, _, v = draw_inputs(seq, heads=2 * heads, **make)  # type: ignore[arg-type]
    v = v[..., :d].detach().clone().requires_grad_()
    lam = torch.tensor(0.5, device=device, requires_grad=True)
    # At the peak of a training step about eight maps of all heads are alive: two of scores and
    # two of weights, and as many gradients.
    maps_gib = 8 * batch * heads * seq**2 * q.element_size() / 2**30
    small = [x[:, :, :128].detach() for x in inputs]
    runs: dict[str, Callable[[], Tensor]] = {
        BASELINE: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    }
    kernels = {BASELINE: sdpa_kernels(runs[BASELINE])}
    for name, form in forms.items():
        # Which kernel runs depends on widths and types, not on the length.
        kernels[name] = sdpa_kernels(lambda f=form: f(*small, lam))  # type: ignore[misc]
        maps = name == "build the maps" or "math" in kernels[name]
        if maps_gib <= max_gib or not maps:
            runs[name] = lambda f=form: f(*inputs, lam)  # type: ignore[misc]
    return _rows(seq, runs, kernels, [q, k, v, *inputs, lam], repeats)


def _rows(
    seq: int, runs: Mapping[str, Callable[[], Tensor]], kernels: Mapping[str, str],
    leaves: Sequence[Tensor], repeats: int,
) -> list[Row]:
    """Let all ``runs`` take turns; the baseline's is the first."""
    memory, weights = {}, {}
    for name, run in runs.items():
        try:
            with torch.no_grad():
                weights[name] = torch.ones_like(run())
            memory[name] = _memory(run, weights[name], leaves)
        except torch.cuda.OutOfMemoryError:
            weights.pop(name, None)
            torch.cuda.empty_cache()
    fastest = {name: [math.inf, math.inf] for name in memory}
    base = fastest[BASELINE]
    inner = 1
    for turn in range(repeats):
        for name in memory:
            now = _time(runs[name], weights[name], leaves, inner)
            fastest[name][:] = map(min, fastest[name], now)
        if turn == 0 and leaves[0].is_cuda:
            # A kernel of microseconds: enough of them that the clock and the start do not count.
            inner = max(1, min(50, round(0.02 / base[1])))
    return [
        Row(name, seq, kernels[name], forward, training, forward / base[0], training / base[1],
            memory[name])
        for name, (forward, training) in fastest.items()
    ]


def _memory(run: Callable[[], Tensor], weight: Tensor, leaves: Sequence[Tensor]) -> int:
    def step() -> None:
        run().backward(weight)
        for leaf in leaves:
            leaf.grad = None

    if weight.is_cuda:
        step()
        return _cuda_peak(step)
    return peak_bytes(step, [*leaves, weight])


def _cuda_peak(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def _clock(device: torch.device) -> Callable[[], float]:
    """One CPU thread is timed by the seconds the processor gave to it, so that other programs do
    not count; all else by the clock, after a GPU has finished."""
    if device.type == "cuda":
        def finished() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return finished
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _time(
    run: Callable[[], Tensor], weight: Tensor, leaves: Sequence[Tensor], inner: int = 1
) -> tuple[float, float]:
    """Seconds of forward, and of forward and backward: means of ``inner`` passes."""
    clock = _clock(weight.device)
    with torch.no_grad():
        start = clock()
        for _ in range(inner):
            run()
        forward = (clock() - start) / inner
    start = clock()
    for _ in range(inner):
        for leaf in leaves:
            leaf.grad = None
        run().backward(weight)
    training = (clock() - start) / inner
    for leaf in leaves:
        leaf.grad = None
    return forward, training


# ---------------------------------------------------------------------------------------------
# A layer and a training step


OURS, THEIRS = "this book's layer", "DiffLlama (transformers)"


def bench_layer(
    seqs: Sequence[int], *, batch: int = 1, d_model: int = 256, heads: int = 4,
    device: str = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None,
    repeats: int = 5,
) -> list[Row]:
    """Time a whole attention layer, projections and RoPE included, against the Transformer's.

    Args:
        heads: of the Transformer; the differential layers have half. Else as in :func:`bench`.

    Returns:
        For each length the rows of the baseline, of :class:`MultiheadDiffAttention`, and, where
        transformers is installed, of its DiffLlama attention. Their memory holds the gradients of
        the weights, too.
    """
    _check_sizes(seqs, device, batch=batch, d_model=d_model, heads=heads, repeats=repeats,
                 threads=1 if threads is None else threads)
    rope = Rotary(d_model // heads, max(seqs)).to(device)
    baseline = MultiheadAttention(d_model, heads).to(device, dtype)
    ours = MultiheadDiffAttention(d_model, heads // 2, layer=1).to(device, dtype)
    theirs = _diffllama(d_model, heads, max(seqs), device, dtype)
    leaves = [*baseline.parameters(), *ours.parameters()]
    rows = []
    with _threads(threads):
        for seq in seqs:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(batch, seq, d_model, generator=generator).to(device, dtype)
            runs: dict[str, Callable[[], Tensor]] = {
                BASELINE: lambda x=x: baseline(x, rope=rope),  # type: ignore[misc]
                OURS: lambda x=x: ours(x, rope=rope),  # type: ignore[misc]
            }
            if theirs is not None:
                runs[THEIRS] = lambda x=x: theirs(x)  # type: ignore[misc]
            kernels = {name: sdpa_kernels(run) for name, run in runs.items()}
            rows += _rows(seq, runs, kernels, [x.requires_grad_(), *leaves], repeats)
    return rows


def _diffllama(
    d_model: int, heads: int, seq: int, device: str, dtype: torch.dtype
) -> Callable[[Tensor], Tensor] | None:
    """The attention layer of transformers' DiffLlama; None where that is not installed."""
    try:
        from transformers.models.diffllama import modeling_diffllama as theirs
        from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig
    except ImportError:
        return None
    config = DiffLlamaConfig(
        hidden_size=d_model, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=seq, attn_implementation="sdpa",  # type: ignore[call-arg]
    )
    layer = theirs.DiffLlamaAttention(config, layer_idx=0).to(device, dtype)
    rotary = theirs.DiffLlamaRotaryEmbedding(config).to(device)

    def run(x: Tensor) -> Tensor:
        layer.zero_grad(set_to_none=True)
        return layer(x, rotary(x, torch.arange(x.shape[1], device=x.device)[None]))[0]

    return run


@dataclass(frozen=True)
class StepRow:
    """A training step of one model of the pair at one length: forward, backward, clipping, AdamW.

    Attributes:
        attention: "softmax" or "diff". seq, batch: of the tokens.
        seconds: of the fastest turn. ratio: the same over the Transformer's, in the same run.
        tokens_per_second, mfu: likewise; model FLOPs utilization as in a record's run.
        memory: bytes at the peak, above weights, gradients' and optimizer's state; 0 for a
            compiled model on a CPU, where it is not measured.
    """

    attention: str
    seq: int
    batch: int
    seconds: float
    ratio: float
    tokens_per_second: float
    mfu: float
    memory: int


def bench_step(
    config: ModelConfig, seqs: Sequence[int], *, tokens: int = 1024, device: str = "cpu",
    dtype: torch.dtype = torch.float32, compile: bool = False, threads: int | None = None,
    repeats: int = 3,
) -> list[StepRow]:
    """Time one training step of the matched pair of ``config``, in turns.

    Args:
        tokens: of a step: batch = tokens / seq, at least 1.
        dtype: of autocast; float32 for none. (With float16 the scaling of the loss is left out.)
        compile: torch.compile both models, once for each length.
    """
    _check_sizes(seqs, device, tokens=tokens, repeats=repeats,
                 threads=1 if threads is None else threads)
    rows = []
    with _threads(threads):
        peak = peak_flops(device)
        for seq in seqs:
            batch = max(1, tokens // seq)
            steps = {
                model.config.attention: _Step(model, seq, batch, device, dtype, compile)
                for model in pair(config)
            }
            memory = {name: step.memory() for name, step in steps.items()}
            clock = _clock(torch.device(device))
            fastest = dict.fromkeys(steps, math.inf)
            inner = 1
            for turn in range(repeats):
                for name, step in steps.items():
                    start = clock()
                    for _ in range(inner):
                        step()
                    fastest[name] = min(fastest[name], (clock() - start) / inner)
                if turn == 0 and device == "cuda":
                    inner = max(1, min(20, round(0.5 / fastest["softmax"])))
            work = 3 * forward_flops(config, seq, batch=batch).total
            rows += [
                StepRow(name, seq, batch, seconds, seconds / fastest["softmax"],
                        batch * seq / seconds, work / seconds / peak, memory[name])
                for name, seconds in fastest.items()
            ]
    return rows


class _Step:
    """One training step of a model on fixed random tokens, as :func:`diffbook.train.train` does
    it."""

    def __init__(
        self, model: LanguageModel, seq: int, batch: int, device: str, dtype: torch.dtype,
        compile: bool,
    ):
        self.raw = model.to(device).train()
        self.model = torch.compile(model, dynamic=False) if compile else model
        self.compiled = compile
        generator = torch.Generator().manual_seed(0)
        shape = (batch, seq + 1)
        tokens = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.device, self.dtype = device, dtype

    def __call__(self) -> None:
        autocast: AbstractContextManager = nullcontext()
        if self.dtype != torch.float32:
            autocast = torch.autocast(self.device, self.dtype)
        with autocast:
            loss = self.model(self.inputs, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.raw.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def memory(self) -> int:
        """Bytes at the peak of one step, after two others."""
        self()  # the optimizer makes its state
        if self.device == "cuda":
            self()
            return _cuda_peak(self)
        if self.compiled:
            return 0
        state = [
            x for group in self.optimizer.state.values() for x in group.values()
            if isinstance(x, Tensor)
        ]
        table = [self.raw.rope.cos, self.raw.rope.sin]
        given = [*self.raw.parameters(), *state, *table, self.inputs, self.targets]
        return peak_bytes(self, given)


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
