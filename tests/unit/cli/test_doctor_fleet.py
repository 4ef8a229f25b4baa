"""What the doctor makes of the copies of streams in a cluster."""

from dataclasses import astuple

from clients.cli.doctor.copies import Stream, assess_copies, describe_copies

WHOLE = Stream(3, in_cluster=True, leader="a")
FEW = Stream(1, in_cluster=True, leader="a", behind=("b",))
BEHIND = Stream(3, in_cluster=True, leader="a", behind=("c", "b"))
ALONE = Stream(1, in_cluster=False, leader="a")


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
    assert "\n".join("\t".join(astuple(finding)) for finding in findings) == snapshot
