"""A store with object lock, and what an attacker with a key of it can do."""

import json
from pathlib import Path

import pytest

from shared.storage.credentials import read_credential
from testbed.servers import S3Server, running


def server_with_root(folder: Path) -> S3Server:
    """Return an embedded store that is not started, with one more identity, root, that may do everything.

    Past governance too, and make buckets: no installation has it.
    """
    server = S3Server(folder)
    store = server.keys.store
    config = json.loads(store.server_config.read_text())
    key = read_credential(store.credential("provisioner")).model_copy(update={"name": "root", "access_key": "root-1"})
    credential = {"accessKey": key.access_key, "secretKey": key.secret_key.get_secret_value()}
    config["identities"].append({"name": "root", "credentials": [credential], "actions": ["Admin"]})
    store.server_config.write_text(json.dumps(config))
    store.credential("root").write_text(key.text())
    return server


@pytest.fixture(scope="module")
def locking_server(tmp_path_factory):
    with running(server_with_root(tmp_path_factory.mktemp("s3"))) as server:
        yield server


def mask(store, key):
    store._client.remove_object(bucket_name=store.bucket, object_name=key)


def remove_version(store, key, version, *, bypass=False):
    headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
    store._client._execute("DELETE", store.bucket, key, query_params={"versionId": version}, headers=headers)
