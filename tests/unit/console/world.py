"""A console on a real index and real sessions in files, with a folder of keys; orders are noted instead of published."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from httpx import Response
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from contracts.identities import Credential
from contracts.routes import Route
from contracts.runtimes import FleetRuntimes
from decisions.serving.runtimes import ListedFleet
from deploy.identity.key_folder import KeyFolder
from services.console.adapters.fleets import GatewayReports
from services.console.adapters.histograms import percentile_ms
from services.console.adapters.index import Index
from services.console.adapters.people import People
from services.console.adapters.sessions import Sessions
from services.console.app import build
from services.console.domain.logged import LoggedEvent
from services.console.domain.version_screen import Proofs
from services.console.endpoints import Endpoints
from services.console.follower import Progress, rows_of
from services.console.hub import Hub
from services.console.protection import Protection
from services.console.settings import ConsoleSettings
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.messaging.orders import new_order
from shared.provenance.login_links import login_link
from shared.runtime.settings import Connection
from shared.runtime.team_list import TeamList
from testbed.progress import with_progress
from testbed.story import fleet, stream_for

URL = "http://127.0.0.1:8082"
NOW = datetime(2026, 11, 27, 2, 0, tzinfo=UTC)


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


class FakeOrders:
    """Notes the orders that would be published; nobody answers them."""

    def __init__(self) -> None:
        self.given: list = []

    async def publish(self, person, model, fact, release_id):
        self.given.append((person, model, fact))
        return new_order(person, model, fact, now=NOW, release_id=release_id)


class FakeRoutes:
    """The routes in a dict; a test may set an error instead."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.error: Exception | None = None

    async def get(self, model):
        if self.error is not None:
            raise self.error
        return self.routes.get(model)


class FakeArtifacts:
    """Proofs and reports in dicts."""

    def __init__(self) -> None:
        self.proofs: dict[tuple[str, int], Proofs] = {}
        self.reports: dict[str, bytes] = {}

    def prove(self, model, version):
        proofs = self.proofs.get((model, version))
        if proofs is None:
            raise Transient("store_unavailable", "The store does not answer.")
        return proofs

    def report(self, uri):
        return self.reports.get(uri)


class FakeFleets:
    """The endpoints in a dict by fleet, and when its server-manager reported last; a test may set an error instead."""

    def __init__(self) -> None:
        self.fleets: dict[str, FleetRuntimes] = {}
        self.silent: dict[str, datetime | None] = {}
        self.error: Exception | None = None

    async def read(self):
        if self.error is not None:
            raise self.error
        return tuple(
            ListedFleet(name, fleet.runtimes, name not in self.silent, self.silent.get(name))
            for name, fleet in sorted(self.fleets.items())
        )


def log_of(events) -> list[LoggedEvent]:
    """Return events with the sequence that each has in its stream."""
    counts: dict[str, int] = {}
    logged = []
    for event in events:
        stream = stream_for(event)
        counts[stream] = counts.get(stream, 0) + 1
        logged.append(LoggedEvent(stream, counts[stream], event))
    return logged


def write(index: Index, log) -> None:
    """Write events into an index, in one transaction for each stream."""
    rows: dict[str, list] = {}
    for entry in log:
        of_message = rows_of(entry, percentile_ms)
        rows.setdefault(entry.stream, []).extend((entry.sequence, row) for row in of_message)
    for stream, of_stream in rows.items():
        last = max(entry.sequence for entry in log if entry.stream == stream)
        index.write(stream, last, "first", of_stream)


def context_of(page: Response) -> dict[str, Any]:
    """Return what a page was rendered from, by the names that its template has for it."""
    return vars(page)["context"]


def data(page: Response, name: str) -> Any:
    """Return what a page was rendered from by one name, as plain data."""
    return TypeAdapter(Any).dump_python(context_of(page)[name], mode="json")


@dataclass
class World:
    """A console with people: vera sees, oscar operates, anna approves, adam administers, sam is of team shop."""

    folder: Path
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.clock, self.orders, self.routes = FakeClock(), FakeOrders(), FakeRoutes()
        self.artifacts = FakeArtifacts()
        self.fleets, self.reports = FakeFleets(), GatewayReports(self.clock)
        self.keys = KeyFolder(self.folder / "keys")
        self.keys.prepare(["127.0.0.1"], NOW)
        people = {"vera": "viewer", "oscar": "operator", "anna": "approver", "adam": "administrator"}
        for name, role in people.items():
            self.keys.add(name, [role])
        self.keys.set_team("shop", ["shop-bot"])
        self.keys.add("sam", ["operator", "approver"], team="shop")
        self.index = Index(self.folder / "index.db")
        self.sessions = Sessions(self.folder / "sessions.db", self.clock)
        self.people = People(
            self.keys.people, self.keys.credential("").parent, TeamList(self.keys.team_list, self.clock)
        )
        self.hub, self.protection, self.progress = Hub(10), Protection(self.clock), Progress()
        self.asgi = self.make()

    def make(self, provider=None, gateway=None, **settings):
        connection = Connection(nats_url="nats://127.0.0.1:1", state_dir=self.folder)
        return build(
            Bus(connection, "console", self.clock),
            index=self.index,
            progress=self.progress,
            hub=self.hub,
            sessions=self.sessions,
            people=self.people,
            orders=self.orders,
            routes=self.routes,
            artifacts=self.artifacts,
            endpoints=Endpoints(self.fleets, self.reports, self.index),
            protection=self.protection,
            gateway=gateway,
            provider=provider,
            settings=ConsoleSettings(**({"url": URL, "answer_s": 0.05} | settings)),
            clock=self.clock,
        )

    def fill(self, events=None) -> None:
        write(self.index, log_of(fleet(NOW) if events is None else with_progress(events)))

    def link(self, name: str, url: str = URL) -> str:
        text = self.keys.credential(name).read_text()
        return login_link(url, Credential.from_text(text), self.clock.now())

    def client(self, name: str | None = None) -> TestClient:
        """Return a browser; somebody is signed in if a name is given."""
        client = TestClient(self.asgi, base_url=URL, follow_redirects=False, raise_server_exceptions=False)
        if name is not None:
            token = self.link(name).split("token=")[1]
            assert client.post("/login", data={"token": token}).status_code == 303
        return client

    def csrf(self, client: TestClient) -> str:
        return context_of(client.get("/index"))["csrf"]

    def close(self) -> None:
        self.index.close()
        self.sessions.close()
