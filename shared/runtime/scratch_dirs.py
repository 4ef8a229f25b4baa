"""Temporary folders for units of work, removed afterwards, also after a kill."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

_NAME_CHARACTERS = 24


class ScratchDirs:
    """The scratch folders of a service, each named after the process that uses it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Path]:
        """Yield an empty folder for one unit of work, and remove it afterwards."""
        folder = self._root / f"{os.getpid()}-{name.replace('sha256:', '')[:_NAME_CHARACTERS]}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_stale(self) -> None:
        """Remove the folders of killed processes."""
        for folder in self._root.glob("*-*"):
            pid = folder.name.partition("-")[0]
            if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
                shutil.rmtree(folder, ignore_errors=True)
