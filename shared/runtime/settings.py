"""Settings shared by services: connection, sources of checkpoints, limits of workers. Only `main` reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from decisions.policies.refused_values import describe_refusal

REGION_PATTERN = r"^[a-z0-9-]+$"
Kind = TypeVar("Kind", bound=BaseSettings)


def variable_of(kind: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field."""
    owner = next((each for each in (kind, SourceSettings) if name in each.model_fields), None)  # some hold the latter
    if owner is None:  # an alias, which is the variable itself
        return name.upper()
    return str(owner.model_fields[name].validation_alias or f"{owner.model_config.get('env_prefix')}{name}").upper()


def refused_variables(kind: type[BaseSettings], error: ValidationError | SettingsError) -> dict[str, str]:
    """Return the fault of each refused variable, without secrets; the key of a fault without a variable is empty."""
    if isinstance(error, SettingsError):  # a list or an object that is no JSON
        field = re.search(r'field "(\w+)"', str(error))
        variable = variable_of(kind, field[1]) if field is not None else ""
        return {variable: f'{variable}: must be JSON, a list as ["a", "b"]'}
    refused: dict[str, str] = {}
    for problem in error.errors():
        variable = variable_of(kind, str(problem["loc"][0])) if problem["loc"] else ""
        is_shown = variable and problem["type"] != "missing" and not re.search("KEY|TOKEN|SECRET", variable)
        value = f"={problem['input']}" if is_shown else ""
        refused[variable] = f"{variable}{value}: {describe_refusal(problem)}".removeprefix(": ")
    return refused


def describe_variables(kind: type[BaseSettings], error: ValidationError | SettingsError) -> str:
    """Return the invalid environment variables with their values and the allowed ones, as a sentence."""
    return describe_refused(refused_variables(kind, error))


def describe_refused(problems: Mapping[str, str]) -> str:
    """Return the problems of variables as one sentence."""
    return f"the environment is not valid: {'; '.join(problems.values())}; correct or unset it"


def read_settings(kind: type[Kind]) -> Kind:
    """Return the settings from the environment.

    Raises:
        SystemExit: a variable is not valid; the message names it, its value and the allowed ones.
    """
    try:
        return kind()
    except (ValidationError, SettingsError) as error:
        raise SystemExit(describe_variables(kind, error)) from None


class Connection(BaseSettings):
    """Bus, store, HTTP endpoint and local folders of a service (prefix `SLIPWAY_`)."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    nats_url: str = "nats://127.0.0.1:4222"
    """Address of the bus; several, separated by commas, for a cluster."""
    nats_credentials: Path | None = None
    """File with this identity's secret, of `slipway keys`."""
    nats_ca: Path | None = None
    """Certificate (PEM) of the authority that the bus's certificate is from; with it, only TLS is spoken."""
    attestation_key: Path | None = None
    """File with the private key that this service signs attestations with: `attestation/NAME.pem` of `slipway keys`."""
    attesters: Path | None = None
    """File with the public keys of all attesters: `trust/attesters.json` of `slipway keys`."""
    teams: Path | None = None
    """File with models, members and quota of each team: `trust/teams.json` of `slipway keys`."""
    s3_endpoint: str = "127.0.0.1:8333"
    """Host and port of the object store, without a scheme: TLS is the only one."""
    s3_credentials: Path | None = None
    """File with this identity's key of the store: `credentials/NAME.s3` of `slipway keys`."""
    s3_ca: Path | None = None
    """Certificate (PEM) of the authority that the store's certificate is from; without it, the system's list counts."""
    s3_bucket: str = "slipway"
    """Bucket of all artifacts."""
    s3_region: str = Field(default="us-east-1", pattern=REGION_PATTERN)
    """Region that requests are signed for; asking the store for it is a right that no service needs."""
    server_keys: Path | None = None
    """File with the keys of attached servers, one `NAME: key` a line; their addresses have the names."""
    http_host: str = "127.0.0.1"
    """Address that probes, metrics and, of the gateway, the API are served on."""
    http_port: int = 0
    """Port of the same; 0 takes a free one."""
    state_dir: Path = Path(".state")
    """Folder for scratch files and what a service saves."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level of log lines."""
    sandbox: Literal["available", "required"] = "available"
    """Whether children that parse files from outside run with what the machine has of the sandbox, or only with all."""
    trace_file: Path | None = None
    """File that OpenTelemetry spans are appended to, as JSON lines."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+")
    """Address of a collector that takes OTLP over HTTP, such as `http://collector:4318`; without it nothing is sent."""
    otlp_headers: Path | None = None
    """File with headers for the collector, one `name: value` a line: they are secrets."""
    otlp_ca: Path | None = None
    """Certificate (PEM) of the authority that the collector's certificate is from."""
    trace_sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the traces of requests that are kept; a caller's own decision in `traceparent` comes first."""
    replicas: int = 1
    """Copies of each stream and bucket in a NATS cluster."""
    events_max_bytes: int | None = Field(default=None, ge=1024 * 1024)
    """Limit of the event log, for disks without 8 GiB; it can raise the limit of an existing log, never lower it."""
    events_max_days: float = Field(default=90.0, ge=1.0)
    """Days that announcements, orders and events are kept on the bus; the oldest go earlier where the log is full."""
    failpoint: str = ""
    """For tests: names of points at which the process ends."""

    def work_dir(self, service: str) -> Path:
        """Return the folder that a service may write to; it is created if it does not exist."""
        folder = self.state_dir / "work" / service
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class SourceSettings(BaseSettings):
    """Sources outside the store that checkpoints may be read from (prefix `SLIPWAY_`); none by default."""

    model_config = SettingsConfigDict(
        env_prefix="SLIPWAY_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    file_roots: tuple[Path, ...] = ()
    """Folders (a JSON list) that `file://` sources may be read from."""
    source_max_bytes: int = Field(default=1024**4, ge=1)
    """Largest folder that is accepted as a checkpoint, in the store or outside it."""
    source_max_files: int = Field(default=1000, ge=1)
    """Most files in such a folder."""
    hf_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+")
    """Model hub for `hf://` sources, such as https://huggingface.co or a mirror of it."""
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    """Credential for private repositories; read from `HF_TOKEN`, sent to the hub only."""


class WorkerSettings(BaseSettings):
    """Limits of the child process that does a service's heavy work; a service sets the prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    threads: int | None = Field(default=None, ge=1)
    """Threads of torch; all cores when absent."""
    memory_limit_bytes: int | None = Field(default=None, gt=0)
    """Most private memory that the worker may map; that of the machine or control group when absent."""
    timeout_s: float = Field(default=3_600.0, gt=0.0)
    """Most time of one job; a job that takes longer is rejected (`deadline_passed`)."""
    progress_interval_s: float = Field(default=0.5, ge=0.0)
    """Least time between two reports of live progress."""
