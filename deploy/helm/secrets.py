"""Kubernetes secrets from a folder of keys, as the chart mounts them.

    python -m deploy.helm.secrets KEYS [--prefix slipway] [--smoke NAME] [--backup NAME] [--orders NAME …] [--servers]

The names are identities of `slipway keys add`. `--servers` adds the secrets of a bus and a store of the chart.
What is printed is secret: pipe it into `kubectl apply -f -`, or into the store that External Secrets reads.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from contracts.identities import PROVISIONER
from contracts.services import SERVICES
from deploy.identity.files import make_folder, write_secret

TRUST: Final = ("attesters.json", "managers.json", "teams.json", "identities.json")
STORE: Final = {
    "s3.json": "s3.json",
    "security.toml": "security.toml",
    "internal.pem": "internal.pem",
    "internal-key.pem": "internal-key.pem",
    "public.crt": "certs/public.crt",
    "private.key": "certs/private.key",
}
"""Keys of the secret of a SeaweedFS of the chart, with the files of the folder `store`."""


class Refused(Exception):  # noqa: N818 - the sentence is the point
    """The options ask for a secret that must not be made."""


def triton_key(keys: Path) -> str:
    """Return the key of Triton's model control, created if missing."""
    file = keys / "triton" / "admin-key"
    if not file.is_file():
        make_folder(file.parent)
        write_secret(file, secrets.token_urlsafe(32).encode())
    return file.read_text()


def identity_secret(keys: Path, name: str) -> dict[str, str]:
    """Return the files of one identity: its bus credential, and its other files in the folder."""
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


def order_secret(keys: Path, names: list[str]) -> dict[str, str]:
    """Return the credentials for orders at the console.

    Raises:
        Refused: A name is an administrator's.
    """
    people = json.loads((keys / "trust" / "identities.json").read_text())
    administrators = {each["name"] for each in people if "administrator" in each["roles"]}
    for name in names:
        if name in administrators:
            raise Refused(
                f"--orders {name} is refused: an attacker who controls the console can order as those whose "
                f"credentials it has, and {name} is an administrator; add a person with "
                "`slipway keys add NAME --role operator --role approver`"
            )
    return {f"{name}.nk": identity_secret(keys, name)["credential"] for name in names}


def contents(
    keys: Path, users: dict[str, str], orders: list[str], *, servers: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each secret, without its prefix, and its content.

    Args:
        keys: The folder of `slipway keys init`.
        users: The identity in each secret (`smoke`, `backup`).
        orders: Identities that may order at the console.
        servers: Whether the chart runs bus and store, so that their secrets are needed.

    Raises:
        FileNotFoundError: An identity has no key.
        Refused: An administrator is to order at the console.
    """
    yield (
        "trust",
        {"ca.pem": (keys / "ca.pem").read_text()} | {name: (keys / "trust" / name).read_text() for name in TRUST},
    )
    for service in (*SERVICES, PROVISIONER):
        yield service, identity_secret(keys, service)
    if servers:
        yield "bus", {path.name: path.read_text() for path in sorted((keys / "bus").iterdir())}
        yield "store", {key: (keys / "store" / path).read_text() for key, path in STORE.items()}
    yield "triton", {"admin-key": triton_key(keys)}
    for secret, identity in users.items():
        yield secret, identity_secret(keys, identity)
    if orders:
        yield "console-orders", order_secret(keys, orders)


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


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.helm.secrets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("keys", type=Path, help="folder of `slipway keys init`")
    parser.add_argument("--prefix", default="slipway", help="beginning of the names: `secrets.prefix` of the chart")
    parser.add_argument("--smoke", help="administrator that `helm test` runs `slipway doctor` as")
    parser.add_argument("--backup", help="identity that backs up")
    parser.add_argument("--orders", action="append", default=[], help="who may order at the console; repeatable")
    parser.add_argument("--servers", action="store_true", help="the chart runs bus and store: add their secrets")
    return parser.parse_args()


def main() -> None:
    """Print the secrets of a folder of keys."""
    given = parse()
    users = {name: user for name, user in (("smoke", given.smoke), ("backup", given.backup)) if user}
    try:
        sys.stdout.write(manifests(given.prefix, contents(given.keys, users, given.orders, servers=given.servers)))
    except (OSError, Refused) as error:
        sys.exit(f"secrets: {error}")


if __name__ == "__main__":
    main()
