"""Models served by attached servers: one engine of the fleet for each."""

from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from pathlib import Path

from contracts.routes import Route
from contracts.runtimes import FleetRuntime, RunningTarget
from contracts.vocabulary import Deployable
from decisions.serving.attached import is_attached
from services.server_manager.domain.reconcile import Held, production_of
from services.server_manager.domain.records import target_of
from services.server_manager.domain.runtimes import is_given_up
from services.server_manager.ports import AttachedGroups, Attachments, Engine, Groups

NAME = "attached:"
"""Prefix of an attached model's engine name; the model follows."""


class AttachedModels:
    """Follows the attachment records, and keeps a separate engine for each attached model."""

    def __init__(
        self, engines: MutableMapping[str, Engine], records: Attachments, make: Callable[[str], AttachedGroups]
    ) -> None:
        """Set the fleet's engines, to be extended; the attachment records; and the factory of engines."""
        self.names: dict[str, str] = {}
        """Engine names by attached model."""
        self._engines = engines
        self._records = records
        self._make = make
        self._made: dict[str, AttachedGroups] = {}

    async def follow(self, routes: Mapping[str, Route]) -> None:
        """Apply the current records; raise Transient if the bus does not answer.

        If a record is missing, attached servers named by a route still serve it.
        """
        named, records = _named(routes), await self._records.all()
        read = {model: record for model, record in records.items() if record is not None}
        unread: dict[str, Groups] = {model: {} for model in records}
        groups = {**unread, **named, **{model: record.groups for model, record in read.items()}}
        for model in groups.keys() - self._made.keys():
            self._made[model] = self._engines[NAME + model] = self._make(model)
        for model, engine in self._made.items():
            engine.groups = groups.get(model, {})  # empty for a detached model
            engine.in_routes = named.get(model, {})
            folder = read[model].adapters if model in read else None
            engine.adapters = Path(folder) if folder is not None else None
        self.names.clear()
        self.names.update({model: NAME + model for model in groups})

    async def has(self, model: str) -> bool:
        """Return whether a model is attached; works without `follow`, in processes that do not lead."""
        return model in self.names or model in await self._records.all()

    def lacks(self, deployable: Deployable) -> bool:
        """Return whether a target's model is attached, and no group of its servers lists the target."""
        name = self.names.get(deployable.target.model)
        return name is not None and not self._made[deployable.target.model].may_have(str(deployable.target))

    def addresses(self, deployable: Deployable) -> tuple[str, ...]:
        """Return the addresses of attached servers that serve a target; empty for other models."""
        engine = self._made.get(deployable.target.model) if deployable.target.model in self.names else None
        return engine.addresses(str(deployable.target)) if engine is not None else ()

    def describe(self, held: Mapping[str, Held], now: datetime) -> tuple[FleetRuntime, ...]:
        """Return the public view of every replica: its listed targets, and routed targets that cannot be loaded."""
        return tuple(
            FleetRuntime(
                name=f"{model}/{group}",
                endpoint_name=f"{model}/{group}/{number}",
                endpoint=url,
                answers=(listed := self._made[model].listed(url)) is not None,
                targets=tuple(
                    _running(name, state)
                    for name, state in sorted(held.items())
                    if name in (listed or ()) or (is_given_up(state) and self._is_in_route(model, name, url))
                ),
                since=now,
            )
            for model in sorted(self.names)
            for group, urls in sorted(self._made[model].groups.items())
            for number, url in enumerate(urls, 1)
        )

    def _is_in_route(self, model: str, name: str, url: str) -> bool:
        return url in self._made[model].in_routes.get(name, ())


def _running(name: str, state: Held) -> RunningTarget:
    target = target_of(name)
    assert target is not None  # noqa: S101 - the fleet holds targets only
    return RunningTarget(target=target, phase=state.phase, given_up=is_given_up(state))


def _named(routes: Mapping[str, Route]) -> dict[str, Groups]:
    """Return the attached servers in routes, by model; each target is a group."""
    named: dict[str, Groups] = {}
    for model, route in routes.items():
        groups = {str(served.target): served.endpoints for served in production_of(route)}
        attached = {name: urls for name, urls in groups.items() if all(map(is_attached, urls))}
        if attached:
            named[model] = attached
    return named
