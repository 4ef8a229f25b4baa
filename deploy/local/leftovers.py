"""End the remaining processes of a stack, found by the supervisor's table and by their marks."""

import os

from deploy.local import processes
from deploy.local.state import Description, StateFolder


def end_stack(folder: StateFolder, description: Description, *, grace_s: float = 0.0) -> list[int]:
    """End every process of a stack; return the pids that could not be ended."""
    table = folder.read_table()
    recorded = [part.recorded for part in table.parts if part.recorded] if table else []
    marks = marks_of(folder, description)
    left = processes.end_all(lambda: processes.find_leftovers(marks, recorded, spare=_ancestors()), grace_s=grace_s)
    return [process.pid for process in left]


def is_living(folder: StateFolder, description: Description) -> bool:
    """Return whether a process of a stack runs, also without its supervisor."""
    table = folder.read_table()
    recorded = [part.recorded for part in table.parts if part.recorded] if table else []
    return bool(processes.find_leftovers(marks_of(folder, description), recorded, spare=_ancestors()))


def marks_of(folder: StateFolder, description: Description) -> processes.Marks:
    """Return the marks of a stack's processes."""
    return processes.Marks(description.stack_id, folder.run_folder)


def _ancestors() -> list[int]:
    """Return the ancestors of this process, which must not be ended."""
    ancestors, pid = [], os.getppid()
    while pid > 1 and (process := processes.read_process(pid)) is not None:
        ancestors.append(pid)
        pid = process.parent
    return ancestors
