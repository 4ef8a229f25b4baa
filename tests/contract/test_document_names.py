"""Documents: the commands, settings, metrics, subjects, make targets, files and links that they name exist."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from contracts.facts import FACTS
from contracts.metrics import METRICS
from contracts.running import RUNNING_PREFIX
from contracts.uploads import UPLOADS
from tests.architecture.test_files import ROOT, committed
from tests.contract.test_runbooks import problem_of

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
IN_BLOCK = re.compile(r"(?:^|\$\()(slipway [^|)\n]*)", re.MULTILINE)
IN_LINE = re.compile(r"`(slipway [^`]+)`")
SETTING = re.compile(
    r"\b((?:SLIPWAY|REGISTRY|MERGER|QUANTISER|BENCHMARKER|SERVER_MANAGER|MONITOR|NOTIFIER|ROLLBACK_CONTROLLER|GATEWAY)_[A-Z0-9_]*[A-Z0-9])\b"
)
METRIC = re.compile(r"\b(slipway_[a-z_]+[a-z])\b")
NOT_METRICS = {"slipway_client", "slipway_nats", "slipway_version"}
"""A package, a volume, and a name in MLflow."""
SUBJECT = re.compile(r"\b(slipway\.[a-z.]+\.v\d)\b")
TARGET = re.compile(r"`make ([a-z][\w-]*)[^`]*`")
FILE = re.compile(
    r"`((?:benchmarks|clients|contracts|decisions|deploy|examples|services|shared|testbed|tests)/[\w./-]+\.[a-z]+)`"
)
TEST_FILE = re.compile(r"`(test_\w+\.py)`")
BENCHMARK = re.compile(r"\bbenchmarks[./](bench_\w+)")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
GONE = {"CHANGELOG.md", "docs/adr/0010-contracts-v1-names-and-freeze.md"}
"""Documents that list names that are gone, each beside its new one."""
PAGES = [str(path.relative_to(ROOT)) for path in committed("*.md")]
CURRENT = [page for page in PAGES if page not in GONE]


@cache
def code() -> str:
    folders = ("benchmarks", "clients", "contracts", "decisions", "deploy", "examples", "services", "shared")
    files = [path for path in committed(*folders, "compose.yaml", "Makefile") if path.suffix != ".md"]
    return "\n".join(path.read_text(errors="replace") for path in files)


def commands(page: str) -> set[str]:
    """Return the command lines of a page, each word of a quoted argument joined."""
    text = (ROOT / page).read_text()
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    blocks = re.sub(r'"\$\(.*?\)"|\s#.*', " ", blocks)
    return set(IN_BLOCK.findall(blocks)) | {line.replace("\n", " ") for line in IN_LINE.findall(FENCED.sub("", text))}


def alternatives(line: str) -> list[str]:
    """Return one line for each alternative of `slipway deadletters list|show`, with quoted arguments as one word."""
    words = [word.replace(" ", "_") for word in shlex.split(line)]
    several = [word for word in words if re.fullmatch(r"[a-z]+(?:\|[a-z]+)+", word)]
    if not several:
        return [" ".join(words)]
    return [" ".join(choice if word == several[0] else word for word in words) for choice in several[0].split("|")]


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_typed(page):
    lines = [line for command in commands(page) for line in alternatives(command)]
    assert [problem for line in sorted(lines) if (problem := problem_of(line))] == []


def exists_setting(name: str) -> bool:
    """Return whether code reads a variable: by its name, or as a field of settings with a prefix."""
    field = re.sub(
        r"^(?:SLIPWAY|REGISTRY|MERGER|QUANTISER|BENCHMARKER|SERVER_MANAGER|MONITOR|NOTIFIER|ROLLBACK_CONTROLLER|GATEWAY)_",
        "",
        name,
    )
    return name in code() or re.search(rf"^    {field.lower()}: ", code(), re.MULTILINE) is not None


def exists_metric(name: str) -> bool:
    """Return whether a metric, or one of its series, is declared."""
    return name in NOT_METRICS or any(
        name in (metric.name, metric.name.removesuffix("_total"), *metric.series) for metric in METRICS
    )


def exists_subject(name: str) -> bool:
    return name in {UPLOADS, RUNNING_PREFIX} or name.replace("slipway.staging.", "slipway.") in FACTS


@pytest.mark.parametrize("page", CURRENT)
def test_settings_metrics_and_subjects_exist(page):
    text = (ROOT / page).read_text()
    missing = [name for name in SETTING.findall(text) if not exists_setting(name)]
    missing += [name for name in METRIC.findall(text) if not exists_metric(name)]
    missing += [name for name in SUBJECT.findall(text) if not exists_subject(name)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall((ROOT / page).read_text())) - targets == set()


@pytest.mark.parametrize("page", CURRENT)
def test_files_of_the_repository_exist(page):
    """A path is named from the root; a test or a benchmark also by its name alone."""
    text = (ROOT / page).read_text()
    missing = [path for path in FILE.findall(text) if not (ROOT / path).is_file()]
    missing += [name for name in TEST_FILE.findall(text) if name not in file_names()]
    missing += [name for name in BENCHMARK.findall(text) if not (ROOT / f"benchmarks/{name}.py").is_file()]
    assert missing == []


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for path in committed())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    dead = []
    for link, anchor in LINK.findall((ROOT / page).read_text()):
        target = (ROOT / page).parent / link if link else ROOT / page
        if not link.startswith(("http:", "https:")) and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            dead.append(f"{link}#{anchor}")
    assert dead == []


def test_names_that_do_not_exist_are_found():
    assert alternatives("slipway deadletters list|shift 3") == [
        "slipway deadletters list 3",
        "slipway deadletters shift 3",
    ]
    assert problem_of("slipway deadletters shift 3")
    assert FILE.findall("`testbed/no_such.py`, `-m benchmarks.x`") == ["testbed/no_such.py"]
    assert TEST_FILE.findall("`test_no_such.py`") == ["test_no_such.py"]
    assert not exists_setting("SLIPWAY_NO_SUCH_SETTING")
    assert not exists_metric("slipway_gateway_no_such_metric_total")
    assert not exists_subject("slipway.staging.requested.v1")
    assert exists_subject("slipway.staging.alert.raised.v1")
