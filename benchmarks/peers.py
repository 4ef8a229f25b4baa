"""Other proxies of the OpenAI API, each in a Python environment of its own that is made on first use and kept."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from testbed.ports import free_port
from testbed.servers import Throwaway, accepts

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "slipway-benchmarks"
INSTALL_S = 900
PATH = "/v1/chat/completions"
MODEL = "toy"


class NotAvailable(Exception):  # noqa: N818 - the sentence is the point
    """A peer cannot be installed here."""


def programs_of(name: str) -> Path:
    """Return the folder of the programs of a peer; install what its requirements pin, if that was not done before.

    Raises:
        NotAvailable: the registry cannot be reached, or does not have it for this machine.
    """
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = CACHE / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", folder],
            [folder / "bin" / "pip", "install", "--quiet", "--requirement", requirements],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
            except subprocess.CalledProcessError as error:
                last = (error.stderr.strip().splitlines() or ["no message"])[-1]
                raise NotAvailable(f"{name} cannot be installed: {last}") from error
            except subprocess.TimeoutExpired as error:
                raise NotAvailable(f"{name} was not installed within {INSTALL_S} s") from error
        complete.touch()
    return folder / "bin"


class StandIn(Throwaway):
    """The HTTP engine stand-in."""

    name = "stand-in"

    def __init__(self, folder: Path, token_delay_ms: int) -> None:
        super().__init__(folder)
        self.port, self.token_delay_ms = free_port(), token_delay_ms

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "stand_in.py"), str(self.port), str(self.token_delay_ms)]

    def ready(self) -> bool:
        return accepts(self.port)


class Peer(Throwaway):
    """A proxy before the stand-in; it is ready when it answers a chat."""

    def __init__(self, folder: Path, engine_port: int) -> None:
        super().__init__(folder)
        self.port, self.engine_port = free_port(), engine_port
        self.programs = programs_of(self.name)

    def ready(self) -> bool:
        if not accepts(self.port):
            return False
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        try:
            answer = httpx.post(f"http://127.0.0.1:{self.port}{PATH}", json=body, timeout=10, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200


class LiteLlm(Peer):
    """LiteLLM's proxy with one worker; it rewrites the request and every chunk of the answer."""

    name = "litellm"
    title = "LiteLLM 1.80.0"

    def command(self) -> list[str]:
        api = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{self.engine_port}/v1", "api_key": "none"}
        config = self.folder / "config.yaml"  # JSON is YAML
        config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": api}]}))
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        return [str(self.programs / "litellm"), "--config", str(config), *where]

    def environment(self) -> dict[str, str]:
        quiet = {"LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return {**os.environ, **quiet}


class Envoy(Peer):
    """Envoy with one thread; it forwards bytes by path and reads neither request nor answer."""

    name = "envoy"
    title = "Envoy 1.40.0, forwards only"

    def command(self) -> list[str]:
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))
        alone = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return [str(self.programs / "envoy"), "--config-path", str(config), *alone]

    def _config(self) -> dict:
        def address(port: int) -> dict:
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        types = "type.googleapis.com/envoy.extensions.filters"
        route = {"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "120s"}}
        manager = {
            "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "engine",
            "route_config": {"virtual_hosts": [{"name": "engine", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
            ],
        }
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(self.engine_port)}}]}]
        cluster = {
            "name": "engine",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "engine", "endpoints": endpoints},
        }
        listener = {"address": address(self.port), "filter_chains": [{"filters": filters}]}
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


PEERS = (LiteLlm, Envoy)
