"""Settings of server-manager (prefix `SERVER_MANAGER_`)."""

from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from decisions.servable_variants import parse_hardware
from services.server_manager.domain.model_config import Device, EngineConfig, EngineKind
from services.server_manager.domain.reconcile import Limits

_MIB = 1024 * 1024
_OVERHEAD_BYTES: dict[EngineKind, dict[Device, int]] = {
    "slipway": {"cpu": 2800 * _MIB, "gpu": 3072 * _MIB},
    "toy": {"cpu": 64 * _MIB, "gpu": 64 * _MIB},
}
"""What one loaded model takes besides its weights: interpreter, engine process and key-value cache."""


class ServerManagerSettings(BaseSettings):
    """How Triton is reached and what it may hold.

    Attributes:
        triton_grpc: `host:port` of Triton's gRPC, as server-manager reaches it.
        advertised_endpoint: the same as gateways reach it; `triton_grpc` when empty.
        repository: Triton's model repository, on a disk that both see.
        runtime_file: a `Runtime` as JSON, which says what runs the targets; it is not known when not set.
        artifacts: local copies of model folders, on a disk that both see; below the state folder when not set.
        engine: `slipway` (vLLM) or `toy`.
        device: `cpu` or `gpu`: where vLLM computes.
        max_model_len: bound on the context, in tokens.
        engine_args: more of vLLM's engine arguments, as JSON; those of `domain.model_config.ENGINE_ARGUMENTS`.
        engine_environment: variables for vLLM, as JSON.
        toy: parameters of the toy engine, as JSON.
        hardware: `cpu` or `cuda:8.9` (compute capability); empty to detect it on this machine.
        memory_budget_bytes: what all targets together may reserve; 0 takes 70 % of the machine's memory.
        overhead_bytes: what a target reserves besides its weights; 0 takes the engine's usual figure.
        standby_grace_s: seconds that a model may be without a ready standby before an alert is raised.
    """

    model_config = SettingsConfigDict(env_prefix="SERVER_MANAGER_", frozen=True, extra="ignore")

    triton_grpc: str = "127.0.0.1:8001"
    advertised_endpoint: str = ""
    repository: Path = Path(".state/triton/models")
    runtime_file: Path | None = None
    artifacts: Path | None = None
    admin_key: SecretStr = SecretStr("")
    fleet: str = "main"
    engine: EngineKind = "slipway"
    device: Device = "cpu"
    max_model_len: int = 2048
    engine_args: dict[str, Any] = {}
    engine_environment: dict[str, str] = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    toy: dict[str, str] = {}
    hardware: str = ""
    memory_budget_bytes: int = 0
    overhead_bytes: int = 0
    probe_interval_s: float = 5.0
    linger_s: float = 60.0
    load_attempts: int = 2
    load_timeout_s: float = 300.0
    order_deadline_s: float = 600.0
    standby_grace_s: float = 5.0
    tick_s: float = 1.0

    @field_validator("hardware")
    @classmethod
    def _has_a_known_form(cls, text: str) -> str:
        if text:
            parse_hardware(text)
        return text

    def engine_config(self) -> EngineConfig:
        """Return the engine's configuration."""
        return EngineConfig(
            kind=self.engine,
            device=self.device,
            engine_args={"max_model_len": self.max_model_len, **self.engine_args},
            environment=self.engine_environment,
            toy=self.toy,
        )

    @property
    def limits(self) -> Limits:
        """The limits of this machine."""
        return Limits(
            memory_budget_bytes=self.memory_budget_bytes or int(psutil.virtual_memory().total * 0.7),
            overhead_bytes=self.overhead_bytes or _OVERHEAD_BYTES[self.engine][self.device],
            probe_interval_s=self.probe_interval_s,
            linger_s=self.linger_s,
            load_attempts=self.load_attempts,
            order_deadline_s=self.order_deadline_s,
            standby_grace_s=self.standby_grace_s,
        )
