"""The servers of a stack's message bus: one, or a cluster of three. Their names, ports and configuration, as data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.identity.bus_config import cluster, tls
from deploy.identity.key_files import KeyFiles
from deploy.local.ports import LOOPBACK

NATS: Final = "nats"
"""The part that is the first server; the others are `nats-2` and `nats-3`. Each has a folder and a log of its own."""
SIZES: Final = (1, 3)
"""How many servers a bus may have. Two would stand still as soon as one of them is away."""


def server_names(size: int) -> list[str]:
    """Return the names of the servers of a bus that has `size` servers."""
    return [NATS, *(f"{NATS}-{number}" for number in range(2, size + 1))]


def monitor_port(name: str) -> str:
    """Return the name of the port where a server answers probes."""
    return f"{name}-monitor"


def route_port(name: str) -> str:
    """Return the name of the port where the other servers of its cluster reach a server."""
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
    """Return whether any bus server of the stack in this state folder has stored data.

    From then on the number of bus servers cannot change.
    """
    return any((folder / name / "jetstream").exists() for name in server_names(max(SIZES)))


def addresses(ports: Mapping[str, int]) -> list[int]:
    """Return the ports where clients reach the servers of the stack that has these ports."""
    return [ports[name] for name in servers_in(ports)]


def resized(ports: Mapping[str, int], size: int) -> dict[str, int]:
    """Return a stack's ports for a bus of this size: without the bus's ports if its size was another."""
    dropped = {*port_names(max(SIZES))} if len(servers_in(ports)) != size else set()
    return {name: port for name, port in ports.items() if name not in dropped}


def bus_url(*ports: int) -> str:
    """Return the addresses of servers on loopback ports, as settings name them."""
    return ",".join(f"tls://{LOOPBACK}:{port}" for port in ports)


def server_config(folder: Path, ports: Mapping[str, int], keys: KeyFiles, name: str = NATS) -> str:
    """Return the configuration of a server.

    Every acknowledged message is on disk: `sync_interval: always`. The store holds all that `messaging.topology`
    lets streams and buckets take. Only the identities of the keys connect, by TLS; only servers with the certificate
    of the bus join its cluster.
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
