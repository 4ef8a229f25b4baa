"""Version numbers, the place beyond registration, and what is written about a version."""

import pytest

from contracts.facts import ReleaseFinished
from contracts.vocabulary import ServingSettings, digest_of_json
from services.registry.domain import gates, versions
from services.registry.domain.record import Input
from services.registry.domain.releases import decide, open_release
from services.registry.domain.versions import ModelRecord
from tests.kit import fakes_registry as k

IDS = [f"r-{i:016x}-1" for i in range(4)]


def with_releases(count):
    record = ModelRecord(model=k.MODEL)
    for i in range(count):
        record = versions.reserve(record, k.opened(record.next_version, IDS[i]))
    return record


def test_numbers_rise_by_one_and_a_release_keeps_its_own():
    record = with_releases(3)
    assert record.reservations == {IDS[0]: 1, IDS[1]: 2, IDS[2]: 3}
    assert versions.reserve(record, k.opened(9, IDS[1])) == record
    assert record.opening.release_id == IDS[2]


def test_the_same_event_again_is_found_but_not_another_that_reuses_its_id():
    record = versions.reserve(ModelRecord(model=k.MODEL), k.opened(1, IDS[0]))
    assert versions.find_redelivered(record, k.ready(policy=None), "e0") == IDS[0]
    assert versions.find_redelivered(record, k.ready(), "e1") is None
    assert versions.find_redelivered(record, k.ready(attempt=2), "e0") is None
    other = k.ready(training=k.ready().training.model_copy(update={"run_id": "run 2"}))
    assert versions.find_redelivered(record, other, "e0") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": ("bf16",)},
        {"policy": k.policy(on_newer="supersede")},
        {"evals": ()},
        {"calibration": k.ref("checkpoints/support-bot/c.jsonl")},
        {"evaluation": k.ref("checkpoints/support-bot/e.jsonl")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_event_with_the_id_of_another_is_not_taken_for_it(changes):
    record = versions.reserve(ModelRecord(model=k.MODEL), k.opened(1, IDS[0]))
    assert versions.find_redelivered(record, k.ready(), "e0") == IDS[0]
    assert versions.find_redelivered(record, k.ready(**changes), "e0") is None


def test_one_release_at_a_time_and_the_lowest_version_next():
    record = with_releases(4)
    record = versions.claim(record, IDS[1])
    assert record.in_progress == IDS[1]
    for waiting in (IDS[3], IDS[0], IDS[3], IDS[1]):
        record = versions.claim(record, waiting)
    assert record.queue == (IDS[3], IDS[0])
    record = versions.remove(record, IDS[1])
    assert (record.in_progress, record.queue, record.open) == (IDS[0], (IDS[3],), (IDS[0], IDS[2], IDS[3]))
    record = versions.remove(record, IDS[3])
    assert (record.in_progress, record.queue) == (IDS[0], ())
    assert versions.remove(record, IDS[0]).in_progress is None


def test_who_has_left_cannot_claim_again():
    record = versions.remove(with_releases(1), IDS[0])
    assert versions.claim(record, IDS[0]) == record


def release(version, release_id, **changes):
    opened = k.opened(version, release_id, **changes)
    return open_release(opened, cause_id="e", now=k.START).release


def test_an_older_release_makes_way_only_if_its_policy_says_so():
    record = versions.claim(with_releases(2), IDS[0])
    yields = release(1, IDS[0], policy=k.policy(on_newer="supersede"))
    stays = release(1, IDS[0], policy=k.policy(on_newer="queue"))
    newer = release(2, IDS[1], policy=k.policy(on_newer="supersede"))
    assert versions.decide_superseded(record, newer, yields)
    assert not versions.decide_superseded(record, newer, stays)
    assert not versions.decide_superseded(record, yields, newer)
    assert not versions.decide_superseded(with_releases(2), newer, yields)


def test_the_baseline_is_the_base_model_until_a_version_is_active():
    first = versions.decide_turn(release(1, IDS[0]), None, k.BASE)
    assert (first.first, first.epoch, first.baseline) == (True, 0, k.BASELINE)
    emptied = versions.decide_turn(release(1, IDS[0]), k.route(epoch=4), k.BASE)
    assert (emptied.first, emptied.epoch) == (True, 4)
    later = versions.decide_turn(release(1, IDS[0]), k.route(k.target("int8", 9), epoch=5), k.BASE)
    assert (later.first, later.epoch, later.baseline.target) == (False, 5, k.target("int8", 9))


def ended(number, *, outcome="promoted", **evaluated):
    finished = ReleaseFinished(release_id=IDS[0], model=k.MODEL, version=number, outcome=outcome, reason="")
    update = {"finished": finished, "evaluated": k.evaluated(version=number, **evaluated)}
    return release(number, IDS[0]).model_copy(update=update)


def test_the_first_promoted_version_is_the_anchor_of_each_evaluation():
    same, changed, record = digest_of_json("rows"), digest_of_json("other rows"), ModelRecord(model=k.MODEL)
    for ends in (
        ended(1, outcome="rejected", basis=same),
        ended(2),
        ended(3, basis=same),
        ended(4, basis=same, anchor=k.target("int8", 3)),
        ended(5, basis=changed),
    ):
        record = versions.note_anchors(record, ends)
    assert [(anchor.basis, anchor.target.version) for anchor in record.anchors] == [(same, 3), (changed, 5)]
    assert versions.decide_turn(release(6, IDS[0]), None, k.BASE, record.anchors).anchors == record.anchors


def test_an_anchor_that_is_used_is_not_pushed_out_by_evaluations_that_others_add():
    used, record = digest_of_json("rows"), ModelRecord(model=k.MODEL)
    record = versions.note_anchors(record, ended(1, basis=used))
    for number in range(2, 3 * versions.ANCHORS):
        record = versions.note_anchors(record, ended(number, basis=digest_of_json(number)))
        record = versions.note_anchors(record, ended(number, basis=used, anchor=k.target("int8", 1)))
    assert len(record.anchors) == versions.ANCHORS
    assert [anchor.target.version for anchor in record.anchors if anchor.basis == used] == [1]


@pytest.mark.parametrize("about", [{"asked": 10, "void": 10}, {"asked": 60, "void": 60}])
def test_a_version_without_scores_of_most_rows_is_no_anchor(about):
    record = versions.note_anchors(ModelRecord(model=k.MODEL), ended(1, basis=digest_of_json("rows"), **about))
    assert record.anchors == ()


def test_a_quarantined_version_is_no_anchor_and_the_next_one_takes_its_place():
    basis = digest_of_json("rows")
    record = versions.note_anchors(ModelRecord(model=k.MODEL), ended(1, basis=basis))
    route = k.route(k.target("int8", 2), quarantined=(k.target("int8", 1),))
    assert versions.decide_turn(release(3, IDS[0]), route, k.BASE, record.anchors).anchors == ()
    record = versions.note_anchors(record, ended(3, basis=basis))
    (anchor,) = versions.decide_turn(release(4, IDS[0]), route, k.BASE, record.anchors).anchors
    assert anchor.target.version == 3


def test_the_manifest_holds_the_whole_lineage():
    opened = release(3, IDS[0])
    assert versions.plan_manifest(opened, k.START) is None
    for i, fact in enumerate((k.merged(), k.quantised("int8"), k.failed("bf16"))):
        opened = decide(opened, Input(f"e{i}", k.START, fact), k.START).release
    manifest = versions.plan_manifest(opened, k.START)
    assert manifest.version == 3
    assert manifest.base == k.ready().base
    assert manifest.training.data_hash == k.ready().training.data_hash
    assert manifest.training.hyperparameters == {"r": 8}
    assert manifest.evals == k.ready().evals
    assert manifest.weights == k.ready().weights
    assert manifest.merged == k.merged().manifest
    assert [(v.variant, v.manifest.digest) for v in manifest.variants] == [
        ("int8", k.quantised("int8").manifest.digest)
    ]
    assert manifest.policy == k.policy().model_dump(mode="json")
    assert manifest.policy_digest == digest_of_json(manifest.policy)


def test_serving_settings_are_in_the_manifest_and_in_every_order_of_the_release():
    settings = ServingSettings(tool_parser="hermes", context_tokens=1024)
    opened = release(3, IDS[0], variants=("int8",))
    assert opened.opened.serving is None, "they come from the checkpoint's files"
    for i, fact in enumerate((k.merged(serving=settings), k.quantised("int8"))):
        opened = decide(opened, Input(f"e{i}", k.START, fact), k.START).release
    assert versions.plan_manifest(opened, k.START).serving == settings
    (registered,) = gates.registered_variants(opened)
    assert gates.deployable(opened, registered).serving == settings


def test_no_manifest_without_any_variant():
    opened = release(3, IDS[0], variants=("int8",))
    for i, fact in enumerate((k.merged(), k.failed("int8"))):
        opened = decide(opened, Input(f"e{i}", k.START, fact), k.START).release
    assert versions.plan_manifest(opened, k.START) is None


def test_deployment_records_are_about_the_version_whose_share_changed():
    old, new = k.target("int8", 1), k.target("int8", 2)
    for fact, target, weight in (
        (k.changed(k.route(new, epoch=3)), new, 1.0),
        (k.changed(k.route(old, new, weight=0.2, epoch=3), "canary"), new, 0.2),
        (k.changed(k.route(old, new, weight=0.0, epoch=3), "abort"), new, 0.0),
        (k.changed(k.route(old, epoch=3), "rollback"), old, 1.0),
    ):
        record = versions.plan_deployment_record(fact, "c")
        assert (record.target, record.weight_ratio, record.epoch, record.cause) == (target, weight, 3, fact.cause)
        assert record.deployed_at == k.START
    assert versions.plan_deployment_record(k.changed(k.route(epoch=3), "abort"), "c") is None
