"""Reads a state folder, and the stack that runs in it, for the checks."""

from collections.abc import Callable

from clients.cli.doctor import servers
from clients.cli.doctor.findings import Finding, failure, ok, skipped, warning
from deploy.local import processes
from deploy.local.leftovers import is_living
from deploy.local.state import Description, StateFolder, Table, foreign_data
from shared.runtime.settings import Connection

UNREADABLE = (OSError, ValueError, TypeError, LookupError)
"""Errors of reading a file of the state folder that is damaged, or of another user."""


def is_running(folder: StateFolder) -> bool:
    """Return whether a supervisor holds a state folder; not if that cannot be read, which its own check reports."""
    try:
        return folder.is_held()
    except OSError:
        return False


def has_living_processes(folder: StateFolder) -> bool:
    """Return whether processes of this folder's stack still run."""
    try:
        description = folder.read_description()
        return description is not None and is_living(folder, description)
    except UNREADABLE:
        return False


def check_folder(folder: StateFolder) -> Finding:
    """Return whether the data of a state folder can be used."""
    try:
        folder.is_held()
        description, _ = folder.read_description(), folder.read_table()
    except UNREADABLE as error:
        detail = f"{folder.shown} cannot be read ({type(error).__name__}: {error})"
        return failure("state folder", detail, "start a new stack with --state FOLDER, or move it away")
    if description is None:
        return ok("state folder", f"{folder.shown} is new")
    problem = foreign_data(description, folder.path)
    if problem is not None:
        return failure("state folder", *problem.split("; ", 1))
    return ok("state folder", f"{folder.shown} holds data of this version")


def check_parts(folder: StateFolder) -> Finding:
    """Check every part of a ready stack; a stack that is starting or stopping gives a warning."""
    ready = _read_ready(folder)
    if ready is None:
        return warning("parts", f"the stack in {folder.shown} is starting or stopping", "try again in a moment")
    description, table = ready
    return servers.ask_parts(table.parts, description.keys(folder.path))


def ask_when_ready(folder: StateFolder, check: str, ask: Callable[[Connection], Finding]) -> Finding:
    """Ask the bus or the store of a stack that is ready."""
    ready = _read_ready(folder)
    return skipped(check, "not asked until the stack is ready") if ready is None else ask(connection_of(ready[0]))


def connection_of(description: Description) -> Connection:
    """Return the settings that reach the bus and the store of a stack."""
    ours = {name: value for name, value in description.variables.items() if name.startswith("SLIPWAY_")}
    values = {name.removeprefix("SLIPWAY_").lower(): value for name, value in ours.items()}
    return Connection.model_validate(values)


def _read_ready(folder: StateFolder) -> tuple[Description, Table] | None:
    """Return the supervisor's description of a ready stack; None while it starts or stops.

    Until a new supervisor has written its table, the last one's is there.
    """
    description, table = folder.read_description(), folder.read_table()
    if description is None or table is None or not description.variables or table.phase != "ready":
        return None
    supervisor = processes.Recorded(table.supervisor, table.supervisor_ticks)
    return (description, table) if processes.is_running(supervisor) else None
