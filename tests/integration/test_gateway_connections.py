"""The options of the gateway's HTTP server, on real connections: their number, and how long they stay open."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from services.gateway.process import make_server
from services.gateway.settings import GatewaySettings
from testbed.ports import free_port

LIMITS = GatewaySettings(max_connections=3, keep_alive_s=1)
OPEN = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def server():
    server: Any = make_server(app, "127.0.0.1", free_port(), LIMITS)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await task


@pytest.fixture
async def dial(server):
    """Opens connections, and closes them in the end."""
    with contextlib.ExitStack() as opened:

        async def connect() -> socket.socket:
            caller = opened.enter_context(socket.socket())
            caller.setblocking(False)
            await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", server.config.port))
            return caller

        yield connect


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


async def ask(caller, request=OPEN):
    await send(caller, request)
    return await asyncio.get_running_loop().sock_recv(caller, 4096)


async def test_more_connections_than_the_settings_allow_are_a_503(dial):
    held = [await dial() for _ in range(2)]
    assert [(await ask(caller))[:13] for caller in held] == [b"HTTP/1.1 200 "] * 2
    assert (await ask(await dial())).startswith(b"HTTP/1.1 503 ")
    assert (await ask(held[0])).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_is_answered_before_it_is_whole_gets_its_answer_and_its_rest_is_dropped(dial):
    caller = await dial()
    assert (await ask(caller, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")).startswith(
        b"HTTP/1.1 200 "
    )
    await send(caller, b"x" * 100_000)
    assert (await ask(caller)).startswith(b"HTTP/1.1 200 ")


async def test_a_connection_without_a_request_stays_open_for_as_long_as_the_settings_say(dial):
    caller = await dial()
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(4):  # uvicorn's own limit is 5 s, which proxies mostly exceed
        assert (await is_ended(caller)).startswith(b"HTTP/1.1 200 ")


async def stop(server):
    """Let a server stop, and return once it takes no more connections."""
    server.should_exit = True
    async with asyncio.timeout(60):
        while any(each.is_serving() for each in server.servers):
            await asyncio.sleep(0)


async def test_a_server_that_stops_waits_for_no_second_request(server, dial):
    caller = await dial()
    await send(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.get_running_loop().sock_recv(caller, 4096)).startswith(b"HTTP/1.1 200 ")
    await stop(server)
    assert await is_ended(caller) == b""
