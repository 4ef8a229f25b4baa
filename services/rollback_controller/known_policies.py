"""Reads policies that a record lacks, because it was lost, from what is signed with the versions."""

import functools
from dataclasses import dataclass

import structlog

from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.routes.versions import without_policy
from services.rollback_controller.domain.record import RollbackState, record_policy
from services.rollback_controller.ports import Proofs
from services.rollback_controller.states import RollbackStates


@dataclass(frozen=True)
class KnownPolicies:
    """The policies of routed versions."""

    states: RollbackStates
    proofs: Proofs

    async def complete(
        self, environment: Environment, model: str, state: RollbackState, route: Route | None
    ) -> dict[int, str]:
        """Record the policies of the versions on a route that the record lacks; return why some cannot be read."""
        unknown: dict[int, str] = {}
        for version in without_policy(route, state.triggers):
            signed = await self.proofs.policy(model, version)
            if isinstance(signed, str):
                unknown[version] = signed
                continue
            structlog.get_logger().warning("policy read from what is signed", model=model, version=version)
            record = functools.partial(record_policy, version=version, policy=signed.policy, route=route)
            await self.states.write(environment, model, record)
        return unknown
