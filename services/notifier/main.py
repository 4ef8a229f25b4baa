"""Starts the notifier: the only place where its parts are put together."""

from itertools import product

from contracts import metrics as m
from services.notifier.adapters.http import HttpSender
from services.notifier.app import AT_ONCE, SERVICE, Notifier, build
from services.notifier.domain.notices import ModelNotices
from services.notifier.settings import NotifierSettings, read_receivers
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.metrics import counter
from shared.runtime.service import connect_with_retries, run_service, serve
from shared.runtime.settings import Connection
from shared.runtime.sweeper import Sweeper
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: NotifierSettings) -> None:
    """Connect, build the service and serve until SIGTERM."""
    clock, receivers = SystemClock(), read_receivers(settings.receivers) if settings.receivers else ()
    bus = Bus(connection, SERVICE, clock)
    counted = counter(m.NOTIFICATIONS, bus.metrics)
    for receiver, outcome in product(receivers, ("sent", "failed")):
        counted.labels(receiver.name, outcome)  # rules watch them, and `increase` does not see what begins at 1
    await connect_with_retries(bus)
    records = Bucket(bus.js, "notifications", ModelNotices, service=SERVICE)
    notifier = Notifier(records, receivers, HttpSender(settings, clock), counted, clock)
    build(bus, notifier)
    repeating = Sweeper("notifications", records.keys, notifier.repeat, every_s=settings.resend_s, at_once=AT_ONCE)
    await serve(bus, connection, background=[repeating.run])


def main() -> None:
    """Read the settings from the environment and run the notifier."""
    run_service(SERVICE, NotifierSettings, run, uses_store=False)


if __name__ == "__main__":
    main()
