"""Services that check the store at their start: they wait for one that is away, and say so."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest

from testbed.ports import free_port
from testbed.servers import wait_until
from testbed.services import running_service

pytestmark = pytest.mark.timeout(180)


def readiness(port):
    """Return the status of `/readyz` and its checks; (0, {}) if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return answer.status, json.load(answer)["checks"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["checks"]
    except OSError:
        return 0, {}


@pytest.mark.parametrize("service", ["merger", "quantiser", "benchmarker"])
async def test_a_service_that_starts_before_the_store_waits_for_it_and_can_be_stopped(js, settings, s3_server, service):
    port, module = free_port(), f"services.{service}.main"
    s3_server.kill()
    try:
        with running_service(module, settings, SLIPWAY_HTTP_PORT=str(port)) as process:
            for waits in ("first", "after a stop"):
                await asyncio.to_thread(wait_until, lambda: readiness(port)[0] == 503, timeout_s=60, what="its life")
                await asyncio.to_thread(wait_until, lambda: "waiting to start" in process.log, what="a sentence")
                assert "Transient" in readiness(port)[1]["store"]
                assert process.process.poll() is None
                if waits == "first":
                    await asyncio.to_thread(process.stop)
                    assert process.process.returncode == 0
                    process.start()
            s3_server.start()  # from this thread: the server dies with the one that forked it
            await asyncio.to_thread(wait_until, lambda: readiness(port)[0] == 200, timeout_s=60, what="readiness")
            assert "Traceback" not in process.log
    finally:
        if s3_server.process.poll() is not None:
            s3_server.start()
