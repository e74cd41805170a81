"""Assignment A4, find the needle: what is right, and how people go wrong.

A test that somebody wrote is judged by what it holds, not number by number: chance is in it. The
tests of the book hold these judgements to :class:`diffbook.tasks.needle.NeedleTask`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch

from diffbook import records
from diffbook.check.a3 import PAIRED_MISTAKES, paired
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
    value,
)
from diffbook.check.personal import personal
from diffbook.records.compare import CONTRADICTED, NO_DIFFERENCE, REPRODUCED
from diffbook.tasks.needle import NeedleTask

Names = frozenset[str]
BOS, ASK, CITIES, NUMBERS_, WORDS = 0, 1, range(2, 18), range(18, 34), range(34, 66)

# ---------------------------------------------------------------------------------------------
# A4.1, the test itself

TEST_MISTAKES = (
    Mistake("overlap", 2, "Some rows have fewer needles than asked for: one was written over the "
            "other. Draw the places so that no two share a token."),
    Mistake("repeated-city", 1.5, "In some rows a city occurs twice, with two numbers: its "
            "question has no single answer. Draw cities without replacement."),
    Mistake("repeated-number", 1, "In some rows two needles have the same number: the right number "
            "may come from the wrong needle. Draw numbers without replacement."),
    Mistake("wrong-answer", 2, "Some answers are not the number behind the asked city."),
    Mistake("always-first", 2, "The question is always about the same needle in the order of the "
            "text. A model that looks there and ignores the question would score full."),
    Mistake("depth-ignored", 1.5, "With depth given, the asked needle does not stand there: "
            "round(depth * words) of the words should be in front of it."),
    Mistake("same-places", 1, "The needles stand at the same places in every row: a model could "
            "learn the places."),
    Mistake("same-haystack", 1, "All rows have the same words: draw them anew for each row."),
    Mistake("not-seeded", 1, "The same generator gives two different tests: something is drawn "
            "from elsewhere. Two models have to see the same test."),
    Mistake("loose-numbers", 1, "Among the words there are numbers that belong to no city. That is "
            "another, harder test; here the haystack is words only."),
    Mistake("loose-cities", 1, "Among the words there are cities without a number behind them. The "
            "haystack is words only."),
    Mistake("few-words", 0.5, "Only some of the 32 words ever occur: draw each from all of them."),
    Mistake("fixed-pairs", 1.5, "A city has the same number in every row. A model could know the "
            "pairs by heart, and never look into the text."),
    Mistake("narrow-places", 1, "The needles stand in one part of the rows only. Draw b from 0 "
            "to W, the number of words, both included."),
    Mistake("rng-ignored", 1, "Two different generators give the same test: the chance does not "
            "come from rng."),
    Mistake("wrong-place", 1, "The places given back are not those of the answers' numbers."),
)


def make_tests(
    seed: int, n: int, length: int, n_needles: int, mistakes: Names = NONE
) -> list[dict[str, Any]]:
    """The probe's three tests: two of one seed, and one of another with the asked needle at depth
    0.25."""
    found = []
    for call, depth in enumerate((None, None, 0.25)):
        own = seed + (50 * call if "not-seeded" in mistakes else call // 2)
        if "rng-ignored" in mistakes:
            own = 0
        found.append(_one_test(np.random.default_rng(own), n, length, n_needles, depth, mistakes))
    return found


def _one_test(
    rng: np.random.Generator, n: int, length: int, n_needles: int, depth: float | None,
    mistakes: Names,
) -> dict[str, Any]:
    words = length - 3 - 2 * n_needles
    hay = rng.integers(34, 36 if "few-words" in mistakes else 66, (n, words))
    if "same-haystack" in mistakes:
        hay[:] = hay[0]
    if "loose-numbers" in mistakes:
        hay[:, 0] = 18
    if "loose-cities" in mistakes:
        hay[:, 0] = 2
    tokens, answers, places = np.zeros((n, length), int), np.zeros(n, int), np.zeros(n, int)
    for row in range(n):
        city = rng.choice(16, n_needles, replace="repeated-city" in mistakes) + 2
        number = rng.choice(16, n_needles, replace="repeated-number" in mistakes) + 18
        if "fixed-pairs" in mistakes:
            number = city + 16
        narrow = "narrow-places" in mistakes
        before = rng.integers(0, words // 2 if narrow else words + 1, n_needles)
        if "same-places" in mistakes:
            before = np.arange(n_needles) * 3 % (words + 1)
        asked = int(rng.integers(n_needles))
        if "always-first" in mistakes:
            before.sort()
            asked = 0
        if depth is not None and "depth-ignored" not in mistakes:
            before[asked] = round(depth * words)
        start = [0] * n_needles
        line = [BOS]
        for place in range(words + 1):
            for i in range(n_needles):
                if before[i] == place:
                    start[i] = len(line)
                    line += [city[i], number[i]]
            if place < words:
                line.append(hay[row, place])
        tokens[row] = [*line, ASK, city[asked]]
        if "overlap" in mistakes and row % 5 == 0:
            other = start[(asked + 1) % n_needles]
            tokens[row, other : other + 2] = 34
        shift = 1 if "wrong-answer" in mistakes else 0
        answers[row] = number[(asked + shift) % n_needles]
        places[row] = start[asked] + (0 if "wrong-place" in mistakes else 1)
    return {"tokens": tokens, "answers": answers, "places": places}


def probe_tests(thing: Any, inputs: dict[str, Any]) -> Any:
    """Two tests of one seed, and one of the next with a depth."""
    import numpy as np
    import torch

    found = []
    for call, depth in enumerate((None, None, 0.25)):
        np.random.rand(3)  # noqa: NPY002 (disturbs the global generator on purpose)
        torch.rand(3)
        rng = np.random.default_rng(inputs["seed"] + call // 2)
        made = thing(rng, inputs["n"], inputs["length"], inputs["n_needles"], depth)
        if made is None:
            return None
        tokens, answers, places = made
        found.append({"tokens": np.asarray(tokens), "answers": np.asarray(answers),
                      "places": np.asarray(places)})
    return found


def _judge_test(case: Case, answer: Any, known: Names) -> Verdict:
    inputs = case.inputs
    shape = {"tokens": (inputs["n"], inputs["length"]), "answers": (inputs["n"],),
             "places": (inputs["n"],)}
    made = []
    for one in answer if isinstance(answer, (list, tuple)) else []:
        parts = {}
        for name, wanted in shape.items():
            x = numeric(one.get(name)) if isinstance(one, dict) else None
            if x is None or x.shape != wanted or not np.isfinite(x).all():
                seen = "no numbers" if x is None else f"the shape {x.shape}"
                return Verdict(False, f"{name} has {seen}; it should have the shape {wanted}")
            parts[name] = x.astype(int)
        made.append(parts)
    if len(made) != 3:
        return Verdict(False, f"this is {kind(answer)}; tokens, answers and places were expected")
    found = _test_problems(made, inputs)
    if isinstance(found, str):
        return Verdict(False, found)
    return marked(found, known) if found else Verdict(True)


def _test_problems(
    made: list[dict[str, np.ndarray]], inputs: dict[str, Any]
) -> list[Mistake] | str:
    """What is wrong with the probe's tests; the worst first."""
    named = {mistake.name: mistake for mistake in TEST_MISTAKES}
    first, again, deep = made
    tokens, n_needles = first["tokens"], inputs["n_needles"]
    if (tokens[:, 0] != BOS).any():
        return f"each row should begin with BOS ({BOS})"
    if (tokens[:, -2] != ASK).any() or not np.isin(tokens[:, -1], CITIES).all():
        return f"each row should end with the question token ({ASK}) and the asked city"
    if tokens.min() < 0 or tokens.max() >= WORDS.stop:
        return f"there are tokens outside 0 to {WORDS.stop - 1}"
    body = tokens[:, 1:-2]
    wrong: list[Mistake] = []

    def add(name: str, seen: Any) -> None:
        if seen and named[name] not in wrong:
            wrong.append(named[name])

    facts = [_row_facts(row, int(asked), n_needles)
             for row, asked in zip(body, tokens[:, -1], strict=True)]
    add("overlap", any(f["needles"] < n_needles for f in facts))
    if not wrong and any(f["needles"] > n_needles for f in facts):
        return f"some rows have more than {n_needles} needles"
    add("loose-numbers", not wrong and any(f["loose"] for f in facts))
    add("loose-cities", not wrong and any(f["loose cities"] for f in facts))
    add("repeated-city", any(f["cities"] < f["needles"] for f in facts))
    add("repeated-number", any(f["numbers"] < f["needles"] for f in facts))
    if not {"overlap", "repeated-city"} & {m.name for m in wrong}:
        add("wrong-answer", any(
            f["answer"] != a for f, a in zip(facts, first["answers"], strict=True)))
        if not wrong:
            pairs = zip(facts, first["places"], strict=True)
            add("wrong-place", any(f["place"] != p for f, p in pairs))
        ranks = [f["rank"] for f in facts]
        often = max(ranks.count(r) for r in set(ranks))
        add("always-first", n_needles > 1 and often > 0.6 * len(ranks))
    words = inputs["length"] - 3 - 2 * n_needles
    places = {tuple(f["starts"]) for f in facts}
    if len(places) < len(facts) / 8:
        add("same-places", True)
    elif not wrong:
        fronts = [place for f in facts for place in f["fronts"]]
        add("narrow-places", min(fronts) > 0.15 * words or max(fronts) < 0.85 * words)
    hay = [f["words"] for f in facts]
    same = len(set(hay)) < len(hay) / 2
    add("same-haystack", same)
    add("few-words", not same and len({word for row in hay for word in row}) < 28)
    add("fixed-pairs", not wrong and _by_heart(facts))
    add("not-seeded", any(not np.array_equal(first[name], again[name]) for name in first))
    add("rng-ignored", not same and all(
        np.array_equal(one[np.isin(one, WORDS)], other[np.isin(other, WORDS)])
        for one, other in zip(tokens, deep["tokens"], strict=True)))
    deeper = [_row_facts(row[1:-2], int(row[-1]), n_needles) for row in deep["tokens"]]
    add("depth-ignored", not wrong and any(f["before"] != round(0.25 * words) for f in deeper))
    return wrong


def _by_heart(facts: list[dict[str, Any]]) -> bool:
    """Whether each city has one number in all rows."""
    numbers: dict[int, set[int]] = {}
    for row in facts:
        for city, number in row["pairs"]:
            numbers.setdefault(city, set()).add(number)
    return all(len(found) == 1 for found in numbers.values())


def _row_facts(row: np.ndarray, asked: int, n_needles: int) -> dict[str, Any]:
    """What one row's haystack holds; places count BOS as 0."""
    starts = [i for i in range(len(row) - 1) if row[i] in CITIES and row[i + 1] in NUMBERS_]
    numbers = [int(row[i + 1]) for i in starts]
    cities = [int(row[i]) for i in starts]
    loose = int(np.isin(row, NUMBERS_).sum()) - len(starts)
    loose_cities = int(np.isin(row, CITIES).sum()) - len(starts)
    rank = cities.index(asked) if asked in cities else -1
    at = starts[rank] if rank >= 0 else -1
    return {
        "needles": len(starts), "cities": len(set(cities)), "numbers": len(set(numbers)),
        "loose": loose, "loose cities": loose_cities, "rank": rank, "starts": starts,
        "place": at + 2, "pairs": list(zip(cities, numbers, strict=True)),
        "fronts": [start - 2 * i for i, start in enumerate(starts)],
        "answer": numbers[rank] if rank >= 0 else -1,
        "before": at - 2 * rank,
        "words": tuple(row[np.isin(row, WORDS)]),
    }


def _test_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    for label, n, length, n_needles in (("60 rows of 42 tokens, 4 needles", 60, 42, 4),
                                        ("40 rows of 23 tokens, 6 needles", 40, 23, 6)):
        yield Case(label, {"seed": int(rng.integers(2**31)), "n": n, "length": length,
                           "n_needles": n_needles})


# ---------------------------------------------------------------------------------------------
# A4.2, asking the model

ASK_MISTAKES = (
    Mistake("position", 2, "The choice is read at another position. A causal model says the next "
            "token at the position of the *last* one: logits[:, -1]."),
    Mistake("numbers-only", 1.5, "Only numbers are compared. A model that would say a word has not "
            "found the needle: take its first choice of all tokens."),
    Mistake("train-mode", 1.5, "The model is in training mode, where dropout is at work: "
            "model.eval() first."),
    Mistake("gradients", 0.5, "Gradients are recorded, which takes memory for nothing: "
            "with torch.no_grad()."),
)


def ask(
    tokens: torch.Tensor, answers: torch.Tensor, logits: torch.Tensor, noisy: torch.Tensor,
    mistakes: Names = NONE,
) -> dict[str, Any]:
    """Which answers are right, (n,), and whether gradients were on."""
    table = noisy if "train-mode" in mistakes else logits
    choice = table[:, -2 if "position" in mistakes else -1]  # (n, vocab)
    if "numbers-only" in mistakes:
        choice = choice[:, 18:34]
        right = choice.argmax(-1) + 18 == answers
    else:
        right = choice.argmax(-1) == answers
    return {"right or wrong": right.numpy(), "gradients are recorded": "gradients" in mistakes}


def probe_ask(thing: Any, inputs: dict[str, Any]) -> Any:
    """Ask a model whose logits are given: others in training mode."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.recorded = False

        def forward(self, tokens: Any) -> Any:
            rows = [next(i for i, row in enumerate(inputs["tokens"]) if torch.equal(row, t))
                    for t in tokens]
            table = inputs["noisy"] if self.training else inputs["logits"]
            self.recorded = torch.is_grad_enabled()
            return table[rows] * self.weight

    model = Model()
    right = thing(model, inputs["tokens"], inputs["answers"])
    if right is None:
        return None
    return {"right or wrong": torch.as_tensor(right).float(),
            "gradients are recorded": model.recorded}


def _ask_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    n, length, vocab = 40, 12, 66
    tokens = torch.from_numpy(rng.integers(34, 66, (n, length)))
    answers = torch.from_numpy(rng.integers(18, 34, n))
    tables = []
    for _ in range(2):
        table = torch.from_numpy(rng.standard_normal((n, length, vocab))).float()
        for at in (-1, -2):
            hit = torch.from_numpy(rng.random(n) < 0.6)
            table[hit, at, answers[hit]] += 8.0
            word = torch.from_numpy(rng.random(n) < 0.3)
            table[word, at, 40] += 12.0
        tables.append(table)
    yield Case("40 questions", {"tokens": tokens, "answers": answers, "logits": tables[0],
                                "noisy": tables[1]})


# ---------------------------------------------------------------------------------------------
# A4.3, chance, with pencil

CHANCE_MISTAKES = (
    Mistake("no-guess", 1, "That is the accuracy itself. Some of the right answers were lucky: one "
            "guess in N hits."),
    Mistake("all-numbers", 1, "The guess is among all numbers that there are. This model guesses "
            "among the N that stand in the text."),
    Mistake("not-divided", 1, "Lucky guesses are taken off, but as if every question had been "
            "guessed. Only the share 1 - k is: solve accuracy = k + (1 - k)/N for k."),
    Mistake("other-needles", 1, "The guess is among N - 1. It is among all N, the right one "
            "included."),
)


def knows(n_needles: int, n_numbers: int, found: float, mistakes: Names = NONE) -> float:
    """The share k of questions it really knows: accuracy = k + (1 - k)/N."""
    if "no-guess" in mistakes:
        return found
    chance = 1 / n_needles
    if "all-numbers" in mistakes:
        chance = 1 / n_numbers
    elif "other-needles" in mistakes:
        chance = 1 / (n_needles - 1)
    if "not-divided" in mistakes:
        return found - chance
    return (found - chance) / (1 - chance)


def _chance_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("your own numbers", personal("A4.3", student))


# ---------------------------------------------------------------------------------------------
# A4.4, the interval of one accuracy

INTERVAL_MISTAKES = (
    Mistake("wald", 1.5, "This is the interval p ± z √(p(1 - p)/n). Near 0 and 1 it fails: for 50 "
            "of 50 its width is 0. Take Wilson's."),
    Mistake("one-sided", 1, "z is 1.645: that leaves 5 % on *each* side. A 95 % interval leaves "
            "2.5 %: z = 1.96."),
    Mistake("z-two", 0.5, "z is 2, which is for 95.4 %. A 95 % interval takes 1.96."),
    Mistake("no-center", 1, "The interval stands around p. Wilson's stands around "
            "(p + z²/2n) / (1 + z²/n), which is nearer to one half."),
    Mistake("no-denominator", 1, "The denominator 1 + z²/n is missing, under the center "
            "and under the half-width."),
    Mistake("one-error", 1, "This is one standard error to each side; 95 % takes 1.96."),
)


def wilson(right: int, n: int, mistakes: Names = NONE) -> np.ndarray:
    """Wilson's 95 % interval of a share, (2,)."""
    others = {"one-error": 1.0, "one-sided": 1.645, "z-two": 2.0}
    z = next((others[name] for name in others if name in mistakes), 1.96)
    p = right / n
    if "wald" in mistakes:
        half = z * math.sqrt(p * (1 - p) / n)
        return np.array([p - half, p + half])
    below = 1.0 if "no-denominator" in mistakes else 1 + z**2 / n
    center = p if "no-center" in mistakes else (p + z**2 / (2 * n)) / below
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / below
    return np.array([center - half, center + half])


def probe_interval(thing: Any, inputs: dict[str, Any]) -> Any:
    """Low and high as one array."""
    import numpy as np

    found = thing(inputs["right"], inputs["n"])
    return None if found is None else np.array([float(x) for x in found])


def _interval_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    yield Case("some of 50", {"right": int(rng.integers(30, 40)), "n": 50})
    yield Case("50 of 50", {"right": 50, "n": 50}, costs=1)
    yield Case("1 of 12", {"right": 1, "n": 12}, costs=0.5)


# ---------------------------------------------------------------------------------------------
# A4.5, the bootstrap over haystacks

BOOTSTRAP_MISTAKES = (
    Mistake("single-questions", 2, "Single questions are drawn anew. Those of one haystack stand "
            "or fall together, so that the interval comes out too narrow: draw whole *rows*."),
    Mistake("columns", 2, "Questions (columns) are drawn anew, with all haystacks in each draw. "
            "The haystacks are the sample: draw *rows*."),
    Mistake("not-paired", 1.5, "The rows of both models are drawn apart. Both answered the same "
            "haystacks: draw one set of rows, and take both models' answers to it."),
    Mistake("ninety", 1, "The percentiles are 5 and 95: that is a 90 % interval. Take 2.5 and "
            "97.5."),
    Mistake("one-error", 1, "This is one standard error to each side; 95 % takes the percentiles "
            "2.5 and 97.5 of the draws."),
    Mistake("turned", 1, "The sign is turned round: it should be a - b."),
    Mistake("narrow", 1.5, "The interval is that of single differences, not of their mean: take "
            "the *mean* of each draw, then the percentiles of the means."),
)


def bootstrap(a: np.ndarray, b: np.ndarray, mistakes: Names = NONE) -> np.ndarray:
    """(mean of a - b, low, high) over rows of (rows, questions)."""
    rng = np.random.default_rng(0)
    draws = 4000
    if "turned" in mistakes:
        a, b = b, a
    if "columns" in mistakes:
        a, b = a.T, b.T
    if "single-questions" in mistakes:
        a, b = a.reshape(-1, 1), b.reshape(-1, 1)
    rows = rng.integers(0, len(a), (draws, len(a)))
    other = rng.integers(0, len(a), (draws, len(a))) if "not-paired" in mistakes else rows
    mine, theirs = a.mean(1), b.mean(1)
    means = mine[rows].mean(1) - theirs[other].mean(1)
    middle = float(a.mean() - b.mean())
    if "one-error" in mistakes:
        return np.array([middle, middle - means.std(), middle + means.std()])
    if "narrow" in mistakes:
        return np.array([middle, *np.percentile(mine - theirs, (2.5, 97.5))])
    low, high = np.percentile(means, (5, 95) if "ninety" in mistakes else (2.5, 97.5))
    return np.array([middle, low, high])


def probe_bootstrap(thing: Any, inputs: dict[str, Any]) -> Any:
    """Mean, low and high."""
    import numpy as np

    found = thing(inputs["a"], inputs["b"], np.random.default_rng(1))
    return None if found is None else np.array([float(x) for x in found])


def _close_interval(answer: Any, expected: np.ndarray) -> str | None:
    """None if both are of one law: the ends may be off by a twentieth of the width."""
    if answer is None:
        return NO_ANSWER
    mine = numeric(answer)
    if mine is None or mine.shape != (3,) or not np.isfinite(mine).all():
        return f"this is {kind(answer)}; three numbers were expected: the mean, low and high"
    width = expected[2] - expected[1]
    if abs(mine[0] - expected[0]) > 0.015 * width:  # the mean of 4,000 draws will do
        return f"the mean of a - b is {mine[0]:.4f}; it should be {expected[0]:.4f}"
    if np.abs(mine[1:] - expected[1:]).max() > 0.055 * width:
        return (f"the interval is [{mine[1]:.4f}, {mine[2]:.4f}]; it should be near "
                f"[{expected[1]:.4f}, {expected[2]:.4f}]")
    return None


def _bootstrap_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    rows, questions = 120, 10
    easy = rng.random((rows, 1)) < 0.4  # haystacks differ, for both models alike
    a, b = (
        (rng.random((rows, questions)) < np.where(found, 0.97, 0.03)).astype(float)
        for found in (easy | (rng.random((rows, 1)) < share) for share in (0.6, 0.35))
    )
    yield Case("120 haystacks, 10 questions each", {"a": a, "b": b})


# ---------------------------------------------------------------------------------------------
# A4.6, both models

RESULT_MISTAKES = (
    Mistake("in-percent", 0.5, "Accuracies are shares, between 0 and 1; these are percent."),
    Mistake("length-64", 2, "These are the accuracies at 64 tokens, where the models were trained; "
            "your length is another."),
    Mistake("turned-round", 1, "The difference is Transformer - DIFF; it should be DIFF - "
            "Transformer."),
    *(mistake for mistake in PAIRED_MISTAKES if mistake.name in (
        "unpaired-test", "normal", "population", "no-root-n", "root-n-1", "eager-verdict",
        "other-words")),
)
SEEDS = (0, 1, 2)
TOLERANCE = 0.15  # four standard errors of two tests of 300 questions, where they are largest


@cache
def accuracies(length: int, n: int = 300) -> dict[str, list[float]]:
    """Of the shipped models, on this length with 4 needles and one question."""
    task = NeedleTask(seq_len=length, n_queries=1)
    return {name: [task.evaluate(records.model(f"needle-cpu/{name}-{seed}"), n=n)["accuracy"]
                   for seed in SEEDS] for name in ("softmax", "diff")}


def results(length: int, part: str = "", mistakes: Names = NONE) -> dict[str, Any]:
    """The right answer: both models' accuracies, and the paired difference."""
    found = accuracies(64 if "length-64" in mistakes else length)
    if "in-percent" in mistakes:
        found = {name: [100 * x for x in values] for name, values in found.items()}
    return found | _of_pairs(found, mistakes)


def _of_pairs(found: dict[str, Any], mistakes: Names = NONE) -> dict[str, Any]:
    """The claim here is that DIFF is *higher*."""
    said = paired(np.array(found["softmax"]), np.array(found["diff"]), mistakes)
    made = {"difference": -said["difference"], "low": -said["high"], "high": -said["low"]}
    if "turned-round" in mistakes:
        made = {name: said[name] for name in made}
    return made | {"verdict": said["verdict"]}


def _judge_results(case: Case, answer: Any, known: Names) -> Verdict:
    names = ("softmax", "diff", "difference", "low", "high", "verdict")
    if not isinstance(answer, dict) or not all(name in answer for name in names):
        return Verdict(False, f"this is {kind(answer)}; a dictionary with {', '.join(names)} was "
                       "expected")
    mine = {name: numeric(list(answer[name]) if isinstance(answer[name], tuple) else answer[name])
            for name in ("softmax", "diff")}
    for name, x in mine.items():
        if x is None or x.shape != (len(SEEDS),) or not np.isfinite(x).all():
            return Verdict(False, f"{name} is {kind(answer[name])}; one accuracy for each of the "
                           f"{len(SEEDS)} seeds was expected")
    length = case.inputs["length"]

    if case.inputs["part"]:
        return _judge_difference(answer, mine, known)

    def agrees(mistakes: Names) -> bool:
        right = results(length, mistakes=mistakes)
        scale = 100 if "in-percent" in mistakes else 1
        return all(np.abs(mine[name] - right[name]).max() < TOLERANCE * scale for name in mine)

    if not agrees(NONE):
        for mistake in RESULT_MISTAKES[:2]:
            if agrees(frozenset({mistake.name})):
                return marked([mistake], known)
        right = results(length)
        return Verdict(False, "the accuracies are not those of these models at your length; the "
                       f"Transformer's mean is {mine['softmax'].mean():.2f} and should be near "
                       f"{np.mean(right['softmax']):.2f}, DIFF's {mine['diff'].mean():.2f} and "
                       f"{np.mean(right['diff']):.2f}")
    return Verdict(True)


def _judge_difference(
    answer: dict[str, Any], mine: dict[str, np.ndarray], known: Names
) -> Verdict:
    """Whether the difference, its interval and the verdict follow from the accuracies."""
    def problem(mistakes: Names) -> str | None:
        wanted = _of_pairs(mine, mistakes)
        if "other-words" in mistakes:  # whichever they are
            words = (REPRODUCED, CONTRADICTED, NO_DIFFERENCE)
            if str(answer["verdict"]).strip().casefold() not in words:
                del wanted["verdict"]
        return difference({name: answer[name] for name in wanted}, wanted, 2e-3, 5e-4)

    if problem(NONE) is None:
        return Verdict(True)
    for mistake in RESULT_MISTAKES[2:]:
        if problem(frozenset({mistake.name})) is None:
            return marked([mistake], known)
    return Verdict(False, f"what you make of the accuracies is not right: {problem(NONE)}")


def _result_cases(rng: np.random.Generator, student: str) -> Iterable[Case]:
    numbers = personal("A4.6", student)
    yield Case("the accuracies at your own length", numbers | {"part": ""})
    yield Case("what you make of them", numbers | {"part": "difference"}, costs=3)


TASKS = (
    Task("A4.1", "Write the test", "make_test", 6, _test_cases, make_tests, TEST_MISTAKES,
         probe=probe_tests, judge=_judge_test),
    Task("A4.2", "Ask the model", "evaluate", 4, _ask_cases, ask, ASK_MISTAKES, probe=probe_ask),
    Task("A4.3", "What chance gives, with pencil and your own numbers", "my_share", 2,
         _chance_cases, knows, CHANCE_MISTAKES, probe=value, rtol=0.01, atol=1e-3, group=1),
    Task("A4.4", "The interval of one accuracy", "wilson", 3, _interval_cases, wilson,
         INTERVAL_MISTAKES, probe=probe_interval, rtol=2e-3, atol=5e-4, group=1),
    Task("A4.5", "The interval of a difference", "paired_bootstrap", 5, _bootstrap_cases, bootstrap,
         BOOTSTRAP_MISTAKES, probe=probe_bootstrap, compare=_close_interval, group=1),
    Task("A4.6", "Both models, three seeds", "results", 6, _result_cases, results,
         RESULT_MISTAKES, probe=value, judge=_judge_results),
)
