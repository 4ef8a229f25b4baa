"""Ports of the evaluator: versions that answer, the store of reports, and languages."""

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
    """Answers requests of the OpenAI API, as callers send them."""

    async def ask(self, served: ServedTarget, body: Mapping[str, Any], *, timeout_s: float) -> Answer | None:
        """Return the answer to a chat completion; None if the version rejects the request.

        Raises:
            SlipwayError: `endpoint_unreachable`: the endpoint is lost. Others: the engine failed at the request.
        """


class Reports(Protocol):
    """The store of reports and sets."""

    def find(self, output_key: str) -> tuple[EvaluationReport, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""

    def read(self, ref: ArtifactRef) -> EvaluationReport:
        """Return a report, verified."""

    def commit(self, report: EvaluationReport) -> tuple[EvaluationReport, ArtifactRef]:
        """Attest and write a report, create-only; return the committed one."""

    def rows(self, ref: ArtifactRef) -> bytes:
        """Return an evaluation set, verified."""

    def policy(self, target: Target) -> ReleasePolicy | None:
        """Return the policy that is signed with a version; None if it cannot be read."""

    def released(self, target: Target) -> EvaluationReport | None:
        """Return the last attested report of a target; None if it was not evaluated."""


class Production(Protocol):
    """The serving targets, and the results of their last checks."""

    async def models(self) -> list[str]:
        """Return the models that have a route."""

    async def route(self, model: str) -> Route | None:
        """Return the route of a model; None if there is none."""

    async def last_check(self, model: str) -> VersionEvaluated | None:
        """Return the last check of a model, as far as the event log goes; None without one."""
