"""Photograph the built site, to look at it: light and dark, desktop and phone.

    python scripts/screenshots.py FOLDER [page.html ...]

Without pages, every page of the table of contents. `--first-screen` keeps only what one sees
before scrolling.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from browser import DESKTOP, PHONE, BrowserError, browser, served

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("pages", nargs="*", help="e.g. index.html book/03_….html")
    parser.add_argument("--site", type=Path, default=SITE, help="folder of the built site")
    parser.add_argument("--first-screen", action="store_true", help="do not scroll")
    parser.add_argument("--widths", type=int, nargs="*", default=[DESKTOP, PHONE])
    parser.add_argument("--themes", nargs="*", default=["light", "dark"])
    options = parser.parse_args(arguments)
    if not (options.site / "index.html").exists():
        print(f"{options.site}: no site there; build it first (make book)", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    pages = options.pages or [
        "index.html",
        *sorted(f"book/{path.name}" for path in (options.site / "book").glob("*.html")),
    ]
    try:
        with served(options.site) as address, browser() as tab:
            for page in pages:
                for width in options.widths:
                    for theme in options.themes:
                        tab.visit(address + page, width=width, dark=theme == "dark")
                        name = f"{Path(page).stem}-{width}-{theme}.png"
                        tab.screenshot(options.folder / name, full=not options.first_screen)
                        print(options.folder / name)
    except BrowserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
