"""Quotas of teams as pure functions: never more than the limit in any minute, and no refusal below it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.teams import Team, TeamQuota
from decisions.access.teams import find_foreign
from services.registry.domain.announcements import Announcement, Announcements, add, assess_receipt, is_known, settle
from services.registry.domain.team_quotas import (
    MINUTE,
    find_excess_bytes,
    find_excess_rate,
    find_excess_releases,
    most_bytes,
)

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODELS = ("shop-bot", "faq-bot", "third-bot")


def team(**quota) -> Team:
    return Team(name="shop", models=MODELS, quota=TeamQuota(**quota))


@given(
    limit=st.integers(1, 4),
    arrivals=st.lists(st.tuples(st.sampled_from(MODELS), st.floats(0, 40), st.integers(0, 2)), max_size=30),
)
def test_in_no_minute_more_than_the_quota_is_accepted_and_less_is_never_refused(limit, arrivals):
    """Each announcement is delivered again up to twice, and those before it, too: it is decided once."""
    records = {model: Announcements(model=model) for model in MODELS}
    accepted, refused, at = [], [], START

    def deliver(model, announcement):
        elsewhere = [time for other in MODELS if other != model for time in records[other].accepted]
        refusal = assess_receipt(records[model], announcement, team(announcements_per_minute=limit), elsewhere)
        if refusal is None:
            records[model] = settle(add(records[model], announcement, counted=True), announcement)
        else:  # as the registry notes it: known from now on
            noted = {"last_sequence": announcement.sequence, "last_stored_at": announcement.stored_at}
            records[model] = records[model].model_copy(update=noted)
        return refusal

    delivered = []
    for number, (model, gap_s, again) in enumerate(arrivals, start=1):
        at += timedelta(seconds=gap_s)
        announcement = Announcement(
            sequence=number, event_id=f"e{number}", correlation_id="c", environment="production", stored_at=at
        )
        in_minute = [time for time in accepted if at - time < MINUTE]
        refusal = deliver(model, announcement)
        assert (refusal is not None) == (len(in_minute) >= limit)
        (accepted if refusal is None else refused).append(at)
        delivered.append((model, announcement))
        before = dict(records)
        for model_again, announcement_again in delivered[-1 - again :]:
            assert deliver(model_again, announcement_again) is None
            assert is_known(records[model_again], announcement_again)
        assert {model: record.accepted for model, record in records.items()} == {
            model: record.accepted for model, record in before.items()
        }
    for time in accepted:
        assert sum(timedelta() <= other - time < MINUTE for other in accepted) <= limit
    assert all(len(record.accepted) <= limit for record in records.values())


@given(limit=st.integers(1, 5), gaps=st.lists(st.floats(0, 30), min_size=1, max_size=12))
def test_after_the_wait_that_a_refusal_names_the_next_is_accepted(limit, gaps):
    times = [START + timedelta(seconds=sum(gaps[: number + 1])) for number in range(len(gaps))]
    shop, at = team(announcements_per_minute=limit), times[-1]
    refused = find_excess_rate(shop, times, at)
    assert (refused is not None) == (sum(at - time < MINUTE for time in times) >= limit)
    if refused is not None:
        wait_s = int(refused.split(" s later")[0].rsplit(" ", 1)[1])
        assert find_excess_rate(shop, times, at + timedelta(seconds=wait_s + 1)) is None


@pytest.mark.parametrize(
    ("limit", "under_way", "refused"), [(None, 99, False), (2, 1, False), (2, 2, True), (1, 7, True)]
)
def test_releases_under_way(limit, under_way, refused):
    reason = find_excess_releases(team(releases=limit), under_way)
    assert (reason is not None) == refused
    if reason is not None:
        assert reason.startswith(f"{under_way} releases of team shop are under way; its quota is {limit}. ")


SHOP = Team(name="shop", models=("shop-bot",), members=("paula",), unrestricted=("olga",))
BANK = Team(name="bank", models=("bank-bot",), members=("ben",), unrestricted=("olga",))


@pytest.mark.parametrize(
    ("sender", "model", "reason"),
    [
        ("paula", "shop-bot", None),
        ("olga", "shop-bot", None),
        ("olga", "bank-bot", None),
        ("olga", "free-bot", None),
        ("removed", "free-bot", None),
        ("ben", "shop-bot", "shop-bot belongs to team shop, and ben is no member of it."),
        ("removed", "shop-bot", "shop-bot belongs to team shop, and removed is no member of it."),
        ("", "shop-bot", "shop-bot belongs to team shop, and the sender is no member of it."),
        ("ben", "free-bot", "free-bot belongs to no team, and ben acts on the models of team bank only."),
    ],
)
def test_who_may_act_on_a_model(sender, model, reason):
    assert find_foreign(sender, model, (SHOP, BANK)) == reason
    assert find_foreign(sender, model, ()) is None


@given(
    limit=st.integers(1, 200),
    releases=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3), st.floats(0, 1), st.booleans()), max_size=20),
)
def test_what_is_stored_never_exceeds_the_quota_and_a_release_that_fits_is_admitted(limit, releases):
    """Each release reserves the most that it may store, stores a part of it when it ends, and may end late."""
    stored, open_releases = 0, []
    for base_bytes, variants, share, ends in releases:
        needed = most_bytes(base_bytes, variants)
        reserved = sum(most for most, _ in open_releases)
        reason = find_excess_bytes(team(stored_bytes=limit), stored, reserved, needed)
        assert (reason is None) == (stored + reserved + needed <= limit)
        if reason is None:
            open_releases.append((needed, int(needed * share)))
        if ends and open_releases:
            stored += open_releases.pop(0)[1]
        assert stored + sum(most for most, _ in open_releases) <= limit


def test_a_team_without_a_quota_of_bytes_stores_what_it_wants():
    assert find_excess_bytes(team(), 10**18, 10**18, 10**18) is None
