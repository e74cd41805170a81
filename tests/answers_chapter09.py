"""Answers to the exercises of chapter 9."""



def share(slope: object, part: object) -> dict:
    return {"slope": slope, "share": part}


def tokens(smallest: object, largest: object) -> dict:
    return {"smallest": smallest, "largest": largest}


RIGHT = {
    "9.1": [share(-0.144, 0.81), share(-0.10 / 0.69, 1 / 1.23)],
    "9.4": [tokens(12, 0.76), tokens(12.0, 0.8)],
}

WRONG = {
    "9.1": [
        (share(-0.10, 0.741), "*doubling*"),
        (share(-0.10, 0.769), "straight line in N"),
        (share(-0.144, 1.23), "one over it"),
        (share(0.144, 0.81), "rise with the size"),
        (share(-0.144, 81.2), "in percent"),
        (share(-0.144, ...), "there is no answer yet"),
    ],
    "9.4": [
        (tokens(0.083, 1.312), "the other way"),
        (tokens(0.762, 12.05), "the *most* tokens"),
        (tokens(12_048, 762), "factor of a thousand"),
        (tokens(20, 20), "which is not right"),
    ],
}
