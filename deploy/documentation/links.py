"""Rewrites links between files of the repository into links of the site.

The site also has documents outside docs/ (`extra_pages`); links to other files become the file's name.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

TOKEN = re.compile(
    r"^ *```.*?^ *```|`[^`\n]+`|(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
"""A fenced block, a code span, or a link; links in code are left alone."""
DOCS = "docs"
README = "README.md"


def extra_pages(root: Path) -> dict[str, str]:
    """Return the site's documents outside docs/: path in the site by path in the repository."""
    pages = {f"{name}.md": f"project/{name.lower()}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")}
    services = sorted(path.parent.name for path in (root / "services").glob("*/README.md"))
    pages |= {f"services/{name}/README.md": f"services/{name.replace('_', '-')}.md" for name in services}
    return pages | {"clients/training/README.md": "guides/training-client.md"}


def site_path(path: str, extra: Mapping[str, str]) -> str | None:
    """Return the page of the site that shows a file of the repository; None if no page does."""
    if path in extra:
        return extra[path]
    if path == README:
        return "index.md"
    below = posixpath.relpath(path, DOCS)
    return None if below.startswith("..") else below


def rewrite_links(text: str, source: str, page: str, root: Path, extra: Mapping[str, str]) -> str:
    """Return a document with the links of the site.

    Args:
        text: The document.
        source: Its path in the repository.
        page: Its path in the site.
        root: The repository.
        extra: As `extra_pages`.
    """

    def replace(match: re.Match[str]) -> str:
        target, _, anchor = (match["target"] or "").partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        shown = site_path(f"{path}/README.md" if (root / path / "README.md").is_file() else path, extra)
        if shown is None or not shown.endswith(".md"):
            return _name(match["text"], path)
        link = posixpath.relpath(shown, posixpath.dirname(page) or ".")
        return f"[{match['text']}]({link}{'#' + anchor if anchor and path != README else ''})"

    return TOKEN.sub(replace, text)


def _name(text: str, path: str) -> str:
    """Return the replacement of a link to a file outside of the site."""
    plain = text.strip("`")
    return f"`{plain}`" if plain in (path, posixpath.basename(path)) else f"{text} (`{path}`)"
