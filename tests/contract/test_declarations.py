"""Services do what they declare: handlers, emissions, and the schemas that FastStream derives from the handlers."""

import importlib
import pkgutil
import re
from typing import Any
from urllib.parse import unquote

import pytest
from faststream.specification import AsyncAPI

import services
from contracts.facts import (
    FACTS,
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    OrderRefused,
    WorkAbandoned,
    WorkProgressed,
)
from contracts.services import (
    EVENTS,
    FROM_OUTSIDE,
    NOT_STORED,
    SERVICES,
    durable_name,
    filter_subject,
    stream_of,
)
from deploy.generate import definitions, event_schema
from shared.messaging import topology
from tests.kit.wiring import ROOT, built, module_name, services_with_handlers

each_service = pytest.mark.parametrize("name", services_with_handlers())
SAID_THROUGH = {
    WorkProgressed: ("progress_reporter",),
    OrderRefused: ("order_refused",),
    AlertRaised: ("observe_loop", "PlainAlert"),
    AlertUpdated: ("observe_loop",),
    AlertResolved: ("observe_loop", "PlainAlert"),
}
"""Facts that a part of `shared` or `decisions` makes for a service; the service names that part."""


def test_every_service_folder_is_declared():
    folders = {module.name.replace("_", "-") for module in pkgutil.iter_modules(services.__path__) if module.ispkg}
    assert folders == set(SERVICES)


@each_service
def test_handlers_are_exactly_the_declared_ones(name):
    declared = {durable_name(name, fact, where): fact for fact, where in SERVICES[name].reads}
    handled = {durable: consumption.fact for durable, consumption in built(name).consumptions.items()}
    assert handled == declared


@each_service
def test_subscriptions_meet_the_provisioned_consumers(name):
    provisioned = {
        consumer.durable_name: (stream, consumer.filter_subject) for stream, consumer in topology.consumers()
    }
    bus = built(name)
    subscribers: list[Any] = list(bus.broker.subscribers)
    subscribed = {
        subscriber.extra_options["durable"]: (subscriber.stream.name, subscriber.subject.broker_address)
        for subscriber in subscribers
    }
    assert subscribed == {durable: provisioned[durable] for durable in bus.consumptions}
    assert all(subscriber.stream.declare is False for subscriber in subscribers)


@each_service
def test_a_service_names_in_its_code_whatever_it_declares_to_emit(name):
    """A declared emission that no file of the service mentions is never published."""
    folder = ROOT / module_name(name).replace(".", "/")
    text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    words = set(re.findall(r"\w+", text))
    emits = SERVICES[name].emits
    assert [fact.__name__ for fact in emits if not words & {fact.__name__, *SAID_THROUGH.get(fact, ())}] == []


@each_service
def test_returned_facts_are_declared(name):
    app = importlib.import_module(module_name(name) + ".app")
    text = (ROOT / f"{module_name(name).replace('.', '/')}/app.py").read_text()
    returned = set(re.findall(r"\b\w+\b", " ".join(re.findall(r"->\s*([^:]+):", text))))
    facts = {getattr(app, word) for word in returned if hasattr(app, word)} & set(FACTS.values())
    assert facts - set(SERVICES[name].emits) == set()


def test_every_consumed_event_is_emitted_by_a_service():
    emitted = {fact for service in SERVICES.values() for fact in service.emits} | set(FROM_OUTSIDE) | {WorkAbandoned}
    consumed = {fact for service in SERVICES.values() for fact in service.consumes}
    assert consumed - emitted == set()


def test_what_is_live_only_is_consumed_by_no_durable():
    assert [fact for service in SERVICES.values() for fact in service.consumes if fact in NOT_STORED] == []


def test_two_services_never_own_one_bucket():
    owned = [bucket for service in SERVICES.values() for bucket in service.owns]
    assert len(owned) == len(set(owned))
    assert set(owned) <= set(topology.BUCKETS)


def test_every_stored_fact_has_exactly_one_stream():
    def matches(subject, pattern):
        regex = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
        return re.fullmatch(regex, subject) is not None

    streams = {config.name: config.subjects for config in topology.streams()}
    for fact in FACTS.values():
        subject = f"{fact.TYPE}.support-bot.somebody"
        holding = [name for name, subjects in streams.items() if any(matches(subject, item) for item in subjects)]
        assert holding == ([] if fact in NOT_STORED else [stream_of(fact)]), fact.TYPE
        if stream_of(fact) == EVENTS:
            staging = subject.replace("slipway.", "slipway.staging.", 1)
            assert any(matches(staging, stream) for stream in streams[EVENTS])
        if stream_of(fact) is not None:
            assert matches(subject, filter_subject(fact))


def resolved(schema, definitions):
    """Follow every reference, so that two ways of splitting one schema compare equal; prose is left out.

    So is what OpenAPI says of alternatives beside `oneOf`: it has references of its own.
    """
    if isinstance(schema, dict):
        if "$ref" in schema:
            return resolved(definitions[unquote(schema["$ref"].rsplit("/", 1)[1])], definitions)
        kept = {
            key: value for key, value in schema.items() if key not in ("title", "description", "$defs", "discriminator")
        }
        return {key: resolved(value, definitions) for key, value in kept.items()}
    if isinstance(schema, list):
        return [resolved(part, definitions) for part in schema]
    return schema


@each_service
def test_faststream_derives_the_payloads_that_we_publish_as_schemas(name):
    bus = built(name)
    document = AsyncAPI(bus.broker).to_specification().to_jsonable()
    schemas = document["components"]["schemas"]
    messages = document["components"]["messages"]
    seen = set()
    for fact, where in SERVICES[name].reads:
        prefix = "staging " if where == "staging" else ""
        (message,) = [message for key, message in messages.items() if key.startswith(f"{name}: {prefix}{fact.TYPE}:")]
        theirs = resolved(message["payload"], schemas)
        ours = resolved(event_schema(fact), definitions()["$defs"])
        (envelope,) = ours.pop("allOf")
        ours["properties"] = envelope["properties"] | ours["properties"]
        ours["required"] += envelope["required"]
        ours["type"] = envelope["type"]
        # Ours says more about the envelope: which type it is, and that CloudEvents requires specversion.
        assert ours["properties"].pop("type") == {"const": fact.TYPE}
        assert theirs["properties"].pop("type") == {"type": "string"}
        assert set(ours.pop("required")) - set(theirs.pop("required")) == {"specversion"}
        assert theirs == ours, fact.TYPE
        seen.add((fact, where))
    assert len(messages) == len(seen)
