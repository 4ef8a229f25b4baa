"""What servers do that adapters are loaded into: the bare server of the tests, and vLLM's own."""

import json
import shutil

import pytest

from services.server_manager.adapters.attached_engine import AttachedEngine
from services.server_manager.ports import ADAPTER
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.serving.inference import first_token
from tests.kit.conformance_serving import DIGEST
from tests.kit.fakes_serving import no_references

ADAPTED = "bot.v7.bf16"


class AdaptersConformance:
    """Servers of a base model that adapters are loaded into.

    Needs the fixtures `server` (with a `url`), `folder` (of a version, with a LoRA that moves fixed texts), and
    `weak_folder` (of one with a LoRA that does not).
    """

    @pytest.fixture
    async def make_engine(self):
        channels, templates = Channels(), ChatTemplates(SystemClock())

        def make(groups, adapters):
            engine = AttachedEngine("bot", channels, templates, groups, no_references())
            engine.adapters = adapters
            return engine

        yield make
        await channels.close()
        await templates.close()

    @pytest.fixture
    def engine(self, make_engine, server, tmp_path):
        (tmp_path / "adapters").mkdir()
        return make_engine({"blue": (server.url,)}, tmp_path / "adapters")

    @pytest.fixture
    async def channel(self, server):
        channels = Channels()
        await channels.get(server.url).channel_ready()
        yield channels.get(server.url)
        await channels.close()

    @pytest.fixture(autouse=True)
    def _ready(self, channel):
        """Wait until the server answers: it may accept connections before."""

    async def test_an_adapter_is_loaded_proven_known_again_and_unloaded(self, engine, make_engine, channel, folder):
        await engine.index()
        assert engine.may_have(ADAPTED)
        assert not engine.may_have("bot.v0.bf16"), "the base model is no adapter"
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        listed = await channel.list_models(60)
        assert listed[listed[ADAPTED].parent].parent is None, "the base is no adapter"
        assert (await engine.probe(ADAPTED, 60)).strip()
        other = make_engine(engine.groups, engine.adapters)
        assert (await other.index())[ADAPTED].digest == DIGEST, "after a restart of server-manager"
        assert (await other.probe(ADAPTED, 60)).strip()
        await engine.unload(ADAPTED)
        assert ADAPTED not in await channel.list_models(60)
        assert list(engine.adapters.iterdir()) == []
        with pytest.raises(Transient) as caught:
            await first_token(channel, ADAPTED, deadline_s=60)
        assert caught.value.code == "endpoint_unreachable"

    async def test_the_base_that_answers_in_the_adapters_place_is_found(
        self, engine, make_engine, channel, folder, weak_folder
    ):
        with pytest.raises(Transient) as caught:
            await engine.load(ADAPTED, weak_folder, digest=DIGEST, memory_bytes=0)
        assert caught.value.code == "logprobs_differ"
        assert f"as its base model {(await channel.list_models(60))[ADAPTED].parent} does" in caught.value.reason
        assert (await engine.index())[ADAPTED].digest is None, "it was never proven"
        with pytest.raises(Transient, match="as its base model"):  # also of one that is listed already
            await make_engine(engine.groups, engine.adapters).load(ADAPTED, weak_folder, digest=DIGEST, memory_bytes=0)
        await engine.unload(ADAPTED)
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        await engine.unload(ADAPTED)

    async def test_names_are_loaded_and_unloaded_again_and_again(self, engine, channel, folder):
        before = await channel.list_models(60)
        for number in range(20, 40):
            await engine.load(f"bot.v{number}.bf16", folder, digest=DIGEST, memory_bytes=0)
            assert f"bot.v{number}.bf16" in await channel.list_models(60)
            await engine.unload(f"bot.v{number}.bf16")
        assert await channel.list_models(60) == before

    async def test_what_the_server_refuses_says_why(self, engine, folder, tmp_path):
        wide = tmp_path / "wide"
        shutil.copytree(folder, wide)
        config = wide / ADAPTER / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "r": 512}))
        with pytest.raises(Transient) as caught:
            await engine.load(ADAPTED, wide, digest=DIGEST, memory_bytes=0)
        assert (caught.value.code, "rank" in caught.value.reason) == ("load_failed", True)
        assert not engine.may_have(ADAPTED), "it is left alone for a while"
        await engine.unload(ADAPTED)
