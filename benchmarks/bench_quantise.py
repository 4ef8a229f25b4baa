"""Time, memory and quality of each precision: SmolLM2-135M-Instruct by each engine, and the service around an engine.

Each precision is produced as the service does it, in its child process, with the defaults. Quality is measured on the
written files after reloading them, on held-out text, against the merged model: here the 16-bit model itself. The last
perplexity ratio is that on other text, passed as a checkpoint's own evaluation set: scikit-learn's descriptions of its
data sets, which were never used to choose anything here. The seconds include loading, quantising, writing and
measuring; the CPU seconds depend less on other work on the machine. `measured in` is the precision of the products,
with the verdict of the check against float32; the CPU is printed on standard error.

`--curve` prints quality and time against the number of calibration samples, from which the defaults were chosen.
`--service` prints what bus, store and service add to the child: one INT8 on a real NATS and S3 server, from the stored
request to the stored answer, minus the lifetime of the child. The bare engine next to it is the same library in a
script: load, quantise, save; nothing is measured or stored.
Run: python benchmarks/bench_quantise.py [--curve|--service]
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.parts import show_table
from contracts.facts import CALIBRATION_DEFAULTS, QuantiseSettings, VariantQuantised
from contracts.services import EVENTS
from contracts.vocabulary import Variant
from examples.smollm2.base import save_smollm2
from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.domain import QuantisationPlan as Plan
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob, QuantisationResult
from shared.messaging.bus import publish_event
from shared.messaging.provision import provision
from shared.storage.blobs import Store
from testbed.quantiser import ROOT, QuantiserService, request, stored_merged
from testbed.servers import NatsServer, S3Server, connection, running

LIMITS = {"int8": 1.02, "awq-int4": 1.15, "gptq-int4": 1.22}
ENGINES: tuple[tuple[Variant, str], ...] = (
    ("bf16", ""),
    ("int8", ""),
    ("gptq-int4", ""),
    ("awq-int4", "autoawq"),
    ("awq-int4", "llmcompressor"),
)
CURVES: dict[Variant, tuple[int, ...]] = {"int8": (4, 16, 32), "gptq-int4": (4, 16, 32, 64), "awq-int4": (2, 4, 8)}
BARE = """
import sys
from pathlib import Path
from services.quantiser.adapters import quantise_worker as worker
from services.quantiser.ports import QuantisationJob
from transformers import AutoTokenizer

job = QuantisationJob.model_validate_json(sys.argv[1])
job.output.mkdir()
worker.make_weights(job, AutoTokenizer.from_pretrained(job.merged))
"""


@dataclass
class Row:
    """The time, memory and quality of one variant."""

    plan: Plan
    made: QuantisationResult
    seconds: float
    cpu_seconds: float
    size_ratio: float

    def cells(self) -> list[str]:
        quality, other, calibration = self.made.quality, self.made.evaluation_quality, self.plan.calibration
        assert other is not None
        return [
            f"{calibration.samples} x {calibration.tokens}" if calibration else "-",
            f"{self.seconds:.0f}",
            f"{self.cpu_seconds:.0f}",
            f"{self.made.peak_rss_bytes / 1e9:.2f}",
            f"{self.size_ratio:.2f}",
            f"{quality.perplexity_ratio:.3f}",
            f"{quality.mean_kl:.4f}",
            f"{quality.p99_kl:.2f}",
            f"{100 * quality.top1_agreement_ratio:.1f} %",
            f"{other.perplexity_ratio:.3f}",
        ]


FIGURES = [
    "samples",
    "s",
    "CPU s",
    "peak GB",
    "size ratio",
    "perplexity ratio",
    "mean KL",
    "p99 KL",
    "top-1",
    "on other text",
]


def weights_bytes(folder: Path) -> int:
    """Return the size of a model's weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def other_text(path: Path) -> Path:
    """Write text from another source than the packaged one as an evaluation set; return its path."""
    described = sorted((resources.files("sklearn") / "datasets" / "descr").iterdir(), key=lambda path: path.name)
    texts = [path.read_text(encoding="utf-8") for path in described if path.name.endswith(".rst")]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def planned(merged: Path, variant: Variant, engine: str, samples: int | None = None) -> Plan:
    """Return the plan of a variant as the service makes it; bf16 is planned as a cast, so that it can be measured."""
    described = json.loads((merged / "config.json").read_text())
    defaults = QuantiserDefaults(awq_engine=engine) if engine else QuantiserDefaults()
    settings = CALIBRATION_DEFAULTS[variant]
    if samples is not None:
        settings = settings.model_copy(update={"calibration_samples": samples})
    stored = "float32" if variant == "bf16" else "bfloat16"
    plan = plan_quantisation(variant, read_shape(described, stored), settings, defaults)
    assert isinstance(plan, Plan), plan
    return plan


def make(merged: Path, folder: Path, plan: Plan) -> Row:
    """Produce and measure one variant in a child process; return its row."""
    job = QuantisationJob(
        plan=plan, merged=merged, output=folder / "output", evaluation=other_text(folder / "other.jsonl")
    )
    child = WorkerEngine(log_path=folder / "work.log", threads=None, memory_limit_bytes=None, timeout_s=3600)
    began, before = time.perf_counter(), cpu_of_children()
    made = asyncio.run(child.quantise(job, lambda *_step: None))
    seconds, cpu_seconds = time.perf_counter() - began, cpu_of_children() - before
    return Row(plan, made, seconds, cpu_seconds, weights_bytes(job.output) / weights_bytes(merged))


def cpu_of_children() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare(merged: Path, folder: Path, plan: Plan) -> float:
    """Run the engine in its own script; return the seconds."""
    job = QuantisationJob(plan=plan, merged=merged, output=folder / "bare")
    began = time.perf_counter()
    with (folder / "bare.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-c", BARE, job.model_dump_json()], check=True, cwd=ROOT, stdout=log, stderr=log
        )
    return time.perf_counter() - began


def scratch_folder(stack: ExitStack) -> Path:
    """Return an empty folder."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


def precisions(merged: Path, variants: list[str]) -> Iterator[list[str]]:
    """Yield the row of each precision by each engine that supports it."""
    for variant, engine in ENGINES:
        if variants and variant not in variants:
            continue
        with ExitStack() as stack:
            folder, plan = scratch_folder(stack), planned(merged, variant, engine)
            row = make(merged, folder, plan)
            print([f"{variant}, {plan.engine}", *row.cells()], file=sys.stderr)
            limit = f"{LIMITS[variant]:.2f}" if variant in LIMITS else ""
            yield [f"{variant}, {plan.engine}", *row.cells(), limit]


def curve(merged: Path, variants: list[str]) -> Iterator[list[str]]:
    """Yield the row of each precision with an increasing number of samples."""
    for variant, counts in CURVES.items():
        if variants and variant not in variants:
            continue
        for samples in sorted({*counts, CALIBRATION_DEFAULTS[variant].calibration_samples}):
            with ExitStack() as stack:
                default = " (default)" if samples == CALIBRATION_DEFAULTS[variant].calibration_samples else ""
                row = make(merged, scratch_folder(stack), planned(merged, variant, "", samples))
                print([f"{variant}{default}", *row.cells()], file=sys.stderr)
                yield [f"{variant}{default}", *row.cells()]


async def around(merged: Path) -> list[str]:
    """Return the row of INT8 by the service: total seconds, those of the child, and the difference."""
    with ExitStack() as stack:
        folder = scratch_folder(stack)
        bus, store = stack.enter_context(running(NatsServer(folder))), stack.enter_context(running(S3Server(folder)))
        settings = connection(bus, store, folder)
        client = await bus.connect()
        js = client.jetstream(timeout=10)
        await provision(js)
        service = QuantiserService(folder, settings, QUANTISER_PROGRESS_INTERVAL_S="0.5")
        for name in ("HELD_OUT_WINDOWS", "HELD_OUT_TOKENS", "MIN_CALIBRATION_TOKENS"):
            service.variables.pop(f"QUANTISER_{name}")
        stack.enter_context(running(service))
        await publish_event(js, request(stored_merged(Store(settings), merged), settings=QuantiseSettings()))
        asked = await js.get_last_msg(EVENTS, "slipway.variant.requested.v1.*")
        while not (workers := service.workers()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        child, began = workers[0], workers[0].create_time()
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        child_s = time.time() - began
        sub = await js.pull_subscribe(f"{VariantQuantised.TYPE}.>", stream=EVENTS)
        (answer,) = await sub.fetch(1, timeout=60)
        assert asked.time is not None
        total_s = (answer.metadata.timestamp - asked.time).total_seconds()
        await client.close()
        bare_s = bare(merged, folder, planned(merged, "int8", ""))
    extra_s = total_s - child_s
    return [
        "int8",
        f"{total_s:.1f}",
        f"{child_s:.1f}",
        f"{bare_s:.1f}",
        f"{extra_s:.1f}",
        f"{100 * extra_s / bare_s:.1f} %",
    ]


def main() -> None:
    """Print the tables asked for, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", action="store_true", help="quality and time against samples")
    parser.add_argument("--service", action="store_true", help="what the service adds to the child")
    parser.add_argument("--variant", action="append", default=[], help="only this precision, repeatable")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "merged"
        save_smollm2(merged)
        if given.service:
            head = [
                "variant",
                "request to answer, s",
                "child, s",
                "bare engine, s",
                "around the child, s",
                "overhead (limit 5 %)",
            ]
            show_table(head, [asyncio.run(around(merged))])
            return
        rows = curve(merged, given.variant) if given.curve else precisions(merged, given.variant)
        more = [] if given.curve else ["limit"]
        show_table(["variant", *FIGURES, *more], list(rows))


if __name__ == "__main__":
    main()
