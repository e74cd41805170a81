"""What the grader knows of an assignment and a hand-in does not: the bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffbook
from diffbook import check
from diffbook.check.core import Case, Cases, Task, seed
from diffbook.check.personal import normal
from diffbook.grade.box import Limits, visible

SCHEMA = 1
# Published implementations of what the assignments ask for.
HIDE = ("transformers", "timm", "flash_attn", "diffusers", "x_transformers", "labml_nn")

STUB = '''\
"""Where work is graded, this part of the package is not there."""
raise ImportError(
    "{name} is not available while {assignment} is graded: what you hand in has to be your own"
)
'''
CHECK = '''\
"""Where work is graded, check() says nothing: other inputs decide."""
from diffbook.check.personal import personal


def check(*arguments, **more):
    pass
'''


@dataclass(frozen=True)
class Bundle:
    """An assignment as the grader has it.

    Args:
        assignment: such as "A2".
        title: of the assignment.
        secret: any text. Hidden inputs are drawn from it, the student's id and the task's: with
            another secret, all inputs are others.
        hidden: Python source with further cases, see :meth:`cases`.
        provide: the parts of this package that hand-ins may import, such as ("show",); ("*",) for
            all.
        manual: what a person marks: {"title", "points"}.
        limits: time, memory and so on of one hand-in.
    """

    assignment: str
    title: str
    secret: str
    hidden: str = ""
    provide: tuple[str, ...] = ("show",)
    manual: tuple[dict[str, Any], ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return check.tasks(self.assignment)

    @property
    def points(self) -> float:
        return sum(task.points for task in self.tasks)

    @property
    def digest(self) -> str:
        """Changes with everything that a mark depends on, the code of the judgement included."""
        digest = hashlib.sha256(self.text().encode())
        package = Path(diffbook.__file__).parent
        for path in sorted([*package.glob("check/*.py"), *package.glob("grade/*.py")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def cases(self, task: Task, student: str) -> list[Case]:
        """The inputs of one task for one student: the public kinds with other numbers, and then
        those of the bundle's own functions, marked ``@hidden("A2.1")``."""
        makers: list[Cases] = [task.cases, *_hidden(self.hidden, self.assignment).get(task.id, [])]
        found: list[Case] = []
        for number, maker in enumerate(makers):
            rng = seed(self.secret, normal(student), task.id, number)
            found += maker(rng, student)
        return found

    def text(self) -> str:
        """The bundle's file."""
        plain = {
            "schema": SCHEMA, "assignment": self.assignment, "title": self.title,
            "secret": self.secret, "provide": list(self.provide), "manual": list(self.manual),
            "limits": self.limits.__dict__, "hidden": self.hidden.split("\n"),
        }
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def load(path: Path) -> Bundle:
    """Read a bundle; ValueError says what is wrong with it."""
    if visible(path):
        raise ValueError(
            f"{path}: hand-ins could read it there, as every box shows Python's own folders, /usr "
            "and /opt; keep bundles and solutions elsewhere, such as in your home folder"
        )
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.pop("schema") != SCHEMA:
            raise ValueError("it was made by another version; build it again")
        limits = Limits(**plain.pop("limits"))
        hidden = "\n".join(plain.pop("hidden"))
        bundle = Bundle(
            **{name: plain[name] for name in ("assignment", "title", "secret")}, hidden=hidden,
            provide=tuple(plain["provide"]), manual=tuple(plain["manual"]), limits=limits,
        )
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such bundle; make it with: python scripts/assignments.py build"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a grader's bundle: {error}") from error
    _hidden(bundle.hidden, bundle.assignment)  # an error in it must show before anything is graded
    return bundle


def _hidden(source: str, assignment: str) -> dict[str, list[Cases]]:
    """{task: functions} of a bundle's source. It is the instructor's own code."""
    makers: dict[str, list[Cases]] = {}

    def hidden(task: str) -> Callable[[Cases], Cases]:
        def mark(maker: Cases) -> Cases:
            makers.setdefault(task, []).append(maker)
            return maker

        return mark

    space = {"hidden": hidden, "Case": Case, "np": np, "torch": torch, "Iterable": Iterable,
             "Iterator": Iterator}
    try:
        exec(compile(source, f"<hidden tests of {assignment}>", "exec"), space)
    except Exception as error:
        raise ValueError(f"the hidden tests of {assignment} do not run: {error!r}") from error
    unknown = set(makers) - {task.id for task in check.tasks(assignment)}
    if unknown:
        raise ValueError(f"hidden tests for tasks that {assignment} does not have: {unknown}")
    return makers


def lay_out_packages(folder: Path, bundle: Bundle) -> None:
    """Copy what hand-ins may import of this package to ``folder``; stubs stand for the rest."""
    source = Path(diffbook.__file__).parent
    target = folder / "diffbook"
    target.mkdir(parents=True)
    shutil.copy(source / "__init__.py", target)
    for path in sorted(source.iterdir()):
        name = path.name.removesuffix(".py")
        if name.startswith(("_", ".")) or path.suffix not in ("", ".py"):
            continue
        if name in ("check", "grade", "cli"):
            continue
        if "*" in bundle.provide or name in bundle.provide or name == "data":
            if path.is_dir():
                shutil.copytree(path, target / name,
                                ignore=shutil.ignore_patterns("__pycache__", "corpus"
                                                              if "*" not in bundle.provide else ""))
            else:
                shutil.copy(path, target)
        else:
            stub = STUB.format(name=f"diffbook.{name}", assignment=bundle.assignment)
            (target / f"{name}.py").write_text(stub, encoding="utf-8")
    for name in HIDE:
        stub = STUB.format(name=name, assignment=bundle.assignment)
        (folder / f"{name}.py").write_text(stub, encoding="utf-8")
    (target / "check").mkdir()
    (target / "check" / "__init__.py").write_text(CHECK, encoding="utf-8")
    shutil.copy(source / "check" / "personal.py", target / "check")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
