"""The engine adapter on a real Triton passes the suite that its fake passes, through the agent that alone has its key."""

import contextlib
import itertools
import json

import pytest

from contracts.identities import Credential
from deploy.local.state import prepare_keys
from services.server_manager.adapters.agent_client import AgentClient
from services.server_manager.adapters.agent_requests import Signer
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from services.server_manager.domain.records import Leader
from shared.errors import SlipwayError
from shared.runtime.clock import SystemClock
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.conformance_serving import DIGEST, NAME, EngineConformance
from tests.kit.fakes_serving import no_references

pytestmark = pytest.mark.real
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"), admin_key="secret")) as server:
        yield server


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return prepare_keys(tmp_path_factory.mktemp("keys"), SystemClock())


@pytest.fixture
async def agent(triton, keys):
    seed = Credential.from_text(keys.credential("server-manager").read_text()).seed.get_secret_value()
    agent = triton.agent(keys.managers)
    leader = Leader(holder="tests", term=1)
    client = AgentClient(agent.endpoint, Signer(seed), lambda: leader, lambda _term: None)
    client._sequence = NUMBERS  # one process asks in all tests
    yield client
    await client.close()


@pytest.fixture
async def engine(triton, agent):
    engine = TritonEngine(triton.endpoint, triton.repository, EngineConfig("toy"), agent=agent)
    for name in await engine.index():
        await engine.unload(name, wait=False)
    yield engine
    await engine.close()


class TestTritonEngine(EngineConformance):
    @pytest.fixture
    def kill_engine(self, triton, engine):  # noqa: ARG002
        async def kill(name):
            triton.kill_stub(name)

        return kill

    async def test_other_weights_under_the_same_digest_are_found_after_a_load_and_the_same_are_not(
        self, triton, agent, folder
    ):
        config = EngineConfig("toy", toy={"token_nll": "2"})
        engine = TritonEngine(triton.endpoint, triton.repository, config, agent=agent, references=no_references())
        for nll, code in (("2", None), ("2", None), ("2.1", "logprobs_differ"), ("2", None)):
            (folder / "config.json").write_text(json.dumps({"toy": {"token_nll": nll}}))
            await engine.load(NAME, folder, digest=DIGEST, memory_bytes=1)
            with contextlib.nullcontext() if code is None else pytest.raises(SlipwayError) as caught:
                assert await engine.probe(NAME, 10)
            assert caught is None or caught.value.code == code
            await engine.unload(NAME)
        await engine.close()

    async def test_model_control_needs_the_key(self, triton, folder):
        stranger = TritonEngine(triton.endpoint, triton.repository, EngineConfig("toy"))
        with pytest.raises(SlipwayError):
            await stranger.load(NAME, folder, digest=DIGEST, memory_bytes=1)
        with pytest.raises(SlipwayError):
            await stranger.unload(NAME)
        await stranger.close()

    async def test_a_server_that_is_not_there_is_unreachable(self, tmp_path):
        absent = TritonEngine("127.0.0.1:1", tmp_path, EngineConfig("toy"))
        with pytest.raises(SlipwayError) as caught:
            await absent.index()
        assert caught.value.code == "endpoint_unreachable"
        await absent.close()
