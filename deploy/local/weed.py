"""The command line of SeaweedFS, in the embedded stack and in its container; standard library only."""

import re
from collections.abc import Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
NO_OTHER_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
"""Clears variables that SeaweedFS would read as an administrator's key."""

SOCKETS = Path("/tmp")  # noqa: S108 - weed has it written in its code, whatever TMPDIR says
"""Folder of its sockets, named by ports, which stay after a kill."""


def remove_sockets(argv: Sequence[str]) -> None:
    """Remove the sockets left by an ended object store with this command line."""
    for port in re.findall(r"port(?:\.grpc)?=([1-9]\d*)", "\n".join(argv)):
        for socket in SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            socket.unlink(missing_ok=True)


def weed_arguments(weed: Path, data: Path, keys: Path, bind: str = LOOPBACK) -> list[str]:
    """Return the command line of an object store, without ports.

    Args:
        weed: the program.
        data: the folder of its objects.
        keys: the folder of its keys (`deploy.identity.store_keys`).
        bind: the address to listen on.
    """
    return [
        str(weed),
        f"-config_dir={keys}",
        "mini",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={bind}",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-disableHttp",
        "-s3.iam=false",
        f"-s3.config={keys / 's3.json'}",
        f"-s3.cert.file={keys / 'certs' / 'public.crt'}",
        f"-s3.key.file={keys / 'certs' / 'private.key'}",
    ]
