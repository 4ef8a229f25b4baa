"""The records that a service keeps for itself: at its start none of them may be of a newer version."""

import asyncio
import re
from collections.abc import Callable, Mapping

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import BaseModel

from contracts.version import VERSION
from shared.storage.kv import Bucket
from shared.storage.record_format import schema_version

KindOf = Callable[[str], type[BaseModel] | None]
"""Returns the kind of the record under a key; None for one that the service only reads, or shares with others."""
_AT_ONCE = 64
_RETRY_S = 1.0
_VERSION = re.compile(rb'\{"schema_version":(\d{1,9})[,}]')
"""How `record_format.dump` begins a record."""


class NewerRecords(Exception):  # noqa: N818 - an answer: this version must not run on these records
    """A newer version of this service wrote its records; the message says which, and what to do."""


class KeptRecords:
    """The buckets whose records one service alone writes.

    An older version that ran on newer records would leave them alone one by one (`record_too_new`), and answer for the
    rest. So a service that went back to an older version would seem to work, and wait for ever where it matters: it
    refuses to start instead, and changes nothing. Its newer replicas, if there are any, do the work.
    """

    def __init__(self, service: str, kinds: Mapping[str, KindOf], shared: Mapping[str, KindOf] | None = None) -> None:
        """Take the buckets by name, each with what its keys hold; `shared`: those that other services write, too."""
        self._service = service
        self._kinds = kinds
        self._shared = shared or {}
        self._checked = False
        self.has_older = False
        """Whether an older version wrote one of these records, or of the shared ones; known after `refuse_newer`."""

    async def check(self) -> None:
        """Raise ConnectionError until `refuse_newer` has read the records: a service that will refuse is not ready."""
        if self._kinds and not self._checked:
            msg = "its records have not been read yet"
            raise ConnectionError(msg)

    async def refuse_newer(self, js: Callable[[], JetStreamContext]) -> None:
        """Read the version of every record; wait for a bus that does not answer.

        Raises:
            NewerRecords: A newer version wrote one of them.
        """
        while not self._checked:
            try:
                kept = [entry for name, kind_of in self._kinds.items() for entry in await _read(js(), name, kind_of)]
                shared = [entry for name, kind_of in self._shared.items() for entry in await _read(js(), name, kind_of)]
            except (TimeoutError, nats.errors.Error, OSError) as error:
                structlog.get_logger().warning("waiting for the bus to read the records", error=repr(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if newer := [(name, version, known) for name, version, known in kept if version > known]:
                raise NewerRecords(describe_newer(self._service, newer))
            self.has_older = any(0 < version < known for _, version, known in (*kept, *shared))
            self._checked = True


def describe_newer(service: str, newer: list[tuple[str, int, int]]) -> str:
    """Return why a service does not run, given the name, the version and the newest readable version of records."""
    name, version, known = newer[0]
    count = "1 record" if len(newer) == 1 else f"{len(newer)} records"
    return (
        f"A newer version of {service} wrote {count}: {name} has schema version {version}, and {service} {VERSION} "
        f"reads versions up to {known}. It does not run, and has changed nothing. Start {service} in the version that "
        "wrote them or a newer one, or restore a backup of before the upgrade (docs/guides/upgrade.md)."
    )


async def _read(js: JetStreamContext, name: str, kind_of: KindOf) -> list[tuple[str, int, int]]:
    """Return name, version and the newest readable version of the records of a bucket; none if there is no bucket."""
    bucket: Bucket[BaseModel] = Bucket(js, name, BaseModel)
    try:
        keys = [(key, kind) for key in await bucket.keys() if (kind := kind_of(key)) is not None]
    except NotFoundError:
        return []
    versions = []
    for begin in range(0, len(keys), _AT_ONCE):
        part = keys[begin : begin + _AT_ONCE]
        values = await asyncio.gather(*(bucket.raw(key) for key, _ in part))
        for (key, kind), value in zip(part, values, strict=True):
            match = _VERSION.match(value[1]) if value is not None else None
            version, known = int(match[1]) if match else 0, schema_version(kind)
            versions.append((f"{name}/{key}", version, known))
    return versions
