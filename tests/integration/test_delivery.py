"""Messages made to stick: whatever is sent, it ends in the open and the next one is handled."""

import asyncio

import pytest

from clients.cli.events import dead_letters as deadletters
from contracts.envelope import CONTENT_TYPE, plain
from contracts.facts import VariantFailed, VariantRequested, WorkAbandoned
from contracts.vocabulary import canonical_json
from shared.errors import Permanent
from shared.messaging.bus import publish_event
from tests.integration.bus_process import facts, failed_fact, requested, running_bus

SUBJECT = f"{VariantRequested.TYPE}.support-bot.registry"
MAX_PAYLOAD = 1024 * 1024


async def fail(event):
    if event.id == "good":
        return failed_fact()
    raise Permanent("engine_failed", "it broke")


async def letters(js, count=1):
    async with asyncio.timeout(20):
        while len(letters := await deadletters.list_all(js)) < count:
            await asyncio.sleep(0.05)
    return letters


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Expected-Stream": "SLIPWAY_EVENTS"},
        {"Nats-Expected-Last-Sequence": "0"},
        {"Slipway-Code": "forged", "Slipway-Sequence": "none"},
        {"X-Note": "für Größe \x07"},
        {"x" * 200: "y" * 5000},
    ],
    ids=lambda headers: next(iter(headers))[:30],
)
async def test_headers_of_a_stranger_do_not_keep_a_message_from_the_dead_letters(js, bus_settings, headers):
    async with running_bus(bus_settings, fail):
        await js.publish(SUBJECT, b"{not json", headers={"content-type": CONTENT_TYPE, **headers})
        await publish_event(js, requested("good"))
        await facts(js, VariantFailed)
        (letter,) = await letters(js)
        assert (letter.code, letter.body, letter.stream_sequence) == ("malformed_event", b"{not json", 1)


async def test_message_as_large_as_the_bus_allows_is_dead_lettered_too(js, bus_settings):
    async with running_bus(bus_settings, fail):
        await js.publish(SUBJECT, b"x" * MAX_PAYLOAD)
        await publish_event(js, requested("good"))
        await facts(js, VariantFailed)
        (letter,) = await letters(js)
        assert letter.code == "malformed_event"
        assert len(letter.body) > MAX_PAYLOAD // 2
        original = await js.get_msg(letter.stream, letter.stream_sequence)
        assert len(original.data) == MAX_PAYLOAD
        with pytest.raises(Permanent, match="larger than the bus can"):
            await deadletters.requeue(js, letter, "adam")
        assert len(await deadletters.list_all(js)) == 1


@pytest.mark.parametrize("size", [MAX_PAYLOAD - 400, 2 * MAX_PAYLOAD])
async def test_fact_larger_than_the_bus_allows_ends_as_a_dead_letter(js, bus_settings, size):
    async def handler(event):
        return failed_fact() if event.id == "good" else failed_fact().model_copy(update={"reason": "x" * size})

    async with running_bus(bus_settings, handler):
        await publish_event(js, requested("e1"))
        await publish_event(js, requested("good"))
        (event,) = await facts(js, VariantFailed)
        assert event.causationid == "good"
        (abandoned,) = await facts(js, WorkAbandoned)
        assert abandoned.data.code == "internal_error"


@pytest.mark.parametrize("length", [100_000, 2 * MAX_PAYLOAD])
async def test_reason_of_any_length_ends_as_a_dead_letter(js, bus_settings, length):
    async def handler(event):
        if event.id == "good":
            return failed_fact()
        raise Permanent("engine_failed", "x" * length, text="y" * length)

    async with running_bus(bus_settings, handler):
        await publish_event(js, requested("e1"))
        await publish_event(js, requested("good"))
        await facts(js, VariantFailed)
        (abandoned,) = await facts(js, WorkAbandoned)
        assert len(abandoned.data.reason) <= length
        (letter,) = await letters(js)
        assert letter.code == "engine_failed"


async def test_failure_that_cannot_be_told_as_a_fact_becomes_a_dead_letter(js, bus_settings):
    def failure(_event, _error):
        raise ZeroDivisionError("a defect where the failure is told")

    async with running_bus(bus_settings, fail, failure):
        await publish_event(js, requested("e1"))
        await publish_event(js, requested("good"))
        await facts(js, VariantFailed)
        (abandoned,) = await facts(js, WorkAbandoned)
        assert abandoned.data.cause_id == "e1"
        (letter,) = await letters(js)
        assert letter.code == "engine_failed"


async def test_failure_told_with_an_undeclared_fact_becomes_a_dead_letter(js, bus_settings):
    def failure(_event, _error):
        return requested("x").data  # the quantiser does not declare that it emits it

    async with running_bus(bus_settings, fail, failure):
        await publish_event(js, requested("e1"))
        (letter,) = await letters(js)
        assert letter.code == "engine_failed"


async def test_message_without_model_or_event_is_dead_lettered_and_forged_numbers_are_not_believed(js, bus_settings):
    async with running_bus(bus_settings, fail):
        await js.publish(f"{VariantRequested.TYPE}.UPPER.registry", canonical_json(plain(requested("e1"))))
        (letter,) = await letters(js)
        assert letter.code == "subject_mismatch"
        assert letter.subject == f"{VariantRequested.TYPE}.UPPER.registry"


async def test_requeued_message_goes_back_with_its_content_type_and_trace_only(js, bus_settings):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    event = requested("e1").model_copy(update={"traceparent": trace})
    async with running_bus(bus_settings, fail):
        await publish_event(js, event)
        (letter,) = await letters(js)
        sequence = await deadletters.requeue(js, letter, "adam")
        again = await js.get_msg(letter.stream, sequence)
        assert again.data == canonical_json(plain(event) | {"requeuedby": "adam"})
        assert again.subject == SUBJECT.replace("registry", "adam")
        assert {key: value for key, value in again.headers.items() if not key.startswith("Nats-")} == {
            "content-type": CONTENT_TYPE,
            "traceparent": trace,
        }
