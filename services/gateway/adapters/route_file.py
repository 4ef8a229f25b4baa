"""The last known routes in a file, so that a gateway that starts without the bus still serves."""

import os
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.routes import Route

_ROUTES = TypeAdapter(dict[str, Route])


class RouteFile:
    """One JSON file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Route]:
        """Read the routes; none when the file does not exist or cannot be read as routes."""
        try:
            return _ROUTES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            structlog.get_logger().warning("saved routes are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, routes: dict[str, Route]) -> None:
        """Write the routes so that a reader sees the old or the new file, never a part."""
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        partial.write_bytes(_ROUTES.dump_json(routes, indent=1))
        partial.replace(self._path)
