"""The scorecard: every claim has a row, every row its evidence, and no number is its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import notebooks
import numpy as np
import pytest

from diffbook import paper, records, scorecard
from diffbook.records import VERDICTS, Claim, Paired, Record, Run, paired_interval

ROWS = scorecard.rows()
TESTED = [row for row in ROWS if row.toward is not None]


def test_every_table_and_figure_with_a_result_has_a_row():
    said = {part for row in ROWS for part in scorecard.parts(row.where)}
    results = {f"Table {n}" for n in range(1, 9)} | {f"Fig. {n}" for n in (1, 4, *range(5, 12))}
    assert results | {"Fig. 3a", "Fig. 3b", "Appendix G"} <= said
    for name in paper.names():  # whatever the paper's file holds is spoken of
        kind = "Table" if name.startswith("table") else "Fig."
        number = name.removeprefix("table").removeprefix("fig")
        short = number if number in ("3a", "3b") else number.rstrip("abcd")
        assert f"{kind} {short}" in said, name


@pytest.mark.parametrize("where, parts", [
    ("Table 6, Fig. 3a", ["Table 6", "Fig. 3a"]), ("Figs. 7a, 11", ["Fig. 7", "Fig. 11"]),
    ("Fig. 7b", ["Fig. 7"]), ("Appendix G", ["Appendix G"]), ("Authors", ["Authors"]),
])
def test_the_names_of_tables_and_figures(where, parts):
    assert scorecard.parts(where) == parts


def test_no_row_is_empty():
    for row in ROWS:
        assert row.where and row.claim and row.paper and row.note, row
        assert row.verdict in VERDICTS and row.chapter in scorecard.CHAPTERS
        if row.verdict == "out of reach here":
            assert not row.ours and row.seeds is None and not row.record
        else:
            assert row.ours, row


def test_the_chapters_are_those_of_the_book():
    files = {path.stem for path in notebooks.chapters()}
    assert set(scorecard.CHAPTERS.values()) <= files


def test_every_claim_of_a_record_stands_there_as_recorded():
    for name in records.available():
        record = records.load(name)
        for found in record.standing:
            [row] = [r for r in ROWS if r.record == name and r.claim == found.claim.text
                     and r.where == found.claim.where]
            assert (row.verdict, row.seeds, row.difference) == (
                found.verdict, found.seeds, found.difference)


def test_toward_is_the_verdict_in_one_number():
    limits = {"reproduced": (1, np.inf), "contradicted": (-np.inf, -1),
              "no difference at this scale": (-1, 1)}
    for row in TESTED:
        low, high = limits[row.verdict]
        assert low <= row.toward <= high, row


def record_of(base: list[float], diff: list[float], **claim: str) -> Record:
    """A record with one measure, and what it says of one claim."""
    runs = tuple(
        Run(variant=kind, seed=seed, model={}, train={}, parameters=1, curve={}, validation={},
            measures={"m": value}, lambdas=[], seconds=1.0, tokens=0, device="cpu", commit="c")
        for kind, values in (("softmax", base), ("diff", diff))
        for seed, value in enumerate(values)
    )
    made = Record("x-cpu", "t", "", {}, "c", "2026-01-01", "", runs)
    says = Claim(**{"text": "t", "where": "Table 6", "paper": "1.00 / 0.90", "measure": "m",
                    "says": "lower", "chapter": 16, **claim})
    return replace(made, standing=(made.judge(says),))


@pytest.mark.parametrize("paper_says, told", [
    ("2.00 / 1.80", True),    # -10 %: outside of about [-0.5 %, +0.5 %]
    ("2.000 / 1.998 (one run)", False),
    ("0.025 to 0.032 lower", None), ("62.2 %", None), ("0.0 / 0.3", None),
])
def test_whether_a_test_could_have_seen_the_papers_effect(paper_says, told):
    record = record_of([10.0, 10.2, 9.9], [10.01, 10.19, 9.9], paper=paper_says)
    row = scorecard._of(record)(record.standing[0])
    assert row.verdict == "no difference at this scale"
    assert row.told is told


def test_at_the_ceiling_there_is_nothing_to_be_seen():
    full = [0.999, 1.0, 0.998]
    record = record_of(full, [1.0, 0.999, 0.998], paper="0.55 / 0.85", says="higher")
    assert scorecard._of(record)(record.standing[0]).told is False
    low = record_of([0.5, 0.51, 0.49], [0.5, 0.5, 0.5], paper="0.55 / 0.85", says="higher")
    assert scorecard._of(low)(low.standing[0]).told is True


def test_direction():
    lower = record_of([1.0, 1.1, 0.9], [0.5, 0.61, 0.4])
    assert scorecard._of(lower)(lower.standing[0]).toward > 1
    higher = record_of([1.0, 1.1, 0.9], [0.5, 0.61, 0.4], says="higher")
    assert scorecard._of(higher)(higher.standing[0]).toward < -1
    same = record_of([1.0, 2.0], [1.0, 2.0])
    assert scorecard._of(same)(same.standing[0]).toward == 0
    always = record_of([1.0, 2.0], [0.5, 1.5])  # an interval without width
    assert scorecard._of(always)(always.standing[0]).toward == np.inf


@pytest.mark.parametrize("verdicts, whole", [
    (["reproduced", "reproduced"], "reproduced"),
    (["reproduced", "contradicted"], "partly"),
    (["no difference at this scale", "reproduced"], "partly"),
    (["no difference at this scale", "contradicted"], "contradicted"),
    (["no difference at this scale"] * 2, "no difference at this scale"),
])
def test_several_parts_make_one_verdict(verdicts, whole):
    assert scorecard.together(verdicts) == whole


def test_shares_by_another_way():
    """The share of tokens, without a law: where the polygon through the Transformer's losses
    reaches DIFF's loss at 44 % of the training."""
    from diffbook.measure.scaling import reached

    record = records.best("lm")
    found = scorecard.share_of_tokens(record)
    steps, diff = record.series("diff", "loss")
    _, base = record.series("softmax", "loss")
    at = 160 / 360 * steps[-1]
    loss = [np.interp(np.log(at), np.log(steps), row) for row in diff]
    shares = [at / reached(steps, row, one)[()] for row, one in zip(base, loss)]
    assert np.exp(found.mean) == pytest.approx(np.mean(shares), rel=0.1)
    assert isinstance(found, Paired) and found.n == 3
    assert (found.low, found.high) == paired_interval(found.differences)


def test_speed_row_is_the_ratio_of_the_seconds():
    record = records.best("speed")
    [row, _] = [r for r in ROWS if r.where == "Table 7"]
    slower = [
        run.arrays["step seconds: softmax"][0] / run.arrays["step seconds: diff"][0] - 1
        for run in record.of("pair")
    ]
    assert row.difference == pytest.approx(np.mean(slower), abs=0.005)
    assert row.paper.startswith("7247 / 6635") and row.device == "CPU"


def test_what_the_chapter_says_in_words():
    """"Most intervals hold zero; of those that do not, more point away from the claims"; Table 3
    speaks twice."""
    count = {verdict: sum(row.verdict == verdict for row in TESTED) for verdict in VERDICTS}
    assert count["no difference at this scale"] > len(TESTED) / 2
    assert count["contradicted"] > count["reproduced"]
    table3 = [row.verdict for row in ROWS if row.where == "Table 3"]
    assert sorted(table3) == ["contradicted"] * 2 + ["reproduced"] * 2
    parameters = max(run.parameters for name in records.available()
                     for run in records.load(name).runs if run.variant != "pair")
    assert parameters < 1.2e6 and 0.83e9 / parameters == pytest.approx(780, rel=0.05)


def test_the_readme_says_what_the_scorecard_says():
    readme = " ".join((Path(__file__).parent.parent / "README.md").read_text("utf-8").split())
    count = Counter(row.verdict for row in TESTED)
    words = ", ".join(f"{count[verdict]} *{verdict}*" for verdict in VERDICTS if count[verdict])
    parts = {row.where for row in TESTED}
    assert f"{len(TESTED)} tests of {len(parts)} tables and figures" in readme
    assert words in readme, f"the README must say: {words}"
