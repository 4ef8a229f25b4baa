"""The words every contract is made of: names, digests, artifacts, targets."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

MODEL_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]
"""Safe in NATS subjects, S3 keys, Triton model names and DNS labels."""
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Variant = Literal["bf16", "int8", "gptq-int4", "awq-int4"]
Verdict = Literal["pass", "fail", "inconclusive"]
Fault = Literal["candidate", "record", "machine"]
"""The side that a difference between served and recorded quality is due to; `machine`: one that measured or serves."""
Environment = Literal["production", "staging"]
Party = Literal["target", "caller", "gateway", "infrastructure"]
"""Who can cause that a request fails."""
StagingPurpose = Literal["benchmark", "rehearsal"]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Instant = AwareDatetime


class Contract(BaseModel):
    """A value in a fact, manifest or record; readers ignore fields that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class ArtifactRef(Contract):
    """Where an artifact lies and what it must be: reading it verifies the digest."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class Target(Contract):
    """One servable thing: a variant of a version of a model. Version 0 is the base model."""

    model: ModelName
    version: Annotated[int, Field(ge=0)]
    variant: Variant

    @property
    def triton_name(self) -> str:
        """Name of this target's own Triton model."""
        return f"{self.model}.v{self.version}.{self.variant}"

    def __str__(self) -> str:
        """Return the name people see in logs and in the command line: `support-bot.v3.int8`."""
        return self.triton_name


class Deployable(Contract):
    """A target together with the manifest of the files that make it.

    `record` is the manifest of a later measurement of the same files; None where their quality was measured once.
    """

    target: Target
    manifest: ArtifactRef
    weights_bytes: Annotated[int, Field(ge=0)]
    record: ArtifactRef | None = None


def canonical_json(value: Any) -> bytes:
    """Serialise plain JSON data to the one byte string that its digest is taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(data: bytes) -> str:
    """Return the `sha256:<hex>` digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_json(value: Any) -> str:
    """Return the digest of plain JSON data in canonical form."""
    return digest_of(canonical_json(value))
