"""A program without the credential of its identity does not start, and says what to do."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.identities import PROVISIONER, Credential
from contracts.services import SERVICES
from deploy.identity.key_folder import KeyFolder
from shared.messaging.credentials import read_seed
from shared.runtime.settings import Connection
from testbed import forked

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = {
    **{name: f"services.{name.replace('-', '_')}.main" for name in SERVICES},
    PROVISIONER: "shared.messaging.provision",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1"], datetime.now(UTC))
    return folder


def start(module: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
    command = [sys.executable, "-m", module]
    return forked.run(command, environment={**inherited, **variables}, cwd=ROOT, timeout_s=60)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_without_a_credential_is_refused_with_what_to_do(name):
    done = start(PROGRAMS[name])
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"{name}: no_credentials: The bus takes no connection without a credential. ")
    assert f"credentials/{name}.nk" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_credential_of_another_one_a_missing_file_and_no_tls_are_refused(keys):
    module, ca = PROGRAMS["merger"], str(keys.authority)
    other = start(module, SLIPWAY_NATS_CREDENTIALS=str(keys.credential("registry")), SLIPWAY_NATS_CA=ca)
    assert "is the credential of registry" in other.stderr
    missing = start(module, SLIPWAY_NATS_CREDENTIALS=str(keys.credential("nobody")), SLIPWAY_NATS_CA=ca)
    assert "no readable credential" in missing.stderr
    plain = start(module, SLIPWAY_NATS_CREDENTIALS=str(keys.credential("merger")))
    assert "The bus takes no connection without TLS" in plain.stderr
    assert {done.returncode for done in (other, missing, plain)} == {1}


def test_the_secret_is_that_of_the_credential(keys):
    own = Connection(nats_credentials=keys.credential("server-manager"))
    seed = Credential.from_text(keys.credential("server-manager").read_text()).seed.get_secret_value()
    assert read_seed(own) == seed
    with pytest.raises(ValueError, match="names no credential"):
        read_seed(Connection())
