"""Administrators' keys and signed rollbacks for gateways."""

import json
import os
import uuid
from datetime import datetime
from pathlib import Path

import nkeys
from pydantic import SecretStr

from contracts.gateway_rollbacks import VALID, Administrator, GatewayRollback, SignedGatewayRollback
from contracts.identities import Credential
from contracts.vocabulary import Target
from shared.provenance.administrators import Administrators, sign_rollback


def credential(name: str = "admin") -> Credential:
    """Return a credential with a new key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return Credential(name=name, seed=SecretStr(seed.decode()))


def public_key(of: Credential) -> str:
    return nkeys.from_seed(bytearray(of.seed.get_secret_value().encode())).public_key.decode()


def listed(path: Path, *credentials: Credential) -> Administrators:
    """Return the list of administrators with these credentials, in a file."""
    entries = [Administrator(name=each.name, public_keys=(public_key(each),)) for each in credentials]
    path.write_text(json.dumps([entry.model_dump(mode="json") for entry in entries]))
    return Administrators(path)


def rollback_order(target: Target, epoch: int | None, now: datetime, **changes) -> GatewayRollback:
    """Return an order of now."""
    fields = {
        "order_id": uuid.uuid4().hex,
        "administrator": "admin",
        "model": target.model,
        "failed": target,
        "epoch": epoch,
        "reason": "Rude answers.",
        "issued_at": now,
        "expires_at": now + VALID,
    }
    return GatewayRollback(**(fields | changes))


def signed_rollback(
    of: Credential, target: Target, epoch: int | None, now: datetime, **changes
) -> SignedGatewayRollback:
    """Return a signed order of now."""
    return sign_rollback(rollback_order(target, epoch, now, **changes), of)
