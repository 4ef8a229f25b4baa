"""The streams of the three servers as they see them: who leads each, and whether the copies have everything."""

import json
from dataclasses import dataclass

from testbed.containers import engine

PROGRAM = """
import asyncio, json
from contracts.identities import PROVISIONER
from shared.messaging.credentials import connect
from shared.runtime.settings import Connection
async def main():
    client = await connect(Connection(), PROVISIONER)
    for each in await client.jetstream(timeout=20).streams_info():
        leader = each.cluster.leader if each.cluster else None
        others = (each.cluster.replicas if each.cluster else None) or []
        behind = [peer.name for peer in others if peer.offline or not peer.current]
        print(json.dumps([each.config.name, each.config.num_replicas, leader, behind]))
    await client.close()
asyncio.run(main())
"""
"""Runs in the container of `provisioner`, whose credential may ask this."""


@dataclass(frozen=True)
class Stream:
    """A stream: its name, its copies, the server that leads it, and those whose copy lacks something."""

    name: str
    copies: int
    leader: str | None
    behind: tuple[str, ...]

    def is_whole(self, copies: int) -> bool:
        """Return whether it has a leader and all its copies, each with every message."""
        return bool(self.leader) and self.copies == copies and not self.behind


def streams(provisioner: str) -> list[Stream]:
    """Return all streams.

    Raises:
        RuntimeError: The container runs no program now, or the bus does not answer.
    """
    shown = engine.podman("exec", provisioner, "python", "-c", PROGRAM)
    return [
        Stream(name, copies, leader, tuple(behind))
        for name, copies, leader, behind in map(json.loads, shown.splitlines())
    ]
