"""What chapter 14 says in words about its record and about Table 4, rebuilt from both."""

from __future__ import annotations

import numpy as np
import pytest

from diffbook import paper, records
from diffbook.experiments.faithful import FORCED, TASK, TIMES
from diffbook.measure.needles import binomial_difference
from diffbook.records.compare import NO_DIFFERENCE, paired_interval


@pytest.fixture(scope="module")
def record():
    return records.load("faithful-cpu")


def means(record, measure: str) -> dict[str, float]:
    return {kind: float(record.values(kind, measure).mean()) for kind in record.variants}


def test_table_4_cell_by_cell_and_together():
    table = paper.load("table4")
    clear = [
        name for name, a, b in zip(
            table["datasets"], table["softmax"], table["diff"], strict=True)
        if binomial_difference(100 * b, 100, 100 * a, 100)[0] > 0
    ]
    assert clear == ["MultiNews"]
    differences = np.subtract(table["diff"], table["softmax"])
    assert (differences > 0).all()
    error = np.sqrt(sum(p * (1 - p) / 100 for k in ("softmax", "diff") for p in table[k])) / 6
    assert differences.mean() / error == pytest.approx(4, abs=0.3)  # "about four"


def test_the_models(record):
    assert len(record.runs) == 9
    for run in record.runs:
        assert run.parameters == pytest.approx(150_000, rel=0.05)
        assert (run.model["n_layers"], run.train["steps"]) == (3, 1200)
        # The ceiling at the training length.
        for measure in ("faithful", "correct", "summary faithful", "summary covered"):
            assert run.measures[f"{measure} 1x"] > 0.99
        assert min(run.measures["faithful 8x"], run.measures["faithful 4x"]) > 0.9
        assert run.measures["correct crowded"] > 0.95


def test_free_of_hallucination_and_correct_disagree(record):
    free, correct = means(record, "faithful 8x"), means(record, "correct 8x")
    assert max(free, key=free.get) == "diff" and min(free, key=free.get) == "softmax"
    assert max(correct, key=correct.get) == "softmax"
    assert all(0.4 < value < 0.65 for value in correct.values())  # "about one half"
    for measure in ("faithful", "correct", "summary faithful", "summary covered"):
        for times in TIMES:
            assert record.paired(f"{measure} {times}x").verdict("higher") == NO_DIFFERENCE
    assert record.values("diff", "summary covered 2x").min() == pytest.approx(0.5, abs=0.05)


def test_they_read_and_do_not_recite(record):
    for kind in record.variants:
        right = record.array(kind, "forced supported by conflict").mean(0)
        assert 0.02 < right[0] - right[-1] < 0.08
        assert record.array(kind, "forced prior by conflict").max() < 0.05
    unstated = {k: record.array(k, "forced unstated 1x") for k in ("softmax", "diff")}
    means_of = {k: dict(zip(FORCED, v.mean(0), strict=True)) for k, v in unstated.items()}
    for shares in means_of.values():
        assert max(shares, key=shares.get) == "misattributed"
        assert 2 / TASK.n_values < shares["prior"] < 4 / TASK.n_values
    assert means_of["diff"]["prior"] > means_of["softmax"]["prior"]
    assert means_of["diff"]["misattributed"] < means_of["softmax"]["misattributed"]
    for at in range(1, 4):
        low, high = paired_interval((unstated["diff"] - unstated["softmax"])[:, at].tolist())
        assert low <= 0 <= high


def test_attention_within_and_between(record):
    for times in (4, 8):
        assert min(means(record, f"lookback auc {times}x").values()) > 0.78
    for times in TIMES:
        assert record.paired(f"value share {times}x").mean < 0
    assert record.paired("value share 8x").high < 0
    right = [record.array(kind, "forced stated 8x")[:, 0].mean() for kind in ("softmax", "diff")]
    assert right[1] == pytest.approx(right[0], abs=0.04)


def test_verdicts(record):
    assert [standing.verdict for standing in record.standing] == [NO_DIFFERENCE] * 4
    by_measure = {standing.claim.measure: standing.difference for standing in record.standing}
    assert by_measure["faithful 4x"] > 0 > by_measure["summary faithful 4x"]
    control = {
        measure: record.paired(measure, a="softmax_norm", b="softmax")
        for measure in ("faithful 4x", "summary faithful 4x", "correct 4x", "summary covered 4x")
    }
    assert [name for name, pair in control.items() if not pair.low <= 0 <= pair.high] == [
        "correct 4x"]
    assert control["correct 4x"].high < 0
