"""The notifier as a process, and a server that it calls."""

import asyncio
import base64
import contextlib
import json
import time
import uuid

from contracts import facts as f
from contracts.envelope import Event
from shared.runtime.clock import SystemClock
from testbed import factories as k
from testbed.services import running_service

MODULE = "services.notifier.main"


CLOCK = SystemClock()


QUICK = {"NOTIFIER_TIMEOUT_S": "0.7", "NOTIFIER_RESEND_S": "1"}


SECRET = b"k" * 32


@contextlib.contextmanager
def notifier(settings, receivers, **more):
    file = settings.state_dir / "receivers.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for fields in receivers:
        lines += ["[[receiver]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    file.write_text("\n".join(lines))
    with running_service(MODULE, settings, NOTIFIER_RECEIVERS=str(file), **{**QUICK, **more}) as process:
        yield process


def hook(receiver, name="hook"):
    return {
        "name": name,
        "kind": "webhook",
        "url": f"{receiver.url}/{name}",
        "secrets": ["whsec_" + base64.b64encode(SECRET).decode()],
    }


def event(fact, *, environment="production", model=k.MODEL, at=None):
    return Event[type(fact)](
        id=str(uuid.uuid4()),
        source=k.source_for(type(fact)),
        type=fact.TYPE,
        subject=model,
        time=at or CLOCK.now(),
        correlationid="r-7",
        environment=environment,
        data=fact,
    )


def alert(alert_id="bot.v7.int8/slow/1", *, raised_at=None, **changes):
    raised_at = raised_at or CLOCK.now()
    fields = {"alert_id": alert_id, "drill": None, "severity": "critical", "raised_at": raised_at, **changes}
    return f.AlertRaised.model_validate(k.fact(f.AlertRaised).model_dump(by_alias=True) | fields)


async def until(condition, what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        await asyncio.sleep(0.05)
    return result
