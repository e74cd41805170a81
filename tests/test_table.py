"""The table that sorts: what it writes, and that it stays a table without scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from diffbook.show import Cell, table

HEADS = ["where", "value", "verdict"]
ROWS = [
    [Cell("Fig. <3>", small="a & b", link="09_scaling.ipynb"), Cell("1.50", key=1.5), Cell("yes")],
    [Cell("Table 2"), Cell("", key=""), Cell("no")],
]


def shown(capture, rows=ROWS, **options) -> dict[str, str]:
    capture.clear()
    table(HEADS, rows, **{"caption": "All of it", "choose": "verdict", **options})
    return capture[0]


@pytest.fixture
def capture(monkeypatch) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: found.append(data))
    return found


class Tree(HTMLParser):
    """Rows as lists of (text, attributes)."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[tuple[str, dict]]] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs)))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            text, attrs = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, attrs)


def test_the_table_is_whole_without_its_script(capture):
    page = shown(capture)["text/html"]
    tree = Tree(page.split("<script>")[0])
    assert [text.strip() for text, _ in tree.rows[0]] == HEADS
    assert [[text.strip() for text, _ in row] for row in tree.rows[1:]] == [
        ["Fig. <3>a & b", "1.50", "yes"], ["Table 2", "", "no"]]
    assert tree.links == ["09_scaling.ipynb"]
    assert [row[1][1]["data-key"] for row in tree.rows[1:]] == ["1.5", ""]
    assert re.search(r'<div class="tools" hidden>', page)  # tools without a script are no tools
    assert "http" not in page


def test_the_same_rows_give_the_same_output_and_others_another_key(capture):
    first, again = shown(capture), shown(capture)
    assert first == again
    other = shown(capture, ROWS[:1])

    def key(page):
        return re.search(r'data-diffbook-table="(\w+)"', page["text/html"])[1]

    assert key(first) != key(other)


def test_plain_text_holds_every_row(capture):
    assert shown(capture)["text/plain"] == "All of it\nFig. <3> | 1.50 | yes\nTable 2 | no"


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="choose='colour' is no column: there are where, value"):
        table(HEADS, ROWS, caption="c", choose="colour")
    with pytest.raises(ValueError, match="a row has 2 cells, the table 3 columns"):
        table(HEADS, [ROWS[0][:2]], caption="c", choose="verdict")
