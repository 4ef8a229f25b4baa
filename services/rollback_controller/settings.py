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
        gateway_url: where rehearsals send their requests.
        gateway_key: file with the key that they present, which opens staging: `api/rollback-controller.key` of
            `slipway keys init`.
        gateway_ca: certificate (PEM) of the authority that the gateway's is from; that of the system without.
        probe_s: how long the previous target has to generate a token before traffic moves to it.
    """

    model_config = SettingsConfigDict(env_prefix="ROLLBACK_CONTROLLER_", frozen=True, extra="ignore")

    gateway_url: str = "http://127.0.0.1:8080"
    gateway_key: Path | None = None
    gateway_ca: Path | None = None
    probe_s: Seconds = 5.0
    verify_s: Seconds = 30.0
    """How long the live requests that verify a switch are waited for."""
    sweep_s: Seconds = 1.0
    """Seconds between two sweeps."""
    production_drills: str = ""
    """Models that drills may run on in production, with commas between; `*` for all. In staging they always may."""
    rehearsal_rps: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Requests per second of a rehearsal."""
    rehearsal_healthy_s: Seconds = 60.0
    """How long the good answers before the fault of a rehearsal may take."""
    rehearsal_detect_s: Seconds = 120.0
    """How long alert and switch of a rehearsal may take; more than an answer under the fault of its trigger takes."""

    @property
    def drilled_models(self) -> frozenset[str]:
        """The models that drills may run on in production; `*` stands for all."""
        return frozenset(name.strip() for name in self.production_drills.split(",") if name.strip())

    @property
    def rules(self) -> Rules:
        """The rules of decisions."""
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
