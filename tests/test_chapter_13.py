"""What chapter 13 says in words of its record."""

from __future__ import annotations

import numpy as np

from diffbook import records

RECORD = records.load("in-context-cpu")


def learned(variant: str) -> np.ndarray:
    """Which runs are better than a guess among six at the most examples."""
    return RECORD.array(variant, "accuracy by shots")[:, -1] > 0.5


def test_who_learned():
    assert learned("softmax").tolist() == [True] * 5
    assert learned("diff").sum() == 3
    assert not learned("softmax_norm").any()


def test_those_that_learned_are_close_and_diff_a_little_ahead():
    ours = RECORD.values("diff", "accuracy")[learned("diff")]
    base = RECORD.values("softmax", "accuracy")
    assert 0 < ours.mean() - base.mean() < 0.05


def test_the_verdicts_and_why_one_of_them_is_not_to_be_believed():
    assert [row.verdict for row in RECORD.standing] == [
        "no difference at this scale", "no difference at this scale", "reproduced"]
    beyond = RECORD.paired("margin beyond level alternating")
    assert beyond.low < 0 < beyond.high
    # Guessing makes the margin small: the control, which never learned, has a smaller one too.
    margins = {kind: RECORD.values(kind, "margin alternating") for kind in RECORD.variants}
    assert margins["softmax_norm"].mean() < margins["softmax"].mean()
    assert margins["diff"][~learned("diff")].mean() < margins["softmax"].mean()
