"""What each role sees, what it may order, and whose order it becomes."""

import pytest

from contracts import facts as f
from contracts.facts import ApprovalDenied, ApprovalGranted, ReleaseCancelled, RollbackOrdered
from contracts.routes import CanaryShare
from contracts.vocabulary import Target
from services.console.domain.people import orders_of
from shared.errors import Transient
from testbed import factories
from testbed.story import Story
from tests.kit.page_text import page_text
from tests.unit.console.world import NOW, World, context_of

CANARY = "r-0000000000000026-1"  # faq-de v2 takes 10 %
RELEASE = "r-0000000000000031-1"  # code-helper v2 waits for approval
ALERT = "/alerts/search-ranker.v2.int8/ttft-p95/4"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("console"))
    made.fill()
    made.routes.routes["search-ranker"] = factories.route(
        model="search-ranker",
        epoch=6,
        active=factories.served(2, "int8", "search-ranker"),
        previous=factories.served(1, "int8", "search-ranker"),
        canary=None,
        quarantined=(),
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_orders(world):
    world.orders.given.clear()


def post(world, name, path, **fields):
    client = world.client(name)
    return client.post(path, data={"csrf": world.csrf(client), "reason": "because"} | fields)


def test_roles_allow_what_the_bus_permits_them():
    assert orders_of(["viewer"]) == frozenset()
    assert orders_of(["publisher"]) == frozenset()
    assert orders_of(["approver"]) == {"approve", "reject", "promote"}
    assert orders_of(["operator"]) == {"cancel", "hold", "rollback"}
    assert orders_of(["administrator"]) == orders_of(["approver", "operator"])


@pytest.mark.parametrize(
    ("name", "approves", "cancels"),
    [
        ("vera", False, False),
        ("anna", True, False),
        ("oscar", False, True),
        ("adam", True, True),
        ("sam", False, False),
    ],
)
def test_what_a_role_may_not_do_is_not_shown_and_is_refused(world, name, approves, cancels):
    page = world.client(name).get(f"/releases/{RELEASE}").text
    assert (f'action="/releases/{RELEASE}/approve"' in page) is approves
    assert (f'action="/releases/{RELEASE}/reject"' in page) is approves
    assert (f'action="/releases/{RELEASE}/cancel"' in page) is (cancels and not approves)
    digest = "sha256:" + "a" * 64
    refused = 404 if name == "sam" else 403  # the release is not of sam's team
    assert post(world, name, f"/releases/{RELEASE}/approve", digest=digest, epoch="0").status_code == (
        303 if approves else refused
    )
    assert post(world, name, f"/releases/{RELEASE}/reject").status_code == (303 if approves else refused)
    assert post(world, name, f"/releases/{RELEASE}/cancel").status_code == (303 if cancels else refused)
    given = [ApprovalGranted, ApprovalDenied] * approves + [ReleaseCancelled] * cancels
    assert [type(fact) for _, _, fact in world.orders.given] == given
    assert {person for person, _, _ in world.orders.given} <= {name}


def test_an_approval_names_what_was_shown_and_the_epoch(world):
    world.routes.routes["code-helper"] = factories.route(model="code-helper", epoch=3)
    page = world.client("anna").get(f"/releases/{RELEASE}").text
    digest, epoch = (page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("digest", "epoch"))
    world.routes.routes["code-helper"] = factories.route(model="code-helper", epoch=4)
    answer = post(world, "anna", f"/releases/{RELEASE}/approve", digest=digest, epoch=epoch)
    del world.routes.routes["code-helper"]
    assert answer.status_code == 303
    (person, model, fact) = world.orders.given[-1]
    assert (person, model, fact.manifest_digest, fact.release_id) == ("anna", "code-helper", digest, RELEASE)
    assert fact.epoch == 3, "the one of the page: the approval is void, as the route has changed since"
    assert fact.expires_at is not None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"digest": "x", "epoch": "0"},
        {"digest": "sha256:" + "a" * 64},
        {"digest": "sha256:" + "a" * 64, "epoch": "²"},
    ],
)
def test_a_form_that_names_no_digest_and_epoch_approves_nothing(world, fields):
    assert post(world, "anna", f"/releases/{RELEASE}/approve", **fields).status_code == 400
    assert world.orders.given == []


def test_the_person_comes_from_the_session_never_from_the_form(world):
    post(
        world,
        "oscar",
        f"/releases/{RELEASE}/cancel",
        person="adam",
        sender="adam",
        source="/slipway/adam",
        actor="adam",
    )
    assert [person for person, _, _ in world.orders.given] == ["oscar"]


def test_a_rollback_is_planned_first_and_needs_a_reason(world, snapshot):
    client = world.client("oscar")
    alert = client.get(ALERT).text
    link = alert.split('class="button danger" href="')[1].split('"')[0].replace("&amp;", "&")
    assert page_text(client.get(link).text) == snapshot
    assert world.orders.given == []
    fields = {"failed": "search-ranker.v2.int8", "epoch": "6"}
    refused = post(world, "oscar", "/models/search-ranker/rollback", **fields, reason="   ")
    assert (refused.status_code, world.orders.given) == (422, [])
    assert post(world, "oscar", "/models/search-ranker/rollback", **fields, reason="too slow").status_code == 303
    ((person, model, fact),) = world.orders.given
    assert (person, model, fact.reason, fact.epoch) == ("oscar", "search-ranker", "too slow", 6)
    assert isinstance(fact, RollbackOrdered)
    assert fact.failed == Target(model="search-ranker", version=2, variant="int8")


@pytest.mark.parametrize("name", ["vera", "anna", "sam"])
def test_who_may_not_roll_back_sees_no_button_and_is_refused(world, name):
    assert "Roll back …" not in world.client(name).get(ALERT).text
    fields = {"failed": "search-ranker.v2.int8", "epoch": "6"}
    assert post(world, name, "/models/search-ranker/rollback", **fields).status_code == 403
    assert world.orders.given == []


def test_without_the_bus_the_page_of_a_rollback_says_so(world):
    world.routes.error = Transient("bus_unavailable", "The bus does not answer.")
    page = world.client("oscar").get("/models/search-ranker/rollback")
    world.routes.error = None
    assert page.status_code == 503
    assert "The bus does not answer." in page.text
    assert "Roll back now" not in page.text


def test_without_the_bus_the_page_of_a_release_is_shown_and_nothing_can_be_approved(world):
    anna = world.client("anna")
    form = f'action="/releases/{RELEASE}/approve"'
    assert form in anna.get(f"/releases/{RELEASE}").text
    world.routes.error = Transient("bus_unavailable", "The bus does not answer.")
    page = anna.get(f"/releases/{RELEASE}")
    world.routes.error = None
    assert (page.status_code, form in page.text) == (200, False)


def test_a_plan_says_why_a_rollback_would_be_refused(world):
    page = world.client("oscar").get("/models/search-ranker/rollback?target=search-ranker.v9.int8").text
    assert "would be refused" in page
    assert "Roll back now" not in page


@pytest.mark.parametrize(
    "fields",
    [
        {"failed": "", "epoch": "6"},
        {"failed": "search-ranker.v2.int8", "epoch": "-1"},
        {"failed": "faq-de.v1.int8", "epoch": "6"},
    ],
)
def test_a_form_that_names_no_target_of_the_model_orders_nothing(world, fields):
    assert post(world, "oscar", "/models/search-ranker/rollback", **fields).status_code == 400
    assert world.orders.given == []


def test_without_a_credential_of_the_person_nothing_is_offered(tmp_path):
    world = World(tmp_path)
    client = world.client("oscar")
    world.keys.credential("oscar").unlink()
    person = context_of(client.get("/index"))["person"]
    assert person.orders == frozenset()
    assert "no credential of oscar" in person.hint
    world.close()


def test_an_operator_pauses_and_resumes_a_release(world):
    page = world.client("oscar").get(f"/releases/{CANARY}").text
    assert (f"/releases/{CANARY}/pause" in page, f"/releases/{CANARY}/resume" in page) == (True, False)
    answer = post(world, "oscar", f"/releases/{CANARY}/pause")
    assert answer.status_code == 303
    assert answer.headers["location"].endswith(f"?release={CANARY}")
    post(world, "oscar", f"/releases/{CANARY}/resume")
    given = [(type(fact), fact.paused, fact.reason) for _, _, fact in world.orders.given]
    assert given == [(f.ReleaseHeld, True, "because"), (f.ReleaseHeld, False, "because")]
    assert post(world, "anna", f"/releases/{CANARY}/pause").status_code == 403


@pytest.mark.parametrize("share", [0.1, 0.00001])
def test_an_approver_promotes_the_share_that_was_shown(world, share):
    route = factories.route(
        model="faq-de", epoch=5, active=factories.served(1, "int8", "faq-de"),
        canary=CanaryShare(served=factories.served(2, "int8", "faq-de"), weight_ratio=share), shadow=None,
    )  # fmt: skip
    world.routes.routes["faq-de"] = route
    page = world.client("anna").get(f"/releases/{CANARY}").text
    shown = {name: page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("share", "epoch")}
    assert post(world, "anna", f"/releases/{CANARY}/promote", **shown).status_code == 303
    del world.routes.routes["faq-de"]
    ((_, _, fact),) = world.orders.given
    assert (type(fact), fact.weight_ratio, fact.epoch) == (f.CanaryAdvanced, share, 5)
    assert f"/releases/{CANARY}/promote" not in world.client("oscar").get(f"/releases/{CANARY}").text
    assert post(world, "oscar", f"/releases/{CANARY}/promote", **shown).status_code == 403


@pytest.mark.parametrize("fields", [{}, {"share": "1"}, {"share": "0.1"}, {"share": "nan", "epoch": "5"}])
def test_a_form_that_names_no_share_and_epoch_promotes_nothing(world, fields):
    assert post(world, "anna", f"/releases/{CANARY}/promote", **fields).status_code == 400
    assert world.orders.given == []


def test_the_page_of_an_order_follows_it_until_what_serves_is_verified(tmp_path, snapshot):
    made, story = World(tmp_path), Story(NOW)
    events = [*story.release("shop-bot", 1, 1), *story.release("shop-bot", 2, 2)]
    order = factories.fact(f.RollbackOrdered, failed=story.active("shop-bot"), reason="Too slow.")
    ordered = story.event(order, "shop-bot", "o-1", by="sam")
    story.wait(0.4)
    rolled_back = list(story.rollback("shop-bot", ordered, mode="manual"))
    client, path = made.client("sam"), f"/models/shop-bot/orders/{ordered.id}"
    seen = []
    for known in range(len(rolled_back) + 1):
        made.fill([*events, ordered, *rolled_back[:known]])
        seen.append(page_text(client.get(path).text))
    assert seen == snapshot
    made.fill([*events, ordered, *rolled_back, *story.release("shop-bot", 3, 3)])
    later = page_text(client.get(path).text)
    assert "shop-bot.v1.int8 served, verified. shop-bot.v3.int8 serves now." in later
    assert "Too slow" not in page_text(made.client("adam").get(f"/models/bank-bot/orders/{ordered.id}").text)
    assert client.get(f"/models/bank-bot/orders/{ordered.id}").status_code == 404
    made.close()


def test_an_event_that_is_no_order_has_no_page_of_an_order(world):
    events = world.index.read("SELECT id, type FROM events WHERE model = 'search-ranker'")
    of_alert = next(event["id"] for event in events if event["type"] == "alert.raised")
    client = world.client("oscar")
    assert client.get(f"/models/search-ranker/orders/{of_alert}").status_code == 404
    assert client.get("/models/search-ranker/orders/on-its-way").status_code == 200


def test_a_refused_order_says_why(tmp_path):
    made, story = World(tmp_path), Story(NOW)
    events = list(story.release("shop-bot", 1, 1, until="merging"))
    held = story.event(factories.fact(f.ReleaseHeld, release_id=RELEASE, paused=True), "shop-bot", RELEASE, by="oscar")
    refused = factories.fact(
        f.OrderRefused, order_id=held.id, order_type=held.data.TYPE, code="stale_epoch", reason="No."
    )
    made.fill([*events, held, story.event(refused, "shop-bot", RELEASE)])
    page = made.client("oscar").get(f"/models/shop-bot/orders/{held.id}?release={RELEASE}").text
    assert "The order was refused: <code>stale_epoch</code>: No." in page
    assert f'href="/releases/{RELEASE}">Continue' in page
    assert made.client("oscar").get(f"/models/shop-bot/orders/{held.id}?release=//evil").status_code == 422
    made.close()
