"""The console as a process on a real bus: its index follows the log, and orders are those of the person."""

import asyncio
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import nats.errors
import pytest

from contracts.api_usage import TRAFFIC_PREFIX, EndpointUse, TrafficReport
from contracts.envelope import nats_subject, plain
from contracts.facts import RollbackOrdered
from contracts.identities import Credential
from contracts.routes import Route
from contracts.running import RUNNING_PREFIX
from contracts.runtimes import FleetRuntime, FleetRuntimes, RunningTarget
from contracts.services import ORDERS
from contracts.vocabulary import canonical_json
from services.console.follower import WAIT_S
from shared.messaging.provision import provision
from shared.provenance.login_links import login_link
from shared.storage.kv import Bucket
from shared.storage.record_format import dump
from testbed import factories
from testbed.browser import chromium, grave_findings, open_window
from testbed.progress import with_progress
from testbed.servers import NatsServer, connection, running, wait_until
from testbed.services import running_service
from testbed.story import Story, fleet
from tests.kit.page_text import page_text


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(NatsServer(tmp_path_factory.mktemp("nats"))) as started:
        for name, role in (("vera", "viewer"), ("oscar", "operator")):
            started.keys.add(name, [role])
        started.reload()
        for name in ("vera", "oscar"):
            wait_until(lambda name=name: asyncio.run(accepts(started, name)), what=f"the bus accepting {name}")
        asyncio.run(fill(started))
        yield started


async def accepts(server, name):
    """Return whether the bus has read its identities again and accepts a person."""
    try:
        client = await server.connect(name, allow_reconnect=False)
    except nats.errors.Error:
        return False
    await client.close()
    return True


async def fill(server):
    client = await server.connect()
    js = client.jetstream(timeout=20)
    await provision(js)
    for event in fleet(datetime.now(UTC)):
        await js.publish(event.nats_subject, canonical_json(plain(event)))
    route = factories.route(
        model="search-ranker", epoch=6, active=factories.served(2, "int8", "search-ranker"),
        previous=factories.served(1, "int8", "search-ranker"), canary=None, quarantined=(),
    )  # fmt: skip
    await Bucket(js, "routes", Route).create("search-ranker", route)
    await client.close()


async def publish(server, *events):
    client = await server.connect()
    for event in with_progress(events):
        await client.jetstream().publish(event.nats_subject, canonical_json(plain(event)))
    await client.close()


@pytest.fixture(scope="module")
def console(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    settings = connection(server, None, folder)
    url = f"http://127.0.0.1:{settings.http_port}"
    variables = {
        "CONSOLE_URL": url,
        "CONSOLE_IDENTITIES": str(server.keys.people),
        "CONSOLE_CREDENTIALS": str(server.keys.credential("").parent),
        "CONSOLE_ANSWER_S": "0.3",
    }
    with running_service("services.console.main", settings, **variables) as service:
        wait_until(lambda: answers(url), what="the console")
        yield service, url
    for client in CLIENTS:
        client.close()


CLIENTS: list[httpx.Client] = []


def answers(url):
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def sign_in(server, url, name="oscar"):
    credential = Credential.from_text(server.keys.credential(name).read_text())
    client = httpx.Client(base_url=url, timeout=20)
    CLIENTS.append(client)
    token = login_link(url, credential, datetime.now(UTC)).split("token=")[1]
    assert client.post("/login", data={"token": token}).status_code == 303
    wait_until(lambda: READING not in client.get("/fleet").text, what="the index")
    return client


READING = "Reading the event log"
"""What the head of each page says while the index is far behind."""


def counted(client):
    """Return the numbers at the top of the page of the fleet by what they count."""
    return {
        name: int(number)
        for number, name in re.findall(r"<strong>(\d+)</strong><span>([^<,]+)", client.get("/fleet").text)
    }


def test_the_index_has_the_whole_log_and_continues_after_a_kill(server, console):
    service, url = console
    client = sign_in(server, url)
    totals = counted(client)
    assert (totals["models"], totals["canary"], totals["awaits approval"]) == (6, 1, 1)
    service.kill()
    story = Story(datetime.now(UTC))
    asyncio.run(publish(server, *story.release("late-model", 1, 999, until="merging")))
    service.start()
    wait_until(lambda: answers(url), what="the console")
    wait_until(lambda: counted(client)["models"] == 7, what="the model that came meanwhile")


def test_an_open_page_is_told_of_a_change_as_it_is_stored(server, console):
    _, url = console
    client, story = sign_in(server, url), Story(datetime.now(UTC))
    story._number = 50_000
    with client.stream("GET", "/stream", timeout=10) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 1000"
        asyncio.run(publish(server, *story.release("live-model", 1, 777, until="merging")))
        topics = next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
    assert "model:live-model" in topics
    assert "live-model" in client.get("/releases?model=live-model").text.split("<tbody>")[1]


async def store(server, key, value):
    """Store a record of server-manager."""
    client = await server.connect()
    await (await client.jetstream().key_value("servers")).put(key, value)
    await client.close()


async def report_use(server, endpoint, tokens=40):
    client = await server.connect("gateway")
    use = EndpointUse(outstanding_tokens=tokens, ejected=1)
    report = TrafficReport(process="0123456789abcdef", endpoints={endpoint.endpoint: use})
    await client.publish(f"{TRAFFIC_PREFIX}.{report.process}", report.model_dump_json().encode())
    await client.close()


ENDPOINT = FleetRuntime(
    name="default",
    endpoint_name="triton-2",
    endpoint="a:1",
    answers=True,
    targets=(RunningTarget(target=factories.target(2, "int8", "search-ranker"), phase="ready"),),
)
LISTED = dump(FleetRuntimes(runtimes=(ENDPOINT,)))


def test_endpoints_are_those_of_server_manager_with_what_gateways_report(server, console):
    _, url = console
    client = sign_in(server, url)
    assert "No server-manager has listed its endpoints" in client.get("/endpoints").text
    with client.stream("GET", "/stream", timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 1000"
        asyncio.run(store(server, "main.runtimes", LISTED))
        asyncio.run(report_use(server, ENDPOINT))
        shown = page_text(client.get("/endpoints").text)
        topics = next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
    (row,) = [line for line in shown.splitlines() if line.startswith("triton-2")]
    assert all(part in row for part in ("ejected", "search-ranker v2 int8 active", "| 40")), row
    assert topics == ["endpoints"]
    assert "No server-manager of the fleet main reports" in shown
    asyncio.run(store(server, "main.leader", b'{"holder": "one", "term": 1}'))
    assert "No server-manager of the fleet" not in client.get("/endpoints").text


def beside(work):
    """Run a coroutine in another thread: Playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def open_narrow(browser, server, url, name="oscar"):
    """Return a page of a signed-in person in a narrow window, and what its browser does."""
    page, observed = open_window(browser)
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(login_link(url, Credential.from_text(server.keys.credential(name).read_text()), datetime.now(UTC)))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Fleet", exact=True).wait_for()
    return page, observed


def test_in_a_narrow_window_no_page_is_cut_and_links_have_names(server, console):
    _, url = console
    asyncio.run(store(server, "main.runtimes", LISTED))
    alerts = re.findall(r'href="(/alerts/[^"?]+)"', sign_in(server, url).get("/alerts").text)
    assert alerts
    with chromium() as browser:
        page, _ = open_narrow(browser, server, url)
        cut = {}
        for path in (
            "/fleet",
            "/alerts",
            "/timeline",
            "/endpoints",
            "/history",
            "/models/search-ranker",
            "/models/search-ranker/versions/2",
            *alerts,
        ):
            page.goto(url + path)
            cut[path] = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert {path: wide for path, wide in cut.items() if wide > 0} == {}
        page.goto(f"{url}/endpoints")
        assert grave_findings(page) == []
        page.goto(f"{url}/fleet")
        assert grave_findings(page) == []
        assert page.locator("td[data-label='TTFT p95']").count() > 0
        for name in ("Fleet", "Releases", "History"):
            assert page.get_by_role("navigation", name="Screens").get_by_text(name, exact=True).is_visible()


def test_an_incident_is_acknowledged_and_open_pages_of_others_say_so(server, console):
    _, url = console
    with chromium() as browser:
        (page, observed), (other, _) = open_narrow(browser, server, url), open_narrow(browser, server, url, "vera")
        other.wait_for_selector("html[data-connection=live]")
        page.goto(f"{url}/alerts")
        incident = page.get_by_role("region", name="Alert ttft-p95 about search-ranker.v2.int8")
        incident.get_by_role("button", name="Acknowledge").click()
        page.get_by_text("acknowledged by oscar").wait_for()
        other.get_by_text("acknowledged by oscar").wait_for()
        assert page.url == f"{url}/alerts"
        assert observed.problems == []


def test_a_page_that_is_replaced_stays_where_a_person_moved_and_marked_it(server, console):
    _, url = console
    asyncio.run(store(server, "main.runtimes", LISTED))
    with chromium() as browser:
        page, observed = open_narrow(browser, server, url)
        page.set_viewport_size({"width": 840, "height": 800})  # a narrower window shows cards, which do not scroll
        page.goto(f"{url}/endpoints")
        page.wait_for_selector("html[data-connection=live]")
        table = page.locator(".scroll")
        table.evaluate("part => { part.scrollLeft = 20; part.focus(); }")

        def wait_for_tokens(tokens):
            def is_shown():
                beside(report_use(server, ENDPOINT, tokens))
                return page.get_by_role("cell", name=str(tokens), exact=True).count() == 1

            wait_until(is_shown, what=f"{tokens} tokens on the page")

        def where():
            return page.evaluate("[document.querySelector('.scroll').scrollLeft, document.activeElement.className]")

        wait_for_tokens(71)
        assert where() == [20, "scroll"]
        page.evaluate("getSelection().selectAllChildren(document.querySelector('td strong'))")
        beside(report_use(server, ENDPOINT, 72))
        page.wait_for_selector("[data-used]")
        assert page.evaluate("getSelection().toString()") == "triton-2"
        page.evaluate("getSelection().removeAllRanges()")
        wait_for_tokens(73)
        assert where() == [20, "scroll"]
        assert observed.problems == []


def test_an_order_is_stored_with_the_person_as_its_sender(server, console):
    _, url = console
    client = sign_in(server, url)
    page = client.get("/models/search-ranker/rollback").text
    assert "search-ranker.v2.int8 → <strong>search-ranker.v1.int8</strong>" in page
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.split("<main")[1]))
    assert (form["failed"], form["epoch"]) == ("search-ranker.v2.int8", "6")
    form["reason"] = "too <script>slow</script>"
    answer = client.post("/models/search-ranker/rollback", data=form)
    assert answer.status_code == 303, answer.text
    stored = asyncio.run(last_order(server))
    assert stored.subject == nats_subject(RollbackOrdered.TYPE, "search-ranker", "oscar")
    assert json.loads(stored.data)["source"] == "/slipway/oscar"
    wait_until(
        lambda: "too &lt;script&gt;slow" in client.get("/history?sender=oscar").text, what="the order in the history"
    )


def test_without_a_key_of_the_store_all_else_works(server, console):
    _, url = console
    client = sign_in(server, url)
    assert client.get("/models/search-ranker/versions/2").status_code == 200
    answer = client.get("/models/search-ranker/versions/2/proofs")
    assert (answer.status_code, "SLIPWAY_S3_CREDENTIALS" in answer.text) == (200, True)


async def last_order(server):
    client = await server.connect()
    try:
        return await client.jetstream().get_last_msg(ORDERS, ">")
    finally:
        await client.close()


def test_a_bus_that_stands_still_costs_the_page_of_a_rollback_seconds_and_nothing_afterwards(server, console):
    _, url = console
    client = sign_in(server, url)
    server.process.send_signal(signal.SIGSTOP)
    os.waitpid(server.process.pid, os.WUNTRACED)  # until all its threads have stopped
    try:
        page = client.get("/models/search-ranker/rollback")
        assert (page.status_code, "Roll back now" in page.text) == (503, False)
        assert client.get("/readyz").status_code == 503  # asked each second by what runs it
    finally:
        server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: client.get("/models/search-ranker/rollback").status_code == 200, timeout_s=15, what="the plan")
    wait_until(lambda: answers(url), timeout_s=15, what="readiness")


def test_pages_say_that_automatic_rollback_does_not_run_until_its_services_report(server, console):
    _, url = console
    client, needed = sign_in(server, url), ("monitor", "rollback-controller")

    def silent():
        part = client.get("/index").text.split('id="incidents"')[1].split("</aside>")[0]
        return [name for name in needed if name in part]

    async def report():
        """Publish what a process of each service publishes every two seconds."""
        harness = await server.connect()
        for name in needed:
            await harness.publish(f"{RUNNING_PREFIX}.{name}")
        await harness.flush(timeout=5)
        await harness.close()

    def silent_after_reports():
        asyncio.run(report())
        return silent()

    wait_until(lambda: silent() == list(needed), what="both are said to be silent: neither was started")
    wait_until(lambda: silent_after_reports() == [], what="neither is said to be silent")


def test_a_console_that_has_waited_for_events_ends_at_once(server, tmp_path):
    """Answers to requests for events that came too late must not keep the connection, and the process, open."""
    settings = connection(server, None, tmp_path)
    url = f"http://127.0.0.1:{settings.http_port}"
    variables = {
        "CONSOLE_IDENTITIES": str(server.keys.people),
        "CONSOLE_CREDENTIALS": str(server.keys.credential("").parent),
    }
    with running_service("services.console.main", settings, CONSOLE_URL=url, **variables) as service:
        wait_until(lambda: answers(url), what="the console")
        time.sleep(WAIT_S + 1)  # the time is what it shows: each stream is asked for events, and has none
        service.process.terminate()
        assert service.wait_until_dead(10) == 0
