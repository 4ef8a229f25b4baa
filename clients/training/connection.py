"""The address of Slipway's bus and store, and the credentials for them."""

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from clients.training.errors import PublishError
from contracts.identities import Credential, inbox_prefix, name_in_creds
from contracts.store_access import StoreCredential


@dataclass(frozen=True)
class Connection:
    """The address and credentials with which a training job reaches Slipway.

    The credentials need access to the prefix of the job's own model and to the inbox only.

    Attributes:
        nats_url: One server of the bus, or several separated by commas.
        s3_endpoint: Host and port of the object store, without a scheme: TLS is the only one.
        s3_credentials: File with this publisher's key of the store: `credentials/NAME.s3` of `slipway keys`.
        s3_ca: Certificate (PEM) of the authority that the store's certificate is from; without it, the system's list
            of authorities counts.
        nats_credentials: File with this publisher's credential: of `slipway keys`, or a `.creds` file of a NATS in
            operator mode.
        nats_ca: Certificate (PEM) of the authority that the bus's certificate is from.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    s3_endpoint: str = "127.0.0.1:8333"
    s3_bucket: str = "slipway"
    s3_region: str = "us-east-1"
    s3_credentials: str | None = None
    s3_ca: str | None = None
    nats_credentials: str | None = None
    nats_ca: str | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> "Connection":
        """Return the connection that the variables name.

        These are `SLIPWAY_NATS_URL`, `SLIPWAY_NATS_CREDENTIALS`, `SLIPWAY_NATS_CA`, and `SLIPWAY_S3_` followed by
        `ENDPOINT`, `CREDENTIALS`, `CA`, `BUCKET` or `REGION`.
        """
        given = os.environ if variables is None else variables
        standard = cls()
        return cls(
            nats_url=given.get("SLIPWAY_NATS_URL", standard.nats_url),
            s3_endpoint=given.get("SLIPWAY_S3_ENDPOINT", standard.s3_endpoint),
            s3_bucket=given.get("SLIPWAY_S3_BUCKET", standard.s3_bucket),
            s3_region=given.get("SLIPWAY_S3_REGION", standard.s3_region),
            s3_credentials=given.get("SLIPWAY_S3_CREDENTIALS"),
            s3_ca=given.get("SLIPWAY_S3_CA"),
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

    def store_options(self) -> dict[str, Any]:
        """Return the options of the `Minio` client that prove who uploads.

        Raises:
            PublishError: There is no credential, or a file is missing, or holds no credential or certificate.
        """
        if self.s3_credentials is None:
            raise PublishError(
                "The object store takes no upload without a key: name the file of `slipway keys add` in "
                "SLIPWAY_S3_CREDENTIALS."
            )
        try:
            key = StoreCredential.from_text(Path(self.s3_credentials).read_text())
            tls = ssl.create_default_context(cafile=self.s3_ca)
        except (OSError, ValueError) as error:
            raise PublishError(f"The credentials for the object store cannot be read: {error}") from error
        return {
            "endpoint": self.s3_endpoint,
            "region": self.s3_region,
            "access_key": key.access_key,
            "secret_key": key.secret_key.get_secret_value(),
            "secure": True,
            "http_client": urllib3.PoolManager(
                ssl_context=tls,
                timeout=urllib3.Timeout(connect=30, read=300),
                retries=urllib3.Retry(total=5, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            ),
        }
