"""The step that makes MinIO's users: its own command, over TLS, to a server that keeps what the requests say."""

import io
import json
import os
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from minio.crypto import decrypt, encrypt

from deploy.docker.store_users import apply, connect
from deploy.identity.key_folder import KeyFolder
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from testbed.forked import run

ROOT = Path(__file__).resolve().parents[2]


class MinioAdministration(ThreadingHTTPServer):
    """What MinIO's administration remembers. No server of MinIO can be had here: docs/status-and-limits.md."""

    def __init__(self, keys: KeyFolder) -> None:
        super().__init__(("127.0.0.1", 0), Administration)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys.store.certificate, keys.store.certificate_key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.secret = (keys.store.folder / "minio" / "password").read_text()
        self.root = (keys.store.folder / "minio" / "user").read_text()
        self.policies: dict[str, dict] = {}
        self.users: dict[str, dict[str, str]] = {}


class Administration(BaseHTTPRequestHandler):
    server: MinioAdministration

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if f"Credential={self.server.root}/" not in self.headers.get("Authorization", ""):
            self._answer(403, b"not the root key")
            return
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match (self.command, url.path.removeprefix("/minio/admin/v3/")):
            case "PUT", "add-canned-policy":
                self.server.policies[query["name"]] = json.loads(body)
            case "PUT", "add-user":
                message = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
                user = json.loads(decrypt(message, self.server.secret))
                self.server.users[query["accessKey"]] = {"secretKey": user["secretKey"], "status": user["status"]}
            case "PUT", "set-user-or-group-policy":
                self.server.users[query["userOrGroup"]]["policyName"] = query["policyName"]
            case "GET", "list-users":
                self._answer(200, encrypt(json.dumps(self.server.users).encode(), self.server.secret))
                return
            case "DELETE", "remove-user":
                del self.server.users[query["accessKey"]]
            case _:
                self._answer(404)
                return
        self._answer(200)

    def __getattr__(self, name: str):
        if name in ("do_GET", "do_PUT", "do_DELETE"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Drop the line of the log."""


@pytest.fixture
def keys(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(["127.0.0.1"], SystemClock().now(), store_hosts=["127.0.0.1"])
    return keys


@pytest.fixture
def minio(keys):
    server = MinioAdministration(keys)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def store_users(keys, minio, root="minio/minio.s3"):
    environment = {
        "PATH": os.environ["PATH"],
        "SLIPWAY_S3_ENDPOINT": f"127.0.0.1:{minio.server_port}",
        "SLIPWAY_S3_CREDENTIALS": str(keys.store.folder / root),
        "SLIPWAY_S3_CA": str(keys.authority),
    }
    command = [sys.executable, "-m", "deploy.docker.store_users", str(keys.store.server_config)]
    return run(command, environment=environment, cwd=ROOT, timeout_s=60)


def test_each_identity_becomes_a_user_with_its_own_policy_and_one_that_was_removed_goes(keys, minio):
    minio.users["theirs"] = {"status": "enabled", "policyName": "readwrite"}
    done = store_users(keys, minio)
    assert done.returncode == 0, done.stderr
    accepted = keys.store.accepted()
    for name, (key,) in accepted.items():
        user = minio.users[key.access_key]
        assert user == {
            "secretKey": key.secret_key.get_secret_value(),
            "status": "enabled",
            "policyName": f"slipway-{name}",
        }
        assert minio.policies[f"slipway-{name}"]["Statement"]
    assert set(minio.users) == {"theirs", *(key.access_key for (key,) in accepted.values())}
    assert f"{len(accepted)} keys are accepted, 0 were withdrawn" in done.stdout


def test_a_key_that_is_replaced_and_retired_is_withdrawn_and_nothing_else(keys, minio):
    connection = Connection(
        s3_endpoint=f"127.0.0.1:{minio.server_port}",
        s3_credentials=keys.store.folder / "minio" / "minio.s3",
        s3_ca=keys.authority,
    )

    def make_users() -> tuple[int, int]:
        return apply(json.loads(keys.store.server_config.read_text()), connect(connection))

    keys.add("paula", ["viewer"])
    make_users()
    (first,) = keys.store.accepted()["paula"]
    keys.rotate("paula")
    assert make_users()[1] == 0
    assert {key.access_key for key in keys.store.accepted()["paula"]} <= set(minio.users)
    keys.retire("paula")
    minio.users["theirs"] = {"status": "enabled", "policyName": "readwrite"}
    assert make_users()[1] == 1
    assert first.access_key not in minio.users
    assert make_users()[1] == 0
    assert "theirs" in minio.users


def test_another_key_than_the_root_key_is_refused_with_the_address(keys, minio):
    done = store_users(keys, minio, root="../credentials/registry.s3")
    assert done.returncode == 1
    assert f"the object store at 127.0.0.1:{minio.server_port} refused" in done.stderr
    assert "Traceback" not in done.stderr
