"""Every claim of the paper, the evidence on it, and our verdict (chapter 19).

    for row in scorecard.rows():
        print(row.where, row.claim, row.verdict)

A row comes from one of four sources, and none holds a number typed by hand: a record's standing on
a claim; a number derived from a record, such as a share of parameters; several rows taken together;
or, where nothing here can speak of a claim, the paper's own numbers and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffbook import paper, records
from diffbook.experiments import EXPERIMENTS
from diffbook.experiments.scaling import SIZES
from diffbook.measure.scaling import equal_loss, fit_law, parameter_counts
from diffbook.records import Paired, Record, RecordError, Standing, paired_interval
from diffbook.records.compare import (
    CONTRADICTED,
    NO_DIFFERENCE,
    OUT_OF_REACH,
    PARTLY,
    REPRODUCED,
)

# The chapters' files, for links. A test compares them with the folder.
CHAPTERS = {
    4: "04_lambda", 5: "05_heads_and_norms", 6: "06_speed", 8: "08_training", 9: "09_scaling",
    10: "10_long_context", 11: "11_needles", 12: "12_attention_mass", 13: "13_in_context",
    14: "14_hallucination", 15: "15_outliers", 16: "16_ablations", 19: "19_scorecard",
}

# The order of the claims in the paper.
ORDER = (
    "Fig. 1", "Table 1", "Fig. 3a", "Fig. 3b", "Fig. 4", "Table 2", "Fig. 5", "Table 3", "Fig. 6",
    "Fig. 7", "Fig. 11", "Table 4", "Table 5", "Fig. 8", "Table 6", "Table 7", "Table 8", "Fig. 9",
    "Fig. 10", "Appendix G", "Authors",
)


@dataclass(frozen=True)
class Row:
    """One claim.

    Attributes:
        where: table or figure of the paper; "Authors" for what they say elsewhere.
        claim: in a few words. paper: the paper's numbers, the baseline's first.
        verdict: one of ``diffbook.records.VERDICTS``.
        chapter: the one that speaks of it.
        note: what separates our test from the paper's, or why there is none and what one would
            run.
        ours: our numbers, the baseline's first; empty out of reach.
        difference, low, high: the paired difference DIFF - baseline and its 95 % interval.
        seeds: paired. device: what the runs were made on. record: its name.
        toward: difference in half-widths of its interval, positive in the direction of the claim:
            above 1 is reproduced, below -1 contradicted, else no difference.
        told: whether the interval leaves out the paper's own difference, both taken relative to
            the baseline; None where one of them has no such form. A "no difference" with ``told``
            False is a test that could not have seen the effect.
    """

    where: str
    claim: str
    paper: str
    verdict: str
    chapter: int
    note: str
    ours: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    device: str = ""
    record: str = ""
    toward: float | None = None
    told: bool | None = None

    @property
    def interval(self) -> str:
        """``-0.005 [-0.043, +0.033]``, or nothing."""
        if self.difference is None:
            return ""
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def rows() -> list[Row]:
    """All claims, in the order of the paper."""
    found = [row for record in _records() for row in map(_of(record), record.standing)]
    found += [row for derive in DERIVED for row in derive()]
    found += [_fig1(found), *_by_reason()]
    return sorted(found, key=lambda row: min(map(ORDER.index, parts(row.where))))


def parts(where: str) -> list[str]:
    """The tables and figures that a claim names, as :data:`ORDER` spells them: "Figs. 7a, 11" are
    "Fig. 7" and "Fig. 11"."""
    found, kind = [], ""
    for word in re.split(r",\s*|\s+and\s+", where):
        kind, _, number = word.rpartition(" ") if " " in word else (kind, "", word)
        kind = kind.replace("Figs.", "Fig.").replace("Tables", "Table")
        name = f"{kind} {number}".strip()
        found.append(name if name in ORDER else name.rstrip("abcd"))
    return found


def _records() -> Iterable[Record]:
    """The best record of every experiment with claims."""
    for name, experiment in EXPERIMENTS.items():
        if experiment.claims:
            try:
                yield records.best(name)
            except RecordError:  # an experiment for large machines that nobody has run yet
                continue


def _device(record: Record) -> str:
    return " / ".join(dict.fromkeys(run.device.split(",")[0] for run in record.runs)).upper()


def _of(record: Record) -> Callable[[Standing], Row]:
    def row(found: Standing) -> Row:
        claim = found.claim
        return Row(
            claim.where, claim.text, claim.paper, found.verdict, claim.chapter, claim.scale,
            ours=f"{found.mean_b:.3f} / {found.mean_a:.3f}", difference=found.difference,
            low=found.low, high=found.high, seeds=found.seeds, device=_device(record),
            record=record.name, toward=_toward(found, claim.says),
            told=_told(claim.paper, found),
        )

    return row


def _toward(found: Standing | Paired, says: str) -> float:
    mean = found.difference if isinstance(found, Standing) else found.mean
    half, sign = (found.high - found.low) / 2, 1 if says == "higher" else -1
    if half == 0:  # all seeds agree to the last digit
        return sign * float(np.sign(mean)) * np.inf if mean else 0.0
    return sign * mean / half


def paper_difference(text: str) -> float | None:
    """(DIFF - baseline) / baseline out of the paper's numbers as a claim holds them,
    "3.087 / 3.062 …"; None where they have another form."""
    pair = re.match(r"([\d.]+) / ([\d.]+)(?![\d.]| /)", text)
    if pair is None or float(pair[1]) == 0:
        return None
    return float(pair[2]) / float(pair[1]) - 1


def _told(text: str, found: Standing) -> bool | None:
    effect = paper_difference(text)
    if effect is None or found.mean_b == 0:
        return None
    low, high = sorted((found.low / found.mean_b, found.high / found.mean_b))
    shares = max(found.mean_a, found.mean_b) <= 1 and re.match(r"[01]\.\d+ / [01]\.\d+", text)
    if shares and found.mean_b * (1 + effect) > 1:
        return False  # a ceiling: no room above the baseline for the paper's effect
    return not low <= effect <= high


# ------------------------------------------------------------ numbers derived from a record


def share_of_parameters(record: Record) -> Paired:
    """ln of DIFF's share of the parameters for the same loss, one for each seed: each seed's five
    losses get a law of their own, read at the middle size's mean loss (chapter 9)."""
    losses, sizes = {}, {}
    for kind in ("softmax", "diff"):
        variants = [f"{kind}-{size}" for size in SIZES]
        losses[kind] = np.stack([record.values(v, "validation loss") for v in variants], axis=1)
        sizes[kind] = np.array(
            [parameter_counts(record.of(v)[0].model)["total"] for v in variants]) / 1e6
    law = {kind: fit_law(sizes[kind], losses[kind]) for kind in losses}  # one for each seed
    middle = fit_law(sizes["softmax"], losses["softmax"].mean(axis=0))(sizes["softmax"][2])
    logs = np.log(equal_loss(law["diff"], law["softmax"], loss=middle).share)
    return Paired("ln share", "diff", "softmax", tuple(logs), *paired_interval(logs))


def share_of_tokens(record: Record, at: float = 160 / 360) -> Paired:
    """ln of DIFF's share of the tokens for the loss that it has after the part ``at`` of its
    training, one for each seed, from a law through each run's losses (chapter 9)."""
    steps, diff = record.series("diff", "loss")
    _, softmax = record.series("softmax", "loss")
    tokens = steps / steps[-1] * record.of("diff")[0].tokens / 1e6
    law, baseline = (fit_law(tokens, losses) for losses in (diff, softmax))
    logs = np.log(equal_loss(law, baseline, loss=law(at * tokens[-1])).share)
    return Paired("ln share", "diff", "softmax", tuple(logs), *paired_interval(logs))


def _share_row(where: str, claim: str, of_paper: str, found: Paired, record: Record) -> Row:
    middle, low, high = np.exp([found.mean, found.low, found.high]) - 1
    return Row(
        where, claim, of_paper, found.verdict("lower"), 9,
        f"{record.title}; difference: share - 100 %, from a law through each seed's losses",
        ours=f"{1 + middle:.0%}", difference=float(middle), low=float(low), high=float(high),
        seeds=found.n, device=_device(record), record=record.name, toward=_toward(found, "lower"),
    )


def _shares() -> list[Row]:
    scaling, lm = records.best("scaling"), records.best("lm")
    of_sizes = ", ".join(f"{100 * claim['share']:.1f} %" for claim in paper.load("fig3a")["claims"])
    of_tokens = paper.load("fig3b")["claims"][0]["share"]
    return [
        _share_row("Fig. 3a", "fewer parameters for the same loss", of_sizes,
                   share_of_parameters(scaling), scaling),
        _share_row("Fig. 3b", "fewer tokens for the same loss", f"{100 * of_tokens:.1f} %",
                   share_of_tokens(lm), lm),
    ]


def _speed() -> list[Row]:
    """Table 7 says what DIFF costs; the claim is that it costs something, and ours may cost more
    or less. Tokens per second relative to the Transformer's, at each length of the record."""
    record, table = records.best("speed"), paper.load("table7")
    found = []
    for at, seq in enumerate(record.array("pair", "step seq")[0]):
        ratio = np.array([
            run.arrays["step tokens per second: diff"][at]
            / run.arrays["step tokens per second: softmax"][at]
            for run in record.of("pair")
        ])
        slower = tuple(ratio - 1)
        pair = Paired("tokens/s", "diff", "softmax", slower, *paired_interval(slower))
        base, diff = table["softmax_training"][at], table["diff_training"][at]
        found.append(Row(
            "Table 7", f"a slower training step, {seq:.0f} tokens of context",
            f"{base} / {diff} tokens/s ({diff / base - 1:+.1%})", pair.verdict("lower"), 6,
            f"{table['settings'][at]} on an H100 against our machine; difference: share of the "
            "tokens per second; seeds: repetitions",
            ours=f"{np.mean(ratio) - 1:+.1%}", difference=pair.mean, low=pair.low, high=pair.high,
            seeds=pair.n, device=_device(record), record=record.name,
            toward=_toward(pair, "lower"),
            told=not pair.low <= diff / base - 1 <= pair.high,
        ))
    return found


def _positive_lambda() -> list[Row]:
    """The authors answer, when asked, that no model of theirs had a negative λ."""
    runs = [
        run for name in records.available() for run in records.load(name).runs
        if run.lambdas and run.train and run.model.get("learn_lambda", True)
    ]
    negative = sum(min(run.lambdas) < 0 for run in runs)
    devices = " / ".join(dict.fromkeys(run.device.split(",")[0] for run in runs)).upper()
    return [Row(
        "Authors", "no layer's λ turns negative in training", "none, in any model they trained",
        CONTRADICTED if negative else REPRODUCED, 4,
        "small models, few heads; the claim is theirs about theirs (microsoft/unilm issue 1699)",
        ours=f"{negative} of {len(runs)} trained models have one", device=devices,
        record="all with a learned λ",
    )]


DERIVED: Sequence[Callable[[], list[Row]]] = (_shares, _speed, _positive_lambda)


# ------------------------------------------------------------ several rows together, or none


def together(verdicts: Iterable[str]) -> str:
    """The verdict on a claim of several parts: reproduced if all are, partly if some are, else
    contradicted if one is, else no difference."""
    said = set(verdicts)
    if said == {REPRODUCED}:
        return REPRODUCED
    if REPRODUCED in said or PARTLY in said:
        return PARTLY
    return CONTRADICTED if CONTRADICTED in said else NO_DIFFERENCE


def _fig1(found: list[Row]) -> Row:
    """Fig. 1 shows one column of Table 2 and one of Table 3."""
    parts = [row for row in found
             if row.where == "Table 3" or (row.where == "Table 2" and "N=6" in row.claim)]
    fig1, table2 = paper.load("fig1"), paper.load("table2")
    answer = fig1["regions"].index("answer")
    return Row(
        "Fig. 1", "more attention to the answer, less to the noise, more needles found",
        f"answer {fig1['softmax'][answer]} / {fig1['diff'][answer]}, "
        f"found {table2['softmax'][-1]} / {table2['diff'][-1]}",
        together(row.verdict for row in parts), 12,
        "the rows of Table 3 and the last of Table 2, taken together",
        ours=f"{sum(row.verdict == REPRODUCED for row in parts)} of {len(parts)} parts reproduced",
        seeds=parts[0].seeds, device=parts[0].device, record=parts[0].record,
    )


def _average(table: dict[str, Any], *keys: str) -> str:
    return " / ".join(str(table[key][-1]) for key in keys)


def _by_reason() -> list[Row]:
    """What nothing here can judge: the paper's numbers, why not, and what one would run."""
    table1, table8 = paper.load("table1"), paper.load("table8")
    fig9, fig10 = paper.load("fig9"), paper.load("fig10")
    behind = sum(d < s for s, d in zip(fig9["softmax"], fig9["diff"]))
    benchmarks = (
        "models of 3 billion parameters and 350 billion tokens; one would train lm-124m for longer "
        "on several GPUs and run lm-eval on both models, where answers by chance are the first "
        "thing to rule out"
    )
    return [
        Row("Table 1", "a better average on seven benchmarks than other open 3B models",
            _average(table1, "openllama_3b_v2", "diff"), OUT_OF_REACH, 19,
            "a trillion tokens; other data and other models are compared, none of the same set-up"),
        *(Row("Table 8", f"a better average on the same benchmarks, {shots}-shot",
              _average(table8, f"softmax_{shots}shot", f"diff_{shots}shot"), OUT_OF_REACH, 19,
              benchmarks) for shots in (0, 5)),
        Row("Fig. 9", "more learned from 20 billion tokens of mathematics",
            f"{_average(fig9, 'softmax', 'diff')} (behind at the first {behind} points)",
            OUT_OF_REACH, 19, "continues the 3B models; eight benchmarks, long answers"),
        Row("Fig. 10", "better reasoning after fine-tuning on long solutions",
            _average(fig10, "softmax", "diff"), OUT_OF_REACH, 19,
            "continues the models of Fig. 9; answers of up to 16 thousand tokens"),
        Row("Appendix G", "gradients of the Transformer's order, so its recipe carries over",
            "Θ(1)", PARTLY, 5,
            "a statement of order, with no number to test; live in chapters 5 and 16: of the same "
            "order at the start, with a ratio that grows with the context",
            ours="a factor of a few"),
    ]


# ------------------------------------------------------------ the page


def show_rows(found: Sequence[Row]) -> None:
    """The rows as a table to sort and filter, each with a link to its chapter."""
    from diffbook.show import Cell, table

    heads = ["where", "claim", "paper", "ours", "difference", "seeds", "verdict", "chapter"]
    lines = []
    for row in found:
        difference, _, interval = row.interval.partition(" ")
        lines.append([
            Cell(row.where, key=min(map(ORDER.index, parts(row.where)))),
            Cell(row.claim, small=row.note),
            Cell(row.paper),
            Cell(row.ours),
            Cell(difference, small=interval, key=difference),
            Cell(str(row.seeds or ""), small=row.device),
            Cell(row.verdict, small=_told_words(row)),
            Cell(str(row.chapter), small=row.record, link=f"{CHAPTERS[row.chapter]}.ipynb"),
        ])
    table(heads, lines, choose="verdict", caption=(
        "Every claim of the paper with its numbers, ours, the paired difference and its 95 % "
        "interval, seeds and device, verdict, and the chapter and record behind it"))


def _told_words(row: Row) -> str:
    if row.verdict != NO_DIFFERENCE or row.told is None:
        return ""
    return f"{'excludes' if row.told else 'could not have seen'} the paper's effect"
