"""`slipway erase` on a real bus: its own answer counts, and a list of files that is not the named one erases nothing."""

import asyncio
import json
import uuid
from types import SimpleNamespace

import pytest
import urllib3
from nats.js.errors import NotFoundError

from contracts import facts as cf
from contracts.manifests import FolderManifest
from contracts.services import ORDERS
from contracts.storage.uploads import AnnouncedFile, UploadRequest
from contracts.vocabulary import digest_of
from services.registry.adapters.uploads import StagedUploads
from services.registry.uploads import Intake
from shared.errors import Permanent
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.credentials import trusted
from shared.storage.held_out import erase_text
from testbed import factories as f
from testbed.released import release
from tests.integration.commands import slipway


async def ordered(js, model):
    """Return the id of the order of an erasure, when it is there."""
    for _ in range(200):
        try:
            message = await js.get_last_msg(ORDERS, f"{cf.ErasureOrdered.TYPE}.{model}.*")
        except NotFoundError:
            await asyncio.sleep(0.05)
        else:
            return json.loads(message.data)["id"]
    raise AssertionError("no order was published")


def answers(js, model, order_id, refused):
    other = {"id": str(uuid.uuid4()), "subject": model}
    own = {"id": str(uuid.uuid4()), "subject": model}
    if refused:
        fact = f.fact(cf.OrderRefused, order_id=order_id, code="artifact_not_found", reason="No.")
        return [f.event(fact, **own), f.event(f.fact(cf.OrderRefused, order_id="another"), **other)]
    fact = f.fact(cf.OrderAccepted, order_id=order_id, details={"digests": ["sha256:1"]})
    return [f.event(fact, **own), f.event(f.fact(cf.OrderAccepted, order_id="another"), **other)]


@pytest.mark.parametrize("refused", [False, True])
async def test_the_answer_is_found_behind_that_of_another_order(js, settings, tmp_path, monkeypatch, refused):
    monkeypatch.setattr("clients.cli.commands.orders.ANSWER_TRY_S", 2.0)  # both answers are there at the next look
    monkeypatch.setattr("clients.cli.commands.installation.erase.WAIT_S", 6.0)
    arguments = ("erase", "bot@v2", "--reason", "asked to")
    running = asyncio.create_task(asyncio.to_thread(slipway, SimpleNamespace(keys=tmp_path), settings, *arguments))
    for event in answers(js, "bot", await ordered(js, "bot"), refused):
        await publish_event(js, event)
    status, out, err = await running
    if refused:
        assert status != 0
        assert "the order was refused: artifact_not_found: No." in err
    else:
        assert (status, out) == (0, "erased the held-out text of bot@v2: sha256:1\n"), err


def test_files_of_a_list_that_is_not_the_named_one_stay(settings, tmp_path):
    store, model = Store(settings), f"bot-{uuid.uuid4().hex[:8]}"
    prefix = f"checkpoints/{model}/"
    named, other = (store.put_blob(memoryview(text), "texts.jsonl", prefix) for text in (b"named\n", b"other\n"))
    folder = FolderManifest(files=(named,))
    key = manifest_key("folder", digest_of(folder.to_bytes()), prefix)
    store.create(key, FolderManifest(files=(other,)).to_bytes())
    version = measured_on(store, release(store, tmp_path, model=model), digest_of(folder.to_bytes()))
    with pytest.raises(Permanent, match="nothing that it lists is erased") as caught:
        erase_text(store, model, version, "evaluation")
    assert caught.value.code == "digest_mismatch"
    assert store.find(blob_key(other.digest, prefix)) == b"other\n"
    store._client.write(store.bucket, key, memoryview(folder.to_bytes()))
    assert erase_text(store, model, version, "evaluation") == (digest_of(folder.to_bytes()),)
    assert store.find(blob_key(named.digest, prefix)) is None
    assert store.find(blob_key(other.digest, prefix)) == b"other\n"


@pytest.mark.parametrize("folder", [True, False])
async def test_a_set_that_publishers_uploaded_is_erased(s3_server, settings, tmp_path, folder):
    """As the registry does it, with its own key of the store."""
    store, model, text = Store(settings), f"bot-{uuid.uuid4().hex[:8]}", uuid.uuid4().bytes
    intake = Intake(StagedUploads(s3_server.settings("registry"), None, 60, SystemClock()), no_sizes, tuple)
    set_of = UploadRequest(files=(announced("set.json", text),), folder=folder)
    stored = [await uploaded(intake, s3_server, text, set_of, model=model, publisher=name) for name in ("pia", "otto")]
    other = await uploaded(intake, s3_server, text, set_of, model=f"other-{model}", publisher="pia")
    digest = (stored[0].folder or stored[0].files[0]).digest
    version = measured_on(store, await asyncio.to_thread(release, store, tmp_path, model=model), digest)
    assert erase_text(Store(s3_server.settings("registry")), model, version, "evaluation") == (digest,)
    assert [store.find(store.key_of(answer.files[0].uri)) for answer in stored] == [None, None]
    assert store.find(store.key_of(other.files[0].uri)) == text, "of another model"
    assert (await intake.answer(model, "pia", set_of)).state == "missing", "it is not taken for one that is there"


async def no_sizes(_model):
    return {}


def announced(name, data):
    return AnnouncedFile(path=name, digest=digest_of(data), size_bytes=len(data))


async def uploaded(intake, s3_server, data, request, *, model, publisher):
    http = urllib3.PoolManager(ssl_context=trusted(s3_server.keys.authority), retries=False)
    (permit,) = (await intake.answer(model, publisher, request)).permits
    assert http.request("PUT", permit.url, body=data, headers=permit.headers).status == 200
    answer = await intake.answer(model, publisher, request)
    assert answer.state == "stored", answer
    return answer


def measured_on(store, released, digest):
    """Make the evaluation set with this digest that of a version's first variant; return the version's number."""
    manifest = released.manifest
    first, *others = manifest.variants
    variant = released.variants[first.variant].model_copy(update={"evaluation_digest": digest})
    ref, _ = store.put_manifest(manifest_key("variant", f"sha256:{uuid.uuid4().hex}"), variant)
    changed = manifest.model_copy(update={"variants": (first.model_copy(update={"manifest": ref}), *others)})
    key = f"versions/{manifest.model}/{manifest.version}/manifest.json"
    store._client.write(store.bucket, key, memoryview(changed.model_dump_json().encode()))
    return manifest.version
