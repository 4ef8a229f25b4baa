"""Asks a part whether it really works, and whether it lives: None when it does, else a reason why not."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from deploy.local.plan import BUCKET, Keys, Part, Probe
from deploy.local.ports import LOOPBACK

ANSWER_S = 3.0

Ask = Callable[[int, Keys], Awaitable[str | None]]


class WaitsForOthers(str):
    """Why a part is not ready, where it lives and another part is the cause."""

    __slots__ = ()


async def why_not_ready(part: Part, keys: Keys) -> str | None:
    """Probe a part once, within a few seconds."""
    return await probe(part.probe, part.port, keys)


async def probe(kind: Probe, port: int, keys: Keys) -> str | None:
    """Probe whatever listens on a port as the kind of part that it should be."""
    try:
        async with asyncio.timeout(2 * ANSWER_S):
            return await _PROBES[kind](port, keys)
    except TimeoutError:
        return f"no answer within {2 * ANSWER_S:g} s"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here means: not ready
        return f"{type(error).__name__}: {error}".strip(" :")


async def _ask_nats(port: int, _keys: Keys) -> str | None:
    import nats

    async def ignore(_error: Exception) -> None:
        """A failed attempt is the answer; nothing needs to be written about it."""

    client = await nats.connect(f"nats://{LOOPBACK}:{port}", connect_timeout=2, allow_reconnect=False, error_cb=ignore)
    try:
        await client.jetstream(timeout=ANSWER_S).account_info()
    finally:
        await client.close()
    return None


async def _ask_s3(port: int, keys: Keys) -> str | None:
    import urllib3
    from minio import Minio

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(ANSWER_S), retries=False)
    client = Minio(f"{LOOPBACK}:{port}", access_key=keys.access, secret_key=keys.secret, secure=False, http_client=pool)
    try:
        there = await asyncio.to_thread(client.bucket_exists, BUCKET)
    finally:
        pool.clear()
    return None if there else f"bucket {BUCKET} is not there yet"


async def _ask_triton(port: int, _keys: Keys) -> str | None:
    from tritonclient.grpc.aio import InferenceServerClient

    direct = [("grpc.enable_http_proxy", 0)]
    async with InferenceServerClient(f"{LOOPBACK}:{port}", channel_args=direct) as client:
        live = await client.is_server_live(client_timeout=ANSWER_S)
    return None if live else "not live yet"


async def _ask_service(port: int, _keys: Keys) -> str | None:
    import httpx

    # Plain HTTP on loopback: reading the authorities' certificates would hold the supervisor up at every question.
    async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False, verify=False) as client:  # noqa: S501 - see above
        answer = await client.get(f"http://{LOOPBACK}:{port}/readyz")
    if answer.status_code == 200:
        return None
    why = f"/readyz answers {answer.status_code}: {answer.text[:200]}"
    return WaitsForOthers(why) if _names_others(answer.text) else why


def _names_others(text: str) -> bool:
    """Return whether a service's answer names what it waits for: each check that it makes asks another part."""
    try:
        body = json.loads(text)
    except ValueError:
        return False
    return isinstance(body, dict) and bool(body.get("checks"))


class Refused(ConnectionError):  # noqa: N818 - it is an answer of a kind
    """Nothing listens on the port."""


async def ask_life(kind: Probe, port: int, limit_s: float) -> bool:
    """Return whether a part says anything at all within a limit; what it stands on need not work for that.

    Raises:
        Refused: nothing listens on its port.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await _LIFE[kind](port)
    except ConnectionRefusedError as error:
        raise Refused(str(error)) from error
    except Exception:  # noqa: BLE001 - whatever goes wrong here means: no answer
        return False


async def _hear(port: int, request: bytes = b"") -> bool:
    """Return whether a first byte comes on a new connection, after a request if there is one."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(request)
        return bool(await reader.read(1))
    finally:
        writer.close()


async def _hear_http(port: int) -> bool:
    return await _hear(port, f"GET /healthz HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())


async def _hear_triton(port: int) -> bool:
    _, writer = await asyncio.open_connection(LOOPBACK, port)  # gRPC would not say that nothing listens
    writer.close()
    return await _ask_triton(port, Keys("", "")) is None


_LIFE: dict[Probe, Callable[[int], Awaitable[bool]]] = {
    "nats": _hear,
    "s3": _hear_http,
    "triton": _hear_triton,
    "service": _hear_http,
}
"""A NATS server greets every client; the store and the services answer whatever the status is."""
_PROBES: dict[Probe, Ask] = {"nats": _ask_nats, "s3": _ask_s3, "triton": _ask_triton, "service": _ask_service}
