"""The needle tests: find the number that belongs to a city, in a haystack.

Two levels. :class:`NeedleTask` works on abstract tokens and is learned in seconds, so that a
chapter can train it live. :class:`TextNeedleTask` is the protocol of the paper (Section 3.4, after
LWM and Gemini 1.5): sentences that give a city a magic number, hidden in real text. Chapters 8
and 11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

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


class TextNeedle(NamedTuple):
    """One question of the text-level test."""

    prompt: str  # the haystack with its needles, then the question up to the number
    answer: str  # the digits
    city: str
    depth: float  # where the asked needle was put, as a share of the haystack
    tokens: Tensor  # (seq,) the prompt as token ids


@dataclass(frozen=True)
class TextNeedleTask:
    """Needles on the level of text, the paper's protocol.

    ``n_needles`` sentences "The magic number of Lisbon is 4721." stand at sentence boundaries of a
    stretch of real text. Each of the ``n_queries`` asked cities gets a prompt of its own over the
    same haystack, ending in "The magic number of Lisbon is "; the answer is right when all its
    digits are. (One prompt for each question: with the answers written back, the last ones could
    be had by elimination.)

    Attributes:
        seq_len: tokens of haystack, needles, question and answer.
        n_needles, n_queries: N and R of Table 2.
        digits: of a number; drawn anew for each haystack, without repetition.
        depth: where the first asked needle stands, 0 to 1; default random. The others are random.
        tokenizer: "bytes" or "bpe".
        split: of the corpus, for the haystack in evaluation; training always takes "train".
        parts: of the corpus; default all.
    """

    seq_len: int = 512
    n_needles: int = 4
    n_queries: int = 1
    digits: int = 4
    depth: float | None = None
    tokenizer: str = "bytes"
    split: str = "validation"
    parts: tuple[str, ...] | None = None

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
        # The longest needles and question must leave room for some haystack.
        longest = max(CITIES, key=len)
        needle = len(self._encode(" " + NEEDLE.format(city=longest, number="0" * self.digits)))
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
        cities = [CITIES[i] for i in torch.randperm(len(CITIES), generator=generator)[:n].tolist()]
        low, span = 10 ** (self.digits - 1), 9 * 10 ** (self.digits - 1)
        numbers: list[str] = []
        while len(numbers) < n:
            number = str(low + integer(span))
            if number not in numbers:
                numbers.append(number)
        asked = torch.randperm(n, generator=generator)[: self.n_queries].tolist()
        depths = torch.rand(n, generator=generator).tolist()
        if self.depth is not None:
            depths[asked[0]] = self.depth

        needles = [NEEDLE.format(city=c, number=m) for c, m in zip(cities, numbers, strict=True)]
        corpus, boundaries = _sentences(split, self.parts)
        # A stretch surely long enough in bytes, from the start of a sentence on.
        enough = 8 * self.seq_len if self.tokenizer != "bytes" else self.seq_len
        usable = int(torch.searchsorted(boundaries, len(corpus) - enough))
        if usable < 1:
            raise ValueError(
                f"the {split} text has {len(corpus)} bytes, too few for a haystack of "
                f"{self.seq_len} tokens: shorten seq_len or take more parts"
            )
        where = int(boundaries[integer(usable)])
        stretch = corpus[where : where + enough]
        ends = boundaries[(boundaries > where) & (boundaries <= where + enough)] - where

        questions = []
        for index in asked:
            question = "\n" + NEEDLE.format(city=cities[index], number="").rstrip(".")
            tail, answer = self._encode(question), self._encode(numbers[index])
            room = self.seq_len - len(tail) - len(answer)
            tokens = self._hide(stretch, ends.tolist(), needles, depths, room)
            prompt = torch.cat((tokens, tail))
            decoded = text.get_tokenizer(self.tokenizer).decode(prompt)
            questions.append(
                TextNeedle(decoded, numbers[index], cities[index], depths[index], prompt)
            )
        return questions

    def _hide(
        self, stretch: bytes, ends: list[int], needles: list[str], depths: list[float], room: int
    ) -> Tensor:
        """Put each needle at the sentence boundary nearest to its depth: (room,) tokens."""
        cost = sum(len(self._encode(needle + " ")) for needle in needles)
        # How many bytes of text fill the room: exact for bytes, for BPE cut back token by token.
        hay = self._encode(stretch.decode("utf-8", errors="ignore"))[: room - cost]
        length = len(text.get_tokenizer(self.tokenizer).decode(hay).encode("utf-8"))
        places = [0, *(end for end in ends if end < length), length]
        inserts = sorted(
            (min(places, key=lambda place, d=depth: abs(place - d * length)), needle)
            for needle, depth in zip(needles, depths, strict=True)
        )
        pieces, last = [], 0
        for place, needle in inserts:
            sentence = self._encode(_spaced(needle, place, length))
            pieces += [self._bytes(stretch[last:place]), sentence]
            last = place
        pieces.append(self._bytes(stretch[last:length]))
        tokens = torch.cat(pieces)
        # Cutting the text at the needles may change BPE tokens by a few: fill or cut at the end.
        if len(tokens) < room:
            more = self._bytes(stretch[length:])
            return torch.cat((tokens, more[: room - len(tokens)]))
        return self._trim(pieces, room)

    def _bytes(self, part: bytes) -> Tensor:
        return self._encode(part.decode("utf-8", errors="ignore"))

    @staticmethod
    def _trim(pieces: list[Tensor], room: int) -> Tensor:
        """Cut the last stretches of text, never a needle, until ``room`` tokens are left."""
        extra = sum(map(len, pieces)) - room
        for index in range(len(pieces) - 1, -1, -2):  # text stands at even places
            cut = min(extra, len(pieces[index]))
            pieces[index] = pieces[index][: len(pieces[index]) - cut]
            extra -= cut
        return torch.cat(pieces)

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch * n_queries, seq_len - 1); only the digits are scored."""
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

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, device: str | torch.device = "cpu", *, n: int = 50, seed: int = 0
    ) -> dict[str, float]:
        """Exact match of the whole number over ``n`` haystacks (greedy decoding), the share of
        right digits, and how often the number of *another* needle was given."""
        generator = torch.Generator().manual_seed(1_000_003 + seed)
        exact = digits = other = total = 0
        for questions in self.sample(n, generator):
            for question in questions:
                width = len(self._encode(question.answer))
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


def _spaced(needle: str, place: int, length: int) -> str:
    """Text before and behind a sentence boundary already has one space between them."""
    return f" {needle}" if place == length else f"{needle} "


@cache
def _sentences(split: str, parts: tuple[str, ...] | None) -> tuple[bytes, Tensor]:
    """A split of the corpus and the byte offsets at which its sentences start."""
    corpus = text.load_corpus(split, parts)
    starts = [match.end() for match in re.finditer(rb"[.!?][\"')\]]* +(?=[A-Z\"'(])", corpus)]
    return corpus, torch.tensor([0, *starts])
