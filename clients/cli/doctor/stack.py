"""Checks of a state folder and its stack."""

from clients.cli.doctor.findings import Finding, failure, ok
from deploy.local.leftovers import is_living
from deploy.local.state import StateFolder, foreign_data

UNREADABLE = (OSError, ValueError, TypeError, LookupError)
"""Errors of reading a file of the state folder that is damaged, or of another user."""


def is_running(folder: StateFolder) -> bool:
    """Return whether a supervisor holds a state folder; False if the folder cannot be read."""
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
    """Return the finding on the data of a state folder."""
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


def read_addresses(folder: StateFolder) -> dict[str, str] | None:
    """Return the settings for bus and store of a running stack, by field of `Connection`; None without a stack."""
    try:
        description = folder.read_description() if folder.is_held() else None
    except UNREADABLE:  # the check of the folder reports it
        return None
    ours = description.variables.items() if description is not None else ()
    return {name.removeprefix("SLIPWAY_").lower(): value for name, value in ours if name.startswith("SLIPWAY_")} or None
