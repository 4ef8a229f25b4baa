"""Carries out what the shadow of a suspended version showed: quarantines it, or writes the verdict into the route."""

from dataclasses import dataclass

import structlog

from contracts.envelope import Event
from contracts.facts import DeploymentChanged, SuspensionJudged
from contracts.routes import Route
from decisions.route_edits import Changed, EditRefused, judge
from services.rollback_controller.controller import Controller
from services.rollback_controller.ports import Routes
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import ATTEMPTS, kept_changing
from shared.storage.kv import Conflict


@dataclass(frozen=True)
class Judgements:
    """Verdicts of the monitor about suspended versions."""

    controller: Controller
    routes: Routes
    clock: Clock

    async def apply(self, event: Event[SuspensionJudged]) -> DeploymentChanged | None:
        """Change the route and return it; None if the version is not suspended any more, or was so once more since.

        A rollback that moved traffic is recorded first: afterwards its route would not tell that it did.
        """
        model, judged = event.subject, event.data
        await self.controller.execute_pending(await self.controller.states.read("production", model))
        for _ in range(ATTEMPTS):
            entry = await self.routes.get("production", model)
            edit = judge(
                entry.value if entry is not None else Route(model=model),
                judged.target,
                since=judged.since,
                verdict=judged.verdict,
                evidence=judged.reason,
                cause_id=event.id,
            )
            if isinstance(edit, EditRefused):
                structlog.get_logger().info("judged too late", model=model, verdict=judged.verdict, reason=edit.reason)
                return None
            if isinstance(edit, Changed):
                try:
                    await self.routes.put("production", edit.route, entry.revision if entry else None)
                except Conflict:
                    continue
            cause = "confirm" if judged.verdict == "confirmed" else "judge"
            return DeploymentChanged(route=edit.route, cause=cause, at=self.clock.now())
        raise kept_changing(f"routes/{model}")
