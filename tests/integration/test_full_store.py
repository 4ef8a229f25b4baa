"""The disk under the object store is full: writes wait with a sentence, what was acknowledged stays, writes go on later."""

import os

import pytest

from shared.errors import Transient
from shared.storage.blobs import Store
from testbed.servers import S3Server, running, wait_until
from tests.kit.small_disk import small_disk

pytestmark = pytest.mark.real
SMALL, LARGE = 3_000, 400_000


class SmallStore(S3Server):
    """An object store on a small disk."""

    def __init__(self, folder, disk):
        super().__init__(folder)
        self.disk = disk
        (disk.path / "data").mkdir()

    def command(self):
        data = f"-dir={self.disk.mounted / 'data'}"
        return [*self.disk.prefix, *(data if text.startswith("-dir=") else text for text in super().command())]


class Written:
    """Blobs that a store has acknowledged."""

    def __init__(self, store):
        self.store, self.blobs = store, []

    def add(self, size):
        """Store a blob of so many bytes; raise what the store answers."""
        data = os.urandom(size)
        self.blobs.append((self.store.put_blob(memoryview(data), f"{len(self.blobs)}.bin"), data))

    def tried(self):
        """Return whether the store takes a blob."""
        try:
            self.add(LARGE)
        except Transient:
            return False
        return True

    def check(self):
        for entry, data in self.blobs:
            stored = memoryview(bytearray(len(data)))
            self.store.read_into(entry, 0, stored)
            assert stored == data


@pytest.fixture
def small(tmp_path):
    with small_disk(tmp_path / "disk", 120) as disk, running(SmallStore(tmp_path, disk)) as server:
        yield server


def fill_until_refused(small, written):
    """Fill the disk; return the error of the first blob that it refuses: small ones may fit into a block that is begun."""
    small.disk.fill()
    for size in (SMALL, SMALL, SMALL, LARGE, LARGE, LARGE):
        try:
            written.add(size)
        except Transient as error:
            return error
    raise AssertionError("a full disk took everything")


def test_writes_wait_with_a_sentence_and_reads_go_on(small):
    written = Written(Store(small.settings()))
    for size in (SMALL, LARGE):
        written.add(size)
    error = fill_until_refused(small, written)
    assert error.code == "store_unavailable"
    assert error.reason.endswith("its disk may be full, see its log.")
    written.check()
    small.disk.free()
    wait_until(written.tried, timeout_s=150, what="a write after there was space: the store looks once a minute")
    written.check()


def test_it_is_killed_on_a_full_disk_and_has_everything_that_it_acknowledged(small):
    written = Written(Store(small.settings()))
    written.add(LARGE)
    fill_until_refused(small, written)
    small.kill()
    small.disk.free()
    small.start()
    written.check()
    wait_until(written.tried, timeout_s=150, what="a write after the restart")
    written.check()
