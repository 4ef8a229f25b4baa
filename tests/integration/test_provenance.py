"""What is proven of a version on a real S3 server: whatever is altered or missing is found and named."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from contracts.vocabulary import Deployable, ServingSettings, Target, digest_of
from decisions.releases.provenance import Problem
from services.console.adapters.artifacts import StoredArtifacts
from services.server_manager.adapters.load_check import LoadCheck
from shared.errors import Permanent
from shared.provenance.attestations import Chain
from shared.provenance.envelopes import Subjects
from shared.provenance.model_signatures import signature_key
from shared.provenance.signed_versions import SignedPolicy, check_target, read_policy
from shared.provenance.verification import Verification
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.held_out import erase_held_out
from testbed import factories
from testbed.attesters import attester, attester_keys, trust
from testbed.released import release
from testbed.servers import connection
from testbed.services import environment
from tests.kit.command import run_command


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def store(nats_server, s3_server, tmp_path_factory):
    return Store(connection(nats_server, s3_server, tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def released(store, keys):
    return release(store, keys)


def test_the_signed_policy_of_a_version_is_read_and_no_altered_one(store, keys):
    policy = factories.policy()
    made = release(store, keys, "policed", policy=policy.model_dump(mode="json"))
    assert read_policy(store, trust(keys), "policed", 2) == SignedPolicy(made.manifest.release_id, policy)
    overwrite(store, "versions/policed/2/manifest.json", store.get(made.ref).replace(b"automatic", b"manual"))
    assert "signed was" in read_policy(store, trust(keys), "policed", 2)
    assert "does not exist" in read_policy(store, trust(keys), "policed", 3)


def findings(store, keys, released, **options):
    listed = trust(keys).keys()
    return Verification(store, listed, **options).version(released.manifest.model, released.manifest.version)


def failed(store, keys, released, **options):
    return {each.what: each.detail for each in findings(store, keys, released, **options) if each.verdict == "failed"}


def overwrite(store, key, data):
    store._client.write(store.bucket, key, memoryview(data))


def flip(data, at=None, bit=2):
    altered = bytearray(data)
    altered[len(data) // 2 if at is None else at] ^= 1 << bit
    return bytes(altered)


def test_the_console_shows_what_is_proven_and_the_card(store, keys, released):
    artifacts = StoredArtifacts(store, trust(keys))
    proofs = artifacts.prove(released.manifest.model, released.manifest.version)
    assert proofs.verified
    assert not proofs.problem
    assert {proof.verdict for proof in proofs.proofs} == {"proven", "stated"}
    assert "version manifest" in {proof.what for proof in proofs.proofs}
    assert released.manifest.training.data_hash in proofs.card
    with pytest.raises(Permanent, match="has no version 99"):
        artifacts.prove(released.manifest.model, 99)


def test_the_console_shows_a_report_only_as_it_was_stored(store, keys, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>Drift</h1>")
    manifest = store.put_folder(folder)
    key = manifest_key("drift", digest_of(manifest.to_bytes()))
    uri = store.put_manifest(key, manifest)[0].uri
    artifacts = StoredArtifacts(store, trust(keys))
    assert artifacts.report(uri) == b"<h1>Drift</h1>"
    assert artifacts.report(store.uri("versions/tiny/1/manifest.json")) is None
    assert artifacts.report(store.uri(manifest_key("drift", digest_of(b"none")))) is None
    overwrite(store, blob_key(manifest.files[0].digest), b"<h1>Drugs</h1>")
    with pytest.raises(Permanent, match="not what was stored"):
        artifacts.report(uri)
    (folder / "report.html").write_text("<h1>Other</h1>")
    overwrite(store, key, store.put_folder(folder).to_bytes())
    with pytest.raises(Permanent, match="not what was stored"):
        artifacts.report(uri)


def test_an_untouched_version_is_proven_and_says_what_is_only_stated(store, keys, released):
    all_findings = findings(store, keys, released)
    assert [each for each in all_findings if each.verdict == "failed"] == []
    proven = {each.what for each in all_findings if each.verdict == "proven"}
    assert {
        "version manifest",
        *(
            f"variant {name}{part}"
            for name in ("bf16", "int8")
            for part in ("", ", files", ", held-out text", ", model signature")
        ),
        "merged model",
        "merged model, files",
        "lora weights",
        "lora weights, files",
        "base model tiny",
        "base model tiny, files",
        "benchmark (2)",
        "deploy (3)",
        "deploy (4)",
    } == proven
    stated = [each for each in all_findings if each.verdict == "stated"]
    assert [each.what for each in stated] == ["training data"]
    assert released.manifest.training.data_hash in stated[0].detail


def places(released):
    """Every object of a version: what a person calls it, its key, and what the finding has to name."""
    manifest, store = released.manifest, released.store
    variant = {each.variant: each for each in manifest.variants}
    int8, files = variant["int8"].manifest, released.variants["int8"]
    base = json.loads(store.find(store.key_of(manifest.base.uri)))
    chain = Chain(store, manifest.model, manifest.version)

    def key(ref):
        return store.key_of(ref.uri if hasattr(ref, "uri") else ref["uri"])

    def attestation(step, ref):
        (only,) = store.keys(f"attestations/{step}/{ref.digest.removeprefix('sha256:')}/")
        return only

    prefix = f"checkpoints/{manifest.model}/"
    (adapter,) = [name for name in store.keys(prefix) if "/blobs/" in name]
    merged_file = blob_key(released.variants["bf16"].files[0].digest)
    base_file = blob_key(json.loads(store.find(key(base["folder"])))["files"][1]["digest"])
    deployments = f"versions/{manifest.model}/{manifest.version}/deployments/"
    report = manifest_key("benchmark", digest_of(f"{manifest.model}.v{manifest.version}.int8".encode()))
    return {
        "the version manifest": (key(released.ref), "version manifest"),
        "its registration": (chain.key(1), chain.key(1)),
        "the attestation of a benchmark": (chain.key(2), chain.key(2)),
        "the attestation of the last deployment": (chain.key(4), chain.key(4)),
        "the manifest of a variant": (key(int8), "variant int8"),
        "the attestation of a variant": (attestation("quantise", int8), attestation("quantise", int8)),
        "the weights of a variant": (blob_key(files.files[0].digest), "model.safetensors"),
        "the model signature of a variant": (signature_key(manifest.model, 2, "int8"), "variant int8, model signature"),
        "the held-out text": (blob_key(files.held_out_text.digest), "held-out text"),
        "the manifest of the merged model": (key(manifest.merged), "merged model"),
        "the attestation of the merge": (attestation("merge", manifest.merged), "attestations/merge/"),
        "the merged weights": (merged_file, "merged model, model.safetensors"),
        "the manifest of the adapter": (key(manifest.weights.ref), "lora weights"),
        "the adapter": (adapter, "lora weights, adapter.safetensors"),
        "the import of the base": (key(manifest.base), "base"),
        "the manifest of the base": (key(base["folder"]), "base model tiny"),
        "a file of the base": (base_file, "base model tiny, "),
        "the report of a benchmark": (report, report),
        "the record of a deployment": (f"{deployments}1.json", f"{deployments}1.json"),
    }


PLACES = (
    "the version manifest",
    "its registration",
    "the attestation of a benchmark",
    "the attestation of the last deployment",
    "the manifest of a variant",
    "the attestation of a variant",
    "the weights of a variant",
    "the model signature of a variant",
    "the held-out text",
    "the manifest of the merged model",
    "the attestation of the merge",
    "the merged weights",
    "the manifest of the adapter",
    "the adapter",
    "the import of the base",
    "the manifest of the base",
    "a file of the base",
    "the report of a benchmark",
    "the record of a deployment",
)


def test_every_kind_of_place_is_tried(released):
    assert set(places(released)) == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_found_and_named(store, keys, released, place):
    key, named = places(released)[place]
    whole = store.find(key)
    try:
        for at in (0, len(whole) // 2, len(whole) - 1):
            overwrite(store, key, flip(whole, at))
            complaints = failed(store, keys, released)
            assert any(named in f"{what} {detail}" for what, detail in complaints.items()), (at, complaints)
    finally:
        overwrite(store, key, whole)
    assert failed(store, keys, released) == {}


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place not in ("the version manifest", "the held-out text")]
)
def test_a_missing_object_is_found_and_named(store, keys, released, place):
    key, named = places(released)[place]
    whole = store.find(key)
    store._client.remove_object(bucket_name=store.bucket, object_name=key)
    try:
        complaints = failed(store, keys, released)
        if place == "the attestation of the last deployment":
            named = "deployment 2.json"  # its record is there, and nothing attests it
        elif place.startswith("the attestation of a variant"):
            named = "variant int8"
        elif place == "the attestation of the merge":
            named = "merged model"
        assert any(named in f"{what} {detail}" for what, detail in complaints.items()), complaints
    finally:
        overwrite(store, key, whole)


def test_a_version_without_a_manifest_is_none(store, keys, released):
    with pytest.raises(Permanent):
        Verification(store, trust(keys).keys()).version(released.manifest.model, 99)


def test_erased_text_is_no_failure(store, keys):
    other = release(store, keys, model="erased-text")
    for each in other.manifest.variants:
        erase_held_out(store, each.manifest, other.variants[each.variant])
    all_findings = findings(store, keys, other)
    assert [each for each in all_findings if each.verdict == "failed"] == []
    assert sum(each.verdict == "stated" and "erased" in each.detail for each in all_findings) == 2


# -- who signed -----------------------------------------------------------------------------------------------------------


def test_a_stranger_who_holds_the_stores_key_proves_nothing(store, keys, tmp_path):
    """Everything is made again by other keys: each step says that its key is not listed."""
    forged = release(store, tmp_path, model="forged")
    complaints = failed(store, keys, forged)
    assert {"attestation 1", "variant int8", "variant bf16", "merged model"} <= set(complaints)
    assert all("not listed" in complaints[what] for what in ("attestation 1", "variant int8", "merged model"))


def test_another_services_key_does_not_attest_a_step(store, keys):
    other = release(store, keys, model="overstepped")
    chain = Chain(store, "overstepped", 2)
    chain.append(attester(keys, "merger"), "deploy", Subjects(named={"s3://slipway/x": digest_of(b"x")}))
    complaints = failed(store, keys, other)
    assert list(complaints) == ["attestation 5"]
    assert "merger's key" in complaints["attestation 5"]
    assert "may not attest deploy" in complaints["attestation 5"]


def test_links_that_change_places_are_found(store, keys):
    other = release(store, keys, model="reordered")
    chain = Chain(store, "reordered", 2)
    third, fourth = store.find(chain.key(3)), store.find(chain.key(4))
    overwrite(store, chain.key(3), fourth)
    overwrite(store, chain.key(4), third)
    complaints = failed(store, keys, other)
    assert {"attestation 3", "attestation 4"} <= set(complaints)
    assert "number 4 of its chain, stored as number 3" in complaints["attestation 3"]


def test_attestations_of_another_version_count_for_nothing(store, keys):
    first, second = release(store, keys, model="first-one"), release(store, keys, model="second-one")
    chains = [Chain(store, each.manifest.model, 2) for each in (first, second)]
    overwrite(store, chains[0].key(1), store.find(chains[1].key(1)))
    complaints = failed(store, keys, first)
    assert "signed was" in complaints["version manifest"]


def test_a_revoked_key_takes_its_step_with_it_and_a_retired_one_does_not(store, tmp_path):
    version = release(store, tmp_path, model="revoked")
    signing = attester_keys(tmp_path)
    now = datetime.now(UTC)
    signing.rotate("merger", now)
    signing.retire("merger", now)
    assert failed(store, tmp_path, version) == {}
    signing.revoke("merger", now)
    complaints = failed(store, tmp_path, version)
    assert set(complaints) == {"merged model"}
    assert "revoked" in complaints["merged model"]


def test_appending_twice_leaves_one_link_and_two_writers_leave_both(store, keys):
    release(store, keys, model="appended")
    chain = Chain(store, "appended", 2)
    about = Subjects(named={"s3://slipway/x": digest_of(b"x")})
    registry = attester(keys, "registry")
    assert chain.append(registry, "deploy", about)
    assert not chain.append(registry, "deploy", about)
    assert chain.length() == 5
    link = chain.read(trust(keys).keys(), 5, digest_of(store.find(chain.key(4))))
    assert not isinstance(link, Problem)


def test_stray_objects_beside_a_chain_change_nothing(store, keys):
    release(store, keys, model="stray")
    chain = Chain(store, "stray", 2)
    for name in ("1.json", "0000005.json", "\N{SUPERSCRIPT TWO}.json", "000005.json.bak", "000000.json"):
        store.create(f"{chain.prefix}{name}", b"{}")
    assert chain.append(attester(keys, "registry"), "deploy", Subjects(named={"s3://slipway/x": digest_of(b"x")}))
    assert chain.numbers() == [1, 2, 3, 4, 5]


def test_a_link_that_another_key_signed_is_not_taken_for_ones_own(store, keys, tmp_path):
    release(store, keys, model="replaced")
    chain, about = Chain(store, "replaced", 2), Subjects(named={"s3://slipway/x": digest_of(b"x")})
    other = attester(tmp_path, "registry")
    assert chain.append(other, "deploy", about)
    assert chain.append(attester(keys, "registry"), "deploy", about), "by a key that counts"
    assert not chain.append(attester(keys, "registry"), "deploy", about)


def test_a_registry_signs_no_manifest_that_another_wrote(store, keys, released):
    other = released.manifest.model_copy(update={"version": 7})
    store.put_manifest("versions/support-bot/7/manifest.json", other.model_copy(update={"release_id": "another"}))
    import asyncio

    from services.registry.adapters.store import StoredArtifacts

    registry = StoredArtifacts(store, attester(keys, "registry"), trust(keys))
    with pytest.raises(Permanent) as caught:
        asyncio.run(registry.put_version(other))
    assert caught.value.code == "digest_mismatch"
    assert Chain(store, "support-bot", 7).length() == 0


def test_envelopes_are_readable_by_others(store, released):
    """DSSE with an in-toto statement: what `cosign` and in-toto's own tools read."""
    envelope = json.loads(store.find(Chain(store, released.manifest.model, 2).key(1)))
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert len(statement["predicate"]["follows"]) == 3, "the merge, and each variant"


def test_a_link_that_was_taken_out_and_one_far_behind_are_named(store, keys):
    other = release(store, keys, model="torn")
    chain = Chain(store, "torn", 2)
    third = store.find(chain.key(3))
    store._client.remove_object(bucket_name=store.bucket, object_name=chain.key(3))
    overwrite(store, chain.key(900_000), third)
    complaints = failed(store, keys, other)
    assert {"attestation 3", "attestation 4", "attestation 900000"} <= set(complaints)
    about = Subjects(named={"s3://slipway/x": digest_of(b"x")})
    assert chain.append(attester(keys, "registry"), "deploy", about), "and nobody reads 900,000 objects for it"
    assert chain.length() == 4


# -- before a load --------------------------------------------------------------------------------------------------------


def deployable(released, variant="int8", **changes):
    registered = next(each for each in released.manifest.variants if each.variant == variant)
    target = Target(model=released.manifest.model, version=released.manifest.version, variant=variant)
    fields = {"target": target, "manifest": registered.manifest, "weights_bytes": 1, **changes}
    return Deployable(**fields)


def base_of(released, **changes):
    base = json.loads(released.store.find(released.store.key_of(released.manifest.base.uri)))
    target = Target(model=released.manifest.model, version=0, variant="bf16")
    return Deployable(**{"target": target, "manifest": base["folder"], "weights_bytes": 1, **changes})


def test_a_signed_target_and_the_base_of_a_signed_version_may_be_loaded(store, keys, released):
    listed = trust(keys).keys()
    for each in (deployable(released), deployable(released, "bf16"), base_of(released)):
        assert check_target(store, listed, each) is None


def test_what_is_not_what_was_signed_is_refused(store, keys, released):
    listed, whole = trust(keys).keys(), deployable(released)
    other = deployable(released, "bf16").manifest
    refused = {
        "another manifest": whole.model_copy(update={"manifest": other}),
        "other settings": whole.model_copy(update={"serving": ServingSettings(context_tokens=9)}),
        "another variant": whole.model_copy(update={"target": whole.target.model_copy(update={"variant": "fp8"})}),
        "another base": base_of(released, manifest=other),
    }
    for what, each in refused.items():
        assert check_target(store, listed, each) is not None, what
    unknown = whole.model_copy(update={"target": whole.target.model_copy(update={"version": 77})})
    assert check_target(store, listed, unknown).code == "attestation_missing"
    assert check_target(store, (), whole).code == "key_not_trusted"


@pytest.mark.parametrize(
    "place",
    ["the version manifest", "its registration", "the attestation of a variant", "the attestation of the merge"],
)
def test_what_was_altered_is_refused_before_a_load(store, keys, released, place):
    key, _ = places(released)[place]
    whole = store.find(key)
    try:
        for at in (0, len(whole) // 2, len(whole) - 2):
            overwrite(store, key, flip(whole, at))
            assert check_target(store, trust(keys).keys(), deployable(released)) is not None, at
    finally:
        overwrite(store, key, whole)


def test_what_was_proven_is_loaded_again_although_its_key_was_revoked(store, tmp_path):
    kept, new = release(store, tmp_path, model="kept"), release(store, tmp_path, model="new")
    check = LoadCheck(store, trust(tmp_path), tmp_path / "repository")
    check.verify(deployable(kept))
    attester_keys(tmp_path).revoke("merger", datetime.now(UTC))
    check.verify(deployable(kept))
    LoadCheck(store, trust(tmp_path), tmp_path / "repository").verify(deployable(kept))
    for blocked in (deployable(new), deployable(kept, "bf16")):
        with pytest.raises(Permanent, match="revoked") as caught:
            check.verify(blocked)
        assert caught.value.code == "key_not_trusted"
    with pytest.raises(Permanent) as caught:  # it was proven with its own settings
        check.verify(deployable(kept, serving=ServingSettings(context_tokens=9)))
    assert caught.value.code == "digest_mismatch"
    attester_keys(tmp_path).listing.write_text("[")
    check.verify(deployable(kept))
    with pytest.raises(Permanent, match="cannot be read"):
        check.verify(deployable(new))


def test_targets_that_are_proven_at_the_same_time_are_all_remembered(store, tmp_path):
    targets = [deployable(release(store, tmp_path, model=f"at-once-{number}")) for number in range(4)]
    with ThreadPoolExecutor(len(targets)) as threads:
        for attempt in range(8):
            check = LoadCheck(store, trust(tmp_path), tmp_path / f"repository-{attempt}")
            list(threads.map(check.verify, targets))
            proven = json.loads((tmp_path / f"repository-{attempt}" / "slipway-proven.json").read_bytes())
            assert set(proven) == {str(target.target) for target in targets}


# -- the command ----------------------------------------------------------------------------------------------------------


def slipway(settings, keys, *arguments):
    """Run the command in this process: (status, what it printed, what it complained of)."""
    return run_command({**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(keys).listing)}, *arguments)


def test_the_card_holds_what_is_attested_and_refuses_a_version_that_was_altered(settings, store, keys, released):
    status, out, err = slipway(settings, keys, "card", released.name)
    assert (status, err) == (0, "")
    assert f"# {released.manifest.model} v2" in out
    assert "### int8: pass" in out
    assert out.count("| int8 | promote | 100% |") == 2
    key = f"versions/{released.manifest.model}/2/manifest.json"
    data = store.find(key)
    overwrite(store, key, data.replace(b"tiny", b"tinz"))
    status, out, err = slipway(settings, keys, "card", released.name)
    overwrite(store, key, data)
    assert (status, out) == (1, "")
    assert "is not what was registered" in err
    assert slipway(settings, keys, "card", f"{released.manifest.model}@v99")[0] == 1


def test_the_command_walks_from_an_answers_fingerprint_to_the_data(settings, store, keys, released):
    digest = next(each.manifest.digest for each in released.manifest.variants if each.variant == "int8")
    fingerprint = f"fp_{released.manifest.model}.v2.int8.{digest.removeprefix('sha256:')[:8]}"
    status, out, err = slipway(settings, keys, "verify", fingerprint)
    assert (status, err) == (0, "")
    assert out.startswith("proven\tfingerprint\t")
    assert released.manifest.training.data_hash in out
    assert "variant bf16" not in out, "the answer came from int8"
    status, out, _ = slipway(settings, keys, "verify", released.name, "--json")
    assert (status, json.loads(out)["verified"]) == (0, True)
    status, out, err = slipway(settings, keys, "verify", fingerprint[:-1] + ("0" if fingerprint[-1] != "0" else "1"))
    assert status == 1
    assert "failed\tfingerprint" in out


def test_the_command_names_what_is_wrong_and_fails(settings, store, keys, released):
    key, _ = places(released)["the weights of a variant"]
    whole = store.find(key)
    overwrite(store, key, flip(whole))
    try:
        status, out, err = slipway(settings, keys, "verify", released.name)
        assert status == 1
        assert "failed\tvariant int8, model.safetensors" in out
        assert "is not proven: variant int8, model.safetensors" in err
        status, out, _ = slipway(settings, keys, "verify", released.name, "--no-files")
        assert (status, "model.safetensors" in out) == (0, False)
    finally:
        overwrite(store, key, whole)
