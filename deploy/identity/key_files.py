"""Paths and contents of an installation's folder of keys."""

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from contracts.identities import Identity
from contracts.teams import Team
from decisions.access.teams import narrowed
from deploy.identity.api_key_files import ApiKeyFiles
from deploy.identity.attesters import AttesterKeys
from deploy.identity.store_keys import StoreKeys

_IDENTITIES: Final = TypeAdapter(tuple[Identity, ...])
_TEAMS: Final = TypeAdapter(tuple[Team, ...])


class KeysRefused(ValueError):  # noqa: N818 - an answer to a person, not a failure of the program
    """A change of keys was refused; the message says why, and what to do."""


class KeyFiles:
    """The files of a folder with keys; `deploy.identity.key_folder` describes each."""

    def __init__(self, path: Path) -> None:
        """Use a folder; `KeyFolder.prepare` creates its contents."""
        self.path = path

    @property
    def authority(self) -> Path:
        """The file with the authority's certificate, by which clients trust servers."""
        return self.path / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The file with the TLS certificate of the bus."""
        return self.path / "bus" / "bus.pem"

    @property
    def certificate_key(self) -> Path:
        """The file with the private key of the bus's TLS certificate."""
        return self.path / "bus" / "bus-key.pem"

    @property
    def server_config(self) -> Path:
        """The file with each identity's permissions, for the configuration of bus servers."""
        return self.path / "bus" / "bus.conf"

    @property
    def managers(self) -> Path:
        """The file with the public keys of server-manager, for the agents of engines."""
        return self.path / "trust" / "managers.json"

    @property
    def team_list(self) -> Path:
        """The file with models, members and quota of each team, for registry and gateways."""
        return self.path / "trust" / "teams.json"

    @property
    def authority_key(self) -> Path:
        """The file with the private key of the certificate authority."""
        return self.path / "ca-key.pem"

    @property
    def listing(self) -> Path:
        """The file with names, roles and public keys of all identities."""
        return self.path / "identities.json"

    @property
    def attesters(self) -> AttesterKeys:
        """The keys that services sign attestations with."""
        return AttesterKeys(self.path)

    @property
    def api_keys(self) -> ApiKeyFiles:
        """The initial API keys of the installation."""
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
        """The folder with links to credentials for orders by the console of this machine."""
        return self.path / "console-local"  # not `console`, which compose.yaml mounts

    def former_credential(self, name: str) -> Path:
        """Return the file with an identity's former secret, which exists until the key is retired."""
        return self.path / "credentials" / f"{name}.old.nk"

    def next_credential(self, name: str) -> Path:
        """Return the file with an identity's next secret, not accepted yet."""
        return self.path / "credentials" / f"{name}.next.nk"

    @property
    def people(self) -> Path:
        """The file with names, roles and public keys of all identities with roles, for the console."""
        return self.path / "trust" / "identities.json"

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts of the bus's certificate; empty without one."""
        return hosts_of(self.certificate)

    def store_hosts(self) -> tuple[str, ...]:
        """Return the hosts of the store's certificate; empty without one."""
        return hosts_of(self.store.certificate)

    def teams(self) -> tuple[Team, ...]:
        """Return the teams, in order of creation."""
        return _TEAMS.validate_json(self.team_list.read_bytes()) if self.team_list.is_file() else ()

    def identities(self) -> tuple[Identity, ...]:
        """Return the identities that may connect, in order of creation."""
        return _IDENTITIES.validate_json(self.listing.read_bytes()) if self.listing.is_file() else ()

    def narrowed(self) -> list[Identity]:
        """Return the identities with their current models."""
        owned = self.teams()
        return [narrowed(identity, owned) for identity in self.identities()]


def hosts_of(certificate: Path) -> tuple[str, ...]:
    """Return the hosts of the certificate in a file; empty without a file."""
    from deploy.identity import certificates  # not for every command

    return certificates.hosts_of(certificate.read_bytes()) if certificate.is_file() else ()
