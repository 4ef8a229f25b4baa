"""Hosts of the certificates of bus and store: a name that clients would refuse is refused when it is asked for."""

import itertools

import pytest
from typer.testing import CliRunner

from clients.cli.commands.installation.keys import keys_app
from deploy.identity.certificates import KeyPair, hosts_of, make_authority, make_server_certificate
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder
from deploy.identity.server_certificates import check_hosts
from shared.runtime.clock import SystemClock
from tests.kit.tls import accepts

LABELS = ("*", "a*", "b", "b-", "b_c")
PATTERNS = [
    ".".join(labels)
    for count in (1, 2, 3)
    for labels in itertools.product(LABELS, repeat=count)
    if any("*" in label for label in labels)
]
LONGER = ["*.b.c.d", "b.*.c.d", "*.xn--bcher-kva.org", "xn--*.b.org", "*.B-2.org"]


def is_refused(host):
    try:
        check_hosts([host])
    except KeysRefused:
        return True
    return False


@pytest.fixture(scope="module")
def authority():
    return make_authority(SystemClock().now())


def test_a_wildcard_is_refused_exactly_where_openssl_does_not_take_it(authority, tmp_path):
    """Go takes `*.slipway-nats` for a pod of that service, so that servers find each other and clients none of them."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    differ = {}
    for pattern in [*PATTERNS, *LONGER]:
        made = make_server_certificate(authority, [pattern], SystemClock().now())
        (tmp_path / "server.pem").write_bytes(made.certificate)
        (tmp_path / "server-key.pem").write_bytes(made.key)
        taken = accepts(
            tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server-key.pem", pattern.replace("*", "x")
        )
        if taken == is_refused(pattern):
            differ[pattern] = taken
    assert differ == {}


@pytest.mark.parametrize("host", ["slipway-nats-0.slipway-nats", "nats", "127.0.0.1", "::1", "*.bus.example.org"])
def test_names_addresses_and_wildcards_of_a_domain_are_taken(host):
    check_hosts([host])


@pytest.mark.parametrize("option", ["--host", "--store-host"])
def test_the_command_says_which_wildcard_it_refuses_and_makes_nothing(option, tmp_path):
    folder = tmp_path / "keys"
    done = CliRunner().invoke(keys_app, ["init", option, "*.slipway-nats", "--folder", str(folder)])
    assert done.exit_code == 1
    assert "*.slipway-nats" in str(done.exception)
    assert "each host" in str(done.exception)
    assert not folder.exists()


def test_a_certificate_that_has_such_a_wildcard_from_before_gets_the_names_that_are_missing(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    now = SystemClock().now()
    keys.prepare(["slipway-nats"], now)
    signer = KeyPair(keys.authority.read_bytes(), keys.authority_key.read_bytes())
    before = make_server_certificate(signer, ["slipway-nats", "*.slipway-nats"], now)
    keys.certificate.write_bytes(before.certificate)
    keys.certificate_key.write_bytes(before.key)
    pod = "slipway-nats-0.slipway-nats"
    assert not accepts(keys.authority, keys.certificate, keys.certificate_key, pod)
    done = CliRunner().invoke(keys_app, ["init", "--host", pod, "--folder", str(keys.path)])
    assert done.exit_code == 0, done.output
    assert pod in hosts_of(keys.certificate.read_bytes())
    assert accepts(keys.authority, keys.certificate, keys.certificate_key, pod)
