"""The end of a client's connection that asyncio does not report."""

import asyncio

import pytest

from shared.messaging import credentials


@pytest.fixture
async def connection(monkeypatch):
    """A connection that does not end, awaited shortly."""
    monkeypatch.setattr(credentials, "LIMIT_S", 0.01)
    server = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    bounded = credentials.BoundedTransport()
    bounded._io_writer = writer
    yield bounded
    for each in (writer, *writers):
        each.close()
    server.close()


async def test_its_end_is_awaited_again_after_the_limit_without_a_cancellation(connection):
    await connection.wait_closed()
    await connection.wait_closed()


async def test_who_awaits_its_end_can_be_cancelled(connection, monkeypatch):
    monkeypatch.setattr(credentials, "LIMIT_S", 60.0)
    waiting = asyncio.create_task(connection.wait_closed())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
