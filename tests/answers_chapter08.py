"""Answers to the exercises of chapter 8."""


def spreads(all_seeds: object, without: object) -> dict:
    return {"six seeds": all_seeds, "without seed 4": without}


def pairs(large: object, small: object) -> dict:
    return {"0.014": large, "0.005": small}


RIGHT = {
    "8.2": [spreads((0.267, 0.309), (0.054, 0.228)), spreads([0.2669, 0.3089], [0.0543, 0.2282])],
    "8.3": [pairs(6, 30)],
}

WRONG = {
    "8.2": [
        (spreads((0.2436, 0.2820), (0.0486, 0.2041)), "`ddof=1`"),
        (spreads((0.1089, 0.1261), (0.0243, 0.1020)), "divided by √n"),
        (spreads((0.267, 0.411), (0.0543, 0.321)), "*variances* add"),
        (spreads((0.267, 0.309), (0.296, 0.340)), "index 4"),
        (spreads((0.309, 0.267), (0.228, 0.0543)), "each other's place"),
        (spreads((..., ...), (..., ...)), "there is no answer yet"),
    ],
    "8.3": [
        (pairs(4, 28), "You took t = 2"),
        (pairs(6, 23), "Yours are paired"),
        (pairs(2, 6), "*four* times"),
        (pairs(17, 110), "*whole* width"),
        (pairs(10, 30), "this is 10, which is not right"),
    ],
}
