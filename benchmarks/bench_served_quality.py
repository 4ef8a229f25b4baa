"""Compare served with recorded quality: SmolLM2-135M-Instruct in each precision, and damaged copies of it.

Each precision is produced and measured as the quantiser does it (transformers, on the files), then loaded by vLLM in
Triton and scored on the same windows as the benchmarker does it. The limit is the largest allowed deviation. The
damaged copies are the 16-bit files with the rows of one of 210 matrices in the wrong order, as after a faulty load.
Run: python benchmarks/bench_served_quality.py [--variant int8 …]
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tritonclient.grpc as triton_client

from benchmarks.parts import show_table
from contracts.facts import CALIBRATION_DEFAULTS
from contracts.manifests import HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef, Target, Variant, digest_of
from examples.smollm2.base import save_smollm2
from services.benchmarker.adapters.triton import TritonEngine
from services.benchmarker.domain.served_quality import MAX_DEVIATION, assess_scored, score_window
from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob
from services.server_manager.domain.model_config import EngineConfig, plan_model_files
from shared.serving.channels import Channels
from testbed.servers import running
from testbed.triton import TritonServer

VARIANTS: tuple[Variant, ...] = ("bf16", "int8", "gptq-int4", "awq-int4")
DAMAGED = ("model.layers.15.mlp.down_proj.weight", "model.layers.29.self_attn.o_proj.weight")
HEAD = ["what is served", "ratio of the files", "ratio served", "deviation", "limit", "scoring, s", "verdict"]
Served = tuple[str, Path, tuple[HeldOutWindow, ...]]


def make(variant: Variant, merged: Path, scratch: Path) -> Served:
    """Produce and measure a precision; return its name, folder and held-out windows."""
    shape = read_shape(json.loads((merged / "config.json").read_text()), "bfloat16")
    plan = plan_quantisation(variant, shape, CALIBRATION_DEFAULTS[variant], QuantiserDefaults())
    assert not hasattr(plan, "reason"), plan  # a refusal
    output = merged if plan.engine == "pass-through" else scratch / variant
    child = WorkerEngine(log_path=scratch / "quantise.log", threads=None, memory_limit_bytes=None, timeout_s=3600)
    made = asyncio.run(child.quantise(QuantisationJob(plan=plan, merged=merged, output=output), lambda *_step: None))
    return variant, output, made.held_out


def damage(merged: Path, tensor: str, scratch: Path, windows: tuple[HeldOutWindow, ...]) -> Served:
    """Return a copy of a model with the rows of one of its matrices reversed."""
    from safetensors.torch import load_file, save_file

    folder = scratch / tensor
    shutil.copytree(merged, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor] = weights[tensor].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return f"damaged {tensor.removeprefix('model.layers.').removesuffix('.weight')}", folder, windows


async def score(server: TritonServer, number: int, served: Served) -> list[str]:
    """Load a folder, score it, and unload it; return its row."""
    name, folder, windows = served
    target = Target(model="bench", version=number, variant="bf16")
    for path, text in plan_model_files(target.triton_name, str(folder), EngineConfig()).items():
        file = server.repository / target.triton_name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    nowhere = ArtifactRef(uri="memory://none", digest=digest_of(b""), size_bytes=0)
    target_served = ServedTarget(target=target, manifest=nowhere, weights_bytes=1, endpoints=(server.endpoint,))
    channels = Channels()
    with triton_client.InferenceServerClient(server.endpoint) as control:
        control.load_model(target.triton_name, client_timeout=300)
        began = time.monotonic()
        engine = TritonEngine(channels)
        scores = [
            score_window(each, await engine.score(target_served, each.token_ids, timeout_s=120)) for each in windows
        ]
        seconds = time.monotonic() - began
        control.unload_model(target.triton_name)
    await channels.close()
    assessed = assess_scored(scores, None)
    assert assessed.perplexity_ratio is not None
    assert assessed.recorded_ratio is not None
    apart = assessed.perplexity_ratio / assessed.recorded_ratio - 1
    figures = [
        f"{assessed.recorded_ratio:.4f}",
        f"{assessed.perplexity_ratio:.4f}",
        f"{apart:+.2%}",
        f"{MAX_DEVIATION:.0%}",
    ]
    return [name, *figures, f"{seconds:.1f}", assessed.verdict]


def rows(variants: list[Variant], scratch: Path) -> Iterator[list[str]]:
    """Yield the row of each precision and each damaged copy, served and scored one after the other."""
    merged = scratch / "merged"
    save_smollm2(merged)
    made = [make(variant, merged, scratch) for variant in variants]
    bad = [damage(merged, tensor, scratch, made[0][2]) for tensor in DAMAGED] if variants[0] == "bf16" else []
    with running(TritonServer(scratch / "triton")) as server:
        for number, served in enumerate([*made, *bad], start=1):
            yield asyncio.run(score(server, number, served))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this precision, repeatable")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        show_table(HEAD, list(rows(given.variant or list(VARIANTS), Path(scratch))))


if __name__ == "__main__":
    main()
