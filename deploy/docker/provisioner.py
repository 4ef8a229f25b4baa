"""Provision again after a restart of the bus, which loses streams in memory: `python -m deploy.docker.provisioner`.

Without the telemetry stream and its consumers, kept in memory, nothing is monitored or rolled back. If another stream
is missing, the bus has lost its volume, and nothing is created.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import nats.errors
from nats.js import JetStreamContext

from contracts.identities import PROVISIONER
from contracts.services import TELEMETRY
from shared.messaging import topology
from shared.messaging.credentials import connect, require_identity
from shared.messaging.provision import provision, settings_of
from shared.runtime.settings import Connection

EVERY_S = 2.0
"""Interval of checks, in seconds."""
LOOK_S = 30.0
"""Time limit of a check, after which the connection is renewed."""
STAMP = Path(tempfile.gettempdir()) / "provisioned"
"""File with the time of the last successful check, for health check and readiness probe."""
LOOKED = "looked"
"""File beside `STAMP` with the time of the last attempt, for the liveness probe."""


async def keep_provisioned(connection: Connection, stamp: Path = STAMP, *, every_s: float = EVERY_S) -> None:
    """Recreate lost streams, forever; retry while the bus does not answer."""
    while True:
        await asyncio.to_thread(stamp.with_name(LOOKED).touch)
        try:
            client = await connect(connection, PROVISIONER, error_cb=_note)
            try:
                await _look_on(client.jetstream(timeout=LOOK_S / 2), connection, stamp, every_s)
            finally:
                await client.close()
        except (nats.errors.Error, OSError) as error:  # a TimeoutError is an OSError
            _print(f"the bus at {connection.nats_url} does not answer, and is asked again: {error!r}")
        await asyncio.sleep(every_s)


async def _look_on(js: JetStreamContext, connection: Connection, stamp: Path, every_s: float) -> None:
    whole = False
    while True:
        async with asyncio.timeout(LOOK_S):
            missing = await missing_streams(js)
            if missing - {TELEMETRY}:
                names = ", ".join(sorted(missing))
                _print(f"the bus has no {names}: restore its volume or a backup, or start with an empty one by prepare")
            elif missing or not whole:
                await provision(js, **settings_of(connection))
                if missing:
                    _print(f"the bus was restarted; {TELEMETRY} and its consumers were made again")
        await asyncio.to_thread(stamp.with_name(LOOKED).touch)
        whole = not missing - {TELEMETRY}
        if whole:
            await asyncio.to_thread(stamp.touch)
        await asyncio.sleep(every_s)


async def missing_streams(js: JetStreamContext) -> set[str]:
    """Return the missing streams and buckets."""
    declared = {str(stream.name) for stream in topology.streams()}
    declared |= {f"KV_{bucket.bucket}" for bucket in topology.buckets()}
    return declared - {str(stream.config.name) for stream in await js.streams_info()}


async def _note(error: Exception) -> None:
    """Print why the client has lost the bus; it reconnects by itself."""
    _print(f"the connection to the bus failed: {error!r}")


def _print(text: str) -> None:
    print(f"provisioner: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program of a container


if __name__ == "__main__":
    asyncio.run(keep_provisioned(require_identity(Connection(), PROVISIONER)))
