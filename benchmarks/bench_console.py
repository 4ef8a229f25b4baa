"""First screens of the console with many releases and models: how long their pages take.

    python -m benchmarks.bench_console [--releases 10000] [--models 500]

The index is a file that the console's own code writes from events; the screens are requested from the application
itself, without a network. Limit: the data of each first screen in less than 1 s.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.testclient import TestClient

from contracts.envelope import Event
from contracts.facts import CheckpointRejected
from contracts.identities import Credential
from deploy.identity.key_folder import KeyFolder
from services.console.adapters.artifacts import StoredArtifacts
from services.console.adapters.fleets import BusFleets, GatewayReports
from services.console.adapters.histograms import percentile_ms
from services.console.adapters.index import Index
from services.console.adapters.orders import BusRoutes, PersonalOrders
from services.console.adapters.people import People
from services.console.adapters.sessions import Sessions
from services.console.app import build
from services.console.domain.apply import apply
from services.console.endpoints import Endpoints
from services.console.follower import Progress
from services.console.hub import Hub
from services.console.protection import Protection
from services.console.settings import ConsoleSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Trust
from shared.provenance.login_links import login_link
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from shared.runtime.team_list import TeamList
from shared.storage.blobs import Store
from testbed.story import Story, release_id, stream_for

LIMIT_S = 1.0
URL = "http://127.0.0.1:8082"
TRIES = 7
REFUSED_EVERY = 20
"""Of so many releases, one checkpoint more is refused before its release begins."""
SCREENS = {
    "fleet": "/fleet",
    "releases": "/releases",
    "releases, last part": "/releases?after=9900",
    "refused checkpoints": "/checkpoints",
    "release": f"/releases/{release_id(1)}",
    "alerts": "/alerts",
    "timeline": "/timeline",
    "history": "/history",
    "canary": f"/releases/{release_id(1001)}/canary",
    "version": "/models/model-7/versions/2",
    "model": "/models/model-7",
}


def fill(index: Index, releases: int, models: int) -> tuple[int, float]:
    """Write the events of so many releases; return how many events there were, and the seconds of applying them."""
    story, began = Story(datetime.now(UTC) - timedelta(days=300), assessments=2), time.perf_counter()
    count, rows, sequences = 0, {}, {}

    def take(events: Iterable[Event]) -> None:
        nonlocal count
        for event in events:
            stream = stream_for(event)
            sequences[stream] = sequences.get(stream, 0) + 1
            rows.setdefault(stream, []).extend(
                (sequences[stream], row) for row in apply(stream, sequences[stream], event, percentile_ms)
            )
            count += 1
        for stream, entries in rows.items():
            if len(entries) > 2000:
                index.write(stream, sequences[stream], "bench", entries)
                entries.clear()

    for number in range(releases):
        model, version = f"model-{number % models}", number // models + 1
        until = ("promoted", "promoted", "promoted", "rejected", "approval")[number % 5 if version > 1 else 0]
        take(story.release(model, version, number, until=until, manual=until == "approval"))
        if number % 25 == 24:
            take(story.alert(model, roll_back=story.has_previous(model)))
        if number % REFUSED_EVERY == 0:
            refused = CheckpointRejected(code="unknown_base", reason="The base is not imported.")
            take([story.event(refused, model, f"run-of-{model}-{number}")])
    story.moment = datetime.now(UTC)
    for number in range(models):
        take(story.windows(f"model-{number}", 60, ttft_ms=100.0 + number % 50, requests=50 + number))
    for stream, entries in rows.items():
        index.write(stream, sequences[stream], "bench", entries)
    return count, time.perf_counter() - began


def signed_in(folder: Path, index: Index) -> TestClient:
    """Return a browser at a console on this index, with an administrator signed in."""
    clock, keys = SystemClock(), KeyFolder(folder / "keys")
    keys.prepare(["127.0.0.1"], clock.now())
    keys.add("admin", ["administrator"])
    connection = Connection(nats_url="nats://127.0.0.1:1", state_dir=folder)
    people = People(keys.people, None, TeamList(keys.team_list, clock))
    bus = Bus(connection, "console", clock)
    app = build(
        bus,
        index=index,
        progress=Progress(),
        hub=Hub(10),
        sessions=Sessions(folder / "sessions.db", clock),
        people=people,
        orders=PersonalOrders(connection, people, clock),
        routes=BusRoutes(bus),
        artifacts=StoredArtifacts(Store(connection), Trust(keys.people)),
        endpoints=Endpoints(BusFleets(lambda: bus.js, clock), GatewayReports(clock), index),
        protection=Protection(clock),
        gateway=None,
        provider=None,
        settings=ConsoleSettings(url=URL),
        clock=clock,
    )
    client = TestClient(app, base_url=URL, follow_redirects=False)
    link = login_link(URL, Credential.from_text(keys.credential("admin").read_text()), clock.now())
    assert client.post("/login", data={"token": link.split("token=")[1]}).status_code == 303
    return client


def timed(client: TestClient, path: str) -> tuple[float, int]:
    """Return the median of the seconds that a request takes, and the bytes of its answer."""
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        answer = client.get(path)
        took.append(time.perf_counter() - began)
        assert answer.status_code == 200, (path, answer.text[:300])
    return statistics.median(took), len(answer.content)


def main() -> None:
    """Print a table; exit code 1 if a screen takes longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = Index(folder / "index.db")
        events, filled_s = fill(index, options.releases, options.models)
        size = sum(file.stat().st_size for file in folder.glob("index.db*"))
        client = signed_in(folder, index)
        rows = [(title, *timed(client, page)) for title, page in SCREENS.items()]
    slowest = max(row[1] for row in rows)
    if options.json:
        print(json.dumps({"events": events, "filled_s": filled_s, "index_bytes": size, "screens": rows}))
    else:
        print(
            f"{options.releases:,} releases of {options.models} models: {events:,} events, applied in {filled_s:.0f} s"
        )
        print(f"index: {size / 1e6:.0f} MB")
        print(f"{'screen':<22}{'page':>10}{'limit':>8}{'page size':>12}")
        for title, page_s, page_bytes in rows:
            figures = f"{page_s * 1000:>7.0f} ms{LIMIT_S:>6.0f} s{page_bytes / 1e3:>9.0f} kB"
            print(f"{title:<22}{figures}")
        print(f"slowest page: {slowest * 1000:.0f} ms, limit {LIMIT_S:.0f} s")
    raise SystemExit(int(slowest > LIMIT_S))


if __name__ == "__main__":
    main()
