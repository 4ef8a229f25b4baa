"""The examples of training frameworks, run as users run them: each publishes its best checkpoint, once. `make test-examples`.

A publisher's own credential, the wheel of slipway-client, a real bus and a real store; the frameworks are those of
`.venv-examples`. Not in `testpaths`: `make test` leaves them out.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clients.training import data_hash
from contracts.facts import CheckpointReady
from contracts.manifests import FolderManifest
from contracts.services import INBOX
from decisions.checkpoints.adapters import assess_adapter_config, assess_recorded
from shared.messaging.events import parse_event
from shared.storage.blobs import Store
from testbed.models import tiny_base
from tests.kit.checkpoints import put_base
from tests.kit.environments import build_client, install_client, make_environment, run
from tests.kit.intake import running_intake
from tests.kit.wiring import ROOT

PYTHON = ROOT / ".venv-examples/bin/python"
FOLDER = ROOT / "examples/training"
STEPS = 6
TRAINED_ON = [json.loads(line) for line in (FOLDER / "conversations.jsonl").read_text().splitlines()][:-4]


def kept_by_trl(out: Path, best_step: int) -> dict[str, torch.Tensor]:
    return load_file(out / f"checkpoint-{best_step}/adapter_model.safetensors")


def kept_by_lightning(out: Path, best_step: int) -> dict[str, torch.Tensor]:
    (path,) = (out / "checkpoints").glob(f"*step={best_step}.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    trained = {name.removeprefix("model."): value for name, value in state.items() if "lora_" in name}
    return {name.replace(".default.", "."): value for name, value in trained.items()}


def kept_by_the_loop(out: Path, _best_step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "best.safetensors")


@dataclass(frozen=True)
class Example:
    script: str
    framework: str
    kept: Callable[[Path, int], dict[str, torch.Tensor]]
    steps_as: str
    """The hyperparameter that holds the steps."""
    arguments: tuple[str, ...] = ()


EXAMPLES = {
    "trl-bot": Example("trl_sft.py", "trl", kept_by_trl, "max_steps"),
    "lightning-bot": Example("lightning_module.py", "lightning", kept_by_lightning, "steps"),
    "lightning-ddp-bot": Example("lightning_module.py", "lightning", kept_by_lightning, "steps", ("--devices", "2")),
    "pytorch-bot": Example("plain_pytorch.py", "pytorch", kept_by_the_loop, "steps"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Path:
    """Return a folder with slipway-client, installed from its wheel; make the environment of the frameworks before."""
    make_environment("examples")
    folder = tmp_path_factory.mktemp("client")
    return install_client(build_client(folder / "wheels"), PYTHON, folder / "packages")


@pytest.fixture(scope="module")
def base(tmp_path_factory, s3_server) -> Path:
    """Return the folder of a tiny base model that was imported."""
    folder = tiny_base(tmp_path_factory.mktemp("models") / "base")
    put_base(Store(s3_server.settings()), folder)
    return folder


@pytest.fixture(scope="module")
def train(nats_server, s3_server, client, base):
    """Return what runs an example: with a credential that may publish these models, and with no key of the store."""
    nats_server.keys.add("trainer", ["publisher"], list(EXAMPLES))
    nats_server.reload()
    variables = {
        "PYTHONPATH": str(client),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "SLIPWAY_NATS_URL": nats_server.url,
        "SLIPWAY_NATS_CREDENTIALS": str(nats_server.keys.credential("trainer")),
        "SLIPWAY_NATS_CA": str(nats_server.keys.authority),
        "SLIPWAY_S3_CA": str(s3_server.keys.authority),
    }

    async def train(model: str, out: Path) -> str:
        example = EXAMPLES[model]
        options = ["--base", base, "--base-name", "acme/tiny-llama", "--out", out, "--publish", model, "--steps", STEPS]
        command = [PYTHON, FOLDER / example.script, *options, *example.arguments]
        return await asyncio.to_thread(run, *command, **variables)

    with running_intake(nats_server, s3_server):
        yield train


async def announced(js) -> list:
    count = (await js.stream_info(INBOX)).state.messages
    messages = [await js.get_msg(INBOX, number) for number in range(1, count + 1)]
    return [parse_event(CheckpointReady, message.subject, message.data) for message in messages]


@pytest.mark.parametrize("model", EXAMPLES)
async def test_an_example_publishes_its_best_checkpoint_once(js, settings, train, tmp_path, model):
    example, out = EXAMPLES[model], tmp_path / "run-7"
    printed = await train(model, out)
    (event,) = await announced(js)
    assert printed.splitlines().count(f"published {event.id}") == 1

    training, recorded = event.data.training, event.data.training.hyperparameters
    assert (event.subject, event.data.base.name) == (model, "acme/tiny-llama")
    assert (training.run_id, training.framework) == ("run-7", example.framework)
    assert training.data_hash == data_hash(TRAINED_ON)
    expected = {"r": 4, "lora_alpha": 8, "learning_rate": 5e-3, example.steps_as: STEPS}
    assert {name: recorded.get(name) for name in expected} == expected
    assert recorded["best_step"] in (2, 4, 6)
    (result,) = event.data.evals
    assert (result.name, result.metric, result.higher_is_better) == ("held-out", "loss", False)

    assert event.data.weights.kind == "lora"
    store = Store(settings)
    manifest = FolderManifest.model_validate_json(store.get(event.data.weights.ref))
    assert {file.path for file in manifest.files} == {"adapter_config.json", "adapter_model.safetensors"}
    store.fetch_files(manifest.files, tmp_path / "stored", store.prefix_of(event.data.weights.ref))
    stored = load_file(tmp_path / "stored/adapter_model.safetensors")
    kept = example.kept(out, recorded["best_step"])
    assert stored.keys() == kept.keys()
    assert all(torch.equal(stored[name], kept[name]) for name in kept)
    assert any(stored[name].any() for name in stored if "lora_B" in name)  # it was trained

    adapter = json.loads((tmp_path / "stored/adapter_config.json").read_text())  # the merger accepts it
    assert assess_adapter_config(adapter, event.data.base) is None
    assert assess_recorded(adapter, recorded) is None
