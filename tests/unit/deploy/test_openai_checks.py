"""What a backend judges of a request itself, and where: a large body must not delay the answers in progress."""

import asyncio
import json
import sys
import threading
import types
from pathlib import Path

import pytest

from decisions.openai.json_values import MAX_VALUES
from decisions.openai.limits import CostLimits

BACKENDS = Path(__file__).resolve().parents[3] / "deploy" / "backends"
CHAT = "/v1/chat/completions"
HELLO = {"model": "bot", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    monkeypatch.syspath_prepend(str(BACKENDS))
    import openai_checks

    yield openai_checks
    for name in ("openai_checks", "engine_tensors"):
        sys.modules.pop(name, None)


class WatchedPaths(frozenset):
    """The paths of an engine; notes in which thread each request is judged, and how many at the same time."""

    def __init__(self, _paths) -> None:
        self.threads, self.running, self.most = [], 0, 0

    def __contains__(self, path):
        self.threads.append(threading.current_thread())
        self.running += 1
        self.most = max(self.most, self.running)
        threading.Event().wait(0.01)
        self.running -= 1
        return super().__contains__(path)


@pytest.fixture
def paths():
    return WatchedPaths([CHAT])


@pytest.fixture
def judge(checks, paths):
    """Return a function that judges a body."""
    rules = checks.Rules(paths, 4_096, CostLimits())
    turn = checks.JudgingThread()

    async def judge(body, path=CHAT, holder="a"):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        ask = types.SimpleNamespace(method="POST", path=path, body=raw, holder=holder)
        return await checks.judge_apart(ask, rules, turn)

    return judge


async def test_a_body_that_the_engine_may_have_is_returned_parsed(judge):
    assert await judge(HELLO) == HELLO


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b'{"n":' + b"9" * 5000 + b"}", b"[" * 50_000])
async def test_what_is_no_json_object_is_refused(judge, text):
    refusal = await judge(text)
    assert (refusal.status, refusal.code) == (400, "invalid_json")


async def test_another_path_and_a_costly_request_are_refused(judge):
    assert (await judge(HELLO, "/v1/embeddings")).code == "unsupported_by_model"
    assert (await judge(HELLO, "/scale_elastic_ep")).code == "unknown_url"
    assert (await judge({**HELLO, "n": 16_384})).field == "n"


@pytest.mark.parametrize("start", [b'{"documents":[', b'{"messages":' + b"[" * 60])
async def test_a_body_with_too_many_values_is_refused_before_it_is_parsed(judge, start):
    refusal = await judge(start + b"[]," * (MAX_VALUES // 2) + b"[] and no JSON")
    assert refusal.code == "invalid_json"
    assert "send less in one request" in refusal.message


@pytest.mark.parametrize(("chars", "apart"), [(1, False), (100_000, True)])
async def test_a_large_body_is_judged_in_a_thread(judge, paths, chars, apart):
    await judge({**HELLO, "messages": [{"role": "user", "content": "x" * chars}]})
    assert [thread is not threading.main_thread() for thread in paths.threads] == [apart]


async def test_large_bodies_are_judged_one_after_the_other(judge, paths):
    body = {**HELLO, "messages": [{"role": "user", "content": "x" * 100_000}]}
    await asyncio.gather(*(judge(body) for _ in range(5)))
    assert (len(paths.threads), paths.most) == (5, 1)


async def test_callers_have_turns_however_many_large_bodies_one_sends(judge):
    body, order = {**HELLO, "messages": [{"role": "user", "content": "x" * 100_000}]}, []

    async def ask(holder):
        await judge(body, holder=holder)
        order.append(holder)

    await asyncio.gather(*map(ask, ["many"] * 5 + ["one"]))
    assert order.index("one") <= 2


async def test_large_bodies_of_callers_that_leave_are_not_judged_at_the_same_time(judge, paths):
    """A caller who sends large bodies and hangs up must not have a thread for each of them."""
    body = {**HELLO, "messages": [{"role": "user", "content": "x" * 100_000}]}
    for _ in range(20):
        leaving = [asyncio.ensure_future(judge(body)) for _ in range(5)]
        await asyncio.sleep(0.002)
        for caller in leaving:
            caller.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    assert await judge(body) == body
    assert paths.most == 1
    assert len(paths.threads) <= 22, "what waited when its caller left is not judged"


async def test_a_large_body_of_a_caller_that_leaves_does_not_stop_the_next_one(judge, paths):
    body = {**HELLO, "messages": [{"role": "user", "content": "x" * 100_000}]}
    first, second = asyncio.ensure_future(judge(body)), asyncio.ensure_future(judge(body))
    await asyncio.sleep(0.005)
    first.cancel()
    assert await second == body
    assert paths.most == 1
