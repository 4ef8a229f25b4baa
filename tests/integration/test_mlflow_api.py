"""A server in MLflow's place that answers slowly, wrongly, or without end: bounded time and memory, and one error."""

import asyncio
import gzip
import json
import tracemalloc

import pytest

from services.mirror.adapters import mlflow_api as mlflow
from services.mirror.adapters.mlflow_api import MlflowAccess, MlflowApi, MlflowError, MlflowRefusalError
from tests.integration.mlflow_answers import answering, reply

PATH = "registered-models/get"


async def refusal(url, answer_bytes=mlflow.ANSWER_BYTES, **access):
    """Return the error of a call."""
    api = MlflowApi(MlflowAccess(url, **access), answer_bytes=answer_bytes)
    try:
        with pytest.raises(MlflowError) as caught:
            await api.get(PATH, name="x")
    finally:
        await api.close()
    assert caught.value.code == "hub_unavailable"
    return caught.value


REPLIES = {
    "html": reply(200, "<html>log in</html>", "text/html"),
    "a list": reply(200, "[1]"),
    "half of an object": reply(200, '{"a": '),
    "deep": reply(200, "[" * 200_000),
    "nothing": reply(200, ""),
    "500": reply(500, "<h1>Internal Server Error</h1>", "text/html"),
    "503 as MLflow": reply(503, json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "x"})),
    "429": reply(429, "{}"),
    "401": reply(401, "no"),
    "403 as MLflow": reply(403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "x"})),
    "404 of a proxy": reply(404, "<html>nothing here</html>", "text/html"),
    "compressed": reply(200, gzip.compress(b" " * 10_000_000), more="content-encoding: gzip\r\n"),
    "not HTTP": None,
}


async def garbage(writer):
    writer.write(b"\x00\x01\x02 not http at all\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize("kind", REPLIES)
async def test_a_wrong_answer_is_one_error_and_no_refusal_of_the_request(kind):
    async with answering(REPLIES[kind] or garbage) as url:
        error = await refusal(url)
    assert not isinstance(error, MlflowRefusalError)
    assert url in error.reason
    assert len(error.reason) < 600


async def test_a_refusal_of_mlflow_has_its_kind():
    async with answering(
        reply(400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "y" * 9000}))
    ) as url:
        error = await refusal(url)
    assert isinstance(error, MlflowRefusalError)
    assert error.kind == "INVALID_PARAMETER_VALUE"
    assert len(error.reason) < 600


async def test_a_redirect_is_not_followed_and_gets_no_token(tmp_path):
    (tmp_path / "token").write_text("secret-token\n")
    elsewhere, here = [], []
    to_other = {}

    async def redirect(writer):
        await reply(302, "", more=f"location: {to_other['url']}/x\r\n")(writer)

    async with answering(reply(200, "{}"), elsewhere) as other, answering(redirect, here) as url:
        to_other["url"] = other
        error = await refusal(url, token_file=tmp_path / "token")
    assert "redirects" in error.reason
    assert elsewhere == []
    assert "bearer secret-token" in here[0].lower()
    assert "secret-token" not in error.reason


async def test_a_user_and_a_password_are_sent_as_such(tmp_path):
    (tmp_path / "token").write_text("anna:secret\n")
    requests = []
    async with answering(reply(200, "{}"), requests) as url:
        api = MlflowApi(MlflowAccess(url, token_file=tmp_path / "token"))
        assert await api.get(PATH) == {}
        await api.close()
    assert "Authorization: Basic YW5uYTpzZWNyZXQ=" in requests[0]


async def test_a_token_that_cannot_be_read_or_sent_is_an_error_without_it(tmp_path):
    async with answering(reply(200, "{}")) as url:
        assert "cannot be read" in (await refusal(url, token_file=tmp_path / "none")).reason
        (tmp_path / "token").write_text("two\nlines secret")
        assert "secret" not in (await refusal(url, token_file=tmp_path / "token")).reason


async def test_a_server_that_drips_is_given_up_in_time():
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with answering(drip) as url:
        assert "TimeoutError" in (await refusal(url, call_s=0.5)).reason


async def test_a_server_that_never_answers_is_given_up_in_time():
    async with answering(lambda _writer: asyncio.Event().wait()) as url:
        assert "does not answer" in (await refusal(url, call_s=0.3)).reason


async def test_an_answer_without_end_is_not_kept():
    async def pour(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with answering(pour) as url:
        tracemalloc.start()
        try:
            assert "more than" in (await refusal(url, answer_bytes=2 * 1024 * 1024)).reason
            assert tracemalloc.get_traced_memory()[1] < 12 * 1024 * 1024
        finally:
            tracemalloc.stop()


async def test_pages_without_end_are_an_error():
    async with answering(reply(200, json.dumps({"items": [], "next_page_token": "again"}))) as url:
        api = MlflowApi(MlflowAccess(url))
        with pytest.raises(MlflowError, match="repeats a page"):
            _ = [item async for item in api.pages("x", "items")]
        await api.close()


async def test_nothing_that_listens_is_an_error():
    await refusal("http://127.0.0.1:1")
