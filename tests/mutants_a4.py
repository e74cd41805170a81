"""Hand-ins for A4 as people write them; see mutants_a2."""

from __future__ import annotations

from mutants_a2 import Mutant

ASKING = """\
    results[kind] = [
        float(evaluate(records.model(f"needle-cpu/{kind}-{seed}"),
                       test_tokens, test_answers).float().mean())
        for seed in range(3)
    ]
"""
# Six models take seconds; where the test is not about them, the answers are there already.
BASE = [(ASKING, "    results[kind] = list(ANSWERS[kind])\n")]

LENGTH = 'personal("A4.6", STUDENT)["length"]'
WORDS = "        words = rng.choice(WORDS, n_words)\n"
CITIES = "        cities = rng.choice(CITIES, n_needles, replace=False)\n"
NUMBERS = "        numbers = rng.choice(NUMBERS, n_needles, replace=False)\n"
BEFORE = "        before = rng.integers(0, n_words + 1, n_needles)\n"
CHOICE = "    return logits[:, -1].argmax(-1) == torch.as_tensor(answers)\n"
WILSON = """\
    z, p = 1.96, right / n
    center = p + z**2 / (2 * n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    below = 1 + z**2 / n
    return (center - half) / below, (center + half) / below
"""
BOOT = """\
    gap = a.mean(1) - b.mean(1)  # one number for each haystack
    draws = rng.integers(0, len(gap), (4000, len(gap)))
"""

RIGHT: dict[str, list[tuple[str, str]]] = {
    "model": [],
    "in other words": [
        ("""\
        row = [BOS]
        for place in range(n_words + 1):
            for needle in np.flatnonzero(before == place):
                row += [cities[needle], numbers[needle]]
                if needle == asked:
                    places.append(len(row) - 1)
            row += list(words[place:place + 1])
        tokens.append(row + [ASK, cities[asked]])
""", """\
        row = list(words)
        order = sorted(range(n_needles), key=lambda i: -before[i])
        for needle in order:  # from the right, so that places to the left stay
            row[before[needle]:before[needle]] = [cities[needle], numbers[needle]]
        row = [BOS, *row, ASK, cities[asked]]
        tokens.append(row)
        places.append(row.index(cities[asked]) + 1)
"""),
        (CHOICE, """\
    best = logits[:, -1].max(-1).values
    rows = torch.arange(len(logits))
    return np.array(logits[rows, -1, torch.as_tensor(answers)] == best)
"""),
        (WILSON, """\
    p, z = right / n, 1.959964
    low_high = np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p])
    return sorted(low_high.real)
"""),
        (BOOT, """\
    gap = (a - b).mean(axis=1)
    draws = np.array([rng.choice(len(gap), len(gap)) for _ in range(6000)])
"""),
    ],
}

WRONG: dict[str, Mutant] = {
    "cities drawn with replacement": Mutant(
        [(CITIES, CITIES.replace(", replace=False", ""))], {"A4.1": 1.5}, {"repeated-city"},
        "a city occurs twice"),
    "numbers drawn with replacement": Mutant(
        [(NUMBERS, NUMBERS.replace(", replace=False", ""))], {"A4.1": 1}, {"repeated-number"},
        "two needles have the same number"),
    "always the first needle": Mutant(
        [(BEFORE, "        before = np.sort(rng.integers(0, n_words + 1, n_needles))\n"),
         ("        asked = rng.integers(n_needles)\n", "        asked = 0\n")], {"A4.1": 2},
        {"always-first"}, "ignores the question"),
    "depth forgotten": Mutant(
        [("            before[asked] = round(depth * n_words)\n", "            pass\n")], {"A4.1": 1.5},
        {"depth-ignored"}, "With depth given"),
    "another needle's number": Mutant(
        [("        answers.append(numbers[asked])", "        answers.append(numbers[asked - 1])")],
        {"A4.1": 2}, {"wrong-answer"}, "not the number behind the asked city"),
    "written over each other": Mutant(
        [("        tokens.append(row + [ASK, cities[asked]])\n",
          "        if len(tokens) % 4 == 0:\n            row[1:3] = row[3:5] = [40, 41]\n"
          "        tokens.append(row + [ASK, cities[asked]])\n"),
         (BEFORE, "        before = np.zeros(n_needles, int)\n")],
        {"A4.1": 3}, {"overlap", "same-places"}, "one was written over the other"),
    "the same words in all rows": Mutant(
        [(WORDS, "        words = np.resize(WORDS, n_words)\n")], {"A4.1": 1}, {"same-haystack"},
        "All rows have the same words"),
    "numpy's global generator": Mutant(
        [(WORDS, "        words = np.random.choice(WORDS, n_words)\n")], {"A4.1": 1}, {"not-seeded"},
        "drawn from elsewhere"),
    "numbers among the words": Mutant(
        [(WORDS, "        words = rng.choice(np.r_[NUMBERS, WORDS], n_words)\n"
          "        words[0] = 18\n")], {"A4.1": 1},
        {"loose-numbers"}, "belong to no city"),
    "cities among the words": Mutant(
        [(WORDS, "        words = rng.choice(np.r_[CITIES, WORDS], n_words)\n"
          "        words[0] = 2\n")], {"A4.1": 1}, {"loose-cities"}, "cities without a number"),
    "four words": Mutant(
        [(WORDS, "        words = rng.choice(WORDS[:4], n_words)\n")], {"A4.1": 0.5}, {"few-words"},
        "all of them"),
    "a number for each city": Mutant(
        [(NUMBERS, "        numbers = cities + 16\n")], {"A4.1": 1.5}, {"fixed-pairs"}, "by heart"),
    "the first half only": Mutant(
        [(BEFORE, "        before = rng.integers(0, n_words // 2, n_needles)\n")], {"A4.1": 1},
        {"narrow-places"}, "in one part of the rows"),
    "a generator of its own": Mutant(
        [("    tokens, answers, places = [], [], []\n",
          "    tokens, answers, places = [], [], []\n    rng = np.random.default_rng(0)\n")],
        {"A4.1": 1}, {"rng-ignored"}, "does not come from rng"),
    "depth cut off": Mutant(
        [("round(depth * n_words)", "int(depth * n_words)")], {"A4.1": 1.5}, {"depth-ignored"},
        "With depth given"),
    "the city's place": Mutant(
        [("places.append(len(row) - 1)", "places.append(len(row) - 2)")], {"A4.1": 1}, {"wrong-place"},
        "The places given back"),
    "the last but one position": Mutant(
        [("logits[:, -1].argmax(-1)", "logits[:, -2].argmax(-1)")], {"A4.2": 2}, {"position"},
        "at the position of the *last* one"),
    "only numbers compared": Mutant(
        [("logits[:, -1].argmax(-1)", "logits[:, -1, 18:34].argmax(-1) + 18")], {"A4.2": 1.5},
        {"numbers-only"}, "first choice of all tokens"),
    "dropout on": Mutant([("    model.eval()\n", "    model.train()\n")], {"A4.2": 1.5}, {"train-mode"},
                         "training mode"),
    "gradients on": Mutant([("    with torch.no_grad():\n", "    if True:\n")], {"A4.2": 0.5},
                           {"gradients"}, "torch.no_grad()"),
    "no luck": Mutant(
        [('my_share = (mine["found"] - lucky) / (1 - lucky)', 'my_share = mine["found"]')], {"A4.3": 1},
        {"no-guess"}, "one guess in N"),
    "luck among all numbers": Mutant(
        [('lucky = 1 / mine["n_needles"]', 'lucky = 1 / mine["n_numbers"]')], {"A4.3": 1},
        {"all-numbers"}, "among all numbers"),
    "luck taken off whole": Mutant(
        [('(mine["found"] - lucky) / (1 - lucky)', 'mine["found"] - lucky')], {"A4.3": 1},
        {"not-divided"}, "solve accuracy"),
    "Wald": Mutant(
        [(WILSON, "    p = right / n\n    half = 1.96 * (p * (1 - p) / n) ** 0.5\n"
          "    return p - half, p + half\n")], {"A4.4": 1.5}, {"wald"}, "its width is 0"),
    "z of 90 %": Mutant([("z, p = 1.96,", "z, p = 1.645,")], {"A4.4": 1}, {"one-sided"}, "1.645"),
    "z of 2": Mutant([("z, p = 1.96,", "z, p = 2,")], {"A4.4": 0.5}, {"z-two"}, "takes 1.96"),
    "around p": Mutant([("center = p + z**2 / (2 * n)", "center = p * (1 + z**2 / n)")], {"A4.4": 1},
                       {"no-center"}, "stands around p"),
    "single questions drawn": Mutant(
        [(BOOT, "    gap = (a - b).ravel()\n    draws = rng.integers(0, len(gap), (4000, len(gap)))\n")],
        {"A4.5": 2}, {"single-questions"}, "draw whole *rows*"),
    "columns drawn": Mutant(
        [(BOOT, "    gap = (a - b).mean(0)\n    draws = rng.integers(0, len(gap), (4000, len(gap)))\n")],
        {"A4.5": 2}, {"columns"}, "The haystacks are the sample"),
    "rows drawn apart": Mutant(
        [(BOOT, BOOT + "    other = rng.permuted(draws.ravel()).reshape(draws.shape)\n"
          "    means = a.mean(1)[draws].mean(1) - b.mean(1)[other].mean(1)\n"),
         ("np.percentile(gap[draws].mean(1),", "np.percentile(means,")], {"A4.5": 1.5}, {"not-paired"},
        "one set of rows"),
    "ninety percent": Mutant([("[2.5, 97.5]", "[5, 95]")], {"A4.5": 1}, {"ninety"}, "90 % interval"),
    "b minus a": Mutant([("gap = a.mean(1) - b.mean(1)", "gap = b.mean(1) - a.mean(1)")], {"A4.5": 1},
                        {"turned"}, "turned round"),
    "percent": Mutant(
        [("    results[kind] = list(ANSWERS[kind])\n",
          "    results[kind] = [100 * x for x in ANSWERS[kind]]\n")], {"A4.6": 0.5}, {"in-percent"},
        "these are percent"),
    "the length of the training": Mutant(
        [("list(ANSWERS[kind])", "list(SHORT[kind])")], {"A4.6": 2}, {"length-64"},
        "where the models were trained"),
    "numbers of chance": Mutant(
        [("list(ANSWERS[kind])", "[0.25, 0.26, 0.24 + 0.01 * (kind == 'diff')]")], {"A4.6": 6}, set(),
        "not those of these models"),
    "a verdict by the mean": Mutant(
        [('if results["low"] > 0:', 'if results["difference"] > 0:'),
         ('elif results["high"] < 0:', 'elif results["difference"] < 0:')], {"A4.6": 1.5},
        {"eager-verdict"}, "however pretty its mean"),
    "an interval from elsewhere": Mutant(
        [("half = 4.303 * gap.std(ddof=1) / 3**0.5", "half = 0.123")], {"A4.6": 3}, set(),
        "what you make of the accuracies"),
    "1.96 for three seeds": Mutant(
        [("half = 4.303 * ", "half = 1.96 * ")], {"A4.6": 1}, {"normal"}, "Student's t"),
    "Transformer minus DIFF": Mutant(
        [('gap = np.array(results["diff"]) - np.array(results["softmax"])',
          'gap = np.array(results["softmax"]) - np.array(results["diff"])')], {"A4.6": 1},
        {"turned-round"}, "should be DIFF - Transformer"),
}
