"""Files beside the engine's models that every process which may control the engine must be able to read."""

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
"""What a file whose content is no term counts as."""


class RoutesFile:
    """The newest routes that were seen (implements `known_routes.Memory`); it lasts as long as the repository."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / "slipway-routes.json"
        self._read: tuple[tuple[int, int, int], dict[str, Route]] | None = None

    def load(self) -> dict[str, Route]:
        """Return the routes, without those of another version; read again only when the file was replaced."""
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
        """Replace the file as a whole."""
        replace_file(self._path, dump_all(routes))


class LeaseFile:
    """The term under which the engine was last taken over: readable also without the bus."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / "slipway-lease.json"

    def read(self) -> Leader | None:
        """Return the last process that took the engine over; None if the file is missing or unreadable.

        Damaged content counts as another process with the lowest term: it stops every process without the
        bus, and is overwritten by the process that the bus confirms.
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
        """Replace the file as a whole; raise OSError when that fails."""
        replace_file(self._path, leader.model_dump_json().encode())


class LeaseFiles:
    """The term beside each engine of a fleet: one process owns them all (implements `kv_state.Terms`)."""

    def __init__(self, files: Sequence[LeaseFile]) -> None:
        self._files = files

    def read(self) -> Leader | None:
        """Return the last process that took the engines over; None without a file. A damaged file takes precedence."""
        leaders = [leader for file in self._files if (leader := file.read()) is not None]
        if DAMAGED in leaders:
            return DAMAGED
        return max(leaders, key=lambda leader: leader.term, default=None)

    def holds(self, leader: Leader) -> bool:
        """Return whether every file names this holder and term; one that could not be written names an earlier one."""
        return all(file.holds(leader) for file in self._files)

    def write(self, leader: Leader) -> None:
        """Replace each file that differs, also after one could not be; raise OSError for the first that could not."""
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
    """Return the runtime of the targets from the file beside the engine; None if unknown."""
    if path is None:
        return None
    try:
        return Runtime.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        structlog.get_logger().warning("the runtime is not known", path=str(path), error=repr(error))
        return None


def replace_file(path: Path, content: bytes) -> None:
    """Write so that a reader sees the old file or the new one, also after the machine lost power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
