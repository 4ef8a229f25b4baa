"""Callers and their keys: who is answered, what a key opens, and what its bearer may use."""

import asyncio
from datetime import timedelta

import pytest

from contracts.api_keys import ApiKey, KeyLimits
from decisions.access.api_keys import format_key
from services.gateway.adapters.files import RecordFile
from services.gateway.callers.tables import KeyTable
from shared.storage.kv import Bucket, Snapshot
from shared.storage.record_format import dump
from testbed.factories import MODEL, route
from tests.kit.drills import drill
from tests.kit.records import dump_newer
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import (
    BEARER,
    HELLO,
    ID,
    ISSUED,
    OTHER,
    OTHER_KEY,
    SECRET,
    STAGING,
    World,
    key,
    only_active,
)

BUCKET = Snapshot("made", frozenset())


def world(*keys, **changes) -> World:
    return World(only_active(), staging=[only_active()], keys=keys, **changes)


async def test_a_caller_with_a_key_is_answered():
    assert (await world(key()).chat(BEARER)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer sk-slipway-"},
        {"authorization": f"Basic {format_key(ID, SECRET)}"},
        {"authorization": f"Bearer {format_key(ID, 'cd' * 32)}"},
        {"authorization": f"Bearer {format_key('ba9876543210', SECRET)}"},
        [("authorization", BEARER["authorization"]), ("authorization", BEARER["authorization"])],
    ],
)
async def test_a_caller_without_one_is_not(headers):
    gateway = world(key())
    answer = await gateway.chat(headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not gateway.engine.requests
    assert not gateway.records


async def test_a_key_of_the_installation_counts_once_it_is_known_which_were_revoked():
    """A gateway without the bus, and without a list of its last run, does not know."""
    gateway = world()
    gateway.keys.install({ID: key()})
    unknown = await gateway.chat(BEARER)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "keys_unknown")
    assert unknown.headers["retry-after"] == "2"
    assert (await gateway.chat({})).status_code == 401, "no key is no key"
    await gateway.keys.note_bucket(BUCKET)
    assert (await gateway.chat(BEARER)).status_code == 200
    await gateway.keys.apply(ID, key(revoked_at=ISSUED), 1)
    assert (await gateway.chat(BEARER)).json()["error"]["code"] == "key_revoked"


async def test_revoked_and_expired_keys_end():
    for changes, code in (
        ({"revoked_at": ISSUED}, "key_revoked"),
        ({"expires_at": ISSUED + timedelta(hours=1)}, "key_expired"),
    ):
        answer = await world(key(**changes)).chat(BEARER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


async def test_a_key_opens_staging_only_if_it_says_so():
    assert (await world(key()).chat({**BEARER, **STAGING})).status_code == 403
    assert (await world(key(environments=("staging",))).chat({**BEARER, **STAGING})).status_code == 200


async def test_a_model_that_a_key_does_not_open_does_not_exist_for_its_bearer():
    other, own = world(key(models=("other-bot",))), world(key(models=(MODEL,)))
    answer = await other.chat(BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    unknown = await own.chat(BEARER, model="other-bot")
    assert unknown.json()["error"]["message"].replace("other-bot", MODEL) == answer.json()["error"]["message"]
    assert (await other.http.get("/v1/models", headers=BEARER)).json()["data"] == []
    assert (await own.http.get("/v1/models", headers=BEARER)).json()["data"] != []
    assert (await own.http.get("/v1/models")).status_code == 401
    assert own.metric('slipway_gateway_rejected_total{environment="production",status="401"}') != []


async def test_probes_need_no_key():
    gateway = world(key())
    for client, path in ((gateway.http, "/healthz"), (gateway.admin, "/healthz"), (gateway.admin, "/readyz")):
        assert (await client.get(path)).status_code == 200
    assert (await gateway.admin.get("/metrics/")).status_code == 200


async def test_callers_see_no_probes_and_no_metrics():
    """They name models, targets and drills."""
    gateway = world(key())
    for path in ("/readyz", "/metrics", "/metrics/", "/readyz/"):
        assert (await gateway.http.get(path, headers=BEARER)).status_code == 404
    assert (await gateway.admin.get("/v1/models", headers=BEARER)).status_code == 404
    assert (await gateway.admin.post("/v1/chat/completions", json=HELLO, headers=BEARER)).status_code == 404


async def test_requests_above_the_limit_of_a_minute_wait():
    gateway = world(key(limits=KeyLimits(requests_per_minute=2)))
    first, second, third = [await gateway.chat(BEARER) for _ in range(3)]
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    await gateway.clock.pause(float(third.headers["retry-after"]))
    assert (await gateway.chat(BEARER)).status_code == 200


async def test_tokens_that_an_answer_used_count():
    gateway = world(key(limits=KeyLimits(tokens_per_minute=3)))  # one request may take more than the limit
    assert (await gateway.chat(BEARER)).status_code == 200
    used = sum(record.input_tokens + record.output_tokens for record in gateway.records)
    assert used >= 3
    refused = await gateway.chat(BEARER)
    assert (refused.status_code, refused.headers["x-ratelimit-limit-tokens"]) == (429, "3")
    await gateway.clock.pause(60.0 * used / 3)
    assert (await gateway.chat(BEARER)).status_code == 200


async def test_one_caller_whose_answers_do_not_end_leaves_capacity_for_others():
    """Of eight places, one is for callers that have none."""
    engine = FakeEngine(gate=asyncio.Event())
    gateway = world(key(), OTHER_KEY, engine=engine)
    asked = [asyncio.ensure_future(gateway.chat(BEARER)) for _ in range(8)]
    (done,), waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    refused = done.result()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
    assert "You have 7 of the 8 requests in flight" in refused.json()["error"]["message"]
    other = asyncio.ensure_future(gateway.chat(OTHER))
    await asyncio.sleep(0)
    engine.gate.set()
    assert (await other).status_code == 200
    assert [(await answer).status_code for answer in waiting] == [200] * 7


async def test_limits_of_one_key_are_not_those_of_another():
    other = key(key_id="ba9876543210", limits=KeyLimits(requests_per_minute=1))
    gateway = world(key(limits=KeyLimits(requests_per_minute=1)), other)
    theirs = {"authorization": f"Bearer {format_key('ba9876543210', SECRET)}"}
    answers = [await gateway.chat(headers) for headers in (BEARER, BEARER, theirs)]
    assert [answer.status_code for answer in answers] == [200, 429, 200]


async def test_a_changed_limit_counts_at_once_and_forgets_nothing():
    gateway = world(key(limits=KeyLimits(requests_per_minute=2)))
    assert (await gateway.chat(BEARER)).status_code == 200
    await gateway.keys.apply(ID, key(limits=KeyLimits(requests_per_minute=1)), 2)
    assert (await gateway.chat(BEARER)).status_code == 429
    await gateway.keys.apply(ID, key(limits=KeyLimits(requests_per_minute=3)), 3)
    assert (await gateway.chat(BEARER)).status_code == 200


async def test_an_answer_that_began_before_a_limit_was_set_takes_nothing_of_it_back():
    gateway = world(key())
    before = gateway.callers.authenticate([BEARER["authorization"]], "production")
    with gateway.callers.admit(before) as spending:
        spending.hold(5, 5, expected=1)
        await gateway.keys.apply(ID, key(limits=KeyLimits(requests_per_minute=1, tokens_per_minute=100)), 2)
        assert (await gateway.chat(BEARER)).status_code == 200
        spending.settle(5)
    assert (await gateway.chat(BEARER)).status_code == 429


async def test_a_revoked_key_stays_revoked(tmp_path):
    file = RecordFile(tmp_path / "api-keys.json", ApiKey)
    table = KeyTable(None, file.save)
    await table.apply(ID, key(), 1)
    await table.apply(ID, key(revoked_at=ISSUED), 2)
    await table.apply(ID, key(), 3)
    assert table.get(ID).revoked_at == ISSUED
    again = KeyTable(file.load(), file.save)
    assert again.get(ID) == table.get(ID)
    assert (tmp_path / "api-keys.json").stat().st_mode & 0o077 == 0


async def test_a_record_under_another_id_is_ignored():
    table = KeyTable({}, None)
    await table.apply("ba9876543210", key(), 1)
    assert len(table) == 0


async def test_a_caller_that_hangs_up_frees_its_place():
    gateway = world(key(), max_in_flight=1)
    asked = asyncio.ensure_future(gateway.chat(BEARER))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert (await gateway.chat(BEARER)).status_code == 200


async def test_a_key_of_another_installation_is_not_the_absence_of_one():
    gateway = world(key())
    foreign, none = await gateway.chat({"Authorization": "Bearer sk-foo"}), await gateway.chat({})
    assert (foreign.status_code, none.status_code) == (401, 401)
    assert foreign.json()["error"]["message"] != none.json()["error"]["message"]


async def test_a_name_that_does_not_exist_is_answered_with_the_names_like_it_that_the_key_opens():
    misspelt, hidden = MODEL[:-1], world(key(models=("other-bot",)))
    for gateway, known in ((world(key()), True), (hidden, False)):
        answer = await gateway.chat(BEARER, model=misspelt)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert (f"{MODEL}?" in answer.json()["error"]["message"]) == known


@pytest.mark.parametrize("quarantined", [True, False])
async def test_a_pinned_version_that_is_quarantined_says_so(quarantined):
    served = route()
    gone = served.active.target.model_copy(update={"version": 3})
    gateway = World(served.model_copy(update={"quarantined": (gone,) if quarantined else ()}), keys=(key(),))
    message = (await gateway.chat(BEARER, model=f"{MODEL}@v3")).json()["error"]["message"]
    assert ("quarantined" in message, MODEL in message.partition("ask for ")[2]) == (quarantined, True)
    other = World(served.model_copy(update={"quarantined": (gone,)}), keys=(key(models=("other-bot",)),))
    assert "quarantined" not in (await other.chat(BEARER, model=f"{MODEL}@v3")).text


async def test_a_model_that_serves_nothing_does_not_exist_either_for_a_key_that_does_not_open_it():
    gateway = World(route(canary=None, active=None, previous=None), keys=(key(models=("other-bot",)),))
    idle, unknown = await gateway.chat(BEARER), await gateway.chat(BEARER, model="unknown-bot")
    assert (idle.status_code, idle.json()["error"]["code"]) == (404, "model_not_found")
    assert idle.json()["error"]["message"].replace(MODEL, "unknown-bot") == unknown.json()["error"]["message"]


@pytest.mark.parametrize("reported", [0, 1_000_000])
async def test_a_drill_changes_what_is_reported_and_not_what_is_charged(reported):
    gateway = world(key(limits=KeyLimits(tokens_per_minute=100)))
    started = drill(fault={"output_tokens": reported})
    await gateway.drills.apply(f"production.{MODEL}", started, 1)
    assert (await gateway.chat(BEARER)).status_code == 200
    assert [record.output_tokens for record in gateway.records] == [reported]
    caller = gateway.callers.authenticate([BEARER["authorization"]], "production")
    with gateway.callers.admit(caller) as spending:
        left = spending.headers["x-ratelimit-remaining-tokens"]
    assert left == str(100 - gateway.records[0].input_tokens - HELLO["max_tokens"])


class Saved:
    """Counts how often keys are saved; the disk can be full."""

    def __init__(self) -> None:
        self.times = 0
        self.keys = {}
        self.full = False

    def __call__(self, keys) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.times += 1
        self.keys = keys


async def test_many_keys_are_saved_together_and_a_revoked_one_at_once():
    saved = Saved()
    table = KeyTable({}, saved)
    for number in range(50):
        await table.apply(f"{number:012x}", key(key_id=f"{number:012x}"), number)
    await table.note_bucket(BUCKET)
    await table.note_bucket(BUCKET)
    assert (saved.times, len(saved.keys)) == (1, 50)
    await table.apply(f"{7:012x}", key(key_id=f"{7:012x}", revoked_at=ISSUED), 51)
    assert saved.keys[f"{7:012x}"].revoked_at == ISSUED


async def test_keys_that_could_not_be_saved_are_saved_later():
    saved = Saved()
    table = KeyTable({ID: key()}, saved)
    saved.full = True
    await table.apply(ID, key(revoked_at=ISSUED), 1)
    await table.note_bucket(BUCKET)
    saved.full = False
    await table.note_bucket(BUCKET)
    assert saved.keys[ID].revoked_at == ISSUED


async def test_a_gateway_that_does_not_know_its_keys_yet_is_not_ready():
    assert (await world().admin.get("/readyz")).status_code == 503
    assert (await world(key()).admin.get("/readyz")).status_code == 200  # saved ones are enough
    gateway = world()
    for bucket, status in ((Snapshot(None, frozenset()), 503), (BUCKET, 200)):
        await gateway.keys.note_bucket(bucket)
        answer = await gateway.admin.get("/readyz")
        assert answer.status_code == status
        assert answer.json()["checks"]["keys"] == ("0" if status == 200 else "not known yet")


async def test_what_requests_may_take_is_held_until_they_end():
    """A limit cannot be overrun by sending many requests at once, and what was not used comes back."""
    gateway = world(key(limits=KeyLimits(tokens_per_minute=1000)))
    caller = gateway.callers.authenticate([BEARER["authorization"]], "production")
    with gateway.callers.admit(caller) as spending:
        spending.hold(400, 590, expected=100)
        assert spending.headers["x-ratelimit-remaining-tokens"] == "10"
        refused = await gateway.chat(BEARER)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert not gateway.engine.requests
        spending.correct(20)
        assert spending.headers["x-ratelimit-remaining-tokens"] == "390"
        assert (await gateway.chat(BEARER)).status_code == 200
        (record,) = gateway.records
        spending.settle(25)
        spending.settle(900)
    left = 1000 - 25 - record.input_tokens - record.output_tokens
    assert spending.headers["x-ratelimit-remaining-tokens"] == str(left)


async def test_a_request_that_is_refused_after_its_admission_holds_nothing():
    gateway = world(key(limits=KeyLimits(tokens_per_minute=1000)))
    for changes in ({"n": 1000}, {"model": "unknown-bot"}, {"nonsense": 1}):
        assert (await gateway.chat(BEARER, **changes)).status_code in (400, 404)
    left = (await gateway.chat(BEARER)).headers["x-ratelimit-remaining-tokens"]
    assert int(left) > 1000 - 500


class SilentEngine(FakeEngine):
    """It takes a request and answers nothing."""

    async def send(self, _endpoint, _target, request):
        self.requests.append(request)
        await asyncio.Event().wait()
        yield


async def test_hanging_up_before_the_first_token_is_not_free():
    gateway = world(key(limits=KeyLimits(tokens_per_minute=6000)), engine=SilentEngine())
    asked = asyncio.ensure_future(gateway.chat(BEARER, messages=[{"role": "user", "content": "x" * 4000}]))
    while not gateway.engine.requests:
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    caller = gateway.callers.authenticate([BEARER["authorization"]], "production")
    with gateway.callers.admit(caller) as spending:
        assert 4900 < int(spending.headers["x-ratelimit-remaining-tokens"]) < 5100


def test_a_key_of_a_newer_version_is_accepted_only_as_revoked():
    """A field that this version does not know may limit it."""
    bucket = Bucket(None, "api-keys", ApiKey)

    assert bucket.read(ID, dump(key())) == key()
    assert bucket.read(ID, dump_newer(key())) is None
