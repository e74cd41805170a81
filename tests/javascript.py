"""Call the figures' JavaScript from Python: one node process for a whole list of calls."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "diffbook" / "show" / "js"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="no node on the search path: the scripts' tests need it"
)

_PROGRAM = """
import { pathToFileURL } from "node:url";
let text = "";
for await (const part of process.stdin) text += part;
const { file, calls } = JSON.parse(text);
const figure = await import(pathToFileURL(file));
const special = (key, value) =>
  typeof value === "number" && !Number.isFinite(value) ? { float: String(value) }
  : ArrayBuffer.isView(value) ? Array.from(value) : value;
for (const [name, args] of calls) {
  console.log(JSON.stringify({ result: figure[name](...args) }, special));
}
"""


def call(figure: str, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
    """The results of ``[(function, arguments), …]`` of ``diffbook/show/js/<figure>.js``.

    Arguments and results travel as JSON: arrays become lists; numbers that are not finite come back
    as such.
    """
    job = {"file": str(FOLDER / f"{figure}.js"), "calls": [[n, list(a)] for n, a in calls]}
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", _PROGRAM],
        input=json.dumps(job, default=_plain), capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [json.loads(line, object_hook=_number).get("result") for line in lines]


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _number(found: dict[str, Any]) -> Any:
    if found.keys() == {"float"}:
        return {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}[found["float"]]
    return found
