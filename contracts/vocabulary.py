"""Types that all contracts use: names, digests, artifacts, targets."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from . import precisions
from .limits import AtMost

MODEL_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
IDENTITY_PATTERN = MODEL_NAME_PATTERN
"""Pattern of identities' names: a token of NATS subjects, and a valid file name."""
MODEL_NAME_RULE = "use 1 to 63 lower-case letters, digits and inner hyphens"
"""Description of the pattern for error messages."""

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
"""Parties that can cause the failure of a request."""
StagingPurpose = Literal["benchmark", "evaluation", "rehearsal"]
MAX_COPIES: Final = 64
"""Maximum number of endpoints of one version."""
OnlyFor = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^(team|key):[^\s:]{1,64}$")], ...],
    Field(max_length=64, exclude_if=lambda names: not names),
]
"""Teams and names of keys, as `team:staff` and `key:alice`; empty for all callers."""
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Instant = AwareDatetime


class Contract(BaseModel):
    """Base class of facts, manifests and records; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class Fact(Contract):
    """The `data` of an event; `TYPE` is its CloudEvents type with version."""

    TYPE: ClassVar[str]


class StoredRecord(Contract):
    """A record that is written by compare-and-set; readers refuse another `SCHEMA_VERSION`."""

    SCHEMA_VERSION: ClassVar[int] = 1


class ArtifactRef(Contract):
    """Location and digest of an artifact; reads verify the digest."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class Target(Contract):
    """A variant of a model's version; version 0 is the base model."""

    model: ModelName
    version: Annotated[int, Field(ge=0)]
    variant: Variant

    @property
    def triton_name(self) -> str:
        """Return the name of the target's Triton model."""
        return f"{self.model}.v{self.version}.{self.variant}"

    def __str__(self) -> str:
        """Return the display name: `support-bot.v3.int8`."""
        return self.triton_name


class Runtime(Contract):
    """The serving runtime of a target: engine and server with their versions, and the image or environment.

    Attributes:
        engine: Name of the engine, such as `vllm`.
        image_digest: Digest of the container image; None without one.
        environment_digest: Digest of the installed files, backends and Triton; None if unknown.
        server_version: Version of Triton; empty if unknown.
    """

    engine: Annotated[str, Field(min_length=1, max_length=200)]
    engine_version: Annotated[str, Field(min_length=1, max_length=200)]
    image_digest: Digest | None = None
    environment_digest: Digest | None = None
    server_version: Annotated[str, Field(max_length=200)] = ""

    @property
    def digest(self) -> Digest | None:
        """Return the digest of the image, else of the environment; None if both are unknown."""
        return self.image_digest or self.environment_digest

    def __str__(self) -> str:
        """Return one line: `vllm 0.20 (torch 2.13), triton 2.51, sha256:…`."""
        server = f"triton {self.server_version}" if self.server_version else ""
        return ", ".join(filter(None, (f"{self.engine} {self.engine_version}", server, self.digest)))


class ServingSettings(Contract):
    """Serving settings of a version; None is the default of the engine or the fleet.

    Attributes:
        context_tokens: Maximum tokens of prompt and answer together.
        options: Further options by the engine's names.
        tool_parser: The engine's parser of tool calls; None without tool calls.
        reasoning_parser: The engine's parser of reasoning.
        template_options: Default variables of the chat template.
        runtime: Name of the fleet's runtime.
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
        serving: Serving settings of the version, as in its manifest.
        runtime: Runtime of the target when server-manager staged or routed it; `FleetRuntimes` has the present one.
    """

    target: Target
    manifest: ArtifactRef
    weights_bytes: Annotated[int, Field(ge=0)]
    serving: ServingSettings | None = None
    runtime: Runtime | None = None


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(data: bytes) -> str:
    """Return the digest `sha256:<hex>` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_json(value: Any) -> str:
    """Return the digest of a value's canonical JSON."""
    return digest_of(canonical_json(value))
