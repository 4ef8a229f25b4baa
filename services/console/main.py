"""Entry point of the console: `python -m services.console.main`."""

from contextlib import aclosing

from services.console.adapters.artifacts import artifacts_of
from services.console.adapters.fleets import BusFleets, GatewayReports
from services.console.adapters.gateway import GatewayClient
from services.console.adapters.histograms import percentile_ms
from services.console.adapters.index import Index
from services.console.adapters.live import follow_progress, follow_running
from services.console.adapters.log import StreamLog
from services.console.adapters.oidc import Provider
from services.console.adapters.orders import BusRoutes, PersonalOrders
from services.console.adapters.people import People
from services.console.adapters.sessions import Sessions
from services.console.app import SERVICE, build
from services.console.endpoints import Endpoints
from services.console.follower import Follower
from services.console.hub import Hub
from services.console.protection import Protection
from services.console.settings import ConsoleSettings
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.service import run_service, serve
from shared.runtime.settings import Connection
from shared.runtime.team_list import TeamList

_OPEN_PAGES = 500
"""Maximum pages with a live stream."""


async def run(connection: Connection, settings: ConsoleSettings) -> None:
    """Connect, follow the log and serve until SIGTERM."""
    clock, folder = SystemClock(), connection.work_dir(SERVICE)
    bus, hub = Bus(connection, SERVICE, clock), Hub(_OPEN_PAGES, clock)
    index, sessions = Index(settings.index or folder / "index.db"), Sessions(folder / "sessions.db", clock)
    people = People(settings.identities, settings.credentials, TeamList(connection.teams, clock, every_s=1.0).require())
    log = StreamLog(lambda: bus.js)
    follower = Follower(log, index, percentile_ms, hub.publish, hub.announce)
    gateway = GatewayClient(settings.gateway_url, settings.gateway_ca) if settings.gateway_url else None
    reports, protection = GatewayReports(clock), Protection(clock)
    endpoints = Endpoints(BusFleets(lambda: bus.js, clock), reports, index)
    app = build(
        bus,
        index=index,
        progress=follower.progress,
        hub=hub,
        sessions=sessions,
        people=people,
        orders=PersonalOrders(connection, people, clock),
        routes=BusRoutes(bus),
        artifacts=artifacts_of(connection),
        endpoints=endpoints,
        protection=protection,
        gateway=gateway,
        provider=provider_of(settings),
        settings=settings,
        clock=clock,
    )

    try:
        await serve(
            bus,
            connection,
            background=(
                lambda: follow(log, follower),
                lambda: follow_progress(bus.client, hub.progress),
                lambda: reports.follow(bus.client),
                lambda: endpoints.announce(hub),
                lambda: follow_running(bus.client, protection.take),
                lambda: protection.announce(hub),
            ),
            app=app,
            on_stop=hub.close,
        )
    finally:
        if gateway is not None:
            await gateway.close()
        index.close()
        sessions.close()


async def follow(log: StreamLog, follower: Follower) -> None:
    """Keep the index current until cancelled; close the log at the end."""
    async with aclosing(log):
        await follower.run()


def provider_of(settings: ConsoleSettings) -> Provider | None:
    """Return the identity provider of the settings; None without one."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None or settings.oidc_claim is None:
        return None
    secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret is not None else ""
    redirect = f"{settings.url}/login/callback"
    return Provider(settings.oidc_issuer, settings.oidc_client_id, secret, settings.oidc_claim, redirect)


def main() -> None:
    """Read the settings from the environment and run the console."""
    run_service(SERVICE, ConsoleSettings, run, uses_store=False)


if __name__ == "__main__":
    main()
