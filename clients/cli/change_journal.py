"""Changes of a folder of keys that the audit log does not have yet, as JSON lines beside the keys."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from contracts.facts import AuditRecorded
from contracts.vocabulary import digest_of
from deploy.identity.files import locked, write_secret
from shared.runtime.clock import SystemClock

BEGUN: Final = "begun: the command did not say that it ended"
"""What the details of a change state whose command was killed, or failed."""
DAMAGED: Final = "journal.damaged"
"""The action of a line that cannot be read."""


@dataclass(frozen=True)
class Noted:
    """A line of the journal, and the change that it notes."""

    line: bytes
    fact: AuditRecorded


class Journal:
    """The file `changes.jsonl`. It is replaced at once, under the lock of the folder of keys."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of keys."""
        self._folder = folder
        self.path = folder / "changes.jsonl"

    @contextlib.contextmanager
    def noting(
        self, action: str, about: str, describe: Callable[[], dict[str, Any]], refusal: type[Exception]
    ) -> Iterator[None]:
        """Note a change before it is made, and how it ended after it.

        A program that is killed between the two leaves the note that the change began.

        Args:
            action: What is changed, such as `key.add`.
            about: What it is done to.
            describe: Returns the details after the change; no secrets.
            refusal: An exception that says that nothing was changed: the note is removed.

        Raises:
            OSError: The folder cannot be written to: the change is not made.
        """
        begun = _line(action, about, {"state": BEGUN})
        self._replace(None, begun)
        try:
            yield
        except refusal:
            self._replace(begun, None)
            raise
        self._replace(begun, _line(action, about, describe()))

    def waiting(self) -> list[Noted]:
        """Return the changes that are not published, the oldest first; a damaged line as an entry that says so."""
        return [_read(line, self.path) for line in self._lines()]

    def published(self, noted: Noted) -> None:
        """Remove a change that the bus has."""
        self._replace(noted.line, None)

    def _lines(self) -> list[bytes]:
        return [line for line in self.path.read_bytes().split(b"\n") if line] if self.path.is_file() else []

    def _replace(self, before: bytes | None, after: bytes | None) -> None:
        """Put a line in the place of another one, or at the end if that is not there any more."""
        with locked(self._folder):
            lines = self._lines()
            at = lines.index(before) if before in lines else len(lines)
            lines[at : at + 1] = [] if after is None else [after]
            write_secret(self.path, b"".join(line + b"\n" for line in lines))


def _line(action: str, about: str, details: dict[str, Any]) -> bytes:
    fact = AuditRecorded(action=action, about=about[:200], occurred_at=SystemClock().now(), details=details)
    return fact.model_dump_json().encode()


def _read(line: bytes, path: Path) -> Noted:
    try:
        return Noted(line, AuditRecorded.model_validate_json(line))
    except ValidationError:
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        details = {
            "reason": f"A line of {path.name} cannot be read: a change of keys was noted there.",
            "bytes": len(line),
        }
        fact = AuditRecorded(
            action=DAMAGED, about=path.name, digest=digest_of(line), occurred_at=written, details=details
        )
        return Noted(line, fact)
