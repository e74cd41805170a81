"""The corpus, the tokenizers and the language-modeling task."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffbook.tasks import text
from diffbook.tasks.text import CorpusError, TextTask, get_tokenizer

CORPUS = text.DATA / "corpus"
HAVE_DATASETS = importlib.util.find_spec("datasets") is not None

ODD_TEXTS = (
    "",
    "plain",
    "  two  blanks,\ttab\r\n\n\nlines \n",
    "1234567890 3.14159 -7",
    "naïve café, Ærøskøbing, ß, ﬁ ligature",
    "e\u0301 and é, zero\u200bwidth, \u00a0hard blank, \ufeffmark",
    "差分变换器 でんき 전기 Ελληνικά Русский עברית العربية हिन्दी",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 λ ≈ 0.8 − 0.6·exp(−0.3·l)",
    "\x00\x01\x7f\x85\u2028\u2029 controls",
    "<|endoftext|> [PAD] </s> are plain text here",
)


# --- the corpus ----------------------------------------------------------------------------


def test_manifest_describes_the_files() -> None:
    total = 0
    for part, entry in text.load_manifest().items():
        packed = (CORPUS / entry["file"]).read_bytes()
        assert len(packed) == entry["xz_bytes"] < 5 * 2**20
        assert hashlib.sha256(packed).hexdigest() == entry["xz_sha256"]
        total += len(packed)
        data = lzma.decompress(packed)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert entry["title"] and entry["rights"]
        for source in entry["sources"]:
            assert set(source) == {"registry", "package", "version"}, part
    assert total <= 8_000_000
    shipped = {path.name for path in CORPUS.iterdir()}
    assert shipped == {e["file"] for e in text.load_manifest().values()} | {"manifest.json"}


def test_documents_tile_each_part() -> None:
    """Disjoint, complete: each document starts where the one before it ended."""
    for part, entry in text.load_manifest().items():
        documents = entry["documents"]
        assert documents[0]["offset"] == 0
        for one, following in pairwise(documents):
            assert one["offset"] + one["bytes"] == following["offset"]
        assert documents[-1]["offset"] + documents[-1]["bytes"] == entry["bytes"]
        names = [document["name"] for document in documents]
        assert len(set(names)) == len(names), part
        assert {document["split"] for document in documents} <= set(text.SPLITS)


def test_splits_cover_the_corpus_about_90_5_5() -> None:
    sizes = {split: len(text.load_corpus(split)) for split in text.SPLITS}
    total = sum(entry["bytes"] for entry in text.load_manifest().values())
    assert sum(sizes.values()) == total > 29_000_000
    for split, low, high in (("train", 88, 92), ("validation", 4, 6), ("test", 4, 6)):
        assert low < 100 * sizes[split] / total < high, (split, sizes)
    # Every part but the one-book Moby Dick is held out in both splits: no split is of one style.
    for split in ("validation", "test"):
        held_out = {document.part for document in text.load_documents(split)}
        assert held_out == set(text.corpus_parts()) - {"moby_dick"}


def test_load_documents_agrees_with_load_corpus() -> None:
    for parts in (None, "austen", ["world_factbook", "king_james_bible"]):
        documents = text.load_documents("test", parts)
        joined = "".join(document.text for document in documents).encode("utf-8")
        assert joined == text.load_corpus("test", parts)
        assert {document.split for document in documents} == {"test"}
    assert len(text.load_documents()) == sum(
        len(entry["documents"]) for entry in text.load_manifest().values()
    )


@pytest.mark.parametrize(
    ("part", "name", "passage"),
    [
        ("state_of_the_union", "1862 Abraham Lincoln", "we can not escape history. We of"),
        ("shakespeare", "Hamlet", "HAMLET:\nTo be, or not to be: that is the question:\n"),
        ("king_james_bible", "Genesis", "Chapter 1\n\nIn the beginning God created the heaven"),
        ("king_james_bible", "Revelation", "Christ be with you all. Amen.\n\n"),
        ("austen", "Pride and Prejudice", "a single man in possession of a good fortune, must be"),
        ("moby_dick", "Moby Dick", "Call me Ishmael. Some years ago--never mind how long"),
        ("world_factbook", "France", "France\n\nIntroduction\nBackground: France today is one"),
    ],
)
def test_known_passages(part: str, name: str, passage: str) -> None:
    """Decoded, unwrapped, markup turned into plain text."""
    (document,) = (d for d in text.load_documents(None, part) if d.name == name)
    assert passage in document.text


def test_text_is_clean() -> None:
    for document in text.load_documents():
        where = f"{document.part}: {document.name}"
        for leftover in ("\r", "\t", "\ufffd", "  ", "\n\n\n", "&quot;", "’", "—", "\x02"):
            assert leftover not in document.text, f"{leftover!r} in {where}"
        assert document.text.endswith("\n\n") and not document.text[0].isspace(), where
        assert "gutenberg" not in document.text.lower(), where
    plays = text.load_corpus("train", "shakespeare").decode()
    assert not set("_*#\\") & set(plays)
    assert plays.count("[") == plays.count("]")


def test_text_is_ascii_but_for_a_few_accents() -> None:
    data = b"".join(text.load_corpus(split) for split in text.SPLITS)
    odd = (np.frombuffer(data, dtype=np.uint8) > 127).sum()
    assert odd < 100


def _window_hashes(data: bytes, width: int) -> np.ndarray:
    """A 64-bit hash of each ``width``-byte window, one for each position.

    Polynomial hash modulo 2**64 from prefix sums of byte * B**i, shifted back by B**-i.
    """
    base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
    numbers = np.frombuffer(data, dtype=np.uint8).astype(np.uint64) + np.uint64(1)

    def powers(of: int, count: int) -> np.ndarray:
        table = np.full(count, of, dtype=np.uint64)
        table[0] = 1
        return np.multiply.accumulate(table)

    sums = np.add.accumulate(numbers * powers(base, len(numbers)))
    sums = np.concatenate((np.zeros(1, np.uint64), sums))
    spans = sums[width:] - sums[:-width]
    return spans * powers(pow(base, -1, 2**64), len(spans))


def _repeated_share(held_out: bytes, known: np.ndarray, width: int) -> float:
    """Share of the bytes of ``held_out`` inside a window whose hash is in the sorted ``known``."""
    hashes = _window_hashes(held_out, width)
    order = np.argsort(hashes)
    found = np.zeros(len(hashes), dtype=bool)
    # Sorted queries: a binary search then walks through memory once.
    places = np.searchsorted(known, hashes[order])
    found[order] = known[np.minimum(places, len(known) - 1)] == hashes[order]
    marks = np.zeros(len(held_out) + 1, dtype=np.int64)
    np.add.at(marks, np.flatnonzero(found), 1)
    np.add.at(marks, np.flatnonzero(found) + width, -1)
    return float((np.cumsum(marks)[:-1] > 0).mean())


def test_repeated_share_finds_what_is_repeated() -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(32, 127, 5000, dtype=np.uint8).tobytes()
    fresh = generator.integers(32, 127, 4000, dtype=np.uint8).tobytes()
    known = np.sort(_window_hashes(train, 200))
    assert _repeated_share(fresh, known, 200) == 0
    leaky = fresh[:1000] + train[700:1700] + fresh[1000:]
    assert _repeated_share(leaky, known, 200) == pytest.approx(0.2, abs=0.001)
    assert _repeated_share(fresh + train[:199], known, 200) == 0  # shorter than the window


def test_no_long_passage_of_the_held_out_text_is_in_the_train_text() -> None:
    """No 200 bytes in a row, at any offset. Measured: 0 in three parts; 0.2 % of the State of the
    Union (a President who quotes his last message); 2 % of the Factbook (lists of treaties and
    statistics that are the same for two countries)."""
    width = 200
    # Train windows at a stride, held-out windows at every offset: a common passage of width +
    # stride - 1 bytes cannot hide, and the search is much faster.
    stride = 16
    pieces = [
        _window_hashes(text.load_corpus("train", part), width)[::stride]
        for part in text.corpus_parts()
    ]
    known = np.sort(np.concatenate(pieces))
    allowed = {"state_of_the_union": 0.005, "world_factbook": 0.04}
    for part in text.corpus_parts():
        for split in ("validation", "test"):
            held_out = text.load_corpus(split, part)
            if held_out:
                share = _repeated_share(held_out, known, width)
                assert share <= allowed.get(part, 0.0), (part, split, share)


# --- a damaged corpus ----------------------------------------------------------------------


@pytest.fixture
def small_corpus(tmp_path: Path) -> Path:
    """One small part in a folder of its own."""
    data = b"First document.\n\nSecond one.\n\n"
    documents = [
        {"name": "first", "offset": 0, "bytes": 17, "split": "train"},
        {"name": "second", "offset": 17, "bytes": 13, "split": "test"},
    ]
    entry = {
        "file": "part.xz",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "documents": documents,
    }
    (tmp_path / "part.xz").write_bytes(lzma.compress(data))
    (tmp_path / "manifest.json").write_text(json.dumps({"parts": {"part": entry}}))
    return tmp_path


def test_another_corpus_can_be_read(small_corpus: Path) -> None:
    assert text.load_corpus("train", root=small_corpus) == b"First document.\n\n"
    assert [d.text for d in text.load_documents(root=small_corpus)][1] == "Second one.\n\n"
    assert text.load_corpus("validation", root=small_corpus) == b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "part.xz is missing"),
        (lambda path: path.write_bytes(b""), "part.xz is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "part.xz is damaged"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "part.xz is damaged"),
        (lambda path: path.write_bytes(lzma.compress(b"other")), "part.xz is damaged .*sha256"),
    ],
    ids=["missing", "empty", "cut off", "not xz", "other text"],
)
def test_damaged_part(small_corpus: Path, damage, message: str) -> None:
    damage(small_corpus / "part.xz")
    with pytest.raises(CorpusError, match=message) as caught:
        text.load_corpus("train", root=small_corpus)
    assert "build_corpus.py" in str(caught.value)


def test_one_flipped_bit_in_a_shipped_part(tmp_path: Path) -> None:
    shutil.copytree(CORPUS, tmp_path / "corpus")
    path = tmp_path / "corpus" / "moby_dick.xz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"moby_dick\.xz is damaged"):
        text.load_corpus("train", "moby_dick", root=tmp_path / "corpus")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 1}'])
def test_damaged_manifest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(CorpusError, match=r"manifest\.json is (missing|damaged)"):
        text.load_corpus("train", root=tmp_path)


def test_unknown_split_and_part() -> None:
    with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
        text.load_corpus("dev")
    with pytest.raises(ValueError, match=r"'bible' is not in the corpus.*king_james_bible"):
        text.load_corpus("train", ["austen", "bible"])
    with pytest.raises(ValueError, match="parts is empty"):
        text.load_corpus("train", [])


# --- tokenizers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@pytest.mark.parametrize("string", ODD_TEXTS)
def test_round_trip(name: str, string: str) -> None:
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode(string)
    assert ids.dtype == torch.int64 and ids.ndim == 1
    assert tokenizer.decode(ids) == string
    assert tokenizer.decode(ids.numpy()) == tokenizer.decode(ids.tolist()) == string
    assert tokenizer.decode(tokenizer.encode_array(string)) == string
    assert torch.equal(tokenizer.encode(string.encode("utf-8")), ids)
    assert int(tokenizer.token_bytes()[ids].sum()) == len(string.encode("utf-8"))


def test_byte_tokenizer_is_utf8() -> None:
    tokenizer = get_tokenizer("bytes")
    assert (tokenizer.name, tokenizer.vocab_size) == ("bytes", 256)
    assert tokenizer.encode("Aé").tolist() == [65, 0xC3, 0xA9]
    assert tokenizer.decode([65, 0xC3]) == "A\ufffd"  # half a character, as a model may write
    assert tokenizer.encode_array("Aé").dtype == np.uint8


def test_bpe_tokenizer_splits_digits_and_compresses() -> None:
    tokenizer = get_tokenizer("bpe")
    assert (tokenizer.name, tokenizer.vocab_size) == ("bpe4096", 4096)
    assert get_tokenizer("bpe4096").decode([*range(4096)])
    for number in ("4721", "1000", "1999", "0"):
        pieces = [tokenizer.decode([i]) for i in tokenizer.encode(f"is {number}.").tolist()]
        assert pieces[-len(number) - 1 :] == [*number, "."]
    sample = text.load_corpus("test", "state_of_the_union")[:200_000]
    ids = tokenizer.encode_array(sample)
    assert ids.dtype == np.uint16
    assert 3.5 < len(sample) / len(ids) < 5


def test_long_texts_are_encoded_in_chunks() -> None:
    """Chunks end between lines and change nothing else."""
    tokenizer = get_tokenizer("bpe")
    lines = [f"Line {n} of some text.\n" for n in range(30_000)]  # about 700 kB: two chunks
    assert len(list(text._chunks(lines, 500_000))) == 2
    one_by_one = [tokenizer.encode(line).numpy() for line in lines[:5]]
    array = tokenizer.encode_array("".join(lines))
    np.testing.assert_array_equal(array[: sum(map(len, one_by_one))], np.concatenate(one_by_one))
    assert tokenizer.decode(array) == "".join(lines)


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_bad_input_for_tokenizers(name: str) -> None:
    tokenizer = get_tokenizer(name)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        tokenizer.encode("broken \ud83d")
    top = tokenizer.vocab_size
    with pytest.raises(ValueError, match=rf"{top} at position 1 is not in 0\.\.{top - 1}"):
        tokenizer.decode([1, top])
    with pytest.raises(ValueError, match="-1 at position 0"):
        tokenizer.decode(torch.tensor([-1]))
    with pytest.raises(ValueError, match="one row of integers"):
        tokenizer.decode(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"entry 0 is 1\.5"):
        tokenizer.decode([1.5])


def test_get_tokenizer_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer='words': choose \"bytes\", \"bpe\""):
        get_tokenizer("words")
    with pytest.raises(CorpusError, match=r"mine\.json is missing"):
        get_tokenizer(str(tmp_path / "mine.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"bad\.json is no tokenizer file"):
        get_tokenizer(str(tmp_path / "bad.json"))


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    shutil.copy(text.DATA / "bpe4096.json", tmp_path / "mine.json")
    tokenizer = get_tokenizer(str(tmp_path / "mine.json"))
    assert tokenizer.name == "mine"
    assert torch.equal(tokenizer.encode("the same"), get_tokenizer("bpe").encode("the same"))


# --- token ids on disk ---------------------------------------------------------------------


def test_encoded_text_is_kept_and_verified(tmp_path: Path, monkeypatch) -> None:
    tokenizer = text.BPETokenizer()
    sample = b"A stitch in time saves nine. " * 20
    first = text._encode_cached(sample, tokenizer, tmp_path)
    (kept,) = tmp_path.glob("*.npy")
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]  # nothing half-written left

    calls = []
    encode = tokenizer.encode_array
    monkeypatch.setattr(tokenizer, "encode_array", lambda t: calls.append(1) or encode(t))
    np.testing.assert_array_equal(text._encode_cached(sample, tokenizer, tmp_path), first)
    assert not calls  # read, not computed

    for damaged in (b"", kept.read_bytes()[:-2], kept.read_bytes()[:-1] + b"\xff"):
        before = len(calls)
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(text._encode_cached(sample, tokenizer, tmp_path), first)
        assert len(calls) == before + 1  # noticed, computed and written anew
        np.testing.assert_array_equal(text._encode_cached(sample, tokenizer, tmp_path), first)
        assert len(calls) == before + 1


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, capsys) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    ids = text._encode_cached(b"some text", text.BPETokenizer(), blocked / "cache")
    assert get_tokenizer("bpe").decode(ids) == "some text"
    assert "not kept" in capsys.readouterr().out


# --- the task ------------------------------------------------------------------------------


class Bigram(nn.Module):
    """Logits from a table: what the next token is depends on the last one only."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_training_batch() -> None:
    task = TextTask(seq_len=48)
    inputs, targets = task.training_batch(5, torch.Generator().manual_seed(3))
    assert inputs.shape == targets.shape == (5, 48)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])  # shifted by one
    corpus = text.load_corpus("train")
    for row in torch.cat((inputs, targets[:, -1:]), dim=1):
        assert bytes(row.tolist()) in corpus
    again, _ = task.training_batch(5, torch.Generator().manual_seed(3))
    other, _ = task.training_batch(5, torch.Generator().manual_seed(4))
    assert torch.equal(again, inputs) and not torch.equal(other, inputs)


def test_training_windows_reach_both_ends_and_nothing_else() -> None:
    """A window may start anywhere from 0 to n - seq_len - 1, so that its last target exists."""
    moby = TextTask(seq_len=2**20, parts=("moby_dick",))
    n = len(moby.tokens())
    tight = TextTask(seq_len=n - 2, parts=("moby_dick",))  # two places
    firsts = set()
    for seed in range(20):
        inputs, targets = tight.training_batch(1, torch.Generator().manual_seed(seed))
        firsts.add(bytes(inputs[0, :4].tolist()))
        assert targets.shape == (1, n - 2)
    corpus = text.load_corpus("train", "moby_dick")
    assert firsts == {corpus[:4], corpus[1:5]}


def test_parts_restrict_the_text() -> None:
    task = TextTask(seq_len=64, parts=["moby_dick"])
    assert bytes(task.tokens()) == text.load_corpus("train", "moby_dick")
    assert task == TextTask(seq_len=64, parts=("moby_dick",))  # equal settings, equal tasks
    with pytest.raises(ValueError, match="the validation split has 0 tokens, too few"):
        task.evaluate(Bigram(torch.zeros(256, 256)))


def test_evaluate_uniform_and_exact() -> None:
    task = TextTask(seq_len=64, eval_windows=20, eval_batch=8)
    uniform = task.evaluate(Bigram(torch.zeros(256, 256)))
    assert uniform["loss"] == pytest.approx(math.log(256), abs=1e-5)
    assert uniform["bits_per_byte"] == pytest.approx(8, abs=1e-5)

    # Against the definition, written out with numpy for each window on its own.
    table = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    log_p = torch.log_softmax(table.double(), -1).numpy()
    stream = np.frombuffer(text.load_corpus("validation"), dtype=np.uint8)
    starts = task.eval_starts()
    assert len(starts) == 20 and starts[0] == 0 and starts[-1] == len(stream) - 65
    assert (np.diff(starts) >= 64).all()
    nats = [-log_p[stream[s : s + 64], stream[s + 1 : s + 65]].mean() for s in starts]
    measured = task.evaluate(Bigram(table))
    assert measured["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(np.mean(nats) / math.log(2), rel=1e-5)
    assert task.evaluate(Bigram(table)) == measured  # the same windows every time
    assert task.evaluate(Bigram(table), split="test") != measured


def test_max_batches_still_spans_the_split() -> None:
    task = TextTask(seq_len=32, eval_windows=40, eval_batch=10)
    seen: list[Tensor] = []

    class Spy(Bigram):
        def forward(self, tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return super().forward(tokens)

    task.evaluate(Spy(torch.zeros(256, 256)), max_batches=1)
    (batch,) = seen
    stream = text.load_corpus("validation")
    places = [stream.find(bytes(row.tolist())) for row in batch]
    assert len(places) == 10
    assert places[0] == 0 and places[-1] > 0.85 * len(stream)
    with pytest.raises(ValueError, match="max_batches=0"):
        task.evaluate(Spy(torch.zeros(256, 256)), max_batches=0)


def test_evaluate_restores_the_mode_and_needs_no_gradient() -> None:
    task = TextTask(seq_len=16, eval_windows=2)

    class Check(Bigram):
        def forward(self, tokens: Tensor) -> Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return super().forward(tokens)

    model = Check(torch.zeros(256, 256))
    for mode in (True, False):
        model.train(mode)
        task.evaluate(model)
        assert model.training is mode

    class Fails(Bigram):
        def forward(self, tokens: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    broken = Fails(torch.zeros(256, 256))
    with pytest.raises(RuntimeError, match="out of memory"):
        task.evaluate(broken)
    assert broken.training


def test_bpe_task_counts_bytes_not_tokens(tmp_path: Path, monkeypatch) -> None:
    """Uniform over 4096 ids is 12 bits a token, and each token stands for several bytes."""
    monkeypatch.setenv("DIFFBOOK_CACHE", str(tmp_path))
    task = TextTask(seq_len=64, tokenizer="bpe", parts=("king_james_bible",), eval_windows=16)

    class Uniform(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 4096)

    measured = task.evaluate(Uniform())
    stream = text.load_corpus("validation", "king_james_bible").decode()
    ids = get_tokenizer("bpe").encode_array(stream)
    windows = [ids[start + 1 : start + 65] for start in task.eval_starts()]
    n_bytes = sum(len(get_tokenizer("bpe").decode(window)) for window in windows)  # all ASCII
    assert measured["loss"] == pytest.approx(math.log(4096), abs=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(12 * 16 * 64 / n_bytes, rel=1e-6)
    assert list(tmp_path.glob("ids-*.npy"))


def test_bits_per_byte_is_far_from_uniform_for_a_fitted_bigram() -> None:
    """The bigram table of the train split, scored on validation: English is about 3.5 bits."""
    task = TextTask(seq_len=128, eval_windows=64, parts=("austen", "moby_dick"))
    stream = task.tokens("train").astype(np.int64)
    counts = np.bincount(stream[:-1] * 256 + stream[1:], minlength=65536).reshape(256, 256) + 0.01
    table = torch.from_numpy(np.log(counts / counts.sum(1, keepdims=True))).float()
    on_train = task.evaluate(Bigram(table), split="train")["bits_per_byte"]
    held_out = task.evaluate(Bigram(table))["bits_per_byte"]
    assert 3.0 < on_train < 4.0
    assert held_out == pytest.approx(on_train, abs=0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 0}, "seq_len=0: give at least 1"),
        ({"eval_windows": -1}, "eval_windows=-1"),
        ({"tokenizer": "words"}, "tokenizer='words'"),
        ({"parts": ("homer",)}, "'homer' is not in the corpus"),
        ({"parts": ("austen",), "hub": "owner/name"}, "give hub or parts, not both"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTask(**settings)


def test_too_short_for_the_window() -> None:
    with pytest.raises(ValueError, match=r"train split has \d+ tokens, too few .*seq_len=2000000"):
        TextTask(seq_len=2_000_000, parts=("moby_dick",)).training_batch(1, torch.Generator())


def test_import_is_light() -> None:
    """Neither the tokenizers library nor any text is loaded by importing or building a task."""
    code = (
        "import sys; from diffbook.tasks import text; text.TextTask(); "
        "assert not {'tokenizers', 'datasets', 'transformers'} & set(sys.modules); "
        "assert text._part_text.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=text.DATA.parent.parent)


# --- data sets of the hub ------------------------------------------------------------------


def test_hub_without_the_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"hub='owner/name' needs .*pip install datasets"):
        TextTask(hub="owner/name").training_batch(1, torch.Generator())


def test_hub_split_depends_on_the_text_alone() -> None:
    kinds = [text._hub_split(f"document {n}") for n in range(4000)]
    shares = {split: kinds.count(split) / 4000 for split in text.SPLITS}
    assert shares["train"] == pytest.approx(0.9, abs=0.02)
    assert shares["validation"] == pytest.approx(0.05, abs=0.015)
    assert kinds == [text._hub_split(f"document {n}") for n in range(4000)]


needs_datasets = pytest.mark.skipif(not HAVE_DATASETS, reason="`datasets` (extra hub) is missing")


def _folder(path: Path, **splits: list[dict]) -> str:
    path.mkdir()
    for split, rows in splits.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@needs_datasets
@pytest.mark.usefixtures("offline")
def test_hub_without_splits_of_its_own(tmp_path: Path) -> None:
    rows = [{"body": f"Document {n}: ünïcode and more words. " * 5, "n": n} for n in range(300)]
    hub = _folder(tmp_path / "set", train=rows)
    task = TextTask(seq_len=32, hub=hub, hub_column="body", eval_windows=4)
    streams = {split: bytes(task.tokens(split)).decode() for split in text.SPLITS}
    for row in rows:  # each document in exactly one split, the one its hash says
        where = [split for split in text.SPLITS if row["body"].strip() + "\n\n" in streams[split]]
        assert where == [text._hub_split(row["body"])]
    inputs, _ = task.training_batch(2, torch.Generator().manual_seed(0))
    assert bytes(inputs[0].tolist()).decode("utf-8", "ignore") in streams["train"]
    assert task.evaluate(Bigram(torch.zeros(256, 256)))["bits_per_byte"] == pytest.approx(8)

    small = TextTask(seq_len=32, hub=hub, hub_column="body", hub_bytes=2000)
    read = sum(len(text_) for text_ in text._hub_corpus(hub, None, "body", None, 2000).values())
    assert len(small.tokens()) < read < 2500


@needs_datasets
@pytest.mark.usefixtures("offline")
def test_hub_with_a_validation_split(tmp_path: Path) -> None:
    rows = [{"text": f"Train document {n}. " * 4} for n in range(100)]
    held = [{"text": f"Held-out document {n}. " * 4} for n in range(20)]
    task = TextTask(seq_len=16, hub=_folder(tmp_path / "set", train=rows, validation=held))
    assert b"Train" not in bytes(task.tokens("validation"))
    assert bytes(task.tokens("validation")).count(b"\n\n") == 20
    assert b"Held-out" not in bytes(task.tokens("train"))
    # The test split is carved from train; what would be validation by its hash stays in train.
    n_test = bytes(task.tokens("test")).count(b"\n\n")
    assert n_test == sum(text._hub_split(row["text"]) == "test" for row in rows)
    assert bytes(task.tokens("train")).count(b"\n\n") == 100 - n_test


@needs_datasets
@pytest.mark.usefixtures("offline")
def test_hub_faults(tmp_path: Path) -> None:
    rows = [{"text": f"short {n}", "n": n} for n in range(30)]
    hub = _folder(tmp_path / "set", train=rows)
    empty = _folder(tmp_path / "empty", train=[{"text": "  "}, {"text": ""}])
    for settings, message in (
        ({"hub": hub, "hub_column": "content"}, "hub_column='content'.* choose from text, n"),
        ({"hub": hub, "hub_column": "n"}, "hub_column='n' of .* holds int, not text"),
        ({"hub": hub, "hub_split": "extra"}, "hub_split='extra'.* choose from train"),
        ({"hub": hub, "seq_len": 5000}, "too few for a window of seq_len=5000"),
        ({"hub": empty}, "no text in column 'text'"),
        ({"hub": str(tmp_path / "nowhere")}, "cannot be loaded.*owner/name"),
    ):
        with pytest.raises(ValueError, match=message):
            TextTask(**settings).training_batch(1, torch.Generator())


# --- the build script ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def build():
    path = text.DATA.parent.parent / "scripts" / "build_corpus.py"
    if not path.exists():
        pytest.skip("scripts/ is not installed with the package")
    spec = importlib.util.spec_from_file_location("build_corpus", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_corpus"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["build_corpus"]


def test_tidy(build) -> None:
    raw = "“Curly”\u00a0‘quotes’ — a\u2013b\r\nnext \t line   \n\n\n\ncafe\u0301\n"
    assert build.tidy(raw) == "\"Curly\" 'quotes' -- a-b\nnext line\n\ncafé"
    with pytest.raises(ValueError, match=r"control character '\\x02'"):
        build.tidy("4 1\x02 per cent")


def test_unwrap_joins_prose_and_keeps_verse(build) -> None:
    words = ("the quick brown fox jumps over a lazy dog " * 12).split()
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) + 1 > 60:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    prose = "\n".join([*lines, line])
    verse = "Tiger, tiger, burning bright\nIn the forests of the night"
    assert build.unwrap(f"{prose}\n\n{verse}") == f"{' '.join(words)}\n\n{verse}"


def test_splits_of_the_script_are_those_of_the_manifest(build) -> None:
    for part in build.PARTS:
        for index, document in enumerate(text.load_manifest()[part.key]["documents"]):
            assert part.split(index, document["name"]) == document["split"], document["name"]


def test_check_finds_a_difference(build, tmp_path: Path) -> None:
    shutil.copy(CORPUS / "manifest.json", tmp_path)
    manifest = json.loads((CORPUS / "manifest.json").read_text(encoding="utf-8"))
    assert build.dump(manifest) == (CORPUS / "manifest.json").read_text(encoding="utf-8")
    assert build.check(tmp_path, manifest) == []
    manifest["parts"]["austen"]["sha256"] = "0" * 64
    assert build.check(tmp_path, manifest) == ["austen: sha256 differs"]


def test_r_reader(build) -> None:
    """A serialisation written by hand after R's manual: list(a = c("x", "é"), 7L)."""

    def pack(*numbers: int) -> bytes:
        return b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)

    def string(value: str, flags: int = 0) -> bytes:
        data = value.encode("latin1" if flags & (4 << 12) else "utf-8")
        return pack(9 | flags, len(data)) + data

    vector = pack(16, 2) + string("x") + string("é", 4 << 12)
    names = pack(2 | 0x400) + pack(1) + string("names") + pack(16, 2) + string("a") + string("")
    body = pack(19 | 0x200, 2) + vector + pack(13, 1, 7) + names + pack(254)
    stream = b"X\n" + pack(2, 0x40201, 0x20300) + body
    assert build.RSerialisation(stream).read() == ([["x", "é"], [7]], {"names": ["a", ""]})
    with pytest.raises(ValueError, match="not an R serialisation"):
        build.RSerialisation(b"RDX3\n").read()


def test_bpe_training_is_reproducible(build, tmp_path: Path, monkeypatch) -> None:
    """On one small part: the same text gives the same file, and a file that can be used."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", os.environ.get("TOKENIZERS_PARALLELISM", "false"))
    documents = text.load_documents("test", "shakespeare")
    monkeypatch.setattr(text, "load_documents", lambda split: documents)
    for name in ("one.json", "two.json"):
        build.train_bpe(tmp_path / name, vocab_size=400)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    tokenizer = get_tokenizer(str(tmp_path / "one.json"))
    assert tokenizer.decode(tokenizer.encode("O brave new world 123")) == "O brave new world 123"
