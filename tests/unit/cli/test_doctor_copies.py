"""What `slipway doctor` says of the copies of streams in a cluster of NATS servers."""

from clients.cli.doctor.copies import Stream, assess_copies, describe_copies

WHOLE = Stream(3, in_cluster=True, leader="a")


def test_a_single_server_and_a_whole_cluster_need_nothing():
    assert assess_copies({}) is None
    assert assess_copies({"KV_routes": Stream(1, in_cluster=False, leader="a")}) is None
    assert assess_copies({"KV_routes": WHOLE, "SLIPWAY_EVENTS": WHOLE}) is None
    assert describe_copies({"KV_routes": Stream(1, in_cluster=False, leader="a")}) == ""
    assert describe_copies({"KV_routes": WHOLE, "SLIPWAY_EVENTS": WHOLE}) == "; 3 copies of each, all up to date"


def test_each_stream_with_fewer_than_three_copies_is_named():
    finding = assess_copies(
        {"SLIPWAY_EVENTS": WHOLE, "KV_routes": Stream(1, in_cluster=True, leader="a", behind=("b",))}
    )
    assert (finding.check, finding.state) == ("nats", "failure")
    assert finding.detail == "a cluster has fewer than 3 copies of 1 of 2 streams: KV_routes (1)"
    assert finding.advice.startswith("set SLIPWAY_REPLICAS=3 and run")


def test_a_stream_without_a_leader_is_a_failure():
    finding = assess_copies({"SLIPWAY_EVENTS": WHOLE, "KV_routes": Stream(3, in_cluster=True, leader="")})
    assert (finding.state, finding.detail) == ("failure", "no server leads KV_routes: nothing can be written there")


def test_servers_whose_copies_are_not_up_to_date_are_a_warning():
    behind = Stream(3, in_cluster=True, leader="a", behind=("c", "b"))
    finding = assess_copies({"SLIPWAY_EVENTS": WHOLE, "KV_routes": behind, "KV_alerts": behind})
    assert (finding.state, finding.detail) == ("warning", "copies of 2 of 3 streams are not up to date on b, c")
