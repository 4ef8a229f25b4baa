"""Settings of the notifier, and the file of receivers."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.vocabulary import Contract
from services.notifier.domain import webhooks
from services.notifier.domain.notices import Times
from services.notifier.domain.receivers import Receiver

Seconds = Annotated[float, Field(gt=0)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"


class NotifierSettings(BaseSettings):
    """Read from the environment once (prefix `NOTIFIER_`)."""

    model_config = SettingsConfigDict(env_prefix="NOTIFIER_", frozen=True, extra="ignore", env_ignore_empty=True)

    receivers: Path | None = None
    """File (TOML) with the receivers of alerts; without it nothing is sent."""
    link: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    """Address of an alert for people, with `{alert_id}`; without it, the alert in the console at `console_url`."""
    console_url: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/?)?$")] = ""
    """Address of the console that people open: notifications link to its alerts; empty for no link."""
    timeout_s: Seconds = 10.0
    """Most time of one try."""
    resend_s: Seconds = 60.0
    """How often an open alert is sent again to Alertmanager."""
    give_up_s: Seconds = 3600.0
    """For how long a notification is tried before it becomes a dead letter."""
    sweep_s: Seconds = 0.5
    """Seconds between two looks for what is due."""

    @property
    def alert_link(self) -> str:
        """Return the address of an alert, with `{alert_id}`; empty for none."""
        if self.link or not self.console_url:
            return self.link
        return f"{self.console_url.rstrip('/')}/alerts/{{alert_id}}"

    def times(self) -> Times:
        """Return the settings as the domain takes them."""
        return Times(claim_s=3 * self.timeout_s, resend_s=self.resend_s, give_up_s=self.give_up_s)


class Destination(Contract):
    """A receiver with its address; secrets are in files.

    Attributes:
        url: Its address; with `url_file` the address is a secret, as those of Slack are.
        secret_file: Of a webhook: its secrets, one in a line; two while one replaces the other. Of PagerDuty: the
            routing key.
        ca_file: Certificate (PEM) of the authority that its certificate is from; without it, the system's list counts.
        proxy: Proxy to reach it by.
    """

    receiver: Receiver
    url: Url | None = None
    url_file: Path | None = None
    secret_file: Path | None = None
    ca_file: Path | None = None
    proxy: Url | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_receiver(cls, data: object) -> object:
        if not isinstance(data, dict) or "receiver" in data:
            return data
        own = {name: data[name] for name in Receiver.model_fields if name in data}
        return {"receiver": own, **{name: value for name, value in data.items() if name not in own}}

    @model_validator(mode="after")
    def _is_complete(self) -> "Destination":
        if (self.url is None) == (self.url_file is None) and not (
            self.receiver.kind == "pagerduty" and self.url is None
        ):
            msg = "give one of url and url_file"
            raise ValueError(msg)
        if self.receiver.kind in ("webhook", "pagerduty") and self.secret_file is None:
            msg = f"a receiver of the kind {self.receiver.kind} needs a secret_file"
            raise ValueError(msg)
        return self

    def address(self) -> SecretStr:
        """Return its address; raise ValueError if its file holds none."""
        if self.url_file is None:
            return SecretStr(self.url or PAGERDUTY)
        text = self.url_file.read_text().strip()
        if not text.startswith(("https://", "http://")):
            msg = f"{self.url_file} holds no address that begins with https://"
            raise ValueError(msg)
        return SecretStr(text)

    def secrets(self) -> list[SecretStr]:
        """Return its secrets; raise ValueError if one cannot be used."""
        lines = self.secret_file.read_text().split() if self.secret_file is not None else []
        if self.secret_file is not None and not lines:
            msg = f"{self.secret_file} is empty"
            raise ValueError(msg)
        if self.receiver.kind == "webhook":
            for line in lines:
                webhooks.parse_secret(line)
        return [SecretStr(line) for line in lines]


class ReceiversFile(Contract):
    """The file of receivers."""

    receiver: tuple[Destination, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "ReceiversFile":
        names = [destination.receiver.name for destination in self.receiver]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            msg = f"two receivers have the name {', '.join(sorted(twice))}"
            raise ValueError(msg)
        return self


def read_receivers(path: Path | None) -> tuple[Destination, ...]:
    """Return the receivers in a file, with secrets that can be read; none without a file.

    Raises:
        ValueError: The file, or one that it names, cannot be used; the message says why.
    """
    if path is None:
        return ()
    try:
        destinations = ReceiversFile.model_validate(tomllib.loads(path.read_text())).receiver
        for destination in destinations:
            destination.address()
            destination.secrets()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        msg = f"the receivers in {path} are not valid: {problems}"
        raise ValueError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"the receivers in {path} cannot be used: {error}"
        raise ValueError(msg) from error
    return destinations
