"""The slices as this gateway knows them: in memory only; each ends by itself, also without the bus."""

from dataclasses import replace

import structlog

from contracts.routes import Route
from contracts.slices import Slice
from services.gateway.domain import slicing
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.domain.slicing import KnownSlice
from shared.runtime.clock import Clock


class SliceTable:
    """One slice per model; a change applies to the next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, KnownSlice] = {}

    def active(self) -> list[Slice]:
        """Return the slices that last."""
        now, now_s = self._clock.now(), self._clock.monotonic()
        return [known.slice for _, known in sorted(self._known.items()) if slicing.is_active(known, now, now_s)]

    def has(self, model: str) -> bool:
        """Return whether a model has a slice that lasts."""
        known = self._known.get(model)
        return known is not None and slicing.is_active(known, self._clock.now(), self._clock.monotonic())

    def draw(self, route: Route | None, choice: Choice, parsed: ParsedRequest, draw_id: str) -> Choice:
        """Return the target that answers a request of production, which a slice may have changed."""
        known = None if route is None else self._known.get(route.model)
        if known is None or route is None or not self.has(route.model):
            return choice
        return slicing.draw_side(known.slice, route, choice, parsed, draw_id)

    def stop(self, model: str) -> None:
        """Draw no further request in the slice of a model: its previous version is out of reach, or its engine died."""
        known = self._known.get(model)
        if known is not None and self.has(model):
            self._known[model] = replace(known, until_s=self._clock.monotonic())
            structlog.get_logger().warning(
                "slice stopped here: the previous version does not answer",
                slice=known.slice.slice_id,
                behind=str(known.slice.behind),
            )

    async def apply(self, key: str, received: Slice, _revision: int) -> None:
        """Replace the slice of a model by the one from the bus; one that is passed again keeps its first end."""
        known = self._known.get(key)
        if known is not None and known.slice == received:
            return
        log = structlog.get_logger().bind(key=key, slice=received.slice_id, target=str(received.target))
        if key != received.target.model or received.behind.model != received.target.model:
            log.error("slice ignored: it is stored under the key of another model")
            return
        noted = slicing.note_slice(received, self._clock.now(), self._clock.monotonic())
        if known is not None and known.slice.slice_id == received.slice_id:
            noted = replace(noted, until_s=min(noted.until_s, known.until_s))
        self._known[key] = known = noted
        lasts = slicing.is_active(known, self._clock.now(), self._clock.monotonic())
        log.info("slice started" if lasts else "slice ended", behind=str(received.behind), share=received.share_ratio)
