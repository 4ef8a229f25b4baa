"""Writes the files generated from the contracts: schemas, permissions, facts of the chart; `--check` compares."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from contracts import manifests
from contracts.envelope import CONTENT_TYPE, Event
from contracts.facts import FACTS, Fact
from contracts.identities import PROVISIONER, ROLES, Identity
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.services import FROM_OUTSIDE, SERVICES, Exchange, stream_of
from contracts.storage.access import BUCKET
from contracts.vocabulary import IDENTITY_PATTERN, MODEL_NAME_PATTERN, Contract
from decisions.access.bus_permissions import permissions_of
from deploy.helm import facts as chart
from deploy.identity.store_permissions import access_of, policy

ROOT = Path(__file__).resolve().parent.parent
DEFINITIONS = "definitions.json"
"""The schema file with the definitions of all events and records, referenced by the other files."""
RECORDS: tuple[Any, ...] = (
    ReleasePolicy,
    Route,
    manifests.FolderManifest,
    manifests.BaseManifest,
    manifests.MergedManifest,
    manifests.VariantManifest,
    manifests.VersionManifest,
    manifests.DeploymentRecord,
    manifests.BenchmarkReport,
    manifests.EvaluationReport,
)


def generated() -> dict[Path, str]:
    """Return every generated file and its content."""
    schemas = {f"{type_}.json": event_schema(fact) for type_, fact in FACTS.items()} | {DEFINITIONS: definitions()}
    files = {
        Path("contracts/schemas") / name: _json(
            {"$id": name, "$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )
        for name, schema in schemas.items()
    }
    files[Path("contracts/asyncapi.yaml")] = yaml.safe_dump(asyncapi(), sort_keys=False, width=120, allow_unicode=True)
    files[Path("deploy/nats/permissions.yaml")] = permissions()
    files[Path("deploy/store/policies.json")] = policies()
    return files | chart.files()


def definitions() -> dict[str, Any]:
    """Return the JSON Schema of facts, records and the envelope, with all nested definitions."""
    envelope = Event[Fact].model_json_schema(by_alias=True)
    del envelope["properties"]["data"], envelope["$defs"]
    _, found = models_json_schema([(model, "validation") for model in (*FACTS.values(), *RECORDS)])
    return {"$defs": {**found["$defs"], "Envelope": envelope}}


def event_schema(fact: type[Fact]) -> dict[str, Any]:
    """Return the JSON Schema of a whole event: envelope and data."""
    return {
        "allOf": [{"$ref": f"{DEFINITIONS}#/$defs/Envelope"}],
        "properties": {"type": {"const": fact.TYPE}, "data": {"$ref": f"{DEFINITIONS}#/$defs/{fact.__name__}"}},
        "required": ["specversion"],
    }


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3 document: one channel per fact and per kind of request, send and receive per service."""
    exchanges = [exchange for service in SERVICES.values() for exchange in service.answers]
    bodies = [body for exchange in exchanges for body in (exchange.request, exchange.answer)]
    _, found = models_json_schema(
        [(body, "serialization") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    channels = {type_: _channel(fact) for type_, fact in FACTS.items()}
    for exchange in exchanges:
        channels |= _channels_of(exchange)
    operations: dict[str, Any] = {}
    for service in SERVICES.values():
        operations |= {f"{service.name}.receives.{name.TYPE}": _operation("receive", name) for name in service.consumes}
        operations |= {f"{service.name}.sends.{name.TYPE}": _operation("send", name) for name in service.emits}
        operations |= {
            f"{service.name}.answers.{each.subject}": _answering("receive", each) for each in service.answers
        }
    operations |= {f"outside.sends.{name.TYPE}": _operation("send", name) for name in FROM_OUTSIDE}
    operations |= {f"outside.asks.{each.subject}": _answering("send", each) for each in exchanges}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Slipway",
            "version": "1.0.0",
            "description": "Facts on NATS JetStream, CloudEvents 1.0 as JSON. Subject = type + model name + sender.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                **{fact.__name__: _message(fact) for fact in FACTS.values()},
                **{body.__name__: _body(body) for body in bodies},
            },
            "schemas": found["$defs"],
        },
    }


def _channel(fact: type[Fact]) -> dict[str, Any]:
    return {
        "address": f"{fact.TYPE}.{{model}}.{{sender}}",
        "description": f"Stored in {stream_of(fact)}." if stream_of(fact) else "Live only, never stored.",
        "parameters": _parameters(),
        "messages": {fact.__name__: {"$ref": f"#/components/messages/{fact.__name__}"}},
    }


def _parameters() -> dict[str, Any]:
    return {
        "model": {"description": f"Model name, {MODEL_NAME_PATTERN}"},
        "sender": {"description": f"Identity whose key publishes, {IDENTITY_PATTERN}"},
    }


def _channels_of(exchange: Exchange) -> dict[str, Any]:
    """Return the channels of requests and of their answers."""
    request, answer = exchange.request.__name__, exchange.answer.__name__
    requests = {
        "address": f"{exchange.subject}.{{model}}.{{sender}}",
        "description": "Requests. Never stored: the service answers while the sender waits.",
        "parameters": _parameters(),
        "messages": {request: {"$ref": f"#/components/messages/{request}"}},
    }
    answers = {
        "address": None,
        "description": "Answers, to the inbox of the sender: `_INBOX_{sender}.` and what it chooses.",
        "messages": {answer: {"$ref": f"#/components/messages/{answer}"}},
    }
    return {exchange.subject: requests, f"{exchange.subject}.answers": answers}


def _answering(action: str, exchange: Exchange) -> dict[str, Any]:
    requests, answers = f"#/channels/{exchange.subject}", f"#/channels/{exchange.subject}.answers"
    return {
        "action": action,
        "channel": {"$ref": requests},
        "messages": [{"$ref": f"{requests}/messages/{exchange.request.__name__}"}],
        "reply": {
            "address": {"location": "$message.header#/reply", "description": "The reply subject of NATS's message."},
            "channel": {"$ref": answers},
            "messages": [{"$ref": f"{answers}/messages/{exchange.answer.__name__}"}],
        },
    }


def _body(model: type[Contract]) -> dict[str, Any]:
    return {
        "name": model.__name__,
        "summary": (model.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
    }


def _message(fact: type[Fact]) -> dict[str, Any]:
    return {
        "name": fact.TYPE,
        "summary": (fact.__doc__ or "").strip().splitlines()[0],
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"./schemas/{fact.TYPE}.json"},
    }


def _operation(action: str, fact: type[Fact]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{fact.TYPE}"},
        "messages": [{"$ref": f"#/channels/{fact.TYPE}/messages/{fact.__name__}"}],
    }


def permissions() -> str:
    """Return the NATS permissions of services, provisioning and roles, for reviews.

    `slipway keys` makes the server's configuration for each installation, from the same functions.
    """
    blocks = {identity.name: asdict(permissions_of(identity)) for identity in _identities()}
    return yaml.safe_dump(blocks, sort_keys=False, width=160)


def policies() -> str:
    """Return the S3 policies of all identities that use the store, for reviews and other servers.

    `slipway keys` makes the same for each installation's identities.
    """
    given = {identity.name: access for identity in _identities() if (access := access_of(identity)) is not None}
    return _json({name: policy(access, BUCKET) for name, access in given.items()})


def _identities() -> list[Identity]:
    """Return all services, provisioning, and a user of each role."""
    key = "U" + "A" * 55
    services = [Identity(name=name, public_keys=(key,)) for name in (*SERVICES, PROVISIONER)]
    users = [Identity(name=f"a-{role}", roles=(role,), public_keys=(key,)) for role in ROLES]
    return [*services, *users]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def stale() -> list[str]:
    """Return the generated files that are missing, different or left over."""
    files = generated()
    paths = {name: ROOT / name for name in files}
    wrong = [str(name) for name, path in paths.items() if not path.is_file() or path.read_text() != files[name]]
    folders = ("contracts/schemas", "deploy/helm/slipway/files")
    on_disk = {path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.*")}
    return wrong + [str(path) for path in sorted(on_disk - set(files))]


def main() -> None:
    """Write the generated files, or compare them with `--check`."""
    if "--check" in sys.argv[1:]:
        wrong = stale()
        for name in wrong:
            print(f"stale: {name}")  # noqa: T201 - a command
        if wrong:
            sys.exit("Generated files are stale: run `make schemas` and commit the result.")
        return
    for relative, text in generated().items():
        path = ROOT / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
