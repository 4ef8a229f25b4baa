"""Whether running containers have the limits, networks and secrets that compose.yaml names."""

from typing import Any

from testbed.containers import engine
from testbed.containers.installation import service_of

LONGEST_LOG_BYTES = 10_000_000
REACHABLE = (("gateway", "nats", 4222), ("merger", "store", 9000), ("agent", "triton", 8001))
UNREACHABLE = (
    ("gateway", "store", 9000),
    ("nats", "store", 9000),
    ("merger", "triton", 8001),
    ("quantiser", "triton", 8001),
    ("triton", "store", 9000),
    ("triton", "nats", 4222),
)
"""A container, and a name and port of another one that it has, or has not, a network with."""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
NO_WAY_OUT = "assert not any(line.split()[1] == '00000000' for line in open('/proc/net/route'))"
"""Fails if there is a default route."""
CLOSED = ("nats", "store", "triton", "quantiser", "monitor")
"""Containers without a way outside."""


def findings(compose: dict[str, Any], running: list[dict[str, Any]], secrets: list[str]) -> list[str]:
    """Return what differs between compose.yaml, as docker-compose resolves it, and containers, as podman sees them.

    Args:
        compose: What `docker-compose config` prints.
        running: What `podman inspect` prints.
        secrets: Contents of files of keys, which no environment may have.
    """
    wrong = []
    for container in running:
        name = service_of(container)
        declared = compose["services"][name]
        for what, (expected, seen) in _facts(compose, declared, container).items():
            if expected != seen:
                wrong.append(f"{name}: {what} is {seen}, not {expected}")
        wrong += [f"{name}: {what}" for what in _secrets(declared, container, secrets)]
    missing = {name for name, declared in compose["services"].items() if not declared.get("profiles")} - {
        service_of(container) for container in running
    }
    return wrong + [f"{name}: no container" for name in sorted(missing)]


def _facts(compose: dict[str, Any], declared: dict[str, Any], container: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what compose.yaml says and what the container has, by what it is."""
    host = container["HostConfig"]
    networks = {compose["networks"][name]["name"] for name in declared.get("networks") or ()}
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    volumes = [each for each in declared.get("volumes", ()) if each["type"] == "volume" and each.get("source")]
    return {
        "user": (declared["user"], container["Config"]["User"]),
        "read-only root": (True, host["ReadonlyRootfs"]),
        "capabilities": ([], container.get("EffectiveCaps") or []),
        "new privileges": (True, "no-new-privileges" in host["SecurityOpt"]),
        "limit of memory": (int(declared["mem_limit"]), host["Memory"]),
        "limit of processors": (float(declared.get("cpus", 0)), host["NanoCpus"] / 1e9),
        "share of processors": (declared.get("cpu_shares", 0), host["CpuShares"]),
        "limit of processes": (declared["pids_limit"], host["PidsLimit"]),
        "log that is rotated": (LONGEST_LOG_BYTES, _bytes(host["LogConfig"].get("Size", ""))),
        "restart": (declared.get("restart", "no"), host["RestartPolicy"]["Name"] or "no"),
        "networks": (networks, {name for name in container["NetworkSettings"]["Networks"] if name != "none"}),
        "published ports": (
            {f"{port.get('host_ip', '')}:{port['published']}" for port in declared.get("ports", ())},
            {
                f"{at['HostIp']}:{at['HostPort']}"
                for ports in (host["PortBindings"] or {}).values()
                for at in ports or ()
            },
        ),
        "named volumes": (
            {each["target"]: compose["volumes"][each["source"]]["name"] for each in volumes},
            {each["target"]: mounts.get(each["target"], {}).get("Name") for each in volumes},
        ),
    }


def _secrets(declared: dict[str, Any], container: dict[str, Any], secrets: list[str]) -> list[str]:
    """Return what is wrong with a container's secrets: each is a file that it cannot write, and in no variable."""
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    files = [f"/run/secrets/{each['target'].removeprefix('/run/secrets/')}" for each in declared.get("secrets", ())]
    wrong = [
        f"the secret {file} is no file that is read-only" for file in files if mounts.get(file, {"RW": True})["RW"]
    ]
    foreign = {place for place in mounts if place.startswith("/run/secrets/")} - set(files)
    environment = "\n".join(container["Config"]["Env"])
    if any(secret in environment for secret in secrets):
        wrong.append("a variable holds the content of a file of keys")
    return wrong + [f"it has the secret {file}, which compose.yaml does not name" for file in sorted(foreign)]


def _bytes(size: str) -> int:
    """Return a size as podman writes it, such as 10MB, in bytes; 0 if there is none."""
    units = {"kB": 1000, "MB": 1000**2, "GB": 1000**3, "B": 1}
    for unit, factor in units.items():
        if size.endswith(unit):
            return round(float(size.removesuffix(unit)) * factor)
    return 0


def reach_findings(project: str) -> list[str]:
    """Return the connections between containers that exist but should not, or the other way round."""
    wrong = [f"{a} cannot reach {b}:{port}" for a, b, port in REACHABLE if not _runs(project, a, CONNECT, b, str(port))]
    wrong += [f"{a} reaches {b}:{port}" for a, b, port in UNREACHABLE if _runs(project, a, CONNECT, b, str(port))]
    return wrong + [f"{name} has a way outside" for name in CLOSED if not _runs(project, name, NO_WAY_OUT)]


def _runs(project: str, service: str, program: str, *arguments: str) -> bool:
    """Return whether a program of Python succeeds in a service's container."""
    name = f"{project}-{service}-1"
    shown = engine.podman("exec", name, "python", "-c", f"{program}\nprint('done')", *arguments, check=False)
    return shown.strip() == "done"
