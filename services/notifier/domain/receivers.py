"""Receivers of alerts: what each is sent."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from contracts.facts import AlertRaised
from contracts.facts.watch import Severity
from contracts.vocabulary import Contract, ModelName

Kind = Literal["alertmanager", "webhook", "slack", "pagerduty"]
ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Receiver(Contract):
    """A system that alerts are sent to.

    Attributes:
        severities: Severities that it gets.
        models: Models that it gets alerts of; empty for all.
    """

    name: ReceiverName
    kind: Kind
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = ("info", "warning", "critical")
    models: tuple[ModelName, ...] = ()

    def takes(self, alert: AlertRaised) -> bool:
        """Return whether it gets an alert."""
        return alert.severity in self.severities and (not self.models or alert.target.model in self.models)

    @property
    def repeats(self) -> bool:
        """Return whether an open alert is sent again and again: Alertmanager ends those that are not."""
        return self.kind == "alertmanager"

    @property
    def takes_summaries(self) -> bool:
        """Return whether it gets what a silence held back once it is over: PagerDuty would page a person for it."""
        return self.kind != "pagerduty"
