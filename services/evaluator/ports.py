"""The evaluator's ports: serving endpoints, report store and production routes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from contracts.facts import VersionEvaluated
from contracts.manifests import EvaluationReport
from contracts.policy import ReleasePolicy
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import ArtifactRef, Target
from decisions.scorers.answers import Answer

Progress = Callable[[int, int], None]
"""Called with rows done and rows that may be asked."""


class Endpoint(Protocol):
    """Answers requests of the OpenAI API."""

    async def ask(self, served: ServedTarget, body: Mapping[str, Any], *, timeout_s: float) -> Answer | None:
        """Return the answer to a chat completion; None if the version rejects the request.

        Raises:
            SlipwayError: `endpoint_unreachable`: the endpoint is lost. Other codes: the engine failed.
        """


class Reports(Protocol):
    """The store of reports, evaluation sets and policies."""

    def find(self, output_key: str) -> tuple[EvaluationReport, ArtifactRef] | None:
        """Return the committed report with this output key; None if there is none."""

    def read(self, ref: ArtifactRef) -> EvaluationReport:
        """Return a verified report."""

    def commit(self, report: EvaluationReport) -> tuple[EvaluationReport, ArtifactRef]:
        """Attest and write a report, create-only; return the stored one."""

    def rows(self, ref: ArtifactRef) -> bytes:
        """Return a verified evaluation set."""

    def policy(self, target: Target) -> ReleasePolicy | None:
        """Return a version's signed policy; None if it cannot be read."""

    def released(self, target: Target) -> EvaluationReport | None:
        """Return a target's last attested report; None if it was not evaluated."""


class Production(Protocol):
    """Production routes, and the last checks of serving versions."""

    async def models(self) -> list[str]:
        """Return the models that have a route."""

    async def route(self, model: str) -> Route | None:
        """Return a model's route; None if there is none."""

    async def last_check(self, model: str) -> VersionEvaluated | None:
        """Return a model's last check in the event log; None without one."""
