"""The needle tests: find the number that belongs to a city, in a haystack.

Two levels. :class:`NeedleTask` works on abstract tokens and is learned in seconds, so that a
chapter can train it live. :class:`TextNeedleTask` is the protocol of the paper (Section 3.4, after
LWM and Gemini 1.5): sentences that give a city a magic number, hidden in real text. Chapters 8
and 11.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffbook.model import IGNORE
from diffbook.tasks import text

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # where the paper puts the answer needle (Table 2, Fig. 5)


class NeedleBatch(NamedTuple):
    """What :meth:`NeedleTask.sample` draws; all int64."""

    tokens: Tensor  # (batch, seq)
    query_positions: Tensor  # (batch, n_queries): where the asked city stands
    answers: Tensor  # (batch, n_queries): the number to predict there
    answer_positions: Tensor  # (batch, n_queries): where that number stands in the haystack


@dataclass(frozen=True)
class NeedleTask:
    """Needles on the level of tokens.

    A sequence is ``BOS``, a haystack of word tokens with ``n_needles`` needles in it (a city token,
    then a number token), then ``n_queries`` questions (a question token, then a city token). The
    model predicts the number at the position of the question's city. Answers are *not* written
    back, so that none can be found by elimination.

    Attributes:
        seq_len: tokens of a sequence, questions included.
        n_needles, n_queries: N and R of the paper's Table 2; every needle is asked by default.
        n_cities, n_numbers, n_words: sizes of the three groups of tokens.
        distractors: share of the haystack's words replaced by numbers without a city.
        depth: where the needle asked *first* stands, 0 (start) to 1 (end); default at random.
        curriculum: (share of the training, share of seq_len) steps; short contexts come first, as
            the two-layer circuit forms much sooner there.
    """

    seq_len: int = 64
    n_needles: int = 4
    n_queries: int | None = None
    n_cities: int = 16
    n_numbers: int = 16
    n_words: int = 32
    distractors: float = 0.0
    depth: float | None = None
    curriculum: tuple[tuple[float, float], ...] = ((0.25, 0.375), (0.4, 0.625))

    name = "needle"

    def __post_init__(self) -> None:
        if not 1 <= self.asked <= self.n_needles:
            raise ValueError(
                f"n_queries={self.n_queries} of n_needles={self.n_needles}: ask for at least one "
                "needle and at most all"
            )
        for size, group in ((self.n_cities, "n_cities"), (self.n_numbers, "n_numbers")):
            if size < self.n_needles:
                raise ValueError(
                    f"{group}={size} is fewer than n_needles={self.n_needles}: needles differ in "
                    "city and number; raise it"
                )
        if self.n_words < 1:
            raise ValueError(f"n_words={self.n_words}: the haystack needs at least 1 word")
        if self.seq_len < self.shortest:
            raise ValueError(
                f"seq_len={self.seq_len} is too short for {self.n_needles} needles and "
                f"{self.asked} questions: give at least {self.shortest}"
            )
        if not 0 <= self.distractors <= 1:
            raise ValueError(f"distractors={self.distractors} is a share: 0 to 1")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth={self.depth} is a share of the haystack: 0 to 1")

    @property
    def asked(self) -> int:
        return self.n_needles if self.n_queries is None else self.n_queries

    @property
    def shortest(self) -> int:
        return 1 + 2 * self.n_needles + 2 * self.asked

    # Token ids: BOS, QUESTION, then cities, numbers, words.
    BOS = 0
    QUESTION = 1

    @property
    def first_city(self) -> int:
        return 2

    @property
    def first_number(self) -> int:
        return 2 + self.n_cities

    @property
    def first_word(self) -> int:
        return 2 + self.n_cities + self.n_numbers

    @property
    def vocab_size(self) -> int:
        return 2 + self.n_cities + self.n_numbers + self.n_words

    def describe(self, token: int) -> str:
        """A short readable name of a token id, for figures."""
        if token >= self.first_word:
            return f"w{token - self.first_word}"
        if token >= self.first_number:
            return str(token - self.first_number)
        if token >= self.first_city:
            return CITIES[(token - self.first_city) % len(CITIES)]
        return ("BOS", "?")[token]

    def sample(self, batch_size: int, generator: torch.Generator) -> NeedleBatch:
        """Draw ``batch_size`` sequences; the generator decides everything."""
        batch, n, r = batch_size, self.n_needles, self.asked
        body = self.seq_len - 1 - 2 * r  # haystack with its needles
        words = body - 2 * n

        def distinct(size: int) -> Tensor:  # (batch, n), without replacement in a row
            return torch.rand(batch, size, generator=generator).argsort(dim=1)[:, :n]

        cities = self.first_city + distinct(self.n_cities)
        numbers = self.first_number + distinct(self.n_numbers)
        hay = torch.randint(self.n_words, (batch, words), generator=generator) + self.first_word
        if self.distractors:
            loose = torch.randint(self.n_numbers, (batch, words), generator=generator)
            hit = torch.rand(batch, words, generator=generator) < self.distractors
            hay = torch.where(hit, loose + self.first_number, hay)

        # Needle j goes before the `before[j]`-th word; needles at one place stand in order of j.
        before = torch.randint(words + 1, (batch, n), generator=generator)
        order = torch.rand(batch, n, generator=generator).argsort(dim=1)[:, :r]  # who is asked
        if self.depth is not None:
            before.scatter_(1, order[:, :1], round(self.depth * words))
        # A needle's first token stands behind the words before it and the needles before it.
        rank = before.argsort(dim=1, stable=True).argsort(dim=1)
        start = 1 + before + 2 * rank  # (batch, n)

        tokens = torch.full((batch, self.seq_len), -1)
        tokens[:, 0] = self.BOS
        tokens.scatter_(1, start, cities)
        tokens.scatter_(1, start + 1, numbers)
        questions = 1 + body + 2 * torch.arange(r)
        tokens[:, questions] = self.QUESTION
        tokens[:, questions + 1] = cities.gather(1, order)
        tokens[tokens == -1] = hay.flatten()  # what is left, row by row, is the haystack
        return NeedleBatch(
            tokens,
            (questions + 1).expand(batch, r),
            numbers.gather(1, order),
            start.gather(1, order) + 1,
        )

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq) at ``progress`` (0 to 1) of the training; what is not an
        answer is ignored. Shorter sequences come in more rows: the tokens of a step stay equal."""
        share = next((part for until, part in self.curriculum if progress < until), 1.0)
        length = max(self.shortest, round(share * self.seq_len))
        rows = max(1, batch_size * self.seq_len // length)
        batch = replace(self, seq_len=length).sample(rows, generator)
        targets = torch.full_like(batch.tokens, IGNORE)
        return batch.tokens, targets.scatter(1, batch.query_positions, batch.answers)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, device: str | torch.device = "cpu", *, n: int = 512, seed: int = 0
    ) -> dict[str, float]:
        """Accuracy over ``n`` fresh sequences, the same for every model, and the loss in nats.

        Chance is 1 / n_numbers; naming the number of *any* needle gives 1 / n_needles.
        """
        _check_n(n)
        generator = torch.Generator().manual_seed(1_000_003 + seed)  # no training step draws this
        rows = max(1, min(n, 2**18 // self.seq_len))
        right, loss, total = 0, 0.0, 0
        for first in range(0, n, rows):
            batch = self.sample(min(rows, n - first), generator)
            logits = model(batch.tokens.to(device))  # (batch, seq, vocab)
            at = batch.query_positions.to(device).unsqueeze(-1).expand(-1, -1, logits.shape[-1])
            logits = logits.gather(1, at).float()  # (batch, n_queries, vocab)
            answers = batch.answers.to(device)
            loss += float(nn.functional.cross_entropy(
                logits.flatten(0, 1), answers.flatten(), reduction="sum"))
            right += int((logits.argmax(-1) == answers).sum())
            total += answers.numel()
        return {"accuracy": right / total, "loss": loss / total}


# ---------------------------------------------------------------------------------------------

CITIES = (
    "Amsterdam Athens Bangkok Barcelona Beijing Berlin Bogota Boston Brussels Budapest Cairo "
    "Calcutta Chicago Copenhagen Dakar Delhi Dublin Florence Geneva Glasgow Hamburg Hanoi Havana "
    "Helsinki Istanbul Jakarta Karachi Kyoto Lagos Leipzig Lima Lisbon London Lyon Madrid Manila "
    "Marseille Melbourne Milan Montreal Moscow Mumbai Munich Nairobi Naples Osaka Oslo Paris "
    "Prague Quito Rome Santiago Seoul Shanghai Singapore Stockholm Sydney Tehran Tokyo Toronto "
    "Vancouver Vienna Warsaw Zurich"
).split()
NEEDLE = "The magic number of {city} is {number}."
# On the way to the full sentence: the number moves away from its city word by word.
TEMPLATES = (
    "{city}{number}.", "{city} {number}.", "{city} is {number}.", "number of {city} is {number}.",
    NEEDLE,
)

# The end of a sentence (not of "Mr." or an initial), a paragraph or an entry, in front of the
# white space that follows.
SENTENCE_END = re.compile(
    rb"(?:(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z])"
    rb"|(?<=\S)(?=\n\n|\n[A-Z][^\n:]{2,60}: ))"
    rb"(\s+)"
)
LONGEST_SENTENCE = 5000  # bytes; no gap between two ends in the corpus is longer


class TextNeedle(NamedTuple):
    """One question of the text-level test."""

    prompt: str  # the haystack with its needles, then the question up to the number
    answer: str  # the digits
    city: str
    depth: float  # where the asked needle stands, as a share of the haystack's tokens
    tokens: Tensor  # (seq,) the prompt as token ids


@dataclass(frozen=True)
class TextNeedleTask:
    """Needles on the level of text, the paper's protocol.

    ``n_needles`` sentences "The magic number of Lisbon is 4721." stand at sentence boundaries of a
    stretch of real text, each at the one nearest to its depth (the stretch starts with a sentence;
    its end, where it is cut off, counts as a boundary). Each of the ``n_queries`` asked cities
    gets a prompt of its own over the same haystack, ending in "The magic number of Lisbon is "; the
    answer is right when all its digits are. (One prompt for each question: with the answers written
    back, the last ones could be had by elimination.)

    Attributes:
        seq_len: tokens of haystack, needles, question and answer.
        n_needles, n_queries: N and R of Table 2.
        digits: of a number; drawn anew for each haystack, without repetition.
        depth: where the first asked needle stands, 0 to 1; default random. The others are random.
        tokenizer: "bytes" or "bpe".
        split: of the corpus, for the haystack in evaluation; training always takes "train".
        parts: of the corpus; default all.
        curriculum: (until this share of the training, tokens of a row, shortest and longest of
            :data:`TEMPLATES`) steps, before rows of ``seq_len`` tokens with full sentences; without
            one a small model stays on the plateau 1 / N. A row too short for its needles and
            questions gets longer.
        drills: questions in one training row, only where there is a curriculum. Their answers are
            written behind them, and their cities are drawn with replacement, so that nothing can
            be had by elimination.
    """

    seq_len: int = 512
    n_needles: int = 4
    n_queries: int = 1
    digits: int = 4
    depth: float | None = None
    tokenizer: str = "bytes"
    split: str = "validation"
    parts: tuple[str, ...] | None = None
    curriculum: tuple[tuple[float, int, int, int], ...] = ()
    drills: int = 4

    name = "text-needle"

    def __post_init__(self) -> None:
        if not 1 <= self.n_queries <= self.n_needles <= len(CITIES):
            raise ValueError(
                f"n_queries={self.n_queries}, n_needles={self.n_needles}: ask for at least one "
                f"needle and at most all; there are {len(CITIES)} cities"
            )
        if not 1 <= self.digits <= 9 or 9 * 10 ** (self.digits - 1) < self.n_needles:
            raise ValueError(f"digits={self.digits}: give 1 to 9, and enough for distinct numbers")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth={self.depth} is a share of the haystack: 0 to 1")
        for step in self.curriculum:
            until, length, low, high = step
            if not (0 < until <= 1 and length >= 1 and 0 <= low <= high < len(TEMPLATES)):
                raise ValueError(
                    f"curriculum step {step}: give (share of the training, tokens, first and last "
                    f"template from 0 to {len(TEMPLATES) - 1})"
                )
        if self.drills < 1:
            raise ValueError(f"drills={self.drills}: ask at least one question in a training row")
        # The longest needles and question must leave room for some haystack.
        needle = _longest_needle(self.tokenizer, self.digits)
        if self.seq_len < (self.n_needles + 2) * needle:
            raise ValueError(
                f"seq_len={self.seq_len} has no room for {self.n_needles} needles and a question "
                f"of up to {needle} tokens each: give at least {(self.n_needles + 2) * needle}"
            )

    @property
    def vocab_size(self) -> int:
        return text.get_tokenizer(self.tokenizer).vocab_size

    def _encode(self, string: str) -> Tensor:
        return torch.as_tensor(text.get_tokenizer(self.tokenizer).encode(string)).long()

    def sample(
        self, batch_size: int, generator: torch.Generator, split: str | None = None
    ) -> list[list[TextNeedle]]:
        """``batch_size`` haystacks, for each its ``n_queries`` questions. All prompts have
        seq_len - (tokens of the answer) tokens."""
        return [self._draw(generator, split or self.split) for _ in range(batch_size)]

    def _draw(self, generator: torch.Generator, split: str) -> list[TextNeedle]:
        def integer(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        n = self.n_needles
        cities, numbers = self._pairs(generator)
        asked = torch.randperm(n, generator=generator)[: self.n_queries].tolist()
        depths = torch.rand(n, generator=generator).tolist()
        if self.depth is not None:
            depths[asked[0]] = self.depth
        stretch, ends = self._stretch(split, integer, self.seq_len)

        # A needle has a line of its own at the very start, elsewhere it follows a sentence.
        needles = [NEEDLE.format(city=c, number=m) for c, m in zip(cities, numbers, strict=True)]
        front = [self._encode(needle + "\n") for needle in needles]
        inside = [self._encode(" " + needle) for needle in needles]
        tails = {i: self._encode(_question(cities[i])) for i in asked}
        answers = {i: self._encode(numbers[i]) for i in asked}
        # Tokens of haystack that fit in any case; what is left of seq_len is filled at its end, so
        # that all questions have the needles in the same places.
        length = (
            self.seq_len
            - max(len(tails[i]) + len(answers[i]) for i in asked)
            - sum(max(len(a), len(b)) for a, b in zip(front, inside, strict=True))
        )
        places = [0, *(end for end in ends if end < length), length]
        nearest = [_nearest(places, depth * length) for depth in depths]
        order = sorted(range(n), key=lambda i: (nearest[i], depths[i]))
        hidden = {i: inside[i] if nearest[i] else front[i] for i in order}

        questions = []
        for index in asked:
            room = self.seq_len - len(tails[index]) - len(answers[index])
            end = room - sum(map(len, hidden.values()))  # tokens of haystack, at least length
            pieces, last = [], 0
            for i in order:
                place = end if nearest[i] == length else nearest[i]
                pieces += [stretch[last:place], hidden[i]]
                last = place
            prompt = torch.cat([*pieces, stretch[last:end], tails[index]])
            questions.append(TextNeedle(
                text.get_tokenizer(self.tokenizer).decode(prompt), numbers[index], cities[index],
                nearest[index] / length, prompt,
            ))
        return questions

    def _pairs(self, generator: torch.Generator) -> tuple[list[str], list[str]]:
        """The cities of one haystack and their numbers, all different."""
        n = self.n_needles
        cities = [CITIES[i] for i in torch.randperm(len(CITIES), generator=generator)[:n].tolist()]
        low, span = 10 ** (self.digits - 1), 9 * 10 ** (self.digits - 1)
        numbers: list[str] = []
        while len(numbers) < n:
            number = str(low + int(torch.randint(span, (), generator=generator)))
            if number not in numbers:
                numbers.append(number)
        return cities, numbers

    def _stretch(
        self, split: str, integer: Callable[[int], int], length: int
    ) -> tuple[Tensor, list[int]]:
        """At least ``length`` tokens of text from a random sentence on, and the counts of tokens
        after which a sentence ends."""
        corpus = text.load_corpus(split, self.parts)
        # Bytes: a token of the BPE has four on average; twice as many where that is too few.
        enough = length + 4 if self.tokenizer == "bytes" else 4 * length
        where = integer(max(1, len(corpus) - 2 * enough - LONGEST_SENTENCE))
        first = SENTENCE_END.search(corpus, where, where + LONGEST_SENTENCE)
        where = first.end() if first else where
        for stop in (where + enough, where + 2 * enough):
            part = corpus[where:stop].decode("utf-8", errors="ignore")
            tokens = self._encode(part)
            if len(tokens) >= length:
                break
        else:
            raise ValueError(
                f"the {split} text has {len(corpus)} bytes, too few for a haystack of "
                f"{length} tokens: shorten seq_len or take more parts"
            )
        after = _token_bytes(self.tokenizer)[tokens].cumsum(0)  # bytes up to each token
        matches = SENTENCE_END.finditer(part.encode("utf-8"))
        ends = torch.tensor([match.start(1) for match in matches], dtype=torch.long)
        at = torch.searchsorted(after, ends).clamp(max=len(after) - 1)
        # A tokenizer could join a full stop and what follows; no needle fits into such a token.
        return tokens, (at[after[at] == ends] + 1).tolist()

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch * n_queries, seq_len - 1); only the digits are scored. With a
        curriculum: (rows, tokens - 1), about as many tokens as without one."""
        if self.curriculum:
            return self._drilled(batch_size, generator, progress)
        rows, targets = [], []
        for questions in self.sample(batch_size, generator, split="train"):
            for question in questions:
                answer = self._encode(question.answer)
                row = torch.cat((question.tokens, answer))
                target = torch.full_like(row, IGNORE)
                target[len(question.tokens) :] = answer
                rows.append(row[:-1])
                targets.append(target[1:])
        return torch.stack(rows), torch.stack(targets)

    def _drilled(
        self, batch_size: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor]:
        """A batch of the curriculum, filled up on the right to its longest row."""
        full = len(TEMPLATES) - 1
        last = (1.0, self.seq_len, full, full)
        _, length, low, high = next(
            (step for step in self.curriculum if progress < step[0]), last)
        rows, targets = [], []
        for _ in range(max(1, batch_size * self.seq_len // length)):
            template = TEMPLATES[int(torch.randint(low, high + 1, (), generator=generator))]
            row, target = self._drill(length, template, generator)
            rows.append(row[:-1])
            targets.append(target[1:])
        pad = nn.utils.rnn.pad_sequence
        return (
            pad(rows, batch_first=True),
            pad(targets, batch_first=True, padding_value=IGNORE),
        )

    def _drill(
        self, length: int, template: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One training row and its targets (not shifted): text with needles, then ``drills``
        questions with their answers. A shorter ``template`` is asked in its own words."""
        def integer(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        cities, numbers = self._pairs(generator)
        before, after = template.split("{number}")
        needles = [
            torch.cat([self._encode(" " + before.format(city=c)), self._encode(m + after)])
            for c, m in zip(cities, numbers, strict=True)
        ]
        tail, scored = [], []
        for _ in range(self.drills):
            at = integer(self.n_needles)  # with replacement
            question = self._encode("\n" + before.format(city=cities[at]))
            answer, stop = self._encode(numbers[at]), self._encode(after)
            tail += [question, answer, stop]
            scored += [torch.full_like(question, IGNORE), answer, torch.full_like(stop, IGNORE)]
        room = max(0, length - sum(map(len, needles)) - sum(map(len, tail)))
        pieces = needles
        if room:
            stretch, ends = self._stretch("train", integer, room)
            places = [0, *(end for end in ends if end < room), room]
            at_place = sorted((places[integer(len(places))], i) for i in range(self.n_needles))
            pieces, last = [], 0
            for place, i in at_place:
                pieces += [stretch[last:place], needles[i]]
                last = place
            pieces.append(stretch[last:room])
        body = torch.cat(pieces)
        return (
            torch.cat([body, *tail]), torch.cat([torch.full_like(body, IGNORE), *scored])
        )

    @torch.no_grad()
    def evaluate(
        self, model: Any, device: str | torch.device = "cpu", *, n: int = 50,
        seed: int = 0,
    ) -> dict[str, float]:
        """Exact match of the whole number over ``n`` haystacks (greedy decoding), the share of
        right digits, and how often the number of *another* needle was given."""
        _check_n(n)
        generator = torch.Generator().manual_seed(1_000_003 + seed)
        exact = digits = other = total = 0
        for questions in self.sample(n, generator):
            for question in questions:
                width = self.seq_len - len(question.tokens)
                out = model.generate(question.tokens[None].to(device), width, temperature=0)
                said = text.get_tokenizer(self.tokenizer).decode(out[0, -width:].cpu())
                exact += said == question.answer
                digits += sum(a == b for a, b in zip(said, question.answer, strict=False))
                other += said != question.answer and f"is {said}." in question.prompt
                total += 1
        return {
            "exact_match": exact / total,
            "digits": digits / total / self.digits,
            "other_needle": other / total,
        }


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n={n}: test on at least 1 sequence")


@cache
def _token_bytes(tokenizer: str) -> Tensor:
    """(vocab_size,): bytes of text for each token."""
    return torch.from_numpy(text.get_tokenizer(tokenizer).token_bytes())


@cache
def _longest_needle(tokenizer: str, digits: int) -> int:
    """Tokens of the longest needle, its white space included."""
    encode = text.get_tokenizer(tokenizer).encode
    needles = (f" {NEEDLE.format(city=city, number='0' * digits)}\n" for city in CITIES)
    return max(len(encode(needle)) for needle in needles)


def _nearest(places: list[int], wanted: float) -> int:
    return min(places, key=lambda place: abs(place - wanted))


def _question(city: str) -> str:
    """The question: a needle that breaks off before its number."""
    return "\n" + NEEDLE.format(city=city, number="").rstrip(".")
