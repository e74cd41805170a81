"""Answers to the exercises of chapter 11."""


def both(right: object, falls: object) -> dict:
    return {"both right": right, "falls by": falls}


def place(line):
    """Of the asked city's number."""
    return (line == line[-1]).nonzero()[0, 0] + 1


def other(places, line):
    return next(at for at in places if at != place(line))


def ends(places, line):
    share = place(line) / len(line)
    return place(line) if share < 0.2 or share > 0.8 else other(places, line)


def by_rank(places, line):
    return place(line) if place(line) in (places[0], places[-1]) else places[0]


RIGHT = {
    "11.1": [ends, by_rank],
    "11.3": [both(0.3025, 0.2475), both(0.55**2, 0.55 - 0.55**2)],
}

WRONG = {
    "11.1": [
        (lambda places, line: place(line), "right at every depth"),
        (lambda places, line: other(places, line), "wrong at both ends"),
        (lambda places, line: place(line) if 0.2 < place(line) / len(line) < 0.8
         else other(places, line), "turn the condition"),
        (lambda places, line: places[0], "beginning only"),
        (lambda places, line: places[-1], "end only"),
        (lambda places, line: place(line) - 1, "place of the *city*"),
        (lambda places, line: 60, "where no number stands"),
        (lambda places, line: None, "there is no answer yet"),
    ],
    "11.3": [
        (both(0.7975, -0.2475), "*at least one*"),
        (both(0.275, 0.275), "are multiplied"),
        (both(0.3025, 0.3025), "how far it is"),
        (both(..., ...), "there is no answer yet"),
    ],
}
