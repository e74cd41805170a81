"""diffbook.measure.flops against torch's own counter, real caches and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import diffbook.attention
from diffbook.attention import (
    KVCache,
    diff_attention,
    diff_attention_reference,
    softmax_attention_map,
    softmax_attention_reference,
)
from diffbook.measure.flops import ROUTES, cache_bytes, forward_flops
from diffbook.model import LanguageModel, ModelConfig, count_parameters

SOFTMAX = ModelConfig(53, d_model=48, n_layers=3, n_heads=4, d_ff=80, max_seq_len=64)
DIFF = replace(SOFTMAX, attention="diff")
CONFIGS = {
    "softmax": SOFTMAX,
    "diff": DIFF,
    "softmax GQA": replace(SOFTMAX, n_kv_heads=2),
    "diff GQA": replace(DIFF, n_kv_heads=2),
    "diff tied": replace(DIFF, tie_embeddings=True),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def counted(run: Callable[[], object]) -> dict[str, int]:
    """Operations by kind of product. Fused attention is unfolded: on a CPU, the counter does not
    know the fused kernel and would count nothing."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return {str(op): number for op, number in counter.get_flop_counts()["Global"].items()}


def total(run: Callable[[], object]) -> int:
    return sum(counted(run).values())


def draw(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(53, (batch, seq), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models compute eq. (1) as it is written: subtract, then one product with V."""
    monkeypatch.setattr(diffbook.attention, "diff_attention", diff_attention_reference)
    monkeypatch.setattr(diffbook.attention, "softmax_attention", softmax_attention_reference)


def test_attention_core_of_the_pair_and_of_each_route():
    """4 baseline heads of 12 against 2 differential ones with values of 24, 40 positions."""
    q, k, v = torch.randn(3, 2, 4, 40, 12).unbind(0)
    q1, k1, q2, k2 = torch.randn(4, 2, 2, 40, 12).unbind(0)
    wide = torch.randn(2, 2, 40, 24)
    width, unit = 48, 2 * 2 * 40 * 40 * 48
    one_layer = replace(SOFTMAX, n_layers=1)
    baseline = forward_flops(one_layer, 40, batch=2)
    assert baseline.core == total(lambda: softmax_attention_reference(q, k, v)) == 2 * unit

    def two_products() -> None:
        o1, o2 = softmax_attention_map(q1, k1) @ wide, softmax_attention_map(q2, k2) @ wide
        assert (o1 - 0.5 * o2).shape[-1] == width // 2

    real = {
        "subtract": total(lambda: diff_attention_reference(q1, k1, q2, k2, wide, 0.5)),
        "twice": total(two_products),
        "padded": total(lambda: diff_attention(q1, k1, q2, k2, wide, 0.5)),
    }
    assert real == {"subtract": 2 * unit, "twice": 3 * unit, "padded": 4 * unit}
    assert set(real) == set(ROUTES)
    for route, number in real.items():
        formula = forward_flops(replace(one_layer, attention="diff"), 40, batch=2, route=route)
        assert formula.core == number, route


@configs
def test_whole_model_part_by_part(config, by_definition):
    model, tokens = LanguageModel(config), draw(2, 20)
    formula, found = forward_flops(config, 20, batch=2), counted(lambda: model(tokens))
    assert found == {"aten.bmm": formula.core,
                     "aten.mm": formula.projections + formula.ffn + formula.output}
    count = count_parameters(model)
    assert formula.projections == 2 * 40 * count["attention"]
    assert formula.ffn == 2 * 40 * count["ffn"]
    assert formula.output == 2 * 40 * 53 * 48
    assert formula.total == sum(found.values())


def test_the_packages_own_route_is_padded():
    model, tokens = LanguageModel(DIFF), draw(1, 20)
    assert total(lambda: model(tokens)) == forward_flops(DIFF, 20, route="padded").total
    assert total(lambda: model(tokens)) > forward_flops(DIFF, 20, route="twice").total


def test_pair_is_equal_by_definition_and_the_square_takes_over_at_six_widths():
    assert forward_flops(SOFTMAX, 30) == forward_flops(DIFF, 30)
    gqa = (CONFIGS["softmax GQA"], CONFIGS["diff GQA"])
    assert forward_flops(gqa[0], 30) == forward_flops(gqa[1], 30)
    assert forward_flops(gqa[0], 30).projections < forward_flops(SOFTMAX, 30).projections
    # With a SwiGLU of 8/3: 24 d_model² a token in the matrices, 4 seq d_model in the core.
    config = ModelConfig(8, d_model=96, n_layers=5, n_heads=4)
    flops = forward_flops(config, 6 * 96)
    assert flops.core == flops.projections + flops.ffn
    assert forward_flops(config, 12 * 96).core == 4 * flops.core


@pytest.mark.parametrize("config", [SOFTMAX, DIFF], ids=["softmax", "diff"])
def test_training_takes_three_times_the_forward_pass(config, by_definition):
    model, tokens = LanguageModel(config), draw(2, 17)
    step = total(lambda: model(tokens[:, :-1], tokens[:, 1:]).backward())
    assert step == 3 * forward_flops(config, 16, batch=2).total


@configs
def test_a_cached_token_costs_one_row_of_the_rectangle(config, by_definition):
    model, tokens = LanguageModel(config), draw(2, 12)
    caches = [KVCache() for _ in model.blocks]
    prompt = total(lambda: model(tokens[:, :8], caches=caches))
    assert prompt == forward_flops(config, 8, batch=2).total
    for seen in range(8, 12):
        step = total(lambda at=seen: model(tokens[:, at : at + 1], caches=caches))
        assert step == forward_flops(config, 1, context=seen + 1, batch=2).total
    # All tokens one by one: the same matrices, and the lower triangle of the square.
    rows = [forward_flops(config, 1, context=n) for n in range(1, 13)]
    square = forward_flops(config, 12)
    assert sum(row.total - row.core for row in rows) == square.total - square.core
    assert sum(row.core for row in rows) * 12 * 2 == square.core * 13


@configs
def test_cache_bytes_are_those_of_a_real_cache(config):
    model = LanguageModel(config)
    caches = [KVCache() for _ in model.blocks]
    model(draw(3, 7), caches=caches)
    kept = sum(t.numel() * t.element_size() for c in caches for t in (c.k, c.v))
    assert kept == cache_bytes(config, 7, batch=3)
    assert kept == 7 * cache_bytes(config, batch=3) == 2 * cache_bytes(
        config, 7, batch=3, bytes_per_number=2)
    same = replace(config, attention="softmax" if config.attention == "diff" else "diff")
    assert cache_bytes(config) == cache_bytes(same)


def test_the_papers_3b_configuration_by_hand():
    """Table 9: 28 layers of 3072, SwiGLU 8192, vocabulary 100,288; 24 heads of 128."""
    config = ModelConfig(100_288, 3072, 28, 24, attention="diff", d_ff=8192)
    flops = forward_flops(config, 4096)
    assert flops.projections + flops.ffn == 2 * 4096 * 28 * (4 * 3072**2 + 3 * 3072 * 8192)
    assert flops.output == 2 * 4096 * 3072 * 100_288
    assert flops.core == 4 * 28 * 4096**2 * 3072
    assert cache_bytes(config, bytes_per_number=2) == 344_064
    assert asdict(flops).keys() == {"projections", "scores", "values", "ffn", "output"}


@pytest.mark.parametrize("config, settings, message", [
    (DIFF, {"seq": 0}, "seq=0: give a whole number of at least 1"),
    (DIFF, {"seq": 4, "batch": -1}, "batch=-1: give a whole number"),
    (DIFF, {"seq": 4, "context": 3}, "context=3 counts the seq=4 new tokens too"),
    (DIFF, {"seq": 4, "route": "thrice"}, "route='thrice' is not known: choose one of subtract"),
    (SOFTMAX, {"seq": 4, "route": "twice"}, "route='twice' is for attention=\"diff\""),
])
def test_bad_sizes_and_routes_are_named(config, settings, message):
    with pytest.raises(ValueError) as error:
        forward_flops(config, **settings)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="bytes_per_number=0: give a whole number"):
        cache_bytes(config, bytes_per_number=0)
