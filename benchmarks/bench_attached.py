"""LoRA adapters in vLLM's own server on the CPU: memory, loads again and again, and the time from `publish` to proven.

1. Memory of its processes (proportional) with a base model alone, without `--enable-lora`; with three adapters then.
2. Adapters of three sets of weights are loaded in turn as server-manager does, proven and unloaded, each by a new name.
   Each has to answer fixed texts as the first load of its weights did: a prefix that was kept from another one shows.
   After each, a LoRA without effect is loaded, so that the base model answers in its place: that has to be found.
3. A stack with that server attached releases LoRAs: seconds from `checkpoint.ready` to each step, the last of which,
   `variant.staged`, is published once the adapter is loaded and proven.
Run: python -m benchmarks.bench_attached [--loads 100] [--releases 3] [--smollm2]
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.parts import quantile
from examples.smollm2.base import save_smollm2
from services.server_manager.adapters.attached_engine import AttachedEngine
from services.server_manager.domain.references import TEXTS, References
from services.server_manager.ports import ADAPTER
from services.server_manager.references import KeptReferences
from shared.errors import Transient
from shared.messaging.provision import provision
from shared.runtime.clock import SystemClock
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.storage.kv import Bucket
from testbed.models import tiny_base, tiny_lora
from testbed.servers import NatsServer, running, wait_until
from testbed.stack import POLICY, Stack
from testbed.vllm_server import VllmServer

MODEL = "bot"
BASE = f"{MODEL}.v0.bf16"
DIGEST = "sha256:" + "0" * 64
LIMIT_S = 60.0
STEPS = (
    "checkpoint.ready",
    "release.opened",
    "checkpoint.merged",
    "variant.requested",
    "variant.quantised",
    "stage.requested",
    "variant.staged",
)
MIB = 2**20


def version_of(base: Path, folder: Path, **settings: float) -> Path:
    """Return the folder of a version as server-manager has it: its LoRA, and the texts that describe it."""
    tiny_lora(base, folder / ADAPTER, **settings)
    for path in (*base.glob("*.json"), *base.glob("*.jinja")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def memory_mib(server: VllmServer) -> float:
    """Return the memory of a server's processes, with their shares of what others map, too."""
    assert server.process is not None
    own = psutil.Process(server.process.pid)
    return sum(each.memory_full_info().pss for each in (own, *own.children(recursive=True))) / MIB


async def answers(channels: Channels, server: VllmServer, name: str) -> list[list[float]]:
    """Return the log-probabilities of the likeliest tokens after the fixed texts."""
    return [await channels.get(server.url).score_next(name, text, LIMIT_S) for text in TEXTS]


async def is_refused(engine: AttachedEngine, name: str, folder: Path) -> bool:
    """Return whether the load of a LoRA without effect is refused because the base answers; raise other errors."""
    try:
        await engine.load(name, folder, digest=DIGEST, memory_bytes=0)
    except Transient as error:
        if error.code != "logprobs_differ":
            raise
        return True
    finally:
        await engine.unload(name)
    return False


async def load_again(server: VllmServer, scratch: Path, versions: list[Path], weak: Path, loads: int) -> float:
    """Load three adapters beside each other, then one after the other; print memory and times.

    Return the memory with three, in MiB.
    """
    channels, clock = Channels(), SystemClock()
    templates = ChatTemplates(clock)
    with running(NatsServer(scratch / "bus")) as bus:
        client = await bus.connect()
        await provision(client.jetstream())
        references = KeptReferences(Bucket(client.jetstream(), "servers", References), "bench", "a CPU", clock, 0.02)
        engine = AttachedEngine(MODEL, channels, templates, {"blue": (server.url,)}, references)
        engine.adapters = scratch / "adapters"
        await channels.get(server.url).channel_ready()
        base, took = await answers(channels, server, BASE), []
        names, first = (f"{MODEL}.v{number}.bf16" for number in range(1_001, 10_000)), []
        beside = [next(names) for _ in versions]
        for name, folder in zip(beside, versions, strict=True):
            await engine.load(name, folder, digest=DIGEST, memory_bytes=0)
            first.append(await answers(channels, server, name))
        with_adapters = memory_mib(server)
        print(f"base and {len(versions)} adapters: {with_adapters:,.0f} MiB", flush=True)
        for name in beside:
            await engine.unload(name)
        found = stale = 0
        for number in range(loads):
            which, name, began = number % len(versions), next(names), time.monotonic()
            await engine.load(name, versions[which], digest=DIGEST, memory_bytes=0)
            took.append(time.monotonic() - began)
            stale += await answers(channels, server, name) != first[which]
            await engine.unload(name)
            found += await is_refused(engine, next(names), weak)
            if (number + 1) % 10 == 0 or number + 1 == loads:
                found_of = f"the base in the adapter's place: found {found} of {number + 1}"
                print(f"{memory_mib(server):,.0f} MiB; {found_of}; other answers than at first: {stale}", flush=True)
        is_other = await answers(channels, server, BASE) != base
        left = await channels.get(server.url).list_models(LIMIT_S)
        await client.close()
    await templates.close()
    await channels.close()
    folders = len(list(engine.adapters.iterdir()))
    print(f"the base answers otherwise than at first: {is_other}; left: {', '.join(left)}, {folders} folders")
    if took:
        print(f"load and proof: {quantile(took, 0.5):.1f} s (p50), {max(took):.1f} s at most")
    return with_adapters


def release(server: VllmServer, scratch: Path, base: Path, loras: Iterable[Path]) -> None:
    """Release LoRAs on a stack; print how long each took to be loaded and proven."""
    with Stack(scratch / "state") as stack:
        stack.ok("base", "import", str(base))
        stack.ok("attach", MODEL, "--url", server.url, "--adapters", str(scratch / "adapters"))
        for lora in loras:
            before = len(stack.events("variant.staged", MODEL))
            policy = {**POLICY, "serve": "adapter"}
            stack.publish(MODEL, lora, "--variant", "bf16", base=base.name, policy=policy)
            wait_until(lambda: len(stack.events("variant.staged", MODEL)) > before, timeout_s=300, what="the load")  # noqa: B023
            at = {name: datetime.fromisoformat(stack.events(name, MODEL)[-1]["time"]) for name in STEPS}
            since = {name: (at[name] - at[STEPS[0]]).total_seconds() for name in STEPS[1:]}
            print(f"after {STEPS[0]}: {', '.join(f'{name} {took:.1f} s' for name, took in since.items())}", flush=True)
            stack.promoted(MODEL)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=100)
    parser.add_argument("--releases", type=int, choices=range(4), default=3)
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M instead of a Llama of two layers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch, base = Path(folder), Path(folder, "tiny-llama")
        (scratch / "adapters").mkdir()
        if given.smollm2:
            save_smollm2(base)
        else:
            tiny_base(base, hidden=256)
        versions = [version_of(base, scratch / f"v{seed}", seed=seed) for seed in range(1, 4)]
        weak = version_of(base, scratch / "weak", zero=True)
        with running(VllmServer(scratch, base, BASE, loras=len(versions))) as server:
            with_adapters = asyncio.run(load_again(server, scratch, versions, weak, given.loads))
            release(server, scratch, base, [version / ADAPTER for version in versions[: given.releases]])
        with running(VllmServer(scratch, base, BASE, loras=0)) as server:
            alone = asyncio.run(memory_alone(server))
        print(f"base alone: {alone:,.0f} MiB; with {len(versions)} adapters {with_adapters / alone:.3f} times as much")


async def memory_alone(server: VllmServer) -> float:
    """Return the memory of a server that has answered as the base model, in MiB."""
    channels = Channels()
    await channels.get(server.url).channel_ready()
    await answers(channels, server, BASE)
    await channels.close()
    return memory_mib(server)


if __name__ == "__main__":
    main()
