"""Peak memory measured for targets, by the digest of their manifests."""

from collections.abc import Mapping
from typing import Final

from contracts.vocabulary import Digest
from services.server_manager.domain.records import MeasuredFiles, Servers
from services.server_manager.indexes import NoteIndex
from services.server_manager.ports import Indexed

KEPT: Final = 200
"""Maximum number of digests whose measurements the record keeps."""


class MeasuredMemory(dict[Digest, int]):
    """The current measurements: from the record, and from the lists of engines."""

    def take(self, record: Servers) -> None:
        """Merge the measurements of the record into these, keeping the larger."""
        for files in record.measured:
            self[files.digest] = max(files.peak_bytes, self.get(files.digest, 0))

    def note(self, index: Mapping[str, Indexed]) -> None:
        """Note the measurements of an engine's index that exceed the known ones."""
        for entry in index.values():
            if entry.digest is not None and entry.measured_bytes > self.get(entry.digest, 0):
                self.pop(entry.digest, None)
                self[entry.digest] = entry.measured_bytes

    def noting(self, note_index: NoteIndex) -> NoteIndex:
        """Return a callback that notes the measurements of an index and then calls `note_index`."""

        def note(endpoint: str, index: Mapping[str, Indexed], asked_at: float) -> None:
            self.note(index)
            note_index(endpoint, index, asked_at)

        return note

    def to_record(self) -> tuple[MeasuredFiles, ...]:
        """Return the newest measurements in the form of the record."""
        return tuple(MeasuredFiles(digest=digest, peak_bytes=peak) for digest, peak in [*self.items()][-KEPT:])
