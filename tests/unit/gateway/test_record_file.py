"""The reserve of saved records: it has its space, or is not there."""

import resource
import signal

import pytest

from contracts.gateway_rollbacks import PerformedRollback
from services.gateway.adapters.record_file import RecordFile

RESERVE_BYTES = 2 * 1024 * 1024


def kept(folder) -> RecordFile[PerformedRollback]:
    return RecordFile(folder / "rollbacks.json", PerformedRollback, reserve_bytes=RESERVE_BYTES)


@pytest.mark.parametrize("name", ["rollbacks.json.reserve", "rollbacks.json.reserve.partial"])
@pytest.mark.parametrize("left_bytes", [0, 4096])
def test_a_reserve_that_was_not_completed_is_completed(tmp_path, name, left_bytes):
    (tmp_path / name).write_bytes(bytes(left_bytes))
    kept(tmp_path)
    reserve = tmp_path / "rollbacks.json.reserve"
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    assert list(tmp_path.iterdir()) == [reserve]


def test_a_reserve_that_is_there_stays(tmp_path):
    kept(tmp_path)
    before = (tmp_path / "rollbacks.json.reserve").stat()
    kept(tmp_path).save({})
    assert (tmp_path / "rollbacks.json.reserve").stat().st_ino == before.st_ino
    assert before.st_mode & 0o777 == 0o600


def test_where_the_space_is_not_there_nothing_is_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        kept(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []
