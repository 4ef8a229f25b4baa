"""kill -9 at every point of the delivery rules, in every service: the release completes, once."""

import pytest

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]

EVERYWHERE = ("after_act", "after_publish", "before_ack")
POINTS = [
    f"{service}.{point}"
    for service in ("registry", "merger", "quantiser", "server-manager", "benchmarker")
    for point in EVERYWHERE
] + [
    "registry.after_cas",
    "server-manager.after_cas",
]


def test_the_release_completes_once_though_every_service_is_killed_at_every_point(stack_of, tiny):
    stack = stack_of(SLIPWAY_FAILPOINT=",".join(POINTS))
    stack.publish("bot", tiny["one"], "--variant", "bf16", "--variant", "int8")
    stack.promoted("bot", timeout_s=420)

    fired = {path.name for path in (stack.state / "work").glob("*/failpoint-*.fired")}
    assert fired == {f"failpoint-{point}.fired" for point in POINTS}
    marker = stack.state / "work" / "server-manager" / "failpoint-server-manager.after_cas.fired"
    assert marker.read_text() == "servers/main", "the kill follows a write of the record, not of the lease"
    for name in ("release.opened", "checkpoint.merged", "version.registered", "release.finished"):
        assert len(stack.events(name, "bot")) == 1, name
    assert len(stack.events("variant.quantised", "bot")) == 2
    assert [version["manifest"]["version"] for version in stack.ask_json("versions", "bot")] == [1]
    assert stack.ask_json("deadletters", "list") == []
    assert stack.check_artifacts() > 0
    stack.ok("ask", "bot", "hello", "--max-tokens", "4")
