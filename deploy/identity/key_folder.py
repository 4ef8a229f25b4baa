"""The folder with an installation's keys: who has one, and how they are made, replaced and withdrawn.

`ca.pem` and `ca-key.pem` are the certificate authority, `bus.pem` and `bus-key.pem` the certificate of the bus.
`identities.json` has names, roles and public keys, and nothing secret. `bus.conf` is what the bus's server includes:
who may do what. `credentials/NAME.nk` is an identity's secret, for that identity only. Keys for attestations are in
`deploy.identity.attesters`.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import nkeys
from pydantic import SecretStr, TypeAdapter

from contracts.identities import IDENTITY_PATTERN, PROVISIONER, RESERVED, Credential, Identity, Role
from contracts.provenance import ATTESTERS, AttesterKey
from contracts.services import SERVICES
from deploy.identity import bus_config, certificates
from deploy.identity.attesters import AttesterKeys
from deploy.identity.files import write_file

_IDENTITIES: Final = TypeAdapter(tuple[Identity, ...])
OWN: Final = (*SERVICES, PROVISIONER)
"""Identities that every installation has."""


class KeysRefused(ValueError):  # noqa: N818 - an answer to a person, not a failure of the program
    """What was asked for is not possible; the message says why, and what to do."""


class KeyFolder:
    """An installation's keys in a folder that only its owner can read. Changes wait for each other."""

    def __init__(self, path: Path) -> None:
        """Take a folder; `prepare` makes what is in it."""
        self.path = path

    @property
    def authority(self) -> Path:
        """The certificate that clients trust servers by."""
        return self.path / "ca.pem"

    @property
    def server_config(self) -> Path:
        """What the bus's server includes."""
        return self.path / "bus.conf"

    @property
    def attesters(self) -> AttesterKeys:
        """The keys that services sign attestations with."""
        return AttesterKeys(self.path)

    def credential(self, name: str) -> Path:
        """Return the file with an identity's secret."""
        return self.path / "credentials" / f"{name}.nk"

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts that the bus's certificate is for; none before there is one."""
        certificate = self.path / "bus.pem"
        return certificates.hosts_of(certificate.read_bytes()) if certificate.is_file() else ()

    def identities(self) -> tuple[Identity, ...]:
        """Return everybody who may connect, in the order in which they were added."""
        return _IDENTITIES.validate_json(self._listing().read_bytes()) if self._listing().is_file() else ()

    def prepare(self, hosts: Iterable[str], now: datetime) -> None:
        """Make what is missing: authority, the bus's certificate for these hosts, a key for each service.

        What is there stays as it is; a certificate that is for other hosts, or expires within 30 days, is replaced.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.credential("").parent.mkdir(exist_ok=True, mode=0o700)
        with self._alone():
            self._prepare(list(hosts), now)

    def _prepare(self, hosts: list[str], now: datetime) -> None:
        if not (self.path / "ca-key.pem").is_file():
            made = certificates.make_authority(now)
            _write_secret(self.path / "ca-key.pem", made.key)
            write_file(self.authority, made.certificate)
        self._certify(hosts, now)
        known = {identity.name for identity in self.identities()}
        added = [_with_new_key(self, name) for name in OWN if name not in known]
        self._store([*self.identities(), *added])
        self.attesters.prepare(now)

    def add(self, name: str, roles: Iterable[Role], models: Iterable[str] = ()) -> Identity:
        """Add a person or a program, with a key.

        Raises:
            KeysRefused: The name is invalid, reserved or taken, no role is given, or models without a publisher.
        """
        roles, models = tuple(dict.fromkeys(roles)), tuple(dict.fromkeys(models))
        if re.fullmatch(IDENTITY_PATTERN, name) is None:
            raise KeysRefused(f"{name!r} cannot be a name: use 1 to 63 lower-case letters, digits and inner hyphens.")
        if name in RESERVED:
            raise KeysRefused(f"{name} is the name of a part of Slipway: choose another one.")
        if not roles:
            raise KeysRefused(f"{name} needs a role: publisher, operator, approver, viewer or administrator.")
        if models and "publisher" not in roles:
            raise KeysRefused("Models limit what a publisher announces: give the role publisher as well.")
        with self._alone():
            if any(identity.name == name for identity in self.identities()):
                raise KeysRefused(
                    f"{name} has a key: replace it with `slipway keys rotate {name}`, or use another name."
                )
            made = _with_new_key(self, name, roles=roles, models=models)
            self._store([*self.identities(), made])
            return made

    def rotate(self, name: str) -> Identity:
        """Add a second key to an identity; the first is accepted until `retire`.

        Raises:
            KeysRefused: There is no such identity, or it has two keys already.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) > 1:
                raise KeysRefused(f"{name} has two keys: withdraw the old one with `slipway keys retire {name}` first.")
            made = _with_new_key(self, name, roles=before.roles, models=before.models, accepted=before.public_keys)
            self._store([made if identity.name == name else identity for identity in self.identities()])
            return made

    def retire(self, name: str) -> Identity:
        """Accept an identity's newest key only.

        Raises:
            KeysRefused: There is no such identity, or it has one key only.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) == 1:
                raise KeysRefused(f"{name} has one key only: make another with `slipway keys rotate {name}` first.")
            after = before.model_copy(update={"public_keys": before.public_keys[-1:]})
            self._store([after if identity.name == name else identity for identity in self.identities()])
            return after

    def remove(self, name: str) -> None:
        """Withdraw all keys of a person or a program.

        Raises:
            KeysRefused: There is no such identity, or it is a part of Slipway.
        """
        if name in OWN:
            raise KeysRefused(f"{name} is a part of Slipway and needs a key: use `slipway keys rotate {name}`.")
        with self._alone():
            self._known(name)
            self._store([identity for identity in self.identities() if identity.name != name])
            self.credential(name).unlink(missing_ok=True)

    def change_attester(self, name: str, change: Callable[[AttesterKeys], AttesterKey]) -> AttesterKey:
        """Change the keys that a service signs attestations with.

        Raises:
            KeysRefused: The service attests nothing, or there is nothing to retire.
        """
        if name not in ATTESTERS:
            raise KeysRefused(f"{name} attests nothing: use {', '.join(ATTESTERS)}.")
        with self._alone():
            try:
                return change(self.attesters)
            except ValueError as error:
                raise KeysRefused(str(error)) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, so that two changes at once both take effect."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _known(self, name: str) -> Identity:
        for identity in self.identities():
            if identity.name == name:
                return identity
        raise KeysRefused(f"{name} has no key here: see `slipway keys list`.")

    def _listing(self) -> Path:
        return self.path / "identities.json"

    def _certify(self, hosts: list[str], now: datetime) -> None:
        certificate, key = self.path / "bus.pem", self.path / "bus-key.pem"
        if certificate.is_file() and key.is_file():
            present = certificate.read_bytes()
            lasts = (certificates.valid_until(present) - now).days >= 30
            if lasts and set(hosts) <= set(certificates.hosts_of(present)):
                return
        authority = certificates.KeyPair(self.authority.read_bytes(), (self.path / "ca-key.pem").read_bytes())
        made = certificates.make_server_certificate(authority, hosts, now)
        _write_secret(key, made.key)
        write_file(certificate, made.certificate)

    def _store(self, identities: Iterable[Identity]) -> None:
        """Write who may connect, and what the server includes; the list first: the other follows from it."""
        kept = tuple(identities)
        listing = [identity.model_dump(mode="json") for identity in kept]
        write_file(self._listing(), json.dumps(listing, indent=1).encode() + b"\n")
        write_file(self.server_config, bus_config.authorization(kept).encode())


def _with_new_key(
    folder: KeyFolder,
    name: str,
    *,
    roles: tuple[Role, ...] = (),
    models: tuple[str, ...] = (),
    accepted: tuple[str, ...] = (),
) -> Identity:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    _write_secret(folder.credential(name), Credential(name=name, seed=SecretStr(seed.decode())).text().encode())
    return Identity(name=name, roles=roles, models=models, public_keys=(*accepted, public))


def _write_secret(path: Path, content: bytes) -> None:
    write_file(path, content, mode=0o600)
