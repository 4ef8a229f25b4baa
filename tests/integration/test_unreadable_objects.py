"""One object that the real store does not read any more, and reads all others: it is named, and stops nothing else."""
# ruff: noqa: F811 - fixtures of another module are arguments here

import pytest

from contracts import facts as f
from contracts.services import INBOX
from shared.errors import Transient
from shared.messaging import delivery
from shared.storage.blobs import Store, blob_key
from testbed.attesters import attester_keys
from testbed.released import release
from testbed.services import environment
from tests.integration.registry_process import (  # noqa: F401 - fixtures
    base,
    checkpoint,
    log,
    publish,
    registry,
    run_to_end,
    run_to_turn,
    store,
    worker_of,
)
from tests.kit.bit_rot import rot
from tests.kit.command import run_command

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]
"""The embedded store itself tries for 13 s to read a damaged object, and each read asks it three times."""


def test_it_is_a_finding_of_verify_and_no_outage(settings, s3_server, tmp_path):
    store = Store(settings)
    released = release(store, tmp_path, model="rotten-bot")
    registered = next(each for each in released.manifest.variants if each.variant == "int8")
    file = next(each for each in released.variants["int8"].files if each.path == "model.safetensors")
    key = blob_key(file.digest, store.prefix_of(registered.manifest))
    rot(s3_server, store, key)
    with pytest.raises(Transient) as failed:
        store.find(key)
    assert (failed.value.code, failed.value.details["object"]) == ("object_unreadable", key)
    variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}
    status, out, err = run_command(variables, "verify", released.name)
    assert (status, "is not proven: variant int8, model.safetensors" in err) == (1, True)
    assert key in out
    assert "proven\tvariant bf16, files" in out
    s3_server.kill()
    try:
        with pytest.raises(Transient) as failed:
            store.find(key)
    finally:
        s3_server.start()
    assert failed.value.code == "store_unavailable"


@pytest.fixture
def two_tries(monkeypatch):
    monkeypatch.setattr(delivery, "OBJECT_TRIES", 2)
    monkeypatch.setattr(delivery, "OBJECT_LIMIT_S", 1.0)


@pytest.mark.usefixtures("two_tries")
async def test_an_announcement_of_it_is_rejected_by_its_code_and_the_next_is_admitted(  # noqa: PLR0917
    js, settings, s3_server, store, checkpoint, log
):
    rotten = checkpoint(content=b"weights that rot")
    rot(s3_server, store, store.key_of(rotten.weights.ref.uri))
    async with registry(js, settings):
        await publish(js, rotten, "rotten")
        await publish(js, checkpoint(model="other-bot"), "good", model="other-bot")
        (opened,) = await log.of(f.ReleaseOpened)
        assert opened.subject == "other-bot"
        (rejected,) = await log.of(f.CheckpointRejected, timeout_s=240)
        assert (rejected.data.code, rejected.causationid) == ("object_unreadable", "rotten")
        assert store.key_of(rotten.weights.ref.uri) in rejected.data.reason
        await log.settled(f.CheckpointReady, INBOX)


async def test_a_release_that_ends_at_it_raises_an_alert_until_another_one_ends_without(
    js, settings, store, checkpoint, log
):
    failed = f.CheckpointRejected(code="object_unreadable", reason="The store does not read blobs/a.", details={})
    async with registry(js, settings):
        await publish(js, checkpoint(content=b"first"), "e1")
        (opened,) = await log.of(f.ReleaseOpened)
        release_id = opened.data.release_id
        await publish(js, failed, f"{release_id}/failed", release=release_id, source=worker_of(failed))
        (raised,) = [event.data for event in await log.of(f.AlertRaised)]
        assert (raised.kind, raised.target.version, release_id in raised.message) == ("store", 1, True)
        assert "blobs/a" in raised.message
        await publish(js, checkpoint(content=b"second"), "e2")
        opened = (await log.of(f.ReleaseOpened, 2))[-1].data
        await run_to_turn(js, opened.release_id, 2)
        await run_to_end(js, opened.release_id, 2, epoch=1)
        (resolved,) = [event.data for event in await log.of(f.AlertResolved)]
        assert resolved.alert_id == raised.alert_id
        assert [event.data.outcome for event in await log.of(f.ReleaseFinished, 2)] == ["rejected", "promoted"]
