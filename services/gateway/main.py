"""Starts the gateway: `python -m services.gateway.main`, as one process or as several workers that share its port."""

import asyncio
import ipaddress
import resource
import sys

from services.gateway.settings import GatewaySettings
from shared.messaging.credentials import require_identity
from shared.runtime.process_metrics import share_metrics
from shared.runtime.program_imports import finish_imports
from shared.runtime.service import check_sandbox
from shared.runtime.settings import Connection, read_settings
from shared.runtime.telemetry import configure_logging

SERVICE = "gateway"


async def run(connection: Connection, settings: GatewaySettings) -> None:
    """Serve in this process until SIGTERM or SIGINT, then finish the streams in flight, up to a time limit."""
    from services.gateway.process import serve

    finish_imports()
    await serve(connection, settings)


def run_workers(connection: Connection, settings: GatewaySettings) -> None:
    """Serve in several processes until SIGTERM or SIGINT; each finishes its streams in flight."""
    share_metrics(connection.work_dir(SERVICE) / "metrics")
    from services.gateway.server.workers import WorkerPool  # creates metrics: after `share_metrics`

    finish_imports()
    WorkerPool(connection, settings).run()


def require_transport(host: str, settings: GatewaySettings) -> None:
    """Exit if callers on other machines would send their keys in plain text."""
    if settings.tls_certificate is not None or settings.behind_proxy or is_loopback(host):
        return
    sys.exit(
        f"gateway: no_tls: {host} is reachable from elsewhere, and keys would be sent in plain text: set "
        "GATEWAY_TLS_CERTIFICATE and GATEWAY_TLS_KEY, or GATEWAY_BEHIND_PROXY if a proxy ends TLS before it"
    )


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    """Read the settings from the environment and run the gateway."""
    connection = require_identity(read_settings(Connection), SERVICE)
    configure_logging(SERVICE, connection.log_level)
    settings = read_settings(GatewaySettings)
    require_transport(connection.http_host, settings)
    asyncio.run(check_sandbox(connection))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is an open file
    if settings.workers == 1:
        asyncio.run(run(connection, settings))
    else:
        run_workers(connection, settings)


if __name__ == "__main__":
    main()
