"""The chart's facts from the contracts: connections, secrets and consumers of each service."""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from contracts import facts as f
from contracts import metrics
from contracts.provenance.attestations import ATTESTERS
from contracts.services import EVENTS, OPTIONAL, SERVICES, durable_name, stream_of
from contracts.storage.access import SERVICE_ACCESS
from shared.messaging.topology import LIMITS, file_bytes

CHART: Final = Path("deploy/helm/slipway")
HEADER: Final = "# Generated from contracts/ by deploy.generate; do not edit.\n"
ADMIN_PORTS: Final = {"gateway": 8081}
"""Ports of probes and metrics other than the service's port."""
SCALED: Final[dict[str, type[f.Fact]]] = {
    "merger": f.ReleaseOpened,
    "quantiser": f.VariantRequested,
    "benchmarker": f.VariantStaged,
    "monitor": f.InferenceBatch,
}
"""Services that scale by the lag of a consumer, with its fact; thresholds are in `keda.lag` of the values."""


def bus_takes() -> int:
    """Return the size limit in bytes of streams on disk, from the configuration of the chart's server."""
    (gigabytes,) = re.findall(r"max_file_store: (\d+)GB", Path("deploy/docker/nats.conf").read_text())
    return int(gigabytes) * 1024**3


def facts() -> dict[str, Any]:
    """Return the facts of all services by name, and the series for autoscaling."""
    callers = {
        peer: sorted(name for name, contract in SERVICES.items() if peer in contract.calls)
        for peer in ("triton", "agent", "gateway")
    }
    services = {
        name: {
            "optional": name in OPTIONAL,
            "store": name in SERVICE_ACCESS,
            "attests": name in ATTESTERS,
            "calls": list(contract.calls),
            "calledBy": callers.get(name, []),
            "adminPort": ADMIN_PORTS.get(name, 8080),
            **({"scales": _consumer(name)} if name in SCALED else {}),
        }
        for name, contract in SERVICES.items()
    }
    return {
        "services": services,
        "bus": {"takes": bus_takes(), "others": file_bytes() - LIMITS[EVENTS]},
        "callersOfTriton": [*callers["triton"], "agent"],
        "callersOfAgent": callers["agent"],
        "metrics": {
            "pending": metrics.CONSUMER_PENDING.name,
            "unacknowledged": metrics.CONSUMER_UNACKNOWLEDGED.name,
            "inFlight": metrics.IN_FLIGHT.name,
        },
    }


def files() -> dict[Path, str]:
    """Return the chart's generated files and their content."""
    boards = {
        f"files/dashboards/{board.name}": json.dumps(json.loads(board.read_text()), ensure_ascii=False) + "\n"
        for board in Path("deploy/grafana").glob("*.json")
    }
    rendered = {
        "files/facts.yaml": HEADER + yaml.safe_dump(facts(), sort_keys=False, width=120),
        "files/rules.yaml": Path("deploy/prometheus/rules.yaml").read_text(),
        **boards,
    }
    return {CHART / name: text for name, text in rendered.items()}


def _consumer(service: str) -> dict[str, str | None]:
    fact = SCALED[service]
    return {"stream": stream_of(fact), "consumer": durable_name(service, fact)}
