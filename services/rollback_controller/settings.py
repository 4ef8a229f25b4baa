"""Settings of the rollback-controller."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.rollback_controller.domain.record import Rules
from services.rollback_controller.domain.rehearsal_plan import Load
from services.rollback_controller.rehearsal import Pace

Seconds = Annotated[float, Field(gt=0)]


class RollbackControllerSettings(BaseSettings):
    """Read from the environment once (prefix `ROLLBACK_CONTROLLER_`).

    Attributes:
        gateway_url: the gateway for rehearsal requests.
        gateway_key: file with the API key of rehearsals, valid in staging: `api/rollback-controller.key` of
            `slipway keys init`.
        gateway_ca: CA certificate (PEM) for the gateway; unset: the system's CAs.
        probe_s: seconds for the previous target to generate a token before traffic moves to it.
    """

    model_config = SettingsConfigDict(env_prefix="ROLLBACK_CONTROLLER_", frozen=True, extra="ignore")

    gateway_url: str = "http://127.0.0.1:8080"
    gateway_key: Path | None = None
    gateway_ca: Path | None = None
    probe_s: Seconds = 5.0
    verify_s: Seconds = 30.0
    """Seconds to wait for live requests that verify a switch."""
    sweep_s: Seconds = 1.0
    """Seconds between sweeps for pending and overdue rollbacks."""
    production_drills: str = ""
    """Models with permitted production drills, comma-separated; `*` for all. Staging permits all."""
    rehearsal_rps: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Requests per second of a rehearsal."""
    rehearsal_healthy_s: Seconds = 60.0
    """Seconds for the successful answers before a rehearsal's fault."""
    rehearsal_detect_s: Seconds = 120.0
    """Seconds for a rehearsal's alert and switch; must exceed the time of an answer under the trigger's fault."""

    @property
    def drilled_models(self) -> frozenset[str]:
        """The models with permitted production drills; `*` for all."""
        return frozenset(name.strip() for name in self.production_drills.split(",") if name.strip())

    @property
    def rules(self) -> Rules:
        """The limits of rollback decisions."""
        return Rules(verify_s=self.verify_s)

    @property
    def pace(self) -> Pace:
        """The limits of rehearsals."""
        return Pace(
            healthy_s=self.rehearsal_healthy_s,
            detect_s=self.rehearsal_detect_s,
            verify_s=2 * self.verify_s,
            load=Load(self.rehearsal_rps),
        )
