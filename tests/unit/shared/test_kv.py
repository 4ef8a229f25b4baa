"""A bucket's records, read without a bus."""

import pytest

from shared.storage.kv import Bucket
from tests.kit.records import Tally


@pytest.mark.parametrize("data", [b'{"schema_version":1,"causes":7}', b"[" * 100_000, b"{not json"])
def test_a_follower_passes_over_a_damaged_record(data):
    assert Bucket(None, "alerts", Tally).read("support-bot", data) is None
