"""The gateway as a process of its own, and toy models in a real Triton for it."""

import json
import os
import sys
from pathlib import Path

import httpx

from contracts.routes import ServedTarget
from contracts.vocabulary import Target
from deploy.identity.api_key_files import REHEARSALS, ApiKeyFiles
from deploy.local.state import ADMIN
from services.server_manager.domain.model_config import EngineConfig, plan_model_files, plan_target
from testbed import factories
from testbed.ports import free_port
from testbed.servers import Server, bus_variables

ROOT = Path(__file__).resolve().parents[1]


class Gateway(Server):
    """`python -m services.gateway.main` with its environment; starts again with the same state."""

    name = "gateway"

    def __init__(self, folder: Path, connection, **settings) -> None:
        super().__init__(folder)
        self.port = connection.http_port
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{free_port()}"
        self.may_be_forked = settings.get("workers", 1) == 1  # else prometheus_client must not be imported before
        self.keys = ApiKeyFiles(connection.nats_ca.parent)
        self.variables = {
            "GATEWAY_ADMIN_PORT": self.admin_url.rpartition(":")[2],
            "GATEWAY_API_KEYS": str(self.keys.listing),
            **bus_variables(connection, self.name),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "SLIPWAY_STATE_DIR": str(self.folder),
        } | {f"GATEWAY_{key.upper()}": str(value) for key, value in settings.items()}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "services.gateway.main"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    @property
    def key(self) -> str:
        """The key of the person of this machine: it opens every model, in production and staging."""
        return self.keys.key_file(ADMIN).read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        """The header that presents the key."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def rehearsal_variables(self) -> dict[str, str]:
        """The variables that let the rollback-controller send its rehearsals through this gateway."""
        key = self.keys.key_file(REHEARSALS)
        return {"ROLLBACK_CONTROLLER_GATEWAY_URL": self.base_url, "ROLLBACK_CONTROLLER_GATEWAY_KEY": str(key)}

    def ready(self) -> bool:
        return self.get("/readyz") is not None

    def get(self, path: str) -> httpx.Response | None:
        """Return the response of a path, that of probes and scrapes from their port, or None unless it is 200."""
        base = self.admin_url if path.startswith(("/readyz", "/metrics")) else self.base_url
        try:
            answer = httpx.get(base + path, headers=self.headers, timeout=5, follow_redirects=True)
        except httpx.HTTPError:
            return None
        return answer if answer.status_code == 200 else None

    def metric(self, line: str) -> float:
        """Return a metric by its name and labels, written as in the exposition."""
        text = self.get("/metrics/").text
        samples = dict(sample.rsplit(" ", 1) for sample in text.splitlines())
        return float(samples.get(line, 0.0))


def load_toy(triton, model: str, version: int, **toy: str) -> ServedTarget:
    """Load a toy model into Triton, which is started again if it has died, and return it as a served target.

    Its answers name model and fingerprint as server-manager would have them, and its context is the served target's.
    """
    triton.revive()
    target = Target(model=model, version=version, variant="bf16")
    served = factories.served(version, "bf16", model, endpoints=(triton.endpoint,))
    weights = triton.folder / "weights" / target.triton_name
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "config.json").write_text(json.dumps({"version": version}))
    engine = EngineConfig("toy", {"max_model_len": served.context_tokens}, toy=toy)
    engine = plan_target(engine, target.triton_name, served.manifest.digest, served.serving)
    files = plan_model_files(target.triton_name, str(weights), engine)
    for name, content in files.items():
        path = triton.repository / target.triton_name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    order(triton, target.triton_name, "load")
    return served


def order(triton, name: str, verb: str) -> None:
    """Load or unload a model."""
    url = f"http://127.0.0.1:{triton.ports.http}/v2/repository/models/{name}/{verb}"
    httpx.post(url, json={}, timeout=60).raise_for_status()
