"""What the doctor makes of the versions that services run in, and of the copies of streams in a cluster."""

from clients.cli.doctor.copies import Stream, assess_copies, describe_copies
from clients.cli.doctor.findings import as_line
from clients.cli.doctor.versions import assess_versions
from contracts.version import VERSION

WHOLE = Stream(3, in_cluster=True, leader="a")
FEW = Stream(1, in_cluster=True, leader="a", behind=("b",))
BEHIND = Stream(3, in_cluster=True, leader="a", behind=("c", "b"))
ALONE = Stream(1, in_cluster=False, leader="a")


def test_one_version_is_fine_and_several_are_an_upgrade_to_finish(snapshot):
    findings = [
        assess_versions({"registry": VERSION, "gateway": VERSION}),
        assess_versions({"registry": VERSION, "monitor": "9.0.0", "gateway": None}),
        assess_versions({"registry": "9.0.0"}, ["gateway", "mirror"]),
        assess_versions({"registry": VERSION}, ["gateway", "mirror"]),
        assess_versions({}),
    ]
    assert [finding.state for finding in findings] == ["ok", "warning", "warning", "ok", "skipped"]
    assert "\n".join(as_line(finding, 8) for finding in findings).replace(VERSION, "VERSION") == snapshot


def test_a_single_server_and_a_whole_cluster_need_nothing():
    for streams in ({}, {"KV_routes": ALONE}, {"KV_routes": WHOLE, "SLIPWAY_EVENTS": WHOLE}):
        assert assess_copies(streams) is None
    assert describe_copies({"KV_routes": ALONE}) == ""
    assert "3 copies" in describe_copies({"KV_routes": WHOLE, "SLIPWAY_EVENTS": WHOLE})


def test_streams_with_too_few_copies_or_without_a_leader_are_failures_and_late_copies_a_warning(snapshot):
    leaderless = Stream(3, in_cluster=True, leader="")
    findings = [
        assess_copies({"SLIPWAY_EVENTS": WHOLE, "KV_routes": FEW}),
        assess_copies({"SLIPWAY_EVENTS": WHOLE, "KV_routes": leaderless}),
        assess_copies({"SLIPWAY_EVENTS": WHOLE, "KV_routes": BEHIND, "KV_alerts": BEHIND}),
    ]
    assert [(finding.check, finding.state) for finding in findings] == [("nats", "failure")] * 2 + [("nats", "warning")]
    assert "\n".join(as_line(finding, 8) for finding in findings) == snapshot
