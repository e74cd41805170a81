"""Real text: the corpus that comes with the package, tokenizers, and the language-modeling task.

About 30 MB of public-domain English in six parts (diffbook/data/README.md says which, and what was
done to them), split into train, validation and test by whole documents. Everything is read lazily:
importing this module or building a :class:`TextTask` reads no text. Chapters 8, 9 and 11.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import operator
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DATA = Path(__file__).resolve().parent.parent / "data"
SPLITS = ("train", "validation", "test")
REMEDY = "install diffbook again, or rebuild the text with scripts/build_corpus.py"


class CorpusError(RuntimeError):
    """A file of the corpus is missing, empty or damaged; the message says which and what helps."""


# --- the corpus ----------------------------------------------------------------------------


class Document(NamedTuple):
    """One book, play, speech or country entry."""

    part: str  # key of the part it belongs to, such as "shakespeare"
    name: str  # "Hamlet", "1863 Abraham Lincoln"
    split: str  # "train", "validation" or "test"
    text: str


@cache
def load_manifest(root: Path | None = None) -> dict[str, Any]:
    """What the corpus consists of: for each part its title, sources, rights, sizes, sha256 and
    documents (name, byte offset, bytes, split).

    Raises:
        CorpusError: the manifest is missing or cannot be read.
    """
    path = (root or DATA / "corpus") / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return manifest["parts"]
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing: {REMEDY}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is damaged ({error}): {REMEDY}") from None


def corpus_parts(root: Path | None = None) -> tuple[str, ...]:
    """Keys of the parts, in the order in which they are read."""
    return tuple(load_manifest(root))


@cache
def _part_text(part: str, root: Path | None) -> bytes:
    """One part, decompressed and compared with its checksum."""
    entry = load_manifest(root)[part]
    path = (root or DATA / "corpus") / entry["file"]
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing: {REMEDY}") from None
    if not packed:
        raise CorpusError(f"{path} is empty: {REMEDY}")
    try:
        text = lzma.decompress(packed)
    except (lzma.LZMAError, EOFError) as error:
        raise CorpusError(f"{path} is damaged ({error}): {REMEDY}") from None
    if hashlib.sha256(text).hexdigest() != entry["sha256"]:
        raise CorpusError(f"{path} is damaged (its sha256 is not the manifest's): {REMEDY}")
    return text


def _checked_parts(parts: Iterable[str] | str | None, root: Path | None) -> tuple[str, ...]:
    known = corpus_parts(root)
    if parts is None:
        return known
    chosen = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in chosen:
        if part not in known:
            raise ValueError(
                f"parts: {part!r} is not in the corpus; choose from {', '.join(known)}"
            )
    if not chosen:
        raise ValueError(f"parts is empty: leave it out or choose from {', '.join(known)}")
    return chosen


def _checked_split(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose {', '.join(SPLITS)}")
    return split


def load_documents(
    split: str | None = None, parts: Iterable[str] | str | None = None, root: Path | None = None
) -> list[Document]:
    """The documents of a split (default: of all three), part after part.

    Args:
        split: "train", "validation", "test" or None for all.
        parts: keys of :func:`corpus_parts`; default all.
        root: a folder with another manifest.json and its files; default the package's own.

    Raises:
        CorpusError: a file is missing, empty or damaged.
        ValueError: there is no such split or part.
    """
    if split is not None:
        _checked_split(split)
    documents = []
    for part in _checked_parts(parts, root):
        text = _part_text(part, root)
        for entry in load_manifest(root)[part]["documents"]:
            if split in (None, entry["split"]):
                data = text[entry["offset"] : entry["offset"] + entry["bytes"]]
                document = Document(part, entry["name"], entry["split"], data.decode("utf-8"))
                documents.append(document)
    return documents


def load_corpus(
    split: str = "train", parts: Iterable[str] | str | None = None, root: Path | None = None
) -> bytes:
    """The text of a split, UTF-8 (almost all of it ASCII), documents separated by a blank line.

    Prose is one paragraph (State of the Union: one speech) a line, verse one line a line. Kept in
    memory once read.

    Args:
        split: "train" (about 90 %), "validation" or "test" (about 5 % each).
        parts: keys of :func:`corpus_parts`, such as ("austen", "shakespeare"); default all.
        root: a folder with another manifest.json and its files; default the package's own.

    Raises:
        CorpusError: a file is missing, empty or damaged.
        ValueError: there is no such split or part.
    """
    return _corpus(_checked_split(split), _checked_parts(parts, root), root)


@cache
def _corpus(split: str, parts: tuple[str, ...], root: Path | None) -> bytes:
    pieces = []
    for part in parts:
        text = memoryview(_part_text(part, root))
        for entry in load_manifest(root)[part]["documents"]:
            if entry["split"] == split:
                pieces.append(text[entry["offset"] : entry["offset"] + entry["bytes"]])
    return b"".join(pieces)


# --- tokenizers ----------------------------------------------------------------------------


class Tokenizer(Protocol):
    """What this module asks of a tokenizer."""

    name: str
    vocab_size: int

    def encode(self, text: str | bytes) -> Tensor: ...

    def encode_array(self, text: str | bytes) -> np.ndarray: ...

    def decode(self, ids: Tensor | np.ndarray | Sequence[int]) -> str: ...

    def token_bytes(self) -> np.ndarray: ...


def _utf8(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is half of a surrogate pair, which UTF-8 cannot "
            "write: decode the text properly, or replace the character"
        ) from None


def _checked_ids(ids: Tensor | np.ndarray | Sequence[int], vocab_size: int) -> list[int]:
    """A flat list of Python ints, each a valid id."""
    flat = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
    checked = []
    for position, token in enumerate([flat] if isinstance(flat, int) else flat):
        try:
            checked.append(operator.index(token))
        except (TypeError, RuntimeError):
            message = f"ids must be one row of integers; entry {position} is {token!r}"
            raise ValueError(message) from None
        if not 0 <= checked[-1] < vocab_size:
            raise ValueError(
                f"token id {token} at position {position} is not in 0..{vocab_size - 1}"
            )
    return checked


class ByteTokenizer:
    """One token for each byte of the UTF-8 text: 256 ids, nothing to learn, nothing unknown."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: str | bytes) -> Tensor:
        """``(n,)`` int64, n = the number of bytes."""
        return torch.from_numpy(self.encode_array(text).astype(np.int64))

    def encode_array(self, text: str | bytes) -> np.ndarray:
        """``(n,)`` uint8, a read-only view: no copy of the text."""
        return np.frombuffer(_utf8(text), dtype=np.uint8)

    def decode(self, ids: Tensor | np.ndarray | Sequence[int]) -> str:
        """The text; bytes that are no UTF-8 (a model may write such) become U+FFFD."""
        return bytes(_checked_ids(ids, self.vocab_size)).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """``(vocab_size,)``: how many bytes of text a token stands for."""
        return np.ones(self.vocab_size, dtype=np.int64)


class BPETokenizer:
    """Byte-level byte-pair encoding: a file of the Hugging Face ``tokenizers`` library.

    The shipped one has 4096 entries, learned on the train split, and splits numbers into digits.
    It knows no unknown token: bytes that never occurred together stay single.

    Args:
        path: a tokenizer.json; default the shipped file.

    Raises:
        CorpusError: the file is missing or no tokenizer.
        ValueError: the tokenizer is not byte-level, so that bytes per token are not defined.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        import tokenizers

        self.path = Path(path) if path is not None else DATA / "bpe4096.json"
        self.name = self.path.stem
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            remedy = REMEDY if path is None else "give the path of a tokenizer.json"
            raise CorpusError(f"{self.path} is missing: {remedy}") from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception for any fault of the file
            raise CorpusError(f"{self.path} is no tokenizer file ({error}): {REMEDY}") from None
        if "ByteLevel" not in text:
            raise ValueError(f"{self.path} is not a byte-level tokenizer: bytes per token unknown")
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()

    def encode(self, text: str | bytes) -> Tensor:
        """``(n,)`` int64; bytes that are no UTF-8 become U+FFFD first."""
        return torch.tensor(self._encode_one(text), dtype=torch.int64)

    def _encode_one(self, text: str | bytes) -> list[int]:
        string = _utf8(text).decode("utf-8", errors="replace")
        return self._tokenizer.encode(string, add_special_tokens=False).ids

    def encode_array(self, text: str | bytes) -> np.ndarray:
        """``(n,)`` uint16 (uint32 from 65 536 entries on). Long texts go line by line, on all
        cores, so the ids can differ from :meth:`encode`'s where a line ends."""
        dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        string = _utf8(text).decode("utf-8", errors="replace")
        arrays = [np.zeros(0, dtype=dtype)]
        for chunk in _chunks(string.splitlines(keepends=True), 500_000):
            for encoding in self._tokenizer.encode_batch(chunk, add_special_tokens=False):
                arrays.append(np.array(encoding.ids, dtype=dtype))
        return np.concatenate(arrays)

    def decode(self, ids: Tensor | np.ndarray | Sequence[int]) -> str:
        """The text; ids that do not join to UTF-8 (a model may write such) become U+FFFD."""
        return self._tokenizer.decode(_checked_ids(ids, self.vocab_size), skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        """``(vocab_size,)``: how many bytes of text a token stands for."""
        # Byte-level entries are written with one printable character for each byte.
        vocabulary = self._tokenizer.get_vocab()
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for entry, token in vocabulary.items():
            lengths[token] = len(entry)
        return lengths


def _chunks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Groups of lines of at least ``size`` characters: the library needs much memory for each."""
    group: list[str] = []
    length = 0
    for line in lines:
        group.append(line)
        length += len(line)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


@cache
def get_tokenizer(name: str = "bytes") -> Tokenizer:
    """A tokenizer by name: "bytes", "bpe" (the shipped BPE of 4096 entries), or the path of a
    byte-level tokenizer.json."""
    if name == "bytes":
        return ByteTokenizer()
    if name in ("bpe", "bpe4096"):
        return BPETokenizer()
    if name.endswith(".json"):
        return BPETokenizer(name)
    raise ValueError(f'tokenizer={name!r}: choose "bytes", "bpe" or the path of a tokenizer.json')


# --- data sets of the Hugging Face hub -----------------------------------------------------


def _hub_split(text: str) -> str:
    """Where a document without a split of its own goes, by its content alone: 90/5/5 %."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    bucket = int.from_bytes(digest[:8], "big") % 20
    return {0: "validation", 1: "test"}.get(bucket, "train")


@cache
def _hub_corpus(
    hub: str, config: str | None, column: str, source: str | None, limit: int
) -> dict[str, bytes]:
    """The three splits of a hub data set; those it does not have are taken out of its train split.

    Documents are read one after the other until ``limit`` bytes, so of a huge set only the start
    is downloaded.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"hub={hub!r} needs the `datasets` library: pip install datasets (or diffbook[hub])"
        ) from None
    try:
        loaded = datasets.load_dataset(hub, name=config, streaming=True)
    except (OSError, ValueError) as error:  # no such set, no such configuration, no network
        raise ValueError(
            f"hub={hub!r} cannot be loaded: {error}; give owner/name of a public data set, or the "
            "path of a local folder"
        ) from error
    train = source or "train"
    if train not in loaded:
        raise ValueError(
            f"hub_split={train!r}: {hub} has no such split; choose from {', '.join(loaded)}"
        )
    found: dict[str, bytearray] = {split: bytearray() for split in SPLITS}
    # Splits of their own are only used beside a train split that was not chosen by hand.
    own = [split for split in SPLITS[1:] if source is None and split in loaded]
    for split in own:
        for text in _hub_texts(loaded[split], hub, column, max(1, limit // 10)):
            found[split] += (text.strip() + "\n\n").encode("utf-8", "replace")
    for text in _hub_texts(loaded[train], hub, column, limit):
        split = _hub_split(text)
        split = "train" if split in own else split
        found[split] += (text.strip() + "\n\n").encode("utf-8", "replace")
    if not found["train"]:
        raise ValueError(f"hub={hub!r}: split {train!r} has no text in column {column!r}")
    return {split: bytes(text) for split, text in found.items()}


def _hub_texts(rows: Iterable[dict], hub: str, column: str, limit: int) -> Iterator[str]:
    read = 0
    for row in rows:
        if column not in row:
            raise ValueError(
                f"hub_column={column!r}: {hub} has no such column; choose from {', '.join(row)}"
            )
        if not isinstance(row[column], str):
            kind = type(row[column]).__name__
            raise ValueError(f"hub_column={column!r} of {hub} holds {kind}, not text")
        if row[column].strip():
            yield row[column]
            read += len(row[column].encode("utf-8", "replace"))
        if read >= limit:
            return


# --- token streams -------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where token ids of long texts are kept: $DIFFBOOK_CACHE, or diffbook in the user's cache."""
    if "DIFFBOOK_CACHE" in os.environ:
        return Path(os.environ["DIFFBOOK_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffbook"


def _encode_cached(text: bytes, tokenizer: BPETokenizer, folder: Path | None = None) -> np.ndarray:
    """``tokenizer.encode_array(text)``, kept on disk under the checksums of both.

    A damaged file is written anew. A folder that cannot be written only costs the time.
    """
    key = hashlib.sha256(hashlib.sha256(text).digest() + tokenizer.sha256.encode()).hexdigest()
    path = (folder or cache_folder()) / f"ids-{key[:32]}.npy"
    ids = _read_ids(path)
    if ids is not None:
        return ids
    ids = tokenizer.encode_array(text)
    checksum = hashlib.sha256(ids.tobytes()).digest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written under another name first: a process that reads meanwhile never sees half a file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            file.write(checksum)
            np.save(file, ids)
        os.replace(file.name, path)
    except OSError as error:
        print(f"note: token ids are not kept in {path.parent} ({error.strerror})")
    return ids


def _read_ids(path: Path) -> np.ndarray | None:
    """The ids of a cache file, or None if there is none or it is not what was written."""
    try:
        with path.open("rb") as file:
            checksum = file.read(32)
            ids = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return ids if hashlib.sha256(ids.tobytes()).digest() == checksum else None


@cache
def _stream(
    split: str, tokenizer: str, parts: tuple[str, ...] | None, hub: tuple | None
) -> np.ndarray:
    """``(n,)`` uint8 or uint16: all tokens of a split, in order."""
    text = load_corpus(split, parts) if hub is None else _hub_corpus(*hub)[split]
    encoder = get_tokenizer(tokenizer)
    if isinstance(encoder, BPETokenizer):
        return _encode_cached(text, encoder)
    return encoder.encode_array(text)


# --- the task ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextTask:
    """Language modeling: predict the next token of real text.

    A training sequence is a window of ``seq_len`` tokens at a random place of the train split; it
    may run over the end of a document into the next. Evaluation takes the same evenly spaced
    windows of a held-out split for every model.

    Attributes:
        seq_len: tokens of a sequence.
        tokenizer: "bytes" (256 ids), "bpe" (4096 ids, about four bytes each) or the path of a
            byte-level tokenizer.json.
        parts: of the shipped corpus, keys of :func:`corpus_parts`; default all.
        hub: instead of the shipped corpus a data set of the Hugging Face hub, "owner/name", or a
            local folder of text, JSON-lines, CSV or Parquet files. Needs the `datasets` library.
        hub_column: its column with the text.
        hub_config: its configuration, if it has several.
        hub_split: the split to train on; default "train", with the data set's own "validation"
            and "test". Where it has none, or with ``hub_split``, documents are held out by a hash
            of their text, 5 % each.
        hub_bytes: read no more than about this many bytes of text.
        eval_windows: how many windows :meth:`evaluate` takes.
        eval_batch: windows of one forward pass there.

    Raises:
        ValueError: a number is not positive, a name unknown, or (at first use) a split too short.
        CorpusError: (at first use) a file of the corpus is missing or damaged.
        ImportError: (at first use) ``hub`` is given but `datasets` is not installed.
    """

    seq_len: int = 256
    tokenizer: str = "bytes"
    parts: tuple[str, ...] | None = None
    hub: str | None = None
    hub_column: str = "text"
    hub_config: str | None = None
    hub_split: str | None = None
    hub_bytes: int = 50_000_000
    eval_windows: int = 128
    eval_batch: int = 16

    name = "text"

    def __post_init__(self) -> None:
        for field in ("seq_len", "hub_bytes", "eval_windows", "eval_batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: give at least 1")
        if self.hub is not None and self.parts is not None:
            raise ValueError("give hub or parts, not both: parts belong to the shipped corpus")
        if self.hub is None and self.parts is not None:
            object.__setattr__(self, "parts", _checked_parts(self.parts, None))
        get_tokenizer(self.tokenizer)  # an unknown name is an error here, not in mid-training

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return get_tokenizer(self.tokenizer).vocab_size

    def tokens(self, split: str = "train") -> np.ndarray:
        """``(n,)`` uint8 or uint16: the whole split as token ids, read-only."""
        hub = None
        if self.hub is not None:
            hub = (self.hub, self.hub_config, self.hub_column, self.hub_split, self.hub_bytes)
        tokens = _stream(_checked_split(split), self.tokenizer, self.parts, hub)
        if len(tokens) <= self.seq_len:
            raise ValueError(
                f"the {split} split has {len(tokens)} tokens, too few for a window of "
                f"seq_len={self.seq_len} and the token after it: shorten seq_len or take more text"
            )
        return tokens

    def _windows(self, split: str, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets (len(starts), seq_len), int64: only these rows are ever int64."""
        rows = self.tokens(split)[starts[:, None] + np.arange(self.seq_len + 1)]
        window = torch.from_numpy(rows.astype(np.int64))  # (rows, seq_len + 1)
        return window[:, :-1], window[:, 1:]

    def training_batch(
        self, batch_size: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Random windows of the train split: inputs and targets ``(batch_size, seq_len)``, int64,
        on the CPU; ``targets[:, i]`` is the token after ``inputs[:, i]``.

        ``progress`` (share of the training that is done) is not used: there is no curriculum.
        """
        high = len(self.tokens("train")) - self.seq_len
        starts = torch.randint(high, (batch_size,), generator=generator, device=generator.device)
        return self._windows("train", starts.cpu().numpy())

    def eval_starts(self, split: str = "validation") -> np.ndarray:
        """``(windows,)``: where the evaluation windows start, evenly spaced, not overlapping."""
        last = len(self.tokens(split)) - 1 - self.seq_len
        count = min(self.eval_windows, last // self.seq_len + 1)
        return np.linspace(0, last, count).astype(np.int64)

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        device: str | torch.device = "cpu",
        max_batches: int | None = None,
        *,
        split: str = "validation",
    ) -> dict[str, float]:
        """The model's loss on fixed windows of a held-out split.

        Args:
            model: tokens (batch, seq) -> logits (batch, seq, vocab_size). Put into eval mode, and
                back into the mode it was in.
            device: where the model is.
            max_batches: stop after so many batches of ``eval_batch`` windows; the windows of each
                batch are spread over the whole split.
            split: "validation", "test" or "train".

        Returns:
            ``loss``: mean cross-entropy in nats for each token; ``bits_per_byte``: the same total
            in bits, divided by the bytes of text, which compares models with different tokenizers.
        """
        starts = self.eval_starts(split)
        batches = math.ceil(len(starts) / self.eval_batch)
        wanted = batches if max_batches is None else min(max_batches, batches)
        if wanted < 1:
            raise ValueError(f"max_batches={max_batches}: give at least 1, or None for all")
        lengths = torch.from_numpy(get_tokenizer(self.tokenizer).token_bytes())
        nats = tokens = n_bytes = 0.0
        was_training = model.training
        model.eval()
        try:
            for batch in range(wanted):
                inputs, targets = self._windows(split, starts[batch::batches])
                logits = model(inputs.to(device)).float()  # (batch, seq_len, vocab_size)
                loss = F.cross_entropy(
                    logits.flatten(0, 1), targets.to(device).flatten(), reduction="sum"
                )
                nats += float(loss)
                tokens += targets.numel()
                n_bytes += int(lengths[targets].sum())
        finally:
            model.train(was_training)
        return {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / n_bytes}
