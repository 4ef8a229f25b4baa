"""The training client without any server."""

import pytest

from clients.training import Connection, PublishError, Run
from clients.training.publish import envelope
from clients.training.upload import checkpoint_files
from contracts.facts import BaseModelRef, CheckpointReady, Training, Weights
from contracts.vocabulary import ArtifactRef

DIGEST = "sha256:" + "a" * 64
FOLDER = ArtifactRef(uri="s3://slipway/checkpoints/support-bot/manifests/folder/a.json", digest=DIGEST, size_bytes=812)


def ready(**changes):
    fact = CheckpointReady(
        model="support-bot",
        base=BaseModelRef(name="acme/base", revision="1", uri="s3://slipway/bases/acme/base/1.json", digest=DIGEST),
        weights=Weights(kind="lora", ref=FOLDER),
        training=Training(run_id="run-2231", data_hash=DIGEST, hyperparameters={"lora_r": 8}),
    )
    return fact.model_copy(update=changes)


def test_a_connection_comes_from_the_variables_that_services_use():
    variables = {
        "SLIPWAY_NATS_URL": "nats://bus:4222",
        "SLIPWAY_NATS_CREDENTIALS": "/run/secrets/bus",
        "SLIPWAY_NATS_CA": "/run/bus.pem",
        "SLIPWAY_S3_CA": "/run/store.pem",
    }
    connection = Connection.from_environment(variables)
    assert connection == Connection(
        nats_url="nats://bus:4222",
        nats_credentials="/run/secrets/bus",
        nats_ca="/run/bus.pem",
        s3_ca="/run/store.pem",
    )
    assert Connection.from_environment({}) == Connection()


def test_the_event_id_follows_from_the_checkpoint_alone():
    first, again = envelope(ready(), "paula"), envelope(ready(), "paula")
    assert first.id == again.id
    assert first.nats_subject == "slipway.checkpoint.ready.v1.support-bot.paula"
    assert first.correlationid == "run-2231"
    assert envelope(ready(attempt=2), "paula").id != first.id


def test_only_uploaded_files_are_listed(tmp_path):
    for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", ".hidden.json", "rng_state.pth"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "checkpoint-10").mkdir()
    assert [path.name for path in checkpoint_files(tmp_path)] == ["adapter_config.json", "adapter_model.safetensors"]


def test_no_weights_is_an_error(tmp_path):
    with pytest.raises(PublishError, match="no safetensors"):
        checkpoint_files(tmp_path)


def test_runs_can_be_compared():
    assert Run("a", "sha256:1") == Run("a", "sha256:1")
