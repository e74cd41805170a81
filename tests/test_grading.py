"""The grader: every hand-in gets what it deserves and a clear report, whatever it does."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import assignments
import attacks
import mutants_a1
import mutants_a2
import numpy as np
import pytest
import torch
from assignments import FOLDER
from attacks import ATTACKS, FILES, FULL, MODEL

from diffbook import check
from diffbook.check import Unknown
from diffbook.cli import main
from diffbook.grade import batch as batch_module
from diffbook.grade import box, bundle, marking, report, wire
from diffbook.grade.batch import grade_folder, read_roster
from diffbook.grade.box import Limits
from diffbook.grade.bundle import Bundle
from diffbook.grade.marking import Result, TaskResult, names_in
from diffbook.grade.session import Nursery

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = FOLDER / "bundles" / "A2.json"
linux = pytest.mark.skipif(sys.platform != "linux", reason="boxes are made by Linux")


def busy() -> float:
    """How much slower than alone this process runs just now: other work may share the cores."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return min(10.0, max(1.0, (time.monotonic() - wall) / 0.2))


@cache
def limits() -> Limits:
    slack = busy()
    return Limits(cell=1, cells=6 * slack, call=2 * slack, total=40 * slack, memory=1 << 30)


def a2(**changes: object) -> Bundle:
    loaded = bundle.load(FOLDER / "bundles" / "A2.json")
    return replace(loaded, **{"limits": limits(), "secret": "of the tests"} | changes)


def hand_in(folder: Path, name: str, code: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-A2.py").write_text(code, encoding="utf-8")


# ---------------------------------------------------------------- one batch of them all


class Batch(NamedTuple):
    results: dict[str, Result]
    folder: Path
    out: Path
    seconds: float
    chosen: Bundle
    visitors: list[object]
    survivors: list[str]


NETWORK = """\
import socket
for address in (("127.0.0.1", PORT), ("10.0.0.1", 80), ("::1", PORT)):
    try:
        socket.create_connection(address, timeout=0.2).send(b"hello")
        print("CONNECTED", address)
    except OSError as error:
        print("no network")
"""


def boxed_processes() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and box.FIRST_UID <= entry.stat().st_uid < box.FIRST_UID + 9:
                found.append((entry / "cmdline").read_text()[:80])
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all tests that need none of their own: it takes seconds to import torch."""
    with Nursery() as started:
        if started.levels[0] != "namespaces":
            pytest.skip(f"no namespaces here: {started.levels}")
        yield started


@pytest.fixture(scope="module")
def batch(tmp_path_factory, nursery) -> Batch:
    """All mutants, right answers, attacks and broken files in one folder, graded once."""
    home = tmp_path_factory.mktemp("batch")
    folder = home / "hand-ins"
    for name, mutant in mutants_a2.WRONG.items():
        hand_in(folder, f"wrong {name}", mutants_a2.changed(MODEL, mutant.changes))
    for name, changes in mutants_a2.RIGHT.items():
        hand_in(folder, f"right {name}", mutants_a2.changed(MODEL, changes))
    for name, attack in ATTACKS.items():
        hand_in(folder, f"attack {name}", attack.code)
    for name, (data, _, _) in FILES.items():
        (folder / f"file {name}").write_bytes(data)
    (folder / "link.ipynb").symlink_to(FOLDER / "bundles" / "A2.json")
    (folder / "link to a right one.py").symlink_to(folder / "right model-A2.py")
    (folder / "folder.ipynb").mkdir()
    os.mkfifo(folder / "pipe.ipynb")
    (folder / "scores.csv-A2.py").write_text(MODEL)  # the name of the table
    (folder / os.fsdecode(b"no text \xff-A2.py")).write_text(MODEL)
    shutil.copy(FOLDER / "student" / "A2.ipynb", folder / "untouched.ipynb")
    shutil.copy(FOLDER / "instructor" / "A2.ipynb", folder / "instructor-A2.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        hand_in(folder, "network", attacks.before(NETWORK.replace("PORT", str(port))))
        chosen, start = a2(), time.monotonic()
        results = grade_folder(folder, chosen, home / "results", jobs=3, progress=False,
                               nursery=nursery)
        seconds = time.monotonic() - start
        server.settimeout(0.01)
        try:
            visitors: list[object] = [server.accept()]
        except TimeoutError:
            visitors = []
    found = {result.student: result for result in results}
    assert len(found) == len(results)
    return Batch(found, folder, home / "results", seconds, chosen, visitors, boxed_processes())


def levels() -> list[str]:
    command = [sys.executable, "-c", "from diffbook.grade import box; print(*box.levels_here())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def told(batch: Batch, student: str) -> str:
    result = batch.results[student]
    [page] = [path for path in batch.out.glob("*/report.md")
              if f"file: `{result.file}`" in path.read_text(encoding="utf-8")]
    return page.read_text(encoding="utf-8")


@linux
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_get_what_they_deserve(batch, name):
    attack, result = ATTACKS[name], batch.results[f"attack {name}"]
    page = told(batch, f"attack {name}")
    assert result.points == attack.points, page
    assert any(words in page for words in attack.says.split("|")), page
    assert bool(result.look) == attack.look, result.look
    assert "<script" not in page and "\x1b" not in page


@linux
@pytest.mark.parametrize("name", FILES)
def test_files_of_all_kinds(batch, name):
    _, points, says = FILES[name]
    student = f"file {name}".rpartition(".")[0]
    assert batch.results[student].points == points, told(batch, student)
    assert says in told(batch, student)


@linux
@pytest.mark.parametrize("name", mutants_a2.WRONG)
def test_wrong_hand_ins_lose_what_they_should(batch, name):
    mutant, result = mutants_a2.WRONG[name], batch.results[f"wrong {name}"]
    lost = {task.id: task.of - task.points for task in result.tasks if task.points < task.of}
    assert lost == mutant.lost, told(batch, f"wrong {name}")
    assert {m for task in result.tasks for m in task.mistakes} == mutant.mistakes
    assert mutant.says in told(batch, f"wrong {name}")
    assert result.look == []


@linux
def test_right_hand_ins_get_all(batch):
    for name in [*(f"right {name}" for name in mutants_a2.RIGHT), "instructor"]:
        result = batch.results[name]
        assert result.points == result.of == FULL, told(batch, name)
        assert result.notes == [] and result.look == []
        assert all(task.messages == [] for task in result.tasks)


@linux
def test_odd_names_are_graded(batch):
    assert batch.results["scores.csv"].points == batch.results["no text ?"].points == FULL
    assert (batch.out / "scores.csv").is_file() and (batch.out / "scores.csv-2").is_dir()


@linux
def test_nothing_done_is_no_point(batch):
    result = batch.results["untouched"]
    assert result.points == 0 and result.notes == []
    assert all("no answer yet" in task.messages[0] for task in result.tasks)


@linux
def test_what_is_no_plain_file_is_not_opened(batch):
    for name in ("link", "link to a right one"):
        assert batch.results[name].points == 0 and "it is a link" in batch.results[name].notes[0]
    assert "no plain file" in batch.results["pipe"].notes[0]
    assert "folder" not in batch.results


@linux
def test_the_batch_is_large(batch):
    """How long it takes on a machine, `python scripts/assignments.py bench` tells."""
    assert len(batch.results) >= 100
    kinds = [name.split()[0] for name in batch.results]
    assert min(kinds.count("wrong"), kinds.count("attack")) >= 40 and kinds.count("right") >= 5
    print(f"{len(batch.results)} hand-ins in {batch.seconds:.0f} s")


@linux
def test_nobody_got_out(batch):
    assert batch.visitors == [], "a hand-in reached the network"
    assert "CONNECTED" not in told(batch, "network")
    assert batch.results["network"].points == FULL
    assert batch.survivors == [], "processes of hand-ins outlived the grading"
    assert not Path("/tmp/pickled").exists()
    assert "diffbook-grade" not in Path("/proc/mounts").read_text()
    assert not list(Path("/tmp").glob("results.json"))
    for name in ("becomes root", "a namespace inside"):
        assert "GOT IN" not in told(batch, f"attack {name}")


@linux
def test_reports_of_a_batch(batch):
    with (batch.out / "scores.csv").open(encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(batch.results)
    row = rows["wrong scale by 2d"]
    assert (row["points"], row["of"], row["A2.1"], row["mistakes"]) == ("24", "25", "3", "scale-2d")
    for result in batch.results.values():
        assert result.points == pytest.approx(sum(task.points for task in result.tasks))
        assert [task.id for task in result.tasks] == [task.id for task in check.tasks("A2")]
        assert all(0 <= task.points <= task.of for task in result.tasks)
    page = told(batch, "wrong scale by 2d")
    assert "**24 of 25 points** by the tests. In your own words: 5 more, by a person." in page
    assert "| A2.1 The causal softmax map | 3 of 4 | The scores are divided by √(2d)." in page
    assert "A2.1" in report.summary(list(batch.results.values()), batch.chosen)


@linux
def test_gradescope_reads_a_result(batch):
    result = batch.results["wrong plus"]
    plain = report.gradescope(result, batch.chosen)
    assert plain["score"] == result.points == sum(test["score"] for test in plain["tests"])
    assert sum(test["max_score"] for test in plain["tests"]) == FULL
    assert {test["status"] for test in plain["tests"]} == {"passed", "failed"}
    assert plain["stdout_visibility"] == "hidden"
    for path in batch.out.glob("*/gradescope.json"):
        json.loads(path.read_text(encoding="utf-8"))


@linux
def test_hidden_inputs_are_not_shown_to_students(batch, tmp_path, nursery):
    """What is printed while the tests call, is counted but not reported."""
    code = attacks.after("good = softmax_map\ndef softmax_map(q, k):\n"
                         "    print('SECRET INPUT', q)\n    return good(q, k)\nprint('mine')\n")
    hand_in(tmp_path / "in", "spy", code)
    [result] = grade_folder(tmp_path / "in", batch.chosen, tmp_path / "out", progress=False,
                            nursery=nursery)
    assert result.points == FULL
    assert "mine" in result.output and "SECRET INPUT" not in result.output
    assert "SECRET INPUT" not in (tmp_path / "out" / "spy" / "report.md").read_text()


@linux
def test_finished_ones_are_kept_and_changed_ones_graded_again(batch, nursery):
    """Run again with few of the folder's files, one of them changed."""
    for path in batch.folder.iterdir():
        if not path.name.startswith("right"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    changed = batch.folder / "right sdpa-A2.py"
    changed.write_text(changed.read_text().replace("is_causal=True, scale=q", "scale=q", 1))
    (batch.out / "right_loops" / "results.json").write_text("{half a fi")
    before = {r.student: r.seconds for r in batch.results.values()}
    results = grade_folder(batch.folder, batch.chosen, batch.out, progress=False,
                           nursery=nursery)
    points = {result.student: result.points for result in results}
    assert points == {f"right {name}": FULL for name in mutants_a2.RIGHT} | {
        "right sdpa": FULL - 2}
    same = {r.student for r in results if before[r.student] == r.seconds}
    assert same >= {"right model", "right einsum", "right by hand"}
    other = replace(batch.chosen, secret="another")
    assert other.digest != batch.chosen.digest
    key = json.loads((batch.out / "right_model" / "results.json").read_text())["key"]
    assert report.load(batch.out / "right_model" / "results.json", key) is not None
    assert report.load(batch.out / "right_model" / "results.json", "other") is None


# ---------------------------------------------------------------- A1, with personal numbers


@linux
def test_a1_with_personal_numbers(tmp_path, nursery):
    """Each file is handed in under its name; the numbers are that student's."""
    model = mutants_a2.solution("A1")
    folder = tmp_path / "in"
    folder.mkdir()
    roster = tmp_path / "roster.csv"
    lines = ["file,student"]
    for kind, entries in (("right", mutants_a1.RIGHT),
                          ("wrong", {k: m.changes for k, m in mutants_a1.WRONG.items()})):
        for number, changes in enumerate(entries.values()):
            (folder / f"{kind}{number}.py").write_text(mutants_a2.changed(model, changes))
            lines.append(f"{kind}{number}.py,solution")
    (folder / "Copied-A1.py").write_text(model)  # a copy of somebody else's numbers
    roster.write_text("\n".join(lines))
    chosen = replace(bundle.load(FOLDER / "bundles" / "A1.json"), limits=limits())
    results = grade_folder(folder, chosen, tmp_path / "out", roster=read_roster(roster),
                           progress=False, nursery=nursery)
    by_file = {result.file: result for result in results}
    for number in range(len(mutants_a1.RIGHT)):
        assert by_file[f"right{number}.py"].points == 20, by_file[f"right{number}.py"]
        assert all("which one counts?" in why for why in by_file[f"right{number}.py"].look)
    for number, mutant in enumerate(mutants_a1.WRONG.values()):
        result = by_file[f"wrong{number}.py"]
        lost = {task.id: task.of - task.points for task in result.tasks if task.points < task.of}
        assert lost == mutant.lost
        assert {m for task in result.tasks for m in task.mistakes} == mutant.mistakes
    copied = by_file["Copied-A1.py"]
    assert copied.student == "Copied"
    assert {task.id for task in copied.tasks if task.points < task.of} == {"A1.1", "A1.4"}
    assert "STUDENT = 'solution', it was handed in as 'Copied'" in copied.look[0]


# ---------------------------------------------------------------- other kinds of boxes


@linux
def test_a_box_made_without_being_root(tmp_path, monkeypatch):
    """The same box by user namespaces, as an ordinary user would get it."""
    monkeypatch.setenv("DIFFBOOK_BOX_AS_USER", "1")
    for name in ("search", "daemons", "os._exit in a call", "becomes root", "memory",
                 "a namespace inside"):
        hand_in(tmp_path / "in", name, ATTACKS[name].code)
    hand_in(tmp_path / "in", "network", attacks.before(NETWORK.replace("PORT", "9")))
    if "namespaces" not in levels():
        pytest.skip("this kernel lets no user make namespaces")
    results = grade_folder(tmp_path / "in", a2(), tmp_path / "out", level="namespaces",
                           progress=False)
    for result in results:
        if result.student == "network":
            assert result.points == FULL and "CONNECTED" not in result.output
        else:
            assert result.points == ATTACKS[result.student].points, result
        assert "GOT IN" not in result.output


@linux
def test_limits_alone_hold_what_they_promise(tmp_path):
    """The weakest level: it has to be asked for, says so, and still survives."""
    names = ("endless cell", "daemons", "threads", "os._exit in a cell", "flood", "always equal",
             "huge answer")
    for name in names:
        hand_in(tmp_path / "in", name, ATTACKS[name].code)
    said: list[str] = []
    results = grade_folder(tmp_path / "in", a2(), tmp_path / "out", level="limits",
                           say=said.append, progress=False)
    assert "can read your files" in said[0]
    for result in results:
        assert result.points == ATTACKS[result.student].points, result
        assert result.level == "limits"


@pytest.fixture(scope="module")
def others_python(tmp_path_factory) -> Iterator[str]:
    """A Python that another user can read: one in the superuser's home he cannot."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    if "user" in levels():
        yield sys.executable
        return
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    if not system.exists():
        pytest.skip("no Python here that another user can read")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        home = Path(name) / "env"
        subprocess.run([system, "-m", "venv", "--without-pip", home], check=True)
        [site] = home.glob("lib/python*/site-packages")
        [ours] = [path for path in map(Path, sys.path) if (path / "torch").is_dir()]
        (site / "ours.pth").write_text(f"{ours}\n")
        yield str(home / "bin" / "python")


@linux
def test_another_user_alone(tmp_path, others_python):
    """For containers that forbid namespaces: nobody is ended but the box itself, nobody is left,
    and what this level does not promise is said."""
    names = ("daemons", "os._exit in a cell", "becomes root", "kills everybody", "fork bomb",
             "threads", "a namespace inside")
    for name in names:
        hand_in(tmp_path / "in", name, ATTACKS[name].code)
    (tmp_path / "A2.json").write_text(a2().text())
    done = subprocess.run(
        [others_python, "-m", "diffbook", "grade", tmp_path / "in", "--bundle",
         tmp_path / "A2.json", "--out", tmp_path / "out", "--isolation", "user", "--quiet"],
        cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "chmod 700" in done.stdout and "network" in done.stdout
    for name in names:
        path = tmp_path / "out" / re.sub(r"[^\w.@-]+", "_", name) / "results.json"
        plain = json.loads(path.read_text(encoding="utf-8"))
        assert plain["points"] == ATTACKS[name].points, plain
        assert plain["level"] == "user" and "GOT IN" not in plain["output"]
    assert boxed_processes() == []


def test_the_level_is_chosen_or_refused():
    said: list[str] = []
    assert batch_module._level(None, ["namespaces", "limits"], said.append) == "namespaces"
    assert batch_module._level(None, ["user", "limits"], said.append) == "user"
    assert len(said) == 1 and "container without network" in said[0]
    with pytest.raises(ValueError, match="say --isolation limits if you trust everybody"):
        batch_module._level(None, ["limits"], said.append)
    with pytest.raises(ValueError, match="'namespaces' is not possible here, user and limits are"):
        batch_module._level("namespaces", ["user", "limits"], said.append)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_one_sentence_says_so(tmp_path, platform):
    """Everything imports there, and the command ends with a message (the system is only played)."""
    hand_in(tmp_path / "in", "ada", "x = 1")
    code = f"""\
import sys
import assignments, numpy, torch, tqdm  # other people's code first, as it is made for this system
for name in [n for n in sys.modules if n.startswith("diffbook")]: del sys.modules[name]
sys.platform = {platform!r}
sys.modules["resource"] = sys.modules["fcntl"] = None  # Windows has neither
import diffbook.grade.batch, diffbook.grade.box
from diffbook.cli import main
sys.exit(main(["grade", {str(tmp_path / "in")!r}, "--bundle", {str(BUNDLE)!r},
               "--out", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Linux only" in done.stderr and "WSL 2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_nursery_knows_no_answers():
    """What boxes are copies of has neither the judgement nor the model in its memory."""
    code = ("import sys, diffbook.grade.nursery as n; n._warm_up(); "
            "print(*sorted(m for m in sys.modules if m.startswith('diffbook')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=120, check=True)
    known = set(done.stdout.split())
    assert known == {"diffbook", "diffbook.check", "diffbook.check.core", "diffbook.check.personal",
                     "diffbook.grade", "diffbook.grade.box", "diffbook.grade.child",
                     "diffbook.grade.nursery", "diffbook.grade.wire"}


def test_what_hand_ins_may_import(tmp_path):
    bundle.lay_out_packages(tmp_path / "p", a2())
    there = {path.relative_to(tmp_path / "p" / "diffbook").as_posix()
             for path in (tmp_path / "p" / "diffbook").rglob("*.py")}
    assert {"__init__.py", "check/__init__.py", "check/personal.py", "show/style.py"} <= there
    assert not {name for name in there if name.startswith(("grade", "cli"))}
    assert {n for n in there if n.startswith("check/")} == {"check/__init__.py",
                                                            "check/personal.py"}
    stub = (tmp_path / "p" / "diffbook" / "attention.py").read_text()
    assert stub.startswith('"""') and "softmax" not in stub
    with pytest.raises(ImportError, match=r"diffbook.attention is not available while A2"):
        exec(stub, {})
    assert (tmp_path / "p" / "transformers.py").read_text().count("ImportError") == 1


# ---------------------------------------------------------------- what passes the wire


@pytest.mark.parametrize("value", [
    None, True, 0, -(2**63) + 1, 1.5, "λ", [], [1, [2, {"a": None}]], {"a": {"b": 1.0}},
    {"": 1}, [float("inf"), -float("inf")],
])
def test_plain_values_come_back(value):
    frame = wire.encode(value)
    size, extra = struct.unpack("!IQ", frame[:12])
    assert len(frame) == 12 + size + extra
    assert wire.decode(frame[12 : 12 + size], frame[12 + size :]) == value


@pytest.mark.parametrize("value", [
    torch.randn(2, 3), torch.arange(4), torch.tensor(True), torch.zeros(0, 3),
    torch.randn(4, dtype=torch.float64), torch.randn(3, 4).T, torch.randn(2).half(),
    np.arange(6).reshape(2, 3), np.float32(3.5), np.array(2.0), torch.nn.Parameter(torch.ones(2)),
])
def test_arrays_come_back(value):
    frame = wire.encode({"x": value})
    size = struct.unpack("!IQ", frame[:12])[0]
    back = wire.decode(frame[12 : 12 + size], frame[12 + size :])["x"]
    assert isinstance(back, torch.Tensor) == isinstance(value, torch.Tensor)
    assert np.array_equal(np.asarray(back), np.asarray(torch.as_tensor(value).detach()))
    assert tuple(np.shape(back)) == tuple(np.shape(value.detach() if isinstance(
        value, torch.nn.Parameter) else value))


@pytest.mark.parametrize("value", [
    object(), lambda: 0, {1, 2}, b"bytes", 2**63, 1j, np.array(["a"]), np.array([1j]),
    torch.randn(2).to(torch.complex64), np.array([object()]), type("Float", (float,), {})(1.0),
    type("List", (list,), {})([1]), np.ma.masked_array([1.0]), torch.Tensor,
])
def test_what_is_no_plain_value_is_only_named(value):
    frame = wire.encode([value])
    size = struct.unpack("!IQ", frame[:12])[0]
    [back] = wire.decode(frame[12 : 12 + size], frame[12 + size :])
    assert isinstance(back, Unknown) and 0 < len(back.type_name) <= 60


def test_what_is_too_large_or_too_deep_is_not_sent():
    with pytest.raises(wire.WireError, match="too large"):
        wire.encode(torch.zeros(9_000_000))
    with pytest.raises(wire.WireError, match="too large"):
        wire.encode("x" * 2_000_000)
    loop: list = []
    loop.append(loop)
    frame = wire.encode(loop)
    assert b"deeply nested" in frame


def test_noise_on_the_wire_is_an_error_and_nothing_else():
    rng = random.Random(0)
    good = wire.encode({"token": "t", "value": torch.ones(2, 2), "list": [1, 2.0, None, "x"]})
    heads = [b"", b"[", b"NaN", b"1" * 5000, b'{"tensor": "float32", "shape": [1000000000000]}',
             b'{"tensor": "float32", "shape": [-1]}', b'{"tensor": "object", "shape": [1]}',
             b'{"tensor": "float32", "shape": [1.5]}', b'{"dict": 3}', b'{"dict": [[1]]}',
             b'{"array": "float32", "shape": "1"}', b'{"float": "one"}', b"[" * 100_000,
             b'{"tensor": "float32", "shape": [[1]]}', b'{"tensor": {}, "shape": []}', b'{}',
             json.dumps([0] * 30_000).encode(), b"\xff\xfe", b'{"number": "float64", "shape": []}']
    for head in heads:
        try:
            value = wire.decode(head, b"")
        except wire.WireError:
            continue
        assert value is None or isinstance(value, (int, float, str))
    refused = 0
    for _ in range(2000):
        frame = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            frame[rng.randrange(12, len(frame))] = rng.randrange(256)
        size = struct.unpack("!IQ", frame[:12])[0]
        try:
            wire.decode(bytes(frame[12 : 12 + size]), bytes(frame[12 + size :]))
        except wire.WireError:
            refused += 1
    assert refused > 500


def test_a_reader_waits_no_longer_than_it_should_and_reads_no_more_than_it_may():
    mine, other = socket.socketpair()
    with mine, other:
        start = time.monotonic()
        with pytest.raises(wire.WireTimeout):
            wire.receive(mine, start + 0.2)
        assert 0.15 < time.monotonic() - start < 5
        other.send(struct.pack("!IQ", 2, 2**40) + b"{}")
        with pytest.raises(wire.WireError, match="a message of"):
            wire.receive(mine, time.monotonic() + 1)
        other.send(wire.encode([1])[:5])
        other.close()
        with pytest.raises(wire.WireClosed):
            wire.receive(mine, time.monotonic() + 1)


# ---------------------------------------------------------------- files, tables, commands


def test_names_of_hand_ins(tmp_path):
    for name in ("ada-A2.ipynb", "A2_bob.py", "carl lee A2.ipynb", "d_e_f.ipynb", "A2.ipynb",
                 "eve/A2.ipynb", "eve/.ipynb_checkpoints/A2.ipynb", "notes.txt", "BA21.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    found = {path.relative_to(tmp_path).as_posix(): student
             for path, student in names_in(tmp_path, "A2")}
    assert found == {"ada-A2.ipynb": "ada", "A2_bob.py": "bob", "carl lee A2.ipynb": "carl lee",
                     "d_e_f.ipynb": "d_e_f", "A2.ipynb": "A2", "eve/A2.ipynb": "eve",
                     "BA21.py": "BA21"}


def test_a_roster(tmp_path):
    (tmp_path / "r.csv").write_text("file,student,mail\nx_A2.ipynb,ada,a@b\n")
    assert read_roster(tmp_path / "r.csv") == {"x_A2.ipynb": "ada"}
    (tmp_path / "r.csv").write_text("file,student\nx.py,ada\ny.py\n")
    with pytest.raises(ValueError, match="line 3 has no file or no student"):
        read_roster(tmp_path / "r.csv")
    for text in ("name,mail\n1,2\n", ""):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match="columns file and student"):
            read_roster(tmp_path / "bad.csv")


def test_a_table_holds_no_formulas(tmp_path):
    chosen = a2()
    result = Result("A2", "=cmd|' /C calc'!A0", "+x.py", 0, 25, look=["-1"])
    report.table([result], chosen, tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert row["student"].startswith("'=") and row["file"].startswith("'+")
    assert row["look"].startswith("'-")


def test_a_page_is_no_html():
    task = TaskResult("A2.1", "The map", 0, 4, [], ["<img src=x> | `y`"])
    result = Result("A2", "a`b", "<b>.py", 0, 25, [task], ["<script> ![x](https://example.com/x)"],
                    output="\x1b[2J<i>\n")
    page = report.page(result, a2())
    assert "](https" not in page
    table = page.split("## What it printed")[0].split("\n", 3)[3]
    assert "<img" not in table and "<script" not in table
    assert "\x1b" not in page and "\\| `y`" in page


@pytest.mark.parametrize("text, limit, shown", [
    ("a\nb\tc", 100, "a b c"), ("\x1b[31m\u202e", 100, "?[31m?"), ("x" * 50, 10, "x" * 9 + "…"),
    (None, 9, "None"),
])
def test_what_hand_ins_say_is_cleaned(text, limit, shown):
    assert marking.clean(text, limit) == shown


@linux
def test_an_answer_that_the_judge_stumbles_on_is_for_a_person(tmp_path, monkeypatch, nursery):
    def stumble(*_: object) -> None:
        raise ZeroDivisionError("never thought of that")

    [first, *rest] = check.tasks("A2")
    broken = (replace(first, judge=stumble), *rest)
    monkeypatch.setattr("diffbook.check.a2.TASKS", broken)
    hand_in(tmp_path / "in", "ada", MODEL)
    [result] = grade_folder(tmp_path / "in", a2(), tmp_path / "out", progress=False,
                            nursery=nursery)
    assert result.points == FULL - 4
    assert "a person will look" in result.tasks[0].messages[0]
    assert "ZeroDivisionError" in result.look[0]


def test_bundles_that_are_none(tmp_path):
    for text, words in [
        ("", "is not a grader's bundle"), ("{}", "is not a grader's bundle"),
        (a2().text().replace('"schema": 1', '"schema": 0'), "another version"),
        (a2(hidden="1 / 0").text(), "do not run"),
        (a2(hidden='@hidden("A2.99")\ndef f(rng, student): yield').text(), "does not have"),
    ]:
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            bundle.load(tmp_path / "b.json")
    with pytest.raises(ValueError, match="no such bundle"):
        bundle.load(tmp_path / "nothing.json")


@pytest.mark.parametrize("arguments, words", [
    (["IN"], "--assignment A2, or --bundle"),
    (["IN", "--assignment", "A2", "--bundle", "B"], "and not both"),
    (["IN", "--assignment", "A9", "--bundles", "BUNDLES"], "no such bundle"),
    (["nowhere", "--assignment", "A2", "--bundles", "BUNDLES"], "no such file or folder"),
    (["IN", "--assignment", "A2", "--bundles", "BUNDLES"], "no .ipynb or .py file"),
    (["IN", "--assignment", "A2", "--bundles", "BUNDLES", "--jobs", "0"], "give at least 1"),
])
def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(box, "not_inspectable", lambda: None)
    (tmp_path / "in").mkdir()
    names = {"IN": str(tmp_path / "in"), "BUNDLES": str(FOLDER / "bundles")}
    code = main(["grade", *(names.get(a, a) for a in arguments), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1, error


@linux
def test_what_is_odd_in_a_folder(tmp_path, nursery):
    """Two files of one student, files that are none, and results that a student made himself."""
    folder = tmp_path / "in"
    hand_in(folder / "ada", "x", MODEL)
    hand_in(folder, "ada", "x = 1")
    (folder / "bob.zip").write_bytes(b"PK")
    (folder / "eve").symlink_to("/etc")
    said: list[str] = []
    results = grade_folder(folder, a2(), tmp_path / "out", progress=False, nursery=nursery,
                           say=said.append)
    assert said == ["not graded, as they are no .ipynb or .py files: bob.zip, eve"]
    assert [(r.student, r.file, r.points) for r in results] == [
        ("ada", "x-A2.py", FULL), ("ada", "ada-A2.py", 0)]
    for result, other in zip(results, ("ada-A2.py", "ada/x-A2.py"), strict=True):
        assert result.look == [f"ada handed in 2 files, also {other}: which one counts?"]
    shutil.copytree(tmp_path / "out" / "ada", folder / "results" / "ada")
    for out in (folder, folder / "results"):
        with pytest.raises(ValueError, match="an --out outside of the folder"):
            grade_folder(folder, a2(), out, progress=False, nursery=nursery)
    with pytest.raises(ValueError, match="hand-ins could read it there"):
        bundle.load(Path(sys.prefix) / "A2.json")


@linux
def test_on_gradescope(tmp_path):
    """Its two scripts with its folders elsewhere: a hand-in's marks, and a reason for none."""
    home = tmp_path / "autograder"
    for name in ("source", "submission", "results"):
        (home / name).mkdir(parents=True)
    source = assignments.parse(FOLDER / "A2.py")
    with zipfile.ZipFile(io.BytesIO(assignments.gradescope_zip(source, "mine"))) as archive:
        archive.extractall(home / "source")
    script = (home / "source" / "run_autograder").read_text()
    script = script.replace("/autograder", str(home)).replace(
        "/opt/course/bin/python", sys.executable).replace("cd /\n", f"cd {ROOT}\n")
    (home / "submission_metadata.json").write_text(
        json.dumps({"users": [{"sid": "", "email": "ada@example.com"}]}))
    hand_in(home / "submission", "whatever", mutants_a2.changed(
        MODEL, mutants_a2.WRONG["plus"].changes))
    results = home / "results" / "results.json"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    plain = json.loads(results.read_text())
    assert plain["score"] == FULL - 2 and plain["tests"][1]["status"] == "failed"
    assert "plus 1x" in done.stdout and "1 hand-ins" in done.stdout
    assert (home / "results" / "parts" / "ada" / "report.md").exists()
    results.unlink()
    hand_in(home / "submission", "one more", MODEL)
    subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True)
    plain = json.loads(results.read_text())
    assert plain["score"] == 0 and "--student is for one hand-in, there are 2" in plain["output"]
