"""Keys are not sent in plain text: where plain HTTP is spoken, and which settings are refused."""

import pytest
from pydantic import ValidationError

from services.gateway.main import require_transport
from services.gateway.settings import GatewaySettings

CERTIFICATE = {"tls_certificate": "chain.pem", "tls_key": "key.pem"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
def test_an_address_that_others_reach_needs_tls_or_a_proxy_that_has_it(host):
    with pytest.raises(SystemExit, match="GATEWAY_TLS_CERTIFICATE"):
        require_transport(host, GatewaySettings())
    require_transport(host, GatewaySettings(**CERTIFICATE))
    require_transport(host, GatewaySettings(behind_proxy=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_neither(host):
    require_transport(host, GatewaySettings())


@pytest.mark.parametrize("settings", [{"tls_certificate": "chain.pem"}, {"tls_key": "key.pem"}])
def test_settings_that_would_not_do_what_they_say_are_refused(settings):
    with pytest.raises(ValidationError):
        GatewaySettings(**settings)
