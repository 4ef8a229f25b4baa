"""The registry's part that lets publishers upload, running beside a test, also while the test blocks its own loop."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from contracts.teams import Team
from services.registry.adapters.upload_requests import UploadRequests
from services.registry.adapters.uploads import StagedUploads
from services.registry.uploads import Intake
from shared.messaging import credentials
from shared.runtime.clock import Clock, SystemClock
from testbed.servers import NatsServer, S3Server


class RunningIntake:
    """An intake in a thread with a loop of its own, as the identity `registry` on bus and store."""

    def __init__(self, nats: NatsServer, s3: S3Server, *, teams: tuple[Team, ...] = (), clock: Clock | None = None):
        settings = s3.settings("registry")
        staged = StagedUploads(settings, None, 60, clock or SystemClock())
        bus = nats.settings("registry")

        async def sizes(model: str) -> dict[str, int]:
            return await asyncio.to_thread(staged.bytes_below, f"checkpoints/{model}/")

        self.intake = Intake(staged, sizes, lambda: teams)
        self._bus = bus
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30), "the intake did not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(30)

    async def read_all(self) -> None:
        """Wait until every reading that has begun is done."""
        while not all(reading.done() for reading in list(self.intake._contents._readings.values())):
            await asyncio.sleep(0.02)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        client = await credentials.connect(self._bus)
        self._serving = asyncio.ensure_future(UploadRequests(client, self.intake).run())
        await asyncio.sleep(0)
        await client.flush()
        self._ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving
        await client.close()


@contextlib.contextmanager
def running_intake(nats: NatsServer, s3: S3Server, **options) -> Iterator[RunningIntake]:
    intake = RunningIntake(nats, s3, **options)
    intake.start()
    try:
        yield intake
    finally:
        intake.stop()
