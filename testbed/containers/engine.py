"""Podman, and what of a compose project it holds: containers, volumes and networks."""

import json
import os
import shutil
import subprocess
from typing import Any

PROGRAMS = ("podman", "docker-compose", "catatonit")
PLACES = "/usr/libexec/podman:/usr/lib/podman"
CALL_S = 300.0
"""Longest call of podman; a removal waits until containers have stopped."""


def missing_programs() -> list[str]:
    """Return the programs that are not installed, of those that containers need here."""
    path = f"{os.environ.get('PATH', '')}:{PLACES}"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def environment() -> dict[str, str]:
    """Return the variables of this process, with one that keeps podman from a warning in each of its outputs."""
    return {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


def podman(*arguments: str, check: bool = True) -> str:
    """Return what podman prints.

    Raises:
        RuntimeError: Podman failed, and `check` is set.
    """
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, check=False, timeout=CALL_S, env=environment()
    )
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _label(project: str) -> str:
    return f"label=com.docker.compose.project={project}"


def containers(project: str) -> list[str]:
    """Return the names of all containers of a project."""
    return podman("ps", "--all", "--filter", _label(project), "--format", "{{.Names}}").split()


def inspect(project: str) -> list[dict[str, Any]]:
    """Return what podman knows of each container of a project, but for those that are removed meanwhile.

    Raises:
        RuntimeError: Podman twice knows none of those that it has just listed.
    """
    names: list[str] = []
    for _ in range(2):  # all of the first list may be gone
        names = containers(project)
        if not names:
            return []
        known: list[dict[str, Any]] = json.loads(podman("container", "inspect", *names, check=False) or "[]")
        if known:
            return known
    raise RuntimeError(f"podman container inspect: it knows none of {', '.join(names)}")


def volumes(project: str) -> set[str]:
    """Return the volumes of a project's containers, also those without a name, and its named ones."""
    mounted = {mount["Name"] for each in inspect(project) for mount in each["Mounts"] if mount["Type"] == "volume"}
    return mounted | set(podman("volume", "ls", "--filter", _label(project), "--format", "{{.Name}}").split())


def networks(project: str) -> set[str]:
    """Return the networks of a project."""
    return set(podman("network", "ls", "--filter", _label(project), "--format", "{{.Name}}").split())


def left(project: str, known_volumes: set[str]) -> list[str]:
    """Return the containers, networks and volumes that exist; `known_volumes` are those that it had."""
    existing = known_volumes & set(podman("volume", "ls", "--format", "{{.Name}}").split())
    remains = {
        "container": containers(project),
        "network": sorted(networks(project)),
        "volume": sorted(volumes(project) | existing),
    }
    return [f"{kind} {name}" for kind, names in remains.items() for name in names]


def remove_all(project: str) -> list[str]:
    """Remove what exists of a project, without docker-compose; return its containers, networks and volumes."""
    its_volumes, its_networks, its_containers = volumes(project), networks(project), containers(project)
    if its_containers:
        podman("rm", "--force", "--time", "5", "--volumes", *its_containers, check=False)
    if its_volumes:
        podman("volume", "rm", "--force", *its_volumes, check=False)
    if its_networks:
        podman("network", "rm", "--force", *its_networks, check=False)
    return [*its_containers, *sorted(its_networks), *sorted(its_volumes)]
