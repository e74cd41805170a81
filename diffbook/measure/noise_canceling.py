"""Where attention goes at the question, and what the second map does there (Fig. 1, Table 3;
chapter 12).

"Noise canceling" is a story with parts that can be tested one by one: the two maps share their
noise, the second one spares the answer, the subtraction raises the signal-to-noise ratio, λ is
positive, and a model from which the subtraction is taken away does worse where the noise is
largest. :func:`attention_measures` has a number for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffbook.attention import DiffMaps, MultiheadDiffAttention
from diffbook.measure.attention_mass import attention_mass
from diffbook.measure.heads import own_lambda
from diffbook.model import LanguageModel
from diffbook.tasks.needle import DEPTHS, NeedleBatch, NeedleTask

PLACES = ("bos", "before", "city", "answer", "after", "query")
KINDS = ("absolute", "signed", "raw")
LENGTHS = (1, 2, 4, 8)  # times the training length; of the last one accuracies only
FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0)  # that λ is multiplied by at test time
ROWS = 64  # sequences for the attention at one depth
SEED = 12_000_017  # no training step and no other measure draws this


# --- Shares of a row ----------------------------------------------------------------------------


def place_of(batch: NeedleBatch) -> Tensor:
    """Index into :data:`PLACES` of each position, for each question: (batch, n_queries, seq); -1
    behind the question.

    The regions of Fig. 1 from left to right, and one more: "city" is the asked city's first
    mention, right before its number. It is neither the answer nor noise. "before" and "after" hold
    the haystack *with* its other needles, so they are the paper's noise context.
    """
    tokens = batch.tokens
    position = torch.arange(tokens.shape[1])
    answer = batch.answer_positions[..., None]  # (batch, n_queries, 1)
    first_question = (tokens == NeedleTask.QUESTION).int().argmax(dim=1)[:, None, None]
    place = torch.where(position < answer, PLACES.index("before"), PLACES.index("after"))
    place[(position >= first_question).expand_as(place)] = PLACES.index("query")
    place[..., 0] = PLACES.index("bos")
    place.scatter_(2, answer - 1, PLACES.index("city"))
    place.scatter_(2, answer, PLACES.index("answer"))
    return place.masked_fill(position > batch.query_positions[..., None], -1)


def shares(rows: Tensor, place: Tensor) -> dict[str, Tensor]:
    """What rows of attention give each place, with three normalizations: (..., places), float64.

    "raw" is the sum of the row's entries there. "signed" divides it by the sum of the row, 1 for a
    softmax and 1 - λ for a difference of two (none if that is 0). "absolute" is the sum of the
    entries' magnitudes, divided by that of the whole row. For a softmax row all three are equal.

    Args:
        rows: (..., seq). place: of each position, indices into :data:`PLACES`, broadcastable to
            ``rows``.
    """
    rows = rows.double()
    hot = torch.stack([place == index for index in range(len(PLACES))], dim=-1).double()
    raw, magnitude = ((r[..., None, :] @ hot)[..., 0, :] for r in (rows, rows.abs()))
    return {
        "absolute": magnitude / rows.abs().sum(-1, keepdim=True),
        "signed": raw / rows.sum(-1, keepdim=True),
        "raw": raw,
    }


def question_rows(a: Tensor, batch: NeedleBatch) -> Tensor:
    """The rows of a map (batch, heads, seq, seq) at the asked cities:
    (batch, heads, n_queries, seq)."""
    at = batch.query_positions[:, None, :, None].expand(-1, a.shape[1], -1, a.shape[-1])
    return a.gather(2, at)


def shares_of_maps(maps: list[Tensor | DiffMaps], batch: NeedleBatch) -> dict[str, Tensor]:
    """:func:`shares` of each head's row at the question, mean over batch and questions: (layers,
    heads, places) for each of :data:`KINDS`.

    The mean over the first two axes is what Fig. 1 and Table 3 report, if their normalization is
    the one taken.

    Args:
        maps: of ``batch.tokens``, from :meth:`diffbook.model.LanguageModel.attention_maps`.
    """
    place = place_of(batch)[:, None]  # (batch, 1, n_queries, seq)
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for layer in maps:
        a = layer.difference if isinstance(layer, DiffMaps) else layer
        for kind, share in shares(question_rows(a, batch), place).items():
            found[kind].append(share.mean((0, 2)))
    return {kind: torch.stack(by_layer) for kind, by_layer in found.items()}


# --- Two maps, one signal -----------------------------------------------------------------------


@dataclass(frozen=True)
class Canceling:
    """What a subtraction did to rows of attention; means over the rows.

    Attributes:
        signal: weight on the signal in map 1 and in map 2. noise: on all noise keys together.
        snr_db: 10 log10(signal² / sum of squares over the noise keys), both averaged over rows
            before the ratio is taken: of map 1, of map 2, of the difference.
        correlation, log_correlation: Pearson's, over the noise keys of a row, between the two maps'
            weights and between their logarithms (which rare large weights do not rule).
    """

    signal: tuple[float, float]
    noise: tuple[float, float]
    snr_db: tuple[float, float, float]
    correlation: float
    log_correlation: float

    @property
    def gain_db(self) -> float:
        """SNR of the difference over that of map 1, in dB: above zero if subtracting helped."""
        return self.snr_db[2] - self.snr_db[0]


def canceling(a1: Tensor, a2: Tensor, lam: float, signal: Tensor, noise: Tensor) -> Canceling:
    """Compare rows of two maps with each other and with a1 - λ a2.

    Args:
        a1, a2: (rows, seq), weights of the two maps.
        signal: (rows,), position of the key that counts. noise: (rows, seq), True for a noise key.
            Other keys (BOS, the question) are left out.

    Raises:
        ValueError: for a row with fewer than three noise keys.
    """
    if int(noise.sum(-1).min()) < 3:
        raise ValueError("a row has fewer than three noise keys: no correlation; lengthen seq_len")
    a1, a2 = a1.double(), a2.double()
    found = []
    for a in (a1, a2, a1 - lam * a2):
        at_signal = a.gather(1, signal[:, None])[:, 0]  # (rows,)
        found.append((at_signal, torch.where(noise, a, 0.0)))
    snr = [snr_db(*pair) for pair in found]
    (s1, n1), (s2, n2), _ = found
    log1, log2 = (a.clamp_min(1e-38).log() for a in (a1, a2))  # a weight may be 0 in float32
    return Canceling(
        (float(s1.mean()), float(s2.mean())),
        (float(n1.sum(-1).mean()), float(n2.sum(-1).mean())),
        (snr[0], snr[1], snr[2]),
        _correlation(a1, a2, noise), _correlation(log1, log2, noise),
    )


def snr_db(signal: Tensor, noise: Tensor) -> float:
    """10 log10 of the mean of signal² (rows,) over the mean energy of ``noise`` (rows, seq)."""
    ratio = signal.square().mean() / noise.square().sum(-1).mean().clamp_min(1e-38)
    return 10 * float(torch.log10(ratio.clamp_min(1e-38)))


def _correlation(x: Tensor, y: Tensor, noise: Tensor) -> float:
    """Mean over the rows of Pearson's correlation over the True keys; a row in which one map is
    even has none, and counts as 0."""
    n = noise.sum(-1, keepdim=True)

    def centered(a: Tensor) -> Tensor:
        a = torch.where(noise, a, 0.0)
        return torch.where(noise, a - a.sum(-1, keepdim=True) / n, 0.0)

    x, y = centered(x), centered(y)
    lengths = x.norm(dim=-1) * y.norm(dim=-1)
    return float(((x * y).sum(-1) / lengths.clamp_min(1e-30)).mean())


# --- Taking the second map away -----------------------------------------------------------------


@contextmanager
def scaled_lambda(
    model: LanguageModel, factor: float, layers: list[int] | None = None
) -> Iterator[None]:
    """Inside the block λ is ``factor`` times the learned one, in ``layers`` (from 0; default all);
    0 takes the subtraction away. The headwise norm then sees map 1 alone."""
    with ExitStack() as stack:
        for index in range(len(model.blocks)) if layers is None else layers:
            layer = _differential(model, index)
            lam = (factor * layer.lam().detach()).expand(layer.n_heads)
            stack.enter_context(own_lambda(model, index, lam))
        yield


@contextmanager
def other_map2(
    model: LanguageModel, layer: int, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Inside the block layer ``layer`` (from 0) subtracts λ ``change(a2)``, with ``a2``
    (batch, heads, seq, seq)."""
    attention = _differential(model, layer)

    def forward(x: Tensor, *, rope: Any = None, cache: Any = None) -> Tensor:
        if cache is not None:
            raise ValueError("other_map2 needs whole sequences: generate with use_cache=False")
        a1, a2, lam = attention.maps(x, rope=rope)
        v = attention.v_proj(x).unflatten(-1, (a1.shape[1], -1)).transpose(1, 2)  # (b, h, seq, 2d)
        out = (a1 - lam * change(a2)) @ v
        if attention.head_norm is not None:
            out = attention.head_norm(out)
        return attention.o_proj((attention.output_scale * out).transpose(1, 2).flatten(-2))

    attention.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del attention.forward  # the class's method is back


def even(a2: Tensor) -> Tensor:
    """The floor: each row gives all the keys that it sees the same weight."""
    seen = torch.ones(a2.shape[-2:], dtype=a2.dtype, device=a2.device).tril()
    return (seen / seen.sum(-1, keepdim=True)).expand_as(a2)


@torch.no_grad()
def average_map2(
    model: LanguageModel, task: NeedleTask, layer: int, rows: int = ROWS
) -> Callable[[Tensor], Tensor]:
    """For :func:`other_map2`: the second map averaged over ``rows`` *other* sequences of ``task``.

    It knows the layout (where the questions stand) and nothing of the haystack: no noise of the
    text can be canceled with it.
    """
    batch = task.sample(rows, torch.Generator().manual_seed(SEED + 1))
    maps = model.attention_maps(batch.tokens)[layer]
    assert isinstance(maps, DiffMaps)
    mean = maps.a2.mean(0)  # (heads, seq, seq)
    return mean.expand_as


def _differential(model: LanguageModel, layer: int) -> MultiheadDiffAttention:
    attention = model.blocks[layer].attention if 0 <= layer < len(model.blocks) else None
    if not isinstance(attention, MultiheadDiffAttention):
        raise ValueError(
            f"layer={layer} is no differential layer: give a model with attention=\"diff\" and a "
            f"layer from 0 to {len(model.blocks) - 1}"
        )
    return attention


# --- All of it ----------------------------------------------------------------------------------


@torch.no_grad()
def find_heads(
    model: LanguageModel, task: NeedleTask, rows: int = ROWS
) -> dict[str, tuple[int, int]]:
    """(layer, head), from 0, of the "retrieval" head, which gives the answer the largest absolute
    share at the question, and of the "back" head, which gives the token before the largest share
    at the asked number (in a layer below; the first layer if there is none)."""
    batch = task.sample(rows, torch.Generator().manual_seed(SEED + 2))
    mass = attention_mass(model, batch, task.first_number, task.first_word)
    retrieval = mass.best_head()
    back = []
    for maps in model.attention_maps(batch.tokens)[: max(1, retrieval[0])]:
        a = (maps.difference if isinstance(maps, DiffMaps) else maps).abs()
        numbers = batch._replace(query_positions=batch.answer_positions)
        at_number = question_rows(a, numbers)  # (batch, heads, n_queries, seq)
        at = (batch.answer_positions - 1)[:, None, :, None].expand(-1, a.shape[1], -1, 1)
        back.append((at_number.gather(3, at)[..., 0] / at_number.sum(-1)).mean((0, 2)))
    share = torch.stack(back)
    return {"retrieval": retrieval, "back": divmod(int(share.argmax()), share.shape[1])}


@torch.no_grad()
def attention_measures(
    model: LanguageModel, task: NeedleTask, *, rows: int = ROWS,
    lengths: tuple[int, ...] = LENGTHS,
) -> dict[str, float | list[float]]:
    """Every number of chapter 12 for one model.

    From ``rows`` sequences (fewer where maps are large) at each depth and each of ``lengths``,
    times that of ``task``, as far as the model has positions. The names, with {t} = 1, 2, 4 times
    the length, {kind} one of :data:`KINDS`, [list] a list:

    - "table3 answer {kind} {t}x", "table3 noise {kind} {t}x": mean over heads, layers and the five
      depths; the same " by depth" [list of 5]; "table3 row sum" [by layer].
    - "fig1 {kind} {t}x" [by place, see :data:`PLACES`]: answer at the depth 50 %.
    - "head answer {kind} {t}x", "head noise {kind} {t}x" [layers x heads]: mean over depths.
    - "retrieval layer", "retrieval head", "back layer", "back head": from 1, found at 1x;
      "retrieval snr {t}x", "back snr {t}x": in dB.
    - A differential model only, for both heads: "retrieval snr map 1 {t}x", "… map 2 …",
      "retrieval snr gain {t}x", "retrieval signal map 1 {t}x", "retrieval noise map 1 {t}x",
      "retrieval noise correlation {t}x", "retrieval log noise correlation {t}x",
      "retrieval city map 2 {t}x" (weight on the asked city's first mention).
    - A differential model only: "map2 learned {t}x", "map2 removed {t}x", also 8x: accuracy with
      all λ as learned and 0; "map2 removed layer {l} {t}x", also 8x; "map2 even layer {l} {t}x" and
      "map2 average layer {l} {t}x": see :func:`even`, :func:`average_map2`;
      "map2 by factor {t}x" [by :data:`FACTORS`].
    """
    device = next(model.parameters()).device
    model.cpu()
    numbers: Numbers = {}
    heads = find_heads(model, task, rows)
    for role, (layer, head) in heads.items():
        numbers[f"{role} layer"], numbers[f"{role} head"] = layer + 1.0, head + 1.0
    for times in lengths:
        longer = replace(task, seq_len=times * task.seq_len)
        if longer.seq_len > model.config.max_seq_len:
            continue
        n = max(1, min(rows, 2**24 // longer.seq_len**2))  # whole maps must fit into memory
        if times <= 4:
            asked = [_look(model, longer, depth, heads, n) for depth in DEPTHS]
            numbers |= _where([found for found, _ in asked], f"{times}x")
            for role in heads:
                numbers |= _maps([of_heads[role] for _, of_heads in asked], f"{role} {{}} {times}x")
        if model.config.attention == "diff":
            n = max(1, min(n, 3 * rows // times))  # long sequences are costly
            numbers |= _without(model, longer, n, f"{times}x", times <= 4)
    model.to(device)
    # Five decimals are more than 64 sequences know.
    return {
        name: [round(x, 5) for x in value] if isinstance(value, list) else round(value, 5)
        for name, value in numbers.items()
    }


Numbers = dict[str, float | list[float]]


@dataclass(frozen=True)
class _HeadRows:
    """Rows of one head, each (rows, seq): what multiplies V, and the two maps where there are two;
    where the signal (rows,) and the noise (rows, seq) are, and the asked city (rows,)."""

    row: Tensor
    maps: tuple[Tensor, Tensor] | None
    lam: float
    signal: Tensor
    noise: Tensor
    city: Tensor


def _look(
    model: LanguageModel, task: NeedleTask, depth: float, heads: dict[str, tuple[int, int]],
    n: int,
) -> tuple[dict[str, Tensor], dict[str, _HeadRows]]:
    """Sequences with one question, its needle at ``depth``: the shares of each place by head, and
    the rows of the two heads."""
    one = replace(task, depth=depth, n_queries=1)
    batch = one.sample(n, torch.Generator().manual_seed(SEED + round(100 * depth)))
    all_maps = model.attention_maps(batch.tokens)
    found = shares_of_maps(all_maps, batch)

    place, position = place_of(batch)[:, 0], torch.arange(task.seq_len)  # (rows, seq), (seq,)
    answer = batch.answer_positions[:, 0]
    context = (place == PLACES.index("before")) | (place == PLACES.index("after"))
    others = (position <= answer[:, None]) & (position > 0) & (position != answer[:, None] - 1)
    enough = others.sum(-1) >= 3  # a number right behind BOS has nothing to be confused with
    where = {
        "retrieval": (batch.query_positions[:, 0], answer, context, torch.ones_like(enough)),
        "back": (answer, answer - 1, others, enough),
    }
    rows = {}
    for role, (layer, head) in heads.items():
        at, signal, noise, pick = where[role]
        maps = all_maps[layer]
        both = (maps.a1, maps.a2) if isinstance(maps, DiffMaps) else (maps,)
        each = [a[torch.arange(n), head, at][pick].double() for a in both]
        lam = float(maps.lam) if isinstance(maps, DiffMaps) else 0.0
        rows[role] = _HeadRows(
            each[0] - lam * each[1] if len(each) == 2 else each[0],
            (each[0], each[1]) if len(each) == 2 else None,
            lam, signal[pick], noise[pick], (answer - 1)[pick],
        )
    return found, rows


def _where(by_depth: list[dict[str, Tensor]], name: str) -> Numbers:
    numbers: Numbers = {}
    for kind in KINDS:
        share = torch.stack([found[kind] for found in by_depth])  # (depths, layers, heads, places)
        place = dict(zip(PLACES, share.unbind(-1), strict=True))
        for what, part in (("answer", place["answer"]),
                           ("noise", place["before"] + place["after"])):
            numbers[f"table3 {what} {kind} {name}"] = float(part.mean())
            numbers[f"table3 {what} {kind} {name} by depth"] = part.mean((1, 2)).tolist()
            numbers[f"head {what} {kind} {name}"] = part.mean(0).flatten().tolist()
        numbers[f"fig1 {kind} {name}"] = share[DEPTHS.index(0.5)].mean((0, 1)).tolist()
        if kind == "raw":
            numbers["table3 row sum"] = share.sum(-1).mean((0, 2)).tolist()
    return numbers


def _maps(by_depth: list[_HeadRows], name: str) -> Numbers:
    """SNR and noise of one head over all depths; ``name`` has a place for what it is."""
    row, signal, noise, city = (
        torch.cat([getattr(rows, field) for rows in by_depth])
        for field in ("row", "signal", "noise", "city")
    )
    at_signal = row.gather(1, signal[:, None])[:, 0]
    numbers: Numbers = {name.format("snr"): snr_db(at_signal, torch.where(noise, row, 0.0))}
    pairs = [rows.maps for rows in by_depth if rows.maps is not None]
    if pairs:
        a1, a2 = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        found = canceling(a1, a2, by_depth[0].lam, signal, noise)
        for index in (0, 1):
            numbers[name.format(f"snr map {index + 1}")] = found.snr_db[index]
            numbers[name.format(f"signal map {index + 1}")] = found.signal[index]
            numbers[name.format(f"noise map {index + 1}")] = found.noise[index]
        numbers[name.format("snr gain")] = found.gain_db
        numbers[name.format("noise correlation")] = found.correlation
        numbers[name.format("log noise correlation")] = found.log_correlation
        if not torch.equal(city, signal):
            numbers[name.format("city map 2")] = float(a2.gather(1, city[:, None]).mean())
    return numbers


def _without(
    model: LanguageModel, task: NeedleTask, n: int, name: str, all_of_it: bool
) -> Numbers:
    """Accuracy over ``n`` sequences with other λ and other second maps."""
    numbers: Numbers = {}

    def accuracy() -> float:
        return task.evaluate(model, n=n, seed=12)["accuracy"]

    layers = range(len(model.blocks))
    by_factor = {}
    for factor in FACTORS if all_of_it else (0.0, 1.0):
        with scaled_lambda(model, factor):
            by_factor[factor] = accuracy()
    numbers[f"map2 removed {name}"], numbers[f"map2 learned {name}"] = by_factor[0], by_factor[1]
    if all_of_it:
        numbers[f"map2 by factor {name}"] = list(by_factor.values())
    for layer in layers:
        with scaled_lambda(model, 0.0, [layer]):
            numbers[f"map2 removed layer {layer + 1} {name}"] = accuracy()
        if all_of_it:
            changes = {"even": even, "average": average_map2(model, task, layer, n)}
            for what, change in changes.items():
                with other_map2(model, layer, change):
                    numbers[f"map2 {what} layer {layer + 1} {name}"] = accuracy()
    return numbers
