"""What runs inside the box: it executes a hand-in's cells and answers the grader's calls.

Everything in this process belongs to the student. Nothing here is protected, and nothing here
decides: the grader sends inputs, and takes what comes back as plain numbers to compare.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import linecache
import os
import random
import signal
import socket
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from diffbook.grade import wire

MAX_CELLS = 2000
MAX_ERRORS = 50


def live(channel: socket.socket, packages: str) -> None:
    """Serve requests until the grader closes the channel."""
    _settle(packages)
    own = os.getpid()
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    space = module.__dict__
    while True:
        request = wire.receive(channel)
        token = request.pop("token")
        try:
            if request["do"] == "run":
                progress = partial(_begins, channel, token, own)
                answer = _run(request, space, progress)
            else:
                answer = _probe(request, space)
            frame = wire.encode({"token": token} | answer)
        except BaseException as error:  # also exit() and Ctrl-C: the reply says what happened
            frame = wire.encode({"token": token, "error": _describe(error)})
        _send(channel, frame, own)


def _begins(channel: socket.socket, token: str, own: int, cell: int) -> None:
    """Say that a cell begins."""
    _send(channel, wire.encode({"token": token, "cell": cell}), own)


def _send(channel: socket.socket, frame: bytes, own: int) -> None:
    if os.getpid() != own:  # a cell forked, and its child came out here: it has nothing to say
        os._exit(0)
    channel.setblocking(True)
    channel.sendall(frame)


def _settle(packages: str) -> None:
    """A fresh interpreter, as far as the student can see."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [n for n in sys.modules if n == "diffbook" or n.startswith("diffbook.")]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
    sys.path[:] = [packages, *(p for p in sys.path if os.path.isdir(p) and not _holds_package(p))]
    sys.path_importer_cache.clear()
    sys.argv[:] = ["notebook"]
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", buffering=1, encoding="utf-8",
                      errors="backslashreplace", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.stdin = open(os.devnull)


def _holds_package(folder: str) -> bool:
    """A source tree; an installed package is hidden behind the copy in front of it."""
    code = os.path.join(folder, "diffbook", "cli.py")
    return not folder.endswith("-packages") and os.path.isfile(code)


# ---------------------------------------------------------------------------------------------
# Running the cells


def cells_of(kind: str, text: str) -> list[str]:
    """The code cells of a notebook, or of a script in which ``# %%`` begins a cell."""
    if kind == "py":
        cells: list[str] = []
        current: list[str] = []
        code = bool(text.strip()) and not text.startswith("# %%")
        for line in text.split("\n"):
            if line.startswith("# %%"):
                cells += ["\n".join(current)] if code else []
                current, code = [], "[markdown]" not in line and "[md]" not in line
            else:
                current.append(line)
        return [*cells, *(["\n".join(current)] if code else [])]
    notebook = json.loads(text)
    if not isinstance(notebook, dict):
        raise ValueError("it is no object")
    entries = notebook.get("cells")
    if entries is None and isinstance(notebook.get("worksheets"), list):  # notebook format 3
        entries = [cell for sheet in notebook["worksheets"] for cell in sheet.get("cells", [])]
    if not isinstance(entries, list):
        raise ValueError("it has no cells")
    found: list[str] = []
    for cell in entries:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", cell.get("input", ""))
            found.append("".join(source) if isinstance(source, list) else str(source))
    return found


class _Shell:
    """As much of IPython as cells with magics need."""

    def __init__(self, space: dict[str, Any]):
        self.space = space

    def run_line_magic(self, name: str, line: str, *rest: Any) -> Any:
        if name in ("time", "timeit"):
            exec(compile(line, f"<%{name}>", "exec"), self.space)
        elif name != "matplotlib":
            print(f"(%{name} does nothing while work is graded)")
        return None

    def run_cell_magic(self, name: str, line: str, cell: str) -> Any:
        if name in ("time", "timeit", "capture"):
            exec(compile(cell, f"<%%{name}>", "exec"), self.space)
        else:
            print(f"(%%{name} does nothing while work is graded)")
        return None

    def system(self, command: str) -> None:
        print("(commands of the shell do nothing while work is graded)")

    def getoutput(self, command: str, *rest: Any, **more: Any) -> list[str]:
        self.system(command)
        return []


class _TooLong(BaseException):
    """A cell took too long; no ``except Exception`` of the cell catches this."""


def _alarm(*_: Any) -> None:
    raise _TooLong


def _set_alarms(seconds: float) -> None:
    """Raise _TooLong after so many seconds of computing, or three times as many on the clock: on a
    busy machine nobody should lose for the clock's sake. Again each second, because Python drops
    what is raised in a callback. 0: no more."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGPROF, _alarm)
    again = 1.0 if seconds else 0.0
    signal.setitimer(signal.ITIMER_PROF, seconds, again)
    signal.setitimer(signal.ITIMER_REAL, 3 * seconds, again)


def _run(
    request: dict[str, Any], space: dict[str, Any], before: Callable[[int], None]
) -> dict[str, Any]:
    """Execute all cells, on past errors; what went wrong in which.

    ``before`` is told the number of each cell, so that a cell that ends the process is known.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    start = time.monotonic()
    data = request["file"].tobytes()
    utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # some editors on Windows
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    try:
        cells = cells_of(request["kind"], text)[:MAX_CELLS]
    except (ValueError, RecursionError) as error:
        message = str(error).split("\n")[0][:200]
        return {"unreadable": f"the file is no notebook that can be read: {message}"}
    shell = _Shell(space)
    space["get_ipython"] = lambda: shell
    space["display"] = lambda *things, **more: print(*things)
    errors: list[list[Any]] = []
    for number, cell in enumerate(cells, start=1):
        if not cell.strip() or number in request["skip"]:
            continue
        before(number)
        _set_alarms(request["cell_seconds"])
        try:
            code = _python(TransformerManager().transform_cell, cell)
            name = f"<cell {number}>"
            linecache.cache[name] = (len(code), None, code.splitlines(True), name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                compiled = compile(code, name, "exec")
            exec(compiled, space)
        except _TooLong:
            errors.append([number, f"stopped after {request['cell_seconds']:g} s"])
        except BaseException as error:  # exit() must not end the run of the other cells
            errors.append([number, _describe(error)])
        finally:
            _set_alarms(0)
    names = [name for name, thing in space.items() if type(name) is str
             and not name.startswith("_") and not isinstance(thing, types.ModuleType)]
    student = space.get("STUDENT")
    return {
        "errors": errors[:MAX_ERRORS], "names": names[:500], "cells": len(cells),
        "student": student[:100] if type(student) is str else "",
        "seconds": time.monotonic() - start,
    }


def _python(transform: Callable[[str], str], cell: str) -> str:
    """A cell without magics. IPython's own mistakes on broken cells are left to the compiler."""
    try:
        return transform(cell)
    except SyntaxError:
        return cell


# ---------------------------------------------------------------------------------------------
# Answering calls


def _probe(request: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """Call one thing of the notebook by the grader's probe."""
    if request["name"] not in space:
        return {"missing": True}
    own: dict[str, Any] = {"Any": Any, "np": np, "torch": torch}
    exec(compile("from __future__ import annotations\n" + request["source"], "<test>", "exec"), own)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (code of students uses it)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"value": own[request["function"]](space[request["name"]], request["inputs"])}


def _describe(error: BaseException) -> str:
    """One line: what and where. ``str(error)`` is the student's code, and may do anything."""
    where = ""
    with contextlib.suppress(Exception):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename.startswith("<cell ") and frame.line:
                where = f" (in {frame.filename[1:-1]}, line {frame.lineno}: `{frame.line.strip()}`)"
                break
    text = "it cannot be shown"
    with contextlib.suppress(BaseException):
        text = str(error).strip().split("\n")[0][:300]
    if isinstance(error, SyntaxError):
        where = f" (line {error.lineno}: `{(error.text or '').strip()[:100]}`)"
        text = str(error.msg)[:200]
    if isinstance(error, SystemExit):
        return f"exit was called{where}"
    return f"{type(error).__name__}: {text}{where}"[:600]
