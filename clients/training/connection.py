"""The address of Slipway's bus and store, and the credentials for them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Connection:
    """The address and credentials with which a training job reaches Slipway.

    The credentials need access to the prefix of the job's own model and to the inbox only.

    Attributes:
        nats_url: One server of the bus, or several separated by commas.
        s3_endpoint: Host and port of the object store, without a scheme.
        nats_credentials: File with the NATS credentials, if the bus requires them.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    s3_endpoint: str = "127.0.0.1:8333"
    s3_access_key: str = field(default="", repr=False)
    s3_secret_key: str = field(default="", repr=False)
    s3_bucket: str = "slipway"
    s3_secure: bool = False
    nats_credentials: str | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> "Connection":
        """Return the connection that the variables name.

        These are `SLIPWAY_NATS_URL`, `SLIPWAY_NATS_CREDENTIALS`, and `SLIPWAY_S3_` followed by `ENDPOINT`,
        `ACCESS_KEY`, `SECRET_KEY`, `BUCKET` or `SECURE`.
        """
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
