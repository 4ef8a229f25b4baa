"""Keys are not sent in plain text: who may speak plain HTTP, and which settings are refused."""

from ipaddress import ip_address

import pytest
from pydantic import ValidationError

from services.gateway.adapters.transport import plain_peers, require_transport
from services.gateway.settings import GatewaySettings

CERTIFICATE = {"tls_certificate": "chain.pem", "tls_key": "key.pem"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
def test_an_address_that_others_reach_needs_tls_or_proxies_that_have_it(host):
    with pytest.raises(SystemExit, match="GATEWAY_TLS_CERTIFICATE"):
        require_transport(host, GatewaySettings())
    require_transport(host, GatewaySettings(**CERTIFICATE))
    require_transport(host, GatewaySettings(trusted_proxies="192.0.2.7, 2001:db8::/32"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_neither(host):
    require_transport(host, GatewaySettings())


@pytest.mark.parametrize(
    ("address", "within"),
    [
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:192.0.2.7", True),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("fe80::1%eth0", False),
        ("127.0.0.1", True),
        ("::1", True),
        ("", False),
        ("unix", False),
    ],
)
def test_plain_http_comes_from_this_machine_and_trusted_proxies_only(address, within):
    peers = plain_peers(GatewaySettings(trusted_proxies="192.0.2.7,2001:db8::/32"))
    assert peers.include(address) is within


@pytest.mark.parametrize(
    ("number", "within"), [(10 << 24 | 5, True), (192 << 24 | 168 << 16 | 9, True), (8 << 24, False)]
)
def test_private_networks_may_be_trusted_as_a_whole(number, within):
    address = str(ip_address(number))
    assert plain_peers(GatewaySettings(trusted_proxies="private")).include(address) is within
    assert not plain_peers(GatewaySettings()).include(address)


def test_with_tls_all_may_connect():
    assert plain_peers(GatewaySettings(**CERTIFICATE)) is None


@pytest.mark.parametrize(
    "settings", [{"trusted_proxies": "everybody"}, {"tls_certificate": "chain.pem"}, {"tls_key": "key.pem"}]
)
def test_settings_that_would_not_do_what_they_say_are_refused(settings):
    with pytest.raises(ValidationError):
        GatewaySettings(**settings)
