"""The address of Slipway's bus, and the credential for it."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.training.errors import PublishError
from contracts.identities import Credential, inbox_prefix


@dataclass(frozen=True)
class Connection:
    """The address and the credential with which a training job reaches Slipway.

    The credential may announce checkpoints of the job's own model. It is no key of the object store: files are
    uploaded by URLs that the registry signs for each of them.

    Attributes:
        nats_url: One server of the bus, or several separated by commas.
        nats_credentials: File with this publisher's credential, of `slipway keys`.
        nats_ca: Certificate (PEM) of the authority that the bus's certificate is from.
        s3_ca: Certificate (PEM) of the authority that the object store's certificate is from; without it, the
            system's list of authorities counts.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    nats_credentials: str | None = None
    nats_ca: str | None = None
    s3_ca: str | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Connection:
        """Return the connection that the variables name.

        These are `SLIPWAY_NATS_URL`, `SLIPWAY_NATS_CREDENTIALS`, `SLIPWAY_NATS_CA` and `SLIPWAY_S3_CA`.
        """
        given = os.environ if variables is None else variables
        return cls(
            nats_url=given.get("SLIPWAY_NATS_URL", cls.nats_url),
            nats_credentials=given.get("SLIPWAY_NATS_CREDENTIALS"),
            nats_ca=given.get("SLIPWAY_NATS_CA"),
            s3_ca=given.get("SLIPWAY_S3_CA"),
        )

    def bus_options(self) -> dict[str, Any]:
        """Return the options of `nats.connect` for TLS and credential.

        Raises:
            PublishError: A file is missing, or holds no credential or certificate.
        """
        options: dict[str, Any] = {}
        try:
            if self.nats_ca is not None:
                logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())
                options |= {"tls": ssl.create_default_context(cafile=self.nats_ca), "tls_handshake_first": True}
            if self.nats_credentials is not None:
                credential = Credential.from_text(Path(self.nats_credentials).read_text())
                options["nkeys_seed_str"] = credential.seed.get_secret_value()
                options["inbox_prefix"] = inbox_prefix(credential.name).encode()
                options["name"] = credential.name
        except (OSError, ValueError) as error:
            raise PublishError(f"The credentials for the message bus cannot be read: {error}") from error
        return options

    def store_trust(self) -> ssl.SSLContext:
        """Return the context of connections to the object store.

        Raises:
            PublishError: The file is no certificate.
        """
        try:
            return ssl.create_default_context(cafile=self.s3_ca)
        except (OSError, ValueError) as error:
            raise PublishError(
                f"The certificate of the object store's authority cannot be read: {error}. Name its PEM file in "
                "SLIPWAY_S3_CA."
            ) from error
