"""The five commands of "Get started": a first release, a canary under traffic, a drill, and traffic that returns."""

import pytest

from testbed.servers import wait_until
from tests.e2e.one_stack.shell import shell_blocks

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]
MODEL = "demo"


def test_five_commands_lead_from_nothing_to_an_automatic_rollback(shell, empty_stack):
    start, commands = shell_blocks("docs/get-started.md", "A release, a canary and a rollback in five minutes")
    assert start.splitlines() == ["slipway up --detach --engine toy"], "the stack of this folder stands for it"
    assert len(commands.splitlines()) == 5
    printed = shell(commands)
    assert printed.count("promoted") >= 2
    assert empty_stack.events("canary.assessed", MODEL)[-1]["data"]["verdict"] == "pass"
    empty_stack.await_event("rollback.completed", MODEL)
    route = empty_stack.route(MODEL)
    assert route["active"]["target"]["version"] == 1
    assert [held["served"]["target"]["version"] for held in route["suspended"]] == [2]
    shell.end()
    wait_until(lambda: shell.printed().endswith(" failed\n"), what="the summary of the traffic")
    summary = shell.printed()
    assert f"{MODEL}@v1\t" in summary
    assert f"{MODEL}@v2\t" in summary
    assert "with the fault of a drill, 0 failed" in summary
