"""Make users and policies of a MinIO server as the keys say; idempotent: `python -m deploy.docker.store_users S3_JSON`.

Takes `store/s3.json` of a folder of keys, and the server's root key in SLIPWAY_S3_CREDENTIALS.
"""

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import urllib3
from minio import MinioAdmin
from minio.error import MinioAdminException, MinioException

from shared.runtime.settings import Connection
from shared.storage.credentials import FileProvider, trusted

PREFIX = "slipway-"
"""Of the names of policies, which the server keeps beside its own. A user's name is its access key."""


class Users(Protocol):
    """The administration calls of the server, as `MinioAdmin` has them."""

    def policy_add(self, policy_name: str, *, policy: dict[str, Any]) -> str:
        """Make a policy, or replace it."""

    def policy_set(self, policy_name: str, user: str) -> str:
        """Attach a policy to a user, replacing any policy that the user has."""

    def user_add(self, access_key: str, secret_key: str) -> str:
        """Make a user, or replace its secret."""

    def user_list(self) -> str:
        """Return all users, as JSON."""

    def user_remove(self, access_key: str) -> str:
        """Remove a user."""


def apply(config: dict[str, Any], users: Users) -> tuple[int, int]:
    """Make the server's users and policies those of a configuration; return the numbers of accepted and removed users.

    A user with a policy of Slipway that the configuration does not name was withdrawn, and is removed.
    """
    for policy in config["policies"]:
        users.policy_add(PREFIX + policy["name"], policy=json.loads(policy["content"]))
    accepted = set()
    for identity in config["identities"]:
        for key in identity["credentials"]:
            users.user_add(key["accessKey"], key["secretKey"])
            users.policy_set(PREFIX + identity["name"], user=key["accessKey"])
            accepted.add(key["accessKey"])
    there = json.loads(users.user_list() or "{}")
    ours = {name for name, user in there.items() if str(user.get("policyName", "")).startswith(PREFIX)}
    for name in sorted(ours - accepted):
        users.user_remove(name)
    return len(accepted), len(ours - accepted)


def connect(connection: Connection) -> MinioAdmin:
    """Return the administration of the server that the settings name, with the root key."""
    pool = urllib3.PoolManager(ssl_context=trusted(connection.s3_ca), timeout=30, retries=urllib3.Retry(3))
    return MinioAdmin(
        endpoint=connection.s3_endpoint,
        region=connection.s3_region,
        credentials=FileProvider(connection.s3_credentials),
        http_client=pool,
    )


def main() -> None:
    """Read the settings from the environment, and apply the configuration of users and policies to the store."""
    connection = Connection()
    try:
        accepted, removed = apply(json.loads(Path(sys.argv[1]).read_text()), connect(connection))
    except (MinioException, MinioAdminException, urllib3.exceptions.HTTPError) as error:
        sys.exit(f"store-users: the object store at {connection.s3_endpoint} refused or did not answer: {error}")
    print(f"store-users: {accepted} keys are accepted, {removed} were withdrawn")  # noqa: T201 - a command


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
