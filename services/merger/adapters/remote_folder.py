"""A folder in the store, read in place: small files whole, weights by ranges, each verified against its digest."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contracts.manifests import FileEntry
from services.merger.ports import Folder
from shared.errors import Permanent
from shared.storage.blobs import Store

Count = Callable[[int, int], None]


class Shelf:
    """Gives the files of one folder."""

    def __init__(self, store: Store, folder: Folder) -> None:
        self._store = store
        self._prefix = folder.prefix
        self._files = {file.path: file for file in sorted(folder.files, key=lambda file: file.path)}

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes."""
        return {path: file.size_bytes for path, file in self._files.items()}

    def entry(self, path: str) -> FileEntry:
        """Return the manifest's entry of a file."""
        return self._files[path]

    def fetch(self, paths: Sequence[str], into: Path, count: Count | None = None) -> Path:
        """Download files into a local folder, verified."""
        into.mkdir(parents=True, exist_ok=True)
        self._store.fetch_files([self._files[path] for path in paths], into, self._prefix, count)
        return into

    def read(self, path: str, start: int, length: int) -> bytearray:
        """Read a range of a file; the caller verifies it."""
        out = bytearray(length)
        self._store.read_into(self._files[path], start, memoryview(out), self._prefix)
        return out

    def stream(self, path: str, lengths: Sequence[int]) -> Iterator[memoryview]:
        """Return consecutive pieces of a whole file, the next one on its way while one is used.

        A piece is only good until the next one is asked for: two buffers hold them in turn.

        Args:
            path: The file.
            lengths: Sizes of the pieces; together they are the file.

        Raises:
            Permanent: `digest_mismatch`, after the last piece: what was made of the pieces must not be committed.
        """
        file, hasher = self._files[path], hashlib.sha256()
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
            pieces = self._pieces(file, lengths, hasher.update)
            coming = ahead.submit(next, pieces, None)
            while (piece := coming.result()) is not None:
                coming = ahead.submit(next, pieces, None)
                yield piece
        found = f"sha256:{hasher.hexdigest()}"
        if found != file.digest:
            raise Permanent("digest_mismatch", f"{path} is {found}, announced as {file.digest}.", found=found)

    def _pieces(
        self, file: FileEntry, lengths: Sequence[int], saw: Callable[[memoryview], None]
    ) -> Iterator[memoryview]:
        rooms = [memoryview(bytearray(max(lengths))) for _ in range(min(2, len(lengths)))]
        start = 0
        for number, length in enumerate(lengths):
            piece = rooms[number % 2][:length]
            self._store.read_into(file, start, piece, self._prefix)
            saw(piece)
            start += length
            yield piece
