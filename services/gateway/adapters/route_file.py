"""Saves the last known routes in a file, so that a gateway that starts without the bus can serve."""

import os
from pathlib import Path

import structlog

from contracts.routes import Route
from shared.storage.record_format import dump_all, parse_all


class RouteFile:
    """One JSON file that is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Route]:
        """Return the saved routes; none if the file does not exist or is not valid, nor those of a newer version."""
        try:
            return parse_all(Route, self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            structlog.get_logger().warning("saved routes are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, routes: dict[str, Route]) -> None:
        """Write the routes; a reader sees either the old or the new file."""
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        partial.write_bytes(dump_all(routes))
        partial.replace(self._path)
