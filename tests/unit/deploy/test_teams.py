"""Teams in a folder of keys: who belongs to one acts on its models only, and a model belongs to one team at most."""

import json

import pytest

from contracts.facts import ApprovalGranted, CheckpointReady, RollbackOrdered
from contracts.storage.uploads import UPLOADS
from contracts.teams import TeamQuota
from decisions.access.bus_permissions import permissions_of, readable_models
from decisions.access.teams import find_foreign, narrowed
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder
from deploy.identity.store_permissions import access_of
from shared.runtime.clock import SystemClock
from shared.runtime.team_list import TeamList


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    keys = KeyFolder(tmp_path_factory.mktemp("keys"))
    keys.prepare(["127.0.0.1"], SystemClock().now())
    return keys


@pytest.fixture
def keys(made):
    made.set_team("shop", ["shop-bot", "faq-bot"])
    made.set_team("bank", ["bank-bot"])
    yield made
    for identity in made.identities():
        if identity.roles:
            made.remove(identity.name)
    for team in made.teams():
        made.remove_team(team.name)


def published(keys, name):
    """Return the subjects of events that an identity may publish, without its name; a publisher's uploads go along."""
    identity = next(each for each in keys.identities() if each.name == name)
    subjects = permissions_of(narrowed(identity, keys.teams())).publish
    own = {subject.removesuffix(f".{name}") for subject in subjects if subject.startswith("slipway.")}
    uploads = {subject for subject in own if subject.startswith(UPLOADS)}
    announced = {subject for subject in own if subject.startswith(CheckpointReady.TYPE)}
    assert {subject.replace(UPLOADS, CheckpointReady.TYPE) for subject in uploads} == announced
    return own - uploads


def test_members_act_on_the_models_of_their_team_only(keys):
    keys.add("paula", ["publisher", "operator", "approver"], team="shop")
    keys.add("piet", ["publisher"], ["faq-bot"], team="shop")
    keys.add("vera", ["viewer"], team="shop")
    keys.add("olga", ["publisher", "operator"])
    models = {subject.rsplit(".", 1)[1] for subject in published(keys, "paula")}
    assert models == {"shop-bot", "faq-bot"}
    for fact in (CheckpointReady, RollbackOrdered, ApprovalGranted):
        assert f"{fact.TYPE}.shop-bot" in published(keys, "paula")
    assert published(keys, "piet") == {f"{CheckpointReady.TYPE}.faq-bot"}
    assert published(keys, "vera") == set()
    assert f"{RollbackOrdered.TYPE}.*" in published(keys, "olga")
    config = keys.server_config.read_text()
    assert f"{RollbackOrdered.TYPE}.shop-bot.paula" in config
    assert f"{RollbackOrdered.TYPE}.*.paula" not in config


def test_a_command_learns_from_its_permissions_which_models_it_may_read(keys):
    keys.add("vera", ["viewer"], team="shop")
    keys.add("olga", ["operator"])
    keys.add("adam", ["administrator"])
    allowed = {each.name: permissions_of(narrowed(each, keys.teams())).publish for each in keys.identities()}
    assert readable_models(allowed["vera"]) == ("shop-bot", "faq-bot")
    assert readable_models(allowed["olga"]) is None
    assert readable_models(allowed["adam"]) is None
    assert readable_models([">"]) is None
    member = next(each for each in keys.identities() if each.name == "vera")
    assert readable_models(permissions_of(narrowed(member, ())).publish) == ()
    assert all(subject not in allowed["vera"] for subject in allowed["olga"] if "STREAM.MSG.GET" in subject)


def test_other_models_of_a_team_count_at_once(keys):
    keys.add("paula", ["publisher"], team="shop")
    keys.set_team("shop", ["new-bot"])
    assert published(keys, "paula") == {f"{CheckpointReady.TYPE}.new-bot"}
    assert f"{CheckpointReady.TYPE}.new-bot.paula" in keys.server_config.read_text()
    listed = {team["name"]: team["models"] for team in json.loads(keys.team_list.read_text())}
    assert listed == {"shop": ["new-bot"], "bank": ["bank-bot"]}
    assert keys.team_list.stat().st_mode & 0o777 == 0o644


def test_what_would_break_the_rules_of_teams_is_refused(keys):
    keys.add("paula", ["publisher"], team="shop")
    for change, reason in (
        (lambda: keys.set_team("bank", ["bank-bot", "shop-bot"]), "shop-bot belongs to shop"),
        (lambda: keys.set_team("bank", []), "--model"),
        (lambda: keys.set_team("Bank!", ["x"]), "cannot be a name"),
        (lambda: keys.remove_team("shop"), "paula belong to shop"),
        (lambda: keys.remove_team("none"), "no team none"),
        (lambda: keys.add("x", ["publisher"], team="none"), "slipway keys team set"),
        (lambda: keys.add("x", ["publisher"], ["bank-bot"], team="shop"), "does not belong to shop"),
        (lambda: keys.add("x", ["administrator"], team="shop"), "An administrator may do everything"),
    ):
        with pytest.raises(KeysRefused, match=reason):
            change()
    assert [team.models for team in keys.teams()] == [("shop-bot", "faq-bot"), ("bank-bot",)]


def store_policy(keys, name):
    """Return what an identity may put and read in the store, as beginnings of keys; None without a policy."""
    policies = {each["name"]: json.loads(each["content"]) for each in json.loads(_config(keys))["policies"]}
    if name not in policies:
        return None
    allowed = {"s3:PutObject": set(), "s3:GetObject": set()}
    for statement in policies[name]["Statement"]:
        for action in allowed.keys() & set(statement["Action"]):
            allowed[action] |= {each.split("/", 1)[1].rstrip("*") for each in statement["Resource"]}
    return allowed["s3:PutObject"], allowed["s3:GetObject"]


def _config(keys):
    return keys.store.server_config.read_text()


def test_a_members_key_of_the_store_reads_checkpoints_of_the_team_only(keys):
    keys.add("quinn", ["publisher", "operator"], team="shop")
    keys.add("piet", ["publisher"], ["faq-bot"], team="shop")
    keys.add("olga", ["publisher"])
    assert store_policy(keys, "piet") is store_policy(keys, "olga") is None, "publishers upload by signed URLs"
    puts, reads = store_policy(keys, "quinn")
    assert puts == set()
    assert {each for each in reads if each.startswith("checkpoints/")} == {
        "checkpoints/shop-bot/",
        "checkpoints/faq-bot/",
    }
    keys.set_team("shop", ["new-bot"])
    reads = store_policy(keys, "quinn")[1]
    assert {each for each in reads if each.startswith("checkpoints/")} == {"checkpoints/new-bot/"}


@pytest.mark.parametrize("change", ["rotate", "retire"])
def test_another_key_of_a_member_opens_no_more_than_the_one_before(keys, change):
    keys.add("vera", ["viewer"], team="shop")
    before = store_policy(keys, "vera")
    keys.rotate("vera")
    if change == "retire":
        keys.retire("vera")
    assert store_policy(keys, "vera") == before


def test_access_that_is_not_narrowed_to_a_team_that_exists_opens_no_checkpoint(keys):
    made = keys.add("vera", ["viewer"], team="shop")
    assert access_of(made).writes == ()
    assert not any(each.startswith("checkpoints/") for each in access_of(narrowed(made, ())).reads)


def test_a_member_of_a_team_that_is_gone_acts_on_nothing(keys):
    made = keys.add("paula", ["publisher", "operator"], team="shop")
    assert permissions_of(narrowed(made, ())).publish == tuple(
        subject for subject in permissions_of(narrowed(made, ())).publish if not subject.startswith("slipway.")
    )


def test_the_list_names_who_may_act_on_each_model_and_the_quota(keys):
    keys.add("paula", ["publisher"], team="shop")
    keys.add("olga", ["publisher"])
    keys.set_team("shop", ["shop-bot"], TeamQuota(releases=2))
    keys.set_team("shop", ["shop-bot", "faq-bot"])
    shop, bank = TeamList(keys.team_list, SystemClock()).require().read()
    assert (shop.models, shop.quota.releases) == (("shop-bot", "faq-bot"), 2), "a quota stays if none is given"
    assert (shop.members, shop.unrestricted) == (("paula",), ("olga",))
    assert (bank.members, bank.unrestricted) == ((), ("olga",))
    assert find_foreign("paula", "shop-bot", keys.teams()) is None
    keys.remove("paula")
    assert "paula is no member" in find_foreign("paula", "shop-bot", keys.teams())


def test_a_change_counts_at_the_next_look_and_a_list_that_cannot_be_read_is_no_list_without_teams(keys, tmp_path):
    teams = TeamList(keys.team_list, SystemClock()).require()
    assert [team.name for team in teams.read()] == ["shop", "bank"]
    keys.add("paula", ["publisher"], team="shop")
    assert teams.read()[0].members == ("paula",)
    assert TeamList(None, SystemClock()).require().read() == ()
    for text in (None, "[{"):
        if text is not None:
            (tmp_path / "teams.json").write_text(text)
        with pytest.raises(SystemExit, match="SLIPWAY_TEAMS"):
            TeamList(tmp_path / "teams.json", SystemClock()).require()
