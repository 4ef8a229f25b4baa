"""The console in a real browser, on a real stack: a person sees a release, an alert and a rollback, and orders."""

import threading
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from contracts.facts import AlertRaised, CheckpointReady
from testbed import factories
from testbed.browser import chromium, grave_findings
from testbed.person import Person, printed_link
from testbed.screens import Shown, screens
from testbed.stack import POLICY
from testbed.story import Story
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
MODEL = "helpdesk"
CUT = """() => [document.documentElement, ...document.querySelectorAll(".scroll")]
  .map((part) => [part.scrollWidth - part.clientWidth, part.closest("section")?.querySelector("h2")?.textContent ?? "page"])
  .filter(([wide]) => wide > 0).map(([wide, name]) => `${name}: ${wide} px are cut`)"""
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"
SLOW = {"name": "slow", "metric": "ttft_ms", "threshold": 800, "allowed_ratio": 0.1, "min_requests": 10}
MANUAL = {
    **POLICY,
    "promotion": {"mode": "manual"},
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": 240},
    "triggers": [{**SLOW, "alpha": 0.01, "action": "manual", "window_s": 5}],
}


@pytest.fixture(scope="module")
def stack(module_stack):
    return module_stack(MONITOR_UPDATE_EVERY_S="2")


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def person(browser):
    return Person.with_window(browser, "local")


@pytest.fixture(autouse=True)
def _nothing_but_pages(stack, person):
    """No script of a text runs, no dialog, no window; no request to another host; no error or refusal in the browser."""
    yield
    assert person.observed.problems == []
    assert person.observed.hosts <= {f"127.0.0.1:{stack.part('console')['port']}"}


def test_the_printed_link_signs_in_once(stack, browser, person):
    link = printed_link(stack)
    person.page.goto(link)
    person.sees("The key of local signed this link")
    assert grave_findings(person.page) == []
    person.sign_in(link)
    person.sees("No model yet")
    expect(person.page.get_by_text("operator, approver").last).to_be_visible()
    other = Person.with_window(browser, "guest")
    other.page.goto(link)
    other.page.get_by_role("button", name="Sign in").click()
    expect(other.page.get_by_role("alert")).to_contain_text("was used already")
    assert grave_findings(other.page) == []
    other.page.context.close()


def test_a_release_appears_and_moves_on_without_a_reload(stack, person, tiny):
    publishing = threading.Thread(target=stack.publish, args=(MODEL, tiny["one"], "--variant", "bf16"))
    publishing.start()
    person.follow(MODEL, exact=True)
    person.follow("v1", exact=True)
    steps = person.page.get_by_role("list").filter(has_text="admitted")
    expect(steps.get_by_role("listitem").filter(has_text="merged")).to_contain_text("done", timeout=120_000)
    person.sees("promoted: helpdesk.v1.bf16 takes all production traffic", timeout_s=120)
    expect(person.page.get_by_role("button", name="Abort the release")).to_have_count(0)
    publishing.join()


def test_an_approval_a_canary_and_a_promotion(stack, person, tiny):
    same_weights = ("--attempt", "2", "--context-tokens", "384")  # merged and measured already
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", *same_weights, policy=MANUAL)
    person.open_screen("Releases")
    person.follow("helpdesk v2")
    person.sees("You approve exactly", timeout_s=120)
    person.order("Comment", f"Reads well. {EVIL}", "Approve")
    person.sees_heading("Canary")
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL) as users:
        person.sees("promoted: helpdesk.v2.bf16 takes all production traffic", timeout_s=120)
    assert users.failed == []
    person.page.get_by_text("History (").click()
    person.sees(EVIL)


def test_a_drill_an_alert_and_a_rollback_with_a_reason(stack, person):
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL) as users:
        fault = ("--fault", "delay_ms=1500", "--share", "0.9", "--for", "10m")
        stack.ok("drill", MODEL, *fault, "--reason", EVIL)
        person.open_screen("Alerts")
        person.follow("slow", exact=True)
        person.sees_heading("Evidence")
        person.follow("Roll back")
        person.sees("dry run: nothing was changed")
        person.sees("helpdesk.v2.bf16 → helpdesk.v1.bf16")
        assert stack.route(MODEL)["active"]["target"]["version"] == 2
        person.order("Reason", f"Too slow. {EVIL}", "Roll back now")
        expect(person.row("rollback")).to_contain_text(EVIL, timeout=60_000)
        stack.ok("drill", MODEL, "--stop", "--reason", "It was detected.")
        person.goto(f"/models/{MODEL}")
    assert users.failed == []
    assert stack.route(MODEL)["active"]["target"]["version"] == 1
    expect(person.row("rollback")).to_contain_text("local")
    person.open_screen("Timeline")
    expect(person.row("rollback")).to_contain_text("local")


def test_a_refused_checkpoint_appears_on_the_screen_of_the_releases(stack, person):
    ready = factories.fact(CheckpointReady, model="refused-bot")
    person.open_screen("Releases")
    stack.publish_as("admin", Story(datetime.now(UTC)).event(ready, "refused-bot", ready.training.run_id, by="admin"))
    (refused,) = stack.await_event("checkpoint.rejected", "refused-bot")
    expect(person.row("refused-bot")).to_contain_text(refused["data"]["code"], timeout=60_000)
    expect(person.row("refused-bot")).to_contain_text(refused["data"]["reason"])
    expect(person.row("refused-bot")).to_contain_text("admin")


def test_a_hostile_alert_is_text(stack, person):
    story, target = Story(datetime.now(UTC)), factories.target(1, "bf16", "evil-bot")
    about = {
        "target": target,
        "alert_id": f"{target}/evil/1",
        "trigger": "evil",
        "message": EVIL,
        "evidence": None,
        "raised_at": story.moment,
    }
    alert = factories.fact(AlertRaised).model_copy(update=about)
    person.open_screen("Alerts")
    stack.publish_as("monitor", story.event(alert, "evil-bot", about["alert_id"], by="monitor"))
    expect(person.row("evil")).to_contain_text(EVIL, timeout=60_000)
    person.follow("evil", exact=True)
    person.sees(EVIL)
    person.goto(f"/history?text={quote('<img src=x')}")
    expect(person.row("alert.raised")).to_contain_text(EVIL)
    assert person.page.get_by_role("main").locator("img, script").count() == 0


def test_the_keyboard_is_enough(person):
    for key, name in (("r", "Releases"), ("a", "Alerts"), ("t", "Timeline"), ("h", "History"), ("f", "Fleet")):
        person.page.keyboard.press("g")
        person.page.keyboard.press(key)
        person.sees_heading(name)
    person.page.keyboard.press("/")
    expect(person.page.get_by_label("Model")).to_be_focused()
    person.page.keyboard.type("help")
    person.page.keyboard.press("Enter")
    person.page.wait_for_url("**model=help*")
    person.page.keyboard.press("j")
    person.page.evaluate(  # a change replaces the table between the two keys
        "() => { const part = document.activeElement.closest('[data-live]');"
        " part.dataset.before = ''; htmx.trigger(part, 'live'); }"
    )
    expect(person.page.locator("[data-before]")).to_have_count(0)
    expect(person.page.locator("td.name a:focus")).to_have_count(1)
    person.page.keyboard.press("Enter")
    person.sees_heading("What serves")
    person.page.keyboard.press("?")
    expect(person.page.get_by_role("dialog", name="Keys")).to_be_visible()
    person.page.keyboard.press("Escape")
    expect(person.page.get_by_role("dialog", name="Keys")).to_have_count(0)


@pytest.fixture(scope="module")
def shown(stack):
    (alert,) = stack.events("alert.raised", MODEL)
    second = stack.events("release.opened", MODEL)[-1]["data"]
    return Shown(MODEL, second["release_id"], alert["data"]["alert_id"], "helpdesk.v1.bf16")


def test_axe_finds_nothing_serious_on_any_screen_in_light_and_dark(person, shown):
    problems = {}
    for screen in screens(shown).values():
        person.goto(screen.address)
        person.page.wait_for_load_state()
        assert person.page.get_by_role("heading", name="That did not work").count() == 0, screen
        problems[screen.address] = grave_findings(person.page) + person.page.evaluate(CUT)
    assert {address: findings for address, findings in problems.items() if findings} == {}
