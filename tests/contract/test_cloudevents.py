"""The CloudEvents SDK reads what we publish, and we read what it writes."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from contracts.envelope import CONTENT_TYPE, Event, plain
from contracts.facts import FACTS
from contracts.vocabulary import canonical_json
from shared.messaging.events import parse_event

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "contracts" / "samples").glob("*.json"))
EXTENSIONS = ("correlationid", "causationid", "traceparent", "environment", "requeuedby")
each_sample = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)


def event_in(path):
    sample = json.loads(path.read_text())
    return Event[FACTS[sample["type"]]].model_validate(sample)


@each_sample
def test_sdk_reads_every_attribute_as_we_meant_it(path):
    event = event_in(path)
    read = JSONFormat().read(None, canonical_json(plain(event)))
    assert isinstance(read, CloudEvent)
    assert read.get_specversion() == "1.0"
    assert read.get_id() == event.id
    assert read.get_source() == event.source
    assert read.get_type() == event.type
    assert read.get_subject() == event.subject
    assert read.get_time() == event.time
    assert read.get_datacontenttype() == "application/json"
    assert {name: read.get_extension(name) for name in EXTENSIONS} == {
        name: getattr(event, name) for name in EXTENSIONS
    }
    assert read.get_data() == plain(event)["data"]


@each_sample
def test_we_read_what_the_sdk_writes(path):
    event = event_in(path)
    written = JSONFormat().write(JSONFormat().read(CloudEvent, canonical_json(plain(event))))
    assert parse_event(type(event.data), event.nats_subject, written) == event


def test_absent_extensions_are_left_out():
    event = event_in(SAMPLES[0]).model_copy(update=dict.fromkeys(("causationid", "traceparent", "requeuedby")))
    read = JSONFormat().read(None, canonical_json(plain(event)))
    assert set(read.get_attributes()) == {
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "correlationid",
        "environment",
    }
    assert isinstance(read.get_attributes()["time"], datetime)


def test_content_type_is_the_sdks():
    assert JSONFormat().get_content_type() == CONTENT_TYPE
