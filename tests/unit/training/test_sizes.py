"""The client refuses what admission would, in the same words, before anything is uploaded or published."""

import dataclasses

import pytest

from clients.training import Connection, PublishError, Run, publish_checkpoint_async
from contracts.codes import ADVICE
from contracts.facts import Weights
from testbed import factories

NOWHERE = Connection(nats_url="nats://127.0.0.1:1")
RUN = Run(run_id="run-1", data_hash="sha256:" + "a" * 64)


async def refused(run=RUN, folder="no-such-folder"):
    with pytest.raises(PublishError) as caught:
        await publish_checkpoint_async(folder, model="support-bot", base=factories.base(), run=run, connection=NOWHERE)
    return str(caught.value)


async def test_hyperparameters_that_are_too_large():
    message = await refused(dataclasses.replace(RUN, hyperparameters={"table": "x" * 40_000}))
    assert message == f"training.hyperparameters has 40,013 bytes as JSON; the limit is 32,768. {ADVICE['too_large']}"


async def test_a_key_that_no_store_takes():
    ref = factories.ref("w").model_copy(update={"uri": "s3://slipway/checkpoints/support-bot/" + "d/" * 737 + "x"})
    message = await refused(folder=Weights(kind="lora", ref=ref))
    assert message.startswith("the key of weights.ref.uri has 1,499 bytes; the limit is 1,024.")
    assert message.endswith(ADVICE["too_large"])
