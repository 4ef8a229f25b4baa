"""SmolLM2 as the files of `tests/real/one_engine` share it: its name, its limits, and a template that fails on purpose."""

import asyncio
import shutil
from pathlib import Path

from contracts.routes import ServedTarget
from contracts.vocabulary import ServingSettings
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from testbed import factories
from testbed.triton import TritonServer

MODEL, NAME = "bot", "bot.v2.bf16"
SLOTS, CONTEXT = 2, 1024
"""Answers that the engine computes at the same time, and tokens of a prompt and its answer."""
PARSED = ServingSettings(tool_parser="hermes")
BROKEN = (
    "{%- if 'divide' in messages[0].content %}{{ 1 // 0 }}{% endif -%}"
    "{%- if 'refuse' in messages[0].content %}{{ raise_exception('These messages are refused.') }}{% endif -%}"
)
"""What stands before the model's own chat template: it fails for one word, and refuses another."""


def load_smollm2(triton: TritonServer, smollm2: Path, folder: Path) -> ServedTarget:
    """Load a copy of SmolLM2 whose template fails for some conversations, and return it as a target."""
    shutil.copytree(smollm2, folder)
    template = folder / "chat_template.jinja"
    template.write_text(BROKEN + template.read_text())
    served = factories.served(2, "bf16", MODEL, endpoints=(triton.endpoint,), context_tokens=CONTEXT)
    config = EngineConfig(
        "slipway",
        engine_args={"max_model_len": CONTEXT, "max_num_seqs": SLOTS},
        environment={"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    )

    async def load() -> None:
        engine = TritonEngine(triton.endpoint, triton.repository, config)
        await engine.load(NAME, folder, digest=served.manifest.digest, memory_bytes=1, serving=PARSED)
        await engine.close()

    asyncio.run(load())
    return served
