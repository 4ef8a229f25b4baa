"""The engine adapter on a real Triton passes the suite that its fake passes, with model control restricted by a key."""

import pytest

from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from shared.errors import SlipwayError
from testbed.servers import running
from testbed.triton import TritonServer
from tests.kit.conformance_serving import DIGEST, NAME, EngineConformance

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"), admin_key="secret")) as server:
        yield server


@pytest.fixture
async def engine(triton):
    engine = TritonEngine(triton.endpoint, triton.repository, EngineConfig("toy"), admin_key="secret")
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
