"""The checks of what the bus may still take: bytes on its disk, and consumers of its streams."""

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException

import nats.errors
from nats.aio.client import Client
from nats.js.api import StorageType
from nats.js.errors import Error as JetStreamError

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.findings import Finding, failure, ok, skipped, warning
from clients.cli.doctor.gather import read_space
from clients.cli.doctor.servers import once
from clients.cli.doctor.stack import read_description
from deploy.local import bus
from deploy.local.ports import LOOPBACK
from deploy.local.state import StateFolder
from shared.errors import SlipwayError
from shared.messaging import topology
from shared.messaging.credentials import connect
from shared.messaging.topology import consumer_limit
from shared.runtime.settings import Connection

BUS, CONSUMERS = "bus disk", "bus consumers"
MOST_CONSUMERS = 0.8
"""Share of the consumers that a stream may have, from which on it is said."""
_ANSWER_S = 2.0
_REFUSED = (OSError, TimeoutError, ValueError, nats.errors.Error, JetStreamError, SlipwayError)


@dataclass(frozen=True)
class BusSpace:
    """The file store of a server of a bus; sizes in bytes.

    Attributes:
        limit: What its streams and buckets on disk may take in all.
        used: What they take now.
        unlimited: Those without a limit.
        file_store: What the server, or the account, lets them take; None where that cannot be seen.
        free: Free space on the disk under it; None where that cannot be seen.
        servers: Servers of the bus that have a store of that size on this disk.
    """

    limit: int
    used: int
    unlimited: tuple[str, ...] = ()
    file_store: int | None = None
    free: int | None = None
    servers: int = 1

    @property
    def growth(self) -> int:
        """Return what they may take beyond what they take now, on the disk of all its servers."""
        return max(0, self.limit - self.used) * self.servers


def assess_bus(space: BusSpace, where: str) -> Finding:
    """Return whether the streams and buckets of a bus can grow to their limits.

    Args:
        space: Its file store.
        where: The folder or address, for people.
    """
    if space.unlimited:
        detail = f"{where}: without a limit of size: {', '.join(space.unlimited)}"
        return warning(BUS, detail, "run `python -m shared.messaging.provision`; its log names those that it leaves")
    each = f" on each of {space.servers} servers" if space.servers > 1 else ""
    limits = f"streams and buckets may take {_gib(space.limit)} GiB{each}, {_gib(space.used)} GiB taken"
    if space.file_store is not None and space.file_store < space.limit:
        detail = f"{where}: {limits}; the server allows {_gib(space.file_store)} GiB"
        advice = f"set max_file_store (of an account: its storage) to {space.limit} bytes or more; with less, full "
        return failure(BUS, detail, f"{advice}streams also keep routes from being written, and no rollback happens")
    if space.free is None:
        return ok(BUS, f"{where}: {limits}; its disk is not seen from here, and needs {_gib(space.growth)} GiB free")
    detail = f"{limits}; {_gib(space.free)} GiB free for {where}"
    if space.free < space.growth:
        advice = f"keep {_gib(space.growth)} GiB free for them, or give {where} a disk of its own"
        return warning(BUS, detail, f"{advice}; while it is full, releases wait (docs/operations.md, The bus)")
    return ok(BUS, detail)


def assess_consumers(used: Mapping[str, tuple[int, int]]) -> Finding:
    """Return whether streams and buckets can have more consumers.

    Args:
        used: By stream: its consumers, and how many it may have.
    """
    shares = {name: count / limit for name, (count, limit) in used.items()}
    fullest = sorted(shares, key=lambda name: shares[name], reverse=True)
    named = [f"{name} has {used[name][0]} of {used[name][1]}" for name in fullest]
    above = [name for name in fullest if shares[name] >= MOST_CONSUMERS]
    if not above:
        return ok(CONSUMERS, named[0] if named else "no stream yet")
    advice = (
        f"as administrator see `nats consumer ls {above[0]}`: a reader's are named after it with a number, a service's "
        "with `__`; remove the others (`nats consumer rm`), and withdraw the key of who made them (`slipway keys "
        "remove`). Without a free one `slipway status`, `events` and `alerts` fail; rollbacks are ordered and done"
    )
    found = failure if shares[above[0]] >= 1 else warning
    return found(CONSUMERS, ", ".join(named[: len(above)]), advice)


def plan_bus(folder: StateFolder) -> Finding:
    """Compare what the bus of a stack that does not run may take with the disk of its state folder."""
    servers = _servers_of(folder)
    stored = [path for name in servers for path in (folder.path / name).rglob("*") if path.is_file()]
    used = sum(path.lstat().st_size for path in stored) // len(servers)
    free = read_space(folder.path / bus.NATS, "").free
    return assess_bus(BusSpace(topology.file_bytes(), used, free=free, servers=len(servers)), folder.shown)


def ask_bus(connection: Connection, folder: StateFolder | None = None) -> Finding:
    """Ask a bus for its limits; of the stack in a state folder on this machine, its server and its disk, too."""
    try:
        space = asyncio.run(_read_bus(connection))
    except _REFUSED as error:
        return skipped(BUS, f"the bus does not say what its streams take ({type(error).__name__})")
    if folder is None:
        return assess_bus(space, connection.nats_url)
    free = read_space(folder.path / bus.NATS, "").free
    seen = replace(space, file_store=read_file_store(folder), free=free, servers=len(_servers_of(folder)))
    return assess_bus(seen, folder.shown)


def ask_consumers(connection: Connection) -> Finding:
    """Ask a bus how many consumers its streams and buckets have."""

    async def read() -> dict[str, tuple[int, int]]:
        async with _connected(connection) as client:
            infos = await client.jetstream(timeout=_ANSWER_S).streams_info()
        return {str(each.config.name): (each.state.consumer_count, consumer_limit(each.config)) for each in infos}

    try:
        return assess_consumers(asyncio.run(read()))
    except _REFUSED as error:
        return skipped(CONSUMERS, f"the bus does not say what consumers it has ({type(error).__name__})")


def read_file_store(folder: StateFolder) -> int | None:
    """Return `max_file_store` as the server of a stack on this machine reports it, in bytes; None if it does not."""
    description = read_description(folder)
    if description is None or "nats-monitor" not in description.ports:
        return None
    url = f"http://{LOOPBACK}:{description.ports['nats-monitor']}/jsz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_S) as answer:
            return int(json.load(answer)["config"]["max_storage"])
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return None


def _servers_of(folder: StateFolder) -> list[str]:
    """Return the servers of the bus of a stack on this machine, which share its disk; one before it was started."""
    description = read_description(folder)
    return bus.servers_in(description.ports if description is not None else {}) or bus.server_names(1)


async def _read_bus(connection: Connection) -> BusSpace:
    async with _connected(connection) as client:
        js = client.jetstream(timeout=_ANSWER_S)
        infos = [info for info in await js.streams_info() if info.config.storage == StorageType.FILE]
        limits = {str(info.config.name): info.config.max_bytes or -1 for info in infos}
        account = None
        with contextlib.suppress(*_REFUSED):  # only administrators may ask
            account = (await js.account_info()).limits.max_storage
    return BusSpace(
        limit=sum(limit for limit in limits.values() if limit > 0),
        used=sum(info.state.bytes for info in infos),
        unlimited=tuple(sorted(name for name, limit in limits.items() if limit <= 0)),
        file_store=account if account is not None and account > 0 else None,
    )


@contextlib.asynccontextmanager
async def _connected(connection: Connection) -> AsyncIterator[Client]:
    async def ignore(_error: Exception) -> None:
        """What is refused is not known, which the finding says."""

    client: Client = await connect(connection, error_cb=ignore, **once())
    try:
        yield client
    finally:
        await client.close()


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"
