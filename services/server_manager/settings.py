"""Settings of server-manager (prefix `SERVER_MANAGER_`)."""

from pathlib import Path
from typing import Annotated, Any, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.runtimes import DEFAULT_RUNTIME
from decisions.serving.memory import OVERHEAD_BYTES, budget_bytes
from decisions.serving.runtimes import NAME_RULE, is_runtime_name
from services.server_manager.domain.model_config import Device, EngineConfig, EngineKind
from services.server_manager.domain.reconcile import Limits
from services.server_manager.domain.servable_variants import parse_hardware


class AgentSettings(BaseSettings):
    """Settings of the agent: `python -m services.server_manager.agent` (prefix `TRITON_AGENT_`)."""

    model_config = SettingsConfigDict(env_prefix="TRITON_AGENT_", frozen=True, extra="ignore", populate_by_name=True)

    triton_grpc: str = "127.0.0.1:8001"
    """Triton's gRPC address for the agent."""
    admin_key: SecretStr = SecretStr("")
    """Key of Triton's restricted model control; give it to Triton and the agent only."""
    managers: Path = Path("keys/trust/managers.json")
    """File with the public keys of server-manager: `trust/managers.json` of `slipway keys`."""
    term_file: Path = Path(".state/agent/term.json")
    """File for the highest term; it must outlive the container."""
    listen: str = "127.0.0.1:8003"
    """Listening address and port of the agent's gRPC, for server-manager."""
    http_host: str = Field(default="127.0.0.1", validation_alias="SLIPWAY_HTTP_HOST")
    """Listening address of `/healthz` and `/readyz`."""
    http_port: int = Field(default=8080, validation_alias="SLIPWAY_HTTP_PORT")
    """Port of `/healthz` and `/readyz`."""


class RuntimeEndpoint(BaseModel):
    """A separate Triton for the versions of one runtime: a field of `SERVER_MANAGER_RUNTIMES`.

    Attributes:
        triton_grpc: `host:port` of Triton's gRPC for server-manager.
        agent_grpc: `host:port` of the agent's gRPC.
        repository: Triton's own model repository, on a disk shared with server-manager.
        advertised_endpoint: Triton's address for gateways; `triton_grpc` when empty.
        runtime_file: JSON file with a `Runtime` that describes the engine; unset: unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    triton_grpc: str
    agent_grpc: str
    repository: Path
    advertised_endpoint: str = ""
    runtime_file: Path | None = None


class ServingEndpoint(RuntimeEndpoint):
    """An additional Triton for a runtime: an entry of `SERVER_MANAGER_ENDPOINTS`.

    Attributes:
        runtime: name of the served runtime.
        memory_budget_bytes: memory for targets on a separate machine; 0: share the fleet's budget.
    """

    runtime: str = DEFAULT_RUNTIME
    memory_budget_bytes: Annotated[int, Field(ge=0)] = 0


class ServerManagerSettings(BaseSettings):
    """The Tritons of a fleet, their engine, and limits of memory and time.

    Attributes:
        triton_grpc: `host:port` of Triton's gRPC for server-manager.
        agent_grpc: `host:port` of the gRPC of Triton's agent, which alone may load and unload.
        advertised_endpoint: Triton's address for gateways; `triton_grpc` when empty.
        repository: Triton's model repository, on a disk shared with server-manager.
        runtime_file: JSON file with a `Runtime` that describes the engine; unset: unknown.
        runtimes: further Tritons, as JSON: a `RuntimeEndpoint` by runtime name. The fields above are the runtime
            `default`.
        endpoints: more Tritons of these runtimes, as JSON: a `ServingEndpoint` by endpoint name. The active and the
            previous target of a model are loaded on different endpoints.
        artifacts: local copies of model folders, on a disk shared with Triton; unset: below the state folder.
        engine: `slipway` (vLLM) or `toy`.
        device: `cpu` or `gpu`, for vLLM.
        max_model_len: longest context, in tokens.
        engine_args: vLLM engine arguments, as JSON; allowed: `domain.model_config.ENGINE_ARGUMENTS`.
        engine_environment: environment variables for vLLM, as JSON.
        toy: parameters of the toy engine, as JSON.
        hardware: `cpu` or `cuda:8.9` (compute capability); empty to detect it on this machine.
        memory_budget_bytes: memory for all targets, except on endpoints with their own budget; 0: 70 % of the
            machine's memory.
        overhead_bytes: memory per target in addition to its weights; 0: the engine's default.
        standby_grace_s: seconds without a ready standby before an alert is raised.
    """

    model_config = SettingsConfigDict(env_prefix="SERVER_MANAGER_", frozen=True, extra="ignore")

    triton_grpc: str = "127.0.0.1:8001"
    agent_grpc: str = "127.0.0.1:8003"
    advertised_endpoint: str = ""
    repository: Path = Path(".state/triton/models")
    runtime_file: Path | None = None
    runtimes: dict[str, RuntimeEndpoint] = {}
    endpoints: dict[str, ServingEndpoint] = {}
    artifacts: Path | None = None
    fleet: str = "main"
    """Name of the serving fleet."""
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
    """Seconds between two probes of a target."""
    logprob_tolerance_nats: Annotated[float, Field(gt=0)] = 0.02
    """Minimum tolerance for the mean difference of token log-probabilities from the reference; above the tolerance
    the code is `logprobs_differ`. 1000 allows any."""
    linger_s: float = 60.0
    """Seconds until an unneeded target is unloaded."""
    order_deadline_s: float = 600.0
    """Seconds that a traffic order waits for its target to be ready before it is refused."""
    standby_grace_s: float = 5.0
    silent_limit_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds of an endpoint's silence until its production targets are loaded on other endpoints."""
    tick_s: float = 1.0
    """Maximum seconds between two passes of the reconcile loop."""

    @field_validator("hardware")
    @classmethod
    def _has_a_known_form(cls, text: str) -> str:
        if text:
            parse_hardware(text)
        return text

    @field_validator("runtimes")
    @classmethod
    def _have_valid_names(cls, runtimes: dict[str, RuntimeEndpoint]) -> dict[str, RuntimeEndpoint]:
        for name in runtimes:
            if not is_runtime_name(name) or name == DEFAULT_RUNTIME:
                msg = f"the runtime {name!r} is not valid: {NAME_RULE}, and another name than {DEFAULT_RUNTIME}"
                raise ValueError(msg)
        return runtimes

    @model_validator(mode="after")
    def _name_endpoints(self) -> Self:
        """Refuse an endpoint with an invalid or duplicate name, or an unknown runtime."""
        for name, endpoint in self.endpoints.items():
            if not is_runtime_name(name) or name == DEFAULT_RUNTIME or name in self.runtimes:
                msg = f"the endpoint {name!r} is not valid: {NAME_RULE}, and no name of a runtime"
                raise ValueError(msg)
            if endpoint.runtime != DEFAULT_RUNTIME and endpoint.runtime not in self.runtimes:
                known = ", ".join((DEFAULT_RUNTIME, *self.runtimes))
                msg = f"the endpoint {name} has the runtime {endpoint.runtime!r}, which is none of {known}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _share_nothing(self) -> Self:
        """Refuse endpoints that share a Triton, agent or repository: each would unload the other's targets."""
        endpoints = self.all_endpoints.values()
        for what, values in {
            "triton_grpc": [endpoint.triton_grpc for endpoint in endpoints],
            "agent_grpc": [endpoint.agent_grpc for endpoint in endpoints],
            "repository": [str(endpoint.repository.absolute()) for endpoint in endpoints],
        }.items():
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                msg = f"two endpoints have the {what} {twice[0]}: each needs a Triton and a model repository of its own"
                raise ValueError(msg)
        return self

    @property
    def all_endpoints(self) -> dict[str, ServingEndpoint]:
        """All Tritons by endpoint name, the one of the default runtime first."""
        default = ServingEndpoint(
            triton_grpc=self.triton_grpc,
            agent_grpc=self.agent_grpc,
            repository=self.repository,
            advertised_endpoint=self.advertised_endpoint,
            runtime_file=self.runtime_file,
        )
        first = {name: ServingEndpoint(runtime=name, **dict(endpoint)) for name, endpoint in self.runtimes.items()}
        return {DEFAULT_RUNTIME: default, **first, **self.endpoints}

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
        """The capacity of the fleet, and its time limits."""
        endpoints = self.all_endpoints
        own = {
            name: endpoint.memory_budget_bytes for name, endpoint in endpoints.items() if endpoint.memory_budget_bytes
        }
        shared = self.memory_budget_bytes or budget_bytes(psutil.virtual_memory().total)
        return Limits(
            memory_budget_bytes=shared + sum(own.values()),
            endpoints={name: endpoint.runtime for name, endpoint in endpoints.items()},
            budgets=own,
            overhead_bytes=self.overhead_bytes or OVERHEAD_BYTES[self.engine][self.device],
            probe_interval_s=self.probe_interval_s,
            linger_s=self.linger_s,
            order_deadline_s=self.order_deadline_s,
            standby_grace_s=self.standby_grace_s,
            silent_limit_s=self.silent_limit_s,
        )
