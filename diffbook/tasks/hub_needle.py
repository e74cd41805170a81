"""The text-level needle test for any causal language model of Hugging Face (chapter 11).

The protocol of :class:`diffbook.tasks.needle.TextNeedleTask` with the model's own tokenizer: N
sentences "The magic number of Lisbon is 4721." stand at sentence boundaries of held-out real text,
one at the asked depth and the others anywhere; the prompt ends in "The magic number of Lisbon is",
and the first number of the continuation is the answer. One prompt asks one question (R = 1).

Every cell of the depth x length grid is drawn from (seed, length, depth) alone and written as soon
as it is measured, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffbook.tasks import text
from diffbook.tasks.needle import CITIES, DEPTHS, LONGEST_SENTENCE, NEEDLE, SENTENCE_END, _nearest

SCHEMA = 1
DTYPES = ("float32", "bfloat16", "float16")


class HubNeedle(NamedTuple):
    """One question."""

    prompt: str
    answer: str  # the digits
    others: tuple[str, ...]  # the numbers of the needles that are not asked for
    depth: float  # where the asked needle stands, as a share of the haystack's characters


@dataclass(frozen=True)
class HubNeedleTest:
    """What is asked.

    Attributes:
        lengths: tokens of a prompt, at most, in the model's own tokens; a prompt is a few shorter.
        depths: of the asked needle, 0 (start) to 1 (end).
        n_needles: N. n: prompts for each length and depth.
        digits: of a number.
        split: of the book's corpus, where the haystack comes from.
    """

    lengths: tuple[int, ...] = (512, 1024, 2048)
    depths: tuple[float, ...] = DEPTHS
    n_needles: int = 4
    n: int = 50
    digits: int = 4
    seed: int = 0
    split: str = "validation"

    def __post_init__(self) -> None:
        if not 1 <= self.n_needles <= len(CITIES):
            raise ValueError(
                f"n_needles={self.n_needles}: give 1 to {len(CITIES)}, the number of cities")
        if self.n < 1:
            raise ValueError(f"n={self.n}: test on at least 1 prompt for each length and depth")
        if not 1 <= self.digits <= 9 or 9 * 10 ** (self.digits - 1) < self.n_needles:
            raise ValueError(f"digits={self.digits}: give 1 to 9, and enough for distinct numbers")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths={list(self.lengths)}: give at least one, all above 0")
        if not self.depths or not all(0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths={list(self.depths)} are shares of the haystack: 0 to 1")

    def draw(self, tokenizer: Any, length: int, depth: float) -> list[HubNeedle]:
        """The ``n`` questions of one cell."""
        key = 6_000_011 + self.seed * 1_000_003 + 101 * length + round(1000 * depth)
        generator = torch.Generator().manual_seed(key)
        return [self._one(tokenizer, length, depth, generator) for _ in range(self.n)]

    def _one(
        self, tokenizer: Any, length: int, depth: float, generator: torch.Generator
    ) -> HubNeedle:
        def integer(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        n = self.n_needles
        cities = [CITIES[i] for i in torch.randperm(len(CITIES), generator=generator)[:n].tolist()]
        low = 10 ** (self.digits - 1)
        numbers: list[str] = []
        while len(numbers) < n:
            number = str(low + integer(9 * low))
            if number not in numbers:
                numbers.append(number)
        # The first one is asked.
        depths = [depth, *torch.rand(n, generator=generator)[1:].tolist()]
        needles = [NEEDLE.format(city=c, number=m) for c, m in zip(cities, numbers, strict=True)]
        # No space at the end: most tokenizers write " 4721" as its own tokens.
        question = "\n" + NEEDLE.format(city=cities[0], number="").rstrip(" .")

        def count(string: str) -> int:
            return len(tokenizer(string)["input_ids"])

        room = length - count(" " + " ".join(needles) + question)
        if room < 1:
            raise ValueError(
                f"length {length} has no room for {n} needles and a question: give at least "
                f"{length - room + 1} tokens"
            )
        hay, ends = self._haystack(room, count, integer)
        while True:
            places = [0, *(end for end in ends if end < len(hay)), len(hay)]
            nearest = [_nearest(places, d * len(hay)) for d in depths]
            order = sorted(range(n), key=lambda i: (nearest[i], depths[i]))
            pieces, last = [], 0
            for i in order:
                pieces.append(hay[last : nearest[i]])
                # A line of its own at the very start, elsewhere it follows a sentence.
                pieces.append(" " + needles[i] if nearest[i] else needles[i] + "\n")
                last = nearest[i]
            prompt = "".join([*pieces, hay[last:], question])
            over = count(prompt) - length
            if over <= 0:
                return HubNeedle(
                    prompt, numbers[0], tuple(numbers[1:]), nearest[0] / max(1, len(hay)))
            hay = hay[:-over]  # a token has at least about a character

    def _haystack(
        self, room: int, count: Callable[[str], int], integer: Callable[[int], int]
    ) -> tuple[str, list[int]]:
        """The longest text of up to about ``room`` tokens from the start of a random sentence on,
        and the places where its sentences end."""
        corpus = text.load_corpus(self.split)
        reach = 8 * room + LONGEST_SENTENCE  # bytes; English has about four a token
        where = integer(max(1, len(corpus) - reach))
        first = SENTENCE_END.search(corpus, where, where + LONGEST_SENTENCE)
        where = first.end() if first else where
        part = corpus[where : where + 8 * room].decode("utf-8", errors="ignore")
        low, high = 0, len(part)
        if count(part) > room:
            guess = min(high, 4 * room)
            while high - low > max(1, room // 64):  # close is enough; `over` corrects the rest
                low, high = (guess, high) if count(part[:guess]) <= room else (low, guess)
                guess = (low + high) // 2
        else:
            low = high
        hay = part[:low]
        # Places are counted in characters, the pattern speaks of bytes.
        data = hay.encode("utf-8")
        ends = [len(data[: m.start(1)].decode("utf-8")) for m in SENTENCE_END.finditer(data)]
        return hay, ends


def load(name: str, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer: a folder or a name on the Hugging Face Hub.

    Args:
        device: default the best there is. dtype: of :data:`DTYPES`; default bfloat16 on a GPU that
            has it, else float16 there, float32 elsewhere.

    Raises:
        ImportError: transformers is not installed.
        ValueError: there is no such model, or it cannot be read.
    """
    try:
        import transformers
    except ImportError:
        raise ImportError(
            f"model {name!r} needs the `transformers` library: pip install transformers "
            "(or diffbook[llm])"
        ) from None
    if device is None:
        device = "cpu"
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
    if dtype is None:
        bf16 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        dtype = "bfloat16" if bf16 else "float16" if device == "cuda" else "float32"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        # Renamed in version 5.
        keyword = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            name, **{keyword: getattr(torch, dtype)})
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}): give the "
            "folder of a causal language model with its tokenizer, or its name on the Hugging "
            "Face Hub"
        ) from error
    return model.to(device).eval(), tokenizer


@torch.no_grad()
def ask(
    model: Any, tokenizer: Any, questions: Sequence[HubNeedle], *, batch_size: int = 8,
    digits: int = 4, on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """The first number that ``model`` writes behind each prompt ("" where it writes none), decoding
    greedily. Prompts of unequal length are padded on the left and the padding masked. When the
    device's memory runs out, the batch is halved."""
    pad = tokenizer.pad_token_id
    pad = (tokenizer.eos_token_id or 0) if pad is None else pad
    device = next(model.parameters()).device
    rows = [tokenizer(question.prompt)["input_ids"] for question in questions]
    said: list[str] = []
    while len(said) < len(rows):
        batch = rows[len(said) : len(said) + batch_size]
        width = max(map(len, batch))
        tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        try:
            out = model.generate(
                input_ids=tokens.to(device), attention_mask=mask.to(device),
                max_new_tokens=digits + 4,  # white space may take tokens of its own
                do_sample=False, pad_token_id=pad,
            )
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = (batch_size + 1) // 2
            continue
        for row in out[:, width:].cpu().tolist():
            continuation = tokenizer.decode(row, skip_special_tokens=True)
            found = re.match(r"\s*(\d+)", continuation)
            said.append(found.group(1) if found else "")
        if on_batch:
            on_batch(len(batch))
    return said


def measure(
    name: str, test: HubNeedleTest, out: Path | None = None, *, batch_size: int = 8,
    device: str | None = None, dtype: str | None = None, progress: bool | None = None,
) -> dict[str, Any]:
    """Run ``test`` on the model ``name``; return what stands in ``out`` (a JSON file): "model",
    "test", and "cells", each with length, depth, n, right, other_needle, tokens (of the longest
    prompt) and seconds.

    Cells that ``out`` already holds are not measured again.

    Raises:
        ValueError: when ``out`` is of another model or test, or damaged; when a length exceeds what
            the model can read; and as :func:`load`.
    """
    asked = json.loads(json.dumps(asdict(test)))
    results: dict[str, Any] = {"schema": SCHEMA, "model": name, "test": asked, "cells": []}
    if out is not None and out.exists():
        results = _resume(out, results)
    done = {(cell["length"], cell["depth"]) for cell in results["cells"]}
    todo = [(n, d) for n in test.lengths for d in test.depths if (n, d) not in done]
    if not todo:
        return results
    model, tokenizer = load(name, device, dtype)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max(test.lengths) + test.digits + 4 > limit:
        raise ValueError(
            f"length {max(test.lengths)}: {name} reads up to {limit} tokens, answer included; "
            f"give lengths up to {limit - test.digits - 4}"
        )
    from tqdm.auto import tqdm

    # None: no bar where the output is no terminal.
    disable = None if progress is None else not progress
    with tqdm(total=len(todo) * test.n, unit="prompt", disable=disable) as bar:
        for length, depth in todo:
            bar.set_description(f"{length} tokens, depth {depth:.0%}")
            started = time.perf_counter()
            questions = test.draw(tokenizer, length, depth)
            said = ask(
                model, tokenizer, questions, batch_size=batch_size, digits=test.digits,
                on_batch=bar.update,
            )
            pairs = list(zip(questions, said, strict=True))
            results["cells"].append({
                "length": length, "depth": depth, "n": test.n,
                "right": sum(answer == q.answer for q, answer in pairs),
                "other_needle": sum(answer in q.others for q, answer in pairs),
                "tokens": max(len(tokenizer(q.prompt)["input_ids"]) for q in questions),
                "seconds": round(time.perf_counter() - started, 3),
            })
            if out is not None:
                write(out, results)
    return results


def _resume(out: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """What ``out`` holds of the same model and test; lengths and depths may be more or fewer."""
    try:
        found = json.loads(out.read_text())
        cells, kind = found["cells"], found["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out} is no file of results ({error!r}): delete it or give another --out") from error
    if kind != SCHEMA:
        raise ValueError(f"{out} has schema {kind}, this version writes {SCHEMA}: delete it")
    for field in ("n_needles", "n", "digits", "seed", "split"):
        if found["test"][field] != fresh["test"][field]:
            raise ValueError(
                f"{out} was made with {field}={found['test'][field]}, now it is "
                f"{fresh['test'][field]}: give another --out, or delete the file"
            )
    if found["model"] != fresh["model"]:
        raise ValueError(
            f"{out} is about {found['model']}, not {fresh['model']}: give another --out")
    return {**fresh, "cells": cells}


def write(out: Path, results: dict[str, Any]) -> None:
    """Write the file so that it appears whole."""
    new = out.with_name(out.name + ".new")
    out.parent.mkdir(parents=True, exist_ok=True)
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, out)


def grid(results: dict[str, Any], what: str = "right") -> torch.Tensor:
    """Shares (depths, lengths), float64, of ``what``: "right" or "other_needle"."""
    cells = {(cell["length"], cell["depth"]): cell for cell in results["cells"]}
    test = results["test"]
    return torch.tensor(
        [[cells[n, d][what] / cells[n, d]["n"] for n in test["lengths"]] for d in test["depths"]],
        dtype=torch.float64,
    )
