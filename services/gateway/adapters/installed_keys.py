"""Reads the keys that the installation has from its start from their file, again when it was replaced."""

import asyncio
from pathlib import Path

import structlog

from contracts.api_keys import ApiKey
from services.gateway.callers.key_table import KeyTable
from shared.storage.record_format import parse_all

_EVERY_S = 1.0


class InstalledKeys:
    """One file of records, which `slipway keys init` replaces at once.

    Args:
        path: the file; None where there is none.
        keys: takes its records.
    """

    def __init__(self, path: Path | None, keys: KeyTable) -> None:
        self._path = path
        self._keys = keys
        self._seen: tuple[int, int] | None = None

    def read(self) -> None:
        """Take the records if the file was replaced. One that cannot be read changes nothing."""
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
        """Read the file again and again."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self.read()
