"""Bills of materials, vulnerabilities and licences: the real tools, in the environment that `make audit` makes."""

import json
import subprocess
import sys
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from deploy.setup import audit, locks
from testbed.ports import free_port

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


# -- vulnerabilities -------------------------------------------------------------------------------------------------------

KNOWN = {
    "id": "GHSA-0000-0000-0001",
    "aliases": ["CVE-2026-0001"],
    "summary": "an example",
    "affected": [
        {
            "package": {"name": "minio", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "7.3.0"}]}],
        }
    ],
}


@pytest.fixture
def service():
    """A service that speaks OSV's API and knows one vulnerability."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps({"vulns": [KNOWN]} if asked["package"]["name"] == "minio" else {}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_known_vulnerability_is_found_in_each_locked_version(service):
    findings = audit.audit(["minio==7.2.20", "minio==7.2.0", "rich==15.0.0"], service, 5)
    assert [(finding.package, finding.version) for finding in findings] == [("minio", "7.2.20"), ("minio", "7.2.0")]
    assert findings[0].sentence() == "minio 7.2.20: CVE-2026-0001, GHSA-0000-0000-0001; fixed in 7.3.0"


def test_a_service_without_an_answer_has_an_exit_status_of_its_own():
    nowhere = f"http://127.0.0.1:{free_port()}/v1/query"
    command = [sys.executable, "-m", "deploy.setup.audit", "--service", nowhere, "--timeout-s", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == audit.NO_ANSWER
    assert done.stderr.startswith(
        f"{nowhere} gave no answer, so nothing is known of the {len(audit.locked())} locked packages"
    )


def test_the_projects_own_list_of_accepted_findings_can_be_read():
    assert isinstance(audit.read_acceptances((ROOT / audit.ACCEPTED).read_text()), list)


KNOWN_OF_MINIO = audit.Finding("minio", "7.2.20", frozenset({"GHSA-1", "CVE-1"}), ())
TODAY = date(2026, 11, 26)


def accepted(**fields) -> list[audit.Acceptance]:
    return [audit.Acceptance(**{"id": "CVE-1", "package": "minio", "reason": "why", "until": TODAY, **fields})]


def test_an_accepted_finding_is_no_finding_until_its_day_is_over():
    assert audit.judge([KNOWN_OF_MINIO], accepted(), TODAY) == []
    assert audit.judge([KNOWN_OF_MINIO], accepted(), date(2026, 11, 27)) == [
        "minio 7.2.20: CVE-1, GHSA-1; no version with a fix is known (accepted until 2026-11-26)"
    ]


@pytest.mark.parametrize("fields", [{"package": "rich"}, {"id": "CVE-2"}])
def test_an_acceptance_of_something_else_changes_nothing(fields):
    assert audit.judge([KNOWN_OF_MINIO], accepted(**fields), TODAY)[0] == KNOWN_OF_MINIO.sentence()


def test_an_acceptance_without_a_finding_is_to_be_removed():
    assert audit.judge([], accepted(), TODAY) == ["requirements/audit.toml: CVE-1 of minio is not found any more"]


@pytest.mark.parametrize("missing", ["reason = ''", "until = '2027-01-01'", ""])
def test_an_acceptance_without_reason_or_day_is_refused(missing):
    fields = {
        "id": "id = 'CVE-1'",
        "package": "package = 'minio'",
        "reason": "reason = 'x'",
        "until": "until = 2027-01-31",
    }
    field = missing.partition(" ")[0] or "until"
    fields[field] = missing
    with pytest.raises(ValueError, match="needs id, package, reason and until"):
        audit.read_acceptances("[[accepted]]\n" + "\n".join(fields.values()))
