"""Names, digests and ids: what is accepted, and that the same always gives the same."""

import json
import math
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.codes import ADVICE
from contracts.envelope import Event, derived_id, nats_subject, plain
from contracts.facts import FACTS, ReleaseCancelled
from contracts.manifests import FileEntry, FolderManifest
from contracts.vocabulary import (
    ArtifactRef,
    ModelName,
    Target,
    canonical_json,
    digest_of,
    digest_of_json,
)
from testbed import factories

NAME = TypeAdapter(ModelName)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ["a", "7", "support-bot", "a" * 63, "0-0", "a--b"])
def test_good_model_names(name):
    assert NAME.validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "A",
        "a.b",
        "a b",
        "../etc",
        "a/b",
        "a*",
        "a>",
        "a" * 64,
        "a" * 300,
        "ä",
        "a\n",
        "a\0",
        "é",
        "a_b",
        None,
        7,
    ],
)
def test_bad_model_names(name):
    with pytest.raises(ValidationError):
        NAME.validate_python(name)


@given(st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"))
def test_good_names_are_safe_in_subjects_keys_and_dns(name):
    assert NAME.validate_python(name) == name
    assert not set(name) & set(".*> /\\\t\n")
    assert len(f"{name}.") <= 64


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "md5:" + "0" * 64, "sha256:" + "A" * 64]
)
def test_bad_digests(digest):
    with pytest.raises(ValidationError):
        ArtifactRef(uri="s3://b/k", digest=digest, size_bytes=1)


def test_target_is_named_as_triton_and_people_know_it():
    target = Target(model="support-bot", version=3, variant="gptq-int4")
    assert target.triton_name == str(target) == "support-bot.v3.gptq-int4"
    assert {target: 1}[Target(model="support-bot", version=3, variant="gptq-int4")] == 1
    with pytest.raises(ValidationError):
        Target(model="support-bot", version=-1, variant="int8")


@given(json_values)
def test_canonical_json_is_json_and_independent_of_order(value):
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        turned = dict(reversed(value.items()))
        assert canonical_json(turned) == canonical_json(value)
        assert digest_of_json(turned) == digest_of_json(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"x": [-math.inf]}])
def test_canonical_json_refuses_what_is_not_json(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_digest_of_known_bytes():
    assert digest_of(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), unique=True, max_size=8))
def test_derived_ids_repeat_and_differ(parts):
    ids = [derived_id(*part) for part in parts]
    assert ids == [derived_id(*part) for part in parts]
    assert all(uuid.UUID(identifier).version == 5 for identifier in ids)
    if not any("|" in text for part in parts for text in part):
        assert len(set(ids)) == len(ids)


def test_derived_id_never_changes_between_releases():
    """Ids stored in a log must be the ids of the same facts after an upgrade."""
    assert derived_id("run-2231", "slipway.release.opened.v1") == "56f0c049-79aa-5b48-a010-4c90a4876664"


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_subjects_of_production_and_staging(kind):
    event = factories.event(kind)
    assert event.nats_subject == f"{kind.TYPE}.support-bot.{event.sender}"
    staged = event.model_copy(update={"environment": "staging"})
    assert staged.nats_subject == nats_subject(kind.TYPE, "support-bot", event.sender, "staging")
    assert staged.nats_subject.startswith("slipway.staging.")


def test_plain_leaves_out_absent_attributes_but_keeps_nulls_of_the_data():
    event = factories.event(ReleaseCancelled, causationid=None, traceparent=None)
    assert not {"causationid", "traceparent"} & set(plain(event))
    alert = factories.event(factories.fact(FACTS["slipway.alert.raised.v1"], value=None))
    assert plain(alert)["data"]["value"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "x" * 257},
        {"subject": "No Name"},
        {"time": "2026-01-01T00:00:00"},
        {"specversion": "0.3"},
        {"correlationid": ""},
        {"correlationid": "x" * 257},
        {"causationid": "x" * 257},
        {"traceparent": "x" * 257},
        {"source": "x" * 513},
        {"environment": "test"},
        {"source": ""},
        {"datacontenttype": "text/plain"},
    ],
)
def test_envelopes_that_are_none(changes):
    event = plain(factories.event(ReleaseCancelled))
    assert Event[ReleaseCancelled].model_validate(event)
    with pytest.raises(ValidationError):
        Event[ReleaseCancelled].model_validate(event | changes)


def test_every_code_says_what_to_do_in_one_sentence():
    for code, advice in ADVICE.items():
        assert code.islower()
        assert advice.endswith(".")
        assert advice[0].isupper()
        assert len(advice) < 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        ".hidden",
        "a/.git/x",
        "a\\b",
        "a b",
        "x\n",
        "C:/x",
        "a/",
        "x" * 513,
    ],
)
def test_paths_that_a_manifest_may_not_name(path):
    with pytest.raises(ValidationError):
        FileEntry(path=path, digest=digest_of(b""), size_bytes=0)


def test_folder_manifest_has_one_digest_whatever_the_order():
    files = tuple(FileEntry(path=name, digest=digest_of(name.encode()), size_bytes=3) for name in ("b", "a", "c/d"))
    manifest, reordered = FolderManifest(files=files), FolderManifest(files=files[::-1])
    assert manifest.to_bytes() == reordered.to_bytes()
    assert manifest.size_bytes == 9
