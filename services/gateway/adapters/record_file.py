"""Saves the last known records in a file, so that a gateway that starts without the bus can serve."""

from pathlib import Path
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from shared.runtime.files import replacing
from shared.storage.record_format import dump_all, parse_all

M = TypeVar("M", bound=BaseModel)


class RecordFile(Generic[M]):
    """One JSON file, for this user only, that is replaced atomically."""

    def __init__(self, path: Path, kind: type[M]) -> None:
        self._path = path
        self._kind = kind

    @property
    def exists(self) -> bool:
        """Return whether records were saved, also if there were none."""
        return self._path.is_file()

    def load(self) -> dict[str, M]:
        """Return the saved records; none if the file does not exist or is not valid, nor those of another version."""
        try:
            return parse_all(self._kind, self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            structlog.get_logger().warning("saved records are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, records: dict[str, M]) -> None:
        """Write the records; a reader sees either the old or the new file, also after a loss of power."""
        with replacing(self._path) as file:
            file.write(dump_all(records))
