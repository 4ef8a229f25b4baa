"""Changes a record by compare-and-set: reads, decides, writes, and decides again after a conflict."""

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
"""Maximum number of decisions for one change."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.2
Jitter = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Records(Protocol[M]):
    """Records under compare-and-set (`shared.storage.kv.Bucket`)."""

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record, or None."""

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
        decide: A pure function from the record, or None, to its new state, or None for no change.
        name: Bucket and key, for error messages.
        known: The record as just read or written.
        jitter: Returns random numbers from 0 to 1.
        sleep: Waits for some seconds.

    Raises:
        Transient: The code of the bus's failure; `record_version_unknown`; `too_large`; `bus_unavailable` after
            `ATTEMPTS` conflicts.
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
    """Return the error of a change that conflicted at each attempt."""
    return Transient(
        "bus_unavailable", f"The record {name} kept changing: other writers were first at each of {ATTEMPTS} attempts."
    )


def wait_s(attempt: int, jitter: float) -> float:
    """Return the seconds to wait before an attempt, at random from 0 to a limit that doubles up to 0.2 s."""
    return jitter * backoff_s(attempt, _FIRST_WAIT_S, _LONGEST_WAIT_S)


@contextlib.contextmanager
def failing_as_transient(name: str, done: str) -> Iterator[None]:
    """Raise every failure of the bus or the bucket as Transient with its code.

    Also permanent refusals (too large, undeclared): the record is at fault, so messages about it must not be rejected.
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
