"""Versions as the registry signed them: proof of a target before it is loaded, and the policy of a release."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from contracts.manifests import VersionManifest
from contracts.policy import ReleasePolicy
from contracts.provenance.attestations import AttesterKey
from contracts.provenance.steps import RequiredStep
from contracts.vocabulary import ArtifactRef, Deployable, digest_of
from decisions.releases.provenance import Problem
from shared.errors import SlipwayError
from shared.provenance.attestations import Chain, find_attestation
from shared.provenance.envelopes import Signed, Trust
from shared.storage.blobs import Store


def check_target(store: Store, keys: Sequence[AttesterKey], deployable: Deployable) -> Problem | None:
    """Return why a target is not proven; None if it is.

    Reads manifests and attestations, no weights: those are compared with the manifest when fetched. A base model
    (version 0) is proven if a signed version of the same model was trained on it.

    Raises:
        Transient: `store_unavailable`.
    """
    target = deployable.target
    if target.version == 0:
        proof = version_on_base(store, keys, deployable)
        return proof if isinstance(proof, Problem) else None
    version = signed_version(store, keys, target.model, target.version)
    if isinstance(version, Problem):
        return version
    registered = next((variant for variant in version.variants if variant.variant == target.variant), None)
    signed = "no such variant" if registered is None else registered.manifest.digest
    if registered is None or signed != deployable.manifest.digest:
        return Problem(
            "digest_mismatch",
            f"{target} is to be loaded from {deployable.manifest.digest}, its signed version has {signed}.",
        )
    if _as_json(version) != (None if deployable.serving is None else deployable.serving.model_dump_json()):
        return Problem("digest_mismatch", f"{target} is to be loaded with other serving settings than were signed.")
    steps: tuple[tuple[RequiredStep, ArtifactRef], ...] = (("quantise", registered.manifest), ("merge", version.merged))
    allowed = version.attestations.attesters
    checked = (find_attestation(store, keys, step, ref, allowed.get(step, ())) for step, ref in steps)
    return next((result for result in checked if isinstance(result, Problem)), None)


def version_on_base(store: Store, keys: Sequence[AttesterKey], deployable: Deployable) -> int | Problem:
    """Return the number of the newest signed version trained on a base model (version 0), else the problem.

    Raises:
        Transient: `store_unavailable`.
    """
    target = deployable.target
    numbers = (key.split("/")[2] for key in store.keys(f"versions/{target.model}/"))
    problem = Problem("attestation_missing", f"No signed version of {target.model} was trained on this base model.")
    for number in sorted({int(digits) for digits in numbers if digits.isdigit()}, reverse=True):
        version = signed_version(store, keys, target.model, number)
        if isinstance(version, VersionManifest) and version.base.digest == deployable.manifest.digest:
            return number
        if isinstance(version, Problem):
            problem = version
    return problem


def signed_version(store: Store, keys: Sequence[AttesterKey], model: str, number: int) -> VersionManifest | Problem:
    """Return the manifest of a version if the registry signed exactly these bytes, else the problem."""
    uri = f"versions/{model}/{number}/manifest.json"
    data = store.find(uri)
    if data is None:
        return Problem("attestation_missing", f"{uri} does not exist.")
    link = Chain(store, model, number).read(keys, 1, None)
    if not isinstance(link, Signed):
        return link
    if link.claim.step != "register" or digest_of(data) not in link.statement.digests:
        return Problem("digest_mismatch", f"{uri} is {digest_of(data)}, signed was {link.statement.digests[0]}.")
    try:
        return VersionManifest.model_validate_json(data)
    except ValidationError as error:
        return Problem("signature_invalid", f"{uri} is no manifest of a version: {error.errors()[0]['msg']}.")


def _as_json(version: VersionManifest) -> str | None:
    return None if version.serving is None else version.serving.model_dump_json()


@dataclass(frozen=True)
class SignedPolicy:
    """The frozen policy of a version, and its release."""

    release_id: str
    policy: ReleasePolicy


def read_policy(store: Store, trust: Trust, model: str, version: int) -> SignedPolicy | str:
    """Return the policy of a version from its signed manifest, else the problem as a sentence."""
    try:
        keys = trust.keys()
        signed = signed_version(store, keys, model, version)
    except SlipwayError as error:
        return error.reason
    if isinstance(signed, Problem):
        return signed.reason
    try:
        return SignedPolicy(signed.release_id, ReleasePolicy.model_validate(signed.policy))
    except ValidationError as error:
        return f"The policy that was signed with version {version} of {model} is not valid: {error.errors()[0]['msg']}."
