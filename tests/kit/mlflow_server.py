"""A real MLflow server with SQLite and its artifact proxy, from the environment that `environment.sh mlflow` makes."""

import os
import subprocess
import urllib.request
from pathlib import Path

from testbed.ports import free_port
from testbed.servers import Throwaway
from tests.kit.wiring import ROOT

PYTHON = ROOT / ".venv-mlflow/bin/python"


def require_environment() -> None:
    """Make the environment; return at once if it is up to date."""
    command = [ROOT / "deploy/setup/environment.sh", "mlflow"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


class MlflowServer(Throwaway):
    """MLflow as `mlflow server` runs it, without the process that starts it: half the time to start."""

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [str(PYTHON), "-m", "uvicorn", *where, "mlflow.server.fastapi_app:app"]

    def environment(self) -> dict[str, str]:
        database = f"sqlite:///{self.folder}/mlflow.db"
        return {
            **os.environ,
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return answer.status == 200
