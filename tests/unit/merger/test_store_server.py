"""What a merge worker under the control of a hostile file can ask of the service."""

import os
import threading
from contextlib import contextmanager

import pytest

from services.merger.adapters import engine
from services.merger.adapters.worker import StoreClient
from services.merger.ports import Folder, MergeJob
from shared.errors import Permanent
from tests.unit.merger.conftest import BASE_REF, DIGEST

SECRET = memoryview(b"weights of another team")


@pytest.fixture
def job(tmp_path):
    none = Folder(DIGEST, (), "")
    return MergeJob("lora", BASE_REF, {}, none, none, tmp_path, "bfloat16")


@contextmanager
def serving(store, job):
    before = set(threading.enumerate())
    with engine.served(store, job) as (server, descriptors):
        client = StoreClient([os.dup(descriptor) for descriptor in descriptors])
        yield server, client
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    while not client._free.empty():
        client._free.get()._connection.close()


@pytest.fixture
def worker(store, job):
    with serving(store, job) as both:
        yield both


def test_a_digest_alone_makes_no_blob_readable(store, worker):
    _, client = worker
    known = store.put_blob(SECRET, "f")
    with client._channel() as channel:
        channel.send({"put": {"digest": known.digest, "size_bytes": known.size_bytes}})
        assert channel.receive()["absent"], "it has to send what it says it has"
        channel.send({}, memoryview(bytes(known.size_bytes)))
        channel.receive()
        channel.send({})
        assert channel.receive()["error"]["code"] == "digest_mismatch"
    with pytest.raises(Permanent, match="is not a file of this job"):
        client.read_into(known, 0, memoryview(bytearray(known.size_bytes)))


def test_who_sends_a_blob_that_is_stored_already_may_read_and_report_it(store, worker):
    server, client = worker
    store.put_blob(SECRET, "f")
    file = client.put_blob(SECRET, "f")
    out = memoryview(bytearray(len(SECRET)))
    client.read_into(file, 0, out)
    assert out == SECRET
    server.check_results([file])


def test_a_file_that_was_not_put_in_this_job_is_no_result(store, worker):
    server, _ = worker
    with pytest.raises(Permanent, match="has not stored") as caught:
        server.check_results([store.put_blob(memoryview(b"of others"), "model.safetensors")])
    assert caught.value.code == "engine_failed"


def test_more_bytes_than_the_inputs_can_become_are_refused(monkeypatch, store, job):
    monkeypatch.setattr(engine, "ALLOWANCE_BYTES", 10)
    with serving(store, job) as (_, client):
        client.put_blob(memoryview(b"12345678"), "f")
        client.put_blob(memoryview(b"12345678"), "again")
        with pytest.raises(Permanent, match="2 are left") as caught:
            client.put_blob(memoryview(b"123"), "g")
    assert caught.value.code == "too_large"
