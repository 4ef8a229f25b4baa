"""Keys of the object store in an installation's folder of keys: made, replaced, withdrawn.

- `store/s3.json`: identities with their keys and policies, as SeaweedFS reads them (`-s3.config`); all of the store's
  secrets. `deploy.docker.store_users` makes users of a MinIO from it.
- `store/certs/`: `public.crt` and `private.key`, the certificate of the store; a folder, as MinIO takes it.
- `store/security.toml`, `store/internal.pem` and `store/internal-key.pem`: by these the parts of a SeaweedFS know each
  other; `deploy.identity.store_internal` makes them.
- `store/minio/`: the root key of a MinIO, as its two files and as a credential; it makes the users, and nothing else
  has it. SeaweedFS needs none.
- `credentials/NAME.s3`: an identity's key, for that identity only. While it is being replaced, `NAME.old.s3` is the one
  before. Both follow from `s3.json`, so a crash between two steps is repaired by the next change.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from contracts.identities import Identity
from contracts.storage.access import BUCKET, StoreCredential
from deploy.identity.files import make_folder, write_secret
from deploy.identity.store_permissions import access_of, policy

Keys = tuple[StoreCredential, ...]
"""The keys of one identity that are accepted, the newest last."""


class StoreKeys:
    """The part of a folder of keys that opens the store. Its owner holds the folder's lock while it changes."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of keys; `sync` creates missing ones."""
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder that the store's server reads."""
        return self._folder / "store"

    @property
    def server_config(self) -> Path:
        """The identities, their keys and policies, as SeaweedFS reads them."""
        return self.folder / "s3.json"

    @property
    def certificate(self) -> Path:
        """The certificate of the store."""
        return self.folder / "certs" / "public.crt"

    @property
    def certificate_key(self) -> Path:
        """The private key of the store's certificate."""
        return self.folder / "certs" / "private.key"

    def credential(self, name: str) -> Path:
        """Return the file with an identity's key."""
        return self._folder / "credentials" / f"{name}.s3"

    def former_credential(self, name: str) -> Path:
        """Return the file with an identity's key before it was replaced; it exists until the key is retired."""
        return self._folder / "credentials" / f"{name}.old.s3"

    @property
    def bucket(self) -> str:
        """The bucket that the policies are about."""
        chosen = self.folder / "bucket"
        return chosen.read_text().strip() if chosen.is_file() else BUCKET

    def choose_bucket(self, name: str) -> None:
        """Set the bucket that the policies are about, from the next `sync` on."""
        make_folder(self.folder)
        write_secret(self.folder / "bucket", f"{name}\n".encode())

    def accepted(self) -> Mapping[str, Keys]:
        """Return the keys that are accepted, by identity; no key for one that was withdrawn."""
        if not self.server_config.is_file():
            return {}
        listed = json.loads(self.server_config.read_bytes())["identities"]
        return {entry["name"]: tuple(_read(entry["name"], key) for key in entry["credentials"]) for entry in listed}

    def sync(self, identities: Iterable[Identity]) -> None:
        """Write server configuration and credentials for exactly these identities; one without a key gets one."""
        make_folder(self.folder)
        make_folder(self.credential("").parent)
        make_folder(self.certificate.parent)
        self._make_root()
        known = self.accepted()
        entitled = {each.name: access for each in identities if (access := access_of(each)) is not None}
        keys = {name: known.get(name) or (_make(name),) for name in entitled}
        entries: list[dict[str, Any]] = [
            {"name": name, "credentials": [_write(key) for key in kept], "policyNames": [name]}
            for name, kept in keys.items()
        ]
        # A server that reads its configuration again keeps an identity that is no longer there, with all its keys.
        entries += [{"name": name, "credentials": [], "disabled": True} for name in known if name not in keys]
        policies = [
            {"name": name, "content": json.dumps(policy(access, self.bucket))} for name, access in entitled.items()
        ]
        self._replace(self.server_config, json.dumps({"identities": entries, "policies": policies}, indent=1) + "\n")
        for name in {*known, *keys}:
            newest, *former = reversed(keys.get(name, ())) if keys.get(name) else (None,)
            self._follow(self.former_credential(name), former[0] if former else None)
            self._follow(self.credential(name), newest)

    def _make_root(self) -> None:
        folder = self.folder / "minio"
        if (folder / "minio.s3").is_file():
            return
        make_folder(folder)
        root = _make("root")
        write_secret(folder / "user", root.access_key.encode())
        write_secret(folder / "password", root.secret_key.get_secret_value().encode())
        write_secret(folder / "minio.s3", root.text().encode())

    def rotate(self, name: str, identities: Iterable[Identity]) -> None:
        """Add a second key to an identity, unless it has two already or may not use the store."""
        kept = self.accepted().get(name, ())
        if len(kept) == 1:
            self._change(name, (*kept, _make(name)), identities)

    def retire(self, name: str, identities: Iterable[Identity]) -> None:
        """Accept an identity's newest key only."""
        self._change(name, self.accepted().get(name, ())[-1:], identities)

    def _change(self, name: str, keys: Keys, identities: Iterable[Identity]) -> None:
        content: dict[str, Any] = json.loads(self.server_config.read_bytes())
        for entry in content["identities"]:
            if entry["name"] == name:
                entry["credentials"] = [_write(key) for key in keys]
        self._replace(self.server_config, json.dumps(content, indent=1) + "\n")
        self.sync(identities)

    def _follow(self, path: Path, key: StoreCredential | None) -> None:
        if key is None:
            path.unlink(missing_ok=True)
        else:
            self._replace(path, key.text())

    def _replace(self, path: Path, text: str) -> None:
        if not path.is_file() or path.read_text() != text:
            write_secret(path, text.encode())


def _make(name: str) -> StoreCredential:
    return StoreCredential(
        name=name, access_key=f"{name}-{secrets.token_hex(4)}", secret_key=SecretStr(secrets.token_hex(20))
    )


def _read(name: str, key: Mapping[str, str]) -> StoreCredential:
    return StoreCredential(name=name, access_key=key["accessKey"], secret_key=SecretStr(key["secretKey"]))


def _write(key: StoreCredential) -> dict[str, str]:
    return {"accessKey": key.access_key, "secretKey": key.secret_key.get_secret_value()}
