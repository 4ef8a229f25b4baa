"""A folder in the store, read without a local copy: small files whole, weights in ranges, verified by digest."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contracts.manifests import FileEntry
from services.merger.ports import Blobs, Folder
from shared.errors import Permanent

OnProgress = Callable[[int, int], None]


class RemoteFolder:
    """A folder in the object store: ranges and streams are read without a local copy."""

    def __init__(self, store: Blobs, folder: Folder) -> None:
        self._store = store
        self._prefix = folder.prefix
        self._files = {file.path: file for file in sorted(folder.files, key=lambda file: file.path)}

    @property
    def sizes(self) -> dict[str, int]:
        """Return file sizes in bytes by path."""
        return {path: file.size_bytes for path, file in self._files.items()}

    def entry(self, path: str) -> FileEntry:
        """Return a file's manifest entry."""
        return self._files[path]

    def fetch(self, paths: Sequence[str], into: Path, progress: OnProgress | None = None) -> Path:
        """Download and verify files into a local folder; return the folder."""
        into.mkdir(parents=True, exist_ok=True)
        self._store.fetch_files([self._files[path] for path in paths], into, self._prefix, progress)
        return into

    def read(self, path: str, start: int, length: int) -> bytearray:
        """Return a range of a file, not verified."""
        out = bytearray(length)
        self._store.read_into(self._files[path], start, memoryview(out), self._prefix)
        return out

    def stream(self, path: str, lengths: Sequence[int]) -> Iterator[memoryview]:
        """Yield consecutive pieces of a whole file, reading one piece ahead.

        Two alternating buffers hold the pieces: each is valid until the next is requested.

        Args:
            path: The file.
            lengths: Sizes of the pieces in bytes; their sum is the file size.

        Raises:
            Permanent: `digest_mismatch`, after the last piece: discard results computed from the pieces.
        """
        file, hasher = self._files[path], hashlib.sha256()
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            pieces = self._pieces(file, lengths, hasher.update)
            upcoming = reader.submit(next, pieces, None)
            while (piece := upcoming.result()) is not None:
                upcoming = reader.submit(next, pieces, None)
                yield piece
        actual = f"sha256:{hasher.hexdigest()}"
        if actual != file.digest:
            reason = f"{path} has the digest {actual}; its manifest says {file.digest}."
            raise Permanent("digest_mismatch", reason, found=actual)

    def _pieces(
        self, file: FileEntry, lengths: Sequence[int], on_piece: Callable[[memoryview], None]
    ) -> Iterator[memoryview]:
        buffers = [memoryview(bytearray(max(lengths))) for _ in range(min(2, len(lengths)))]
        start = 0
        for number, length in enumerate(lengths):
            piece = buffers[number % 2][:length]
            self._store.read_into(file, start, piece, self._prefix)
            on_piece(piece)
            start += length
            yield piece
