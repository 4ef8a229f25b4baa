"""The worker process: `python -m services.merger.adapters.worker JOB_FILE DESCRIPTOR…`, connected to the service.

It parses files from outside, so it has no key and no network: the service reads and writes for it (`store_client`).
Every check that does not need torch runs before torch is imported.
"""

import ctypes
import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contracts.facts import BaseModelRef
from contracts.manifests import FileEntry
from services.merger import domain
from services.merger.adapters.inputs import open_inputs
from services.merger.adapters.rendering import Render
from services.merger.adapters.store_client import StoreClient
from services.merger.ports import Blobs, Folder, MergeJob
from shared.errors import Permanent
from shared.runtime.worker import confine, importing, job_main, report_progress


def work(arguments: list[str]) -> dict[str, Any]:
    """Run a job and return its result, with the peak memory of this process."""
    job = parse_job(Path(arguments[0]).read_text(encoding="utf-8"))
    confine(write=[job.scratch_dir])
    store = StoreClient([int(descriptor) for descriptor in arguments[1:]])
    return {**merge(store, job, render=store.render), "peak_rss_bytes": peak_rss_bytes()}


def parse_job(text: str) -> MergeJob:
    """Return the job in a file that the service wrote."""
    fields = json.loads(text)
    return MergeJob(
        kind=fields["kind"],
        base_ref=BaseModelRef.model_validate(fields["base_ref"]),
        hyperparameters=fields["hyperparameters"],
        base=parse_folder(fields["base"]),
        checkpoint=parse_folder(fields["checkpoint"]),
        scratch_dir=Path(fields["scratch_dir"]),
        dtype=fields["dtype"],
    )


def parse_folder(fields: dict[str, Any]) -> Folder:
    """Return a folder of a job."""
    return Folder(fields["digest"], tuple(FileEntry.model_validate(file) for file in fields["files"]), fields["prefix"])


def peak_rss_bytes() -> int:
    """Return the peak memory of this process, without the memory of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def release_memory() -> None:
    """Return free memory to the system: the allocator keeps it by default, because fresh pages cost time."""
    gc.collect()  # modules form reference cycles
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


def step_progress(step: str, unit: str) -> Any:
    """Return a function that reports the progress of a step."""
    return lambda done, total: report_progress(step=step, done=done, total=total, unit=unit)


def merge(store: Blobs, job: MergeJob, render: Render | None = None) -> dict[str, Any]:
    """Check the inputs, write the merged model into the store, verify it there, and return the result as JSON data.

    `render` renders chat templates; by default it is a child process of this one.
    """
    inputs = open_inputs(store, job, step_progress("download", "bytes"))

    with importing():
        from services.merger.adapters import tokenizers, torch_checks, torch_merge, verify

    tokenizers.render_by(render)

    checked = torch_checks.check(inputs)
    step_progress("check", "tensors")(len(inputs.checkpoint_metadata.tensors), len(inputs.checkpoint_metadata.tensors))
    written = torch_merge.write(store, inputs, checked, step_progress)
    release_memory()
    try:
        verification = verify.verify_stored(store, inputs, checked, written, step_progress("verify", "models"))
    except ArithmeticError as error:
        raise Permanent("parity_failed", f"Parity cannot be measured: {error}.") from error
    is_lora = job.kind == "lora"
    return {
        "quantised_base": (
            domain.quantised_base(inputs.checkpoint_metadata.config, job.hyperparameters) if is_lora else None
        ),
        "files": [file.model_dump(mode="json") for file in written.files],
        "parity": verification.parity.model_dump(mode="json"),
        "tokenizer": checked.tokenizer,
        "rendering": asdict(verification.rendering),
        "expected_rendering": asdict(checked.rendering),
    }


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    job_main(work)
