"""A folder of hand-ins: in parallel, restartable, and no hand-in can end the batch."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import queue
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from diffbook.check.personal import normal
from diffbook.grade import report
from diffbook.grade.bundle import Bundle, lay_out_packages
from diffbook.grade.marking import (
    Result,
    TaskResult,
    Unreadable,
    clean,
    grade,
    left_out,
    names_in,
    read,
)
from diffbook.grade.session import Nursery

WEAK = {
    "user": "no namespaces here: hand-ins run as another user, but with the machine's network, its "
            "readable files and /tmp; use a container without network, and keep bundles and "
            "solutions from other users (chmod 700)",
    "limits": "hand-ins run as your own user: they can read your files, the tests and the "
              "solutions, and end your processes",
}


def read_roster(path: Path) -> dict[str, str]:
    """{file: student} of a CSV table with these two columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    if not rows or not {"file", "student"} <= set(rows[0]):
        raise ValueError(f"{path}: a table with the columns file and student is needed")
    for number, row in enumerate(rows, start=2):
        if not row["file"] or not row["student"]:
            raise ValueError(f"{path}: line {number} has no file or no student")
    return {row["file"]: row["student"] for row in rows}


class HandIn(NamedTuple):
    """A file to be graded."""

    path: Path
    student: str
    slug: str  # name of the folder with its results
    others: tuple[str, ...]  # names of this student's other files


def grade_folder(
    folder: Path, bundle: Bundle, out: Path, *, jobs: int = 2, level: str | None = None,
    roster: dict[str, str] | None = None, student: str = "", again: bool = False,
    say: Callable[[str], None] = print, progress: bool = True, nursery: Nursery | None = None,
) -> list[Result]:
    """Grade all hand-ins under ``folder`` (or one file) and write the results to ``out``.

    Args:
        folder: with .ipynb and .py files, see :func:`diffbook.grade.marking.names_in`.
        bundle: the assignment.
        out: gets STUDENT/report.md, results.json and gradescope.json for each hand-in, and
            scores.csv. What is there of the same work and the same bundle is kept.
        jobs: boxes at the same time.
        level: how strong the box has to be; None: as strong as this machine can, but not "limits".
        roster: {file name: student} where names of files are not ids.
        student: the id, for one file.
        again: grade also what was graded already.
        nursery: one that is there already; None: a new one.

    Raises:
        ValueError: nothing to grade, or the machine cannot make the box that was asked for.
    """
    if sys.platform != "linux":
        raise ValueError(
            "hand-ins are graded on Linux only: its kernel makes the boxes that they run in. Take "
            "a Linux machine, a container, or WSL 2 on Windows; the checks for students and all "
            "else work here, too"
        )
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: give at least 1")
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the results ({out}) would lie among the hand-ins, where students may have put "
            "results of their own making: give an --out outside of the folder"
        )
    found = _find(folder, bundle, roster or {}, student)
    for line in left_out(folder) if folder.is_dir() else ():
        say(line)
    if not found:
        raise ValueError(f"no .ipynb or .py file in {folder}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="diffbook-grade-") as name, contextlib.ExitStack() as s:
        nursery = nursery or s.enter_context(Nursery())
        home = Path(name)
        home.chmod(0o711)  # boxes pass through it, and cannot list it
        level = _level(level, nursery.levels, say)
        packages = home / "packages"
        lay_out_packages(packages, bundle)
        results = _grade_all(found, bundle, out, jobs, level, nursery, home, packages, again,
                             progress)
    report.table(results, bundle, out / "scores.csv")
    return results


def _level(asked: str | None, levels: list[str], say: Callable[[str], None]) -> str:
    if asked is None and levels[0] == "limits":
        raise ValueError(
            "this machine cannot keep a hand-in away from your files and the tests; grade in a "
            "container on Linux, or say --isolation limits if you trust everybody who handed in"
        )
    level = asked or levels[0]
    if level not in levels:
        raise ValueError(f"isolation {level!r} is not possible here, {' and '.join(levels)} are")
    if level in WEAK:
        say(f"isolation {level}: {WEAK[level]}")
    return level


def _find(folder: Path, bundle: Bundle, roster: dict[str, str], student: str) -> list[HandIn]:
    """All hand-ins in order."""
    if folder.is_file():
        base = folder.parent
        pairs = [pair for pair in names_in(base, bundle.assignment) if pair[0] == folder]
    elif folder.is_dir():
        base = folder
        pairs = list(names_in(folder, bundle.assignment))
    else:
        raise ValueError(f"{folder}: no such file or folder")
    if student:
        if len(pairs) != 1:
            raise ValueError(f"--student is for one hand-in, there are {len(pairs)} in {folder}")
        pairs = [(pairs[0][0], student)]
    files: dict[str, list[str]] = {}
    named: list[tuple[Path, str]] = []
    for path, name in pairs:
        relative = path.relative_to(base).as_posix()
        # Names of files may hold anything, even what is no text.
        name = clean(roster.get(relative, roster.get(path.name, name)), 100)
        named.append((path, name))
        files.setdefault(normal(name), []).append(clean(relative, 100))
    found: list[HandIn] = []
    used = {"scores.csv", "scores.csv.part"}
    for path, name in named:
        slug = first = _slug(name)
        number = 1
        while slug.casefold() in used:
            number += 1
            slug = f"{first}-{number}"
        used.add(slug.casefold())
        mine = clean(path.relative_to(base).as_posix(), 100)
        others = tuple(other for other in files[normal(name)] if other != mine)
        found.append(HandIn(path, name, slug, others))
    return found


def _slug(name: str) -> str:
    """A name as a folder's name: no separators, and no longer than file systems allow."""
    plain = re.sub(r"[^\w.@-]+", "_", name).encode()[:120].decode(errors="ignore")
    return plain.strip("._") or "hand-in"


def _grade_all(
    found: list[HandIn], bundle: Bundle, out: Path, jobs: int, level: str, nursery: Nursery,
    home: Path, packages: Path, again: bool, progress: bool,
) -> list[Result]:
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    digest = bundle.digest

    def one(work: HandIn) -> Result:
        student, name, folder = work.student, clean(work.path.name, 200), out / work.slug
        try:
            data = read(work.path)
        except Unreadable as error:
            result = _nothing(bundle, student, name, str(error))
            _write(result, bundle, folder)
            return result
        key = hashlib.sha256(b"\0".join([
            data, digest.encode(), student.encode(), os.fsencode(work.path.name), level.encode(),
            "\0".join(work.others).encode(),
        ])).hexdigest()
        kept = None if again else report.load(folder / "results.json", key)
        if kept is not None:
            return kept
        slot = slots.get()
        try:
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                result = grade(data, name, student, bundle, nursery, level, slot, packages,
                               Path(scratch))
        except Exception as error:  # the batch goes on; the result says that the grader failed
            result = _nothing(bundle, student, name, f"the grader failed: {error!r}"[:400])
            result.look.append("the grader failed, this hand-in is not marked")
        else:
            result.key = key
        finally:
            slots.put(slot)
        if work.others:
            result.look.append(f"{student} handed in {len(work.others) + 1} files, also "
                               f"{', '.join(work.others[:5])}: which one counts?")
        _write(result, bundle, folder)
        return result

    done: dict[str, Result] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(one, work): work.slug for work in found}
        try:
            bar = tqdm(as_completed(futures), total=len(futures), unit="hand-in",
                       desc=f"grading {bundle.assignment}", disable=not progress)
            for future in bar:
                done[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[work.slug] for work in found]


def _nothing(bundle: Bundle, student: str, name: str, why: str) -> Result:
    tasks = [TaskResult(t.id, t.title, 0.0, t.points, [], ["not graded"]) for t in bundle.tasks]
    return Result(bundle.assignment, student, name, 0.0, bundle.points, tasks,
                  [f"Not graded: {why}."], [why])


def _write(result: Result, bundle: Bundle, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report.save(result, folder / "results.json")
    report.write_text(folder / "report.md", report.page(result, bundle))
    text = json.dumps(report.gradescope(result, bundle), indent=1, ensure_ascii=False) + "\n"
    report.write_text(folder / "gradescope.json", text)
