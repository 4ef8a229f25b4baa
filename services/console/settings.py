"""Settings of the console."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ConsoleSettings(BaseSettings):
    """Read from the environment once (prefix `CONSOLE_`)."""

    model_config = SettingsConfigDict(env_prefix="CONSOLE_", frozen=True, extra="ignore", env_ignore_empty=True)

    url: str = "http://127.0.0.1:8082"
    """Address that people open, without a path; other names for the host are refused. `https://` behind a proxy."""
    identities: Path | None = None
    """File with the people who may sign in: `trust/identities.json` of `slipway keys init`."""
    credentials: Path | None = None
    """Folder with the credentials (`NAME.nk`) of those whose orders the console may publish; None: it only shows."""
    index: Path | None = None
    """File of the index; in the folder of the service's state when absent."""
    oidc_issuer: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")
    """Identity provider (OpenID Connect) that signs people in, besides links of `slipway open`."""
    oidc_client_id: str | None = None
    """The console's name at the identity provider."""
    oidc_client_secret: SecretStr | None = None
    """Its secret there; without one it is a public client, with PKCE alone."""
    oidc_claim: str | None = None
    """Claim of the ID token that has the name of the person's identity; one that people cannot change themselves.

    `preferred_username` is safe only where the provider lets only administrators change it.
    """
    gateway_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    """Address of the gateway for the playground; without it there is no playground."""
    gateway_ca: Path | None = None
    """Certificate (PEM) of the authority of the gateway's certificate; without it, the system's list counts."""
    answer_s: float = Field(default=4.0, ge=0)
    """How long the page of an order waits for the answer, in seconds; it comes to the other pages in any case."""

    @field_validator("url")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            msg = f"CONSOLE_URL is {value!r}: use the scheme, host and port, such as https://console.example.org"
            raise ValueError(msg)
        return value.rstrip("/")

    @model_validator(mode="after")
    def _oidc_is_complete(self) -> Self:
        if len({value is None for value in (self.oidc_issuer, self.oidc_client_id, self.oidc_claim)}) > 1:
            msg = (
                "CONSOLE_OIDC_ISSUER, CONSOLE_OIDC_CLIENT_ID and CONSOLE_OIDC_CLAIM belong together: set all or none, "
                "and name a claim that people cannot change themselves"
            )
            raise ValueError(msg)
        return self

    @property
    def is_https(self) -> bool:
        """Return whether people reach the console by TLS."""
        return self.url.startswith("https://")
