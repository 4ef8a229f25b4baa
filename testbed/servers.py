"""Real servers: NATS with JetStream and an S3 server, on free loopback ports, killable and restartable."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import nkeys
from nats.aio.client import Client

from contracts.identities import PROVISIONER, Credential, inbox_prefix
from decisions.access.bus_permissions import LIVE, Permissions
from deploy.identity.bus_config import permission_map, tls
from deploy.identity.files import write_file
from deploy.identity.key_folder import KeyFolder
from deploy.local.state import ADMIN, prepare_keys
from deploy.local.weed import NO_OTHER_KEYS, remove_sockets, weed_arguments
from shared.errors import SlipwayError
from shared.messaging import credentials
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from testbed.forked import ForkedProcess, start
from testbed.ports import free_port

BIN = Path(sys.executable).parent
HARNESS = "tests"
"""Identity that real servers of tests have beside the stack's: it publishes what any service or user would."""


def wait_until(condition, *, timeout_s: float = 60.0, what: str = "the condition"):
    """Return the first true result of a condition that is polled; fail if there is none in time.

    The longer a condition takes, the longer is the pause, up to half a second: one may start a program or read a log.
    """
    deadline = time.monotonic() + timeout_s
    while (began := time.monotonic()) < deadline:
        with contextlib.suppress(OSError):
            if result := condition():
                return result
        time.sleep(min(0.5, max(0.05, 3 * (time.monotonic() - began))))
    raise AssertionError(f"{what} did not come true within {timeout_s} s")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A child process that can be killed and started again in place."""

    name = "server"
    ready_s = 60.0
    """Seconds within which it is ready after a start."""
    may_be_forked = True
    """Whether a program of ours may be forked (testbed.forked) where the tests permit that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self.process = start(
            self.command(), self.folder / "log", environment=self.environment(), forked=self.may_be_forked
        )
        wait_until(self._up, timeout_s=self.ready_s, what=f"{self.name} being ready")

    def _up(self) -> bool:
        """Return whether it is ready; one that has ended never is, whoever else listens on its port."""
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"{self.name} ended with {code}: {(self.folder / 'log').read_text()[-2000:]}")
        return self.ready()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def discard(self) -> None:
        """End the process in the fastest way; it is not started again."""
        self.stop()


def new_harness(keys: KeyFolder) -> str:
    """Make the credential of the tests' own identity; return its public key."""
    pair = nkeys.from_seed(seed := nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    credential = Credential(name=HARNESS, seed=seed.decode())
    keys.credential(HARNESS).write_text(credential.text())
    return pair.public_key.decode()


def with_harness(keys: KeyFolder, harness: str) -> str:
    """Return the identities of a server with the tests' own, of this public key, which may do everything."""
    begin = "  users = [\n"
    text = keys.server_config.read_text()
    assert begin in text
    everything = Permissions((">",), (f"{inbox_prefix(HARNESS)}.>", "_INBOX.>", LIVE))
    user = f"    {{ nkey: {harness}, permissions: {permission_map(everything)} }}\n"
    return text.replace(begin, begin + user)


class Throwaway(Server):
    """A server whose data is not needed afterwards: it is killed, not asked to end."""

    def discard(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class NatsServer(Throwaway):
    """JetStream with the identities and the TLS of a stack.

    Without fsync, which a kill of the process does not need; the stack's own configuration has it.
    """

    name = "nats"

    def __init__(self, folder: Path, keys: KeyFolder | None = None, harness: str | None = None) -> None:
        """Write the configuration of a server with keys of its own, or with those of another one and its harness."""
        super().__init__(folder)
        self.port = free_port()
        self.url = f"tls://127.0.0.1:{self.port}"
        self.keys = keys or prepare_keys(self.folder, SystemClock())
        (self.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/js", max_file_store: 16GB }}\n'
            f'include "identities.conf"\n{tls(self.keys.certificate, self.keys.certificate_key)}'
        )
        self.harness = harness or new_harness(self.keys)
        self._write_identities()

    def _write_identities(self) -> None:
        """Write the identities of the stack, and beside them the tests' own, which may publish as anyone.

        At once, since the server may be reading them: it would disconnect everybody who is in no file any more.
        """
        write_file(self.folder / "identities.conf", with_harness(self.keys, self.harness).encode())

    def reload(self) -> None:
        """Let the server read its configuration again."""
        assert self.process is not None
        self._write_identities()
        self.process.send_signal(signal.SIGHUP)

    def settings(self, identity: str = HARNESS) -> Connection:
        """Return the settings of an identity; those of the tests' own work for everything."""
        return Connection(
            nats_url=self.url, nats_credentials=self.keys.credential(identity), nats_ca=self.keys.authority
        )

    async def connect(self, identity: str = HARNESS, **options: Any) -> Client:
        """Connect as an identity, with these options of `nats.connect`."""
        return await credentials.connect(self.settings(identity), **options)

    def command(self) -> list[str]:
        return [str(BIN / "nats-server"), "-c", str(self.folder / "nats.conf")]

    def ready(self) -> bool:
        return accepts(self.port)


class S3Server(Throwaway):
    """SeaweedFS with the identities and the TLS of a stack."""

    name = "s3"

    def __init__(self, folder: Path, keys: KeyFolder | None = None) -> None:
        super().__init__(folder)
        self.keys = keys or prepare_keys(self.folder, SystemClock())
        names = (
            "s3.port",
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "admin.port",
            "admin.port.grpc",
        )
        self.ports = dict(zip(names, _distinct_ports(len(names)), strict=True))
        self.port = self.ports["s3.port"]

    def command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            *weed_arguments(BIN / "weed", data, self.keys.store.folder),
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **NO_OTHER_KEYS}

    def discard(self) -> None:
        super().discard()
        remove_sockets(self.command())

    def reload(self) -> None:
        """Let the server read its identities again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def settings(self, identity: str = ADMIN) -> Connection:
        """Return the settings of an identity; an administrator's work for everything but the bucket itself."""
        return Connection(
            s3_endpoint=f"127.0.0.1:{self.port}",
            s3_credentials=self.keys.store.credential(identity),
            s3_ca=self.keys.authority,
        )

    def ready(self) -> bool:
        if not accepts(self.port):
            return False
        try:
            Store(self.settings(PROVISIONER)).ensure_bucket()
            return Store(self.settings()).reachable()
        except SlipwayError:
            return False


def _distinct_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


def connection(nats: NatsServer | None, s3: S3Server | None, folder: Path, **more) -> Connection:
    """Return the settings that a service reads from its environment."""
    settings = {"state_dir": folder, "http_port": free_port(), **more}
    if nats is not None:
        bus = nats.settings()
        settings |= {"nats_url": bus.nats_url, "nats_credentials": bus.nats_credentials, "nats_ca": bus.nats_ca}
    if s3 is not None:
        settings |= s3.settings().model_dump(include={"s3_endpoint", "s3_credentials", "s3_ca"})
    return Connection(**{**settings, **more})


def store_variables(connection: Connection, identity: str) -> dict[str, str]:
    """Return the environment variables that let a process use the store of these settings as another identity."""
    if connection.s3_credentials is None:
        return {}
    return {
        "SLIPWAY_S3_ENDPOINT": connection.s3_endpoint,
        "SLIPWAY_S3_CREDENTIALS": str(connection.s3_credentials.with_name(f"{identity}.s3")),
        "SLIPWAY_S3_CA": str(connection.s3_ca),
        "SLIPWAY_S3_BUCKET": connection.s3_bucket,
    }


def bus_variables(connection: Connection, identity: str) -> dict[str, str]:
    """Return the environment variables that let a process connect to the bus of these settings as another identity."""
    assert connection.nats_credentials is not None
    return {
        "SLIPWAY_NATS_URL": connection.nats_url,
        "SLIPWAY_NATS_CREDENTIALS": str(connection.nats_credentials.with_name(f"{identity}.nk")),
        "SLIPWAY_NATS_CA": str(connection.nats_ca),
    }


S = TypeVar("S", bound="Server")


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.discard()
        shutil.rmtree(server.folder, ignore_errors=True)
