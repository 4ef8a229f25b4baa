"""The folder of keys in a backup: one archive, encrypted by a passphrase in the age format."""

import io
import os
import tarfile
import time
from pathlib import Path

from clients.cli.output import CommandError

SHORTEST = 16
"""Characters of the shortest passphrase."""
TRIES = 10
"""How often keys are tried to be opened: age measures the machine each time, and refuses what would take long."""
PAUSE_S = 1.0
"""Seconds between two tries: a machine that is busy now is not always."""
_TOO_MUCH_WORK = "Excessive work"


def read_passphrase(file: Path) -> str:
    """Return the passphrase in a file, without the end of its line.

    Raises:
        CommandError: it cannot be read, or is too short.
    """
    try:
        passphrase = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the passphrase in {file} cannot be read: {error}") from error
    if len(passphrase) < SHORTEST:
        raise CommandError(
            f"the passphrase in {file} has {len(passphrase)} characters, the shortest may have {SHORTEST}; make one "
            "with `openssl rand -base64 24`"
        )
    return passphrase


def pack(folder: Path, passphrase: str) -> bytes:
    """Return a folder as an encrypted archive; `age --decrypt` opens it, too.

    Raises:
        CommandError: there is no such folder.
    """
    from pyrage import passphrase as age

    if not (folder / "ca-key.pem").is_file():
        raise CommandError(f"{folder} is no folder of keys; name that of `slipway keys init` with --keys-folder")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, arcname=".")
    encrypted: bytes = age.encrypt(archive.getvalue(), passphrase)
    return encrypted


def unpack(data: bytes, passphrase: str, folder: Path) -> int:
    """Write the files of an encrypted archive into a folder that holds nothing; return how many they are.

    Raises:
        CommandError: the passphrase is another one, the folder holds something, or a file belongs outside it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(f"{folder} holds keys already, which are not replaced; leave --with-keys out to use them")
    return extract(_decrypt(data, passphrase), folder)


def _decrypt(data: bytes, passphrase: str) -> bytes:
    """Return the archive.

    Raises:
        CommandError: the passphrase is another one, or this machine is far slower than the one that encrypted it.
    """
    from pyrage import DecryptError
    from pyrage import passphrase as age

    refused: DecryptError | None = None
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_S)
        try:
            return bytes(age.decrypt(data, passphrase))
        except DecryptError as error:
            if _TOO_MUCH_WORK not in str(error):
                raise CommandError("the keys of this backup do not open: the passphrase is another one") from error
            refused = error
    raise CommandError(
        "the keys of this backup do not open on this machine, which is too busy or too slow for their passphrase: end "
        "what keeps it busy and try again, or leave --with-keys out and put back another copy of the folder of keys"
    ) from refused


def extract(archive: bytes, folder: Path) -> int:
    """Write the files of an archive into a folder; return how many they are.

    Raises:
        CommandError: a file belongs outside the folder, or is neither a file, a folder nor a link.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r") as tar:
        _refuse_outside(tar, folder.resolve())
        # Python 3.11.4 and newer could refuse these, too; from 3.14 on they would also change modes unless told
        tar.extraction_filter = lambda member, _path: member
        tar.extractall(folder)  # noqa: S202 - all were checked
        return len(tar.getmembers())


def _refuse_outside(tar: tarfile.TarFile, folder: Path) -> None:
    """Raise unless each member is a file, a folder or a link, stays within a folder, and is reached through no link.

    A name that comes twice would be written through the link of the first one, and `..` after a name in a link's target
    leads elsewhere than it says where that name is a link.
    """
    links: set[Path] = set()
    known: set[Path] = set()
    for member in tar:
        path = Path(os.path.normpath(folder / member.name))
        reached = [path]
        if member.issym() or member.islnk():
            links.add(path)
            origin = path.parent if member.issym() else folder  # a hard link names another member
            reached.append(Path(os.path.normpath(origin / member.linkname)))
        is_written = (member.isfile() or member.isdir() or path in links) and path not in known
        is_direct = os.path.normpath(member.linkname) == str(Path(member.linkname))
        is_inside = all(each.is_relative_to(folder) for each in reached) and not links.intersection(path.parents)
        if not (is_written and is_direct and is_inside):
            raise CommandError(
                f"the keys of this backup are not as `slipway backup` writes them: {member.name!r}; restore "
                "another one, or leave --with-keys out"
            )
        known.add(path)
