"""The types that every contract uses: names, digests, artifacts, targets."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from . import precisions
from .limits import AtMost

MODEL_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
IDENTITY_PATTERN = MODEL_NAME_PATTERN
"""Names of those who may connect to the bus: one token of a NATS subject, and a file name everywhere."""
MODEL_NAME_RULE = "use 1 to 63 lower-case letters, digits and inner hyphens"
"""The pattern in words, for error messages."""

IdentityName = Annotated[str, StringConstraints(pattern=IDENTITY_PATTERN)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]
"""Safe in NATS subjects, S3 keys, Triton model names and DNS labels."""
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
Variant = precisions.Variant
Verdict = Literal["pass", "fail", "inconclusive"]
Environment = Literal["production", "staging"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)
Party = Literal["target", "caller", "gateway", "infrastructure"]
"""What can cause that a request fails."""
StagingPurpose = Literal["benchmark", "evaluation", "rehearsal"]
MAX_COPIES: Final = 64
"""Most endpoints that one version is loaded on."""
OnlyFor = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^(team|key):[^\s:]{1,64}$")], ...],
    Field(max_length=64, exclude_if=lambda names: not names),
]
"""Teams and names of keys, as `team:staff` and `key:alice`; empty for everyone."""
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Instant = AwareDatetime


class Contract(BaseModel):
    """A value in a fact, manifest or record; readers ignore fields that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class Fact(Contract):
    """The `data` of an event; `TYPE` is its CloudEvents type, its version included."""

    TYPE: ClassVar[str]


class StoredRecord(Contract):
    """A record that a service writes by compare-and-set.

    Attributes:
        SCHEMA_VERSION: Version of the fields; a reader refuses a record of another one.
    """

    SCHEMA_VERSION: ClassVar[int] = 1


class ArtifactRef(Contract):
    """The location and the digest of an artifact; every read verifies the digest."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class Target(Contract):
    """A variant of a version of a model, as it can be served. Version 0 is the base model."""

    model: ModelName
    version: Annotated[int, Field(ge=0)]
    variant: Variant

    @property
    def triton_name(self) -> str:
        """Return the name of the Triton model that serves this target."""
        return f"{self.model}.v{self.version}.{self.variant}"

    def __str__(self) -> str:
        """Return the name people see in logs and in the command line: `support-bot.v3.int8`."""
        return self.triton_name


class Runtime(Contract):
    """The serving runtime of a target: engine and server with their versions, and the image or environment.

    Attributes:
        engine: The engine's name, `vllm` for example.
        image_digest: Digest of the container image; None where the engine runs without one.
        environment_digest: Digest of the engine's environment: installed files, backends, Triton; None if not known.
        server_version: Version of Triton; empty if not known.
    """

    engine: Annotated[str, Field(min_length=1, max_length=200)]
    engine_version: Annotated[str, Field(min_length=1, max_length=200)]
    image_digest: Digest | None = None
    environment_digest: Digest | None = None
    server_version: Annotated[str, Field(max_length=200)] = ""

    @property
    def digest(self) -> Digest | None:
        """Digest of the image, else of the environment; None if neither is known."""
        return self.image_digest or self.environment_digest

    def __str__(self) -> str:
        """Return the runtime as one line: `vllm 0.20 (torch 2.13), triton 2.51, sha256:…`."""
        server = f"triton {self.server_version}" if self.server_version else ""
        return ", ".join(filter(None, (f"{self.engine} {self.engine_version}", server, self.digest)))


class ServingSettings(Contract):
    """Serving settings of a version; None is the default of the engine or of the serving fleet.

    Attributes:
        context_tokens: The longest context, prompt and answer together.
        options: Further options of the engine, by the engine's own names.
        tool_parser: The engine's parser of the model's tool calls; None if the model calls no tools.
        reasoning_parser: The engine's parser of the model's reasoning.
        template_options: Variables of the chat template, for requests that do not set them.
        runtime: Name of the fleet's runtime that serves the version; None for its default one.
    """

    context_tokens: Annotated[int, Field(ge=1)] | None = None
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None = None
    options: Annotated[dict[str, Any], AtMost(items=64, json_bytes=8192)] = {}
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    template_options: Annotated[dict[str, Any], AtMost(items=64, json_bytes=8192)] = {}
    runtime: str | None = None


class Deployable(Contract):
    """A target together with the manifest of its files.

    Attributes:
        serving: Serving settings of the version; its manifest includes the same ones.
        runtime: What ran the target when server-manager staged or routed it; `FleetRuntimes` has what runs it now.
    """

    target: Target
    manifest: ArtifactRef
    weights_bytes: Annotated[int, Field(ge=0)]
    serving: ServingSettings | None = None
    runtime: Runtime | None = None


def canonical_json(value: Any) -> bytes:
    """Return JSON data as canonical bytes, from which its digest is computed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(data: bytes) -> str:
    """Return the `sha256:<hex>` digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_json(value: Any) -> str:
    """Return the digest of plain JSON data in canonical form."""
    return digest_of(canonical_json(value))
