"""TLS at the gateway: handshakes that are never complete, and an authority of one's own at the break-glass command."""

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from deploy.identity import certificates
from services.gateway.adapters.transport import tls_context
from services.gateway.process import make_server
from services.gateway.settings import GatewaySettings
from shared.runtime.clock import SystemClock
from testbed.ports import free_port

MOST = 5
LIMIT_S = 1.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def app(scope, receive, send):
    """Answer with the scheme, after the whole body; or with more than a small window takes."""
    while (await receive()).get("more_body"):
        pass
    body = scope["scheme"].encode() if scope["path"] == "/" else b"x" * 150_000
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server(tmp_path):
    now = SystemClock().now()
    authority = certificates.make_authority(now, None)
    made = certificates.make_server_certificate(authority, ["127.0.0.1"], now)
    for name, content in (("ca", authority.certificate), ("chain", made.certificate), ("key", made.key)):
        (tmp_path / name).write_bytes(content)
    settings = GatewaySettings(
        tls_certificate=tmp_path / "chain",
        tls_key=tmp_path / "key",
        header_s=LIMIT_S,
        max_connections=MOST,
        max_lag_bytes=100_000,
        write_s=0.5,
    )
    dropped = []
    server: Any = make_server(
        app,
        "127.0.0.1",
        free_port(),
        settings,
        for_callers=True,
        tls=tls_context(settings),
        on_unread=lambda: dropped.append(None),
    )
    server.ca, server.dropped = tmp_path / "ca", dropped
    task = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server
    server.stop()
    async with asyncio.timeout(5):
        await task


@pytest.fixture
async def dial(server):
    """Opens connections without TLS, and closes them in the end."""
    with contextlib.ExitStack() as opened:

        async def connect() -> socket.socket:
            caller = opened.enter_context(socket.socket())
            caller.setblocking(False)
            await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", server.config.port))
            return caller

        yield connect


async def ask(server, content: bytes = GET) -> bytes:
    trusted = ssl.create_default_context(cafile=server.ca)
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.config.port, ssl=trusted)
        writer.write(content)
        answer = await reader.read()
        writer.close()
        return answer


async def ended(caller) -> bool:
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(3 * LIMIT_S):
            return await asyncio.get_running_loop().sock_recv(caller, 100) == b""
    return True


async def all_closed(server):
    async with asyncio.timeout(1):
        while server.server_state.connections:
            await asyncio.sleep(0.01)


async def test_a_caller_is_answered_by_tls(server):
    assert (await ask(server)).endswith(b"https")
    body = b"x" * 1_000_000
    head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert (await ask(server, head + body)).endswith(b"https")
    await all_closed(server)


async def test_a_caller_that_never_reads_a_whole_answer_keeps_no_connection(server):
    """The kernel's limit is that of the connection below TLS, and its error arrives through it."""

    def begin():
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(10)
        caller.connect(("127.0.0.1", server.config.port))
        secured = ssl.create_default_context(cafile=server.ca).wrap_socket(caller, server_hostname="127.0.0.1")
        secured.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        return secured

    caller = await asyncio.to_thread(begin)
    try:
        async with asyncio.timeout(20):
            while not server.server_state.total_requests or server.server_state.connections:
                await asyncio.sleep(0.05)
    finally:
        caller.close()
    assert len(server.dropped) == 1, "it is counted"


async def test_connections_without_a_handshake_keep_no_caller_from_being_answered(server, dial):
    for _ in range(3):
        for _ in range(10 * MOST):
            await dial()
        assert (await ask(server)).endswith(b"https")
        assert len(server.server_state.connections) <= MOST


async def test_a_handshake_has_the_time_of_headers(server, dial):
    silent, partial, plain = await dial(), await dial(), await dial()
    await asyncio.get_running_loop().sock_sendall(partial, b"\x16\x03\x01\x02\x00\x01")
    await asyncio.get_running_loop().sock_sendall(plain, GET)
    assert await asyncio.gather(*map(ended, (silent, partial, plain))) == [True] * 3
    await all_closed(server)


async def test_the_end_of_the_server_does_not_wait_for_handshakes(server, dial):
    silent = await dial()
    async with asyncio.timeout(5):
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
    server.stop()
    assert await ended(silent)
