"""End the processes of a stack that still run, found by the supervisor's table and by the marks they carry."""

import os

from deploy.local import processes
from deploy.local.state import Description, StateFolder


def end_stack(folder: StateFolder, description: Description, *, grace_s: float = 0.0) -> list[int]:
    """End every process of a stack that still runs; return the pids that could not be ended."""
    table = folder.read_table()
    recorded = [part.recorded for part in table.parts if part.recorded] if table else []
    marks = marks_of(folder, description)
    left = processes.end_all(lambda: processes.find_leftovers(marks, recorded, spare=_ancestors()), grace_s=grace_s)
    return [process.pid for process in left]


def is_living(folder: StateFolder, description: Description) -> bool:
    """Return whether a process of a stack still runs, as after its supervisor was killed."""
    table = folder.read_table()
    recorded = [part.recorded for part in table.parts if part.recorded] if table else []
    return bool(processes.find_leftovers(marks_of(folder, description), recorded, spare=_ancestors()))


def marks_of(folder: StateFolder, description: Description) -> processes.Marks:
    """Return how the processes of a stack are recognised."""
    return processes.Marks(description.stack_id, folder.run_folder)


def _ancestors() -> list[int]:
    """List the processes that this one runs under: a stack must never end its own caller."""
    ancestors, pid = [], os.getppid()
    while pid > 1 and (process := processes.read_process(pid)) is not None:
        ancestors.append(pid)
        pid = process.parent
    return ancestors
