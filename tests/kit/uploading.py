"""Publishers without keys of the store, and what they ask the registry and send: of tests of uploads."""

import hashlib
import os

import pytest
import urllib3

from clients.training import Connection
from clients.training.bus import connected
from clients.training.upload import Uploader
from contracts.storage.uploads import AnnouncedFile, UploadAnswer
from shared.storage.blobs import Store
from shared.storage.credentials import trusted
from tests.kit.intake import running_intake

MODEL = "support-bot"


@pytest.fixture(scope="module")
def publishers(nats_server, s3_server):
    """Return the connection of each publisher."""
    for name, models in {"pia": [MODEL], "otto": ["other-bot"]}.items():
        nats_server.keys.add(name, ["publisher"], models)
    nats_server.reload()
    authority = str(s3_server.keys.authority)
    return {
        name: Connection(
            nats_url=nats_server.url,
            nats_credentials=str(nats_server.keys.credential(name)),
            nats_ca=str(nats_server.keys.authority),
            s3_ca=authority,
        )
        for name in ("pia", "otto")
    }


@pytest.fixture
def intake(nats_server, s3_server, publishers):
    with running_intake(nats_server, s3_server) as intake:
        yield intake


@pytest.fixture
def store(s3_server):
    return Store(s3_server.settings())


@pytest.fixture
def http(s3_server):
    return urllib3.PoolManager(ssl_context=trusted(s3_server.keys.authority), retries=False)


def file_of(data: bytes, name: str = "adapter_model.safetensors") -> AnnouncedFile:
    return AnnouncedFile(path=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


def put(http, permit, data, url=None, headers=None):
    response = http.request("PUT", url or permit.url, body=data, headers=permit.headers if headers is None else headers)
    return response.status


async def ask(connection, request, model=MODEL) -> UploadAnswer:
    async with connected(connection) as publisher:
        return await publisher.ask(model, request)


async def put_folder(connection, folder, advances=None):
    async with connected(connection) as publisher:
        progress = (lambda done, total: advances.append((done, total))) if advances is not None else lambda *_: None
        return await Uploader(connection, MODEL, publisher).put_folder(folder, progress)


def checkpoint(folder, size=1000):
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 2}')
    with (folder / "adapter_model.safetensors").open("wb") as file:
        for at in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - at)))
    return folder
