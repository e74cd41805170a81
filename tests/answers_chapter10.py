"""Answers to the exercises of chapter 10."""

from diffbook.measure.positions import interval_average


def curve(mean: object, tells: object) -> dict:
    return {"mean": mean, "one can tell": tells}


RIGHT = {
    "10.1": [curve(2.178, False),
             curve(float(interval_average([1000, 10000], [2.4, 2.2])[-1]), False)],
    "10.2": [27_700, 10_000 * (400 / 256) ** (16 / 7)],
}

WRONG = {
    "10.1": [
        (curve(1.96, False), "there are 9,000"),
        (curve(2.30, False), "the two sums"),
        (curve(2.20, False), "the first 1,000 among them"),
        (curve(2.178, True), "at *every* position"),
        (curve(..., ...), "there is no answer yet"),
    ],
    "10.2": [
        (10_000 * (400 / 256) ** (7 / 16), "undone: 16/7"),
        (15_625, "in proportion"),
        (2.77, "This is the factor"),
        (3606, "smaller than 10,000"),
        (..., "there is no answer yet"),
    ],
}
