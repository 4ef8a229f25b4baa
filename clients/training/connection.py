"""The address of Slipway's bus and store, and the credentials for them."""

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.training.errors import PublishError
from contracts.identities import Credential, inbox_prefix, name_in_creds


@dataclass(frozen=True)
class Connection:
    """The address and credentials with which a training job reaches Slipway.

    The credentials need access to the prefix of the job's own model and to the inbox only.

    Attributes:
        nats_url: One server of the bus, or several separated by commas.
        s3_endpoint: Host and port of the object store, without a scheme.
        nats_credentials: File with this publisher's credential: of `slipway keys`, or a `.creds` file of a NATS in
            operator mode.
        nats_ca: Certificate (PEM) of the authority that the bus's certificate is from.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    s3_endpoint: str = "127.0.0.1:8333"
    s3_access_key: str = field(default="", repr=False)
    s3_secret_key: str = field(default="", repr=False)
    s3_bucket: str = "slipway"
    s3_secure: bool = False
    nats_credentials: str | None = None
    nats_ca: str | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> "Connection":
        """Return the connection that the variables name.

        These are `SLIPWAY_NATS_URL`, `SLIPWAY_NATS_CREDENTIALS`, `SLIPWAY_NATS_CA`, and `SLIPWAY_S3_` followed by
        `ENDPOINT`, `ACCESS_KEY`, `SECRET_KEY`, `BUCKET` or `SECURE`.
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
            nats_ca=given.get("SLIPWAY_NATS_CA"),
        )

    def bus_options(self) -> dict[str, Any]:
        """Return the options of `nats.connect` that prove who publishes.

        Raises:
            PublishError: A file is missing, or holds no credential or certificate.
        """
        options: dict[str, Any] = {}
        try:
            if self.nats_ca is not None:
                logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())
                options |= {"tls": ssl.create_default_context(cafile=self.nats_ca), "tls_handshake_first": True}
            if self.nats_credentials is not None:
                text = Path(self.nats_credentials).read_text()
                if "BEGIN NATS USER JWT" in text:
                    named = name_in_creds(text)
                    options |= {"name": named, "inbox_prefix": inbox_prefix(named).encode()} if named else {}
                    return {**options, "user_credentials": self.nats_credentials}
                credential = Credential.from_text(text)
                options["nkeys_seed_str"] = credential.seed.get_secret_value()
                options["inbox_prefix"] = inbox_prefix(credential.name).encode()
                options["name"] = credential.name
        except (OSError, ValueError) as error:
            raise PublishError(f"The credentials for the message bus cannot be read: {error}") from error
        return options
