"""Saves the last known routes in a file, so that a gateway that starts without the bus can serve."""

import os
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.routes import Route

_ROUTES = TypeAdapter(dict[str, Route])


class RouteFile:
    """One JSON file that is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Route]:
        """Return the saved routes; none if the file does not exist or is not valid."""
        try:
            return _ROUTES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            structlog.get_logger().warning("saved routes are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, routes: dict[str, Route]) -> None:
        """Write the routes; a reader sees either the old or the new file."""
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        partial.write_bytes(_ROUTES.dump_json(routes, indent=1))
        partial.replace(self._path)
