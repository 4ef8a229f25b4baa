"""Who may come in."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.attachments import Attachment
from contracts.evaluations import Evaluations
from contracts.facts import BaseModelRef, EvalResult, Weights
from contracts.policy import Canary, Deadlines, LoadProfile, MetricGate
from contracts.teams import Team
from contracts.vocabulary import ArtifactRef, ServingSettings, digest_of
from services.registry.domain import admission
from services.registry.domain.admission import AllowedLocations, Refusal
from tests.kit import fakes_registry as k

PLACES = AllowedLocations(bucket="slipway", file_roots=(PurePosixPath("/srv/checkpoints"),), hub=True)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERMES = ServingSettings(tool_parser="hermes")
ONE_GROUP = Attachment(model="support-bot", groups={"blue": ("http://a",)})
SHARED = ONE_GROUP.model_copy(update={"adapters": "/adapters"})
TWO_GROUPS = SHARED.model_copy(update={"groups": {"blue": ("http://a",), "green": ("http://b",)}})
OWN = "s3://slipway/checkpoints/support-bot/"


def at(uri: str):
    weights = Weights(kind="lora", ref=ArtifactRef(uri=uri, digest=digest_of(b"a"), size_bytes=1))
    return k.ready(weights=weights)


@pytest.mark.parametrize(
    "uri",
    [
        OWN + "manifests/folder/ab.json",
        "file:///srv/checkpoints/run",
        f"hf://acme/lora@{COMMIT}",
        f"hf://gpt2@{COMMIT}",
    ],
)
def test_artifacts_in_their_own_place_are_let_in(uri):
    assert admission.assess_locations(at(uri), PLACES) is None


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/x",
        "https://example.org/x",
        "ftp://h/x",
        "hf://model",
        "data:,x",
        "x",
        "//h/x",
        "s3:x",
        "s3://other/checkpoints/support-bot/x",
        "s3://slipway/checkpoints/other-bot/x",
        "s3://slipway/blobs/x",
        "s3://slipway/checkpoints/support-bot2/x",
        "s3://slipway/checkpoints/support-bot",
        OWN,
        OWN + "../other/x",
        OWN + "a/../../other/x",
        OWN + "./x",
        OWN + "a//x",
        OWN + "%2e%2e/x",
        OWN + "x?y",
        OWN + "x#y",
        OWN + "a\\b",
        "s3://slipway//checkpoints/support-bot/x",
        OWN + "x\n",
        "s3://slipway@other/checkpoints/support-bot/x",
        "file:///etc/passwd",
        "file:///srv/checkpoints/../secret",
        "file:///srv/checkpointsx/y",
        "file://host/srv/checkpoints/x",
        "file:/etc/x",
        "s3://[/x",
        "hf://acme/lora",
        "hf://acme/lora@main",
        "hf://acme/lora@v1.0",
        f"hf://acme/lora@{COMMIT[:12]}",
        f"hf://acme/lora@{COMMIT.upper()}",
        "hf://acme/lora@",
        f"hf://acme/../lora@{COMMIT}",
        f"hf://acme/lora/x@{COMMIT}",
        f"hf:acme/lora@{COMMIT}",
        f"hf://acme/lora@{COMMIT}x",
        f"hf://acme/lora@{COMMIT}?x",
        f"hf://user:secret@acme/lora@{COMMIT}",
    ],
)
def test_artifacts_elsewhere_are_refused(uri):
    refusal = admission.assess_locations(at(uri), PLACES)
    assert refusal is not None
    assert refusal.code == "uri_not_allowed"
    assert refusal.reason.startswith("weights: ")


# what separates, climbs, hides or ends a path, and a few letters; also signs that only look like a dot or a slash
@given(st.text(st.sampled_from("ab2efEF./\\%:?#@~ \t\r\n\0\u2024\uff0e\uff0f\u2215"), max_size=60))
def test_no_suffix_leads_out_of_the_prefix(suffix):
    if admission.assess_locations(at((OWN + suffix)[:2048]), PLACES) is None:
        key = (OWN + suffix).removeprefix("s3://slipway/")
        assert key.startswith("checkpoints/support-bot/")
        assert ".." not in key.split("/")
        assert "\n" not in key


@pytest.mark.parametrize("name", ["calibration", "evaluation"])
@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://slipway/versions/x", "must be below"),
        ("file:///srv/checkpoints/run", "only weights may be elsewhere"),
        (f"hf://acme/lora@{COMMIT}", "only weights may be elsewhere"),
    ],
)
def test_calibration_and_evaluation_are_looked_at_too_and_lie_in_the_store(name, uri, says):
    elsewhere = ArtifactRef(uri=uri, digest=digest_of(b"a"), size_bytes=1)
    refusal = admission.assess_locations(k.ready(**{name: elsewhere}), PLACES)
    assert refusal is not None
    assert (refusal.code, refusal.details["artifact"]) == ("uri_not_allowed", name)
    assert says in refusal.reason


@pytest.mark.parametrize(
    ("uri", "setting"),
    [("file:///srv/checkpoints/x", "SLIPWAY_FILE_ROOTS"), (f"hf://acme/lora@{COMMIT}", "SLIPWAY_HF_ENDPOINT")],
)
def test_places_outside_the_store_are_refused_until_operations_allow_them_by_a_setting_that_is_named(uri, setting):
    refusal = admission.assess_locations(at(uri), AllowedLocations(bucket="slipway"))
    assert refusal is not None
    assert refusal.code == "uri_not_allowed"
    assert setting in refusal.reason


def test_a_branch_is_refused_with_the_way_to_a_commit():
    refusal = admission.assess_locations(at("hf://acme/lora@main"), PLACES)
    assert refusal is not None
    assert "'main' is not a commit" in refusal.reason
    assert "slipway publish" in refusal.reason


def test_policy_missing_another_one_or_stored():
    stored = k.policy(rehearsal="required")
    missing = admission.decide_policy(None, None)
    assert isinstance(missing, Refusal)
    assert missing.code == "policy_missing"
    other = admission.decide_policy(k.policy(), stored)
    assert isinstance(other, Refusal)
    assert other.code == "policy_differs"
    assert "rehearsal" in other.reason
    assert admission.decide_policy(None, stored) == stored
    assert admission.decide_policy(k.policy(rehearsal="required"), stored) == stored
    assert admission.decide_policy(stored, None) == stored


def test_what_an_attached_server_does_not_tell_is_named_for_each_trigger_that_watches_it():
    queued = k.MANUAL.model_copy(update={"name": "queued", "metric": "queue_ms", "threshold": 50.0})
    broken = k.MANUAL.model_copy(update={"name": "broken", "metric": "nan_logits", "threshold": 0.0})
    refusal = admission.assess_attached(k.ready(), k.policy(triggers=(k.MANUAL, queued, broken), copies=2), ONE_GROUP)
    assert refusal is not None
    assert refusal.code == "policy_invalid"
    assert [each.split(",")[0] for each in refusal.details["unseen"]] == [
        "The trigger queued watches queue_ms",
        "The trigger broken watches nan_logits",
        "copies is 2",
    ]
    assert admission.assess_attached(k.ready(), k.policy(), ONE_GROUP) is None
    assert admission.assess_attached(k.ready(), k.policy(triggers=(queued,)), None) is None


AUTOMATIC = k.MANUAL.model_copy(update={"action": "automatic"})
ADAPTER_POLICY = k.policy(serve="adapter")
FULL = k.ready().weights.model_copy(update={"kind": "full"})


@pytest.mark.parametrize(
    ("attachment", "policy", "changes", "expected"),
    [
        (TWO_GROUPS, ADAPTER_POLICY, {}, ""),
        (TWO_GROUPS, ADAPTER_POLICY.model_copy(update={"triggers": (AUTOMATIC,)}), {}, ""),
        (SHARED, ADAPTER_POLICY, {}, ""),
        (SHARED, ADAPTER_POLICY.model_copy(update={"triggers": (AUTOMATIC,)}), {}, "shared_engine"),
        (TWO_GROUPS, ADAPTER_POLICY, {"variants": ("bf16", "int8")}, "takes lora as bf16"),
        (TWO_GROUPS, ADAPTER_POLICY, {"weights": FULL}, "takes lora as bf16"),
        (ONE_GROUP, ADAPTER_POLICY, {}, "no attached servers get adapters"),
        (None, ADAPTER_POLICY, {}, "no attached servers get adapters"),
        (SHARED, k.policy(), {}, "set serve: adapter"),
    ],
)
def test_an_adapter_is_let_in_only_where_servers_load_it_and_no_trigger_blames_it_for_another(
    attachment, policy, changes, expected
):
    refusal = admission.assess_attached(k.ready(**{"variants": ("bf16",), **changes}), policy, attachment)
    assert (refusal is None) == (not expected)
    if refusal is not None:
        assert expected in refusal.reason
        assert (refusal.code, policy.serve == "merged" or "serve: merged" in refusal.reason) == ("policy_invalid", True)


@pytest.mark.parametrize("stored", [True, False])
def test_a_rehearsal_is_waived_only_where_nothing_rolls_back_by_itself(stored):
    def decide(policy):
        return admission.decide_policy(*((None, policy) if stored else (policy, None)))

    waived = k.policy(triggers=(*k.AUTOMATIC, k.MANUAL.model_copy(update={"name": "by-hand"})))
    refusal = decide(waived)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.details) == ("policy_invalid", {"field": "rehearsal"})
    assert "errors, slow" in refusal.reason
    assert "manual triggers" in refusal.reason
    assert decide(k.policy()) == k.policy()
    rehearsed = waived.model_copy(update={"rehearsal": "required"})
    assert decide(rehearsed) == rehearsed


@pytest.mark.parametrize("stored", [True, False])
def test_a_policy_whose_load_cannot_answer_a_gate_is_refused(stored):
    gates = (MetricGate(metric="ttft_ms", statistic="p99", max_ratio=1.5),)
    small = k.policy(gates=gates, load=LoadProfile(requests=99))
    refusal = admission.decide_policy(*((None, small) if stored else (small, None)))
    assert (refusal.code, refusal.details) == ("policy_invalid", {"field": "load"})
    assert "load.requests is 99, but the gate ttft_ms.p99 needs 100" in refusal.reason
    enough = k.policy(gates=gates, load=LoadProfile(requests=100))
    assert admission.decide_policy(enough, None) == enough


@pytest.mark.parametrize("stored", [True, False])
def test_a_policy_that_declares_what_never_ends_is_refused(stored):
    """Its release could not be swept, and would hold its model for ever."""
    endless = k.policy(deadlines=Deadlines(merge_s=1e300))
    refusal = admission.decide_policy(*((None, endless) if stored else (endless, None)))
    assert (refusal.code, refusal.details) == ("policy_invalid", {"field": "deadlines.merge_s"})
    assert "deadlines.merge_s is 1e+300 s; the limit is" in refusal.reason


def test_the_release_key_is_about_what_goes_in_and_nothing_else():
    key = admission.release_key(k.ready(), k.policy())
    assert admission.release_key(k.ready(attempt=7, evals=(), variants=("int8", "bf16", "int8")), k.policy()) == key
    resumed = k.ready().training.model_copy(update={"finished_at": k.START})
    assert admission.release_key(k.ready(training=resumed), k.policy()) == key
    other = at(OWN + "x")
    for changed, policy in (
        (k.ready(model="other-bot"), k.policy()),
        (other, k.policy()),
        (k.ready(variants=("int8",)), k.policy()),
        (k.ready(training=k.ready().training.model_copy(update={"run_id": "run 2"})), k.policy()),
        (k.ready(), k.policy(objective="cost")),
    ):
        assert admission.release_key(changed, policy) != key


def test_other_serving_settings_are_another_release_and_none_are_the_same_as_before():
    key = admission.release_key(k.ready(), k.policy())
    assert admission.release_key(k.ready(serving=ServingSettings()), k.policy()) == key
    keys = {
        admission.release_key(k.ready(serving=settings), k.policy())
        for settings in (HERMES, HERMES.model_copy(update={"context_tokens": 1024}), ServingSettings(options={}))
    }
    assert len(keys | {key}) == 3


@pytest.mark.parametrize("name", ["calibration", "evaluation"])
def test_another_calibration_or_evaluation_set_is_another_release(name):
    def key(content: bytes | None, folder: str = "sets"):
        ref = content and ArtifactRef(uri=f"{OWN}{folder}/a", digest=digest_of(content), size_bytes=len(content))
        return admission.release_key(k.ready(**{"calibration": None, "evaluation": None, name: ref}), k.policy())

    assert len({key(None), key(b"too short"), key(b"long enough")}) == 3
    assert key(b"long enough", "elsewhere") == key(b"long enough"), "what is read decides, not where it is"


def test_the_two_sets_are_told_apart():
    ref = ArtifactRef(uri=f"{OWN}set.jsonl", digest=digest_of(b"text"), size_bytes=4)
    assert admission.release_key(k.ready(calibration=ref, evaluation=None), k.policy()) != admission.release_key(
        k.ready(calibration=None, evaluation=ref), k.policy()
    )


def test_settings_that_no_engine_takes_are_refused_at_admission_with_the_valid_ones():
    assert admission.assess_serving(k.ready()) is None
    assert admission.assess_serving(k.ready(serving=HERMES)) is None
    refusal = admission.assess_serving(k.ready(serving=ServingSettings(tool_parser="herms")))
    assert refusal.code == "serving_invalid"
    assert "it has apertus, " in refusal.reason
    assert ", hermes, " in refusal.reason


def test_release_ids_can_be_told_from_other_correlations():
    release_id = admission.release_id(admission.release_key(k.ready(), k.policy()), 2)
    assert admission.is_release_id(release_id)
    assert release_id.endswith("-2")
    for other in ("run 1", "r-1", release_id + "\n", release_id + ".x", "r-0123456789abcdef-0", ""):
        assert not admission.is_release_id(other)


def test_a_base_must_be_imported_and_be_the_very_one():
    asked = k.ready().base
    assert admission.assess_base(asked, k.BASE, "slipway") is None
    by_manifest = asked.model_copy(update={"uri": "s3://slipway/bases/tiny/1.json"})
    assert admission.assess_base(by_manifest, k.BASE, "slipway") is None
    for given_, imported, code in (
        (asked, None, "unknown_base"),
        (asked.model_copy(update={"digest": digest_of(b"other")}), k.BASE, "unknown_base"),
        (asked.model_copy(update={"uri": "s3://slipway/checkpoints/evil/x"}), k.BASE, "uri_not_allowed"),
    ):
        refusal = admission.assess_base(given_, imported, "slipway")
        assert refusal is not None
        assert refusal.code == code


@pytest.mark.parametrize("name", ["../x", "a/../b", "a//b", ".hidden", "a b", "/a", "a/", "a\n"])
def test_base_names_that_are_no_keys_name_no_base(name):
    assert admission.base_key(BaseModelRef(name=name, revision="1", uri="u", digest=digest_of(b"b"))) is None


def test_base_names_may_have_an_organisation():
    base = BaseModelRef(name="org/Tiny-1.5B", revision="main", uri="u", digest=digest_of(b"b"))
    assert admission.base_key(base) == "bases/org/Tiny-1.5B/main.json"


def test_the_opening_freezes_what_came_in():
    policy = k.policy(objective="cost")
    key = admission.release_key(k.ready(), policy)
    ready = k.ready(variants=("int8", "bf16", "int8"))
    ready = ready.model_copy(update={"serving": HERMES})
    opened = admission.plan_opening(k.event(ready, "e"), policy, key=key, version=4)
    assert (opened.version, opened.variants, opened.policy) == (4, ("int8", "bf16"), policy)
    assert opened.serving == HERMES
    assert opened.release_id == admission.release_id(key, 1)


# -- sources ----------------------------------------------------------------------------------------------------------

BOUND = k.policy(sources=("hf://acme/*", "hf://lonely", "file:///mnt/models/support/*", "file:///mnt/one"))


@pytest.mark.parametrize(
    "uri",
    [f"hf://acme/lora@{COMMIT}", f"hf://lonely@{COMMIT}", "file:///mnt/models/support/run-7", "file:///mnt/one"],
)
def test_weights_may_come_from_what_the_policy_names(uri):
    assert admission.assess_sources(at(uri), BOUND, None) is None
    assert admission.assess_sources(at(uri), None, BOUND) is None


@pytest.mark.parametrize(
    "uri",
    [
        f"hf://acme-evil/lora@{COMMIT}",
        f"hf://ACME/lora@{COMMIT}",
        f"hf://acme@{COMMIT}",
        f"hf://lonely/lora@{COMMIT}",
        f"hf://evil/acme@{COMMIT}",
        f"hf://acme/../evil@{COMMIT}",
        f"hf://acme%2Flora@{COMMIT}",
        f"HF://acme/lora@{COMMIT}",
        "file:///mnt/models/support",
        "file:///mnt/models/support-evil/x",
        "file:///mnt/models/support/../other/x",
        "file:///mnt/models/support/%2e%2e/other/x",
        "file:///mnt/models/Support/x",
        "file:///mnt/one/x",
        "file:///mnt/on",
        "file://host/mnt/one",
        "file:/mnt/one",
    ],
)
def test_no_other_folder_passes_for_one_that_it_names(uri):
    stored = k.policy(sources=())
    for policies in ((BOUND, None), (None, BOUND), (BOUND, BOUND), (BOUND, stored), (stored, BOUND)):
        refusals = admission.assess_sources(at(uri), *policies), admission.assess_locations(at(uri), PLACES)
        assert any(refusal is not None for refusal in refusals)
    if not uri.startswith("HF"):
        assert admission.assess_sources(at(uri), BOUND, None).code == "source_not_allowed"


def stated(value, name="routing", **about):
    return (EvalResult(name=name, metric="accuracy", value=value, **about),)


@pytest.mark.parametrize(
    ("bound", "own", "active", "says"),
    [
        ({"limit": 0.8}, stated(0.8), (), ""),
        ({"limit": 0.8}, stated(0.79), (), "is 0.79; the worst that the policy admits is 0.8"),
        ({"limit": 0.8}, stated(0.9, "other"), (), "is not stated"),
        ({"limit": 0.8}, stated(0.9, higher_is_better=False), (), "needs higher_is_better: false"),
        ({"limit": 0.8}, (), stated(0.9), "is not stated"),
        ({"limit": 1.2, "higher_is_better": False}, stated(1.1), (), ""),
        ({"limit": 1.2, "higher_is_better": False}, stated(1.3), (), "is 1.3"),
        ({"max_drop": 0.02}, stated(0.84), stated(0.86), ""),
        ({"max_drop": 0.02}, stated(0.85), stated(0.86), ""),
        ({"max_drop": 0.02}, stated(0.83), stated(0.86), "0.86 of the active version; it may be 0.02 worse"),
        ({"max_drop": 0.02}, stated(0.85), (), ""),
        ({"max_drop": 0.02}, stated(0.85), None, "cannot be compared with that of the active version"),
        ({"limit": 0.8}, stated(0.85), None, ""),
        ({"max_drop": 0.1, "higher_is_better": False}, stated(1.2), stated(1.0), "it may be 0.1 worse"),
        ({"max_drop": 0.1, "higher_is_better": False}, stated(0.8), stated(1.0), ""),
    ],
)
def test_the_publishers_own_figures_are_bounded(bound, own, active, says):
    bounds = {"stated": [{"name": "routing", "metric": "accuracy", **bound}]}
    policy = k.policy(evaluations=Evaluations.model_validate(bounds))
    refusal = admission.assess_stated(k.ready().model_copy(update={"evals": own}), policy, active)
    assert (refusal is None) == (not says)
    if refusal is not None:
        assert refusal.code == "evaluation_failed"
        assert says in refusal.reason


def test_a_canary_is_drawn_for_no_team_that_does_not_own_the_model():
    staff = k.policy(canary=Canary(steps=(0.5,), only_for=("key:alice", "team:staff")))
    assert admission.assess_callers(k.MODEL, staff, [Team(name="staff", models=(k.MODEL,))]) is None
    for teams in ((), (Team(name="staff", models=("other",)),)):
        refusal = admission.assess_callers(k.MODEL, staff, teams)
        assert (refusal.code, "staff" in refusal.reason) == ("policy_invalid", True)
    assert admission.assess_callers(k.MODEL, k.policy(), ()) is None


def test_an_events_policy_loosens_no_source_of_the_stored_one():
    everything = k.policy(sources=("hf://evil/*",))
    uri = f"hf://evil/lora@{COMMIT}"
    assert admission.assess_sources(at(uri), everything, None) is None
    refusal = admission.assess_sources(at(uri), everything, BOUND)
    assert refusal is not None
    assert "hf://acme/*" in refusal.reason
    assert admission.assess_sources(k.ready(), k.policy(sources=()), None) is None, "the store is no source"


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "hf://*", "hf://acme/*/x", "hf://acme/lora/*", "hf://acme/lora@main", "hf://../x", "s3://slipway/*", ""),
        *("file://*", "file:///mnt/*/x", "file:///mnt/../x", "file:///mnt//x", "file:///mnt/x/", "file:///a%2e"),
    ],
)
def test_a_pattern_that_would_mean_something_else_is_no_policy(pattern):
    with pytest.raises(ValidationError):
        k.policy(sources=(pattern,))
