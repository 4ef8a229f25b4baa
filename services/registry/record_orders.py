"""Administrators' orders about policies, API keys, mirrors and attachments, which the registry alone writes."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from contracts.api_keys import ApiKey
from contracts.attachments import Attachment
from contracts.envelope import Event
from contracts.facts import OrderAccepted, RecordOrdered
from contracts.facts.ops import OF_A_MODEL, RECORDS, RecordKind
from contracts.mirrors import Mirror
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.teams import Team
from contracts.vocabulary import digest_of
from decisions.access.teams import find_problem
from decisions.policies.problems import list_problems
from decisions.serving.attached import why_not_changed, why_not_while_open
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Lookup, model_key
from shared.errors import Permanent, SlipwayError, problems_of
from shared.messaging.orders import check_age
from shared.runtime.clock import Clock
from shared.storage.kv import Bucket, Conflict
from shared.storage.record_format import dump, parse


class RecordOrders:
    """Carries out `record.ordered`: writes or removes a record, unless it changed after the order was made."""

    def __init__(
        self,
        buckets: Mapping[RecordKind, Bucket[Any]],
        teams: Callable[[], Iterable[Team]],
        routes: Lookup[Route],
        models: Lookup[ModelRecord],
        clock: Clock,
    ) -> None:
        """Set the bucket of each kind, the source of teams, production routes, models, and the clock."""
        self._buckets, self._teams, self._routes, self._models = buckets, teams, routes, models
        self._clock = clock

    async def carry_out(self, event: Event[RecordOrdered], stored_at: datetime) -> OrderAccepted:
        """Write or remove a record, once; raise Permanent if the order expired or the record changed or is invalid."""
        order, bucket = event.data, self._buckets[event.data.kind]
        check_age(event, stored_at, self._clock.now(), until=order.expires_at)
        record, (revision, there) = self._read(event), await bucket.raw(order.name) or (0, None)
        if there != (dump(record) if record is not None else None):
            reason = f"The {order.kind} {order.name} was changed by another command meanwhile."
            changed = Permanent("not_applicable", f"{reason} Read it, and order again.")
            if (digest_of(there) if there is not None else None) != order.before:
                raise changed
            if order.kind == "attachment":
                await self._check_attachment(order.name, record, there)
            try:
                if record is None:
                    await bucket.remove(order.name, revision)
                elif there is None:
                    await bucket.create(order.name, record)
                else:
                    await bucket.update(order.name, record, revision)
            except Conflict:
                raise changed from None
        return OrderAccepted(order_id=event.id, order_type=event.type)

    async def _check_attachment(self, model: str, record: BaseModel | None, there: bytes | None) -> None:
        """Raise Permanent if production or open releases could not continue with the ordered attachment."""
        route, known = await self._routes.get(model), await self._models.get(model_key(model))
        new = record if isinstance(record, Attachment) else None
        problem = why_not_changed(new, route.value if route is not None else None)
        try:
            old = parse(Attachment, there, f"attachments/{model}") if there is not None else None
            problem = problem or why_not_while_open(new, old, known.value.open if known is not None else ())
        except SlipwayError:
            pass  # an unreadable record is replaced
        if problem is not None:
            raise Permanent("not_applicable", problem)

    def _read(self, event: Event[RecordOrdered]) -> BaseModel | None:
        """Return the ordered record; raise Permanent if it is invalid."""
        order = event.data
        record = _parse(order) if order.record is not None else None
        name, problem = event.subject if order.kind in OF_A_MODEL else order.name, None
        match record:
            case ReleasePolicy():
                invalid = [each.reason for each in list_problems(record)]
                if invalid:
                    raise Permanent("policy_invalid", "; ".join(invalid))
            case ApiKey():
                name = record.key_id
                if record.team is not None and record.revoked_at is None:
                    problem = find_problem(record.team, record.models, self._teams())
            case Mirror():
                name = record.registry
            case Attachment():
                name = record.model
        if problem is not None:
            raise Permanent("team_mismatch", problem)
        if name != order.name:
            raise Permanent(
                "malformed_event", f"The order is for the {order.kind} {order.name}, its record for {name}."
            )
        return record


def _parse(order: RecordOrdered) -> BaseModel:
    try:
        return RECORDS[order.kind][1].model_validate(order.record)
    except ValidationError as error:
        problems = "; ".join(problems_of(error))
        raise Permanent("malformed_event", f"The {order.kind} {order.name} is not valid: {problems}") from error
