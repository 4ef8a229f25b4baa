"""Assessment of the replication of streams and buckets in a cluster. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from clients.cli.doctor.findings import Finding, failure, warning

COPIES: Final = 3
"""With so many one server may be lost, and the others still agree on what was written last."""
_ADVICE: Final = "set SLIPWAY_REPLICAS=3 and run `python -m shared.messaging.provision`"


@dataclass(frozen=True)
class Stream:
    """One stream of the bus; a bucket is the stream `KV_<bucket>`.

    Attributes:
        copies: How many servers are to have it.
        in_cluster: Whether its server is one of a cluster.
        behind: The servers whose copy is missing or not up to date.
        leader: The server that takes writes; empty while there is none.
    """

    copies: int
    in_cluster: bool
    leader: str
    behind: tuple[str, ...] = ()


def describe_copies(streams: Mapping[str, Stream]) -> str:
    """Return a cluster's least number of stream replicas, as the end of a sentence; empty for a single server."""
    copies = [stream.copies for stream in streams.values() if stream.in_cluster]
    return f"; {min(copies)} copies of each, all up to date" if copies else ""


def assess_copies(streams: Mapping[str, Stream]) -> Finding | None:
    """Return the finding on missing replicas of a cluster's streams; None without any, or for a single server."""
    members = {name: stream for name, stream in sorted(streams.items()) if stream.in_cluster}
    few = [f"{name} ({stream.copies})" for name, stream in members.items() if stream.copies < COPIES]
    if few:
        detail = f"a cluster has fewer than {COPIES} copies of {len(few)} of {len(streams)} streams: {', '.join(few)}"
        return failure("nats", detail, _ADVICE)
    leaderless = [name for name, stream in members.items() if not stream.leader]
    if leaderless:
        detail = f"no server leads {', '.join(leaderless)}: nothing can be written there"
        return failure("nats", detail, "start the servers of the cluster again; two of three must reach each other")
    behind = sorted({server for stream in members.values() for server in stream.behind})
    if behind:
        lagging = sum(bool(stream.behind) for stream in members.values())
        detail = f"copies of {lagging} of {len(streams)} streams are not up to date on {', '.join(behind)}"
        return warning("nats", detail, "start that server, or wait until it has caught up")
    return None
