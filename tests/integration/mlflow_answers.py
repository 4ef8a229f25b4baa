"""Answers of an MLflow server."""

import asyncio
import contextlib


@contextlib.asynccontextmanager
async def answering(answer, requests=None):
    """Run a server that reads a request, notes it, and calls `answer` with the writer."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(head.decode())
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def reply(status, body, kind="application/json", more=""):
    async def answer(writer):
        data = body if isinstance(body, bytes) else body.encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n{more}connection: close\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()

    return answer
