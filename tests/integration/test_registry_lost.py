"""A registry whose records were lost: what it knows again, from the store and the event log, and what it says."""
# ruff: noqa: F811 - fixtures of another module are arguments here

from contracts import facts as f
from contracts.services import INBOX
from tests.integration.registry_process import (  # noqa: F401 - fixtures
    base,
    checkpoint,
    log,
    publish,
    registry,
    run_to_end,
    run_to_turn,
    store,
)


async def release(js, checkpoint, log, content, number):
    """Publish a checkpoint, and return its release once its version is registered."""
    await publish(js, checkpoint(content=content), f"e{number}")
    opened = (await log.of(f.ReleaseOpened, number))[-1].data
    await run_to_turn(js, opened.release_id, opened.version)
    await log.of(f.VersionRegistered, number)
    return opened


async def alerts(log, kind, count=1):
    return [event.data for event in await log.of(kind, count)]


async def test_versions_go_on_after_their_records_were_lost_and_an_alert_names_what_is_not_known(
    js, settings, store, checkpoint, log
):
    async with registry(js, settings):
        first = await release(js, checkpoint, log, b"first", 1)
        await run_to_end(js, first.release_id, 1, epoch=1)
        await log.of(f.ReleaseFinished)
        await release(js, checkpoint, log, b"second", 2)
        await publish(js, checkpoint(content=b"merging"), "e3")
        await log.of(f.ReleaseOpened, 3)
        await js.purge_stream("KV_releases")
        (raised,) = await alerts(log, f.AlertRaised)
        assert (raised.kind, raised.target.version, raised.trigger) == ("store", 2, None)
        assert "3 as the last version, 3 releases and 0 under way" in raised.message
        await publish(js, checkpoint(content=b"first"), "e1 again")
        await log.settled(f.CheckpointReady, INBOX)
        await publish(js, checkpoint(content=b"fourth"), "e4")
        opened = (await log.of(f.ReleaseOpened, 4))[-1].data
        assert (opened.version, opened.source_event_id) == (4, "e4")
        await run_to_turn(js, opened.release_id, 4)
        await log.of(f.StageRequested, 2 * 3)
        await run_to_end(js, opened.release_id, 4, epoch=2)
        (resolved,) = await alerts(log, f.AlertResolved)
        assert resolved.alert_id == raised.alert_id
        assert len(await log.of(f.ReleaseOpened)) == 4
        assert await log.of(f.CheckpointRejected, 0) == []
