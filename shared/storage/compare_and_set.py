"""Changes one record by compare-and-set: reads it, decides, writes it, and decides again after a conflict."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

import structlog
from pydantic import BaseModel

from decisions.backoff import backoff_s
from shared.errors import Transient, translate
from shared.storage.kv import Conflict, Entry

M = TypeVar("M", bound=BaseModel)
ATTEMPTS = 50
"""How often a change is decided again because another writer was first, before it is given up."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.2
Jitter = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Records(Protocol[M]):
    """Records under compare-and-set (`shared.storage.kv.Bucket`)."""

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record; None if there is none."""

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet and return its revision; raise Conflict if it exists."""

    async def update(self, key: str, value: M, revision: int) -> int:
        """Write a record that must still be at `revision`, return the new one; raise Conflict if it is not."""

    async def keys(self) -> list[str]:
        """Return all keys of the bucket."""


async def edit_record(
    records: Records[M],
    key: str,
    decide: Callable[[M | None], M | None],
    *,
    name: str,
    known: Entry[M] | None = None,
    jitter: Jitter = random.random,
    sleep: Sleep = asyncio.sleep,
) -> Entry[M] | None:
    """Change a record and return the result; an unchanged record is not written.

    Args:
        records: The bucket.
        key: The record.
        decide: A pure function from the record (None: there is none) to the record as it is to be (None: none).
        name: Bucket and key, for error messages.
        known: The record, where it was read or written a moment ago.
        jitter: Random numbers from 0 to 1.
        sleep: Waits for some seconds.

    Raises:
        Transient: The bus's own code if it does not answer; `record_version_unknown`;
            `too_large` if the record does not fit; `bus_unavailable` after `ATTEMPTS` conflicts.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            await sleep(wait_s(attempt, jitter()))
        with failing_as_transient(name, "read"):
            entry = known if known is not None and not attempt else await records.get(key)
        before = entry.value if entry else None
        after = decide(before)
        if after is None or after is before or after == before:
            return entry
        with contextlib.suppress(Conflict), failing_as_transient(name, "written"):
            revision = await (records.update(key, after, entry.revision) if entry else records.create(key, after))
            return Entry(after, revision)
    raise kept_changing(name)


def kept_changing(name: str) -> Transient:
    """Return the error of a change that lost to another writer at each attempt."""
    reason = f"The record {name} kept changing: other writers were first at each of {ATTEMPTS} attempts."
    return Transient("bus_unavailable", reason)


def wait_s(attempt: int, jitter: float) -> float:
    """Return the seconds to wait before an attempt, at random from 0 to a limit that doubles up to 0.2 s."""
    return jitter * backoff_s(attempt, _FIRST_WAIT_S, _LONGEST_WAIT_S)


@contextlib.contextmanager
def failing_as_transient(name: str, done: str) -> Iterator[None]:
    """Raise every failure of the bus or the bucket as Transient with its code.

    A permanent refusal (too large, undeclared) says nothing against the message at hand: the record or its outbox is at
    fault, and other messages must not be rejected for it.
    """
    try:
        yield
    except (Conflict, Transient):
        raise
    except Exception as error:
        known = translate(error)
        if known is None:
            structlog.get_logger().exception("the record store failed", record=name)
        code, reason = (known.code, known.reason) if known else ("internal_error", f"{type(error).__name__}: {error}.")
        raise Transient(code, f"The record {name} could not be {done}: {reason}") from error
