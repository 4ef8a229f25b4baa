"""What the bus refuses of a process's own reports."""

import asyncio

from contracts.running import RUNNING_PREFIX
from shared.messaging.refusals import REPORT_AGAIN_S, Refusals
from tests.kit.virtual_time import virtual_time

REFUSAL = Exception(f'nats: permissions violation for publish to "{RUNNING_PREFIX}.mirror"')


@virtual_time
async def test_a_report_is_tried_again_a_minute_after_it_was_refused_and_told_once():
    """The bus may have read newer permissions in between, without a new connection."""
    sentences = []
    refusals = Refusals("mirror", sentences.append)
    for _ in range(3):
        assert not refusals.refuses_reports
        await refusals.note(REFUSAL)
        await asyncio.sleep(REPORT_AGAIN_S - 1)
        assert refusals.refuses_reports
        await asyncio.sleep(1)
    assert len(sentences) == 1
    await refusals.accept()
    await refusals.note(REFUSAL)
    assert len(sentences) == 2
