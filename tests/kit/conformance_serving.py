"""What every engine, cache of artifacts, record and set of routes must do, whether real or not."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from contracts.attachments import Attachment
from contracts.codes import ADVICE
from contracts.routes import Route
from contracts.runtimes import DEFAULT_RUNTIME, FleetRuntime, FleetRuntimes, RunningTarget
from contracts.vocabulary import Runtime, Target, digest_of
from decisions.routes.edits import AlreadyApplied, Changed, EditRefused, promote
from services.server_manager.domain.description import Description
from services.server_manager.domain.records import OpenAlert, Servers
from services.server_manager.ports import Extent, LeaseLost, RouteListing
from shared.errors import Permanent, SlipwayError, Transient
from shared.storage.record_format import dump
from tests.kit.records import dump_newer
from tests.unit.server_manager.factories import START, served

NAME = "bot.v1.bf16"
SPOILT = {
    "of another version": ("record_version_unknown", dump_newer(Route(model="cat", epoch=3))),
    "without a version": ("record_version_unknown", b'{"model":"cat"}'),
    "damaged": ("internal_error", b'{"schema_version":1,"model":"cat","epoch":'),
}
"""Bytes of a route that this process cannot read, with the code of the error."""
DIGEST = digest_of(b"one")


class EngineConformance:
    """Needs the fixtures `engine` (an Engine) and `kill_engine` (makes one model's engine dead, its server alive).

    And `revive`, where a dead engine comes back through another than the fleet.
    """

    @pytest.fixture
    def revive(self):
        async def nothing(_name):
            pass

        return nothing

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"a": 1}))
        return folder

    async def test_loaded_is_ready_known_by_digest_and_generates(self, engine, folder):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        entry = (await engine.index())[NAME]
        assert (entry.ready, entry.digest, entry.memory_bytes) == (True, DIGEST, 7)
        assert (await engine.probe(NAME, 10)).strip()

    async def test_unloaded_is_not_ready_and_does_not_generate(self, engine, folder):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        await engine.unload(NAME)
        index = await engine.index()
        assert NAME not in index or not index[NAME].ready
        with pytest.raises(Transient) as caught:
            await engine.probe(NAME, 10)
        assert caught.value.code == "endpoint_unreachable"

    async def test_unloading_what_is_not_loaded_is_fine(self, engine):
        await engine.unload("bot.v9.bf16")

    async def test_what_is_not_permitted_is_not_done(self, engine, folder):
        async def refuse():
            raise LeaseLost("another process leads")

        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        with pytest.raises(LeaseLost):
            await engine.unload(NAME, permit=refuse)
        with pytest.raises(LeaseLost):
            await engine.load("bot.v2.bf16", folder, digest=DIGEST, memory_bytes=7, permit=refuse)
        index = await engine.index()
        assert index[NAME].ready
        assert "bot.v2.bf16" not in index or not index["bot.v2.bf16"].ready

    async def test_what_cannot_be_loaded_says_so_and_leaves_the_others_alone(self, engine, folder, tmp_path):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        with pytest.raises(SlipwayError) as caught:
            await engine.load("bot.v2.bf16", tmp_path / "nothing", digest=DIGEST, memory_bytes=7)
        assert caught.value.code == "load_failed"
        assert "config.json" in caught.value.reason
        assert (await engine.probe(NAME, 10)).strip()

    async def test_a_dead_engine_looks_ready_fails_the_probe_and_comes_back_by_reloading(
        self, engine, kill_engine, revive, folder
    ):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        await kill_engine(NAME)
        assert (await engine.index())[NAME].ready, "READY proves nothing"
        with pytest.raises(Transient) as caught:
            await engine.probe(NAME, 10)
        assert caught.value.code == "engine_dead"
        await engine.unload(NAME, wait=False)
        await revive(NAME)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=7)
        assert (await engine.probe(NAME, 10)).strip()


class AttachedConformance(EngineConformance):
    """Attached servers as an engine: two replicas, of one group; nothing is started or stopped.

    Needs `urls` (the addresses of the group) and `list_names` (lets the replica of a number serve these names), too.
    Both replicas serve `NAME`.
    """

    async def test_what_cannot_be_loaded_says_so_and_leaves_the_others_alone(self, engine, folder):
        """What no group serves is waited for, and is no failure of it."""
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        with pytest.raises(Transient) as caught:
            await engine.load("bot.v2.bf16", folder, digest=DIGEST, memory_bytes=0)
        assert caught.value.code == "endpoint_unreachable"
        assert "bot.v2.bf16" in caught.value.reason
        assert (await engine.probe(NAME, 10)).strip()

    async def test_a_target_is_there_once_all_replicas_list_it_and_as_long_as_one_does(
        self, engine, folder, urls, list_names
    ):
        await list_names(1)
        await engine.index()
        assert not engine.may_have(NAME)
        with pytest.raises(Transient):
            await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        await list_names(1, NAME)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        assert (engine.may_have(NAME), set(engine.addresses(NAME))) == (True, set(urls))
        await list_names(0)
        assert (await engine.index())[NAME].ready
        assert (engine.may_have(NAME), set(engine.addresses(NAME))) == (False, set(urls))
        assert (await engine.probe(NAME, 10)).strip()

    async def test_of_what_a_route_names_one_replica_is_enough(self, engine, folder, list_names):
        await list_names(1)
        engine.in_routes = {NAME: ()}
        await engine.index()
        assert engine.may_have(NAME)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        assert (await engine.probe(NAME, 10)).strip()
        await list_names(0)
        await engine.index()
        assert not engine.may_have(NAME)

    async def test_what_no_replica_lists_any_more_is_gone_and_is_loaded_again_when_it_is_back(
        self, engine, folder, list_names
    ):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        for number in (0, 1):
            await list_names(number, "bot.v3.bf16")
        assert await engine.index() == {}
        assert engine.addresses(NAME) == ()
        for number in (0, 1):
            await list_names(number, NAME)
        assert await engine.index() == {}, "it is checked again before it counts"
        assert engine.may_have(NAME)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        assert NAME in await engine.index()


class ArtifactsConformance:
    """Needs the fixtures `artifacts` (Artifacts), `stored` (returns the Deployable of a version) and `missing` (one).

    The files of what is stored are `DESCRIBING`; those of what is missing are not in the store.
    """

    DESCRIBING = MappingProxyType(
        {
            "config.json": b'{"max_position_embeddings": 128}',
            "tokenizer_config.json": b'{"bos_token": "<s>", "eos_token": "</s>"}',
            "chat_template.jinja": b"t",
        }
    )

    async def test_a_target_is_a_folder_that_the_engine_can_load_the_same_one_each_time(self, artifacts, stored):
        first, second = stored(1), stored(2)
        folder = await artifacts.materialise(first)
        assert (folder / "config.json").is_file()
        assert await artifacts.materialise(first) == folder
        assert await artifacts.materialise(second) != folder

    async def test_what_is_there_is_described(self, artifacts, stored):
        deployable = stored(1)
        await artifacts.materialise(deployable)
        expected = Description(chat_template="t", bos_token="<s>", eos_token="</s>", context_tokens=128)
        assert await artifacts.describe(deployable) == expected

    async def test_only_what_is_kept_stays_and_the_rest_can_be_had_again(self, artifacts, stored):
        kept, dropped = stored(1), stored(2)
        folders = [await artifacts.materialise(deployable) for deployable in (kept, dropped)]
        await artifacts.keep_only({kept.manifest.digest, DIGEST})
        assert [(folder / "config.json").is_file() for folder in folders] == [True, False]
        assert await artifacts.materialise(dropped) == folders[1]
        assert (folders[1] / "config.json").is_file()

    async def test_what_the_store_does_not_have_is_refused(self, artifacts, missing):
        with pytest.raises(Permanent) as caught:
            await artifacts.materialise(missing)
        assert caught.value.code == "artifact_not_found"


class StateConformance:
    """Needs the fixture `state` (a State without a record)."""

    async def test_there_is_an_empty_record_before_the_first_edit(self, state):
        assert await state.read() == Servers()

    async def test_an_edit_is_read_back(self, state):
        after = await state.write(lambda record: record.model_copy(update={"memory_budget_bytes": 1}))
        assert after.memory_budget_bytes == 1
        assert await state.read() == after

    async def test_edits_side_by_side_are_all_kept(self, state):
        def alert(version):
            target = Target(model="bot", version=version, variant="bf16")
            opened = OpenAlert(target=target, raised_at=START, message="x")
            return lambda record: record.model_copy(update={"alerts": (*record.alerts, opened)})

        await asyncio.gather(*(state.write(alert(version)) for version in range(8)))
        assert {alert.target.version for alert in (await state.read()).alerts} == set(range(8))


class RoutesConformance:
    """Needs the fixtures `routes` (Routes without a route) and `put` (writes the bytes of a model's route)."""

    async def test_promotions_race_and_one_wins(self, routes):
        def order(version):
            return lambda route: promote(route, served(version), weight_ratio=1.0, epoch=0, cause_id=f"order {version}")

        edits = await asyncio.gather(*(routes.edit("bot", order(version)) for version in range(1, 6)))
        won = [edit for edit in edits if isinstance(edit, Changed)]
        assert len(won) == 1
        assert all(edit.code == "stale_epoch" for edit in edits if isinstance(edit, EditRefused))
        assert await routes.all() == RouteListing({"bot": won[0].route})
        winner = won[0].route.active.target.version
        assert isinstance(await routes.edit("bot", order(winner)), AlreadyApplied)

    @pytest.mark.parametrize("spoilt", SPOILT, ids=list(SPOILT))
    async def test_a_route_that_cannot_be_read_hides_no_other_and_is_named_in_the_log(
        self, routes, put, spoilt, capsys
    ):
        code, data = SPOILT[spoilt]
        await put("bot", dump(Route(model="bot", epoch=1)))
        await put("cat", data)
        for _ in range(3):
            assert await routes.all() == RouteListing({"bot": Route(model="bot", epoch=1)}, frozenset({"cat"}))
        lines = [line for line in capsys.readouterr().out.splitlines() if "cannot be read" in line]
        assert len(lines) == 1
        assert "cat" in lines[0]
        assert ADVICE[code] in lines[0]
        with pytest.raises(Transient) as caught:
            await routes.edit("cat", lambda route: Changed(route, "restore"))
        assert caught.value.code == code
        await put("cat", dump(Route(model="cat", epoch=2)))
        assert (await routes.all()).unreadable == frozenset()


class AttachmentsConformance:
    """Needs the fixtures `attachments` (Attachments without a record) and `put` (writes the bytes of a model's record)."""

    async def test_records_are_listed_by_model_and_a_record_that_cannot_be_read_hides_no_other(self, attachments, put):
        assert await attachments.all() == {}
        attachment = Attachment(model="bot", groups={"blue": ("http://a", "http://b")}, adapters="/adapters")
        await put("bot", dump(attachment))
        await put("cat", b"damaged")
        assert await attachments.all() == {"bot": attachment, "cat": None}


class RuntimesViewConformance:
    """Needs the fixtures `view` (a RuntimesView) and `stored` (returns what others read, and its revision)."""

    async def test_others_read_what_was_written_last_and_the_same_is_not_written_again(self, view, stored):
        target = RunningTarget(
            target=served(1).target, phase="ready", runtime=Runtime(engine="toy", engine_version="1")
        )
        default = FleetRuntime(name=DEFAULT_RUNTIME, endpoint="a:1", answers=True, targets=(target,))
        silent = FleetRuntime(name="next", endpoint="b:2", answers=False)
        await view.write(FleetRuntimes(runtimes=(default,)))
        both = FleetRuntimes(runtimes=(default, silent))
        await view.write(both)
        assert (await stored())[0] == both
        before = await stored()
        await view.write(both)
        assert await stored() == before

    async def test_a_state_that_goes_on_keeps_its_date(self, view, stored):
        began, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)

        async def written(since, **changes):
            endpoint = FleetRuntime(name="a", endpoint_name="a", endpoint="a:1", answers=True, since=since)
            await view.write(FleetRuntimes(runtimes=(endpoint.model_copy(update=changes),)))
            return (await stored())[0].runtimes[0].since

        assert [await written(began), await written(later), await written(later, free_bytes=7)] == [began] * 3
        assert await written(later, drained=True) == later
        assert await written(began) == began

    async def test_a_state_that_is_older_than_its_record_has_no_date(self, view, stored):
        """One of a version before has no date: the time of the upgrade is not when the state began."""
        since = datetime(2026, 1, 1, tzinfo=UTC)
        endpoint = FleetRuntime(name="a", endpoint_name="a", endpoint="a:1", answers=True)
        for changes, expected in (({}, None), ({"since": since}, None), ({"since": since, "drained": True}, since)):
            await view.write(FleetRuntimes(runtimes=(endpoint.model_copy(update=changes),)))
            assert (await stored())[0].runtimes[0].since == expected


class LeadershipConformance:
    """Needs the fixture `pair` (two replicas) and the method `lapse` (the first one's lease runs out)."""

    lapse: Callable[..., Any]

    async def test_one_leads_and_may_do_all_the_other_nothing(self, pair):
        first, second = pair
        assert await first.hold()
        assert not await second.hold()
        assert (first.valid(), second.valid()) == (True, False)
        assert (await first.confirm(), await second.confirm()) == (Extent.ALL, Extent.NOTHING)

    async def test_the_next_holder_supersedes_the_one_before(self, pair):
        first, second = pair
        assert await first.hold()
        await self.lapse(pair)
        assert not first.valid()
        assert await second.hold()
        assert (first.superseded(), second.superseded()) == (True, False)
        assert (await first.confirm(), await second.confirm()) == (Extent.NOTHING, Extent.ALL)
        assert not await first.hold()

    async def test_a_lease_that_was_released_is_taken_at_once(self, pair):
        first, second = pair
        assert await first.hold()
        await first.release()
        assert not first.valid()
        assert await second.hold()
        assert await first.confirm() is Extent.NOTHING
