"""A file system of a few MiB that processes of a test fill up: a tmpfs in a mount namespace of its own, without root."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from testbed.servers import wait_until

FILLER = "filler"
_HOLD = """
while [ $# -gt 0 ]; do mount -t tmpfs -o "size=$1" small "$2" || exit 1; shift 2; done
echo mounted
exec sleep infinity
"""


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
    with small_disks({folder: megabytes}) as (disk,):
        yield disk


@contextlib.contextmanager
def small_disks(folders: Mapping[Path, int]) -> Iterator[tuple[SmallDisk, ...]]:
    """Mount a disk of so many MiB on each folder, all in one namespace: the prefix of any shows all of them."""
    mounts = [text for folder, size in folders.items() for text in (f"{size}m", str(folder))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*unshare, "sh", "-c", _HOLD, "sh", *mounts]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no file system can be mounted in a namespace here: {holder.stderr.read().decode().strip()}")
        disks = tuple(SmallDisk(holder, folder) for folder in folders)
        wait_until(lambda: all(disk.path.is_dir() for disk in disks), what="the disks")
        yield disks
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()
