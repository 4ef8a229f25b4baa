"""Orders about records, on fakes: what is stored and removed, once, and what is refused."""

import contextlib
from datetime import timedelta

import pytest
from pydantic import BaseModel

from contracts import facts as f
from contracts.api_keys import ApiKey
from contracts.attachments import Attachment
from contracts.mirrors import Mirror
from contracts.teams import Team
from contracts.vocabulary import digest_of
from services.registry.domain.versions import ModelRecord
from services.registry.ports import model_key
from services.registry.record_orders import RecordOrders
from shared.errors import Permanent
from shared.storage.kv import Entry
from shared.storage.record_format import dump
from testbed.values import route, served
from tests.kit import fakes_registry as k

KEY_ID = "0" * 12
TEAMS = (Team(name="shop", models=("shop-bot",)),)


class Removable(k.FakeRecords):
    async def raw(self, key):
        entry = self.kept.get(key)
        if entry is None:
            return None
        return entry.revision, entry.value if isinstance(entry.value, bytes) else dump(entry.value)

    async def remove(self, key, _revision):
        del self.kept[key]


class World:
    def __init__(self):
        self.buckets = {kind: Removable() for kind in f.ops.RECORDS}
        self.routes = k.FakeRecords()
        self.models = k.FakeRecords()
        self.orders = RecordOrders(self.buckets, lambda: TEAMS, self.routes, self.models, k.FixedClock())

    async def give(self, kind, name, record, before=None, model="all-models", **changes):
        before = dump(before) if isinstance(before, BaseModel) else before
        data = record if record is None or isinstance(record, dict) else record.model_dump(mode="json")
        digest = digest_of(before) if before is not None else None
        fact = f.RecordOrdered(kind=kind, name=name, record=data, before=digest, **changes)
        return await self.orders.carry_out(k.event(fact, "o-1", model=model), k.START)

    def kept(self, kind, name):
        entry = self.buckets[kind].kept.get(name)
        return entry.value if entry is not None else None


@pytest.fixture
def world():
    return World()


def key(**changes):
    fields = {"name": "web", "secret_digest": k.ref("x").digest, "issued_at": k.START, "issued_by": "ana", **changes}
    return ApiKey(key_id=KEY_ID, **fields)


async def test_a_record_is_stored_replaced_and_removed_and_the_same_order_again_changes_nothing(world):
    first, second = Mirror(registry="hub"), Mirror(registry="hub", paused=True)
    for record, before in ((first, None), (second, first), (None, second)):
        for _ in range(2):
            assert (await world.give("mirror", "hub", record, before)).order_id == "o-1"
            assert world.kept("mirror", "hub") == record


def attachment(**groups):
    return Attachment(model=k.MODEL, groups=groups)


def routed(*endpoints):
    """Return a route whose active version is served there."""
    return route(active=served(2, endpoints=endpoints), canary=None, previous=None)


async def test_a_model_that_triton_serves_is_not_attached(world):
    world.routes.kept[k.MODEL] = Entry(routed("127.0.0.1:8001"), 1)
    with pytest.raises(Permanent, match="served by Triton") as refused:
        await world.give("attachment", k.MODEL, attachment(blue=("http://a",)), model=k.MODEL)
    assert refused.value.code == "not_applicable"
    assert world.kept("attachment", k.MODEL) is None


async def test_servers_in_traffic_are_not_detached_and_others_are(world):
    both = attachment(blue=("http://a", "http://b"), green=("http://c",))
    await world.give("attachment", k.MODEL, both, model=k.MODEL)
    world.routes.kept[k.MODEL] = Entry(routed("http://a", "http://b"), 1)
    for left in (None, attachment(green=("http://c",))):
        with pytest.raises(Permanent, match="keep one of its replicas"):
            await world.give("attachment", k.MODEL, left, both, model=k.MODEL)
    fewer = attachment(blue=("http://b", "http://d"))
    await world.give("attachment", k.MODEL, fewer, both, model=k.MODEL)
    assert world.kept("attachment", k.MODEL) == fewer


async def test_while_a_release_is_open_servers_are_added_and_no_group_is_removed(world):
    both = attachment(blue=("http://a", "http://b"), green=("http://c",))
    opened = Entry(ModelRecord(model=k.MODEL, open=("r-7",)), 1)
    world.models.kept[model_key(k.MODEL)] = opened
    with pytest.raises(Permanent, match="r-7 is open and goes to Triton: wait until it has ended, or cancel it"):
        await world.give("attachment", k.MODEL, both, model=k.MODEL)
    world.models.kept.clear()
    await world.give("attachment", k.MODEL, both, model=k.MODEL)
    world.models.kept[model_key(k.MODEL)] = opened
    for left in (None, attachment(blue=("http://a",)), attachment(blue=("http://a",), green=("http://d",))):
        with pytest.raises(Permanent, match="r-7 is open and may use") as refused:
            await world.give("attachment", k.MODEL, left, both, model=k.MODEL)
        assert refused.value.code == "not_applicable"
    more = attachment(blue=("http://b", "http://d"), green=("http://c", "http://e"))
    await world.give("attachment", k.MODEL, more, both, model=k.MODEL)
    assert world.kept("attachment", k.MODEL) == more


async def test_addresses_of_both_families_are_taken(world):
    urls = (
        "http://a",
        "https://K@gpu-1.b:65535/api",
        "http://10.0.0.1:80",
        "http://K@[2001:db8::1]:8000",
        "http://[::1]",
    )
    await world.give("attachment", k.MODEL, attachment(blue=urls), model=k.MODEL)
    assert world.kept("attachment", k.MODEL).urls == urls


@pytest.mark.parametrize(
    "groups",
    [{}, {"blue": ()}, {"Blue": ("http://a",)}, {"blue": ("a:8000",)}, {"blue": ("http://a/v1",)}, {"blue": ("http://a/",)},
     {"blue": ("http://a:65536",)}, {"blue": ("http://a:0",)}, {"blue": ("http://a:80:90",)}, {"blue": ("http://[1::2::3]",)},
     {"blue": ("http://::1",)}, {"blue": ("http://[::1",)}, {"blue": ("http://[::1]b:80",)},
     {"blue": ("http://a", "http://K@a")}, {"blue": ("http://sk-secret@a",)},
     {"blue": ("http://a",), "green": ("http://b",), "red": ("http://c",)}, {"blue": ("http://a",), "green": ("http://a",)}],
)  # fmt: skip
async def test_addresses_that_name_no_replicas_are_refused(world, groups):
    with pytest.raises(Permanent) as refused:
        await world.give("attachment", k.MODEL, {"model": k.MODEL, "groups": groups}, model=k.MODEL)
    assert refused.value.code == "malformed_event"


@pytest.mark.parametrize(
    ("folder", "taken"),
    [("/models/.state/a-1", True), ("models", False), ("/", False), ("/a/../b", False), ("/a/.", False)],
)
async def test_a_folder_of_adapters_is_a_plain_path_from_the_root(world, folder, taken):
    record = {"model": k.MODEL, "groups": {"blue": ("http://a",)}, "adapters": folder}
    with contextlib.nullcontext() if taken else pytest.raises(Permanent, match="adapters"):
        await world.give("attachment", k.MODEL, record, model=k.MODEL)
    assert (world.kept("attachment", k.MODEL) is not None) is taken


async def test_an_order_for_another_record_than_the_one_that_is_there_is_void(world):
    await world.give("policy", k.MODEL, k.policy(), model=k.MODEL)
    for before in (None, k.careful_policy()):
        with pytest.raises(Permanent, match="changed by another command meanwhile") as refused:
            await world.give("policy", k.MODEL, k.policy(on_newer="supersede"), before, model=k.MODEL)
        assert refused.value.code == "not_applicable"
    assert world.kept("policy", k.MODEL) == k.policy()


async def test_a_record_that_cannot_be_read_is_replaced_and_removed(world):
    for record in (Mirror(registry="hub"), None):
        world.buckets["mirror"].kept["hub"] = Entry(b"no record", 7)
        with pytest.raises(Permanent, match="meanwhile"):
            await world.give("mirror", "hub", record, b"another one")
        await world.give("mirror", "hub", record, b"no record")
        assert world.kept("mirror", "hub") == record


async def test_an_order_that_another_writer_overtakes_is_void(world):
    await world.give("mirror", "hub", Mirror(registry="hub"))
    world.buckets["mirror"].conflicts = 1
    with pytest.raises(Permanent, match="meanwhile"):
        await world.give("mirror", "hub", Mirror(registry="hub", paused=True), Mirror(registry="hub"))


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (("policy", k.MODEL, {"gatez": []}), "malformed_event"),
        (("policy", k.MODEL, k.policy(rehearsal="not_required", triggers=k.AUTOMATIC)), "policy_invalid"),
        (("policy", "other-model", k.policy()), "malformed_event"),
        (("mirror", "mlflow", Mirror(registry="hub")), "malformed_event"),
        (("api-key", "1" * 12, key()), "malformed_event"),
        (("api-key", KEY_ID, key(team="bank")), "team_mismatch"),
        (("api-key", KEY_ID, key(team="shop", models=("bank-bot",))), "team_mismatch"),
    ],
)
async def test_a_record_that_is_not_valid_is_refused(world, order, code):
    with pytest.raises(Permanent) as refused:
        await world.give(*order, model=k.MODEL)
    assert refused.value.code == code
    assert not any(bucket.kept for bucket in world.buckets.values())


async def test_a_key_of_a_team_that_is_gone_can_be_revoked(world):
    await world.give("api-key", KEY_ID, key(team="shop"))
    gone = key(team="bank", revoked_at=k.START)
    await world.give("api-key", KEY_ID, gone, key(team="shop"))
    assert world.kept("api-key", KEY_ID) == gone


async def test_an_order_that_expired_changes_nothing(world):
    with pytest.raises(Permanent) as refused:
        await world.give("mirror", "hub", Mirror(registry="hub"), expires_at=k.START - timedelta(seconds=1))
    assert refused.value.code == "order_expired"
