"""A program's credential for the object store, and its trust in the store's certificate."""

import ssl
import sys
from pathlib import Path

from minio.credentials import Credentials, Provider
from minio.error import S3Error

from contracts.storage.access import StoreCredential
from shared.errors import Permanent, Transient
from shared.runtime.settings import Connection

_HOW_GRANTED = (
    "contracts/storage/access.py says which identity may do what; the permissions of another version are replaced by "
    "`slipway keys init`, and a user's by a role that `slipway keys add` gives"
)


class FileProvider(Provider):  # type: ignore[misc]  # minio is skipped by mypy
    """Signs requests with the key in a file, and reloads a replaced file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._kept: StoreCredential | None = None

    @property
    def name(self) -> str:
        """The identity that the key belongs to."""
        return self._kept.name if self._kept is not None else "this program"

    def retrieve(self) -> Credentials:
        """Return the key in the file.

        Raises:
            Transient: `store_unavailable`: no file is named, or it holds no key.
        """
        key = self._read()
        return Credentials(key.access_key, key.secret_key.get_secret_value())

    def _read(self) -> StoreCredential:
        if self._path is None:
            raise Transient("store_unavailable", "The object store takes no request without a key.")
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            if self._kept is None or stamp != self._stamp:
                self._kept, self._stamp = read_credential(self._path), stamp
        except ValueError as error:
            raise Transient("store_unavailable", str(error)) from error
        except OSError as error:
            if self._kept is None:
                raise Transient(
                    "store_unavailable", f"SLIPWAY_S3_CREDENTIALS names {self._path}, which cannot be read: {error}."
                ) from error
        return self._kept  # of a file that is gone: the store says whether it still counts


def read_credential(path: Path) -> StoreCredential:
    """Return the credential in a file.

    Raises:
        ValueError: The file holds no credential.
        OSError: The file cannot be read.
    """
    try:
        return StoreCredential.from_text(path.read_text())
    except ValueError as error:
        raise ValueError(f"SLIPWAY_S3_CREDENTIALS names {path}: {error}") from error


def trusted(authority: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts an authority, by default the system's.

    Raises:
        ValueError: The file is no readable certificate.
    """
    try:
        return ssl.create_default_context(cafile=None if authority is None else str(authority))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"SLIPWAY_S3_CA names {authority}, which is no readable certificate: {error}.") from error


def describe_refusal(error: S3Error, name: str, what: str) -> Permanent | None:
    """Return the error of a forbidden request, with advice; None for other errors.

    Args:
        error: The store's answer.
        name: The identity.
        what: The requested object.
    """
    answered = error.response is not None and error.response.data  # a client makes the code of any 403 to a HEAD
    if error.code != "AccessDenied" or not answered:
        return None
    return Permanent(
        "uri_not_allowed", f"The object store does not permit {name} this request about {what}: {_HOW_GRANTED}."
    )


def require_store(connection: Connection, identity: str) -> Connection:
    """Return the settings of a program that uses the store as one identity.

    Raises:
        SystemExit: There is no credential, or it is another identity's; the message says what to do.
    """
    why = _missing(connection, identity)
    if why is not None:
        advice = (
            f"Name the file credentials/{identity}.s3 of the folder that `slipway keys init` makes in "
            "SLIPWAY_S3_CREDENTIALS, and its ca.pem in SLIPWAY_S3_CA."
        )
        sys.exit(f"{identity}: no_credentials: {why} {advice}")
    return connection


def _missing(connection: Connection, identity: str) -> str | None:
    if connection.s3_credentials is None:
        return "The object store takes no request without a key."
    try:
        name = read_credential(connection.s3_credentials).name
        trusted(connection.s3_ca)
    except (OSError, ValueError) as error:
        return str(error)
    if name not in (identity, "other"):
        return f"{connection.s3_credentials} is the credential of {name}."
    return None
