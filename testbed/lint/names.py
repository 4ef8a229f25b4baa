"""Documents: commands, settings, metrics, subjects, make targets, files, links and blocks of code are good."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

import yaml
from pydantic import ValidationError
from typer.core import TyperGroup
from typer.main import get_command

from clients.cli.main import app
from contracts.facts import FACTS
from contracts.metrics import METRICS
from contracts.policy import ReleasePolicy
from contracts.running import RUNNING_PREFIX
from contracts.services import SERVICES
from contracts.storage.uploads import UPLOADS
from testbed.lint.tree import ROOT, committed, files, problem, text, unknown

COMMAND_LINE = get_command(app)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PREFIXES = "|".join(["SLIPWAY", *(name.replace("-", "_").upper() for name in SERVICES)])
SETTING = re.compile(rf"\b((?:{PREFIXES})_[A-Z0-9_]*[A-Z0-9])\b")
METRIC = re.compile(r"\b(slipway_[a-z_]+[a-z])\b")
NOT_METRICS = {"slipway_client", "slipway_nats", "slipway_version"}  # a package, a volume, and a name in MLflow
SUBJECT = re.compile(r"\b(slipway\.[a-z.]+\.v\d)\b")
TARGET = re.compile(r"`make ([a-z][\w-]*)[^`]*`")
FOLDERS = "benchmarks|clients|contracts|decisions|deploy|examples|services|shared|testbed|tests"
FILE = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.[a-z]+)`")
TEST_FILE = re.compile(r"`(test_\w+\.py)`")
DOCUMENT = re.compile(r"\b(docs/[\w/.-]+\.md)\b")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
GONE = {"CHANGELOG.md"}
"""Documents that list names that are gone."""


def problem_of(line: str) -> str | None:
    """Return what is wrong with a command line of `slipway`; None if it can be typed."""
    command = COMMAND_LINE
    arguments = line.split()[1:]
    while isinstance(command, TyperGroup):
        if command.invoke_without_command and (not arguments or arguments[0].startswith("-")):
            break
        if not arguments or arguments[0] not in command.commands:
            return f"{line}: no such command"
        command = command.commands[arguments.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [argument for argument in arguments if argument.startswith("-") and argument not in known]
    return f"{line}: no option {wrong[0]}" if wrong else None


def command_lines(page: str) -> set[str]:
    """Return the command lines of a text, each quoted argument as one word, one line for each of `list|show`."""
    blocks = "\n".join(body for _, body in FENCED.findall(page)).replace("\\\n", " ")
    blocks = re.sub(r'"\$\(.*?\)"|\s#.*', " ", blocks)
    lines = re.findall(r"(?:^|\$\()(slipway [^|)\n]*)", blocks, re.MULTILINE)
    lines += re.findall(r"`(slipway [^`]+)`", FENCED.sub("", page))
    typed = set()
    for line in lines:
        words = [word.replace(" ", "_") for word in shlex.split(line)]
        several = next((word for word in words if re.fullmatch(r"[a-z]+(?:\|[a-z]+)+", word)), "")
        for choice in several.split("|"):
            typed.add(" ".join(choice if word == several else word for word in words))
    return typed


def commands() -> Iterator[str]:
    """Yield commands and options that do not exist."""
    for path in files(suffix=".md"):
        for line in sorted(command_lines(text(path))):
            if wrong := problem_of(line):
                yield problem(path, _line_of(path, line), wrong)


def _line_of(path: str, command: str) -> int:
    before, _, _ = text(path).partition(" ".join(command.split()[:2]))
    return before.count("\n") + 1


@cache
def _words_of_code() -> tuple[frozenset[str], frozenset[str]]:
    code = "\n".join(text(path) for path in committed() if not path.endswith(".md") and not path.startswith("tests/"))
    fields = re.findall(r"^    ([a-z]\w*): ", code, re.MULTILINE)
    return frozenset(re.findall(r"[A-Z][A-Z0-9_]+", code)), frozenset(fields)


def _setting_exists(name: str) -> bool:
    words, fields = _words_of_code()
    return name in words or re.sub(rf"^(?:{PREFIXES})_", "", name).lower() in fields


def _metric_exists(name: str) -> bool:
    series = (each for metric in METRICS for each in (metric.name, metric.name.removesuffix("_total"), *metric.series))
    return name in NOT_METRICS or name in series


def _subject_exists(name: str) -> bool:
    return name in {UPLOADS, RUNNING_PREFIX} or name.replace("slipway.staging.", "slipway.") in FACTS


def names() -> Iterator[str]:
    """Yield settings, metrics, subjects, make targets and files that documents or code name and that do not exist."""
    targets = set(re.findall(r"^([a-z][\w-]*):", text("Makefile"), re.MULTILINE))
    by_name = {PurePosixPath(path).name for path in committed()}
    for path in files(suffix=".md"):
        yield from unknown(path, TARGET, targets.__contains__, "make target")
        if path not in GONE:
            yield from unknown(path, SETTING, _setting_exists, "setting")
            yield from unknown(path, METRIC, _metric_exists, "metric")
            yield from unknown(path, SUBJECT, _subject_exists, "subject")
            yield from unknown(path, FILE, committed().__contains__, "file")
            yield from unknown(path, TEST_FILE, by_name.__contains__, "test")
    for path in files("contracts/", "decisions/", "shared/", "services/", "clients/", "deploy/", "examples/"):
        yield from unknown(path, DOCUMENT, committed().__contains__, "document")


def _anchors(path: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text(path)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[str]:
    """Yield links that lead to no file or heading of the repository, and pages that the index of their folder lacks."""
    for path in files(suffix=".md"):
        for match in LINK.finditer(text(path)):
            link, anchor = match[1] or PurePosixPath(path).name, match[2]
            target = (ROOT / path).parent / link
            if re.match(r"https?:|mailto:", link):
                continue
            if not target.exists():
                yield problem(path, match, f"no file {link}")
            elif anchor and anchor not in _anchors(target.resolve().relative_to(ROOT).as_posix()):
                yield problem(path, match, f"no heading #{anchor} in {link}")
    for folder in ("docs/runbooks/", "docs/adr/"):
        listed = [match[1] for match in LINK.finditer(text(f"{folder}README.md"))]
        for path in files(folder, suffix=".md"):
            if listed.count(PurePosixPath(path).name) != (not path.endswith("README.md")):
                yield problem(path, 1, f"{folder}README.md lists each page once")


def code_blocks() -> Iterator[str]:
    """Yield Python blocks that do not compile and policies that are not valid."""
    for path in files("README.md", "docs/", "services/", "examples/", suffix=".md"):
        for match in FENCED.finditer(text(path)):
            try:
                if match[1] == "python":
                    compile(match[2], path, "exec", flags=0x2000)  # a top-level await is good
                for document in yaml.safe_load_all(match[2]) if match[1] == "yaml" else ():
                    if isinstance(document, dict) and ("triggers" in document or document.get("kind") == "Policy"):
                        ReleasePolicy.model_validate(document.get("policy", document))
            except (SyntaxError, yaml.YAMLError, ValidationError) as error:
                yield problem(path, match, f"code block: {error}")


CHECKS = (commands, names, links, code_blocks)
