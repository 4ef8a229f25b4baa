"""The check of the versions that the parts of a stack run in: the same one, once an upgrade is finished."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import nats.errors
from nats.aio.client import Client

from clients.cli.doctor.findings import Finding, ok, skipped, warning
from clients.cli.doctor.servers import once
from contracts.services import SERVICES, durable_name, stream_of
from contracts.version import VERSION
from deploy.local.ready import ask_version
from deploy.local.state import PartState
from shared.messaging.credentials import connect
from shared.messaging.running import collect_running
from shared.runtime.settings import Connection

CHECK = "versions"
UNKNOWN = "an unknown version"


def ask_versions(parts: tuple[PartState, ...]) -> Finding:
    """Ask every service of a running stack for its version."""
    services = [part for part in parts if part.probe == "service"]

    async def ask_all() -> list[str | None]:
        return list(await asyncio.gather(*(ask_version(part.admin_port or part.port) for part in services)))

    answers = asyncio.run(ask_all())
    return assess_versions({part.name: version for part, version in zip(services, answers, strict=True)})


def read_versions(connection: Connection) -> Finding:
    """Listen on a bus for the reports of its services, which each process publishes every two seconds."""
    try:
        versions = asyncio.run(_read(connection))
    except (OSError, TimeoutError, ValueError, nats.errors.Error) as error:
        return skipped(CHECK, f"the bus does not answer ({type(error).__name__})")
    if versions is None:
        why = "this identity may not read the reports of services: it needs a role that reads all models"
        return skipped(CHECK, f"{why}, and a bus that has read its permissions since the upgrade")
    return assess_versions(versions, [name for name in SERVICES if name not in versions])


async def _read(connection: Connection) -> dict[str, str | None] | None:
    """Return the version of each process, None for one that reports none; None if the bus refuses to pass them on."""
    refused: list[Exception] = []

    async def note(error: Exception) -> None:
        refused.append(error)

    client = await connect(connection, error_cb=note, **once())
    try:
        reported = await collect_running(client)
        if any("permissions violation" in str(error).lower() for error in refused):
            return None
        versions: dict[str, str | None] = {}
        for service, of_service in reported.items():
            numbered = {f"{service}-{number}" if number > 1 else service: v for number, v in enumerate(of_service, 1)}
            versions |= numbered
        silent = [name for name in SERVICES if name not in reported and await _consumes(client, name)]
        return versions | dict.fromkeys(silent)
    finally:
        await client.close()


async def _consumes(client: Client, service: str) -> bool:
    """Return whether a process of a service asks for messages: one of a version before these reports is silent."""
    for fact, environment in SERVICES[service].reads[:1]:
        with contextlib.suppress(nats.errors.Error):
            info = await client.jetstream(timeout=2).consumer_info(
                str(stream_of(fact)), durable_name(service, fact, environment)
            )
            return bool(info.num_waiting)
    return False


def assess_versions(versions: Mapping[str, str | None], unheard: Sequence[str] = ()) -> Finding:
    """Return a warning if services run in different versions, or in another one than this command line.

    Args:
        versions: The version of each process; None for one that asks for messages and reports no version.
        unheard: The services that reported nothing and ask for no messages: they do not run. Those that read no
            messages may also be of a version before these reports, which nothing shows.
    """
    if not versions:
        return skipped(CHECK, "no service runs")
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(versions.items()):
        by_version.setdefault(version or UNKNOWN, []).append(name)
    others = f"; not heard (not running, or of an earlier version): {', '.join(unheard)}" if unheard else ""
    if set(by_version) == {VERSION}:
        reporting = f"all {len(versions)} services" if not unheard else f"the {len(versions)} services that report"
        return ok(CHECK, f"{reporting} run in {VERSION}, as this command line{others}")
    detail = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(by_version.items())) + others
    advice = "finish the upgrade: docs/guides/upgrade.md has the order in which services are replaced"
    return warning(CHECK, f"this command line is {VERSION}; {detail}", advice)
