"""Every sample that was ever committed still parses, whole, and readers ignore what they do not know."""

import json
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import BaseModel, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from contracts.envelope import CONTENT_TYPE, Event, plain
from contracts.facts import FACTS
from contracts.policy import ReleasePolicy
from contracts.vocabulary import canonical_json
from testbed import factories

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
SAMPLES = sorted((CONTRACTS / "samples").glob("*.json"))
UNKNOWN = "a_field_of_a_later_time"


def load(path):
    return json.loads(path.read_text())


def sample_of(type_):
    return load(CONTRACTS / "samples" / f"{type_}.json")


def validator_of(type_):
    registry = Registry().with_contents(
        [(path.name, load(path)) for path in (CONTRACTS / "schemas").glob("*.json")], default_specification=DRAFT202012
    )
    schema = registry.contents(f"{type_}.json")
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker(), registry=registry)


def fact_of(path):
    return FACTS[load(path)["type"]]


def every(value, at=()):
    """Walk all JSON objects in a value, with where they are."""
    if isinstance(value, dict):
        yield at, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from every(child, (*at, key))


each_sample = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)


def test_every_fact_has_a_sample_and_every_sample_names_its_fact():
    assert {path.stem.split("@")[0] for path in SAMPLES} == set(FACTS)
    assert [path.name for path in SAMPLES if load(path)["type"] != path.stem.split("@")[0]] == []


def lost(sample, kept, at="$"):
    """Name everything of a sample that is not in what was kept of it; what came since may be there besides."""
    if isinstance(sample, dict) and isinstance(kept, dict):
        return [name for key, value in sample.items() for name in lost(value, kept.get(key, ...), f"{at}.{key}")]
    if isinstance(sample, list) and isinstance(kept, list) and len(sample) == len(kept):
        pairs = enumerate(zip(sample, kept, strict=True))
        return [name for number, (pair, other) in pairs for name in lost(pair, other, f"{at}[{number}]")]
    same = sample == kept and isinstance(kept, bool) == isinstance(sample, bool)
    return [] if same else [f"{at}: {sample!r} became {kept!r}"]


@each_sample
def test_sample_parses_and_loses_nothing(path):
    sample = load(path)
    assert lost(sample, plain(Event[fact_of(path)].model_validate(sample))) == []


def test_a_lost_field_would_be_noticed():
    assert lost({"a": [{"b": 1}]}, {"a": [{"c": 1}]}) == ["$.a[0].b: 1 became Ellipsis"]
    assert lost({"a": 1}, {"a": True}) == ["$.a: 1 became True"]
    assert lost({"a": 1}, {"a": 1, "since": 2}) == []


@each_sample
def test_sample_survives_the_bytes_we_publish(path):
    event = Event[fact_of(path)].model_validate(load(path))
    again = Event[fact_of(path)].model_validate_json(canonical_json(plain(event)))
    assert again == event


@each_sample
def test_sample_fits_its_committed_schema(path):
    validator_of(load(path)["type"]).validate(load(path))


def parts_of(value):
    """List every model in a value, itself included."""
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from parts_of(getattr(value, name))
    elif isinstance(value, dict | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from parts_of(item)


def models_in(annotation):
    """List every model that a type refers to, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for argument in get_args(annotation):
        yield from models_in(argument)


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_samples_set_every_field_of_their_fact(kind):
    """A field that no sample sets could be removed or retyped without any test noticing."""
    present = set()
    for path in SAMPLES:
        if fact_of(path) is kind:
            for part in parts_of(Event[kind].model_validate(load(path) | {"requeuedby": "adam"})):
                names = (name for name in part.model_fields_set if getattr(part, name) not in (None, ()))
                present |= {(type(part).__name__, name) for name in names}
    expected = {(model.__name__, name) for model in models_in(Event[kind]) for name in model.model_fields}
    assert expected - present == set()


@each_sample
def test_unknown_fields_are_ignored_everywhere_but_in_policies(path):
    sample = load(path)
    original = Event[fact_of(path)].model_validate(sample)
    free = {
        "hyperparameters",
        "details",
        "settings",
        "features",
        "errors",
        "e_values",
        "counts",
        "library_versions",
        "options",
        "template_options",
        "observed",
        "record",
        "blocks",
        "drills",
        "pairs",
    }
    for at, node in list(every(sample)):
        if not (free | POLICY_PARTS) & {str(key) for key in at}:
            node[UNKNOWN] = {"nested": [1, None]}
    assert sample[UNKNOWN]
    assert sample["data"][UNKNOWN]
    assert Event[fact_of(path)].model_validate(sample) == original


POLICY_PARTS = {"policy", "gate", "gates", "quality_gate", "load", "triggers", "evaluations"}


def policy_objects():
    sample = sample_of("slipway.checkpoint.ready.v1")
    inside = [at for at, _ in every(sample["data"]["policy"])]
    mappings = (("quality",), ("attesters",))
    return [at for at in inside if at not in mappings and "definition" not in at]


@pytest.mark.parametrize("at", policy_objects(), ids=lambda at: ".".join(map(str, at)) or "policy")
def test_unknown_fields_of_a_policy_are_errors(at):
    policy = sample_of("slipway.checkpoint.ready.v1")["data"]["policy"]
    ReleasePolicy.model_validate(policy)
    node = policy
    for key in at:
        node = node[key]
    node["max_perplexity_ration"] = 1.0
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ReleasePolicy.model_validate(policy)


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_factories_make_every_fact_as_it_travels(kind):
    event = factories.event(kind)
    assert Event[kind].model_validate_json(canonical_json(plain(event))) == event
    assert CONTENT_TYPE == "application/cloudevents+json"


@each_sample
def test_required_fields_are_really_required(path):
    """The schema must not promise less than the model asks for, nor more."""
    sample, kind = load(path), fact_of(path)
    validator = validator_of(sample["type"])
    for name in list(sample["data"]):
        without = {**sample, "data": {key: value for key, value in sample["data"].items() if key != name}}
        try:
            Event[kind].model_validate(without)
        except ValidationError:
            accepted = False
        else:
            accepted = True
        assert validator.is_valid(without) == accepted, name
