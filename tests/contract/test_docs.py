"""Service pages name files that exist, the architecture page names the files that it links to; the glossary has each term once."""

import re
from pathlib import Path
from typing import get_args

import pytest

from contracts.facts.release import Outcome
from contracts.policy import Objective
from contracts.services import SERVICES
from tests.kit.wiring import ROOT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
TERM = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \|$", re.MULTILINE)


def links(page: str) -> list[str]:
    text = (ROOT / page).read_text()
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


SERVICE_PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "services").glob("*/README.md"))
FILE = re.compile(r"`([a-z_/]+\.py)`")


@pytest.mark.parametrize("page", SERVICE_PAGES)
def test_what_a_service_page_names_exists(page):
    """Files are named from the service's folder or from the root."""
    here = (ROOT / page).parent
    files = FILE.findall((ROOT / page).read_text())
    assert [name for name in files if not (here / name).exists() and not (ROOT / name).exists()] == []


def named_facts(page: str, row: str) -> set[str]:
    """Return the types of facts that a row of the first table of a service's page names."""
    (cells,) = re.findall(rf"^\| {row} \| (.*) \|$", (ROOT / page).read_text(), re.MULTILINE) or [""]
    return set(re.findall(r"`([a-z]+\.[a-z_]+)`", cells))


@pytest.mark.parametrize("page", SERVICE_PAGES)
def test_a_service_page_names_what_the_service_consumes_and_emits(page):
    service = SERVICES[Path(page).parent.name.replace("_", "-")]
    for row, facts in (("consumes", service.consumes), ("emits", service.emits)):
        declared = {fact.TYPE.removeprefix("slipway.").rpartition(".")[0] for fact in facts}
        orders_of_people = named_facts(page, row) if service.name == "console" else set()
        assert named_facts(page, row) - orders_of_people == {name for name in declared if "." in name}


def test_every_service_has_a_page():
    assert {Path(page).parent.name for page in SERVICE_PAGES} == {
        path.parent.name for path in ROOT.glob("services/*/app.py")
    }


def test_the_architecture_page_names_the_file_that_each_link_leads_to():
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"\[([\w./-]+)\]\((\.\./[^)]+)\)", text)
    assert len(named) > 40
    assert [(name, target) for name, target in named if f"../{name}" != target] == []


def test_the_architecture_page_passes_through_every_service():
    visited = {link.split("/")[2] for link in links("docs/architecture.md") if link.startswith("../services/")}
    services = {path.parent.name for path in (ROOT / "services").glob("*/app.py")}
    assert visited == services


def terms() -> list[tuple[str, str]]:
    return TERM.findall((ROOT / "docs/glossary.md").read_text())[1:]  # without the head of the table


def test_terms_stand_once_and_in_order():
    names = [name.casefold() for name, _ in terms()]
    assert len(names) > 60
    assert names == sorted(set(names))


@pytest.mark.parametrize(("term", "values"), [("release", get_args(Outcome)), ("objective", get_args(Objective))])
def test_the_values_that_a_meaning_lists_are_those_of_the_contract(term, values):
    _, _, listed = dict(terms())[term].rpartition(": ")
    assert re.findall(r"[a-z]+", listed.replace(" or ", ", ")) == list(values)


def test_every_meaning_is_a_sentence():
    assert [name for name, meaning in terms() if not meaning.endswith(".")] == []
