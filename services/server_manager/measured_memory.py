"""Measured peak memory of targets, by manifest digest."""

from collections.abc import Mapping
from typing import Final

from contracts.vocabulary import Digest
from services.server_manager.domain.records import MeasuredFiles, Servers
from services.server_manager.indexes import NoteIndex
from services.server_manager.ports import Indexed

KEPT: Final = 200
"""Maximum measurements in the record."""


class MeasuredMemory(dict[Digest, int]):
    """Peak bytes by manifest digest, from the record and the engines' indexes."""

    def take(self, record: Servers) -> None:
        """Merge the measurements of the record, keeping the larger."""
        for files in record.measured:
            self[files.digest] = max(files.peak_bytes, self.get(files.digest, 0))

    def note(self, index: Mapping[str, Indexed]) -> None:
        """Store measurements of an engine's index that exceed the known ones."""
        for entry in index.values():
            if entry.digest is not None and entry.measured_bytes > self.get(entry.digest, 0):
                self.pop(entry.digest, None)
                self[entry.digest] = entry.measured_bytes

    def noting(self, note_index: NoteIndex) -> NoteIndex:
        """Return a callback that stores the measurements of an index, then calls `note_index`."""

        def note(endpoint: str, index: Mapping[str, Indexed], asked_at: float) -> None:
            self.note(index)
            note_index(endpoint, index, asked_at)

        return note

    def to_record(self) -> tuple[MeasuredFiles, ...]:
        """Return the newest `KEPT` measurements for the record."""
        return tuple(MeasuredFiles(digest=digest, peak_bytes=peak) for digest, peak in [*self.items()][-KEPT:])
