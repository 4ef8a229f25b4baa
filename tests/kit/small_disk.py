"""A file system of a few MiB that processes of a test fill up: a tmpfs in a mount namespace of its own, without root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.servers import wait_until

FILLER = "filler"
_HOLD = 'mount -t tmpfs -o "size=$1" small "$2" && echo mounted && exec sleep infinity'


class SmallDisk:
    """The disk. Processes that are started behind `prefix` see it at `mounted`; this process sees it at `path`."""

    def __init__(self, holder: subprocess.Popen[bytes], mounted: Path) -> None:
        self.mounted = mounted
        self.path = Path(f"/proc/{holder.pid}/root{mounted}")
        self.prefix = ["nsenter", f"--target={holder.pid}", "--user", "--mount", "--preserve-credentials"]

    def fill(self) -> None:
        """Take all space that is left."""
        fill(self.path / FILLER)

    def free(self) -> None:
        """Free what `fill` took."""
        (self.path / FILLER).unlink(missing_ok=True)


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk on a folder; skip where this user may not make a mount namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*unshare, "sh", "-c", _HOLD, "sh", f"{megabytes}m", str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no file system can be mounted in a namespace here: {holder.stderr.read().decode().strip()}")
        disk = SmallDisk(holder, folder)
        wait_until(disk.path.is_dir, what="the disk")
        yield disk
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()
