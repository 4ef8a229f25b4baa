"""Settings of the notifier, and the file of receivers."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.vocabulary import Contract
from services.notifier.domain.notices import Receiver
from services.notifier.domain.payloads import parse_secret
from shared.errors import problems_of


class NotifierSettings(BaseSettings):
    """Read from the environment once (prefix `NOTIFIER_`)."""

    model_config = SettingsConfigDict(env_prefix="NOTIFIER_", frozen=True, extra="ignore", env_ignore_empty=True)

    receivers: Path | None = None
    """File (TOML) with the receivers of alerts; without it nothing is sent."""
    console_url: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/?)?$")] = ""
    """Address of the console that people open: notifications link to its alerts; empty for no link."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Most time of one try."""
    resend_s: Annotated[float, Field(gt=0, le=120)] = 15.0
    """How often open alerts are sent again to Alertmanager, which else ends them, and to all what they did not take."""


class ReceiversFile(Contract):
    """The file of receivers."""

    receiver: tuple[Receiver, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if len({receiver.name for receiver in self.receiver}) < len(self.receiver):
            raise ValueError("two receivers have the same name")
        for receiver in self.receiver:
            if (receiver.kind == "webhook") != bool(receiver.secrets):
                raise ValueError(f"{receiver.name}: a webhook needs secrets, and no other kind takes one")
            for secret in receiver.secrets:
                parse_secret(secret)
        return self


def read_receivers(path: Path) -> tuple[Receiver, ...]:
    """Return the receivers in a file; raise ValueError, without secrets, for an invalid one."""
    try:
        return ReceiversFile.model_validate(tomllib.loads(path.read_text())).receiver
    except (OSError, ValueError) as error:
        problem = "; ".join(problems_of(error)) if isinstance(error, ValidationError) else error
        raise ValueError(f"the receivers in {path} cannot be used: {problem}") from None
