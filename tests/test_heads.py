"""diffbook.measure.heads: heads that are silenced, compared and given a λ of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffbook.attention import DiffMaps, MultiheadDiffAttention
from diffbook.measure.heads import (
    HeadOutputs,
    head_cka,
    head_importance,
    head_outputs,
    linear_cka,
    map_cosines,
    own_lambda,
    without_head,
)
from diffbook.model import LanguageModel, ModelConfig

CONFIGS = {
    "softmax": {},
    "softmax_norm": {"headwise_norm": True},
    "diff": {"attention": "diff"},
    "no norm": {"attention": "diff", "headwise_norm": False},
    "no factor": {"attention": "diff", "output_scale": False},
}


def tiny(kind: str = "diff") -> LanguageModel:
    return LanguageModel(ModelConfig(40, d_model=32, n_layers=3, n_heads=4, **CONFIGS[kind]))


def tokens(batch: int = 2, seq: int = 9) -> torch.Tensor:
    return torch.randint(40, (batch, seq), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_head_outputs_are_the_maps_times_the_values(kind):
    """The independent way: maps() and W^V, then the norm and the factor by hand."""
    model, x = tiny(kind), tokens()
    hidden = model.embedding(x)
    for block, got, maps in zip(model.blocks, head_outputs(model, x), model.attention_maps(x)):
        layer = block.attention
        a = maps.difference if isinstance(maps, DiffMaps) else maps
        v = layer.v_proj(block.attention_norm(hidden)).unflatten(-1, (layer.n_heads, -1))
        before = a @ v.transpose(1, 2)
        after = before
        if layer.head_norm is not None:
            after = before / (before.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        if kind in ("diff", "no norm"):
            after = after * (1 - layer.lambda_init)
        torch.testing.assert_close(got.before, before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.after, after, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            got.rms(), before.double().square().mean(-1).sqrt(), atol=1e-5, rtol=1e-4
        )
        hidden = block(hidden, model.rope)
    assert not any(block.attention.o_proj._forward_pre_hooks for block in model.blocks)


def test_silencing_a_head_leaves_its_mean_and_the_other_heads():
    model, x = tiny(), tokens()
    whole = head_outputs(model, x)[1].after
    with without_head(model, 1, 0):
        before = head_outputs(model, x)[1].after  # hooks run in order: the silenced one first
    assert torch.allclose(before[:, 1], whole[:, 1])
    expected = whole[:, 0].mean((0, 1)).expand_as(whole[:, 0])
    torch.testing.assert_close(before[:, 0], expected)
    torch.testing.assert_close(head_outputs(model, x)[1].after, whole)  # and it comes back


def test_a_head_that_wo_does_not_read_is_worth_nothing():
    model, x = tiny("softmax"), tokens(4)
    with torch.no_grad():
        model.blocks[2].attention.o_proj.weight[:, 8:16] = 0  # head 1 of 4, 8 wide
    worth = head_importance(model, x[:, :-1], x[:, 1:])
    assert worth.shape == (3, 4)
    assert worth[2, 1] == 0
    assert (worth[[0, 1, 2], [0, 3, 2]] != 0).all()


def test_silencing_names_a_head_that_does_not_exist():
    with pytest.raises(ValueError, match=r"layer=0, head=2.*heads 0 to 1"):
        with without_head(tiny(), 0, 2):
            pass


def test_own_lambda_equal_for_all_heads_is_the_shared_one_and_its_gradients_add_up():
    model, x = tiny(), tokens(4)
    layer = model.blocks[1].attention
    inputs, targets = x[:, :-1], x[:, 1:]
    loss = model(inputs, targets)
    lam = layer.lam().detach().expand(2).clone().requires_grad_()
    with own_lambda(model, 1, lam):
        same = model(inputs, targets)
    torch.testing.assert_close(same, loss)
    by_head, = torch.autograd.grad(same, lam)
    # dλ/dλq1 = exp(λq1·λk1) λk1, so the shared gradient follows from that of λq1.
    shared, = torch.autograd.grad(loss, layer.lambda_q1)
    factor = (layer.lambda_q1 @ layer.lambda_k1).exp() * layer.lambda_k1
    torch.testing.assert_close(by_head.sum() * factor, shared, atol=1e-7, rtol=1e-3)
    assert layer.lam().ndim == 0  # the shared λ is back


def test_own_lambda_changes_its_own_head_only():
    model, x = tiny(), tokens()
    whole = head_outputs(model, x)[0].after
    lam = model.blocks[0].attention.lam().detach()
    with own_lambda(model, 0, torch.stack((lam, lam + 0.5))):
        changed = head_outputs(model, x)[0].after
    assert torch.equal(changed[:, 0], whole[:, 0])
    assert not torch.allclose(changed[:, 1], whole[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "layer", "lam", "message"),
    [
        ("softmax", 0, torch.ones(2), "no differential layer"),
        ("diff", 3, torch.ones(2), "layer=3"),
        ("diff", 0, torch.ones(3), r"lam \(3,\)"),
    ],
)
def test_own_lambda_says_what_is_wrong(kind, layer, lam, message):
    with pytest.raises(ValueError, match=message):
        with own_lambda(tiny(kind), layer, lam):
            pass


def test_cosines_of_maps_by_hand():
    even = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    own = torch.eye(2)
    maps = torch.stack((even, first, own))[None]
    cosines = map_cosines(maps)
    # even·first = 1 + 0.5, lengths sqrt(1.5) and sqrt(2); first·own = 1.
    assert cosines[0, 1] == pytest.approx(1.5 / (1.5 * 2) ** 0.5)
    assert cosines[1, 2] == pytest.approx(0.5)
    torch.testing.assert_close(cosines.diagonal(), torch.ones(3).double())
    # Without the floor, even has nothing left, first and own are opposite.
    flat = map_cosines(maps, floor=False)
    assert flat[0, 1] == 0
    assert flat[1, 2] == pytest.approx(-1)


def test_unrelated_softmax_maps_look_alike_only_through_their_floor():
    scores = torch.randn(4, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    hidden = ~torch.ones(64, 64, dtype=torch.bool).tril()
    maps = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    assert map_cosines(maps)[0, 1] > 0.4
    assert abs(map_cosines(maps, floor=False)[0, 1]) < 0.05


def test_cka_ignores_rotation_and_scale_and_sees_unrelated_features():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=draw)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw))
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, torch.randn(500, 6, generator=draw)) < 0.05
    # A map that is no rotation is seen: CKA is not invariant to every linear map.
    assert linear_cka(x, x * torch.tensor([10.0, 1, 1, 1, 1, 1])) < 0.8
    with pytest.raises(ValueError, match="same samples"):
        linear_cka(x, x[:-1])


def test_head_cka_compares_heads_over_all_positions():
    outputs = torch.randn(2, 3, 200, 5, generator=torch.Generator().manual_seed(0))
    outputs[:, 2] = -2 * outputs[:, 0]
    cka = head_cka(HeadOutputs(outputs, outputs))
    assert cka[0, 2] == pytest.approx(1)
    assert cka[0, 1] < 0.1


def test_a_normed_head_does_not_see_the_length_of_its_values():
    """What the headwise norm does to W^V: its gradient stands at right angles to it."""
    model, x = tiny(), tokens(4)
    for block in model.blocks:
        layer: MultiheadDiffAttention = block.attention
        weight = layer.v_proj.weight
        grad, = torch.autograd.grad(model(x[:, :-1], x[:, 1:]), weight)
        pairs = zip(grad.unflatten(0, (2, -1)), weight.unflatten(0, (2, -1)))
        for g, w in pairs:
            assert abs(F.cosine_similarity(g.flatten(), w.flatten(), dim=0)) < 1e-3
