"""What every registry that versions are mirrored into must do; run on the fake and on real servers."""

from dataclasses import replace

from tests.kit.histories import history


class RegistryConformance:
    """Subclasses have fixtures: `registry`, and `model`, a name that no other test uses."""

    async def test_nothing_is_mirrored_at_first(self, registry, model):
        assert await registry.mirrored(model) == []

    async def test_what_is_put_is_found_again_with_its_state(self, registry, model):
        await registry.mirrored(model)
        first = await registry.put(history(model, 1), "state-1", None)
        second = await registry.put(history(model, 2), "state-2", None)
        assert first.name_there != second.name_there
        assert sorted(await registry.mirrored(model), key=lambda each: each.version) == [first, second]

    async def test_a_version_that_is_there_is_changed_in_place(self, registry, model):
        await registry.mirrored(model)
        first = await registry.put(history(model, 1), "state-1", None)
        later = await registry.put(history(model, 1), "state-2", first)
        assert later == replace(first, fingerprint="state-2")
        assert await registry.mirrored(model) == [later]

    async def test_aliases_follow_and_leave(self, registry, model):
        await registry.mirrored(model)
        first = await registry.put(history(model, 1), "state-1", None)
        second = await registry.put(history(model, 2), "state-2", None)
        await registry.point(model, {"champion": first, "candidate": second})
        assert await registry.shown(model) == {"champion": 1, "candidate": 2}
        await registry.point(model, {"champion": second, "previous": first})
        assert await registry.shown(model) == {"champion": 2, "previous": 1}
        await registry.point(model, {})
        assert await registry.shown(model) == {}

    async def test_a_version_that_was_deleted_there_is_written_again(self, registry, model):
        await registry.mirrored(model)
        first = await registry.put(history(model, 1), "state-1", None)
        await registry.forget(model, first.name_there)
        assert await registry.mirrored(model) == []
        again = await registry.put(history(model, 1), "state-1", None)
        assert await registry.mirrored(model) == [again]
