"""What the answer of a server about a stream says of its connections to the others of its cluster."""

import pytest
from nats.js.api import ClusterInfo, PeerInfo

from shared.messaging.isolation import is_cut_off

SECOND = 1_000_000_000


def contacted(*ages_s, offline=False):
    return [PeerInfo(name=f"n{number}", active=int(age * SECOND), offline=offline) for number, age in enumerate(ages_s)]


def cluster(leader, *peers, name="slipway"):
    return ClusterInfo(leader=leader, name=name, replicas=list(peers))


@pytest.mark.parametrize(
    ("answer", "cut_off"),
    [
        (None, False),
        (cluster("own", name=""), False),
        (cluster("own"), False),
        (cluster("other", *contacted(60, 60)), False),
        (cluster("own", *contacted(0.5, 1)), False),
        (cluster("own", *contacted(60, 1)), False),
        (cluster("own", *contacted(6, 60)), True),
        (cluster("own", *contacted(0.1, 0.1, offline=True)), True),
        (cluster("", *contacted(1, 1)), None),
    ],
    ids=["one server", "no name", "one copy", "passed on", "both heard", "one heard", "none", "offline", "election"],
)
def test_a_server_is_cut_off_where_it_leads_and_hears_of_no_other(answer, cut_off):
    assert is_cut_off(answer, "own") is cut_off
