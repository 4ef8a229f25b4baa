"""Gives each piece of work an empty folder of its own that is gone afterwards, also after a kill."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

_NAME_CHARACTERS = 24


class Workrooms:
    """The folders of a service's work, each named after the process that uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Path]:
        """Return an empty folder for one piece of work, gone afterwards."""
        room = self._folder / f"{os.getpid()}-{name.replace('sha256:', '')[:_NAME_CHARACTERS]}"
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir(parents=True)
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what processes left that were killed in the middle of their work."""
        for room in self._folder.glob("*-*"):
            pid = room.name.partition("-")[0]
            if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
                shutil.rmtree(room, ignore_errors=True)
