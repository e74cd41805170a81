"""Answers to the exercises of chapter 19."""

from diffbook import scorecard

REPRODUCED, NULL = "reproduced", "no difference at this scale"
N = sum(row.toward is not None for row in scorecard.rows())


def verdicts(five: object, three: object) -> dict:
    return {"five seeds": five, "three seeds": three}


def luck(rows: object, none: object) -> dict:
    return {"expected rows": rows, "chance of none": none}


RIGHT = {
    "19.2": [verdicts((-0.030, -0.002, REPRODUCED), (-0.045, 0.005, NULL)),
             verdicts([-0.0302, -0.0018, "Reproduced"], [-0.0448, 0.0048, NULL])],
    "19.3": [luck(0.025 * N, 0.975**N)],
}

WRONG = {
    "19.2": [
        (verdicts((-0.0476, 0.0156, NULL), (-0.063, 0.023, NULL)), "smaller by √n"),
        (verdicts((-0.026, -0.006, REPRODUCED), (-0.0313, -0.0087, REPRODUCED)), "Student's t"),
        (verdicts((-0.0291, -0.0029, REPRODUCED), (-0.0384, -0.0016, REPRODUCED)), "n - 1"),
        (verdicts((-0.0287, -0.0033, REPRODUCED), (-0.0403, 0.0003, NULL)), "divides by n."),
        (verdicts((-0.030, -0.002, REPRODUCED), (-0.045, 0.005, REPRODUCED)), "however pretty"),
        (verdicts((-0.030, -0.002, "contradicted"), (-0.045, 0.005, NULL)), "for it or against"),
        (verdicts((-0.030, -0.002, REPRODUCED), (..., ..., ...)), "there is no answer yet"),
    ],
    "19.3": [
        (luck(0.05 * N, 0.95**N), "Both sides"),
        (luck(0.025 * N, 1 - 0.975**N), "at least one there"),
        (luck(0.025 * len(scorecard.rows()), 0.975 ** len(scorecard.rows())), "`tested`"),
        (luck(..., ...), "there is no answer yet"),
    ],
}
