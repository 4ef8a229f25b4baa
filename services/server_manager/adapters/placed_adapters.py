"""The folder of LoRAs that attached servers load: a folder for each target, whose name is the target's."""

import filecmp
import shutil
from pathlib import Path

from contracts.vocabulary import Digest
from services.server_manager.domain.records import target_of

_PROVEN = "manifest.digest"
"""The file that names what was proven to answer by this name: the digest of the version's manifest."""


def place(source: Path, folder: Path, name: str) -> bool:
    """Copy a LoRA's files to its target's folder unless they are there; return whether the version has a LoRA."""
    if not source.is_dir():
        return False
    if not folder.is_dir():
        msg = f"{folder} is no folder here"
        raise FileNotFoundError(msg)
    placed, names = folder / name, sorted(path.name for path in source.iterdir())
    if placed.is_dir() and filecmp.cmpfiles(source, placed, names, shallow=False)[0] == names:
        return True
    partial = folder / f".{name}"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(placed, ignore_errors=True)
    partial.rename(placed)
    return True


def note_proven(placed: Path, digest: Digest) -> None:
    """Write down that an adapter was proven to answer."""
    path, partial = placed / _PROVEN, placed / f".{_PROVEN}"
    if path.is_symlink() or not path.is_file() or path.read_text() != digest:
        partial.unlink(missing_ok=True)
        partial.write_text(digest)
        partial.replace(path)


def list_placed(folder: Path, model: str) -> dict[str, Digest | None]:
    """Return the targets of a model that have a folder, each with the digest it was proven as; None without a proof.

    Raises:
        OSError: The folder is not readable.
    """
    names = [path.name for path in folder.iterdir()]
    targets = {name: target_of(name) for name in names}
    return {
        name: proven.read_text() if (proven := folder / name / _PROVEN).is_file() else None
        for name, target in targets.items()
        if target is not None and target.model == model
    }


def remove(folder: Path, name: str) -> None:
    """Remove the folder of a target."""
    shutil.rmtree(folder / name, ignore_errors=True)
