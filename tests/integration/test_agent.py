"""The agent beside an engine: who may load and unload through it, in which order, and what a takeover changes."""

import asyncio
import contextlib
import json
import socket
import subprocess
import threading

import grpc
import httpx
import nkeys
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contracts.identities import Credential
from deploy.local.state import prepare_keys
from services.server_manager import agent_server
from services.server_manager.adapters.agent_client import AgentClient
from services.server_manager.adapters.agent_requests import METHODS, TERM, Managers, Signer
from services.server_manager.adapters.term_file import TermFile
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.agent_server import GRPC_KEY, Agent
from services.server_manager.domain.model_config import EngineConfig
from services.server_manager.domain.records import Leader
from services.server_manager.ports import AgentSilent, LeaseLost
from shared.runtime.clock import SystemClock
from testbed.agent import TritonAgent
from testbed.ports import free_port
from testbed.servers import running
from tests.kit.fakes_serving import FakeClock, FakeLead, FakeLease

KEY = "the engine's key"


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks Triton's protocol, refuses model control without the key, and loads as long as it is told."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.begun: list[str] = []
        self.left_s: list[float] = []
        self.finish = asyncio.Event()
        self.finish.set()

    async def _take(self, what: str, context) -> None:
        if dict(context.invocation_metadata()).get(GRPC_KEY) != KEY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
        self.begun.append(what)
        self.left_s.append(context.time_remaining())
        await self.finish.wait()
        self.did.append(what)

    async def RepositoryModelLoad(self, request, context):  # noqa: N802 - Triton's name
        if request.model_name == "bad":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "load_failed: no")
        # What was sent is done although who sent it has left.
        await asyncio.shield(asyncio.ensure_future(self._take(f"load {request.model_name}", context)))
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request, context):  # noqa: N802 - Triton's name
        await self._take(f"unload {request.model_name}", context)
        return service_pb2.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request, context):  # noqa: N802, ARG002 - Triton's name
        if dict(context.invocation_metadata()).get(GRPC_KEY) != KEY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
        return service_pb2.RepositoryIndexResponse()

    async def ServerLive(self, request, context):  # noqa: N802, ARG002 - Triton's name
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerMetadata(self, request, context):  # noqa: N802, ARG002 - Triton's name
        return service_pb2.ServerMetadataResponse(name="engine", version="2.0.0")


class World:
    """An engine, its agent, which can be killed and started again, and processes that ask it."""

    def __init__(self, folder, keys) -> None:
        self.folder, self.keys = folder, keys
        self.engine, self.engine_port, self.port = Engine(), free_port(), free_port()
        self.clients = contextlib.AsyncExitStack()
        self.superseded: dict[str, int] = {}

    async def start_engine(self) -> None:
        self.engine_server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.engine, self.engine_server)
        self.engine_server.add_insecure_port(f"127.0.0.1:{self.engine_port}")
        await self.engine_server.start()

    async def start_agent(self) -> None:
        self.agent = Agent(
            f"127.0.0.1:{self.engine_port}", KEY, Managers(self.keys.managers), TermFile(self.folder / "term.json")
        )
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers((self.agent,))
        self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def kill_agent(self) -> None:
        await self.server.stop(None)
        await self.agent.close()

    def process(self, holder: str, term: int, seed: str | None = None, kind: type = AgentClient) -> AgentClient:
        """Return a process that acts under a term."""
        credential = Credential.from_text(self.keys.credential("server-manager").read_text())
        client = kind(
            f"127.0.0.1:{self.port}",
            Signer(seed or credential.seed.get_secret_value()),
            lambda: Leader(holder=holder, term=term),
            lambda higher: self.superseded.update({holder: higher}),
        )
        self.clients.push_async_callback(client.close)
        return client


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return prepare_keys(tmp_path_factory.mktemp("keys"), SystemClock())


@pytest.fixture
async def world(tmp_path, keys):
    world = World(tmp_path, keys)
    await world.start_engine()
    await world.start_agent()
    yield world
    world.engine.finish.set()
    await world.clients.aclose()
    await world.kill_agent()
    await world.engine_server.stop(None)


async def load(process, name, timeout_s=10.0):
    await process.ask("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name=name), timeout_s)


async def unload(process, name):
    await process.ask("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name=name), 10.0)


async def index(process):
    return await process.ask("RepositoryIndex", service_pb2.RepositoryIndexRequest(), 10.0)


def stored(world):
    return Leader.model_validate_json((world.folder / "term.json").read_bytes())


async def test_the_process_that_leads_loads_unloads_and_lists(world):
    leading = world.process("first", 1)
    await load(leading, "a")
    await index(leading)
    await unload(leading, "a")
    assert world.engine.did == ["load a", "unload a"]
    assert stored(world) == Leader(holder="first", term=1)


@pytest.mark.parametrize("seen_by", [load, index], ids=["a load", "an index"])
async def test_a_holder_before_is_refused_once_the_next_one_has_asked_anything(world, seen_by):
    old, new = world.process("old", 1), world.process("new", 2)
    await load(old, "a")
    await seen_by(new, "b") if seen_by is load else await seen_by(new)
    world.engine.did.clear()
    for request in (load(old, "c"), unload(old, "b"), index(old)):
        with pytest.raises(LeaseLost, match="term_superseded"):
            await request
    assert world.engine.did == []
    assert world.superseded == {"old": 2}, "it learns by what"


async def test_terms_outlive_the_agent(world):
    old, new = world.process("old", 1), world.process("new", 2)
    await index(new)
    await world.kill_agent()
    await world.start_agent()
    with pytest.raises(LeaseLost):
        await load(old, "a")
    await load(new, "b")
    assert world.engine.did == ["load b"]


async def test_nothing_of_an_earlier_holder_reaches_the_engine_after_the_next_one_acted(world):
    """The first load is under way, the second waits in line; the next holder waits for the one and stops the other."""
    old, new = world.process("old", 1), world.process("new", 2)
    world.engine.finish.clear()
    first = asyncio.create_task(load(old, "a"))
    await until(lambda: world.engine.begun == ["load a"])
    second = asyncio.create_task(load(old, "b"))
    await until(lambda: waiting(world) == 1)
    await index(new)
    third = asyncio.create_task(load(new, "c"))
    await until(lambda: waiting(world) == 2)
    assert world.engine.begun == ["load a"], "one at a time"
    world.engine.finish.set()
    await first
    await third
    with pytest.raises(LeaseLost):
        await second
    assert world.engine.did == ["load a", "load c"]


def waiting(world):
    """Return how many loads and unloads wait in the agent for the one under way."""
    return len(world.agent._acting._waiters or ())


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_caller_that_leaves_does_not_let_the_next_load_in_while_the_engine_goes_on(world, monkeypatch):
    monkeypatch.setattr(agent_server, "BUSY_S", 0.1)
    leading = world.process("first", 1)
    world.engine.finish.clear()
    left = asyncio.create_task(load(leading, "a"))
    await until(lambda: world.engine.begun == ["load a"])
    left.cancel()
    await asyncio.wait([left])
    with pytest.raises(AgentSilent, match=r"has not ended within 0\.1 s; ask again"):
        await load(two := world.process("two", 2), "b")
    assert two.is_answering(), "it said that it is busy"
    world.engine.finish.set()
    await until(lambda: world.engine.did == ["load a"])
    await load(world.process("three", 3), "b")
    assert world.engine.did == ["load a", "load b"]


async def test_an_engine_that_never_answers_holds_the_next_one_up_for_the_callers_time_limit_only(world):
    world.engine.finish.clear()
    with pytest.raises(grpc.RpcError) as caught:
        await load(world.process("one", 1), "a", timeout_s=0.8)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    world.engine.finish.set()
    await load(world.process("two", 2), "b")


class Impostor(grpc.GenericRpcHandler):
    """Somebody who listens on the port of an agent that is away, and answers that a term is superseded."""

    def __init__(self, term: str) -> None:
        self._term = term

    def service(self, _details):
        async def answer(_request, context):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "term_superseded", ((TERM, self._term),))

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("term", ["9007199254740992", "-1", "many", "9" * 5000])
async def test_an_impostor_cannot_raise_the_term_to_where_the_agent_takes_none(world, term):
    """The answers of an agent are not signed; what one of them says moves the term of a process by a step only."""
    await world.kill_agent()
    world.server = grpc.aio.server()
    world.server.add_generic_rpc_handlers((Impostor(term),))
    world.server.add_insecure_port(f"127.0.0.1:{world.port}")
    await world.server.start()
    lead = FakeLead(FakeLease(), FakeClock())
    assert await lead.hold()
    leading = world.process(lead.holder, lead.term)
    with pytest.raises((AgentSilent, LeaseLost)):
        await load(leading, "a")
    assert leading.is_answering() == bool(world.superseded), "what names no term is no answer"
    for superseding in world.superseded.values():
        lead.note_superseded(superseding)
    assert await lead.hold()
    await leading.close()  # gRPC shares a connection to one address: the next process gets its own
    await world.server.stop(None)
    await world.start_agent()
    await load(world.process(lead.holder, lead.term), "a")
    assert world.engine.did == ["load a"]


async def test_the_engines_own_errors_come_through(world):
    with pytest.raises(grpc.RpcError) as caught:
        await load(world.process("one", 1), "bad")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "load_failed: no")


async def test_a_term_that_cannot_be_stored_lets_nothing_through(world):
    await load(world.process("one", 1), "a")
    (world.folder / "term.json").unlink()
    (world.folder / "term.json").mkdir()
    (world.folder / "term.json" / "x").touch()
    two = world.process("two", 2)
    with pytest.raises(AgentSilent, match="disk_full: The term 2 cannot be stored"):
        await load(two, "b")
    assert world.engine.did == ["load a"]
    (world.folder / "term.json" / "x").unlink()
    (world.folder / "term.json").rmdir()
    await load(two, "b")
    assert stored(world).term == 2


class StalledTermFile(TermFile):
    """A disk on which one term takes as long to write as it is told."""

    def __init__(self, path, term) -> None:
        super().__init__(path)
        self.slow, self.passes = term, threading.Event()
        self.began, self.ended = threading.Event(), threading.Event()

    def raise_to(self, leader):
        if leader.term != self.slow:
            super().raise_to(leader)
            return
        self.began.set()
        self.passes.wait(60)
        try:
            super().raise_to(leader)
        finally:
            self.ended.set()


async def test_a_term_whose_write_took_longer_than_its_caller_waited_replaces_no_higher_one(world):
    """The disk stalls, the lease passes to the next holder, and then the earlier write ends."""
    terms = world.agent._term = StalledTermFile(world.folder / "term.json", 5)
    old, new = world.process("old", 5), world.process("new", 6)
    with pytest.raises(AgentSilent, match="DEADLINE_EXCEEDED"):
        await old.ask("RepositoryIndex", service_pb2.RepositoryIndexRequest(), 0.5)
    await index(new)
    terms.passes.set()
    await until(terms.ended.is_set)
    assert terms.highest == stored(world) == Leader(holder="new", term=6)
    with pytest.raises(LeaseLost):
        await load(old, "a")
    await load(new, "b")
    assert world.engine.did == ["load b"]


async def test_a_write_that_a_higher_term_overtook_lets_its_own_request_not_through(world):
    terms = world.agent._term = StalledTermFile(world.folder / "term.json", 5)
    late = asyncio.create_task(load(world.process("old", 5), "a"))
    await until(terms.began.is_set)
    await index(world.process("new", 6))
    terms.passes.set()
    with pytest.raises(LeaseLost):
        await late
    assert world.engine.begun == []


async def test_a_load_may_take_as_long_as_its_caller_waits(world):
    await load(world.process("one", 1), "a", timeout_s=7200.0)
    assert world.engine.left_s[0] > 7100


async def test_another_key_than_server_managers_does_nothing(world, capsys):
    seed = Credential.from_text(world.keys.credential("gateway").read_text()).seed.get_secret_value()
    stranger = nkeys.encode_seed(b"s" * 32, nkeys.PREFIX_BYTE_USER).decode()
    for other in (seed, stranger):
        for request in (load(p := world.process("one", 9, other), "a"), unload(p, "a"), index(p)):
            with pytest.raises(AgentSilent, match="key_not_trusted"):
                await request
    assert world.engine.begun == []
    assert str(capsys.readouterr()).count("a request is refused") == 1, "a stranger fills no disk"
    assert not (world.folder / "term.json").exists(), "its term does not count"


async def test_keys_are_rotated_and_withdrawn_while_the_agent_runs(world, tmp_path):
    world.keys = prepare_keys(tmp_path / "own", SystemClock())
    world.agent._managers = Managers(world.keys.managers)
    former = world.process("former", 1)
    await load(former, "a")
    world.keys.rotate("server-manager")
    await load(former, "b")
    await load(world.process("following", 2), "c")
    world.keys.retire("server-manager")
    for request in (load(former, "d"), index(former)):
        with pytest.raises(AgentSilent, match="key_not_trusted"):
            await request
    await load(world.process("third", 3), "e")
    assert world.engine.did == ["load a", "load b", "load c", "load e"]
    world.keys.managers.unlink()
    with pytest.raises(AgentSilent, match="write it with `slipway keys init`"):
        await load(world.process("fourth", 4), "f")


class Overheard(AgentClient):
    """A process whose calls another one overhears, and sends again."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.sent: list[tuple] = []

    async def _channel_call(self, method, content, timeout_s, metadata):
        self.sent.append((method, content, metadata))
        return await super()._channel_call(method, content, timeout_s, metadata)

    async def send_again(self, method, content, metadata):
        return await super()._channel_call(method, content, 5.0, metadata)


async def test_what_was_signed_counts_once_for_one_call_of_one_run_of_the_agent(world):
    leading = world.process("first", 1, kind=Overheard)
    await load(leading, "a")
    method, content, metadata = leading.sent[-1]
    other = service_pb2.RepositoryModelLoadRequest(model_name="b").SerializeToString()
    changed = dict(metadata) | {
        "slipway-request-bin": dict(metadata)["slipway-request-bin"].replace(b'"term":1', b'"term":9')
    }
    for attempt in (
        (method, content, metadata),
        (method, other, metadata),
        (METHODS["RepositoryModelUnload"], content, metadata),
        (method, content, tuple(changed.items())),
        (method, content, ()),
        (method, content, metadata[:2]),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await leading.send_again(*attempt)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await world.kill_agent()
    await world.start_agent()
    with pytest.raises(grpc.RpcError) as caught:
        await leading.send_again(method, content, metadata)
    assert "another run of the agent" in caught.value.details()
    assert world.engine.did == ["load a"]
    assert stored(world).term == 1


async def test_nothing_but_model_control_is_passed_on(world):
    leading = world.process("first", 1, kind=Overheard)
    for method in ("/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/TraceSetting"):
        with pytest.raises(grpc.RpcError) as caught:
            await leading.send_again(method, b"", ())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_while_the_agent_is_away_nothing_is_known_to_have_changed_and_loads_can_be_tried_again(world, tmp_path):
    leading = world.process("first", 1)
    engine = TritonEngine(
        f"127.0.0.1:{world.engine_port}", tmp_path / "models", EngineConfig(kind="toy"), agent=leading
    )
    world.clients.push_async_callback(engine.close)
    assert await engine.index() == {}
    await leading.check_life()
    await world.kill_agent()
    assert await engine.index() is None, "the engine lives, so that it is not down"
    with pytest.raises(AgentSilent) as caught:
        await engine.unload("a")
    assert caught.value.code == "endpoint_unreachable", "it counts against no target"
    with pytest.raises(AgentSilent):
        await leading.check_life()
    await world.start_agent()
    async with asyncio.timeout(60):
        while await engine.index() is None:  # the next try to connect comes after half a second at most
            await asyncio.sleep(0.05)
    await engine.unload("a")
    assert world.engine.did == ["unload a"]


async def test_an_engine_that_is_away_is_down_although_its_agent_answers(world, tmp_path):
    leading = world.process("first", 1)
    engine = TritonEngine(
        f"127.0.0.1:{world.engine_port}", tmp_path / "models", EngineConfig(kind="toy"), agent=leading
    )
    world.clients.push_async_callback(engine.close)
    await world.engine_server.stop(None)
    assert not await world.agent.engine_lives()
    with pytest.raises(Exception, match="endpoint_unreachable"):
        await engine.index()
    await world.start_engine()


def test_the_list_of_managers_has_server_manager_only(keys):
    listed = json.loads(keys.managers.read_text())
    known = {identity.name: list(identity.public_keys) for identity in keys.identities()}
    assert {each["name"]: each["public_keys"] for each in listed} == {"server-manager": known["server-manager"]}


@pytest.fixture
def program(tmp_path, keys):
    return TritonAgent(tmp_path, "127.0.0.1:1", keys.managers)


def end_of(program) -> str:
    """Return what the agent says when it does not start."""
    command, environment = program.command(), program.environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_the_program_answers_whether_it_serves_and_ends_when_told(program):
    with running(program):
        alive, ready = (httpx.get(f"http://127.0.0.1:{program.http_port}/{path}") for path in ("healthz", "readyz"))
        assert (alive.status_code, ready.status_code) == (200, 503)
        assert ready.json()["checks"] == {"triton": "it does not say that it is live"}
        program.process.terminate()
        assert program.process.wait(10) == 0


def test_the_program_does_not_start_without_a_key_with_a_damaged_file_or_on_a_port_that_is_taken(program):
    program.term_file.write_text("{")
    assert "term.json holds no term" in end_of(program)
    program.term_file.unlink()
    with socket.create_server(("127.0.0.1", program.port)):
        assert "agent: " in end_of(program)
    program.variables["TRITON_AGENT_ADMIN_KEY"] = ""
    assert "TRITON_AGENT_ADMIN_KEY is not set" in end_of(program)
