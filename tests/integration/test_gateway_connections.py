"""The limits that the gateway adds to its HTTP server, on real connections: headers, their number, and who never reads."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from services.gateway.process import make_server
from services.gateway.settings import GatewaySettings
from testbed.ports import free_port

WHOLE = b"x" * 150_000
waiting = asyncio.Event()
LIMITS = GatewaySettings(
    header_s=0.3, max_header_bytes=4096, max_connections=5, max_lag_bytes=100_000, write_s=0.5, keep_alive_s=1
)


async def app(scope, receive, send):
    """Answer with more than a small window takes, and less than the buffers of the server hold."""
    size = len(WHOLE) if scope["path"] == "/large" else 2
    while scope["path"] == "/body" and (await receive()).get("more_body"):
        pass
    if scope["path"] == "/wait":
        await waiting.wait()
    headers = [(b"content-length", str(size).encode())] + [
        header for header in scope["headers"] if header[0].startswith(b"x-")
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WHOLE[:size]})


@pytest.fixture
async def server():
    dropped = []
    server: Any = make_server(app, "127.0.0.1", free_port(), LIMITS, on_unread=lambda: dropped.append(None))
    server.dropped = dropped
    server.capture_signals = contextlib.nullcontext
    task = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await task


@pytest.fixture
async def dial(server):
    """Opens connections, and closes them in the end."""
    opened = []

    async def connect(window=None):
        caller = socket.socket()
        opened.append(caller)
        if window is not None:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        caller.setblocking(False)
        await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", server.config.port))
        return caller

    yield connect
    for caller in opened:
        caller.close()


async def send(caller, data):
    await asyncio.get_running_loop().sock_sendall(caller, data)


async def is_ended(caller):
    """Read until the server ends the connection, and return what it said."""
    received = b""
    try:
        async with asyncio.timeout(10):
            while data := await asyncio.get_running_loop().sock_recv(caller, 65536):
                received += data
    except ConnectionResetError:
        pass
    return received


async def get(dial, path="/"):
    caller = await dial()
    await send(caller, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return await is_ended(caller)


async def test_headers_have_their_time_and_size(dial):
    slow, endless, idle = await dial(), await dial(), await dial()
    await send(slow, b"GET / HTTP/1.1\r\nHost: x\r\nx-a: ")
    await send(endless, b"GET / HTTP/1.1\r\nHost: x\r\nx-a: " + b"y" * 50_000)
    assert (await get(dial)).startswith(b"HTTP/1.1 200 ")
    assert [await is_ended(caller) for caller in (slow, endless, idle)] == [b"", b"", b""]


async def connected(server, count):
    async with asyncio.timeout(5):
        while len(server.server_state.connections) != count:
            await asyncio.sleep(0.01)


async def test_a_newcomer_takes_the_place_of_the_connection_that_has_waited_for_longest(server, dial):
    first = await dial()
    await send(first, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
    await connected(server, 1)
    others = [await dial() for _ in range(4)]
    await connected(server, 5)
    assert (await get(dial)).startswith(b"HTTP/1.1 200 ")
    assert await is_ended(first) == b""
    await send(others[-1], b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await is_ended(others[-1])).startswith(b"HTTP/1.1 200 ")


async def test_a_burst_of_idle_connections_keeps_no_answer_from_being_given(server, dial):
    answers = []
    for _ in range(3):
        for _ in range(20):
            await dial()
        answers.append(await get(dial))
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert len(server.server_state.connections) <= 5


async def test_requests_that_are_being_answered_keep_their_places(server, dial):
    held = [await dial() for _ in range(5)]
    for caller in held:
        await send(caller, b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        while len(server.server_state.tasks) < 5:
            await asyncio.sleep(0.01)
    assert await is_ended(await dial()) == b""
    waiting.set()
    assert all([(await is_ended(caller)).startswith(b"HTTP/1.1 200 ") for caller in held])


CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 100_000, b"a: " + b"b" * 600_000, b"x" * 600_000])
async def test_trailers_have_a_size(server, dial, trailers):
    caller = await dial()
    await send(caller, CHUNKED % b"/body" + b"1\r\nx\r\n0\r\n")
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(trailers), 1000):
            await send(caller, trailers[start : start + 1000])
            await asyncio.sleep(0)
    assert b"200" not in await is_ended(caller)
    await connected(server, 0)


async def test_trailers_are_no_headers_and_small_chunks_no_trailers(dial):
    caller = await dial()
    await send(caller, CHUNKED % b"/body")
    for _ in range(20):
        await send(caller, b"1;extension=y\r\nx\r\n" * 100)
        await asyncio.sleep(0)
    await send(caller, b"0\r\nx-trailer: y\r\n\r\n")
    received = await asyncio.get_running_loop().sock_recv(caller, 4096)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"x-trailer" not in received
    await send(caller, b"GET /?again HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await is_ended(caller)).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_is_answered_before_it_is_whole_ends_its_connection(server, dial):
    caller = await dial()
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    assert (await asyncio.get_running_loop().sock_recv(caller, 4096)).startswith(b"HTTP/1.1 200 ")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(3):
            while server.server_state.connections:
                await send(caller, b"x")
                await asyncio.sleep(0.05)


async def test_a_caller_that_never_reads_a_whole_answer_keeps_no_connection(server, dial):
    """The answer is in the server's buffers, and the request has ended: nothing waits for the caller but the kernel."""
    caller = await dial(window=4096)
    await send(caller, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        while not server.server_state.total_requests:
            await asyncio.sleep(0.01)
    assert len(server.server_state.connections) == 1
    async with asyncio.timeout(20):
        while server.server_state.connections:
            await asyncio.sleep(0.05)
    assert len(server.dropped) == 1, "it is counted"


async def test_an_ordinary_caller_gets_its_answer_and_may_ask_again(server, dial):
    assert (await get(dial, "/large")).endswith(WHOLE)
    caller = await dial()
    for _ in range(3):
        await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.get_running_loop().sock_recv(caller, 4096)).startswith(b"HTTP/1.1 200 ")
    caller.close()
    await connected(server, 0)
    assert server.dropped == []


async def dial_without_limit(server, dial):
    """Connect, and let the connection wait for its first headers for longer than a busy machine may stand still."""
    caller = await dial()
    async with asyncio.timeout(10):
        while not server.server_state.connections:
            await asyncio.sleep(0)
    for connection in server.server_state.connections:
        connection._cancel_deadline()
    return caller


async def stop(server):
    """Let a server stop, and return once it takes no more connections."""
    server.should_exit = True
    async with asyncio.timeout(10):
        while any(each.is_serving() for each in server.servers):
            await asyncio.sleep(0)


async def test_a_caller_that_has_just_connected_to_a_server_that_stops_gets_its_answer(server, dial):
    """It was disconnected without one: a request failed in an upgrade, one gateway after the other."""
    caller = await dial_without_limit(server, dial)
    await stop(server)
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await is_ended(caller)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


async def test_a_connection_without_a_request_stays_open_for_as_long_as_the_settings_say(dial):
    caller = await dial()
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(4):  # uvicorn's own limit is 5 s, which proxies mostly exceed
        assert (await is_ended(caller)).startswith(b"HTTP/1.1 200 ")


async def test_a_server_that_stops_waits_for_no_second_request(server, dial):
    caller = await dial()
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.get_running_loop().sock_recv(caller, 4096)).startswith(b"HTTP/1.1 200 ")
    await stop(server)
    assert await is_ended(caller) == b""


async def test_a_server_that_stops_waits_for_a_first_request_for_a_moment_only(server, dial):
    caller = await dial_without_limit(server, dial)
    await stop(server)
    assert await is_ended(caller) == b""
