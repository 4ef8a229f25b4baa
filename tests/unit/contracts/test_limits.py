"""How large an event from outside may be: every field of it has a limit, and what is below all of them always fits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from contracts import facts as f
from contracts.codes import ADVICE
from contracts.envelope import plain
from contracts.limits import EVENT_BYTES, ITEMS, KEY_BYTES, TEXT_CHARACTERS, event_too_large, too_large
from contracts.services import FROM_OUTSIDE
from contracts.vocabulary import canonical_json
from shared.errors import Permanent
from shared.messaging.events import parse_event
from testbed import factories

READY = factories.fact(f.CheckpointReady)


def ready(**changes):
    return READY.model_copy(update=changes)


def training(**changes):
    return ready(training=READY.training.model_copy(update=changes))


def weights(uri):
    return ready(weights=f.Weights(kind="lora", ref=factories.ref("w").model_copy(update={"uri": uri})))


@pytest.mark.parametrize("kind", FROM_OUTSIDE, ids=lambda kind: kind.__name__)
def test_what_people_and_training_send_is_below_the_limits(kind):
    event = factories.event(kind)
    assert too_large(event.data) is None
    assert event_too_large(canonical_json(plain(event))) is None


@pytest.mark.parametrize(
    ("changed", "field", "size", "limit"),
    [
        (training(hyperparameters={"table": "x" * 40_000}), "training.hyperparameters", 40_013, 32_768),
        (training(hyperparameters={str(number): 1 for number in range(257)}), "training.hyperparameters", 257, 256),
        (training(hyperparameters={"é" * 17_000: 1}), "training.hyperparameters", 34_007, 32_768),
        (training(framework="x" * 201), "training.framework", 201, 200),
        (ready(evals=READY.evals[:1] * 257), "evals", 257, 256),
        (ready(evals=(READY.evals[0].model_copy(update={"name": "x" * 201}),)), "evals.0.name", 201, 200),
        (ready(variants=("int8",) * 65), "variants", 65, 64),
        (ready(policy=factories.policy(gates=factories.policy().gates[:1] * 65)), "policy.gates", 65, 64),
        (weights("s3://slipway/checkpoints/m/" + "d/" * 700 + "x"), "the key of weights.ref.uri", 1415, 1024),
        (weights("s3://slipway/checkpoints/m/" + "d" * 256), "a part of the key of weights.ref.uri", 256, 255),
    ],
)
def test_a_field_above_its_limit_is_named_with_size_and_limit(changed, field, size, limit):
    excess = too_large(changed)
    assert (excess.field, excess.size, excess.limit) == (field, size, limit)
    assert excess.reason.startswith(f"{field} has {size:,} ")
    assert f"{limit:,}" in excess.reason


def test_a_record_that_an_administrator_orders_may_name_many_models():
    def ordered(models):
        return f.RecordOrdered(kind="api-key", name="0" * 12, record={"models": models})

    assert too_large(ordered(["support-bot"] * 1000)) is None
    assert too_large(ordered(["support-bot"] * 100_000)).limit == 200_000


def test_the_schema_tells_publishers_the_limits():
    schema = f.CheckpointReady.model_json_schema()
    assert schema["properties"]["evals"]["maxItems"] == 256
    assert schema["$defs"]["Training"]["properties"]["hyperparameters"]["maxProperties"] == 256
    assert schema["$defs"]["EvalResult"]["properties"]["name"]["maxLength"] == 200


def test_what_was_written_before_there_were_limits_can_still_be_read():
    old = training(hyperparameters={"table": "x" * 100_000}).model_dump(mode="json")
    assert f.CheckpointReady.model_validate(old)


def texts(value):
    """List every text, list and mapping in JSON data."""
    if isinstance(value, dict):
        return [value, *(text for item in value.values() for text in texts(item))]
    if isinstance(value, list):
        return [value, *(text for item in value for text in texts(item))]
    return [value] if isinstance(value, str) else []


@given(
    st.builds(
        training,
        hyperparameters=st.dictionaries(
            st.text(max_size=3000),
            st.recursive(st.text(max_size=3000) | st.integers(), st.lists, max_leaves=20),
            max_size=300,
        ),
        framework=st.text(max_size=300),
        run_id=st.text(max_size=300),
    )
)
def test_whatever_passes_has_no_part_above_any_limit(changed):
    if too_large(changed) is None:
        dumped = json.loads(changed.model_dump_json())
        hyperparameters = dumped["training"].pop("hyperparameters")
        assert len(json.dumps(hyperparameters, ensure_ascii=False)) <= 32_768
        assert max(len(text) for text in texts(dumped)) <= max(TEXT_CHARACTERS, ITEMS)


@given(st.text(alphabet="ab/é\ud800", max_size=2000))
def test_no_key_passes_that_a_store_would_refuse_for_its_length(key):
    class Named(BaseModel):
        uri: str

    excess = too_large(Named.model_construct(uri="s3://bucket/" + key))
    longest = max(len(part.encode(errors="replace")) for part in key.split("/"))
    fits = len(key.encode(errors="replace")) <= KEY_BYTES and longest <= 255 and len(key) + 12 <= TEXT_CHARACTERS
    assert (excess is None) == fits


# -- where events from outside are read -------------------------------------------------------------------------------


def body_of(data, **changes):
    return canonical_json(plain(factories.event(data, **changes)))


def refused(data, body=None):
    event = factories.event(data)
    with pytest.raises(Permanent) as caught:
        parse_event(type(data), event.nats_subject, body or body_of(data))
    return caught.value


@pytest.mark.parametrize(
    "changed", [training(hyperparameters={"table": "x" * 40_000}), weights("s3://slipway/" + "d/" * 700)]
)
def test_a_field_that_is_too_large_refuses_the_event(changed):
    error = refused(changed)
    assert (error.code, error.reason) == ("too_large", too_large(changed).reason)
    assert error.details == too_large(changed).details
    assert error.sentence().endswith(ADVICE["too_large"])


def test_an_event_that_is_too_large_as_a_whole_is_refused_before_it_is_read():
    body = body_of(READY) + b" " * EVENT_BYTES
    error = refused(READY, body)
    assert error.code == "too_large"
    assert f"{len(body):,}" in error.reason
    assert f"{EVENT_BYTES:,}" in error.reason


def test_a_limit_of_the_schema_itself_answers_with_the_same_code_value_and_limit():
    data = READY.model_dump(mode="json")
    data["training"]["run_id"] = "x" * 201
    event = plain(factories.event(READY)) | {"data": data}
    error = refused(READY, canonical_json(event))
    assert (error.code, error.reason) == ("too_large", "data.training.run_id has 201 characters; the limit is 200.")


def test_facts_of_services_have_no_such_limit():
    batch = f.InferenceBatch(gateway="g", records=(factories.inference(),) * 600)
    body = body_of(batch)
    assert len(body) > EVENT_BYTES
    assert parse_event(f.InferenceBatch, factories.event(batch).nats_subject, body).data == batch
