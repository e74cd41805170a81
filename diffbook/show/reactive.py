"""Figures that react: JavaScript of our own, in the output itself, with a still picture inside.

    show.react("attention_noise", data, fig, alt="...")   the last line of a cell

A figure is one file in ``diffbook/show/js``: pure functions, and ``render({data, ui})`` that uses
``core.js``. `react` publishes one self-contained piece of HTML with the code, the data and the
picture. It needs no kernel, no server and no other host: it works on the site, from a file, in a
sandboxed frame, on Colab (which puts each output into a frame of its own) and in Jupyter. Where
scripts do not run (GitHub, an untrusted notebook, JavaScript off), the picture stands there, and in
a terminal its alt text.

The same JavaScript answers a running kernel: `live` wraps it into an anywidget.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffbook.show.figure import png

FOLDER = Path(__file__).parent / "js"
DIGITS = 7  # of a number in the data: the last ones differ between processors

_IMPORT = re.compile(
    r"""^import\s+(\{[^}]*\}|\*\s+as\s+\w+)\s+from\s+["']\./([\w-]+)\.js["'];?[ \t]*$""", re.M)
_EXPORT = re.compile(r"^export\s+(?:async\s+)?(?:function\*?|const|let|class)\s+(\w+)", re.M)
_FRAGMENT = re.compile(
    r"""(<div data-diffbook="[0-9a-f]+" data-figure="([\w-]+)">.*?<script>)(.*?)(/\* data \*/.*)""",
    re.S,
)


def react(name: str, data: Mapping[str, Any], fig: Any, alt: str) -> None:
    """Show the figure ``name`` with ``data``; ``fig`` is the still picture where no script runs.

    Args:
        name: a file ``diffbook/show/js/<name>.js`` that exports ``render({data, ui})``.
        data: what the figure starts from. Numbers are rounded to seven digits; arrays and tensors
            become lists; ``bytes`` become base64 (``bytesOf`` of core.js reads it).
        fig: matplotlib figure of the start values; it is closed.
        alt: alt text of the still picture, and the output's text form.

    Raises:
        ValueError: for an unknown name, an empty alt text, or data that JSON cannot hold.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    picture, size = png(fig, colors=96)  # as text inside of the page every byte counts
    plt.close(fig)
    display(
        {"text/html": fragment(name, data, picture, alt), "image/png": picture, "text/plain": alt},
        metadata={"image/png": {"alt": alt, **size}},
        raw=True,
    )


def fragment(name: str, data: Mapping[str, Any], picture: bytes | str, alt: str) -> str:
    """The figure as HTML that stands alone.

    Args:
        picture: PNG bytes, or the address of a picture that the page has.

    The same name and data give the same text: nothing in it is random or depends on the time.
    """
    if not alt.strip():
        raise ValueError("the alt text is empty: say in one or two sentences what the figure shows")
    code, values = bundle(name), to_json(data)
    key = hashlib.sha256(f"{name} {values}".encode()).hexdigest()[:12]
    if isinstance(picture, bytes):
        picture = "data:image/png;base64," + base64.b64encode(picture).decode()
    shown = html.escape(" ".join(alt.split()))
    return (
        f'<div data-diffbook="{key}" data-figure="{name}">'
        f'<img class="figure-output" style="max-width:100%" alt="{shown}" src="{picture}"></div>\n'
        f"<script>{_function(name, code)}"
        f"/* data */figure.start({json.dumps(key)}, {values});}})();</script>"
    )


def refreshed(output: str) -> str:
    """``output``, the HTML of a stored figure, with today's JavaScript; data and picture stay.

    So a change in a script needs no new run of the chapters (``scripts/notebooks.py figures``).
    """

    def renew(found: re.Match[str]) -> str:
        return found[1] + _function(found[2], bundle(found[2])) + found[4]

    return _FRAGMENT.sub(renew, output)


def live(name: str, data: Mapping[str, Any], compute: Callable[..., Mapping[str, Any]]) -> Any:
    """The same figure as a widget of a running kernel, for what only Python can compute.

    ``compute(**values)`` is called with the values of the controls whenever the reader changes
    one; what it returns is the figure's new data.

    Returns:
        an anywidget with ``values`` and ``data``, both ways. Make it the last line of a cell.

    Raises:
        ImportError: without the package anywidget.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "show.live needs the package anywidget: pip install anywidget. Without it, show.react "
            "draws the same figure in JavaScript alone"
        ) from error

    class Live(anywidget.AnyWidget):
        _esm = widget_module(name)
        values = traitlets.Dict().tag(sync=True)
        data = traitlets.Dict().tag(sync=True)

        @traitlets.observe("values")
        def _answer(self, change: Any) -> None:
            self.data = json.loads(to_json(compute(**change["new"])))

    return Live(data=json.loads(to_json(data)))


# ---------------------------------------------------------------- the scripts


@cache
def bundle(name: str) -> str:
    """``<name>.js`` and what it imports from its folder, as one classic script: a chain of
    functions, so that no name leaks to the page or from one file to the next.

    Only what the figures use is understood: ``import {a, b as c} from "./file.js"``, ``import * as
    x from "./file.js"`` and ``export`` before a function, class, const or let, at a line's start.

    Raises:
        ValueError: for an unknown file or another form of import or export.
    """
    parts: dict[str, str] = {}
    for file in ("core", name):
        if file not in parts:
            _collect(file, parts, ())
    return "".join(parts.values())


def widget_module(name: str) -> str:
    """The same as an ES module with anywidget's ``export default {render}``."""
    return f"{bundle(name)}\nexport default $core.widget(${_variable(name)}.render);\n"


def _function(name: str, code: str) -> str:
    """The bundle inside a function whose ``figure.start(key, data)`` brings the figure to life."""
    return (
        f'(function () {{"use strict";\n{code}'
        f"const figure = {{start: (key, data) => $core.start(key, data, "
        f"${_variable(name)}.render)}};\n"
    )


def _variable(name: str) -> str:
    return name.replace("-", "_")


def _collect(name: str, parts: dict[str, str], above: Sequence[str]) -> None:
    path = FOLDER / f"{name}.js"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.js"))
        raise ValueError(f"no figure is named {name!r}: there are {', '.join(known)}")
    if name in above:
        raise ValueError(f"{name}.js imports itself by way of {' and '.join(above)}")
    source = path.read_text(encoding="utf-8")
    for found in _IMPORT.finditer(source):
        if found[2] not in parts:
            _collect(found[2], parts, (*above, name))

    def bring(found: re.Match[str]) -> str:
        names, origin = found[1], _variable(found[2])
        if names.startswith("*"):
            return f"const {names.split()[-1]} = ${origin};"
        pairs = re.sub(r"\s+as\s+", ": ", names)
        return f"const {pairs} = ${origin};"

    exported = _EXPORT.findall(source)
    body = _IMPORT.sub(bring, source)
    body = re.sub(r"^export\s+(?=(async\s+)?(function|const|let|class)\b)", "", body, flags=re.M)
    left = re.search(r"^\s*(?:import|export)\b.*$", body, re.M)
    if left or re.search(r"</script|<!--", body, re.I):
        what = left[0].strip() if left else "</script or <!--"
        raise ValueError(f"{name}.js: {what!r} cannot be put into a page, see show.reactive.bundle")
    # Comments are for those who read the file; the page goes without them.
    body = re.sub(r"^\s*/\*\*.*?\*/[ \t]*\n", "", body, flags=re.M | re.S)
    body = re.sub(r"^\s*//.*\n", "", body, flags=re.M)
    body = re.sub(r"^[ \t]+|\n(?=\n)", "", body, flags=re.M)
    parts[name] = (
        f"const ${_variable(name)} = (function () {{\n{body.strip()}\n"
        f"return {{{', '.join(exported)}}};\n}})();\n"
    )


# ---------------------------------------------------------------- the data


def to_json(data: Any) -> str:
    """``data`` as JSON that may stand inside a ``<script>``, the same on every machine."""
    try:
        text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a figure's data must be plain: {error}") from error
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        rounded = float(f"{value:.{DIGITS}g}") + 0.0  # no minus zero
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    return value
