"""Memory of a model that is loaded into vLLM on a CPU: of its processes, beside what server-manager reserves for it.

A Triton loads SmolLM2 under several names, one after the other, with the settings that server-manager has by default.
Each is measured when it is loaded, when it has answered `STREAMS` requests at once, and when prompts have filled its
key-value cache, which could take memory only once it is used. The processes of a model are Triton's stub, vLLM's
engine below it and their children. "Private" counts pages that no other process maps, "proportional" adds their shares
of the others, "resident" counts shared pages for each process again. "Overhead" is the proportional figure without 1.2
times the weights.
Run: python benchmarks/bench_engine_memory.py [--models 2]
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tritonclient.grpc

from benchmarks.parts import show_table
from decisions.serving.memory import OVERHEAD_BYTES, WEIGHTS_RATIO
from examples.smollm2.base import save_smollm2
from services.server_manager.domain.model_config import plan_model_files
from services.server_manager.settings import ServerManagerSettings
from shared.serving.channels import Channels
from shared.serving.inference import Deadlines, generate
from testbed.servers import running
from testbed.triton import TritonServer

STREAMS, TOKENS = 32, 200
FILL_WORDS = 1_700
"""Words of a prompt that fills most of the context of 2,048 tokens; 32 are more than the cache of 1 GiB holds."""
WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
)
MIB = 1024 * 1024


def load(triton: TritonServer, name: str, model: Path) -> None:
    """Load a model as server-manager does."""
    for file, text in plan_model_files(name, str(model), ServerManagerSettings().engine_config()).items():
        path = triton.repository / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with tritonclient.grpc.InferenceServerClient(triton.endpoint) as client:
        client.load_model(name, client_timeout=280)


async def answer_all(endpoint: str, name: str, prompts: Sequence[str], tokens: int) -> None:
    """Let a model answer all prompts at once."""
    channels = Channels()
    sampling = {"max_tokens": tokens, "temperature": 1.0, "ignore_eos": True}
    limits = Deadlines(first_token_s=280, inter_token_s=120)

    async def ask(prompt: str) -> None:
        async for _ in generate(channels.get(endpoint), name, prompt, sampling, deadlines=limits):
            pass

    try:
        await asyncio.gather(*(ask(prompt) for prompt in prompts))
    finally:
        await channels.close()


def memory_of(triton: TritonServer, name: str) -> tuple[int, int, int]:
    """Return the bytes of a model's processes: private, proportional, resident."""
    stub = triton.stub(name)
    measured = [process.memory_full_info() for process in (stub, *stub.children(recursive=True))]
    return sum(each.uss for each in measured), sum(each.pss for each in measured), sum(each.rss for each in measured)


def rows(triton: TritonServer, model: Path, models: int) -> Iterator[list[str]]:
    """Yield a row for each model and moment."""
    weights = int(sum(path.stat().st_size for path in model.glob("*.safetensors")) * WEIGHTS_RATIO)
    reserved = weights + OVERHEAD_BYTES["slipway"]["cpu"]
    draw = random.Random(1)
    usual = [f"{number}: Explain what a list is. " * 4 for number in range(STREAMS)]
    filling = [" ".join(draw.choices(WORDS, k=FILL_WORDS)) for _ in range(STREAMS)]
    for number in range(1, models + 1):
        name = f"bench.v{number}.bf16"
        load(triton, name, model)
        for moment, prompts, tokens in (("loaded", (), 0), ("answered", usual, TOKENS), ("cache filled", filling, 4)):
            asyncio.run(answer_all(triton.endpoint, name, prompts, tokens))
            private, proportional, resident = memory_of(triton, name)
            sizes = (private, proportional, resident, proportional - weights, reserved)
            yield [str(number), moment, *(f"{size / MIB:,.0f}" for size in sizes)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2, help="how many are loaded beside each other")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        save_smollm2(model)
        with running(TritonServer(Path(scratch) / "triton")) as triton:
            sizes = ("private", "proportional", "resident", "overhead", "reserved")
            head = ["model", "when", *(f"{size} MiB" for size in sizes)]
            show_table(head, list(rows(triton, model, given.models)))


if __name__ == "__main__":
    main()
