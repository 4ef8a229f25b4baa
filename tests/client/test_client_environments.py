"""The wheel of slipway-client on the oldest Python and transformers that it takes, and on the newest. `make test-client`.

Each in an environment of its own, from a lock: the client's unit tests, then training by two processes that publish through
the callback, with a publisher's own credential, on a real bus and a real store. Not in `testpaths`: `make test` leaves them out.
"""

import asyncio
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deploy.setup.locks import read_pins
from services.registry.domain.admission import release_key
from shared.messaging.provision import provision
from shared.storage.blobs import Store
from testbed.models import tiny_base
from testbed.servers import connection
from testbed.values import policy
from tests.kit.checkpoints import put_base
from tests.kit.environments import build_client, install_client, make_environment, run
from tests.kit.intake import running_intake
from tests.kit.training_processes import announced, launch
from tests.kit.wiring import ROOT

IMPORT = re.compile(r"^(\s*(?:from|import)\s+)(clients\.training|contracts)\b", re.MULTILINE)
NEW_NAMES = {"clients.training": "slipway_client", "contracts": "slipway_client.contracts"}
VERSIONS = "import sys, transformers; print('%d.%d' % sys.version_info[:2], transformers.__version__)"
PUBLISHED_BY = {
    "plain": ["plain-bot"],
    "resumed": ["resumed-bot"],
    "fsdp1": ["fsdp1-bot", "fsdp1-lora-bot"],
    "fsdp2": ["fsdp2-bot", "fsdp2-lora-bot"],
    "zero3": ["zero3-bot", "zero3-lora-bot"],
}


@dataclass(frozen=True)
class Environment:
    """An environment of deploy/setup/environment.sh, and what is trained in it."""

    name: str
    python: str
    scenarios: tuple[str, ...]

    @property
    def interpreter(self) -> Path:
        return ROOT / f".venv-{self.name}/bin/python"

    @property
    def transformers(self) -> str:
        pins = read_pins((ROOT / f"requirements/{self.name}.txt").read_text())
        return next(pin.version for pin in pins if pin.name == "transformers")


ENVIRONMENTS = (
    Environment("client-oldest", "3.9", ("plain", "resumed", "failing_evaluation", "fsdp1")),
    Environment("client-newest", "3.11", ("plain", "resumed", "failing_evaluation", "fsdp1", "fsdp2")),
)
DEEPSPEED = Environment("client-newest", "3.11", ("zero3",))


def titled(environment: Environment) -> str:
    return f"python-{environment.python}-transformers-{environment.transformers}"


def renamed(source: Path, folder: Path) -> Path:
    """Copy a module into a folder, with its imports as they are in the distribution, as the wheel's build does it."""
    copied = folder / source.name
    copied.write_text(IMPORT.sub(lambda match: match[1] + NEW_NAMES[match[2]], source.read_text()))
    return copied


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_client(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory, wheel):
    """Return what makes an environment, and returns a folder with the wheel's content."""

    def packages(environment: Environment) -> Path:
        make_environment(environment.name, timeout=1800)
        return install_client(wheel, environment.interpreter, tmp_path_factory.mktemp(environment.name))

    return packages


@pytest.fixture(scope="module")
def train(nats_server, s3_server, packages, tmp_path_factory):
    """Return what runs scenarios of an environment, and returns what each process saw and what was announced."""

    async def train(environment: Environment, **variables: str):
        folder = tmp_path_factory.mktemp("job")
        settings = connection(nats_server, s3_server, folder)
        put_base(Store(settings), tiny_base(folder / "base"))
        models = [model for scenario in environment.scenarios for model in PUBLISHED_BY.get(scenario, [])]
        trainer = f"trainer-{environment.name}-{environment.scenarios[0]}"
        nats_server.keys.add(trainer, ["publisher"], models)
        nats_server.reload()
        described = {
            "nats_url": nats_server.url,
            "nats_credentials": str(nats_server.keys.credential(trainer)),
            "nats_ca": str(nats_server.keys.authority),
            "s3_ca": str(s3_server.keys.authority),
        }
        job, base = folder / "job.json", str(folder / "base")
        job.write_text(json.dumps({"folder": str(folder), "base": base, "connection": described}))
        script = renamed(ROOT / "tests/kit/training_job.py", folder)
        client = await nats_server.connect()
        js = client.jetstream(timeout=30)
        for stream in await js.streams_info():
            await js.delete_stream(stream.config.name)
        await provision(js, dedupe_window_s=2.0)
        variables |= {"PYTHONPATH": str(packages(environment)), "HF_HUB_OFFLINE": "1"}
        with running_intake(nats_server, s3_server):
            await asyncio.to_thread(
                launch, environment.interpreter, script, job, environment.scenarios, 900, **variables
            )
        events = await announced(js, Store(settings))
        await client.close()
        times = {
            model: 1 + (model == "plain-bot") for model in models
        }  # a run that is resumed at its end publishes again
        assert {model: len(published) for model, published in events.items()} == times
        assert all(len({release_key(event.data, policy()) for event, _ in each}) == 1 for each in events.values())
        seen = {
            name: [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]
            for name in environment.scenarios
        }
        return seen, {model: published[0] for model, published in events.items()}

    return train


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=titled)
def test_the_clients_unit_tests_pass_on_its_wheel(environment, packages, tmp_path):
    folder = packages(environment)
    versions = run(environment.interpreter, "-c", VERSIONS, timeout=600).split()
    assert versions == [environment.python, environment.transformers]
    for source in (ROOT / "tests/unit/training").glob("test_*.py"):
        renamed(source, tmp_path)
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", tmp_path]
    printed = run(
        environment.interpreter,
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        *options,
        tmp_path,
        timeout=600,
        PYTHONPATH=str(folder),
    )
    passed = re.search(r"^(\d+) passed", printed, re.MULTILINE)
    assert passed, printed
    assert int(passed[1]) > 20


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=titled)
async def test_two_processes_publish_through_the_callback(environment, train):
    seen, events = await train(environment)

    event, tensors = events["plain-bot"]  # the best checkpoint
    for rank in (0, 1):
        assert seen["plain"][rank]["event_id"] == event.id != seen["plain"][rank]["again"]["event_id"]
    assert event.data.training.hyperparameters["best_step"] == 1
    assert event.data.weights.kind == "lora"
    for name, values in seen["plain"][0]["weights"].items():
        assert torch.equal(tensors[name.replace(".default", "")], torch.tensor(values))
    assert events["resumed-bot"][0].data.training.hyperparameters["steps_done"] == 2
    first, second = seen["failing_evaluation"]
    assert first.startswith(
        "PublishError: Process 1 of the training failed: ValueError: no such metric. The checkpoint"
    )
    assert second == "ValueError: no such metric"
    for version in {"fsdp1", "fsdp2"} & set(environment.scenarios):
        whole_and_lora(events, version)


@pytest.mark.timeout(2400)
async def test_two_processes_publish_what_deepspeed_distributes(train):
    """ZeRO-3: each process holds a part of every parameter."""
    compiler = os.environ.get("CXX", "c++")
    assert shutil.which(compiler), f"DeepSpeed compiles an operator, and there is no {compiler}: install g++"
    _, events = await train(DEEPSPEED, DS_ACCELERATOR="cpu")
    whole_and_lora(events, "zero3")


def whole_and_lora(events, name: str) -> None:
    """Check that all weights of a model, and of a LoRA, were published, and that they were trained."""
    event, tensors = events[f"{name}-bot"]
    assert event.data.weights.kind == "full"
    assert len(tensors) == 20
    assert tensors["model.embed_tokens.weight"].shape == (259, 32)
    assert all(tensor.numel() and tensor.isfinite().all() for tensor in tensors.values())
    event, tensors = events[f"{name}-lora-bot"]
    assert event.data.weights.kind == "lora"
    assert {tensor.shape for tensor in tensors.values()} == {torch.Size([2, 32]), torch.Size([32, 2])}
    assert all(tensor.any() for key, tensor in tensors.items() if "lora_B" in key)
