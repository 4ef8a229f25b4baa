"""Kubernetes secrets from a folder of keys, as the chart mounts them.

    python -m deploy.helm.secrets KEYS [--prefix slipway] [--smoke NAME] [--backup NAME] [--orders NAME …]

The names are identities of `slipway keys add`. What is printed is secret: pipe it into `kubectl apply -f -`, or into
the store that External Secrets reads.
"""

import argparse
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from contracts.identities import PROVISIONER
from contracts.services import SERVICES
from deploy.identity.files import make_folder, write_secret

TRUST: Final = ("attesters.json", "administrators.json", "teams.json", "identities.json")
STORE: Final = {
    "s3.json": "s3.json",
    "security.toml": "security.toml",
    "internal.pem": "internal.pem",
    "internal-key.pem": "internal-key.pem",
    "public.crt": "certs/public.crt",
    "private.key": "certs/private.key",
}
"""Keys of the secret of a SeaweedFS of the chart, with the files of the folder `store`."""


def triton_key(keys: Path) -> str:
    """Return the key of Triton's model control; made once, and kept in the folder."""
    file = keys / "triton" / "admin-key"
    if not file.is_file():
        make_folder(file.parent)
        write_secret(file, secrets.token_urlsafe(32).encode())
    return file.read_text()


def identity_secret(keys: Path, name: str) -> dict[str, str]:
    """Return the files of one identity: its key of the bus, and what else the folder has for it."""
    files = {
        "credential": keys / "credentials" / f"{name}.nk",
        "store": keys / "credentials" / f"{name}.s3",
        "attestation": keys / "attestation" / f"{name}.pem",
        "gateway-key": keys / "api" / f"{name}.key",
    }
    if name == "gateway":
        files["api-keys.json"] = keys / "gateway" / "api-keys.json"
    if not files["credential"].is_file():
        raise FileNotFoundError(f"{files['credential']} is missing: {name} has no key in this folder; slipway keys add")
    return {key: path.read_text() for key, path in files.items() if path.is_file()}


def contents(keys: Path, users: dict[str, str], orders: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each secret, without its prefix, and its content.

    Args:
        keys: The folder of `slipway keys init`.
        users: By secret (`smoke`, `backup`): the identity that it holds.
        orders: Identities that may order at the console.

    Raises:
        FileNotFoundError: An identity has no key.
    """
    yield (
        "trust",
        {"ca.pem": (keys / "ca.pem").read_text()} | {name: (keys / "trust" / name).read_text() for name in TRUST},
    )
    for service in (*SERVICES, PROVISIONER):
        yield service, identity_secret(keys, service)
    yield "bus", {path.name: path.read_text() for path in sorted((keys / "bus").iterdir())}
    yield "store", {key: (keys / "store" / path).read_text() for key, path in STORE.items()}
    yield "triton", {"admin-key": triton_key(keys)}
    for secret, identity in users.items():
        yield secret, identity_secret(keys, identity)
    if orders:
        yield "console-orders", {f"{name}.nk": (keys / "credentials" / f"{name}.nk").read_text() for name in orders}


def manifests(prefix: str, secrets_by_name: Iterator[tuple[str, dict[str, str]]]) -> str:
    """Return the secrets as YAML for `kubectl apply`."""
    return yaml.safe_dump_all(
        (
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"{prefix}-{name}", "labels": {"app.kubernetes.io/part-of": "slipway"}},
                "type": "Opaque",
                "stringData": content,
            }
            for name, content in secrets_by_name
        ),
        sort_keys=False,
        width=4096,
    )


def main() -> None:
    """Print the secrets of a folder of keys."""
    parser = argparse.ArgumentParser(prog="python -m deploy.helm.secrets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("keys", type=Path, help="folder of `slipway keys init`")
    parser.add_argument("--prefix", default="slipway", help="beginning of the names: `secrets.prefix` of the chart")
    parser.add_argument("--smoke", help="administrator that `helm test` publishes as")
    parser.add_argument("--backup", help="identity that backs up")
    parser.add_argument("--orders", action="append", default=[], help="who may order at the console; repeatable")
    parser.add_argument("--backup-store", type=Path, help="file with the key of the S3 server that backups go to")
    given = parser.parse_args()
    users = {name: user for name, user in (("smoke", given.smoke), ("backup", given.backup)) if user}
    try:
        secrets_by_name = dict(contents(given.keys, users, given.orders))
        if given.backup_store is not None:
            secrets_by_name.setdefault("backup", {})["backup-store"] = given.backup_store.read_text()
        sys.stdout.write(manifests(given.prefix, iter(secrets_by_name.items())))
    except OSError as error:
        sys.exit(f"secrets: {error}")


if __name__ == "__main__":
    main()
