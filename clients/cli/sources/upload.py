"""Upload model folders into the store, with a progress bar on a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from clients.cli.output import CommandError, Exit, is_terminal
from clients.training.errors import PublishError
from clients.training.upload import checkpoint_files
from contracts.manifests import FileEntry, FolderManifest
from shared.storage.blobs import Store

Advance = Callable[[float], None]


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that are uploaded: weights as safetensors, configuration, tokenizer.

    Raises:
        CommandError: the folder does not exist, or holds no safetensors.
    """
    try:
        return checkpoint_files(folder)
    except PublishError as error:
        is_repository = not folder.is_dir() and not folder.is_absolute() and len(folder.parts) == 2
        hub = f" A repository of the model hub is hf://{folder}@main." if is_repository else ""
        raise CommandError(f"{error}{hub}", Exit.USAGE) from error


def upload_files(store: Store, files: list[Path], advance: Advance) -> FolderManifest:
    """Upload files as blobs unless they are stored already; return the folder's manifest, not committed yet."""
    entries: list[FileEntry] = []
    for path in files:
        entries.append(store.put_file(path, path.name))
        advance(entries[-1].size_bytes)
    return FolderManifest(files=tuple(entries))


@contextlib.contextmanager
def progress_bar(what: str, total_bytes: int, *, shown: bool = True) -> Iterator[Advance]:
    """Show a progress bar on a terminal, and nothing elsewhere; yield the function that advances it."""
    if not shown or not is_terminal():
        yield lambda _bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda count: progress.advance(task, count)


def steps(advance: Advance) -> Callable[[float, float], None]:
    """Return a callback that turns the bytes done in total into the bytes done since the last call."""
    seen = 0.0

    def report(done: float, _total: float) -> None:
        nonlocal seen
        advance(done - seen)
        seen = done

    return report
