"""The folder with an installation's keys, and how they are made, replaced and withdrawn.

- `ca.pem` and `ca-key.pem`: the certificate authority.
- `identities.json`: names, roles and public keys; nothing secret.
- `trust/teams.json`: models, members and quotas of teams; nothing secret.
- `trust/identities.json`: names, roles, models and public keys of people and programs, which the console reads; nothing
  secret.
- `trust/administrators.json`: administrators and their public keys, which gateways read; nothing secret.
- `bus/`: what the bus's server reads, as a folder, which a container mounts. `bus.conf` has the permissions of each
  identity, `bus.pem` and `bus-key.pem` are the server's certificate.
- `credentials/NAME.nk`: an identity's secret, for that identity only. While a key is being replaced, `NAME.old.nk` is
  the one before. `NAME.next.nk` is a new one that is not accepted yet; after a crash the next change completes or
  deletes it.
- `console-local/NAME.nk`: links to the credentials of people and programs that are no administrators, for the console
  of the same machine: it can order as those only.

Keys for attestations are in `deploy.identity.attesters`, keys of the API in `deploy.identity.api_key_files`, those of
the object store in `deploy.identity.store_keys`.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, TypeAdapter

from contracts.gateway_rollbacks import Administrator
from contracts.identities import PROVISIONER, RESERVED, Credential, Identity, Role
from contracts.provenance import ATTESTERS, AttesterKey
from contracts.services import SERVICES
from contracts.teams import Team, TeamQuota
from contracts.vocabulary import IDENTITY_PATTERN, Environment
from decisions.teams import find_problem, narrowed, owner_of, with_members
from deploy.identity import bus_config, operator_mode
from deploy.identity.api_key_files import ApiKeyFiles
from deploy.identity.attesters import AttesterKeys
from deploy.identity.files import locked, make_folder, write_file, write_secret
from deploy.identity.store_internal import prepare_internal
from deploy.identity.store_keys import StoreKeys

_IDENTITIES: Final = TypeAdapter(tuple[Identity, ...])
_TEAMS: Final = TypeAdapter(tuple[Team, ...])
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
    def certificate(self) -> Path:
        """The certificate of the bus."""
        return self.path / "bus" / "bus.pem"

    @property
    def certificate_key(self) -> Path:
        """The private key of the bus's certificate."""
        return self.path / "bus" / "bus-key.pem"

    @property
    def server_config(self) -> Path:
        """The part of the server's configuration with the permissions of each identity."""
        return self.path / "bus" / "bus.conf"

    @property
    def administrators(self) -> Path:
        """The file with the public keys of administrators, which gateways and the rollback-controller read."""
        return self.path / "trust" / "administrators.json"

    @property
    def team_list(self) -> Path:
        """The file with models, members and quota of each team, which registry and gateways read."""
        return self.path / "trust" / "teams.json"

    def teams(self) -> tuple[Team, ...]:
        """Return the teams, in the order in which they were made."""
        return _TEAMS.validate_json(self.team_list.read_bytes()) if self.team_list.is_file() else ()

    def set_team(self, name: str, models: Iterable[str], quota: TeamQuota | None = None) -> Team:
        """Make a team, or give it other models, and another quota if one is given.

        Raises:
            KeysRefused: The name is invalid, no model is named, or a model belongs to another team.
        """
        if re.fullmatch(IDENTITY_PATTERN, name) is None:
            raise KeysRefused(f"{name!r} cannot be a name: use 1 to 63 lower-case letters, digits and inner hyphens.")
        named = tuple(dict.fromkeys(models))
        if not named:
            raise KeysRefused(f"{name} needs a model: name each with --model.")
        with self._alone():
            others = [team for team in self.teams() if team.name != name]
            for model in named:
                owner = owner_of(model, others)
                if owner is not None:
                    raise KeysRefused(f"{model} belongs to {owner.name}: take it away from that team first.")
            before = next((team for team in self.teams() if team.name == name), Team(name=name, models=named))
            made = before.model_copy(update={"models": named, "quota": quota or before.quota})
            known = [made if team.name == name else team for team in self.teams()]
            self._store(self.identities(), known if made in known else [*known, made])
            return made

    def remove_team(self, name: str) -> None:
        """Remove a team without members; its models belong to no team then.

        Raises:
            KeysRefused: There is no such team, or an identity belongs to it.
        """
        with self._alone():
            if all(team.name != name for team in self.teams()):
                raise KeysRefused(f"There is no team {name}: see `slipway keys team list`.")
            members = [identity.name for identity in self.identities() if identity.team == name]
            if members:
                raise KeysRefused(f"{', '.join(members)} belong to {name}: remove their keys first.")
            self._store(self.identities(), [team for team in self.teams() if team.name != name])

    @property
    def attesters(self) -> AttesterKeys:
        """The keys that services sign attestations with."""
        return AttesterKeys(self.path)

    @property
    def api_keys(self) -> ApiKeyFiles:
        """The keys of the API that the installation has from its start."""
        return ApiKeyFiles(self.path)

    @property
    def store(self) -> StoreKeys:
        """The keys of the object store."""
        return StoreKeys(self.path)

    def credential(self, name: str) -> Path:
        """Return the file with an identity's secret."""
        return self.path / "credentials" / f"{name}.nk"

    @property
    def console(self) -> Path:
        """The folder with links to the credentials that the console of this machine may order with."""
        return self.path / "console-local"  # not `console`, which compose.yaml mounts

    def former_credential(self, name: str) -> Path:
        """Return the file with an identity's secret before it was replaced; it exists until the key is retired."""
        return self.path / "credentials" / f"{name}.old.nk"

    def _next_credential(self, name: str) -> Path:
        return self.path / "credentials" / f"{name}.next.nk"

    @property
    def people(self) -> Path:
        """Names, roles and public keys of people and programs, which the console reads."""
        return self.path / "trust" / "identities.json"

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts that the bus's certificate is for; none before there is one."""
        return _hosts_of(self.certificate)

    def store_hosts(self) -> tuple[str, ...]:
        """Return the hosts that the store's certificate is for; none before there is one."""
        return _hosts_of(self.store.certificate)

    def identities(self) -> tuple[Identity, ...]:
        """Return the identities that may connect, in the order in which they were added."""
        return _IDENTITIES.validate_json(self._listing().read_bytes()) if self._listing().is_file() else ()

    def prepare(
        self, hosts: Iterable[str], now: datetime, store_hosts: Iterable[str] = (), bucket: str | None = None
    ) -> None:
        """Make what is missing: authority, certificates of bus and store, keys for each service.

        What exists stays as it is; a certificate that is for other hosts, or expires within 30 days, is replaced. After
        an interruption it continues.

        Args:
            hosts: Names and addresses of the bus.
            now: The time.
            store_hosts: Names and addresses of the store; those of the bus if none is given.
            bucket: The bucket that the store's policies are about, if it is another one.

        Raises:
            KeysRefused: A certificate must be made, and the authority's private key is not in the folder.
            OSError: The folder cannot be written to.
        """
        for folder in (self.path, self.credential("").parent, self.server_config.parent):
            make_folder(folder)
        with self._alone():
            if bucket is not None:
                self.store.choose_bucket(bucket)
            self._prepare(list(hosts), list(store_hosts), now)

    def _prepare(self, hosts: list[str], store_hosts: list[str], now: datetime) -> None:
        from deploy.identity import certificates  # not for every command

        if not self.authority.is_file():
            key = self._authority_key().read_bytes() if self._authority_key().is_file() else None
            made = certificates.make_authority(now, key)
            write_secret(self._authority_key(), made.key)
            write_file(self.authority, made.certificate)
        self._certify("bus", self.certificate, self.certificate_key, hosts, now)
        make_folder(self.store.certificate.parent)
        self._certify("store", self.store.certificate, self.store.certificate_key, store_hosts or hosts, now)
        prepare_internal(self.store.folder, now)
        known = {identity.name for identity in self.identities()}
        missing = [name for name in OWN if name not in known]
        added = [Identity(name=name, public_keys=(_make_key(name, self.credential(name)),)) for name in missing]
        self._store([*self.identities(), *added])
        self.attesters.prepare(now)
        self.api_keys.prepare(now)

    def add(self, name: str, roles: Iterable[Role], models: Iterable[str] = (), team: str | None = None) -> Identity:
        """Add a person or a program, with a key.

        Raises:
            KeysRefused: The name is invalid, reserved or taken, no role is given, models without a publisher, or a
                team that does not exist or does not own the models.
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
        if team is not None and "administrator" in roles:
            raise KeysRefused("An administrator may do everything, in all teams: give no team, or other roles.")
        with self._alone():
            self._check_team(team, models)
            if any(identity.name == name for identity in self.identities()):
                raise KeysRefused(
                    f"{name} has a key: replace it with `slipway keys rotate {name}`, or use another name."
                )
            made = Identity(
                name=name, roles=roles, models=models, team=team, public_keys=(_make_key(name, self.credential(name)),)
            )
            self._store([*self.identities(), made])
            return made

    def _check_team(self, team: str | None, models: Iterable[str]) -> None:
        problem = find_problem(team, models, self.teams()) if team is not None else None
        if problem is not None:
            raise KeysRefused(problem)

    def rotate(self, name: str) -> Identity:
        """Add a second key to an identity; the first is accepted until `retire`.

        The new key is accepted before it replaces the old one in the credential's file, and the old one is kept beside
        it: after a crash between any two steps one of the two files is a credential that works.

        Raises:
            KeysRefused: There is no such identity, or it has two keys already.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) > 1:
                raise KeysRefused(f"{name} has two keys: withdraw the old one with `slipway keys retire {name}` first.")
            self.store.rotate(name, self._narrowed())  # first: a rotation that was interrupted is refused from here on
            made = _make_key(name, self._next_credential(name))
            after = before.model_copy(update={"public_keys": (*before.public_keys, made)})
            self._store([after if identity.name == name else identity for identity in self.identities()])
            self._take_next(name)
            return after

    def retire(self, name: str) -> Identity:
        """Accept an identity's newest key only.

        Raises:
            KeysRefused: There is no such identity, or it has one key only.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) == 1:
                raise KeysRefused(f"{name} has one key only: make another with `slipway keys rotate {name}` first.")
            self.store.retire(name, self._narrowed())  # first: it can be done again until the bus has one key, too
            after = before.model_copy(update={"public_keys": before.public_keys[-1:]})
            self._store([after if identity.name == name else identity for identity in self.identities()])
            self.former_credential(name).unlink(missing_ok=True)
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
            for file in (self.credential(name), self.former_credential(name)):  # first: none stays after a crash
                file.unlink(missing_ok=True)
            self._store([identity for identity in self.identities() if identity.name != name])

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

    def ensure_api_key(self, name: str, environments: Iterable[Environment], now: datetime) -> None:
        """Make a key of the API for a person or program that has none, beside those of `slipway keys issue`."""
        with self._alone():
            self.api_keys.ensure(name, environments, now)

    def export(self, signing_key: Path, into: Path, *, now: datetime, account: str | None = None) -> list[Path]:
        """Write credentials for a NATS in operator mode; see `operator_mode.export`."""
        return operator_mode.export(
            self._narrowed(), self.credential("").parent, signing_key, into, now=now, account=account
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, so that two changes at once both take effect; complete what was interrupted."""
        with locked(self.path):
            self._resume()
            yield

    def _resume(self) -> None:
        """Complete or undo what a crash interrupted: the listing says which keys are accepted.

        What follows from the listing is written before a change is refused: a withdrawal that was killed counts once
        it is tried again, although the listing has nothing left to withdraw.
        """
        accepted = {identity.name: identity.public_keys for identity in self.identities()}
        for name, keys in accepted.items():
            following, former = self._next_credential(name), self.former_credential(name)
            if following.is_file():
                if public_key(following) == keys[-1]:
                    self._take_next(name)
                else:
                    following.unlink()
            if former.is_file() and public_key(former) not in keys:
                former.unlink()
        if accepted and self.server_config.parent.is_dir():
            self._derive(self.identities(), self.teams())

    def _take_next(self, name: str) -> None:
        """Replace an identity's credential by its next one, and keep the one before."""
        if self.credential(name).is_file():
            write_secret(self.former_credential(name), self.credential(name).read_bytes())
        self._next_credential(name).replace(self.credential(name))

    def _known(self, name: str) -> Identity:
        for identity in self.identities():
            if identity.name == name:
                return identity
        raise KeysRefused(f"{name} has no key here: see `slipway keys list`.")

    def _authority_key(self) -> Path:
        return self.path / "ca-key.pem"

    def _listing(self) -> Path:
        return self.path / "identities.json"

    def _certify(self, server: str, certificate: Path, key: Path, hosts: list[str], now: datetime) -> None:
        from deploy.identity import certificates  # not for every command

        if certificate.is_file() and key.is_file():
            present = certificates.KeyPair(certificate.read_bytes(), key.read_bytes())
            lasts = (certificates.valid_until(present.certificate) - now).days >= 30
            complete = set(hosts) <= set(certificates.hosts_of(present.certificate))
            if lasts and complete and certificates.belong_together(present):
                return
        if not self._authority_key().is_file():
            missing = f"The {server} needs a new certificate, and {self._authority_key()}, which signs it, is missing"
            raise KeysRefused(f"{missing}: put it back, or make an authority in a new folder.")
        authority = certificates.KeyPair(self.authority.read_bytes(), self._authority_key().read_bytes())
        made = certificates.make_server_certificate(authority, hosts, now)
        write_secret(key, made.key)
        write_file(certificate, made.certificate)

    def _store(self, identities: Iterable[Identity], teams: Iterable[Team] | None = None) -> None:
        """Write the listing of identities, then what follows from it and the teams."""
        kept = tuple(identities)
        _replace(self._listing(), [identity.model_dump(mode="json") for identity in kept])
        self._derive(kept, self.teams() if teams is None else teams)

    def _derive(self, kept: tuple[Identity, ...], teams: Iterable[Team]) -> None:
        """Write what differs from the listing: teams, the server's configuration, administrators, keys of the store."""
        owned = tuple(with_members(team, kept) for team in teams)
        make_folder(self.team_list.parent, mode=0o755)
        _replace(self.team_list, [team.model_dump(mode="json") for team in owned])
        config = bus_config.authorization(kept, owned).encode()
        if not self.server_config.is_file() or self.server_config.read_bytes() != config:
            write_file(self.server_config, config)
        administrators = [
            Administrator(name=identity.name, public_keys=identity.public_keys).model_dump(mode="json")
            for identity in kept
            if "administrator" in identity.roles
        ]
        _replace(self.administrators, administrators)
        people = [identity.model_dump(mode="json") for identity in kept if identity.roles]
        _replace(self.people, people)
        self._link_for_console(kept)
        self.store.sync(narrowed(identity, owned) for identity in kept)

    def _link_for_console(self, kept: Iterable[Identity]) -> None:
        names = {each.name for each in kept if each.roles and "administrator" not in each.roles}
        linked = {file.stem: file for file in self.console.glob("*.nk")}
        for name in linked.keys() - names:
            linked[name].unlink()
        make_folder(self.console)
        for name in names - linked.keys():
            (self.console / f"{name}.nk").symlink_to(Path("..", "credentials", f"{name}.nk"))

    def _narrowed(self) -> list[Identity]:
        """Return the identities with the models that they may act on now."""
        owned = self.teams()
        return [narrowed(identity, owned) for identity in self.identities()]


def _replace(file: Path, entries: list[dict[str, Any]]) -> None:
    """Write a JSON file, unless it has these entries."""
    content = json.dumps(entries, indent=1).encode() + b"\n"
    if not file.is_file() or file.read_bytes() != content:
        write_file(file, content)


def _hosts_of(certificate: Path) -> tuple[str, ...]:
    from deploy.identity import certificates  # not for every command

    return certificates.hosts_of(certificate.read_bytes()) if certificate.is_file() else ()


def public_key(credential: Path) -> str:
    """Return the public key of the secret in a credential's file."""
    import nkeys  # not for every command

    seed = Credential.from_text(credential.read_text()).seed.get_secret_value()
    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())


def _make_key(name: str, file: Path) -> str:
    """Make a key, write its secret to a file, and return the public key."""
    import nkeys  # not for every command

    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    write_secret(file, Credential(name=name, seed=SecretStr(seed.decode())).text().encode())
    return public_key(file)
