"""Keys of identities on the bus (nkeys): made, and read from the files of their secrets."""

import os
from pathlib import Path

from pydantic import SecretStr

from contracts.identities import Credential
from deploy.identity.files import write_secret


def public_key(credential: Path) -> str:
    """Return the public key of the secret in a credential's file."""
    import nkeys  # not for every command

    seed = Credential.from_text(credential.read_text()).seed.get_secret_value()
    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())


def make_key(name: str, file: Path) -> str:
    """Make a key, write its secret to a file, and return the public key."""
    import nkeys  # not for every command

    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    write_secret(file, Credential(name=name, seed=SecretStr(seed.decode())).text().encode())
    return public_key(file)
