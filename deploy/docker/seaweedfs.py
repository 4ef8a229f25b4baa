"""Start the object store in its container: `python -m deploy.docker.seaweedfs KEYS DATA`.

KEYS is the folder `store` of an installation's keys, DATA the folder of its objects. Needs the standard library only.
"""

import os
import sys
import tomllib
from pathlib import Path

from deploy.local.weed import NO_OTHER_KEYS, weed_arguments

WEED = Path("/usr/local/bin/weed")
PORT = 9000
ANYWHERE = "0.0.0.0"  # noqa: S104 - a container's own network; the inner ports ask for a certificate
INNER_PORTS = {"master": 9333, "volume": 9340, "filer": 8888, "admin": 23646}
GRPC_OFFSET = 10000


def inner_variables(keys: Path) -> dict[str, str]:
    """Return the variables that override the paths of another machine in `security.toml`."""
    grpc = tomllib.loads((keys / "security.toml").read_text())["grpc"]
    moved = {"WEED_GRPC_CA": keys / Path(grpc["ca"]).name}
    for part, table in grpc.items():
        if isinstance(table, dict):
            for field in ("cert", "key"):
                moved[f"WEED_GRPC_{part}_{field}".upper()] = keys / Path(table[field]).name
    return {name: str(path) for name, path in moved.items()}


def command(keys: Path, data: Path) -> list[str]:
    """Return the command line; every port is explicit."""
    argv = weed_arguments(WEED, data, keys, ANYWHERE)
    argv += [f"-s3.port={PORT}", f"-s3.port.grpc={PORT + GRPC_OFFSET}"]
    for part, port in INNER_PORTS.items():
        argv += [f"-{part}.port={port}", f"-{part}.port.grpc={port + GRPC_OFFSET}"]
    return argv


def main(keys: Path, data: Path) -> None:
    """Become the object store."""
    argv = command(keys, data)
    os.execve(WEED, argv, {**os.environ, **NO_OTHER_KEYS, **inner_variables(keys)})  # noqa: S606 - an argument list


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
