"""The optional arguments: those that are not given have their defaults, and a misspelt one is refused at once."""

import pytest

from clients.training import Connection, PublishError, Run, publish_checkpoint, publish_checkpoint_async

RUN = Run(run_id="run-1", data_hash="sha256:" + "a" * 64)


async def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="There is no argument 'variant': use connection, variants, policy"):
        await publish_checkpoint_async("folder", model="support-bot", base="base", run=RUN, variant=["int8"])  # type: ignore[call-arg]


def test_a_mistake_is_refused_before_anything_is_uploaded():
    nowhere = Connection(nats_url="nats://127.0.0.1:1")
    with pytest.raises(PublishError, match="variants"):
        publish_checkpoint("no-such", model="m", base="b", run=RUN, connection=nowhere, variants=["int3"])
