"""InContextTask: demonstrations, their order, the best possible answer, and models that cheat."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffbook.model import IGNORE, LanguageModel, ModelConfig
from diffbook.tasks.in_context import Demonstrations, InContextTask
from diffbook.train import TrainConfig, train

TASK = InContextTask()


def draw(task: InContextTask = TASK, n: int = 64, seed: int = 0) -> Demonstrations:
    return task.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", [
    TASK, InContextTask(noise=0), InContextTask(shots=1), InContextTask(n_classes=12, shots=100),
    InContextTask(n_items=1, n_groups=2, n_labels=2, n_classes=2, noise=0.9),
])
def test_the_layout_read_back_token_by_token(task):
    drawn = draw(task)
    assert drawn.tokens.shape == (64, task.seq_len) and drawn.tokens.dtype == torch.int64
    assert int(drawn.tokens.max()) < task.vocab_size
    for row in range(16):
        tokens = drawn.tokens[row].tolist()
        assert tokens[0] == task.BOS
        items, labels = tokens[1::2], tokens[2::2]
        assert all(1 <= item < task.first_label for item in items)
        assert all(task.first_label <= label < task.vocab_size for label in labels)
        groups = [(item - 1) // task.n_items for item in items]
        # One group is one class, has one label, and no other class has it.
        meaning = {}
        for group, label, klass in zip(
            groups, drawn.labels[row].tolist(), drawn.classes[row].tolist(), strict=True
        ):
            assert meaning.setdefault(group, (label, klass)) == (label, klass)
        assert len({label for label, _ in meaning.values()}) == len(meaning) <= task.n_classes
        assert labels == drawn.shown[row].tolist()
        assert [tokens[i] for i in drawn.item_positions] == items


def test_labels_mean_something_else_in_each_sequence():
    drawn = draw(n=400)
    group = (drawn.tokens[:, drawn.item_positions] - 1) // TASK.n_items
    labels = drawn.labels[group == 3]
    share = torch.bincount(labels - TASK.first_label, minlength=TASK.n_labels) / len(labels)
    assert share.max() < 0.2  # 1/12 each, were it not for 400 sequences only


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_the_share_of_wrong_labels(noise):
    drawn = draw(replace(TASK, noise=noise), n=500)
    wrong = drawn.shown != drawn.labels
    assert float(wrong.double().mean()) == pytest.approx(noise, abs=0.015)
    # A wrong label is another label of the sequence, all equally often.
    for row in range(50):
        assert set(drawn.shown[row, wrong[row]].tolist()) <= set(drawn.labels[row].tolist())


def test_a_seed_repeats_and_another_does_not():
    assert torch.equal(draw(seed=1).tokens, draw(seed=1).tokens)
    assert not torch.equal(draw(seed=1).tokens, draw(seed=2).tokens)


def test_permuted_demonstrations_are_the_same_ones():
    drawn = draw()
    order = torch.randperm(TASK.shots, generator=torch.Generator().manual_seed(1))
    moved = TASK.permute(drawn, order)
    for row in range(8):
        def pairs(some: Demonstrations, row: int = row) -> list[tuple[int, int, int]]:
            tokens = some.tokens[row].tolist()
            return list(zip(tokens[1::2], tokens[2::2], some.labels[row].tolist(), strict=True))

        assert pairs(moved) == [pairs(drawn)[i] for i in order]
    back = TASK.permute(moved, order.argsort())
    assert all(torch.equal(a, b) for a, b in zip(drawn, back, strict=True))
    assert torch.equal(TASK.permute(drawn, order.expand(64, -1)).tokens, moved.tokens)


def test_targets_stand_at_the_items_and_are_the_right_labels():
    inputs, targets = TASK.training_batch(64, torch.Generator().manual_seed(0), progress=1.0)
    assert inputs.shape == targets.shape == (64, TASK.seq_len)
    scored = targets != IGNORE
    assert scored[:, 1::2].all() and not scored[:, 0::2].any()
    agree = (targets[:, 1::2] == inputs[:, 2::2]).double().mean()  # with what is shown
    assert float(agree) == pytest.approx(1 - TASK.noise, abs=0.03)


def test_the_curriculum_shortens_sequences_and_keeps_the_tokens_of_a_step():
    stages = {0.1: (16, 0.0, 1), 0.3: (16, 0.0, 5), 0.45: (32, 0.2, 5), 0.99: (61, 0.4, 5)}
    for progress, (shots, noise, items) in stages.items():
        inputs, targets = TASK.training_batch(64, torch.Generator().manual_seed(0), progress)
        assert inputs.shape[1] == 1 + 2 * shots
        assert inputs.numel() == pytest.approx(64 * TASK.seq_len, rel=0.07)
        agree = float((targets[:, 1::2] == inputs[:, 2::2]).double().mean())
        assert agree == pytest.approx(1 - noise, abs=0.03)
        which = (inputs[:, 1::2] - 1) % TASK.n_items
        assert which.unique().tolist() == list(range(items))


def test_given_classes_are_kept():
    classes = torch.arange(6).repeat(4, 2)
    drawn = TASK.sample(4, torch.Generator().manual_seed(0), classes=classes)
    assert torch.equal(drawn.classes, classes) and drawn.tokens.shape == (4, 25)
    group = (drawn.tokens[:, drawn.item_positions] - 1) // TASK.n_items
    assert torch.equal(group[:, :6], group[:, 6:])


def test_counting_votes_by_hand():
    task = InContextTask(shots=6, n_classes=2, n_groups=2, n_items=1, n_labels=3)
    a, b = 1, 2  # items
    x, y, z = 3, 4, 5  # labels
    items = torch.tensor([[a, a, a, b, a, b]])
    shown = torch.tensor([[y, z, y, z, z, x]])
    classes = items - 1
    drawn = task.arrange(items, classes, torch.full_like(items, y), shown)
    assert drawn.tokens.tolist() == [[0, a, y, a, z, a, y, b, z, a, z, b, x]]
    # No vote: the smallest. Then y; y and z tie: the smaller; b has none; a: y twice, z once; b: z.
    assert task.best_guess(drawn).tolist() == [[x, y, y, x, y, z]]


def test_counting_gets_better_with_shots_and_beats_the_last_vote():
    drawn = draw(replace(TASK, shots=128), n=200)
    right = (TASK.best_guess(drawn) == drawn.labels).double().mean(0)
    assert right[:2].mean() < 0.35 < 0.7 < right[24:32].mean() < 0.9 < right[56:64].mean()
    assert right[-32:].mean() > 0.98


class Oracle(nn.Module):
    """Counts the votes, as a model would answer."""

    def __init__(self, task: InContextTask, forget: int | None = None):
        super().__init__()
        self.task, self.forget = task, forget

    def forward(self, tokens: Tensor) -> Tensor:
        items, shown = tokens[:, 1::2], tokens[:, 2::2]
        group = (items - 1) // self.task.n_items
        logits = torch.zeros(*tokens.shape, self.task.vocab_size)
        for shot in range(items.shape[1]):
            start = 0 if self.forget is None else max(0, shot - self.forget)
            same = (group[:, start:shot] == group[:, shot, None]).double()
            votes = F.one_hot(shown[:, start:shot], self.task.vocab_size) * same[..., None]
            logits[:, 1 + 2 * shot] = votes.sum(1).float()
        logits[..., 0] = 99.0  # no label: constrained decoding must not see it
        return logits


def test_evaluate_finds_the_counter_and_exposes_those_who_forget_or_guess():
    whole = TASK.evaluate(Oracle(TASK), n=128)
    assert whole["accuracy"] == pytest.approx(whole["counting"])
    assert whole["accuracy"] > 0.85
    recent = TASK.evaluate(Oracle(TASK, forget=6), n=128)
    assert recent["counting"] == whole["counting"]
    assert recent["accuracy"] < whole["accuracy"] - 0.2
    config = ModelConfig(TASK.vocab_size, 16, 1, 2)
    assert TASK.evaluate(LanguageModel(config), n=128)["accuracy"] < 0.3


def test_answers_do_not_depend_on_what_comes_later():
    model = LanguageModel(ModelConfig(TASK.vocab_size, 16, 1, 2)).eval()
    drawn = draw(n=4)
    order = torch.cat((torch.arange(20), 20 + torch.randperm(TASK.shots - 20)))
    moved = TASK.permute(drawn, order)
    assert torch.equal(TASK.answers(model, drawn)[:, :20], TASK.answers(model, moved)[:, :20])


def test_a_small_model_learns_an_easy_form():
    task = InContextTask(
        shots=8, n_classes=2, n_groups=4, n_items=1, n_labels=4, noise=0.0, curriculum=())
    model = LanguageModel(ModelConfig(task.vocab_size, 32, 2, 4, attention="diff", d_ff=64))
    settings = TrainConfig(steps=150, batch_size=64, lr=5e-3, warmup=20, device="cpu")
    train(model, task, settings)
    assert task.evaluate(model)["accuracy"] > 0.85  # naming any label of the sequence: 0.5


@pytest.mark.parametrize("change, message", [
    ({"shots": 0}, "shots=0"), ({"n_items": 0}, "n_items=0"),
    ({"n_classes": 1}, "n_classes=1: give 2 to 12"), ({"n_classes": 13}, "n_classes=13"),
    ({"n_labels": 4}, "n_classes=6: give 2 to 4"), ({"noise": 1.0}, r"noise=1.0 is a share"),
    ({"noise": -0.1}, r"noise=-0.1"),
])
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        InContextTask(**change)


def test_every_label_of_a_batch_is_seen():
    drawn = draw(n=200)
    assert len(Counter(drawn.labels.flatten().tolist())) == TASK.n_labels
    assert set(drawn.classes.unique().tolist()) == set(range(TASK.n_classes))
