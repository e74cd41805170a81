"""Helpers to use the figures of the built site as a reader does, in a real browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import browser
import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(os.environ.get("DIFFBOOK_SITE", ROOT / "_build" / "html"))
needs_browser = pytest.mark.skipif(
    browser.find_browser() is None,
    reason="no Chromium on the search path; install one or set DIFFBOOK_CHROMIUM",
)


def on_pages() -> list[tuple[str, str]]:
    """(page, figure) for every figure that reacts on the built site, pages in reading order."""
    pages = [SITE / "index.html", *sorted((SITE / "book").glob("*.html"))]
    return [
        (page.relative_to(SITE).as_posix(), name)
        for page in pages
        for name in re.findall(r'data-diffbook="\w+" data-figure="([\w-]+)"',
                               page.read_text(encoding="utf-8"))
    ]


class Figure:
    """The figure ``name`` on the page that the browser ``tab`` has open."""

    def __init__(self, tab: Any, name: str):
        self.tab, self.name = tab, name
        self.host = f"document.querySelector('[data-figure=\"{name}\"]')"

    def ask(self, script: str) -> Any:
        """The value of JavaScript in which `host`, `root` (its shadow root) and `one(css)` mean
        this figure; use `return`."""
        return self.tab.evaluate(
            f"(async () => {{ const host = {self.host}; const root = host.shadowRoot;"
            " const one = (css) => root.querySelector(css);"
            " const frames = async (n) => { for (; n; n -= 1)"
            " await new Promise(requestAnimationFrame); };"
            f" {script} }})()"
        )

    @property
    def state(self) -> str:
        """"yes" where it works, "failed" where its script threw."""
        return self.ask("return host.dataset.ready ?? 'no script ran'")

    @property
    def sentence(self) -> str:
        """What it says it shows."""
        return self.ask("await frames(2); return one('.say')?.textContent ?? ''")

    def controls(self) -> list[dict[str, Any]]:
        """name, label, kind, value, limits, text and size of every control."""
        return self.ask("""
            return [...root.querySelectorAll('input, select, button')].map((field) => {
              const box = field.getBoundingClientRect();
              return { name: field.name, kind: field.type, value: field.value,
                label: (field.getAttribute('aria-label') ?? field.textContent).trim(),
                text: field.getAttribute('aria-valuetext'), min: field.min, max: field.max,
                shown: field.closest('.control')?.querySelector('output')?.textContent,
                width: box.width, height: box.height, disabled: field.disabled };
            })""")

    def set(self, name: str, value: Any) -> None:
        """Move a slider or choose in a menu, as the reader's hand does."""
        self.ask(f"""
            const field = one('[name="{name}"]');
            field.value = {json.dumps(str(value))};
            field.dispatchEvent(new Event('input', {{ bubbles: true }}));
            await frames(2);""")

    def focus(self, css: str) -> None:
        self.ask(f"one({json.dumps(css)}).focus()")

    def click(self, css: str) -> None:
        x, y = self.middle(css)
        self.tab.drag((x, y), (x, y))

    def middle(self, css: str) -> tuple[float, float]:
        """The middle of an element, after scrolling it into view."""
        return tuple(self.ask(f"""
            const part = one({json.dumps(css)});
            part.scrollIntoView({{ block: 'center', behavior: 'instant' }});
            await frames(2);
            const box = part.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];"""))
