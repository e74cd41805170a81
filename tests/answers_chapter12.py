"""Answers to the exercises of chapter 12."""


def signed(answer: object, noise: object, zero: object) -> dict:
    return {"answer": answer, "noise": noise, "no noise at": zero}


RIGHT = {"12.1": [signed(1.30, -0.30, 0.74), signed(0.26 / 0.2, -0.06 / 0.2, 0.7 / 0.95)]}

WRONG = {
    "12.1": [
        (signed(0.26, -0.06, 0.737), "divided by their sum"),
        (signed(0.8125, 0.1875, 0.737), "*magnitudes*"),
        (signed(0.34 / 1.8, 1.46 / 1.8, 0.737), "is added"),
        (signed(-0.95, 1.95, 0.737), "each other's place"),
        (signed(1.30, -0.30, 6), "the *answer* vanishes"),
        (signed(1.30, -0.30, ...), "there is no answer yet"),
    ],
}
