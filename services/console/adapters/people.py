"""The people of the installation, from the file that `slipway keys` writes; reread when it changes."""

from pathlib import Path
from typing import Final

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.identities import Identity
from services.console.domain.people import Person, person_of
from shared.runtime.team_list import TeamList

_IDENTITIES: Final = TypeAdapter(tuple[Identity, ...])


class People:
    """The people who may sign in.

    Args:
        listing: `trust/identities.json` of a folder of keys; None to disable sign-in.
        credentials: Folder of credentials for publishing people's orders; None without.
        teams: The teams.
    """

    def __init__(self, listing: Path | None, credentials: Path | None, teams: TeamList) -> None:
        self._listing, self._credentials, self._teams = listing, credentials, teams
        self._known: dict[str, Identity] = {}
        self._seen: tuple[int, int] | None = None

    def find(self, name: str) -> Person | None:
        """Return a person by name; None if the person is unknown or was removed."""
        identity = self._read().get(name)
        if identity is None:
            return None
        return person_of(identity, self._teams.read(), has_credential=self.credential(name) is not None)

    def public_keys(self, name: str) -> tuple[str, ...]:
        """Return a person's public keys; empty for an unknown name."""
        identity = self._read().get(name)
        return identity.public_keys if identity is not None else ()

    def credential(self, name: str) -> Path | None:
        """Return a person's credential file; None if the console has none."""
        if self._credentials is None or name not in self._read():
            return None
        file = self._credentials / f"{name}.nk"
        return file if file.is_file() else None

    def _read(self) -> dict[str, Identity]:
        """Return the people in the file; empty if it is unreadable, so that removed people lose access."""
        if self._listing is None:
            return {}
        try:
            status = self._listing.stat()
            version = (status.st_ino, status.st_mtime_ns)
            if version != self._seen:
                identities = _IDENTITIES.validate_json(self._listing.read_bytes())
                self._known = {
                    identity.name: identity for identity in identities if set(identity.roles) - {"publisher"}
                }  # a pure publisher may not sign in
                self._seen = version
        except (OSError, ValidationError) as error:
            structlog.get_logger().error(
                "the list of people cannot be read", path=str(self._listing), error=repr(error)
            )
            self._known, self._seen = {}, None
        return self._known
