"""What Slipway needs of an S3 server, and what it uses where there is it: one suite for every server.

    SLIPWAY_TEST_S3_ENDPOINT=HOST:PORT SLIPWAY_TEST_S3_CREDENTIALS=FILE SLIPWAY_TEST_S3_CA=FILE \
        python -m pytest tests/integration/test_store_conformance.py -n0 -s

The credential may read, put, delete and list everything in the bucket (SLIPWAY_TEST_S3_BUCKET, `slipway` otherwise),
and for the last test make a bucket.
"""

import contextlib
import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE
from minio.credentials import StaticProvider
from minio.datatypes import Part, parse_list_objects
from minio.error import S3Error
from minio.retention import Retention
from minio.versioningconfig import VersioningConfig

from shared.storage.credentials import FileProvider, trusted
from shared.storage.transfer import TransferClient

PART = 5 * 1024 * 1024
"""The smallest part of an upload that S3 servers take, but for the last."""


def refused_with(*codes):
    return pytest.raises(S3Error, check=lambda error: error.code in codes)


class StoreConformance:
    """Subclasses have the fixture `connection`: settings of an administrator on the server."""

    @pytest.fixture
    def client(self, connection):
        return TransferClient(
            endpoint=connection.s3_endpoint,
            region=connection.s3_region,
            credentials=FileProvider(connection.s3_credentials),
            tls=trusted(connection.s3_ca),
        )

    @pytest.fixture
    def bucket(self, connection):
        return connection.s3_bucket

    @pytest.fixture
    def prefix(self, client, bucket):
        prefix = f"probe/conformance-{secrets.token_hex(6)}/"
        yield prefix
        for entry in list(client.list_objects(bucket_name=bucket, prefix=prefix, recursive=True)):
            client.remove_object(bucket_name=bucket, object_name=entry.object_name)

    def test_an_object_is_read_as_soon_as_it_is_written_and_is_gone_once_deleted(self, client, bucket, prefix):
        client.write(bucket, f"{prefix}a", memoryview(b"one"))
        client.write(bucket, f"{prefix}a", memoryview(b"two"))
        assert client.read(bucket, f"{prefix}a", 100) == b"two"
        for _ in range(2):  # also of what does not exist any more
            client.remove_object(bucket_name=bucket, object_name=f"{prefix}a")
        with refused_with("NoSuchKey"):
            client.read(bucket, f"{prefix}a", 100)

    def test_a_create_only_put_has_one_winner(self, client, bucket, prefix):
        def create(number):
            try:
                with client.creating():
                    client.write(bucket, f"{prefix}one", memoryview(f"{number}".encode()))
            except S3Error as error:
                return error.code
            return number

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(create, range(8)))
        (winner,) = (answer for answer in answers if isinstance(answer, int))
        assert {answer for answer in answers if answer != winner} <= {
            "PreconditionFailed",
            "ConditionalRequestConflict",
        }
        assert client.read(bucket, f"{prefix}one", 100) == f"{winner}".encode()
        assert create(9) == "PreconditionFailed"

    def test_a_create_only_upload_in_parts_does_not_replace(self, client, bucket, prefix):
        key, other = f"{prefix}large", memoryview(bytes(PART + 1))
        client.write(bucket, key, memoryview(b"first"))
        upload = client._create_multipart_upload(bucket, key, {})
        parts = [send(client, (bucket, key, upload), number, piece) for number, piece in pieces(other)]
        with refused_with("PreconditionFailed"), client.creating():
            client._complete_multipart_upload(bucket, key, upload, parts)
        client._abort_multipart_upload(bucket, key, upload)
        assert client.read(bucket, key, 100) == b"first"

    def test_parts_may_arrive_in_any_order_and_are_seen_whole_or_not_at_all(self, client, bucket, prefix):
        key, data = f"{prefix}parts", memoryview(secrets.token_bytes(2 * PART + 7))
        upload = client._create_multipart_upload(bucket, key, {})
        listed = [each.object_name for each in client._list_multipart_uploads(bucket, prefix=prefix).uploads]
        parts = [send(client, (bucket, key, upload), number, piece) for number, piece in reversed(pieces(data))]
        with refused_with("NoSuchKey"):
            client.read(bucket, key, len(data))
        client._complete_multipart_upload(bucket, key, upload, sorted(parts, key=lambda part: part.part_number))
        assert client.read(bucket, key, len(data)) == data
        assert listed == [key]

    def test_an_aborted_upload_leaves_nothing(self, client, bucket, prefix):
        key = f"{prefix}aborted"
        upload = client._create_multipart_upload(bucket, key, {})
        send(client, (bucket, key, upload), 1, memoryview(bytes(PART)))
        client._abort_multipart_upload(bucket, key, upload)
        assert client._list_multipart_uploads(bucket, prefix=prefix).uploads == []
        with refused_with("NoSuchKey"):
            client.read(bucket, key, 100)

    def test_lists_are_ordered_and_come_in_pages(self, client, bucket, prefix):
        names = [f"{prefix}{letter}{number}" for letter in ("a/", "b/", "b") for number in range(3)]
        for name in names:
            client.write(bucket, name, memoryview(b""))
        pages, more, token = [], True, None
        while more and len(pages) < len(names):
            objects, more, token = client_page(client, bucket, prefix, token)
            pages.append([entry.object_name for entry in objects])
        assert [len(page) for page in pages] == [4, 4, 1]
        assert [name for page in pages for name in page] == sorted(names)
        tops = [entry.object_name for entry in client.list_objects(bucket_name=bucket, prefix=prefix)]
        assert sorted(tops) == sorted([f"{prefix}a/", f"{prefix}b/", *(f"{prefix}b{number}" for number in range(3))])

    def test_parts_of_an_object_are_read_with_its_size(self, client, bucket, prefix):
        key, data = f"{prefix}ranges", secrets.token_bytes(1000)
        client.write(bucket, key, memoryview(data))
        for start, length in ((0, 1), (400, 100), (999, 1)):
            answer = client.get_object(bucket_name=bucket, object_name=key, offset=start, length=length)
            with contextlib.closing(answer):
                assert answer.read() == data[start : start + length]
                assert answer.headers["Content-Range"] == f"bytes {start}-{start + length - 1}/1000"
        with refused_with("InvalidRange"):
            client.get_object(bucket_name=bucket, object_name=key, offset=1000, length=1)
        assert client.stat_object(bucket_name=bucket, object_name=key).size == 1000

    def test_other_keys_are_told_from_other_errors(self, connection, bucket):
        right = FileProvider(connection.s3_credentials).retrieve()
        for pair, code in (
            ((right.access_key, "wrong"), "SignatureDoesNotMatch"),
            (("nobody-0000", "wrong"), "InvalidAccessKeyId"),
        ):
            other = Minio(
                connection.s3_endpoint,
                region=connection.s3_region,
                credentials=StaticProvider(*pair),
                http_client=urllib3.PoolManager(ssl_context=trusted(connection.s3_ca), retries=False),
            )
            with refused_with(code):
                other.get_object(bucket_name=bucket, object_name="probe/none")

    def test_a_server_that_takes_a_retention_keeps_what_is_retained(self, client, record_property):
        """One without versions and retention is used without object lock: the report shows which of them it has."""
        there = features(client)
        for feature, supported in there.items():
            record_property(feature, supported)
            print(f"{feature}: {'yes' if supported else 'no'}")
        assert not there["retention"] or (there["versions"] and there["refuses to delete what is retained"])


def send(client, upload, number, piece):
    """Send a part of an upload, which is named by bucket, key and id."""
    bucket, key, upload_id = upload
    return Part(number, client._upload_part(bucket, key, piece, None, upload_id, number))


def client_page(client, bucket, prefix, token):
    """Return a page of four objects, whether there are more, and where the next page begins."""
    query = {"list-type": "2", "max-keys": "4", "prefix": prefix}
    if token:
        query["continuation-token"] = token
    answer = client._execute("GET", bucket, query_params=query)
    objects, more, following, _ = parse_list_objects(answer)
    return objects, more, following


def pieces(data):
    return [(number + 1, data[start : start + PART]) for number, start in enumerate(range(0, len(data), PART))]


def features(client):
    """Return what the server can do of versions and retention, tried in a bucket of its own."""
    bucket = f"conformance-{secrets.token_hex(6)}"
    supported = dict.fromkeys(("versions", "delete markers", "retention", "refuses to delete what is retained"), False)
    with contextlib.suppress(S3Error, ValueError):
        client.make_bucket(bucket_name=bucket, object_lock=True)
        client.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(ENABLED))
        first = put(client, bucket, b"one")
        put(client, bucket, b"two")
        answer = client.get_object(bucket_name=bucket, object_name="o", version_id=first)
        supported["versions"] = bool(first) and answer.read() == b"one"
        client.remove_object(bucket_name=bucket, object_name="o")
        answer = client.get_object(bucket_name=bucket, object_name="o", version_id=first)
        supported["delete markers"] = answer.read() == b"one"
        until = datetime.now(UTC) + timedelta(minutes=1)
        client.set_object_retention(
            bucket_name=bucket, object_name="o", config=Retention(GOVERNANCE, until), version_id=first
        )
        supported["retention"] = True
        try:
            client.remove_object(bucket_name=bucket, object_name="o", version_id=first)
        except S3Error:
            supported["refuses to delete what is retained"] = True
    return supported


def put(client, bucket, data):
    return client.put_object(bucket_name=bucket, object_name="o", data=io.BytesIO(data), length=len(data)).version_id
