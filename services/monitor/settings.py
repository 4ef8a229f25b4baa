"""Settings of the monitor."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.monitor.domain.monitoring import Rules
from services.monitor.domain.windows import Windowing

Seconds = Annotated[float, Field(gt=0)]


class MonitorSettings(BaseSettings):
    """Read from the environment once (prefix `MONITOR_`)."""

    model_config = SettingsConfigDict(env_prefix="MONITOR_", frozen=True, extra="ignore")

    window_s: Annotated[int, Field(ge=1, le=3600)] = 60
    """Length of summarised windows, in seconds."""
    lateness_s: Seconds = 15.0
    """Seconds after its end in which a window accepts records: longer than the bus's redelivery delay."""
    update_every_s: Seconds = 15.0
    """Minimum seconds between updates of an alert."""
    assess_every_s: Seconds = 10.0
    """Minimum seconds between inconclusive assessments of a canary or shadow."""
    quiet_s: Seconds = 120.0
    """Seconds without requests until a staging target is no longer monitored."""
    drift_rows: Annotated[int, Field(ge=50, le=5000)] = 300
    """Answers per drift window."""
    sweep_s: Seconds = 1.0
    """Seconds between sweeps, which close windows and decide alerts."""
    report_timeout_s: Seconds = 180.0
    """Seconds for a drift report, including waits for others; then the alert is raised without it."""

    def rules(self) -> Rules:
        """Return the settings as limits for the domain."""
        windowing = Windowing(self.window_s, self.lateness_s)
        return Rules(
            windowing=windowing,
            update_every_s=self.update_every_s,
            assess_every_s=self.assess_every_s,
            quiet_s=self.quiet_s,
            drift_rows=self.drift_rows,
        )
