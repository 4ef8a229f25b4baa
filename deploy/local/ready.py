"""Probe the readiness and the liveness of the parts of the embedded stack."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from contracts.storage.access import BUCKET
from deploy.local.plan import Keys, Part, Probe
from deploy.local.ports import LOOPBACK
from deploy.local.state import PartState

ANSWER_S = 3.0

Ask = Callable[[int, Keys], Awaitable[str | None]]


class WaitsForDependency(str):
    """The reason why a part is not ready, if another part is the cause."""

    __slots__ = ()


async def probe_part(part: Part | PartState, keys: Keys) -> str | None:
    """Return why a part is not ready, or None; probe once, within seconds."""
    return await probe(part.probe, part.admin_port or part.port, keys)


async def probe(kind: Probe, port: int, keys: Keys) -> str | None:
    """Return why the part on a port is not ready, or None."""
    try:
        async with asyncio.timeout(2 * ANSWER_S):
            return await _PROBES[kind](port, keys)
    except TimeoutError:
        return f"no answer within {2 * ANSWER_S:g} s"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here means: not ready
        return f"{type(error).__name__}: {error}".strip(" :")


async def _probe_nats(port: int, keys: Keys) -> str | None:
    from shared.messaging.credentials import connect

    async def ignore(_error: Exception) -> None:
        """Drop the error: the failed attempt itself is the answer."""

    # Without `allow_reconnect` nats-py still tries again and again, 2 s apart, until `max_reconnect_attempts`.
    once: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.05}
    client = await connect(keys.bus(port), connect_timeout=2, error_cb=ignore, **once)
    try:
        await client.jetstream(timeout=ANSWER_S).account_info()
    finally:
        await client.close()
    return None


async def _probe_s3(port: int, keys: Keys) -> str | None:
    """Return None if the store answers; create the bucket if missing."""
    import urllib3
    from minio import Minio

    from shared.storage.credentials import FileProvider, trusted

    store = keys.store(port)
    pool = urllib3.PoolManager(ssl_context=trusted(store.s3_ca), timeout=urllib3.Timeout(ANSWER_S), retries=False)
    client = Minio(
        store.s3_endpoint, region=store.s3_region, credentials=FileProvider(store.s3_credentials), http_client=pool
    )
    try:
        if not await asyncio.to_thread(client.bucket_exists, BUCKET):
            await asyncio.to_thread(client.make_bucket, BUCKET, object_lock=True)
    finally:
        pool.clear()
    return None


async def _probe_triton(port: int, _keys: Keys) -> str | None:
    return None if await _triton_is_live(port) else "not live yet"


async def _triton_is_live(port: int) -> bool:
    from tritonclient.grpc.aio import InferenceServerClient

    direct = [("grpc.enable_http_proxy", 0)]
    async with InferenceServerClient(f"{LOOPBACK}:{port}", channel_args=direct) as client:
        return bool(await client.is_server_live(client_timeout=ANSWER_S))


async def _probe_service(port: int, _keys: Keys) -> str | None:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)  # a library's client costs ten times as much
    try:
        writer.write(_asking("/readyz"))
        head, _, body = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")
    finally:
        writer.close()
    _, status, *_ = [*head.split(), "", "nothing"]
    if status == "200":
        return None
    why = f"/readyz answers {status}: {body[:200]}"
    return WaitsForDependency(why) if _names_others(body) else why


def _names_others(text: str) -> bool:
    """Return whether a service's answer names a dependency: its checks are about other parts."""
    try:
        body = json.loads(text)
    except ValueError:
        return False
    return isinstance(body, dict) and bool(body.get("checks"))


async def probe_liveness(kind: Probe, port: int, limit_s: float) -> bool:
    """Return whether a part answers within a limit, ready or not."""
    try:
        async with asyncio.timeout(limit_s):
            return await _LIFE[kind](port)
    except Exception:  # noqa: BLE001 - whatever goes wrong here means: no answer
        return False


async def _sends_a_byte(port: int, request: bytes, tls: ssl.SSLContext | None = None) -> bool:
    """Return whether a byte arrives on a new connection, after a request."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=tls)
    try:
        writer.write(request)
        return bool(await reader.read(1))
    finally:
        writer.close()


async def _answers_http(port: int, path: str = "/healthz") -> bool:
    return await _sends_a_byte(port, _asking(path))


def _asking(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode()


async def _answers_https(port: int) -> bool:
    """Return whether a server answers by TLS, without a check of its certificate: nothing secret is sent."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return await _sends_a_byte(port, _asking("/healthz"), tls)


async def _answers_grpc(port: int) -> bool:
    _, writer = await asyncio.open_connection(LOOPBACK, port)  # gRPC does not report that nothing listens
    writer.close()
    return await _triton_is_live(port)


_LIFE: dict[Probe, Callable[[int], Awaitable[bool]]] = {
    "nats": partial(_answers_http, path="/"),  # its /healthz looks at every stream, and logs those that are being made
    "s3": _answers_https,
    "triton": _answers_grpc,
    "service": _answers_http,
}
"""Any status is an answer. A NATS server is probed on its monitoring port: elsewhere it logs an error."""
_PROBES: dict[Probe, Ask] = {"nats": _probe_nats, "s3": _probe_s3, "triton": _probe_triton, "service": _probe_service}
