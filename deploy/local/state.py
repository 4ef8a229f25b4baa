"""The state folder: one lock, one description of the stack, one table of running parts."""

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deploy.data_format import DATA_FORMAT, refuse
from deploy.identity.key_folder import KeyFolder
from deploy.local.plan import Keys, Probe, keys_folder
from deploy.local.ports import LOOPBACK
from deploy.local.processes import Recorded, is_running
from shared.runtime.clock import Clock

LOCK_TRIES = 10
ADMIN = "admin"
"""The user of commands on a stack's machine."""
PERSON = "local"
"""The user of the console on a stack's machine: operator and approver."""


def shorten(path: Path) -> str:
    """Return a path relative to the working directory if it is below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


class AlreadyUp(Exception):  # noqa: N818 - it is an answer, not a failure of this program
    """Another supervisor holds the state folder."""


@dataclass(frozen=True)
class Description:
    """The persistent state of a stack (stack.json): id, ports, addresses, engine environments, Tritons, data format."""

    stack_id: str
    ports: Mapping[str, int]
    variables: Mapping[str, str] = field(default_factory=dict)
    engine: str = "slipway"
    data_format: int = 0
    runtimes: Mapping[str, str] = field(default_factory=dict)
    tritons: int = 1

    def keys(self, folder: Path) -> Keys:
        """Return the credentials of the stack in this state folder."""
        return Keys(keys_folder(folder))


@dataclass(frozen=True)
class PartState:
    """One row of the table of parts."""

    name: str
    pid: int | None
    started_ticks: int
    port: int
    state: str
    restarts: int
    started_at: str | None
    probe: Probe = "service"
    why: str = ""
    ended: str = ""
    """How its last process ended; empty if none has ended."""
    admin_port: int | None = None
    """Where its readiness is probed, if not at `port`."""

    @property
    def recorded(self) -> Recorded | None:
        """Return the recorded process, or None."""
        return Recorded(self.pid, self.started_ticks) if self.pid is not None else None


@dataclass(frozen=True)
class Table:
    """The supervisor and its parts at one point in time (parts.json)."""

    phase: str
    supervisor: int
    supervisor_ticks: int
    parts: tuple[PartState, ...] = ()
    reason: str = ""


class StateFolder:
    """The folder that holds everything `slipway up` writes about a stack."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: int | None = None

    @property
    def shown(self) -> str:
        """The path as people read it."""
        return shorten(self.path)

    @property
    def logs(self) -> Path:
        """Return the folder of the logs, one per part."""
        return self.path / "logs"

    @property
    def run_folder(self) -> Path:
        """Return the empty working folder of every part, which identifies their processes."""
        return self.path / "run"

    def log_of(self, part: str) -> Path:
        """Return the log file of a part."""
        return self.logs / f"{part}.log"

    def create(self) -> None:
        """Create the folder and its subfolders, readable by the owner only."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True)
        self.run_folder.mkdir(exist_ok=True)

    def take_lock(self) -> None:
        """Become the only supervisor of this folder while this process lives.

        Raises:
            AlreadyUp: another process holds the lock.
        """
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(LOCK_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == LOCK_TRIES - 1:
                    os.close(handle)
                    raise AlreadyUp(str(self.path)) from None
                time.sleep(0.02)  # `slipway ps` holds the lock no longer than this
            else:
                self._lock = handle
                return

    def release_lock(self) -> None:
        """Release the lock on the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_held(self) -> bool:
        """Return whether a supervisor holds this folder now."""
        if not (self.path / "lock").exists():
            return False
        try:
            self.take_lock()
        except AlreadyUp:
            return True
        self.release_lock()
        return False

    def read_description(self) -> Description | None:
        """Return stack.json, or None without a stack."""
        data = self._read("stack.json")
        return Description(**_known(Description, data)) if data is not None else None

    def write_description(self, description: Description) -> None:
        """Write stack.json."""
        self._write("stack.json", asdict(description))

    def read_table(self) -> Table | None:
        """Return parts.json, or None without a stack."""
        data = self._read("parts.json")
        if data is None:
            return None
        return Table(
            **{**_known(Table, data), "parts": tuple(PartState(**_known(PartState, row)) for row in data["parts"])}
        )

    def write_table(self, table: Table) -> None:
        """Write parts.json."""
        self._write("parts.json", asdict(table))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            data: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        return data

    def _write(self, name: str, value: Any) -> None:
        """Replace a file atomically."""
        draft = self.path / f".{name}.{os.getpid()}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1)
        draft.replace(self.path / name)


def _known(kind: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return the known fields of a file, which a newer release may have written."""
    names = {known.name for known in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def reload_servers(folder: StateFolder) -> bool:
    """Reload the configuration of bus and store; return whether one of them runs."""
    table = folder.read_table() if folder.is_held() else None
    is_running_one = False
    for part in table.parts if table is not None else ():
        if part.probe in ("nats", "s3") and part.recorded is not None and is_running(part.recorded):
            os.kill(part.recorded.pid, signal.SIGHUP)
            is_running_one = True
    return is_running_one


def prepare_keys(folder: Path, clock: Clock) -> KeyFolder:
    """Create missing keys of bus and store in a state folder.

    Also for the administrator `admin`, used by `slipway env` and the commands, and, in a new folder only, the operator
    and approver `local`, whom `slipway open` signs in at the console.
    """
    keys = KeyFolder(keys_folder(folder))
    keys.prepare([LOOPBACK, "localhost"], clock.now())
    known = {identity.name for identity in keys.identities()}
    if ADMIN not in known:
        if PERSON not in known:
            keys.add(PERSON, ["operator", "approver"])
        keys.add(ADMIN, ["administrator"])
    keys.ensure_api_key(ADMIN, ["production", "staging"], clock.now())
    return keys


def new_description() -> Description:
    """Return the description of a new stack with a random id."""
    return Description(secrets.token_hex(8), {}, data_format=DATA_FORMAT)


def foreign_data(description: Description, path: Path) -> str | None:
    """Return why the data of a state folder cannot be used, or None."""
    advice = f"start a new stack with --state FOLDER, or move {path} away"
    return refuse(f"{path} holds", description.data_format, advice)
