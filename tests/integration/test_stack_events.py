"""What the stacks of tests read of the event log holds every event of the type that they ask for."""

from clients.cli.events.event_log import read_history
from contracts.envelope import plain
from contracts.facts import FACTS
from contracts.services import EVENTS, INBOX, ORDERS, stream_of
from contracts.vocabulary import canonical_json
from testbed import factories
from testbed.stack import where_is

STORED = {type_: kind for type_, kind in FACTS.items() if stream_of(kind) in (INBOX, ORDERS, EVENTS)}


async def test_every_type_is_found_in_its_environment(js):
    published = {}
    for type_, kind in STORED.items():
        event = factories.event(kind, id=type_)
        published[type_] = event
        await js.publish(event.nats_subject, canonical_json(plain(event)), headers={"Nats-Msg-Id": type_})
    for type_, event in published.items():
        name = type_.removeprefix("slipway.").removesuffix(".v1")
        part = where_is(name, event.environment)
        history = [logged.event for logged in await read_history(js, event.nats_subject.split(".")[-2], part)]
        assert [each.id for each in history if each.type == type_] == [type_], name
        if stream_of(STORED[type_]) == EVENTS:
            assert len(history) == 1, f"only {name} is read"
