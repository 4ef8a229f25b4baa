"""What `slipway publish` checks before it uploads, and the release of a checkpoint that is published again."""

import asyncio
import json
import uuid
from dataclasses import replace

import pytest
import yaml

from clients.cli.commands.policy import check_policy
from clients.cli.commands.publish import training_connection
from clients.cli.connection import StackAddress
from clients.cli.errors import CommandError
from clients.cli.releases.recorded_releases import release_of_checkpoint
from clients.cli.sources.checkpoint_checks import find_base
from clients.training import Published
from contracts import facts as f
from contracts.facts.progress import ReleaseProgress
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ArtifactRef, Contract
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories, values
from testbed.services import environment
from testbed.story import release_id
from tests.kit.checkpoints import put_base
from tests.kit.command import run_command
from tests.kit.intake import running_intake

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


async def test_a_policy_that_is_not_the_stored_one_is_refused_before_the_upload(js, stack, model, policy_file):
    stored = factories.policy()
    strict = stored.triggers[0].model_copy(update={"threshold": stored.triggers[0].threshold / 2})
    await Bucket(js, "policies", ReleasePolicy).create(model, stored.model_copy(update={"triggers": (strict,)}))
    with pytest.raises(CommandError, match="triggers: it differs from the stored policy"):
        await asyncio.to_thread(check_policy, stack, model, policy_file)


class Recorded(Contract):
    """What the command reads of the registry's record of a release."""

    opened: f.ReleaseOpened
    progress: ReleaseProgress


async def test_the_release_of_a_checkpoint_is_found_beside_a_newer_one_also_if_its_run_is_resumed(js, model):
    """A run that is resumed at its end announces the same release by another event."""
    releases, first = Bucket(js, "releases", Recorded), factories.fact(f.CheckpointReady, model=model)
    first = first.model_copy(update={"policy": factories.policy()})
    for version in (1, 2):
        known = release_id(int(model[4:], 16) + version)
        about = {"release_id": known, "model": model, "version": version}
        inputs = {name: getattr(first, name) for name in f.CheckpointReady.model_fields} | {"attempt": version}
        opened = factories.fact(f.ReleaseOpened, **inputs | about, source_event_id=f"checkpoint-{model}-{version}")
        ended = {"state": "rejected", "outcome": "rejected", "code": "gate_failed"} if version == 1 else {}
        record = Recorded(opened=opened, progress=values.progress(**about, **ended))
        await releases.create(f"{model}.{known}", record)
    checkpoint = Published(f"checkpoint-{model}-1", model, WEIGHTS, duplicate=False)
    assert (await release_of_checkpoint(js, checkpoint)).progress.version == 1
    assert await release_of_checkpoint(js, replace(checkpoint, event_id="checkpoint-of-none")) is None
    training = first.training.model_copy(update={"finished_at": factories.after(9)})
    again = first.model_copy(update={"training": training, "evals": (), "policy": None, "attempt": 1})
    resumed = replace(checkpoint, event_id="again", announced=again)
    assert (await release_of_checkpoint(js, resumed)).progress.version == 1
    renamed = again.model_copy(update={"base": again.base.model_copy(update={"name": "another-name"})})
    assert (await release_of_checkpoint(js, replace(resumed, announced=renamed))).progress.version == 1
    other = replace(resumed, announced=again.model_copy(update={"attempt": 3}))
    assert await release_of_checkpoint(js, other) is None


@pytest.fixture
def base(settings, tmp_path):
    """An imported base model, and what its architecture is to be."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return put_base(Store(settings), folder)


@pytest.fixture
def publish_check(stack, model, policy_file, base, tmp_path):
    """Return a function that runs `slipway publish --check` for a LoRA with changes of its configuration."""
    lora, data = tmp_path / "lora", tmp_path / "train.jsonl"
    lora.mkdir()
    (lora / "adapter_model.safetensors").write_bytes(b"x")
    data.write_text("{}\n")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": base.name}
    publish = ["publish", "--model", model, "--base", base.name, "--adapter", str(lora), "--data", str(data)]
    options = ["--policy", str(policy_file), "--check", "--json"]

    async def check(**changes):
        (lora / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return await asyncio.to_thread(run_command, environment(stack.connection), *publish, *options)

    return check


@pytest.fixture
def _intake(nats_server, s3_server):
    with running_intake(nats_server, s3_server):
        yield


@pytest.mark.usefixtures("_intake")
async def test_check_ends_before_an_upload_with_what_the_merger_would_refuse(js, stack, model, base, publish_check):
    found = await asyncio.to_thread(find_base, training_connection(stack), model, base.name)
    assert (found.ref, found.architecture) == (base, "LlamaForCausalLM")
    status, out, err = await publish_check()
    assert (status, err) == (0, "")
    assert json.loads(out)["run_id"] == "lora"
    status, _, err = await publish_check(target_parameters=["experts.down_proj"])
    assert status == 1
    assert json.loads(err)["error"]["code"] == "unsupported_adapter"
    assert Store(stack.connection).keys(f"checkpoints/{model}/") == []
    assert (await js.stream_info("SLIPWAY_INBOX")).state.messages == 0
