"""The runtimes and servers of a stack, and what `slipway endpoints` shows of a target."""

import pytest
import typer

from clients.cli.commands.endpoints import CHANGED, describe_target
from clients.cli.commands.installation.stack import parse_engine, parse_nats, parse_runtimes, parse_tritons
from clients.cli.output import Exit
from contracts.runtimes import RunningTarget
from contracts.vocabulary import Runtime, digest_of
from deploy.local import bus
from deploy.local.state import Description
from testbed.factories import route, served
from tests.kit import fakes_registry as k

OLD = Runtime(engine="vllm", engine_version="1", environment_digest=digest_of(b"old"))
NEW = Runtime(engine="vllm", engine_version="2", environment_digest=digest_of(b"new"))


def test_a_target_is_listed_with_its_role_and_whether_its_runtime_is_that_of_its_release():
    routes = {k.MODEL: route(active=served(7, runtime=OLD), canary=None)}

    def described(runtime, number=7):
        running = RunningTarget(target=served(number).target, phase="ready", runtime=runtime)
        return describe_target(running, routes, served(number).endpoints[0])

    assert described(OLD) == "support-bot.v7.int8 (ready, active)"
    assert described(NEW) == f"support-bot.v7.int8 (ready, active, {CHANGED})"
    assert described(None) == "support-bot.v7.int8 (ready, active)"
    assert described(OLD, 6) == "support-bot.v6.int8 (ready, previous)"
    assert described(OLD, 2) == "support-bot.v2.int8 (ready)"


def test_a_target_whose_route_names_another_endpoint_is_listed_with_that_one():
    """Its runtime got another port, or two have exchanged their addresses: gateways ask where the route says."""
    running = RunningTarget(target=served(7).target, phase="ready")
    routes = {k.MODEL: route(active=served(7, endpoints=("127.0.0.1:1",)), canary=None)}
    assert describe_target(running, routes, "127.0.0.1:1") == "support-bot.v7.int8 (ready, active)"
    assert describe_target(running, routes, "127.0.0.1:2") == (
        "support-bot.v7.int8 (ready, active, but its route names 127.0.0.1:1)"
    )


def environment(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("")
    return folder


def test_the_runtimes_of_a_stack_are_kept_changed_and_removed(tmp_path):
    first, second = environment(tmp_path / "a"), environment(tmp_path / "b")
    assert parse_runtimes([f"next={first}"], None) == {"next": first}
    kept = Description("id", {}, "", "", runtimes={"next": str(first)})
    assert parse_runtimes([], kept) == {"next": first}
    assert parse_runtimes([f"next={second}", f"other={first}"], kept) == {"next": second, "other": first}
    assert parse_runtimes(["next="], kept) == {}


@pytest.mark.parametrize("item", ["next", "Next=/", "default=/", "=/", "next=/nowhere"])
def test_a_runtime_that_cannot_be_started_is_refused_as_usage(item, capsys):
    with pytest.raises(typer.Exit) as ended:
        parse_runtimes([item], None)
    assert ended.value.exit_code == Exit.USAGE
    assert f"--runtime {item}: " in capsys.readouterr().err


def test_the_number_of_tritons_is_kept_until_another_one_is_asked_for():
    assert parse_tritons(None, None, ()) == 1
    assert parse_tritons(2, None, ("next",)) == 2
    had = Description("id", {}, tritons=2)
    assert parse_tritons(None, had, ()) == 2
    assert parse_tritons(4, had, ()) == 4
    assert parse_tritons(1, had, ()) == 1


def test_the_engine_is_kept_until_another_one_is_asked_for():
    assert parse_engine(None, None) == "slipway"
    had = Description("id", {}, engine="toy")
    assert parse_engine(None, had) == "toy"
    assert parse_engine("slipway", had) == "slipway"


@pytest.mark.parametrize(
    ("number", "runtimes", "why"),
    [
        (4, ("4",), "the runtime 4 would have such a name"),
        (None, ("triton-2",), "--tritons 3: triton-2, triton-3 serve the default runtime, and the runtime triton-2"),
    ],
)
def test_a_number_of_tritons_that_takes_the_name_of_a_runtime_is_refused(number, runtimes, why, capsys):
    with pytest.raises(typer.Exit) as ended:
        parse_tritons(number, Description("id", {}, tritons=3), runtimes)
    assert ended.value.exit_code == Exit.USAGE
    assert why in capsys.readouterr().err


def test_the_number_of_nats_servers_is_that_of_the_first_start():
    trio = Description("id", dict.fromkeys(bus.port_names(3), 1))
    single, new = Description("id", {"nats": 1, "nats-monitor": 2, "s3": 3}), Description("id", {})
    assert [parse_nats(asked, None, stored=False) for asked in (None, 3)] == [1, 3]
    assert parse_nats(3, new, stored=True) == 3
    assert [parse_nats(asked, trio, stored=True) for asked in (None, 3)] == [3, 3]
    assert parse_nats(None, single, stored=True) == 1


def test_before_a_server_has_stored_anything_another_number_is_taken():
    """A first start that failed, as without an engine, has noted ports: a backup would be one of nothing."""
    trio = Description("id", dict.fromkeys(bus.port_names(3), 1))
    assert [parse_nats(asked, trio, stored=False) for asked in (None, 1, 3)] == [3, 1, 3]


@pytest.mark.parametrize(
    ("number", "before", "why"),
    [
        (2, 1, "--nats 2: two servers stand still when one of them is away; use 1 or 3"),
        (3, 1, "--nats 3: the stack was made with 1"),
        (1, 3, "`slipway restore FOLDER --nats 1 --state FOLDER`"),
    ],
)
def test_another_number_of_nats_servers_is_refused_with_the_way_to_it(number, before, why, capsys):
    had = Description("id", dict.fromkeys(bus.port_names(before), 1))
    with pytest.raises(typer.Exit) as ended:
        parse_nats(number, had, stored=True)
    assert ended.value.exit_code == Exit.USAGE
    assert why in capsys.readouterr().err
