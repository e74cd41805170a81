"""Answers to the exercises of chapter 15."""

import math

import torch


def answer(gap: object, rise: object) -> dict:
    return {"gap": gap, "twice the context adds": rise}


def sigmoid_like(s: torch.Tensor) -> torch.Tensor:
    """By logarithms: s - log(1 + sum e^s)."""
    zero = torch.zeros(*s.shape[:-1], 1, dtype=s.dtype)
    return (s - torch.logsumexp(torch.cat((zero, s), -1), -1, keepdim=True)).exp()


def by_hand(s: torch.Tensor) -> torch.Tensor:
    top = s.amax(-1, keepdim=True).clamp(min=0)
    weights = (s - top).exp()
    return weights / ((-top).exp() + weights.sum(-1, keepdim=True))


RIGHT = {
    "15.1": [answer(20.7, 0.69), answer(math.log(1e6) + math.log(999), math.log(2))],
    "15.3": [sigmoid_like, by_hand],
}

WRONG = {
    "15.1": [
        (answer(16.0, 0.69), "0.1 % is the share 0.001"),
        (answer(6.91, 0.0), "single* other key"),
        (answer(13.8, 0.69), "as much as all the others"),
        (answer(29.9, 1.0), "These are bits"),
        (answer(9.0, 0.301), "powers of ten"),
        (answer(20.7, 21.4), "Only the *rise*"),
        (answer(20.7, ...), "there is no answer yet"),
        (answer(19.0, 0.69), "gap: this is 19, which is not right"),
    ],
    "15.3": [
        (lambda s: (s - s.amax(-1, keepdim=True)).exp()
         / (1 + (s - s.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True)), "*before* that"),
        (lambda s: torch.cat((s, torch.zeros_like(s[..., :1])), -1).softmax(-1), "one weight"),
        (lambda s: s.softmax(-1), "plain softmax"),
        (lambda s: s.exp() / (1 + s.exp().sum(-1, keepdim=True)), "exp(1000)"),
        (lambda s: s.exp() / (1 + s.exp().sum()), "the last axis"),
        (lambda s: None, "there is no answer yet"),
    ],
}
