"""vLLM in Triton, loaded again and again: the same weights score fixed texts as when they were staged, others do not."""

import asyncio
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.codes import Code
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from shared.errors import SlipwayError
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.conformance_serving import DIGEST, NAME
from tests.kit.fakes_serving import no_references

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(900)]
DAMAGED = "model.layers.15.mlp.down_proj.weight"


@pytest.fixture
def triton(tmp_path):
    with running(TritonServer(tmp_path / "triton")) as server:
        yield server


def changed(smollm2, folder, change):
    """Return a copy of a model whose weights a function has changed."""
    shutil.copytree(smollm2, folder)
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def adapt(weights):
    """Add a LoRA of rank 8 to all query and value projections, of 3 % of their norm."""
    torch.manual_seed(0)
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            update = torch.randn(weight.shape[0], 8) @ torch.randn(8, weight.shape[1])
            weight.add_((0.03 * weight.float().norm() / update.norm() * update).to(weight.dtype))


def damage(weights):
    """Clear a MiB of one matrix, as a block of a disk that is read as zeros."""
    weights[DAMAGED].view(-1)[: 2**19] = 0


async def test_the_same_weights_are_told_from_another_adapter_a_damaged_shard_and_another_precision(
    triton, smollm2, tmp_path
):
    references = no_references()

    async def load(folder, **arguments) -> Code | None:
        """Load a folder; return the code of what its probe raises."""
        config = EngineConfig(
            "slipway",
            engine_args={"max_model_len": 512, "max_num_seqs": 8, **arguments},
            environment={"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        )
        engine = TritonEngine(triton.endpoint, triton.repository, config, references=references)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=1)
        try:
            await engine.probe(NAME, 120)
        except SlipwayError as error:
            return error.code
        finally:
            await engine.unload(NAME)
            await engine.close()
        return None

    adapted = await asyncio.to_thread(changed, smollm2, tmp_path / "adapted", adapt)
    damaged = await asyncio.to_thread(changed, smollm2, tmp_path / "damaged", damage)
    assert [await load(smollm2) for _ in range(3)] == [None] * 3
    assert await load(adapted) == "logprobs_differ"
    assert await load(damaged) == "logprobs_differ"
    assert await load(smollm2, dtype="float32") == "logprobs_differ"
    assert await load(smollm2) is None
