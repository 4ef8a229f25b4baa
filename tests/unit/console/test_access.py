"""Who gets in, and what a hostile page, link or request cannot do."""

import asyncio
from datetime import timedelta

import pytest

from services.console.adapters.sessions import IDLE, LONGEST
from services.console.hub import MOST_OF_A_SESSION, Hub
from tests.unit.console.world import NOW, URL, World, context_of

OPEN_RELEASE = "/releases/r-0000000000000031-1"  # code-helper v2 waits for approval


@pytest.fixture(autouse=True)
def _begin_anew(world):
    world.clock.time = NOW
    world.orders.given.clear()


PAGES = ("/", "/fleet", "/releases", OPEN_RELEASE, "/alerts", "/timeline", "/history", "/models/support-bot")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_a_session(world, path):
    answer = world.client().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")


def test_the_stream_needs_a_session(world):
    answer = world.client().get("/stream")
    assert (answer.status_code, "You are not signed in" in answer.text) == (401, True)


def test_a_link_signs_in_once(world):
    token, client = world.link("oscar").split("token=")[1], world.client()
    page = client.get(f"/login?token={token}").text
    assert "signs you in once" in page
    assert "oscar" in page
    assert client.post("/login", data={"token": token, "next": "/alerts"}).headers["location"] == "/alerts"
    assert context_of(client.get("/index"))["person"].name == "oscar"
    second = world.client().post("/login", data={"token": token})
    assert second.status_code == 403
    assert "used already" in second.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda token: token[:-4] + "AAAA", "no key of that name"),
        (lambda token: token.partition(".")[0], "no key of that name"),
        (lambda _: "x" * 3000, "not one of"),
        (lambda _: "é.é", "not one of"),
    ],
)
def test_a_forged_link_signs_nobody_in(world, change, why):
    answer = world.client().post("/login", data={"token": change(world.link("oscar").split("token=")[1])})
    assert answer.status_code in (403, 422)
    assert why in answer.text
    assert "set-cookie" not in answer.headers


def test_a_link_for_another_console_or_an_old_one_signs_nobody_in(world):
    other = world.link("oscar", "https://elsewhere.example").split("token=")[1]
    assert "the link is for" in world.client().post("/login", data={"token": other}).text
    token = world.link("oscar").split("token=")[1]
    world.clock.time = NOW + timedelta(minutes=11)
    assert "expired" in world.client().post("/login", data={"token": token}).text


def test_a_person_who_is_removed_is_signed_out_at_once(tmp_path):
    world = World(tmp_path)
    client = world.client("oscar")
    assert client.get("/index").status_code == 200
    world.keys.remove("oscar")
    assert client.get("/index").status_code == 303
    world.close()


def test_a_session_gets_a_new_value_at_each_sign_in_and_the_one_before_ends(world):
    client = world.client()
    client.cookies.set("slipway-console", "chosen-by-somebody-else")
    client.post("/login", data={"token": world.link("vera").split("token=")[1]})
    first = client.cookies.get("slipway-console", domain="127.0.0.1")
    assert first != "chosen-by-somebody-else"
    client.post("/login", data={"token": world.link("oscar").split("token=")[1]})
    other = world.client()
    other.cookies.set("slipway-console", first)
    assert other.get("/index").status_code == 303


def test_the_cookie_is_for_this_site_only_and_no_script_reads_it(world):
    answer = world.client().post("/login", data={"token": world.link("vera").split("token=")[1]})
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
    assert "secure" not in cookie  # of plain HTTP on this machine


def test_behind_tls_the_cookie_is_bound_to_the_host(world):
    from starlette.testclient import TestClient

    url = "https://console.example.org"
    client = TestClient(world.make(url=url), base_url=url, follow_redirects=False)
    answer = client.post("/login", data={"token": world.link("vera", url).split("token=")[1]})
    assert answer.headers["set-cookie"].startswith("__Host-slipway=")
    assert "secure" in answer.headers["set-cookie"].lower()
    assert "max-age" in answer.headers["strict-transport-security"]


def test_a_session_ends_without_use_and_after_its_longest_time(world):
    client = world.client("vera")
    world.clock.time = NOW + IDLE + timedelta(seconds=1)
    assert client.get("/index").status_code == 303
    world.clock.time = NOW
    client = world.client("vera")
    for hours in range(1, 13):
        world.clock.time = NOW + timedelta(hours=hours)
        status = client.get("/index").status_code
    assert (LONGEST, status) == (timedelta(hours=12), 200)
    world.clock.time = NOW + LONGEST + timedelta(seconds=1)
    assert client.get("/index").status_code == 303


def test_signing_out_ends_the_session_on_the_server(world):
    client = world.client("vera")
    value = client.cookies.get("slipway-console", domain="127.0.0.1")
    assert client.post("/logout", data={"csrf": world.csrf(client)}).status_code == 303
    again = world.client()
    again.cookies.set("slipway-console", value)
    assert again.get("/index").status_code == 303


def form(world, client, **changes):
    return {"csrf": world.csrf(client), "digest": "sha256:" + "a" * 64, "epoch": "0", "reason": "good"} | changes


@pytest.mark.parametrize("token", ["", "x", None])
def test_an_order_without_the_token_of_its_session_is_refused(world, token):
    client = world.client("anna")
    data = form(world, client, csrf=token)
    if token is None:
        del data["csrf"]
    assert client.post(f"{OPEN_RELEASE}/approve", data=data).status_code == 403
    assert world.orders.given == []


def test_the_token_of_another_session_is_refused(world):
    theirs = world.csrf(world.client("oscar"))
    client = world.client("anna")
    assert client.post(f"{OPEN_RELEASE}/approve", data=form(world, client, csrf=theirs)).status_code == 403
    assert world.orders.given == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_orders_nothing(world, headers):
    client = world.client("anna")
    answer = client.post(f"{OPEN_RELEASE}/approve", data=form(world, client), headers=headers)
    assert answer.status_code == 403
    assert world.orders.given == []


def test_another_name_for_the_host_is_refused(world):
    """A name of an attacker that leads to this address makes the browser take its page for the console's."""
    answer = world.client().get("/fleet", headers={"host": "evil.example:8082"})
    assert answer.status_code == 421
    assert URL in answer.text


def test_a_large_body_is_refused_before_it_is_read(world):
    client = world.client("anna")
    answer = client.post(f"{OPEN_RELEASE}/approve", content=b"x" * 70_000)
    assert answer.status_code == 413


def test_a_deep_link_from_another_site_reaches_a_person_who_is_signed_in(world):
    """The browser sends no cookie with it; the page that comes loads the same address again, then it does."""
    answer = world.client().get("/alerts?state=open", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert 'url=/alerts?state=open"' in answer.text


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_leads_to_no_other_site(world, target):
    token = world.link("vera").split("token=")[1]
    answer = world.client().post("/login", data={"token": token, "next": target})
    assert answer.headers["location"] == "/"


def test_every_answer_has_the_policy_that_allows_no_script_within_a_page(world):
    client = world.client("adam")
    for path in (*PAGES[1:], "/login", "/assets/console.js", "/assets/htmx.js", "/nowhere"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path.startswith("/assets/"):
            continue
        assert answer.headers["cache-control"] == "no-store"
        assert "<style" not in answer.text, path
        assert " style=" not in answer.text, path
        assert " onclick=" not in answer.text, path
        assert "<script>" not in answer.text, path
        assert "http://" not in answer.text.replace(URL, "").replace("http://www.w3.org", ""), path
        assert "https://" not in answer.text, path


@pytest.mark.parametrize("path", ["/assets/../settings.py", "/assets/%2e%2e/settings.py", "/assets/../../../README.md"])
def test_only_assets_are_served_as_files(world, path):
    answer = world.client().get(path)
    assert answer.status_code in (404, 303)
    assert "BaseSettings" not in answer.text


def test_the_page_of_a_link_names_who_it_signs_in_although_another_person_is_signed_in(world):
    token = world.link("oscar").split("token=")[1]
    page = world.client("vera").get(f"/login?token={token}").text
    assert "oscar" in page
    assert world.client().get("/login?token=nonsense").status_code == 200


@pytest.mark.parametrize("path", ["/metricsx", "/healthz/x", "/readyz-all"])
def test_only_the_probes_themselves_are_answered_without_the_check_of_the_host_and_the_policy(world, path):
    assert "script-src 'self'" in world.client().get(path).headers["content-security-policy"]
    assert world.client().get(path, headers={"host": "evil.example"}).status_code == 421


def test_a_session_has_a_limited_number_of_live_pages():
    async def go():
        hub = Hub(100)
        streams = [hub.stream(None, "a") for _ in range(MOST_OF_A_SESSION)]
        for stream in streams:
            await anext(stream)
        state = hub.is_full("a"), hub.is_full("b")
        await streams[0].aclose()
        return *state, hub.is_full("a")

    assert asyncio.run(go()) == (True, False, False)


@pytest.mark.parametrize("busy", [False, True])
def test_a_live_page_ends_with_its_session(busy):
    async def go():
        hub, answers = Hub(10), iter([True, False])
        stream = hub.stream(None, "a", lambda: next(answers), keep_alive_s=0.05)
        async with asyncio.timeout(5):
            async for _line in stream:
                for listener in hub._waiting if busy else ():
                    listener.add({"model:m"})
        return hub.listeners

    assert asyncio.run(go()) == 0


def test_looking_whether_a_session_goes_on_does_not_make_it_last(tmp_path):
    world = World(tmp_path)
    value = world.sessions.begin("vera")
    for hours in (1, 2):
        world.clock.time = NOW + timedelta(hours=hours)
        assert world.sessions.find(value, use=False) is not None
    world.clock.time = NOW + IDLE + timedelta(seconds=1)
    assert world.sessions.find(value, use=False) is None
    world.close()
