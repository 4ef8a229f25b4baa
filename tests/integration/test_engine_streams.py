"""Many requests on one gRPC stream to a real Triton: what ends one of them does not touch the others."""

import asyncio
import contextlib
import json

import psutil
import pytest

from shared.errors import Transient
from shared.serving.engine_streams import WAITING_PIECES, close_streams, find_stream
from shared.serving.inference import Deadlines
from testbed.gateway import load_toy, order
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.openai_api import CHAT, FOREVER, TALK, Api, texts

pytestmark = pytest.mark.real
SHORT = Deadlines(first_token_s=3, inter_token_s=1)


def load(triton, version=1, **toy):
    return load_toy(triton, "toy", version, **{"token_delay_ms": "10", "crash_text": "CRASHTEXT", **toy})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Triton that tests may kill; the module's own stays."""
    with running(TritonServer(tmp_path_factory.mktemp("killed"))) as triton:
        yield triton


@pytest.fixture
async def api(triton):
    api = Api(triton.endpoint, load(triton).target.triton_name, SHORT)
    yield api
    await api.close()


def beside(api, name, limits=SHORT):
    """Return a caller of another target on the same channel."""
    other = Api(api._endpoint, name, limits)
    other._channels = api._channels
    return other


def talk(text, **fields):
    return {**TALK, "stream": True, "messages": [{"role": "user", "content": text}], **fields}


async def read(stream):
    """Return the text of a stream."""
    async with contextlib.aclosing(stream) as pieces:
        return texts([piece.record async for piece in pieces]).get("0.0")


def stream_of(api):
    return find_stream(api._channels.get(api._endpoint), api.name)


async def test_a_hundred_requests_at_the_same_time_get_their_own_answers(api):
    alone = [await read(api.open(CHAT, talk(f"number {number % 10}", model="toy"))) for number in range(10)]
    assert len(set(alone)) == 10
    stream = stream_of(api)
    together = await asyncio.gather(
        *(read(api.open(CHAT, talk(f"number {number % 10}", model="toy"))) for number in range(100))
    )
    assert together == alone * 10
    assert stream_of(api) is stream
    assert not stream._waiting, "what has ended is forgotten"


async def test_one_of_two_requests_is_aborted(api):
    first, second = (api.open(CHAT, talk("hello", model="toy", max_tokens=tokens)) for tokens in (1500, 60))
    await anext(first)
    await anext(second)
    stream = stream_of(api)
    await first.aclose()
    assert len(stream._waiting) == 1
    rest = await read(second)
    assert len(rest.split()) == 59
    assert stream_of(api) is stream


async def test_an_unread_answer_holds_back_no_other(api, triton):
    fast = beside(api, load(triton, 2, token_delay_ms="0").target.triton_name)
    unread = fast.open(CHAT, talk("hello", model="toy", max_tokens=1900))
    await anext(unread)
    async with asyncio.timeout(60):
        assert len((await read(api.open(CHAT, talk("hello", model="toy")))).split()) == 6
    assert len((await read(unread)).split()) == 1899


async def test_a_request_that_is_refused_fails_alone(api):
    going = api.open(CHAT, talk("hello", model="toy", max_tokens=60))
    await anext(going)
    with pytest.raises(Transient) as failed:
        await read(beside(api, "none.v1.bf16").open(CHAT, talk("hello")))
    assert failed.value.code == "endpoint_unreachable"
    assert len((await read(going)).split()) == 59


async def test_a_dead_process_fails_its_own_requests_only(api, triton):
    doomed = beside(api, load(triton, 3).target.triton_name)
    going = api.open(CHAT, talk("hello", model="toy", max_tokens=400))
    await anext(going)
    mourned = doomed.open(CHAT, talk("hello", model="toy", max_tokens=1500))
    await anext(mourned)
    stream = stream_of(doomed)
    triton.kill_stub(doomed.name)
    with pytest.raises(Transient) as failed:
        await read(mourned)
    assert failed.value.code in {"engine_dead", "no_first_token"}
    assert stream_of(doomed) is not stream, "Triton keeps what the dead process owes"
    assert len((await read(going)).split()) == 399
    assert len((await read(api.open(CHAT, talk("hello", model="toy")))).split()) == 6


async def test_a_killed_triton_fails_every_request_and_is_found_again(server):
    api = Api(server.endpoint, load(server).target.triton_name, Deadlines(20, 20))
    going = [api.open(CHAT, talk("hello", model="toy", max_tokens=1500)) for _ in range(3)]
    for stream in going:
        await anext(stream)
    server.kill()
    for stream in going:
        with pytest.raises(Transient) as failed:
            await read(stream)
        assert failed.value.code == "endpoint_unreachable"
    with pytest.raises(Transient):
        await read(api.open(CHAT, talk("hello", model="toy")))
    server.start()
    load(server)
    await api._channels.get(api._endpoint).channel_ready()
    assert len((await read(api.open(CHAT, talk("hello", model="toy")))).split()) == 6
    await api.close()


async def test_a_triton_that_is_ended_does_not_wait_for_an_idle_stream(server):
    server.revive()
    api = Api(server.endpoint, load(server, 4).target.triton_name)
    await api.chat(model="toy")
    server.process.terminate()
    await asyncio.to_thread(server.process.wait, 10)  # the time is what is tested: it waits 30 s for what runs
    server.start()
    await api.close()


def command_of(process):
    """Return the command line of a process; empty once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


async def test_a_model_is_unloaded_although_it_was_asked_on_a_stream(api, triton):
    other = beside(api, load(triton, 6).target.triton_name)
    for _ in range(3):
        await other.chat(model="toy")
    going = api.open(CHAT, talk("hello", model="toy", max_tokens=900))
    await anext(going)
    await asyncio.to_thread(order, triton, other.name, "unload")
    async with asyncio.timeout(5):
        while any(other.name in command_of(process) for process in triton.processes()):
            await asyncio.sleep(0.1)
    await going.aclose()


async def test_an_old_stream_ends_after_its_requests_and_another_takes_the_new_ones(api):
    going = api.open(CHAT, talk("hello", model="toy", max_tokens=100))
    await anext(going)
    old = stream_of(api)
    old._began_s -= 60
    assert len((await read(api.open(CHAT, talk("hello", model="toy")))).split()) == 6
    assert stream_of(api) is not old
    assert len((await read(going)).split()) == 99
    async with asyncio.timeout(5):
        await asyncio.wait(old._tasks)
    assert not old._call.cancelled()


async def test_an_idle_stream_ends_by_itself(api):
    await api.chat(model="toy")
    stream = stream_of(api)
    async with asyncio.timeout(5):
        await asyncio.wait(stream._tasks)
    assert not stream._call.cancelled()
    await api.chat(model="toy")
    assert stream_of(api) is not stream


async def test_a_closed_channel_fails_what_waits_and_ends_its_stream(api):
    going = api.open(CHAT, {**FOREVER, "model": "toy", "stream": True})
    await anext(going)
    stream = stream_of(api)
    await close_streams(api._channels.get(api._endpoint))
    with pytest.raises(Transient):
        await read(going)
    assert all(task.done() for task in stream._tasks)


async def test_an_answer_that_nobody_reads_is_aborted_at_a_limit(api, triton):
    fast = beside(api, load(triton, 5, token_delay_ms="0", context_tokens="20000").target.triton_name)
    unread = fast.open(CHAT, talk("hello", model="toy", max_tokens=WAITING_PIECES + 500))
    await anext(unread)
    stream = stream_of(fast)
    async with asyncio.timeout(20):
        while stream._waiting:
            await asyncio.sleep(0.02)
    with pytest.raises(Transient, match="wait to be read"):
        await read(unread)


async def test_the_id_of_a_request_is_not_the_callers(api):
    bodies = await asyncio.gather(*(api.ask(CHAT, {**TALK, "model": "toy"}) for _ in range(3)))
    assert {json.loads(body)["id"] for _, _, body, _ in bodies} == {"chatcmpl-t1"}
