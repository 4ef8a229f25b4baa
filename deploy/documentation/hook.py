"""Hooks of MkDocs: pages outside docs/, links, generated tables, and a check for resources of other hosts."""

import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from deploy.documentation import (
    codes_page,
    commands_page,
    events_page,
    links,
    metrics_page,
    policy_page,
    settings_page,
)
from deploy.documentation.markdown import separate_blocks

ROOT = Path(__file__).resolve().parents[2]
TABLES: dict[str, Callable[[], str]] = {
    "codes": codes_page.render,
    "commands": commands_page.render,
    "events": events_page.render,
    "metrics": metrics_page.render,
    "policy": policy_page.render,
    "settings": settings_page.render,
}
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
SECTION = re.compile(r"^<!-- readme: (.+) -->$", re.MULTILINE)
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\srel=["']?(?:stylesheet|preload|preconnect|dns-prefetch|icon))[^>]*\shref=["']?(?:https?:)?//[^>]*>"""
    r"""|url\(["']?(?:https?:)?//[^)]*\)|@import\s+["'](?:https?:)?//[^"']*["']"""
)
LEFT_AS_TEXT = re.compile(r"^(?:<p>)?(?:\||- \S).*$", re.MULTILINE)
"""A table or list that was rendered as text."""
PATH_IN_CODE = re.compile(r"<code>((?:benchmarks|deploy|services|shared|testbed|tests)/[^<\s]+)</code>")
COMMAND_IN_CODE = re.compile(r"<code>(?=[^<]{24})([^<]* [^<]*)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site, including documents outside docs/."""
    for source, page in links.extra_pages(ROOT).items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs'
    """Return a page's text with its generated tables and the links of the site."""
    extra = links.extra_pages(ROOT)
    path = page.file.src_uri
    sources = {shown: source for source, shown in extra.items()}
    text = links.rewrite_links(markdown, sources.get(path, f"{links.DOCS}/{path}"), path, ROOT, extra)
    text = SECTION.sub(
        lambda match: links.rewrite_links(readme_section(match[1]), links.README, path, ROOT, extra), text
    )
    return separate_blocks(MARKER.sub(lambda match: TABLES[match[1]](), text))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs'
    """Return a page with line breaks allowed in paths and commands, so that no column is too wide."""
    html = COMMAND_IN_CODE.sub(r'<code class="path">\1</code>', html)
    return PATH_IN_CODE.sub(lambda match: f'<code class="path">{match[1].replace("/", "/<wbr>")}</code>', html)


def readme_section(heading: str) -> str:
    """Return a section of the README, with its heading.

    Raises:
        PluginError: the README has no such section.
    """
    _, separator, rest = (ROOT / links.README).read_text().partition(f"\n## {heading}\n")
    if not separator:
        raise PluginError(f"README.md has no section {heading!r}")
    return f"## {heading}\n{re.split(r'^## ', rest, maxsplit=1, flags=re.MULTILINE)[0]}"


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if the site loads a resource from another host, or shows a table or list as text."""
    site = Path(config.site_dir)
    for path in sorted((*site.rglob("*.html"), *site.rglob("*.css"))):
        for resource in external_resources(path.read_text()):
            raise PluginError(f"{path.relative_to(site)} loads {resource!r} from another host")
        for line in LEFT_AS_TEXT.findall(re.sub(r"<pre.*?</pre>", "", path.read_text(), flags=re.DOTALL)):
            if path.suffix == ".html":
                raise PluginError(f"{path.relative_to(site)} shows a table or a list as text: {line!r}")


def external_resources(text: str) -> list[str]:
    """Return the resources, not links, of other hosts in a page or style sheet."""
    return EXTERNAL.findall(text)
