"""Put and get through our store client, compared with rclone and the S3 SDK's own calls, on one server.

One file of random bytes is put under a new key and fetched again, by each client in turn, several times; the figures
are medians. Ours verifies: it computes the SHA-256 before a put and of every byte of a get; so does one of the SDK's
rows, the other does not. rclone (with its own check of length and MD5) takes part if `rclone` is on the PATH or RCLONE
names it.

Run: python benchmarks/bench_store.py [SIZE_MB] [ROUNDS] (default 512 6)
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.parts import show_table
from deploy.local.state import ADMIN
from shared.storage.blobs import Store
from shared.storage.credentials import read_credential
from testbed.servers import S3Server, connection, running

Ways = dict[str, tuple[Callable[[Path, str], object], Callable[[str, Path], object]]]


def our_way(store: Store) -> tuple[Callable[[Path, str], object], Callable[[str, Path], object]]:
    """Return put and get as the services do it."""
    entries = {}

    def put(path: Path, key: str) -> None:
        entries[key] = store.put_file(path, "file", f"{key}/")

    def get(key: str, into: Path) -> None:
        store.fetch_files([entries[key]], into, f"{key}/")

    return put, get


def sdk_way(store: Store) -> tuple[Callable[[Path, str], object], Callable[[str, Path], object]]:
    """Return put and get by the SDK's own calls, with its defaults."""
    client = store._client  # noqa: SLF001 - the SDK's client

    def put(path: Path, key: str) -> None:
        client.fput_object(bucket_name=store.bucket, object_name=key, file_path=str(path))

    def get(key: str, into: Path) -> None:
        client.fget_object(bucket_name=store.bucket, object_name=key, file_path=str(into / "file"))

    return put, get


def checked_sdk_way(store: Store) -> tuple[Callable[[Path, str], object], Callable[[str, Path], object]]:
    """Return put and get by the SDK's own calls, with the digest that ours computes: before a put, after a get."""
    put, get = sdk_way(store)
    digests = {}

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def put_digested(path: Path, key: str) -> None:
        digests[key] = digest(path)
        put(path, key)

    def get_verified(key: str, into: Path) -> None:
        get(key, into)
        if digest(into / "file") != digests[key]:
            raise AssertionError(key)

    return put_digested, get_verified


def rclone_way(program: str, server: S3Server) -> tuple[Callable[[Path, str], object], Callable[[str, Path], object]]:
    """Return put and get by rclone, with its defaults."""
    key = read_credential(server.keys.store.credential(ADMIN))
    settings = {
        "TYPE": "s3",
        "PROVIDER": "SeaweedFS",
        "ENDPOINT": f"https://127.0.0.1:{server.port}",
        "ACCESS_KEY_ID": key.access_key,
        "SECRET_ACCESS_KEY": key.secret_key.get_secret_value(),
    }
    authority = {"RCLONE_CA_CERT": str(server.keys.authority)}
    environment = {**os.environ, **authority, **{f"RCLONE_CONFIG_S_{name}": value for name, value in settings.items()}}

    def run(source: str, target: str) -> None:
        subprocess.run([program, "copyto", "-q", "--config", "", source, target], env=environment, check=True)

    return (
        lambda path, key: run(str(path), f"s:slipway/{key}"),
        lambda key, into: run(f"s:slipway/{key}", str(into / "file")),
    )


def main(size_mb: int, rounds: int) -> None:
    speeds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running(S3Server(scratch)))
        store = Store(connection(None, server, scratch))
        ways: Ways = {
            "ours, verified": our_way(store),
            "S3 SDK": sdk_way(store),
            "S3 SDK, then SHA-256": checked_sdk_way(store),
        }
        rclone = os.environ.get("RCLONE") or shutil.which("rclone")
        if rclone:
            ways["rclone"] = rclone_way(rclone, server)
        source, into = scratch / "source", scratch / "into"
        for number in range(rounds):
            source.write_bytes(os.urandom(size_mb * 1_000_000))
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:  # no client is always the first
                (put, get), key = ways[name], f"{list(ways).index(name)}-{number}"
                into.mkdir()
                began = time.monotonic()
                put(source, key)
                between = time.monotonic()
                get(key, into)
                speeds[name]["put"].append(size_mb / (between - began))
                speeds[name]["get"].append(size_mb / (time.monotonic() - between))
                shutil.rmtree(into)
    peers = [figures for name, figures in speeds.items() if "ours" not in name]
    better = {way: max(median(figures[way]) for figures in peers) for way in ("put", "get")}
    show_table(
        ["", "put, MB/s", "of the better peer", "get, MB/s", "of the better peer"],
        [
            [
                name,
                *(
                    cell
                    for way in ("put", "get")
                    for cell in (f"{median(figures[way]):.0f}", f"{median(figures[way]) / better[way]:.0%}")
                ),
            ]
            for name, figures in speeds.items()
        ],
    )


if __name__ == "__main__":
    size_mb, rounds = [*map(int, sys.argv[1:]), 512, 6][:2] if len(sys.argv) != 2 else (int(sys.argv[1]), 6)
    main(size_mb, rounds)
