"""What the chart takes from the contracts: who talks to whom, which secrets a service needs, which consumers it has."""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from contracts import metrics
from contracts.provenance import ATTESTERS
from contracts.services import EVENTS, OPTIONAL, SERVICES
from contracts.store_access import SERVICE_ACCESS
from deploy.helm import scaling
from deploy.helm.values import Values
from deploy.helm.values_file import render_values
from deploy.monitoring import panels, rules
from deploy.monitoring.dashboards import DASHBOARDS
from shared.messaging.topology import LIMITS, file_bytes

CHART: Final = Path("deploy/helm/slipway")
HEADER: Final = "# Generated from contracts/ by deploy.generate; do not edit.\n"
ADMIN_PORTS: Final = {"gateway": 8081}
"""Ports of probes and metrics, where they are not the port of the service."""


def bus_takes() -> int:
    """Return how many bytes a server of the chart takes for streams on disk, by the configuration of its image."""
    (gigabytes,) = re.findall(r"max_file_store: (\d+)GB", Path("deploy/docker/nats.conf").read_text())
    return int(gigabytes) * 1024**3


def facts() -> dict[str, Any]:
    """Return the facts of all services by their names, and the series that autoscaling reads."""
    callers = {
        peer: sorted(name for name, contract in SERVICES.items() if peer in contract.calls)
        for peer in ("triton", "agent", "gateway")
    }
    consumers = scaling.consumers()
    services = {
        name: {
            "optional": name in OPTIONAL,
            "store": name in SERVICE_ACCESS,
            "attests": name in ATTESTERS,
            "calls": list(contract.calls),
            "calledBy": callers.get(name, []),
            "adminPort": ADMIN_PORTS.get(name, 8080),
            **({"scales": consumers[name]} if name in consumers else {}),
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
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **closed(Values.model_json_schema(by_alias=True))}
    rendered = {
        "files/facts.yaml": HEADER + yaml.safe_dump(facts(), sort_keys=False, width=120),
        "files/rules.yaml": HEADER + yaml.safe_dump(rules.render(), sort_keys=False, width=120),
        "values.yaml": render_values(),
        "values.schema.json": json.dumps(schema, indent=1, sort_keys=True) + "\n",
    }
    boards = {f"files/dashboards/{uid}.json": panels.render(board) for uid, board in DASHBOARDS.items()}
    rendered |= {name: json.dumps(board, sort_keys=True, ensure_ascii=False) + "\n" for name, board in boards.items()}
    return {CHART / name: text for name, text in rendered.items()}


def closed(schema: Any) -> Any:
    """Return a schema in which an object refuses keys that match none of its patterns."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    return {**parts, "additionalProperties": False} if "patternProperties" in schema else parts
