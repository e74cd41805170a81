"""Answers to the exercises of chapter 7."""

from __future__ import annotations

import torch


def counts(more: object, narrower: object) -> dict:
    return {"more parameters a layer": more, "narrower by": narrower}


def clock(*pairs: object) -> dict:
    return dict(zip(("4,096 at 10,000", "65,536 at 10,000", "65,536 at 640,000"), pairs,
                    strict=True))


def top_p(logits, p, generator):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    before = probability.cumsum(-1) - probability
    kept = probability.masked_fill(before >= p, 0.0)
    return order.gather(-1, torch.multinomial(kept, 1, generator=generator))


def row_by_row(logits, p, generator):
    """The smallest set that reaches p, with a loop; one token a row, flat."""
    tokens = []
    for row in logits.softmax(-1):
        chosen, total = [], 0.0
        for token in row.argsort(descending=True).tolist():
            chosen.append(token)
            total += float(row[token])
            if total >= p:
                break
        drawn = torch.multinomial(row[chosen], 1, generator=generator)
        tokens.append(chosen[int(drawn)])
    return torch.tensor(tokens)


def plain(logits, p, generator):
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def crossing_lost(logits, p, generator):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    out = probability.cumsum(-1) >= p
    out[:, 0] = False
    kept = probability.masked_fill(out, 0.0)
    return order.gather(-1, torch.multinomial(kept, 1, generator=generator))


def ranks(logits, p, generator):
    probability, _ = logits.softmax(-1).sort(-1, descending=True)
    before = probability.cumsum(-1) - probability
    return torch.multinomial(probability.masked_fill(before >= p, 0.0), 1, generator=generator)


def threshold(logits, p, generator):
    probability = logits.softmax(-1)
    low = (probability < p) & (probability < probability.amax(-1, keepdim=True))
    return torch.multinomial(probability.masked_fill(low, 0.0), 1, generator=generator)


def even(logits, p, generator):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    kept = (probability.cumsum(-1) - probability < p).double()
    return order.gather(-1, torch.multinomial(kept, 1, generator=generator))


RIGHT = {
    "7.1": [counts(1_179_968, 512), counts(2 * 768**2 + 5 * 64, 512.14)],
    "7.2": [clock(18, 0, 19)],
    "7.3": [top_p, row_by_row],
}

WRONG = {
    "7.1": [
        (counts(1_179_648, 512), "how many vectors make λ"),
        (counts(768**2 + 320, 256), "queries *and*"),
        (counts(3 * 768**2 + 320, 768), "fill 768 as before"),
        (counts(2 * 768**2 + 12 * 320, 514), "share them"),
        (counts(1_179_968, 768), "*three* matrices"),
        (counts(..., ...), "there is no answer yet"),
        (counts(1_000_000, 512), "which is not right"),
    ],
    "7.2": [
        (clock(6, 0, 10), "one *radian*"),
        (clock(14, 0, 16), "half a turn"),
        (clock(0, 0, 0), "ends at its root"),
        (clock(46, 64, 45), "*do* come round"),
    ],
    "7.3": [
        (plain, "nothing is cut off"),
        (crossing_lost, "*reaches* p is missing"),
        (ranks, "places in the sorted order"),
        (threshold, "*sum*"),
        (even, "one probability"),
        (lambda logits, p, generator: logits.softmax(-1), "one token (an integer)"),
        (lambda logits, p, generator: None, "there is no answer yet"),
    ],
}
