"""Signed statements: what is signed is what is read, and nothing else is."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.provenance.attestations import ATTESTED_BY, ATTESTERS, PAYLOAD_TYPE, AttesterKey
from contracts.provenance.steps import STEPS
from contracts.vocabulary import canonical_json, digest_of
from decisions.releases.provenance import Problem, assess_allowed
from deploy.identity.attesters import AttesterKeys
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder
from shared.provenance.attestations import open_attestation
from shared.provenance.envelopes import Attester, Signed, Subjects, listed, open_envelope

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MANIFEST = digest_of(b"manifest")
STEPS_OF = {name: step for step, name in ATTESTED_BY.items()}
ABOUT = Subjects(named={"manifest.json": MANIFEST})


class At:
    """A clock that stands."""

    def __init__(self, at=NOW):
        self.at = at

    def now(self):
        return self.at

    def monotonic(self):
        return 0.0


@pytest.fixture
def keys(tmp_path):
    made = AttesterKeys(tmp_path)
    made.prepare(NOW)
    return made


def signs(keys, name, at=NOW):
    return Attester(name, keys.private_key(name).read_bytes(), At(at))


def test_a_statement_is_read_as_it_was_signed(keys):
    data = signs(keys, "merger").sign("merge", ABOUT, {"parity": 0.5})
    opened = open_attestation(data, keys.entries(), "merge", MANIFEST)
    assert isinstance(opened, Signed)
    assert (opened.claim.attester, opened.claim.details, opened.digest) == ("merger", {"parity": 0.5}, digest_of(data))
    envelope = json.loads(data)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "manifest.json", "digest": {"sha256": MANIFEST.removeprefix("sha256:")}}]
    assert statement["predicateType"] == "urn:slipway:attestation:merge:v1"


def test_every_bit_of_an_envelope_counts(keys):
    data = signs(keys, "merger").sign("merge", ABOUT)
    listing = keys.entries()
    for at in range(len(data)):
        for bit in (0, 3, 7):
            altered = bytearray(data)
            altered[at] ^= 1 << bit
            assert isinstance(open_attestation(bytes(altered), listing, "merge", MANIFEST), Problem), (at, bit)


@given(
    data=st.binary(max_size=400)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig"]), inner, max_size=5
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_bytes_of_any_kind_are_answered_with_a_problem(data):
    assert isinstance(open_envelope(data, ()), Problem)


def test_a_key_attests_only_the_steps_of_its_service(keys):
    for step in STEPS:
        for name in set(ATTESTED_BY.values()):
            opened = open_envelope(signs(keys, name).sign(step, ABOUT), keys.entries())
            assert isinstance(opened, Signed) == (ATTESTED_BY[step] == name), (step, name)


def test_a_key_does_not_attest_in_the_name_of_another_service(keys):
    impostor = Attester("registry", keys.private_key("merger").read_bytes(), At())
    opened = open_envelope(impostor.sign("merge", ABOUT), keys.entries())
    assert isinstance(opened, Problem)
    assert "signed as registry" in opened.reason


def test_an_unlisted_key_counts_for_nothing(keys, tmp_path):
    other = AttesterKeys(tmp_path / "other")
    other.prepare(NOW)
    opened = open_envelope(signs(other, "merger").sign("merge", ABOUT), keys.entries())
    assert opened == Problem("key_not_trusted", opened.reason)
    assert "not listed" in opened.reason


def test_a_statement_counts_for_its_own_step_and_subject_only(keys):
    data = signs(keys, "registry").sign("register", ABOUT)
    assert isinstance(open_attestation(data, keys.entries(), "register", MANIFEST), Signed)
    assert open_attestation(data, keys.entries(), "deploy", MANIFEST).code == "signature_invalid"
    assert open_attestation(data, keys.entries(), "register", digest_of(b"other")).code == "digest_mismatch"


def test_a_retired_key_keeps_what_it_attested_and_attests_nothing_more(keys):
    before = signs(keys, "merger").sign("merge", ABOUT)
    late = signs(keys, "merger", NOW + timedelta(hours=3)).sign("merge", ABOUT)
    first = keys.private_key("merger").read_bytes()
    keys.rotate("merger", NOW + timedelta(hours=1))
    between = Attester("merger", first, At(NOW + timedelta(hours=1))).sign("merge", ABOUT)
    assert isinstance(open_envelope(between, keys.entries()), Signed), "both are accepted until the first is retired"
    keys.retire("merger", NOW + timedelta(hours=2))
    assert isinstance(open_envelope(before, keys.entries()), Signed)
    assert "retired" in open_envelope(late, keys.entries()).reason
    assert isinstance(
        open_envelope(signs(keys, "merger", NOW + timedelta(hours=3)).sign("merge", ABOUT), keys.entries()), Signed
    )


def test_a_revoked_key_counts_for_nothing_that_it_ever_signed(keys):
    before = signs(keys, "merger").sign("merge", ABOUT)
    keys.revoke("merger", NOW + timedelta(hours=1))
    assert "revoked" in open_envelope(before, keys.entries()).reason
    after = signs(keys, "merger", NOW + timedelta(hours=2)).sign("merge", ABOUT)
    assert isinstance(open_envelope(after, keys.entries()), Signed)


def test_a_key_is_not_valid_before_it_was_made(keys):
    early = signs(keys, "merger", NOW - timedelta(days=1)).sign("merge", ABOUT)
    assert "earlier" in open_envelope(early, keys.entries()).reason


def test_a_payload_that_is_signed_but_no_statement_is_refused(keys):
    data = signs(keys, "merger").envelope(canonical_json({"hello": 1}))
    assert open_envelope(data, keys.entries()).code == "signature_invalid"


def test_preparing_again_changes_nothing_and_secrets_are_the_owners(keys, tmp_path):
    before = keys.listing.read_bytes()
    keys.prepare(NOW + timedelta(days=1))
    assert keys.listing.read_bytes() == before
    assert b"PRIVATE" not in before
    assert all(path.stat().st_mode & 0o77 == 0 for path in (tmp_path / "attestation").iterdir())
    assert {key.attester for key in keys.entries()} == set(ATTESTED_BY.values())


def test_a_key_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"P-256|PEM|deserial"):
        Attester("merger", b"no key", At())


def test_a_listed_key_has_the_id_of_its_bytes():
    key = listed("merger", "PEM", valid_from=NOW)
    assert isinstance(key, AttesterKey)
    assert key.steps == ("merge",)
    assert key.key_id == digest_of(b"PEM").removeprefix("sha256:")


def test_one_key_cannot_be_retired_and_only_attesters_have_one(tmp_path):
    folder = KeyFolder(tmp_path / "all")
    folder.prepare(["localhost"], NOW)
    with pytest.raises(KeysRefused, match="one key only"):
        folder.change_attester("merger", lambda attesters: attesters.retire("merger", NOW))
    with pytest.raises(KeysRefused, match="attests nothing"):
        folder.change_attester("gateway", lambda attesters: attesters.rotate("gateway", NOW))
    assert folder.change_attester("merger", lambda attesters: attesters.rotate("merger", NOW)).attester == "merger"
    folder.change_attester("merger", lambda attesters: attesters.retire("merger", NOW))
    states = [key.retired_at for key in folder.attesters.entries() if key.attester == "merger"]
    assert states == [NOW, None]


class Killed(BaseException):
    """What ends a program between two steps."""


def die_before(monkeypatch, step):
    """End the program before it replaces its file number `step`."""
    replace, done = Path.replace, []

    def run(self, target):
        done.append(target)
        if len(done) == step:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", run)


@pytest.mark.parametrize("change", ["prepare", "rotate", "revoke"])
def test_a_change_that_ends_at_any_step_leaves_services_that_sign_after_the_next_preparation(
    tmp_path, monkeypatch, change
):
    for step in range(1, 20):
        keys = AttesterKeys(tmp_path / str(step))
        keys.private_key("").parent.mkdir(parents=True)
        if change != "prepare":
            keys.prepare(NOW)
        arguments = () if change == "prepare" else ("merger",)
        with monkeypatch.context() as patched:
            die_before(patched, step)
            try:
                getattr(keys, change)(*arguments, NOW)
            except Killed:
                pass
            else:
                break
        keys.prepare(NOW)
        for name in ATTESTERS:
            data = signs(keys, name).sign(STEPS_OF[name], ABOUT)
            assert isinstance(open_envelope(data, keys.entries()), Signed), (step, name)
    assert step >= 3


def test_retiring_after_an_interrupted_rotation_keeps_the_key_that_the_service_has(keys, monkeypatch):
    with monkeypatch.context() as patched:
        die_before(patched, 2)
        with pytest.raises(Killed):
            keys.rotate("merger", NOW)
    later = NOW + timedelta(days=1)
    kept = keys.retire("merger", later)
    made = signs(keys, "merger", later + timedelta(days=1))
    assert kept.key_id == made.key_id
    assert isinstance(open_envelope(made.sign("merge", ABOUT), keys.entries()), Signed)


@pytest.mark.parametrize(
    ("allowed", "accepted"),
    [((), True), (("quantiser",), True), (("ab" * 32,), True), (("merger",), False), (("ab" * 31, "cd" * 32), False)],
)
def test_a_policy_that_names_attesters_lets_no_other_key_attest(allowed, accepted):
    key = AttesterKey.model_construct(
        attester="quantiser", key_id="ab" * 32, public_key="", steps=STEPS, valid_from=NOW
    )
    problem = assess_allowed(key, STEPS[0], allowed)
    assert (problem is None) == accepted
    assert accepted or problem.code == "key_not_trusted"
