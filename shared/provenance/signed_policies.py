"""Policies that versions were released under, as the registry signed them with the versions."""

from dataclasses import dataclass

from pydantic import ValidationError

from contracts.policy import ReleasePolicy
from decisions.releases.provenance import Problem
from shared.errors import SlipwayError
from shared.provenance.envelopes import Trust
from shared.provenance.target_check import signed_version
from shared.storage.blobs import Store


@dataclass(frozen=True)
class SignedPolicy:
    """The frozen policy of a version, and the release that it was frozen for."""

    release_id: str
    policy: ReleasePolicy


def read_policy(store: Store, trust: Trust, model: str, version: int) -> SignedPolicy | str:
    """Return the policy of a version, from the manifest that the registry signed; else a sentence that says why not."""
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
