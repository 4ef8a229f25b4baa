"""The limits that the gateway adds to its HTTP server, on real connections: headers, their number, and who never reads."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn

from services.gateway.adapters.http_protocol import limited_protocol
from services.gateway.settings import GatewaySettings
from tests.kit.servers import free_port

WHOLE = b"x" * 150_000
LIMITS = GatewaySettings(header_s=0.3, max_header_bytes=4096, max_connections=5, max_lag_bytes=100_000, write_s=0.5)


async def app(scope, _receive, send):
    """Answer with more than a small window takes, and less than the buffers of the server hold."""
    size = len(WHOLE) if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
    await send({"type": "http.response.body", "body": WHOLE[:size]})


@pytest.fixture
async def server():
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off", http=limited_protocol(LIMITS))
    server = uvicorn.Server(config)
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


async def say(caller, data):
    await asyncio.get_running_loop().sock_sendall(caller, data)


async def is_ended(caller):
    """Read until the server ends the connection, and return what it said."""
    said = b""
    try:
        async with asyncio.timeout(10):
            while data := await asyncio.get_running_loop().sock_recv(caller, 65536):
                said += data
    except ConnectionResetError:
        pass
    return said


async def get(dial, path="/"):
    caller = await dial()
    await say(caller, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return await is_ended(caller)


async def test_headers_have_their_time_and_size(dial):
    slow, endless, idle = await dial(), await dial(), await dial()
    await say(slow, b"GET / HTTP/1.1\r\nHost: x\r\nx-a: ")
    await say(endless, b"GET / HTTP/1.1\r\nHost: x\r\nx-a: " + b"y" * 50_000)
    assert (await get(dial)).startswith(b"HTTP/1.1 200 ")
    assert [await is_ended(caller) for caller in (slow, endless, idle)] == [b"", b"", b""]


async def test_connections_are_limited_and_free_again(server, dial):
    held = [await dial() for _ in range(5)]
    async with asyncio.timeout(5):
        while len(server.server_state.connections) < 5:
            await asyncio.sleep(0.01)
    assert await is_ended(await dial()) == b""
    assert [await is_ended(caller) for caller in held] == [b""] * 5
    assert (await get(dial)).startswith(b"HTTP/1.1 200 ")


async def test_a_caller_that_never_reads_a_whole_answer_keeps_no_connection(server, dial):
    """The answer lies in the server's buffers, and the request has ended: nothing waits for the caller but the kernel."""
    caller = await dial(window=4096)
    await say(caller, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        while not server.server_state.total_requests:
            await asyncio.sleep(0.01)
    assert len(server.server_state.connections) == 1
    async with asyncio.timeout(20):
        while server.server_state.connections:
            await asyncio.sleep(0.05)


async def test_an_ordinary_caller_gets_its_answer_and_may_ask_again(dial):
    assert (await get(dial, "/large")).endswith(WHOLE)
    caller = await dial()
    for _ in range(3):
        await say(caller, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.get_running_loop().sock_recv(caller, 4096)).startswith(b"HTTP/1.1 200 ")
