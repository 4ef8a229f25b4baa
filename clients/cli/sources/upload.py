"""Upload model folders into the store, with a progress bar on a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from clients.cli.output import CommandError, Exit, is_terminal
from contracts.manifests import FileEntry, FolderManifest
from contracts.storage.sources import is_weights, pickles_in, travels
from shared.storage.blobs import Store

Advance = Callable[[float], None]


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that are uploaded: weights as safetensors, configuration, tokenizer.

    Raises:
        CommandError: the folder does not exist, or holds no safetensors.
    """
    if not folder.is_dir():
        is_repository = not folder.is_absolute() and len(folder.parts) == 2
        hub = f", or hf://{folder}@main for a repository of the model hub" if is_repository else ""
        raise CommandError(
            f"the model folder {folder} does not exist: name the folder that save_pretrained wrote{hub}", Exit.USAGE
        )
    files = sorted(path for path in folder.iterdir() if path.is_file() and travels(path.name))
    if any(is_weights(path.name) for path in files):
        return files
    pickles = pickles_in([path.name for path in folder.iterdir()])
    if pickles:
        raise CommandError(
            f"the model folder {folder} holds its weights as a pickle ({pickles[0]}), which is not accepted: "
            "save them as safetensors"
        )
    raise CommandError(
        f"the model folder {folder} holds no .safetensors file: name the folder that save_pretrained wrote", Exit.USAGE
    )


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
