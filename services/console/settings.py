"""Settings of the console."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ConsoleSettings(BaseSettings):
    """Settings with the prefix `CONSOLE_`."""

    model_config = SettingsConfigDict(env_prefix="CONSOLE_", frozen=True, extra="ignore", env_ignore_empty=True)

    url: str = "http://127.0.0.1:8082"
    """URL that people open, without a path; `https://` behind a TLS proxy. Requests with another host name are
    refused."""
    identities: Path | None = None
    """File of the people who may sign in: `trust/identities.json` of `slipway keys init`."""
    credentials: Path | None = None
    """Folder of the credentials (`NAME.nk`) for publishing people's orders; without it, the console is read-only."""
    index: Path | None = None
    """File of the index; by default in the service's state folder."""
    oidc_issuer: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")
    """OpenID Connect provider for signing in, besides links of `slipway open`."""
    oidc_client_id: str | None = None
    """The console's client ID at the identity provider."""
    oidc_client_secret: SecretStr | None = None
    """The client secret; without one, a public client with PKCE alone."""
    oidc_claim: str | None = None
    """Claim of the ID token that names the person's identity. People must not be able to change it themselves: use
    `preferred_username` only where administrators alone can change it."""
    gateway_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    """URL of the gateway for the playground; without it there is no playground."""
    gateway_ca: Path | None = None
    """CA certificate (PEM) of the gateway; by default, the system's CAs."""
    answer_s: float = Field(default=4.0, ge=0)
    """Seconds that the page of an order waits for the answer; later answers still reach all pages."""

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
        """Return whether people reach the console over TLS."""
        return self.url.startswith("https://")
