"""The replay of a training: what a frame holds, and that looking changes nothing."""

from dataclasses import replace

import pytest
import torch

from diffbook import records
from diffbook.experiments.replay import EXAMPLE, STEPS, TASK, TRAIN, example, frame, layout, replay
from diffbook.model import LanguageModel, ModelConfig
from diffbook.train import train

SHAPE = ModelConfig(TASK.vocab_size, d_model=16, n_layers=2, n_heads=4, d_ff=32, seed=5)
BRIEF = replace(
    TRAIN, steps=4, batch_size=4, log_every=2, eval_every=0, warmup=1, seed=SHAPE.seed)


def unpack(maps, layers, kinds, seq):
    """The lower triangles of a frame as (layers, kinds, seq, seq)."""
    row, column = torch.tril_indices(seq, seq)
    full = torch.zeros(layers, kinds, seq, seq)
    full[:, :, row, column] = torch.tensor(maps, dtype=torch.float).view(layers, kinds, -1)
    return full


def test_the_example_asks_the_needle_in_the_middle():
    batch = example()
    shown = layout(batch)
    tokens = batch.tokens[0]
    assert len(shown["tokens"]) == EXAMPLE.seq_len == len(tokens)
    assert len(shown["cities"]) == 3 and shown["tokens"][-2] == "?"
    [answer] = shown["answer"]
    assert answer == shown["numbers"][1]
    assert tokens[answer] == batch.answers[0, 0]
    assert tokens[answer - 1] == tokens[-1]  # the city in front of it is the one asked for


@pytest.mark.parametrize("attention", ["softmax", "diff"])
def test_a_frame_holds_the_maps_in_percent_and_what_the_model_says(attention):
    model = LanguageModel(replace(SHAPE, attention=attention)).train()
    batch = example()
    found = frame(model, EXAMPLE, batch)
    assert model.training  # as it was
    full = unpack(found["maps"], 2, 4, EXAMPLE.seq_len)
    assert (full.sum(-1) - 100).abs().max() <= EXAMPLE.seq_len / 2  # rows, up to rounding
    with torch.no_grad():
        maps = model.attention_maps(batch.tokens)
        probability = model(batch.tokens)[0, -1].softmax(-1)
    for layer, kept in zip(maps, full, strict=True):
        exact = layer[0] if attention == "softmax" else torch.cat([layer.a1, layer.a2], 1)[0]
        assert (100 * exact - kept).abs().max() <= 0.5 + 1e-4
    assert sum(found["said"]) == pytest.approx(1, abs=2e-4)
    assert found["said"][0] == pytest.approx(float(probability[batch.answers[0, 0]]), abs=1e-4)
    assert found["lambda"] == pytest.approx(model.lambdas(), abs=1e-4)


def test_an_onlooker_does_not_change_the_run():
    model = LanguageModel(replace(SHAPE, attention="diff"))
    train(model, TASK, BRIEF, progress=False)
    found = replay(model, TASK, BRIEF, steps=(0, 2, 4))
    assert found["weights differ by"] == 0
    assert found["replay step"] == [0, 2, 4] and len(found["replay loss"]) == 3
    assert found["replay loss"][-1] < found["replay loss"][0]
    assert found["learned at step"] == 4  # never: the last step stands for it
    first = frame(LanguageModel(model.config), TASK, example())
    last = frame(model, TASK, example())
    per_frame = len(first["maps"])
    assert found["replay maps"][:per_frame] == first["maps"]
    assert found["replay maps"][-per_frame:] == last["maps"] != first["maps"]


def test_a_replay_of_another_run_is_caught():
    model = LanguageModel(SHAPE)
    train(model, TASK, replace(BRIEF, seed=SHAPE.seed + 1), progress=False)  # other data
    assert replay(model, TASK, BRIEF, steps=(0,))["weights differ by"] > 1e-4


def test_steps_between_two_points_are_refused():
    with pytest.raises(ValueError, match=r"steps \[3\] are no points of the curve.*log_every=2"):
        replay(LanguageModel(SHAPE), TASK, BRIEF, steps=(0, 3))
    assert not [step for step in STEPS if step % TRAIN.log_every or step > TRAIN.steps]


RECORDED = "replay-cpu" in records.available()


@pytest.mark.skipif(not RECORDED, reason="the record replay-cpu is not there")
def test_the_recorded_replay_is_the_run_of_the_needle_record():
    again, first = records.load("replay-cpu"), records.load("needle-cpu")
    for variant in ("softmax", "diff"):
        assert (again.values(variant, "weights differ by") < 1e-5).all()
        for run in again.of(variant):
            twin = next(r for r in first.of(variant) if r.seed == run.seed)
            assert run.curve["step"] == twin.curve["step"]
            assert run.curve["loss"] == pytest.approx(twin.curve["loss"], rel=1e-2)
            assert len(run.arrays["replay maps"]) == len(STEPS) * 2 * 4 * 105
