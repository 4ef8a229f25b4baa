"""When the embedded stack makes the streams of its bus again: after a restart of a server, until that succeeds."""

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace

from deploy.local import full_disk
from deploy.local.plan import Programs, StackConfig
from deploy.local.state import StateFolder, new_description
from deploy.local.supervisor import CannotStart, Options, Supervisor
from deploy.local.view import View
from shared.runtime.clock import SystemClock

PROGRAMS = Programs(Path("/bin/nats-server"), Path("/bin/weed"), Path("/bin/python"), Path("/source"))


def server(name, *, state="ready", restarts=0):
    """Return a server of the bus as its runner shows it."""
    return SimpleNamespace(part=SimpleNamespace(name=name, probe="nats"), state=state, restarts=restarts)


class Provisioning(Supervisor):
    """A supervisor whose provisioning fails some times, and then counts."""

    def __init__(self, folder, servers, failures=0):
        options = Options(StackConfig("toy"), PROGRAMS, Path("/engine"), {})
        super().__init__(StateFolder(folder), options, View(quiet=True, out=io.StringIO()), SystemClock())
        self._runners = servers
        self.failures = failures
        self.made = 0

    async def _provision(self, _description):
        if self.failures:
            self.failures -= 1
            raise CannotStart("no leader")
        self.made += 1


async def kept(supervisor, *, looks=4):
    """Keep a stack provisioned for so many looks."""
    task = asyncio.create_task(supervisor._keep_provisioned(new_description()))
    for _ in range(looks * 3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return supervisor.made


async def test_a_restart_of_a_server_is_followed_by_one_provisioning(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.local.supervisor.PROVISION_EVERY_S", 0)
    assert await kept(Provisioning(tmp_path, [server("nats")])) == 0
    assert await kept(Provisioning(tmp_path, [server("nats", restarts=1)])) == 1
    assert await kept(Provisioning(tmp_path, [server("nats", restarts=1, state="restarting")])) == 0


async def test_of_three_servers_most_must_be_ready(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.local.supervisor.PROVISION_EVERY_S", 0)
    first, second, away = server("nats"), server("nats-2"), server("nats-3", restarts=1, state="restarting")
    assert await kept(Provisioning(tmp_path, [first, second, away])) == 1
    alone = [first, server("nats-2", state="starting"), away]
    assert await kept(Provisioning(tmp_path, alone)) == 0


async def test_it_is_tried_again_until_it_succeeds(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.local.supervisor.PROVISION_EVERY_S", 0)
    supervisor = Provisioning(tmp_path, [server("nats", restarts=1)], failures=2)
    assert await kept(supervisor, looks=6) == 1


class FullDisk(Supervisor):
    """A supervisor whose servers of the bus have all given up a stream, and are started again each time they may be."""

    def __init__(self, folder, servers):
        options = Options(StackConfig("toy", nats=3), PROGRAMS, Path("/engine"), {})
        super().__init__(StateFolder(folder), options, View(quiet=True, out=io.StringIO()), SystemClock())
        self._runners = servers
        self.started_again = []

    async def _is_started_again(self, server, _description, _restarts):
        self.started_again.append(server.part.name)
        return True


async def test_the_next_server_of_a_cluster_is_started_again_once_the_one_before_is_back(tmp_path, monkeypatch):
    """Two of three must be there, or none answers."""
    monkeypatch.setattr(full_disk, "LOOK_EVERY_S", 0)
    servers = [server(name) for name in ("nats", "nats-2", "nats-3")]
    supervisor = FullDisk(tmp_path, servers)
    running = asyncio.create_task(supervisor._keep_writable(new_description()))

    async def look(times=6):
        for _ in range(times * 3):
            await asyncio.sleep(0)

    await look()
    assert supervisor.started_again == ["nats"], "its process has not ended yet"
    servers[0].state = "restarting"
    await look()
    servers[0].restarts, servers[0].state = 1, "starting"
    await look()
    assert supervisor.started_again == ["nats"]
    servers[0].state = "ready"
    await look(1)
    assert len(supervisor.started_again) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_server_that_does_not_come_back_keeps_the_others_waiting_no_longer_than_a_limit():
    turn = full_disk.Turn("nats", 0, at=100.0)
    away = {"nats": ("restarting", 1)}
    assert [turn.is_free(away, now) for now in (100.0, 129.0, 130.0)] == [False, False, True]
    assert turn.is_free({"nats": ("ready", 1)}, 101.0)
    assert full_disk.Turn().is_free({}, 0.0)
