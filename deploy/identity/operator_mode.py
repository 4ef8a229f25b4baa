"""Credentials for a NATS that runs in operator mode: each identity's permissions, signed by a key of its account.

The account's own token and its limits stay with those who run the server; Slipway needs JetStream in that account. A
token holds all permissions of an identity, so the server needs `max_control_line: 64KB`.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from contracts.identities import Credential, Identity
from decisions.access.bus_permissions import permissions_of
from deploy.identity.files import make_folder, write_secret


def export(
    identities: Iterable[Identity],
    credentials: Path,
    signing_key: Path,
    into: Path,
    *,
    now: datetime,
    account: str | None = None,
) -> list[Path]:
    """Write `NAME.creds` for each identity whose secret is in a folder of credentials; return the files.

    Args:
        identities: Who may connect, with the models that they may act on now (`decisions.access.teams.narrowed`).
        credentials: The folder with `NAME.nk`.
        signing_key: File with the seed (`SA…`) of the account, or of one of its signing keys.
        into: A folder, which is made.
        now: The time that the tokens are issued at; they do not expire.
        account: The account's public key (`A…`), if a signing key signs.

    Raises:
        ValueError: The file holds no seed of an account.
        OSError: A file cannot be read or written.
    """
    import nkeys  # not for every command

    seed = signing_key.read_text().strip()
    if not seed.startswith("SA"):
        msg = f"{signing_key} holds no seed of an account (SA…): `nsc generate nkey --account` makes one."
        raise ValueError(msg)
    signer = nkeys.from_seed(bytearray(seed.encode()))
    make_folder(into)
    made = []
    for identity in identities:
        file = credentials / f"{identity.name}.nk"
        if not file.is_file():
            continue
        own = Credential.from_text(file.read_text()).seed.get_secret_value()
        token = user_token(identity, identity.public_keys[-1], signer, account, now)
        made.append(into / f"{identity.name}.creds")
        write_secret(made[-1], _creds(token, own).encode())
    return made


def user_token(identity: Identity, public_key: str, signer: Any, account: str | None, now: datetime) -> str:
    """Return the token (JWT, `ed25519-nkey`) of a user with the permissions of an identity."""
    permissions = permissions_of(identity)
    publish: dict[str, Any] = {"allow": list(permissions.publish)}
    if permissions.deny_publish:
        publish["deny"] = list(permissions.deny_publish)
    nats: dict[str, Any] = {
        "pub": publish,
        "sub": {"allow": list(permissions.subscribe)},
        "subs": -1,
        "data": -1,
        "payload": -1,
        "type": "user",
        "version": 2,
    }
    if permissions.answers:
        nats["resp"] = {"max": 1, "ttl": 120_000_000_000}  # nanoseconds, as `bus_config.ANSWER_WITHIN`
    if account is not None:
        nats["issuer_account"] = account
    return sign_token({"sub": public_key, "name": identity.name, "nats": nats}, signer, now)


def sign_token(claims: dict[str, Any], signer: Any, now: datetime) -> str:
    """Return a token of NATS with these claims, issued and signed by a key (nkeys)."""
    body = {**claims, "iat": int(now.timestamp()), "iss": signer.public_key.decode()}
    digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    signed = ".".join(parts)
    return f"{signed}.{_encoded(signer.sign(signed.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _creds(token: str, seed: str) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
