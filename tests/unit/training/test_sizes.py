"""The client refuses what admission would, in the same words, before anything is uploaded or published."""

import dataclasses

import pytest

from clients.training import Connection, PublishError, Run, publish_checkpoint_async
from contracts.codes import ADVICE
from contracts.facts import BaseModelRef, Weights
from contracts.vocabulary import ArtifactRef

NOWHERE = Connection(nats_url="nats://127.0.0.1:1")
DIGEST = "sha256:" + "a" * 64
RUN = Run(run_id="run-1", data_hash=DIGEST)
BASE = BaseModelRef(name="acme/base", revision="1", uri="s3://slipway/bases/acme/base/1.json", digest=DIGEST)


async def refused(run=RUN, folder="no-such-folder"):
    with pytest.raises(PublishError) as caught:
        await publish_checkpoint_async(folder, model="support-bot", base=BASE, run=run, connection=NOWHERE)
    return str(caught.value)


async def test_hyperparameters_that_are_too_large():
    message = await refused(dataclasses.replace(RUN, hyperparameters={"table": "x" * 40_000}))
    assert message == f"training.hyperparameters has 40,013 bytes as JSON; the limit is 32,768. {ADVICE['too_large']}"


async def test_a_key_that_no_store_takes():
    uri = "s3://slipway/checkpoints/support-bot/" + "d/" * 737 + "x"
    ref = ArtifactRef(uri=uri, digest=DIGEST, size_bytes=4096)
    message = await refused(folder=Weights(kind="lora", ref=ref))
    assert message.startswith("the key of weights.ref.uri has 1,499 bytes; the limit is 1,024.")
    assert message.endswith(ADVICE["too_large"])
