"""A third Triton on host c: two copies of a version need one that the previous version is not on (ADR 0039)."""

import json
from typing import Any

REPOSITORY = "/serving/models"


def override(config: dict[str, Any]) -> str:
    """Return a compose file (JSON, which is YAML) that adds `triton-c` and `agent-c`, made like those of host b.

    Args:
        config: The project without them, as docker-compose shows it.
    """
    services = config["services"]
    triton = _moved(services["triton-b"])
    agent = _moved(services["agent-b"])
    fleet = json.loads(services["server-manager"]["environment"]["SERVER_MANAGER_ENDPOINTS"])
    endpoints = {"environment": {"SERVER_MANAGER_ENDPOINTS": json.dumps(fleet | {"c": _moved(fleet["b"])})}}
    folders = {"command": ["mkdir", "-p", REPOSITORY, f"{REPOSITORY}-b", f"{REPOSITORY}-c"]}
    added = {
        "triton-c": triton,
        "agent-c": agent,
        "server-manager": endpoints,
        "server-manager-b": endpoints,
        "serving-folder": folders,
    }
    return json.dumps({"services": added, "volumes": {"agent-c": {}}})


def _moved(part: Any) -> Any:
    """Return a part of the project with the names of host c in place of those of host b."""
    text = json.dumps(part)
    for name in ("triton", "agent", "models"):
        text = text.replace(f"{name}-b", f"{name}-c")
    return json.loads(text)
