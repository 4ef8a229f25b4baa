"""Names, ports and configuration of the message bus's servers: one, or a cluster of three."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.identity.bus_config import cluster, tls
from deploy.identity.key_files import KeyFiles
from deploy.local.ports import LOOPBACK

NATS: Final = "nats"
"""Name of the first server; the others are `nats-2` and `nats-3`."""
SIZES: Final = (1, 3)
"""Allowed numbers of servers; two would have no majority without one of them."""


def server_names(size: int) -> list[str]:
    """Return the names of the servers of a bus that has `size` servers."""
    return [NATS, *(f"{NATS}-{number}" for number in range(2, size + 1))]


def monitor_port(name: str) -> str:
    """Return the name of a server's monitoring port."""
    return f"{name}-monitor"


def route_port(name: str) -> str:
    """Return the name of a server's port for its cluster."""
    return f"{name}-routes"


def port_names(size: int) -> list[str]:
    """Return the names of all ports of a bus with `size` servers."""
    names = server_names(size)
    routes = [route_port(name) for name in names] if size > 1 else []
    return [*names, *(monitor_port(name) for name in names), *routes]


def servers_in(ports: Mapping[str, int]) -> list[str]:
    """Return the names of the bus servers that a stack has ports for; empty before the stack has ports."""
    return [name for name in server_names(max(SIZES)) if name in ports]


def has_stored(folder: Path) -> bool:
    """Return whether a bus server in a state folder has data, after which their number cannot change."""
    return any((folder / name / "jetstream").exists() for name in server_names(max(SIZES)))


def addresses(ports: Mapping[str, int]) -> list[int]:
    """Return the client ports of a stack's bus servers."""
    return [ports[name] for name in servers_in(ports)]


def resized(ports: Mapping[str, int], size: int) -> dict[str, int]:
    """Return a stack's ports, without the bus's ports if its size changes."""
    dropped = {*port_names(max(SIZES))} if len(servers_in(ports)) != size else set()
    return {name: port for name, port in ports.items() if name not in dropped}


def bus_url(*ports: int) -> str:
    """Return the addresses of servers on loopback ports, for settings."""
    return ",".join(f"tls://{LOOPBACK}:{port}" for port in ports)


def server_config(folder: Path, ports: Mapping[str, int], keys: KeyFiles, name: str = NATS) -> str:
    """Return the configuration of a server.

    Acknowledged messages are on disk (`sync_interval: always`). The store has space for the limits of all streams and
    buckets. Clients connect by TLS with a listed key, servers join the cluster with the bus's certificate.
    """
    included = keys.server_config.relative_to(folder)  # the server reads an absolute path as a relative one
    others = [each for each in servers_in(ports) if each != name]
    text = (
        f'server_name: {name if others else "slipway"}\nlisten: "{LOOPBACK}:{ports[name]}"\n'
        f'http: "{LOOPBACK}:{ports[monitor_port(name)]}"\n'
        "max_payload: 8MB\n"
        f'jetstream {{\n  store_dir: "{folder / name}"\n  sync_interval: always\n'
        "  max_mem: 256MB\n  max_file_store: 16GB\n}\n"
        f"include {json.dumps(str(included))}\n"
        f"{tls(keys.certificate, keys.certificate_key)}"
    )
    if others:
        routes = [ports[route_port(each)] for each in others]
        text += cluster(f"{LOOPBACK}:{ports[route_port(name)]}", [f"{LOOPBACK}:{port}" for port in routes], keys)
    return text
