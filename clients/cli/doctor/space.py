"""Assessment of the space left on the bus: bytes and consumers of its streams. Pure."""

from collections.abc import Mapping
from typing import Final

from clients.cli.doctor.assess import GIB
from clients.cli.doctor.findings import Finding, failure, ok, warning

BUS, CONSUMERS = "bus disk", "bus consumers"
MOST_CONSUMERS: Final = 0.8
"""Share of a stream's limit of consumers from which on the finding names it."""
FULL: Final = 0.9
"""Share of a stream's limit of bytes from which on the finding names it."""


def assess_bus(taken: Mapping[str, tuple[int, int]], allowed: int | None, where: str) -> Finding:
    """Return the finding on the sizes of the streams and buckets that a bus keeps on disk.

    Args:
        taken: Bytes of each stream, and its limit; -1 without a limit.
        allowed: The storage limit of the account in bytes; None if unknown.
        where: The address of the bus.
    """
    used = sum(count for count, _ in taken.values())
    unlimited = sorted(name for name, (_, limit) in taken.items() if limit <= 0)
    if unlimited:
        detail = f"{where}: without a limit of size: {', '.join(unlimited)}"
        return warning(BUS, detail, "run `python -m shared.messaging.provision`; its log names those that it leaves")
    limit = sum(most for _, most in taken.values())
    detail = f"{where}: streams and buckets may take {limit / GIB:.1f} GiB on each server, {used / GIB:.1f} GiB taken"
    if allowed is not None and allowed < limit:
        advice = f"set max_file_store (of an account: its storage) to {limit} bytes or more; with less, full streams "
        detail = f"{detail}; the server allows {allowed / GIB:.1f} GiB"
        return failure(BUS, detail, f"{advice}also keep routes from being written, and no rollback happens")
    full = [f"{name} holds {count} of {most} bytes" for name, (count, most) in taken.items() if count >= FULL * most]
    if full:
        advice = "at its limit a stream drops its oldest messages, or takes no more; see stream_full in docs/runbooks"
        return warning(BUS, f"{where}: {', '.join(full)}", advice)
    return ok(BUS, f"{detail}; keep {max(0, limit - used) / GIB:.1f} GiB free for them")


def assess_consumers(used: Mapping[str, tuple[int, int]]) -> Finding:
    """Return the finding on the consumer limits of streams and buckets.

    Args:
        used: Number of consumers and their limit, by stream.
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
