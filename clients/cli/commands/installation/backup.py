"""`slipway backup`: a copy of the whole installation, taken while it runs."""

import asyncio
import time

from clients.cli.backup.folder import Folder, FolderArgument
from clients.cli.backup.taking import Taken, take
from clients.cli.connection import StackAddress, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, show_result, size_text, warn
from shared.runtime.clock import SystemClock

KEPT_BESIDE = (
    "keys are not part of this backup: keep the folder of keys beside it, encrypted. Without trust/attesters.json no "
    "version can be proven, and none is loaded"
)


def backup(
    folder: FolderArgument,
    *,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the installation while it runs: events, records, objects with their locks.

    Contents of an earlier backup in the folder are not copied again; after an interruption, run the command again. It
    takes an administrator's credential.
    """
    stack = find_stack(state)
    kept = Folder(folder.absolute())
    began = time.monotonic()
    taken = _take(stack, kept)
    _show(taken, kept, time.monotonic() - began, as_json=as_json)
    warn(KEPT_BESIDE)
    if taken.manifest.damaged:
        raise CommandError(
            f"{len(taken.manifest.damaged)} objects are missing or not what their names promise, such as "
            f"{taken.manifest.damaged[0]}; they are not part of it, see `slipway verify`"
        )


def _take(stack: StackAddress, folder: Folder) -> Taken:
    try:
        return asyncio.run(take(stack, folder, SystemClock()))
    except TimeoutError:  # of the bus
        raise
    except OSError as error:
        raise CommandError(f"the backup in {folder} cannot be written: {error}; run it again to go on") from error


def _show(taken: Taken, folder: Folder, seconds: float, *, as_json: bool) -> None:
    manifest = taken.manifest
    facts = {
        "backup": manifest.name(),
        "digest": taken.digest,
        "objects": manifest.object_count,
        "bytes": manifest.object_bytes,
        "new_bytes": taken.new_bytes,
        "seconds": round(seconds, 1),
    }
    show_result(
        {**facts, "damaged": manifest.damaged},
        f"backup {manifest.name()} in {folder}: {manifest.object_count} objects with "
        f"{size_text(manifest.object_bytes)}, {size_text(taken.new_bytes)} of them new, in {seconds:.1f} s",
        f"its manifest has the digest {taken.digest}; note it elsewhere, for `slipway restore --digest`",
        as_json=as_json,
    )
