"""The agent beside a Triton as a process of its own, with the key of the Triton's model control."""

import os
import sys
from pathlib import Path

import httpx

from testbed.ports import free_port
from testbed.servers import Server

ROOT = Path(__file__).resolve().parents[1]


class TritonAgent(Server):
    name = "agent"

    def __init__(self, folder: Path, triton: str, managers: Path, admin_key: str = "key") -> None:
        super().__init__(folder)
        self.port, self.http_port = free_port(), free_port()
        self.variables = {
            "TRITON_AGENT_TRITON_GRPC": triton,
            "TRITON_AGENT_ADMIN_KEY": admin_key,
            "TRITON_AGENT_MANAGERS": str(managers),
            "TRITON_AGENT_TERM_FILE": str(self.term_file),
            "TRITON_AGENT_LISTEN": self.endpoint,
            "SLIPWAY_HTTP_HOST": "127.0.0.1",
            "SLIPWAY_HTTP_PORT": str(self.http_port),
        }

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def term_file(self) -> Path:
        return self.folder / "term.json"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "services.server_manager.agent"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.http_port}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False
