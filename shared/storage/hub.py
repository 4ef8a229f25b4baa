"""Reads a model hub's repository at a commit, each file verified against the hub's list."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from contracts.storage.sources import HubFolder
from shared.errors import Permanent, SlipwayError, Transient, translate

LIST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
_SURPLUS_BYTES = 1024 * 1024
"""Excess over the listed size at which a download is aborted."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository, as the hub lists it.

    Attributes:
        sha256: Hex digest, of files in large-file storage.
        git_id: Git's blob id, of all other files.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_id: str | None


def hub_api(endpoint: str, token: str | None) -> Any:
    """Return huggingface_hub's client of a hub, online also in an offline process."""
    from huggingface_hub import HfApi

    _go_online()
    return HfApi(endpoint=endpoint, token=token or False)


class Hub:
    """A model hub, or a mirror of one. Synchronous: call through `asyncio.to_thread`."""

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token

    def look(self, folder: HubFolder) -> tuple[HubFolder, tuple[HubFile, ...]]:
        """Return a repository pinned to its revision's current commit, and its files.

        Raises:
            Permanent: artifact_not_found, uri_not_allowed (no access), digest_mismatch (another commit).
            Transient: hub_unavailable.
        """
        with self._explained(folder):
            info = self._api().model_info(
                folder.repo, revision=folder.revision, files_metadata=True, timeout=LIST_TIMEOUT_S
            )
            files = tuple(_file(listed) for listed in info.siblings or ())
            pinned = HubFolder(folder.repo, str(info.sha))
        if not pinned.pinned:
            raise self._odd(folder, "it names no commit")
        if folder.pinned and folder != pinned:
            raise Permanent("digest_mismatch", f"The hub answered commit {pinned.revision} for {folder.uri}.")
        return pinned, files

    def fetch(
        self, folder: HubFolder, file: HubFile, into: Path, on_bytes: Callable[[int], None] | None = None
    ) -> Path:
        """Download one file of a pinned repository into a folder and verify it, without a cache.

        Args:
            folder: The repository at a commit.
            file: One of its files.
            into: The folder.
            on_bytes: Called with the number of received bytes; negative when a download starts over.

        Raises:
            Permanent: artifact_not_found, uri_not_allowed, digest_mismatch.
            Transient: hub_unavailable, disk_full.
        """
        come = 0

        def count(chunk: int) -> None:
            nonlocal come
            come += chunk
            if come > file.size_bytes + _SURPLUS_BYTES:
                raise Permanent("digest_mismatch", f"{file.path} of {folder.uri} is larger than the hub lists.")
            if on_bytes is not None:
                on_bytes(chunk)

        with self._explained(folder):
            path = Path(
                self._api().hf_hub_download(
                    folder.repo,
                    file.path,
                    revision=folder.revision,
                    local_dir=into,
                    force_download=True,
                    tqdm_class=_progress_bar(count),
                )
            )
            problem = _difference(file, path)
        if problem is not None:
            raise Permanent("digest_mismatch", f"{file.path} of {folder.uri} is not what the hub lists: {problem}.")
        return path

    def _api(self) -> Any:
        return hub_api(self._endpoint, self._token)

    @contextmanager
    def _explained(self, folder: HubFolder) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            explained = self._explain(error, folder)
            if explained is None or explained is error:
                raise
            raise explained from error

    def _explain(self, error: Exception, folder: HubFolder) -> SlipwayError | None:
        """Map an error of the hub's library; its own texts stay out, because they may hold signed addresses."""
        import httpx
        from huggingface_hub import errors as theirs

        known = translate(error)
        if known is not None:
            return known
        for cause in (error, error.__cause__):
            if isinstance(cause, theirs.HfHubHTTPError):
                missing = isinstance(cause, theirs.RepositoryNotFoundError) and not isinstance(
                    cause, theirs.GatedRepoError
                )
                return self._answered(404 if missing else cause.response.status_code, folder)
            if isinstance(cause, httpx.HTTPError | theirs.FileMetadataError | theirs.OfflineModeIsEnabled):
                return Transient(
                    "hub_unavailable", f"{self._endpoint} does not answer for {folder.uri} ({type(cause).__name__})."
                )
        if isinstance(error, OSError) and error.errno is None:
            return Permanent("digest_mismatch", f"A file of {folder.uri} has another size than the hub says.")
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            return self._odd(folder, type(error).__name__)
        return None

    def _answered(self, status: int, folder: HubFolder) -> SlipwayError:
        where = f"{self._endpoint} answered {status} for {folder.uri}"
        if status in (401, 403):
            return Permanent("uri_not_allowed", f"{where}: set HF_TOKEN to one that may read this repository.")
        if status in (408, 429) or status >= 500:
            return Transient("hub_unavailable", f"{where}.")
        return Permanent(
            "artifact_not_found", f"{where}: check repository and revision, and HF_TOKEN if the repository is private."
        )

    def _odd(self, folder: HubFolder, what: str) -> Transient:
        return Transient(
            "hub_unavailable", f"{self._endpoint} does not answer for {folder.uri} as a model hub does ({what})."
        )


@functools.cache
def _go_online() -> None:
    """Replace the hub library's HTTP client, so that it reaches the configured hub in spite of `HF_HUB_OFFLINE`.

    All services run with that variable, to keep libraries from network access of their own. Xet is disabled, because
    mirrors speak plain HTTP only.
    """
    import httpx
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging

    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    set_client_factory(lambda: httpx.Client(follow_redirects=True, timeout=timeout))
    constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings hold signed addresses


def _progress_bar(on_bytes: Callable[[int], None]) -> type:
    """Return a progress-bar class for the hub's library that draws nothing."""

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float = 1) -> None:
            on_bytes(int(count))

    return Bar


def _file(listed: Any) -> HubFile:
    """Read a listed file; large-file storage has the content's sha256, its git id is only the pointer's."""
    if listed.lfs is not None:
        return HubFile(listed.rfilename, int(listed.lfs.size), str(listed.lfs.sha256), None)
    return HubFile(listed.rfilename, int(listed.size), None, str(listed.blob_id))


def _difference(file: HubFile, path: Path) -> str | None:
    size = path.stat().st_size
    if size != file.size_bytes:
        return f"{size} bytes instead of {file.size_bytes}"
    with path.open("rb") as stream:
        if file.sha256 is not None:
            digest, listed = hashlib.file_digest(stream, "sha256").hexdigest(), file.sha256
        else:
            named = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            for chunk in iter(lambda: stream.read(1024 * 1024), b""):
                named.update(chunk)
            digest, listed = named.hexdigest(), str(file.git_id)
    return None if digest == listed else f"{digest} instead of {listed}"
