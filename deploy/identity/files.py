"""Writes files of the folder of keys at once, with the permissions that they need."""

import os
import tempfile
from pathlib import Path


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file at once, so that a program which dies leaves the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
