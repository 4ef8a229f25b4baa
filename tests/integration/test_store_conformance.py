"""The S3 server of the embedded stack does what Slipway needs; so does another one that the environment names."""

import os
import secrets
from pathlib import Path

import pytest

from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from tests.kit.conformance_objects import ObjectsConformance
from tests.kit.conformance_store import StoreConformance, features

NAMED = os.environ.get("SLIPWAY_TEST_S3_ENDPOINT")


class TestServer(StoreConformance):
    @pytest.fixture
    def connection(self, request):
        if NAMED is None:
            return request.getfixturevalue("locking_server").settings("root")
        given = {name: os.environ.get(f"SLIPWAY_TEST_S3_{name}") for name in ("CREDENTIALS", "CA", "BUCKET")}
        return Connection(
            s3_endpoint=NAMED,
            s3_credentials=Path(given["CREDENTIALS"] or "store.s3"),
            s3_ca=Path(given["CA"]) if given["CA"] else None,
            s3_bucket=given["BUCKET"] or "slipway",
        )


@pytest.mark.skipif(NAMED is not None, reason="another server is tested")
class TestStore(ObjectsConformance):
    @pytest.fixture
    def objects(self, locking_server):
        return Store(locking_server.settings("root"))

    @pytest.fixture
    def prefix(self):
        return f"probe/{secrets.token_hex(6)}/"

    def overwrite(self, objects, key, data):
        objects._client.write(objects.bucket, key, memoryview(data))

    def hide(self, objects, key):
        objects._client.remove_object(bucket_name=objects.bucket, object_name=key)


@pytest.mark.skipif(NAMED is not None, reason="another server is tested")
def test_the_embedded_server_has_what_object_lock_needs(locking_server):
    from shared.storage.credentials import FileProvider, trusted
    from shared.storage.transfer import TransferClient

    settings = locking_server.settings("root")
    client = TransferClient(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        credentials=FileProvider(settings.s3_credentials),
        tls=trusted(settings.s3_ca),
    )
    assert features(client) == dict.fromkeys(features(client), True)
