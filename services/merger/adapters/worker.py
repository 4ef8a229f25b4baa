"""The child process: `python -m services.merger.adapters.worker ORDER_FILE`; it finds the store as the services do.

Every check that does not need torch comes before torch is imported.
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
from services.merger.adapters.inputs import open_rooms
from services.merger.ports import Folder, MergeOrder
from shared.errors import Permanent
from shared.runtime.jobs import job_main, report_progress
from shared.runtime.settings import Connection
from shared.storage.blobs import Store


def work(arguments: list[str]) -> dict[str, Any]:
    """Do what an order says and give its result, with the peak memory of this process."""
    order = parse_order(Path(arguments[0]).read_text(encoding="utf-8"))
    return {**make(Store(Connection()), order), "peak_rss_bytes": peak_rss_bytes()}


def parse_order(text: str) -> MergeOrder:
    """Read what the parent wants."""
    fields = json.loads(text)
    return MergeOrder(
        kind=fields["kind"],
        base_ref=BaseModelRef.model_validate(fields["base_ref"]),
        hyperparameters=fields["hyperparameters"],
        base=parse_folder(fields["base"]),
        checkpoint=parse_folder(fields["checkpoint"]),
        room=Path(fields["room"]),
        dtype=fields["dtype"],
    )


def parse_folder(fields: dict[str, Any]) -> Folder:
    """Read a folder of an order."""
    return Folder(fields["digest"], tuple(FileEntry.model_validate(file) for file in fields["files"]), fields["prefix"])


def peak_rss_bytes() -> int:
    """Return the most memory that this process had at once (not what it inherited from the one that started it)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def give_memory_back() -> None:
    """Let the system have what is free: the allocator is set to keep it, since fresh pages cost more than merging."""
    gc.collect()  # modules refer to each other
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


def tell(step: str, unit: str) -> Any:
    """Return a function that reports the progress of a step."""
    return lambda done, total: report_progress(step=step, done=done, total=total, unit=unit)


def make(store: Store, order: MergeOrder) -> dict[str, Any]:
    """Check everything, write the merged model into the store, and compare it there with what went in."""
    rooms = open_rooms(store, order, tell("download", "bytes"))

    from services.merger.adapters import torch_checks, torch_merge
    from services.merger.adapters import verify as proof

    checked = torch_checks.check(rooms)
    tell("check", "tensors")(len(rooms.checkpoint_facts.tensors), len(rooms.checkpoint_facts.tensors))
    written = torch_merge.write(store, rooms, checked, tell)
    give_memory_back()
    try:
        seen = proof.prove(store, rooms, checked, written, tell("verify", "models"))
    except ArithmeticError as error:
        raise Permanent("parity_failed", f"Parity cannot be measured: {error}.") from error
    return {
        "files": [file.model_dump(mode="json") for file in written.files],
        "parity": seen.parity.model_dump(mode="json"),
        "own_tokenizer": checked.own_tokenizer,
        "rendering": asdict(seen.rendering),
        "expected_rendering": asdict(checked.rendering),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    job_main(work)
