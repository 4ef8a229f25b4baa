"""Gathers facts about this machine: reads /proc, file systems, installed packages and ports; changes nothing."""

import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clients.cli.doctor.assess import Cpu, Memory, Packages, Platform, Ports, Space
from deploy.local.ports import choose_ports, is_free, release
from shared.runtime.process import available_memory_bytes, memory_bytes

SHM = Path("/dev/shm")  # noqa: S108 - only its free space is read
_INSTALLED = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)\.dist-info")


def read_platform() -> Platform:
    """Return operating system and architecture."""
    return Platform(platform.system(), platform.machine())


def read_cpu(environment: Mapping[str, str], *, proc: Path = Path("/proc")) -> Cpu:
    """Return the processor as the kernel describes it."""
    try:
        text = (proc / "cpuinfo").read_text()
    except OSError:
        text = ""
    name, flags = parse_cpuinfo(text)
    return Cpu(name, flags, len(os.sched_getaffinity(0)), environment.get("ONEDNN_MAX_CPU_ISA", ""))


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return name and feature flags of the first processor in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", "unknown CPU"), frozenset(fields.get("flags", "").split())


def read_memory() -> Memory:
    """Return how much memory this process may use, in its container if it has a limit, and how much is available."""
    return Memory(memory_bytes(), available_memory_bytes())


def read_space(folder: Path, shown: str) -> Space:
    """Return the free space for a folder that need not exist yet."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return Space(shown, shutil.disk_usage(path).free)


def read_ports(names: Iterable[str], kept: Mapping[str, int]) -> Ports:
    """Return whether a stack could listen: on the ports that it had, or on others."""
    needed = list(names)
    taken = {name: port for name, port in kept.items() if name in needed and not is_free(port)}
    try:
        chosen = choose_ports(needed, kept)
    except RuntimeError:
        return Ports(len(needed), 0, taken)
    for port in chosen.values():
        release(port)  # the stack that is started after this check reserves them itself
    return Ports(len(needed), len(chosen), taken)


def parse_pins(text: str, python: tuple[int, int]) -> list[Requirement]:
    """Return the requirements of a lock or a list that hold for a version of Python, without their hashes."""
    environment = {"python_version": f"{python[0]}.{python[1]}", "python_full_version": f"{python[0]}.{python[1]}.0"}
    lines = (line.partition("#")[0].rstrip("\\ ").lstrip() for line in text.splitlines())
    pins = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]


def installed_in(site_packages: Path) -> dict[str, str]:
    """Return name and version of each distribution in a folder, from the names of its metadata."""
    matches = (_INSTALLED.fullmatch(path.name) for path in site_packages.glob("*.dist-info"))
    return {canonicalize_name(match["name"]): match["version"] for match in matches if match is not None}


def compare_pins(pins: Iterable[Requirement], installed: Mapping[str, str]) -> Packages:
    """Return which packages are not as pinned; a local label such as `+cpu` is as good as none."""
    listed = list(pins)
    wrong = []
    for pin in listed:
        has = installed.get(canonicalize_name(pin.name), "")
        if not has or not pin.specifier.contains(has, prereleases=True):
            wrong.append((pin.name, has, str(pin.specifier) or "any"))
    return Packages(len(listed), tuple(wrong))


def read_packages(locks: Iterable[Path], site_packages: Path, python: tuple[int, int]) -> Packages:
    """Return an environment against its locks; without those files nothing is compared."""
    pins = [pin for lock in locks if lock.is_file() for pin in parse_pins(lock.read_text(), python)]
    return compare_pins(pins, installed_in(site_packages))
