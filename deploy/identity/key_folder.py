"""The folder with an installation's keys: creation, replacement and withdrawal.

- `ca.pem` and `ca-key.pem`: the certificate authority.
- `identities.json`: names, roles and public keys; nothing secret.
- `trust/teams.json`: models, members and quotas of teams; nothing secret.
- `trust/identities.json`: names, roles, models and public keys of people and programs, which the console reads; nothing
  secret.
- `trust/managers.json`: server-manager and its public keys, which the agents of engines read; nothing secret.
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
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from contracts.identities import PROVISIONER, RESERVED, Identity, Role
from contracts.provenance.attestations import ATTESTERS, AttesterKey
from contracts.services import SERVICES
from contracts.teams import Team, TeamQuota
from contracts.vocabulary import IDENTITY_PATTERN, Environment
from decisions.access.teams import find_problem, owner_of
from deploy.identity.attesters import AttesterKeys
from deploy.identity.bus_keys import make_key, public_key
from deploy.identity.derived import derive, replace_entries
from deploy.identity.files import locked, make_folder, write_secret
from deploy.identity.key_files import KeyFiles, KeysRefused
from deploy.identity.server_certificates import certify, check_hosts, make_authority
from deploy.identity.store_internal import prepare_internal

OWN: Final = (*SERVICES, PROVISIONER)
"""Identities that every installation has."""


class KeyFolder(KeyFiles):
    """An installation's keys in a private folder. Concurrent changes are serialised by a lock."""

    def set_team(self, name: str, models: Iterable[str], quota: TeamQuota | None = None) -> Team:
        """Create a team, or change its models, and its quota if given.

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
        """Remove a team without members.

        Raises:
            KeysRefused: The team does not exist, or has members.
        """
        with self._alone():
            if all(team.name != name for team in self.teams()):
                raise KeysRefused(f"There is no team {name}: see `slipway keys team list`.")
            members = [identity.name for identity in self.identities() if identity.team == name]
            if members:
                raise KeysRefused(f"{', '.join(members)} belong to {name}: remove their keys first.")
            self._store(self.identities(), [team for team in self.teams() if team.name != name])

    def prepare(
        self, hosts: Iterable[str], now: datetime, store_hosts: Iterable[str] = (), bucket: str | None = None
    ) -> None:
        """Create missing files: authority, certificates of bus and store, keys for each service; idempotent.

        A certificate for other hosts, or with less than 30 days left, is replaced.

        Args:
            hosts: Names and addresses of the bus.
            now: The time.
            store_hosts: Names and addresses of the store; those of the bus if none is given.
            bucket: The bucket of the store's policies, if it is to change.

        Raises:
            KeysRefused: Clients would not accept a wildcard, or the authority's private key is missing for a new
                certificate.
            OSError: The folder cannot be written to.
        """
        of_bus, of_store = list(hosts), list(store_hosts)
        known = {*self.hosts(), *self.store_hosts()}
        check_hosts(host for host in (*of_bus, *of_store) if host not in known)
        for folder in (self.path, self.credential("").parent, self.server_config.parent):
            make_folder(folder)
        with self._alone():
            if bucket is not None:
                self.store.choose_bucket(bucket)
            self._prepare(of_bus, of_store, now)

    def _prepare(self, hosts: list[str], store_hosts: list[str], now: datetime) -> None:
        make_authority(self, now)
        bus = {"certificate": self.certificate, "key": self.certificate_key}
        certify(self, "bus", **bus, hosts=hosts, now=now, joins_cluster=True)
        make_folder(self.store.certificate.parent)
        store = self.store
        certify(
            self, "store", certificate=store.certificate, key=store.certificate_key, hosts=store_hosts or hosts, now=now
        )
        prepare_internal(self.store.folder, now)
        known = {identity.name for identity in self.identities()}
        missing = [name for name in OWN if name not in known]
        added = [Identity(name=name, public_keys=(make_key(name, self.credential(name)),)) for name in missing]
        self._store([*self.identities(), *added])
        self.attesters.prepare(now)
        self.api_keys.prepare(now)

    def add(self, name: str, roles: Iterable[Role], models: Iterable[str] = (), team: str | None = None) -> Identity:
        """Add a person or a program, with a key.

        Raises:
            KeysRefused: The name is invalid, reserved or taken; there is no role; models without the role publisher; or
                the team does not exist, or does not own the models.
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
                name=name, roles=roles, models=models, team=team, public_keys=(make_key(name, self.credential(name)),)
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
        it: one of the two files works after a crash at any step.

        Raises:
            KeysRefused: The identity does not exist, or has two keys already.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) > 1:
                raise KeysRefused(f"{name} has two keys: withdraw the old one with `slipway keys retire {name}` first.")
            self.store.rotate(name, self.narrowed())  # first: a rotation that was interrupted is refused from here on
            made = make_key(name, self.next_credential(name))
            after = before.model_copy(update={"public_keys": (*before.public_keys, made)})
            self._store([after if identity.name == name else identity for identity in self.identities()])
            self._take_next(name)
            return after

    def retire(self, name: str) -> Identity:
        """Accept an identity's newest key only.

        Raises:
            KeysRefused: The identity does not exist, or has one key only.
        """
        with self._alone():
            before = self._known(name)
            if len(before.public_keys) == 1:
                raise KeysRefused(f"{name} has one key only: make another with `slipway keys rotate {name}` first.")
            self.store.retire(name, self.narrowed())  # first: it can be done again until the bus has one key, too
            after = before.model_copy(update={"public_keys": before.public_keys[-1:]})
            self._store([after if identity.name == name else identity for identity in self.identities()])
            self.former_credential(name).unlink(missing_ok=True)
            return after

    def remove(self, name: str) -> None:
        """Withdraw all keys of a person or a program.

        Raises:
            KeysRefused: The identity does not exist, or is a part of Slipway.
        """
        if name in OWN:
            raise KeysRefused(f"{name} is a part of Slipway and needs a key: use `slipway keys rotate {name}`.")
        with self._alone():
            self._known(name)
            for file in (self.credential(name), self.former_credential(name)):  # first: none stays after a crash
                file.unlink(missing_ok=True)
            self._store([identity for identity in self.identities() if identity.name != name])

    def change_attester(self, name: str, change: Callable[[AttesterKeys], AttesterKey]) -> AttesterKey:
        """Change the attestation keys of a service.

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
        """Create an initial API key for a person or program without one."""
        with self._alone():
            self.api_keys.ensure(name, environments, now)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, after completing an interrupted change."""
        with locked(self.path):
            self._resume()
            yield

    def _resume(self) -> None:
        """Complete or undo an interrupted change: the listing says which keys are accepted.

        Derived files are updated before a change can be refused, so that repeating a killed withdrawal completes it.
        """
        accepted = {identity.name: identity.public_keys for identity in self.identities()}
        for name, keys in accepted.items():
            following, former = self.next_credential(name), self.former_credential(name)
            if following.is_file():
                if public_key(following) == keys[-1]:
                    self._take_next(name)
                else:
                    following.unlink()
            if former.is_file() and public_key(former) not in keys:
                former.unlink()
        if accepted and self.server_config.parent.is_dir():
            derive(self, self.identities(), self.teams())

    def _take_next(self, name: str) -> None:
        """Replace an identity's credential by its next one, and keep the former one."""
        if self.credential(name).is_file():
            write_secret(self.former_credential(name), self.credential(name).read_bytes())
        self.next_credential(name).replace(self.credential(name))

    def _known(self, name: str) -> Identity:
        for identity in self.identities():
            if identity.name == name:
                return identity
        raise KeysRefused(f"{name} has no key here: see `slipway keys list`.")

    def _store(self, identities: Iterable[Identity], teams: Iterable[Team] | None = None) -> None:
        """Write the listing of identities, then the files derived from it and the teams."""
        kept = tuple(identities)
        replace_entries(self.listing, [identity.model_dump(mode="json") for identity in kept])
        derive(self, kept, self.teams() if teams is None else teams)
