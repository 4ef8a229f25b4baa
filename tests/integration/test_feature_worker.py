"""The process that describes texts: killed, stuck, out of memory, and gone with the gateway."""

import asyncio
import json
import os
import signal
import sys

import psutil
import pytest
from structlog.testing import capture_logs

from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.domain.excerpts import Described, Excerpts
from shared.runtime.clock import SystemClock
from shared.runtime.process import child_command
from tests.unit.gateway.describer_conformance import ANSWER, DescriberConformance
from tests.unit.gateway.fake_describer import describe

TEXT = Excerpts.of("How?", ANSWER)
FEATURES = Described(describe("How?", ANSWER))


@pytest.fixture
async def describer():
    worker = FeatureWorker(SystemClock(), text_s=5.0, batch_s=60.0)
    yield worker
    await worker.close()


class TestFeatureWorker(DescriberConformance):
    """The real process."""


async def test_it_recognises_languages_in_its_sandbox(describer):
    text = Excerpts.of("Wie lange dauert die Lieferung nach Graz?", "The delivery to Graz takes two days from Vienna.")
    assert [each.features.language_ratio for each in await describer.describe([text])] == [0.0]


async def test_it_starts_with_the_first_text_and_at_a_low_priority(describer):
    assert describer.pid is None
    await describer.describe([TEXT])
    assert psutil.Process(describer.pid).nice() == min(19, os.nice(0) + 10)


async def at_work(describer) -> None:
    """Return once its process has computed for a while."""
    process = psutil.Process(describer.pid)
    before_s = process.cpu_times().user
    async with asyncio.timeout(20):
        while process.cpu_times().user < before_s + 0.02:
            await asyncio.sleep(0.005)


async def test_after_a_kill_another_one_describes_the_next_text(describer):
    await describer.describe([TEXT])
    for _ in range(2):
        killed = describer.pid
        os.kill(killed, signal.SIGKILL)
        assert await describer.describe([TEXT, TEXT]) == [FEATURES, FEATURES]
        assert describer.pid not in (None, killed)


async def test_a_kill_in_the_middle_of_a_batch_loses_no_text(describer):
    await describer.describe([TEXT])
    long = Excerpts.of("How?", "word next " * 2000)
    batch = asyncio.ensure_future(describer.describe([long] * 300))
    await at_work(describer)
    assert not batch.done()
    os.kill(describer.pid, signal.SIGKILL)
    described = await batch
    assert (len(described), described.count(None)) == (300, 0)


async def test_a_process_that_is_stopped_costs_one_text_its_features(describer):
    worker = FeatureWorker(SystemClock(), text_s=2.0, batch_s=60.0)
    await worker.describe([TEXT])
    stopped = worker.pid
    os.kill(stopped, signal.SIGSTOP)
    assert await worker.describe([TEXT, TEXT, TEXT]) == [None, FEATURES, FEATURES]
    assert not psutil.pid_exists(stopped)
    await worker.close()


async def test_the_whole_batch_has_a_limit_too(describer):
    worker = FeatureWorker(SystemClock(), text_s=3600.0, batch_s=0.01)
    async with asyncio.timeout(60):
        while worker.pid is None:  # a start that takes longer goes on
            assert await worker.describe([TEXT]) in ([None], [FEATURES])
            await asyncio.sleep(0.05)
    os.kill(worker.pid, signal.SIGSTOP)
    assert await worker.describe([TEXT] * 50) == [None] * 50
    assert await worker.describe([]) == []
    await worker.close()


async def test_a_text_that_takes_long_costs_only_its_own_features(describer):
    """The child gets what no excerpt would hold: one text of 100 million characters."""
    worker = FeatureWorker(SystemClock(), text_s=2.0, batch_s=60.0)
    await worker.describe([TEXT])
    huge = Excerpts("", "a b " * 25_000_000, 0, 0)
    assert await worker.describe([TEXT, huge, TEXT]) == [FEATURES, None, FEATURES]
    await worker.close()


def judged_long(holder, number=0) -> Excerpts:
    """Return an answer that takes seconds to be judged by its form."""
    choices = [{"const": number + value} for value in range(1_000)]
    form = json.dumps({"structured_outputs": {"json": {"items": {"anyOf": choices}}}})
    answer = {"choices": [{"index": 0, "message": {"content": json.dumps([number + 999] * 20_000)}}]}
    return Excerpts.of("x", "y", form=form, delivered=json.dumps(answer).encode(), holder=holder)


async def test_a_caller_whose_forms_take_long_takes_no_features_of_others():
    """Its answers are described, and not judged by their forms; other callers' are, and the process stays."""
    form = '{"response_format": {"type": "json_object"}}'
    body = b'{"choices": [{"index": 0, "message": {"content": "{}"}}]}'
    other = Excerpts.of("x", "y", form=form, delivered=body, holder="other")
    worker = FeatureWorker(SystemClock(), text_s=60.0, batch_s=120.0)
    await worker.describe([TEXT])
    child = psutil.Process(worker.pid)
    before_s, began_s = child.cpu_times().user, SystemClock().monotonic()
    described = await worker.describe([each for number in range(20) for each in (judged_long("one", number), other)])
    assert [(told.is_judged, told.features.output_chars) for told in described[::2]] == [(False, 1)] * 20
    assert [(told.is_judged, told.features.valid_json) for told in described[1::2]] == [(True, True)] * 20
    most_s = 0.5 + 0.3 * (SystemClock().monotonic() - began_s)
    assert child.cpu_times().user - before_s < most_s, "twenty forms of 0.25 s each"
    assert worker.pid == child.pid
    await worker.close()


async def test_a_text_that_ends_its_process_is_tried_twice_and_costs_only_its_own_features(describer):
    fatal = Excerpts("", ["no text"], 0, 0)
    assert await describer.describe([TEXT, fatal, TEXT, fatal]) == [FEATURES, None, FEATURES, None]


async def test_its_memory_is_limited(describer):
    worker = FeatureWorker(SystemClock(), text_s=30.0, batch_s=60.0, memory_limit_bytes=200 * 2**20)
    huge = Excerpts("", "word " * 60_000_000, 0, 0)
    assert await worker.describe([huge, TEXT]) == [None, FEATURES]
    await worker.close()


async def test_a_process_that_cannot_start_costs_features_and_is_not_started_again_at_once(describer):
    worker = FeatureWorker(SystemClock(), batch_s=60.0, memory_limit_bytes=2**20)
    with capture_logs() as logs:
        assert await worker.describe([TEXT] * 3) == [None] * 3
        assert await worker.describe([TEXT] * 3) == [None] * 3
    assert len([line for line in logs if line["log_level"] == "error"]) == 1, "each start that fails is reported"
    await worker.close()


async def test_a_cancelled_batch_leaves_no_reply_for_the_next(describer):
    await describer.describe([TEXT])
    batch = asyncio.ensure_future(describer.describe([Excerpts.of("", "other words " * 1000)] * 200))
    await at_work(describer)
    batch.cancel()
    await asyncio.gather(batch, return_exceptions=True)
    assert await describer.describe([TEXT]) == [FEATURES]


PARENT = """
import asyncio, sys
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.domain.excerpts import Excerpts
from shared.runtime.clock import SystemClock

async def main():
    worker = FeatureWorker(SystemClock(), batch_s=60.0)
    await worker.describe([Excerpts.of("a", "b")])
    print(worker.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_dies_with_a_gateway_that_is_killed():
    parent = await asyncio.create_subprocess_exec(
        *child_command([sys.executable, "-c", PARENT]), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        child = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(child.wait, 10)
