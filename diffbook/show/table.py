"""A table that sorts and filters with no kernel, and is a plain table where scripts are off."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

SCRIPT = Path(__file__).parent / "js" / "table.js"

STYLE = """
.dbt{font:400 .875rem/1.4 var(--pst-font-family-heading,system-ui,sans-serif);\
color:var(--pst-color-text-base,inherit)}
.dbt .tools{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:.5rem 0}
.dbt .tools[hidden]{display:none}
.dbt input,.dbt select{font:inherit;color:inherit;min-height:2rem;padding:.1rem .4rem;\
max-width:100%;border:1px solid #808890;border-radius:6px;\
background:var(--pst-color-background,transparent)}
.dbt .scroll{overflow:auto;max-height:46rem;border:1px solid var(--pst-color-border,#d0d5da);\
border-radius:8px}
.dbt table{border-collapse:collapse;width:100%;margin:0!important;font-size:.8125rem}
.dbt th,.dbt td{padding:.35rem .45rem;text-align:left!important;vertical-align:top;\
white-space:normal;border-bottom:1px solid var(--pst-color-border,#d0d5da)}
.dbt th{position:sticky;top:0;background:var(--pst-color-surface,#f6f7f9);\
color:var(--pst-color-text-base,#1d242c);z-index:1}
.dbt th button{all:unset;cursor:pointer;font-weight:600;min-height:1.5rem}
.dbt th button::after{content:" \\2195";opacity:.5}
.dbt th[aria-sort=ascending] button::after{content:" \\2191";opacity:1}
.dbt th[aria-sort=descending] button::after{content:" \\2193";opacity:1}
.dbt th button:focus-visible{outline:2px solid var(--pst-color-primary,#00629b)}
.dbt td:first-child{white-space:nowrap}
.dbt td{font-variant-numeric:tabular-nums}
.dbt small{display:block;color:var(--pst-color-text-muted,#55606e);font-size:.75rem}
.dbt caption{caption-side:top;text-align:left;position:absolute;left:-99rem}
@media(max-width:46rem){.dbt .scroll{max-height:none;border:0;overflow:visible}
.dbt thead{position:absolute;left:-99rem}.dbt tr:not([hidden]),.dbt td{display:block}
.dbt tbody tr{border:1px solid var(--pst-color-border,#d0d5da);border-radius:8px;\
margin:0 0 .6rem;padding:.3rem;background:none!important}
.dbt td{border:0;padding:.1rem .4rem}
.dbt td:empty{display:none!important}
.dbt td::before{content:attr(data-head) ": ";font-weight:600}}
""".strip()


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: text, a smaller second line, a link, and what it is sorted by (the
    text, unless ``key`` says otherwise)."""

    text: str
    small: str = ""
    link: str = ""
    key: float | str | None = None

    def html(self, head: str) -> str:
        text = escape(self.text)
        if self.link:
            text = f'<a href="{escape(self.link)}">{text}</a>'
        if self.small:
            text += f"<small>{escape(self.small)}</small>"
        key = self.text if self.key is None else self.key
        written = f"{key:.6g}" if isinstance(key, float | int) else key
        return f'<td data-head="{escape(head)}" data-key="{escape(written)}">{text}</td>'


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str, choose: str,
) -> None:
    """Show ``rows`` under ``heads``.

    Args:
        caption: what the table holds, for those who do not see it.
        choose: the head whose values can be chosen from a menu.

    The output is the same text wherever it is made: strict nbval compares it. Its plain form is
    each row's first cells.

    Raises:
        ValueError: for a row of another length than ``heads``, or a ``choose`` that is none.
    """
    if choose not in heads:
        raise ValueError(f"choose={choose!r} is no column: there are {', '.join(heads)}")
    at = list(heads).index(choose)
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"a row has {len(row)} cells, the table {len(heads)} columns: {row}")
    from IPython.display import display

    values = dict.fromkeys(row[at].text for row in rows)
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "\n".join(
        f"<tr>{''.join(cell.html(name) for name, cell in zip(heads, row))}</tr>" for row in rows
    )
    inner = (
        f'<div class="tools" hidden><label>Search <input type="search"></label>'
        f'<label>{escape(choose.capitalize())} <select data-column="{at}">'
        f'<option value="">any</option>{options}</select></label>'
        f'<span role="status" aria-live="polite"></span></div>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
    code = re.sub(r"^export ", "", SCRIPT.read_text("utf-8"), flags=re.M)
    key = hashlib.sha256((inner + code + STYLE).encode()).hexdigest()[:12]
    page = (
        f'<div class="dbt" data-diffbook-table="{key}"><style>{STYLE}</style>{inner}</div>\n'
        f'<script>(() => {{\n{code}\nenhance(document, "{key}");\n}})();</script>'
    )
    text = "\n".join(" | ".join(cell.text for cell in row if cell.text) for row in rows)
    display({"text/html": page, "text/plain": f"{caption}\n{text}"}, raw=True)
