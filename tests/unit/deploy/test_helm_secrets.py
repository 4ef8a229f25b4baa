"""Secrets for Kubernetes from a folder of keys: each holds what the chart mounts, and of one identity only."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from contracts.provenance import ATTESTERS
from contracts.services import SERVICES
from contracts.store_access import SERVICE_ACCESS
from deploy.helm.secrets import contents, manifests
from deploy.identity.key_folder import KeyFolder

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["slipway-nats"], NOW, ["slipway-store"])
    folder.add("ann", ["administrator"])
    return folder.path


def test_a_service_has_the_files_that_its_contract_says(keys):
    secrets = dict(contents(keys, {}, []))
    for name in SERVICES:
        assert ("store" in secrets[name]) == (name in SERVICE_ACCESS), name
        assert ("attestation" in secrets[name]) == (name in ATTESTERS), name
    assert "api-keys.json" in secrets["gateway"]
    assert "gateway-key" in secrets["rollback-controller"]
    assert {"credential", "store"} <= set(secrets["provisioner"])
    assert {"bus.conf", "bus.pem", "bus-key.pem"} <= set(secrets["bus"])


def test_no_secret_holds_what_is_secret_of_another(keys):
    """Neither the authority's key nor one credential twice."""
    secrets = dict(contents(keys, {"smoke": "ann"}, []))
    credentials = [content["credential"] for content in secrets.values() if "credential" in content]
    assert len(set(credentials)) == len(credentials) == len(SERVICES) + 2
    assert (keys / "ca-key.pem").read_text() not in str(secrets)


def test_the_key_of_triton_stays_the_same(keys):
    first, second = (dict(contents(keys, {}, []))["triton"]["admin-key"] for _ in range(2))
    assert first == second
    assert len(first) >= 32
    assert (keys / "triton/admin-key").stat().st_mode & 0o077 == 0


def test_they_are_objects_of_kubernetes_with_the_prefix(keys):
    objects = list(yaml.safe_load_all(manifests("acme", contents(keys, {"smoke": "ann"}, ["ann"]))))
    names = {each["metadata"]["name"] for each in objects}
    assert {"acme-trust", "acme-smoke", "acme-console-orders", "acme-registry"} <= names
    assert {each["kind"] for each in objects} == {"Secret"}
    (trust,) = (each for each in objects if each["metadata"]["name"] == "acme-trust")
    assert trust["stringData"]["ca.pem"] == (keys / "ca.pem").read_text()


def test_an_identity_without_a_key_is_refused(keys):
    command = [sys.executable, "-m", "deploy.helm.secrets", str(keys), "--smoke", "bob"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "bob has no key in this folder" in done.stderr
    assert done.stdout == ""
