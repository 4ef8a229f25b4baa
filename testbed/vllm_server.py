"""vLLM's own server of the OpenAI API, on the CPU, as people run it beside Slipway."""

import contextlib
import os
from pathlib import Path

import psutil

from testbed.ports import free_port
from testbed.servers import Server, accepts
from testbed.triton import ENGINE

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "LC_ALL": "C.UTF-8",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmServer(Server):
    """It serves a folder under names, which another start may change, and LoRAs; its processes end with it."""

    name = "vllm"
    ready_s = 400.0
    may_be_forked = False

    def __init__(self, folder: Path, model: Path, *names: str, context_tokens: int = 512, loras: int = 2) -> None:
        self.port = free_port()
        self.name = f"vllm-{self.port}"
        super().__init__(folder)
        self._model, self._names, self._context_tokens, self._loras = model, names, context_tokens, loras

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, model: Path, *names: str) -> None:
        """Start it with another folder, under other names."""
        self._model, self._names = model, names
        self.start()

    def command(self) -> list[str]:
        # The `vllm` command of `vllm-cpu` does not find its own version.
        served = ["--model", str(self._model), "--served-model-name", *self._names]
        engine = ["--enforce-eager", "--dtype", "bfloat16", "--max-model-len", str(self._context_tokens)]
        if self._loras:
            engine += ["--enable-lora", "--max-loras", str(self._loras)]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [str(ENGINE / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", *served, *engine, *where]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **SETTINGS}

    def ready(self) -> bool:
        return accepts(self.port)

    def kill(self) -> None:
        """kill -9 of the server and its engine."""
        assert self.process is not None
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        super().kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def discard(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
