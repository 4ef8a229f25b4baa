"""The check of the versions that the parts of a stack run in: the same one, once an upgrade is finished."""

import asyncio
from collections.abc import Mapping

from clients.cli.doctor.findings import Finding, ok, skipped, warning
from contracts.version import VERSION
from deploy.local.ready import ask_version
from deploy.local.state import PartState

CHECK = "versions"
UNKNOWN = "an unknown version"


def ask_versions(parts: tuple[PartState, ...]) -> Finding:
    """Ask every service of a running stack for its version."""
    services = [part for part in parts if part.probe == "service"]

    async def ask_all() -> list[str | None]:
        return list(await asyncio.gather(*(ask_version(part.admin_port or part.port) for part in services)))

    answers = asyncio.run(ask_all())
    return assess_versions({part.name: version for part, version in zip(services, answers, strict=True)})


def assess_versions(versions: Mapping[str, str | None]) -> Finding:
    """Return a warning if services run in different versions, or in another one than this command line."""
    if not versions:
        return skipped(CHECK, "no service runs")
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(versions.items()):
        by_version.setdefault(version or UNKNOWN, []).append(name)
    if set(by_version) == {VERSION}:
        return ok(CHECK, f"all {len(versions)} services run in {VERSION}, as this command line")
    detail = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(by_version.items()))
    advice = "finish the upgrade: docs/guides/upgrade.md has the order in which services are replaced"
    return warning(CHECK, f"this command line is {VERSION}; {detail}", advice)
