"""The attached servers of a model as an engine, on channels in memory."""

import asyncio

import pytest

from services.server_manager.adapters.attached_engine import AttachedEngine
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.serving.chat_templates import ChatTemplates
from tests.kit.conformance_serving import DIGEST, NAME
from tests.kit.fakes_serving import no_references
from tests.unit.server_manager.replicas import URLS, Replicas

PAUSE_S = 0.3


@pytest.fixture
def replicas():
    return Replicas()


@pytest.fixture
async def engine(replicas):
    templates = ChatTemplates(SystemClock())
    yield AttachedEngine("bot", replicas, templates, {"blue": URLS}, no_references(), retry_s=PAUSE_S)
    await templates.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


async def test_a_target_that_is_listed_and_not_served_is_checked_after_pauses_that_grow(engine, replicas, folder):
    loop = asyncio.get_running_loop()
    replicas.by_url[URLS[0]].failure = Transient("endpoint_unreachable", "status 503")
    for pause_s in (PAUSE_S, 2 * PAUSE_S):
        with pytest.raises(Transient, match="status 503"):
            await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        began_s = loop.time()
        await engine.index()
        assert not engine.may_have(NAME)
        while not engine.may_have(NAME):
            await asyncio.sleep(0.01)
        assert loop.time() - began_s > 0.9 * pause_s
    replicas.by_url[URLS[0]].failure = None
    await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    assert engine.may_have(NAME)


async def test_a_server_that_no_longer_lists_a_target_is_asked_at_once_when_it_does_again(engine, replicas, folder):
    replica = replicas.by_url[URLS[0]]
    replica.failure = Transient("endpoint_unreachable", "status 503")
    with pytest.raises(Transient):
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    for names in (set(), {NAME}):
        replica.known_as = names
        await engine.index()
    assert engine.may_have(NAME)


async def test_a_replica_that_fails_in_an_unknown_way_is_out_of_reach_and_the_other_answers(engine, replicas, folder):
    await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    replicas.by_url[URLS[0]].failure = ValueError("no port")
    assert await engine.probe(NAME, 5.0) == "keel"
    assert engine.addresses(NAME) == URLS
    with pytest.raises(Transient, match="http://a: ValueError: no port") as caught:
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    assert caught.value.code == "endpoint_unreachable"


async def test_a_replica_with_other_weights_fails_the_load_and_one_that_comes_back_with_them_is_left_out(
    engine, replicas, folder
):
    replicas.by_url[URLS[1]].nll = 2.5
    with pytest.raises(Transient) as caught:
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    assert (caught.value.code, "nats a token" in caught.value.reason) == ("logprobs_differ", True)
    replicas.by_url[URLS[1]].nll = 2.0
    await back(engine, replicas)
    await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    for nll, left in ((2.5, URLS[:1]), (2.0, URLS)):
        replicas.by_url[URLS[1]].nll = nll
        await back(engine, replicas)
        assert await engine.probe(NAME, 5.0) == "keel"
        assert engine.addresses(NAME) == left


async def back(engine, replicas):
    """Let the second replica list the name again, as after a start."""
    for names in (set(), {NAME}):
        replicas.by_url[URLS[1]].known_as = names
        await engine.index()
