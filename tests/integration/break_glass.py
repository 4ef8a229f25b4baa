"""A gateway that is rolled back without the bus."""

import contextlib
import os
import subprocess
import sys

import httpx
import pytest

from deploy.local.state import ADMIN
from testbed import forked
from testbed.servers import bus_variables, wait_until
from testbed.stack import ROOT

MODEL = "toy"


@pytest.fixture
def slipway(nats_server):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        variables = {**bus_variables(nats_server.settings(), ADMIN), "SLIPWAY_S3_ENDPOINT": "127.0.0.1:1"}
        command = [sys.executable, "-m", "clients.cli.main", *arguments]
        return forked.run(command, environment=os.environ | variables, cwd=ROOT, timeout_s=60)

    return run


def served(gateway) -> set[str]:
    """Return which versions answer a few requests, each of a connection of its own: any worker may take it."""
    versions = set()
    for _ in range(4):
        body = {"model": MODEL, "prompt": "zebra", "max_tokens": 1}
        key = {"authorization": f"Bearer {gateway.key}"}
        answer = httpx.post(f"{gateway.base_url}/v1/completions", json=body, headers=key, timeout=30)
        versions.add(answer.json().get("system_fingerprint", "none.none"))
    return {fingerprint.split(".")[1] for fingerprint in versions}


def until_served(gateway, version: int) -> None:
    wait_until(lambda: served(gateway) == {f"v{version}"}, what=f"version {version} being served")


def order(slipway, gateways, *more: str) -> subprocess.CompletedProcess:
    named = [part for gateway in gateways for part in ("--gateway", gateway.base_url)]
    return slipway("rollback", MODEL, "--without-bus", *named, "--reason", "rude answers", *more)


@contextlib.asynccontextmanager
async def connected(nats_server):
    """Connect anew: while a test waits for other programs, it serves no connection."""
    client = await nats_server.connect()
    try:
        yield client.jetstream(timeout=30)
    finally:
        await client.close()
