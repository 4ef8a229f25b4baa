"""The documentation site: it builds strictly, its references hold what the code has, and its commands are those of the README."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from mkdocs.exceptions import PluginError
from pydantic_settings import BaseSettings

from contracts.codes import ADVICE
from contracts.facts import FACTS
from contracts.metrics import METRICS
from contracts.policy import ReleasePolicy
from deploy.documentation import commands_page, console_page, hook, links, metrics_page, policy_page, settings_page
from deploy.documentation.markdown import separate_blocks, table
from tests.architecture.test_files import committed
from tests.contract.test_runbooks import problem_of
from tests.kit.wiring import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = console_page.document()
FIRST = hook.readme_section("Your first release")
"""The section that `docs/get-started.md` shows."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site once."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_make_builds_the_site_strictly_and_aloud():
    """With `--quiet` MkDocs counts no warnings, so that a strict build passes whatever is broken."""
    builds = re.findall(r"-m mkdocs build(.*)", (ROOT / "Makefile").read_text())
    assert len(builds) == 2
    assert all("--strict" in options and not re.search(r"--quiet|-q\b", options) for options in builds)


class Anchors(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self):
        super().__init__()
        self.ids, self.links = set(), set()

    def handle_starttag(self, _tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.links |= {values[name] for name in ("href", "src") if values.get(name)}


def read(path: Path) -> Anchors:
    parser = Anchors()
    parser.feed(path.read_text())
    return parser


def test_every_link_of_the_built_pages_leads_to_a_file_and_an_anchor_of_the_site(site):
    pages = {path: read(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 60
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir() or target == path.parent:
                target /= "index.html"
            if not target.is_file() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("settings", [name for kind in settings_page.settings_classes() for name in settings_page.variables_of(kind)]),
        ("events", list(FACTS)),
        ("codes", list(ADVICE)),
        ("commands", [f'id="{name.replace(" ", "-")}"' for name, _ in commands_page.commands()]),
        ("policy", list(ReleasePolicy.model_fields)),
        ("console", [*CONSOLE["paths"], *(f'id="{name.lower()}"' for name in CONSOLE["components"]["schemas"])]),
    ],
)
def test_a_reference_has_everything_that_the_code_has(site, page, names):
    text = (site / f"reference/{page}.html").read_text()
    assert len(names) > 10
    assert [name for name in names if name not in text] == []
    assert "<!-- generated" not in text


def test_tables_and_lists_are_not_left_as_text(site):
    left = []
    for path in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", path.read_text(), flags=re.DOTALL)
        left += [(path.name, line) for line in re.findall(r"^(?:<p>)?(?:\||- \S).*$", text, re.MULTILINE)]
    assert left == []


def test_nothing_is_loaded_from_another_host():
    assert hook.external_resources('<script src="https://a.example/x.js"></script>')
    assert hook.external_resources("<link rel=stylesheet href=//a.example/x.css>")
    assert hook.external_resources('<link href="https://a.example" rel="preconnect">')
    assert hook.external_resources("@import 'https://a.example/x.css'; a { background: url(https://a.example/x) }")
    assert not hook.external_resources('<a href="https://a.example">a</a> <script src="a.js"></script> url(a.png)')


def test_all_settings_classes_of_the_programs_are_described():
    sources = "\n".join(path.read_text() for path in committed("services/*.py", "shared/*.py", "clients/cli/*.py"))
    named = set(re.findall(r"^class (\w+)\((?:BaseSettings|WorkerSettings|SourceSettings)\)", sources, re.MULTILINE))
    described = {kind.__name__ for kind in settings_page.settings_classes()}
    assert named - described == {"WorkerSettings"}, "its fields are those of its subclasses"
    assert all(inspect.isclass(kind) and issubclass(kind, BaseSettings) for kind in settings_page.settings_classes())


def test_all_metrics_are_described():
    rows = [line.split(" | ")[0] for line in metrics_page.render().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{metric.name}`" for metric in METRICS]


def test_every_field_of_a_policy_has_its_meaning():
    rows = [line.split(" | ") for line in policy_page.render().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row[0] for row in rows if len(row) != 4 or not row[3].strip(" |")] == [], "a text below the field"


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in committed("docs/*.md")])
def test_policies_of_the_pages_are_valid(page):
    text = (ROOT / page).read_text()
    bodies = [body for language, body in BLOCK.findall(text) if language == "yaml"]
    documents = [document for body in bodies for document in yaml.safe_load_all(body)]
    policies = [document for document in documents if "triggers" in document]
    policies += [document["policy"] for document in documents if document.get("kind") == "Policy"]
    for policy in policies:
        ReleasePolicy.model_validate(policy)
    assert policies or page not in ("docs/reference/policy.md", "docs/triggers.md")


def test_each_page_has_one_place_in_the_navigation():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=Tolerant)
    listed = list(paths_of([hook._expanded(entry) for entry in config["nav"]]))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | set(links.extra_pages(ROOT).values()), "mkdocs.yml, nav"


class Tolerant(yaml.SafeLoader):
    """Reads mkdocs.yml without the Python objects that it names."""


Tolerant.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def paths_of(entry):
    if isinstance(entry, str):
        yield entry
    for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from paths_of(below)


class Code(HTMLParser):
    """The text of the blocks of code of a page."""

    def __init__(self):
        super().__init__()
        self.blocks, self._open = [], False

    def handle_starttag(self, tag, _attrs):
        self._open = self._open or tag == "pre"
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag):
        self._open = self._open and tag != "pre"

    def handle_data(self, data):
        if self._open:
            self.blocks[-1] += data


def test_the_first_commands_are_those_of_the_readme(site):
    page = Code()
    page.feed((site / "get-started.html").read_text())
    blocks = [
        body for heading in ("Try it", "Your first release") for _, body in BLOCK.findall(hook.readme_section(heading))
    ]
    assert len(blocks) >= 6
    assert [block.strip() for block in page.blocks] == [block.strip() for block in blocks]


def test_a_section_that_the_readme_does_not_have_is_an_error():
    with pytest.raises(PluginError, match="no such"):
        hook.readme_section("no such")


def test_the_policy_of_the_first_release_is_written_and_valid(tmp_path):
    (script,) = (body for _, body in BLOCK.findall(FIRST) if "cat > policy.yaml" in body)
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, timeout=20)
    policy = ReleasePolicy.model_validate(yaml.safe_load((tmp_path / "policy.yaml").read_text()))
    assert {trigger.name for trigger in policy.automatic} == {"slow", "errors"}


def test_the_first_commands_can_be_typed_and_the_python_compiles():
    blocks = BLOCK.findall(FIRST)
    lines = [
        line for _, body in blocks for line in body.replace("\\\n", " ").splitlines() if line.startswith("slipway ")
    ]
    lines = [re.sub(r'"[^"]*(?:"[^"]*"[^"]*)?"', "X", line) for line in lines]
    assert len(lines) >= 6
    assert [problem for line in lines if (problem := problem_of(line))] == []
    (program,) = (body for language, body in blocks if language == "python")
    compile(program, "get-started.md", "exec")


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
