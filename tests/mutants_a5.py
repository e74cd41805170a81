"""Projects for A5 as people write them; see mutants_a2."""

from __future__ import annotations

from mutants_a2 import Mutant

# Fewer rows: the tests are not about the number that comes out.
BASE = [("task.sample(64, ", "task.sample(16, ")]
RUNS = """\
runs = {kind: [measure(kind, seed) for seed in PLAN["seeds"]]
        for kind in ("softmax", "diff")}
"""
RIGHT: dict[str, list[tuple[str, str]]] = {
    "model": [],
    "another claim": [
        ('"where": "Table 3"', '"where": "Fig. 5"'), ("[0.52, 0.02],", "[0.52, 0.86],"),
        ('"says": "lower"', '"says": "higher"'),
        ('share = mass.absolute[..., REGIONS.index("haystack")]',
         'share = mass.absolute[..., REGIONS.index("answer")]'),
    ],
    "by hand": [
        ("low, high = records.paired_interval(gaps)\n",
         "half = 4.303 * np.std(gaps, ddof=1) / 3 ** 0.5\n"
         "low, high = gaps.mean() - half, gaps.mean() + half\n"),
    ],
}
WRONG: dict[str, Mutant] = {
    "numbers from nowhere": Mutant(
        [("[0.52, 0.02],", "[0.55, 0.12],")], {"A5.1": 2}, {"not-of-the-paper"}, "diffbook.paper"),
    "claim turned round": Mutant(
        [('"says": "lower"', '"says": "higher"')], {"A5.1": 1}, {"claim-turned"}, "go the other"),
    "two seeds": Mutant(
        [('"seeds": [0, 1, 2]', '"seeds": [0, 1]')], {"A5.1": 1}, {"few-seeds"}, "fewer than three"),
    "nothing could speak against it": Mutant(
        [('"against": "an interval of the paired difference that holds 0 or lies "\n'
          '               "above it",', '"against": "",')], {"A5.1": 1}, {"cannot-fail"},
        "before any run"),
    "a seed dropped": Mutant(
        [(RUNS, RUNS + "runs = {kind: sorted(x)[:2] for kind, x in runs.items()}\n")],
        {"A5.2": 2, "A5.4": 3}, {"seeds-lost", "other-numbers"}, "has chosen his result"),
    "a measure at its ceiling": Mutant(
        [("return float(share.mean())", "return 1.0")], {"A5.2": 1}, {"saturated"},
        "cannot see a difference"),
    "one seed more": Mutant(
        [(RUNS, RUNS + "runs['softmax'].append(0.5)\nruns['diff'].append(0.4)\n")],
        {"A5.2": 1}, {"seeds-added"}, "until the interval pleases"),
    "verdict without the interval": Mutant(
        [('REGIONS.index("haystack")', 'REGIONS.index("answer")'),
         ("if low <= 0 <= high:", "if gaps.mean() < 0:\n    verdict = 'reproduced'\nelif False:")],
        {"A5.3": 2}, {"eager-row"}, "whatever its mean"),
    "1.96": Mutant(
        [("low, high = records.paired_interval(gaps)\n",
          "half = 1.96 * np.std(gaps, ddof=1) / 3 ** 0.5\n"
          "low, high = gaps.mean() - half, gaps.mean() + half\n")], {"A5.3": 1}, {"normal-row"},
        "Student's t"),
    "two groups": Mutant(
        [("low, high = records.paired_interval(gaps)\n",
          "half = 4.303 * np.hypot(*(np.std(x, ddof=1) for x in runs.values())) / 3 ** 0.5\n"
          "low, high = gaps.mean() - half, gaps.mean() + half\n")], {"A5.3": 1.5}, {"unpaired-row"},
        "take the differences first"),
    "no note": Mutant(
        [('"note": "0.1 M parameters, tokens in the place of text; magnitudes, "\n'
          '            "as the entries of a difference map may be negative",', '"note": "",')],
        {"A5.3": 0.5}, {"no-note"}, "no note"),
    "typed numbers": Mutant(
        [(RUNS, "runs = {'softmax': [0.61, 0.64, 0.60], 'diff': [0.31, 0.33, 0.32]}\n")],
        {"A5.4": 3}, {"other-numbers"}, "by calling it"),
    "chance without a seed": Mutant(
        [("torch.Generator().manual_seed(11)", "torch.Generator().manual_seed("
          "int(np.random.randint(10 ** 6)))")], {"A5.4": 2}, {"not-again"}, "does not come from the seed"),
    "seed not used": Mutant(
        [('f"needle-cpu/{kind}-{seed}"', 'f"needle-cpu/{kind}-0"')],
        {"A5.2": 1.5, "A5.4": 2}, {"copied", "seed-unused"}, "was the seed used?"),
}
