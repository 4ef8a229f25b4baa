"""vLLM in Triton, loaded again and again: the same weights score fixed texts as when they were staged, others do not."""

import asyncio
from functools import partial

import pytest

from benchmarks.reference_loads import adapt, copy_changed, damage
from contracts.codes import Code
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from shared.errors import SlipwayError
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.conformance_serving import DIGEST, NAME
from tests.kit.fakes_serving import no_references

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture
def triton(tmp_path):
    with running(TritonServer(tmp_path / "triton")) as server:
        yield server


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

    adapted = await asyncio.to_thread(copy_changed, smollm2, tmp_path / "adapted", partial(adapt, share=0.03))
    damaged = await asyncio.to_thread(copy_changed, smollm2, tmp_path / "damaged", damage)
    assert [await load(smollm2) for _ in range(3)] == [None] * 3
    assert await load(adapted) == "logprobs_differ"
    assert await load(damaged) == "logprobs_differ"
    assert await load(smollm2, dtype="float32") == "logprobs_differ"
    assert await load(smollm2) is None
