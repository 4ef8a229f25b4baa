"""The part of a NATS server's configuration with the identities that may connect, and their permissions."""

import json
from collections.abc import Iterable
from pathlib import Path

from contracts.identities import Identity
from contracts.teams import Team
from decisions.access.bus_permissions import Permissions, permissions_of
from decisions.access.teams import narrowed
from deploy.identity.key_files import KeyFiles

ANSWER_WITHIN = "2m"
"""Time limit of the answer to a request."""


def authorization(identities: Iterable[Identity], teams: Iterable[Team] = ()) -> str:
    """Return the block `authorization` with a user for each accepted key."""
    owned = tuple(teams)
    users = "\n".join(
        f"    {{ nkey: {key}, permissions: {permission_map(permissions_of(identity))} }} # {identity.name}"
        for identity in (narrowed(each, owned) for each in identities)
        for key in identity.public_keys
    )
    return f"authorization {{\n  users = [\n{users}\n  ]\n}}\n"


def tls(certificate: Path, key: Path) -> str:
    """Return the block `tls`: every client begins with TLS 1.3.

    Not `handshake_first: auto`: slower clients lose the greeting that the server then sends in plain text after 50 ms.
    """
    return (
        f"tls {{\n  cert_file: {json.dumps(str(certificate))}\n  key_file: {json.dumps(str(key))}\n"
        '  min_version: "1.3"\n  timeout: 5\n  handshake_first: true\n}\n'
    )


def cluster(listen: str, routes: Iterable[str], keys: KeyFiles, *, advertised: str | None = None) -> str:
    """Return the block `cluster` of a server: it joins others, by TLS on both ends with the certificate of the bus.

    Args:
        listen: HOST:PORT for the other servers.
        routes: Addresses of the other servers.
        keys: The installation's keys, with a certificate for all servers.
        advertised: Advertised address, if not `listen`.
    """
    advertise = "" if advertised is None else f"  cluster_advertise: {json.dumps(advertised)}\n"
    return (
        f"cluster {{\n  name: slipway\n  listen: {json.dumps(listen)}\n{advertise}"
        f"  tls {{\n    cert_file: {json.dumps(str(keys.certificate))}\n"
        f"    key_file: {json.dumps(str(keys.certificate_key))}\n    ca_file: {json.dumps(str(keys.authority))}\n"
        '    min_version: "1.3"\n    timeout: 5\n  }\n'
        f"  routes: {json.dumps([f'nats://{route}' for route in routes])}\n}}\n"
    )


def permission_map(permissions: Permissions) -> str:
    """Return permissions as a map of the server's configuration."""
    publish: dict[str, list[str]] = {"allow": list(permissions.publish)}
    if permissions.deny_publish:
        publish["deny"] = list(permissions.deny_publish)
    answers = {"allow_responses": {"max": 1, "expires": ANSWER_WITHIN}} if permissions.answers else {}
    return json.dumps({"publish": publish, "subscribe": {"allow": list(permissions.subscribe)}, **answers})
