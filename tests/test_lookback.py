"""Attention on the right value: positions, shares, and what they tell about wrong answers."""

from __future__ import annotations

import math

import pytest
import torch

from diffbook.attention import DiffMaps
from diffbook.measure.lookback import auc, lookback, share_on_value, value_positions
from diffbook.model import LanguageModel, ModelConfig
from diffbook.tasks.faithful import FaithfulTask

TASK = FaithfulTask(words=10, unanswerable=0.4)


def net(attention: str) -> LanguageModel:
    return LanguageModel(ModelConfig(TASK.vocab_size, 32, 2, 4, attention=attention)).eval()


def test_positions_point_at_the_answer():
    documents = TASK.sample(50, torch.Generator().manual_seed(0))
    where = value_positions(TASK, documents)
    unsaid = documents.answers == TASK.NOT_STATED
    assert unsaid.any() and torch.equal(where == -1, unsaid)
    for row, question in (~unsaid).nonzero().tolist():
        at, line = int(where[row, question]), documents.tokens[row]
        name, attribute = documents.asked[row, question].tolist()
        assert line[at - 2 : at + 1].tolist() == [
            TASK.first_name + name, TASK.first_attribute + attribute,
            int(documents.answers[row, question])]
        assert at < TASK.document_len


@pytest.mark.parametrize("attention", ["softmax", "diff"])
def test_shares_read_off_one_by_one(attention):
    model = net(attention)
    documents = TASK.sample(5, torch.Generator().manual_seed(1))
    found = share_on_value(model, TASK, documents, rows=2)
    heads = 4 if attention == "softmax" else 2
    assert found.shape == (2, heads, 5, TASK.n_questions)
    where = value_positions(TASK, documents)
    with torch.no_grad():
        maps = model.attention_maps(documents.tokens)
    for layer in range(2):
        a = maps[layer]
        if isinstance(a, DiffMaps):
            a = a.a1 - a.lam * a.a2
        for row in range(5):
            for question in range(TASK.n_questions):
                line = a[row, :, documents.query_positions[row, question]].abs()
                at = int(where[row, question])
                for head in range(heads):
                    share = found[layer, head, row, question]
                    if at == -1:
                        assert share.isnan()
                    else:
                        expected = float(line[head, at] / line[head].sum())
                        assert float(share) == pytest.approx(expected, rel=1e-4)


def test_uniform_attention_knows_nothing():
    model = net("softmax")
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q_proj.weight.zero_()
    documents = TASK.sample(4, torch.Generator().manual_seed(1))
    found = share_on_value(model, TASK, documents)
    even = 1 / (documents.query_positions + 1.0)
    stated = ~found.isnan()
    torch.testing.assert_close(found[stated], even.expand_as(found)[stated])
    looked = lookback(model, TASK, n=100)
    assert looked.n_right + looked.n_wrong == 400 and looked.n_wrong > 300
    assert looked.auc == pytest.approx(0.5, abs=0.12)
    assert looked.right == pytest.approx(looked.wrong, rel=0.05)


def test_area_under_the_curve_by_hand():
    assert auc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])) == 0.75
    assert auc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5
    assert auc(torch.tensor([5.0, 6.0]), torch.tensor([1.0, 2.0, 3.0])) == 1.0
    assert math.isnan(auc(torch.tensor([1.0]), torch.tensor([])))
