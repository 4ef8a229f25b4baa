"""The registry as a process, killed with -9 at each moment that matters: the release still ends once."""

import asyncio
import contextlib
import os
import sys
from collections import Counter

from contracts import facts as f
from contracts.facts import FACTS
from testbed.attesters import attester_variables
from testbed.forked import start
from testbed.servers import bus_variables, store_variables
from tests.integration.registry_process import Log, base, checkpoint, publish, run_to_end, run_to_turn, store

__all__ = ["base", "checkpoint", "store"]  # fixtures

EXPECTED = {
    f.ReleaseOpened: 1,
    f.VariantRequested: 2,
    f.VersionRegistered: 1,
    f.StageRequested: 2,
    f.StageReleased: 2,
    f.TrafficRequested: 1,
    f.ReleaseFinished: 1,
}


class Process:
    """The registry in a process of its own, started again whenever it dies."""

    def __init__(self, settings, folder, failpoint, times=1):
        self.deaths = []
        self.times = times
        self.marker = folder / "work" / "registry" / f"failpoint-{failpoint}.fired"
        self.log = folder / "registry.log"
        self.environment = {
            **os.environ,
            **bus_variables(settings, "registry"),
            **store_variables(settings, "registry"),
            "SLIPWAY_STATE_DIR": str(folder),
            "SLIPWAY_HTTP_PORT": str(settings.http_port),
            "SLIPWAY_FAILPOINT": failpoint,
            "REGISTRY_SWEEP_S": "0.3",
            **attester_variables(folder, "services.registry.main"),
        }

    async def keep_running(self):
        while True:
            child = start([sys.executable, "-m", "services.registry.main"], self.log, environment=self.environment)
            try:
                while child.poll() is None:
                    await asyncio.sleep(0.05)
                self.deaths.append(child.returncode)
                if len(self.deaths) < self.times:
                    self.marker.unlink()
            finally:
                child.kill()
                child.wait()


@contextlib.asynccontextmanager
async def kept_running(settings, folder, failpoint, times=1):
    process = Process(settings, folder, failpoint, times)
    task = asyncio.create_task(process.keep_running())
    try:
        yield process
    except BaseException:
        print(process.deaths, process.log.read_text()[-20_000:])
        raise
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_killed_after_each_write_the_release_ends_once_with_one_version(js, settings, checkpoint, tmp_path):
    """The process dies each time that it has written the release.

    Other moments, and those between two releases: `tests/world`.
    """
    log = Log(js)
    times = 9
    async with kept_running(settings, tmp_path, "registry.after_cas", times) as process:
        await publish(js, checkpoint(), "e1")
        opened = (await log.of(f.ReleaseOpened, timeout_s=60))[0].data
        await run_to_turn(js, opened.release_id, 1)
        await log.of(f.StageRequested, 2, timeout_s=60)
        await run_to_end(js, opened.release_id, 1, epoch=1)
        (finished,) = await log.of(f.ReleaseFinished, timeout_s=180)
        assert finished.data.outcome == "promoted"
        assert process.deaths == [-9] * times
        await _is_quiet(js, log)
    emitted = Counter(FACTS[event.type] for event in await log.all() if event.source == "/slipway/registry")
    assert emitted.pop(f.ReleaseProgressed) > 1
    assert emitted == EXPECTED


async def _is_quiet(js, log):
    """Wait until the registry has handled all that there is, and has nothing left to say."""
    for kind in (f.VariantQuantised, f.VariantBenchmarked, f.DeploymentChanged):
        await log.settled(kind, timeout_s=60)
