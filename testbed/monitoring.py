"""A real Prometheus on a free loopback port with the rules of `deploy/prometheus`, and the dashboards' queries."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testbed.ports import free_port
from testbed.servers import Throwaway

ROOT = Path(__file__).resolve().parents[1]


def require(program: str, package: str) -> str:
    """Return the path of a program of Debian; without it a test is skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program}: install the package `{package}`")
    return path


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield title of the panel and expression of each query of the Grafana dashboards."""
    for path in sorted((ROOT / "deploy/grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]


class PrometheusServer(Throwaway):
    """Scrapes these addresses every other second, by the name of their part."""

    name = "prometheus"

    def __init__(self, folder: Path, program: str, targets: Mapping[str, int]) -> None:
        super().__init__(folder)
        self._program = program
        self.port = free_port()
        jobs = [{"targets": [f"127.0.0.1:{port}"], "labels": {"part": part}} for part, port in targets.items()]
        document = {
            "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
            "rule_files": [str(ROOT / "deploy/prometheus/rules.yaml")],
            "scrape_configs": [{"job_name": "slipway", "static_configs": jobs}],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(document))

    def command(self) -> list[str]:
        return [
            self._program,
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def ready(self) -> bool:
        try:
            return self._get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now; fail if Prometheus refuses it."""
        answer = self._get("/api/v1/query", query=expr).json()
        assert answer["status"] == "success", f"{expr}\n{answer}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", params=parameters, timeout=10, trust_env=False)


class AlertmanagerServer(Throwaway):
    """A real Alertmanager without a receiver."""

    name = "alertmanager"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self._program = program
        self.port = free_port()
        (self.folder / "alertmanager.yaml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [
            self._program,
            f"--config.file={self.folder / 'alertmanager.yaml'}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are active."""
        active: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts", timeout=5, trust_env=False).json()
        return active
