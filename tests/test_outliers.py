"""diffbook.measure.outliers and quantization: Table 5's numbers and Fig. 8's rounding."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffbook import paper, records
from diffbook.experiments import outliers as experiment
from diffbook.experiments.outliers import BITS, OUTLIERS, QUANTIZATION, STEPS, held_out, scores
from diffbook.measure.outliers import (
    KINDS,
    TOP,
    attention_logits,
    causal_mask,
    changed_logits,
    hidden_states,
    magnitudes,
    outliers,
    visible_entries,
    without_offset,
)
from diffbook.measure.quantization import (
    GRANULARITIES,
    absmax_quantize,
    quantized_logits,
    rounded_logits,
)
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, paired_interval
from diffbook.tasks.needle import NeedleTask
from diffbook.tasks.text import TextTask

CONFIGS = {
    "softmax": {},
    "softmax_norm": {"headwise_norm": True},
    "softmax gqa": {"n_kv_heads": 2},
    "diff": {"attention": "diff"},
    "diff gqa": {"attention": "diff", "n_kv_heads": 2},
    "diff no norm": {"attention": "diff", "headwise_norm": False, "output_scale": False},
}


def tiny(kind: str = "diff") -> LanguageModel:
    return LanguageModel(ModelConfig(40, d_model=32, n_layers=2, n_heads=4, **CONFIGS[kind]))


def draw(batch: int = 3, seq: int = 12) -> Tensor:
    return torch.randint(40, (batch, seq), generator=torch.Generator().manual_seed(1))


def sharp(model: LanguageModel, factor: float) -> LanguageModel:
    """Logits times ``factor``."""
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q_proj.weight *= factor
    return model


# --- Intercepting the logits ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_changed_is_the_model_itself(kind):
    model, tokens = sharp(tiny(kind), 4), draw()
    plain = model(tokens)
    with quantized_logits(model, None):
        torch.testing.assert_close(model(tokens), plain, atol=1e-5, rtol=1e-5)
    with quantized_logits(model, 24, "row"):
        torch.testing.assert_close(model(tokens), plain, atol=1e-5, rtol=1e-5)
    with quantized_logits(model, None), quantized_logits(model, 24, center=True):
        torch.testing.assert_close(model(tokens), plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(tokens), plain)  # and it comes back
    assert not any("forward" in vars(block.attention) for block in model.blocks)


@pytest.mark.parametrize("kind", ["softmax", "diff"])
def test_the_model_comes_back_after_an_error_and_generates_inside(kind):
    model, tokens = tiny(kind), draw(1)
    plain = model.generate(tokens, 8, temperature=0)
    with quantized_logits(model, None):  # with its cache of keys
        assert torch.equal(model.generate(tokens, 8, temperature=0), plain)
    with pytest.raises(ZeroDivisionError):
        with quantized_logits(model, 2):
            1 / 0  # noqa: B018
    assert torch.equal(model.generate(tokens, 8, temperature=0), plain)


@torch.no_grad()
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_those_of_the_model_s_own_maps(kind):
    """Their softmax is what the layers' maps() returns, map 1 and 2 of head i at 2i and 2i + 1."""
    model, tokens = sharp(tiny(kind), 3), draw()
    for logits, maps in zip(
        attention_logits(model, tokens), model.attention_maps(tokens), strict=True
    ):
        assert logits.shape == (3, 4, 12, 12)
        found = logits.softmax(-1)
        wanted = maps if isinstance(maps, Tensor) else torch.stack(maps[:2], 2).flatten(1, 2)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert torch.equal(logits.isfinite(), causal_mask(12, 12).expand_as(logits))


def test_logits_by_hand():
    """One layer without positions' help: the first token's logit with itself is |q·k|/√d."""
    model = LanguageModel(ModelConfig(8, d_model=4, n_layers=1, n_heads=1))
    layer = model.blocks[0].attention
    with torch.no_grad():
        model.embedding.weight[3] = torch.tensor([2.0, 0, 0, 0])
        layer.q_proj.weight.copy_(torch.eye(4) * 5)
        layer.k_proj.weight.copy_(torch.eye(4) * 7)
    # RMSNorm makes of (2, 0, 0, 0) the vector (2, 0, 0, 0) of RMS 1: q = 10, k = 14, d = 4.
    logits, = attention_logits(model, torch.tensor([[3, 3]]))
    assert float(logits[0, 0, 0, 0]) == pytest.approx(70, rel=1e-4)
    assert logits[0, 0, 0, 1] == -math.inf
    # One step of rotation turns the first pair of channels by one radian.
    assert float(logits[0, 0, 1, 0]) == pytest.approx(70 * math.cos(1), rel=1e-4)


def test_hidden_states_are_the_layers_outputs():
    model, tokens = tiny(), draw()
    states = hidden_states(model, tokens)
    assert torch.equal(states[0], model.blocks[0](model.embedding(tokens), model.rope))
    assert torch.equal(model.head(model.norm(states[-1])), model(tokens))
    assert not any(block._forward_hooks for block in model.blocks)


# --- Magnitudes -----------------------------------------------------------------------------


def test_magnitudes_by_hand():
    values = torch.arange(-150.0, 51.0)  # 201 magnitudes: 150 … 51 once, 50 … 1 twice, 0 once
    found = magnitudes(values.view(3, 67))
    assert found.top == (150, 149, 148, 141, 51)
    assert found.median == 50
    assert found.ratio == 3
    with pytest.raises(ValueError, match="99 values have no 100 largest"):
        magnitudes(torch.ones(99))


def test_the_mask_is_no_outlier():
    logits = torch.randn(1, 1, 20, 20).masked_fill(~causal_mask(20, 20), -math.inf)
    assert visible_entries(logits).shape == (210,)
    magnitudes(visible_entries(logits))
    with pytest.raises(ValueError, match="not the mask"):
        magnitudes(logits)
    # A finite mask, as some code has it, would be the largest "logit": only the triangle counts.
    finite = logits.clamp(min=-1e9)
    assert magnitudes(finite).top[0] == 1e9
    assert magnitudes(visible_entries(finite)).top[0] < 10


def test_the_offset_of_a_row_by_hand():
    logits = torch.tensor([[1.0, -math.inf, -math.inf], [4, 8, -math.inf], [1, 2, 6]])
    mean = torch.tensor([[0.0, -math.inf, -math.inf], [-2, 2, -math.inf], [-2, -1, 3]])
    top = torch.tensor([[0.0, -math.inf, -math.inf], [-4, 0, -math.inf], [-5, -4, 0]])
    assert torch.equal(without_offset(logits), mean)
    assert torch.equal(without_offset(logits, by="max"), top)
    for changed in (mean, top):
        torch.testing.assert_close(changed.softmax(-1), logits.softmax(-1))
    with pytest.raises(ValueError, match="by='median'"):
        without_offset(logits, by="median")


@torch.no_grad()
def test_a_model_with_a_known_outlier():
    """One dimension of layer 1's output is driven to 500; nothing else."""
    model, tokens = tiny("softmax"), draw(8, 16)
    before = outliers(model, tokens)
    model.embedding.weight[tokens[0, 0], 5] += 500
    after = outliers(model, tokens)
    assert before.whole["hidden"].top[0] < 20
    for layer in after.layers["hidden"]:
        assert layer.top[0] == pytest.approx(500, rel=0.02)
    assert after.whole["hidden"].ratio > 20 * before.whole["hidden"].ratio
    # Every head of RMSNormed input stays bounded: the residual outlier is not a logit outlier.
    assert after.whole["logits"].top[0] < 5 * before.whole["logits"].top[0]


@torch.no_grad()
def test_outliers_take_every_visible_entry_of_every_layer_once():
    model, tokens = tiny(), draw(5, 16)
    found = outliers(model, tokens, rows=2)  # in unequal parts
    logits = torch.stack(attention_logits(model, tokens))
    flat = logits[:, :, :, causal_mask(16, 16)].flatten()
    assert found.whole["logits"].top[0] == pytest.approx(float(flat.abs().max()), rel=1e-5)
    assert found.whole["logits"].median == pytest.approx(float(flat.abs().median()), rel=1e-4)
    hidden = torch.cat(hidden_states(model, tokens)).abs().flatten()
    assert found.whole["hidden"].top[3] == pytest.approx(float(hidden.sort().values[-10]))
    for kind in KINDS:
        assert found.whole[kind].top[0] == max(layer.top[0] for layer in found.layers[kind])
        assert list(found.whole[kind].top) == sorted(found.whole[kind].top, reverse=True)
    rows = logits.masked_fill(~causal_mask(16, 16), math.nan).numpy()
    widest = np.nanmax(np.nanmax(rows, -1) - np.nanmin(rows, -1))
    assert found.whole["logits below maximum"].top[0] == pytest.approx(widest, rel=1e-5)
    share = 1 - np.nanvar(rows, -1) / np.nanmean(rows**2, -1)
    assert (np.array(found.offset) > 0).all() and (np.array(found.offset) < 1).all()
    assert min(share.min(), 0) == 0  # row by row the same identity holds


@torch.no_grad()
def test_an_offset_is_told_from_a_spread():
    """Two models with logits eight times as large: one attends as before, the other does not."""
    model, tokens = tiny("softmax"), draw(4, 24)
    plain, base = model(tokens), outliers(model, tokens).whole
    offset = 8 * base["logits"].top[0]

    def shift(_layer: int, logits: Tensor, _visible: Tensor) -> Tensor:
        return logits + offset

    kept: list[Tensor] = []
    with changed_logits(model, shift):
        torch.testing.assert_close(model(tokens), plain, atol=1e-5, rtol=1e-5)

        def keep(_layer: int, logits: Tensor, visible: Tensor) -> Tensor:
            kept.append(shift(_layer, logits, visible))
            return kept[-1]

        with changed_logits(model, keep):
            model(tokens)
    shifted = torch.stack(kept)
    assert magnitudes(visible_entries(shifted)).top[0] > 7 * base["logits"].top[0]
    seen = magnitudes(visible_entries(without_offset(shifted)))
    assert seen.top[0] == pytest.approx(base["logits without offset"].top[0], rel=1e-3)

    wide = outliers(sharp(model, 8), tokens).whole
    for kind in KINDS[:3]:
        assert wide[kind].top[0] > 4 * base[kind].top[0]


# --- Quantization ---------------------------------------------------------------------------


@pytest.mark.parametrize("x, bits, wanted", [
    ([7.0, -3.4, 0.4, -7.0], 4, [7, -3, 0, -7]),  # scale 1, values -7 … 7
    ([1.4, 0.7, -0.3, 0.0], 2, [1.4, 0, 0, 0]),  # -1.4, 0, 1.4; 0.5 rounds to even
    ([1.4, 0.71, -0.72, 0.1], 2, [1.4, 1.4, -1.4, 0]),
    ([6.0, 5.0, -2.9, -0.9], 3, [6, 4, -2, 0]),  # scale 2
    ([31.0, -30.6, 0.49], 6, [31, -31, 0]),
    ([0.0, 0.0], 4, [0, 0]),
])
def test_absmax_by_hand(x, bits, wanted):
    torch.testing.assert_close(absmax_quantize(torch.tensor(x), bits), torch.tensor(
        wanted, dtype=torch.float32))


def asymmetric(x: Tensor, bits: int) -> Tensor:
    """The variant with a zero point: 2^bits values from the smallest to the largest."""
    low = x.min()
    scale = (x.max() - low) / (2**bits - 1)
    return ((x - low) / scale).round() * scale + low


def test_absmax_is_symmetric():
    """Negated input, negated output, zero stays zero, at most 2^bits - 1 values: the variant with a
    zero point has none of that."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 3
    x[0] = 0
    for bits in (2, 3, 4, 6):
        out = absmax_quantize(x, bits)
        torch.testing.assert_close(absmax_quantize(-x, bits), -out)
        assert out[0] == 0
        values = (out / out.abs().max() * (2 ** (bits - 1) - 1)).round().unique()
        assert len(values) <= 2**bits - 1
        step = float(x.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((out - x).abs().max()) <= step / 2 * (1 + 1e-5)
    wrong = asymmetric(x, 4)
    assert wrong[0] != 0
    # On values with an offset it is finer: it must not be mistaken for ours.
    assert (wrong - x).square().mean() < 0.5 * (absmax_quantize(x, 4) - x).square().mean()


def test_granularity_by_hand():
    """Two maps of two rows, largest magnitudes 14, 7 and 3.5, 0.7."""
    x = torch.tensor([[[[14.0, 3.0], [7.0, 3.4]], [[3.5, 1.4], [0.7, 0.32]]]])  # (1, 2, 2, 2)
    wanted = {
        "tensor": [[[14, 4], [8, 4]], [[4, 2], [0, 0]]],  # step 2; 3.5 and 1.5 to even
        "head": [[[14, 4], [8, 4]], [[3.5, 1.5], [0.5, 0.5]]],  # steps 2 and 0.5
        "row": [[[14, 4], [7, 3]], [[3.5, 1.5], [0.7, 0.3]]],  # steps 2, 1, 0.5, 0.1
    }
    for name, dims in GRANULARITIES.items():
        torch.testing.assert_close(
            absmax_quantize(x, 4, dims), torch.tensor([wanted[name]], dtype=torch.float32))
    two = torch.cat((x, 10 * x))  # a second sequence keeps its own scale
    for dims in GRANULARITIES.values():
        torch.testing.assert_close(absmax_quantize(two, 4, dims)[:1], absmax_quantize(x, 4, dims))


@torch.no_grad()
def test_the_mask_is_not_quantized():
    visible = causal_mask(3, 3)
    logits = torch.tensor([[3.0, 0, 0], [1, 2, 0], [7, -3, 4.2]]).masked_fill(~visible, -math.inf)
    out = absmax_quantize(logits, 4, visible=visible)
    assert torch.equal(out[~visible], logits[~visible])
    assert torch.equal(out[visible], torch.tensor([3.0, 1, 2, 7, -3, 4]))
    # The wrong way: the mask takes part in the maximum. With a finite mask nothing is left of the
    # logits, with -inf nothing at all.
    finite = absmax_quantize(logits.clamp(min=-1e9), 4)
    assert (finite[visible] == 0).all()
    assert not absmax_quantize(logits, 4).isfinite().any()
    # In a model too: rows of the quantized map differ from an even one.
    model, tokens = sharp(tiny("softmax"), 6), draw()
    kept: list[Tensor] = []

    def keep(_layer: int, found: Tensor, seen: Tensor) -> Tensor:
        kept.append(absmax_quantize(found, 4, GRANULARITIES["tensor"], seen))
        return kept[-1]

    with changed_logits(model, keep):
        by_hand = model(tokens)
    with quantized_logits(model, 4):
        torch.testing.assert_close(model(tokens), by_hand)
    assert by_hand.isfinite().all()
    assert float(kept[0].softmax(-1)[..., -1, :].amax()) > 3 / 12


@torch.no_grad()
@pytest.mark.parametrize("kind", ["softmax", "diff"])
def test_fewer_bits_cost_more_and_a_finer_scale_costs_less(kind):
    model, tokens = sharp(tiny(kind), 6), draw(8, 32)
    plain = model(tokens)

    def error(bits: int, granularity: str) -> float:
        with quantized_logits(model, bits, granularity):
            return float((model(tokens) - plain).square().mean())

    for granularity in GRANULARITIES:
        found = [error(bits, granularity) for bits in (12, 8, 5, 3)]
        assert found == sorted(found)
        assert found[-1] > 100 * found[0] > 0
    assert error(5, "row") < error(5, "head") < error(5, "tensor")


@torch.no_grad()
def test_the_two_maps_of_diff_are_both_quantized():
    model, tokens = sharp(tiny("diff"), 6), draw()
    coarse = {}
    for chosen in (0, 1):

        def one(_layer: int, logits: Tensor, visible: Tensor, chosen: int = chosen) -> Tensor:
            logits = logits.clone()
            logits[:, chosen::2] = absmax_quantize(logits, 3, GRANULARITIES["tensor"], visible)[
                :, chosen::2]
            return logits

        with changed_logits(model, one):
            coarse[chosen] = model(tokens)
    with quantized_logits(model, 3):
        both = model(tokens)
    assert (both - coarse[0]).abs().max() > 1e-3 and (both - coarse[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["softmax", "diff"])
def test_an_offset_that_no_softmax_sees_is_exposed_by_quantization(kind):
    """The same model, the same attention; its logits stand on an offset of eight times their size.
    4 bits ruin it, and subtracting the offset first repairs it."""
    model, tokens = sharp(tiny(kind), 4), draw(4, 24)
    plain = model(tokens)
    largest = max(float(visible_entries(x).abs().max()) for x in attention_logits(model, tokens))

    def error(bits: int, *, offset: float, center: bool) -> float:
        def change(_layer: int, logits: Tensor, visible: Tensor) -> Tensor:
            logits = logits + offset
            logits = without_offset(logits) if center else logits
            return absmax_quantize(logits, bits, GRANULARITIES["tensor"], visible)

        with changed_logits(model, change):
            return float((model(tokens) - plain).square().mean())

    assert error(24, offset=8 * largest, center=False) < 1e-6
    ruined = error(4, offset=8 * largest, center=False)
    repaired = error(4, offset=8 * largest, center=True)
    assert ruined > 4 * repaired
    assert repaired == pytest.approx(error(4, offset=0, center=True), rel=0.2)
    with quantized_logits(model, 4, center=True):
        found = float((model(tokens) - plain).square().mean())
    assert found == pytest.approx(repaired, rel=0.2)


@torch.no_grad()
def test_logits_rounded_to_a_fixed_step():
    model, tokens = sharp(tiny("softmax"), 6), draw()
    logits = attention_logits(model, tokens)
    with rounded_logits(model, 0.5):
        found = model(tokens)
    assert (found - model(tokens)).abs().max() > 1e-3

    kept = []

    def keep(_layer: int, values: Tensor, _visible: Tensor) -> Tensor:
        kept.append((values / 0.5).round() * 0.5)
        return kept[-1]

    with changed_logits(model, keep):
        torch.testing.assert_close(model(tokens), found)
    assert float((visible_entries(kept[0]) - visible_entries(logits[0])).abs().max()) <= 0.25
    with rounded_logits(model, 1e-6):
        torch.testing.assert_close(model(tokens), model(tokens))
    for step in (0, -1, math.nan):
        with pytest.raises(ValueError, match="positive number of nats"):
            with rounded_logits(model, step):
                pass


@pytest.mark.parametrize("arguments, message", [
    ((1,), "bits=1: give at least 2"), ((4, "column"), "granularity='column': choose tensor"),
])
def test_bad_quantization(arguments, message):
    with pytest.raises(ValueError, match=message):
        with quantized_logits(tiny(), *arguments):
            pass
    with pytest.raises(ValueError, match="at least 2"):
        absmax_quantize(torch.ones(2), 1)


# --- The experiments ------------------------------------------------------------------------


def small(task: TextTask | NeedleTask, kind: str) -> LanguageModel:
    return LanguageModel(
        ModelConfig(task.vocab_size, d_model=16, n_layers=2, n_heads=2, attention=kind))


@pytest.mark.parametrize("task", [TextTask(seq_len=32), NeedleTask()], ids=["text", "needle"])
def test_what_is_measured(task, monkeypatch):
    for name, value in (("TOKENS", 256), ("ROWS", 2), ("SEQUENCES", 8)):
        monkeypatch.setattr(experiment, name, value)
    for kind in ("softmax", "diff"):
        model = small(task, kind).eval()
        numbers = experiment.measure(model, task)
        assert all(math.isfinite(x) for x in numbers.values() if not isinstance(x, list))
        assert {claim.measure for claim in OUTLIERS.claims} <= numbers.keys()
        for kind_ in KINDS:
            assert [numbers[f"{kind_} top-{k}"] for k in TOP] == sorted(
                (numbers[f"{kind_} top-{k}"] for k in TOP), reverse=True)
            assert len(numbers[f"{kind_} top-1 by layer"]) == 2
        with quantized_logits(model, 3, "row"):
            now = scores(model, task)
        assert numbers["loss rise row 3"] == pytest.approx(now.loss - numbers["loss"])
        assert numbers["accuracy drop row 3"] == pytest.approx(numbers["accuracy"] - now.accuracy)
        assert numbers["loss rise tensor 8"] == pytest.approx(0, abs=0.01)
        assert {f"loss rise step {step}" for step in STEPS} <= numbers.keys()
        assert {f"loss rise {g} {b}" for g in GRANULARITIES for b in BITS} <= numbers.keys()


def test_scores_are_the_task_s_own():
    """Another way to the same numbers: the tasks' evaluate on the same sequences."""
    needle = NeedleTask()
    model = small(needle, "diff").eval()
    found = scores(model, needle)
    batch = needle.sample(experiment.SEQUENCES, torch.Generator().manual_seed(6_000_011))
    with torch.no_grad():
        logits = model(batch.tokens)
    rows = torch.arange(len(batch.tokens))[:, None]
    choice = logits[rows, batch.query_positions].argmax(-1)
    assert found.accuracy == pytest.approx(float((choice == batch.answers).double().mean()))
    text = TextTask(seq_len=64, eval_windows=experiment.ROWS)
    model = small(text, "softmax").eval()
    assert torch.equal(held_out(text, experiment.ROWS)[0, :-1], text._windows(
        "validation", text.eval_starts())[0][0])
    assert scores(model, text).loss == pytest.approx(text.evaluate(model)["loss"], rel=1e-5)


def test_the_experiments_begin_with_trained_models():
    for entry, source in ((OUTLIERS, "lm"), (QUANTIZATION, "multineedle")):
        for name, preset in entry.presets.items():
            assert preset.train is None and preset.start == f"{source}-{name}"
        paper_text = " ".join(claim.paper for claim in entry.claims)
        table, figure = paper.load("table5"), paper.load("fig8")
        for number in (table["softmax_logits"][0], table["diff_hidden"][0]):
            assert str(number) in paper_text
        lost = figure["diff"][0] - figure["diff"][figure["bits"].index(4)]
        assert f"{lost:.1f}" in paper_text


def test_sixteen_bits_are_as_good_as_none():
    """The paper calls 16 bits "not quantized"; a trained model agrees."""
    model = records.model("lm-cpu/diff-0")
    task = replace(OUTLIERS.presets["cpu"].task, seq_len=64)
    plain = scores(model, task)
    with quantized_logits(model, 16):
        assert scores(model, task).loss == pytest.approx(plain.loss, abs=1e-3)


# --- Chapter 15 -----------------------------------------------------------------------------

CHAPTER = Path(__file__).parent.parent / "book" / "15_outliers.ipynb"


def prose() -> str:
    cells = json.loads(CHAPTER.read_text())["cells"]
    text = "".join("".join(c["source"]) + "\n\n" for c in cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


def test_the_chapter_s_numbers_of_the_paper():
    text, table, figure = prose(), paper.load("table5"), paper.load("fig8")
    largest = {kind: table[f"{kind}_logits"][0] for kind in ("softmax", "diff")}
    four = figure["bits"].index(4)
    median = table["softmax_logits"][table["columns"].index("median")]
    assert f"A logit of {largest['softmax']:.0f} where the median one is {median}" in text
    ratio = largest["softmax"] / largest["diff"]
    assert 7.5 < ratio < 8.5 and "eight times smaller" in text
    assert math.log2(ratio) == pytest.approx(3, abs=0.1) and "worth three bits" in text
    assert f"the Transformer falls to {figure['softmax'][four]} %" in text
    assert f"DIFF still has {figure['diff'][four]} %" in text
    # Fig. 8 against the step: below 2 next to nothing, near 5 DIFF loses more.
    points = {
        kind: [(largest[kind] / (2 ** (b - 1) - 1), figure[kind][0] - score)
               for b, score in list(zip(figure["bits"], figure[kind], strict=True))[1:]]
        for kind in largest
    }
    assert all(lost < 1 for both in points.values() for step, lost in both if step < 2)
    (step, lost), = [p for p in points["diff"] if p[0] > 2]
    assert 5 < step < 6
    low, high = [p for p in points["softmax"] if p[0] < 20]  # 8 and 6 bits, around it
    (low, high) = sorted((low, high))
    assert low[0] < step < high[0] and lost > max(low[1], high[1])


def test_the_chapter_s_gaps():
    def gap(n: int, rest: float) -> float:
        return math.log((n - 1) * (1 - rest) / rest)

    row = torch.zeros(4096, dtype=torch.float64)
    row[0] = gap(4096, 1e-4)
    assert 1 - float(row.softmax(0)[0]) == pytest.approx(1e-4)
    text = prose()
    assert f"{gap(4096, 1e-4):.1f} nats silence all others" in text
    assert f"one in a million takes only {gap(4096, 1e-6):.0f}" in text
    assert f"is {gap(10**6, 1e-3):.1f} nats" in text
    assert f"{math.log(2):.2f}$" in text


def test_the_chapter_s_verdicts_are_the_records():
    text = prose()
    lm, needle = records.load("outliers-cpu"), records.load("quantization-cpu")

    def verdict(record: records.Record, measure: str) -> str:
        return record.paired(measure).verdict("lower")

    both = (lm, needle)
    assert {verdict(r, "logits top-1") for r in both} == {NO_DIFFERENCE}
    assert '"A smaller largest logit": no difference at this scale,** on either task' in text
    share = [r.paired("logits top-1").mean / r.values("softmax", "logits top-1").mean()
             for r in both]
    assert -0.22 < share[0] < -0.17 and share[0] < share[1] < 0  # a fifth, and less
    for part in ("logits", "logits without offset"):
        assert lm.paired(f"{part} top-1").mean < 0
    assert lm.paired("logits without offset top-1").mean > lm.paired("logits top-1").mean
    assert verdict(lm, "hidden top-1") == NO_DIFFERENCE
    assert verdict(needle, "hidden top-1") == CONTRADICTED
    assert "no difference at this scale on text, contradicted on needles" in text

    assert {verdict(r, "accuracy drop tensor 4") for r in both} == {NO_DIFFERENCE}
    assert '"Less lost at 4 bits": no difference at this scale' in text
    for kind in ("softmax", "diff"):
        assert (needle.values(kind, "accuracy drop tensor 4") == 0).all()
        assert 0.02 < lm.values(kind, "accuracy drop tensor 4").mean() < 0.1
    assert lm.paired("accuracy drop tensor 4").mean > 0  # DIFF rather more

    for record, steps in ((lm, (1, 2, 4)), (needle, (4, 8))):
        for step in steps:
            assert verdict(record, f"loss rise step {step}") == CONTRADICTED
    assert "clear at steps of 1, 2 and 4 nats, on needles at 4 and 8" in text

    # A finer scale is not always better.
    finer = [needle.values("softmax", f"accuracy drop {name} 2") for name in ("row", "tensor")]
    assert paired_interval(finer[0] - finer[1])[0] > 0
    finer = [needle.values("diff", f"accuracy drop {name} 2") for name in ("row", "tensor")]
    assert finer[0].mean() < finer[1].mean()

    assert needle.paired("logits top-1", "softmax_norm", "softmax").low > 0
    assert needle.paired("logits top-1", "diff", "softmax_norm").high < 0
    means = {kind: needle.values(kind, "logits top-1").mean() for kind in needle.variants}
    assert 0.4 < means["diff"] / means["softmax_norm"] < 0.6  # about half
    assert needle.values("softmax_norm", "accuracy").mean() < 0.9


def test_the_chapter_says_what_the_live_models_do():
    """Step 5 and 6 in words: granularity beats the model at 4 bits, two maps have two errors."""
    text = TextTask(seq_len=256)
    windows = held_out(text, 4)
    loss = {}
    for kind in ("softmax", "diff"):
        model = records.model(f"lm-cpu/{kind}-0")
        with torch.no_grad():
            loss[kind, None] = float(model(windows[:, :-1], windows[:, 1:]))
            for name in GRANULARITIES:
                with quantized_logits(model, 4, name):
                    loss[kind, name] = float(model(windows[:, :-1], windows[:, 1:]))
            errors = []
            for i, exact in enumerate(attention_logits(model, windows[:, :-1])):
                maps = [exact.softmax(-1), (2 * (exact / 2).round()).softmax(-1)]
                if kind == "diff":
                    lam = model.lambdas()[i]
                    maps = [m[:, 0::2] - lam * m[:, 1::2] for m in maps]
                errors.append(float((maps[1] - maps[0]).norm() / maps[0].norm()))
            loss[kind, "errors"] = errors
    rise = {k: v - loss[k[0], None] for k, v in loss.items() if isinstance(v, float)}
    for kind in ("softmax", "diff"):
        between_models = abs(rise["diff", "tensor"] - rise["softmax", "tensor"])
        assert rise[kind, "tensor"] - rise[kind, "row"] > 2 * between_models
    worse = [d > s for d, s in zip(loss["diff", "errors"], loss["softmax", "errors"], strict=True)]
    assert sum(worse) == 3  # "in most layers"


def test_exercise_two_clipping_makes_four_bits_enough():
    """4 bits of what is left above -10 nats cost the live Transformer a tenth of plain absmax."""
    model, windows = records.model("lm-cpu/softmax-0"), held_out(TextTask(seq_len=256), 4)

    def loss() -> float:
        with torch.no_grad():
            return float(model(windows[:, :-1], windows[:, 1:]))

    def clipped(_layer: int, x: Tensor, visible: Tensor) -> Tensor:
        x = without_offset(x, by="max").clamp(min=-10) + 5
        x = absmax_quantize(x, 4, GRANULARITIES["tensor"], visible)
        return x.masked_fill(~visible, -math.inf)

    plain = loss()
    with changed_logits(model, clipped):
        rise = loss() - plain
    with quantized_logits(model, 4):
        assert 0 <= rise < 0.1 * (loss() - plain)
    assert rise < 0.01
