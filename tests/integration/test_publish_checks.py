"""What `slipway publish` checks before it uploads, and what it says of a checkpoint that was released before."""

import asyncio
import uuid

import pytest
import yaml

from clients.cli.commands.policy import check_policy
from clients.cli.commands.publish import find_earlier
from clients.cli.connection import StackAddress
from clients.cli.errors import CommandError
from clients.training import Published
from contracts import facts as f
from contracts.envelope import plain
from contracts.facts.progress import ReleaseProgress
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ArtifactRef, Contract, canonical_json
from shared.storage.kv import Bucket
from testbed import factories, values
from testbed.story import release_id

WEIGHTS = ArtifactRef(uri="s3://slipway/a", digest="sha256:" + "a" * 64, size_bytes=1)


@pytest.fixture
def model():
    return f"bot-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def stack(settings):
    return StackAddress(settings, None, "test")


@pytest.fixture
def policy_file(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(factories.policy().model_dump(mode="json")))
    return file


async def test_a_policy_that_is_missing_is_refused_before_the_upload(js, stack, model, policy_file):
    with pytest.raises(CommandError, match="slipway policy init"):
        await asyncio.to_thread(check_policy, stack, model, None)
    await asyncio.to_thread(check_policy, stack, model, policy_file)
    await Bucket(js, "policies", ReleasePolicy).create(model, factories.policy())
    await asyncio.to_thread(check_policy, stack, model, None)


async def test_a_policy_that_is_weaker_than_the_stored_one_is_refused_before_the_upload(js, stack, model, policy_file):
    stored = factories.policy()
    strict = stored.triggers[0].model_copy(update={"threshold": stored.triggers[0].threshold / 2})
    await Bucket(js, "policies", ReleasePolicy).create(model, stored.model_copy(update={"triggers": (strict,)}))
    with pytest.raises(CommandError, match=stored.triggers[0].name):
        await asyncio.to_thread(check_policy, stack, model, policy_file)


class Recorded(Contract):
    """What the command reads of the registry's record of a release."""

    opened: f.ReleaseOpened
    progress: ReleaseProgress


async def announce(js, model, event_id):
    """Publish the event of a checkpoint, whatever the bus remembers of it."""
    event = factories.event(factories.fact(f.CheckpointReady, model=model), id=event_id, subject=model)
    await js.publish(event.nats_subject, canonical_json(plain(event)))


async def test_a_checkpoint_that_was_released_before_is_found_with_what_became_of_it(js, stack, model):
    published = Published(f"checkpoint-{model}", model, WEIGHTS, duplicate=False)
    await announce(js, model, published.event_id)
    assert await asyncio.to_thread(find_earlier, stack, published) is None, "it is the first"
    known = release_id(int(model[4:], 16))
    about = {"release_id": known, "model": model, "version": 1, "source_event_id": published.event_id}
    opened = factories.fact(f.ReleaseOpened, **about)
    ended = {"state": "rejected", "outcome": "rejected", "code": "gate_failed"}
    progress = values.progress(model=model, release_id=known, version=1, **ended)
    await Bucket(js, "releases", Recorded).create(f"{model}.{known}", Recorded(opened=opened, progress=progress))
    await announce(js, model, published.event_id)
    earlier = await asyncio.to_thread(find_earlier, stack, published)
    assert (earlier.version, earlier.outcome) == (1, "rejected")
