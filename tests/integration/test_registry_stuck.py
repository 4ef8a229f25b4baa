"""Announcements and facts on a real bus: what is stuck, or too large, holds up no other."""

import asyncio

import pytest

from clients.cli.events import dead_letters as deadletters
from contracts import facts as f
from contracts.services import EVENTS, INBOX, durable_name
from shared.messaging.bus import publish_event
from tests.integration.registry_process import Log, base, checkpoint, publish, registry, store
from tests.kit import fakes_registry as k

__all__ = ["base", "checkpoint", "store"]  # fixtures
ADMISSION = durable_name("registry", f.CheckpointReady)
MERGED = durable_name("registry", f.CheckpointMerged)
OTHER = "other-bot"


@pytest.mark.parametrize(
    ("data", "code"),
    [(b'{"schema_version":99,"model":"support-bot"}', "record_version_unknown"), (b"{not json", "internal_error")],
)
async def test_a_record_of_another_version_holds_up_only_its_own_model(js, settings, checkpoint, data, code):
    log = Log(js)
    await (await js.key_value("releases")).put(f"{k.MODEL}.announcements", data)
    async with registry(js, settings, record_wait_s=1.0):
        await publish(js, checkpoint(), "first")
        await publish(js, checkpoint(OTHER), "of another model", model=OTHER)
        (opened,) = await log.of(f.ReleaseOpened, timeout_s=20)
        assert opened.subject == OTHER
        (refused,) = await log.of(f.CheckpointRejected)
        assert (refused.subject, refused.causationid, refused.data.code) == (k.MODEL, "first", code)
        await log.settled(f.CheckpointReady, INBOX)


async def test_facts_that_wait_for_one_record_do_not_keep_those_of_other_models(js, settings):
    """More of them than any limit of unacknowledged messages that a consumer once had (256)."""
    await (await js.key_value("releases")).put(f"{k.MODEL}.{k.RELEASE}", b'{"schema_version":99}')
    async with registry(js, settings):
        for number in range(300):
            await publish_event(js, k.event(k.merged(), f"m{number}", correlation=k.RELEASE, source="/slipway/merger"))
        other = k.event(k.merged(), "of another", correlation=k.RELEASE, model=OTHER, source="/slipway/merger")
        await publish_event(js, other)
        async with asyncio.timeout(60):
            while True:
                info = await js.consumer_info(EVENTS, MERGED)
                if (info.num_pending, info.num_ack_pending) == (0, 300):
                    break
                await asyncio.sleep(0.2)
        assert info.config.max_ack_pending == -1


async def test_hyperparameters_that_fill_a_message_are_refused_and_the_next_checkpoint_comes_in(
    js, settings, checkpoint
):
    log = Log(js)
    huge = k.ready().training.model_copy(update={"hyperparameters": {"table": "x" * 262_000}})
    long = f.Weights(kind="lora", ref=k.ref(f"checkpoints/{k.MODEL}/" + "d/" * 750 + "x"))
    async with registry(js, settings):
        await publish(js, checkpoint(training=huge), "huge")
        await publish(js, checkpoint(weights=long), "a key of 1,500 characters")
        await publish(js, checkpoint(), "good")
        (opened,) = await log.of(f.ReleaseOpened, timeout_s=20)
        assert opened.data.version == 1
        refused = [event.data for event in await log.of(f.CheckpointRejected, 2)]
    assert [fact.code for fact in refused] == ["too_large", "too_large"]
    assert "the limit is 262,144" in refused[0].reason
    assert "the limit is 1,024" in refused[1].reason
    assert {letter.code for letter in await deadletters.list_all(js)} <= {"too_large"}
