"""Answers to the exercises of chapter 2."""

from itertools import product

from diffbook import signals


def circuit(worst: object, tolerance: object) -> dict:
    return {"worst CMRR in dB": worst, "tolerance in %": tolerance}


def ear(best: object, twice: object, wrong: object) -> dict:
    return {"λ = 0.6": best, "λ = 1.2": twice, "λ = -1": wrong}


WORST = min(
    signals.amplifier_cmrr_db(*signals.difference_amplifier(
        1 + t1, 10 * (1 + t2), 1 + t3, 10 * (1 + t4)))
    for t1, t2, t3, t4 in product([-0.01, 0.01], repeat=4))

RIGHT = {
    "2.1": [circuit(48.8, 0.0275), circuit(WORST, 0.028)],
    "2.2": [ear(-1.94, 0, 5.05), ear(*(-signals.rejection_db(x, 0.6) for x in (0.6, 1.2, -1.0)))],
}

WRONG = {
    "2.1": [
        (circuit(24.4, 2.75e-6), "20 log10"),
        (circuit(27.96, 0.0025), "gain is missing"),
        (circuit(54.8, 0.055), "all four"),
        (circuit(48.8, 0.000275), "percent"),
        (circuit(..., ...), "there is no answer yet"),
    ],
    "2.2": [
        (ear(1.94, 0, -5.05), "turned around"),
        (ear(-3.88, 0, 10.1), "*energies*"),
        (ear(0, 2.35, 4.15), "the 2 is missing"),
        (ear(3.17, 5.88, -0.97), "wrong sign"),
        (ear(-1.94, 1.0, 5.05), "which is not right"),
    ],
}
