"""Memory that was measured: it corrects where the same files are placed next, and refusals name both."""

from dataclasses import replace

import pytest

from contracts.facts import DeploymentChanged, VariantFailed, VariantStaged
from services.server_manager.adapters.triton_engine import MEASURED, read_measured
from services.server_manager.domain import staging
from services.server_manager.domain.drains import Waits, plan_transfer
from services.server_manager.domain.placement import Fleet, plan_homes
from services.server_manager.domain.reconcile import Desired, Phase, Rank
from services.server_manager.domain.records import MeasuredFiles, Servers
from services.server_manager.measured_memory import KEPT, MeasuredMemory
from services.server_manager.ports import Indexed
from tests.unit.server_manager.factories import (
    LIMITS,
    deployable,
    held,
    stage_released,
    stage_requested,
    traffic_requested,
)
from tests.unit.server_manager.world import V1, V2, World

TWO = replace(LIMITS, endpoints={"default": "default", "two": "default"}, budgets={"default": 450, "two": 550})


def digest(version):
    return deployable(version).manifest.digest


def leave_default(limits, **beside):
    """Return where the first version goes from a drained endpoint."""
    known = {"drained": frozenset({"default"}), "answering": set(limits.endpoints)}
    return plan_transfer({V1: deployable(1)}, Fleet(limits, {V1: held(1), **beside}, **known))


def take(world, name, taken, endpoint="default"):
    """Let a loaded target take so much memory."""
    models = world.engines[endpoint].models
    models[name] = replace(models[name], measured_bytes=taken)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_what_was_measured_of_the_same_files_counts_if_it_is_more_than_what_is_reserved():
    limits = replace(LIMITS, measured={digest(1): 350, digest(2): 20})
    assert [limits.memory_bytes(deployable(version)) for version in (1, 2, 3)] == [350, 200, 200]
    assert [limits.reserved_bytes(deployable(version)) for version in (1, 2, 3)] == [200, 200, 200]


def test_a_version_goes_to_the_endpoint_that_has_what_it_took_before():
    desired = {V1: Desired(deployable(1), Rank.STAGING)}
    assert plan_homes(desired, Fleet(TWO)) == {V1: "default"}
    larger = replace(TWO, measured={digest(1): 500})
    assert plan_homes(desired, Fleet(larger)) == {V1: "two"}
    beside = {V2: Desired(deployable(2), Rank.PRODUCTION), **desired}
    took = replace(TWO, measured={digest(2): 400})
    assert plan_homes(beside, Fleet(took, {V2: held(2, endpoint="default")}))[V1] == "two"


def test_a_drain_counts_what_was_measured_and_names_both():
    waits = leave_default(replace(TWO, measured={digest(1): 600}))
    assert isinstance(waits, Waits)
    assert (
        "two has 550 bytes free; it needs 600 bytes of memory (200 bytes reserved, 600 bytes measured)." in waits.reason
    )


@pytest.mark.parametrize(
    ("phase", "taken", "goes_to"), [("ready", 700, "three"), ("failed", 700, "two"), ("ready", 200, "two")]
)
def test_what_leaves_a_drained_endpoint_goes_where_what_is_loaded_leaves_memory_for_it(phase, taken, goes_to):
    names = ("default", "two", "three")
    limits = replace(TWO, endpoints=dict.fromkeys(names, "default"), budgets=dict.fromkeys(names, 800))
    beside = {V2: held(2, Phase(phase), endpoint="two", memory_bytes=taken)}
    beside["bot.v3.bf16"] = held(3, endpoint="three", memory_bytes=300)
    assert leave_default(limits, **beside).endpoint == goes_to


def test_what_does_not_fit_is_larger_than_what_is_free_also_as_it_is_written():
    needs, free = 64 * 2**20 + 1000, 64 * 2**20 + 999
    limits = replace(TWO, budgets={"default": free, "two": free}, measured={digest(1): needs})
    waits = leave_default(limits)
    assert "needs 65 MiB of memory (200 bytes reserved, 65 MiB measured)" in waits.reason
    assert "two has 64 MiB free" in waits.reason


async def test_a_version_that_took_more_than_is_reserved_is_refused_beside_others_and_the_refusal_names_both(world):
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    take(world, V1, 750)
    await world.ticks()
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks()
    (failed,) = world.said.facts(VariantFailed)
    assert failed.code == "insufficient_memory"
    assert "Staging needs 1150 bytes beside production, the serving fleet has 1000." in failed.reason
    assert "bot.v1.bf16 reserves 200 bytes and was measured with 750: the larger one counts." in failed.reason


async def test_what_was_measured_is_known_after_a_restart_of_both(world):
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    take(world, V1, 750)
    await world.ticks()
    assert world.state.record.measured == (MeasuredFiles(digest=digest(1), peak_bytes=750),)
    world.engine.restart()
    world.start()
    await world.ticks(6)
    assert V1 in world.engine.models, "production is loaded again, whatever it took"
    assert world.engine.models[V1].memory_bytes == 200
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks()
    assert [failed.code for failed in world.said.facts(VariantFailed)] == ["insufficient_memory"]


async def test_production_that_takes_more_than_there_is_is_loaded_again_and_its_rollout_goes_on(world):
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks()
    assert world.said.facts(VariantStaged)
    take(world, V1, 5000)
    await world.state.write(lambda record: staging.release_staging(record, stage_released(1)))
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    assert world.said.facts(DeploymentChanged), "it was staged, and runs"
    world.engine.restart()
    await world.ticks(6)
    assert V1 in world.engine.models


def test_the_record_keeps_what_was_measured_last():
    measured = MeasuredMemory()
    for number in range(KEPT + 5):
        files = f"sha256:{number:064x}"
        measured.note({"bot.v1.bf16": Indexed(True, files, 100, measured_bytes=number)})
    measured.note({"bot.v1.bf16": Indexed(True, f"sha256:{10:064x}", 100, measured_bytes=5000)})
    kept = measured.to_record()
    assert (len(kept), kept[-1].peak_bytes) == (KEPT, 5000)
    again = MeasuredMemory()
    again.take(Servers(measured=kept))
    assert again[kept[-1].digest] == 5000


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (b'{"peak_bytes": 7}', 7),
        (b'{"peak_bytes": -1}', 0),
        (b'{"peak_bytes": 1e300}', 0),
        (b"{", 0),
        (b"", 0),
    ],
)
def test_a_file_that_is_damaged_is_no_measurement(tmp_path, content, taken):
    (tmp_path / MEASURED).write_bytes(content)
    assert read_measured(tmp_path) == taken
    assert read_measured(tmp_path / "gone") == 0
