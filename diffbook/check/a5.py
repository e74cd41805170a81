"""Assignment A5, the project: test one claim of the paper and write its row of the scorecard.

Nobody knows the right answer beforehand. Judged by the machine is what can be: that the plan names
a claim of the paper and could fail, that no seed was lost on the way, that the row follows from
the runs by the book's rules, and that the runs come out again. The rest is a person's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from diffbook import paper
from diffbook.check.core import (
    NO_ANSWER,
    NONE,
    Case,
    Mistake,
    Task,
    Verdict,
    difference,
    kind,
    marked,
    numeric,
)
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, REPRODUCED, STUDENT

Names = frozenset[str]
KINDS = ("softmax", "diff")
SEEDS_AT_LEAST = 3

# ---------------------------------------------------------------------------------------------
# A5.1, the plan

PLAN_MISTAKES = (
    Mistake("not-of-the-paper", 2, "The paper's numbers in the plan are not in that table or "
            "figure "
            "as diffbook.paper has it. Print paper.load(…) and take the two that your claim is "
            "about."),
    Mistake("claim-turned", 1, "The plan says that DIFF should be one way, the paper's own numbers "
            "go the other: check `says` and the order (the Transformer's first)."),
    Mistake("few-seeds", 1, "There are fewer than three seeds. From one or two runs of each model "
            "no scatter can be estimated, and so no interval."),
    Mistake("cannot-fail", 1, "The plan does not say what would speak against the claim. "
            "Write down, "
            "before any run, which result you would call a failure."),
    Mistake("no-measure", 0.5, "The plan does not say in words what is measured, and in "
            "which unit."),
)


def plan(pick: int = 0, mistakes: Names = NONE) -> dict[str, Any]:
    """A plan as it should be, with the mistakes asked for."""
    turned, silent = "claim-turned" in mistakes, "cannot-fail" in mistakes
    return {
        "where": "Table 3", "paper": [0.5, 0.1] if "not-of-the-paper" in mistakes else [0.52, 0.02],
        "claim": "less attention to the irrelevant words of the context",
        "measure": "" if "no-measure" in mistakes else "share of attention on the haystack, 0 to 1",
        "says": "higher" if turned else "lower",
        "seeds": [0, 1] if "few-seeds" in mistakes else [0, 1, 2],
        "against": "" if silent else "an interval that lies above 0, or holds it",
    }


def probe_plan(thing: Any, inputs: dict[str, Any]) -> Any:
    """The plan, its seeds as numbers."""
    if not isinstance(thing, dict) or any(part is ... for part in thing.values()):
        return None if thing is ... or isinstance(thing, dict) else thing
    return {str(name): list(part) if isinstance(part, (tuple, range)) else part
            for name, part in thing.items()}


def _words(text: Any, least: int = 12) -> bool:
    return isinstance(text, str) and len(text.strip()) >= least


def _key(where: Any) -> list[str]:
    """Names of :func:`diffbook.paper.load` that "Table 3" or "Fig. 6" stands for."""
    text = str(where).strip().casefold().replace("figure", "fig").replace(".", "").replace(" ", "")
    return [name for name in paper.names() if name == text or (
        text.startswith("fig") and name[:-1] == text and name[-1].isalpha())]


def _numbers(data: Any) -> Iterator[float]:
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        for part in data:
            yield from _numbers(part)
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        yield float(data)


def _judge_plan(case: Case, answer: Any, known: Names) -> Verdict:
    needed = ("where", "claim", "paper", "measure", "says", "seeds", "against")
    if not isinstance(answer, dict):
        return Verdict(False, f"this is {kind(answer)}; a dictionary with {', '.join(needed)} was "
                       "expected")
    missing = [name for name in needed if name not in answer]
    if missing:
        return Verdict(False, f"the plan says nothing about {', '.join(missing)}")
    keys = _key(answer["where"])
    if not keys:
        return Verdict(False, f"where is {str(answer['where'])[:40]!r}; it should be a table or "
                       "figure of the paper that diffbook.paper has, such as \"Table 3\"")
    if answer["says"] not in ("lower", "higher"):
        return Verdict(False, f"says is {str(answer['says'])[:40]!r}: \"lower\" or \"higher\" was "
                       "expected, for DIFF against the Transformer")
    if not _words(answer["claim"]):
        return Verdict(False, "the claim is missing: one sentence, in words")
    pair, seeds = numeric(answer["paper"]), numeric(answer["seeds"])
    if pair is None or pair.shape != (2,) or not np.isfinite(pair).all():
        return Verdict(False, "paper should hold two numbers: the Transformer's, then DIFF's")
    if seeds is None or seeds.ndim != 1 or len(set(seeds)) < len(seeds):
        return Verdict(False, "seeds should be a list of different numbers")
    printed = [x for key in keys for x in _numbers(paper.load(key))]
    wrong = []
    if not all(any(math.isclose(x, y, rel_tol=1e-6) for y in printed) for x in pair):
        wrong.append(PLAN_MISTAKES[0])
    elif pair[0] != pair[1] and (pair[1] < pair[0]) != (answer["says"] == "lower"):
        wrong.append(PLAN_MISTAKES[1])
    if len(seeds) < SEEDS_AT_LEAST:
        wrong.append(PLAN_MISTAKES[2])
    if not _words(answer["against"]):
        wrong.append(PLAN_MISTAKES[3])
    if not _words(answer["measure"]):
        wrong.append(PLAN_MISTAKES[4])
    return marked(wrong, known) if wrong else Verdict(True)


# ---------------------------------------------------------------------------------------------
# A5.2, the runs

RUN_MISTAKES = (
    Mistake("seeds-lost", 2, "There are fewer runs than seeds in the plan. Whoever leaves "
            "out a run "
            "after having seen it has chosen his result. Put it back, and say what went wrong in "
            "it."),
    Mistake("seeds-added", 1, "There are more runs than seeds in the plan. Adding runs until the "
            "interval pleases is a choice, too: write a new plan, and say so."),
    Mistake("saturated", 1, "All runs are at the measure's floor or ceiling. Such a measure cannot "
            "see a difference, whoever is better: make the task harder, or easier, until the "
            "models lie in between."),
    Mistake("copied", 1.5, "Two seeds have exactly the same numbers: was the seed used? If "
            "the measure is so coarse that this is chance, ask more questions."),
)


def runs(mistakes: Names = NONE) -> dict[str, Any]:
    """Numbers of a plan with three seeds."""
    softmax, diff = [0.31, 0.35, 0.29], [0.28, 0.36, 0.27]
    if "seeds-lost" in mistakes:
        softmax, diff = softmax[:2], diff[:2]
    if "seeds-added" in mistakes:
        softmax, diff = [*softmax, 0.30], [*diff, 0.25]
    if "copied" in mistakes:
        softmax[1], diff[1] = softmax[0], diff[0]
    if "saturated" in mistakes:
        softmax, diff = [1.0] * len(softmax), [1.0] * len(diff)
    return {"softmax": softmax, "diff": diff}


def project(pick: int = 0, mistakes: Names = NONE) -> dict[str, Any]:
    """A project as it should be, in the form in which the probes see it."""
    made = runs(mistakes)
    return {"seeds": [0, 1, 2], "says": "lower", **made, "row": row(made, "lower", mistakes)}


def probe_project(thing: Any, inputs: dict[str, Any]) -> Any:
    """The plan's seeds, the runs and the row."""
    if not isinstance(thing, dict):
        return thing
    if any(name not in thing for name in ("plan", "runs", "row")):
        raise KeyError("PROJECT needs plan, runs, row and measure")
    if any(not isinstance(thing[name], dict) for name in ("plan", "runs", "row")):
        return None
    if thing["plan"].get("seeds", ...) is ...:
        return None
    made = {"seeds": list(thing["plan"]["seeds"]), "says": thing["plan"]["says"],
            "row": dict(thing["row"])}
    for name in ("softmax", "diff"):
        values = thing["runs"][name]
        made[name] = None if values is ... else [float(x) for x in values]
    return made


def _form(answer: Any) -> dict[str, Any] | str:
    """The runs as arrays, or what is wrong with their form."""
    if answer is None or answer is Ellipsis:
        return NO_ANSWER
    needed = ("seeds", "says", "row", *KINDS)
    if not isinstance(answer, dict) or not all(name in answer for name in needed):
        return (f"this is {kind(answer)}; PROJECT should be a dictionary with plan, runs, row, "
                "measure")
    if any(answer[name] is None for name in KINDS):
        return NO_ANSWER
    made: dict[str, Any] = {name: numeric(answer[name]) for name in KINDS}
    for name, x in made.items():
        if x is None or x.ndim != 1 or not np.isfinite(x).all():
            return f"the runs of {name} should be a list of numbers, one for each seed"
    if len(made["softmax"]) != len(made["diff"]):
        return (f"there are {len(made['softmax'])} runs of the Transformer and "
                f"{len(made['diff'])} of DIFF: each seed needs both")
    if not isinstance(answer["seeds"], (list, tuple)):
        return "the plan's seeds should be a list"
    return made


def _judge_runs(case: Case, answer: Any, known: Names) -> Verdict:
    made = _form(answer)
    if isinstance(made, str):
        return Verdict(False, made)
    n, planned = len(made["diff"]), len(answer["seeds"])
    wrong = []
    if n != planned:
        wrong.append(RUN_MISTAKES[0 if n < planned else 1])
    pairs = list(zip(made["softmax"], made["diff"], strict=True))
    if n > 1 and all(x in (0.0, 1.0) for pair in pairs for x in pair):
        wrong.append(RUN_MISTAKES[2])
    elif len(set(pairs)) < n:
        wrong.append(RUN_MISTAKES[3])
    return marked(wrong, known) if wrong else Verdict(True)


# ---------------------------------------------------------------------------------------------
# A5.3, the row

ROW_MISTAKES = (
    Mistake("eager-row", 2, "The verdict does not follow from the interval: one that holds 0 "
            "is \"no "
            "difference at this scale\", whatever its mean."),
    Mistake("verdict-against-the-claim", 1.5, "The verdict is turned round: compare the side of 0 "
            "that the interval lies on with what the claim `says`."),
    Mistake("unpaired-row", 1.5, "The interval is that of two groups without anything in "
            "common. The "
            "runs are paired by their seeds: take the differences first."),
    Mistake("normal-row", 1, "The interval is taken with 1.96. For few seeds take Student's t."),
    Mistake("row-turned", 1, "The difference is Transformer - DIFF. In the scorecard it is DIFF - "
            "Transformer."),
    Mistake("no-note", 0.5, "The row has no note. Say what separates your test from the "
            "paper's: the "
            "scale, the data, the measure."),
)


def row(made: dict[str, Any], says: str, mistakes: Names = NONE) -> dict[str, Any]:
    """The row that follows from the runs."""
    softmax, diff = (np.asarray(made[name], float) for name in KINDS)
    gap = softmax - diff if "row-turned" in mistakes else diff - softmax
    n = len(gap)
    scatter = gap.std(ddof=1)
    if "unpaired-row" in mistakes:
        scatter = math.hypot(softmax.std(ddof=1), diff.std(ddof=1))
    points = 1.96 if "normal-row" in mistakes else STUDENT.get(n, 1.96)
    half = points * scatter / math.sqrt(n)
    mean = float(gap.mean())
    low, high = mean - half, mean + half
    zero = low <= 0 <= high and "eager-row" not in mistakes
    below = (mean < 0) == (says == "lower")
    if "verdict-against-the-claim" in mistakes:
        below, zero = not below, False
    note = "" if "no-note" in mistakes else "small models and a test on the level of tokens"
    return {"softmax": float(softmax.mean()), "diff": float(diff.mean()), "difference": mean,
            "low": low, "high": high, "seeds": n,
            "verdict": NO_DIFFERENCE if zero else REPRODUCED if below else CONTRADICTED,
            "note": note}


def _judge_row(case: Case, answer: Any, known: Names) -> Verdict:
    made = _form(answer)
    if isinstance(made, str):
        return Verdict(False, made)
    if len(made["diff"]) < 2:
        return Verdict(False, "an interval needs at least two paired runs")
    if len(made["diff"]) not in STUDENT:
        return Verdict(False, f"{len(made['diff'])} seeds: the table of Student's t goes from 2 to "
                       f"{max(STUDENT)}; a person will look at it")
    said, mine = answer["says"], answer["row"]
    right = row(made, said)
    names = ("softmax", "diff", "difference", "low", "high", "seeds", "verdict")

    def problem(wanted: dict[str, Any]) -> str | None:
        return difference(mine, {name: wanted[name] for name in names}, 2e-3, 1e-6)

    noted = isinstance(mine, dict) and _words(mine.get("note"), 20)
    found = problem(right)
    wrong = []
    if found:
        for mistake in ROW_MISTAKES[:-1]:
            if problem(row(made, said, frozenset({mistake.name}))) is None:
                wrong.append(mistake)
                break
        else:
            return Verdict(False, f"the row does not follow from the runs: {found}")
    if not noted:
        wrong.append(ROW_MISTAKES[-1])
    return marked(wrong, known) if wrong else Verdict(True)


# ---------------------------------------------------------------------------------------------
# A5.4, again

AGAIN_MISTAKES = (
    Mistake("not-again", 2, "measure(kind, seed) gives two different numbers for the same kind and "
            "seed: some chance does not come from the seed."),
    Mistake("other-numbers", 3, "measure(kind, seed) does not give the numbers that stand in the "
            "runs. Fill `runs` by calling it."),
    Mistake("seed-unused", 2, "measure gives the same numbers for two seeds: the seed is not "
            "used."),
)


def again(pick: int = 0, mistakes: Names = NONE) -> dict[str, Any]:
    """What the probe sees of a measure that holds."""
    made = runs()
    found = np.array([[made[k][s] for s in (0, 1)] for k in KINDS])
    once, twice = found.copy(), found.copy()
    if "not-again" in mistakes:
        twice = twice + 0.01
    if "other-numbers" in mistakes:
        once, twice = once + 0.2, twice + 0.2
    if "seed-unused" in mistakes:
        once = twice = found[:, :1].repeat(2, axis=1)
    return {"in the runs": found, "now": once, "and again": twice}


def probe_again(thing: Any, inputs: dict[str, Any]) -> Any:
    """Two seeds measured again; the first of them twice."""
    import numpy as np

    if not isinstance(thing, dict) or any(thing["runs"][k] is ... for k in thing["runs"]):
        return None
    if not callable(thing.get("measure")):
        return {}
    count = min(len(thing["runs"]["softmax"]), len(thing["runs"]["diff"]))
    seeds = list(thing["plan"]["seeds"])[:count]
    at = inputs["pick"] % len(seeds)
    chosen = [at, (at + 1) % len(seeds)]
    kinds = ("softmax", "diff")
    now = np.array([[float(thing["measure"](k, seeds[i])) for i in chosen] for k in kinds])
    twice = now.copy()
    for number, k in enumerate(kinds):
        np.random.rand(3)  # noqa: NPY002 (disturbs the global generator on purpose)
        twice[number, 0] = float(thing["measure"](k, seeds[chosen[0]]))
    there = np.array([[float(thing["runs"][k][i]) for i in chosen] for k in kinds])
    return {"in the runs": there, "now": now, "and again": twice}


def _judge_again(case: Case, answer: Any, known: Names) -> Verdict:
    if answer == {}:
        return Verdict(False, "there is no measure(kind, seed) in PROJECT yet")
    if not isinstance(answer, dict):
        return Verdict(False, f"this is {kind(answer)}; PROJECT should be a dictionary")
    there, now, twice = (numeric(answer.get(name)) for name in ("in the runs", "now", "and again"))
    if any(x is None or x.shape != (2, 2) or not np.isfinite(x).all() for x in (there, now, twice)):
        return Verdict(False, "measure(kind, seed) should return one number")
    wrong = []
    if not np.allclose(now, twice, rtol=1e-3, atol=1e-6):
        wrong.append(AGAIN_MISTAKES[0])
    elif np.array_equal(now[:, 0], now[:, 1]) and not np.isin(now, (0, 1)).all():
        wrong.append(AGAIN_MISTAKES[2])
    elif not np.allclose(now, there, rtol=1e-2, atol=1e-6):
        wrong.append(AGAIN_MISTAKES[1])
    return marked(wrong, known) if wrong else Verdict(True)


def _one_case(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("", {"pick": int(rng.integers(100))})


TASKS = (
    Task("A5.1", "The plan, before any run", "PLAN", 4, _one_case, plan, PLAN_MISTAKES,
         probe=probe_plan, judge=_judge_plan),
    Task("A5.2", "The runs, all of them", "PROJECT", 3, _one_case, project, RUN_MISTAKES,
         probe=probe_project, judge=_judge_runs),
    Task("A5.3", "The row follows from the runs", "PROJECT", 5, _one_case, project, ROW_MISTAKES,
         probe=probe_project, judge=_judge_row),
    Task("A5.4", "It comes out again", "PROJECT", 4, _one_case, again, AGAIN_MISTAKES,
         probe=probe_again, judge=_judge_again),
)
