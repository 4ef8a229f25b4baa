"""Options that `slipway backup` and `slipway restore` share, and what they name."""

import re
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.backup.locations import BackupLocation, BucketPrefix, Folder
from clients.cli.output import CommandError, Exit
from clients.cli.settings import CliSettings
from shared.runtime.settings import Connection
from shared.storage.blobs import Store

LocationArgument = Annotated[
    str,
    typer.Argument(
        metavar="LOCATION", help="A folder, or s3://BUCKET/PREFIX of the server in SLIPWAY_BACKUP_S3_ENDPOINT."
    ),
]
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")


def open_location(text: str, installation: Connection | None = None) -> BackupLocation:
    """Return the location that a text names.

    Raises:
        CommandError: it is no address, lies in the very bucket of the installation, its server is not named, or the
            certificate of that server's authority cannot be read.
    """
    if not text.startswith("s3://"):
        return Folder(Path(text).absolute())
    match, settings = _S3.fullmatch(text), CliSettings()
    if match is None:
        raise CommandError(f"{text} names no location of backups: write s3://BUCKET/PREFIX", Exit.USAGE)
    if settings.backup_s3_endpoint is None or settings.backup_s3_credentials is None:
        raise CommandError(
            f"the server of {text} is not known: set SLIPWAY_BACKUP_S3_ENDPOINT and SLIPWAY_BACKUP_S3_CREDENTIALS",
            Exit.USAGE,
        )
    own = installation is not None and installation.s3_bucket == match["bucket"]
    if installation is not None and own and installation.s3_endpoint == settings.backup_s3_endpoint:
        raise CommandError(f"{text} is the bucket of the installation itself; name another one", Exit.USAGE)
    connection = Connection(
        s3_endpoint=settings.backup_s3_endpoint,
        s3_credentials=settings.backup_s3_credentials,
        s3_ca=settings.backup_s3_ca,
        s3_region=settings.backup_s3_region,
        s3_bucket=match["bucket"],
    )
    prefix = (match["prefix"] or "").strip("/")
    try:
        store = Store(connection)
    except ValueError as error:
        ca, reason = settings.backup_s3_ca, error.__cause__ or error
        raise CommandError(f"SLIPWAY_BACKUP_S3_CA names {ca}, which is no readable certificate: {reason}") from error
    return BucketPrefix(store, f"{prefix}/" if prefix else "")
