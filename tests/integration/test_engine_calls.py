"""What Triton is asked while it loads or unloads a model: nothing about its repository, and one model at a time."""

import asyncio
import threading

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contracts.vocabulary import ServingSettings, digest_of
from services.server_manager.adapters import triton_engine
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from services.server_manager.ports import LeaseLost
from shared.errors import SlipwayError
from testbed.ports import free_port

DIGEST = digest_of(b"one")


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks Triton's protocol, takes its time, and writes down what is asked at the same time."""

    def __init__(self) -> None:
        self.under_way: list[str] = []
        self.together: set[frozenset[str]] = set()
        self.asked: list[str] = []
        self.loaded: dict[str, str] = {}
        self.alive = True
        self.stuck: set[str] = set()
        self.loading = asyncio.Event()
        self.finish = asyncio.Event()
        self.finish.set()
        self.indexing = asyncio.Event()
        self.list = asyncio.Event()
        self.list.set()

    async def _take(self, what: str) -> None:
        self.asked.append(what)
        self.under_way.append(what)
        if len(self.under_way) > 1:
            self.together.add(frozenset(self.under_way))
        for _ in range(20):
            await asyncio.sleep(0)
        if what == "load":
            self.loading.set()
            await self.finish.wait()
        self.under_way.remove(what)

    async def RepositoryModelLoad(self, request, context):  # noqa: N802 - Triton's name
        await self._take("load")
        if request.model_name == "bad.v1.bf16":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "load_failed: exit code -4")
        self.loaded[request.model_name] = "READY"
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request, context):  # noqa: N802, ARG002 - Triton's name
        await self._take("unload")
        if request.model_name in self.stuck:
            self.loaded[request.model_name] = "UNLOADING"
        else:
            self.loaded.pop(request.model_name, None)
        return service_pb2.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request, context):  # noqa: N802, ARG002 - Triton's name
        await self._take("index")
        self.indexing.set()
        await self.list.wait()
        models = [service_pb2.RepositoryIndexResponse.ModelIndex(name=n, state=s) for n, s in self.loaded.items()]
        return service_pb2.RepositoryIndexResponse(models=models)

    async def ServerLive(self, request, context):  # noqa: N802, ARG002 - Triton's name
        self.asked.append("live")
        return service_pb2.ServerLiveResponse(live=self.alive)

    async def ServerMetadata(self, request, context):  # noqa: N802, ARG002 - Triton's name
        return service_pb2.ServerMetadataResponse(name="recorder", version="2.0.0")


@pytest.fixture
async def triton(tmp_path):
    recorder, port = Recorder(), free_port()
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(recorder, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    recorder.server = server
    recorder.lost = False
    recorder.engine = TritonEngine(
        f"127.0.0.1:{port}",
        tmp_path / "models",
        EngineConfig(kind="toy"),
        superseded=lambda: recorder.lost,
        unload_wait_s=0.6,
    )
    yield recorder
    recorder.finish.set()
    recorder.list.set()
    await recorder.engine.close()
    await server.stop(None)


async def load(triton, name, folder):
    await triton.engine.load(name, folder, digest=DIGEST, memory_bytes=1)


async def test_a_target_is_configured_with_the_settings_of_its_version(triton, tmp_path):
    settings = ServingSettings(tool_parser="hermes", context_tokens=64)
    await triton.engine.load("bot.v1.bf16", tmp_path, digest=DIGEST, memory_bytes=1, serving=settings)
    written = (tmp_path / "models" / "bot.v1.bf16" / "config.pbtxt").read_text()
    assert "hermes" in written
    await load(triton, "bot.v1.bf16", tmp_path)
    assert "hermes" not in (tmp_path / "models" / "bot.v1.bf16" / "config.pbtxt").read_text()


async def test_loads_and_unloads_come_one_at_a_time(triton, tmp_path):
    await load(triton, "old.v1.bf16", tmp_path)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(load(triton, f"bot.v{number}.bf16", tmp_path))
        group.create_task(triton.engine.unload("old.v1.bf16"))
        group.create_task(triton.engine.index())
    assert triton.together == set()
    assert triton.asked.count("load") == 4
    assert triton.loaded == {f"bot.v{number}.bf16": "READY" for number in range(3)}


async def test_a_server_that_loads_is_asked_only_whether_it_lives(triton, tmp_path):
    triton.finish.clear()
    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.loading.wait()
    assert await triton.engine.index() is None
    assert triton.asked == ["load", "live"]
    triton.finish.set()
    await loading
    assert (await triton.engine.index())["bot.v1.bf16"].ready


async def test_an_index_waits_for_another_one(triton, tmp_path):
    await load(triton, "bot.v1.bf16", tmp_path)
    triton.list.clear()
    first, second = (asyncio.create_task(triton.engine.index()) for _ in range(2))
    await triton.indexing.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    triton.list.set()
    assert (await first)["bot.v1.bf16"].ready
    assert (await second)["bot.v1.bf16"].ready
    assert triton.together == set()


async def test_an_index_does_not_wait_for_a_load_that_waits_for_another_index(triton, tmp_path):
    triton.list.clear()
    triton.finish.clear()
    first = asyncio.create_task(triton.engine.index())
    await triton.indexing.wait()
    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    second = asyncio.create_task(triton.engine.index())
    await asyncio.sleep(0)
    triton.list.set()
    assert await first == {}
    assert await asyncio.wait_for(second, 5) is None
    triton.finish.set()
    await loading


async def test_whether_the_server_lives_is_asked_without_its_repository(triton):
    await triton.engine.check_life()
    assert triton.asked == ["live"]
    triton.alive = False
    with pytest.raises(SlipwayError) as caught:
        await triton.engine.check_life()
    assert caught.value.code == "endpoint_unreachable"


async def test_a_load_that_fails_holds_nothing_up_and_names_the_signal(triton, tmp_path):
    with pytest.raises(SlipwayError) as caught:
        await load(triton, "bad.v1.bf16", tmp_path)
    assert caught.value.code == "load_failed"
    assert "exit code -4 (signal SIGILL: it used an instruction that this CPU lacks" in caught.value.reason
    await load(triton, "bot.v1.bf16", tmp_path)


async def test_a_load_that_is_given_up_keeps_others_waiting_only_until_it_has_ended(triton, tmp_path):
    """Triton goes on loading although the caller has left; an index would find it in the middle of it."""
    triton.finish.clear()
    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.loading.wait()
    loading.cancel()
    await asyncio.wait([loading], timeout=5)
    assert loading.cancelled(), "the caller does not wait"
    following = asyncio.create_task(load(triton, "bot.v2.bf16", tmp_path))
    assert await triton.engine.index() is None
    assert triton.asked == ["load", "live"]
    triton.finish.set()
    await asyncio.wait_for(following, 5)
    assert triton.loaded == {"bot.v1.bf16": "READY", "bot.v2.bf16": "READY"}
    assert triton.together == set()


async def test_a_load_that_ran_out_of_time_failed_and_keeps_others_waiting_while_triton_goes_on_with_it(
    triton, tmp_path
):
    triton.engine = TritonEngine(
        triton.engine.endpoint, tmp_path / "models", EngineConfig(kind="toy"), load_timeout_s=0.3, unload_wait_s=5.0
    )
    triton.finish.clear()
    triton.loaded["slow.v1.bf16"] = "LOADING"
    late = asyncio.create_task(load(triton, "slow.v1.bf16", tmp_path))
    await triton.loading.wait()
    following = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.indexing.wait()  # it looks what became of the load
    assert triton.asked.count("load") == 1
    triton.finish.set()
    triton.loaded["slow.v1.bf16"] = "READY"
    with pytest.raises(SlipwayError) as caught:
        await late
    assert caught.value.code == "load_failed"
    assert "did not load slow.v1.bf16 within 0.3 s" in caught.value.reason
    await asyncio.wait_for(following, 5)
    await triton.engine.close()


async def test_a_load_that_is_cancelled_while_its_files_are_written_holds_the_next_one_up_until_they_are(
    triton, tmp_path, monkeypatch
):
    writing, go_on = threading.Event(), threading.Event()
    write = triton_engine._write_files

    def slowly(folder, files):
        writing.set()
        assert go_on.wait(10)
        write(folder, files)

    monkeypatch.setattr(triton_engine, "_write_files", slowly)
    given_up = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await asyncio.to_thread(writing.wait, 10)
    given_up.cancel()
    following = asyncio.create_task(load(triton, "bot.v2.bf16", tmp_path))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not (tmp_path / "models" / "bot.v2.bf16").exists()
    go_on.set()
    await asyncio.wait_for(following, 5)
    assert given_up.cancelled()
    assert triton.loaded == {"bot.v2.bf16": "READY"}, "what was given up before it was sent never is"


async def test_a_request_that_was_given_up_while_it_waited_is_not_sent(triton, tmp_path):
    await load(triton, "old.v1.bf16", tmp_path)
    triton.finish.clear()
    triton.loading.clear()
    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.loading.wait()
    unloading = asyncio.create_task(triton.engine.unload("old.v1.bf16"))
    await asyncio.sleep(0)
    unloading.cancel()
    triton.finish.set()
    await loading
    await asyncio.wait([unloading], timeout=5)
    assert "old.v1.bf16" in (await triton.engine.index())
    assert "unload" not in triton.asked


@pytest.mark.parametrize("how", ["fence", "permit"])
@pytest.mark.parametrize("what", ["load", "unload"])
async def test_a_lease_lost_while_a_request_waits_for_another_load_stops_the_request(triton, tmp_path, how, what):
    await load(triton, "old.v1.bf16", tmp_path)
    triton.finish.clear()
    triton.loading.clear()
    triton.asked.clear()
    lost = False

    async def permit():
        if lost:
            raise LeaseLost("another process leads")

    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.loading.wait()
    if what == "unload":
        queued = asyncio.create_task(triton.engine.unload("old.v1.bf16", permit=permit))
    else:
        queued = asyncio.create_task(
            triton.engine.load("new.v1.bf16", tmp_path, digest=DIGEST, memory_bytes=1, permit=permit)
        )
    for _ in range(50):
        await asyncio.sleep(0)
    triton.lost, lost = how == "fence", how == "permit"
    triton.finish.set()
    await loading
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(queued, 5)
    assert triton.asked == ["load"]
    assert not (tmp_path / "models" / "new.v1.bf16").exists(), "its files are the next holder's by now"
    triton.lost = False
    assert set(await triton.engine.index()) == {"old.v1.bf16", "bot.v1.bf16"}, "it holds nothing up"


@pytest.mark.parametrize("wait", [True, False])
async def test_no_load_goes_out_while_a_model_is_still_unloading(triton, tmp_path, wait):
    """Triton answers an unload at once and does it afterwards."""
    await load(triton, "old.v1.bf16", tmp_path)
    triton.stuck.add("old.v1.bf16")
    unloading = asyncio.create_task(triton.engine.unload("old.v1.bf16", wait=wait))
    following = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await asyncio.wait_for(triton.indexing.wait(), 5)
    assert await triton.engine.index() is None
    assert triton.asked[:3] == ["load", "unload", "index"]
    assert triton.asked.count("load") == 1
    del triton.loaded["old.v1.bf16"]
    await asyncio.wait_for(unloading, 5)
    await asyncio.wait_for(following, 5)


@pytest.mark.parametrize("wait", [True, False])
async def test_a_model_that_stays_unloading_for_ever_holds_loads_up_for_a_while_only(triton, tmp_path, wait):
    await load(triton, "old.v1.bf16", tmp_path)
    triton.stuck.add("old.v1.bf16")
    await asyncio.wait_for(triton.engine.unload("old.v1.bf16", wait=wait), 5)
    await asyncio.wait_for(load(triton, "old.v1.bf16", tmp_path), 5)
    assert triton.loaded == {"old.v1.bf16": "READY"}


async def test_a_server_that_is_gone_while_it_loads_is_noticed(triton, tmp_path):
    triton.finish.clear()
    loading = asyncio.create_task(load(triton, "bot.v1.bf16", tmp_path))
    await triton.loading.wait()
    await triton.server.stop(None)
    with pytest.raises(SlipwayError) as caught:
        await loading
    assert caught.value.code == "endpoint_unreachable"
    with pytest.raises(SlipwayError) as caught:
        await triton.engine.index()
    assert caught.value.code == "endpoint_unreachable"
