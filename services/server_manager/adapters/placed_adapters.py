"""The shared folder from which attached servers load LoRAs: one subfolder per target, with its name."""

import filecmp
import shutil
from pathlib import Path

from contracts.vocabulary import Digest
from services.server_manager.domain.records import target_of

_PROVEN = "manifest.digest"
"""The file with the manifest digest of a LoRA that passed its checks."""


def place(source: Path, folder: Path, name: str) -> bool:
    """Copy a LoRA to its target's folder, unless it is there; return whether the version has a LoRA (`source`)."""
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
    """Store that a LoRA passed its checks, with its manifest digest."""
    path, partial = placed / _PROVEN, placed / f".{_PROVEN}"
    if path.is_symlink() or not path.is_file() or path.read_text() != digest:
        partial.unlink(missing_ok=True)
        partial.write_text(digest)
        partial.replace(path)


def list_placed(folder: Path, model: str) -> dict[str, Digest | None]:
    """Return a model's targets with a folder: the proven manifest digest by target name, None without a proof.

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
    """Remove a target's folder."""
    shutil.rmtree(folder / name, ignore_errors=True)
