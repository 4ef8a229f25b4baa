"""The documentation site: how pages of the repository become pages of the site."""

import pytest
from mkdocs.exceptions import PluginError

from deploy.documentation import hook, links
from deploy.documentation.markdown import separate_blocks, table
from tests.kit.wiring import ROOT


def test_nothing_is_loaded_from_another_host():
    assert hook.external_resources('<script src="https://a.example/x.js"></script>')
    assert hook.external_resources("<link rel=stylesheet href=//a.example/x.css>")
    assert hook.external_resources('<link href="https://a.example" rel="preconnect">')
    assert hook.external_resources("@import 'https://a.example/x.css'; a { background: url(https://a.example/x) }")
    assert not hook.external_resources('<a href="https://a.example">a</a> <script src="a.js"></script> url(a.png)')


def test_a_section_that_the_readme_does_not_have_is_an_error():
    with pytest.raises(PluginError, match="no such"):
        hook.readme_section("no such")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n- b\n- c", "a\n\n- b\n- c"),
        ("- a\n- b", "- a\n- b"),
        ("- a\n  b\n- c", "- a\n  b\n- c"),
        ("a:\n| b |\n|---|\n| c |", "a:\n\n| b |\n|---|\n| c |"),
        ("a\n```\n- b\n```\nc", "a\n\n```\n- b\n```\n\nc"),
    ],
)
def test_blocks_that_github_reads_begin_with_an_empty_line(text, expected):
    assert separate_blocks(text) == expected


def test_a_path_may_break_behind_each_slash_and_a_command_at_a_space():
    command = 'make demo-containers ARGS="--hosts"'
    html = f"<td><code>tests/unit/fuzz</code> <code>a/b</code> <code>{command}</code></td>"
    expected = f'<td><code class="path">tests/<wbr>unit/<wbr>fuzz</code> <code>a/b</code> <code class="path">{command}</code></td>'
    assert hook.on_page_content(html, page=None, config=None, files=None) == expected


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](triggers.md#x)", "[a](../triggers.md#x)"),
        ("[a](../services/monitor/README.md#x)", "[a](../services/monitor.md#x)"),
        ("[a](../README.md#try-it)", "[a](../index.md)"),
        ("[a](runbooks)", "[a](../runbooks/README.md)"),
        ("[contracts/codes.py](../contracts/codes.py)", "`contracts/codes.py`"),
        ("[codes](../contracts/codes.py)", "codes (`contracts/codes.py`)"),
        ("[a](https://a.example/b.md)", "[a](https://a.example/b.md)"),
        ("`[a](../x.py)`", "`[a](../x.py)`"),
        ("```\n[a](../x.py)\n```", "```\n[a](../x.py)\n```"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link, expected):
    page = "guides/a.md"
    assert links.rewrite_links(link, "docs/a.md", page, ROOT, links.extra_pages(ROOT)) == expected


def test_a_cell_stays_in_its_row():
    assert table(("a",), [("b | c\nd",)]).splitlines()[2] == "| b \\| c d |"
