"""Markdown rendering: embedded HTML stays text, links lead to web addresses only."""

import re
from typing import Final

from markdown_it import MarkdownIt
from markupsafe import Markup

_FRONT_MATTER: Final = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_RENDERER: Final = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def render_markdown(text: str) -> Markup:
    """Render Markdown as HTML, without its front matter."""
    return Markup(_RENDERER.render(_FRONT_MATTER.sub("", text)))  # noqa: S704 - the renderer escapes HTML
