"""diffbook.measure.gradients: norms by group and by map, against autograd and closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffbook.measure.gradients import GROUPS, draw_normal, gradient_norms, map_gradient_norms
from diffbook.model import LanguageModel, ModelConfig, pair

BASE = ModelConfig(40, d_model=32, n_layers=2, n_heads=4)


def data(batch: int = 4, seq: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randint(40, (batch, seq), generator=draw), torch.randint(
        40, (batch, seq), generator=draw
    )


def test_groups_cover_every_matrix_once():
    for model in pair(BASE):
        for name, weight in model.named_parameters():
            hits = [g for g, endings in GROUPS.items() if name.endswith(endings)]
            assert len(hits) == (0 if weight.ndim == 1 and "lambda" not in name else 1), name


def test_norms_are_those_of_backward():
    softmax, diff = pair(BASE)
    x, y = data()
    norms = gradient_norms(diff, x, y)
    assert all(weight.grad is None for weight in diff.parameters())
    diff(x, y).backward()
    wo = [block.attention.o_proj.weight.grad.flatten() for block in diff.blocks]
    assert norms["wo"] == pytest.approx(float(torch.cat(wo).norm()), rel=1e-5)
    assert set(norms) == set(GROUPS)
    assert set(gradient_norms(softmax, x, y)) == set(GROUPS) - {"lambda"}


def test_frozen_lambda_has_no_gradient_group():
    model = LanguageModel(replace(BASE, attention="diff", learn_lambda=False))
    assert "lambda" not in gradient_norms(model, *data())


def test_the_two_maps_add_up_to_wq_and_wk():
    model = LanguageModel(replace(BASE, attention="diff"))
    by_map = map_gradient_norms(model, *data())
    assert by_map.shape == (2, 2, 2)
    total = gradient_norms(model, *data())["wq, wk"]
    assert float(by_map.square().sum().sqrt()) == pytest.approx(total, rel=1e-5)


def test_gradient_of_the_second_map_is_lambda_times_the_first():
    """With equal halves in W^Q and W^K the two maps are equal, and the ratio is |λ| exactly."""
    model = LanguageModel(replace(BASE, attention="diff", n_layers=3))
    with torch.no_grad():
        for block in model.blocks:
            for weight in (block.attention.q_proj.weight, block.attention.k_proj.weight):
                halves = weight.unflatten(0, (-1, 2, 8))
                halves[:, 1] = halves[:, 0]
    by_map = map_gradient_norms(model, *data())
    ratio = by_map[:, 1] / by_map[:, 0]  # (layers, 2)
    expected = torch.tensor(model.lambdas()).abs().double()[:, None].expand(-1, 2)
    torch.testing.assert_close(ratio, expected, atol=0, rtol=1e-4)


def test_map_norms_need_two_maps():
    with pytest.raises(ValueError, match="one map"):
        map_gradient_norms(LanguageModel(BASE), *data())


def test_drawing_anew_keeps_the_pair_matched_and_lambda_as_it_was():
    softmax, diff = pair(BASE)
    lambdas = diff.lambdas()
    draw_normal(softmax, 0.02, seed=5)
    draw_normal(diff, 0.02, seed=5)
    common = dict(softmax.named_parameters())
    for name, weight in diff.named_parameters():
        if name in common:
            assert torch.equal(weight, common[name]), name
    assert diff.lambdas() == lambdas
    weights = torch.cat([w.flatten() for w in softmax.parameters() if w.ndim == 2])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.02)
    with pytest.raises(ValueError, match="std=0"):
        draw_normal(diff, 0.0, seed=0)
