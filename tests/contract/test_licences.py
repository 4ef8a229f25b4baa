"""A package that the page of licences lacks is found, and a licence that was not looked at is refused."""

import shutil

import pytest

from deploy.setup import licences
from tests.kit.wiring import ROOT

POLICY = licences.Policy(frozenset({"MIT", "Apache-2.0", "BSD License"}), {"tqdm": "used unchanged"})


def package(**fields: str) -> dict[str, str]:
    named = {field.replace("_", "-"): value for field, value in fields.items()}
    return {"License-Expression": "UNKNOWN", "License-Metadata": "UNKNOWN", "License-Classifier": "UNKNOWN", **named}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"License_Expression": "MIT", "License_Metadata": "GPL"}, "MIT"),
        ({"License_Metadata": "BSD-3-Clause", "License_Classifier": "BSD License"}, "BSD-3-Clause"),
        ({"License_Metadata": "Permission is hereby granted " * 9, "License_Classifier": "MIT License"}, "MIT License"),
        ({"License_Metadata": "Permission is hereby granted " * 9}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_package_names_its_licence(fields, name):
    assert licences.name_of_licence(package(**fields)) == name


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("BSD License; GNU General Public License (GPL)", False),
        ("LGPL-2.1-only", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_only_licences_that_were_looked_at_are_allowed(licence, allowed):
    assert POLICY.allows(licence) == allowed


def test_another_licence_needs_a_reason_and_a_reason_needs_such_a_licence():
    assert licences.assess({"tqdm": "MPL-2.0", "rich": "MIT"}, POLICY) == []
    wrong = licences.assess({"tqdm": "MIT", "copyleft": "AGPL-3.0-only", "silent": "unknown"}, POLICY)
    assert [line.split(":")[0] for line in wrong] == ["copyleft", "silent", "tqdm"]


def test_a_page_is_read_as_it_is_written():
    installed = {"main": {"rich": "MIT", "tqdm": "MPL-2.0"}, "engine": {"tqdm": "MPL-2.0"}}
    by_package, by_environment = licences.read_page(licences.page(installed, POLICY))
    assert by_package == {"rich": "MIT", "tqdm": "MPL-2.0"}
    installed_in = {name: packages for name, packages in by_environment.items() if packages}
    assert installed_in == {"main": {"rich", "tqdm"}, "engine": {"tqdm"}}


def test_a_new_package_and_a_removed_one_are_found(tmp_path):
    for folder in ("requirements", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    page = tmp_path / licences.PAGE
    page.write_text(page.read_text().replace("| minio |", "| minio-of-old |"))
    assert licences.findings(tmp_path) == [
        "docs/licences.md: minio is missing from main",
        "docs/licences.md: minio-of-old is no longer in main",
    ]
