"""`slipway runtime`: what is published for another runtime, and when nothing is."""

import pytest
import typer

from clients.cli.commands.endpoints import CHANGED, describe_target
from clients.cli.commands.installation.stack import parse_engine, parse_nats, parse_runtimes, parse_tritons
from clients.cli.commands.runtime import check_runtime
from clients.cli.output import CommandError, Exit
from clients.cli.releases.recorded_releases import Release
from clients.cli.releases.runtimes import plan_release
from clients.training.publish import envelope
from contracts.facts import CheckpointReady, ReleaseFinished
from contracts.manifests import VersionManifest
from contracts.provenance.steps import RequiredAttestations
from contracts.runtimes import FleetRuntime, RunningTarget
from contracts.vocabulary import Runtime, ServingSettings, digest_of
from deploy.local import bus
from deploy.local.state import Description
from testbed.factories import progress, route, served
from tests.kit import fakes_registry as k

HERMES = ServingSettings(tool_parser="hermes")
ON_NEXT = ServingSettings(tool_parser="hermes", runtime="next")
OLD = Runtime(engine="vllm", engine_version="1", environment_digest=digest_of(b"old"))
NEW = Runtime(engine="vllm", engine_version="2", environment_digest=digest_of(b"new"))


def opened(version, serving, *, attempt=1):
    changes = {"serving": serving, "attempt": attempt, "calibration": k.ref("calibration")}
    return k.opened(version, f"r-{version}").model_copy(update=changes)


def finished(version, outcome="promoted"):
    return ReleaseFinished(
        release_id=f"r-{version}", model=k.MODEL, version=version, outcome=outcome, reason="it is over"
    )


def released(*facts):
    """Return the releases of facts of their openings and ends."""
    ends = {fact.release_id: fact.outcome for fact in facts if isinstance(fact, ReleaseFinished)}
    opened = [fact for fact in facts if not isinstance(fact, ReleaseFinished)]
    return [Release(progress(outcome=ends.get(fact.release_id)), fact.source_event_id, fact) for fact in opened]


def version(number, serving):
    release = opened(number, serving)
    shared = {name: getattr(release, name) for name in ("model", "base", "weights", "training", "evals", "release_key")}
    return VersionManifest(
        **shared,
        version=number,
        release_id=release.release_id,
        merged=k.ref("merged"),
        variants=(),
        serving=serving,
        policy_digest=digest_of(b"policy"),
        policy={},
        registered_at=k.START,
        attestations=RequiredAttestations(),
    )


def plan(*facts, number=1, serving=HERMES, runtime="next", stored=None):
    return plan_release(version(number, serving), runtime, released(*facts), stored)


def test_the_checkpoint_is_that_of_the_version_with_the_other_runtime():
    release = opened(1, HERMES)
    fact = plan(release, finished(1))
    assert isinstance(fact, CheckpointReady)
    assert (fact.weights, fact.base, fact.training) == (release.weights, release.base, release.training)
    assert (fact.variants, fact.evals, fact.calibration) == (release.variants, release.evals, release.calibration)
    assert (fact.serving, fact.attempt) == (ON_NEXT, 1)
    assert fact.policy == release.policy  # none is stored
    assert plan(release, finished(1), stored=k.policy()).policy is None
    assert envelope(fact, "oscar").id == envelope(plan(release, finished(1)), "oscar").id


def test_a_version_without_settings_gets_only_the_runtime():
    assert plan(opened(1, None), finished(1), serving=None).serving == ServingSettings(runtime="next")


def test_a_parser_that_was_declined_is_declined_again():
    declined = ServingSettings(tool_parser="none", context_tokens=384)
    fact = plan(opened(1, declined), finished(1), serving=ServingSettings(context_tokens=384))
    assert fact.serving == ServingSettings(tool_parser="none", context_tokens=384, runtime="next")


def test_a_version_that_is_there_already_is_not_published_again():
    assert plan(serving=ON_NEXT) == "support-bot@v1 is served by the runtime next already"


def test_nothing_is_published_while_the_release_is_in_progress_and_a_higher_attempt_once_it_has_ended():
    first = (opened(1, HERMES), finished(1), opened(2, ON_NEXT))
    assert plan(*first) == "the release r-2 of support-bot@v1 for the runtime next is in progress"
    assert plan(*first, finished(2, "rejected")).attempt == 2


def test_back_to_the_default_runtime_is_another_attempt_of_the_first_release():
    facts = (opened(1, HERMES), finished(1), opened(2, ON_NEXT), finished(2))
    fact = plan(*facts, number=2, serving=ON_NEXT, runtime="default")
    assert (fact.serving, fact.attempt) == (HERMES, 2)


def test_a_runtime_that_is_unknown_or_silent_is_refused():
    fleet = [FleetRuntime(name="default", endpoint="a:1", answers=True)]
    check_runtime("default", fleet)
    with pytest.raises(CommandError, match="has no runtime next; it has default") as refused:
        check_runtime("next", fleet)
    assert refused.value.code == Exit.USAGE
    with pytest.raises(CommandError, match="none that is known"):
        check_runtime("next", [])
    with pytest.raises(CommandError, match="the runtime next does not answer at b:2"):
        check_runtime("next", [*fleet, FleetRuntime(name="next", endpoint="b:2", answers=False)])
    silent = FleetRuntime(name="default", endpoint="c:2", answers=False)
    check_runtime("default", [silent, *fleet])  # one of its endpoints answers


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
