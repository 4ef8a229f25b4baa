"""Keys that attached servers ask for, by the names that their addresses carry; a file has them, and no record."""

from collections.abc import Generator
from pathlib import Path

import httpx


class ServerKey(httpx.Auth):
    """Sends a key as a bearer token; where it is refused, the file is read again: it may have been replaced there."""

    def __init__(self, name: str, file: Path | None) -> None:
        """Take the name of the key, and the file of all keys, one `NAME: key` a line."""
        self._name, self._file = name, file
        self._key = self._read()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request with the key, and once more with the one that replaced it meanwhile."""
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED or (key := self._read()) == self._key:
            return
        self._key = key
        request.headers["authorization"] = f"Bearer {key}"
        yield request

    def _read(self) -> str:
        """Return the key; empty if there is none by this name, which the server will refuse."""
        try:
            lines = self._file.read_text().splitlines() if self._file is not None else []
        except (OSError, UnicodeDecodeError):
            return ""
        pairs = (line.partition(":") for line in lines)
        return next((key.strip() for name, _, key in pairs if name.strip() == self._name), "")
