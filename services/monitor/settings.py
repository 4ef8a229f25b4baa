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
    """Length of the windows that are summarised."""
    lateness_s: Seconds = 15.0
    """How long after its end a window still takes records: longer than the bus waits to deliver a batch again."""
    update_every_s: Seconds = 15.0
    """Least time between two updates of an alert."""
    assess_every_s: Seconds = 10.0
    """Least time between two inconclusive assessments of a canary."""
    quiet_s: Seconds = 120.0
    """After how long without a request a staging target is watched no longer."""
    drift_rows: Annotated[int, Field(ge=50, le=5000)] = 300
    """Answers of a drift window."""
    sweep_s: Seconds = 1.0
    """Seconds between two sweeps."""
    report_timeout_s: Seconds = 180.0
    """Most time of a drift report, with its wait for others; after it the alert is raised without one."""

    def rules(self) -> Rules:
        """Return the settings as the domain takes them."""
        windowing = Windowing(self.window_s, self.lateness_s)
        return Rules(
            windowing=windowing,
            update_every_s=self.update_every_s,
            assess_every_s=self.assess_every_s,
            quiet_s=self.quiet_s,
            drift_rows=self.drift_rows,
        )
