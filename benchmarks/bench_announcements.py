"""A flood of announcements of one team, and how long another team's single announcements take until they are released.

A real registry on a real bus (every acknowledged message on disk) and a real store. The team `flood` announces 10,000
checkpoints a minute: valid ones, ones that name no weights, and messages that are no events. Every few seconds another
team announces its first checkpoint; the benchmark prints the time from there to its `release.opened`.
Run: python -m benchmarks.bench_announcements --seconds 60
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nats.js import JetStreamContext

from benchmarks.parts import quantile
from contracts.envelope import CONTENT_TYPE, Event, plain, source_of
from contracts.facts import BaseModelRef, CheckpointReady, ReleaseOpened, Weights
from contracts.manifests import BaseManifest, FileEntry, FolderManifest
from contracts.policy import Trigger
from contracts.services import INBOX, durable_name
from contracts.vocabulary import canonical_json, digest_of
from shared.messaging.provision import provision
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from testbed import factories
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.services import running_service, stored_facts

MODULE = "services.registry.main"
FLOOD, CALM = "flood", tuple(f"calm-{number}" for number in range(200))
CLOCK = SystemClock()
MANUAL = Trigger(name="errors", metric="error_ratio", threshold=0.01, action="manual")
POLICY = factories.policy(triggers=(MANUAL,), rehearsal="not_required")


@dataclass
class Seen:
    """What was measured.

    Attributes:
        waited_s: of each other announcement, until its release was opened.
        flooded: announcements of the other team that the bus has taken.
        refused: announcements of it that the bus did not take.
        left: announcements that wait for the registry at the end.
    """

    waited_s: list[float] = field(default_factory=list)
    flooded: int = 0
    refused: int = 0
    left: int = 0


def write_teams(file: Path, quota: int) -> None:
    """Write the list of teams, each with a quota of announcements in a minute."""
    file.write_text(
        json.dumps(
            [
                {
                    "name": name,
                    "models": [name],
                    "members": [factories.PUBLISHER],
                    "unrestricted": [factories.PUBLISHER],
                    "quota": {"announcements_per_minute": quota},
                }
                for name in (FLOOD, *CALM)
            ]
        )
    )


def upload_base(store: Store) -> BaseModelRef:
    """Store a base model of one small file, and return what announcements name."""
    files = (FileEntry(path="model.safetensors", digest=digest_of(b"w"), size_bytes=1),)
    folder, _ = store.put_manifest("manifests/folder/base.json", FolderManifest(files=files))
    manifest = BaseManifest(
        name="tiny",
        revision="1",
        folder=folder,
        weights_bytes=10,
        architecture="LlamaForCausalLM",
        imported_at=CLOCK.now(),
        source="a benchmark",
    )
    store.put_manifest("bases/tiny/1.json", manifest)
    return BaseModelRef(name="tiny", revision="1", uri=store.uri("bases/tiny/1.json"), digest=folder.digest)


def checkpoint(store: Store, base: BaseModelRef, model: str, number: int) -> CheckpointReady:
    """Store a checkpoint of one small file where its publisher may, and return its announcement."""
    content = f"{model} {number}".encode()
    file = FileEntry(path="adapter.safetensors", digest=digest_of(content), size_bytes=len(content))
    folder = FolderManifest(files=(file,))
    name = digest_of(folder.to_bytes()).removeprefix("sha256:")
    ref, _ = store.put_manifest(f"checkpoints/{model}/manifests/folder/{name}.json", folder)
    weights = Weights(kind="lora", ref=ref)
    own = {"calibration": None, "evaluation": None, "serving": None, "attempt": 1, "policy": POLICY}
    return factories.fact(CheckpointReady, model=model, base=base, weights=weights, **own)


def message(fact: CheckpointReady) -> bytes:
    """Return an announcement as a publisher sends it."""
    event = Event[CheckpointReady](
        id=str(uuid.uuid4()),
        source=source_of(factories.PUBLISHER),
        type=CheckpointReady.TYPE,
        subject=fact.model,
        time=CLOCK.now(),
        correlationid="r-1",
        data=fact,
    )
    return canonical_json(plain(event))


def subject_of(model: str) -> str:
    """Return the subject of announcements of a model."""
    return f"{CheckpointReady.TYPE}.{model}.{factories.PUBLISHER}"


def flood_bodies(valid: CheckpointReady) -> Iterator[bytes]:
    """Return announcements for ever: valid, without its weights in the store, and no event at all."""
    lost = valid.weights.ref.model_copy(update={"uri": valid.weights.ref.uri + "x"})
    missing = valid.model_copy(update={"weights": valid.weights.model_copy(update={"ref": lost})})
    for attempt in itertools.count(1):
        yield message(valid.model_copy(update={"attempt": attempt}))
        yield message(missing.model_copy(update={"attempt": attempt}))
        yield b"{not an event"


async def flood(js: JetStreamContext, bodies: Iterator[bytes], rate: float, seen: Seen) -> None:
    """Publish at a steady rate until cancelled; what the bus does not take is counted."""
    running_: set[asyncio.Task[None]] = set()

    async def publish(body: bytes) -> None:
        headers = {"content-type": CONTENT_TYPE, "Nats-Msg-Id": uuid.uuid4().hex}
        try:
            await js.publish(subject_of(FLOOD), body, headers=headers, timeout=30)
            seen.flooded += 1
        except Exception:  # noqa: BLE001 - counted, whatever it was
            seen.refused += 1

    due = time.monotonic()
    while True:
        due += 1.0 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(publish(next(bodies)))
        running_.add(task)
        task.add_done_callback(running_.discard)


async def announce(js: JetStreamContext, fact: CheckpointReady, limit_s: float) -> float:
    """Announce a checkpoint; return the seconds until its release was opened, or the limit."""
    before = len(await stored_facts(js, ReleaseOpened, fact.model))
    began = time.monotonic()
    headers = {"content-type": CONTENT_TYPE, "Nats-Msg-Id": uuid.uuid4().hex}
    await js.publish(subject_of(fact.model), message(fact), headers=headers, timeout=30)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while len(await stored_facts(js, ReleaseOpened, fact.model)) == before:  # noqa: ASYNC110 - another process opens it
                await asyncio.sleep(0.05)
    return time.monotonic() - began


async def measure(arguments: argparse.Namespace, folder: Path) -> Seen:
    """Run bus, store and registry, flood, and announce beside it."""
    nats, s3 = NatsServer(folder), S3Server(folder)
    config = nats.folder / "nats.conf"
    config.write_text(config.read_text().replace("max_file_store", "sync_interval: always, max_file_store"))
    teams, seen = folder / "teams.json", Seen()
    write_teams(teams, arguments.quota)
    with running(nats), running(s3):
        client = await nats.connect()
        js = client.jetstream(timeout=30)
        await provision(js)
        settings: Connection = connection(nats, s3, folder / "registry", teams=teams)
        store = Store(settings)
        base = upload_base(store)
        bodies = flood_bodies(checkpoint(store, base, FLOOD, 0))
        with running_service(MODULE, settings, REGISTRY_SWEEP_S="0.5"):
            await announce(js, checkpoint(store, base, CALM[0], 0), 60.0)
            flooding = asyncio.create_task(flood(js, bodies, arguments.rate / 60.0, seen))
            began = time.monotonic()
            for number in itertools.count(1):
                await asyncio.sleep(arguments.every)
                if time.monotonic() - began > arguments.seconds:
                    break
                seen.waited_s.append(await announce(js, checkpoint(store, base, CALM[number], 0), 120.0))
            flooding.cancel()
            seen.left = (await js.consumer_info(INBOX, durable_name("registry", CheckpointReady))).num_pending
        await client.close()
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=10_000.0, help="announcements of the flooding team in a minute")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two announcements of others")
    parser.add_argument("--quota", type=int, default=20, help="announcements in a minute that each team may have")
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(measure(parser.parse_args(), Path(folder)))
    waited = sorted(seen.waited_s)
    print(f"flooded: {seen.flooded} taken by the bus, {seen.refused} not; {seen.left} wait for the registry at the end")
    print(
        f"others: {len(waited)} announcements, release opened after {quantile(waited, 0.5):.2f} s (median), "
        f"{waited[-1]:.2f} s (longest)"
    )


if __name__ == "__main__":
    main()
