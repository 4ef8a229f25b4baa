"""Keys are not sent in plain text: who may speak plain HTTP, and which settings are refused."""

import pytest
from pydantic import ValidationError

from services.gateway.adapters.transport import is_within, plain_networks, require_transport
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
    networks = plain_networks(GatewaySettings(trusted_proxies="192.0.2.7,2001:db8::/32"))
    assert is_within(address, networks) is within


def test_with_tls_all_may_connect():
    assert plain_networks(GatewaySettings(**CERTIFICATE)) is None


@pytest.mark.parametrize(
    "settings", [{"trusted_proxies": "everybody"}, {"tls_certificate": "chain.pem"}, {"tls_key": "key.pem"}]
)
def test_settings_that_would_not_do_what_they_say_are_refused(settings):
    with pytest.raises(ValidationError):
        GatewaySettings(**settings)
