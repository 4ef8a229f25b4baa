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
    """The agent beside one Triton: `python -m services.server_manager.agent` (prefix `TRITON_AGENT_`)."""

    model_config = SettingsConfigDict(env_prefix="TRITON_AGENT_", frozen=True, extra="ignore", populate_by_name=True)

    triton_grpc: str = "127.0.0.1:8001"
    """Triton's gRPC, as the agent reaches it."""
    admin_key: SecretStr = SecretStr("")
    """Key of Triton's restricted model control; no other program has it."""
    managers: Path = Path("keys/trust/managers.json")
    """File with the public keys of server-manager: `trust/managers.json` of `slipway keys`."""
    term_file: Path = Path(".state/agent/term.json")
    """File that the highest term is stored in; it must outlive the container."""
    listen: str = "127.0.0.1:8003"
    """Address and port that server-manager reaches it at, by gRPC."""
    http_host: str = Field(default="127.0.0.1", validation_alias="SLIPWAY_HTTP_HOST")
    """Address that `/healthz` and `/readyz` are served on."""
    http_port: int = Field(default=8080, validation_alias="SLIPWAY_HTTP_PORT")
    """Port of the same."""


class RuntimeEndpoint(BaseModel):
    """A separate Triton for the versions of one runtime: a field of `SERVER_MANAGER_RUNTIMES`.

    Attributes:
        triton_grpc: `host:port` of its gRPC, as server-manager reaches it.
        agent_grpc: `host:port` of the gRPC of its agent, which alone has its key.
        repository: its model repository, which no other Triton has, on a disk that both see.
        advertised_endpoint: the same as gateways reach it; `triton_grpc` when empty.
        runtime_file: a `Runtime` as JSON, which says what runs it; not known when not set.
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
        runtime: the runtime that it serves.
        memory_budget_bytes: memory for its targets if it has its own machine; 0: it shares the fleet's budget.
    """

    runtime: str = DEFAULT_RUNTIME
    memory_budget_bytes: Annotated[int, Field(ge=0)] = 0


class ServerManagerSettings(BaseSettings):
    """The address of each Triton, and the limits of their contents.

    Attributes:
        triton_grpc: `host:port` of Triton's gRPC, as server-manager reaches it.
        agent_grpc: `host:port` of the gRPC of the agent beside it, which alone may load and unload.
        advertised_endpoint: the same as gateways reach it; `triton_grpc` when empty.
        repository: Triton's model repository, on a disk that both see.
        runtime_file: a `Runtime` as JSON, which says what runs the targets; it is not known when not set.
        runtimes: further Tritons, as JSON: the name of each runtime with a `RuntimeEndpoint`. The fields above are the
            runtime `default`.
        endpoints: more Tritons of these runtimes, as JSON: the name of each with a `ServingEndpoint`. An active target
            and what it would be rolled back to are loaded on different ones.
        artifacts: local copies of model folders, on a disk that both see; below the state folder when not set.
        engine: `slipway` (vLLM) or `toy`.
        device: `cpu` or `gpu`: where vLLM computes.
        max_model_len: bound on the context, in tokens.
        engine_args: more of vLLM's engine arguments, as JSON; those of `domain.model_config.ENGINE_ARGUMENTS`.
        engine_environment: variables for vLLM, as JSON.
        toy: parameters of the toy engine, as JSON.
        hardware: `cpu` or `cuda:8.9` (compute capability); empty to detect it on this machine.
        memory_budget_bytes: what all targets together may reserve, but for those on endpoints with a budget of their
            own; 0 takes 70 % of the machine's memory.
        overhead_bytes: what a target reserves besides its weights; 0 takes the engine's usual figure.
        standby_grace_s: seconds that a model may be without a ready standby before an alert is raised.
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
    """Least mean difference of a token's log-probability from what was recorded at staging, for `logprobs_differ`; a
    large one, such as 1000, allows any."""
    linger_s: float = 60.0
    """Seconds until a target that is no longer needed is unloaded."""
    order_deadline_s: float = 600.0
    """How long a traffic order waits for its target to be ready; then it is refused."""
    standby_grace_s: float = 5.0
    silent_limit_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that an endpoint may be silent until what it holds of production is loaded on another one."""
    tick_s: float = 1.0
    """Seconds between two passes of the loop."""

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
        """Refuse two endpoints with the same Triton or repository: each would unload the other's targets."""
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
        """All Tritons by name, the main one of the default runtime first."""
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
