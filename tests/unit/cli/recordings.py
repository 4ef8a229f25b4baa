"""A recorded log for replays: minutes of traffic as the monitor would have summarised them."""

from collections.abc import Sequence

from contracts import facts as f
from contracts.envelope import Event
from contracts.facts.watch import Window
from contracts.policy import Trigger
from contracts.routes import CanaryShare, Route, ServedTarget
from services.monitor.domain import sketch
from testbed.factories import after, event, fact, policy, served, target

V1, V2, V3 = (target(number, "bf16") for number in (1, 2, 3))
MINUTE = 60.0
SLOW = Trigger(name="slow", metric="ttft_ms", threshold=500.0, alpha=0.001, min_requests=20)
ERRORS = Trigger(name="errors", metric="error_ratio", threshold=0.02, alpha=0.001, min_requests=20)


def serving(number: int) -> ServedTarget:
    return served(number, "bf16")


def changed(
    epoch: int, at: float, active: int, previous: int | None = None, *, cause: str = "promote", **more
) -> Event:
    """The route as it was from a moment on."""
    whole = Route(
        model="support-bot",
        epoch=epoch,
        active=serving(active),
        previous=serving(previous) if previous else None,
        cause_id=f"c-{epoch}",
        **more,
    )
    return event(fact(f.DeploymentChanged, route=whole, cause=cause, at=after(at)), id=f"d-{epoch}", time=after(at))


def on_trial(number: int, weight: float = 0.2) -> CanaryShare:
    return CanaryShare(served=serving(number), weight_ratio=weight)


def window(
    at: float, which=V2, *, requests: int = 60, slow: int = 0, failed: int = 0, length: float = MINUTE, **changes
) -> Event:
    """A minute of traffic: some answers begin after 900 ms, the others after 200, some requests fail."""
    answered = [900.0] * slow + [200.0] * (requests - slow - failed)
    whole = {
        "target": which,
        "window": Window.model_validate({"from": after(at), "to": after(at + length)}),
        "requests": requests,
        "errors": {"engine_dead": failed} if failed else {},
        "target_failures": failed,
        "observed": {},
        "drills": {},
        "ttft_histogram": sketch.add("", answered) or sketch.empty_sketch(),
        "e2e_histogram": sketch.add("", [name + 300.0 for name in answered]) or sketch.empty_sketch(),
        "features": {},
    }
    name = f"w-{which}-{at}"
    return event(f.WindowSummarised(**(whole | changes)), id=name, time=after(at + length + 10))


def minutes(first: float, count: int, which=V2, **changes) -> list[Event]:
    return [window(first + MINUTE * index, which, **changes) for index in range(count)]


def opened(version: int, triggers: Sequence[Trigger]) -> Event:
    whole = policy(triggers=tuple(triggers))
    return event(fact(f.ReleaseOpened, version=version, policy=whole), id=f"o-{version}", time=after(-100))
