"""The folder of keys that a command works with."""

from pathlib import Path

from clients.cli.settings import CliSettings
from deploy.identity.key_folder import KeyFolder
from deploy.local.plan import keys_folder


def keys_of_folder(folder: Path | None, state: Path | None) -> KeyFolder:
    """Return the folder of keys for a command: the named folder, by default the state folder's."""
    default = keys_folder(state if state is not None else CliSettings().state)
    return KeyFolder((folder or default).absolute())
