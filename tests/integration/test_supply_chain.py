"""Bills of materials: the real tool, in the environment that `make sbom` makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from deploy.setup import locks

pytestmark = pytest.mark.full
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-audit/bin/python"
VALIDATE = """
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
validator = JsonStrictValidator(SchemaVersion.V1_6)
print([validator.validate_str(json.dumps(bill)) is None for bill in json.load(sys.stdin)])
"""


@pytest.fixture(scope="module", autouse=True)
def tools():
    done = subprocess.run(
        [ROOT / "deploy/setup/environment.sh", "audit"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


# -- bills of materials ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> dict:
    """The bill of materials of the smallest environment."""
    done = subprocess.run(
        [ROOT / "deploy/setup/sbom.sh", "audit"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((ROOT / done.stdout.strip()).read_text())


def test_a_bill_of_materials_names_every_locked_package_and_no_other(bill):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pins = locks.read_pins((ROOT / "requirements/audit.txt").read_text())
    needed = {pin.name: pin.version for pin in pins if " ; " not in pin.text or f"== '{version}'" in pin.text}
    listed = {canonicalize_name(item["name"]): item["version"] for item in bill["components"]}
    assert listed == needed
    assert all(item["purl"].startswith("pkg:pypi/") for item in bill["components"])
    assert sum("licenses" in item for item in bill["components"]) > 0.9 * len(listed)


def test_a_bill_of_materials_follows_the_schema_of_cyclonedx(bill):
    few = {**bill, "components": bill["components"][:3], "dependencies": []}
    broken = {**few, "components": [{**few["components"][0], "type": "no such type"}]}
    done = subprocess.run(
        [PYTHON, "-c", VALIDATE],
        input=json.dumps([few, broken]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "[True, False]\n"
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")


def test_an_unknown_environment_is_refused():
    done = subprocess.run([ROOT / "deploy/setup/sbom.sh", "x"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "sbom.sh: main, engine or audit, not 'x'\n")
