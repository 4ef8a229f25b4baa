"""Asks a part whether it really works: a reason why not, or None when it does."""

import asyncio
from collections.abc import Awaitable, Callable

from deploy.local.plan import BUCKET, Keys, Part, Probe
from deploy.local.ports import LOOPBACK

ANSWER_S = 3.0

Ask = Callable[[int, Keys], Awaitable[str | None]]


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

    client = await nats.connect(
        f"nats://{LOOPBACK}:{port}", connect_timeout=2, allow_reconnect=False, error_cb=ignore
    )  # fmt: skip
    try:
        await client.jetstream(timeout=ANSWER_S).account_info()
    finally:
        await client.close()
    return None


async def _ask_s3(port: int, keys: Keys) -> str | None:
    import urllib3
    from minio import Minio

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(ANSWER_S), retries=False)
    client = Minio(
        f"{LOOPBACK}:{port}", access_key=keys.access, secret_key=keys.secret, secure=False, http_client=pool
    )  # fmt: skip
    try:
        there = await asyncio.to_thread(client.bucket_exists, BUCKET)
    finally:
        pool.clear()
    return None if there else f"bucket {BUCKET} is not there yet"


async def _ask_triton(port: int, _keys: Keys) -> str | None:
    from tritonclient.grpc.aio import InferenceServerClient

    async with InferenceServerClient(f"{LOOPBACK}:{port}") as client:
        live = await client.is_server_live(client_timeout=ANSWER_S)
    return None if live else "not live yet"


async def _ask_service(port: int, _keys: Keys) -> str | None:
    import httpx

    async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
        answer = await client.get(f"http://{LOOPBACK}:{port}/readyz")
    return None if answer.status_code == 200 else f"/readyz answers {answer.status_code}: {answer.text[:200]}"


_PROBES: dict[Probe, Ask] = {"nats": _ask_nats, "s3": _ask_s3, "triton": _ask_triton, "service": _ask_service}
