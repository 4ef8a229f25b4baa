"""Starts the training job of several processes, and reads what it announced."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nats.js import JetStreamContext
from safetensors.torch import load

from contracts.envelope import Event
from contracts.facts import CheckpointReady
from contracts.manifests import FolderManifest
from contracts.services import INBOX
from shared.messaging.events import parse_event
from shared.storage.blobs import Store
from testbed.ports import free_port
from tests.kit.environments import run
from tests.kit.wiring import ROOT

Announced = dict[str, list[tuple[Event[CheckpointReady], dict[str, torch.Tensor]]]]


def launch(
    python: Path | str, script: Path, job: Path, scenarios: Sequence[str], timeout_s: float = 270, **variables: str
) -> None:
    """Run scenarios of tests/kit/training_job.py, or of a copy, by two processes on the CPU.

    Args:
        variables: Of the environment; by default PYTHONPATH is the repository.
    """
    command = [python, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    run(*command, script, job, *scenarios, timeout=timeout_s, **variables)


async def announced(js: JetStreamContext, store: Store) -> Announced:
    """Return the announced checkpoints of each model, with their tensors."""
    events_by_model: Announced = {}
    for number in range(1, (await js.stream_info(INBOX)).state.messages + 1):
        message = await js.get_msg(INBOX, number)
        event: Event[Any] = parse_event(CheckpointReady, message.subject, message.data)
        manifest = FolderManifest.model_validate_json(store.get(event.data.weights.ref))
        prefix = store.prefix_of(event.data.weights.ref)
        (weights,) = [file for file in manifest.files if file.path.endswith(".safetensors")]
        key = f"{prefix}blobs/sha256/{weights.digest[7:9]}/{weights.digest[7:]}"
        events_by_model.setdefault(event.subject, []).append((event, load(store.find(key))))
    return events_by_model
