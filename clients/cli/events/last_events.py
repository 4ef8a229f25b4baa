"""Read the last events of the log without a consumer, and the answers to orders."""

import asyncio
from collections.abc import Sequence
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.events.event_log import STREAMS, parse
from clients.cli.reading import LastMessage, last_message, read_messages
from contracts.envelope import Event, nats_subject
from contracts.facts import Fact
from contracts.services import EVENTS, emitters


async def last_sequences(js: JetStreamContext) -> dict[str, int]:
    """Return the last sequence of each stream."""
    last = {str(info.config.name): int(info.state.last_seq) for info in await js.streams_info()}
    return {stream: last[stream] for stream in STREAMS}


async def last_event(
    js: JetStreamContext, fact: type[Fact], model: str, sender: str | None = None
) -> Event[Any] | None:
    """Return the last event of a type about a model in production, by a sender or all; None without an event."""
    message = await _last_of(js, fact, model, emitters(fact) if sender is None else (sender,))
    return parse(message.subject, message.data) if message is not None else None


async def _last_of(js: JetStreamContext, fact: type[Fact], model: str, senders: Sequence[str]) -> LastMessage | None:
    subjects = [nats_subject(fact.TYPE, model, sender) for sender in senders]
    messages = await asyncio.gather(*(last_message(js, EVENTS, subject) for subject in subjects))
    return max(filter(None, messages), key=lambda message: message.sequence, default=None)


async def answer_to(js: JetStreamContext, fact: type[Fact], model: str, order_id: str, after: int) -> Event[Any] | None:
    """Return the event of a type that answers an order; None without an answer.

    A consumer is needed only if another order of the model has a later answer.

    Args:
        js: The bus.
        fact: A type with an `order_id` or a `cause_id`.
        model: The model of the order.
        order_id: Id of the order.
        after: Last sequence of the event log before the order.
    """
    last = await _last_of(js, fact, model, emitters(fact))
    if last is None or last.sequence <= after:
        return None
    answer = _answer(last.subject, last.data, order_id)
    if answer is not None:
        return answer
    where: dict[str, Any] = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}
    messages = await read_messages(js, EVENTS, nats_subject(fact.TYPE, model, "*"), **where)
    answers = (_answer(message.subject, message.data, order_id) for message in messages)
    return next(filter(None, answers), None)


def _answer(subject: str, body: bytes, order_id: str) -> Event[Any] | None:
    event = parse(subject, body)
    named = event and (getattr(event.data, "order_id", None) or getattr(event.data, "cause_id", None))
    return event if named == order_id else None
