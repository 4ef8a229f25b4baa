"""The endpoints: state, targets with their roles, memory, and what the gateways have there."""

import asyncio
from datetime import timedelta

import pytest

from contracts.api_usage import EndpointUse, TrafficReport
from contracts.runtimes import FleetRuntime, FleetRuntimes, RunningTarget
from contracts.vocabulary import Runtime
from services.console.adapters.fleets import FORGET_S, MOST_PROCESSES
from services.console.domain.people import Person
from services.console.endpoints import AFTER_ERROR_S, AGED_AFTER_LOOKS, LOOK_S, Endpoints
from services.console.hub import Hub
from shared.errors import Transient
from testbed import factories
from testbed.story import Story, fleet
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, data

EVIL = "<script>alert(1)</script>"
MIB = 2**20
FIRST = factories.served(1).endpoints[0]
SECOND = "127.0.0.1:2"
SINCE = NOW - timedelta(minutes=7)


def running(model, version, phase="ready", **memory):
    return RunningTarget(target=factories.target(version, "int8", model), phase=phase, **memory)


def triton(name, address, *targets, **changes):
    known = {"answers": True, "since": SINCE, "memory_budget_bytes": 1000 * MIB, "free_bytes": 600 * MIB}
    return FleetRuntime(name="default", endpoint_name=name, endpoint=address, targets=targets, **{**known, **changes})


USED = triton(
    "default",
    FIRST,
    running("search-ranker", 2, memory_bytes=300 * MIB, measured_bytes=200 * MIB),
    running("shop-bot", 1, phase="loading", memory_bytes=100 * MIB),
    runtime=Runtime(engine="vllm", engine_version="0.11"),
    reserved_bytes=400 * MIB,
)


IDLE = USED.model_copy(update={"targets": ()})


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("console"))
    made.fill([*fleet(NOW), *Story(NOW).release("shop-bot", 1, 91)])
    yield made
    made.close()


@pytest.fixture
def shown(filled):
    """Return what shows endpoints to a person: the data and the page."""
    filled.reports._reports.clear()

    def show(*endpoints, name="vera"):
        filled.fleets.fleets = {"main": FleetRuntimes(runtimes=endpoints)} if endpoints else {}
        client = filled.client(name)
        return data(client.get("/endpoints"), "endpoints"), client.get("/endpoints").text

    return show


def report(world, process, **uses):
    endpoints = {FIRST: EndpointUse(**uses)} if uses else {}
    world.reports.take(TrafficReport(process=process * 8, endpoints=endpoints))


def test_an_endpoint_has_its_state_its_targets_with_roles_and_its_memory(shown, snapshot):
    (row,), page = shown(USED)
    assert (row["name"], row["state"], row["since"]) == ("default", "serving", "2026-11-27T01:53:00.000Z")
    assert [(held["target"], held["role"], held["named"], held["phase"]) for held in row["held"]] == [
        ("search-ranker.v2.int8", "active", True, "ready"),
        ("shop-bot.v1.int8", "active", True, "loading"),
    ]
    assert (row["reserved_bytes"], row["measured_bytes"], row["free_bytes"]) == (400 * MIB, 200 * MIB, 600 * MIB)
    assert (row["outstanding_tokens"], row["gateways"]) == (None, 0)
    assert page_text(page) == snapshot


def test_what_a_route_does_not_name_there_and_what_has_no_role_say_so(shown, snapshot):
    moving = triton("two", SECOND, running("search-ranker", 2), running("search-ranker", 7), copies=("faq-de.v1.int8",))
    (row,), page = shown(moving)
    assert [(held["role"], held["named"]) for held in row["held"]] == [("active", False), ("", False)]
    assert page_text(page) == snapshot


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"drained": True, "drained_by": "adam", "drain_reason": EVIL}, "draining", f"Drained by adam: {EVIL}"),
        ({"drained": True, "drained_by": "adam", "targets": ()}, "drained", "Drained by adam: "),
        ({"answers": False}, "silent", "It does not answer server-manager."),
        ({"answers": False, "fenced": True}, "fenced", "Its agent obeys another server-manager, with a higher term."),
    ],
)
def test_a_state_says_why(shown, changes, state, reason):
    (row,), page = shown(USED.model_copy(update=changes))
    assert (row["state"], row["reasons"]) == (state, [reason])
    assert f">{state}</span>" in page
    assert EVIL not in page


@pytest.mark.parametrize(
    ("reported_at", "text"),
    [
        (NOW - timedelta(minutes=4), 'last reported <span title="2026-11-27T01:56:00.000Z">4 min ago</span>'),
        (None, "No server-manager of the fleet <strong>main</strong> reports"),
    ],
)
def test_nothing_is_green_of_a_fleet_whose_server_manager_reports_no_more(shown, filled, reported_at, text):
    assert "badge good" in shown(USED)[1]
    filled.fleets.silent = {"main": reported_at}
    try:
        (row,), page = shown(USED)
        report(filled, "a", ejected=1)
        ejecting = filled.client("vera").get("/endpoints").text
    finally:
        filled.fleets.silent = {}
        filled.reports._reports.clear()
    assert (row["state"], row["is_current"]) == ("serving", False)
    assert text in page
    assert '<span class="badge">last known: serving</span>' in page
    assert ("badge good" in page, "for 7 min" in page) == (False, False)
    assert '<span class="badge bad">ejected</span>' in ejecting, "what gateways report is of now"


def test_only_the_fleet_that_is_silent_is_called_so(filled):
    filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(USED,)), "old": FleetRuntimes(runtimes=(USED, IDLE))}
    filled.fleets.silent = {"old": SINCE}
    try:
        page = filled.client("vera").get("/endpoints").text
    finally:
        filled.fleets.silent = {}
    assert (page.count("of the fleet <strong>old</strong> last reported"), page.count("<strong>main")) == (1, 0)
    assert (page.count("last known: serving"), page.count('badge good">serving')) == (2, 1)


def test_what_a_drain_waits_for_stands_beside_it(shown, snapshot):
    (row,), page = shown(USED.model_copy(update={"drained": True, "waits_for": "two has 1 byte free."}))
    assert row["reasons"][1:] == ["Not empty yet: two has 1 byte free."]
    assert page_text(page) == snapshot


def test_what_gateways_report_is_added_up_and_one_that_ejects_shows_until_it_reports_no_more(shown, filled):
    report(filled, "a", outstanding_tokens=70)
    report(filled, "b", outstanding_tokens=5, ejected=2)
    report(filled, "c")
    (row,), page = shown(USED)
    assert (row["state"], row["since"]) == ("ejected", "2026-11-27T02:00:00.000Z")
    assert (row["outstanding_tokens"], row["gateways"], row["ejecting"]) == (75, 3, 1)
    assert "send some or all of their requests elsewhere: 1 of 3." in page
    filled.clock.time += timedelta(seconds=FORGET_S + 1)
    (row,), _ = shown(USED)
    assert (row["state"], row["gateways"], row["outstanding_tokens"]) == ("serving", 0, None)
    filled.clock.time = NOW


def test_an_ejection_is_as_old_as_it_lasts(filled):
    def since(seconds, **uses):
        filled.clock.time = NOW + timedelta(seconds=seconds)
        report(filled, "a", **uses)
        return filled.reports.use(FIRST).since

    assert [since(0, ejected=1), since(2, stalled=True)] == [NOW, NOW]
    assert since(3, outstanding_tokens=1) is None
    assert since(4, ejected=1) == NOW + timedelta(seconds=4)
    filled.clock.time = NOW
    filled.reports._reports.clear()


def test_too_many_processes_are_ignored(filled):
    for number in range(MOST_PROCESSES + 9):
        filled.reports.take(TrafficReport(process=f"{number:08x}", endpoints={}))
    assert filled.reports.use(FIRST).processes == MOST_PROCESSES
    filled.reports._reports.clear()


def test_a_member_of_a_team_sees_how_many_targets_others_have_and_no_name(shown):
    (row,), page = shown(USED.model_copy(update={"copies": ("secret.v1.int8",)}), name="sam")
    assert ([held["target"] for held in row["held"]], row["copies"], row["others"]) == (["shop-bot.v1.int8"], [], 2)
    assert "2 of other teams" in page
    assert not [name for name in ("search-ranker", "secret") if name in page]


@pytest.mark.parametrize(
    "reason",
    [
        "search-ranker.v2.int8 fits on no endpoint: two has 4 MiB free; it needs 900 MiB of memory.",
        "a copy of secret.v1.int8 could not be loaded on two: it failed",
        "shop-bot.v1.int8 could not be loaded elsewhere: beside away.v3.int8 it does not fit",
        "shop-bot.v1.int8 could not be loaded elsewhere: s3://models/search-ranker/2 is gone",
    ],
)
def test_a_member_of_a_team_does_not_learn_by_a_reason_what_others_have(shown, reason):
    waiting = USED.model_copy(update={"drained": True, "waits_for": reason, "copies": ("secret.v1.int8",)})
    (row,), page = shown(waiting, name="sam")
    assert row["reasons"][1:] == ["Not empty yet: a target of another team cannot be moved."]
    assert not [name for name in ("search-ranker", "secret", "away") if name in page]
    assert shown(waiting)[0][0]["reasons"][1:] == [f"Not empty yet: {reason}"]


def test_a_member_of_a_team_sees_why_its_own_target_stays(shown):
    reason = "shop-bot.v1.int8 fits on no endpoint: two has 4 MiB free; it needs 900 MiB of memory."
    (row,), _ = shown(USED.model_copy(update={"drained": True, "waits_for": reason}), name="sam")
    assert row["reasons"][1:] == [f"Not empty yet: {reason}"]


async def test_only_routes_of_what_endpoints_hold_are_read(filled):
    """An installation may have thousands of models, and each open page is read anew with each change."""

    class Noted:
        def read(self, query, values=()):
            rows.extend(read := filled.index.read(query, values))
            return read

    rows = []
    filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(USED,))}
    await Endpoints(filled.fleets, filled.reports, Noted()).seen_by(Person("vera", ("viewer",)))
    assert sorted(row["model"] for row in rows) == ["search-ranker", "shop-bot"]


def test_without_a_list_the_page_says_what_is_missing_and_without_the_bus_what_failed(shown, filled):
    rows, page = shown()
    assert rows == []
    assert "No server-manager has listed its endpoints yet" in page
    filled.fleets.error = Transient("bus_unavailable", "The endpoints cannot be read.")
    try:
        client = filled.client("vera")
        assert client.get("/endpoints").status_code == 503
        answer = client.get("/endpoints")
        assert (answer.status_code, "The endpoints cannot be read." in answer.text) == (503, True)
    finally:
        filled.fleets.error = None


def test_it_needs_a_session(filled):
    client = filled.client()
    assert client.get("/endpoints").status_code == 303


async def test_open_pages_are_told_of_a_change_and_only_of_one(filled):
    hub, looks, notices = Hub(5), [], []
    endpoints = Endpoints(filled.fleets, filled.reports, filled.index)
    stream = hub.stream()
    assert await anext(stream) == "retry: 1000\n\n"
    changes = [USED, USED, USED.model_copy(update={"drained": True}), USED.model_copy(update={"drained": True})]
    (listener,) = hub._waiting

    async def look(seconds):
        notices.append(listener.take())
        if len(looks) == len(changes):
            raise asyncio.CancelledError
        if len(looks) == 1:
            filled.fleets.error = Transient("bus_unavailable", "It does not answer.")
        else:
            filled.fleets.error = None
        filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(changes[len(looks)],))}
        looks.append(seconds)
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await endpoints.announce(hub, look)
    await stream.aclose()
    assert notices == [[], [], [], ["endpoints"], []]
    assert looks == [LOOK_S, LOOK_S, AFTER_ERROR_S, LOOK_S]


async def test_how_long_a_server_manager_has_not_reported_is_shown_anew(filled):
    hub, notices = Hub(5), []
    endpoints = Endpoints(filled.fleets, filled.reports, filled.index)
    filled.fleets.fleets, filled.fleets.silent = {"main": FleetRuntimes(runtimes=(USED,))}, {"main": SINCE}
    stream = hub.stream()
    await anext(stream)
    (listener,) = hub._waiting

    async def look(_seconds):
        notices.append(listener.take())
        if len(notices) > 2 * AGED_AFTER_LOOKS:
            raise asyncio.CancelledError

    try:
        with pytest.raises(asyncio.CancelledError):
            await endpoints.announce(hub, look)
    finally:
        filled.fleets.silent = {}
    await stream.aclose()
    assert [number for number, topics in enumerate(notices) if topics] == [AGED_AFTER_LOOKS, 2 * AGED_AFTER_LOOKS]


@pytest.mark.parametrize(("looks", "then"), [(1, USED), (2, IDLE), (0, USED), (0, IDLE)])
async def test_what_has_changed_since_a_page_was_read_is_announced_also_at_the_first_look(filled, looks, then):
    """A page may be read between two looks that see the same, or before the first one."""
    hub, notices = Hub(5), []
    endpoints = Endpoints(filled.fleets, filled.reports, filled.index)
    filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(IDLE,))}
    stream = hub.stream()
    await anext(stream)
    (listener,) = hub._waiting

    async def look(_seconds):
        notices.append(listener.take())
        if len(notices) == looks + 1:
            filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(USED,))}
            await endpoints.seen_by(Person("vera", ("viewer",)))
            filled.fleets.fleets = {"main": FleetRuntimes(runtimes=(then,))}
        if len(notices) == looks + 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await endpoints.announce(hub, look)
    await stream.aclose()
    assert notices[: looks + 1] == [[]] * (looks + 1)
    is_known = looks == 0 and then is USED
    assert notices[looks + 1 :] == [[] if is_known else ["endpoints"], []]


async def test_a_page_that_was_read_before_a_change_and_opened_after_it_is_told(filled):
    hub, read_at = Hub(5, filled.clock), filled.clock.monotonic()
    filled.clock.time += timedelta(seconds=1)
    hub.announce({"endpoints"})
    filled.clock.time += timedelta(seconds=2)

    async def missed(since):
        stream = hub.stream(("shop-bot",), since=since)
        await anext(stream)
        (listener,) = hub._waiting
        topics = listener.take()
        await stream.aclose()
        return topics

    assert [await missed(read_at), await missed(read_at + 2)] == [["endpoints"], []]
    filled.clock.time = NOW
