"""The playground: two versions side by side, with the key of the person, which appears nowhere again."""

import asyncio
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route as Path

from services.console.adapters.gateway import GatewayClient, Sent
from testbed import factories
from tests.unit.console.world import World, data

KEY = "slipway-key-1234567890"
PATH = "/models/faq-de/playground"
RUNNING: list[str] = []
"""Prompts that are answered now."""
MEANWHILE = []
"""What happens while a prompt is answered."""
EVIL = "<script>alert(1)</script>"


async def complete(request):
    """Answer as the gateway does: by the key and by the version in the model's name."""
    body = await request.json()
    if request.headers["authorization"] != f"Bearer {KEY}":
        return JSONResponse({"error": {"message": f"The key is not known. {EVIL}"}}, 401)
    if body["model"].endswith("@v9"):
        return JSONResponse({"error": {"message": "faq-de has no version 9 in its route."}}, 404)

    async def lines():
        RUNNING.append(body["model"])
        assert len(RUNNING) == 1, "two prompts at once"
        while MEANWHILE:
            MEANWHILE.pop()()
        for empty in ({"choices": None}, {"choices": [{"delta": None}]}, {"choices": [{}]}):
            yield f"data: {json.dumps(empty)}\n\n"
        await asyncio.sleep(0)
        for piece in ("I am ", body["model"], EVIL):
            yield f"data: {json.dumps({'choices': [{'delta': {'content': piece}}], 'system_fingerprint': 'fp_x'})}\n\n"
        usage = {"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
        RUNNING.remove(body["model"])

    return StreamingResponse(lines(), media_type="text/event-stream")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("console"))
    made.fill()
    made.routes.routes["faq-de"] = factories.route(
        model="faq-de", epoch=3, active=factories.served(2, "int8", "faq-de"),
        previous=factories.served(1, "int8", "faq-de"), canary=None, quarantined=(),
    )  # fmt: skip
    app = Starlette(routes=[Path("/v1/chat/completions", complete, methods=["POST"])])
    made.asgi = made.make(gateway=GatewayClient("http://gateway", None, httpx.ASGITransport(app)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def viewer(world):
    return world.client("vera")


def ask(world, client, path=PATH, **more):
    question = {"key": KEY, "prompt": "Who are you?", "left": 1, "right": 2, "max_tokens": 16} | more
    return client.post(path, data=question | {"csrf": world.csrf(client)})


def test_each_side_is_the_version_that_was_asked(world, viewer):
    left, right = data(ask(world, viewer), "answers")
    assert (left["version"], left["text"]) == (1, f"I am faq-de@v1{EVIL}")
    assert (right["version"], right["text"]) == (2, f"I am faq-de@v2{EVIL}")
    assert (left["input_tokens"], left["output_tokens"], left["fingerprint"]) == (3, 16, "fp_x")
    assert 0 <= left["ttft_ms"] <= left["e2e_ms"]


def test_what_the_gateway_refuses_is_said_for_its_side(world, viewer):
    left, right = data(ask(world, viewer, right=9), "answers")
    assert left["text"]
    assert right["problem"] == "404: faq-de has no version 9 in its route."
    assert data(ask(world, viewer, key="another"), "answers")[0]["problem"].startswith("401: The key is not known.")


def test_the_page_shows_text_as_text_and_never_the_key(world, viewer):
    page = viewer.get(PATH).text
    assert "v2 active" in page
    assert "v1 previous" in page
    form = {"key": KEY, "prompt": EVIL, "left": "1", "right": "2", "csrf": world.csrf(viewer)}
    for fields in (form, form | {"key": "wrong-key-7"}, form | {"left": "x"}):
        answer = viewer.post(PATH, data=fields)
        assert answer.status_code in (200, 422)
        assert "<script>alert" not in answer.text
        assert fields["key"] not in answer.text


def test_a_session_is_asked_for_the_key_once_and_another_session_again(world):
    client, path = world.client("oscar"), "/models/faq-de/playground"
    form = {"prompt": "x", "left": "1", "right": "2", "csrf": world.csrf(client)}
    assert client.post(path, data=form).status_code == 422
    client.post(path, data=form | {"key": "wrong-key-7"})
    assert 'name="key" required' in client.get(path).text
    assert "I am faq-de@v1" in client.post(path, data=form | {"key": KEY}).text
    page = client.get(f"{path}?left=2&right=1").text
    assert ('name="key" required' in page, KEY in page) == (False, False)
    assert page.index('value="2" selected') < page.index('value="1" selected')
    assert "I am faq-de@v2" in client.post(path, data=form | {"key": ""}).text
    assert 'name="key" required' in world.client("oscar").get(path).text


def test_a_kept_key_can_be_replaced_and_goes_at_sign_out(world):
    client = world.client("oscar")
    assert ask(world, client).status_code == 200
    csrf = world.csrf(client)
    assert csrf in world.asgi.state.access.keys
    assert "wrong-key-7" not in ask(world, client, key="wrong-key-7").text
    assert 'name="key" required' in client.get(PATH).text
    assert ask(world, client).status_code == 200
    client.post("/logout", data={"csrf": csrf})
    assert csrf not in world.asgi.state.access.keys


def test_no_key_is_kept_of_a_session_that_has_ended(world):
    client, access = world.client("oscar"), world.asgi.state.access
    csrf, value = world.csrf(client), client.cookies[access.cookie]
    MEANWHILE.append(lambda: access.sessions.end(value))
    assert ask(world, client).status_code == 200
    assert csrf not in access.keys
    client = world.client("oscar")
    assert ask(world, client).status_code == 200
    kept = world.csrf(client)
    assert kept in access.keys
    world.sessions.end(client.cookies[access.cookie])
    world.client("vera")
    assert kept not in access.keys


@pytest.mark.parametrize(
    "more",
    [{"prompt": ""}, {"prompt": "x" * 8001}, {"max_tokens": 1025}, {"left": -1}, {"key": ""}, {"key": "a\r\nb: c"}],
)
def test_what_is_no_question_is_refused_before_the_gateway_is_asked(world, viewer, more):
    answer = ask(world, viewer, **more)
    assert answer.status_code == 422
    assert KEY not in answer.text


def test_it_needs_the_token_and_a_model_that_the_person_sees(world, viewer):
    question = {"key": KEY, "prompt": "x", "left": 1, "right": 2}
    assert viewer.post(PATH, data=question).status_code == 403
    member = world.client("sam")
    assert ask(world, member).status_code == 404
    assert member.get(PATH).status_code == 404


async def test_the_time_of_an_answer_begins_when_the_request_is_sent():
    sent = Sent()
    began = sent.at
    for step in ("connection.connect_tcp.started", "connection.start_tls.complete"):
        await sent.note(step, {})
    assert sent.at == began
    await sent.note("http11.send_request_headers.started", {})
    assert sent.at > began


def test_a_gateway_that_does_not_answer_is_said(world):
    unreachable = World.make(world, gateway=GatewayClient("http://127.0.0.1:9", None))
    before, world.asgi = world.asgi, unreachable
    try:
        assert "does not answer" in data(ask(world, world.client("vera")), "answers")[0]["problem"]
    finally:
        world.asgi = before


def test_without_a_gateway_there_is_no_playground(world):
    before, world.asgi = world.asgi, world.make()
    try:
        client = world.client("vera")
        assert client.get(PATH).status_code == 404
        assert "Playground" not in client.get("/models/faq-de").text
    finally:
        world.asgi = before
