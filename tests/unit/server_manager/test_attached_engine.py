"""The attached servers of a model as an engine, on channels in memory."""

import pytest

from services.server_manager.adapters.attached_engine import AttachedEngine
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.serving.api_servers import ApiServer
from shared.serving.chat_templates import ChatTemplates
from shared.serving.tensors import Delta
from tests.kit.conformance_serving import DIGEST, NAME

URLS = ("http://a", "http://b")


class Replica(ApiServer):
    """A server in memory: it lists `names`, and fails what it is asked with `failure`, if there is one."""

    def __init__(self):
        self.names = {NAME}
        self.failure = None

    async def list_models(self, _limit_s):
        return dict.fromkeys(self.names)

    async def render(self, _name, _messages, _limit_s):
        return None

    async def stream_api(self, _name, _request, _limits):
        raise NotImplementedError
        yield

    async def generate(self, _name, _prompt, _sampling, _limits, _cache_salt):
        if self.failure is not None:
            raise self.failure
        yield Delta("keel")
        yield Delta("", "stop")

    async def close(self):
        """Nothing is open."""


class Replicas:
    """The channels of the replicas."""

    def __init__(self):
        self.by_url = {url: Replica() for url in URLS}

    def get(self, url):
        return self.by_url[url]


@pytest.fixture
def replicas():
    return Replicas()


@pytest.fixture
async def engine(replicas):
    templates = ChatTemplates(SystemClock())
    yield AttachedEngine("bot", replicas, templates, {"blue": URLS})
    await templates.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


async def test_a_replica_that_fails_in_an_unknown_way_is_out_of_reach_and_the_other_answers(engine, replicas, folder):
    await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    replicas.by_url[URLS[0]].failure = ValueError("no port")
    assert await engine.probe(NAME, 5.0) == "keel"
    assert engine.addresses(NAME) == URLS
    with pytest.raises(Transient, match="http://a: ValueError: no port") as caught:
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
    assert caught.value.code == "endpoint_unreachable"
