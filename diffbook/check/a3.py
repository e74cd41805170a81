"""Assignment A3, build and train a small DIFF Transformer: what is right, and how people go wrong.

The model's references are plain functions of given weights, the loop's reference is a loop over a
model of two matrices. The tests hold the first to :mod:`diffbook.model`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.attention import MultiheadAttention, MultiheadDiffAttention
from diffbook.check.core import (
    NONE,
    Case,
    Mistake,
    Task,
    Verdict,
    difference,
    kind,
    marked,
    numeric,
    value,
)
from diffbook.check.personal import personal
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, REPRODUCED, STUDENT
from diffbook.rope import Rotary

Names = frozenset[str]


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * rng.standard_normal(shape)).float()


# ---------------------------------------------------------------------------------------------
# A3.1, the block

BLOCK_MISTAKES = (
    Mistake("no-residual", 2, "The input is not added back: eqs. (4) and (5) both end in + X, or "
            "+ Y. Without this path a deep model hardly learns."),
    Mistake("post-norm", 1.5, "The norm stands behind the addition. Here it is *pre*-norm: the "
            "layer sees LN(X), and X itself is added unchanged."),
    Mistake("parallel", 1.5, "Both halves read the block's input. Eq. (5) takes Y, the result of "
            "eq. (4): first the attention, then SwiGLU on what came out."),
    Mistake("no-norm", 1, "The input goes into the layers without a norm: eqs. (4) and (5) say "
            "LN(X) and LN(Y)."),
    Mistake("one-norm", 1, "One norm serves both halves. There are two, each with its own gains: "
            "attention_norm and ffn_norm."),
    Mistake("gate-swapped", 1, "SiLU is taken of the `up` branch. SwiGLU is "
            "SiLU(x W_gate) · (x W_up): the gate is bent, the other branch is not."),
    Mistake("sigmoid", 1, "The gate is a sigmoid. SwiGLU's gate is SiLU(z) = z · sigmoid(z)."),
    Mistake("relu", 1, "The gate is ReLU. SwiGLU's is SiLU(z) = z · sigmoid(z)."),
    Mistake("gelu", 1, "The gate is GELU. SwiGLU's is SiLU(z) = z · sigmoid(z), F.silu."),
    Mistake("half-residual", 1, "SwiGLU's output stands alone: eq. (5) ends in + Y, as eq. (4) "
            "ends in + X."),
    Mistake("first-input", 1, "The second sum adds the block's input X. Eq. (5) adds Y, what came "
            "out of eq. (4)."),
    Mistake("layer-norm", 1, "The mean is subtracted: that is LayerNorm. LN in the paper's block "
            "stands for RMSNorm, which only divides by the root mean square."),
    Mistake("no-gate", 1, "The `up` branch is missing: SwiGLU multiplies SiLU(x W_gate) by x W_up, "
            "entry by entry, before W_down."),
)


def _rms(x: Tensor, gain: Tensor, mistakes: Names = NONE) -> Tensor:
    if "layer-norm" in mistakes:
        return F.layer_norm(x, x.shape[-1:], gain, None, 1e-5)
    return F.rms_norm(x, x.shape[-1:], gain, 1e-5)


def _swiglu(x: Tensor, weights: dict[str, Tensor], mistakes: Names) -> Tensor:
    gate, up = x @ weights["gate_proj.weight"].T, x @ weights["up_proj.weight"].T
    if "gate-swapped" in mistakes:
        gate, up = up, gate
    bends: dict[str, Any] = {"sigmoid": torch.sigmoid, "relu": F.relu, "gelu": F.gelu}
    bend = next((bends[name] for name in bends if name in mistakes), F.silu)
    bent = bend(gate)
    hidden = bent if "no-gate" in mistakes else bent * up
    return hidden @ weights["down_proj.weight"].T


def _block(x: Tensor, attention: Any, weights: dict[str, Tensor], mistakes: Names) -> Tensor:
    """Eqs. (4) and (5) with any ``attention`` (batch, seq, d_model) -> the same."""
    first, second = weights["attention_norm.weight"], weights["ffn_norm.weight"]
    if "one-norm" in mistakes:
        second = first
    if "post-norm" in mistakes:
        y = _rms(x + attention(x), first, mistakes)
        return _rms(y + _swiglu(y, weights, mistakes), second, mistakes)
    bare = "no-norm" in mistakes
    attended = attention(x if bare else _rms(x, first, mistakes))
    y = attended if "no-residual" in mistakes else x + attended
    base = x if "parallel" in mistakes else y
    fed = _swiglu(base if bare else _rms(base, second, mistakes), weights, mistakes)
    if {"no-residual", "half-residual"} & mistakes:
        return fed
    return (x if "first-input" in mistakes else y) + fed


def block(weights: dict[str, Tensor], x: Tensor, mistakes: Names = NONE) -> Tensor:
    """The block's output with the probe's mixer in the place of attention."""
    count = torch.arange(1, x.shape[1] + 1)[:, None]
    return _block(x, lambda z: (z.cumsum(1) / count) @ weights["attention.mix"], weights, mistakes)


def probe_block(thing: Any, inputs: dict[str, Any]) -> Any:
    """Build the block around a simple mixer, give it the weights, run it."""
    import torch

    class Mixer(torch.nn.Module):
        def __init__(self, mix: Any) -> None:
            super().__init__()
            self.mix = torch.nn.Parameter(mix)

        def forward(self, x: Any, rope: Any = None, **more: Any) -> Any:
            count = torch.arange(1, x.shape[1] + 1)[:, None]
            return (x.cumsum(1) / count) @ self.mix

    weights, x = inputs["weights"], inputs["x"]
    d_ff = weights["gate_proj.weight"].shape[0]
    built = thing(Mixer(weights["attention.mix"]), x.shape[-1], d_ff)
    own = dict(built.named_parameters())
    if set(own) <= {"attention.mix"}:
        return None
    for name in weights:
        if name not in own:
            raise AttributeError(f"the block has no parameter {name}; it has {sorted(own)}")
        own[name].data.copy_(weights[name])
    output = built(x, None)
    return None if output is None else output.detach()


def _block_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, d_model, d_ff in (("d_model = 12, d_ff = 32", 12, 32),
                                 ("d_model = 8, d_ff = 8", 8, 8)):
        weights = {
            "attention_norm.weight": 1 + _normal(rng, d_model, scale=0.3),
            "ffn_norm.weight": 1 + _normal(rng, d_model, scale=0.3),
            "gate_proj.weight": _normal(rng, d_ff, d_model, scale=0.5),
            "up_proj.weight": _normal(rng, d_ff, d_model, scale=0.5),
            "down_proj.weight": _normal(rng, d_model, d_ff, scale=0.5),
            "attention.mix": _normal(rng, d_model, d_model, scale=0.5),
        }
        yield Case(label, {"weights": weights, "x": _normal(rng, 2, 5, d_model)})


# ---------------------------------------------------------------------------------------------
# A3.2, the parameters, with pencil

COUNT_MISTAKES = (
    Mistake("lambda-per-head", 1, "λ's vectors are counted for each head. All heads of a layer "
            "share four vectors of width d."),
    Mistake("gain-d", 1, "The gain of the headwise norm is counted with width d. It multiplies a "
            "head's output, and that has the width of the value, 2d."),
    Mistake("gain-per-head", 1, "The gain of the headwise norm is counted for each head. All heads "
            "of a layer share one of width 2d."),
    Mistake("no-gain", 1, "DIFF's headwise norm has a gain to learn, too: 2d numbers a layer."),
    Mistake("wide-d", 1, "d is taken as the width of a *differential* head's value. With h the "
            "baseline's heads, d = d_model / h, for both kinds."),
    Mistake("two-matrices", 1, "SwiGLU has three matrices: gate, up and down."),
    Mistake("tied", 1, "Embedding and output are two matrices here; they are not tied."),
    Mistake("no-norms", 1, "The RMSNorms are missing: two a block and one at the end, each with "
            "d_model gains."),
    Mistake("no-last-norm", 0.5, "The norm before the output is missing, with its d_model gains."),
    Mistake("diff-half", 1, "DIFF's projections are counted as half as large. It has half as many "
            "heads, each twice as wide: the four matrices stay d_model times d_model."),
)


def parameters(
    vocab_size: int, d_model: int, n_layers: int, n_heads: int, d_ff: int, mistakes: Names = NONE
) -> dict[str, int]:
    """Numbers to learn in the pair of models."""
    d = d_model // n_heads * (2 if "wide-d" in mistakes else 1)
    heads = n_heads // 2
    vectors = 4 * d * (heads if "lambda-per-head" in mistakes else 1)
    gain = (d if "gain-d" in mistakes else 2 * d) * (heads if "gain-per-head" in mistakes else 1)
    matrices = 4 * d_model**2
    feed_forward = (2 if "two-matrices" in mistakes else 3) * d_model * d_ff
    norms = 0 if "no-norms" in mistakes else 2 * d_model
    last = 0 if {"no-norms", "no-last-norm"} & mistakes else d_model
    ends = (1 if "tied" in mistakes else 2) * vocab_size * d_model
    softmax = ends + last + n_layers * (matrices + feed_forward + norms)
    extra = vectors + (0 if "no-gain" in mistakes else gain)
    if "diff-half" in mistakes:
        extra -= matrices // 2
    return {"softmax": softmax, "diff": softmax + n_layers * extra}


def _count_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("your own model", personal("A3.2", student))


# ---------------------------------------------------------------------------------------------
# A3.3, the language model

MODEL_MISTAKES = (
    Mistake("heads-not-halved", 2, "λ's vectors are half as wide as they should be: n_heads counts "
            "the *baseline's* heads, DIFF gets n_heads // 2 of twice the width."),
    Mistake("no-rope", 1.5, "The model does not know the order of the tokens: the rotary positions "
            "(rope) do not reach the attention."),
    Mistake("no-final-norm", 1, "The norm before the output is missing: logits are "
            "head(norm(x))."),
    Mistake("same-layer", 1, "λ_init is the same in all layers: give each block its own number, "
            "counted from 1."),
    Mistake("layers-late", 1, "λ_init is one layer late: count layers from 1."),
    Mistake("rope-base", 0.5, "The rotary table has another base than the default, 10,000."),
    *BLOCK_MISTAKES,
)
SHAPE = ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff")


def language_model(
    weights: dict[str, Tensor], tokens: Tensor, shape: dict[str, int], attention: str,
    mistakes: Names = NONE,
) -> dict[str, Any]:
    """Logits (batch, seq, vocab_size), and the shapes of the parameters."""
    d_model, n_heads = shape["d_model"], shape["n_heads"]
    rope = Rotary(d_model // n_heads, 64, 500.0 if "rope-base" in mistakes else 10_000.0)
    x = weights["embedding.weight"][tokens]  # (batch, seq, d_model)
    with torch.no_grad():
        for index in range(shape["n_layers"]):
            prefix = f"blocks.{index}."
            own = {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
            late = "layers-late" in mistakes
            layer = 1 if "same-layer" in mistakes else index + (2 if late else 1)
            made: nn.Module = (
                MultiheadAttention(d_model, n_heads) if attention == "softmax"
                else MultiheadDiffAttention(d_model, n_heads // 2, layer)
            )
            made.load_state_dict({k.removeprefix("attention."): w for k, w in own.items()
                                  if k.startswith("attention.")})
            turned = None if "no-rope" in mistakes else rope
            x = _block(x, lambda z, made=made, turned=turned: made(z, rope=turned), own, mistakes)
        if "no-final-norm" not in mistakes:
            x = _rms(x, weights["norm.weight"])
        logits = x @ weights["head.weight"].T
    shapes = {name: str(tuple(tensor.shape)) for name, tensor in sorted(weights.items())}
    return {"parameters": shapes, "logits": logits}


def probe_model(thing: Any, inputs: dict[str, Any]) -> Any:
    """Build the model, give it the weights, run it."""
    weights, shape = inputs["weights"], inputs["shape"]
    model = thing(**shape, attention=inputs["attention"])
    own = dict(model.named_parameters())
    if not own:
        return None
    same = True
    for name in own:
        if name in weights and own[name].shape == weights[name].shape:
            own[name].data.copy_(weights[name])
        else:
            same = False
    shapes = {name: str(tuple(own[name].shape)) for name in sorted(own)}
    if not same or set(own) != set(weights):
        return {"parameters": shapes, "logits": 0.0}
    logits = model(inputs["tokens"])
    return {"parameters": shapes, "logits": None if logits is None else logits.detach()}


def _judge_model(case: Case, answer: Any, known: Names) -> Verdict:
    inputs = case.inputs
    right = language_model(*inputs.values())
    if isinstance(answer, dict) and isinstance(answer.get("parameters"), dict):
        mine = answer["parameters"]
        # First of all: other shapes, such as the gain's, only follow from this one.
        d = inputs["shape"]["d_model"] // inputs["shape"]["n_heads"]
        if any("lambda_" in str(name) and shape == f"({d // 2},)" for name, shape in mine.items()):
            return marked(MODEL_MISTAKES[:1], known)
        for name, shape in right["parameters"].items():
            if name not in mine:
                return Verdict(False, f"the parameter {name} is missing; there are "
                               f"{', '.join(sorted(map(str, mine))[:4])}, …")
            if mine[name] != shape:
                return Verdict(False, f"the parameter {name} has the shape {mine[name]}; it should "
                               f"be {shape}")
        for name in mine:
            if name not in right["parameters"]:
                return Verdict(False, f"there is a parameter {str(name)[:60]} too many")
    return _by_value.judge(case, answer, known)


def _draw_weights(
    rng: np.random.Generator, shape: dict[str, int], attention: str
) -> dict[str, Tensor]:
    d_model, d = shape["d_model"], shape["d_model"] // shape["n_heads"]
    weights = {"embedding.weight": _normal(rng, shape["vocab_size"], d_model),
               "head.weight": _normal(rng, shape["vocab_size"], d_model, scale=0.3),
               "norm.weight": 1 + _normal(rng, d_model, scale=0.3)}
    for index in range(shape["n_layers"]):
        prefix = f"blocks.{index}."
        for name in ("attention_norm", "ffn_norm"):
            weights[f"{prefix}{name}.weight"] = 1 + _normal(rng, d_model, scale=0.3)
        for name in "qkvo":
            weights[f"{prefix}attention.{name}_proj.weight"] = _normal(
                rng, d_model, d_model, scale=0.4)
        for name, rows, columns in (("gate", shape["d_ff"], d_model),
                                    ("up", shape["d_ff"], d_model),
                                    ("down", d_model, shape["d_ff"])):
            weights[f"{prefix}{name}_proj.weight"] = _normal(rng, rows, columns, scale=0.3)
        if attention == "diff":
            for name in ("q1", "k1", "q2", "k2"):
                weights[f"{prefix}attention.lambda_{name}"] = _normal(rng, d, scale=0.3)
            weights[f"{prefix}attention.head_norm.weight"] = 1 + _normal(rng, 2 * d, scale=0.3)
    return weights


def _model_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    shape = dict(zip(SHAPE, (11, 16, 3, 4, 24), strict=True))
    for attention in ("diff", "softmax"):
        tokens = torch.from_numpy(rng.integers(0, 11, (2, 7)))
        yield Case(f'attention="{attention}"', {
            "weights": _draw_weights(rng, shape, attention), "tokens": tokens, "shape": shape,
            "attention": attention})


_by_value = Task("A3.3", "", "", 4, _model_cases, language_model, MODEL_MISTAKES, rtol=1e-3,
                 atol=1e-3, group=1)


# ---------------------------------------------------------------------------------------------
# A3.4, the pair

PAIR_MISTAKES = (
    Mistake("unpaired", 2, "The two models start from different numbers. With one seed, everything "
            "they have in common should be equal, else you compare two draws of the weights, too."),
    Mistake("shifted", 1.5, "Some common weights are equal, later ones are not: where DIFF draws "
            "its λ vectors, the stream of random numbers shifts for all that follows. Draw the "
            "common weights first, or copy them from one model into the other."),
    Mistake("shared", 2, "The two models hold the *same* tensors: training one would change the "
            "other. Copy values (copy_, load_state_dict), not parameters."),
    Mistake("seed-ignored", 1.5, "Two different seeds give the same weights: the seed does not "
            "reach the draw, so that your repetitions would be no repetitions."),
    Mistake("not-repeatable", 1.5, "The same seed gives other weights the second time: they depend "
            "on what was drawn before. Seed right before the weights are drawn."),
)


def pair_of(seeds: list[int], mistakes: Names = NONE) -> list[dict[str, Any]]:
    """The right answer, of the package's own pairs."""
    found = []
    for count, seed in enumerate(seeds):
        drift = 100 * count * ("not-repeatable" in mistakes)
        of = 7 if "seed-ignored" in mistakes else seed + drift
        made = {}
        for attention in ("softmax", "diff"):
            own = of + 1000 * ("unpaired" in mistakes and attention == "diff")
            config = ModelConfig(12, 16, 2, 4, attention, seed=own)
            state = LanguageModel(config).state_dict()
            if "shifted" in mistakes and attention == "diff":
                state["blocks.1.ffn.up_proj.weight"] = state["blocks.1.ffn.up_proj.weight"] + 1
            made[attention] = {name: tensor.clone() for name, tensor in state.items()}
        found.append(made | {"shared": "shared" in mistakes})
    return found


def probe_pair(thing: Any, inputs: dict[str, Any]) -> Any:
    """The weights of pairs for several seeds, and whether the two models are apart."""
    import torch

    found = []
    for seed in inputs["seeds"]:
        torch.rand(5)  # somebody else draws, too
        models = thing(seed)
        if models is None:
            return None
        states = [{name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                  for model in models]
        with torch.no_grad():
            for parameter in models[0].parameters():
                parameter.add_(1.0)
        after = models[1].state_dict()
        shared = any(not torch.equal(after[name], states[1][name]) for name in states[1])
        found.append({"softmax": states[0], "diff": states[1], "shared": shared})
    return found


def _judge_pair(case: Case, answer: Any, known: Names) -> Verdict:
    seeds = case.inputs["seeds"]
    if not isinstance(answer, (list, tuple)) or len(answer) != len(seeds):
        return Verdict(False, f"this is {kind(answer)}; two models were expected for each seed")
    flat = []
    for made in answer:
        problem = _pair_problem(made)
        if problem:
            return Verdict(False, problem)
        flat.append({k: {n: numeric(t) for n, t in made[k].items()} for k in ("softmax", "diff")})
    wrong = []
    softmax, diff = flat[0]["softmax"], flat[0]["diff"]
    drawn = [name for name in softmax if softmax[name].ndim == 2]
    equal = [np.array_equal(softmax[name], diff[name]) for name in drawn]
    if not all(equal):
        wrong.append(PAIR_MISTAKES[1 if any(equal) else 0])
    if any(made["shared"] for made in answer):
        wrong.append(PAIR_MISTAKES[2])
    if _same(flat[0], flat[1]):
        wrong.append(PAIR_MISTAKES[3])
    elif not _same(flat[0], flat[2]):
        wrong.append(PAIR_MISTAKES[4])
    if wrong:
        return marked(wrong, known)
    flatness = [name for name in drawn if softmax[name].std() == 0]
    if flatness:
        return Verdict(False, f"all numbers of {flatness[0]} are equal: nothing was drawn")
    return Verdict(True)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[k].keys() == other[k].keys() and all(
        np.array_equal(one[k][n], other[k][n]) for n in one[k]) for k in one)


def _pair_problem(made: Any) -> str | None:
    """Whether an answer has the form of a pair: the same matrices, DIFF with 6d more a layer."""
    if not isinstance(made, dict) or not all(
        isinstance(made.get(k), dict) and made[k] for k in ("softmax", "diff")
    ):
        return "two models were expected: the Transformer, then DIFF"
    for states in (made["softmax"], made["diff"]):
        if any(numeric(tensor) is None for tensor in states.values()):
            return "a weight is no tensor of numbers"
    softmax, diff = ({n: numeric(t) for n, t in made[k].items()} for k in ("softmax", "diff"))
    vectors = [name for name in diff if "lambda_" in name]
    if not vectors or any("lambda_" in name for name in softmax):
        return ("the second model should have λ's vectors and the first none: give the "
                "Transformer, then DIFF")
    missing = [name for name in softmax
               if name not in diff or diff[name].shape != softmax[name].shape]
    if missing:
        return f"{missing[0]} of the Transformer has no counterpart of its shape in DIFF"
    extra = sum(tensor.size for tensor in diff.values()) - sum(t.size for t in softmax.values())
    layers = len(vectors) // 4
    d = diff[vectors[0]].size
    if extra != 6 * d * layers:
        return (f"DIFF has {extra} numbers more than the Transformer; with d = {d} and {layers} "
                f"layers it should be {6 * d * layers}")
    return None


def _pair_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    first = int(rng.integers(1, 1000))
    yield Case("three seeds, the last as the first",
               {"seeds": [first, first + int(rng.integers(1, 50)), first]})


# ---------------------------------------------------------------------------------------------
# A3.5, the data

BATCH_MISTAKES = (
    Mistake("history", 2, "batch(seed, step) gives something else the second time: it depends on "
            "what was drawn before. A resumed run would see other data than one that never "
            "stopped. Make a new generator for each call."),
    Mistake("step-ignored", 2, "All steps of a run get the same batch: the step does not reach the "
            "generator."),
    Mistake("batch-seed-ignored", 1.5, "All seeds get the same data: the seed does not reach the "
            "generator."),
    Mistake("sum", 1.5, "batch(3, 8) and batch(4, 7) are the same: seed + step mixes them up, so "
            "that the runs of neighboring seeds see nearly the same data. Keep the two apart."),
    Mistake("product", 1.5, "All steps of seed 0 get the same batch, and step 0 of all seeds: "
            "seed * step is 0 there. Keep the two apart, with a large factor and a sum."),
    Mistake("written-together", 1, "batch(1, 11) and batch(11, 1) are the same: the digits of seed "
            "and step, written one behind the other, do not say where the seed ends."),
    Mistake("overlap", 0.5, "batch(1, 0) is also batch(0, 10), batch(0, 100) or batch(0, 1000): "
            "from that step on, one seed sees the data of the next. Take a much larger factor."),
)
CALLS = [(3, 7), (3, 8), (3, 7), (4, 7), (0, 1000), (1, 0), (5, 5), (6, 5), (0, 10), (0, 100),
         (1, 11), (11, 1), (0, 5)]
MARK = 39  # of the assignment's sample(): the question


def batches(calls: list[tuple[int, int]], mistakes: Names = NONE) -> list[Tensor]:
    """Tokens (batch, seq) for calls (seed, step)."""
    found = []
    for count, (seed, step) in enumerate(calls):
        parts: tuple[int, ...] = (seed, step)
        if "history" in mistakes:
            parts = (count, 0)
        elif "step-ignored" in mistakes:
            parts = (seed, 0)
        elif "batch-seed-ignored" in mistakes:
            parts = (0, step)
        elif "sum" in mistakes:
            parts = (seed + step, 0)
        elif "overlap" in mistakes:
            parts = (1000 * seed + step, 0)
        elif "product" in mistakes:
            parts = (seed * step, 0)
        elif "written-together" in mistakes:
            parts = (int(f"{seed}{step}"), 0)
        tokens = np.random.default_rng(parts).integers(0, MARK, (8, 12))
        tokens[:, -2] = MARK
        found.append(torch.from_numpy(tokens))
    return found


def probe_batches(thing: Any, inputs: dict[str, Any]) -> Any:
    """The tokens of several calls."""
    import torch

    found = []
    for seed, step in inputs["calls"]:
        torch.rand(3)
        drawn = thing(seed, step)
        if drawn is None:
            return None
        found.append(drawn[0])
    return found


def _judge_batches(case: Case, answer: Any, known: Names) -> Verdict:
    calls = case.inputs["calls"]
    rows = [numeric(x) for x in answer] if isinstance(answer, (list, tuple)) else []
    if len(rows) != len(calls) or any(x is None or x.ndim != 2 or x.size < 20 for x in rows):
        return Verdict(
            False, "batch(seed, step) should return (tokens, targets), tokens (batch, seq)")

    def same(i: int, j: int) -> bool:
        return np.array_equal(rows[i], rows[j])

    if not same(0, 2):
        return marked(BATCH_MISTAKES[:1], known)
    wrong = []
    if same(0, 1):
        wrong.append(BATCH_MISTAKES[1])
    if same(0, 3):
        wrong.append(BATCH_MISTAKES[2])
    if same(1, 3) and not wrong:
        wrong.append(BATCH_MISTAKES[3])
    if same(4, 12) and not wrong:
        wrong.append(BATCH_MISTAKES[4])
    if same(10, 11) and same(5, 8) and not wrong:
        wrong.append(BATCH_MISTAKES[5])
    if any(same(5, other) for other in (4, 8, 9)) and not wrong:
        wrong.append(BATCH_MISTAKES[6])
    if wrong:
        return marked(wrong, known)
    if any((x[:, -2] != MARK).any() for x in rows):
        return Verdict(False, "this is not what sample(generator) draws: give back its tokens and "
                       "targets as they are")
    if len({x.tobytes() for x in rows}) < len(calls) - 1:
        return Verdict(False, "two different pairs (seed, step) get the same batch")
    return Verdict(True)


def _batch_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("", {"calls": [list(pair) for pair in CALLS]})


# ---------------------------------------------------------------------------------------------
# A3.6, the training loop

LOOP_MISTAKES = (
    Mistake("no-zero-grad", 2, "Gradients of earlier steps are added up: zero_grad() is missing."),
    Mistake("no-clip", 1, "The gradient norm is not limited to 1: nn.utils.clip_grad_norm_ between "
            "backward() and step()."),
    Mistake("adam", 1, "The optimizer is Adam, which adds the decay to the gradient. AdamW shrinks "
            "the weights apart from it."),
    Mistake("default-decay", 1, "AdamW's weight_decay is not 0.1: left alone, it is 0.01."),
    Mistake("default-betas", 1, "AdamW's betas are not (0.9, 0.95): left alone, they are "
            "(0.9, 0.999)."),
    Mistake("schedule-early", 1, "The learning rate is that of the next step: lr_at counts steps "
            "from 0, as data does."),
    Mistake("schedule-shortened", 1.5, "The schedule ends where this call stops. lr_at wants "
            "`steps`, the length of the whole run, also when `stop` comes sooner."),
    Mistake("no-schedule", 1, "The learning rate stays what it was: set every group's \"lr\" to "
            "lr_at(step, steps) before each step."),
    Mistake("optimizer-forgotten", 2, "The resumed run leaves the curve at once: AdamW's averages "
            "start from zero again. Keep optimizer.state_dict() in the state, too."),
    Mistake("data-restart", 1.5, "The resumed run gets the data of the first steps again. Go on "
            "with data(step) at the step where it stopped."),
    Mistake("schedule-restart", 1.5, "The resumed run begins the learning rate's schedule again. "
            "lr_at wants the number of the step in the *whole* run."),
    Mistake("starts-again", 2, "The resumed run does all steps again. It should do only those that "
            "are left, from the step in the state on."),
    Mistake("weights-forgotten", 2, "The resumed run starts from the new model's own weights. Load "
            "the state's into it first."),
    Mistake("by-reference", 1.5, "The state changed when training went on behind it: state_dict() "
            "holds the live tensors. Copy them (copy.deepcopy) when you stop."),
)
STEPS, STOP = 12, 6


def lr_at(step: int, steps: int) -> float:
    """The assignment's schedule: 3 steps of warm-up, then a cosine to a tenth of 0.01."""
    if step < 3:
        return 0.01 * (step + 1) / 3
    return 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 3) / max(1, steps - 3))))


class _Tiny(nn.Module):
    """The model that the loop is tested with."""

    def __init__(self, weights: list[Tensor]):
        super().__init__()
        self.a, self.b = (nn.Parameter(w.clone()) for w in weights)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.a[tokens]) @ self.b


def _loop(
    model: nn.Module, tokens: Tensor, targets: Tensor, state: dict[str, Any] | None,
    stop: int, mistakes: Names,
) -> tuple[list[float], dict[str, Any]]:
    """One call of ``train``."""
    make = torch.optim.Adam if "adam" in mistakes else torch.optim.AdamW
    optimizer = make(
        model.parameters(), lr=0.01, betas=(0.9, 0.999 if "default-betas" in mistakes else 0.95),
        weight_decay=0.01 if "default-decay" in mistakes else 0.1)
    length = stop if "schedule-shortened" in mistakes else STEPS
    start = 0
    if state is not None:
        if "weights-forgotten" not in mistakes:
            model.load_state_dict(state["model"])
        if "optimizer-forgotten" not in mistakes:
            optimizer.load_state_dict(state["optimizer"])
        start = 0 if "starts-again" in mistakes else state["step"]
    losses = []
    for step in range(start, stop):
        scheduled = step - start if "schedule-restart" in mistakes else step
        if "no-schedule" not in mistakes:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(scheduled + ("schedule-early" in mistakes), length)
        at = step - start if "data-restart" in mistakes else step
        loss = F.cross_entropy(model(tokens[at]).flatten(0, 1), targets[at].flatten())
        if "no-zero-grad" not in mistakes:
            optimizer.zero_grad()
        loss.backward()
        if "no-clip" not in mistakes:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    kept = {"model": {n: t.clone() for n, t in model.state_dict().items()},
            "optimizer": optimizer.state_dict(), "step": stop}
    return losses, kept


def loop(
    weights: list[Tensor], other: list[Tensor], tokens: Tensor, targets: Tensor,
    mistakes: Names = NONE,
) -> dict[str, Any]:
    """The curve of a run that was never stopped, and of one that was."""
    torch.manual_seed(0)
    straight = _Tiny(weights)
    whole, _ = _loop(straight, tokens, targets, None, STEPS, mistakes)
    broken = _Tiny(weights)
    first, state = _loop(broken, tokens, targets, None, STOP, mistakes)
    if {"by-reference", "all-by-reference"} & mistakes:  # the first model goes on for two steps
        _, later = _loop(_Tiny(weights), tokens, targets, copy.deepcopy(state), STOP + 2, NONE)
        state["model"] = later["model"]
        if "all-by-reference" in mistakes:  # AdamW's averages are changed in place, too
            state["optimizer"] = later["optimizer"]
    resumed = _Tiny(other)
    rest, _ = _loop(resumed, tokens, targets, state, STEPS, mistakes)
    return {
        "the losses of a run": np.array(whole),
        "its weights": torch.cat([p.detach().flatten() for p in straight.parameters()]),
        "the losses up to the stop": np.array(first),
        "the losses after it": np.array(rest),
        "the weights after it": torch.cat([p.detach().flatten() for p in resumed.parameters()]),
    }


def probe_loop(thing: Any, inputs: dict[str, Any]) -> Any:
    """Train without a stop; and with one, resumed in another model of other weights."""
    import numpy as np
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self, weights: Any) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(weights[0].clone())
            self.b = torch.nn.Parameter(weights[1].clone())

        def forward(self, tokens: Any) -> Any:
            return torch.tanh(self.a[tokens]) @ self.b

    def flat(model: Any) -> Any:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    tokens, targets = inputs["tokens"], inputs["targets"]
    steps = tokens.shape[0]

    def data(step: int) -> Any:
        return tokens[step], targets[step]

    straight = Tiny(inputs["weights"])
    result = thing(straight, data, steps)
    if result is None:
        return None
    broken = Tiny(inputs["weights"])
    first, state = thing(broken, data, steps, stop=steps // 2)
    thing(broken, data, steps, state=state, stop=steps // 2 + 2)  # the first one goes on, beside
    other = Tiny(inputs["other"])
    rest, _ = thing(other, data, steps, state=state)
    return {
        "the losses of a run": np.array([float(x) for x in result[0]]),
        "its weights": flat(straight),
        "the losses up to the stop": np.array([float(x) for x in first]),
        "the losses after it": np.array([float(x) for x in rest]),
        "the weights after it": flat(other),
    }


RTOL = 3e-4  # other forms of the same step differ by 1e-6, AdamW's defaults by a hundred times it


def _loop_symptom(inputs: dict[str, Any], answer: Any, expected: Any) -> str | Mistake | None:
    mine, right = (x["the losses of a run"] for x in (answer, expected))
    if not np.allclose(mine[:1], right[:1], rtol=RTOL):
        return ("Already the first loss is another: the mean cross-entropy over the targets that "
                "are not -100, taken before the step.")
    apart = int(np.argmax(~np.isclose(mine, right, rtol=RTOL))) + 1
    same = difference(answer["its weights"], expected["its weights"], RTOL, 1e-4) is None
    if not np.allclose(mine, right, rtol=RTOL) or not same:
        return (f"The run that was never stopped leaves the right curve at loss {apart}: look at "
                "the optimizer (AdamW with the given numbers), the schedule and the clipping.")
    shared = loop(**inputs, mistakes=frozenset({"all-by-reference"}))
    if difference(answer, shared, RTOL, 1e-4) is None:
        return LOOP_MISTAKES[-1]
    return ("The run that was never stopped is right; the resumed one is not. What does it need to "
            "know that is not in its state?")


def _loop_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    weights = [_normal(rng, 6, 4, scale=2.0), _normal(rng, 4, 6, scale=3.0)]
    targets = rng.integers(0, 6, (STEPS, 4, 5))
    targets[rng.random(targets.shape) < 0.3] = -100
    yield Case(f"{STEPS} steps, and {STOP} + {STEPS - STOP} of them", {
        "weights": weights, "other": [w + 0.5 for w in weights],
        "tokens": torch.from_numpy(rng.integers(0, 6, (STEPS, 4, 5))),
        "targets": torch.from_numpy(targets)})


# ---------------------------------------------------------------------------------------------
# A3.7, the paired difference

PAIRED_MISTAKES = (
    Mistake("unpaired-test", 2, "The two groups are compared as if they had no seeds in common. "
            "Take the difference of each seed first, then its mean and scatter."),
    Mistake("normal", 1, "The factor is 1.96. That is for many seeds; for few, take Student's t "
            "from the table."),
    Mistake("degrees", 0.5, "The factor is that of one seed more or fewer than there are: the "
            "table goes by the number of seeds n."),
    Mistake("population", 1, "The scatter is divided by n. Of few seeds take n - 1: std(ddof=1)."),
    Mistake("no-root-n", 1, "This is the scatter of single seeds. The interval of the *mean* is "
            "smaller by √n."),
    Mistake("root-n-1", 0.5, "The scatter is divided by √(n - 1). Of the standard deviation (which "
            "has its n - 1 already) to that of the mean it is √n."),
    Mistake("b-minus-a", 1, "The sign is turned round: it should be a - b."),
    Mistake("eager-verdict", 1.5, "The verdict goes by the mean alone. An interval that holds 0 is "
            "no difference, however pretty its mean."),
    Mistake("verdict-turned", 1, "The verdict is turned round: the claim is that a is *lower*, so "
            "that an interval below 0 speaks for it."),
    Mistake("other-words", 1, "The numbers are right, but the verdict is in other words than the "
            "three of the task."),
)


def paired(a: np.ndarray, b: np.ndarray, mistakes: Names = NONE) -> dict[str, Any]:
    """Mean of a - b, its 95 % interval, and the verdict on "a is lower"."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    gap = b - a if "b-minus-a" in mistakes else a - b
    n = len(gap)
    ddof = 0 if "population" in mistakes else 1
    scatter = float(gap.std(ddof=ddof))
    if "unpaired-test" in mistakes:
        scatter = math.hypot(a.std(ddof=ddof), b.std(ddof=ddof))
    points = 1.96 if "normal" in mistakes else STUDENT[n + 1 if "degrees" in mistakes else n]
    root = math.sqrt(n - 1 if "root-n-1" in mistakes else n)
    half = points * scatter / (1 if "no-root-n" in mistakes else root)
    mean = float(gap.mean())
    low, high = mean - half, mean + half
    below = (mean if "eager-verdict" in mistakes else high) < 0
    above = (mean if "eager-verdict" in mistakes else low) > 0
    if "verdict-turned" in mistakes:
        below, above = above, below
    verdict = REPRODUCED if below else CONTRADICTED if above else NO_DIFFERENCE
    if "other-words" in mistakes:
        verdict = f"{verdict}!"
    return {"difference": mean, "low": low, "high": high, "verdict": verdict}


def _paired_symptom(inputs: dict[str, Any], answer: Any, expected: Any) -> Mistake | None:
    words = (REPRODUCED, CONTRADICTED, NO_DIFFERENCE)
    other = answer["verdict"].strip().casefold() not in words
    only = _paired_problem(answer | {"verdict": expected["verdict"]}, expected) is None
    return PAIRED_MISTAKES[-1] if other and only else None


def _paired_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    # Losses scatter from seed to seed, in both models alike; differences scatter less.
    for label, n, shift, noise in (("3 seeds", 3, -0.05, 0.04), ("5 seeds", 5, -0.10, 0.02),
                                   ("4 seeds", 4, 0.12, 0.02)):
        common = 2 + 0.2 * rng.standard_normal(n)
        gap = rng.standard_normal(n)
        gap = shift + noise * (gap - gap.mean()) / gap.std(ddof=1)
        yield Case(label, {"a": common + gap, "b": common})


# ---------------------------------------------------------------------------------------------
# A3.8, the plot

PLOT_MISTAKES = (
    Mistake("one-seed", 1.5, "Only some of the seeds are drawn. Which ones, and who chose? Draw "
            "all of them; thin lines of one color do no harm."),
    Mistake("mean-only", 1, "Only the mean over the seeds is drawn. The reader cannot see whether "
            "the gap is larger than the scatter: draw every seed."),
    Mistake("smoothed", 1, "The curves are smoothed: the numbers drawn are not those measured. "
            "Draw the measured ones (a smooth line may lie over them)."),
    Mistake("two-scales", 1.5, "The two kinds have different scales. Draw both on one axis, or on "
            "axes with the same limits."),
    Mistake("cropped", 0.5, "Some measured points lie outside the axis. Show the whole range, or "
            "take a logarithmic axis."),
    Mistake("no-labels", 1, "An axis has no label: what is counted along it (steps), and what is "
            "measured (loss in nats)?"),
    Mistake("no-unit", 0.5, "The loss has no unit on its axis: it is in nats."),
    Mistake("no-names", 0.5, "Nothing says which curves are DIFF's and which the Transformer's: "
            "add a legend, or write it beside the curves."),
)


def drawn(runs: dict[str, np.ndarray], mistakes: Names = NONE) -> dict[str, Any]:
    """What the probe sees of an honest plot."""
    lines: list[dict[str, Any]] = []
    for name, curves in runs.items():
        curves = np.asarray(curves)
        shown: Any = curves
        if "one-seed" in mistakes:
            shown = curves[:1]
        elif "mean-only" in mistakes:
            shown = [curves.mean(0)]
        elif "smoothed" in mistakes:
            shown = [np.convolve(c, np.ones(5) / 5, "same") for c in curves]
        lines += [{"y": np.asarray(c), "axes": int(name == "diff" and "two-scales" in mistakes)}
                  for c in shown]
    every = np.concatenate([np.ravel(c) for c in runs.values()])
    limits = [float(every.min()) - 0.1, float(every.max()) + 0.1]
    if "cropped" in mistakes:
        limits[1] = float(np.median(every))
    unit = "" if "no-unit" in mistakes else " (nats)"
    labels = {"x": "step", "y": "" if "no-labels" in mistakes else f"loss{unit}"}
    other = [limits[0], limits[1] + 1]
    both = [{"limits": limits} | labels, {"limits": other} | labels]
    axes = both[: 1 + ("two-scales" in mistakes)]
    words = "" if "no-names" in mistakes else "Transformer DIFF"
    return {"lines": lines, "axes": axes, "words": words}


def probe_plot(thing: Any, inputs: dict[str, Any]) -> Any:
    """Draw, and read off what is on the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure = thing({name: [list(map(float, row)) for row in curves]
                    for name, curves in inputs["runs"].items()})
    if figure is None:
        return None
    if not hasattr(figure, "axes"):
        return figure
    places = list(figure.axes)
    axes, lines, words = [], [], [t.get_text() for t in figure.texts]
    for number, ax in enumerate(places):
        axes.append({"limits": [float(x) for x in sorted(ax.get_ylim())],
                     "x": str(ax.get_xlabel()), "y": str(ax.get_ylabel())})
        legend = ax.get_legend()
        words += [t.get_text() for t in (legend.get_texts() if legend else [])]
        words += [t.get_text() for t in ax.texts] + [ax.get_title(loc) for loc in
                                                    ("left", "center", "right")]
        lines += [{"y": np.asarray(line.get_ydata(), float), "axes": number}
                  for line in ax.get_lines() if line.get_visible()]
    for legend in figure.legends:
        words += [t.get_text() for t in legend.get_texts()]
    title = figure._suptitle.get_text() if figure._suptitle else ""
    plt.close(figure)
    return {"lines": lines, "axes": axes, "words": " ".join([*words, title])[:2000]}


def _judge_plot(case: Case, answer: Any, known: Names) -> Verdict:
    if not isinstance(answer, dict) or not all(k in answer for k in ("lines", "axes", "words")):
        return Verdict(False, f"this is {kind(answer)}; plot should return the matplotlib Figure")
    runs = {name: np.asarray(curves) for name, curves in case.inputs["runs"].items()}
    found = _plot_problems(answer, runs)
    if isinstance(found, str):
        return Verdict(False, found)
    return marked(found, known) if found else Verdict(True)


def _plot_problems(answer: dict[str, Any], runs: dict[str, np.ndarray]) -> list[Mistake] | str:
    named = {mistake.name: mistake for mistake in PLOT_MISTAKES}
    lines = [(numeric(line["y"]), line["axes"]) for line in answer["lines"]]
    lines = [(y, at) for y, at in lines if y is not None and y.ndim == 1 and len(y) > 1]

    def places(curve: np.ndarray) -> list[int]:
        return [at for y, at in lines
                if y.shape == curve.shape and np.allclose(y, curve, atol=1e-6)]

    wrong: list[Mistake] = []
    where = {name: [places(curve) for curve in curves] for name, curves in runs.items()}
    total = sum(len(curves) for curves in runs.values())
    seen = sum(bool(at) for found in where.values() for at in found)
    if not lines:
        return "there is no line in the figure"
    if seen < total:
        if seen:
            wrong.append(named["one-seed"])
        elif all(places(curves.mean(0)) for curves in runs.values()):
            wrong.append(named["mean-only"])
        elif len(lines) >= total:
            wrong.append(named["smoothed"])
        else:
            return ("none of the lines is one of the measured curves: draw each seed's losses as "
                    "they are")
    used = sorted({at for _, at in lines})
    axes = [answer["axes"][at] for at in used]
    if any(not np.allclose(a["limits"], b["limits"]) for a, b in pairwise(axes)):
        wrong.append(named["two-scales"])
    elif "smoothed" not in {m.name for m in wrong} and "mean-only" not in {m.name for m in wrong}:
        low, high = axes[0]["limits"]
        every = np.concatenate([np.ravel(c) for c in runs.values()])
        if every.min() < low - 1e-6 or every.max() > high + 1e-6:
            wrong.append(named["cropped"])
    x_labels, y_labels = (" ".join(str(ax[k]) for ax in answer["axes"]) for k in "xy")
    if not x_labels.strip() or not y_labels.strip():
        wrong.append(named["no-labels"])
    elif "nat" not in y_labels.casefold():
        wrong.append(named["no-unit"])
    words = str(answer["words"]).casefold()
    if "diff" not in words or not ("softmax" in words or "transformer" in words.replace(
            "diff transformer", "").replace("differential transformer", "")):
        wrong.append(named["no-names"])
    return wrong


def _plot_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, seeds, steps in (("3 seeds of 40 steps", 3, 40), ("4 seeds of 25 steps", 4, 25)):
        falling = 3.7 * np.exp(-np.arange(steps) / 15)
        runs = {name: falling + 0.1 * rng.standard_normal((seeds, steps)) + shift
                for name, shift in (("softmax", 0.3), ("diff", 0.25))}
        yield Case(label, {"runs": runs})


def _paired_problem(answer: Any, expected: Any) -> str | None:
    return difference(answer, expected, 1e-3, 1e-6)


TASKS = (
    Task("A3.1", "The block", "Block", 3, _block_cases, block, BLOCK_MISTAKES, probe=probe_block,
         rtol=1e-3, atol=1e-4),
    Task("A3.2", "How many numbers, with pencil and your own model", "my_parameters", 3,
         _count_cases, parameters, COUNT_MISTAKES, probe=value, rtol=0, atol=0.5),
    Task("A3.3", "The language model", "SmallModel", 4, _model_cases, language_model,
         MODEL_MISTAKES, probe=probe_model, judge=_judge_model),
    Task("A3.4", "A pair that starts alike", "make_pair", 4, _pair_cases, pair_of, PAIR_MISTAKES,
         probe=probe_pair, judge=_judge_pair),
    Task("A3.5", "Data that do not depend on the past", "batch", 3, _batch_cases, batches,
         BATCH_MISTAKES, probe=probe_batches, judge=_judge_batches),
    Task("A3.6", "A loop that can be stopped", "train", 6, _loop_cases, loop, LOOP_MISTAKES,
         _loop_symptom, probe=probe_loop, rtol=RTOL, atol=1e-4, group=1),
    Task("A3.7", "The paired difference and the verdict", "paired", 4, _paired_cases, paired,
         PAIRED_MISTAKES, _paired_symptom, compare=_paired_problem),
    Task("A3.8", "An honest plot", "plot", 4, _plot_cases, drawn, PLOT_MISTAKES, probe=probe_plot,
         judge=_judge_plot),
)
