"""A host that is cut off: its containers reach each other, and nothing else reaches them, without a sign of it.

Packets are dropped in the containers' own network namespaces, in both directions, as by a cable that is pulled.
`podman network disconnect` would take the interfaces away instead: programs notice that at once, containers of one host
lose each other, too, and come back with other addresses. Names are still resolved, as by a resolver of the host's own.
"""

import subprocess
from typing import Any

from testbed.containers.hosts.members import pids

TABLE = "slipway_partition"
DNS = 53


def rules(inside: set[str]) -> str:
    """Return the rules of nftables for a container of a host whose containers have these addresses.

    Raises:
        ValueError: There is no address: everything would be dropped, and nothing is a host.
    """
    if not inside:
        msg = "a host that is cut off needs at least one address of its own"
        raise ValueError(msg)
    own = ", ".join(sorted(inside))
    return f"""table inet {TABLE} {{
  set inside {{ type ipv4_addr; elements = {{ {own} }} }}
  chain arriving {{
    type filter hook input priority 0; policy drop;
    iif lo accept
    ip saddr @inside accept
    udp sport {DNS} accept
  }}
  chain leaving {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    ip daddr @inside accept
    udp dport {DNS} accept
  }}
}}
"""


def addresses(containers: list[dict[str, Any]]) -> set[str]:
    """Return the addresses of containers in all their networks."""
    networks = (each["NetworkSettings"]["Networks"] or {} for each in containers)
    return {network["IPAddress"] for every in networks for network in every.values() if network.get("IPAddress")}


def cut(containers: list[dict[str, Any]]) -> None:
    """Cut the containers of a host that run off from everything but each other.

    Raises:
        RuntimeError: nft refused the rules.
    """
    text = rules(addresses(containers))
    for pid in pids(containers):
        _nft(pid, "-f", "-", text=text)


def join(containers: list[dict[str, Any]]) -> None:
    """Let the containers of a host reach everything again; one that was started meanwhile has no rules."""
    for pid in pids(containers):
        if TABLE in _nft(pid, "list", "tables"):
            _nft(pid, "delete", "table", "inet", TABLE)


def _nft(pid: int, *arguments: str, text: str = "") -> str:
    command = ["nsenter", "--target", str(pid), "--net", "nft", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        msg = f"{' '.join(command)}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout
