"""Into which group the example's hook deploys a version."""

import os
import subprocess
import sys

import pytest

from examples.attached.hook import choose_group, groups_of, is_deployed, note, targets_in_traffic
from testbed.servers import wait_until

V1, V2 = ({"model": "bot", "version": number, "variant": "bf16"} for number in (1, 2))


def endpoint(name, address, *targets):
    return {"name": name, "endpoint": address, "targets": [{"target": target, "phase": "ready"} for target in targets]}


ENDPOINTS = [
    endpoint("default", "127.0.0.1:8001"),
    endpoint("bot/blue", "http://a", V1),
    endpoint("bot/blue", "http://b", V1),
    endpoint("bot/green", "http://c"),
    endpoint("other/blue", "http://d"),
]
GROUPS = groups_of(ENDPOINTS, "bot")


def served(target, *addresses):
    return {"target": target, "endpoints": list(addresses)}


def routes(active, canary=None):
    share = {"served": canary, "weight": 0.1} if canary else None
    return [{"model": "other", "active": served(V1, "http://c"), "canary": None},
            {"model": "bot", "active": active, "canary": share}]  # fmt: skip


def test_groups_are_those_of_the_model():
    assert {name: [each["endpoint"] for each in replicas] for name, replicas in GROUPS.items()} == {
        "blue": ["http://a", "http://b"],
        "green": ["http://c"],
    }


@pytest.mark.parametrize(
    ("listed", "first", "expected"),
    [
        (routes(served(V1, "http://a", "http://b")), "green", "green"),
        (routes(served(V1, "http://b")), "blue", "green"),
        (routes(served(V1, "http://c")), "green", "blue"),
        (routes(served(V1, "http://a"), served(V2, "http://c")), "green", None),
        ([], "green", "green"),
        ([], "red", None),
        (routes(None), "blue", "blue"),
    ],
)
def test_a_version_goes_to_the_group_without_traffic(listed, first, expected):
    assert choose_group(GROUPS, targets_in_traffic(listed, "bot"), first) == expected


def test_what_a_group_serves_is_not_deployed_again():
    assert is_deployed(GROUPS, V1)
    assert not is_deployed(GROUPS, V2)


def requested(target, model="bot", environment="production"):
    return event("stage.requested", {"candidate": {"target": target}}, model, environment)


def event(kind, data, model="bot", environment="production"):
    return {"type": f"slipway.{kind}.v1", "subject": model, "environment": environment, "data": data}


STAGED, FINISHED = event("variant.staged", {"candidate": {"target": V1}}), event("release.finished", {"version": 1})


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([requested(V1), requested(V2)], [V1, V2]),
        ([requested(V1), requested(V2), requested(V1)], [V2, V1]),
        ([requested(V1), STAGED, requested(V2)], [V2]),
        ([requested(V1), requested(V2), FINISHED], [V2]),
        ([requested(V1), STAGED, requested(V1)], [V1]),
        ([requested(V1, "other"), requested(V2, environment="staging")], []),
    ],
)
def test_a_version_is_waited_for_until_it_is_staged_or_its_release_has_ended(events, expected):
    waiting = {}
    for each in events:
        note(waiting, each, "bot")
    assert list(waiting.values()) == expected


def test_it_leaves_nothing_behind_when_it_is_ended(tmp_path):
    command = tmp_path / "slipway"
    command.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid'}\nexec sleep 1000\n")
    with subprocess.Popen(hook(tmp_path), env=environment_with(command)) as process:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="its command")
        pid = int((tmp_path / "pid").read_text())
        process.terminate()
        assert process.wait(30) == 1
    wait_until(lambda: not is_running(pid), what="the end of its command")


def is_running(pid):
    """Return whether a process runs; not one that has ended and was not waited for."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def environment_with(command):
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}


def hook(folder):
    return [sys.executable, "examples/attached/hook.py", "bot", "--first", "green", "--folder", str(folder), "true"]


def test_it_ends_with_an_error_once_events_cannot_be_followed(tmp_path):
    command = tmp_path / "slipway"
    command.write_text("#!/bin/sh\nexit 3\n")
    environment = environment_with(command)
    done = subprocess.run(hook(tmp_path), env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ended with code 3" in done.stderr
