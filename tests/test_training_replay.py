"""Figure of chapter 8: the page's maps and curves are those of the record."""

import numpy as np
import pytest
from javascript import call, needs_node

from diffbook import records
from diffbook.experiments.replay import EXAMPLE, STEPS
from diffbook.show.training_replay import replay_data, replay_maps

pytestmark = needs_node


@pytest.fixture(scope="module")
def record():
    return records.load("replay-cpu")


def run_of(data, seed, kind):
    """One run as the page has it: bytes instead of base64."""
    found = data["pairs"][seed][kind]
    return {**found, "bytes": list(found["maps"]), "maps": None}


def weights(run):
    """What multiplies the values: (frames, layers, heads, seq, seq)."""
    maps = replay_maps(run)
    if not run.arrays["replay lambda"]:
        return maps
    lam = np.reshape(run.arrays["replay lambda"], (len(STEPS), -1))
    heads = maps.shape[2] // 2
    return maps[:, :, :heads] - lam[:, :, None, None, None] * maps[:, :, heads:]


def test_maps_are_distributions_up_to_their_rounding(record):
    data = replay_data(record)
    assert data["steps"] == list(STEPS) and data["shape"] == {"size": 14, "layers": 2, "maps": 4}
    assert data["longer"] == [100, 160]  # steps at which the training's contexts get longer
    for run in record.runs:
        maps = replay_maps(run)
        assert maps.shape == (len(STEPS), 2, 4, EXAMPLE.seq_len, EXAMPLE.seq_len)
        assert np.abs(maps.sum(-1) - 1).max() <= 0.005 * EXAMPLE.seq_len
        assert (maps >= 0).all() and (np.triu(maps, 1) == 0).all()


def test_javascript_shows_the_maps_of_the_record(record):
    data = replay_data(record)
    for seed, kind, frame, layer, head in (
        (0, "softmax", 0, 0, 3), (0, "softmax", 19, 1, 0), (1, "diff", 7, 0, 1),
        (1, "diff", 19, 1, 0), (0, "diff", 12, 1, 1),
    ):
        run = next(r for r in record.of(kind) if r.seed == seed)
        asked = run_of(data, seed, kind)
        [shown] = call("training_replay", [["headMap", [asked, data["shape"], frame, layer, head]]])
        np.testing.assert_allclose(shown, weights(run)[frame, layer, head], rtol=0, atol=1e-9)


def test_javascript_finds_the_halves_of_the_circuit(record):
    data = replay_data(record)
    place = data["layout"]
    for run in record.runs:
        asked = run_of(data, run.seed, run.variant)
        frames = [0, 9, 19]
        found = call("training_replay", [
            ["halves", [asked, data["shape"], place, frame]] for frame in frames])
        maps = weights(run)[frames]
        back = maps[:, 0][:, :, place["numbers"], place["cities"]].mean(-1)  # (frames, heads)
        answer = maps[:, -1][:, :, -1, place["answer"][0]]
        np.testing.assert_allclose([f["back"] for f in found], back.max(1), rtol=0, atol=1e-9)
        np.testing.assert_allclose([f["answer"] for f in found], answer.max(1), rtol=0, atol=1e-9)
        assert [f["answerHead"] for f in found] == answer.argmax(1).tolist()


def test_what_the_chapter_says_about_the_replay(record):
    """Transformers build the textbook circuit in both pairs, DIFF in one of them; λ of layer 2 is
    highest in the middle of the training of pair 0, and near one."""
    data = replay_data(record)
    place = data["layout"]
    ends = {
        (run.variant, run.seed): weights(run)[-1, -1, :, -1, place["answer"][0]].max()
        for run in record.runs
    }
    assert ends["softmax", 0] > 0.9 and ends["softmax", 1] > 0.9 and ends["diff", 0] > 0.9
    assert ends["diff", 1] < 0.1
    other = next(run for run in record.of("diff") if run.seed == 1)
    assert weights(other)[-1, -1, :, -1].min() < -0.4  # the question's row, below zero
    assert (record.values("diff", "accuracy") > 0.99).all()
    first = np.reshape(record.of("diff")[0].arrays["replay lambda"], (len(STEPS), 2))[:, 1]
    assert 0 < first.argmax() < len(STEPS) - 1 and 0.9 < first.max() < 1.05 and first[-1] < 0.6
