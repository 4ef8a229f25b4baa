"""Files in the engine's model repository, shared by all server-managers: newest routes, lease term, runtime."""

import os
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from contracts.routes import Route
from contracts.vocabulary import Runtime
from services.server_manager.domain.records import Leader
from shared.runtime.files import replacing
from shared.storage.record_format import dump_all, parse_all

DAMAGED = Leader(holder="unknown: the lease file is damaged")
"""The leader read from a file with invalid content."""


class RoutesFile:
    """File of the newest known routes (implements `known_routes.Memory`)."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / "slipway-routes.json"
        self._read: tuple[tuple[int, int, int], dict[str, Route]] | None = None

    def load(self) -> dict[str, Route]:
        """Return the routes, except of another format version; cached until the file is replaced."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._read is None or self._read[0] != stamp:
                self._read = (stamp, parse_all(Route, self._path.read_bytes(), str(self._path)))
        except FileNotFoundError:
            return {}
        except OSError as error:
            structlog.get_logger().warning("saved routes cannot be read", path=str(self._path), error=repr(error))
            return {}
        return dict(self._read[1])

    def save(self, routes: dict[str, Route]) -> None:
        """Replace the file atomically."""
        replace_file(self._path, dump_all(routes))


class LeaseFile:
    """File of the last process that took one engine over, readable without the bus."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / "slipway-lease.json"

    def read(self) -> Leader | None:
        """Return the last process that took the engine over; None if the file is missing or unreadable.

        Damaged content counts as another process with the lowest term (`DAMAGED`): it stops every process without the
        bus, and the next lease holder overwrites it.
        """
        try:
            return Leader.model_validate_json(self._path.read_bytes())
        except OSError:
            return None
        except ValidationError:
            return DAMAGED

    def holds(self, leader: Leader) -> bool:
        """Return whether the file names this holder and term."""
        return self.read() == leader

    def write(self, leader: Leader) -> None:
        """Replace the file atomically; raise OSError if that fails."""
        replace_file(self._path, leader.model_dump_json().encode())


class LeaseFiles:
    """The lease files of all engines of a fleet (implements `kv_state.Terms`)."""

    def __init__(self, files: Sequence[LeaseFile]) -> None:
        self._files = files

    def read(self) -> Leader | None:
        """Return the leader with the highest term; `DAMAGED` if any file is; None without a file."""
        leaders = [leader for file in self._files if (leader := file.read()) is not None]
        if DAMAGED in leaders:
            return DAMAGED
        return max(leaders, key=lambda leader: leader.term, default=None)

    def holds(self, leader: Leader) -> bool:
        """Return whether every file names this holder and term."""
        return all(file.holds(leader) for file in self._files)

    def write(self, leader: Leader) -> None:
        """Replace every differing file, even after a failure; raise the first OSError at the end."""
        failed: list[OSError] = []
        for file in self._files:
            if file.holds(leader):
                continue
            try:
                file.write(leader)
            except OSError as error:
                failed.append(error)
        if failed:
            raise failed[0]


def read_runtime(path: Path | None) -> Runtime | None:
    """Return the engine's runtime from its file; None if unknown."""
    if path is None:
        return None
    try:
        return Runtime.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        structlog.get_logger().warning("the runtime is not known", path=str(path), error=repr(error))
        return None


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically, also if power is lost; mode 0644."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
