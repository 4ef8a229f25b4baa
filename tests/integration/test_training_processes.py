"""Training by two processes (gloo, on the CPU): each model is published once, whole, and no process is left waiting."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from services.registry.domain.admission import release_key
from shared.messaging.provision import provision
from shared.storage.blobs import Store
from testbed.models import tiny_base
from testbed.servers import connection
from testbed.values import policy
from tests.kit.checkpoints import put_base
from tests.kit.intake import running_intake
from tests.kit.training_processes import announced, launch
from tests.kit.wiring import ROOT

pytestmark = pytest.mark.full
SCENARIOS = ("plain", "resumed", "no_bus", "failing_evaluation", "fsdp1", "fsdp2")


@pytest.fixture(scope="module")
def stack(nats_server, s3_server, tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    settings = connection(nats_server, s3_server, root)
    base = tiny_base(root / "base")
    put_base(Store(settings), base)
    return settings, base, root


def one_step(base: Path):
    """Return what one process computes of the step that `fsdp2` makes."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(base).float()
    row = torch.arange(8).unsqueeze(0)
    model(input_ids=row, labels=row).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model.state_dict()


async def test_two_processes_publish_each_model_once_and_whole(nats_server, s3_server, stack):
    import torch

    settings, base, root = stack
    client = await nats_server.connect()
    js = client.jetstream(timeout=30)
    await provision(js, dedupe_window_s=2.0)
    names = ("nats_url", "nats_credentials", "nats_ca", "s3_ca")
    described = {name: str(getattr(settings, name)) for name in names}
    (root / "job.json").write_text(json.dumps({"folder": str(root), "base": str(base), "connection": described}))
    with running_intake(nats_server, s3_server):
        script = ROOT / "tests/kit/training_job.py"
        await asyncio.to_thread(launch, sys.executable, script, root / "job.json", SCENARIOS)

    seen = {name: [json.loads((root / f"{name}.{rank}.json").read_text()) for rank in (0, 1)] for name in SCENARIOS}
    events = await announced(js, Store(settings))
    await client.close()
    once = ("resumed-bot", "fsdp1-bot", "fsdp1-lora-bot", "fsdp2-bot", "fsdp2-lora-bot")
    assert {model: len(published) for model, published in events.items()} == {"plain-bot": 2, **dict.fromkeys(once, 1)}

    (event, tensors), (again, _) = events["plain-bot"]  # the best checkpoint
    for rank in (0, 1):
        assert seen["plain"][rank]["event_id"] == event.id
        assert seen["plain"][rank]["again"]["event_id"] == again.id
    keys = {release_key(each.data, policy()) for each in (event, again)}
    assert len(keys) == 1  # a run that is resumed at its end is the same release
    assert event.data.training.hyperparameters["best_step"] == 1
    assert event.data.training.hyperparameters["steps_done"] == 2
    assert [each.value for each in event.data.evals] == [0.0]  # the first process's
    for name, values in seen["plain"][0]["weights"].items():
        assert torch.equal(tensors[name.replace(".default", "")], torch.tensor(values))

    ((event, _),) = events["resumed-bot"]
    assert event.data.training.hyperparameters["steps_done"] == 2

    first, second = seen["no_bus"]
    assert first.startswith("PublishError: The message bus at nats://127.0.0.1:9 does not answer")
    assert second.startswith("PublishError: The first process of the training failed: The message bus at")
    kept = {Path(error.split(" is kept in ")[1].split(":")[0]) for error in (first, second)}
    assert [sorted(path.name for path in folder.glob("*.safetensors")) for folder in kept] == [
        ["adapter_model.safetensors"]
    ]
    first, second = seen["failing_evaluation"]
    assert first.startswith(
        "PublishError: Process 1 of the training failed: ValueError: no such metric. The checkpoint"
    )
    assert second == "ValueError: no such metric"

    expected = one_step(base)
    for version in ("fsdp1", "fsdp2"):
        ((event, tensors),) = events[f"{version}-bot"]
        assert event.data.weights.kind == "full"
        assert set(tensors) == set(expected) - {"lm_head.weight"}  # tied
        for name, tensor in tensors.items():
            assert torch.allclose(tensor, expected[name], atol=1e-6), (version, name)
        ((event, tensors),) = events[f"{version}-lora-bot"]
        assert event.data.weights.kind == "lora"
        assert {tensor.shape for tensor in tensors.values()} == {torch.Size([2, 32]), torch.Size([32, 2])}
