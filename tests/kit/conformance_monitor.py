"""What the references of the monitor promise: run on the twin in memory and on the object store."""

from collections.abc import Callable
from typing import Any

import pytest

from services.monitor.ports import References
from shared.errors import Permanent
from testbed import factories as f

COLUMNS = {"prompt_chars": (1.0, 2.0, 3.0), "repetition_ratio": (0.5, 0.25)}


class ReferencesConformance:
    """A subclass gives the fixture `references`, and `damage`, which changes what is stored of one."""

    damage: Callable[..., Any]

    @pytest.fixture
    def target(self):
        return f.target(7)

    async def put(self, references: References, target, columns=COLUMNS, seconds=0.0, source="a test"):
        return await references.put(target, columns, taken_at=f.after(seconds), source=source)

    async def test_a_target_without_a_reference_has_none(self, references, target):
        assert await references.latest(target) is None

    async def test_a_stored_window_is_the_latest_and_its_rows_come_back(self, references, target):
        stored = await self.put(references, target)
        assert (stored.version, stored.rows, stored.taken_at, stored.source) == (1, 3, f.after(0.0), "a test")
        assert await references.latest(target) == stored
        assert await references.rows(stored) == {name: list(values) for name, values in COLUMNS.items()}

    async def test_references_are_numbered_per_target_and_stay(self, references, target):
        first = await self.put(references, target)
        second = await self.put(references, target, {"prompt_chars": (9.0,)}, 60.0, "the next")
        assert (second.version, second.rows, await references.latest(target)) == (2, 1, second)
        assert await references.rows(first) == {name: list(values) for name, values in COLUMNS.items()}
        assert await references.latest(f.target(8)) is None
        assert (await self.put(references, f.target(8))).version == 1

    async def test_a_damaged_reference_is_refused(self, references, target):
        stored = await self.put(references, target)
        await self.damage(references, stored)
        with pytest.raises(Permanent) as refused:
            await references.rows(stored)
        assert refused.value.code == "digest_mismatch"
