"""The gateway's files: saved records for starting without the bus, and the installation's initial keys."""

import asyncio
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from contracts.api_keys import ApiKey
from services.gateway.callers.tables import KeyTable
from shared.runtime.files import replacing
from shared.storage.record_format import dump_all, parse_all

M = TypeVar("M", bound=BaseModel)
_EVERY_S = 1.0


class RecordFile(Generic[M]):
    """A JSON file of records, readable by this user only and replaced atomically."""

    def __init__(self, path: Path, kind: type[M]) -> None:
        self._path = path
        self._kind = kind

    @property
    def exists(self) -> bool:
        """Return whether the file exists, even without records."""
        return self._path.is_file()

    def load(self) -> dict[str, M]:
        """Return the saved records; empty if the file is missing, unreadable or of another version."""
        try:
            return parse_all(self._kind, self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            structlog.get_logger().warning("saved records are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, records: dict[str, M]) -> None:
        """Replace the file; readers see the old or the new one, also after a power loss."""
        with replacing(self._path) as file:
            file.write(dump_all(records))


class InstalledKeys:
    """Loads the installation's initial keys; `slipway keys init` replaces their file atomically.

    Args:
        path: the file; None for no file.
        keys: receives the records.
    """

    def __init__(self, path: Path | None, keys: KeyTable) -> None:
        self._path = path
        self._keys = keys
        self._seen: tuple[int, int] | None = None

    def read(self) -> None:
        """Install the records if the file was replaced. An unreadable file changes nothing."""
        if self._path is None:
            return
        try:
            state = self._path.stat()
            seen = (state.st_ino, state.st_mtime_ns)
            if seen == self._seen:
                return
            records = parse_all(ApiKey, self._path.read_bytes(), str(self._path))
        except OSError as error:
            if self._seen != (0, 0):  # once, not every second
                structlog.get_logger().error("keys cannot be read", file=str(self._path), error=repr(error))
            self._seen = (0, 0)
            return
        self._seen = seen
        if records:
            self._keys.install(records)

    async def follow(self) -> None:
        """Check the file every `_EVERY_S` seconds until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self.read()
