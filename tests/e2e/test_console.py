"""The console in a real browser, on a real stack: a person sees a release, an alert and a rollback, and orders."""

import re
import threading
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from contracts.facts import AlertRaised
from testbed import factories
from testbed.browser import chromium, grave_findings
from testbed.person import Person, printed_link
from testbed.screens import Shown, screens
from testbed.stack import POLICY
from testbed.story import Story
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
MODEL = "helpdesk"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"
SLOW = {"name": "slow", "metric": "ttft_ms", "threshold": 800, "allowed_ratio": 0.1, "min_requests": 10}
MANUAL = {
    **POLICY,
    "promotion": {"mode": "manual"},
    "canary": {"steps": [0.4], "min_requests": 20, "deadline_s": 240},
    "triggers": [{**SLOW, "alpha": 0.01, "action": "manual", "window_s": 5, "cooldown_s": 1}],
}


@pytest.fixture(scope="module")
def stack(module_stack):
    started = module_stack(MONITOR_UPDATE_EVERY_S="2", ROLLBACK_CONTROLLER_PRODUCTION_DRILLS=MODEL)
    started.ok("keys", "add", "anna", "--role", "operator", "--role", "approver")
    return started


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def anna(stack, browser):
    return Person.with_window(browser, "anna")


@pytest.fixture(autouse=True)
def _nothing_but_pages(stack, anna):
    """No script of a text runs, no dialog, no window; no request to another host; no error or refusal in the browser."""
    yield
    assert anna.observed.problems == []
    assert anna.observed.hosts <= {f"127.0.0.1:{stack.part('console')['port']}"}


def test_the_printed_link_signs_in_once(stack, browser, anna):
    link = printed_link(stack, "anna")
    anna.page.goto(link)
    anna.sees("The key of anna signed this link")
    assert grave_findings(anna.page) == []
    anna.sign_in(link)
    anna.sees("No model yet")
    expect(anna.page.get_by_text("operator, approver").last).to_be_visible()
    other = Person.with_window(browser, "somebody")
    other.page.goto(link)
    other.page.get_by_role("button", name="Sign in").click()
    expect(other.page.get_by_role("alert")).to_contain_text("was used already")
    assert grave_findings(other.page) == []
    other.page.context.close()


def test_a_release_appears_and_moves_on_without_a_reload(stack, anna, tiny):
    publishing = threading.Thread(target=stack.publish, args=(MODEL, tiny["one"], "--variant", "bf16"))
    publishing.start()
    anna.follow(MODEL, exact=True)
    anna.follow("v1", exact=True)
    steps = anna.page.get_by_role("list").filter(has_text="admitted")
    expect(steps.get_by_role("listitem").filter(has_text="merged")).to_contain_text("done", timeout=120_000)
    anna.sees("promoted: helpdesk.v1.bf16 takes all production traffic", timeout_s=120)
    expect(anna.page.get_by_role("button", name="Cancel the release")).to_have_count(0)
    publishing.join()


def test_an_approval_a_canary_and_a_promotion(stack, anna, tiny):
    stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=MANUAL)
    anna.open_screen("Releases")
    anna.follow("helpdesk v2")
    anna.sees("You approve exactly", timeout_s=120)
    anna.order("Comment", f"Reads well. {EVIL}", "Approve")
    anna.sees_heading("Canary")
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL) as users:
        anna.sees("promoted: helpdesk.v2.bf16 takes all production traffic", timeout_s=120)
    assert users.failed == []
    anna.sees(EVIL)


def test_a_drill_an_alert_and_a_rollback_with_a_reason(stack, anna):
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    anna.open_screen("Alerts")
    with Users(url, stack.headers, MODEL) as users:
        stack.ok("drill", MODEL, "--fault", "delay_ms=1500", "--share", "0.9", "--for", "120s", "--reason", EVIL)
        anna.follow("slow", exact=True)
        anna.sees_heading("Evidence")
        anna.follow("Roll back")
        anna.sees("dry run: nothing was changed")
        anna.sees("helpdesk.v2.bf16 → helpdesk.v1.bf16")
        assert stack.route(MODEL)["active"]["target"]["version"] == 2
        anna.order("Reason", f"Too slow. {EVIL}", "Roll back now")
        expect(anna.row("rollback")).to_contain_text(EVIL, timeout=60_000)
        stack.ok("drill", MODEL, "--target", "helpdesk.v2.bf16", "--stop", "--reason", "over")
    assert users.failed == []
    assert stack.route(MODEL)["active"]["target"]["version"] == 1
    expect(anna.row("rollback")).to_contain_text("anna")
    anna.open_screen("Timeline")
    expect(anna.row("rollback")).to_contain_text("anna")


def test_a_lifted_quarantine_is_seen_at_once(stack, anna):
    anna.goto(f"/models/{MODEL}")
    quarantined = anna.page.get_by_role("definition").filter(has_text="helpdesk.v2.bf16").first
    expect(quarantined).to_be_visible()
    stack.ok("quarantine", "lift", "helpdesk.v2.bf16", "--reason", EVIL)
    expect(anna.page.get_by_role("definition").filter(has_text=re.compile("^helpdesk.v2.bf16$"))).to_have_count(
        0, timeout=60_000
    )


def test_a_hostile_alert_is_text(stack, anna):
    story, target = Story(datetime.now(UTC)), factories.target(1, "bf16", "evil-bot")
    about = {
        "target": target,
        "alert_id": f"{target}/evil/1",
        "trigger": "evil",
        "message": EVIL,
        "raised_at": story.moment,
    }
    alert = factories.fact(AlertRaised).model_copy(update=about)
    anna.open_screen("Alerts")
    stack.publish_as("monitor", story.event(alert, "evil-bot", about["alert_id"], by="monitor"))
    expect(anna.row("evil")).to_contain_text(EVIL, timeout=60_000)
    anna.follow("evil", exact=True)
    anna.sees(EVIL)
    anna.goto(f"/history?text={quote('<img src=x')}")
    expect(anna.row("alert.raised")).to_contain_text(EVIL)
    assert anna.page.get_by_role("main").locator("img, script").count() == 0


def test_the_keyboard_is_enough(anna):
    for key, name in (("r", "Releases"), ("a", "Alerts"), ("t", "Timeline"), ("h", "History"), ("f", "Fleet")):
        anna.page.keyboard.press("g")
        anna.page.keyboard.press(key)
        anna.sees_heading(name)
    anna.page.keyboard.press("/")
    expect(anna.page.get_by_label("Model")).to_be_focused()
    anna.page.keyboard.type("help")
    anna.page.keyboard.press("Enter")
    anna.page.wait_for_url("**model=help*")
    anna.page.keyboard.press("j")
    anna.page.keyboard.press("Enter")
    anna.sees_heading("What serves")
    anna.page.keyboard.press("?")
    expect(anna.page.get_by_role("dialog", name="Keys")).to_be_visible()
    anna.page.keyboard.press("Escape")
    expect(anna.page.get_by_role("dialog", name="Keys")).to_have_count(0)


@pytest.fixture(scope="module")
def shown(stack):
    (alert,) = stack.events("alert.raised", MODEL)
    second = stack.events("release.opened", MODEL)[-1]["data"]
    return Shown(MODEL, second["release_id"], alert["data"]["alert_id"], "helpdesk.v1.bf16")


def test_axe_finds_nothing_serious_on_any_screen_in_light_and_dark(anna, shown):
    problems = {}
    for address in [screen.address for screen in screens(shown).values()]:
        anna.goto(address)
        anna.page.wait_for_load_state()
        wide = anna.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        problems[address] = grave_findings(anna.page) + ([f"{wide} px too wide"] if wide > 0 else [])
    assert {address: findings for address, findings in problems.items() if findings} == {}
