"""Alerts about the store and the records of versions."""

from contracts.vocabulary import Contract, Instant, Target
from decisions.evidence.alerts import PlainAlert


class StoreAlert(Contract):
    """An open alert about objects or records of a version."""

    target: Target
    raised_at: Instant
    message: str

    @property
    def about(self) -> PlainAlert:
        """The alert as it is published: one per version and occurrence."""
        alert_id = f"store-{self.target}-{self.raised_at:%Y%m%dT%H%M%S}"
        return PlainAlert(alert_id, "store", "critical", self.target, self.raised_at)
