"""Where Slipway's bus and store are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Place:
    """How a training job reaches Slipway; its credentials need no more than its own model's prefix and the inbox.

    Attributes:
        nats_url: One server of the bus, or several with commas between.
        s3_endpoint: Host and port of the object store, without a scheme.
        nats_credentials: File with the NATS credentials, where the bus asks for them.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    s3_endpoint: str = "127.0.0.1:8333"
    s3_access_key: str = field(default="", repr=False)
    s3_secret_key: str = field(default="", repr=False)
    s3_bucket: str = "slipway"
    s3_secure: bool = False
    nats_credentials: str | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> "Place":
        """Read `SLIPWAY_NATS_URL`, `SLIPWAY_S3_ENDPOINT`, `_ACCESS_KEY`, `_SECRET_KEY`, `_BUCKET`, `_SECURE`."""
        given = os.environ if variables is None else variables
        standard = cls()
        return cls(
            nats_url=given.get("SLIPWAY_NATS_URL", standard.nats_url),
            s3_endpoint=given.get("SLIPWAY_S3_ENDPOINT", standard.s3_endpoint),
            s3_access_key=given.get("SLIPWAY_S3_ACCESS_KEY", ""),
            s3_secret_key=given.get("SLIPWAY_S3_SECRET_KEY", ""),
            s3_bucket=given.get("SLIPWAY_S3_BUCKET", standard.s3_bucket),
            s3_secure=given.get("SLIPWAY_S3_SECURE", "").lower() in ("1", "true", "yes"),
            nats_credentials=given.get("SLIPWAY_NATS_CREDENTIALS"),
        )
