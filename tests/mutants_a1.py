"""Hand-ins for A1 as people write them: right in different ways, and wrong in typical ones."""

from __future__ import annotations

from mutants_a2 import Mutant

SOFTMAX = """\
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
"""
MASS = """\
    noise = n * np.exp(s**2 / 2)
    return noise / (noise + np.exp(m))
"""
SIMULATE = """\
    noise = s * rng.standard_normal((trials, n))
    scores = np.concatenate([np.full((trials, 1), m), noise], axis=1)
    return 1 - softmax(scores)[:, 0]
"""
GAIN = """\
    signal = (p1 - lam * p2) / p1
    return 10 * np.log10(signal**2 / noise_left(lam, c))
"""

RIGHT: dict[str, list[tuple[str, str]]] = {
    "model": [],
    "loops": [
        (SOFTMAX, """\
    out = np.empty(z.shape)
    for index in np.ndindex(z.shape[:-1]):
        row = [np.exp(x - max(z[index])) for x in z[index]]
        out[index] = [x / sum(row) for x in row]
    return out
"""),
        (MASS, "    return 1 / (1 + np.exp(m - s**2 / 2) / n)\n"),
        (SIMULATE, """\
    masses = []
    for _ in range(trials):
        weights = [np.exp(rng.normal(0, s)) for _ in range(n)]
        masses.append(sum(weights) / (sum(weights) + np.exp(m)))
    return np.array(masses)
"""),
    ],
    "logarithms": [
        (SOFTMAX, """\
    z = z - z.max(-1, keepdims=True)
    return np.exp(z - np.log(np.exp(z).sum(-1, keepdims=True)))
"""),
        (GAIN, "    return (20 * np.log10(abs(p1 - lam * p2) / p1)\n"
               "            - 10 * np.log10(noise_left(lam, c)))\n"),
    ],
}

WRONG: dict[str, Mutant] = {
    "pencil in percent": Mutant(
        [("my_noise_mass = 0.515", "my_noise_mass = 51.5")], {"A1.1": 0.5}, {"percent"},
        "in percent"),
    "pencil without spread": Mutant(
        [("my_noise_mass = 0.515", "my_noise_mass = 0.4355")], {"A1.1": 1}, {"no-spread"},
        "The spread is missing"),
    "overflow": Mutant(
        [("z - z.max(axis=-1, keepdims=True)", "z")], {"A1.2": 1}, {"overflow"},
        "exp(1000) is infinite"),
    "one sum for all rows": Mutant(
        [(SOFTMAX, "    weights = np.exp(z - z.max())\n    return weights / weights.sum()\n"),
         (SIMULATE, """\
    noise = np.exp(s * rng.standard_normal((trials, n))).sum(1)
    return noise / (noise + np.exp(m))
""")], {"A1.2": 1.5}, {"all-rows"}, "Each *row* should"),
    "columns": Mutant(
        [(SOFTMAX, "    weights = np.exp(z - z.max(axis=0))\n"
          "    return weights / weights.sum(axis=0)\n"),
         (SIMULATE, """\
    noise = np.exp(s * rng.standard_normal((trials, n))).sum(1)
    return noise / (noise + np.exp(m))
""")], {"A1.2": 1.5}, {"columns"}, "wrong axis"),
    "formula without spread": Mutant(
        [("n * np.exp(s**2 / 2)", "n")], {"A1.3": 1}, {"no-spread"}, "The spread is missing"),
    "e^(s²)": Mutant(
        [("np.exp(s**2 / 2)", "np.exp(s**2)")], {"A1.3": 1}, {"spread-twice"}, "with a half"),
    "share of the signal": Mutant(
        [("    return noise / (noise + np.exp(m))", "    return np.exp(m) / (noise + np.exp(m))")],
        {"A1.3": 1}, {"signal-instead"}, "*relevant* token"),
    "noise over signal": Mutant(
        [("    return noise / (noise + np.exp(m))", "    return noise / np.exp(m)")], {"A1.3": 1},
        {"ratio-instead"}, "share of the whole"),
    "one token too many": Mutant(
        [("n * np.exp(s**2 / 2)", "(n + 1) * np.exp(s**2 / 2)")], {"A1.3": 0.5}, {"n-plus-one"},
        "one irrelevant token too many"),
    "rounded": Mutant(
        [("    return noise / (noise + np.exp(m))", "    return np.round(noise / (noise + np.exp(m)), 3)")],
        {"A1.3": 3}, set(), "is something rounded"),
    "logarithm of base 10": Mutant(
        [("my_margin = 13.88", "my_margin = 6.311")], {"A1.4": 1}, {"log10"}, "base 10"),
    "odds inverted": Mutant(
        [("my_margin = 13.88", "my_margin = 9.253")], {"A1.4": 1}, {"odds-inverted"},
        "has to cost *more* margin"),
    "variance for deviation": Mutant(
        [("s * rng.standard_normal((trials, n))", "rng.normal(0, s**2, (trials, n))")],
        {"A1.5": 1}, {"variance"}, "a standard deviation"),
    "a generator of its own": Mutant(
        [("s * rng.standard_normal((trials, n))",
          "s * np.random.default_rng(0).standard_normal((trials, n))")], {"A1.5": 1}, {"rng-ignored"},
        "nobody can repeat"),
    "numpy's global generator": Mutant(
        [("s * rng.standard_normal((trials, n))", "s * np.random.standard_normal((trials, n))")],
        {"A1.5": 1}, {"rng-ignored"}, "do not come from the generator"),
    "the signal drawn, too": Mutant(
        [("np.full((trials, 1), m)", "rng.normal(m, s, (trials, 1))")], {"A1.5": 1},
        {"signal-scatters"}, "It is m, in every trial"),
    "one draw": Mutant(
        [("s * rng.standard_normal((trials, n))",
          "np.tile(s * rng.standard_normal(n), (trials, 1))")], {"A1.5": 2}, {"one-draw"},
        "All trials are the same"),
    "no margin in the simulation": Mutant(
        [("np.full((trials, 1), m)", "np.zeros((trials, 1))")], {"A1.5": 2}, {"no-margin"},
        "has no margin"),
    "the mean only": Mutant(
        [("    return 1 - softmax(scores)[:, 0]", "    return np.mean(1 - softmax(scores)[:, 0])")],
        {"A1.5": 4}, set(), "one noise mass for each trial"),
    "no cross term": Mutant(
        [("1 + lam**2 - 2 * lam * c", "1 + lam**2")], {"A1.6": 1}, {"no-cross"},
        "cross term is missing"),
    "length for energy": Mutant(
        [("    return 1 + lam**2 - 2 * lam * c", "    return np.sqrt(1 + lam**2 - 2 * lam * c)"),
         (GAIN, """\
    signal = (p1 - lam * p2) / p1
    return 10 * np.log10(signal**2 / noise_left(lam, c)**2)
""")], {"A1.6": 1}, {"amplitude"}, "its energy"),
    "as if the noises were one": Mutant(
        [("1 + lam**2 - 2 * lam * c", "(1 - lam)**2")], {"A1.6": 1}, {"same-noise"},
        "Where does c come in"),
    "noise untouched": Mutant(
        [("signal**2 / noise_left(lam, c))", "signal**2)")], {"A1.7": 2}, {"noise-kept"},
        "stands noise_left"),
    "before forgotten": Mutant(
        [("    signal = (p1 - lam * p2) / p1\n", "    signal = p1 - lam * p2\n")], {"A1.7": 1},
        {"before-missing"}, "over SNR before"),
    "signal untouched": Mutant(
        [("    signal = (p1 - lam * p2) / p1\n", "    signal = 1.0\n")], {"A1.7": 2},
        {"signal-kept"}, "p1 - λ p2 is left"),
    "20 log": Mutant(
        [("    return 10 * np.log10(signal", "    return 20 * np.log10(signal")], {"A1.7": 1},
        {"twenty-log"}, "ratio is one of powers"),
}
