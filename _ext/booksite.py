"""Small Sphinx extension for the book's site.

* Alt text: a picture that a cell published with `diffbook.show.figure` keeps its alt text.
* Formulas: set as Jupyter and Colab set them. Sphinx would put every formula of several lines into
  a `split`, in which `\\tag` (the paper's equation numbers) is an error.
* Chapter buttons: under a chapter's title, "Run on Colab" and "Download", where readers look.
* Links between chapters inside of a cell's HTML output: they name notebooks, as Jupyter needs it,
  and lead to pages here.
* Pictures of a chapter load when the reader comes near them.
* No foreign scripts: sphinx-thebe, which Jupyter Book always loads, adds a script that only works
  with an outside service (and adds it twice, which is an error in the console). It is dropped.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer, load_mime_renders
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class PictureWithAltText:
    """A myst-nb renderer plugin: the output's own `alt` metadata becomes the picture's alt text.

    myst-nb itself only knows an alt text per cell.
    """

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = []

    @staticmethod
    def handle_mime(
        renderer: NbElementRenderer, data: MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Render pictures that carry an alt text; leave everything else to myst-nb."""
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if not alt or not data.mime_type.startswith("image/"):
            return None
        rendered = renderer.render_image(data)
        for picture in rendered:
            picture["alt"] = alt
            picture["classes"] = [*picture.get("classes", []), "figure-output"]
        return rendered


class FormulasAsInJupyter(SphinxTransform):
    """Hand every displayed formula to MathJax as it stands."""

    default_priority = 900

    def apply(self, **kwargs: Any) -> None:
        for block in self.document.findall(nodes.math_block):
            if not block.get("nowrap") and not block.get("number"):
                block["nowrap"] = True
                block.children = [nodes.Text(f"\\[{block.astext().strip()}\\]")]


def drop_thebe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Take sphinx-thebe's scripts off the page."""

    def is_thebe(script: Any) -> bool:
        body = getattr(script, "attributes", {}).get("body") or ""
        name = str(getattr(script, "filename", script) or "")
        return "thebe" in name or "THEBE_JS_URL" in body

    context["script_files"] = [s for s in context.get("script_files", []) if not is_thebe(s)]


def add_chapter_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put the Colab and download links under the title of a page made from a notebook."""
    source = app.env.doc2path(pagename, base=False) if pagename in app.env.all_docs else ""
    if not source.endswith(".ipynb") or "body" not in context:
        return
    options = app.config.html_theme_options
    where = options["repository_url"].removeprefix("https://github.com/")
    colab = (
        f"{options['launch_buttons']['colab_url']}/github/{where}"
        f"/blob/{options['repository_branch']}/{source}"
    )
    download = context["pathto"](f"_sources/{source}", 1)
    buttons = (
        '<div class="chapter-actions">'
        f'<a href="{colab}" target="_blank" rel="noopener">Run on Colab</a>'
        f'<a href="{download}" download>Download the notebook</a></div>'
    )
    context["body"] = context["body"].replace("</h1>", "</h1>\n" + buttons, 1)


def link_chapters(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let links inside of a cell's HTML output, which name notebooks, lead to pages."""
    if "body" in context:
        context["body"] = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', context["body"])


def load_pictures_late(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let the pictures of cells load when the reader comes near it.

    The style sheet lets a picture shrink on a phone; its shape keeps the place for it meanwhile.
    """

    def late(found: re.Match[str]) -> str:
        tag = re.sub(
            r'style="width: (\d+)px; height: (\d+)px;"',
            r'style="width: \1px; aspect-ratio: \1 / \2;"', found[0])
        return tag.replace("<img ", '<img loading="lazy" ', 1)

    if "body" in context:
        context["body"] = re.sub(
            r'<img (?=[^>]*class="[^"]*figure-output)(?![^>]*src="data:)[^>]*>', late,
            context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it with Sphinx."""
    plugins = load_mime_renders()  # myst-nb keeps this list for the whole build
    if PictureWithAltText not in plugins:
        plugins.append(PictureWithAltText)
    app.add_transform(FormulasAsInJupyter)
    # Late, after sphinx-thebe and the theme have added their scripts.
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", link_chapters)
    app.connect("html-page-context", add_chapter_buttons)
    app.connect("html-page-context", load_pictures_late)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
