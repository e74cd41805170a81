"""What the tests of A3, A4 and A5 share: hand-ins made, marked here, and marked by the grader."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import mutants_a2
from assignments import FOLDER

from diffbook import check
from diffbook.check import core
from diffbook.grade import bundle
from diffbook.grade.batch import grade_folder

Marks = dict[str, tuple[float, list[str], str]]


def namespace(
    name: str, module: ModuleType, changes: list[tuple[str, str]], **given: object
) -> dict:
    """What a notebook with these changes defines, its own calls of check left out."""
    code = mutants_a2.changed(mutants_a2.solution(name), module.BASE + changes)
    space: dict = dict(given)
    for cell in re.sub(r"^check\(.*\)$", "", code, flags=re.M).split("# %%\n"):
        try:
            exec(cell, space)
        except Exception as error:  # a wrong piece may stop a later cell in any way; the others
            # run on, as in the grader, and the judge asserts what is left
            space["stopped"] = error
    return space


def marks(name: str, space: dict, student: str = "solution") -> Marks:
    """{task: (points lost, mistakes, message)} by the rules of the grader, its hidden cases
    included, in this process."""
    chosen = bundle.load(FOLDER / "bundles" / f"{name}.json")
    known: frozenset[str] = frozenset()
    found: Marks = {}
    for task in check.tasks(name):
        lost, mistakes, said = 0.0, [], ""
        for case in chosen.cases(task, student):
            verdict = task.judge(case, task.probe(space[task.name], case.inputs), known)
            if verdict.right:
                continue
            said = said or verdict.message
            price = task.points if case.costs is None else case.costs
            lost += task.costs(set(verdict.mistakes) - known) if verdict.mistakes else price
            known |= set(verdict.mistakes)
            mistakes += verdict.mistakes
            if lost >= task.points:
                break
        found[task.id] = (min(lost, task.points), mistakes, said)
    return found


def lost(found: Marks) -> dict[str, float]:
    return {task: points for task, (points, _, _) in found.items() if points}


def judge_wrong(name: str, mutant: mutants_a2.Mutant, space: dict) -> None:
    """It loses what it should, for the reason it should, and the student's check says it, too."""
    found = marks(name, space)
    assert lost(found) == mutant.lost, found
    assert {m for _, mistakes, _ in found.values() for m in mistakes} == mutant.mistakes, found
    assert any(mutant.says in said for _, _, said in found.values()), found
    said = [check.verdict(task.id, space[task.name], "solution") for task in check.tasks(name)
            if task.id in mutant.lost]
    assert any(not verdict.right and mutant.says in verdict.message for verdict in said), said


def judge_right(name: str, space: dict) -> None:
    """It loses nothing, here and in the student's own check."""
    found = marks(name, space)
    assert lost(found) == {}, found
    for task in check.tasks(name):
        verdict = check.verdict(task.id, space[task.name], "solution")
        assert verdict.right, (task.id, verdict.message)


def mistakes_teach(name: str) -> None:
    for task in check.tasks(name):
        for mistake in task.mistakes:
            assert 40 < len(mistake.says) < 400 and mistake.says.endswith((".", "?")), mistake
            assert 0 < mistake.costs <= task.points


def told_apart(name: str, without: frozenset[str] = frozenset()) -> None:
    """The answer of each mistake alone is known as that mistake and no other."""
    for task in check.tasks(name):
        cases = list(task.cases(core.seed("other", task.id), "solution"))
        for mistake in task.mistakes:
            if mistake.name in without:
                continue
            seen: set[str] = set()
            for case in cases:
                answer = task.reference(*case.inputs.values(), mistakes=frozenset({mistake.name}))
                verdict = task.judge(case, answer, frozenset(seen))
                assert verdict.right or verdict.mistakes, (task.id, mistake.name, verdict)
                seen |= set(verdict.mistakes)
            assert seen == {mistake.name}, (task.id, mistake.name, seen)


def graded(name: str, codes: dict[str, str], home: Path, student: str = "solution") -> dict:
    """{name: result} of the grader itself, in its boxes."""
    folder = home / "in"
    folder.mkdir()
    roster = {}
    for number, code in enumerate(codes.values()):
        (folder / f"work{number}.py").write_text(code, encoding="utf-8")
        roster[f"work{number}.py"] = student
    chosen = bundle.load(FOLDER / "bundles" / f"{name}.json")
    results = grade_folder(folder, chosen, home / "out", roster=roster, jobs=1, progress=False)
    by_file = {result.file: result for result in results}
    return {key: by_file[f"work{number}.py"] for number, key in enumerate(codes)}
