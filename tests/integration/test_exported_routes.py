"""`slipway routes --export`: a real Envoy and LiteLLM's proxy send shares as the route has them, and follow a rollback."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from benchmarks.peers import Envoy, LiteLlm, Peer
from contracts.routes import CanaryShare, Route
from shared.storage.kv import Bucket
from testbed import factories
from testbed.openai_server import OpenAiServer
from testbed.servers import accepts, running, wait_until
from testbed.services import environment
from tests.kit.command import run_command

pytestmark = [pytest.mark.full, pytest.mark.timeout(240)]
MODEL = factories.MODEL


def serving(version: int, server: OpenAiServer):
    return factories.served(version, "bf16").model_copy(update={"endpoints": (server.url,)})


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Version 1 and 2, each under its own name and the model's; answers tell which."""
    folder = tmp_path_factory.mktemp("servers")
    names = [f"{MODEL}.v{version}.bf16" for version in (1, 2)]
    one, two = (OpenAiServer(folder, f"v{name[-6]}", **{name: {}, MODEL: {"answers_as": name}}) for name in names)
    with running(one), running(two):
        yield one, two


def canary(servers, epoch: int = 1) -> Route:
    one, two = (serving(version, server) for version, server in enumerate(servers, 1))
    return Route(model=MODEL, epoch=epoch, active=one, canary=CanaryShare(served=two, weight_ratio=0.25))


def post(port: int) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, trust_env=False, timeout=30)


def ask(port: int, count: int) -> Counter:
    """Return how many answers came from each version; each request has to be answered."""
    answers = [post(port) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.json()["model"] for answer in answers)


async def export(settings, router: str, folder) -> None:
    arguments = ("routes", MODEL, "--export", router, "--to", str(folder))
    status, _, complaint = await asyncio.to_thread(run_command, environment(settings), *arguments)
    assert status == 0, complaint


class Exported(Peer):
    """A router with the exported route; it is ready when it answers."""

    def __init__(self, folder, exported):
        self.exported = exported
        super().__init__(folder, engine_port=0)

    def ready(self):
        return accepts(self.port) and post(self.port).status_code == 200


class FollowingEnvoy(Exported, Envoy):
    """Envoy that reads clusters and weights from the exported files, and again when they are replaced."""

    def _config(self):
        def source(name):
            return {"path_config_source": {"path": str(self.exported / name)}, "resource_api_version": "V3"}

        config = super()._config()
        listener = config["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        del manager["route_config"]
        manager["rds"] = {"route_config_name": MODEL, "config_source": source("routes.json")}
        resources = {"cds_config": source("clusters.json")}
        return {
            "node": {"id": "one", "cluster": "one"},
            "static_resources": {"listeners": [listener]},
            "dynamic_resources": resources,
        }


class ExportedLiteLlm(Exported, LiteLlm):
    """LiteLLM's proxy with the exported list of models."""

    def command(self):
        command = super().command()
        command[command.index("--config") + 1] = str(self.exported / "model_list.json")
        return command


async def test_envoy_sends_shares_as_the_route_has_them_and_follows_a_rollback(js, settings, servers, tmp_path):
    bucket = Bucket(js, "routes", Route)
    revision = await bucket.create(MODEL, canary(servers))
    await export(settings, "envoy", tmp_path)
    folder = tmp_path / "envoy"
    folder.mkdir()
    with running(FollowingEnvoy(folder, tmp_path)) as envoy:
        seen = ask(envoy.port, 200)
        assert 25 <= seen[f"{MODEL}.v2.bf16"] <= 80, seen  # 50 expected; beyond by chance once in 10,000
        await bucket.update(MODEL, canary(servers, 2).model_copy(update={"canary": None}), revision)
        await export(settings, "envoy", tmp_path)
        wait_until(lambda: set(ask(envoy.port, 40)) == {f"{MODEL}.v1.bf16"}, what="all traffic being version 1's")


async def test_litellm_asks_each_version_by_its_own_name(js, settings, servers, tmp_path):
    await Bucket(js, "routes", Route).create(MODEL, canary(servers))
    await export(settings, "litellm", tmp_path)
    listed = json.loads((tmp_path / "model_list.json").read_text())["model_list"]
    assert [each["litellm_params"]["weight"] for each in listed] == [0.75, 0.25]
    folder = tmp_path / "litellm"
    folder.mkdir()
    with running(ExportedLiteLlm(folder, tmp_path)) as proxy:
        assert len(ask(proxy.port, 60)) == 2
