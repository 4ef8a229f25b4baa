"""What a version must have attested before it takes traffic, on a real S3 server; and what is made again or erased."""

import asyncio
from datetime import UTC, datetime

import pytest

from contracts.facts import RehearsalCompleted
from contracts.manifests import ApprovalRecord, EvaluationReport, RehearsalRecord
from contracts.provenance.steps import RequiredAttestations
from contracts.vocabulary import Deployable, Target, digest_of
from services.evaluator.adapters.store import StoredReports as EvaluationReports
from services.quantiser.adapters.store import StoredArtifacts as QuantiserArtifacts
from services.registry.adapters.store import StoredArtifacts as RegistryArtifacts
from services.rollback_controller.adapters.provenance import StoredProofs, proofs_by_settings
from services.server_manager.adapters.load_check import LoadCheck
from services.server_manager.adapters.traffic_check import check_traffic
from shared.errors import Permanent, Transient
from shared.provenance.verification import Verification
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store, manifest_key
from testbed import factories
from testbed.attesters import attester, attester_keys, trust
from testbed.released import release
from testbed.servers import connection

EVERYTHING = RequiredAttestations(steps=("merge", "quantise", "benchmark", "rehearse", "approve"))
EVALUATED = RequiredAttestations(steps=("merge", "quantise", "benchmark", "evaluate"))
AT = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(nats_server, s3_server, tmp_path_factory):
    return Store(connection(nats_server, s3_server, tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


def deployable(released, variant="int8"):
    registered = next(each for each in released.manifest.variants if each.variant == variant)
    target = Target(model=released.manifest.model, version=released.manifest.version, variant=variant)
    return Deployable(target=target, manifest=registered.manifest, weights_bytes=1)


def rehearsal(released, verdict="pass", *, variant="int8", detect_s=1.0):
    checked = deployable(released, variant)
    completed = factories.fact(RehearsalCompleted).model_copy(
        update={
            "verdict": verdict,
            "release_id": released.manifest.release_id,
            "reason": f"Detected after {detect_s} s.",
        }
    )
    return RehearsalRecord(target=checked.target, manifest_digest=checked.manifest.digest, completed=completed)


def rehearse(store, keys, released, verdict="pass", **about):
    record = rehearsal(released, verdict, **about)
    proofs = StoredProofs(lambda: (store, attester(keys, "rollback-controller"), trust(keys)))
    asyncio.run(proofs.attest_rehearsal(record))
    asyncio.run(proofs.attest_rehearsal(record))


def approve(store, keys, released, *, by="/slipway/user/ana", order="o-1", variant="int8"):
    checked = deployable(released, variant)
    registry = RegistryArtifacts(store, attester(keys, "registry"), trust(keys))
    record = ApprovalRecord(
        target=checked.target,
        manifest_digest=checked.manifest.digest,
        release_id=released.manifest.release_id,
        approved_by=by,
        order_id=order,
        approved_at=AT,
    )
    asyncio.run(registry.put_approval(record))
    asyncio.run(registry.put_approval(record))


def evaluate(store, keys, released, verdict="pass", *, variant="int8"):
    target = deployable(released, variant).target
    report = EvaluationReport(
        output_key=digest_of(f"{target} {verdict}".encode()),
        target=target,
        baseline=target.model_copy(update={"version": 1}),
        attempt=1,
        results=(),
        verdict=verdict,
        reason="as it is",
        started_at=AT,
        duration_s=1.0,
    )
    reports = EvaluationReports(store, attester(keys, "evaluator"), trust(keys))
    committed, ref = reports.commit(report)
    assert reports.find(report.output_key) == (committed, ref) == reports.commit(report)


def refused(store, keys, target):
    problem = check_traffic(store, trust(keys).keys(), target)
    return None if problem is None else (problem.code, problem.reason)


def test_each_step_that_is_required_is_missed_until_it_is_attested(store, keys):
    version = release(store, keys, model="steps", attestations=EVERYTHING)
    checked = deployable(version)
    assert refused(store, keys, checked) == (
        "attestation_missing",
        "steps.v2.int8 takes no traffic: no rehearsal that it passed is attested.",
    )
    rehearse(store, keys, version, "fail")
    rehearse(store, keys, version, variant="bf16")
    assert "no rehearsal" in refused(store, keys, checked)[1], "one that failed, and one of another variant"
    rehearse(store, keys, version)
    assert "its approval is not attested" in refused(store, keys, checked)[1]
    approve(store, keys, version, variant="bf16", order="o-2")
    assert "its approval is not attested" in refused(store, keys, checked)[1]
    approve(store, keys, version)
    assert refused(store, keys, checked) is None
    assert "no benchmark that it passed" in refused(store, keys, deployable(version, "bf16"))[1]
    verified = Verification(store, trust(keys).keys()).version("steps", 2)
    shown = {each.what for each in verified if each.verdict == "proven"}
    assert {"rehearse (5)", "rehearse (6)", "rehearse (7)", "approve (8)", "approve (9)"} <= shown
    assert [each for each in verified if each.verdict == "failed"] == []
    assert any("by /slipway/user/ana" in each.detail for each in verified)


def test_answers_that_are_to_be_evaluated_must_have_passed(store, keys):
    version = release(store, keys, model="answers", attestations=EVALUATED)
    evaluate(store, keys, version, "fail")
    evaluate(store, keys, version, variant="bf16")
    assert "no evaluation that it passed" in refused(store, keys, deployable(version))[1]
    evaluate(store, keys, version)
    assert refused(store, keys, deployable(version)) is None
    verified = Verification(store, trust(keys).keys()).version("answers", 2)
    assert [each for each in verified if each.verdict == "failed"] == []
    assert sum(each.what.startswith("evaluate (") for each in verified) == 3


def test_a_rehearsal_that_ran_again_is_attested_beside_the_first(store, keys):
    version = release(store, keys, model="ran-again", attestations=RequiredAttestations(steps=("rehearse",)))
    rehearse(store, keys, version)
    rehearse(store, keys, version, detect_s=9.0)
    assert len(list(store.keys("versions/ran-again/2/rehearsals/"))) == 2
    assert refused(store, keys, deployable(version)) is None


def test_two_approvals_are_of_two_people(store, keys):
    version = release(store, keys, model="two", attestations=RequiredAttestations(steps=("approve",), approvals=2))
    approve(store, keys, version)
    approve(store, keys, version, order="o-again")
    assert "1 of 2 approvals" in refused(store, keys, deployable(version))[1]
    approve(store, keys, version, by="/slipway/user/ben", order="o-ben")
    assert refused(store, keys, deployable(version)) is None


def test_the_policy_says_which_key_may_attest(store, keys):
    entries = trust(keys).keys()
    listed = {key.attester: key.key_id for key in entries}
    for name, allowed, refusal in (
        ("by-name", "benchmarker", None),
        ("by-key", listed["benchmarker"], None),
        ("other-name", "registry", "may not attest benchmark of this version"),
        ("other-key", listed["merger"], "may not attest benchmark of this version"),
    ):
        required = RequiredAttestations(attesters={"benchmark": (allowed,)})
        version = release(store, keys, model=name, attestations=required)
        problem = refused(store, keys, deployable(version))
        assert (problem is None) if refusal is None else (refusal in problem[1] and problem[0] == "key_not_trusted")
    required = RequiredAttestations(attesters={"merge": (listed["registry"],)})
    version = release(store, keys, model="other-merger", attestations=required)
    check = LoadCheck(store, trust(keys), keys / "repository")
    with pytest.raises(Permanent, match="may not attest merge"):
        check.verify(deployable(version))


@pytest.mark.parametrize("which", ["benchmark", "rehearse", "approve"])
def test_an_altered_record_and_a_revoked_key_take_traffic_from_new_orders_only(store, tmp_path, which):
    version = release(store, tmp_path, model=f"altered-{which}", attestations=EVERYTHING)
    rehearse(store, tmp_path, version)
    approve(store, tmp_path, version)
    checked, check = deployable(version), LoadCheck(store, trust(tmp_path), tmp_path / "repository")
    check.verify(checked)
    assert check.assess_traffic(checked) is None
    prefix = f"versions/altered-{which}/2/"
    where = {
        "benchmark": manifest_key("benchmark", digest_of(str(checked.target).encode())),
        "rehearse": next(iter(store.keys(f"{prefix}rehearsals/"))),
        "approve": next(iter(store.keys(f"{prefix}approvals/"))),
    }[which]
    whole = store.find(where)
    store._client.write(store.bucket, where, memoryview(whole.replace(b"int8", b"fp88", 1)))
    assert check.assess_traffic(checked).code == "attestation_missing"
    store._client.write(store.bucket, where, memoryview(whole))
    assert check.assess_traffic(checked) is None
    by = {"benchmark": "benchmarker", "rehearse": "rollback-controller", "approve": "registry"}[which]
    attester_keys(tmp_path).revoke(by, datetime.now(UTC))
    assert check.assess_traffic(checked).code == "key_not_trusted"
    check.verify(checked)  # it stays loadable


def test_what_a_distrusted_service_made_is_made_again_and_attested_by_the_new_key(store, tmp_path):
    version = release(store, tmp_path, model="again")
    made, registered = version.variants["int8"], version.manifest.variants[1]

    def quantiser():
        return QuantiserArtifacts(store, tmp_path / "work", attester(tmp_path, "quantiser"), trust(tmp_path))

    committed = quantiser().find_variant(made.merged, made.output_key)
    assert committed is not None
    assert committed[1] == registered.manifest
    attester_keys(tmp_path).rotate("quantiser", datetime.now(UTC))
    assert quantiser().find_variant(made.merged, made.output_key) is not None, "a key that is replaced loses nothing"
    attester_keys(tmp_path).revoke("quantiser", datetime.now(UTC))
    assert quantiser().find_variant(made.merged, made.output_key) is None
    again, ref = quantiser().commit(made.merged, made.model_copy(update={"created_at": AT}))
    assert ref.uri != registered.manifest.uri
    assert quantiser().find_variant(made.merged, made.output_key) == (again, ref)


def test_text_is_erased_by_kind_and_its_digest_stays(store, keys):
    version = release(store, keys, model="forgotten")
    registry = RegistryArtifacts(store, attester(keys, "registry"), trust(keys))
    digests = {each.held_out_text.digest for each in version.variants.values()}
    assert set(asyncio.run(registry.erase_text("forgotten", 2, "held-out"))) == digests
    assert set(asyncio.run(registry.erase_text("forgotten", 2, "held-out"))) == digests, "again"
    assert asyncio.run(registry.erase_text("forgotten", 2, "evaluation")) == ()
    verified = Verification(store, trust(keys).keys()).version("forgotten", 2)
    assert [each for each in verified if each.verdict == "failed"] == []
    assert sum("erased" in each.detail for each in verified) == 2
    with pytest.raises(Permanent, match="has no version 9"):
        asyncio.run(registry.erase_text("forgotten", 9, "held-out"))


def test_without_its_keys_the_rollback_controller_attests_later(store, tmp_path, nats_server, s3_server):
    """A rollback needs no key of attestations: what needs them is tried again until they are there."""
    version = release(store, tmp_path, model="later", attestations=RequiredAttestations(steps=("rehearse",)))
    missing = {"attestation_key": tmp_path / "none.pem", "attesters": tmp_path / "none.json"}
    settings = connection(nats_server, s3_server, tmp_path).model_copy(update=missing)
    proofs = proofs_by_settings(settings, SystemClock())
    with pytest.raises(Transient, match="Rollbacks go on") as caught:
        asyncio.run(proofs.attest_rehearsal(rehearsal(version)))
    assert caught.value.code == "key_not_trusted"
    keys = attester_keys(tmp_path)
    missing["attestation_key"].write_bytes(keys.private_key("rollback-controller").read_bytes())
    missing["attesters"].write_bytes(keys.listing.read_bytes())
    asyncio.run(proofs.attest_rehearsal(rehearsal(version)))
    assert refused(store, tmp_path, deployable(version)) is None
