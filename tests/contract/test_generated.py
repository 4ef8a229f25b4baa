"""Generated files are current, and the AsyncAPI document is sound and says what the services declare."""

import json
import re
from typing import get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry

from contracts.envelope import CONTENT_TYPE
from contracts.facts import FACTS, WorkProgressed
from contracts.identities import PROVISIONER, ROLES
from contracts.running import RUNNING_PREFIX
from contracts.services import FROM_OUTSIDE, SERVICES, Stream, stream_subjects
from contracts.storage.uploads import UPLOADS
from deploy import generate
from tests.kit.wiring import ROOT

CONTRACTS = ROOT / "contracts"


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load((CONTRACTS / "asyncapi.yaml").read_text())


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            yield from references(child)


def follow(document, pointer):
    node = document
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def test_stale_files_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate"])
    generate.main()
    assert generate.stale() == []
    (tmp_path / "contracts/schemas/slipway.alert.raised.v1.json").write_text("{}\n")
    (tmp_path / "deploy/nats/permissions.yaml").unlink()
    (tmp_path / "contracts/schemas/slipway.left.over.v1.json").write_text("{}\n")
    assert set(generate.stale()) == {
        "contracts/schemas/slipway.alert.raised.v1.json",
        "deploy/nats/permissions.yaml",
        "contracts/schemas/slipway.left.over.v1.json",
    }


def test_every_schema_is_a_valid_schema():
    schemas = [json.loads(path.read_text()) for path in (CONTRACTS / "schemas").rglob("*.json")]
    registry = Registry().with_contents([(schema["$id"], schema) for schema in schemas], default_specification=_draft())
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
        resolver = registry.resolver(schema["$id"])
        for reference in references(schema):
            assert resolver.lookup(reference).contents


def _draft():
    from referencing.jsonschema import DRAFT202012

    return DRAFT202012


def test_document_has_the_shape_of_asyncapi_3(document):
    assert document["asyncapi"] == "3.0.0"
    assert set(document["info"]) >= {"title", "version"}
    assert set(document) <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert document["defaultContentType"] == CONTENT_TYPE
    for key in (*document["components"]["messages"], *document["components"]["schemas"]):
        assert re.fullmatch(r"[\w.\-]+", key)
    for channel in document["channels"].values():
        assert set(channel) <= {
            "address",
            "messages",
            "title",
            "summary",
            "description",
            "servers",
            "parameters",
            "tags",
            "externalDocs",
            "bindings",
        }
        assert set(re.findall(r"\{(\w+)\}", channel["address"] or "")) == set(channel.get("parameters", {}))
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert set(operation) <= {
            "action",
            "channel",
            "title",
            "summary",
            "description",
            "security",
            "tags",
            "externalDocs",
            "bindings",
            "traits",
            "messages",
            "reply",
        }


def test_every_reference_resolves(document):
    targets = set(references(document))
    assert targets
    for reference in targets:
        if reference.startswith("#/"):
            assert follow(document, reference)
        else:
            assert json.loads((CONTRACTS / reference).read_text())["$id"]


EXCHANGES = {each.subject: each for service in SERVICES.values() for each in service.answers}


def test_each_kind_of_request_has_a_channel_and_one_for_its_answers(document):
    assert EXCHANGES.keys() == {UPLOADS}
    for subject, exchange in EXCHANGES.items():
        requests, answers = document["channels"][subject], document["channels"][f"{subject}.answers"]
        assert (requests["address"], answers["address"]) == (f"{subject}.{{model}}.{{sender}}", None)
        for channel, body in ((requests, exchange.request), (answers, exchange.answer)):
            ((name, message),) = channel["messages"].items()
            assert name == body.__name__
            described = follow(document, follow(document, message["$ref"])["payload"]["$ref"])
            assert set(described["properties"]) == set(body.model_fields)
        for key in (f"outside.asks.{subject}", f"registry.answers.{subject}"):
            reply = document["operations"][key]["reply"]
            assert follow(document, reply["channel"]["$ref"]) == answers
            assert [follow(document, each["$ref"])["$ref"].rpartition("/")[2] for each in reply["messages"]] == [
                "UploadAnswer"
            ]


def test_each_fact_has_one_channel_with_its_message_and_schema(document):
    answers = {f"{subject}.answers" for subject in EXCHANGES}
    assert set(document["channels"]) == set(FACTS) | EXCHANGES.keys() | answers
    for type_, fact in FACTS.items():
        channel = document["channels"][type_]
        assert channel["address"] == f"{type_}.{{model}}.{{sender}}"
        ((name, message),) = channel["messages"].items()
        assert name == fact.__name__
        described = follow(document, message["$ref"])
        assert described["name"] == type_
        assert described["contentType"] == CONTENT_TYPE
        payload = json.loads((CONTRACTS / described["payload"]["$ref"]).read_text())
        assert payload["properties"]["type"] == {"const": type_}


@pytest.mark.parametrize("name", SERVICES)
def test_operations_of_a_service_are_what_it_declares(document, name):
    own = {key: item for key, item in document["operations"].items() if key.startswith(f"{name}.")}
    documented = {(item["action"], item["channel"]["$ref"].removeprefix("#/channels/")) for item in own.values()}
    service = SERVICES[name]
    declared = {("receive", fact.TYPE) for fact in service.consumes} | {("send", fact.TYPE) for fact in service.emits}
    declared |= {("receive", exchange.subject) for exchange in service.answers}
    assert documented == declared
    for operation in own.values():
        (message,) = operation["messages"]
        assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_outsiders_may_send_exactly_the_inbox_and_requests(document):
    outside = {
        item["channel"]["$ref"].removeprefix("#/channels/")
        for key, item in document["operations"].items()
        if key.startswith("outside.")
    }
    assert outside == {fact.TYPE for fact in FROM_OUTSIDE} | EXCHANGES.keys()


def test_permissions_let_each_service_do_its_work_and_nothing_of_anothers():
    blocks = yaml.safe_load((ROOT / "deploy/nats/permissions.yaml").read_text())
    assert {*SERVICES, PROVISIONER, *(f"a-{role}" for role in ROLES)} == set(blocks)
    for name in SERVICES:
        allowed = set(blocks[name]["publish"])
        for fact in SERVICES[name].emits:
            assert f"{fact.TYPE}.*.{name}" in allowed
        foreign = {fact for other in SERVICES.values() for fact in other.emits} - set(SERVICES[name].emits)
        assert not [item for item in allowed for fact in foreign if item.startswith(f"{fact.TYPE}.")]
        exchanged = {*SERVICES[name].reports}
        assert all(item.endswith(f".{name}") for item in allowed - exchanged if item.startswith("slipway."))
        buckets = {item for item in allowed if item.startswith("$KV.")}
        assert buckets == {f"$KV.{bucket}.>" for bucket in (*SERVICES[name].owns, *SERVICES[name].edits)}


def test_nobody_subscribes_to_what_a_stream_stores():
    """Whoever may create consumers could otherwise have stored messages delivered to a stored subject."""
    stored = [subject.split(".") for stream in get_args(Stream) for subject in stream_subjects(stream)]
    not_stored = {subject for service in SERVICES.values() for subject in service.reports}
    not_stored |= {each.filter for service in SERVICES.values() for each in service.answers} | {f"{RUNNING_PREFIX}.*"}
    not_stored |= {f"{RUNNING_PREFIX}.{name}" for name in SERVICES}
    not_stored = {item for item in not_stored if not any(item.split(".")[:2] == subject[:2] for subject in stored)}
    for block in yaml.safe_load((ROOT / "deploy/nats/permissions.yaml").read_text()).values():
        allowed = {f"{WorkProgressed.TYPE}.*.*", *not_stored}
        assert all(item.startswith("_INBOX") or item in allowed for item in block["subscribe"])
